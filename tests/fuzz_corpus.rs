//! The fuzz targets over their corpus, and over all that was recorded: no panic, no broken promise.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, unreachable_pub)]

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::fs;

fn run(target: fn(&[u8]), folders: &[&str], at_least: usize) {
    let mut count = 0;
    for folder in folders {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                target(&fs::read(path).unwrap());
                count += 1;
            }
        }
    }
    assert!(count >= at_least, "{count} files in {folders:?}");
}

#[test]
fn references() {
    run(bodies::reference, &["fuzz/corpus/reference"], 10);
    let cases = fs::read_to_string("tests/compat/cases.jsonl").unwrap();
    for case in cases.lines() {
        let case: serde_json::Value = serde_json::from_str(case).unwrap();
        bodies::reference(case["image"].as_str().unwrap().as_bytes());
    }
}

#[test]
fn maps() {
    run(bodies::maps, &["fuzz/corpus/maps", "tests/compat/maps"], 25);
}

#[test]
fn reviews() {
    let folders = ["fuzz/corpus/review", "tests/reviews"];
    run(bodies::review, &folders, 25);
    run(bodies::skim, &folders, 25);
}
