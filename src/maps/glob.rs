//! The patterns of `[REPLACE]`: Python's fnmatch, read into our own form, tried by `globset`.
//!
//! Source: `fnmatch.translate` of CPython 3.11, which 1.5.3 runs on. `*` matches any text, `/`
//! included; `?` one character; `[seq]` and `[!seq]` one of a set; nothing else is special, and a
//! `[` that nothing closes is itself. Patterns meet valid references only, whose characters are
//! ASCII, so a set is a mask over ASCII and a pattern that asks for more can never match.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use hashbrown::HashMap;
use smallvec::SmallVec;

/// The most that a pattern can ask for: no reference is longer.
const MAX_TOKENS: usize = 4096;

/// How many patterns are tried at once, besides those that are but a text at the start or at the
/// end. An automaton of a thousand was seen to take gigabytes over varied images, and sixteen of
/// sixty-four take little.
const AT_ONCE: usize = 64;

/// How much of a pattern's start is looked at to tell whether it can match.
const START: usize = 32;

/// One pattern, compiled to what it asks of each character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    tokens: Vec<Token>,
    /// Bit N of a set stands for the ASCII character N.
    sets: Vec<u128>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// This character.
    Literal(u8),
    /// One character of this set, by its number.
    Set(u16),
    /// One character.
    Any,
    /// Any text, also none.
    Star,
}

/// Many patterns, tried many at once.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    sets: Vec<Chunk>,
    starts: Starts,
    len: usize,
}

/// Which chunks a text can match in, by how it begins: of a thousand patterns, most name another
/// registry.
#[derive(Debug, Default)]
struct Starts {
    /// By what a pattern says before its first wildcard, filled up with zeros, which no text has.
    chunks: HashMap<[u8; START], Vec<usize>>,
    /// Which lengths that has, each a bit.
    lengths: u64,
    /// The chunks with a pattern that begins with a wildcard.
    open: Vec<usize>,
}

#[derive(Debug)]
struct Chunk {
    first: usize,
    set: GlobSet,
}

// === impl Pattern ===

impl Pattern {
    /// Reads a pattern. `None` if no valid reference can ever match it.
    pub(super) fn parse(pattern: &str) -> Option<Self> {
        let mut parsed = Self {
            tokens: Vec::new(),
            sets: Vec::new(),
        };
        let chars: Vec<char> = pattern.chars().collect();
        let last_close = chars.iter().rposition(|c| *c == ']').unwrap_or_default();
        let mut rest = chars.as_slice();
        while let Some((&c, behind)) = rest.split_first() {
            let can_close = chars.len() - behind.len() <= last_close;
            rest = behind;
            let token = match c {
                '*' => Token::Star,
                '?' => Token::Any,
                '[' => match can_close.then(|| set_end(rest)).flatten() {
                    Some(end) => {
                        let (set, behind) = rest.split_at_checked(end)?;
                        rest = behind.get(1..)?;
                        parsed.sets.push(mask(set)?);
                        Token::Set(u16::try_from(parsed.sets.len() - 1).ok()?)
                    }
                    None => Token::Literal(b'['),
                },
                c => Token::Literal(u8::try_from(c).ok().filter(u8::is_ascii)?),
            };
            // `**` says no more than `*`, and means something else to globset.
            if !(token == Token::Star && parsed.tokens.last() == Some(&Token::Star)) {
                parsed.tokens.push(token);
            }
            // Between two stars stands one character at least.
            if parsed.tokens.len() > 2 * MAX_TOKENS + 1 {
                return None;
            }
        }
        let characters = parsed.tokens.iter().filter(|token| **token != Token::Star);
        (characters.count() <= MAX_TOKENS).then_some(parsed)
    }

    /// How many of its characters are not said plainly: what an automaton of it costs.
    pub(super) fn wildcards(&self) -> usize {
        let is_plain = |token: &&Token| matches!(token, Token::Literal(_));
        self.tokens.len() - self.tokens.iter().filter(is_plain).count()
    }

    fn set(&self, number: u16) -> u128 {
        self.sets
            .get(usize::from(number))
            .copied()
            .unwrap_or_default()
    }

