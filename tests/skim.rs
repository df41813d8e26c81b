//! The short way to read a review against the long one: whatever `Skimmer` takes, `serde_json` takes, and
//! both ways answer each body alike, byte for byte and word for word.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    missing_docs
)]

use std::fs;

use imageswap::admission::skim::{Marked, Skimmer};
use imageswap::admission::{BadReview, Reply, review, review_by_serde};
use imageswap::maps::{Maps, Rules};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde::de::IgnoredAny;

const LABEL: &str = "k8s.twr.io/imageswap";

fn rules() -> Rules {
    let maps = "default::mirror.example.com\ndocker.io::hub.example.com\nregistry.k8s.io::\n";
    Rules::Maps(Box::new(Maps::parse(maps.as_bytes()).unwrap().0))
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn is_taken(text: &str) -> bool {
    let marked = Marked::of(text);
    let mut reader = Skimmer::new(&marked);
    text.starts_with('{') && reader.pass_over().is_ok() && reader.is_at_end()
}

/// What Go's encoder could have written, of a depth that is taken.
fn is_compact_object(text: &str) -> bool {
    let (mut in_string, mut is_escaped, mut depth, mut deepest) = (false, false, 0_usize, 0);
    for c in text.chars() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if in_string => is_escaped = true,
            '"' => in_string = !in_string,
            _ if in_string => {}
            ' ' | '\n' | '\r' | '\t' => return false,
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    text.starts_with('{') && deepest < 60
}

fn agrees(text: &str) {
    let (is_taken, is_json) = (is_taken(text), is_json(text));
    assert!(is_json || !is_taken, "taken, and no JSON: {text:?}");
    let must_take = is_json && is_compact_object(text);
    assert!(is_taken || !must_take, "JSON, and not taken: {text:?}");
}

/// All that is answered, or said.
fn told(answer: Result<Reply, BadReview>) -> String {
    match answer {
        Ok(reply) => format!("{} {reply:?}", String::from_utf8_lossy(&reply.body)),
        Err(error) => format!("{}: {error}", error.reason()),
    }
}

fn answers_agree(body: &[u8], rules: &Rules) {
    let short = told(review(body, rules, LABEL));
    let long = told(review_by_serde(body, rules, LABEL));
    assert_eq!(short, long, "{}", String::from_utf8_lossy(body));
}

fn recorded() -> Vec<String> {
    let mut bodies = Vec::new();
    for folder in ["tests/reviews", "benches/bodies"] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                bodies.push(fs::read_to_string(path).unwrap());
            }
        }
    }
    bodies.sort_by_key(String::len);
    bodies
}

#[test]
fn what_was_recorded_goes_the_short_way_and_is_answered_alike() {
    for body in recorded() {
        assert!(is_taken(&body), "{body}");
        answers_agree(body.as_bytes(), &rules());
    }
}

/// Every row of six tokens behind a key, which is of any length up to 63.
#[test]
fn short_texts_are_taken_if_they_are_json() {
    const TOKENS: &[&str] = &[
        "{", "}", "[", "]", ",", ":", "\"a\"", "\"\\\\\"", "1", "null",
    ];
    let mut taken = 0;
    for row in 0..10_usize.pow(6) {
        let mut text = format!("{{\"{}\":", "k".repeat(row * 7 % 64));
        let mut rest = row;
        for _ in 0..6 {
            text.push_str(TOKENS[rest % 10]);
            rest /= 10;
        }
        for end in ["", "}"] {
            let text = format!("{text}{end}");
            agrees(&text);
            taken += usize::from(is_taken(&text));
        }
    }
    assert!(taken > 100, "{taken}");
}

