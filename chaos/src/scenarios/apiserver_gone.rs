//! kube-apiserver goes, and comes back. What is asked for from the signal until it says that it is ready is lost,
//! whatever ImageSwap does; before that and from then on nothing may be.

use std::time::Duration;

use anyhow::ensure;

use crate::command::eventually;
use crate::rotation::settled;
use crate::scenario::{Budget, Excused, Scenario, Stage};

const APISERVER: &str = "kube-apiserver";

/// Its own shutdown takes a minute: it waits for watches to end.
const GRACE: Duration = Duration::from_secs(5);

const BUDGET: Budget = Budget::nothing_but("0, but from the signal until kube-apiserver is ready");

pub(super) const RESTARTED: Scenario = Scenario {
    budget: BUDGET,
    ..Scenario::new(
        "apiserver-restarted",
        "kube-apiserver stopped by SIGTERM, killed 5 s later if it is there still, and started again",
        |stage| gone(stage, true),
    )
};

pub(super) const KILLED: Scenario = Scenario {
    budget: BUDGET,
    ..Scenario::new(
        "apiserver-killed",
        "kube-apiserver killed by -9, and started again",
        |stage| gone(stage, false),
    )
};

fn gone(stage: &Stage<'_>, is_told: bool) -> anyhow::Result<()> {
    let cluster = stage.cluster;
    let ended = |within| {
        eventually("its end", within, || {
            ensure!(!cluster.runs(APISERVER), "it runs still");
            Ok(())
        })
    };
    stage.fault(|| {
        stage.excused(Excused::All, "kube-apiserver does not answer", None, || {
            if is_told {
                stage.event("SIGTERM");
                cluster.signal(APISERVER, "TERM")?;
            }
            if !is_told || ended(GRACE).is_err() {
                stage.event("SIGKILL");
                cluster.signal(APISERVER, "KILL")?;
            }
            ended(GRACE)?;
            cluster.start_apiserver()?;
            stage.event("it answers");
            Ok(())
        })?;
        settled(cluster)?;
        stage.rolled_out()
    })
}
