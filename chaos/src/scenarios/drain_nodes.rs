//! Nodes are drained for maintenance, one after the other. The budget of the PodDisruptionBudget is
//! honoured by `kubectl drain` itself: it evicts.

use anyhow::ensure;

use crate::scenario::{Scenario, Stage};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "drain-nodes",
    "each node drained in turn, and uncordoned",
    play,
);

fn play(stage: &Stage<'_>) -> anyhow::Result<()> {
    let budget = stage.kubectl(&["get", "poddisruptionbudget", "-o", "name"])?;
    ensure!(!budget.is_empty(), "there is no PodDisruptionBudget");
    stage.fault(|| {
        let nodes = stage.cluster.nodes();
        for node in nodes.iter().take(stage.by_extent(nodes.len(), 2)) {
            stage.event(format!("draining {}", node.name));
            let only = "--pod-selector=app=imageswap";
            let words = ["drain", &node.name, only, "--timeout=90s"];
            let drained = stage.cluster.ask(&words);
            // Whatever came of it, the next scenario needs the node.
            let rolled_out = stage.rolled_out();
            stage.cluster.ask(&["uncordon", &node.name])?;
            drained?;
            rolled_out?;
        }
        Ok(())
    })
}
