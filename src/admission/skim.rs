//! Reads JSON as kube-apiserver writes it, with serde, and passes over what is not asked for several times
//! as fast as `serde_json`: from the end of each string to that of the next ([`string_ends`](super::string_ends)), without
//! recursion, and by one comparison over what most often stands between two strings.
//!
//! It takes what Go's encoder writes: no white space outside of strings, at most [`MAX_DEPTH`] containers
//! within each other. What is read must be a string without escapes, a map, a list, or a word. In what
//! it passes over it is as strict as `serde_json`: structure, escapes, numbers, control characters.
//! Whatever it does not take, valid or not, is an error here, and `serde_json`'s to read and to complain
//! of. So the promise is: what is taken here, `serde_json` takes too, and reads alike.
//! `tests/skim.rs` holds both against each other.

use std::fmt;
use std::ops::Range;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::string_ends::Cursor;
pub use super::string_ends::Marked;

/// How deep what is passed over may be. The managed fields of a Pod are at eight or nine.
const MAX_DEPTH: u32 = 62;

/// This is for another reader. It says no more, for what is wrong is told by the other.
#[derive(Debug)]
pub struct NotHere;

impl fmt::Display for NotHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this needs another reader")
    }
}

impl std::error::Error for NotHere {}

impl de::Error for NotHere {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// Reads a text from its start.
#[derive(Debug)]
pub struct Skimmer<'a, 'm> {
    text: &'a str,
    ends: &'m [u64],
    /// What stands outside of it holds no escapes.
    escapes: Range<usize>,
    /// How far it was read.
    at: usize,
    /// Before the end of the first string that was not.
    cursor: Cursor,
}

impl<'a, 'm> Skimmer<'a, 'm> {
    /// At the start of a text.
    pub fn new(marked: &'m Marked<'a>) -> Self {
        Self {
            text: marked.text(),
            ends: marked.ends(),
            escapes: marked.escapes(),
            at: 0,
            cursor: marked.start(),
        }
    }

    /// What stands between the start and the end of a value, which is passed over.
    ///
    /// # Errors
    /// It is not for this reader.
    pub fn pass_over(&mut self) -> Result<&'a str, NotHere> {
        let start = self.at;
        self.skip()?;
        self.text.get(start..self.at).ok_or(NotHere)
    }

    fn skip(&mut self) -> Result<(), NotHere> {
        let mut json = Json {
            text: self.text.as_bytes(),
            ends: self.ends,
            cursor: self.cursor,
        };
        self.at = json.value_end(self.at).ok_or(NotHere)?;
        self.cursor = json.cursor;
        Ok(())
    }

    /// Whether nothing is left but white space: kube-apiserver ends its reviews with a line feed.
    pub fn is_at_end(&self) -> bool {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        rest.iter()
            .all(|b| matches!(b, b' ' | b'\n' | b'\r' | b'\t'))
    }

    #[inline(always)]
    fn byte(&self) -> Result<u8, NotHere> {
        let byte = self.text.as_bytes().get(self.at).copied();
        byte.ok_or(NotHere)
    }

    /// Goes on behind a byte that must be there.
    #[inline(always)]
    fn take(&mut self, byte: u8) -> Result<(), NotHere> {
        if self.byte()? != byte {
            return Err(NotHere);
        }
        self.at += 1;
        Ok(())
    }

    /// Goes on behind a byte if it is there.
    #[inline(always)]
    fn take_if(&mut self, byte: u8) -> Result<bool, NotHere> {
        let is_there = self.byte()? == byte;
        if is_there {
            std::hint::cold_path();
            self.at += 1;
        }
        Ok(is_there)
    }

    fn word<T>(&mut self, word: &str, value: T) -> Result<T, NotHere> {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return Err(NotHere);
        }
        self.at += word.len();
        Ok(value)
    }

    /// A string without escapes.
    #[inline(always)]
    fn string(&mut self) -> Result<&'a str, NotHere> {
        self.take(b'"')?;
        let end = self.cursor.next(self.ends).ok_or(NotHere)?;
        let string = self.text.get(self.at..end).ok_or(NotHere)?;
        if self.holds_backslash(string.as_bytes()) {
            return Err(NotHere);
        }
        self.at = end + 1;
        Ok(string)
    }

    /// Whether the string that starts here does.
    #[inline(always)]
    fn holds_backslash(&self, string: &[u8]) -> bool {
        self.at < self.escapes.end
            && self.escapes.start < self.at + string.len()
            && memchr::memchr(b'\\', string).is_some()
    }
}

// === passing over ===

/// A text and where its strings end. Each function goes on with the cursor as far as it reads: behind it
/// are the ends of all strings that it passed, and no other.
struct Json<'t> {
    text: &'t [u8],
    ends: &'t [u64],
    cursor: Cursor,
}

/// Where passing over has come to.
enum Spot {
    /// At a value.
    Value(usize),
    /// Behind one.
    Behind(usize),
}

