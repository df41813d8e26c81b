//! The AdmissionReview that goes back: verdict, patch, warnings, audit annotations.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use smallvec::SmallVec;

use super::base64;
use super::object::Entry;
use super::slots::List;
use super::string_ends::is_plain;
use super::wire::Review;
use crate::maps::RuleRef;
use crate::text::shortened;

/// One audit annotation an image, as long as a person would read them.
const MAX_ANNOTATIONS: usize = 64;

/// About as long as an operation of a patch is without its value, in bytes: that on a template in a
/// CronJob is the longest.
const PATCH: usize = 112;

/// So many results are kept each by itself.
const FEW: usize = 64;

/// So much of a rule is shown in an annotation, in characters: a line of a map file may have MBs.
const MAX_RULE: usize = 512;

/// The longest name in an annotation's key (Kubernetes' qualified names).
const MAX_KEY: usize = 63;

/// The images that are swapped.
#[derive(Debug, Default)]
pub(super) struct Swaps<'a> {
    /// Most Pods have one container or two.
    all: SmallVec<[Swap<'a>; 2]>,
    /// What all behind the first [`FEW`] become, one behind the other: thousands of strings of some KB, each by itself,
    /// would stay with the heap after a review of many MB, and not go back to the system.
    results: String,
}

impl<'a> Swaps<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Makes room for so many.
    pub(super) fn reserve(&mut self, swaps: usize) {
        self.all.reserve(swaps);
    }

    /// Adds an entry's image, what it becomes, and by which rule.
    pub(super) fn push(
        &mut self,
        entry: &Entry<'a>,
        path: &'static [&'static str],
        from: Cow<'a, str>,
        result: String,
        rule: Option<RuleRef<'a>>,
    ) {
        let to = if self.all.len() < FEW {
            To::Own(result)
        } else {
            let start = self.results.len();
            self.results.push_str(&result);
            To::At(start..self.results.len())
        };
        self.all.push(Swap {
            path,
            list: entry.list,
            index: entry.index,
            name: entry.name.clone(),
            from,
            to,
            rule,
        });
    }

    fn to<'s>(&'s self, swap: &'s Swap<'_>) -> &'s str {
        match &swap.to {
            To::Own(to) => to,
            To::At(range) => self.results.get(range.clone()).unwrap_or_default(),
        }
    }
}

/// One image that is swapped.
#[derive(Debug)]
struct Swap<'a> {
    /// The way from the object to its pod.
    path: &'static [&'static str],
    list: List,
    index: usize,
    name: Option<Cow<'a, str>>,
    from: Cow<'a, str>,
    to: To,
    rule: Option<RuleRef<'a>>,
}

/// What an image becomes.
#[derive(Debug)]
enum To {
    Own(String),
    /// In the [`Swaps`]' results.
    At(Range<usize>),
}

impl To {
    fn len(&self) -> usize {
        match self {
            Self::Own(to) => to.len(),
            Self::At(range) => range.len(),
        }
    }
}

