//! How many instructions the hot path takes, counted by valgrind, against `benches/counts.txt`.
//!
//! A count is the same at each run, however busy the machine is; so a change that costs more than 5 %
//! is seen, and fails. What is counted is `benches/parts.rs` as it is released: `cargo build --release`
//! of it takes some five minutes of two cores the first time, and shares all with `cargo bench`.
//! Other profiles were cheaper to build and said little: the code that ships is inlined by fat LTO.
//!
//!     IMAGESWAP_UPDATE_COUNTS=1 cargo test -p chaos --test instructions
//!
//! writes the counts anew. They hold for one compiler and one kind of processor: on another they are
//! not compared, and the test says so. valgrind is installed from Debian's package if it is not there;
//! `IMAGESWAP_CHAOS_TESTS=off` skips all of it on purpose.
//!
//! Not gungraun: its runner is a program of the very same version that must be installed first, which a
//! clean clone has not, and its absolute limits stand in the benches' code, where no command renews them.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use chaos::command::{command, output, run};
use chaos::progress::{Step, say};
use chaos::{doctor, repository};

/// What skips this.
const SKIP: &str = "IMAGESWAP_CHAOS_TESTS";

/// Set to write the file anew in place of comparing with it.
const UPDATE: &str = "IMAGESWAP_UPDATE_COUNTS";

const FILE: &str = "benches/counts.txt";

/// What stands above the counts.
const HEAD: &str = "\
# Instructions that each case of benches/cases.rs takes once, counted by valgrind. A change that takes
# more than 5 % more fails `cargo test -p chaos --test instructions`; if it is worth it, run
#     IMAGESWAP_UPDATE_COUNTS=1 cargo test -p chaos --test instructions
";

/// How much more is too much, and how much less is worth being noted, in percent.
const BOUND: u64 = 5;

/// How often a case is done: what is done but once, and the hash tables' seeds, which differ from run to
/// run, are then little.
const ROUNDS: u64 = 400;

/// What counts hold for, and the counts.
#[derive(Debug, PartialEq)]
struct Counts {
    /// The compiler and the processor.
    made_by: String,
    by_case: BTreeMap<String, u64>,
}

#[test]
fn the_hot_path_takes_no_more_instructions_than_it_did() {
    if std::env::var(SKIP).is_ok_and(|value| value == "off") {
        say(format_args!("{SKIP}=off: no instructions are counted"));
        return;
    }
    if let Err(error) = count_and_compare() {
        panic!("{error:#}");
    }
}

fn count_and_compare() -> anyhow::Result<()> {
    let valgrind = doctor::installed("valgrind", "valgrind")?;
    let parts = compiled()?;
    let names = run(&mut command(&parts, ["counted"]))?;
    let step = Step::begin("counting instructions");
    let names: Vec<_> = names.lines().collect();
    let each = |name: &&str| anyhow::Ok(((*name).to_owned(), count(&valgrind, &parts, name)?));
    // Half of the time for starting valgrind, and a count does not mind company.
    let halves = std::thread::scope(|scope| {
        let (one, other) = names.split_at(names.len() / 2);
        let threads = [one, other].map(|half| {
            scope.spawn(move || half.iter().map(each).collect::<anyhow::Result<Vec<_>>>())
        });
        threads.map(|thread| thread.join().expect("a count that panicked"))
    });
    let mut by_case = BTreeMap::new();
    for half in halves {
        by_case.extend(half?);
    }
    step.done(format_args!("counted, {} cases", by_case.len()));
    let counted = Counts {
        made_by: made_by()?,
        by_case,
    };
    let path = repository().join(FILE);
    if std::env::var_os(UPDATE).is_some() {
        return Ok(fs::write(&path, counted.to_string())?);
    }
    let text = fs::read_to_string(&path).with_context(|| FILE)?;
    let expected = Counts::parse(&text)?;
    for line in compare(&expected, &counted)? {
        say(line);
    }
    Ok(())
}

/// The benches as they are released.
fn compiled() -> anyhow::Result<PathBuf> {
    let step = Step::begin("compiling the benches, five minutes the first time");
    let words = ["build", "--release", "--locked", "--package", "imageswap"];
    let mut cargo = command("cargo", words);
    cargo
        .args(["--bench", "parts", "--message-format", "json"])
        .current_dir(repository());
    // What cargo tells a test about itself is not for another build.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_kept = matches!(&*text, "CARGO_HOME" | "CARGO_TARGET_DIR");
        if text.starts_with("CARGO_") && !is_kept || text == "CARGO" {
            cargo.env_remove(&name);
        }
    }
    let printed = run(&mut cargo)?;
    let messages = printed
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let mut executables = messages.filter_map(|message: serde_json::Value| {
        let text = |pointer: &str| message.pointer(pointer)?.as_str();
        let is_ours = text("/target/name") == Some("parts");
        let executable = text("/executable").filter(|_| is_ours)?;
        Some(PathBuf::from(executable))
    });
    let executable = executables
        .next_back()
        .context("cargo names no executable")?;
    step.done("compiled");
    Ok(executable)
}

