//! What the parser is shown where it is stricter than Kubernetes' parser.
//!
//! Many manifests break rules of YAML that Kubernetes' parser does not keep, and ours does:
//!
//! | what ours does not take | what it is shown |
//! |---|---|
//! | lines in quotes, or in a flow list or map, that are not indented deeper than their key, or by tabs | spaces before them |
//! | a tab alone behind a key's colon | a space before it |
//! | a `-` in a flow list that stands for itself | a [stand-in](StandIns), which is read back as a `-` |
//! | a byte-order mark in a text or a comment | a stand-in, too |
//! | a byte-order mark behind the line `---` | a line break |
//! | line breaks that only YAML 1.1 has | the one of YAML 1.2 |
//!
//! All but the last comes of an error: the parser stops, [`Leniency::help`] looks at what it stopped
//! for, and the document is [shown](Leniency::shown) to it again. Spaces go where they mean nothing,
//! so that the document says the same with them.
//!
//! As a pass for each such place takes too long, all like places of the document are helped at once.
//! Which lines are in quotes, or in flow lists and maps, is a guess then, by their looks. The
//! [`Guesses`] are right if the parser finds every one of these lines there; else the document is
//! read once more [without them](Leniency::without_guesses), place by place.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::iter::Peekable;
use std::ops::{Range, RangeInclusive};
use std::str::Chars;

use super::{MARK, refused};
use crate::manifests::{Error, LINE_BREAKS, scalar};

/// How many characters may be read again in all, and how many more for each byte of the text.
const PATIENCE: (usize, usize) = (50_000_000, 10);

/// How many spaces are enough before any line.
const WIDEST: usize = 1_000;

/// How the document that is read is shown to the parser. Characters count from the document's start.
pub(super) struct Leniency {
    /// Spaces, by the character that they stand before.
    spaces: BTreeMap<usize, usize>,
    /// What stands in a character's place.
    others: BTreeMap<usize, char>,
    /// What of these is read back.
    pub(super) stand_ins: Option<StandIns>,
    /// Before which lines there are spaces by a guess.
    pub(super) guesses: Guesses,
    /// In this document a guess was wrong, so there are no more.
    is_surprising: bool,
    /// How many characters may still be read again, in this document and those behind it.
    patience: usize,
}

impl Leniency {
    /// None yet: but for line breaks the text is shown as it is.
    pub(super) fn new(text: &str) -> Self {
        let more = text.len().saturating_mul(PATIENCE.1);
        Self::with(None, more.saturating_add(PATIENCE.0))
    }

    fn with(stand_ins: Option<StandIns>, patience: usize) -> Self {
        Self {
            spaces: BTreeMap::new(),
            others: BTreeMap::new(),
            stand_ins,
            guesses: Guesses::default(),
            is_surprising: false,
            patience,
        }
    }

    /// For another document of the text.
    pub(super) fn of_next_document(self) -> Self {
        Self::with(self.stand_ins, self.patience)
    }

    /// For the same document, once a guess was wrong.
    pub(super) fn without_guesses(self) -> Self {
        Self {
            is_surprising: true,
            ..self.of_next_document()
        }
    }

    /// What the parser sees of a text that begins with the document.
    pub(super) fn shown<'a>(&'a self, text: &'a str) -> Shown<'a> {
        Shown {
            chars: text.chars(),
            index: 0,
            spaces_left: 0,
            spaces: self.spaces.iter().peekable(),
            others: self.others.iter().peekable(),
        }
    }

    /// Shows more of the document in another way, so that the parser may get past the error that it
    /// `passed` the document to.
    ///
    /// # Errors
    /// The parser's error, if nothing helps against it or the document was read again too often.
    pub(super) fn help(
        &mut self,
        text: &str,
        passed: Range<usize>,
        message: &str,
    ) -> Result<(), Error> {
        if !self.amend(text, passed.clone(), message) {
            return Err(refused(text, passed.end, message));
        }
        let spaces = self.spaces.values();
        let cost = spaces.fold(passed.len(), |sum, spaces| sum.saturating_add(*spaces));
        let Some(left) = self.patience.checked_sub(cost) else {
            return Err(impatient(text, passed.end, message));
        };
        self.patience = left;
        Ok(())
    }

