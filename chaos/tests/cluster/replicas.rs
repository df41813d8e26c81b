//! Three replicas with one Secret and one leader.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chaos::command::eventually;
use chaos::install::{self, NAMESPACE};
use chaos::load::{self, Report};
use chaos::progress::say;
use chaos::replicas::{Process, lasting_leader, leader, leaves, replicas, signal};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::world::{Installed, QUICK, World, dry_runs};

pub(crate) fn one_leaf(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Production)?;
    let leaves = leaves(&world.cluster)?;
    ensure!(leaves.len() == 3, "{} replicas", leaves.len());
    ensure!(leaves.iter().all(|leaf| *leaf == leaves[0]), "{leaves:?}");
    // A wish to the scheduler, for a replica beside another is better than none; here nothing is in its way.
    let pods = replicas(&world.cluster)?;
    let mut nodes: Vec<_> = pods
        .iter()
        .map(|pod| pod["spec"]["nodeName"].to_string())
        .collect();
    nodes.sort();
    nodes.dedup();
    ensure!(nodes.len() == 3, "all are on {nodes:?}");
    Ok(())
}

pub(crate) fn killed_leader(world: &World) -> anyhow::Result<()> {
    world.need_with(Installed::Production, &QUICK)?;
    let leader_before = eventually("a leader", Duration::from_secs(20), || {
        lasting_leader(&world.cluster)
    })?;
    let (secret, bundle, leaves_before) = (
        secret(world)?,
        install::ca_bundle(&world.cluster)?,
        leaves(&world.cluster)?,
    );

    // Meanwhile Pods are created, none of which may be let through as it is.
    let namespace = world.namespace()?;
    let plan = dry_runs(&namespace, Duration::from_secs(60));
    let load = load::start(&world.cluster, &plan)?;
    std::thread::sleep(Duration::from_secs(2));
    signal(&world.cluster, &leader_before, Process::First, "KILL")?;
    let killed = Instant::now();
    // The lease's time and a few polls.
    eventually("another leader", Duration::from_secs(25), || {
        let now = leader(&world.cluster)?;
        ensure!(now != leader_before, "it is {now} still");
        Ok(())
    })?;
    let took = killed.elapsed();
    let report = load.end()?;
    say(format_args!(
        "another leader after {:.1} s\n{report}",
        took.as_secs_f32()
    ));
    lost_dials_only(&report, 1)?;
    install::wait(&world.cluster)?;
    // A second look, when the new leader has had time to do something foolish.
    std::thread::sleep(Duration::from_secs(3));
    ensure!(self::secret(world)? == secret, "the Secret was written");
    ensure!(
        install::ca_bundle(&world.cluster)? == bundle,
        "the caBundle was written"
    );
    ensure!(
        leaves(&world.cluster)? == leaves_before,
        "another leaf is served"
    );
    Ok(())
}

pub(crate) fn killed_workers(world: &World) -> anyhow::Result<()> {
    const ROUNDS: usize = 3;
    world.need(Installed::Production)?;
    let before = containers(world)?;
    let names: Vec<_> = before.iter().map(|(name, ..)| name.clone()).collect();
    let namespace = world.namespace()?;
    let plan = dry_runs(&namespace, Duration::from_secs(120));
    let load = load::start(&world.cluster, &plan)?;
    std::thread::sleep(Duration::from_secs(2));
    for _ in 0..ROUNDS {
        for name in &names {
            signal(&world.cluster, name, Process::Worker, "KILL")?;
            // At once, and on new connections: whoever comes early waits.
            leaves(&world.cluster)?;
        }
    }
    std::thread::sleep(Duration::from_secs(2));
    let report = load.end()?;
    let mut gaps = Vec::new();
    for name in &names {
        let log = world.kubectl(&["-n", NAMESPACE, "logs", name])?;
        let of_one = restarts(&log)?;
        ensure!(of_one.len() == ROUNDS, "{name}: {of_one:?} of {log}");
        gaps.extend(of_one.into_iter().map(|gap| gap.whole_milliseconds()));
    }
    say(format_args!(
        "every worker killed {ROUNDS} times, ready again after {gaps:?} ms: {report}"
    ));
    lost_own_calls_only(&report, ROUNDS * names.len())?;
    // To Kubernetes nothing has happened.
    ensure!(containers(world)? == before, "was: {before:?}");
    Ok(())
}

/// From each death of a worker to when the next one was ready, by a replica's log.
fn restarts(log: &str) -> anyhow::Result<Vec<time::Duration>> {
    let (mut all, mut death) = (Vec::new(), None);
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).context("a line that is no JSON")?;
        let at = OffsetDateTime::parse(line["timestamp"].as_str().unwrap_or_default(), &Rfc3339)?;
        match line["message"].as_str() {
            Some("the server was killed; starting it again") => death = Some(at),
            Some("ready") => all.extend(death.take().map(|death| at - death)),
            _ => {}
        }
    }
    Ok(all)
}

/// What a worker that was killed may cost: the call that was in its hands. Its sockets are kept, so
/// that nobody is refused.
pub(crate) fn lost_own_calls_only(report: &Report, kills: usize) -> anyhow::Result<()> {
    const EXCUSES: [&str; 3] = ["EOF", "connection reset", "broken pipe"];
    lost_only(report, &EXCUSES, kills)
}

/// What a container that was killed may cost: calls that were in its hands, and new connections of
/// kube-apiserver to an endpoint that the cluster has not taken out yet. Neither does kube-apiserver
/// try again, so ImageSwap can do nothing about it. No Pod is let through, and others are answered
/// meanwhile.
pub(crate) fn lost_dials_only(report: &Report, kills: usize) -> anyhow::Result<()> {
    const EXCUSES: [&str; 3] = ["connection refused", "EOF", "connection reset"];
    lost_only(report, &EXCUSES, 5 * kills)
}

fn lost_only(report: &Report, excuses: &[&str], most: usize) -> anyhow::Result<()> {
    let is_excused = |failure: &String| excuses.iter().any(|excuse| failure.contains(excuse));
    ensure!(report.unswapped == 0, "{report}");
    ensure!(report.failures.iter().all(is_excused), "{report}");
    ensure!(report.failed <= most, "{report}");
    ensure!(report.gap < 1_000.0, "{report}");
    Ok(())
}

/// Each replica with its container, the times it was started anew, and whether it is ready.
fn containers(world: &World) -> anyhow::Result<Vec<(String, String, u64, bool)>> {
    let one = |pod: &Value| {
        let status = &pod["status"]["containerStatuses"][0];
        Some((
            pod["metadata"]["name"].as_str()?.to_owned(),
            status["containerID"].as_str()?.to_owned(),
            status["restartCount"].as_u64()?,
            status["ready"].as_bool()?,
        ))
    };
    let pods = replicas(&world.cluster)?;
    let all = pods
        .iter()
        .map(|pod| one(pod).context("a Pod without a status"));
    all.collect()
}

/// The Secret's version: any write changes it.
fn secret(world: &World) -> anyhow::Result<String> {
    let secret = world.get(&["-n", NAMESPACE, "secret/imageswap-tls"])?;
    Ok(secret["metadata"]["resourceVersion"].to_string())
}
