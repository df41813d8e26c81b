//! Plays scenarios: makes ImageSwap ready, keeps Pods coming, plays the fault, judges, reports.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;

use super::stage::{Extent, Stage};
use super::timeline::Timeline;
use super::verdict::{Verdict, judge};
use super::{Budget, Scenario};
use crate::cluster::{APISERVER, Cluster, SECOND_APISERVER};
use crate::install::{self, Variant};
use crate::load::{self, Call, Load, Plan};
use crate::progress::{Step, say};
use crate::{clock, doctor, image, rotation};

/// One Pod of so many is really created: the first number of which the clients' is no multiple. They take turns, and these
/// being primes, each client really creates some.
const REAL: [u32; 2] = [41, 43];

/// Of several servers each is to answer no less than this part of its even share; one of them may be away for
/// most of the time.
const FAIR: usize = 10;

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
    at_rest(cluster)
}

/// Waits until all replicas are there, one leads, and the caBundle is as it should be.
fn at_rest(cluster: &Cluster) -> anyhow::Result<()> {
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
    let diary = stage.diary();
    let played = played
        .and_then(|()| called_all(servers(scenario).len(), &calls))
        .and_then(|()| at_rest(cluster).context("what it left is not in order"))
        .and_then(|()| {
            deleted
                .map(drop)
                .context("the load's Pods can't be deleted")
        });
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
        servers: servers(scenario),
        swapped: images.map(|image| (*image).to_owned()).collect(),
        real: real(options.clients),
        ..Plan::new(namespace)
    }
}

fn real(clients: usize) -> u32 {
    let [usual, other] = REAL;
    if clients.is_multiple_of(usual as usize) {
        other
    } else {
        usual
    }
}

/// Whom the load calls; whom the kubeconfig names, if none.
fn servers(scenario: &Scenario) -> Vec<String> {
    match scenario.second {
        Some(_) => vec![APISERVER.to_owned(), SECOND_APISERVER.to_owned()],
        None => Vec::new(),
    }
}

/// Whether each of so many servers answered a fair share of the calls: one that nobody calls finds nothing.
fn called_all(servers: usize, calls: &[Call]) -> anyhow::Result<()> {
    let good = || calls.iter().filter(|call| call.outcome.is_swapped());
    for server in 0..servers {
        let own = good().filter(|call| call.server == server).count();
        ensure!(
            own * servers * FAIR >= good().count().max(1),
            "kube-apiserver {server} answered {own} of {} calls, which shows nothing of it; is --clients below 4?",
            good().count()
        );
    }
    Ok(())
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
        // Also after a panic: the scope waits for the thread.
        let _done = Done(&is_done);
        work()
    })
}

/// Says so when it is dropped.
struct Done<'d>(&'d AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Outcome;
    use std::collections::BTreeSet;

    #[test]
    fn each_client_really_creates_some() {
        for clients in 1..=64 {
            let real = real(clients) as usize;
            let whose: BTreeSet<_> = (0..64).map(|n| n * real % clients).collect();
            assert_eq!(whose.len(), clients);
        }
    }

    #[test]
    fn each_server_has_a_share_of_the_calls() {
        let calls = |count: usize, of_second: usize| {
            let call = |n| Call {
                due: Duration::ZERO,
                answered: Duration::ZERO,
                server: usize::from(n < of_second),
                outcome: Outcome::Swapped,
            };
            (0..count).map(call).collect::<Vec<_>>()
        };
        assert!(called_all(2, &calls(80, 40)).is_ok());
        assert!(called_all(2, &calls(80, 4)).is_ok());
        assert!(called_all(2, &calls(80, 3)).is_err());
        assert!(called_all(2, &calls(80, 80)).is_err());
        assert!(called_all(2, &[]).is_err());
        assert!(called_all(0, &calls(80, 0)).is_ok());
    }
}
