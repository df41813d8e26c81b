//! Strangers upon the Service: a thousand idle connections and a stream of silent ones, heads that
//! come a byte at a time, bodies of 10 MB, and what is no TLS.

use std::time::Duration;

use crate::flood::Upon;
use crate::scenario::{Budget, Scenario, Stage};

pub(super) const SCENARIO: Scenario = Scenario {
    budget: Budget {
        slower: Some(3),
        ..Budget::nothing_but("0, p99 under 3 times quiet")
    },
    ..Scenario::new(
        "flood",
        "a flood of connections, slow heads, bodies of 10 MB and garbage for 30 s",
        play,
    )
};

fn play(stage: &Stage<'_>) -> anyhow::Result<()> {
    // As long as the flood: in each half minute the machine may have a second for something else.
    std::thread::sleep(stage.by_extent(Duration::from_secs(30), Duration::ZERO));
    stage.fault(|| {
        let (flooded, _) = stage.with_cpu(|| {
            let flood = Upon::service(stage.cluster)?;
            stage.event("flooded");
            std::thread::sleep(stage.by_extent(Duration::from_secs(30), Duration::from_secs(5)));
            flood.end()
        })?;
        stage.event("over");
        stage.note(format!("{flooded:?}"));
        flooded.ensure_of_all_kinds()
    })
}
