//! Replicas are deleted faster than new ones come up, with the time that they are given.

use crate::scenario::{Scenario, Stage};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "delete-pods",
    "a replica deleted every 2 s for a minute, the leader's turn in every third",
    play,
);

fn play(stage: &Stage<'_>) -> anyhow::Result<()> {
    stage.fault(|| {
        stage.for_a_minute(|n| {
            let pod = stage.next_victim(n)?;
            stage.event(format!("deleted {pod}"));
            stage
                .kubectl(&["delete", "pod", &pod, "--wait=false"])
                .map(drop)
        })?;
        stage.rolled_out()
    })
}
