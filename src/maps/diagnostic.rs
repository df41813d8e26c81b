//! What is wrong with a map file, said as a compiler would: file, line, column, the text
//! underlined, and a help line.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

use crate::text::visible;

/// The most of a line that is kept to be shown, in bytes.
const MAX_SHOWN: usize = 400;

/// Columns are counted up to here: a line of megabytes may have thousands of findings.
const MAX_COLUMN: usize = 10_000;

/// How many errors are listed, and how many warnings; more are only counted.
const MAX_LISTED: usize = 10_000;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The line is understood, but hardly meant.
    Warning,
    /// The line is no rule: `serve` skips it, `check` fails.
    Error,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// A stable name for the kind of finding.
    pub code: &'static str,
    /// What happened, in one sentence.
    pub message: String,
    /// Where.
    pub place: Place,
    /// Where else one must look to see it.
    pub also: Vec<Place>,
    /// What to do.
    pub help: Option<String>,
}

/// What one look at a map file finds. The first 10,000 errors and as many warnings are kept and the others counted: the
/// file must not take the memory of the webhook.
#[derive(Debug, Default)]
pub struct Findings {
    listed: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
}

/// A stretch of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// The line's text, or as much of it as is worth showing.
    pub text: String,
    /// The bytes of `text` that are meant.
    pub range: Range<usize>,
    /// Where they begin in the whole line, counted in characters, from 1.
    pub column: usize,
    /// What to say of them; may be empty.
    pub label: String,
}

/// A finding as `check -o json` prints it, one a line.
#[derive(Debug, Serialize)]
pub struct Record<'a> {
    file: &'a str,
    line: usize,
    column: usize,
    severity: Severity,
    code: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    other_lines: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'a str>,
}

// === impl Diagnostic ===

impl Findings {
    /// Lists an error, or counts it if there are more than anybody reads.
    pub(super) fn error(&mut self, found: impl FnOnce() -> Diagnostic) {
        self.errors += 1;
        if self.errors <= MAX_LISTED {
            self.listed.push(found());
        }
    }

    /// As [`Findings::error`], of a warning: many of these hide no error.
    pub(super) fn warning(&mut self, found: impl FnOnce() -> Diagnostic) {
        self.warnings += 1;
        if self.warnings <= MAX_LISTED {
            self.listed.push(found());
        }
    }

    /// Puts those of another look behind these; each lists its own.
    pub fn append(&mut self, mut others: Self) {
        self.listed.append(&mut others.listed);
        self.errors += others.errors;
        self.warnings += others.warnings;
    }

    /// In the order of the lines, as far as they are listed.
    pub fn sort(&mut self) {
        self.listed.sort_by_key(|found| found.place.line);
    }

    /// Those that are listed.
    pub fn listed(&self) -> &[Diagnostic] {
        &self.listed
    }

    /// How many are not.
    pub fn unlisted(&self) -> usize {
        self.errors + self.warnings - self.listed.len()
    }

    /// How many warnings there are, listed or not.
    pub fn warnings(&self) -> usize {
        self.warnings
    }

    /// So many of the errors, and so many of the warnings: in the order of the lines.
    pub fn first(
        &self,
        mut errors: usize,
        mut warnings: usize,
    ) -> impl Iterator<Item = &Diagnostic> {
        self.listed.iter().filter(move |found| {
            let left = match found.severity {
                Severity::Error => &mut errors,
                Severity::Warning => &mut warnings,
            };
            let is_shown = *left > 0;
            *left = left.saturating_sub(1);
            is_shown
        })
    }

    /// The first line in error.
    pub fn first_error(&self) -> Option<&Diagnostic> {
        let mut found = self.listed.iter();
        found.find(|found| found.severity == Severity::Error)
    }
}

impl Diagnostic {
    pub(super) fn new(
        severity: Severity,
        code: &'static str,
        place: Place,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            code,
            message: message.into(),
            place,
            also: Vec::new(),
            help: None,
        }
    }

    pub(super) fn error(code: &'static str, place: Place, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, place, message)
    }

    pub(super) fn warning(code: &'static str, place: Place, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, place, message)
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn also(mut self, place: Place) -> Self {
        self.also.push(place);
        self
    }

    /// As a compiler would print it, with or without colour, ending in a line break.
    pub fn render(&self, file: &str, color: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = level
            .primary_title(visible(&self.message))
            .id(self.code)
            .element(self.place.snippet(file, AnnotationKind::Primary));
        for place in &self.also {
            group = group.element(place.snippet(file, AnnotationKind::Context));
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(visible(help)));
        }
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        // The renderer shows other control characters of the file, and counts one column for each of these, too.
        let is_c1 = |c| ('\u{80}'..='\u{9f}').contains(&c);
        let mut text = renderer.render(&[group]).replace(is_c1, "\u{fffd}");
        text.push('\n');
        text
    }

    /// For machines.
    pub fn record<'a>(&'a self, file: &'a str) -> Record<'a> {
        Record {
            file,
            line: self.place.line,
            column: self.place.column,
            severity: self.severity,
            code: self.code,
            message: &self.message,
            other_lines: self.also.iter().map(|place| place.line).collect(),
            help: self.help.as_deref(),
        }
    }
}

// === impl Place ===

impl Place {
    /// `range` are bytes of `text`; what lies beyond the part worth showing is cut off.
    pub(super) fn new(line: usize, text: &str, range: Range<usize>, label: &str) -> Self {
        let before = text.get(..range.start).unwrap_or(text);
        let column = before.chars().take(MAX_COLUMN).count() + 1;
        let text = match text.char_indices().find(|(at, _)| *at >= MAX_SHOWN) {
            Some((end, _)) => text.get(..end).unwrap_or_default(),
            None => text,
        };
        let end = range.end.min(text.len());
        Self {
            line,
            text: text.to_owned(),
            range: range.start.min(end)..end,
            column,
            label: label.to_owned(),
        }
    }

    fn snippet<'a>(
        &'a self,
        file: &'a str,
        kind: AnnotationKind,
    ) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let label = (!self.label.is_empty()).then_some(self.label.as_str());
        Snippet::source(self.text.as_str())
            .path(file)
            .line_start(self.line)
            .annotation(kind.span(self.range.clone()).label(label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_of_a_file_reaches_a_terminal() {
        let line = "a\u{9b}2J\u{85}b\u{1b}c";
        let place = || Place::new(1, line, 7..8, "here");
        let found = Diagnostic::error("code", place(), line).help(line);
        let text = found.also(place()).render("file", false);
        let is_shown = |c: char| c == '\n' || !c.is_control();
        assert!(text.chars().all(is_shown), "{text:?}");
        // And what is underlined is what was meant.
        let lines: Vec<_> = text.lines().collect();
        let at = lines.iter().position(|line| line.contains('^')).unwrap();
        let column = lines[at].chars().position(|c| c == '^').unwrap();
        assert_eq!(lines[at - 1].chars().nth(column), Some('b'), "{text}");
    }
}