#[test]
fn each_byte_and_each_escape_counts_where_it_stands() {
    let mut taken = [0, 0];
    for place in 0..70 {
        for byte in 0..=255_u8 {
            for (index, (head, tail)) in [
                ("", ""),
                ("\\", ""),
                ("\\\\", ""),
                ("\\u00", "0"),
                ("\\u", "\u{e9}00"),
                ("", "\\\""),
                ("\"", ""),
            ]
            .into_iter()
            .enumerate()
            {
                let Some(c) = char::from_u32(byte.into()) else {
                    continue;
                };
                let padding = "p".repeat(place);
                let text = format!("{{\"{padding}{head}{c}{tail}\":\"{head}{c}{tail}\"}}");
                agrees(&text);
                // The last block of 64 bytes is looked at in a copy, all others where they stand.
                let end = format!(",\"long\":\"{}\"}}", "e".repeat(40));
                agrees(&(text[..text.len() - 1].to_owned() + &end));
                taken[usize::from(index > 0)] += usize::from(is_taken(&text));
            }
        }
    }
    assert!(taken.iter().all(|taken| *taken > 1000), "{taken:?}");
}

#[test]
fn numbers_are_read_by_the_grammar() {
    let parts = [
        "", "-", "0", "1", "01", "9", ".", ".5", "e", "E+", "e-7", "+", "12", "true", "x",
    ];
    let mut taken = 0;
    for one in parts {
        for two in parts {
            for three in parts {
                for end in ["}", ",\"b\":1}", "]}", " }", "\n}"] {
                    let text = format!("{{\"a\":{one}{two}{three}{end}");
                    agrees(&text);
                    taken += usize::from(is_taken(&text));
                }
            }
        }
    }
    assert!(taken > 100, "{taken}");
}

#[test]
fn what_stands_behind_the_end_is_not_taken() {
    for tail in [
        "{}",
        "}",
        ",",
        "1",
        "\"",
        ",\"a\":{}",
        "\0",
        "\u{c}",
        "\u{a0}",
    ] {
        assert!(!is_taken(&format!("{{\"a\":1}}{tail}")), "{tail:?}");
    }
    for end in ["", "\n", " \t\r\n"] {
        assert!(is_taken(&format!("{{\"a\":1}}{end}")), "{end:?}");
    }
}

/// An object behind another is an element of a list, and no member.
#[test]
fn an_object_follows_another_only_in_a_list() {
    for text in [
        r#"{"l":[{"a":"b"},{"c":"d"}]}"#,
        r#"{"l":[{"a":"b"},{"c":{"d":"e"}},{"f":1}]}"#,
        r#"{"a":"b"},{"c":1}"#,
        r#"{"a":{"b":"c"},{"d":1}}"#,
        r#"{"a":{"b":"c"},{"d":1}}}"#,
        r#"{"a":[{"b":{"c":"d"},{"e":"f"}}]}"#,
        r#"{"a":[{"b":"c"},{"d":"e"},"f":"g"]}"#,
        // Objects that end at once, and a list around one of them, or none.
        r#"{"a":[{"b":{"c":{}}}]}"#,
        r#"{"a":[{"b":{}}}}"#,
        r#"{"a":[{"b":"c"}}}"#,
        r#"{"a":[{"b":{"c":"d"}}}}"#,
        r#"[{"a":{}}}"#,
        r#"[{"a":"b"}}"#,
        r#"{"a":{"b":{"c":{}}}}}"#,
        r#"{"a":{"b":"c"}}}"#,
        r#"{"a":{"b":{"c":{"d":{"e":{"f":{"g":{"h":{"i":"j"}}}}}}}}}"#,
        r#"{"a":{"b":{"c":{"d":{"e":{"f":{"g":{"h":{"i":"j"}}}}}}}},"k":{}}"#,
    ] {
        agrees(text);
    }
}

#[test]
fn what_is_deep_is_left_to_the_other_reader() {
    for depth in [1, 50, 62, 63, 64, 65, 100, 1000] {
        let text = format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        agrees(&text);
        assert_eq!(is_taken(&text), depth <= 62, "{depth}");
    }
}

