//! Rolling restarts over long wires.
//!
//! A replica that ends closes its connections, and a call that is sent while a close is on its way is
//! lost. In a cluster that is one machine that takes some 50 µs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::json;

use crate::command::eventually;
use crate::install::{self, NAMESPACE};
use crate::scenario::{Scenario, Stage};
use crate::wire::Wire;

/// As between regions.
const LATE: Duration = Duration::from_millis(50);

/// Where the wire begins, in node 1's network.
const BEGIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7443);

/// The Service at the other end, for the same Pods.
const FAR: &str = "imageswap-far";

pub(super) const SCENARIO: Scenario = Scenario::new(
    "rollout-wires",
    "rolling restarts while all that kube-apiserver is answered comes 50 ms late",
    |stage| {
        let done = stage.fault(|| over_a_wire(stage));
        let gone = stage.kubectl(&["delete", "service", FAR, "--ignore-not-found"]);
        done.and(gone.map(drop))
    },
);

fn over_a_wire(stage: &Stage<'_>) -> anyhow::Result<()> {
    let near: SocketAddr = install::address(stage.cluster)?.parse()?;
    let wire = Wire::lay(stage.cluster, BEGIN, far_service(stage)?, LATE)?;
    // kube-proxy takes a second for a new Service, and calls before that would be the wire's loss.
    eventually("an answer over the wire", READY, || {
        install::leaves(stage.cluster, &[BEGIN.to_string()]).map(drop)
    })?;
    stage.cluster.lead_astray(near, BEGIN.port())?;
    stage.event("a long wire");
    let done = stage.restarts(stage.by_extent(4, 1));
    let back = stage.cluster.lead_back(near, BEGIN.port());
    stage.event("the short way");
    done.and(back)?;
    // Connections over the wire last as long as the replicas at their ends.
    stage.restarts(1)?;
    drop(wire);
    Ok(())
}

/// How long until the far Service leads anywhere.
const READY: Duration = Duration::from_secs(20);

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
