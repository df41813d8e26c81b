//! Reads JSON with the place of every string.
//!
//! `serde_json` gives no spans, but its raw values borrow from the text: a value's place is the
//! distance between the two pointers.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Error;
use super::tree::{Id, MAX_DEPTH, Node, Style, Tree, Value};

/// Whether the text begins as JSON does. Flow style YAML begins so too.
pub(super) fn begins(text: &str) -> bool {
    text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n'])
        .starts_with(['{', '['])
}

/// Why a text cannot be read as JSON.
pub(super) struct Refusal {
    pub(super) error: Error,
    /// Whether it is JSON as far as it goes, and cannot be anything else.
    pub(super) is_final: bool,
}

/// Reads all values of the text.
///
/// # Errors
/// [`Error::Json`] where the text is no JSON, [`Error::TooDeep`] where it nests too deep.
pub(super) fn read(text: &str) -> Result<Tree, Refusal> {
    let bare = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder {
        text,
        tree: Tree::default(),
    };
    for value in serde_json::Deserializer::from_str(bare).into_iter::<&RawValue>() {
        let value = value.map_err(|error| refused(&error))?;
        builder.add(value, None, 0).map_err(|error| Refusal {
            error,
            is_final: true,
        })?;
    }
    Ok(builder.tree)
}

fn refused(error: &serde_json::Error) -> Refusal {
    let message = error.to_string();
    // The place is in the error's fields already.
    let message = message.split(" at line ").next().unwrap_or_default();
    Refusal {
        is_final: error.is_eof(),
        error: Error::Json {
            line: error.line(),
            column: error.column(),
            message: message.to_owned(),
        },
    }
}

/// `text` as a JSON string.
pub(super) fn write(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

struct Builder<'a> {
    text: &'a str,
    tree: Tree,
}

impl<'a> Builder<'a> {
    fn add(
        &mut self,
        raw: &'a RawValue,
        parent: Option<(Id, Option<Id>)>,
        depth: usize,
    ) -> Result<Id, Error> {
        let at = self.place(raw);
        match raw.get().as_bytes().first() {
            Some(b'{') => self.map(raw, at, parent, depth),
            Some(b'[') => self.list(raw, at, parent, depth),
            _ => Ok(self.leaf(scalar(raw), at, parent)),
        }
    }

    fn map(
        &mut self,
        raw: &'a RawValue,
        at: Range<usize>,
        parent: Option<(Id, Option<Id>)>,
        depth: usize,
    ) -> Result<Id, Error> {
        self.bound(&at, depth)?;
        let Ok(Members(members)) = serde_json::from_str(raw.get()) else {
            return Ok(self.leaf(Value::Other(raw.get().into()), at, parent));
        };
        let id = self.leaf(Value::Map(Vec::new()), at, parent);
        for (key, value) in members {
            let key = Value::Text(key.into_boxed_str(), Style::Json);
            let key = self.leaf(key, self.place(value), Some((id, None)));
            self.add(value, Some((id, Some(key))), depth + 1)?;
        }
        Ok(id)
    }

    fn list(
        &mut self,
        raw: &'a RawValue,
        at: Range<usize>,
        parent: Option<(Id, Option<Id>)>,
        depth: usize,
    ) -> Result<Id, Error> {
        self.bound(&at, depth)?;
        let items: Vec<&RawValue> = serde_json::from_str(raw.get()).unwrap_or_default();
        let id = self.leaf(Value::List(Vec::new()), at, parent);
        for item in items {
            self.add(item, Some((id, None)), depth + 1)?;
        }
        Ok(id)
    }

    fn bound(&self, at: &Range<usize>, depth: usize) -> Result<(), Error> {
        if depth >= MAX_DEPTH {
            let line = super::Lines::new(self.text).of(at.start);
            return Err(Error::TooDeep { line });
        }
        Ok(())
    }

    fn leaf(&mut self, value: Value, at: Range<usize>, parent: Option<(Id, Option<Id>)>) -> Id {
        self.tree.add(Node::new(at, value, None), parent)
    }

    fn place(&self, raw: &RawValue) -> Range<usize> {
        let start = raw.get().as_ptr().addr();
        let start = start.saturating_sub(self.text.as_ptr().addr());
        start..start.saturating_add(raw.get().len())
    }
}

/// A string, or whatever else. Half of a surrogate pair is JSON, but makes a string that nobody can
/// read; an object with such a key is taken as a scalar, too.
fn scalar(raw: &RawValue) -> Value {
    match serde_json::from_str::<String>(raw.get()) {
        Ok(text) => Value::Text(text.into_boxed_str(), Style::Json),
        Err(_) => Value::Other(raw.get().into()),
    }
}

/// An object's members, repeated keys and all.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Collect)
    }
}

struct Collect;

impl<'de> Visitor<'de> for Collect {
    type Value = Members<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}
