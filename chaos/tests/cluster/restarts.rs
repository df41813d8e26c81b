//! All replicas replaced, three times over, under a load that a busy cluster has.

use std::time::{Duration, Instant};

use anyhow::ensure;
use chaos::progress::say;

use crate::world::{Installed, World, under_load_of};

/// Pods a second, and how many there must have been: as many as the rollouts take anyway.
const RATE: u32 = 140;
const LEAST: u32 = 5_000;

pub(crate) fn rollouts(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Production)?;
    let (report, took) = under_load_of(world, RATE, || {
        let started = Instant::now();
        for _ in 0..3 {
            world.restart()?;
        }
        let took = started.elapsed();
        // The last of the old replicas drain still.
        let least = Duration::from_secs((LEAST / RATE).into());
        std::thread::sleep(least.saturating_sub(took));
        Ok(took)
    })?;
    say(format_args!(
        "three rollouts in {:.1} s: {report}",
        took.as_secs_f32()
    ));
    ensure!(report.is_clean(), "{report}");
    ensure!(report.calls >= LEAST as usize, "{report}");
    Ok(())
}
