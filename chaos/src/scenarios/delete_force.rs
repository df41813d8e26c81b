//! Replicas are deleted without any time to say so.

use std::time::Duration;

use crate::scenario::{Scenario, Stage};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "delete-force",
    "a replica deleted with --grace-period=0 --force six times, the leader's turn in every third",
    play,
);

fn play(stage: &Stage<'_>) -> anyhow::Result<()> {
    stage.fault(|| {
        for n in 0..stage.by_extent(6, 2) {
            let pod = stage.next_victim(n)?;
            stage.event(format!("deleted {pod} by force"));
            let words = ["delete", "pod", &pod, "--grace-period=0", "--force"];
            stage.kubectl(&words)?;
            std::thread::sleep(Duration::from_secs(4));
        }
        stage.rolled_out()
    })
}