#[test]
fn odd_things_where_something_is_read_are_answered_alike() {
    let odd = [
        "{1:2}",
        "{null:1}",
        "{\"a\":1,}",
        "{,}",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\" 1}",
        "{\"a\"}",
        "1e999",
        "-",
        "nul",
        "nullx",
        "truex",
        "\"\\ud800\"",
        "\"\\u0041\"",
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        "[null]",
        "null",
        "\"x\"",
        "0",
        "{\"\\ud800\":1}",
        "[{\"\\ud800\":1}]",
        "[{\"image\":{1:2}}]",
        "[{\"image\":\"a\",\"image\":\"b\"}]",
        "[{\"name\":\"a\\tb\",\"image\":\"nginx\"}]",
        "[{\"image\":[1,{\"a\":2}]}]",
        "[{\"image\":true}]",
        "{\"labels\":{\"k8s.twr.io/imageswap\":\"disabled\"}}",
        "{\"annotations\":5}",
        "{\"reference\":\"a/b\"}",
        "[{\"name\":\"v\",\"image\":{\"reference\":\"a/b:1\"}}]",
    ];
    let mut count = 0;
    for body in recorded() {
        for key in [
            "kind",
            "apiVersion",
            "request",
            "uid",
            "operation",
            "subResource",
            "object",
            "oldObject",
            "group",
            "metadata",
            "spec",
            "template",
            "labels",
            "annotations",
            "containers",
            "initContainers",
            "volumes",
            "image",
            "name",
            "reference",
            "namespace",
            "userInfo",
        ] {
            let key = format!("\"{key}\":");
            for (place, _) in body.match_indices(&key).take(3) {
                for odd in odd {
                    // Before what stands there, as a second value of the key, and in its place.
                    let value = place + key.len();
                    let (head, tail) = body.split_at(value);
                    answers_agree(format!("{head}{odd},{key}{tail}").as_bytes(), &rules());
                    if let Some(end) = tail.find([',', '}']) {
                        answers_agree(format!("{head}{odd}{}", &tail[end..]).as_bytes(), &rules());
                    }
                    count += 1;
                }
            }
        }
    }
    assert!(count > 5000, "{count}");
}

#[test]
fn a_review_with_any_byte_gone_or_another_is_answered_alike() {
    let body = recorded().swap_remove(0).into_bytes();
    let rules = rules();
    for place in 0..body.len() {
        let mut less = body.clone();
        less.remove(place);
        answers_agree(&less, &rules);
        for byte in *b"{}[]:,\"\\ 0" {
            let mut other = body.clone();
            other[place] = byte;
            answers_agree(&other, &rules);
        }
    }
}

/// What edits put in.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\\"",
    "\\u0041",
    "\\ud800",
    "\\x",
    "1",
    "-0.5e9",
    "1e999",
    "true",
    "null",
    "nul",
    " ",
    "\n",
    "\u{1}",
    "\u{e9}",
    "{}",
    "[]",
    "\"a\":1,",
    ",\"a\":{}",
    "\"image\":\"x\",",
    "\"name\":null,",
    "\"metadata\":{},",
    "\"spec\":[],",
    "\"kind\":\"Pod\",",
    "\"request\":{},",
    "\"object\":null,",
    "\"uid\":\"v\",",
    "\"containers\":[{}],",
    "\"\\u0069mage\":\"y\",",
    "\"operation\":\"UPDATE\",",
];

