//! The rules of a map file, in file order, with all their texts in one allocation.

use std::ops::Range;

use serde::Serialize;

use super::diagnostic::Place;
use super::index::RuleId;
use crate::image::is_prefix;

/// Which of the five forms a line has, or what decided in place of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `[EXACT]IMAGE::RESULT`
    Exact,
    /// `[REPLACE]PATTERN::VALUE`
    Replace,
    /// `REGISTRY::VALUE` or `REGISTRY/library::VALUE`
    Registry,
    /// `noswap_wildcards::A, B`
    Noswap,
    /// `default::VALUE`
    Default,
    /// `IMAGE_PREFIX` in LEGACY mode
    Legacy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) kind: Kind,
    /// See [`Book::makes_references`].
    makes_references: bool,
    /// See [`Book::take_out`].
    is_out: bool,
    line: u32,
    /// The line, without comment and trailing white space.
    text: Span,
    key: Span,
    value: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

/// A line that is a rule, as read.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) kind: Kind,
    pub(super) line: usize,
    pub(super) text: &'a str,
    pub(super) key: Part<'a>,
    pub(super) value: Part<'a>,
}

/// A key or a value: where it stands in its line, and what it says if that is not the same.
#[derive(Debug)]
pub(super) struct Part<'a> {
    pub(super) range: Range<usize>,
    pub(super) says: Option<std::borrow::Cow<'a, str>>,
}

/// All rules.
#[derive(Debug, Default)]
pub(super) struct Book {
    arena: String,
    rules: Vec<Rule>,
}

impl Book {
    pub(super) fn with_capacity(bytes: usize, rules: usize) -> Self {
        Self {
            arena: String::with_capacity(bytes),
            rules: Vec::with_capacity(rules),
        }
    }

    pub(super) fn push(&mut self, draft: &Draft<'_>) -> RuleId {
        let start = self.arena.len();
        self.arena.push_str(draft.text);
        let mut part = |part: &Part<'_>| match &part.says {
            Some(says) => {
                let start = self.arena.len();
                self.arena.push_str(says);
                Span::new(start..self.arena.len())
            }
            None => Span::new(start + part.range.start..start + part.range.end),
        };
        let (key, value) = (part(&draft.key), part(&draft.value));
        // Many rules in a row have the same value.
        let last = self.rules.last();
        let makes_references = match last.filter(|last| self.slice(last.value) == self.slice(value))
        {
            Some(last) => last.makes_references,
            None => is_prefix(without_slash(self.slice(value))),
        };
        let rule = Rule {
            kind: draft.kind,
            makes_references,
            is_out: false,
            line: narrow(draft.line),
            text: Span::new(start..start + draft.text.len()),
            key,
            value,
        };
        self.rules.push(rule);
        narrow(self.rules.len() - 1)
    }

    /// Puts the last rule in the place of an earlier one and returns what stood there.
    pub(super) fn replace_with_last(&mut self, id: RuleId) -> Option<Rule> {
        let last = self.rules.pop()?;
        let earlier = self.rules.get_mut(id as usize)?;
        Some(std::mem::replace(earlier, last))
    }

    /// Forgets the last rule.
    pub(super) fn drop_last(&mut self) {
        self.rules.pop();
    }

    /// How many rules there are, without those that were taken out.
    pub(super) fn len(&self) -> usize {
        self.rules.iter().filter(|rule| !rule.is_out).count()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = RuleId> + use<> {
        0..narrow(self.rules.len())
    }

    pub(super) fn ids_of(&self, kind: Kind) -> impl Iterator<Item = RuleId> {
        self.ids().filter(move |id| self.kind(*id) == Some(kind))
    }

    /// Makes a rule none: it turned out to be in error. It has its place and its texts still, and no kind.
    pub(super) fn take_out(&mut self, id: RuleId) {
        if let Some(rule) = self.rules.get_mut(id as usize) {
            rule.is_out = true;
        }
    }

    /// The form of a rule that was not taken out.
    pub(super) fn kind(&self, id: RuleId) -> Option<Kind> {
        let rule = self.rules.get(id as usize)?;
        (!rule.is_out).then_some(rule.kind)
    }

    pub(super) fn key(&self, id: RuleId) -> &str {
        self.part(id, |rule| rule.key)
    }

    pub(super) fn value(&self, id: RuleId) -> &str {
        self.part(id, |rule| rule.value)
    }

    /// The value without the one trailing slash that the language ignores.
    pub(super) fn target(&self, id: RuleId) -> &str {
        without_slash(self.value(id))
    }

    /// Whether the target, a slash, and what any image has behind one make a reference, unless that is too
    /// long. So the result need not be parsed.
    pub(super) fn makes_references(&self, id: RuleId) -> bool {
        let rule = self.rules.get(id as usize);
        rule.is_some_and(|rule| rule.makes_references)
    }

    /// The line as written, without comment and surrounding white space.
    pub(super) fn text(&self, id: RuleId) -> &str {
        self.part(id, |rule| rule.text).trim_start()
    }

    /// The rule's line, counted from 1.
    pub(super) fn line(&self, id: RuleId) -> usize {
        self.rules
            .get(id as usize)
            .map_or(0, |rule| rule.line as usize)
    }

    /// The rule's key, underlined.
    pub(super) fn key_place(&self, id: RuleId, label: &str) -> Place {
        self.place(id, |rule| rule.key, label)
    }

    /// The rule's value, underlined.
    pub(super) fn value_place(&self, id: RuleId, label: &str) -> Place {
        self.place(id, |rule| rule.value, label)
    }

    /// The key of a rule that is no longer in the book, underlined.
    pub(super) fn place_of(&self, rule: Rule, label: &str) -> Place {
        let (text, range) = self.within(rule, rule.key);
        Place::new(rule.line as usize, text, range, label)
    }

    fn place(&self, id: RuleId, part: impl Fn(&Rule) -> Span, label: &str) -> Place {
        match self.rules.get(id as usize) {
            Some(rule) => {
                let (text, range) = self.within(*rule, part(rule));
                Place::new(rule.line as usize, text, range, label)
            }
            None => Place::new(0, "", 0..0, label),
        }
    }

    /// The rule's line, and where in it a part stands: all of it, for a part that reads otherwise
    /// than it is written.
    fn within(&self, rule: Rule, part: Span) -> (&str, Range<usize>) {
        let text = self.slice(rule.text);
        let from = |at: u32| at.checked_sub(rule.text.start).map(|at| at as usize);
        match (from(part.start), from(part.end)) {
            (Some(start), Some(end)) if end <= text.len() => (text, start..end),
            _ => (text, text.len() - text.trim_start().len()..text.len()),
        }
    }

    fn part(&self, id: RuleId, part: impl Fn(&Rule) -> Span) -> &str {
        self.rules
            .get(id as usize)
            .map_or("", |rule| self.slice(part(rule)))
    }

    fn slice(&self, span: Span) -> &str {
        let range = span.start as usize..span.end as usize;
        self.arena.get(range).unwrap_or_default()
    }
}

fn without_slash(value: &str) -> &str {
    value.strip_suffix('/').unwrap_or(value)
}

impl Span {
    fn new(range: Range<usize>) -> Self {
        Self {
            start: narrow(range.start),
            end: narrow(range.end),
        }
    }
}

/// A map file is at most [`super::MAX_BYTES`] long, so nothing is lost.
fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
