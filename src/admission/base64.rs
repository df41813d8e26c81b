//! The base64 in which a patch is sent (RFC 4648, section 4), by what vectors the processor has. The `base64` crate
//! does the rest of a text, and is what this is held against.
//!
//! Three bytes are four sixes of bits, each of which becomes a character. A vector has lanes of 16 bytes, so 12
//! bytes become the 16 characters of a lane: 48 bytes are loaded as four lanes that start 12 bytes apart, each
//! byte of a lane gets its six bits, and is then replaced by the character for them.
//!
//! A patch of 25 images is 3 KB: its base64 by the crate alone took as long as six of the 25 swaps.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fearless_simd::prelude::*;
use fearless_simd::{Level, dispatch, u8x16, u8x64, u32x16};

/// So many bytes become 64 characters.
const BLOCK: usize = 48;

/// What is read for them: the last lane ends 4 bytes behind its 12.
const LOADED: usize = BLOCK + 4;

/// Adds the base64 of some bytes, padded.
pub(super) fn push(json: &mut Vec<u8>, bytes: &[u8]) {
    push_at(Level::new(), json, bytes);
}

/// With vectors of one kind: the widest that the processor has, but for tests.
fn push_at(level: Level, json: &mut Vec<u8>, bytes: &[u8]) {
    let start = json.len();
    json.resize(start + bytes.len().div_ceil(3) * 4, b'=');
    let room = json.get_mut(start..).unwrap_or_default();
    // A vector's bytes are in the order of the machine's numbers.
    let done = match cfg!(target_endian = "little") {
        true => dispatch!(level, simd => blocks(simd, bytes, room)),
        false => 0,
    };
    let (rest, room) = (bytes.get(done..), room.get_mut(done / 3 * 4..));
    // There is room for all of it.
    let _ = STANDARD.encode_slice(rest.unwrap_or_default(), room.unwrap_or_default());
}

/// Encodes whole blocks, as long as 4 bytes are left behind them, and says how many bytes that was.
#[inline(always)]
fn blocks<S: Simd>(simd: S, bytes: &[u8], room: &mut [u8]) -> usize {
    let mut done = 0;
    for room in room.as_chunks_mut::<64>().0 {
        let Some(loaded) = bytes.get(done..).and_then(<[u8]>::first_chunk) else {
            break;
        };
        characters(simd, sixes(simd, loaded)).store_slice(room);
        done += BLOCK;
    }
    done
}

/// Each six bits of a block in a byte of their own.
#[inline(always)]
fn sixes<S: Simd>(simd: S, loaded: &[u8; LOADED]) -> u8x64<S> {
    let twelve = |at: usize| -> u8x16<S> {
        let bytes = loaded.get(at..).and_then(<[u8]>::first_chunk);
        bytes.copied().unwrap_or_default().simd_into(simd)
    };
    let (low, high) = (
        twelve(0).combine(twelve(12)),
        twelve(24).combine(twelve(36)),
    );
    // Of three bytes A, B, C: B, A, C, B. Read as two numbers of 16 bits, the lowest byte first, these are A with B
    // and B with C: the first two sixes are the upper 12 bits of the one, the other two the lower 12 of the other.
    let order: u8x16<S> = [1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10].simd_into(simd);
    let order = order.combine(order);
    let bytes = low
        .combine(high)
        .swizzle_dyn_within_blocks(order.combine(order));
    let four: u32x16<S> = bytes.bitcast();
    let sixes = four >> 10 & 0x3f
        | four << 4 & 0x3f_00
        | four >> 6 & 0x3f_00_00
        | four << 8 & 0x3f_00_00_00;
    sixes.bitcast()
}

/// The characters for them.
#[inline(always)]
fn characters<S: Simd>(simd: S, sixes: u8x64<S>) -> u8x64<S> {
    // 0 for `a` to `z`, 1 to 10 for the digits, 11 and 12 for `+` and `/`; then 13 for `A` to `Z`.
    let kind = sixes.saturating_sub(51);
    let capital: u8x64<S> = u8x64::splat(simd, 13);
    let kind = sixes.simd_lt(26).select(capital, kind);
    // What is added to make the character of it.
    let (lower, digit) = (b'a' - 26, b'0'.wrapping_sub(52));
    let (plus, slash) = (b'+'.wrapping_sub(62), b'/'.wrapping_sub(63));
    let mut added = [digit; 16];
    for (at, other) in [(0, lower), (11, plus), (12, slash), (13, b'A')] {
        if let Some(place) = added.get_mut(at) {
            *place = other;
        }
    }
    let added: u8x16<S> = added.simd_into(simd);
    let added = added.combine(added);
    sixes + added.combine(added).swizzle_dyn_within_blocks(kind)
}

#[cfg(test)]
mod tests {
    use super::super::string_ends::tests::levels;
    use super::*;

    #[test]
    fn it_is_the_base64_of_the_crate_for_each_length_and_all_bits() {
        // Each six bits in each place of a block.
        let all = (0..64_u8).flat_map(|six| {
            let bytes = [six << 2 | six >> 4, six << 4 | six >> 2, six << 6 | six];
            std::iter::repeat_n(bytes, 17)
        });
        let all: Vec<u8> = all.flatten().chain(0..=255).collect();
        for level in levels() {
            for length in 0..all.len() {
                let bytes = &all[all.len() - length..];
                let mut pushed = b"before".to_vec();
                push_at(level, &mut pushed, bytes);
                let expected = format!("before{}", STANDARD.encode(bytes));
                assert_eq!(pushed, expected.into_bytes(), "{level:?}, {length} bytes");
            }
        }
    }
}