    /// Whether it is a text, or a text at the start or at the end: globset looks for all such texts
    /// at once, without an automaton for each.
    fn is_text(&self) -> bool {
        let rest = match self.tokens.as_slice() {
            [Token::Star, rest @ ..] | [rest @ .., Token::Star] => rest,
            rest => rest,
        };
        rest.iter().all(|token| matches!(token, Token::Literal(_)))
    }

    /// What the pattern says before its first wildcard.
    pub(super) fn literal_prefix(&self) -> String {
        self.tokens
            .iter()
            .map_while(|token| match token {
                Token::Literal(b) => Some(char::from(*b)),
                _ => None,
            })
            .collect()
    }

    /// Whether the pattern begins with `*`.
    pub(super) fn starts_open(&self) -> bool {
        self.tokens.first() == Some(&Token::Star)
    }

    /// Of a pattern `*TEXT` without a further wildcard or slash: whatever ends in TEXT matches, and
    /// so does its last path component.
    pub(super) fn is_plain_suffix(&self) -> bool {
        match self.tokens.split_first() {
            Some((Token::Star, rest)) => rest
                .iter()
                .all(|token| matches!(token, Token::Literal(b) if *b != b'/')),
            _ => false,
        }
    }

    /// Whether every text that matches lacks a slash.
    pub(super) fn never_crosses_slash(&self) -> bool {
        self.tokens.iter().all(|token| match token {
            Token::Literal(b) => *b != b'/',
            Token::Set(number) => self.set(*number) & bit(b'/') == 0,
            Token::Any | Token::Star => false,
        })
    }

    /// Whether every text that matches has a slash.
    pub(super) fn needs_slash(&self) -> bool {
        self.tokens.contains(&Token::Literal(b'/'))
    }

    /// How many things it asks for.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether a text that begins with `prefix` can match; with `one_component`, one whose rest has
    /// no slash.
    pub(super) fn can_begin_with(&self, prefix: &str, one_component: bool) -> bool {
        self.can_go_on(prefix, one_component, 0)
    }

    /// As [`Pattern::can_begin_with`], for a pattern that [starts open](Pattern::starts_open):
    /// whether it can match with more than its leading `*` on the prefix.
    pub(super) fn can_begin_inside(&self, prefix: &str, one_component: bool) -> bool {
        // States 0 and 1 stand before and behind the leading star.
        self.can_go_on(prefix, one_component, 2)
    }

    fn can_go_on(&self, prefix: &str, one_component: bool, from: usize) -> bool {
        let mut states = self.start();
        for b in prefix.bytes() {
            states = self.step(&states, b);
        }
        let needs_no_slash = |state: usize| {
            let rest = self.tokens.get(state..).unwrap_or_default();
            rest.iter().all(|token| match token {
                Token::Literal(b) => *b != b'/',
                Token::Set(number) => self.set(*number) & !bit(b'/') != 0,
                Token::Any | Token::Star => true,
            })
        };
        let mut alive = states
            .iter()
            .enumerate()
            .skip(from)
            .filter(|(_, alive)| **alive);
        alive.any(|(state, _)| !one_component || needs_no_slash(state))
    }

    fn start(&self) -> Vec<bool> {
        let mut states = vec![false; self.tokens.len() + 1];
        if let Some(first) = states.first_mut() {
            *first = true;
        }
        self.skip_stars(&mut states);
        states
    }

    fn step(&self, states: &[bool], b: u8) -> Vec<bool> {
        let mut next = vec![false; states.len()];
        for (i, token) in self.tokens.iter().enumerate() {
            if !states.get(i).copied().unwrap_or_default() {
                continue;
            }
            let to = match token {
                Token::Star => i,
                Token::Any => i + 1,
                Token::Literal(literal) if *literal == b => i + 1,
                Token::Set(number) if b.is_ascii() && self.set(*number) & bit(b) != 0 => i + 1,
                _ => continue,
            };
            if let Some(state) = next.get_mut(to) {
                *state = true;
            }
        }
        self.skip_stars(&mut next);
        next
    }

    fn skip_stars(&self, states: &mut [bool]) {
        for (i, token) in self.tokens.iter().enumerate() {
            if *token == Token::Star
                && states.get(i).copied().unwrap_or_default()
                && let Some(state) = states.get_mut(i + 1)
            {
                *state = true;
            }
        }
    }

