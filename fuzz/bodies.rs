//! What the fuzz targets do with their bytes. The test suite runs the same over the corpus.
//!
//! `cargo +nightly fuzz run maps fuzz/corpus/maps tests/compat/maps`

use imageswap::admission::{
    self,
    skim::{Marked, Skimmer},
};
use imageswap::image::Reference;
use imageswap::maps::{Legacy, Maps, Rules};

/// Whatever parses prints as it was, and every way to split it agrees.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(reference) = Reference::parse(text) {
        assert_eq!(reference.to_string(), text);
        assert!(text.ends_with(reference.tail()));
        assert!(reference.tail().ends_with(reference.last()));
        assert!(
            reference
                .library_tail()
                .is_none_or(|tail| reference.tail().ends_with(tail))
        );
    }
}

/// The first line is an image, the others are a map file. What is swapped is a reference, and
/// without a feed report it is swapped once.
pub fn maps(data: &[u8]) {
    let end = data.iter().position(|b| *b == b'\n').unwrap_or(data.len());
    let (image, file) = data.split_at(end);
    let Ok((maps, diagnostics)) = Maps::parse(file) else {
        return;
    };
    let lint = maps.lint();
    for found in diagnostics.listed().iter().chain(lint.listed()) {
        found.render("maps", false);
    }
    let Ok(image) = std::str::from_utf8(image) else {
        return;
    };
    if let Some(once) = maps.swap(image).image() {
        assert!(Reference::parse(once).is_ok(), "{image} -> {once}");
        let is_fed = lint
            .listed()
            .iter()
            .any(|found| found.code.starts_with("feeds"));
        let verdict = maps.swap(once);
        let twice = verdict.image();
        assert!(is_fed || twice.is_none(), "{image} -> {once} -> {twice:?}");
    }
}

/// What the short reader takes, `serde_json` takes.
pub fn skim(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let marked = Marked::of(text);
    let mut reader = Skimmer::new(&marked);
    if reader.pass_over().is_ok() && reader.is_at_end() {
        let read: Result<serde::de::IgnoredAny, _> = serde_json::from_str(text);
        assert!(read.is_ok(), "{text}");
    }
}

/// Whatever is answered is JSON, and both ways to read a review answer alike.
pub fn review(data: &[u8]) {
    let rules = Rules::Legacy(Legacy {
        prefix: "mirror.example.com".to_owned(),
    });
    let label = "k8s.twr.io/imageswap";
    let reply = admission::review(data, &rules, label);
    let other = admission::review_by_serde(data, &rules, label);
    assert_eq!(format!("{reply:?}"), format!("{other:?}"));
    if let Ok(reply) = reply {
        let text = std::str::from_utf8(&reply.body);
        assert!(text.is_ok_and(|text| text.starts_with('{') && text.ends_with('}')));
    }
}
