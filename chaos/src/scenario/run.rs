//! A run: a cluster of its own, scenarios on it one after the other, and the reports.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use super::Scenario;
use super::page::page;
use super::runner::{Options, Performance, make_ready, perform, settings};
use super::table::{LEGEND, remarks, table};
use crate::cluster::Cluster;
use crate::facts::{State, UNFINISHED, facts};
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

/// What a report tells.
#[derive(Debug)]
struct Told {
    facts: Vec<(String, String)>,
    played: Vec<Performance>,
}

/// `report.json`.
#[derive(Debug, Serialize)]
struct Report<'r> {
    facts: &'r [(String, String)],
    options: &'r Options,
    /// Whether all that were asked for were played, and each is within its budget.
    is_passed: bool,
    /// How many that were.
    asked: usize,
    scenarios: &'r [Performance],
}

impl Run {
    /// Runs all. True if every scenario is within its budget.
    ///
    /// # Errors
    /// There is no cluster to run on, not all can be played, or the reports can't be written. What was played is in them.
    pub fn go(self) -> anyhow::Result<bool> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("can't make {}", self.folder.display()))?;
        doctor::cure()?;
        // Also what is built below is no two runs' at once, and in the way of what a run measures.
        let turn = guard::turn()?;
        let binaries = binaries::ready()?;
        let binary = match &self.binary {
            Some(binary) => binary.clone(),
            None => image::binary()?,
        };
        let mut told = Told {
            facts: facts()?,
            played: Vec::new(),
        };
        // An earlier run's would be taken for this one's.
        self.write(&told, &State::UnderWay)?;
        let done = self.on_cluster(&turn, binaries, &binary, &mut told);
        let state = match &done {
            Ok(()) => State::Done,
            Err(error) => State::Failed(error),
        };
        let written = self.write(&told, &state);
        say(format_args!("\n{}\n{LEGEND}", table(&told.played)));
        say(format_args!(
            "reports: {}",
            self.folder.join("report.html").display()
        ));
        let is_passed = self.is_passed(&told, &state);
        done.and(written)?;
        Ok(is_passed)
    }

    fn on_cluster(
        &self,
        turn: &File,
        binaries: Vec<PathBuf>,
        binary: &Path,
        told: &mut Told,
    ) -> anyhow::Result<()> {
        let guard = Guard::start(&self.chaos, NAME, Some(turn))?;
        let cluster = Cluster::up(NAME, 3, binaries, &self.chaos)?;
        let done = self.play(&cluster, binary, told);
        if done.is_err() {
            keep_logs(&cluster, NAME);
        }
        guard.end();
        let remains = cluster::remains(NAME);
        done?;
        anyhow::ensure!(
            remains.is_empty(),
            "the cluster left {}",
            remains.join("; ")
        );
        Ok(())
    }

    fn play(&self, cluster: &Cluster, binary: &Path, told: &mut Told) -> anyhow::Result<()> {
        install::load_image(cluster, binary)?;
        told.facts.insert(2, kubernetes(cluster)?);
        for scenario in &self.scenarios {
            told.played.push(self.one(cluster, scenario)?);
            // Whoever ends the run early has what there is.
            self.write(told, &State::UnderWay)?;
        }
        Ok(())
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
            keep_logs(cluster, &format!("{NAME}-{}", scenario.name));
        }
        Ok(performance)
    }

    fn is_passed(&self, told: &Told, state: &State<'_>) -> bool {
        matches!(state, State::Done)
            && told.played.len() == self.scenarios.len()
            && told.played.iter().all(|one| one.verdict.is_passed)
    }

    fn write(&self, told: &Told, state: &State<'_>) -> anyhow::Result<()> {
        let (asked, played) = (self.scenarios.len(), &told.played);
        let mut facts = told.facts.clone();
        facts.extend(state.unfinished().map(|why| {
            let count = played.len();
            let why = format!("{count} of {asked} scenarios were played: {why}");
            (UNFINISHED.to_owned(), why)
        }));
        let report = Report {
            facts: &facts,
            options: &self.options,
            is_passed: self.is_passed(told, state),
            asked,
            scenarios: played,
        };
        let text = |name: &str, text: String| {
            let path = self.folder.join(name);
            fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))
        };
        text("report.json", serde_json::to_string_pretty(&report)?)?;
        text("report.html", page(&facts, asked, played))?;
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

