//! Where each string in a text of JSON ends, found 64 bytes at a time before anything is read; and whether
//! the strings hold nothing that JSON does not take in one: bad escapes, control characters.
//!
//! A review is some hundred short strings. To look for each one's end by itself costs more than to find
//! all ends at once.

use std::ops::Range;

use fearless_simd::prelude::*;
use fearless_simd::{Level, dispatch, u8x16, u8x64};
use smallvec::SmallVec;

/// A text, and where its strings end: as far as it is JSON. Where a quote stands that JSON does not take,
/// the text is no JSON from there on, and who reads it from its start gets no further.
#[derive(Debug)]
pub struct Marked<'a> {
    text: &'a str,
    /// A bit for each byte, set where it closes a string; enough for a usual review without the heap.
    /// None at all if a string holds what it must not, or if there is a control character outside of them
    /// before the white space at the end.
    ends: SmallVec<[u64; 128]>,
    /// From the block of the first backslash that escapes something to behind that of the last. What is wanted of a Pod
    /// mostly stands behind them.
    escapes: Range<usize>,
}

/// Goes from the end of each string to that of the next: who reads a text from its start meets them all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    /// Where the 64 bytes start that it is in.
    block: usize,
    /// The ends that are left in them.
    bits: u64,
}

impl<'a> Marked<'a> {
    /// Finds the ends.
    pub fn of(text: &'a str) -> Self {
        Self::at(Level::new(), text)
    }

    /// With vectors of one kind: the widest that the processor has, but for tests.
    fn at(level: Level, text: &'a str) -> Self {
        dispatch!(level, simd => Self::by(simd, text))
    }

    #[inline(always)]
    fn by<S: Simd>(simd: S, text: &'a str) -> Self {
        let bytes = text.trim_end_matches([' ', '\n', '\r', '\t']).as_bytes();
        let (blocks, rest) = bytes.as_chunks::<64>();
        let mut last = [b' '; 64];
        if let Some(start) = last.get_mut(..rest.len()) {
            start.copy_from_slice(rest);
        }
        let mut marked = Self {
            text,
            ends: SmallVec::new(),
            escapes: 0..0,
        };
        marked.ends.resize(blocks.len() + 1, 0);
        let mut finder = Finder::default();
        let mut escapes = Escapes::of(bytes);
        // In each place the lowest byte of all blocks.
        let last: u8x64<S> = last.simd_into(simd);
        let mut lowest = last;
        // Loops: a closure would be compiled for any processor, and called.
        let mut at = 0;
        for (ends, block) in marked.ends.iter_mut().zip(blocks) {
            let block: u8x64<S> = (*block).simd_into(simd);
            lowest = lowest.min(block);
            *ends = finder.ends(simd, Block::of(block), at, &mut escapes);
            at += 64;
        }
        if let Some(ends) = marked.ends.last_mut() {
            *ends = finder.ends(simd, Block::of(last), at, &mut escapes);
        }
        if escapes.is_bad || lowest.simd_lt(b' ').any_true() {
            marked.ends.clear();
        }
        marked.escapes = escapes.range;
        marked
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    pub(super) fn ends(&self) -> &[u64] {
        &self.ends
    }

    /// Of each string that holds backslashes the first is in this range: it escapes what follows. Much else
    /// is, too.
    pub(super) fn escapes(&self) -> Range<usize> {
        self.escapes.clone()
    }

    /// Before the first end.
    pub(super) fn start(&self) -> Cursor {
        Cursor {
            block: 0,
            bits: self.ends.first().copied().unwrap_or_default(),
        }
    }
}

impl Cursor {
    /// Where the next end is, and behind it.
    #[inline(always)]
    pub(super) fn next(&mut self, ends: &[u64]) -> Option<usize> {
        if self.bits == 0 {
            self.enter_next(ends)?;
        }
        let at = self.block + self.bits.trailing_zeros() as usize;
        self.bits &= self.bits - 1;
        Some(at)
    }

