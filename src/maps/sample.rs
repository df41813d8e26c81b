//! What a rule can do at all, found out on a plain image that matches it: `lint` and `feed` judge rules by it.

use super::book::Kind;
use super::index::RuleId;
use super::{LIBRARY_KEY, Maps, canonical_key, replaced};
use crate::image::{self, Reference, Registry};

/// Whether some image can be swapped by this rule.
pub(super) fn can_swap(maps: &Maps, id: RuleId) -> bool {
    let mut samples = sample_results(maps, id).into_iter().flatten();
    samples.any(|sample| Reference::parse(&sample).is_ok())
}

/// What the rule makes of plain images that match it, as short as can be; none where it does not
/// swap.
pub(super) fn sample_results(maps: &Maps, id: RuleId) -> [Option<String>; 2] {
    let (key, value, target) = (maps.book.key(id), maps.book.value(id), maps.book.target(id));
    let dashed = |host: &str| Some([value, host, "/a"].concat());
    match maps.book.kind(id) {
        Some(Kind::Exact) => [Some(value.to_owned()), None],
        _ if value.is_empty() => [None, None],
        Some(Kind::Replace) => [Some(replaced(value, "a")), None],
        // A host without a dot makes another reference than one with it.
        Some(Kind::Default) if value.ends_with('-') => {
            [dashed(image::DOCKER_HUB), dashed("localhost")]
        }
        Some(Kind::Registry) if value.ends_with('-') => [key_host(key).and_then(dashed), None],
        Some(Kind::Default | Kind::Registry) => [Some([target, "/a"].concat()), None],
        _ => [None, None],
    }
}

/// The host that a registry key names.
pub(super) fn key_host(key: &str) -> Option<&str> {
    let key = canonical_key(key);
    if key == LIBRARY_KEY {
        return Some(image::DOCKER_HUB);
    }
    Some(Registry::parse(key).ok()?.host)
}
