//! Reads YAML with the place of every scalar.
//!
//! The parser's marks count characters; nodes get bytes. Each document is read in passes: where the
//! parser stops for what Kubernetes' parser takes, it is [shown](leniency) the document in another way.

mod leniency;

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::tree::{Id, MAX_DEPTH, Node, Style, Tree, Value};
use super::{Error, Lines, scalar};

use leniency::{Cursor, Guesses, Leniency, StandIns};

const MARK: char = '\u{feff}';

/// Reads all documents.
///
/// # Errors
/// [`Error::Yaml`] where the text is no YAML, [`Error::TooDeep`] where it nests too deep.
pub(super) fn read(text: &str) -> Result<Tree, Error> {
    let mut builder = Builder::new(text);
    let (mut from, mut leniency) = (0, Leniency::new(text));
    loop {
        let Err(stop) = builder.pass(&leniency) else {
            return Ok(builder.tree);
        };
        // The parser stopped in another document than the last time.
        if builder.from > from {
            from = builder.from;
            leniency = leniency.of_next_document();
        }
        let helped = match stop {
            Stop::Refused(error) => {
                let at = builder.cursor.byte(error.marker().index());
                leniency.help(text, from..at, error.info()).map_err(Some)
            }
            Stop::Final(error) => Err(Some(error)),
            Stop::WrongGuess => Err(None),
        };
        match helped {
            Ok(()) => {}
            Err(Some(error)) if leniency.guesses.is_empty() => return Err(error),
            // Perhaps the error is of the guesses' making.
            Err(_) => leniency = leniency.without_guesses(),
        }
        builder.rewind();
    }
}

/// Why a pass ended before the text.
enum Stop {
    /// The parser does not take the text; Kubernetes' parser may.
    Refused(ScanError),
    /// No parser takes it, or it is too deep.
    Final(Error),
    /// The parser took it with spaces where they may mean something.
    WrongGuess,
}

fn refused(text: &str, at: usize, message: &str) -> Error {
    let (line, column) = Lines::new(text).place(text, at);
    // A template fails in its own line, or in the one after, which it made no sense of.
    let mut lines = text.lines().skip(line.saturating_sub(2)).take(2);
    let hint = match lines.any(|line| line.contains("{{")) {
        true => " (a template must be rendered before it can be rewritten)",
        false => "",
    };
    Error::Yaml {
        line,
        column,
        message: format!("{message}{hint}"),
    }
}

/// Makes a [`Tree`] of the parser's events.
struct Builder<'a> {
    text: &'a str,
    tree: Tree,
    /// The lists and maps that are open, each with the key whose value comes next.
    open: Vec<(Id, Option<Id>)>,
    /// By the parser's number. A name defined twice has two numbers, an alias gives the latest.
    anchors: HashMap<usize, Id>,
    cursor: Cursor<'a>,
    /// Where the last scalar or alias ends.
    after: usize,
    /// Where the document that is read now starts, and how long the tree was then.
    from: usize,
    before: (usize, usize),
    /// What is to be read back in scalars.
    stand_ins: Option<StandIns>,
    /// Which guesses have not been found right yet.
    guesses: Guesses,
}

