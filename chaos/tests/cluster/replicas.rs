//! Three replicas with one Secret and one leader.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chaos::cluster::Machine;
use chaos::command::{eventually, run};
use chaos::install::{self, NAMESPACE};
use chaos::load::{self, Report};
use chaos::progress::say;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::world::{Installed, World, dry_runs};

pub(crate) fn one_leaf(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Production)?;
    let leaves = leaves(world)?;
    ensure!(leaves.len() == 3, "{} replicas", leaves.len());
    ensure!(leaves.iter().all(|leaf| *leaf == leaves[0]), "{leaves:?}");
    // Spread over nodes: a wish to the scheduler, for a replica beside another is better than none.
    let pods = replicas(world)?;
    let mut nodes: Vec<_> = pods
        .iter()
        .map(|pod| pod["spec"]["nodeName"].to_string())
        .collect();
    nodes.sort();
    nodes.dedup();
    ensure!(nodes.len() >= 2, "all are on {nodes:?}");
    Ok(())
}

pub(crate) fn killed_leader(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Production)?;
    let leader = eventually("a leader", Duration::from_secs(20), || leader(world))?;
    let (secret, bundle, leaves_before) = (
        secret(world)?,
        install::ca_bundle(&world.cluster)?,
        leaves(world)?,
    );

    // Meanwhile Pods are created, none of which may be let through as it is.
    let namespace = world.namespace()?;
    let plan = dry_runs(&namespace, Duration::from_secs(60));
    let load = load::start(&world.cluster, &plan)?;
    std::thread::sleep(Duration::from_secs(2));
    kill(world, &leader, Process::First)?;
    let killed = Instant::now();
    // The lease's time and a few polls.
    eventually("another leader", Duration::from_secs(25), || {
        let now = self::leader(world)?;
        ensure!(now != leader, "it is {now} still");
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
    ensure!(leaves(world)? == leaves_before, "another leaf is served");
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
            kill(world, name, Process::Worker)?;
            // At once, and on new connections: whoever comes early waits.
            leaves(world)?;
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
    const EXCUSES: [&str; 2] = ["EOF", "connection reset"];
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

/// One of a replica's two processes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Process {
    /// The container's first one, with which all others end: the keeper.
    First,
    /// The server, its child.
    Worker,
}

/// Kills a process of a replica, which is named by its Pod or as the Lease does, as a fault of its own
/// would: nothing is said or given up.
pub(crate) fn kill(world: &World, replica: &str, process: Process) -> anyhow::Result<()> {
    let pods = replicas(world)?;
    let is_it = |pod: &&Value| {
        let name = pod["metadata"]["name"].as_str();
        name.is_some_and(|name| replica.contains(name))
    };
    let pod = pods
        .iter()
        .find(is_it)
        .with_context(|| format!("no Pod is the replica {replica}"))?;
    let (node, process) = self::process(world, pod, process)?;
    run(node.command("kill").args(["-s", "KILL", &process])).map(drop)
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
    let pods = replicas(world)?;
    let all = pods
        .iter()
        .map(|pod| one(pod).context("a Pod without a status"));
    all.collect()
}

/// The node of a Pod, and the number that one of its container's processes has there.
pub(crate) fn process<'w>(
    world: &'w World,
    pod: &Value,
    process: Process,
) -> anyhow::Result<(&'w Machine, String)> {
    let nodes = world.cluster.nodes().iter();
    let mut own = nodes.filter(|node| pod["spec"]["nodeName"] == node.name);
    let node = own.next().context("no such node")?;
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str();
    let id = id
        .context("no container")?
        .trim_start_matches("containerd://");
    // A table of container, process and state.
    let tasks = run(&mut node.ctr(&["tasks", "ls"]))?;
    let line = tasks.lines().find(|line| line.starts_with(id));
    let first = line.and_then(|line| line.split_whitespace().nth(1));
    let first = first.context("no such process")?;
    let number = match process {
        Process::First => first.to_owned(),
        // It is the first one's only child.
        Process::Worker => eventually("a worker", Duration::from_secs(10), || {
            let children = format!("/proc/{first}/task/{first}/children");
            let found = run(node.command("cat").arg(children))?.trim().to_owned();
            ensure!(!found.is_empty(), "{first} has no child");
            Ok(found)
        })?,
    };
    Ok((node, number))
}

/// The Secret's version: any write changes it.
fn secret(world: &World) -> anyhow::Result<String> {
    let secret = world.get(&["-n", NAMESPACE, "secret/imageswap-tls"])?;
    Ok(secret["metadata"]["resourceVersion"].to_string())
}

pub(crate) fn leader(world: &World) -> anyhow::Result<String> {
    let lease = world.get(&["-n", NAMESPACE, "lease/imageswap-leader"])?;
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    ensure!(!holder.is_empty(), "nobody leads");
    Ok(holder.to_owned())
}

pub(crate) fn replicas(world: &World) -> anyhow::Result<Vec<Value>> {
    let list = world.get(&["-n", NAMESPACE, "pods", "-l", "app=imageswap"])?;
    let pods = list["items"].as_array().context("no list")?;
    let lives = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    Ok(pods.iter().filter(lives).cloned().collect())
}

/// The leaf of each replica as a handshake sees it, each verified against the live caBundle.
pub(crate) fn leaves(world: &World) -> anyhow::Result<Vec<String>> {
    let leaf = |pod: &Value| {
        let ip = pod["status"]["podIP"].as_str().context("no address")?;
        install::leaf(&world.cluster, &format!("{ip}:5000"))
    };
    replicas(world)?.iter().map(leaf).collect()
}
