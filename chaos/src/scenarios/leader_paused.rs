//! The leader stands still in the middle of a rotation, for longer than its lease, and then goes on
//! as if nothing had been. Meant is its server; the keeper goes on.
//!
//! A process that stands still keeps its connections, and the kernel takes on new ones for it, until
//! the kubelet's questions go unanswered. kube-apiserver can only wait for those.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::replicas::{self, Process};
use crate::rotation::{ask, begun, finished, secret};
use crate::scenario::{Budget, Scenario, Stage};

/// The lease is 15 s.
const PAUSE: Duration = Duration::from_secs(25);

pub(super) const SCENARIO: Scenario = Scenario {
    // Long enough that the rotation can't be over before the leader stands still.
    settings: &[("IMAGESWAP_TRUST_DELAY", "5s")],
    budget: Budget::CONNECTIONS,
    ..Scenario::new(
        "leader-paused",
        "SIGSTOP of the leader's server in the middle of a rotation, SIGCONT 5 s after another leads",
        play,
    )
};

fn play(stage: &Stage<'_>) -> anyhow::Result<()> {
    let leader = stage.leader()?;
    let pod = replicas::find(stage.cluster, &leader)?;
    let (node, process) = replicas::process(stage.cluster, &pod, Process::Worker)?;
    let signal = |signal| {
        let mut kill = node.command("kill");
        crate::command::run(kill.args(["-s", signal, &process])).map(drop)
    };
    let token = stage.namespace.clone();
    stage.fault(|| {
        ask(stage.cluster, &token)?;
        begun(stage.cluster, &token)?;
        let staged = of_secret(stage, "next.crt")?;
        let paused = stage.at_the_cost_of_connections(std::slice::from_ref(&leader), || {
            signal("STOP")?;
            stage.event(format!("stopped {leader}"));
            stage.another_leads(&leader, PAUSE)?;
            std::thread::sleep(Duration::from_secs(5));
            Ok(())
        });
        // The server may have been replaced meanwhile.
        let _ = signal("CONT");
        stage.event(format!("continued {leader}"));
        paused?;
        finished(stage.cluster, &token)?;
        let served = of_secret(stage, "tls.crt")?;
        ensure!(
            served == staged,
            "another pair was made than the one that was staged"
        );
        stage.rolled_out()
    })
}

fn of_secret(stage: &Stage<'_>, key: &str) -> anyhow::Result<Value> {
    let secret = secret(stage.cluster)?;
    let value = secret.get("data").and_then(|data| data.get(key)).cloned();
    value.with_context(|| format!("there is no {key} in the Secret"))
}