/// From the closing quote of a key or of a text on, what most often stands there.
const EMPTY_AND_KEY: u64 = u64::from_le_bytes(*b"\":{},\"\0\0");
const EMPTY: u64 = u64::from_le_bytes(*b"\":{}\0\0\0\0");
const OBJECT: u64 = u64::from_le_bytes(*b"\":{\"\0\0\0\0");
const TEXT: u64 = u64::from_le_bytes(*b"\":\"\0\0\0\0\0");
const COLON: u64 = u64::from_le_bytes(*b"\":\0\0\0\0\0\0");
const KEY: u64 = u64::from_le_bytes(*b"\",\"\0\0\0\0\0");
/// And behind a value.
const ENDS: u64 = u64::from_le_bytes(*b"}}}}}}}}");
const AND_KEY: u64 = u64::from_le_bytes(*b",\"\0\0\0\0\0\0");
const AND_OBJECT: u64 = u64::from_le_bytes(*b",{\"\0\0\0\0\0");

/// Whether the first `LENGTH` of eight bytes are these.
#[inline(always)]
const fn starts<const LENGTH: u32>(eight: u64, with: u64) -> bool {
    (eight ^ with) << (64 - 8 * LENGTH) == 0
}

/// A bit for each container around, the innermost lowest: 1 for an object. Above them stands a 0, so that
/// no object is seen beyond the outermost container, and above that a 1.
type Stack = u64;

const OUTSIDE: Stack = 0b10;

fn within(stack: Stack, container: u64) -> Option<Stack> {
    (stack >> (MAX_DEPTH + 1) == 0).then_some(stack << 1 | container)
}

impl Json<'_> {
    /// Behind the value that starts at `at`.
    #[inline(always)]
    fn value_end(&mut self, mut at: usize) -> Option<usize> {
        let mut stack = OUTSIDE;
        loop {
            let open = self.byte(at)?;
            let mut spot = match open {
                b'"' => Spot::Behind(self.text_end()? + 1),
                b'{' if self.byte(at + 1)? == b'}' => Spot::Behind(at + 2),
                b'[' if self.byte(at + 1)? == b']' => Spot::Behind(at + 2),
                b'{' => {
                    stack = within(stack, 1)?;
                    self.members(at + 1, &mut stack)?
                }
                b'[' => {
                    stack = within(stack, 0)?;
                    Spot::Value(at + 1)
                }
                _ => Spot::Behind(scalar_end(self.text, at)?),
            };
            at = loop {
                let behind = match spot {
                    Spot::Value(at) => break at,
                    Spot::Behind(at) if stack == OUTSIDE => return Some(at),
                    Spot::Behind(at) => at,
                };
                let in_object = stack & 1 == 1;
                spot = match self.byte(behind)? {
                    b',' if in_object => self.members(behind + 1, &mut stack)?,
                    b',' => Spot::Value(behind + 1),
                    b'}' if in_object => {
                        stack >>= 1;
                        Spot::Behind(behind + 1)
                    }
                    b']' if !in_object => {
                        stack >>= 1;
                        Spot::Behind(behind + 1)
                    }
                    _ => return None,
                };
            };
        }
    }

    #[inline(always)]
    fn byte(&self, at: usize) -> Option<u8> {
        self.text.get(at).copied()
    }

    #[inline(always)]
    fn eight(&self, at: usize) -> Option<u64> {
        eight(self.text, at)
    }

    /// At the closing quote of a text whose opening quote was reached.
    #[inline(always)]
    fn text_end(&mut self) -> Option<usize> {
        self.cursor.next(self.ends)
    }

    /// Over the members of an object from a key on, as long as there is nothing but texts and objects.
    #[inline(always)]
    fn members(&mut self, at: usize, stack: &mut Stack) -> Option<Spot> {
        if self.byte(at)? != b'"' {
            return None;
        }
        loop {
            let end = self.text_end()?;
            let next = self.eight(end)?;
            let mut behind = if starts::<6>(next, EMPTY_AND_KEY) {
                continue;
            } else if starts::<3>(next, TEXT) {
                let end = self.text_end()?;
                if starts::<3>(self.eight(end)?, KEY) {
                    continue;
                }
                end + 1
            } else if starts::<4>(next, EMPTY) {
                end + 4
            } else if starts::<4>(next, OBJECT) {
                *stack = within(*stack, 1)?;
                continue;
            } else {
                return starts::<2>(next, COLON).then_some(Spot::Value(end + 2));
            };
            // As many objects as end here at once.
            let ends = (self.eight(behind)? ^ ENDS).trailing_zeros() / 8;
            let ends = ends.min((!*stack).trailing_zeros());
            *stack >>= ends;
            behind += ends as usize;
            if *stack == OUTSIDE {
                return Some(Spot::Behind(behind));
            }
            let next = self.eight(behind)?;
            let is_key = if *stack & 1 == 1 {
                starts::<2>(next, AND_KEY)
            } else if starts::<3>(next, AND_OBJECT) {
                *stack = within(*stack, 1)?;
                true
            } else {
                false
            };
            if !is_key {
                return Some(Spot::Behind(behind));
            }
        }
    }
}

