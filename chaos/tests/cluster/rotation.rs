//! The certificate rotated, and everything about it broken, while Pods are created all along: none
//! may be refused, and none let through as it is.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chaos::command::eventually;
use chaos::install::{self, CONFIGURATION, NAMESPACE};
use chaos::progress::say;
use imageswap::pki;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::replicas::{Process, kill, leader, leaves, replicas};
use crate::world::{Installed, World, under_load};

/// What asks for a rotation, and what says that it was begun.
const ROTATE: &str = "k8s.twr.io/imageswap-rotate";
const ROTATED: &str = "k8s.twr.io/imageswap-rotated";

/// Shorter than any person would set it: one kube-apiserver learns at once.
pub(crate) const TRUST_DELAY: &str = "1s";

/// How long one rotation may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn ten_forced(world: &World) -> anyhow::Result<()> {
    quick(world)?;
    let mut seen = vec![leaves(world)?];
    let (report, ()) = under_load(world, || {
        for n in 1..=10 {
            // Most are asked for before the last one's CA is pruned.
            let (token, is_last) = (format!("test-{n}"), n % 5 == 0);
            ask(world, &token)?;
            if is_last {
                finished(world, &token)?;
            } else {
                served(world, seen.last().context("none")?)?;
            }
            seen.push(leaves(world)?);
        }
        Ok(())
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
    let before = leaves(world)?;
    let (report, ()) = under_load(world, || {
        world.kubectl(&["-n", NAMESPACE, "delete", "secret", "imageswap-tls"])?;
        eventually("the Secret again", PATIENCE, || secret(world).map(drop))?;
        settled(world)?;
        for broken in [
            json!({"tls.key": STANDARD.encode("rubbish")}),
            json!({"tls.crt": "", "ca.crt": null}),
        ] {
            patch_secret(world, &json!({"data": broken}))?;
            settled(world)?;
        }
        Ok(())
    })?;
    say(format_args!("Secret deleted and broken: {report}"));
    ensure!(report.is_clean(), "{report}");
    // Written back from memory, not made anew.
    ensure!(leaves(world)? == before, "another leaf is served");
    Ok(())
}

/// The Secret goes just as all servers but one are killed. Those that take their places could only
/// make another pair; the one that has it writes it back, whoever led.
pub(crate) fn secret_lost_as_servers_are_killed(world: &World) -> anyhow::Result<()> {
    quick(world)?;
    let before = leaves(world)?;
    let (leader, all) = (leader(world)?, replicas(world)?);
    let names = all
        .iter()
        .filter_map(|pod| pod["metadata"]["name"].as_str());
    let (led, others): (Vec<_>, Vec<_>) = names.partition(|name| leader.contains(*name));
    world.kubectl(&["-n", NAMESPACE, "delete", "secret", "imageswap-tls"])?;
    // It may have been put back already: then it goes again, and nobody is left who led.
    for name in led.iter().chain(others.iter().skip(1)) {
        kill(world, name, Process::Worker)?;
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
    eventually("the Secret again", PATIENCE, || secret(world).map(drop))?;
    let took = lost.elapsed();
    settled(world)?;
    say(format_args!(
        "the Secret lost as servers were killed: written back after {took:?}"
    ));
    ensure!(leaves(world)? == before, "another leaf is served");
    Ok(())
}

pub(crate) fn foreign_pair(world: &World) -> anyhow::Result<()> {
    quick(world)?;
    let pair = foreign()?;
    let (report, ()) = under_load(world, || {
        let data = json!({"data": {
            "tls.crt": STANDARD.encode(&pair.chain),
            "tls.key": STANDARD.encode(&pair.key),
            "ca.crt": STANDARD.encode(&pair.ca),
        }});
        patch_secret(world, &data)?;
        settled(world)
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
        let (report, took) = under_load(world, || {
            let broken = Instant::now();
            world.kubectl(&words)?;
            eventually("a bundle that trusts", PATIENCE, || leaves(world).map(drop))?;
            Ok(broken.elapsed())
        })?;
        say(format_args!(
            "caBundle broken, repaired within {took:?}: {report}"
        ));
        eventually("an Event that says so", PATIENCE, || {
            let events = world.kubectl(&["-n", NAMESPACE, "get", "events"])?;
            ensure!(events.contains("TrustRepaired"), "{events}");
            Ok(())
        })?;
        // Until it is repaired nothing can be done, and that must not be long.
        ensure!(report.unswapped == 0, "{report}");
        ensure!(report.gap < 2_000.0, "{report}");
        settled(world)?;
    }
    Ok(())
}

// === what the tests are told in ===

/// Three replicas whose trust delay is short.
fn quick(world: &World) -> anyhow::Result<()> {
    world.need_with(
        Installed::Production,
        &[("IMAGESWAP_TRUST_DELAY", TRUST_DELAY)],
    )?;
    settled(world)
}

/// Waits until every replica serves one leaf, and another than before.
fn served(world: &World, before: &[String]) -> anyhow::Result<()> {
    eventually("another leaf", PATIENCE, || {
        let now = leaves(world)?;
        ensure!(now.iter().all(|leaf| *leaf == now[0]), "{now:?}");
        ensure!(!before.contains(&now[0]), "it is the old one");
        Ok(())
    })
}

pub(crate) fn ask(world: &World, token: &str) -> anyhow::Result<()> {
    let annotation = format!("{ROTATE}={token}");
    let words = [
        "-n",
        NAMESPACE,
        "annotate",
        "--overwrite",
        "secret",
        "imageswap-tls",
        &annotation,
    ];
    world.kubectl(&words).map(drop)
}

/// Waits until the rotation that was asked for is done, and all is at rest.
pub(crate) fn finished(world: &World, token: &str) -> anyhow::Result<()> {
    eventually("the rotation is begun", PATIENCE, || {
        let done = secret(world)?["metadata"]["annotations"][ROTATED].clone();
        ensure!(done == token, "the last one was {done}");
        Ok(())
    })?;
    settled(world)
}

/// Waits until nothing is staged, one CA is believed, and every replica serves the Secret's leaf.
pub(crate) fn settled(world: &World) -> anyhow::Result<()> {
    eventually("all is at rest", PATIENCE, || {
        let secret = secret(world)?;
        let data = secret["data"].as_object().context("an empty Secret")?;
        let is_staged = data.contains_key("next.crt") || data.contains_key("next.key");
        ensure!(!is_staged, "a pair is staged");
        let ca = data
            .get("ca.crt")
            .and_then(Value::as_str)
            .context("no ca.crt")?;
        let (ca, bundle) = (
            STANDARD.decode(ca)?,
            STANDARD.decode(install::ca_bundle(&world.cluster)?)?,
        );
        for (name, pem) in [("ca.crt", &ca), ("the caBundle", &bundle)] {
            let count = String::from_utf8_lossy(pem)
                .matches("BEGIN CERTIFICATE")
                .count();
            ensure!(count == 1, "{name} holds {count} CAs");
        }
        ensure!(bundle == ca, "the caBundle is another than ca.crt");
        let leaves = leaves(world)?;
        ensure!(leaves.len() == 3, "{} replicas", leaves.len());
        ensure!(leaves.iter().all(|leaf| *leaf == leaves[0]), "{leaves:?}");
        Ok(())
    })
}

/// As an administrator would, or a tool that thinks the Secret its own.
pub(crate) fn patch_secret(world: &World, patch: &Value) -> anyhow::Result<()> {
    let patch = patch.to_string();
    let words = [
        "-n",
        NAMESPACE,
        "patch",
        "secret",
        "imageswap-tls",
        "--type=merge",
        "-p",
        &patch,
    ];
    world.kubectl(&words).map(drop)
}

pub(crate) fn secret(world: &World) -> anyhow::Result<Value> {
    world.get(&["-n", NAMESPACE, "secret/imageswap-tls"])
}

/// A good pair for our Service, of a CA that nobody knows.
pub(crate) fn foreign() -> anyhow::Result<pki::Pem> {
    let names = [install::HOST.to_owned()];
    Ok(pki::mint(
        &names,
        time::Duration::days(300),
        OffsetDateTime::now_utc(),
    )?)
}
