//! The order of it all: look at what is needed, build, measure, tell.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::build::{Built, build};
use super::cores::Cores;
use super::figures::{Sheet, Side};
use super::parts::Bench;
use super::process::{pin, raise_open_files};
use super::report::Report;
use super::server::{Kind, Program};
use super::{Options, Part, cluster, needs};
use crate::facts::{State, facts};
use crate::guard;
use crate::progress::{print, say};

/// Measures and tells. `chaos` is the program of this crate.
///
/// # Errors
/// Something is missing, does not build or start, or answers what it should not. What was measured before is told.
pub fn run(options: &Options, chaos: &Path) -> anyhow::Result<()> {
    let needs = needs::met(options)?;
    fs::create_dir_all(&options.report)
        .with_context(|| format!("can't make {}", options.report.display()))?;
    // Before anything is built or looked at: a build, and the load of another run, are in the way of what is measured.
    let turn = guard::turn()?;
    let built = match (&options.binary, &options.null_webhook) {
        (Some(imageswap), Some(null_webhook)) => Built {
            imageswap: imageswap.clone(),
            null_webhook: null_webhook.clone(),
        },
        _ => build()?,
    };
    let facts = about(needs.cores)?;
    let programs = programs(options, built);
    let report = Report {
        facts,
        floor: programs[0].1.name,
        folder: options.report.clone(),
    };
    let mut sheet = Sheet::new(options.before.is_none());
    let done = on_cores(options, chaos, needs.cores, &programs, &report, &mut sheet);
    let done = done.and_then(|()| match needs.kubernetes {
        Some(binaries) => cluster::measure(options, chaos, &turn, binaries, &programs, &mut sheet),
        None => Ok(()),
    });
    tell(&report, &sheet, done)
}

/// Also what was measured before something failed.
fn tell(report: &Report, sheet: &Sheet, done: anyhow::Result<()>) -> anyhow::Result<()> {
    let state = match &done {
        Ok(()) => State::Done,
        // An earlier run's report says more.
        Err(_) if sheet.figures.is_empty() => return done,
        Err(error) => State::Failed(error),
    };
    let written = report.write(sheet, &state);
    let shown = report.folder.join("bench.svg");
    let shown = format!("bench.json, bench.md and {}", shown.display());
    if done.is_err() {
        // What failed first is what must be told.
        match written {
            Ok(()) => say(format_args!("what was measured before: {shown}")),
            Err(error) => say(format_args!("what was measured before is lost: {error:#}")),
        }
        return done;
    }
    written?;
    // Alone on standard output, so that a file can take it as it is.
    print(report.table(sheet).trim_end());
    say(format_args!("reports: {shown}"));
    Ok(())
}

/// All but what goes through Kubernetes: server and client have a core each.
fn on_cores(
    options: &Options,
    chaos: &Path,
    cores: Cores,
    programs: &[(Side, Program); 2],
    report: &Report,
    sheet: &mut Sheet,
) -> anyhow::Result<()> {
    if options.parts.is_empty() && !options.long {
        return Ok(());
    }
    guard::end_children_on_signals(chaos.to_owned(), "stopping: ending the servers")?;
    raise_open_files()?;
    let usual = rustix::thread::sched_getaffinity(None)?;
    pin(cores.client)?;
    let mut bench = Bench {
        options,
        cores,
        programs: programs.clone(),
        runtime: tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?,
        sheet,
        report,
    };
    measure(&mut bench)?;
    Ok(rustix::thread::sched_setaffinity(None, &usual)?)
}

fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    if bench.has(Part::Start) {
        bench.start()?;
        bench.keep()?;
    }
    bench.loads()?;
    if bench.has(Part::Memory) {
        bench.memory()?;
        bench.keep()?;
    }
    if bench.options.long {
        bench.long()?;
        bench.keep()?;
    }
    Ok(())
}

/// What ImageSwap is compared with, and ImageSwap.
fn programs(options: &Options, built: Built) -> [(Side, Program); 2] {
    // A server's working directory is ours, but a person may not be in the repository's root.
    let folder = std::path::absolute(&options.report).unwrap_or_else(|_| options.report.clone());
    let program = |kind, name: &'static str, path: PathBuf, own: &str| Program {
        kind,
        name,
        path,
        folder: folder.join(own),
    };
    let floor = match &options.before {
        None => {
            let path = options.null_webhook.clone().unwrap_or(built.null_webhook);
            program(Kind::Null(None), "null webhook", path, "null")
        }
        Some(before) => program(Kind::ImageSwap, "before", before.clone(), "before"),
    };
    let path = options.binary.clone().unwrap_or(built.imageswap);
    let ours = program(Kind::ImageSwap, "ImageSwap", path, "imageswap");
    [(Side::Floor, floor), (Side::ImageSwap, ours)]
}

/// What the figures mean nothing without.
fn about(cores: Cores) -> anyhow::Result<Vec<(String, String)>> {
    let mut facts = facts()?;
    for (name, value) in &mut facts {
        if name == "machine" {
            let caveats = cores.caveats();
            value.extend(caveats.iter().flat_map(|caveat| [", ", caveat.as_str()]));
        }
    }
    facts.push(("load before".to_owned(), load_before()));
    Ok(facts)
}

/// Whether the machine was quiet: what waited for a core in the minute before.
fn load_before() -> String {
    let averages = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let minute = averages.split(' ').next().unwrap_or_default();
    format!("{minute} threads wanted a core in the minute before")
}