    /// Says whether there is anything that may help.
    fn amend(&mut self, text: &str, passed: Range<usize>, message: &str) -> bool {
        let at = passed.end;
        match message {
            "plain scalar cannot start with '-' followed by ,[]{}" => {
                self.stand_in_for_dashes(text, passed)
            }
            "a byte order mark must not appear inside a document"
                if follows_separator(text, at) =>
            {
                self.break_line(text, passed)
            }
            // Where a line starts it comes of a file that was appended, and for Kubernetes' parser it is
            // part of a key then.
            "a byte order mark must not appear inside a document" if line_start(text, at) < at => {
                self.stand_in_for_marks(text, passed)
            }
            _ => self.add_spaces(text, passed, message),
        }
    }

    /// Puts spaces before the places that the parser wants them for, or before all like lines of the
    /// document.
    fn add_spaces(&mut self, text: &str, passed: Range<usize>, message: &str) -> bool {
        let (mut places, line) = places_for_spaces(text, passed.end, message);
        if let Some(line) = line
            && !self.is_surprising
        {
            let document = text.get(..document_end(text, passed.end));
            let all = scalar::inner_lines(document.unwrap_or_default(), passed.start);
            let is_enough = self.spaces.values().any(|spaces| *spaces > WIDEST);
            if all.binary_search(&line).is_ok() && !is_enough {
                self.guesses.0.extend(&all);
                places = all;
            } else if self.guesses.is_empty() {
                self.is_surprising = true;
            } else {
                return false;
            }
        }
        let (mut byte, mut index) = (passed.start, 0);
        for place in &places {
            let between = text.get(byte..*place).unwrap_or_default();
            (byte, index) = (*place, index + between.chars().count());
            // What is still too few is more the next time.
            let spaces = self.spaces.entry(index).or_insert(1);
            *spaces = spaces.saturating_mul(4);
        }
        !places.is_empty()
    }

    /// Ends the line at the character that the parser stopped at, once.
    fn break_line(&mut self, text: &str, passed: Range<usize>) -> bool {
        let index = text.get(passed).unwrap_or_default().chars().count();
        self.others.insert(index, '\n').is_none()
    }

    /// Puts another character in the place of the dash that the parser stopped at, and of all others
    /// like it in the document. In quotes, blocks and comments it does no harm, for it is read back as
    /// a dash; nor outside of flow style, where a dash with one of `,[]{}` behind it begins a text for
    /// the parser, too.
    fn stand_in_for_dashes(&mut self, text: &str, passed: Range<usize>) -> bool {
        let Some(StandIns { dash, .. }) = self.stand_ins_for(text) else {
            return false;
        };
        let index = text.get(passed.clone()).unwrap_or_default().chars().count();
        // The next document may get leniency of its own, and then is looked through again.
        let behind = text.get(passed.end..document_end(text, passed.end));
        let mut chars = (index..).zip(behind.unwrap_or_default().chars()).peekable();
        let is_flow = |c: char| ",[]{}".contains(c);
        let known = self.others.len();
        let mut last = ' ';
        while let Some((index, c)) = chars.next() {
            let begins = c == '-' && (scalar::is_blank(last) || is_flow(last));
            if begins && chars.peek().is_some_and(|(_, next)| is_flow(*next)) {
                self.others.insert(index, dash);
            }
            last = c;
        }
        self.others.len() > known
    }

    /// Puts another character in the place of the byte-order mark that the parser stopped at, and of
    /// all others behind it in the document.
    fn stand_in_for_marks(&mut self, text: &str, passed: Range<usize>) -> bool {
        let Some(StandIns { mark, .. }) = self.stand_ins_for(text) else {
            return false;
        };
        let known = self.others.len();
        let end = document_end(text, passed.end);
        let document = text.get(passed.start..end).unwrap_or_default();
        let mut last = '\n';
        for (index, (byte, c)) in document.char_indices().enumerate() {
            if c == MARK && byte >= passed.len() && !LINE_BREAKS.contains(&last) {
                self.others.insert(index, mark);
            }
            last = c;
        }
        self.others.len() > known
    }

    fn stand_ins_for(&mut self, text: &str) -> Option<StandIns> {
        self.stand_ins = self.stand_ins.or_else(|| StandIns::unused(text));
        self.stand_ins
    }
}

/// The lines before which spaces stand by a guess, each by its first byte.
#[derive(Default, Clone)]
pub(super) struct Guesses(BTreeSet<usize>);

impl Guesses {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes out those in this scalar, list or map, where spaces at the start of a line mean nothing.
    pub(super) fn confirm(&mut self, here: Range<usize>) {
        while let Some(guess) = self.0.range(here.start..).next().copied()
            && guess < here.end
        {
            self.0.remove(&guess);
        }
    }
}

