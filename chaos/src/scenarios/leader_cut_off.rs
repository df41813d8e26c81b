//! The leader can't reach kube-apiserver any more, which still reaches it.

use std::time::Duration;

use crate::command::run;
use crate::json::text_at;
use crate::replicas;
use crate::scenario::{Scenario, Stage};

/// Where Pods reach kube-apiserver.
const APISERVER: &str = "10.0.0.1";

pub(super) const SCENARIO: Scenario = Scenario::new(
    "leader-cut-off",
    "the leader cut off from kube-apiserver only, until another leads and 20 s more",
    play,
);

fn play(stage: &Stage<'_>) -> anyhow::Result<()> {
    let leader = stage.leader()?;
    let pod = replicas::find(stage.cluster, &leader)?;
    let node = replicas::node(stage.cluster, &pod)?;
    let address = text_at(&pod, "/status/podIP");
    // Before kube-proxy rewrites where it goes.
    let drop_all = |verb| {
        let mut iptables = node.command("iptables");
        let rule = [
            "-t",
            "raw",
            verb,
            "PREROUTING",
            "-s",
            address,
            "-d",
            APISERVER,
        ];
        run(iptables.args(rule).args(["-j", "DROP"])).map(drop)
    };
    stage.fault(|| {
        drop_all("-I")?;
        stage.event(format!("cut {leader} off"));
        // Its lease is 15 s, and others look every few.
        let led = stage.another_leads(&leader, Duration::from_secs(25));
        std::thread::sleep(stage.by_extent(Duration::from_secs(20), Duration::from_secs(2)));
        drop_all("-D")?;
        stage.event("healed");
        led?;
        stage.rolled_out()
    })
}
