//! Strangers' texts, cut to what is worth showing.

/// The first characters of a text, at most this many.
pub(crate) fn shortened(text: &str, characters: usize) -> &str {
    match text.char_indices().nth(characters) {
        Some((end, _)) => text.get(..end).unwrap_or_default(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