/// Written piece by piece: most of it is the same each time, and hardly any of it needs escapes.
pub(super) fn write(review: &Review<'_>, swaps: &Swaps<'_>, warnings: &[Cow<'_, str>]) -> Vec<u8> {
    let mut json = Vec::with_capacity(256 + swaps.length());
    push(&mut json, "{\"apiVersion\":\"");
    push(&mut json, review.version.as_str());
    push(
        &mut json,
        "\",\"kind\":\"AdmissionReview\",\"response\":{\"uid\":",
    );
    push_text(&mut json, &review.request.uid);
    push(&mut json, ",\"allowed\":true");
    if !swaps.is_empty() {
        // Both or neither, says v1.
        push(&mut json, ",\"patchType\":\"JSONPatch\",\"patch\":\"");
        base64::push(&mut json, &patch(swaps));
        push(&mut json, "\",\"auditAnnotations\":{");
        push_annotations(&mut json, swaps);
        push(&mut json, "}");
    }
    if !warnings.is_empty() {
        push(&mut json, ",\"warnings\":[");
        for (index, warning) in warnings.iter().enumerate() {
            push(&mut json, if index > 0 { "," } else { "" });
            push_text(&mut json, warning);
        }
        push(&mut json, "]");
    }
    push(&mut json, "}}");
    json
}

/// Only `replace`, and only where the request has an image: it can't fail to apply.
fn patch(swaps: &Swaps<'_>) -> Vec<u8> {
    let mut json = Vec::with_capacity(swaps.patch_length());
    for swap in &swaps.all {
        let start = if json.is_empty() { "[" } else { "," };
        push(&mut json, start);
        push(&mut json, "{\"op\":\"replace\",\"path\":\"");
        for step in swap.path.iter().copied().chain(["spec", swap.list.key()]) {
            push(&mut json, "/");
            push(&mut json, step);
        }
        // No part of a path needs escaping, be it of JSON or of a pointer.
        push(&mut json, "/");
        push_number(&mut json, swap.index);
        for step in swap.list.image_path() {
            push(&mut json, "/");
            push(&mut json, step);
        }
        push(&mut json, "\",\"value\":\"");
        push_reference(&mut json, swaps.to(swap));
        push(&mut json, "\"}");
    }
    push(&mut json, "]");
    json
}

/// What was swapped and by which rule. An image that is not swapped, because it was in an earlier
/// call for the same object, has none: the server keeps the first value of a key.
fn push_annotations(json: &mut Vec<u8>, swaps: &Swaps<'_>) {
    let shown = swaps.all.iter().take(MAX_ANNOTATIONS);
    let mut all: SmallVec<[(Key<'_>, &Swap<'_>); 2]> =
        shown.map(|swap| (swap.key(), swap)).collect();
    // Mostly no key stands twice; of one that does, the last counts.
    if !all.is_sorted_by(|(one, _), (other, _)| one.order() < other.order()) {
        all.reverse();
        all.sort_by(|(one, _), (other, _)| one.order().cmp(&other.order()));
        all.dedup_by(|(one, _), (other, _)| one == other);
    }
    for (index, (key, swap)) in all.iter().enumerate() {
        push(json, if index > 0 { ",\"" } else { "\"" });
        push(json, key.list.key());
        push(json, ".");
        push(json, &key.name);
        push(json, "\":\"");
        push_reference(json, &swap.from);
        push(json, " => ");
        push_reference(json, swaps.to(swap));
        if let Some(RuleRef { line, text, .. }) = swap.rule {
            let by = if line.is_some() {
                " by "
            } else {
                " by IMAGE_PREFIX "
            };
            push(json, by);
            let start = shortened(text, MAX_RULE);
            push_escaped(json, start);
            if start.len() < text.len() {
                push(json, "…");
            }
            if let Some(line) = line {
                push(json, " (line ");
                push_number(json, line);
                push(json, ")");
            }
        }
        push(json, "\"");
    }
}

fn push(json: &mut Vec<u8>, plain: &str) {
    json.extend_from_slice(plain.as_bytes());
}

fn push_number(json: &mut Vec<u8>, number: usize) {
    if number >= 10 {
        push_number(json, number / 10);
    }
    // A digit is a byte.
    json.extend(u8::try_from(number % 10).map(|digit| b'0' + digit));
}

/// A JSON string.
fn push_text(json: &mut Vec<u8>, text: &str) {
    push(json, "\"");
    push_escaped(json, text);
    push(json, "\"");
}

/// An image within a JSON string. What is swapped is a reference, and so is what it becomes, and no character of
/// one needs an escape (`image` has a test that says so).
fn push_reference(json: &mut Vec<u8>, image: &str) {
    debug_assert!(is_plain(image), "{image:?}");
    push(json, image);
}

/// A text within a JSON string.
fn push_escaped(json: &mut Vec<u8>, text: &str) {
    if is_plain(text) {
        return push(json, text);
    }
    // A text always serialises.
    let quoted = serde_json::to_string(text).unwrap_or_default();
    let inner = quoted
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    push(json, inner.unwrap_or_default());
}

impl Swaps<'_> {
    /// How long the patch is at most, in bytes, but for escapes.
    fn patch_length(&self) -> usize {
        self.all.iter().map(|swap| PATCH + swap.to.len()).sum()
    }

    /// How long about what is answered for them is, in bytes.
    fn length(&self) -> usize {
        let annotation = |swap: &Swap<'_>| {
            let rule = swap.rule.map_or(0, |rule| rule.text.len().min(MAX_RULE));
            let name = swap.name.as_ref().map_or(0, |name| name.len());
            64 + name + swap.from.len() + swap.to.len() + rule
        };
        let annotations = self.all.iter().take(MAX_ANNOTATIONS).map(annotation);
        self.patch_length() * 4 / 3 + annotations.sum::<usize>()
    }
}

impl Swap<'_> {
    /// By name and not by index, for a sidecar may be put before it between two calls.
    fn key(&self) -> Key<'_> {
        let list = self.list.key();
        let name = match &self.name {
            Some(name) if !name.is_empty() => name.as_ref(),
            _ => return self.key_of(self.index.to_string().into()),
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let ends_well = name.ends_with(|c: char| c.is_ascii_alphanumeric());
        let is_key = list.len() + 1 + name.len() <= MAX_KEY && ends_well;
        // No part of a longer character is plain.
        if is_key && name.bytes().all(|byte| is_plain(byte.into())) {
            return self.key_of(name.into());
        }
        let key = format!("{list}.{name}");
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let hash = format!("-{:016x}", hasher.finish());
        let mut plain: String = name
            .chars()
            .take(MAX_KEY - hash.len() - list.len() - 1)
            .map(|c| if is_plain(c) { c } else { '-' })
            .collect();
        plain.push_str(&hash);
        self.key_of(plain.into())
    }

    fn key_of<'a>(&self, name: Cow<'a, str>) -> Key<'a> {
        let list = self.list;
        Key { list, name }
    }
}

/// The key of an annotation, a qualified name: a list, a dot, and mostly the entry's name.
#[derive(Debug, PartialEq, Eq)]
struct Key<'a> {
    list: List,
    name: Cow<'a, str>,
}

impl Key<'_> {
    /// Of two names the shorter one first: so `app-9` and `app-10` are in order, and hardly a byte is looked at.
    fn order(&self) -> (List, usize, &str) {
        (self.list, self.name.len(), &self.name)
    }
}
