//! What holds for every map file and every image, over generated ones.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use imageswap::image::Reference;
use imageswap::maps::{Maps, Verdict};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Few parts, so that rules, images and results meet often.
const HOSTS: &[&str] = &[
    "docker.io",
    "index.docker.io",
    "a.io",
    "b.io",
    "a.io:5000",
    "b.io:443",
    "localhost",
    "localhost:5000",
    "hub",
    "hub:443",
    "[::1]:5000",
    "m-a.io",
    "m-docker.io",
    "index.docker.io:443",
    "docker.io:443",
];
const PATHS: &[&str] = &[
    "x",
    "y",
    "library/x",
    "o/x",
    "o/p/y",
    "m-x/y",
    "docker.io/x",
    "hub/x",
];
const TAILS: &[&str] = &["", ":1", ":a-b", "@sha256:0123456789abcdef0123456789abcdef"];
const VALUES: &[&str] = &[
    "",
    "",
    "a.io",
    "b.io",
    "c.io",
    "c.io/",
    "a.io/m",
    "c.io/m/n",
    "c.io/library",
    "docker.io",
    "docker.io/library",
    "hub",
    "library",
    "c.io:5000",
    "a.io:5000",
    "c.io/m-",
    "m-",
    "hub-",
    "-bad",
    "C.io/Bad",
    "localhost",
    "[::1]",
    "index.docker.io",
    "index.docker.io:443",
    "docker.io:443",
    "h_b-",
    "/",
];
const PATTERNS: &[&str] = &[
    "*",
    "a*",
    "*x",
    "*/x",
    "x",
    "x*",
    "*:1",
    "a.io/*",
    "c.io/*",
    "*a.io/*",
    "*.io/x",
    "?",
    "*/o/*",
    "*@*",
    "c.io/?",
    "[abc].io/x",
    "*docker.io/*",
    "hub/*",
    "hub*",
    "*[/]x",
    "localhost/*",
    "m-*",
];

fn image() -> impl Strategy<Value = String> {
    (
        prop_oneof![2 => Just(String::new()), 3 => select(HOSTS).prop_map(|host| format!("{host}/"))],
        select(PATHS),
        select(TAILS),
    )
        .prop_map(|(host, path, tail)| format!("{host}{path}{tail}"))
}

fn line() -> impl Strategy<Value = String> {
    let value = || select(VALUES);
    prop_oneof![
        3 => (select(HOSTS), value()).prop_map(|(key, value)| format!("{key}::{value}")),
        1 => value().prop_map(|value| format!("docker.io/library::{value}")),
        1 => value().prop_map(|value| format!("default::{value}")),
        2 => (select(PATTERNS), value()).prop_map(|(key, value)| format!("[REPLACE]{key}::{value}")),
        2 => (image(), image()).prop_map(|(from, to)| format!("[EXACT]{from}::{to}")),
        1 => vec(select(&["x", "a.io", ":1", "m-"][..]), 0..3)
            .prop_map(|items| format!("noswap_wildcards::{}", items.join(","))),
    ]
}

fn feeds(maps: &Maps) -> bool {
    maps.lint()
        .listed()
        .iter()
        .any(|found| found.code.starts_with("feeds"))
}

fn swapped(maps: &Maps, image: &str) -> String {
    maps.swap(image).image().unwrap_or(image).to_owned()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    /// One to six rules: few of such files are without a feed report, and all of those are stable.
    #[test]
    fn without_a_feed_report_swapping_twice_is_swapping_once(
        lines in vec(line(), 1..5),
        images in vec(image(), 24),
    ) {
        let text = lines.join("\n");
        let (maps, _) = Maps::parse(text.as_bytes()).unwrap();
        let fed = feeds(&maps);
        for image in images {
            let once = swapped(&maps, &image);
            let twice = swapped(&maps, &once);
            prop_assert!(fed || once == twice, "{image} -> {once} -> {twice} by\n{text}");
        }
    }

    #[test]
    fn a_swapped_image_is_a_reference_and_names_its_rule(
        lines in vec(line(), 1..8),
        image in image(),
    ) {
        let (maps, _) = Maps::parse(lines.join("\n").as_bytes()).unwrap();
        let Verdict { outcome, rule } = maps.swap(&image);
        if let Ok(result) = outcome {
            prop_assert!(Reference::parse(&result).is_ok(), "{image} -> {result}");
            prop_assert_ne!(&result, &image);
            let rule = rule.unwrap();
            let written = lines.get(rule.line.unwrap() - 1).unwrap();
            prop_assert_eq!(written, rule.text);
        }
    }

    #[test]
    fn a_reference_prints_as_it_was_parsed(image in image()) {
        prop_assert_eq!(Reference::parse(&image).unwrap().to_string(), image);
    }

    #[test]
    fn any_text_that_parses_prints_the_same(text in "[a-zA-Z0-9:/@._\\[\\]-]{0,40}") {
        if let Ok(reference) = Reference::parse(&text) {
            prop_assert_eq!(reference.to_string(), text);
        }
    }

    #[test]
    fn no_text_panics_the_reference_parser(text in any::<String>()) {
        let _ = Reference::parse(&text);
    }

    #[test]
    fn no_bytes_panic_the_map_parser(bytes in vec(any::<u8>(), 0..200), image in image()) {
        if let Ok((maps, diagnostics)) = Maps::parse(&bytes) {
            maps.swap(&image);
            for found in diagnostics.listed().iter().chain(maps.lint().listed()) {
                found.render("maps", true);
            }
        }
    }

    #[test]
    fn no_lines_panic_the_map_parser(
        text in "(\\[(EXACT|REPLACE|X)\\])?[a-z.:/*?\\[\\] #\u{e9}-]{0,30}(::|:|\n|\r)[ -~\n]{0,30}",
    ) {
        if let Ok((maps, diagnostics)) = Maps::parse(text.as_bytes()) {
            for found in diagnostics.listed().iter().chain(maps.lint().listed()) {
                found.render("maps", false);
            }
        }
    }
}

/// The report says too much rather than too little; this keeps it from saying it always.
#[test]
fn a_feed_report_is_mostly_right() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let images: Vec<String> = (0..400)
        .map(|_| image().new_tree(&mut runner).unwrap().current())
        .collect();
    let (mut files, mut reported, mut wrong) = (0, 0, 0);
    for _ in 0..2000 {
        let lines = vec(line(), 1..4).new_tree(&mut runner).unwrap().current();
        let (maps, _) = Maps::parse(lines.join("\n").as_bytes()).unwrap();
        let unstable = images.iter().any(|image| {
            let once = swapped(&maps, image);
            swapped(&maps, &once) != once
        });
        files += 1;
        if feeds(&maps) {
            reported += 1;
            wrong += usize::from(!unstable);
        }
    }
    println!("{reported} of {files} files reported, {wrong} of them stable on 400 images");
    assert!(
        reported < files / 2,
        "{reported} of {files} files are reported"
    );
    assert!(
        wrong * 2 < reported,
        "{wrong} of {reported} reports are about stable files"
    );
}
