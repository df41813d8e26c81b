//! What a rule can do at all, found out on a plain image that matches it.

use super::book::Kind;
use super::index::RuleId;
use super::{LIBRARY_KEY, Maps, canonical_key, replaced};
use crate::image::{self, Reference, Registry};

/// Whether some image can be swapped by this rule.
pub(super) fn can_swap(maps: &Maps, id: RuleId) -> bool {
    sample_result(maps, id).is_some_and(|sample| Reference::parse(&sample).is_ok())
}

/// What the rule makes of a plain image that matches it; `None` where it does not swap.
pub(super) fn sample_result(maps: &Maps, id: RuleId) -> Option<String> {
    let (key, value, target) = (maps.book.key(id), maps.book.value(id), maps.book.target(id));
    let dashed = |host: &str| [value, host, "/app"].concat();
    match maps.book.kind(id)? {
        Kind::Exact => Some(value.to_owned()),
        Kind::Replace => (!value.is_empty()).then(|| replaced(target, "app")),
        Kind::Noswap | Kind::Legacy => None,
        _ if value.is_empty() => None,
        Kind::Default if value.ends_with('-') => Some(dashed(image::DOCKER_HUB)),
        Kind::Registry if value.ends_with('-') => Some(dashed(key_host(key)?)),
        Kind::Default | Kind::Registry => Some([target, "/app"].concat()),
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
