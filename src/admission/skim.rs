//! Reads JSON as kube-apiserver writes it, with serde, and passes over what is not asked for several times
//! as fast as `serde_json`: from mark to mark ([`marks`](super::marks)), without recursion, and by one
//! comparison over what most often stands between two strings.
//!
//! It takes what Go's encoder writes: no white space outside of strings, at most [`MAX_DEPTH`] containers
//! within each other. What is read must be a string without escapes, a map, a list, or a word. In what
//! it passes over it is as strict as `serde_json`: structure, escapes, numbers, control characters.
//! Whatever it does not take, valid or not, is an error here, and `serde_json`'s to read and to complain
//! of. So the promise is: what is taken here, `serde_json` takes too, and reads alike.
//! `tests/skim.rs` holds both against each other.

use serde::de::value::Error;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::marks::{Cursor, Marks};

/// How deep what is passed over may be. The managed fields of a Pod are at eight or nine.
const MAX_DEPTH: u32 = 62;

/// A text that is read from its start.
#[derive(Debug)]
pub struct Skimmer<'a> {
    text: &'a str,
    marks: Marks,
    /// How far it was read.
    at: usize,
    /// Before the first mark that was not.
    cursor: Cursor,
}

impl<'a> Skimmer<'a> {
    /// At the start of a text.
    pub fn new(text: &'a str) -> Self {
        let marks = Marks::of(text.as_bytes());
        let cursor = marks.start();
        Self {
            text,
            marks,
            at: 0,
            cursor,
        }
    }

    /// What stands between the start and the end of a value, which is passed over.
    ///
    /// # Errors
    /// It is not for this reader.
    pub fn pass_over(&mut self) -> Result<&'a str, Error> {
        let start = self.at;
        let mut json = Json {
            text: self.text.as_bytes(),
            marks: self.marks.words(),
            cursor: self.cursor,
        };
        self.at = json.value_end(start).ok_or_else(not_here)?;
        self.cursor = json.cursor;
        self.text.get(start..self.at).ok_or_else(not_here)
    }

    /// Whether nothing is left but white space: kube-apiserver ends its reviews with a line feed.
    pub fn is_at_end(&self) -> bool {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        rest.iter()
            .all(|b| matches!(b, b' ' | b'\n' | b'\r' | b'\t'))
    }

    fn byte(&self) -> Result<u8, Error> {
        let byte = self.text.as_bytes().get(self.at).copied();
        byte.ok_or_else(not_here)
    }

    /// Goes on behind a byte that must be there.
    fn take(&mut self, byte: u8) -> Result<(), Error> {
        if self.byte()? != byte {
            return Err(not_here());
        }
        self.at += 1;
        Ok(())
    }

    /// Goes on behind a byte if it is there.
    fn take_if(&mut self, byte: u8) -> Result<bool, Error> {
        let is_there = self.byte()? == byte;
        self.at += usize::from(is_there);
        Ok(is_there)
    }

    fn word<T>(&mut self, word: &str, value: T) -> Result<T, Error> {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return Err(not_here());
        }
        self.at += word.len();
        Ok(value)
    }

    /// A string without escapes.
    fn string(&mut self) -> Result<&'a str, Error> {
        self.take(b'"')?;
        let words = self.marks.words();
        // The first is that of the opening quote.
        let marks = [(); 2].map(|()| self.cursor.next(words));
        let [Some(_), Some(end)] = marks else {
            return Err(not_here());
        };
        let string = self.text.get(self.at..end).ok_or_else(not_here)?;
        self.at = end;
        self.take(b'"')?;
        Ok(string)
    }
}

/// Never shown: the text is then read the other way.
#[cold]
pub(super) fn not_here() -> Error {
    Error::custom("this needs another reader")
}

// === passing over ===

/// A text and its marks. Each function goes on with the cursor as far as it reads: behind it are the
/// marks of all bytes that it passed, and no other.
struct Json<'t> {
    text: &'t [u8],
    marks: &'t [u64],
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
const OBJECT: u64 = u64::from_le_bytes(*b"\":{\"\0\0\0\0");
const TEXT: u64 = u64::from_le_bytes(*b"\":\"\0\0\0\0\0");
const COLON: u64 = u64::from_le_bytes(*b"\":\0\0\0\0\0\0");
const KEY: u64 = u64::from_le_bytes(*b"\",\"\0\0\0\0\0");
const NEXT_OBJECT: u64 = u64::from_le_bytes(*b"\"},{\"\0\0\0");

/// Whether the first `LENGTH` of eight bytes are these.
#[inline(always)]
const fn starts<const LENGTH: u32>(eight: u64, with: u64) -> bool {
    (eight ^ with) << (64 - 8 * LENGTH) == 0
}

fn within(stack: u64, container: u64) -> Option<u64> {
    (stack >> MAX_DEPTH == 0).then_some(stack << 1 | container)
}

/// Whether the innermost container is an object in a list.
#[inline(always)]
const fn is_in_list(stack: u64) -> bool {
    stack & 0b11 == 0b01
}

