//! Text to rules: one line at a time, nothing lost, each line either a rule, empty, or a diagnostic.

use std::borrow::Cow;
use std::ops::Range;

use super::book::{Draft, Kind, Part};
use super::diagnostic::{Diagnostic, Place};

/// What a file says, in file order.
#[derive(Debug)]
pub(super) enum Line<'a> {
    /// A rule, perhaps with warnings.
    Rule(Draft<'a>, Vec<Diagnostic>),
    /// A line in error.
    Error(Box<Diagnostic>),
}

/// Reads a map file. Empty lines and comments yield nothing.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    raw_lines(bytes).enumerate().filter_map(|(i, raw)| {
        let read = match std::str::from_utf8(raw) {
            Ok(line) => Reader {
                number: i + 1,
                line,
            }
            .read(),
            Err(error) => Err(not_utf8(i + 1, raw, error.valid_up_to())),
        };
        match read {
            Ok(None) => None,
            Ok(Some((draft, warnings))) => Some(Line::Rule(draft, warnings)),
            Err(error) => Some(Line::Error(error)),
        }
    })
}

/// LF, CRLF and CR each end a line.
fn raw_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) else {
            rest = None;
            return Some(bytes);
        };
        let (line, behind) = bytes.split_at_checked(end)?;
        rest = behind.strip_prefix(b"\r\n").or_else(|| behind.get(1..));
        Some(line)
    })
}

fn not_utf8(number: usize, raw: &[u8], valid: usize) -> Box<Diagnostic> {
    let line = String::from_utf8_lossy(raw);
    let end = line.len().min(valid + '\u{fffd}'.len_utf8());
    let place = Place::new(number, &line, valid..end, "not UTF-8");
    let message = "the line is not UTF-8";
    Box::new(Diagnostic::error("not-utf8", place, message).help("save the file as UTF-8"))
}

/// One line being read.
struct Reader<'a> {
    number: usize,
    line: &'a str,
}

type Read<'a> = Result<Option<(Draft<'a>, Vec<Diagnostic>)>, Box<Diagnostic>>;

