//! Each bench once: that its answers are right, and that it still runs.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    dead_code
)]

#[path = "../benches/cases.rs"]
mod cases;

use std::collections::BTreeSet;

#[test]
fn every_case_answers_right_and_can_be_run_again() {
    let cases = cases::all();
    let names: BTreeSet<_> = cases.iter().map(cases::Case::full_name).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    for case in &cases {
        let run = case.build();
        run();
        run();
    }
    let groups: BTreeSet<_> = cases.iter().map(|case| case.group).collect();
    assert_eq!(
        groups,
        BTreeSet::from(["load", "reference", "review", "swap"])
    );
    assert!(cases.iter().filter(|case| case.is_counted).count() >= 15);
    assert!(
        cases
            .iter()
            .any(|case| matches!(case.size, Some(cases::Size::Bytes(_))))
    );
    assert!(
        cases
            .iter()
            .any(|case| matches!(case.size, Some(cases::Size::Lines(_))))
    );
}
