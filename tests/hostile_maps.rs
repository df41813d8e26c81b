//! Map files that are made to cost: each is read, asked and checked in bounded memory, and ends.
//!
//! No measure of speed: what these guard against took minutes or gigabytes.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use imageswap::maps::Maps;

/// Virtual memory for each process, in KiB. Many short lines take most, between 400,000 and 600,000 in a debug build.
const MEMORY: usize = 700_000;

const TIME: Duration = Duration::from_secs(60);

fn lines(n: usize, line: impl Fn(usize) -> String) -> String {
    (0..n).fold(String::new(), |mut text, i| {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{}", line(i));
        text
    })
}

/// Runs a command over a map file, within bounds, and returns its exit code.
fn run(name: &str, maps: &str, images: &str, command: &str) -> Option<i32> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("maps"), maps).unwrap();
    fs::write(dir.path().join("images"), images).unwrap();
    let binary = env!("CARGO_BIN_EXE_imageswap");
    let mut child = Command::new("sh")
        .args([
            "-c",
            &format!("ulimit -v {MEMORY}; exec {binary} {command}"),
        ])
        .current_dir(dir.path())
        .stdin(File::open(dir.path().join("images")).unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + TIME;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > until {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{name}: {command} does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Its pattern can't be compiled beside the others, so the line is in error, and nothing of it counts.
#[test]
fn a_pattern_that_is_too_large_is_no_rule_in_any_way() {
    // Six characters less than a mebibyte.
    let others = lines(261, |i| {
        format!("[REPLACE]q{i}.io/{}::c.io", "?".repeat(4000))
    });
    let others = format!("{others}[REPLACE]z/{}::c.io\n", "?".repeat(2590));
    let last = "[REPLACE]quay.io/?::docker.io";
    let text = format!("default::b.io\n{others}{last}\n");
    let (maps, found) = Maps::parse(text.as_bytes()).unwrap();
    let codes: Vec<_> = found.listed().iter().map(|found| found.code).collect();
    assert_eq!(codes, ["pattern-too-large"]);
    assert_eq!((maps.len(), maps.skipped()), (263, 1));
    // What lies where it would put images is not where a rule puts them.
    let result = |maps: &Maps| maps.swap("docker.io/team/app:1").image().map(str::to_owned);
    assert_eq!(result(&maps).as_deref(), Some("b.io/team/app:1"));
    let text = format!("default::b.io\n{last}\n");
    let (alone, _) = Maps::parse(text.as_bytes()).unwrap();
    assert_eq!(result(&alone), None);
}

/// Those in which no line is a rule that could ever apply.
const NO_MAP_FILES: [&str; 1] = ["lines in error"];

#[test]
fn each_ends_in_bounded_memory() {
    let varied = lines(300, |i| {
        let path = |k: usize| format!("team{}/a{}-v1-v{}/", (i * k) % 97, (i + k) % 89, k % 7);
        format!(
            "q{i}.io/{}app-v{i}:{i}x",
            (1..20).map(path).collect::<String>()
        )
    });
    let nested = |depth: usize| "/b".repeat(depth);
    let rows: &[(&str, String)] = &[
        ("open brackets", format!("{}::x", "[".repeat(1_000_000))),
        (
            "open brackets in a pattern",
            format!("[REPLACE]{}::x", "[".repeat(1_000_000)),
        ),
        (
            "one item, many times",
            format!("noswap_wildcards::{}", "Z,".repeat(500_000)),
        ),
        (
            "items that begin with each other",
            format!(
                "noswap_wildcards::{}",
                lines(150_000, |i| format!("h{i},")).replace('\n', "")
            ),
        ),
        (
            "items that end with each other",
            format!(
                "noswap_wildcards::{}",
                lines(150_000, |i| format!("{i}h,")).replace('\n', "")
            ),
        ),
        (
            "one long item",
            format!("noswap_wildcards::{}", "aB3".repeat(1_000_000)),
        ),
        (
            "ports in a chain",
            lines(30_000, |i| format!("h.io:{i}::h.io:{}", i + 1)),
        ),
        (
            "many rules into one host with many ports",
            lines(10_000, |i| format!("k{i}.io::h.io\nh.io:{i}::")),
        ),
        (
            "many rules into Docker Hub, which has many ports and two names",
            lines(20_000, |i| {
                format!("r{i}.io::docker.io\ndocker.io:{i}::docker.io:{i}")
            }),
        ),
        (
            "values that name no registry",
            lines(750_000, |i| format!("{i}::b")),
        ),
        (
            "items that share nothing",
            format!(
                "docker.io::a.io\nnoswap_wildcards::{}",
                lines(3_000, |i| format!("{},", format!("{i}x").repeat(500))).replace('\n', "")
            ),
        ),
        (
            "many results into one registry",
            format!(
                "q.io::z.io\n{}",
                lines(50_000, |i| format!("[EXACT]a/b{i}::q.io/x{i}"))
            ),
        ),
        (
            "nested targets of many images",
            lines(48, |i| format!("k{i}.io::a.io{}", nested(i)))
                + &lines(4_000, |i| format!("[EXACT]a.io{}/n{i}::z.io/q", nested(48))),
        ),
        ("lines in error", "j\n".repeat(2_000_000)),
        (
            "lines with warnings",
            lines(200_000, |i| format!("a{i}.io:b.io")),
        ),
        (
            "patterns that overlap",
            lines(2_000, |i| {
                format!("[REPLACE]*/team{i}/*-v?:[0-9]*::x{i}.io")
            }),
        ),
        (
            "patterns that may match from any place on",
            lines(4_000, |i| format!("[REPLACE]*v?{}*q?::x{i}.io", i % 97)),
        ),
        (
            "results that many patterns ask about",
            lines(12_000, |i| {
                format!(
                    "[REPLACE]*a?b*qI::r{i}.io\n[EXACT]a{i}::x/qI{}",
                    "b".repeat(50)
                )
            }),
        ),
        (
            "a pattern of sets",
            format!("[REPLACE]{}::x", "[!a]".repeat(250_000)),
        ),
        (
            "large patterns",
            lines(200, |i| format!("[REPLACE]{}{i}::x", "[!a]".repeat(4_000))),
        ),
        (
            "longer and longer patterns",
            lines(4_000, |i| format!("[REPLACE]{}*::x", "?".repeat(i))),
        ),
        ("one key, many times", "a.io::b.io\n".repeat(300_000)),
    ];
    for (name, maps) in rows {
        let explained = run(name, maps, &varied, "explain -o json --maps maps -");
        // One without any rule is no map file.
        let expected = if NO_MAP_FILES.contains(name) { 2 } else { 0 };
        assert_eq!(explained, Some(expected), "{name}: explain");
        let checked = run(name, maps, "", "check -o json maps");
        assert!(matches!(checked, Some(0 | 1)), "{name}: check {checked:?}");
    }
}