impl<'a> Reader<'a> {
    fn read(&self) -> Read<'a> {
        let text = match memchr::memchr(b'#', self.line.as_bytes()) {
            Some(comment) => self.line.get(..comment).unwrap_or_default(),
            None => self.line,
        };
        let text = text.trim_end();
        let start = text.len() - text.trim_start().len();
        if start == text.len() {
            return Ok(None);
        }
        let (prefix, key_start) = self.prefix(text, start)?;
        let (key, value, old) = self.separate(text, key_start)?;
        let key_text = text.get(key.clone()).unwrap_or_default();
        if key_text.is_empty() {
            let at = start..value.start;
            let message = "nothing stands before the \"::\"";
            return Err(self.error("empty-key", at, message, "write KEY::VALUE"));
        }
        let kind = prefix.unwrap_or(match without_blanks(key_text).as_ref() {
            "default" => Kind::Default,
            "noswap_wildcards" => Kind::Noswap,
            _ => Kind::Registry,
        });
        let mut warnings = Vec::new();
        if old {
            warnings.push(self.old_separator(text, start, &key, &value));
        }
        let draft = Draft {
            kind,
            line: self.number,
            text,
            key: self.part(text, key, &mut warnings),
            value: match kind {
                // Blanks between the items of a list say nothing.
                Kind::Noswap if !has_inner_blank(text.get(value.clone()).unwrap_or_default()) => {
                    Part {
                        range: value,
                        says: None,
                    }
                }
                _ => self.part(text, value, &mut warnings),
            },
        };
        Ok(Some((draft, warnings)))
    }

    /// `[EXACT]` or `[REPLACE]`, and where the key behind it starts.
    fn prefix(&self, text: &str, start: usize) -> Result<(Option<Kind>, usize), Box<Diagnostic>> {
        let line = text.get(start..).unwrap_or_default();
        let Some((word, _)) = line.strip_prefix('[').and_then(|l| l.split_once(']')) else {
            return Ok((None, start));
        };
        let end = start + word.len() + 2;
        match without_blanks(word).as_ref() {
            "EXACT" => Ok((Some(Kind::Exact), end)),
            "REPLACE" => Ok((Some(Kind::Replace), end)),
            // An IPv6 address.
            _ if address_length(line).is_some() => Ok((None, start)),
            _ => {
                let help = match word.trim().to_ascii_uppercase().as_str() {
                    "EXACT" => "write [EXACT], in upper case",
                    "REPLACE" => "write [REPLACE], in upper case",
                    _ => "the prefixes are [EXACT] and [REPLACE]",
                };
                let message = format!("[{word}] is no prefix of this language");
                Err(self.error("unknown-prefix", start..end, message, help))
            }
        }
    }

    /// Where key and value stand, and whether the deprecated `:` parts them.
    fn separate(
        &self,
        text: &str,
        from: usize,
    ) -> Result<(Range<usize>, Range<usize>, bool), Box<Diagnostic>> {
        let marks = Marks::find(text, from);
        let (key_end, value_start, old) = match (marks.double, marks.singles.as_slice()) {
            ((Some(_), Some(second)), _) => {
                return Err(self.error(
                    "second-separator",
                    second..second + 2,
                    "a second \"::\"",
                    "a line is one KEY::VALUE; start a new line for another",
                ));
            }
            ((Some(first), None), _) => (first, first + 2, false),
            (_, [single]) => (*single, single + 1, true),
            (_, []) => {
                return Err(self.error(
                    "no-separator",
                    text.len() - text.trim_start().len()..text.len(),
                    "there is no \"::\" in the line",
                    "write KEY::VALUE; REGISTRY:: alone means: do not swap",
                ));
            }
            (_, [.., last]) => {
                return Err(self.error(
                    "single-colon",
                    *last..last + 1,
                    "single colons are ports or tags: the line needs \"::\" between key and value",
                    "write KEY::VALUE, for example registry.example.com:5000::mirror.example.com",
                ));
            }
        };
        let key = trimmed(text, from..key_end);
        let value = trimmed(text, value_start..text.len());
        Ok((key, value, old))
    }

    fn old_separator(
        &self,
        text: &str,
        start: usize,
        key: &Range<usize>,
        value: &Range<usize>,
    ) -> Diagnostic {
        let prefix = text.get(start..key.start).unwrap_or_default();
        let key = text.get(key.clone()).unwrap_or_default();
        let between = text.len() - text.get(value.start..).unwrap_or_default().len();
        let value = text.get(value.clone()).unwrap_or_default();
        let place = self.place(start..between, "");
        Diagnostic::warning(
            "old-separator",
            place,
            "\":\" between key and value is deprecated",
        )
        .help(format!("write {prefix}{key}::{value}"))
    }

    /// A key or a value. As in 1.5.3, blanks inside it say nothing.
    fn part(&self, text: &str, range: Range<usize>, warnings: &mut Vec<Diagnostic>) -> Part<'a> {
        let says = text.get(range.clone()).unwrap_or_default();
        if memchr::memchr(b' ', says.as_bytes()).is_none() {
            return Part { range, says: None };
        }
        let says = says.replace(' ', "");
        let place = self.place(range.clone(), "");
        warnings.push(
            Diagnostic::warning("inner-blank", place, "the blanks in here are dropped")
                .help(format!("write {says}")),
        );
        Part {
            range,
            says: Some(Cow::Owned(says)),
        }
    }

    fn error(
        &self,
        code: &'static str,
        range: Range<usize>,
        message: impl Into<String>,
        help: &str,
    ) -> Box<Diagnostic> {
        Box::new(Diagnostic::error(code, self.place(range, ""), message).help(help))
    }

    fn place(&self, range: Range<usize>, label: &str) -> Place {
        Place::new(self.number, self.line, range, label)
    }
}

/// The colons that part things in a line; those of an IPv6 address in brackets part nothing.
struct Marks {
    /// The first two `::`.
    double: (Option<usize>, Option<usize>),
    /// Every other colon.
    singles: Vec<usize>,
}

impl Marks {
    fn find(text: &str, from: usize) -> Self {
        let mut marks = Self {
            double: (None, None),
            singles: Vec::new(),
        };
        let mut at = from;
        while let Some(rest) = text.get(at..)
            && let Some(next) = memchr::memchr2(b':', b'[', rest.as_bytes())
        {
            at += next;
            let rest = rest.get(next..).unwrap_or_default();
            if rest.starts_with("::") {
                match marks.double {
                    (None, _) => marks.double.0 = Some(at),
                    (_, None) => marks.double.1 = Some(at),
                    _ => {}
                }
                at += 2;
            } else if rest.starts_with(':') {
                marks.singles.push(at);
                at += 1;
            } else {
                at += address_length(rest).unwrap_or(1);
            }
        }
        marks
    }
}

/// The length of the IPv6 address in brackets that a text begins with.
fn address_length(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('[')?;
    let can_be = |b: u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'.');
    let length = inside
        .bytes()
        .take(MAX_ADDRESS)
        .take_while(|b| can_be(*b))
        .count();
    let (address, behind) = inside.split_at_checked(length)?;
    (address.contains(':') && behind.starts_with(']')).then_some(length + 2)
}

/// More than any IPv6 address has.
const MAX_ADDRESS: usize = 64;

fn without_blanks(text: &str) -> Cow<'_, str> {
    match text.contains(' ') {
        true => Cow::Owned(text.replace(' ', "")),
        false => Cow::Borrowed(text),
    }
}

/// Whether a blank stands inside an item of a list.
fn has_inner_blank(list: &str) -> bool {
    list.split(',').any(|item| item.trim().contains(' '))
}

fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let part = text.get(range.clone()).unwrap_or_default();
    let start = range.start + (part.len() - part.trim_start().len());
    start..start + part.trim().len()
}
