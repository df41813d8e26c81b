//! Reads YAML with the place of every scalar.
//!
//! The parser's marks count characters; nodes get bytes. The parser also keeps a rule of YAML's
//! that Kubernetes' parser does not, and that many manifests break: what is in a flow list or map,
//! or in quotes, must be indented deeper than its key, and by spaces. Where the parser stops for
//! that it is run again, and spaces are slipped in that only it sees. Of line breaks it knows those
//! of YAML 1.2, and is shown one of them in the place of those that only YAML 1.1 has; nor does it
//! know a `-` in a flow list that stands for itself, and a byte-order mark in a document or behind
//! `---`.

use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map};
use std::iter::Peekable;
use std::ops::{Range, RangeInclusive};
use std::str::Chars;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::tree::{Id, MAX_DEPTH, Node, Style, Tree, Value};
use super::{Error, LINE_BREAKS, Lines, scalar};

/// How many characters may be read again in all, and how many more for each byte of the text.
const PATIENCE: (usize, usize) = (50_000_000, 10);

/// How many spaces are enough before any line.
const WIDEST: usize = 1_000;

/// What may stand for a `-` or a byte-order mark that the parser does not take for a text: of private
/// use, and enough for any text that is not made to have them all.
const STAND_INS: RangeInclusive<char> = '\u{e000}'..='\u{e0ff}';

const MARK: char = '\u{feff}';

/// What only the parser sees. Characters count from the start of the document that is read.
#[derive(Default)]
struct Slack {
    /// Spaces, by the character that they stand before.
    spaces: BTreeMap<usize, usize>,
    /// What stands in a character's place.
    others: BTreeMap<usize, char>,
    /// What of these stands for a dash, and what for a byte-order mark. They are not in the text, so
    /// that they can be read back.
    unused: Option<(char, char)>,
    /// The bytes before which spaces stand by a guess. They are right if all of them turn out to be
    /// in quotes, or in flow lists and maps: spaces at the start of a line mean nothing there.
    guesses: BTreeSet<usize>,
    /// In this document a guess was wrong, so there are no more.
    is_surprising: bool,
}

/// Reads all documents.
///
/// # Errors
/// [`Error::Yaml`] where the text is no YAML, [`Error::TooDeep`] where it nests too deep.
pub(super) fn read(text: &str) -> Result<Tree, Error> {
    let mut builder = Builder::new(text);
    let (mut from, mut slack) = (0, Slack::default());
    let mut patience = text
        .len()
        .saturating_mul(PATIENCE.1)
        .saturating_add(PATIENCE.0);
    loop {
        let stop = match builder.pass(&slack) {
            Ok(()) => return Ok(builder.tree),
            Err(stop) => stop,
        };
        // The parser stopped in another document than the last time.
        if builder.from > from {
            from = builder.from;
            slack = Slack {
                unused: slack.unused,
                ..Slack::default()
            };
        }
        let error = match stop {
            Stop::Final(error) => Some(error),
            Stop::Wrong => None,
            Stop::Refused(error) => {
                let at = builder.cursor.byte(error.marker().index());
                let is_helped = slip(&mut slack, text, from..at, error.info());
                let passed = at.saturating_sub(from);
                let cost = slack
                    .spaces
                    .values()
                    .fold(passed, |sum, spaces| sum.saturating_add(*spaces));
                match patience.checked_sub(cost) {
                    Some(left) if is_helped => {
                        patience = left;
                        builder.rewind();
                        continue;
                    }
                    None if is_helped => Some(impatient(text, at, error.info())),
                    _ => Some(refused(text, at, error.info())),
                }
            }
        };
        match error {
            Some(error) if slack.guesses.is_empty() => return Err(error),
            _ => {
                slack = Slack {
                    unused: slack.unused,
                    is_surprising: true,
                    ..Slack::default()
                };
                builder.rewind();
            }
        }
    }
}

