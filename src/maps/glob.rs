//! A pattern of `[REPLACE]`: Python's fnmatch, read into our own form.
//!
//! Source: `fnmatch.translate` of CPython 3.11, which 1.5.3 runs on. `*` matches any text, `/`
//! included; `?` one character; `[seq]` and `[!seq]` one of a set; nothing else is special, and a
//! `[` that nothing closes is itself. Patterns meet valid references only, whose characters are
//! ASCII, so a set is a mask over ASCII and a pattern that asks for more can never match.

use super::effort::Effort;

/// The most that a pattern can ask for: no reference is longer.
const MAX_TOKENS: usize = 4096;

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

    /// Whether it matches all of a text: each star the shortest that leads on, for a longer one leads nowhere else. Not
    /// if the effort is spent.
    pub(super) fn matches(&self, text: &[u8], effort: &Effort<'_>) -> bool {
        let (mut tokens, mut rest) = (self.tokens.as_slice(), text);
        let mut steps = 1;
        // What stands behind the last star, and what of the text that began with.
        let mut last_star: Option<(&[Token], &[u8])> = None;
        loop {
            match (tokens.split_first(), rest.split_first()) {
                (Some((Token::Star, [])), _) | (None, None) => return effort.spend(steps),
                (Some((Token::Star, behind)), _) => {
                    last_star = Some((behind, rest));
                    tokens = behind;
                }
                (Some((token, behind)), Some((b, after))) if self.takes(*token, *b) => {
                    (tokens, rest) = (behind, after);
                    steps += 1;
                }
                _ => {
                    // From here on it may be as many again, as often as the text is long.
                    if !effort.spend(std::mem::replace(&mut steps, 1)) {
                        return false;
                    }
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

    /// How many characters in a row it names at most; 0 if it is made of wildcards.
    pub(super) fn longest_literal(&self) -> usize {
        let runs = self.literal_runs().map(<[Token]>::len);
        runs.max().unwrap_or_default()
    }

    /// All that it names of so many characters in a row, eight at most, each as one number: what matches has them all.
    pub(super) fn literals(&self, width: usize) -> impl Iterator<Item = u64> {
        let places = self.literal_runs().flat_map(move |run| run.windows(width));
        places.map(|place| {
            place.iter().fold(0, |characters, token| match token {
                Token::Literal(b) => characters << 8 | u64::from(*b),
                _ => characters,
            })
        })
    }

    fn literal_runs(&self) -> impl Iterator<Item = &[Token]> {
        let is_literal = |token: &Token| matches!(token, Token::Literal(_));
        let runs = self
            .tokens
            .chunk_by(move |a, b| is_literal(a) && is_literal(b));
        runs.filter(move |run| run.first().is_some_and(is_literal))
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, image: &str) -> bool {
        let text = image.as_bytes();
        Pattern::parse(pattern).is_some_and(|it| it.matches(text, &Effort::unbounded()))
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
        #[test]
        fn what_matches_is_what_the_oracle_says(
            patterns in proptest::collection::vec("[ab./:*?\\[\\]!^{},-]{0,7}", 1..5),
            image in "[ab./:-]{0,7}",
        ) {
            let text: Vec<char> = image.chars().collect();
            for pattern in patterns.iter().filter(|text| Pattern::parse(text).is_some()) {
                let asked: Vec<char> = pattern.chars().collect();
                prop_assert_eq!(matches(pattern, &image), oracle(&asked, &text), "{}", pattern);
            }
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
