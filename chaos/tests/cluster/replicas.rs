//! Three replicas with one Secret and one leader.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chaos::cluster::Machine;
use chaos::command::{eventually, run};
use chaos::install::{self, NAMESPACE};
use chaos::load::{self, Report};
use chaos::progress::say;
use serde_json::Value;

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
    kill(world, &leader)?;
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

/// What a process that was killed may cost: calls that were in its hands, and new connections of
/// kube-apiserver to an endpoint that the cluster has not taken out yet. Neither does kube-apiserver
/// try again, so ImageSwap can do nothing about it. No Pod is let through, and others are answered
/// meanwhile.
pub(crate) fn lost_dials_only(report: &Report, kills: usize) -> anyhow::Result<()> {
    const EXCUSES: [&str; 3] = ["connection refused", "EOF", "connection reset"];
    let is_excused = |failure: &String| EXCUSES.iter().any(|excuse| failure.contains(excuse));
    ensure!(report.unswapped == 0, "{report}");
    ensure!(report.failures.iter().all(is_excused), "{report}");
    ensure!(report.failed <= 5 * kills, "{report}");
    ensure!(report.gap < 1_000.0, "{report}");
    Ok(())
}

/// Kills the process of the replica that leads, as the kernel would, out of memory: nothing is said
/// or given up.
pub(crate) fn kill(world: &World, leader: &str) -> anyhow::Result<()> {
    let pods = replicas(world)?;
    let is_it = |pod: &&Value| {
        let name = pod["metadata"]["name"].as_str();
        name.is_some_and(|name| leader.contains(name))
    };
    let pod = pods
        .iter()
        .find(is_it)
        .with_context(|| format!("no Pod is the leader {leader}"))?;
    let id = pod["status"]["containerStatuses"][0]["containerID"]
        .as_str()
        .context("no container")?;
    let id = id.trim_start_matches("containerd://");
    let nodes = world.cluster.nodes();
    let node = nodes
        .iter()
        .find(|node| pod["spec"]["nodeName"] == node.name);
    let node = node.context("no such node")?;
    run(&mut node.ctr(&["tasks", "kill", "--signal", "SIGKILL", id])).map(drop)
}

/// The node of a Pod, and its container's process there.
pub(crate) fn process<'w>(world: &'w World, pod: &Value) -> anyhow::Result<(&'w Machine, String)> {
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
    let process = line.and_then(|line| line.split_whitespace().nth(1));
    Ok((node, process.context("no such process")?.to_owned()))
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