/// What stands for a dash, and what for a byte-order mark, that the parser does not take for a text.
/// They are not in the text, so that they can be read back.
#[derive(Clone, Copy)]
pub(super) struct StandIns {
    dash: char,
    mark: char,
}

impl StandIns {
    /// Of private use, and enough for any text that is not made to have them all.
    const ALL: RangeInclusive<char> = '\u{e000}'..='\u{e0ff}';

    /// Two that are not in the text, not even as escapes.
    fn unused(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let mut unused = Self::ALL.filter(|c| {
            let code = u32::from(*c);
            let escapes = [format!("\\u{code:04x}"), format!("\\u{code:08x}")];
            !text.contains(*c) && !escapes.iter().any(|escape| text.contains(escape))
        });
        let (dash, mark) = unused.next().zip(unused.next())?;
        Some(Self { dash, mark })
    }

    /// What a scalar says.
    pub(super) fn read_back(self, scalar: &str) -> String {
        scalar
            .replace(self.dash, "-")
            .replace(self.mark, "\u{feff}")
    }
}

/// The places where spaces help against what the parser stopped for `at` this place, and the first
/// line that is to blame, if lines are.
fn places_for_spaces(text: &str, at: usize, message: &str) -> (Vec<usize>, Option<usize>) {
    let line = line_start(text, at);
    match message {
        // These two are about flow lists and maps only, and spaces mean nothing there.
        "invalid indentation" | "invalid indentation in flow construct" => (vec![at], Some(line)),
        // A tab alone does not do for it.
        "':' must be followed by a valid YAML whitespace" => (vec![at], None),
        // What a quoted scalar's further lines start with is not part of it.
        "invalid indentation in quoted scalar" => {
            let lines = scalar::further_lines(text, at);
            let first = lines.first().copied();
            (lines, first)
        }
        "tab cannot be used as indentation" => (vec![line], Some(line)),
        // Outside of flow lists and maps Kubernetes' parser does not take tabs either.
        "tabs disallowed within this context (block indentation)" => (vec![], Some(line)),
        _ => (vec![], None),
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

/// Whether this is a byte-order mark behind the line that separates two documents: for Kubernetes a
/// stream begins there.
fn follows_separator(text: &str, at: usize) -> bool {
    let (before, behind) = text.split_at_checked(at).unwrap_or_default();
    let before = before.strip_prefix(MARK).unwrap_or(before);
    let line = before
        .strip_suffix('\n')
        .and_then(|before| before.rsplit('\n').next());
    let rest = line.and_then(|line| line.strip_prefix("---"));
    let rest = rest.map(str::trim_start);
    behind.starts_with(MARK) && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
}

/// What to say where the way around an error, which Kubernetes' parser does not have, is too long.
fn impatient(text: &str, at: usize, message: &str) -> Error {
    let way_out = "this and the like is in too many places of one document: mend them, or split it";
    refused(text, at, &format!("{message}; {way_out}"))
}

/// The text that the parser sees.
pub(super) struct Shown<'a> {
    chars: Chars<'a>,
    index: usize,
    /// Spaces to come before the next character.
    spaces_left: usize,
    spaces: Peekable<btree_map::Iter<'a, usize, usize>>,
    others: Peekable<btree_map::Iter<'a, usize, char>>,
}

impl Iterator for Shown<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        if let Some((_, spaces)) = self.spaces.next_if(|(at, _)| **at == self.index) {
            self.spaces_left = *spaces;
        }
        if self.spaces_left > 0 {
            self.spaces_left -= 1;
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

/// Turns the parser's counts of what it is shown into bytes of the text. They hardly ever go back, and
/// then not far.
#[derive(Default)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    byte: usize,
    /// The number of the character at `byte`.
    index: usize,
    /// Of each run of spaces that is only shown: the parser's count for the character behind it, that
    /// character's number, and how many spaces there are up to there.
    runs: Vec<(usize, usize, usize)>,
}

impl<'a> Cursor<'a> {
    /// For the document that starts at this byte.
    pub(super) fn new(text: &'a str, byte: usize, leniency: &Leniency) -> Self {
        let mut total = 0;
        let runs = leniency.spaces.iter().map(|(at, spaces)| {
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

    /// The byte of what the parser counts as `count`: a character, or a space before it.
    pub(super) fn byte(&mut self, count: usize) -> usize {
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
