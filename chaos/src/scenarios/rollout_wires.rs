//! Rolling restarts where a moment counts: over wires on which a call is long under way, and by
//! connections of which each carries one call.
//!
//! A replica that ends closes its connections, and a call that is sent while a close is on its way is
//! lost. In a cluster that is one machine that takes some 50 µs. And who dials a replica that has closed
//! its door, because kube-proxy has not heard of it yet, is refused; a cluster at rest hardly dials.

use crate::scenario::{Scenario, Stage};

/// A review of a few KB takes some 30 ms on it.
const THIN: &str = "1mbit";

pub(super) const WIRES: Scenario = Scenario::new(
    "rollout-wires",
    "rolling restarts while what goes to the other nodes goes through 1 Mbit/s",
    |stage| {
        stage.fault(|| {
            for node in stage.cluster.nodes().iter().skip(1) {
                stage.cluster.thin_wire(node, THIN)?;
            }
            stage.event(format!("wires of {THIN}/s"));
            let done = restarts(stage);
            for node in stage.cluster.nodes().iter().skip(1) {
                stage.cluster.full_wire(node)?;
            }
            done
        })
    },
);

pub(super) const DIALS: Scenario = Scenario {
    settings: &[("IMAGESWAP_MAX_CONNECTION_AGE", "100ms")],
    ..Scenario::new(
        "rollout-dials",
        "rolling restarts while hardly a connection carries more than one call",
        |stage| stage.fault(|| restarts(stage)),
    )
};

fn restarts(stage: &Stage<'_>) -> anyhow::Result<()> {
    for n in 1..=stage.by_extent(4, 1) {
        stage.event(format!("rolling restart {n}"));
        stage.kubectl(&["rollout", "restart", "deployment/imageswap"])?;
        stage.rolled_out()?;
    }
    Ok(())
}