    /// Goes to the next block in which a string ends. Most strings end in the same block as the one before.
    #[inline(always)]
    fn enter_next(&mut self, ends: &[u64]) -> Option<()> {
        loop {
            std::hint::cold_path();
            self.block += 64;
            self.bits = *ends.get(self.block / 64)?;
            if self.bits != 0 {
                return Some(());
            }
        }
    }
}

/// What is looked for in 64 bytes: a bit for each of them, the first lowest.
#[derive(Debug, Clone, Copy)]
struct Block {
    quotes: u64,
    backslashes: u64,
}

impl Block {
    #[inline(always)]
    fn of<S: Simd>(bytes: u8x64<S>) -> Self {
        Self {
            quotes: bytes.simd_eq(b'"').to_bitmask(),
            backslashes: bytes.simd_eq(b'\\').to_bitmask(),
        }
    }
}

/// What is known at the start of a block.
#[derive(Debug, Default)]
struct Finder {
    /// All ones if it starts within a string.
    inside: u64,
    /// 1 if its first byte follows a backslash that counts.
    escaped: u64,
}

impl Finder {
    /// Which bytes close a string, of the block that starts at `at`.
    #[inline(always)]
    fn ends<S: Simd>(
        &mut self,
        simd: S,
        block: Block,
        at: usize,
        escapes: &mut Escapes<'_>,
    ) -> u64 {
        let mut quotes = block.quotes;
        if block.backslashes | self.escaped != 0 {
            let bytes = block.backslashes << 1 | self.escaped;
            let escaped = if bytes & !block.quotes == 0 {
                // Quotes are escaped and nothing else, so no backslash is, and each counts.
                escapes.see(at);
                let next = block.backslashes >> 63;
                Escaped { bytes, next }
            } else {
                escapes.take(block.backslashes, block.quotes, self.escaped, at)
            };
            self.escaped = escaped.next;
            quotes &= !escaped.bytes;
        }
        #[cfg(target_arch = "x86_64")]
        if let Level::Avx512(avx512) = simd.level() {
            let ends = deposit(avx512, EVERY_SECOND ^ self.inside, quotes);
            self.inside ^= (u64::from(quotes.count_ones()) & 1).wrapping_neg();
            return ends;
        }
        let _ = simd;
        let inside = self.inside ^ parity(quotes);
        self.inside = spread(inside);
        quotes & !inside
    }
}

/// What of a block is escaped.
#[derive(Debug, Clone, Copy)]
struct Escaped {
    bytes: u64,
    /// 1 if the first byte of the next block is.
    next: u64,
}

/// The escapes of a text. One outside of strings may count: nobody reads beyond it.
#[derive(Debug)]
struct Escapes<'t> {
    text: &'t [u8],
    /// From the block of the first to behind that of the last.
    range: Range<usize>,
    is_bad: bool,
}

impl<'t> Escapes<'t> {
    const fn of(text: &'t [u8]) -> Self {
        Self {
            text,
            range: 0..0,
            is_bad: false,
        }
    }

    /// There are some in the block that starts at `at`.
    #[inline(always)]
    fn see(&mut self, at: usize) {
        if self.range.is_empty() {
            self.range.start = at;
        }
        self.range.end = at + 64;
    }

    /// Those of the block that starts at `at`; `first` is 1 if its first byte is escaped. A [`Block`] would
    /// come by way of memory.
    #[inline(never)]
    fn take(&mut self, backslashes: u64, quotes: u64, first: u64, at: usize) -> Escaped {
        let escapes = counting(backslashes & !first);
        let bytes = escapes << 1 | first;
        // Quotes and backslashes are what is escaped most.
        let mut others = bytes & !quotes & !backslashes;
        while others != 0 {
            self.is_bad |= !is_escape(self.text, at + others.trailing_zeros() as usize);
            others &= others - 1;
        }
        self.see(at);
        let next = escapes >> 63;
        Escaped { bytes, next }
    }
}

