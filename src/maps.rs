//! The map file, ImageSwap's rewriting language: text → [`Maps`] and [`Diagnostic`]s, and
//! [`Maps::swap`]: an image → a [`Verdict`] that names its rule.
//!
//! `docs/maps.md` defines the language for users; the order of the rules here is the order there.
//! A file is read once and then only asked: nothing in here does I/O, takes the time, or changes
//! after it was read.

mod book;
pub mod diagnostic;
mod effort;
mod feed;
mod glob;
mod index;
pub mod legacy;
mod lint;
mod parse;
mod patterns;
mod sample;
mod targets;
pub mod verdict;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use hashbrown::HashSet;

use self::book::Book;
pub use self::book::Kind;
pub use self::diagnostic::{Diagnostic, Findings, Severity};
pub use self::effort::Effort;
use self::glob::Pattern;
use self::index::{Index, RuleId};
pub use self::legacy::Legacy;
use self::patterns::Patterns;
use self::targets::Targets;
pub use self::verdict::{RuleRef, Tried, Verdict, Why};
use crate::image::{self, Reference, Registry};

/// The largest map file that is read, in bytes. A Kubernetes ConfigMap holds at most 1 MiB. Of the shortest lines a file
/// takes some thirty times its size while it is read beside the one in use, and a replica may take 320 MiB.
pub const MAX_BYTES: usize = 8 << 20;

/// What all patterns together may ask for, in characters: each takes four bytes, and a ConfigMap holds no more.
const MAX_PATTERN_CHARACTERS: usize = 1 << 20;

/// What the items of `noswap_wildcards` may have in all, in characters: each takes some 60 bytes once compiled, and
/// a ConfigMap holds no more.
const MAX_ITEM_CHARACTERS: usize = 1 << 20;

/// The registry key for Docker Hub's official images.
const LIBRARY_KEY: &str = "docker.io/library";

/// How images are rewritten: by a map file, or as before there were any.
#[derive(Debug)]
pub enum Rules {
    /// By a map file.
    Maps(Box<Maps>),
    /// By one prefix (`IMAGESWAP_MODE=LEGACY`).
    Legacy(Legacy),
}

/// A map file, ready to be asked.
#[derive(Debug, Default)]
pub struct Maps {
    book: Book,
    exact: Index,
    registries: Index,
    replace: Replace,
    noswap_rule: Option<RuleId>,
    noswap: Option<Noswap>,
    default: Option<RuleId>,
    targets: Targets,
    skipped: usize,
}

#[derive(Debug, Default)]
struct Replace {
    by_pattern: Index,
    patterns: Patterns,
    /// The rule and the parsed form of each pattern, in the order they are tried.
    rules: Vec<(RuleId, Pattern)>,
}

#[derive(Debug)]
struct Noswap {
    rule: RuleId,
    items: Vec<String>,
    finder: AhoCorasick,
}

/// Why a file is no map file at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Larger than [`MAX_BYTES`].
    #[error("it is larger than {} MiB", MAX_BYTES >> 20)]
    TooLarge,
    /// More than a tenth of its bytes are control characters or no UTF-8.
    #[error("it is a binary file, and no text (save one of UTF-16 as UTF-8)")]
    Binary,
}

// === impl Rules ===

