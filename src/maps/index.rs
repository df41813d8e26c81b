//! Finds a rule by a text of its own, however many rules there are, without a copy of the text.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// A place in `Maps::rules`.
pub(super) type RuleId = u32;

/// Rules by one of their texts; `text_of` says which, and must say the same at each call.
#[derive(Debug, Default)]
pub(super) struct Index {
    table: HashTable<RuleId>,
    hasher: DefaultHashBuilder,
    longest: usize,
}

impl Index {
    pub(super) fn find<'a>(
        &self,
        text: &str,
        text_of: impl Fn(RuleId) -> &'a str,
    ) -> Option<RuleId> {
        if text.len() > self.longest {
            return None;
        }
        let hash = self.hasher.hash_one(text);
        self.table.find(hash, |id| text_of(*id) == text).copied()
    }

    /// Adds a rule unless one with the same text is there; that one is returned.
    pub(super) fn insert<'a>(
        &mut self,
        id: RuleId,
        text_of: impl Fn(RuleId) -> &'a str,
    ) -> Option<RuleId> {
        let text = text_of(id);
        if let Some(earlier) = self.find(text, &text_of) {
            return Some(earlier);
        }
        self.longest = self.longest.max(text.len());
        let hash = self.hasher.hash_one(text);
        self.table
            .insert_unique(hash, id, |id| self.hasher.hash_one(text_of(*id)));
        None
    }

    /// The length of the longest text, in bytes.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}
