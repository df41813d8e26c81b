//! Where rules put images: `default` leaves alone what is there already, so that swapping twice is
//! swapping once.
//!
//! An image is at a rule's target if it begins with it, followed by `/`, or by a port and `/` where
//! the target is a bare host; if it begins with a target that ends in `-`; or if it is an `[EXACT]`
//! result. Each is a look-up by a stretch of the image, however many rules there are.

use super::book::{Book, Kind};
use super::index::{Index, RuleId};
use crate::image::Reference;

#[derive(Debug, Default)]
pub(super) struct Targets {
    /// Values that are followed by `/`.
    places: Index,
    /// Values that end in `-`, which a registry follows.
    dashes: Index,
    /// The results of `[EXACT]`.
    results: Index,
}

impl Targets {
    pub(super) fn of(book: &Book) -> Self {
        let mut targets = Self::default();
        for id in book.ids() {
            let (Some(kind), value) = (book.kind(id), book.value(id)) else {
                continue;
            };
            match kind {
                _ if value.is_empty() => None,
                Kind::Exact => targets.results.insert(id, |id| book.value(id)),
                Kind::Registry | Kind::Default if value.ends_with('-') => {
                    targets.dashes.insert(id, |id| book.value(id))
                }
                Kind::Registry | Kind::Default | Kind::Replace => {
                    targets.places.insert(id, |id| book.target(id))
                }
                Kind::Noswap | Kind::Legacy => None,
            };
        }
        targets
    }

    /// A rule whose target holds the image.
    pub(super) fn holding(&self, reference: &Reference<'_>, book: &Book) -> Option<RuleId> {
        let image = reference.as_str();
        self.results
            .find(image, |id| book.value(id))
            .or_else(|| {
                let mut places = places(reference, self.places.longest());
                places.find_map(|place| self.places.find(place, |id| book.target(id)))
            })
            .or_else(|| {
                if self.dashes.is_empty() {
                    return None;
                }
                let mut texts = prefixes(image, '-', self.dashes.longest());
                texts.find_map(|text| self.dashes.find(text, |id| book.value(id)))
            })
    }

    /// Every rule, one for each target, that puts images where `text` is: its target is followed by
    /// `/` or ends in `-`, and `text` goes on behind it.
    pub(super) fn all_holding<'a>(
        &'a self,
        reference: &Reference<'a>,
        book: &'a Book,
    ) -> impl Iterator<Item = RuleId> + 'a {
        let image = reference.as_str();
        let places = places(reference, self.places.longest())
            .filter_map(|place| self.places.find(place, |id| book.target(id)));
        let dashes = prefixes(image, '-', self.dashes.longest())
            .filter_map(|text| self.dashes.find(text, |id| book.value(id)));
        places.chain(dashes)
    }
}

/// Where an image may be: at its host, whatever its port, and at each stretch that ends before a `/`, of which without a
/// port the first is the host again.
fn places<'i>(
    reference: &Reference<'i>,
    longest: usize,
) -> impl Iterator<Item = &'i str> + use<'i> {
    let registry = reference.registry();
    let is_host_alone = registry.is_some_and(|registry| registry.port.is_none());
    let host = registry.map(|registry| registry.host);
    let stretches = prefixes(reference.as_str(), '/', longest);
    host.into_iter()
        .chain(stretches.skip(usize::from(is_host_alone)))
}

/// The stretches of an image, at most `longest` bytes each, that end before a `/` or behind a `-`.
fn prefixes(image: &str, end: char, longest: usize) -> impl Iterator<Item = &str> {
    let keep = if end == '-' { 1 } else { 0 };
    image
        .match_indices(end)
        .map(move |(at, _)| at + keep)
        .take_while(move |at| *at <= longest)
        .filter_map(|at| image.get(..at))
}

#[cfg(test)]
mod tests {
    use crate::maps::{Maps, Why};

    /// Why it stays, in short.
    fn stays(rules: &str, image: &str) -> &'static str {
        let (maps, _) = Maps::parse(rules.as_bytes()).unwrap();
        match maps.swap(image).outcome {
            Err(Why::AtTarget(_)) => "it is there",
            Err(Why::NoValue) => "no value",
            Err(_) => "else",
            Ok(_) => "swapped",
        }
    }

    #[test]
    fn default_leaves_alone_what_is_at_a_target_if_it_would_put_it_anywhere() {
        let rules = "docker.io::hub.io/mirror\nquay.io::quay.host\ngcr.io::g.io:5000\ndefault::";
        for (value, image, expected) in [
            ("all.io", "hub.io/mirror/a", "it is there"),
            ("all.io", "hub.io/a", "swapped"),
            ("all.io", "quay.host/a", "it is there"),
            ("all.io", "quay.host:5000/a", "it is there"),
            ("all.io", "quay.host.io/a", "swapped"),
            ("all.io", "g.io:5000/a", "it is there"),
            ("all.io", "g.io/a", "swapped"),
            ("", "hub.io/mirror/a", "no value"),
            ("", "quay.host/a", "no value"),
        ] {
            let rules = format!("{rules}{value}");
            assert_eq!(stays(&rules, image), expected, "{value:?}, {image}");
        }
        // Where no registry is named, a path is a place, too.
        let path = "ghcr.io::team\ndefault::all.io";
        assert_eq!(stays(path, "team/a"), "it is there");
        assert_eq!(stays(path, "other/a"), "swapped");
    }
}