#[derive(Debug, Clone)]
enum Edit {
    Insert(Index, &'static str),
    Remove(Index, usize),
    Replace(Index, &'static str),
    Repeat(Index, usize),
    /// Puts it where some `"` or `,` stands: where the grammar is decided.
    AtMark(Index, &'static str),
}

fn edit() -> impl Strategy<Value = Edit> {
    let piece = || select(PIECES);
    let at = any::<Index>;
    prop_oneof![
        2 => (at(), piece()).prop_map(|(at, piece)| Edit::Insert(at, piece)),
        2 => (at(), 1..40_usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        2 => (at(), piece()).prop_map(|(at, piece)| Edit::Replace(at, piece)),
        1 => (at(), 1..80_usize).prop_map(|(at, length)| Edit::Repeat(at, length)),
        4 => (at(), piece()).prop_map(|(at, piece)| Edit::AtMark(at, piece)),
    ]
}

fn edited(text: &str, edits: &[Edit]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for edit in edits {
        let length = chars.len().max(1);
        match edit {
            Edit::Insert(at, piece) => {
                let at = at.index(length);
                chars.splice(at..at, piece.chars());
            }
            Edit::Remove(at, count) => {
                let at = at.index(length);
                chars.drain(at..(at + count).min(chars.len()));
            }
            Edit::Replace(at, piece) => {
                let at = at.index(length);
                let end = (at + piece.chars().count()).min(chars.len());
                chars.splice(at..end, piece.chars());
            }
            Edit::Repeat(at, count) => {
                let at = at.index(length);
                let end = (at + count).min(chars.len());
                let part = chars[at..end].to_vec();
                chars.splice(at..at, part);
            }
            Edit::AtMark(at, piece) => {
                let is_mark = |(_, c): &(usize, &char)| matches!(c, '"' | ',' | '{');
                let marks: Vec<_> = chars.iter().enumerate().filter(is_mark).collect();
                let places: Vec<usize> = marks.into_iter().map(|(at, _)| at).collect();
                if !places.is_empty() {
                    let at = at.get(&places) + usize::from(piece.len() > 4);
                    let at = at.min(chars.len());
                    chars.splice(at..at, piece.chars());
                }
            }
        }
    }
    chars.into_iter().collect()
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let text = "[a-z{}\\[\\],:\"\\\\\n \u{e9}]{0,12}";
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        text.prop_map(Into::into),
    ];
    let value = leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Into::into),
            vec((text, inner), 0..6)
                .prop_map(|entries| { serde_json::Value::Object(entries.into_iter().collect()) }),
        ]
    });
    vec((text, value), 0..5)
        .prop_map(|entries| serde_json::Value::Object(entries.into_iter().collect()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_that_is_generated_is_taken(value in json()) {
        let text = value.to_string();
        prop_assert!(is_taken(&text), "{text}");
        let spread = format!("{value:#}");
        prop_assert!(spread == text || !is_taken(&spread), "{}", spread);
    }

    #[test]
    fn all_that_is_edited_is_taken_only_if_it_is_json(value in json(), edits in vec(edit(), 1..4)) {
        agrees(&edited(&value.to_string(), &edits));
    }

    /// Cut so that it has a container and ends well often enough.
    #[test]
    fn edited_reviews_are_answered_alike(which in any::<Index>(), edits in vec(edit(), 1..4)) {
        let bodies = recorded();
        // The large one is the last, and takes long.
        let body: &String = which.get(&bodies[..bodies.len() - 1]);
        let body = edited(body, &edits);
        agrees(&body);
        answers_agree(body.as_bytes(), &rules());
    }

    #[test]
    fn broken_utf8_is_answered_alike(which in any::<Index>(), at in any::<Index>(), byte in 0x80..=0xff_u8) {
        let bodies = recorded();
        let body: &String = which.get(&bodies[..bodies.len() - 1]);
        let mut body = body.clone().into_bytes();
        let at = at.index(body.len());
        body[at] = byte;
        answers_agree(&body, &rules());
    }
}

/// Edits must not make everything go the long way, or the properties above say nothing.
#[test]
fn a_good_part_of_what_is_edited_goes_the_short_way() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let bodies = recorded();
    let (mut taken, mut answered) = (0, 0);
    for _ in 0..2000 {
        let edits = vec(edit(), 1..4).new_tree(&mut runner).unwrap().current();
        let body = edited(&bodies[0], &edits);
        taken += usize::from(is_taken(&body));
        answered += usize::from(review(body.as_bytes(), &rules(), LABEL).is_ok());
    }
    println!("of 2000 edited reviews, {taken} went the short way, and {answered} were answered");
    assert!(taken > 100 && answered > taken / 2, "{taken} {answered}");
}
