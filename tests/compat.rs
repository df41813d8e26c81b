//! What ImageSwap 1.5.3 answers, and what `docs/maps.md` makes of it: every recorded case.
//!
//! `tests/compat/README.md` says where the data comes from.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::HashMap;
use std::fs;

use imageswap::maps::{Legacy, Maps, Rules};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    mode: String,
    maps: Option<String>,
    prefix: Option<String>,
    image: String,
    expect: String,
}

#[derive(Deserialize)]
struct UnitCase {
    test: String,
    mode: String,
    maps_file: Option<String>,
    image_prefix: Option<String>,
    image: String,
    expected: String,
}

/// Every map file is read once.
#[derive(Default)]
struct Files(HashMap<String, Rules>);

impl Files {
    fn rules(&mut self, mode: &str, maps: Option<&str>, prefix: Option<&str>) -> &Rules {
        let key = format!("{mode} {} {}", maps.unwrap_or(""), prefix.unwrap_or(""));
        self.0.entry(key).or_insert_with(|| match mode {
            "LEGACY" => Rules::Legacy(Legacy {
                prefix: prefix.unwrap_or_default().to_owned(),
            }),
            _ => {
                let file = fs::read(format!("tests/compat/maps/{}", maps.unwrap())).unwrap();
                Rules::Maps(Box::new(Maps::parse(&file).unwrap().0))
            }
        })
    }
}

fn lines<T: for<'de> Deserialize<'de>>(file: &str) -> Vec<T> {
    let text = fs::read_to_string(format!("tests/compat/{file}")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn assert_none(failures: &[String]) {
    assert!(
        failures.is_empty(),
        "{} cases differ:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn every_case_is_answered_as_the_language_says() {
    let mut files = Files::default();
    let cases: Vec<Case> = lines("cases.jsonl");
    assert!(cases.len() > 3000);
    let mut failures = Vec::new();
    for case in cases {
        let rules = files.rules(&case.mode, case.maps.as_deref(), case.prefix.as_deref());
        let verdict = rules.swap(&case.image);
        let result = verdict.image().unwrap_or(&case.image);
        if result != case.expect {
            failures.push(format!(
                "{} {:?} {:?}: {:?}, expected {:?} ({verdict:?})",
                case.mode, case.maps, case.image, result, case.expect
            ));
        }
    }
    assert_none(&failures);
}

#[test]
fn the_unit_tests_of_1_5_3_hold() {
    let mut files = Files::default();
    let cases: Vec<UnitCase> = lines("upstream-unit.jsonl");
    assert!(cases.len() > 40);
    let mut failures = Vec::new();
    for case in cases {
        let rules = files.rules(
            &case.mode,
            case.maps_file.as_deref(),
            case.image_prefix.as_deref(),
        );
        let verdict = rules.swap(&case.image);
        let result = verdict.image().unwrap_or(&case.image);
        if result != case.expected {
            failures.push(format!(
                "{}: {result:?}, expected {:?}",
                case.test, case.expected
            ));
        }
    }
    assert_none(&failures);
}