/// Of the backslashes that follow each other every second one: the others are what it escapes.
const fn counting(backslashes: u64) -> u64 {
    let mut counting = backslashes;
    // The first of each run counts, so the next does not, and so on.
    let mut left = backslashes & backslashes << 1;
    while left != 0 {
        let escaped = left & left.wrapping_neg();
        counting &= !escaped;
        left &= !escaped & !(escaped << 1);
    }
    counting
}

/// Of all bits every second one from the second on: the quotes that close, where the first one opens.
#[cfg(any(target_arch = "x86_64", test))]
const EVERY_SECOND: u64 = 0xaaaa_aaaa_aaaa_aaaa;

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel!(
    /// Puts the lowest of the bits, one after the other, where `places` has ones. One instruction, for which some
    /// processors with AVX2 and no AVX-512 (AMD's before Zen 3) take hundreds of cycles.
    #[inline(always)]
    fn deposit(avx512: Avx512, bits: u64, places: u64) -> u64 {
        std::arch::x86_64::_pdep_u64(bits, places)
    }
);

/// For each bit whether an odd number of those up to it are set: from each opening quote up to the byte
/// before the closing one.
const fn parity(mut bits: u64) -> u64 {
    let mut step = 1;
    while step < 64 {
        bits ^= bits << step;
        step *= 2;
    }
    bits
}

/// The highest bit in all places.
const fn spread(bits: u64) -> u64 {
    (bits >> 63).wrapping_neg()
}

/// Whether this may stand behind a backslash. As with `serde_json`, half of a surrogate pair passes where
/// nobody reads it.
fn is_escape(text: &[u8], at: usize) -> bool {
    match text.get(at) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => true,
        Some(b'u') => {
            let digits = text.get(at + 1..at + 5);
            digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        }
        _ => false,
    }
}

/// Whether a text stands in a string of JSON as it is.
pub(super) fn is_plain(text: &str) -> bool {
    // Most texts are so short that wider vectors gain nothing.
    dispatch!(Level::baseline(), simd => is_plain_by(simd, text.as_bytes()))
}