impl Json<'_> {
    /// Behind the value that starts at `at`.
    #[inline(always)]
    fn value_end(&mut self, mut at: usize) -> Option<usize> {
        // A bit for each container around, the innermost lowest: 1 for an object; above them all, a 1.
        let mut stack = 1_u64;
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
                    Spot::Behind(at) if stack == 1 => return Some(at),
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

    /// The eight bytes from `at` on, the first lowest; behind the end of the text are zeros.
    #[inline(always)]
    fn eight(&self, at: usize) -> Option<u64> {
        let rest = self.text.get(at..)?;
        Some(match rest.first_chunk() {
            Some(eight) => u64::from_le_bytes(*eight),
            None => few(rest),
        })
    }

    #[inline(always)]
    fn next_mark(&mut self) -> Option<usize> {
        self.cursor.next(self.marks)
    }

    /// At the closing quote of a text whose opening quote is the next mark.
    #[inline(always)]
    fn text_end(&mut self) -> Option<usize> {
        self.next_mark()?;
        let at = self.next_mark()?;
        match self.byte(at)? {
            b'"' => Some(at),
            b'\\' => {
                let (end, cursor) = end_behind_escapes(self.text, self.marks, self.cursor, at)?;
                self.cursor = cursor;
                Some(end)
            }
            _ => None,
        }
    }

    /// Over the members of an object from a key on, as long as there is nothing but texts and objects.
    #[inline(always)]
    fn members(&mut self, at: usize, stack: &mut u64) -> Option<Spot> {
        if self.byte(at)? != b'"' {
            return None;
        }
        loop {
            let end = self.text_end()?;
            let next = self.eight(end)?;
            if starts::<6>(next, EMPTY_AND_KEY) {
                // The next key is reached.
            } else if starts::<3>(next, TEXT) {
                let end = self.text_end()?;
                let next = self.eight(end)?;
                let goes_on =
                    starts::<3>(next, KEY) || starts::<5>(next, NEXT_OBJECT) && is_in_list(*stack);
                if !goes_on {
                    return Some(Spot::Behind(end + 1));
                }
            } else if starts::<4>(next, OBJECT) {
                *stack = within(*stack, 1)?;
            } else {
                return starts::<2>(next, COLON).then_some(Spot::Value(end + 2));
            }
        }
    }
}

/// As [`Json::text_end`], from its first backslash on. The cursor comes and goes by value: a call that
/// had its address would keep it out of the registers for all others, too.
#[inline(never)]
fn end_behind_escapes(
    text: &[u8],
    marks: &[u64],
    mut cursor: Cursor,
    mut at: usize,
) -> Option<(usize, Cursor)> {
    loop {
        match text.get(at)? {
            b'"' => return Some((at, cursor)),
            b'\\' => {
                escape_end(text, at + 1)?;
                // These are marks of their own.
                if matches!(text.get(at + 1)?, b'"' | b'\\') {
                    cursor.next(marks)?;
                }
                at = cursor.next(marks)?;
            }
            _ => return None,
        }
    }
}

/// Fewer than eight bytes, as [`Json::eight`] gives them.
#[cold]
fn few(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().rev();
    bytes.fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// Behind what stands behind a backslash. As with `serde_json`, half of a surrogate pair passes where
/// nobody reads it.
fn escape_end(json: &[u8], at: usize) -> Option<usize> {
    match json.get(at)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 1),
        b'u' => {
            let digits = json.get(at + 1..at + 5)?;
            digits.iter().all(u8::is_ascii_hexdigit).then_some(at + 5)
        }
        _ => None,
    }
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

impl<'de> Deserializer<'de> for &mut Skimmer<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
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
            _ => Err(not_here()),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.string()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.pass_over()?;
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.byte()? == b'n' {
            self.word("null", ())?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    /// An array may stand for a struct, with rules of its own.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.byte()? {
            b'{' => self.deserialize_any(visitor),
            _ => Err(not_here()),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_struct("", &[], visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        seq tuple tuple_struct enum identifier
    }
}

/// The entries of a container, the next of which starts where the reader is.
struct Entries<'r, 'a> {
    reader: &'r mut Skimmer<'a>,
    end: u8,
    is_over: bool,
}

impl<'r, 'a> Entries<'r, 'a> {
    /// Behind the opening bracket.
    fn of(reader: &'r mut Skimmer<'a>, end: u8) -> Result<Self, Error> {
        let is_over = reader.take_if(end)?;
        Ok(Self {
            reader,
            end,
            is_over,
        })
    }

    /// Reads what stands here, and goes on to the next entry or behind the closing bracket.
    fn read<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let value = seed.deserialize(&mut *self.reader)?;
        self.is_over = self.reader.take_if(self.end)?;
        if !self.is_over {
            self.reader.take(b',')?;
        }
        Ok(value)
    }
}

impl<'de> MapAccess<'de> for Entries<'_, 'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        if self.is_over {
            return Ok(None);
        }
        if self.reader.byte()? != b'"' {
            return Err(not_here());
        }
        let key = seed.deserialize(&mut *self.reader)?;
        self.reader.take(b':')?;
        Ok(Some(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        self.read(seed)
    }
}

impl<'de> SeqAccess<'de> for Entries<'_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        match self.is_over {
            true => Ok(None),
            false => self.read(seed).map(Some),
        }
    }
}