/// The eight bytes from `at` on, the first lowest; behind the end of the text are zeros.
#[inline(always)]
fn eight(text: &[u8], at: usize) -> Option<u64> {
    let rest = text.get(at..)?;
    Some(match rest.first_chunk() {
        Some(eight) => u64::from_le_bytes(*eight),
        None => few(rest),
    })
}

/// Fewer than eight bytes, as [`eight`] gives them.
#[cold]
fn few(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().rev();
    bytes.fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// Behind a number or a word.
fn scalar_end(json: &[u8], at: usize) -> Option<usize> {
    let text = json.get(at..)?;
    let rest = match text.first()? {
        b't' => text.strip_prefix(b"true")?,
        b'f' => text.strip_prefix(b"false")?,
        b'n' => text.strip_prefix(b"null")?,
        _ => number(text)?,
    };
    Some(json.len() - rest.len())
}

/// What stands behind a number.
fn number(text: &[u8]) -> Option<&[u8]> {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let text = match text.strip_prefix(b"0") {
        Some(rest) => rest,
        None => digits(text)?,
    };
    let text = match text.strip_prefix(b".") {
        Some(fraction) => digits(fraction)?,
        None => text,
    };
    match text.split_first() {
        Some((b'e' | b'E', exponent)) => match exponent.split_first()? {
            (b'+' | b'-', exponent) => digits(exponent),
            _ => digits(exponent),
        },
        _ => Some(text),
    }
}

/// What stands behind one digit or more.
fn digits(text: &[u8]) -> Option<&[u8]> {
    let is_other = |b: &u8| !b.is_ascii_digit();
    let end = text.iter().position(is_other).unwrap_or(text.len());
    text.get(end..).filter(|_| end > 0)
}

// === reading ===

impl<'de> Deserializer<'de> for &mut Skimmer<'de, '_> {
    type Error = NotHere;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotHere> {
        match self.byte()? {
            b'"' => visitor.visit_borrowed_str(self.string()?),
            b'{' => {
                self.at += 1;
                visitor.visit_map(Entries::of(self, b'}')?)
            }
            b'[' => {
                self.at += 1;
                visitor.visit_seq(Entries::of(self, b']')?)
            }
            b'n' => {
                self.word("null", ())?;
                visitor.visit_unit()
            }
            b't' => visitor.visit_bool(self.word("true", true)?),
            b'f' => visitor.visit_bool(self.word("false", false)?),
            _ => Err(NotHere),
        }
    }

    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotHere> {
        visitor.visit_borrowed_str(self.string()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotHere> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotHere> {
        // Most are texts.
        if self.byte()? == b'"' {
            self.at = self.cursor.next(self.ends).ok_or(NotHere)? + 1;
        } else {
            self.skip()?;
        }
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotHere> {
        if self.byte()? == b'n' {
            self.word("null", ())?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    /// An array may stand for a struct, with rules of its own.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NotHere> {
        match self.byte()? {
            b'{' => self.deserialize_any(visitor),
            _ => Err(NotHere),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotHere> {
        self.deserialize_struct("", &[], visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct enum identifier
    }
}

/// The entries of a container, the next of which starts where the reader is.
struct Entries<'r, 'a, 'm> {
    reader: &'r mut Skimmer<'a, 'm>,
    end: u8,
    is_over: bool,
}

impl<'r, 'a, 'm> Entries<'r, 'a, 'm> {
    /// Behind the opening bracket.
    fn of(reader: &'r mut Skimmer<'a, 'm>, end: u8) -> Result<Self, NotHere> {
        let is_over = reader.take_if(end)?;
        Ok(Self {
            reader,
            end,
            is_over,
        })
    }

    /// Reads what stands here, and goes on to the next entry or behind the closing bracket.
    fn read<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<S::Value, NotHere> {
        let value = seed.deserialize(&mut *self.reader)?;
        let behind = self.reader.byte()?;
        self.reader.at += 1;
        self.is_over = behind == self.end;
        match self.is_over || behind == b',' {
            true => Ok(value),
            false => Err(NotHere),
        }
    }
}

impl<'de> MapAccess<'de> for Entries<'_, 'de, '_> {
    type Error = NotHere;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, NotHere> {
        if self.is_over {
            return Ok(None);
        }
        if self.reader.byte()? != b'"' {
            return Err(NotHere);
        }
        let key = seed.deserialize(&mut *self.reader)?;
        self.reader.take(b':')?;
        Ok(Some(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, NotHere> {
        self.read(seed)
    }
}

impl<'de> SeqAccess<'de> for Entries<'_, 'de, '_> {
    type Error = NotHere;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, NotHere> {
        match self.is_over {
            true => Ok(None),
            false => self.read(seed).map(Some),
        }
    }
}