#[inline(always)]
fn is_plain_by<S: Simd>(simd: S, text: &[u8]) -> bool {
    let is_plain = |bytes: &[u8; 16]| {
        let bytes: u8x16<S> = (*bytes).simd_into(simd);
        let odd = bytes.simd_eq(b'"') | bytes.simd_eq(b'\\') | bytes.simd_lt(b' ');
        !odd.any_true()
    };
    let (blocks, _) = text.as_chunks();
    match text.last_chunk() {
        // What is left behind the blocks is looked at with some of what is before it.
        Some(last) => blocks.iter().all(is_plain) && is_plain(last),
        None => !text.iter().any(|b| matches!(b, b'"' | b'\\' | 0..0x20)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// All kinds of vectors that this processor has.
    pub(in super::super) fn levels() -> Vec<Level> {
        let widest = Level::new();
        let all = [Some(widest), Some(Level::baseline())];
        #[cfg(target_arch = "x86_64")]
        let all = all.into_iter().chain([
            widest.as_avx2().map(Level::Avx2),
            widest.as_sse4_2().map(Level::Sse4_2),
        ]);
        all.into_iter().flatten().collect()
    }

    fn ends(text: &str) -> Vec<usize> {
        let all = levels().into_iter().map(|level| {
            let marked = Marked::at(level, text);
            let mut cursor = marked.start();
            let ends = std::iter::from_fn(|| cursor.next(marked.ends()));
            let ends: Vec<_> = ends.collect();
            // Up to the last string that ends, all are read.
            let read = text.get(..ends.last().map_or(0, |last| last + 1));
            if let Some(first) = read.and_then(|read| read.find('\\')) {
                assert!(marked.escapes().contains(&first), "{text:?}: {marked:?}");
            }
            ends
        });
        let mut all: Vec<Vec<usize>> = all.collect();
        all.dedup();
        assert_eq!(all.len(), 1, "{text:?}: {all:?}");
        all.pop().unwrap_or_default()
    }

    /// Byte by byte; `None` if there is a control character, or a string holds what else it must not.
    fn expected(text: &str) -> Option<Vec<usize>> {
        let mut ends = Vec::new();
        let (mut is_inside, mut bytes) = (false, text.bytes().enumerate());
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => {
                    if is_inside {
                        ends.push(at);
                    }
                    is_inside = !is_inside;
                }
                b'\\' => match bytes.next()?.1 {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        let digits = text.as_bytes().get(at + 2..at + 6)?;
                        digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                    }
                    _ => return None,
                },
                0..0x20 => return None,
                _ => {}
            }
        }
        Some(ends)
    }

    #[test]
    fn each_string_ends_where_it_does_wherever_it_stands() {
        let middles = [
            "",
            "x",
            "\u{e9}",
            "\n",
            "\\n",
            "\\x",
            "\\",
            "\\\\",
            "\\\\\\",
            "\\\"",
            "\\\\\"",
            "\\u00e9",
            "\\u00g9",
            "\\u00",
            "\"",
            "\":\"",
            "\u{1f}",
            "\\\\\\\"\\\\",
            "\\n\\\"\\t\\\\x\\\\\\u0041",
        ];
        let mut bad = 0;
        for place in 0..140 {
            for middle in middles {
                for tail in ["\"", "\",", "", "\" \n", "\":{},\"a\":\"b\\\"\"}"] {
                    let text = format!("\"{}{middle}{tail}", "p".repeat(place));
                    let expected = expected(text.trim_end());
                    bad += usize::from(expected.is_none());
                    assert_eq!(ends(&text), expected.unwrap_or_default(), "{text:?}");
                }
            }
        }
        assert!(bad > 1000, "{bad}");
    }

    /// What AVX-512 does is seen to be right on each machine.
    #[test]
    fn every_second_quote_closes() {
        let deposit = |mut bits: u64, places: u64| {
            let mut deposited = 0;
            for place in (0..64)
                .map(|place| 1 << place)
                .filter(|place| places & place != 0)
            {
                deposited |= place * (bits & 1);
                bits >>= 1;
            }
            deposited
        };
        let mut quotes = 1_u64;
        for _ in 0..10_000 {
            // Any bits, by Knuth's multiplier: half of them set, and an eighth.
            quotes = quotes
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            for quotes in [
                quotes,
                quotes & quotes.rotate_left(17) & quotes.rotate_left(31),
            ] {
                for inside in [0, u64::MAX] {
                    let expected = quotes & !(inside ^ parity(quotes));
                    let second = EVERY_SECOND ^ inside;
                    assert_eq!(deposit(second, quotes), expected, "{quotes:b}");
                    #[cfg(target_arch = "x86_64")]
                    if let Some(avx512) = Level::new().as_avx512() {
                        assert_eq!(super::deposit(avx512, second, quotes), expected);
                    }
                }
            }
        }
    }

    #[test]
    fn of_backslashes_in_a_row_every_second_one_counts() {
        for place in 0..70 {
            for count in 0..140 {
                let text = format!("\"{}{}\",\"\"", "p".repeat(place), "\\".repeat(count));
                assert_eq!(ends(&text), expected(&text).unwrap_or_default(), "{text}");
            }
        }
    }

    #[test]
    fn all_are_met_in_turn_and_none_behind_the_end() {
        for count in [0, 1, 63, 64, 65, 200] {
            let odd = (0..count).filter(|at| at % 2 == 1);
            assert_eq!(ends(&"\"".repeat(count)), odd.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_text_is_plain_if_no_byte_of_it_needs_an_escape() {
        assert!(is_plain(""));
        for length in [1, 15, 16, 17, 63, 64, 65] {
            for place in 0..length {
                for c in ('\0'..='\u{ff}').chain(['\u{20ac}', '\u{10ffff}']) {
                    let rest = length - place - 1;
                    let text = format!("{}{c}{}", "x".repeat(place), "x".repeat(rest));
                    let needs = c == '"' || c == '\\' || c < ' ';
                    assert_eq!(is_plain(&text), !needs, "{c:?} at {place}");
                }
            }
        }
    }
}
