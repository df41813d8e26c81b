//! Reads JSON of one shape and passes over all others: what is no map where a map is looked for is skipped, not refused.
//!
//! A reader of maps says with [`ReadMap`] what it reads of one, a reader of lists with [`ReadList`]. [`if_map`] and
//! [`if_list`] make of it what serde reads any value by.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A string, borrowed unless it holds escapes.
#[derive(Debug)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

/// Derived it would go through two more calls, for each key that is read.
impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    #[inline]
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    #[inline]
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

/// Reads a map.
pub(super) trait ReadMap<'de>: Sized {
    fn read<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error>;
}

/// Reads a list.
pub(super) trait ReadList<'de>: Sized {
    fn read<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error>;
}

/// Lets a reader read if what comes is a map.
pub(super) fn if_map<'de, R: ReadMap<'de>>(reader: R) -> Shape<IfMap<R>> {
    Shape(IfMap(reader))
}

/// Lets a reader read if what comes is a list.
pub(super) fn if_list<'de, R: ReadList<'de>>(reader: R) -> Shape<IfList<R>> {
    Shape(IfList(reader))
}

/// Notes that something is true.
pub(super) fn if_true(noted: &mut bool) -> Shape<IfTrue<'_>> {
    Shape(IfTrue(noted))
}

/// Any value, by a visitor that takes them all.
pub(super) struct Shape<V>(pub(super) V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Shape<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<V::Value, D::Error> {
        json.deserialize_any(self.0)
    }
}

pub(super) struct IfMap<R>(R);

pub(super) struct IfList<R>(R);

pub(super) struct IfTrue<'w>(&'w mut bool);

/// All that is neither a map nor a list.
macro_rules! pass_over_scalars {
    () => {
        pass_over_numbers_and_texts!();
        fn visit_bool<E>(self, _: bool) -> Result<(), E> {
            Ok(())
        }
    };
}

/// And no truth value.
macro_rules! pass_over_numbers_and_texts {
    () => {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any JSON")
        }
        fn visit_i64<E>(self, _: i64) -> Result<(), E> {
            Ok(())
        }
        fn visit_u64<E>(self, _: u64) -> Result<(), E> {
            Ok(())
        }
        fn visit_f64<E>(self, _: f64) -> Result<(), E> {
            Ok(())
        }
        fn visit_str<E>(self, _: &str) -> Result<(), E> {
            Ok(())
        }
        fn visit_unit<E>(self) -> Result<(), E> {
            Ok(())
        }
    };
}

impl<'de, R: ReadMap<'de>> Visitor<'de> for IfMap<R> {
    pass_over_scalars!();

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.0.read(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        pass_over_list(list)
    }
}

impl<'de, R: ReadList<'de>> Visitor<'de> for IfList<R> {
    pass_over_scalars!();

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        pass_over_map(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        self.0.read(list)
    }
}

impl<'de> Visitor<'de> for IfTrue<'_> {
    pass_over_numbers_and_texts!();

    fn visit_bool<E>(self, is_true: bool) -> Result<(), E> {
        *self.0 |= is_true;
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        pass_over_map(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        pass_over_list(list)
    }
}

pub(super) fn pass_over_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    // Not by `IgnoredAny`: serde_json looks at the escapes of keys, and not at those of what is ignored.
    while map.next_key::<Text<'_>>()?.is_some() {
        map.next_value::<IgnoredAny>()?;
    }
    Ok(())
}

pub(super) fn pass_over_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<(), A::Error> {
    while list.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}
