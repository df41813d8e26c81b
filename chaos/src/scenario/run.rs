//! A run: a cluster of its own, scenarios on it one after the other, and the reports.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Scenario;
use super::page::page;
use super::runner::{Options, Performance, make_ready, perform, settings};
use super::table::{LEGEND, remarks, table};
use crate::cluster::Cluster;
use crate::command::{command, run as run_command};
use crate::guard::{self, Guard};
use crate::json::text_at;
use crate::progress::say;
use crate::{binaries, cluster, doctor, image, install};

/// The run's cluster; one that a person has started goes on beside it.
const NAME: &str = "run";

/// What to do.
#[derive(Debug)]
pub struct Run {
    /// In this order.
    pub scenarios: Vec<&'static Scenario>,
    /// How.
    pub options: Options,
    /// Where the reports are written to.
    pub folder: PathBuf,
    /// ImageSwap, a static binary; else it is compiled.
    pub binary: Option<PathBuf>,
    /// This crate's program.
    pub chaos: PathBuf,
}

#[derive(Debug, Serialize)]
struct Report<'r> {
    facts: &'r [(String, String)],
    options: &'r Options,
    is_passed: bool,
    scenarios: &'r [Performance],
}

impl Run {
    /// Runs all. True if every scenario is within its budget.
    ///
    /// # Errors
    /// There is no cluster to run on, or the reports can't be written.
    pub fn go(self) -> anyhow::Result<bool> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("can't make {}", self.folder.display()))?;
        doctor::cure()?;
        let binaries = binaries::ready()?;
        let binary = match &self.binary {
            Some(binary) => binary.clone(),
            None => image::binary()?,
        };
        let _turn = guard::turn()?;
        let guard = Guard::start(&self.chaos, NAME)?;
        let cluster = Cluster::up(NAME, 3, binaries, &self.chaos)?;
        install::load_image(&cluster, &binary)?;
        let facts = facts(&cluster)?;
        let mut played = Vec::new();
        for scenario in &self.scenarios {
            played.push(self.one(&cluster, scenario)?);
            // Whoever ends the run early has what there is.
            self.write(&facts, &played)?;
        }
        guard.end();
        let remains = cluster::remains(NAME);
        anyhow::ensure!(
            remains.is_empty(),
            "the cluster left {}",
            remains.join("; ")
        );
        say(format_args!("\n{}\n{LEGEND}", table(&played)));
        say(format_args!(
            "reports: {}",
            self.folder.join("report.html").display()
        ));
        Ok(played.iter().all(|one| one.verdict.is_passed))
    }

    fn one(&self, cluster: &Cluster, scenario: &'static Scenario) -> anyhow::Result<Performance> {
        make_ready(cluster, &settings(scenario, &self.options))
            .with_context(|| format!("ImageSwap can't be made ready for {}", scenario.name))?;
        let performance = perform(cluster, scenario, &self.options)?;
        let verdict = &performance.verdict;
        let mark = if verdict.is_passed {
            "within its budget"
        } else {
            "OVER ITS BUDGET"
        };
        say(format_args!(
            "{}: {mark} ({}): {} Pods, {} lost, {} excused, longest {:.0} ms",
            scenario.name,
            scenario.budget.words,
            verdict.all.calls,
            verdict.lost,
            verdict.excused,
            verdict.all.max
        ));
        remarks(&performance)
            .iter()
            .for_each(|remark| say(format_args!("  {remark}")));
        if !verdict.is_passed {
            let logs = install::keep_logs(cluster, &format!("run-{}", scenario.name))?;
            say(format_args!("  logs: {}", logs.display()));
        }
        Ok(performance)
    }

    fn write(&self, facts: &[(String, String)], played: &[Performance]) -> anyhow::Result<()> {
        let report = Report {
            facts,
            options: &self.options,
            is_passed: played.iter().all(|one| one.verdict.is_passed),
            scenarios: played,
        };
        let text = |name: &str, text: String| {
            let path = self.folder.join(name);
            fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))
        };
        text("report.json", serde_json::to_string_pretty(&report)?)?;
        text("report.html", page(facts, played))?;
        let facts: String = facts
            .iter()
            .map(|(name, value)| format!("- {name}: {value}\n"))
            .collect();
        text(
            "report.md",
            format!("{facts}\n{}\n{LEGEND}.\n", table(played)),
        )
    }
}

/// What a figure means nothing without.
fn facts(cluster: &Cluster) -> anyhow::Result<Vec<(String, String)>> {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0)?;
    let versions: serde_json::Value =
        serde_json::from_str(&cluster.ask(&["version", "-o", "json"])?)?;
    let kubernetes = text_at(&versions, "/serverVersion/gitVersion");
    let (_, version) = image::IMAGESWAP.split_at(image::IMAGESWAP.rfind(':').unwrap_or(0));
    let cores = std::thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // What follows is the builder's own.
    let kernel = kernel.split('-').next().unwrap_or_default().trim();
    // The name of the program would tell of the machine that it lies on.
    let words: Vec<_> = std::env::args().skip(1).collect();
    Ok([
        ("date", now.format(&Rfc3339)?),
        (
            "ImageSwap",
            format!("{} at {}", version.trim_start_matches(':'), commit()),
        ),
        ("Kubernetes", kubernetes.to_owned()),
        ("machine", format!("{cores} cores, Linux {kernel}")),
        (
            "command",
            format!("cargo run -p chaos -- {}", words.join(" ")),
        ),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec())
}

/// Which sources were built.
fn commit() -> String {
    let describe = ["describe", "--always", "--dirty", "--exclude=*"];
    let mut git = command("git", describe);
    let described = run_command(git.current_dir(crate::repository() as &Path));
    described.map_or_else(|_| "no commit".to_owned(), |text| text.trim().to_owned())
}
