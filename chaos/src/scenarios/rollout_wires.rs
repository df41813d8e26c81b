//! Rolling restarts where a moment counts: over long wires, and by connections of which each carries one
//! call.
//!
//! A replica that ends closes its connections, and a call that is sent while a close is on its way is
//! lost. In a cluster that is one machine that takes some 50 µs. And who dials a replica that has closed
//! its door, because kube-proxy has not heard of it yet, is refused; a cluster at rest hardly dials.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::json;

use crate::install::{self, NAMESPACE};
use crate::scenario::{Scenario, Stage};
use crate::wire::Wire;

/// As between regions.
const LATE: Duration = Duration::from_millis(50);

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
