//! More than one replica can do, of what is wanted and of what is not: nobody is refused.

use std::time::Duration;

use anyhow::{Context, ensure};
use chaos::command::run;
use chaos::flood::Upon;
use chaos::load::{self, Plan, Report};
use chaos::progress::say;
use chaos::replicas::{Process, find, process, replicas};
use serde_json::{Value, json};

use crate::world::{Installed, Namespace, Patched, QUICK, World, dry_runs};

/// Reviews under way at once, and clients that come at once.
const LIMIT: &str = "4";
const CLIENTS: u32 = 64;

/// So long that many reviews have come when it ends. Longer, and what is left of their five seconds is
/// short for those that are shed twice.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes a review take milliseconds, and be decided aside: smaller ones never pile up.
const CONTAINERS: usize = 210;

/// Without new connections a flood changes nothing, and below this many milliseconds the machine
/// is what differs.
const FLOOR: f64 = 150.0;

pub(crate) fn burst(world: &World) -> anyhow::Result<()> {
    // A CPU limit that somebody set, and a pause in which all of them come: so they pile up.
    let (_patched, pod) = alone(world, &json!({"limits": {"cpu": "100m"}}))?;
    let namespace = world.namespace()?;
    let plan = Plan {
        rate: CLIENTS * 1_000,
        duration: Duration::from_millis(1),
        clients: CLIENTS as usize,
        containers: CONTAINERS,
        ..dry_runs(&namespace, Duration::ZERO)
    };
    let mut shed = 0.0;
    for _ in 0..5 {
        // Not while it stands still: that takes about as long as the pause, and more on a busy machine.
        let found = find(&world.cluster, &pod)?;
        let (node, server) = process(&world.cluster, &found, Process::Worker)?;
        let signal = |signal| run(node.command("kill").args(["-s", signal, &server])).map(drop);
        signal("STOP")?;
        let load = load::start(&world.cluster, &plan);
        std::thread::sleep(PAUSE);
        // Whatever became of the load: nobody else would wake it.
        signal("CONT")?;
        let report = load?.wait()?;
        shed = world.metric(&pod, "imageswap_shed_total")?;
        say(format_args!("at once, {shed} shed so far: {report}"));
        ensure!(report.calls == CLIENTS as usize, "{report}");
        ensure!(report.is_clean(), "{report}");
        if shed > 0.0 {
            break;
        }
    }
    ensure!(shed > 0.0, "nothing was shed");
    Ok(())
}

pub(crate) fn flood(world: &World) -> anyhow::Result<()> {
    let (_patched, pod) = alone(world, &json!({}))?;
    let namespace = world.namespace()?;
    let (mut quiet, mut flooded): (f64, f64) = (0.0, f64::INFINITY);
    for _ in 0..2 {
        quiet = quiet.max(calm(world, &namespace)?.p99);
        let flood = Upon::start(&world.cluster, &address(world, &pod)?, &[])?;
        let report = calm(world, &namespace);
        let open = world.metric(&pod, "imageswap_connections")?;
        let wanted = flood.end()?;
        let report = report?;
        say(format_args!("{open} connections, {wanted:?}: {report}"));
        ensure!(open >= 1_000.0, "{open} connections are no flood");
        flooded = flooded.min(report.p99);
    }
    say(format_args!(
        "p99 {quiet} ms quiet, {flooded} ms in a flood"
    ));
    ensure!(
        flooded <= (3.0 * quiet).max(FLOOR),
        "{flooded} ms in a flood, {quiet} ms without"
    );
    Ok(())
}

/// One replica, so that all that comes meets it, with these resources. Its connections live short, so
/// that kube-apiserver needs new ones in the middle of a flood.
fn alone<'a>(world: &'a World, resources: &Value) -> anyhow::Result<(Patched<'a>, String)> {
    world.need_with(Installed::Production, &QUICK)?;
    let container = json!({
        "name": "imageswap",
        "resources": resources,
        "env": [
            {"name": "IMAGESWAP_MAX_IN_FLIGHT", "value": LIMIT},
            {"name": "IMAGESWAP_MAX_CONNECTION_AGE", "value": "1s"},
        ],
    });
    let patch = json!({
        "spec": {"replicas": 1, "template": {"spec": {"containers": [container]}}},
    });
    let patched = world.patched(&patch.to_string())?;
    let pods = replicas(&world.cluster)?;
    let name = pods[0]["metadata"]["name"].as_str().context("no name")?;
    Ok((patched, name.to_owned()))
}

/// Some seconds of calls, all of which succeed.
fn calm(world: &World, namespace: &Namespace<'_>) -> anyhow::Result<Report> {
    let plan = Plan {
        rate: 40,
        ..dry_runs(namespace, Duration::from_secs(3))
    };
    let report = load::start(&world.cluster, &plan)?.wait()?;
    ensure!(report.is_clean(), "{report}");
    Ok(report)
}

/// Where one replica answers.
fn address(world: &World, pod: &str) -> anyhow::Result<String> {
    let pod = find(&world.cluster, pod)?;
    let ip = pod["status"]["podIP"].as_str().context("no address")?;
    Ok(format!("{ip}:5000"))
}
