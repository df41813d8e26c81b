//! Texts for people: cut, escaped, dated, counted, an error with its causes; and a digest.

use std::borrow::Cow;
use std::fmt::Write as _;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The first characters of a text, at most this many.
pub(crate) fn shortened(text: &str, characters: usize) -> &str {
    // Most are, and no character takes less than a byte.
    if text.len() <= characters {
        return text;
    }
    match text.char_indices().nth(characters) {
        Some((end, _)) => text.get(..end).unwrap_or_default(),
        None => text,
    }
}

/// A text with its control characters as escapes, so that none of them does anything to a terminal.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c.is_control() {
            true => shown.extend(c.escape_debug()),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// A date as all else shows it, to the second (RFC 3339).
pub(crate) fn rfc3339(at: OffsetDateTime) -> String {
    let whole = at.replace_nanosecond(0).unwrap_or(at);
    whole.format(&Rfc3339).unwrap_or_else(|_| whole.to_string())
}

/// `1 line`, `2 lines`.
pub(crate) fn counted(n: usize, what: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {what}{s}")
}

/// An error and its causes, in one line. Many say their cause themselves: nothing is said twice.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// SHA-256, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String can't fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_do_nothing() {
        let text = "a\"b\\ \u{e9}";
        assert_eq!(visible(text), text);
        assert_eq!(visible("a\u{1b}[31m\tb\u{9b}"), "a\\u{1b}[31m\\tb\\u{9b}");
    }

    #[test]
    fn of_one_there_is_no_plural() {
        let said = [0, 1, 2].map(|n| counted(n, "line"));
        assert_eq!(said, ["0 lines", "1 line", "2 lines"]);
    }

    #[test]
    fn characters_are_counted_and_not_cut() {
        for (text, expected) in [
            ("", ""),
            ("ab", "ab"),
            ("abc", "ab"),
            ("\u{e9}\u{e9}\u{e9}", "\u{e9}\u{e9}"),
        ] {
            assert_eq!(shortened(text, 2), expected);
        }
    }
}
