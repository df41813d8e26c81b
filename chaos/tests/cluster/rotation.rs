//! The certificate rotated, and everything about it broken, while Pods are created all along: none
//! may be refused, and none let through as it is.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chaos::command::eventually;
use chaos::install::{CONFIGURATION, NAMESPACE};
use chaos::progress::say;
use chaos::replicas::{DIALS, Process, leader, leaves, names, signal, were_dialled};
use chaos::rotation::{
    PATIENCE, ask, data_of, finished, foreign, patch_secret, secret, served, settled,
};
use serde_json::{Value, json};

use crate::world::{Installed, QUICK, World, under_load};

/// So soon a caBundle that was broken is to be seen repaired: two calls of kubectl and three handshakes are in it.
const REPAIRED: Duration = Duration::from_secs(5);

pub(crate) fn ten_forced(world: &World) -> anyhow::Result<()> {
    quick(world)?;
    let mut seen = vec![leaves(&world.cluster)?];
    let (report, ()) = under_load(world, || {
        for n in 1..=10 {
            // Most are asked for before the last one's CA is pruned.
            let (token, is_last) = (format!("test-{n}"), n % 5 == 0);
            ask(&world.cluster, &token)?;
            if is_last {
                finished(&world.cluster, &token)?;
            } else {
                served(&world.cluster, seen.last().context("none")?)?;
            }
            seen.push(leaves(&world.cluster)?);
        }
        were_dialled(&world.cluster)
    })?;
    say(format_args!("ten rotations: {report}"));
    ensure!(report.is_clean(), "{report}");
    told(world)?;
    let mut all: Vec<_> = seen.iter().flatten().collect();
    all.sort();
    all.dedup();
    ensure!(
        all.len() == 11,
        "{} different leaves were served in all",
        all.len()
    );
    Ok(())
}

/// Operators see the rotations where they look, but not all of ten within minutes; and what is said
/// again is one Event that is counted up.
fn told(world: &World) -> anyhow::Result<()> {
    let shown = world.kubectl(&["-n", NAMESPACE, "describe", "deployment/imageswap"])?;
    for (reason, most) in [("CertificateRotated", 3), ("TrustPruned", 1)] {
        let count = shown.matches(reason).count();
        ensure!((1..=most).contains(&count), "{count} {reason}: {shown}");
    }
    let ours = "--field-selector=reportingComponent=imageswap";
    let events = world.get(&["-n", NAMESPACE, "events", ours])?;
    let mut events = events["items"].as_array().context("no list")?.iter();
    let pruned = events.find(|event| event["reason"] == "TrustPruned");
    let count = pruned.and_then(|event| event["series"]["count"].as_u64());
    ensure!(count >= Some(2), "TrustPruned was counted {count:?} times");
    Ok(())
}

pub(crate) fn secret_broken(world: &World) -> anyhow::Result<()> {
    quick(world)?;
    let before = leaves(&world.cluster)?;
    let (report, ()) = under_load(world, || {
        world.kubectl(&["-n", NAMESPACE, "delete", "secret", "imageswap-tls"])?;
        eventually("the Secret again", PATIENCE, || {
            secret(&world.cluster).map(drop)
        })?;
        settled(&world.cluster)?;
        for broken in [
            json!({"tls.key": STANDARD.encode("rubbish")}),
            json!({"tls.crt": "", "ca.crt": null}),
        ] {
            patch_secret(&world.cluster, &json!({"data": broken}))?;
            settled(&world.cluster)?;
        }
        Ok(())
    })?;
    say(format_args!("Secret deleted and broken: {report}"));
    ensure!(report.is_clean(), "{report}");
    // Written back from memory, not made anew.
    ensure!(leaves(&world.cluster)? == before, "another leaf is served");
    Ok(())
}

