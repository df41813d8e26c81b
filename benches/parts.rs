//! How fast the parts are: `cargo bench`, or `cargo bench -- swap` for some of them.
//!
//! `docs/performance.md` has the figures. `parts count NAME ROUNDS` does one case so often and nothing
//! else: valgrind counts its instructions (`chaos/tests/instructions.rs`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    unreachable_pub,
    dead_code
)]

use std::time::Duration;

use criterion::{Criterion, Throughput};

mod cases;

use cases::Size;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["counted"] => list(),
        ["count", name, rounds] => count(name, rounds.parse().expect("a number of rounds")),
        _ => measure(),
    }
}

fn measure() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
        .configure_from_args();
    for case in cases::all() {
        let mut group = criterion.benchmark_group(case.group);
        match case.size {
            Some(Size::Bytes(bytes)) => _ = group.throughput(Throughput::Bytes(bytes)),
            Some(Size::Lines(lines)) => _ = group.throughput(Throughput::Elements(lines)),
            None => {}
        }
        // What takes long takes a hundred samples of its own.
        if case.group == "load" {
            group.sample_size(20);
        }
        group.bench_function(&*case.name, |bencher| {
            let run = case.build();
            bencher.iter(&run);
        });
        group.finish();
    }
    criterion.final_summary();
}

/// The names of what is counted.
fn list() {
    for case in cases::all().into_iter().filter(|case| case.is_counted) {
        println!("{}", case.full_name());
    }
}

fn count(name: &str, rounds: u32) {
    let case = cases::all()
        .into_iter()
        .find(|case| case.full_name() == name);
    let run = case.expect("the name of a case").build();
    // The first round makes what the others find.
    run();
    (0..rounds).for_each(|_| run());
}
