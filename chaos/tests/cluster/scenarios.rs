//! Scenarios in their short form: those that no other test covers. A full run is
//! `cargo run -p chaos -- run --all`.

use anyhow::{Context, ensure};
use chaos::progress::say;
use chaos::scenario::runner::{Options, perform};
use chaos::scenario::table::remarks;
use chaos::{rotation, scenarios};

use crate::world::{Installed, QUICK, World};

/// Plays one.
pub(crate) fn play(world: &World, name: &str) -> anyhow::Result<()> {
    let scenario = scenarios::find(name).context("no such scenario")?;
    let settings = [&QUICK[..], scenario.settings].concat();
    world.need_with(Installed::Production, &settings)?;
    rotation::settled(&world.cluster)?;
    let played = perform(&world.cluster, scenario, &Options::short())?;
    let remarks = remarks(&played).join("; ");
    say(format_args!("{name}: {}; {remarks}", played.verdict.all));
    ensure!(played.verdict.is_passed, "{name}: {remarks}");
    Ok(())
}