/// What was found is told in any case.
fn keep_logs(cluster: &Cluster, name: &str) {
    match install::keep_logs(cluster, name) {
        Ok(logs) => say(format_args!("  logs: {}", logs.display())),
        Err(error) => say(format_args!("  no logs: {error:#}")),
    }
}

/// A fact: which Kubernetes.
fn kubernetes(cluster: &Cluster) -> anyhow::Result<(String, String)> {
    let versions: serde_json::Value =
        serde_json::from_str(&cluster.ask(&["version", "-o", "json"])?)?;
    let kubernetes = text_at(&versions, "/serverVersion/gitVersion").to_owned();
    Ok(("Kubernetes".to_owned(), kubernetes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::diary::Diary;
    use crate::scenario::timeline::Timeline;
    use crate::scenario::verdict::{Budget, judge};
    use crate::scenarios;
    use serde_json::{Value, json};

    /// A scenario that cost nothing.
    fn performance(scenario: &'static Scenario) -> Performance {
        let mut verdict = judge(&Budget::NOTHING, &[], &Diary::default(), Ok(()));
        verdict.is_passed = true;
        Performance {
            name: scenario.name,
            about: scenario.about,
            budget: scenario.budget,
            settings: settings(scenario, &Options::short()),
            verdict,
            timeline: Timeline::new(&[], &Diary::default()),
            notes: Vec::new(),
        }
    }

    #[test]
    fn a_report_says_passed_when_all_were_played() {
        let folder = tempfile::tempdir().unwrap();
        let scenarios = scenarios::ALL.iter().copied().take(2).collect();
        let run = Run {
            scenarios,
            options: Options::short(),
            folder: folder.path().to_owned(),
            binary: None,
            chaos: PathBuf::new(),
        };
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let error = anyhow::anyhow!("no cluster");
        let (under_way, failed) = (State::UnderWay, State::Failed(&error));
        for (count, state, is_passed, unfinished) in [
            (
                0,
                &under_way,
                false,
                Some("0 of 2 scenarios were played: more is to come"),
            ),
            (
                0,
                &failed,
                false,
                Some("0 of 2 scenarios were played: no cluster"),
            ),
            (
                1,
                &failed,
                false,
                Some("1 of 2 scenarios were played: no cluster"),
            ),
            (1, &State::Done, false, None),
            (
                2,
                &under_way,
                false,
                Some("2 of 2 scenarios were played: more is to come"),
            ),
            (2, &State::Done, true, None),
        ] {
            let played = run.scenarios.iter().copied().take(count);
            let told = Told {
                facts: vec![("date".to_owned(), "today".to_owned())],
                played: played.map(performance).collect(),
            };
            run.write(&told, state).unwrap();
            let report: Value = serde_json::from_str(&read("report.json")).unwrap();
            let case = format!("{count}, {state:?}");
            assert_eq!(report["is_passed"], is_passed, "{case}");
            assert_eq!(report["asked"], 2, "{case}");
            assert_eq!(report["facts"][0], json!(["date", "today"]));
            let page = read("report.html");
            assert!(
                page.contains(&format!("{count} of 2 scenarios are within")),
                "{page}"
            );
            for text in [read("report.md"), report["facts"].to_string(), page] {
                assert_eq!(
                    text.contains("unfinished"),
                    unfinished.is_some(),
                    "{case}: {text}"
                );
                assert!(
                    text.contains(unfinished.unwrap_or_default()),
                    "{case}: {text}"
                );
            }
        }
    }
}
