//! A node is lost with the replica on it: cut off for a minute, or all that runs on it killed.
//!
//! kube-apiserver goes on to use the connections that it has to that replica, and learns of each by a
//! call that is not answered. A new connection may go there, too, until Kubernetes takes the endpoint
//! out, which it does when it has not heard of the node for some 40 s.

use std::time::Duration;

use crate::cluster::{Cluster, Machine};
use crate::scenario::{Budget, Scenario, Stage};

const LOST: Duration = Duration::from_secs(60);

pub(super) const CUT: Scenario = Scenario {
    budget: Budget::CONNECTIONS,
    ..Scenario::new(
        "node-cut",
        "a node with a replica cut off for a minute",
        |stage| lost(stage, Cluster::cut_off, Cluster::join_again),
    )
};

pub(super) const KILLED: Scenario = Scenario {
    budget: Budget::CONNECTIONS,
    ..Scenario::new(
        "node-killed",
        "a node's kubelet, containerd, kube-proxy and Pods killed at once, started a minute later",
        |stage| lost(stage, Cluster::kill_node, Cluster::start_node),
    )
};

fn lost(
    stage: &Stage<'_>,
    lose: fn(&Cluster, &Machine) -> anyhow::Result<()>,
    mend: fn(&Cluster, &Machine) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (node, pods) = stage.node_with_replicas()?;
    stage.fault(|| {
        let lost = stage.at_the_cost_of_connections(&pods, || {
            lose(stage.cluster, node)?;
            let pods = pods.join(" and ");
            stage.event(format!("lost {}, and {pods} on it", node.name));
            std::thread::sleep(stage.by_extent(LOST, Duration::from_secs(15)));
            Ok(())
        });
        mend(stage.cluster, node)?;
        stage.event("mended");
        lost?;
        stage.cluster.node_ready(node)?;
        stage.rolled_out()
    })
}