/// The Secret goes just as all servers but one are killed. Those that take their places could only
/// make another pair; the one that has it writes it back, whoever led.
pub(crate) fn secret_lost_as_servers_are_killed(world: &World) -> anyhow::Result<()> {
    quick(world)?;
    let before = leaves(&world.cluster)?;
    let (leader, names) = (leader(&world.cluster)?, names(&world.cluster)?);
    let is_leader = |name: &&String| leader.contains(name.as_str());
    let (led, others): (Vec<_>, Vec<_>) = names.iter().partition(is_leader);
    world.kubectl(&["-n", NAMESPACE, "delete", "secret", "imageswap-tls"])?;
    // It may have been put back already: then it goes again, and nobody is left who led.
    for name in led.iter().chain(others.iter().skip(1)) {
        signal(&world.cluster, name, Process::Worker, "KILL")?;
    }
    let gone = [
        "-n",
        NAMESPACE,
        "delete",
        "secret",
        "imageswap-tls",
        "--ignore-not-found",
    ];
    world.kubectl(&gone)?;
    let lost = Instant::now();
    eventually("the Secret again", PATIENCE, || {
        secret(&world.cluster).map(drop)
    })?;
    let took = lost.elapsed();
    settled(&world.cluster)?;
    say(format_args!(
        "the Secret lost as servers were killed: written back after {took:?}"
    ));
    ensure!(leaves(&world.cluster)? == before, "another leaf is served");
    Ok(())
}

pub(crate) fn foreign_pair(world: &World) -> anyhow::Result<()> {
    quick(world)?;
    let pair = foreign()?;
    let (report, ()) = under_load(world, || {
        patch_secret(&world.cluster, &data_of(&pair))?;
        settled(&world.cluster)
    })?;
    say(format_args!(
        "Secret replaced by a pair of another CA: {report}"
    ));
    ensure!(report.is_clean(), "{report}");
    Ok(())
}

pub(crate) fn bundle_broken(world: &World) -> anyhow::Result<()> {
    quick(world)?;
    let path = "/webhooks/0/clientConfig/caBundle";
    let foreign = STANDARD.encode(foreign()?.ca);
    for patch in [
        json!([{"op": "remove", "path": path}]),
        json!([{"op": "replace", "path": path, "value": foreign}]),
    ] {
        let patch = patch.to_string();
        let words = [
            "patch",
            "mutatingwebhookconfiguration",
            CONFIGURATION,
            "--type=json",
            "-p",
            &patch,
        ];
        let told_before = repair_told(world)?;
        let (report, took) = under_load(world, || {
            let broken = Instant::now();
            world.kubectl(&words)?;
            eventually("a bundle that trusts", PATIENCE, || {
                leaves(&world.cluster).map(drop)
            })?;
            Ok(broken.elapsed())
        })?;
        say(format_args!(
            "caBundle broken, repaired within {took:?}: {report}"
        ));
        eventually("an Event that says so", PATIENCE, || {
            let told = repair_told(world)?;
            ensure!(told > told_before, "the last one is of {told:?}");
            Ok(())
        })?;
        // Until it is repaired nothing can be done, and that must not be long.
        ensure!(report.unswapped == 0, "{report}");
        ensure!(report.gap < 2_000.0, "{report}");
        ensure!(took < REPAIRED, "{took:?}");
        let is_distrust = |why: &String| why.contains("x509") || why.contains("certificate");
        ensure!(report.failures.iter().all(is_distrust), "{report}");
        settled(&world.cluster)?;
    }
    Ok(())
}

/// When an Event last said that a caBundle was repaired.
fn repair_told(world: &World) -> anyhow::Result<Option<String>> {
    let ours = "--field-selector=reportingComponent=imageswap,reason=TrustRepaired";
    let events = world.get(&["-n", NAMESPACE, "events", ours])?;
    let events = events["items"].as_array().context("no list")?;
    let last = |event: &Value| {
        let again = event["series"]["lastObservedTime"].as_str();
        Some(again.or(event["eventTime"].as_str())?.to_owned())
    };
    Ok(events.iter().filter_map(last).max())
}

// === what the tests are told in ===

/// Three replicas with short delays; each call is answered by the certificate that is served then.
fn quick(world: &World) -> anyhow::Result<()> {
    let settings = [&QUICK[..], &[DIALS]].concat();
    world.need_with(Installed::Production, &settings)?;
    settled(&world.cluster)
}
