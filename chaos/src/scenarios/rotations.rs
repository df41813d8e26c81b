//! The certificate and its CA are replaced again and again. Every other rotation is asked for before
//! the CA of the last one is pruned.

use anyhow::ensure;

use crate::replicas::{DIALS, leaves, were_dialled};
use crate::rotation::{QUICK, ask, finished, served};
use crate::scenario::{Scenario, Stage};

pub(super) const SCENARIO: Scenario = Scenario {
    settings: &[QUICK, DIALS],
    ..Scenario::new("rotations", "ten forced CA rotations back to back", play)
};

fn play(stage: &Stage<'_>) -> anyhow::Result<()> {
    let mut seen = leaves(stage.cluster)?;
    stage.fault(|| {
        for n in 1..=stage.by_extent(10, 2) {
            let token = format!("{}-{n}", stage.namespace);
            let before = leaves(stage.cluster)?;
            stage.event("a rotation is asked for");
            ask(stage.cluster, &token)?;
            if n % 2 == 0 {
                finished(stage.cluster, &token)?;
            } else {
                served(stage.cluster, &before)?;
            }
            seen.extend(leaves(stage.cluster)?);
        }
        were_dialled(stage.cluster)
    })?;
    seen.sort();
    seen.dedup();
    let wanted = stage.by_extent(11, 3);
    ensure!(seen.len() == wanted, "{} leaves were served", seen.len());
    Ok(())
}
