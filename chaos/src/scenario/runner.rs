//! Plays scenarios: makes ImageSwap ready, keeps Pods coming, plays the fault, judges, reports.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::stage::{Extent, Stage};
use super::timeline::Timeline;
use super::verdict::{Verdict, judge};
use super::{Budget, Scenario};
use crate::cluster::{APISERVER, Cluster, SECOND_APISERVER};
use crate::install::{self, Variant};
use crate::load::{self, Load, Plan};
use crate::progress::{Step, say};
use crate::{clock, doctor, image, rotation};

/// One Pod of so many is really created.
const REAL: u32 = 40;

/// How scenarios are played.
#[derive(Debug, Clone, Serialize)]
pub struct Options {
    /// Pods a second.
    pub rate: u32,
    /// Clients that create them, every second one over HTTP/2.
    pub clients: usize,
    /// Settings of ImageSwap over those of the scenarios: to break it on purpose.
    pub set: BTreeMap<String, String>,
    /// How much is played.
    #[serde(skip)]
    pub extent: Extent,
}

impl Options {
    /// As the test suite plays them.
    pub fn short() -> Self {
        Self {
            rate: 40,
            clients: 4,
            set: BTreeMap::new(),
            extent: Extent::Short,
        }
    }
}

/// A scenario that was played.
#[derive(Debug, Clone, Serialize)]
pub struct Performance {
    /// Its name.
    pub name: &'static str,
    /// What broke.
    pub about: &'static str,
    /// What it may cost.
    pub budget: Budget,
    /// How ImageSwap was set.
    pub settings: BTreeMap<String, String>,
    /// What came of it.
    pub verdict: Verdict,
    /// When that was.
    pub timeline: Timeline,
    /// What else was found out.
    pub notes: Vec<String>,
}

/// The settings of a scenario, with those of the options over them.
pub fn settings(scenario: &Scenario, options: &Options) -> BTreeMap<String, String> {
    let own = scenario.settings.iter();
    let mut all: BTreeMap<_, _> = own
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    all.extend(options.set.clone());
    all
}

/// Sees to it that three replicas are at rest, with these settings. If what an earlier scenario left
/// can't be made so, all is installed anew.
///
/// # Errors
/// It can't be made so either.
pub fn make_ready(cluster: &Cluster, settings: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let Err(error) = ready(cluster, settings) else {
        return Ok(());
    };
    say(format_args!("installing ImageSwap anew: {error:#}"));
    install::remove(cluster)?;
    ready(cluster, settings)
}

fn ready(cluster: &Cluster, settings: &BTreeMap<String, String>) -> anyhow::Result<()> {
    install::apply_maps(cluster, install::MAPS)?;
    let is_changed = install::set(cluster, settings)?;
    let is_new = install::deployment(cluster).is_err();
    cluster.ask(&["apply", "-k", &Variant::Production.folder()])?;
    if is_changed && !is_new {
        install::restart(cluster)?;
    }
    install::wait(cluster)?;
    install::old_ones_gone(cluster)?;
    rotation::settled(cluster)
}

/// Plays a scenario on a cluster on which ImageSwap is ready.
///
/// # Errors
/// The load can't be started. Whatever the scenario comes to is in its verdict.
pub fn perform(
    cluster: &Cluster,
    scenario: &Scenario,
    options: &Options,
) -> anyhow::Result<Performance> {
    doctor::has_room(cluster.folder())?;
    let namespace = format!("chaos-{}", clock::now().as_millis());
    let second = scenario
        .second
        .map(|way| cluster.second_apiserver(way))
        .transpose()?;
    let stage = Stage::new(cluster, namespace.clone(), options.extent, second);
    install::make_namespace(cluster, &namespace)?;
    let load = load::start(cluster, &plan(scenario, options, &namespace))?;
    let played = shown(scenario.name, &stage, &load, || {
        let quiet = stage.by_extent(Duration::from_secs(8), Duration::from_secs(2));
        std::thread::sleep(quiet);
        let played = (scenario.play)(&stage);
        std::thread::sleep(quiet);
        played
    });
    let calls = load.finish();
    let delete = ["delete", "namespace", &namespace, "--wait=false"];
    let deleted = cluster.ask(&delete);
    let calls = calls.context("the load did not last")?;
    deleted?;
    let diary = stage.diary();
    let played = played.map_err(|error| format!("{error:#}"));
    Ok(Performance {
        name: scenario.name,
        about: scenario.about,
        budget: scenario.budget,
        settings: settings(scenario, options),
        verdict: judge(&scenario.budget, &calls, &diary, played),
        timeline: Timeline::new(&calls, &diary),
        notes: diary.notes.clone(),
    })
}

fn plan(scenario: &Scenario, options: &Options, namespace: &str) -> Plan {
    let images = std::iter::once(&image::WORKLOAD).chain(scenario.images);
    Plan {
        rate: options.rate,
        clients: options.clients,
        servers: match scenario.second {
            Some(_) => vec![APISERVER.to_owned(), SECOND_APISERVER.to_owned()],
            None => Vec::new(),
        },
        swapped: images.map(|image| (*image).to_owned()).collect(),
        real: REAL,
        ..Plan::new(namespace)
    }
}

/// Shows how the calls fare, and what was done last, while something goes on.
fn shown<T>(name: &str, stage: &Stage<'_>, load: &Load, work: impl FnOnce() -> T) -> T {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut step = Step::begin(name);
            while !is_done.load(Ordering::Relaxed) {
                let (calls, bad) = load.so_far();
                let last = stage.diary().events.last().map(|(_, what)| what.clone());
                let last = last.unwrap_or_else(|| "all quiet".to_owned());
                step.update(format_args!("{calls} Pods, {bad} lost; {last}"));
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        let done = work();
        is_done.store(true, Ordering::Relaxed);
        done
    })
}
