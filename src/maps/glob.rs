//! The patterns of `[REPLACE]`: Python's fnmatch, read into our own form; and which of many are to be tried on an image.
//!
//! Source: `fnmatch.translate` of CPython 3.11, which 1.5.3 runs on. `*` matches any text, `/`
//! included; `?` one character; `[seq]` and `[!seq]` one of a set; nothing else is special, and a
//! `[` that nothing closes is itself. Patterns meet valid references only, whose characters are
//! ASCII, so a set is a mask over ASCII and a pattern that asks for more can never match.

use hashbrown::HashMap;
use smallvec::SmallVec;

/// The most that a pattern can ask for: no reference is longer.
const MAX_TOKENS: usize = 4096;

/// By how many characters that a pattern asks for in a row it is found.
const WIDTHS: [usize; 4] = [8, 4, 2, 1];

/// Up to so many candidates for one image take microseconds.
const FEW: usize = 64;

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

/// Many patterns, and which of them an image can match: those that ask for characters that are in it. What is kept does
/// not grow with the images.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    /// For each width, by the characters: the patterns that are found by them, in order.
    asking: [HashMap<u64, Candidates>; WIDTHS.len()],
    /// What of an image may be asked for at all.
    filter: Filter,
    /// Those that ask for no character, but for wildcards: tried on each image.
    open: Candidates,
    len: usize,
}

/// A bit for all characters that have one hash: most of what an image says nobody asks for.
#[derive(Debug, Default)]
struct Filter {
    words: Vec<u64>,
    shift: u32,
}

