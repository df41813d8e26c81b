//! Where in a text of JSON a string can end, or is not as plain as it looks: its quotes, backslashes and
//! control characters, found 64 bytes at a time before anything is read.
//!
//! A review is some hundred short strings. To look for each one's end by itself costs more than to mark
//! all ends at once.

use smallvec::SmallVec;
use wide::u8x16;

/// The marks of a text.
#[derive(Debug)]
pub(super) struct Marks(
    /// A bit for each byte; enough for a usual review without the heap.
    SmallVec<[u64; 128]>,
);

/// Goes from each mark to the next: who reads a text from its start meets them all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    /// The word it is in.
    word: usize,
    /// What is left of it.
    bits: u64,
}

impl Marks {
    pub(super) fn of(text: &[u8]) -> Self {
        let (blocks, rest) = text.as_chunks::<64>();
        let mut last = [b' '; 64];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        let mut words = SmallVec::with_capacity(blocks.len() + 1);
        words.extend(blocks.iter().chain([&last]).map(in_block));
        Self(words)
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.0
    }

    /// Before the first mark.
    pub(super) fn start(&self) -> Cursor {
        Cursor {
            word: 0,
            bits: self.0.first().copied().unwrap_or_default(),
        }
    }
}

impl Cursor {
    /// Where the next mark is, and behind it.
    #[inline(always)]
    pub(super) fn next(&mut self, words: &[u64]) -> Option<usize> {
        while self.bits == 0 {
            self.word += 1;
            self.bits = *words.get(self.word)?;
        }
        let at = self.word * 64 + self.bits.trailing_zeros() as usize;
        self.bits &= self.bits - 1;
        Some(at)
    }
}

/// Whether a text stands in a string of JSON as it is.
pub(super) fn is_plain(text: &str) -> bool {
    let (blocks, rest) = text.as_bytes().as_chunks::<16>();
    let is_mark = |b: &u8| matches!(b, b'"' | b'\\' | 0..0x20);
    blocks.iter().all(|block| in_sixteen(block) == 0) && !rest.iter().any(is_mark)
}

fn in_block(block: &[u8; 64]) -> u64 {
    let (parts, _) = block.as_chunks::<16>();
    let bits = parts.iter().rev();
    bits.fold(0, |bits, part| bits << 16 | u64::from(in_sixteen(part)))
}

fn in_sixteen(bytes: &[u8; 16]) -> u32 {
    let bytes = u8x16::new(*bytes);
    let is = |byte: u8| bytes.simd_eq(u8x16::splat(byte));
    let is_control = bytes.min(u8x16::splat(0x1f)).simd_eq(bytes);
    (is(b'"') | is(b'\\') | is_control).to_bitmask()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_marked_or_not_wherever_it_stands() {
        for length in [1, 15, 16, 17, 63, 64, 65, 128, 200] {
            for place in 0..length {
                for byte in 0..=255_u8 {
                    let mut text = vec![b'x'; length];
                    if let Some(at) = text.get_mut(place) {
                        *at = byte;
                    }
                    let marks = Marks::of(&text);
                    let is_mark = byte == b'"' || byte == b'\\' || byte < 0x20;
                    let expected = is_mark.then_some(place);
                    let mut cursor = marks.start();
                    let found = [(); 2].map(|()| cursor.next(marks.words()));
                    assert_eq!(found, [expected, None], "{byte} at {place}");
                    if let Ok(text) = std::str::from_utf8(&text) {
                        assert_eq!(is_plain(text), !is_mark, "{byte} at {place}");
                    }
                }
            }
        }
    }

    #[test]
    fn all_are_met_in_turn_and_none_behind_the_end() {
        for length in [0, 1, 63, 64, 65, 200] {
            let marks = Marks::of(&vec![b'"'; length]);
            let mut cursor = marks.start();
            for at in 0..length {
                assert_eq!(cursor.next(marks.words()), Some(at), "of {length}");
            }
            assert_eq!([(); 2].map(|()| cursor.next(marks.words())), [None; 2]);
        }
    }
}
