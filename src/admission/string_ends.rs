//! Where each string in a text of JSON ends, found 64 bytes at a time before anything is read; and whether
//! the strings hold nothing that JSON does not take in one: bad escapes, control characters.
//!
//! A review is some hundred short strings. To look for each one's end by itself costs more than to find
//! all ends at once.

use std::ops::Range;

use smallvec::SmallVec;
use wide::u8x16;

/// A text, and where its strings end: as far as it is JSON. Where a quote stands that JSON does not take,
/// the text is no JSON from there on, and who reads it from its start gets no further.
#[derive(Debug)]
pub struct Marked<'a> {
    text: &'a str,
    /// A bit for each byte, set where it closes a string; enough for a usual review without the heap.
    /// None at all if a string holds what it must not.
    ends: SmallVec<[u64; 128]>,
    /// From the first backslash to behind the last: what is wanted of a Pod mostly stands behind them.
    escapes: Range<usize>,
}

/// Goes from the end of each string to that of the next: who reads a text from its start meets them all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    /// The word it is in.
    word: usize,
    /// What is left of it.
    bits: u64,
}

impl<'a> Marked<'a> {
    /// Finds the ends.
    pub fn of(text: &'a str) -> Self {
        let bytes = text.as_bytes();
        let (blocks, rest) = bytes.as_chunks::<64>();
        let mut last = [b' '; 64];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        let mut ends = SmallVec::with_capacity(blocks.len() + 1);
        let mut finder = Finder::default();
        ends.extend(blocks.iter().enumerate().map(|(index, block)| {
            let place = Place {
                text: bytes,
                at: index * 64,
            };
            finder.ends(place, block)
        }));
        let at = blocks.len() * 64;
        ends.push(finder.ends(Place { text: bytes, at }, &last));
        if finder.is_bad {
            ends.clear();
        }
        Self {
            text,
            ends,
            escapes: finder.escapes,
        }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    pub(super) fn ends(&self) -> &[u64] {
        &self.ends
    }

    /// Where backslashes stand, and much else.
    pub(super) fn escapes(&self) -> Range<usize> {
        self.escapes.clone()
    }

    /// Before the first end.
    pub(super) fn start(&self) -> Cursor {
        Cursor {
            word: 0,
            bits: self.ends.first().copied().unwrap_or_default(),
        }
    }
}

impl Cursor {
    /// Where the next end is, and behind it.
    #[inline(always)]
    pub(super) fn next(&mut self, ends: &[u64]) -> Option<usize> {
        while self.bits == 0 {
            self.word += 1;
            self.bits = *ends.get(self.word)?;
        }
        let at = self.word * 64 + self.bits.trailing_zeros() as usize;
        self.bits &= self.bits - 1;
        Some(at)
    }
}

/// Where a block of 64 bytes stands in its text.
#[derive(Debug, Clone, Copy)]
struct Place<'t> {
    text: &'t [u8],
    at: usize,
}

/// What is known at the start of a block.
#[derive(Debug, Default)]
struct Finder {
    /// All ones if it starts within a string.
    inside: u64,
    /// Its first byte follows a backslash that counts.
    is_escaped: bool,
    escapes: Range<usize>,
    is_bad: bool,
}

impl Finder {
    /// Which bytes of a block close a string.
    #[inline(always)]
    fn ends(&mut self, place: Place<'_>, block: &[u8; 64]) -> u64 {
        let [one, two, three, four] = parts(block);
        // Most blocks have neither: a control character is less than all others, wherever it stands.
        let least = one.min(two).min(three.min(four));
        let backslash = |part| is(part, b'\\');
        let odd = (backslash(one) | backslash(two))
            | (backslash(three) | backslash(four))
            | is_control(least);
        let mut quotes = bits([one, two, three, four].map(|part| is(part, b'"')));
        if odd.to_bitmask() != 0 || self.is_escaped {
            quotes = self.odd_quotes(place, block, quotes);
        }
        let inside = self.inside ^ parity(quotes);
        self.inside = spread(inside);
        quotes & !inside
    }

