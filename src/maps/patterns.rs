//! Which of many patterns are to be tried on an image: few, however many there are.
//!
//! Nearly every pattern names characters: `*/app7:*` matches only what has `/app7:` in it. Of these, up to eight in a row
//! are a needle. Each pattern is found by one of its needles, the one that the fewest others have, too; an image is read
//! once for each width of needles, and only those are its candidates whose needle it has. A filter keeps most characters
//! away from the tables, and what is made of wildcards alone is tried on each image. Whether a candidate matches,
//! [`Pattern::matches`] says.

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::effort::Effort;
use super::glob::Pattern;

/// How many characters a needle may have, the most first.
const WIDTHS: [usize; 4] = [8, 4, 2, 1];

/// Many patterns, and which of them an image can match. What is kept does not grow with the images.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    /// For each width, by the needle: the patterns that are found by it, in order.
    by_needle: [HashMap<u64, Candidates>; WIDTHS.len()],
    /// What of an image may be a needle at all.
    filter: Filter,
    /// Those that have no needle, but wildcards alone: tried on each image.
    open: Candidates,
    len: usize,
}

/// A bit for all characters that have one hash: most of what an image says is no needle.
#[derive(Debug, Default)]
struct Filter {
    words: Vec<u64>,
    shift: u32,
}

/// Patterns by their numbers, in order.
type Candidates = SmallVec<[usize; 2]>;

// === impl Patterns ===

