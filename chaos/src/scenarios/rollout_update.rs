//! Rolling updates to another build and back.

use crate::image;
use crate::scenario::{Scenario, Stage};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "rollout-update",
    "a rolling update to another build, three times, and back",
    play,
);

fn play(stage: &Stage<'_>) -> anyhow::Result<()> {
    let archive = image::other_build(&stage.cluster.folder().join("images"))?;
    stage.cluster.import(&archive)?;
    stage.fault(|| {
        let all = ["imageswap:2.0.0-other", "imageswap:2.0.0"].repeat(3);
        for image in all.iter().take(stage.by_extent(6, 4)) {
            stage.event(format!("to {image}"));
            let container = format!("imageswap={image}");
            stage.kubectl(&["set", "image", "deployment/imageswap", &container])?;
            stage.rolled_out()?;
        }
        Ok(())
    })
}