    /// Which of a block's quotes open or close a string, where backslashes and control characters are
    /// among them.
    #[cold]
    #[inline(never)]
    fn odd_quotes(&mut self, place: Place<'_>, block: &[u8; 64], quotes: u64) -> u64 {
        let backslashes = bits(parts(block).map(|part| is(part, b'\\')));
        let quotes = quotes & !self.escaped(place, backslashes);
        let inside = self.inside ^ parity(quotes);
        // Outside of strings whoever reads sees for himself.
        self.is_bad |= bits(parts(block).map(is_control)) & inside != 0;
        quotes
    }

    /// Which bytes of a block are part of an escape. A backslash outside of strings may count as one:
    /// nobody reads beyond it.
    #[inline(always)]
    fn escaped(&mut self, Place { text, at }: Place<'_>, mut backslashes: u64) -> u64 {
        let mut escaped = u64::from(self.is_escaped);
        backslashes &= !escaped;
        self.is_escaped = false;
        while backslashes != 0 {
            let bit = backslashes.trailing_zeros();
            let both = 0b11 << bit;
            let at = at + bit as usize;
            if self.escapes.is_empty() {
                self.escapes.start = at;
            }
            self.escapes.end = at + 1;
            self.is_escaped = bit == 63;
            self.is_bad |= !is_escape(text, at + 1);
            escaped |= both;
            backslashes &= !both;
        }
        escaped
    }
}

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
    let (blocks, rest) = text.as_bytes().as_chunks::<16>();
    let is_not = |b: &u8| matches!(b, b'"' | b'\\' | 0..0x20);
    let is_plain = |block: &[u8; 16]| {
        let block = u8x16::new(*block);
        (is(block, b'"') | is(block, b'\\') | is_control(block)).to_bitmask() == 0
    };
    blocks.iter().all(is_plain) && !rest.iter().any(is_not)
}

#[inline(always)]
fn is(bytes: u8x16, byte: u8) -> u8x16 {
    bytes.simd_eq(u8x16::splat(byte))
}

#[inline(always)]
fn is_control(bytes: u8x16) -> u8x16 {
    bytes.min(u8x16::splat(0x1f)).simd_eq(bytes)
}

#[inline(always)]
fn parts(block: &[u8; 64]) -> [u8x16; 4] {
    let (parts, _) = block.as_chunks::<16>();
    let part = |index: usize| parts.get(index).copied().unwrap_or_default();
    [0, 1, 2, 3].map(|index| u8x16::new(part(index)))
}

/// A bit for each of the 64 bytes of four parts.
#[inline(always)]
fn bits(parts: [u8x16; 4]) -> u64 {
    let [one, two, three, four] = parts.map(|part| u64::from(part.to_bitmask()));
    (one | two << 16) | (three << 32 | four << 48)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(text: &str) -> Vec<usize> {
        let marked = Marked::of(text);
        let mut cursor = marked.start();
        std::iter::from_fn(|| cursor.next(marked.ends())).collect()
    }

    /// Byte by byte; `None` if a string holds what it must not.
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
                0..0x20 if is_inside => return None,
                _ => {}
            }
        }
        Some(ends)
    }

    #[test]
    fn each_string_ends_where_it_does_wherever_it_stands() {
        let middles = [
            "", "x", "\u{e9}", "\n", "\\n", "\\x", "\\", "\\\\", "\\\\\\", "\\\"", "\\\\\"",
            "\\u00e9", "\\u00g9", "\\u00", "\"", "\":\"", "\u{1f}",
        ];
        let mut bad = 0;
        for place in 0..140 {
            for middle in middles {
                for tail in ["\"", "\",", "", "\":{},\"a\":\"b\\\"\"}"] {
                    let text = format!("\"{}{middle}{tail}", "p".repeat(place));
                    let expected = expected(&text);
                    bad += usize::from(expected.is_none());
                    assert_eq!(ends(&text), expected.unwrap_or_default(), "{text:?}");
                }
            }
        }
        assert!(bad > 1000, "{bad}");
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
        for length in [1, 15, 16, 17, 63, 64, 65] {
            for place in 0..length {
                for byte in 0..0x80_u8 {
                    let mut text = vec![b'x'; length];
                    if let Some(at) = text.get_mut(place) {
                        *at = byte;
                    }
                    let needs = byte == b'"' || byte == b'\\' || byte < 0x20;
                    let text = String::from_utf8(text).unwrap_or_default();
                    assert_eq!(is_plain(&text), !needs, "{byte} at {place}");
                }
            }
        }
    }
}
