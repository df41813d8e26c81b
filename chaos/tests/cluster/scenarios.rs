//! Scenarios in their short form: those that no other test covers, and those that do what a test
//! would. A full run is `cargo run -p chaos -- run --all`.

use anyhow::{Context, ensure};
use chaos::progress::say;
use chaos::scenario::runner::{Options, perform};
use chaos::scenario::table::remarks;
use chaos::{rotation, scenarios};

use crate::world::{Installed, World};

/// Plays one, with so many Pods a second.
pub(crate) fn play_at(world: &World, name: &str, rate: u32) -> anyhow::Result<()> {
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
    Ok(())
}

/// The same, with as many as disturb nobody.
pub(crate) fn play(world: &World, name: &str) -> anyhow::Result<()> {
    play_at(world, name, Options::short().rate)
}
