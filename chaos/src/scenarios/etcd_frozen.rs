//! etcd stands still: kube-apiserver can't store anything and answers late, or with an error.

use std::time::Duration;

use crate::command::eventually;
use crate::rotation::settled;
use crate::scenario::{Budget, Excused, Scenario, Stage};

pub(super) const SCENARIO: Scenario = Scenario {
    budget: Budget::nothing_but(
        "0 wrong or lost at the webhook; what etcd fails is not ImageSwap's",
    ),
    ..Scenario::new("etcd-frozen", "SIGSTOP of etcd for 30 s", play)
};

fn play(stage: &Stage<'_>) -> anyhow::Result<()> {
    let cluster = stage.cluster;
    stage.fault(|| {
        stage.excused(Excused::Elsewhere, "etcd does not answer", None, || {
            stage.event("frozen");
            let time = stage.by_extent(Duration::from_secs(30), Duration::from_secs(5));
            cluster.freeze("etcd", time)?;
            stage.event("thawed");
            eventually("kube-apiserver is well", Duration::from_secs(60), || {
                cluster.ask(&["get", "--raw", "/readyz"]).map(drop)
            })
        })?;
        settled(cluster)?;
        stage.rolled_out()
    })
}