/// Why the parser stopped.
enum Stop {
    Final(Error),
    Refused(ScanError),
    /// It did not, but spaces were slipped in where they may mean something.
    Wrong,
}

/// Slips in what may get the parser past the error that it `passed` the text to, if there is such a
/// place.
fn slip(slack: &mut Slack, text: &str, passed: Range<usize>, info: &str) -> bool {
    let mut places = match info {
        // These two are about flow lists and maps only, and spaces mean nothing there.
        "invalid indentation" | "invalid indentation in flow construct" => vec![passed.end],
        // A tab alone does not do for it.
        "':' must be followed by a valid YAML whitespace" => vec![passed.end],
        // What a quoted scalar's further lines start with is not part of it.
        "invalid indentation in quoted scalar" => scalar::further_lines(text, passed.end),
        "tab cannot be used as indentation" => vec![line_start(text, passed.end)],
        "plain scalar cannot start with '-' followed by ,[]{}" => {
            return stand_in_for_dashes(slack, text, passed);
        }
        "a byte order mark must not appear inside a document"
            if follows_separator(text, passed.end) =>
        {
            return stand_in(slack, text, passed, '\n');
        }
        // Where a line starts it comes of a file that was appended, and for Kubernetes' parser it is
        // part of a key then.
        "a byte order mark must not appear inside a document"
            if line_start(text, passed.end) < passed.end =>
        {
            return stand_in_for_marks(slack, text, passed);
        }
        _ => vec![],
    };
    if !slack.is_surprising
        && let Some(line) = line_of(text, passed.end, info, places.first())
    {
        // All like lines of the document at once, so that they don't take a pass each.
        let document = text.get(..document_end(text, passed.end));
        let all = scalar::inner_lines(document.unwrap_or_default(), passed.start);
        let is_enough = slack.spaces.values().any(|spaces| *spaces > WIDEST);
        if all.binary_search(&line).is_ok() && !is_enough {
            slack.guesses.extend(&all);
            places = all;
        } else if slack.guesses.is_empty() {
            slack.is_surprising = true;
        } else {
            return false;
        }
    }
    let (mut byte, mut index) = (passed.start, 0);
    for place in &places {
        let between = text.get(byte..*place).unwrap_or_default();
        (byte, index) = (*place, index + between.chars().count());
        // What is still too few is more the next time.
        let spaces = slack.spaces.entry(index).or_insert(1);
        *spaces = spaces.saturating_mul(4);
    }
    !places.is_empty()
}

/// The line that needs spaces for what the parser stopped for `at` this place, or the `first` of
/// them.
fn line_of(text: &str, at: usize, info: &str, first: Option<&usize>) -> Option<usize> {
    match info {
        // Outside of flow lists and maps Kubernetes' parser does not take tabs either.
        "invalid indentation"
        | "invalid indentation in flow construct"
        | "tab cannot be used as indentation"
        | "tabs disallowed within this context (block indentation)" => Some(line_start(text, at)),
        "invalid indentation in quoted scalar" => first.copied(),
        _ => None,
    }
}

fn line_start(text: &str, at: usize) -> usize {
    let before = text.get(..at).unwrap_or_default();
    let end = before
        .char_indices()
        .rfind(|(_, c)| LINE_BREAKS.contains(c));
    end.map_or(0, |(end, c)| end + c.len_utf8())
}

/// Where the document ends that this is in.
fn document_end(text: &str, at: usize) -> usize {
    let behind = text.get(at..).unwrap_or_default();
    let lines = behind.split_inclusive(LINE_BREAKS);
    let lines = lines.take_while(|line| !scalar::is_mark(line));
    at + lines.map(str::len).sum::<usize>()
}

/// Puts another character in the place of the one that the parser stopped at, once.
fn stand_in(slack: &mut Slack, text: &str, passed: Range<usize>, other: char) -> bool {
    let index = text.get(passed).unwrap_or_default().chars().count();
    slack.others.insert(index, other).is_none()
}