impl<'a> Builder<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            tree: Tree::default(),
            open: Vec::new(),
            anchors: HashMap::new(),
            cursor: Cursor::default(),
            after: 0,
            from: 0,
            before: (0, 0),
            stand_ins: None,
            guesses: Guesses::default(),
        }
    }

    /// Reads from the document that the last pass stopped in to the end.
    fn pass(&mut self, leniency: &Leniency) -> Result<(), Stop> {
        self.cursor = Cursor::new(self.text, self.from, leniency);
        self.stand_ins = leniency.stand_ins;
        self.guesses.clone_from(&leniency.guesses);
        let shown = leniency.shown(self.text.get(self.from..).unwrap_or_default());
        // From characters, not from the string: there the parser miscounts after a directive with
        // characters of more than one byte. Events, not `load`: that recurses.
        for event in Parser::new_from_iter(shown) {
            let (event, span) = event.map_err(Stop::Refused)?;
            if matches!(event, Event::DocumentEnd) && !self.guesses.is_empty() {
                return Err(Stop::WrongGuess);
            }
            self.take(event, span).map_err(Stop::Final)?;
        }
        Ok(())
    }

    /// Forgets the document that is read now.
    fn rewind(&mut self) {
        self.tree.truncate(self.before);
        self.open.clear();
        self.after = self.from;
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Error> {
        let start = self.cursor.byte(span.start.index());
        let at = start..self.cursor.byte(span.end.index()).max(start);
        match event {
            // The parser itself would let an alias reach into the document before.
            Event::DocumentStart(_) => self.anchors.clear(),
            Event::DocumentEnd => (self.from, self.before) = (start, self.tree.size()),
            Event::Alias(anchor) => {
                let target = self.anchors.get(&anchor).copied();
                let unknown = || refused(self.text, start, "unknown anchor");
                let alias = Value::Alias(target.ok_or_else(unknown)?);
                self.leaf(Node::new(at, alias, None), 0);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let text = match self.stand_ins {
                    Some(stand_ins) => stand_ins.read_back(&text),
                    None => text.into_owned(),
                };
                if text.starts_with(MARK) && matches!(style, ScalarStyle::Plain) && self.is_key() {
                    let message = "a byte order mark must not begin a key";
                    return Err(refused(self.text, start, message));
                }
                let value = Value::Text(text.into_boxed_str(), style_of(style));
                let node = Node::new(at, value, tag.as_deref().map(name));
                if matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted)
                    && let Some(site) = scalar::locate(self.text, &node)
                {
                    self.guesses.confirm(site.token);
                }
                self.leaf(node, anchor);
            }
            Event::SequenceStart(anchor, tag) => {
                let value = Value::List(Vec::new());
                self.open(Node::new(at, value, tag.as_deref().map(name)), anchor)?;
            }
            Event::MappingStart(anchor, tag) => {
                let value = Value::Map(Vec::new());
                self.open(Node::new(at, value, tag.as_deref().map(name)), anchor)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some((id, _)) = self.open.pop()
                    && let Some(end) = scalar::flow_end(self.text, start)
                {
                    self.guesses.confirm(self.tree.node(id).at.end..end);
                }
            }
            Event::StreamStart | Event::StreamEnd | Event::Nothing => {}
        }
        Ok(())
    }

    /// Whether what comes next is a map's key.
    fn is_key(&self) -> bool {
        let is_map = |id: &Id| matches!(self.tree.node(*id).value, Value::Map(_));
        matches!(self.open.last(), Some((id, None)) if is_map(id))
    }

    fn leaf(&mut self, node: Node, anchor: usize) {
        let end = node.at.end;
        self.add(node, anchor);
        self.after = end;
    }

    fn open(&mut self, node: Node, anchor: usize) -> Result<(), Error> {
        if self.open.len() >= MAX_DEPTH {
            let line = Lines::new(self.text).of(node.at.start);
            return Err(Error::TooDeep { line });
        }
        let id = self.add(node, anchor);
        self.open.push((id, None));
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize) -> Id {
        let after = self.after;
        let id = self
            .tree
            .add(Node { after, ..node }, self.open.last().copied());
        if anchor != 0 {
            self.anchors.insert(anchor, id);
        }
        self.turn(id);
        id
    }

    /// In a map, keys and values take turns.
    fn turn(&mut self, id: Id) {
        if let Some((parent, key)) = self.open.last_mut()
            && matches!(self.tree.node(*parent).value, Value::Map(_))
        {
            *key = match key {
                None => Some(id),
                Some(_) => None,
            };
        }
    }
}

fn name(tag: &Tag) -> Box<str> {
    format!("{}{}", tag.handle, tag.suffix).into_boxed_str()
}

fn style_of(style: ScalarStyle) -> Style {
    match style {
        ScalarStyle::Plain => Style::Plain,
        ScalarStyle::SingleQuoted => Style::Single,
        ScalarStyle::DoubleQuoted => Style::Double,
        ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
    }
}
