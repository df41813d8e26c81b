//! ImageSwap is removed and installed again while Pods are created, also in a namespace that has
//! nothing to do with it.

use std::time::Duration;

use anyhow::ensure;

use crate::install::{self, UNSWAPPED, Variant};
use crate::load::{self, Plan};
use crate::rotation::settled;
use crate::scenario::{Budget, Excused, Scenario, Stage};

pub(super) const SCENARIO: Scenario = Scenario {
    budget: Budget::nothing_but("0 while installed; 0 elsewhere"),
    ..Scenario::new(
        "reinstall",
        "deploy/overlays/production deleted, and applied again",
        play,
    )
};

fn play(stage: &Stage<'_>) -> anyhow::Result<()> {
    let elsewhere = format!("{}-other", stage.namespace);
    stage.cluster.ask(&["create", "namespace", &elsewhere])?;
    let plan = Plan {
        rate: 10,
        duration: Duration::from_secs(600),
        clients: 2,
        // Nobody is to touch it there.
        swapped: vec![UNSWAPPED.to_owned()],
        ..Plan::new(&elsewhere)
    };
    install::account(stage.cluster, &elsewhere)?;
    let load = load::start(stage.cluster, &plan)?;
    let done = stage.fault(|| {
        stage.excused(
            Excused::Uninstalled,
            "ImageSwap is not installed",
            None,
            || {
                stage.event("deleted");
                let folder = Variant::Production.folder();
                stage
                    .cluster
                    .ask(&["delete", "-k", &folder, "--timeout=60s"])?;
                stage.event("applied again");
                install::apply_variant(stage.cluster, Variant::Production)
            },
        )?;
        stage.event("it answers, and is trusted");
        settled(stage.cluster)
    });
    let report = load.end()?;
    stage
        .cluster
        .ask(&["delete", "namespace", &elsewhere, "--wait=false"])?;
    stage.note(format!("elsewhere: {report}"));
    done?;
    ensure!(report.is_clean(), "elsewhere: {report}");
    Ok(())
}
