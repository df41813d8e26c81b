//! A YAML scalar's bytes: finds them, and writes others in their place.
//!
//! A node's span is not its scalar's bytes. It starts at the anchor or tag, a quoted scalar's runs
//! on over blanks and a comment behind it, and a block scalar's starts at its content and ends in
//! the line after.

use std::ops::Range;

use super::LINE_BREAKS;
use super::tree::{Node, Style, Value};

/// Where the parts of a scalar or alias stand.
#[derive(Debug, Default)]
pub(super) struct Site {
    /// The tag before it; empty without one.
    pub(super) tag: Range<usize>,
    /// What a new scalar takes the place of; of a block scalar only `|` or `>` with its indicators,
    /// so that a comment behind them stays.
    pub(super) token: Range<usize>,
    /// The lines of a block scalar's content, from the line break before them; else empty.
    pub(super) body: Range<usize>,
}

/// The bytes of a scalar or alias that is a map's value; `None` if they are not what the parser
/// said.
pub(super) fn locate(text: &str, node: &Node) -> Option<Site> {
    let mut scan = Scan {
        text,
        at: node.at.start,
    };
    if let Value::Text(_, Style::Block) = node.value {
        scan.at = node.after;
        scan.gap();
        scan.eat(":");
    }
    let tag = scan.properties();
    let start = scan.at;
    let (Value::Text(_, style), first) = (&node.value, scan.peek()?) else {
        return alias(scan.peek()?, node);
    };
    match (style, first) {
        (Style::Plain, _) => scan.at = node.at.end,
        (Style::Single, '\'') => scan.single(),
        (Style::Double, '"') => scan.double(),
        (Style::Block, '|' | '>') => scan.eat("|>+-0123456789"),
        _ => return None,
    }
    let token = start..scan.at;
    let body = match style {
        Style::Block => scan.body(node.at.end),
        _ => 0..0,
    };
    Some(Site { tag, token, body })
}

fn alias(first: char, node: &Node) -> Option<Site> {
    (first == '*').then(|| Site {
        token: node.at.clone(),
        ..Site::default()
    })
}

/// Walks the text.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t') || LINE_BREAKS.contains(&c)
}

impl Scan<'_> {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at..)?.chars().next()
    }

    fn step(&mut self) {
        self.at += self.peek().map_or(1, char::len_utf8);
    }

    fn skip(&mut self, while_: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&while_) {
            self.step();
        }
    }

    fn eat(&mut self, any_of: &str) {
        self.skip(|c| any_of.contains(c));
    }

    /// Blanks, line breaks and comments.
    fn gap(&mut self) {
        self.skip(is_blank);
        while self.peek() == Some('#') {
            self.line();
            self.skip(is_blank);
        }
    }

    fn line(&mut self) {
        self.skip(|c| !LINE_BREAKS.contains(&c));
    }

    /// Passes over anchor and tag, and says where the tag is.
    fn properties(&mut self) -> Range<usize> {
        let mut tag = 0..0;
        loop {
            self.gap();
            let start = self.at;
            match self.peek() {
                Some('&') => self.word(),
                Some('!') => {
                    let tag_on = self.text.get(start..).unwrap_or_default();
                    if tag_on.starts_with("!<") {
                        self.skip(|c| c != '>');
                    }
                    self.word();
                    tag = start..self.at;
                }
                _ => return tag,
            }
        }
    }

    fn word(&mut self) {
        self.skip(|c| !is_blank(c) && !",[]{}".contains(c));
    }

    /// Whether what comes after this character makes an indicator of it.
    fn is_separator(&self, in_flow: bool) -> bool {
        let mut behind = self.text.get(self.at..).unwrap_or_default().chars();
        let next = behind.nth(1);
        next.is_none_or(|c| is_blank(c) || in_flow && ",[]{}".contains(c))
    }

    /// The rest of the line, as far as a scalar without quotes reaches in it.
    fn plain(&mut self, in_flow: bool) {
        let mut last = None;
        while let Some(c) = self.peek() {
            let ends = match c {
                ':' => self.is_separator(in_flow),
                '#' => last.is_some_and(is_blank),
                c => LINE_BREAKS.contains(&c) || in_flow && ",[]{}".contains(c),
            };
            if ends && last.is_some() {
                return;
            }
            last = Some(c);
            self.step();
        }
    }

    /// A block scalar from its header on, with all lines that are indented so far, or blank.
    fn block(&mut self, least: usize) {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let mut lines = rest.split_inclusive(LINE_BREAKS);
        let header = lines.next().map_or(0, str::len);
        let is_content = |line: &&str| {
            let content = line.trim_start_matches(' ');
            line.len() - content.len() >= least || content.chars().all(is_blank)
        };
        let body: usize = lines.take_while(is_content).map(str::len).sum();
        self.at += header + body;
    }

    fn quoted(&mut self) {
        match self.peek() {
            Some('\'') => self.single(),
            Some('"') => self.double(),
            _ => {}
        }
    }

    /// From one `'` behind the other; a doubled one is text.
    fn single(&mut self) {
        loop {
            self.step();
            self.skip(|c| c != '\'');
            self.step();
            if self.peek() != Some('\'') {
                return;
            }
        }
    }

    /// From one `"` behind the other; what follows a backslash is text.
    fn double(&mut self) {
        self.step();
        self.skip(|c| c != '"' && c != '\\');
        while self.peek() == Some('\\') {
            self.step();
            self.step();
            self.skip(|c| c != '"' && c != '\\');
        }
        self.step();
    }

    /// A block scalar's content, from the end of its header's line to the end of the last line that
    /// is not blank. Blank lines after it are harmless and stay.
    fn body(&mut self, end: usize) -> Range<usize> {
        self.line();
        let start = self.at;
        let content = self.text.get(start..end).unwrap_or_default();
        let content = content.trim_end_matches(is_blank);
        if content.is_empty() {
            return start..start;
        }
        self.at = start + content.len();
        self.line();
        start..self.at
    }
}