/// Puts another character in the place of the dash that the parser stopped at, and of all others
/// like it in the document, so that they don't take a pass each. In quotes, blocks and comments it
/// does no harm, for it is read back as a dash; nor outside of flow style, where a dash with one of
/// `,[]{}` behind it begins a text for the parser, too.
fn stand_in_for_dashes(slack: &mut Slack, text: &str, passed: Range<usize>) -> bool {
    slack.unused = slack.unused.or_else(|| unused(text));
    let Some((dash, _)) = slack.unused else {
        return false;
    };
    let index = text.get(passed.clone()).unwrap_or_default().chars().count();
    // The next document may get slack of its own, and then is looked through again.
    let behind = text.get(passed.end..document_end(text, passed.end));
    let mut chars = (index..).zip(behind.unwrap_or_default().chars()).peekable();
    let is_flow = |c: char| ",[]{}".contains(c);
    let known = slack.others.len();
    let mut last = ' ';
    while let Some((index, c)) = chars.next() {
        let begins = c == '-' && (scalar::is_blank(last) || is_flow(last));
        if begins && chars.peek().is_some_and(|(_, next)| is_flow(*next)) {
            slack.others.insert(index, dash);
        }
        last = c;
    }
    slack.others.len() > known
}

/// Puts another character in the place of the byte-order mark that the parser stopped at, and of all
/// others behind it in the document.
fn stand_in_for_marks(slack: &mut Slack, text: &str, passed: Range<usize>) -> bool {
    slack.unused = slack.unused.or_else(|| unused(text));
    let Some((_, mark)) = slack.unused else {
        return false;
    };
    let known = slack.others.len();
    let end = document_end(text, passed.end);
    let document = text.get(passed.start..end).unwrap_or_default();
    let behind = passed.end.saturating_sub(passed.start);
    let mut last = '\n';
    for (index, (byte, c)) in document.char_indices().enumerate() {
        if c == MARK && byte >= behind && !LINE_BREAKS.contains(&last) {
            slack.others.insert(index, mark);
        }
        last = c;
    }
    slack.others.len() > known
}

/// Two of [`STAND_INS`] that are not in the text, not even as escapes.
fn unused(text: &str) -> Option<(char, char)> {
    let text = text.to_ascii_lowercase();
    let mut unused = STAND_INS.filter(|c| {
        let code = u32::from(*c);
        let escapes = [format!("\\u{code:04x}"), format!("\\u{code:08x}")];
        !text.contains(*c) && !escapes.iter().any(|escape| text.contains(escape))
    });
    unused.next().zip(unused.next())
}

