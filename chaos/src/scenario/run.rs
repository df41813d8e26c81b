//! A run: a cluster of its own, scenarios on it one after the other, and the reports.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use serde::Serialize;

use super::Scenario;
use super::page::page;
use super::runner::{Options, Performance, make_ready, perform, settings};
use super::table::{LEGEND, remarks, table};
use crate::cluster::Cluster;
use crate::facts::facts;
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
        let turn = guard::turn()?;
        let guard = Guard::start(&self.chaos, NAME, Some(&turn))?;
        let cluster = Cluster::up(NAME, 3, binaries, &self.chaos)?;
        install::load_image(&cluster, &binary)?;
        let facts = facts_of(&cluster)?;
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
            // What was found is told in any case.
            match install::keep_logs(cluster, &format!("run-{}", scenario.name)) {
                Ok(logs) => say(format_args!("  logs: {}", logs.display())),
                Err(error) => say(format_args!("  no logs: {error:#}")),
            }
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
fn facts_of(cluster: &Cluster) -> anyhow::Result<Vec<(String, String)>> {
    let versions: serde_json::Value =
        serde_json::from_str(&cluster.ask(&["version", "-o", "json"])?)?;
    let kubernetes = text_at(&versions, "/serverVersion/gitVersion").to_owned();
    let mut facts = facts()?;
    facts.insert(2, ("Kubernetes".to_owned(), kubernetes));
    Ok(facts)
}