/// Where the further lines start of the quoted scalar that starts `at`; not those that would end
/// the document.
pub(super) fn further_lines(text: &str, at: usize) -> Vec<usize> {
    let mut scan = Scan { text, at };
    scan.quoted();
    let quoted = text.get(at..scan.at).unwrap_or_default();
    let starts = quoted
        .match_indices(LINE_BREAKS)
        .map(|(end, found)| at + end + found.len());
    let is_line = |start: &usize| {
        let line = text.get(*start..).unwrap_or_default();
        !line.starts_with('\n') && !is_mark(line)
    };
    starts.filter(is_line).collect()
}

/// Whether a line ends a document, or begins one.
pub(super) fn is_mark(line: &str) -> bool {
    let mark = line.strip_prefix("---").or(line.strip_prefix("..."));
    mark.is_some_and(|rest| rest.is_empty() || rest.starts_with(is_blank))
}

/// Where lines start inside of quotes and of flow lists and maps, in the document that starts
/// `from` there and ends with the text. That is a guess: a text without quotes that goes on in
/// another line may look like something else.
pub(super) fn inner_lines(text: &str, from: usize) -> Vec<usize> {
    let mut scan = Scan { text, at: from };
    let (mut lines, mut line, mut depth) = (Vec::new(), from, 0_usize);
    // How deep a block scalar is indented at least.
    let mut least = 0;
    while let Some(c) = scan.peek() {
        let start = scan.at;
        let deeper = || text.get(line..start).unwrap_or_default().chars().count() + 1;
        match c {
            c if LINE_BREAKS.contains(&c) => {
                scan.step();
                line = scan.at;
                if depth > 0 && scan.peek() != Some('\n') {
                    lines.push(line);
                }
            }
            ' ' | '\t' => scan.step(),
            '#' => scan.line(),
            '&' | '*' | '!' => scan.word(),
            '[' | '{' => {
                scan.step();
                depth += 1;
            }
            ']' | '}' => {
                scan.step();
                depth = depth.saturating_sub(1);
            }
            ',' if depth > 0 => scan.step(),
            '"' | '\'' => {
                least = deeper();
                scan.quoted();
                lines.extend(further_lines(text, start));
            }
            '|' | '>' if depth == 0 => {
                scan.block(least);
                line = scan.at;
            }
            ':' if scan.is_separator(depth > 0) => scan.step(),
            '-' | '?' if scan.is_separator(false) => {
                least = deeper();
                scan.step();
            }
            _ => {
                least = deeper();
                scan.plain(depth > 0);
            }
        }
    }
    lines
}

/// Where the flow list or map ends whose end the parser has `at` that place: there, or behind a comma.
pub(super) fn flow_end(text: &str, at: usize) -> Option<usize> {
    let mut scan = Scan { text, at };
    scan.eat(",");
    scan.gap();
    let is_end = matches!(scan.peek(), Some(']' | '}'));
    is_end.then_some(scan.at + 1)
}

/// `text` as a scalar in `style`, or in double quotes where that style cannot hold it.
pub(super) fn write(text: &str, style: Style) -> String {
    match style {
        Style::Plain | Style::Block if is_plain(text) => text.to_owned(),
        Style::Single if text.chars().all(is_printable) => {
            format!("'{}'", text.replace('\'', "''"))
        }
        _ => double_quoted(text),
    }
}

/// The scalar as it was written, for a place elsewhere in its document; in double quotes where it
/// could not stand everywhere.
pub(super) fn copy(text: &str, node: &Node, site: &Site) -> String {
    let Value::Text(value, style) = &node.value else {
        return String::new();
    };
    let token = text.get(site.token.clone()).unwrap_or_default();
    let bound = match style {
        Style::Plain => token.contains(LINE_BREAKS) || token.contains([',', '[', ']', '{', '}']),
        Style::Block => true,
        _ => token.contains(LINE_BREAKS),
    };
    let scalar = match bound {
        true => double_quoted(value),
        false => token.to_owned(),
    };
    match text.get(site.tag.clone()) {
        None | Some("") => scalar,
        Some(tag) => format!("{tag} {scalar}"),
    }
}

/// Whether `text` may stand without quotes, in a flow list as well, and is then read as a string by
/// YAML 1.1 as well. Quoting more than is needed does no harm.
fn is_plain(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || "-._/:@+".contains(c);
    let number = |c: char| c.is_ascii_hexdigit() || "xXoOtTzZ-._:+".contains(c);
    let reserved = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(word)
        && !text.ends_with(':')
        && !(text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(number))
        && !reserved.iter().any(|word| text.eq_ignore_ascii_case(word))
}

fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        )
}

fn double_quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c if is_printable(c) => quoted.push(c),
            // All that is not printable is below U+10000.
            c => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}