    /// The same in globset's syntax.
    fn to_glob(&self) -> String {
        let mut glob = String::new();
        for token in &self.tokens {
            match token {
                Token::Star => glob.push('*'),
                Token::Any => glob.push('?'),
                Token::Literal(b) if b.is_ascii_alphanumeric() || *b == b'/' => {
                    glob.push(char::from(*b));
                }
                Token::Literal(b) => glob.extend(['\\', char::from(*b)]),
                Token::Set(number) => push_set(&mut glob, self.set(*number)),
            }
        }
        glob
    }
}

/// Where the set behind a `[` ends: at the next `]`, but for one that stands first.
fn set_end(rest: &[char]) -> Option<usize> {
    let negation = usize::from(rest.first() == Some(&'!'));
    let first = negation + usize::from(rest.get(negation) == Some(&']'));
    let end = rest.get(first..)?.iter().position(|c| *c == ']')?;
    Some(first + end)
}

/// The characters that a set stands for, of those a valid reference can hold; `None` if none.
fn mask(set: &[char]) -> Option<u128> {
    let (mut negated, mut rest) = match set.split_first() {
        Some(('!', rest)) => (true, rest),
        _ => (false, set),
    };
    let mut ranges = Vec::new();
    while let Some((&from, behind)) = rest.split_first() {
        let (to, behind) = match behind {
            ['-', to, behind @ ..] => (Some(*to), behind),
            _ => (None, behind),
        };
        if to.is_none_or(|to| from <= to) {
            ranges.push((from, to));
        }
        rest = behind;
    }
    // Python drops empty ranges before it looks for a `!` in front.
    if !negated && let Some(('!', to)) = ranges.first().copied() {
        negated = true;
        ranges.remove(0);
        ranges.extend(to.into_iter().flat_map(|to| [('-', None), (to, None)]));
    }
    let mut mask = 0;
    for (from, to) in ranges {
        for b in 0..128_u8 {
            if (from..=to.unwrap_or(from)).contains(&char::from(b)) {
                mask |= bit(b);
            }
        }
    }
    let mask = REFERENCE_CHARACTERS & if negated { !mask } else { mask };
    (mask != 0).then_some(mask)
}

const fn bit(ascii: u8) -> u128 {
    1 << ascii
}

/// All that a valid reference can be made of.
const REFERENCE_CHARACTERS: u128 = {
    let mut mask = 0;
    let mut b = 0_u8;
    while b < 128 {
        if b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'.' | b'_' | b'-' | b'/' | b':' | b'@' | b'+' | b'[' | b']'
            )
        {
            mask |= bit(b);
        }
        b += 1;
    }
    mask
};

/// globset takes a `]` first, a `-` last, and `[:` for the start of a class: hence the order.
fn push_set(glob: &mut String, mask: u128) {
    glob.push('[');
    let in_order = b"]"
        .iter()
        .copied()
        .chain((0..128).filter(|b| !b"[]-".contains(b)));
    for b in in_order.chain(*b"[-") {
        if mask & bit(b) != 0 {
            glob.push(char::from(b));
        }
    }
    glob.push(']');
}

// === impl Patterns ===

impl Patterns {
    /// Compiles the patterns for being tried together, and says which of them are too large to be
    /// compiled, and why; those never match.
    pub(super) fn build(patterns: &[&Pattern]) -> (Self, Vec<(usize, String)>) {
        let (mut sets, mut failed) = (Vec::new(), Vec::new());
        let (mut first, mut rest) = (0, patterns);
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(chunk_length(rest));
            build_chunk(first, chunk, &mut sets, &mut failed);
            (first, rest) = (first + chunk.len(), behind);
        }
        let starts = Starts::of(&sets, patterns);
        let len = patterns.len() - failed.len();
        (Self { sets, starts, len }, failed)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The first pattern, in the order they were given, that matches.
    pub(super) fn first_match(&self, image: &str) -> Option<usize> {
        if self.sets.is_empty() {
            return None;
        }
        let candidate = globset::Candidate::new(image);
        let first_of = |chunk: &Chunk| {
            let matches = chunk.set.matches_candidate(&candidate);
            matches.into_iter().min().map(|index| chunk.first + index)
        };
        if let [only] = self.sets.as_slice() {
            return first_of(only);
        }
        let chunks = self.starts.chunks(image).into_iter();
        chunks
            .filter_map(|number| self.sets.get(number))
            .find_map(first_of)
    }
}

