//! How often the heap is asked while a review is answered. Counted, not timed: it is the same each time.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    dead_code
)]

#[path = "../benches/cases.rs"]
mod cases;

use imageswap::admission;

/// For a Pod with one container, that is swapped.
const MOST: u64 = 6;

fn allocations(name: &str) -> u64 {
    let bodies = cases::bodies().unwrap();
    let (_, body) = bodies.into_iter().find(|body| body.0 == name).unwrap();
    let run = cases::reviewing(body, admission::review);
    // The first may make what belongs to the thread.
    run();
    allocation_counter::measure(&*run).count_total
}

#[test]
fn a_pod_with_one_container_takes_six_allocations_at_most() {
    for name in [
        "typical",
        "pod-create-test-pod01",
        "pod-create-test-pod02",
        "pod-create-sts-0-by-statefulset-controller",
        "pod-create-ds-by-daemon-set-controller",
    ] {
        let count = allocations(name);
        println!("{name}: {count}");
        assert!(count <= MOST, "{name}: {count} allocations");
        // It counts at all.
        assert!(count >= 2, "{name}: {count} allocations");
    }
}

#[test]
fn a_pod_with_many_containers_takes_three_more_for_each_at_most() {
    let count = allocations("large");
    println!("large: {count}");
    assert!(count <= 60, "{count} allocations");
}