/// The instructions of one round: what many take more than none, by their number.
fn count(valgrind: &Path, parts: &Path, name: &str) -> anyhow::Result<u64> {
    let none = collected(valgrind, parts, name, 0)?;
    let all = collected(valgrind, parts, name, ROUNDS)?;
    let more = all
        .checked_sub(none)
        .context("many rounds took less than none")?;
    Ok(more / ROUNDS)
}

fn collected(valgrind: &Path, parts: &Path, name: &str, rounds: u64) -> anyhow::Result<u64> {
    let mut command = Command::new(valgrind);
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(parts)
        .args(["count", name, &rounds.to_string()]);
    let output = output(&mut command)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} under valgrind: {said}");
    let lines = said.lines();
    let number = lines
        .filter_map(|line| line.split_once("Collected :"))
        .find_map(|(_, number)| number.trim().parse().ok());
    number.with_context(|| format!("valgrind does not say how much it collected: {said}"))
}

/// The compiler, and what the processor can do: the C library and the crates that look at many bytes at
/// once choose by that. valgrind knows no AVX-512, so what is counted where there is some is the code for
/// AVX2.
fn made_by() -> anyhow::Result<String> {
    let rustc = run(&mut command("rustc", ["-V"]))?;
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |feature: &str| cpu.split_whitespace().any(|word| word == feature);
    let features = ["avx2", "bmi2", "erms"].map(|name| if has(name) { name } else { "-" });
    let arch = std::env::consts::ARCH;
    Ok(format!("{} {arch} {}", rustc.trim(), features.join(" ")))
}

/// What there is to say.
///
/// # Errors
/// Something takes too much.
fn compare(expected: &Counts, counted: &Counts) -> anyhow::Result<Vec<String>> {
    let known: Vec<_> = expected.by_case.keys().collect();
    ensure!(
        known == counted.by_case.keys().collect::<Vec<_>>(),
        "{FILE} has other cases than benches/cases.rs; {UPDATE}=1 writes it anew"
    );
    if expected.made_by != counted.made_by {
        return Ok(vec![format!(
            "NOT COMPARED: {FILE} was made by {:?}, and this is {:?}",
            expected.made_by, counted.made_by
        )]);
    }
    let (mut said, mut too_much) = (Vec::new(), Vec::new());
    for (name, &before) in &expected.by_case {
        let now = counted.by_case.get(name).copied().unwrap_or_default();
        let percent = (now as f64 / before as f64 - 1.0) * 100.0;
        let line = format!("{name}: {before} instructions before, {now} now ({percent:+.1} %)");
        // In whole numbers, for a bound that is met is not passed.
        if now * 100 > before * (100 + BOUND) {
            too_much.push(line);
        } else if now * 100 < before * (100 - BOUND) {
            said.push(format!("{line}; {UPDATE}=1 notes it"));
        }
    }
    if too_much.is_empty() {
        return Ok(said);
    }
    bail!(
        "more than {BOUND} % more:\n{}\nIf that is worth it, {UPDATE}=1 notes it",
        too_much.join("\n")
    )
}

// === impl Counts ===

impl Counts {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let made_by = lines
            .next()
            .context("no line says what made it")?
            .to_owned();
        let cases = lines.map(|line| {
            let (count, name) = line.trim().split_once("  ").context(line.to_owned())?;
            anyhow::Ok((name.to_owned(), count.parse()?))
        });
        let by_case = cases.collect::<anyhow::Result<_>>().with_context(|| FILE)?;
        Ok(Self { made_by, by_case })
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = format!("{HEAD}{}\n", self.made_by);
        for (name, count) in &self.by_case {
            writeln!(text, "{count:>7}  {name}")?;
        }
        f.write_str(&text)
    }
}

// === the comparison itself ===

fn counts(made_by: &str, by_case: &[(&str, u64)]) -> Counts {
    let by_case = by_case
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count));
    Counts {
        made_by: made_by.to_owned(),
        by_case: by_case.collect(),
    }
}

#[test]
fn a_count_may_grow_by_five_percent_and_no_more() {
    let before = counts("rustc", &[("a", 1000), ("b", 10)]);
    assert_eq!(Counts::parse(&before.to_string()).unwrap(), before);
    let with = |a, b| compare(&before, &counts("rustc", &[("a", a), ("b", b)]));
    assert!(with(1000, 10).unwrap().is_empty());
    assert!(with(1050, 10).unwrap().is_empty());
    assert_eq!(with(900, 10).unwrap().len(), 1);
    let error = with(1051, 11).unwrap_err().to_string();
    assert!(
        error.contains("a: 1000") && error.contains("b: 10"),
        "{error}"
    );
}

#[test]
fn another_compiler_is_said_and_other_cases_are_an_error() {
    let before = counts("rustc 1", &[("a", 1000)]);
    let said = compare(&before, &counts("rustc 2", &[("a", 5000)])).unwrap();
    assert!(said.concat().contains("NOT COMPARED"), "{said:?}");
    assert!(compare(&before, &counts("rustc 1", &[("b", 1000)])).is_err());
}