impl Starts {
    fn of(sets: &[Chunk], patterns: &[&Pattern]) -> Self {
        let mut starts = Self::default();
        let ends = sets.iter().skip(1).map(|chunk| chunk.first);
        let ends = ends.chain([patterns.len()]);
        for (number, (chunk, end)) in sets.iter().zip(ends).enumerate() {
            for pattern in patterns.get(chunk.first..end).unwrap_or_default() {
                let start = pattern.literal_prefix();
                let length = start.len().min(START);
                let chunks = match length {
                    0 => &mut starts.open,
                    _ => starts.chunks.entry(filled(&start, length)).or_default(),
                };
                if chunks.last() != Some(&number) {
                    chunks.push(number);
                }
                starts.lengths |= 1 << length;
            }
        }
        starts
    }

    /// The chunks to try, in order.
    fn chunks(&self, text: &str) -> SmallVec<[usize; 16]> {
        let mut chunks = SmallVec::from_slice(&self.open);
        for length in 1..=text.len().min(START) {
            if self.lengths >> length & 1 == 1
                && let Some(found) = self.chunks.get(&filled(text, length))
            {
                chunks.extend_from_slice(found);
            }
        }
        chunks.sort_unstable();
        chunks.dedup();
        chunks
    }
}

/// The first characters of a text, filled up with zeros.
fn filled(text: &str, length: usize) -> [u8; START] {
    let mut filled = [0; START];
    let bytes = text.bytes().take(length);
    filled.iter_mut().zip(bytes).for_each(|(to, b)| *to = b);
    filled
}

/// How many of the patterns to try at once.
fn chunk_length(patterns: &[&Pattern]) -> usize {
    let costly = patterns.iter().enumerate().filter(|(_, p)| !p.is_text());
    costly
        .map(|(index, _)| index)
        .nth(AT_ONCE)
        .unwrap_or(patterns.len())
}

/// Halves what is too large together, down to the single pattern.
fn build_chunk(
    first: usize,
    patterns: &[&Pattern],
    sets: &mut Vec<Chunk>,
    failed: &mut Vec<(usize, String)>,
) {
    match build_set(patterns) {
        Ok(set) => sets.push(Chunk { first, set }),
        Err(error) if patterns.len() <= 1 => failed.push((first, error.kind().to_string())),
        Err(_) => {
            let (low, high) = patterns.split_at(patterns.len() / 2);
            build_chunk(first, low, sets, failed);
            build_chunk(first + low.len(), high, sets, failed);
        }
    }
}

