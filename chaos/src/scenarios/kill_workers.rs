//! Servers die as by a fault of their own. Meant is the process that answers, the keeper's child:
//! the keeper starts another, and the container lives on.
//!
//! What was in the hands of a server that is killed can't be answered: its connections are reset, and
//! kube-apiserver does not ask again.

use anyhow::ensure;

use crate::replicas::{Process, names, restarts, signal};
use crate::scenario::{Budget, Scenario, Stage};

pub(super) const SCENARIO: Scenario = Scenario {
    budget: Budget::nothing_but("the call in the hands of a server that is killed"),
    ..Scenario::new(
        "kill-workers",
        "kill -9 of a replica's server every 2 s for a minute, the leader's turn in every third",
        play,
    )
};

fn play(stage: &Stage<'_>) -> anyhow::Result<()> {
    let before = restarts(stage.cluster)?;
    stage.fault(|| {
        let names = names(stage.cluster)?;
        let times = stage.for_a_minute(|n| {
            let leader = stage.next_victim(0)?;
            let turn = names.iter().cycle().nth(n);
            let pod = turn.filter(|_| !n.is_multiple_of(3)).unwrap_or(&leader);
            stage.event(format!("killed the server of {pod}"));
            stage.at_the_cost_of_a_call(|| signal(stage.cluster, pod, Process::Worker, "KILL"))
        })?;
        stage.note(format!("{times} servers killed"));
        stage.rolled_out()
    })?;
    // To Kubernetes nothing has happened.
    let now = restarts(stage.cluster)?;
    ensure!(
        now == before,
        "containers were started anew: {before:?} then, {now:?} now"
    );
    Ok(())
}