impl Rules {
    /// What becomes of an image.
    pub fn swap(&self, image: &str) -> Verdict<'_> {
        self.swap_observed(image, &mut |_| {})
    }

    /// As [`Rules::swap`], if that takes no more than there is of an effort.
    pub fn swap_within(&self, image: &str, effort: &Effort<'_>) -> Option<Verdict<'_>> {
        let verdict = match self {
            Self::Maps(maps) => maps.decide(image, effort, &mut |_| {}),
            Self::Legacy(legacy) => legacy.swap(image),
        };
        (!effort.is_spent()).then_some(verdict)
    }

    /// As [`Rules::swap`], and tells which rules were tried in vain.
    pub fn swap_observed(&self, image: &str, tried: &mut impl FnMut(Tried<'_>)) -> Verdict<'_> {
        match self {
            Self::Maps(maps) => maps.swap_observed(image, tried),
            Self::Legacy(legacy) => legacy.swap(image),
        }
    }
}

// === impl Maps: reading ===

impl Maps {
    /// Reads a map file. Lines in error are skipped and reported; see [`Maps::lint`] for what else
    /// can be said of a file.
    ///
    /// # Errors
    /// A file that is no map file at all: too large, or binary.
    pub fn parse(bytes: &[u8]) -> Result<(Self, Findings), Unreadable> {
        if bytes.len() > MAX_BYTES {
            return Err(Unreadable::TooLarge);
        }
        if is_binary(bytes) {
            return Err(Unreadable::Binary);
        }
        let mut maps = Self {
            book: Book::with_capacity(bytes.len(), bytes.len() / 32),
            ..Self::default()
        };
        let mut findings = Findings::default();
        for line in parse::lines(bytes) {
            match line {
                parse::Line::Rule(draft, warnings) => {
                    let id = maps.book.push(&draft);
                    let repeated = maps.enter(id);
                    let found = warnings.into_iter().chain(repeated);
                    found.for_each(|found| findings.warning(|| found));
                }
                parse::Line::Error(error) => {
                    maps.skipped += 1;
                    findings.error(|| *error);
                }
            }
        }
        maps.compile(&mut findings);
        Ok((maps, findings))
    }

    /// Enters a rule where it is looked up. Of a repeated key the last rule counts, in the place of
    /// the first (as in 1.5.3, whose rules stand in a Python dictionary).
    fn enter(&mut self, id: RuleId) -> Option<Diagnostic> {
        let book = &self.book;
        let earlier = match book.kind(id)? {
            Kind::Exact => self.exact.insert(id, |id| book.key(id)),
            Kind::Registry => self.registries.insert(id, |id| canonical_key(book.key(id))),
            Kind::Replace => self.replace.by_pattern.insert(id, |id| book.key(id)),
            Kind::Default => only(&mut self.default, id),
            Kind::Noswap => only(&mut self.noswap_rule, id),
            Kind::Legacy => None,
        }?;
        let (first, key) = (self.book.key(earlier), self.book.key(id));
        // The other name of Docker Hub must not take over what is said of the usual one.
        if key.starts_with(image::DOCKER_HUB_INDEX) && !first.starts_with(image::DOCKER_HUB_INDEX) {
            let found = Diagnostic::warning(
                "repeated-key",
                self.book.key_place(id, "this one does not count"),
                format!("{key} is another name of {first}, which has a line"),
            )
            .also(self.book.key_place(earlier, "this one counts"))
            .help("remove one of the two lines");
            self.book.drop_last();
            return Some(found);
        }
        let replaced = self.book.replace_with_last(earlier)?;
        let key = self.book.key(earlier);
        Some(
            Diagnostic::warning(
                "repeated-key",
                self.book.key_place(earlier, "this one comes later"),
                format!("{key} is defined twice"),
            )
            .also(self.book.place_of(replaced, "this one does not count"))
            .help(match self.book.kind(earlier)? {
                Kind::Noswap => "write the items of both lines in one",
                _ => "remove one of the two lines",
            }),
        )
    }

    /// Makes what is tried all at once.
    fn compile(&mut self, findings: &mut Findings) {
        self.compile_patterns(findings);
        if let Some(rule) = self.noswap_rule {
            self.compile_noswap(rule, findings);
        }
        // Of the rules that are left.
        self.targets = Targets::of(&self.book);
    }

    fn compile_patterns(&mut self, findings: &mut Findings) {
        let (mut rules, mut too_many) = (Vec::new(), Vec::new());
        let mut characters = 0;
        for id in self.book.ids_of(Kind::Replace) {
            let Some(pattern) = Pattern::parse(self.book.key(id)) else {
                continue;
            };
            characters += pattern.len();
            match characters > MAX_PATTERN_CHARACTERS {
                true => too_many.push(id),
                false => rules.push((id, pattern)),
            }
        }
        for id in too_many {
            self.leave_out(id);
            findings.error(|| {
                Diagnostic::error(
                    "pattern-too-large",
                    self.book.key_place(id, ""),
                    format!(
                        "this pattern and those before it have more than {MAX_PATTERN_CHARACTERS} characters"
                    ),
                )
                .help("shorten or join patterns; a registry as a key (REGISTRY::VALUE) needs none")
            });
        }
        self.replace.patterns = Patterns::of(rules.iter().map(|(_, pattern)| pattern));
        self.replace.rules = rules;
    }

    fn compile_noswap(&mut self, rule: RuleId, findings: &mut Findings) {
        let mut seen = HashSet::new();
        let items: Vec<String> = self
            .book
            .value(rule)
            .split(',')
            .map(str::trim)
            // What is longer than any image is in none.
            .filter(|item| !item.is_empty() && item.len() <= image::MAX_REFERENCE)
            .filter(|item| seen.insert(*item))
            .map(str::to_owned)
            .collect();
        drop(seen);
        match finder(&shortest(&items)) {
            Ok(finder) => {
                self.noswap = Some(Noswap {
                    rule,
                    items,
                    finder,
                });
            }
            Err(error) => {
                self.leave_out(rule);
                findings.error(|| {
                    Diagnostic::error(
                        "list-too-large",
                        self.book.value_place(rule, ""),
                        format!("the list can't be compiled: {error}"),
                    )
                });
            }
        }
    }

    /// Skips the line of a rule that can't be compiled.
    fn leave_out(&mut self, id: RuleId) {
        self.skipped += 1;
        self.book.take_out(id);
    }

    /// What is probably not meant, in lines that are rules: keys that nothing matches, values that
    /// are no reference, rules that feed each other, a missing `default`.
    pub fn lint(&self) -> Findings {
        lint::lint(self)
    }

    /// How many rules there are, without those in error.
    pub fn len(&self) -> usize {
        self.book.len()
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether some rule could ever apply to an image: some text that is no map has lines that read
    /// as rules.
    pub fn has_live_rule(&self) -> bool {
        lint::has_live_rule(self)
    }

    /// How many lines were skipped because they are in error.
    pub fn skipped(&self) -> usize {
        self.skipped
    }
}

fn finder(items: &[&str]) -> Result<AhoCorasick, String> {
    let characters: usize = items.iter().map(|item| item.len()).sum();
    if characters > MAX_ITEM_CHARACTERS {
        return Err(format!(
            "its items have {characters} characters, and may have {MAX_ITEM_CHARACTERS}"
        ));
    }
    // The kind whose size is in proportion to the items.
    let finder = AhoCorasick::builder()
        .kind(Some(AhoCorasickKind::ContiguousNFA))
        .build(items);
    finder.map_err(|error| error.to_string())
}

/// Those that begin with no other: what holds such a one holds the other, too. With `h1` to `h40000` the finder
/// took 2.4 s to build, and four times as long for twice as many.
fn shortest(items: &[String]) -> Vec<&str> {
    let mut all: Vec<_> = items.iter().map(String::as_str).collect();
    all.sort_unstable();
    // Behind a text stand those that begin with it.
    all.dedup_by(|next, kept| next.starts_with(*kept));
    all
}

/// Text has few bytes that are control characters or no UTF-8; a binary file has many, and so has
/// text in UTF-16. A few are errors on their lines.
fn is_binary(bytes: &[u8]) -> bool {
    let strange = bytes.utf8_chunks().map(|chunk| {
        let controls = chunk
            .valid()
            .bytes()
            .filter(|b| b.is_ascii_control() && !matches!(b, b'\t' | b'\n' | b'\r' | 0x0b | 0x0c));
        controls.count() + chunk.invalid().len()
    });
    strange.sum::<usize>() * 10 > bytes.len()
}

/// Keeps the first rule of its kind, and returns it if it is another.
fn only(place: &mut Option<RuleId>, id: RuleId) -> Option<RuleId> {
    let first = *place.get_or_insert(id);
    (first != id).then_some(first)
}

/// A registry key with `index.docker.io` read as `docker.io`.
fn canonical_key(key: &str) -> &str {
    // Both keys that can begin so, with a port as without, are one stretch of the longer name.
    match key.strip_prefix(image::DOCKER_HUB_INDEX) {
        Some("" | "/library") => key.strip_prefix("index.").unwrap_or(key),
        Some(rest) if rest.starts_with(':') => key.strip_prefix("index.").unwrap_or(key),
        _ => key,
    }
}

// === impl Maps: asking ===

impl Maps {
    /// What becomes of an image.
    pub fn swap(&self, image: &str) -> Verdict<'_> {
        self.swap_observed(image, &mut |_| {})
    }

    /// As [`Maps::swap`], and tells which rules were tried in vain, in order.
    pub fn swap_observed(&self, image: &str, tried: &mut impl FnMut(Tried<'_>)) -> Verdict<'_> {
        self.decide(image, &Effort::unbounded(), tried)
    }

    /// The verdict, which means nothing if the effort is spent.
    fn decide(
        &self,
        image: &str,
        effort: &Effort<'_>,
        tried: &mut impl FnMut(Tried<'_>),
    ) -> Verdict<'_> {
        let reference = match Reference::parse(image) {
            Ok(reference) => reference,
            Err(error) => return Verdict::kept(Why::NotAReference(error), None),
        };
        if let Some(id) = self.exact.find(image, |id| self.book.key(id)) {
            return self.settle(id, image, self.book.value(id).to_owned());
        }
        tried(Tried::Exact);
        let rules = &self.replace.rules;
        let pattern = |index: usize| rules.get(index).map(|(_, pattern)| pattern);
        if let Some(index) = self.replace.patterns.first_match(image, pattern, effort)
            && let Some((id, _)) = rules.get(index)
        {
            return self.settle_prefixed(
                *id,
                image,
                replaced(self.book.value(*id), reference.last()),
            );
        }
        tried(Tried::Replace(self.replace.patterns.len()));
        if let Some((id, tail)) = self.registry_rule(&reference, tried) {
            return self.place(id, &reference, tail);
        }
        if let Some(noswap) = &self.noswap {
            if noswap.finder.is_match(image) {
                return Verdict::kept(Why::Noswap, Some(self.rule(noswap.rule)));
            }
            tried(Tried::Noswap(&noswap.items));
        }
        let Some(id) = self.default else {
            return Verdict::kept(Why::NoRule, None);
        };
        // A default without a value puts nothing anywhere.
        if !self.book.value(id).is_empty()
            && let Some(target) = self.targets.holding(&reference, &self.book)
        {
            let why = Why::AtTarget(self.rule(target));
            return Verdict::kept(why, Some(self.rule(id)));
        }
        self.place(id, &reference, reference.tail())
    }

    /// The rule for an image's registry, and what of the image goes behind the rule's value.
    fn registry_rule<'i>(
        &self,
        reference: &Reference<'i>,
        tried: &mut impl FnMut(Tried<'_>),
    ) -> Option<(RuleId, &'i str)> {
        let mut find = |key: &str| {
            let found = self
                .registries
                .find(key, |id| canonical_key(self.book.key(id)));
            if found.is_none() {
                tried(Tried::Registry(key));
            }
            found
        };
        if let Some(tail) = reference.library_tail()
            && let Some(id) = find(LIBRARY_KEY)
        {
            return Some((id, tail));
        }
        if let Some(registry) = reference.registry()
            && registry.port.is_some()
            && let Some(id) = find(canonical_key(registry.text))
        {
            return Some((id, reference.tail()));
        }
        find(reference.host()).map(|id| (id, reference.tail()))
    }

    /// Applies a registry key or `default`.
    fn place(&self, id: RuleId, reference: &Reference<'_>, tail: &str) -> Verdict<'_> {
        let value = self.book.value(id);
        if value.is_empty() {
            return Verdict::kept(Why::NoValue, Some(self.rule(id)));
        }
        if value.ends_with('-') {
            let result = [value, reference.host(), "/", tail].concat();
            return self.settle(id, reference.as_str(), result);
        }
        let target = self.book.target(id);
        let result = match reference.port() {
            Some(port) if self.keeps_port(id) => [target, ":", port, "/", tail].concat(),
            _ => [target, "/", tail].concat(),
        };
        self.settle_prefixed(id, reference.as_str(), result)
    }

    /// Whether a port that an image names goes behind the rule's value: where that is a bare host
    /// and the key did not name the port, as 1.5.3 does. `default` drops it with the registry.
    fn keeps_port(&self, id: RuleId) -> bool {
        self.book.kind(id) == Some(Kind::Registry)
            && names_no_port(self.book.key(id))
            && is_bare_host(self.book.target(id))
    }

    /// As [`Maps::settle`], of a result that is the rule's target, perhaps a port, a slash, and what an image has
    /// behind one: where the target makes references of any image, it is not parsed again.
    fn settle_prefixed(&self, id: RuleId, image: &str, result: String) -> Verdict<'_> {
        let is_reference = self.book.makes_references(id) && result.len() <= image::MAX_REFERENCE;
        if is_reference && result != image {
            return Verdict::swapped(result, Some(self.rule(id)));
        }
        self.settle(id, image, result)
    }

    /// The verdict for what a rule makes of an image.
    fn settle(&self, id: RuleId, image: &str, result: String) -> Verdict<'_> {
        let rule = Some(self.rule(id));
        if result == image {
            return Verdict::kept(Why::Same, rule);
        }
        match Reference::parse(&result) {
            Ok(_) => Verdict::swapped(result, rule),
            Err(error) => Verdict::kept(Why::BadResult { result, error }, rule),
        }
    }

    fn rule(&self, id: RuleId) -> RuleRef<'_> {
        RuleRef {
            kind: self.book.kind(id).unwrap_or(Kind::Default),
            line: Some(self.book.line(id)),
            text: self.book.text(id),
        }
    }
}

/// What `[REPLACE]` makes of an image. An empty value leaves the last component alone.
fn replaced(value: &str, last: &str) -> String {
    match value.strip_suffix('/') {
        None if value.is_empty() => last.to_owned(),
        None => [value, "/", last].concat(),
        Some(_) => [value, last].concat(),
    }
}

/// Whether a registry key is without a port.
fn names_no_port(key: &str) -> bool {
    let registry = key.strip_suffix("/library").unwrap_or(key);
    Registry::parse(registry).is_ok_and(|registry| registry.port.is_none())
}

/// Whether a value is a host alone, with neither port nor path.
fn is_bare_host(value: &str) -> bool {
    Registry::parse(value).is_ok_and(|registry| registry.port.is_none())
}
