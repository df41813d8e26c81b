//! Scenarios in their short form: those that no other test covers, and those that do what a test
//! would. A full run is `cargo run -p chaos -- run --all`.

use anyhow::{Context, ensure};
use chaos::progress::say;
use chaos::scenario::runner::{Options, perform};
use chaos::scenario::table::remarks;
use chaos::{rotation, scenarios};

use crate::world::{Installed, World};

/// Four of all replicas, one after the other, under 280 Pods a second.
pub(crate) fn rollouts(world: &World) -> anyhow::Result<()> {
    let calls = play_at(world, "rollout-update", 280)?;
    ensure!(calls >= 5_000, "only {calls} Pods");
    Ok(())
}

/// Plays one, with so many Pods a second. Returns how many there were.
fn play_at(world: &World, name: &str, rate: u32) -> anyhow::Result<usize> {
    let scenario = scenarios::find(name).context("no such scenario")?;
    world.need_with(Installed::Production, scenario.settings)?;
    rotation::settled(&world.cluster)?;
    let options = Options {
        rate,
        ..Options::short()
    };
    let played = perform(&world.cluster, scenario, &options)?;
    let remarks = remarks(&played).join("; ");
    say(format_args!("{name}: {}; {remarks}", played.verdict.all));
    ensure!(played.verdict.is_passed, "{name}: {remarks}");
    Ok(played.verdict.all.calls)
}

/// The same, with as many as disturb nobody.
pub(crate) fn play(world: &World, name: &str) -> anyhow::Result<()> {
    play_at(world, name, Options::short().rate).map(drop)
}
