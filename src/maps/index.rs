//! Finds a rule by a text of its own, however many rules there are, without a copy of the text.

use std::hash::BuildHasher;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

/// A place in `Book::rules`.
pub(super) type RuleId = u32;

/// Rules by one of their texts; `text_of` says which, and must say the same at each call.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// With the hash of each text, so that growing reads no text again.
    table: HashTable<(u64, RuleId)>,
    hasher: DefaultHashBuilder,
    longest: usize,
    /// A bit for each length that some text has, of 63 bytes for all that are longer: most of what is asked for has
    /// another length, and needs no hash.
    lengths: u64,
}

impl Index {
    pub(super) fn find<'a>(
        &self,
        text: &str,
        text_of: impl Fn(RuleId) -> &'a str,
    ) -> Option<RuleId> {
        if self.lengths & bit(text) == 0 {
            return None;
        }
        let hash = self.hasher.hash_one(text);
        let is_it = |(other, id): &(u64, RuleId)| *other == hash && text_of(*id) == text;
        self.table.find(hash, is_it).map(|(_, id)| *id)
    }

    /// Adds a rule unless one with the same text is there; that one is returned.
    pub(super) fn insert<'a>(
        &mut self,
        id: RuleId,
        text_of: impl Fn(RuleId) -> &'a str,
    ) -> Option<RuleId> {
        let text = text_of(id);
        let hash = self.hasher.hash_one(text);
        let is_it = |(other, id): &(u64, RuleId)| *other == hash && text_of(*id) == text;
        match self.table.entry(hash, is_it, |(hash, _)| *hash) {
            Entry::Occupied(earlier) => Some(earlier.get().1),
            Entry::Vacant(place) => {
                place.insert((hash, id));
                self.longest = self.longest.max(text.len());
                self.lengths |= bit(text);
                None
            }
        }
    }

    /// The length of the longest text, in bytes.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

/// That of a text's length.
fn bit(text: &str) -> u64 {
    1 << text.len().min(63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_any_length_is_found_and_no_other_of_that_length() {
        let texts: Vec<_> = [0, 1, 62, 63, 64, 127, 128, 300]
            .map(|length| "a".repeat(length))
            .into();
        let text_of = |id: RuleId| texts[id as usize].as_str();
        let mut index = Index::default();
        for id in (0..).take(texts.len()) {
            assert_eq!(index.insert(id, text_of), None);
            assert_eq!(index.insert(id, text_of), Some(id));
        }
        for (id, text) in (0..).zip(&texts) {
            assert_eq!(index.find(text, text_of), Some(id));
            assert_eq!(index.find(&"b".repeat(text.len().max(1)), text_of), None);
        }
        for length in [2, 61, 65, 129] {
            assert_eq!(index.find(&"a".repeat(length), text_of), None);
        }
    }
}