/// Patterns by their numbers, in order.
type Candidates = SmallVec<[usize; 2]>;

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
            // `**` says no more than `*`.
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

    fn set(&self, number: u16) -> u128 {
        self.sets
            .get(usize::from(number))
            .copied()
            .unwrap_or_default()
    }

    /// Whether it matches all of a text: each star the shortest that leads on, for a longer one leads nowhere else.
    pub(super) fn matches(&self, text: &[u8]) -> bool {
        let (mut tokens, mut rest) = (self.tokens.as_slice(), text);
        // What stands behind the last star, and what of the text that began with.
        let mut last_star: Option<(&[Token], &[u8])> = None;
        loop {
            match (tokens.split_first(), rest.split_first()) {
                (Some((Token::Star, [])), _) | (None, None) => return true,
                (Some((Token::Star, behind)), _) => {
                    last_star = Some((behind, rest));
                    tokens = behind;
                }
                (Some((token, behind)), Some((b, after))) if self.takes(*token, *b) => {
                    (tokens, rest) = (behind, after);
                }
                _ => {
                    let Some((behind, [_, shorter @ ..])) = last_star else {
                        return false;
                    };
                    last_star = Some((behind, shorter));
                    (tokens, rest) = (behind, shorter);
                }
            }
        }
    }

    /// Whether one character is what this asks for. A star asks for none.
    fn takes(&self, token: Token, b: u8) -> bool {
        match token {
            Token::Literal(literal) => literal == b,
            Token::Set(number) => b.is_ascii() && self.set(number) & bit(b) != 0,
            Token::Any => true,
            Token::Star => false,
        }
    }

    /// All places where it asks for as many characters in a row as it does at most, of [`WIDTHS`]: the number of that
    /// width, and each of those places' characters. Nothing of a pattern of wildcards.
    fn asks(&self) -> (usize, impl Iterator<Item = u64>) {
        let is_literal = |token: &Token| matches!(token, Token::Literal(_));
        let runs = self
            .tokens
            .chunk_by(move |a, b| is_literal(a) && is_literal(b));
        let runs = runs.filter(move |run| run.first().is_some_and(is_literal));
        let longest = runs.clone().map(<[Token]>::len).max().unwrap_or_default();
        let number = WIDTHS.iter().position(|width| *width <= longest);
        let number = number.unwrap_or(WIDTHS.len());
        let width = WIDTHS.get(number).copied().unwrap_or(usize::MAX);
        let places = runs.flat_map(move |run| run.windows(width));
        let characters = places.map(|place| {
            place.iter().fold(0, |characters, token| match token {
                Token::Literal(b) => characters << 8 | u64::from(*b),
                _ => characters,
            })
        });
        (number, characters)
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
                token if self.takes(*token, b) => i + 1,
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
        // Beyond ASCII there is nothing to be found.
        let ascii = |c: char| u8::try_from(c).map_or(128, |b| b.min(128));
        let to = ascii(to.unwrap_or(from)).min(127);
        for b in ascii(from)..=to {
            mask |= bit(b);
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

// === impl Patterns ===

impl Patterns {
    /// Finds each by what the fewest of the others ask for, too.
    pub(super) fn of<'p>(patterns: impl Iterator<Item = &'p Pattern> + Clone) -> Self {
        // Roughly: some share a counter by chance.
        let mut asked = vec![0_u32; 1 << 16];
        for characters in patterns.clone().flat_map(|pattern| pattern.asks().1) {
            if let Some(count) = asked.get_mut(counter(characters)) {
                *count = count.saturating_add(1);
            }
        }
        let mut all = Self {
            filter: Filter::of(patterns.clone().count()),
            ..Self::default()
        };
        for (index, pattern) in patterns.enumerate() {
            let (number, places) = pattern.asks();
            let rarest = places.min_by_key(|characters| asked.get(counter(*characters)));
            let candidates = match (rarest, all.asking.get_mut(number)) {
                (Some(characters), Some(asking)) => {
                    all.filter.add(characters);
                    asking.entry(characters).or_default()
                }
                _ => &mut all.open,
            };
            candidates.push(index);
            all.len += 1;
        }
        all
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether few are tried on any image that is not made to match many.
    pub(super) fn are_quick(&self) -> bool {
        let longest = self.asking.iter().flat_map(HashMap::values);
        let longest = longest.map(|candidates| candidates.len()).max();
        self.open.len() + longest.unwrap_or_default() <= FEW
    }

    /// The first pattern, in the order they were given, that matches. `pattern` hands out each by its number.
    pub(super) fn first_match<'p>(
        &self,
        image: &str,
        pattern: impl Fn(usize) -> Option<&'p Pattern>,
    ) -> Option<usize> {
        if self.len == 0 {
            return None;
        }
        let mut first = None;
        for candidates in self.candidates(image) {
            for index in candidates.iter().copied() {
                if first.is_some_and(|first| first < index) {
                    break;
                }
                if pattern(index).is_some_and(|pattern| pattern.matches(image.as_bytes())) {
                    first = Some(index);
                    break;
                }
            }
        }
        first
    }

    /// How many are tried on an image at most.
    pub(super) fn tried_on(&self, image: &str) -> usize {
        let candidates = self.candidates(image);
        candidates.into_iter().map(|all| all.len()).sum()
    }

    /// Those that can match, each pattern once.
    fn candidates(&self, image: &str) -> SmallVec<[&Candidates; 8]> {
        let mut found: SmallVec<[&Candidates; 8]> = SmallVec::new();
        if !self.open.is_empty() {
            found.push(&self.open);
        }
        for (width, asking) in WIDTHS.iter().zip(&self.asking) {
            if asking.is_empty() {
                continue;
            }
            let mask = u64::MAX >> (64 - 8 * width);
            let mut characters = 0;
            // Fewer than the width have a zero in front, which no reference has.
            for b in image.bytes() {
                characters = characters << 8 | u64::from(b);
                let last = characters & mask;
                if self.filter.may_have(last) {
                    found.extend(asking.get(&last));
                }
            }
        }
        // What an image says twice finds the same.
        found.sort_unstable_by_key(|candidates| candidates.first());
        found.dedup_by_key(|candidates| candidates.first());
        found
    }
}

impl Filter {
    /// For so many, of which eight bits for each keep most others away.
    fn of(len: usize) -> Self {
        let bits = (8 * len).next_power_of_two().clamp(1 << 10, 1 << 20);
        Self {
            words: vec![0; bits / 64],
            shift: u64::BITS - bits.ilog2(),
        }
    }

    fn add(&mut self, characters: u64) {
        let at = spread(characters, self.shift);
        if let Some(word) = self.words.get_mut(at / 64) {
            *word |= 1 << (at % 64);
        }
    }

    fn may_have(&self, characters: u64) -> bool {
        let at = spread(characters, self.shift);
        let word = self.words.get(at / 64);
        word.is_some_and(|word| word >> (at % 64) & 1 == 1)
    }
}

/// Where these characters are counted.
fn counter(characters: u64) -> usize {
    spread(characters, 48)
}

/// The highest bits of a hash, less `shift`: Fibonacci hashing, whose highest bits depend on all characters.
fn spread(characters: u64, shift: u32) -> usize {
    let hash = characters.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift;
    usize::try_from(hash).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Built<'p>(&'p [Pattern], Patterns);

    impl Built<'_> {
        fn first_match(&self, image: &str) -> Option<usize> {
            self.1.first_match(image, |index| self.0.get(index))
        }
    }

    fn build(patterns: &[Pattern]) -> Built<'_> {
        Built(patterns, Patterns::of(patterns.iter()))
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
    fn of_a_thousand_the_first_match_wins_and_few_are_tried() {
        let patterns: Vec<_> = (0..1000)
            .map(|n| Pattern::parse(&format!("*/app{n}:*")).unwrap())
            .chain(Pattern::parse("*"))
            .collect();
        let patterns = build(&patterns);
        for n in [0, 63, 64, 500, 999] {
            assert_eq!(patterns.first_match(&format!("a.io/app{n}:1")), Some(n));
        }
        assert_eq!(patterns.first_match("a.io/other:1"), Some(1000));
        // The last, and those with 1, 12 and 123.
        assert!(patterns.1.tried_on("a.io/app123:1") <= 4);
        assert!(patterns.1.are_quick());
    }

    /// Where all ask for the same, all are tried, but each once.
    #[test]
    fn a_pattern_is_tried_once_however_often_an_image_says_what_it_asks_for() {
        let patterns: Vec<_> = (1..=100)
            .map(|n| Pattern::parse(&format!("*ab{}:x", "?".repeat(n))).unwrap())
            .collect();
        let patterns = build(&patterns);
        assert_eq!(patterns.1.tried_on(&"ab".repeat(1_000)), 100);
        assert!(!patterns.1.are_quick());
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
        /// Only those are tried that can match.
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
        fn what_matches_is_what_the_oracle_says(
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