impl Patterns {
    /// Finds each by that of its needles which the fewest others have.
    pub(super) fn of<'p>(patterns: impl Iterator<Item = &'p Pattern> + Clone) -> Self {
        // Roughly: some share a counter by chance.
        let mut counts = vec![0_u32; 1 << 16];
        for needle in patterns.clone().flat_map(|pattern| needles(pattern).1) {
            if let Some(count) = counts.get_mut(counter(needle)) {
                *count = count.saturating_add(1);
            }
        }
        let mut all = Self {
            filter: Filter::of(patterns.clone().count()),
            ..Self::default()
        };
        for (index, pattern) in patterns.enumerate() {
            let (number, needles) = needles(pattern);
            let rarest = needles.min_by_key(|needle| counts.get(counter(*needle)));
            let candidates = match (rarest, all.by_needle.get_mut(number)) {
                (Some(needle), Some(by_needle)) => {
                    all.filter.add(needle);
                    by_needle.entry(needle).or_default()
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

    /// The first pattern, in the order they were given, that matches. `pattern` hands out each by its number. What is
    /// found means nothing if the effort is spent.
    pub(super) fn first_match<'p>(
        &self,
        image: &str,
        pattern: impl Fn(usize) -> Option<&'p Pattern>,
        effort: &Effort<'_>,
    ) -> Option<usize> {
        // To find the candidates is work, too.
        let looks = (image.len() * WIDTHS.len()) as u64;
        if self.len == 0 || !effort.spend(looks) {
            return None;
        }
        let mut first = None;
        for candidates in self.candidates(image) {
            for index in candidates.iter().copied() {
                if first.is_some_and(|first| first < index) {
                    break;
                }
                let matches = |pattern: &Pattern| pattern.matches(image.as_bytes(), effort);
                if pattern(index).is_some_and(matches) {
                    first = Some(index);
                    break;
                }
                if effort.is_spent() {
                    return None;
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
        for (width, by_needle) in WIDTHS.iter().zip(&self.by_needle) {
            if by_needle.is_empty() {
                continue;
            }
            let mask = u64::MAX >> (64 - 8 * width);
            let mut characters = 0;
            // Fewer than the width have a zero in front, which no reference has.
            for b in image.bytes() {
                characters = characters << 8 | u64::from(b);
                let last = characters & mask;
                if self.filter.may_have(last) {
                    found.extend(by_needle.get(&last));
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

    fn add(&mut self, needle: u64) {
        let at = spread(needle, self.shift);
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

/// What it can be found by: all that it names of the largest of [`WIDTHS`] of which it names any, and the number of
/// that width. A pattern of wildcards has none.
fn needles(pattern: &Pattern) -> (usize, impl Iterator<Item = u64>) {
    let longest = pattern.longest_literal();
    let number = WIDTHS.iter().position(|width| *width <= longest);
    let number = number.unwrap_or(WIDTHS.len());
    let width = WIDTHS.get(number).copied().unwrap_or(usize::MAX);
    (number, pattern.literals(width))
}

/// Where a needle is counted.
fn counter(needle: u64) -> usize {
    spread(needle, 48)
}

/// The highest bits of a hash, less `shift`: Fibonacci hashing, whose highest bits depend on all characters.
fn spread(characters: u64, shift: u32) -> usize {
    let hash = characters.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift;
    usize::try_from(hash).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Built<'p>(&'p [Pattern], Patterns);

    impl Built<'_> {
        fn first_match(&self, image: &str) -> Option<usize> {
            self.first_match_within(image, &Effort::unbounded())
        }

        fn first_match_within(&self, image: &str, effort: &Effort<'_>) -> Option<usize> {
            self.1.first_match(image, |index| self.0.get(index), effort)
        }
    }

    fn build(patterns: &[Pattern]) -> Built<'_> {
        Built(patterns, Patterns::of(patterns.iter()))
    }

    fn parsed<'a>(patterns: impl IntoIterator<Item = &'a String>) -> Vec<Pattern> {
        let patterns = patterns.into_iter();
        patterns.filter_map(|text| Pattern::parse(text)).collect()
    }

    fn one_by_one(patterns: &[Pattern], image: &str) -> Option<usize> {
        let mut patterns = patterns.iter();
        patterns.position(|pattern| pattern.matches(image.as_bytes(), &Effort::unbounded()))
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
    }

    /// Where all have the same, all are tried, but each once.
    #[test]
    fn a_pattern_is_tried_once_however_often_an_image_has_its_needle() {
        let patterns: Vec<_> = (1..=100)
            .map(|n| Pattern::parse(&format!("*ab{}:x", "?".repeat(n))).unwrap())
            .collect();
        let patterns = build(&patterns);
        assert_eq!(patterns.1.tried_on(&"ab".repeat(1_000)), 100);
    }

    /// Whoever may create Pods writes the images.
    #[test]
    fn an_image_that_is_made_to_be_tried_often_spends_an_effort_and_usual_ones_hardly_any() {
        let of_team = |team| (0..50).map(move |app| format!("*/team-{team}/*-app{app}:*"));
        let patterns: Vec<_> = (100..110).flat_map(of_team).collect();
        let patterns = parsed(&patterns);
        let patterns = build(&patterns);
        let teams: String = (100..110).map(|team| format!("/team-{team}")).collect();
        let hostile = format!("a.io{teams}{}/x", "/-app".repeat(700));
        let effort = Effort::of(100_000);
        assert_eq!(patterns.first_match_within(&hostile, &effort), None);
        assert!(effort.is_spent());
        let effort = Effort::of(100_000);
        for _ in 0..25 {
            let found = patterns.first_match_within("a.io/team-107/web-app7:1.25", &effort);
            assert_eq!(found, Some(7 * 50 + 7));
        }
        assert!(!effort.is_spent());
    }

    proptest! {
        /// Only those are tried that can match.
        #[test]
        fn of_many_patterns_the_first_that_matches_is_found(
            patterns in proptest::collection::vec("[ab]{0,3}[ab*?]{0,3}", 1..400),
            long in "[ab]{30,34}",
            image in "[ab]{1,6}",
            steps in 0_u64..3_000,
        ) {
            let shorter = |cut| long.chars().take(long.len() - cut).collect::<String>();
            let longer = [0, 1, 3].map(|cut| shorter(cut) + "*");
            let patterns = parsed(patterns.iter().chain(&longer));
            let together = build(&patterns);
            for image in [image.clone(), long.clone(), format!("{long}{image}")] {
                let expected = one_by_one(&patterns, &image);
                prop_assert_eq!(together.first_match(&image), expected);
                let effort = Effort::of(steps);
                let found = together.first_match_within(&image, &effort);
                prop_assert!(effort.is_spent() || found == expected);
            }
        }

        #[test]
        fn of_patterns_with_all_there_is_the_first_that_matches_is_found(
            patterns in proptest::collection::vec("[ab./:*?\\[\\]!^{},-]{0,7}", 1..5),
            image in "[ab./:-]{0,7}",
        ) {
            let patterns = parsed(&patterns);
            let first = build(&patterns).first_match(&image);
            prop_assert_eq!(first, one_by_one(&patterns, &image));
        }
    }
}