fn build_set(patterns: &[&Pattern]) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(&pattern.to_glob())
            .literal_separator(false)
            .backslash_escape(true)
            .build()?;
        set.add(glob);
    }
    set.build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn build(patterns: &[Pattern]) -> Patterns {
        let (patterns, failed) = Patterns::build(&patterns.iter().collect::<Vec<_>>());
        assert_eq!(failed, []);
        patterns
    }

    fn matches(pattern: &str, image: &str) -> bool {
        match Pattern::parse(pattern) {
            Some(pattern) => build(&[pattern]).first_match(image).is_some(),
            None => false,
        }
    }

    /// `fnmatch.fnmatchcase` of CPython 3.11 gave the answers.
    #[test]
    fn as_python_matches() {
        for (pattern, image, expected) in [
            ("ghcr.io/public*", "ghcr.io/public/a/b:1", true),
            ("ghcr.io/public*", "ghcr.io/publicity", true),
            ("ghcr.io/public*", "ghcrxio/public", false),
            ("*", "a/b", true),
            ("nginx:1.?", "nginx:1.2", true),
            ("nginx:1.?", "nginx:1.25", false),
            ("a?b", "a/b", true),
            ("redis:[5-7]*", "redis:7.2", true),
            ("redis:[5-7]*", "redis:9", false),
            ("alpine:[!3]*", "alpine:edge", true),
            ("alpine:[!3]*", "alpine:3", false),
            ("quay.io/[]a]*", "quay.io/a", true),
            // Without its empty ranges a set may begin with a `!`.
            ("q/[b-a!x]", "q/y", true),
            ("q/[b-a!x]", "q/x", false),
            ("q/[b-a!]", "q/x", true),
            ("q/[b-a!-x]", "q/y", true),
            ("q/[b-a!-x]", "q/x", false),
            ("q/[b-a!-x]", "q/-", false),
            ("q/[!b-a!x]", "q/y", true),
            ("q/[yb-a!x]", "q/y", true),
            ("q/[b-a]", "q/b", false),
            ("q/[!b-a]", "q/b", true),
            ("busybox[", "busybox", false),
            ("a[!b]c", "a_c", true),
            ("a[!b]c", "a+c", true),
            ("a[!b]c", "aAc", true),
            ("a[^b]", "ab", true),
            ("a[^b]", "ac", false),
            ("[a-]x", "-x", true),
            ("[z-a]x", "zx", false),
            ("[!z-a]x", "zx", true),
            ("[xz-a-c]y", "xy", true),
            ("[xz-a-c]y", "cy", true),
            ("[xz-a-c]y", "ay", false),
            ("[a-c-e]y", "dy", false),
            ("[a-c-e]y", "-y", true),
            ("{a,b}", "a", false),
            ("a\\*", "ab", false),
            ("a/**/b", "a/b", false),
            ("a/**/b", "a/x/y/b", true),
            ("**", "a/b", true),
            ("*.b", "a.b", true),
            ("[[:alpha:]]b", "ab", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, image), expected, "{pattern} on {image}");
        }
    }

    #[test]
    fn the_first_of_many_wins() {
        let patterns: Vec<_> = ["z*", "a*b", "a*", "*"]
            .iter()
            .map(|p| Pattern::parse(p).unwrap())
            .collect();
        let patterns = build(&patterns);
        assert_eq!(patterns.first_match("ab"), Some(1));
        assert_eq!(patterns.first_match("ac"), Some(2));
        assert_eq!(patterns.first_match("x"), Some(3));
    }

    #[test]
    fn of_many_chunks_the_first_match_wins() {
        let patterns: Vec<_> = (0..1000)
            .map(|n| Pattern::parse(&format!("*/app{n}:*")).unwrap())
            .chain(Pattern::parse("*"))
            .collect();
        let patterns = build(&patterns);
        for n in [0, 63, 64, 500, 999] {
            assert_eq!(patterns.first_match(&format!("a.io/app{n}:1")), Some(n));
        }
        assert_eq!(patterns.first_match("a.io/other:1"), Some(1000));
    }

    #[test]
    fn patterns_that_are_too_large_together_keep_their_order() {
        // Not of the letters alone: what is known to be the first is not put into a set.
        let parsed: Vec<_> = (0..40)
            .map(|n| Pattern::parse(&format!("*r{n}/{}", "[!a]".repeat(4_000))).unwrap())
            .collect();
        let built = build(&parsed);
        assert!(built.sets.len() > 1, "{}", built.sets.len());
        for n in [0, 1, 20, 39] {
            let image = format!("r{n}/{}", "b".repeat(4_000));
            assert_eq!(built.first_match(&image), Some(n));
        }
    }

    #[test]
    fn a_pattern_that_asks_for_more_than_any_reference_holds_never_matches() {
        assert!(Pattern::parse(&"?".repeat(MAX_TOKENS)).is_some());
        assert!(Pattern::parse(&"?".repeat(MAX_TOKENS + 1)).is_none());
        assert!(Pattern::parse(&"[!a]".repeat(1_000_000)).is_none());
        assert!(Pattern::parse(&"[".repeat(1_000_000)).is_none());
        assert!(Pattern::parse(&"*".repeat(1_000_000)).is_some());
    }

    #[test]
    fn what_can_begin_with_a_prefix() {
        let pattern = |text| Pattern::parse(text).unwrap();
        assert!(pattern("a.io/*").can_begin_with("a.io/b/", false));
        assert!(!pattern("a.io/x*").can_begin_with("a.io/b/", false));
        assert!(pattern("*").can_begin_with("a/", true));
        assert!(pattern("*b.io/*").can_begin_with("a/", false));
        assert!(!pattern("*b.io/*").can_begin_with("a/", true));
        assert!(!pattern("*@sha256:*").can_begin_inside("a.io/", false));
        assert!(pattern("*/mysql").can_begin_inside("a.io/", true));
        assert!(!pattern("*mysql").can_begin_inside("a.io/", false));
        assert!(pattern("*io*").can_begin_inside("a.io/", false));
    }

    /// The plainest way to say what fnmatch means: backtracking, one character at a time.
    fn oracle(pattern: &[char], text: &[char]) -> bool {
        let Some((&c, behind)) = pattern.split_first() else {
            return text.is_empty();
        };
        if c == '*' {
            return (0..=text.len()).any(|i| oracle(behind, &text[i..]));
        }
        let Some((&t, rest)) = text.split_first() else {
            return false;
        };
        if c == '['
            && let Some(end) = set_end(behind)
        {
            let (mut negated, set) = match &behind[..end] {
                ['!', set @ ..] => (true, set),
                set => (false, set),
            };
            let (mut found, mut is_first) = (false, true);
            let mut i = 0;
            while i < set.len() {
                let is_range = i + 2 < set.len() && set[i + 1] == '-';
                let (from, to) = if is_range {
                    (set[i], set[i + 2])
                } else {
                    (set[i], set[i])
                };
                i += if is_range { 3 } else { 1 };
                if from > to {
                    continue;
                }
                if is_first && !negated && from == '!' {
                    negated = true;
                    found |= is_range && (t == '-' || t == to);
                } else {
                    found |= from <= t && t <= to;
                }
                is_first = false;
            }
            return found != negated && oracle(&behind[end + 1..], rest);
        }
        (c == '?' || c == t) && oracle(behind, rest)
    }

    proptest! {
        /// Of several chunks only those are tried that can match.
        #[test]
        fn of_many_patterns_the_first_that_matches_is_found(
            patterns in proptest::collection::vec("[ab]{0,3}[ab*?]{0,3}", 1..400),
            long in "[ab]{30,34}",
            image in "[ab]{1,6}",
        ) {
            let shorter = |cut| long.chars().take(long.len() - cut).collect::<String>();
            let longer = [0, 1, 3].map(|cut| shorter(cut) + "*");
            let parsed: Vec<_> = patterns
                .iter()
                .chain(&longer)
                .filter_map(|p| Some((p, Pattern::parse(p)?)))
                .collect();
            let only: Vec<_> = parsed.iter().map(|(_, p)| p.clone()).collect();
            let together = build(&only);
            for image in [image.clone(), long.clone(), format!("{long}{image}")] {
                let text: Vec<char> = image.chars().collect();
                let expected = parsed
                    .iter()
                    .position(|(p, _)| oracle(&p.chars().collect::<Vec<_>>(), &text));
                prop_assert_eq!(together.first_match(&image), expected);
            }
        }

        #[test]
        fn globset_agrees_with_the_oracle(
            patterns in proptest::collection::vec("[ab./:*?\\[\\]!^{},-]{0,7}", 1..5),
            image in "[ab./:-]{0,7}",
        ) {
            let text: Vec<char> = image.chars().collect();
            let parsed: Vec<_> = patterns
                .iter()
                .filter_map(|p| Some((p, Pattern::parse(p)?)))
                .collect();
            let only: Vec<_> = parsed.iter().map(|(_, p)| p.clone()).collect();
            let expected = parsed
                .iter()
                .position(|(p, _)| oracle(&p.chars().collect::<Vec<_>>(), &text));
            prop_assert_eq!(build(&only).first_match(&image), expected);
        }

        #[test]
        fn a_pattern_that_matches_could_begin_so(pattern in "[ab/*?]{0,6}", image in "[ab/]{0,6}") {
            let parsed = Pattern::parse(&pattern).unwrap();
            if matches(&pattern, &image) {
                for end in 0..=image.len() {
                    let (prefix, rest) = image.split_at(end);
                    prop_assert!(parsed.can_begin_with(prefix, !rest.contains('/')));
                }
            }
        }
    }
}
