//! The maps change while replicas are replaced, so that the old ones and the new ones swap
//! differently for a while.

use std::time::Duration;

use anyhow::ensure;

use crate::command::eventually;
use crate::image::WORKLOAD;
use crate::install::{self, UNSWAPPED};
use crate::scenario::{Budget, Scenario, Stage};

/// What the other maps make of the load's image.
const OTHER: &str = "other.example.com/chaos/busybox:1";

pub(super) const SCENARIO: Scenario = Scenario {
    budget: Budget::nothing_but("0, each Pod by one of the two maps"),
    images: &[OTHER],
    ..Scenario::new(
        "rollout-maps",
        "a rolling restart with a change of the maps in the middle, there and back",
        play,
    )
};

fn play(stage: &Stage<'_>) -> anyhow::Result<()> {
    stage.cluster.tag(WORKLOAD, OTHER)?;
    let other = install::MAPS.replace("mirror.example.com", "other.example.com");
    stage.fault(|| {
        for (maps, image) in [(other.as_str(), OTHER), (install::MAPS, WORKLOAD)] {
            stage.event("rolling restart");
            stage.kubectl(&["rollout", "restart", "deployment/imageswap"])?;
            std::thread::sleep(Duration::from_secs(2));
            stage.event(format!("maps that make {image}"));
            install::apply_maps(stage.cluster, maps)?;
            stage.rolled_out()?;
            followed(stage, image)?;
        }
        Ok(())
    })
}

/// Waits until all replicas follow the maps: the kubelet brings them within its own time.
fn followed(stage: &Stage<'_>, image: &str) -> anyhow::Result<()> {
    eventually("the new maps are used", Duration::from_secs(90), || {
        for _ in 0..6 {
            let now = stage.swapped(UNSWAPPED)?;
            ensure!(now == image, "{now} is made still");
        }
        Ok(())
    })
}
