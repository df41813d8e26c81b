//! More replicas, and fewer.

use crate::scenario::{Scenario, Stage};

pub(super) const SCENARIO: Scenario =
    Scenario::new("scale", "3 replicas, then 1, 5, 2, and 3 again", play);

fn play(stage: &Stage<'_>) -> anyhow::Result<()> {
    stage.fault(|| {
        for replicas in stage.by_extent(&[1, 5, 2, 3][..], &[1, 3]) {
            stage.event(format!("to {replicas} replicas"));
            let replicas = format!("--replicas={replicas}");
            stage.kubectl(&["scale", "deployment/imageswap", &replicas])?;
            stage.rolled_out()?;
        }
        Ok(())
    })
}
