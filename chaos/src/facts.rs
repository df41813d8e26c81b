//! What a figure means nothing without: when, of what, on which machine, by which command.

use std::fs;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::command::{command, run};
use crate::image;

/// How far a run has come, as its report tells it.
#[derive(Debug)]
pub(crate) enum State<'e> {
    /// More is to come, unless somebody ends it.
    UnderWay,
    Failed(&'e anyhow::Error),
    Done,
}

/// The name of the fact that says why not all is told.
pub(crate) const UNFINISHED: &str = "unfinished";

impl State<'_> {
    /// Why not all is told; nothing if all is.
    pub(crate) fn unfinished(&self) -> Option<String> {
        match self {
            State::UnderWay => Some("more is to come, or this was ended before".to_owned()),
            State::Failed(error) => Some(format!("{error:#}")),
            State::Done => None,
        }
    }
}

/// Names and values, for the head of a report.
///
/// # Errors
/// The machine does not tell its cores, or its clock is beyond the calendar.
pub fn facts() -> anyhow::Result<Vec<(String, String)>> {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0)?;
    let (_, version) = image::IMAGESWAP.split_at(image::IMAGESWAP.rfind(':').unwrap_or(0));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // What follows is the builder's own.
    let kernel = kernel.split('-').next().unwrap_or_default().trim();
    // The name of the program would tell of the machine that it lies on.
    let words: Vec<_> = std::env::args().skip(1).collect();
    let release = if cfg!(debug_assertions) {
        ""
    } else {
        "--release "
    };
    Ok([
        ("date", now.format(&Rfc3339)?),
        (
            "ImageSwap",
            format!("{} at {}", version.trim_start_matches(':'), commit()),
        ),
        (
            "machine",
            format!("{} cores{}, Linux {kernel}", cores()?, model()),
        ),
        (
            "command",
            format!("cargo run {release}-p chaos -- {}", words.join(" ")),
        ),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec())
}

/// Of the machine, whichever of them this thread may use.
fn cores() -> anyhow::Result<usize> {
    let info = fs::read_to_string("/proc/cpuinfo")?;
    let cores = info.lines().filter(|line| line.starts_with("processor"));
    Ok(cores.count())
}

fn model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("model name"));
    let model = line.and_then(|line| line.split_once(": "));
    model.map_or(String::new(), |(_, model)| format!(" ({model})"))
}

/// Which sources were built.
fn commit() -> String {
    let describe = ["describe", "--always", "--dirty", "--exclude=*"];
    let mut git = command("git", describe);
    let described = run(git.current_dir(crate::repository()));
    described.map_or_else(|_| "no commit".to_owned(), |text| text.trim().to_owned())
}