/// Whether this is a byte-order mark behind the line that separates two documents: for Kubernetes a
/// stream begins there.
fn follows_separator(text: &str, at: usize) -> bool {
    let (before, behind) = text.split_at_checked(at).unwrap_or_default();
    let before = before.strip_prefix('\u{feff}').unwrap_or(before);
    let line = before
        .strip_suffix('\n')
        .and_then(|before| before.rsplit('\n').next());
    let rest = line.and_then(|line| line.strip_prefix("---"));
    let rest = rest.map(str::trim_start);
    behind.starts_with('\u{feff}')
        && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
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

/// What to say where the way around an error, which Kubernetes' parser does not have, is too long.
fn impatient(text: &str, at: usize, message: &str) -> Error {
    let way_out = "this and the like is in too many places of one document: mend them, or split it";
    refused(text, at, &format!("{message}; {way_out}"))
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
    /// What the parser sees in the place of some dashes and byte-order marks.
    unused: Option<(char, char)>,
    /// Which of the slack's guesses have not been found right yet.
    guesses: BTreeSet<usize>,
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
            unused: None,
            guesses: BTreeSet::new(),
        }
    }

    /// Reads from the document that the last pass stopped in to the end.
    fn pass(&mut self, slack: &Slack) -> Result<(), Stop> {
        self.cursor = Cursor::new(self.text, self.from, slack);
        let chars = Slipped {
            chars: self.text.get(self.from..).unwrap_or_default().chars(),
            index: 0,
            spaces: 0,
            slack: slack.spaces.iter().peekable(),
            others: slack.others.iter().peekable(),
        };
        self.unused = slack.unused;
        self.guesses.clone_from(&slack.guesses);
        // From characters, not from the string: there the parser miscounts after a directive with
        // characters of more than one byte. Events, not `load`: that recurses.
        for event in Parser::new_from_iter(chars) {
            let (event, span) = event.map_err(Stop::Refused)?;
            if matches!(event, Event::DocumentEnd) && !self.guesses.is_empty() {
                return Err(Stop::Wrong);
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
                let text = match self.unused {
                    Some((dash, mark)) => text.replace(dash, "-").replace(mark, "\u{feff}"),
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
                    self.confirm(site.token);
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
                    self.confirm(self.tree.node(id).at.end..end);
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

    /// What was slipped in here is in quotes, or in a flow list or map.
    fn confirm(&mut self, here: Range<usize>) {
        while let Some(guess) = self.guesses.range(here.start..).next().copied()
            && guess < here.end
        {
            self.guesses.remove(&guess);
        }
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

/// The text that the parser sees.
struct Slipped<'a> {
    chars: Chars<'a>,
    index: usize,
    /// Spaces to come before the next character.
    spaces: usize,
    slack: Peekable<btree_map::Iter<'a, usize, usize>>,
    others: Peekable<btree_map::Iter<'a, usize, char>>,
}

impl Iterator for Slipped<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        if let Some((_, spaces)) = self.slack.next_if(|(at, _)| **at == self.index) {
            self.spaces = *spaces;
        }
        if self.spaces > 0 {
            self.spaces -= 1;
            return Some(' ');
        }
        let other = self.others.next_if(|(at, _)| **at == self.index);
        self.index += 1;
        match other.map_or(self.chars.next()?, |(_, other)| *other) {
            // The two are one, and no other two are.
            '\r' if self.chars.as_str().starts_with('\n') => Some('\r'),
            c if LINE_BREAKS.contains(&c) => Some('\n'),
            c => Some(c),
        }
    }
}

/// Turns the parser's counts into bytes. They hardly ever go back, and then not far.
#[derive(Default)]
struct Cursor<'a> {
    text: &'a str,
    byte: usize,
    /// The number of the character at `byte`.
    index: usize,
    /// Of each run of slipped in spaces: the parser's count for the character behind it, that
    /// character's number, and how many spaces there are up to there.
    runs: Vec<(usize, usize, usize)>,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str, byte: usize, slack: &Slack) -> Self {
        let mut total = 0;
        let runs = slack.spaces.iter().map(|(at, spaces)| {
            total += spaces;
            (at + total, *at, total)
        });
        Self {
            text,
            byte,
            index: 0,
            runs: runs.collect(),
        }
    }

    /// The byte of what the parser counts as `count`: a character, or a space slipped in before it.
    fn byte(&mut self, count: usize) -> usize {
        let passed = self.runs.partition_point(|(behind, ..)| *behind <= count);
        let run = passed.checked_sub(1).and_then(|run| self.runs.get(run));
        let index = count - run.map_or(0, |(.., total)| *total);
        self.walk(
            self.runs
                .get(passed)
                .map_or(index, |(_, at, _)| index.min(*at)),
        );
        self.byte
    }

    fn walk(&mut self, index: usize) {
        let (before, behind) = self.text.split_at_checked(self.byte).unwrap_or_default();
        if index >= self.index {
            let passed = behind.chars().take(index - self.index);
            self.byte += passed.map(char::len_utf8).sum::<usize>();
        } else {
            let passed = before.chars().rev().take(self.index - index);
            self.byte -= passed.map(char::len_utf8).sum::<usize>();
        }
        self.index = index;
    }
}
