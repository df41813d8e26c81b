//! Replicas end, and a moment counts: over long wires, by connections of which each carries one call, and
//! while kube-apiserver gets no CPU.
//!
//! A replica that ends closes its connections, and a call that is sent while a close is on its way, or has
//! come and was not read yet, is lost. In a cluster that is one quiet machine that takes some 50 µs. And
//! who dials a replica that has closed its door, because kube-proxy has not heard of it yet, is refused; a
//! cluster at rest hardly dials.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use crate::install::{self, NAMESPACE};
use crate::scenario::{Scenario, Stage};
use crate::wire::Wire;

/// As between regions.
const LATE: Duration = Duration::from_millis(50);

/// How long kube-apiserver stands still. What is asked meanwhile comes to ImageSwap at once after it, also on
/// connections that nobody has used for long.
const PAUSE: Duration = Duration::from_millis(1_500);

/// From a replica's SIGTERM to when it must be left alone: its endpoint is gone, and each answer since has
/// closed its connection.
const LEFT_ALONE: Duration = Duration::from_secs(4);

/// From then to that pause: it has served its drain delay of 8 s, and is about to close.
const BEFORE_ITS_CLOSE: Duration = Duration::from_millis(3_100);

/// What shows that a replica is asked.
const REVIEWS: &str = r#"imageswap_reviews_total{operation="CREATE",outcome="swapped"}"#;

/// Where the wire begins, in node 1's network.
const BEGIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7443);

/// The Service at the other end, for the same Pods.
const FAR: &str = "imageswap-far";

pub(super) const WIRES: Scenario = Scenario::new(
    "rollout-wires",
    "rolling restarts while all that kube-apiserver is answered comes 50 ms late",
    |stage| {
        let done = stage.fault(|| over_a_wire(stage));
        let gone = stage.kubectl(&["delete", "service", FAR, "--ignore-not-found"]);
        done.and(gone.map(drop))
    },
);

pub(super) const DIALS: Scenario = Scenario {
    settings: &[("IMAGESWAP_MAX_CONNECTION_AGE", "100ms")],
    ..Scenario::new(
        "rollout-dials",
        "rolling restarts while hardly a connection carries more than one call",
        |stage| stage.fault(|| restarts(stage, stage.by_extent(4, 1))),
    )
};

pub(super) const PAUSES: Scenario = Scenario::new(
    "pauses",
    "a replica deleted, and kube-apiserver stands still while it closes its connections, six times",
    |stage| {
        stage.fault(|| {
            for n in 0..stage.by_extent(6, 1) {
                // Many connections, to be idle then.
                pause(stage)?;
                let pod = stage.next_victim(n)?;
                stage.event(format!("deleted {pod}"));
                stage.kubectl(&["delete", "pod", &pod, "--wait=false"])?;
                thread::sleep(LEFT_ALONE);
                let reviews = || install::metric::<u64>(stage.cluster, &pod, REVIEWS);
                let before = reviews()?;
                thread::sleep(BEFORE_ITS_CLOSE);
                let late = reviews()? - before;
                ensure!(
                    late == 0,
                    "{pod} was asked {late} times more although it was about to end"
                );
                pause(stage)?;
                stage.rolled_out()?;
            }
            Ok(())
        })
    },
);

fn pause(stage: &Stage<'_>) -> anyhow::Result<()> {
    stage.event("kube-apiserver stands still");
    stage.cluster.signal("kube-apiserver", "STOP")?;
    thread::sleep(PAUSE);
    stage.cluster.signal("kube-apiserver", "CONT")?;
    stage.event("it runs");
    Ok(())
}

fn over_a_wire(stage: &Stage<'_>) -> anyhow::Result<()> {
    let near: SocketAddr = install::address(stage.cluster)?.parse()?;
    let wire = Wire::lay(stage.cluster, BEGIN, far_service(stage)?, LATE)?;
    stage.cluster.lead_astray(near, BEGIN.port())?;
    stage.event("a long wire");
    let done = restarts(stage, stage.by_extent(4, 1));
    let back = stage.cluster.lead_back(near, BEGIN.port());
    stage.event("the short way");
    done.and(back)?;
    // Connections over the wire last as long as the replicas at their ends.
    restarts(stage, 1)?;
    drop(wire);
    Ok(())
}

fn restarts(stage: &Stage<'_>, times: usize) -> anyhow::Result<()> {
    for n in 1..=times {
        stage.event(format!("rolling restart {n}"));
        install::restart(stage.cluster)?;
        install::old_ones_gone(stage.cluster)?;
    }
    Ok(())
}

/// A Service beside the webhook's; its address.
fn far_service(stage: &Stage<'_>) -> anyhow::Result<SocketAddr> {
    let selector = stage.kubectl(&[
        "get",
        "service",
        "imageswap",
        "-o",
        "jsonpath={.spec.selector}",
    ])?;
    let selector: serde_json::Value = serde_json::from_str(&selector)?;
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": FAR, "namespace": NAMESPACE},
        "spec": {
            "selector": selector,
            "ports": [{"name": "https", "port": 443, "targetPort": 5000}],
        },
    });
    install::apply(stage.cluster, &service.to_string())?;
    Ok(install::address_of(stage.cluster, FAR)?.parse()?)
}
