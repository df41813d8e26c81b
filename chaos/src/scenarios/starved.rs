//! Replicas with very little of what they need.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use crate::load::{self, Plan};
use crate::replicas::restarts;
use crate::scenario::{Scenario, Stage};

/// With what kube-apiserver adds, just below its limit of 3 MiB.
const LARGE: usize = 3_000_000;

pub(super) const MEMORY: Scenario = Scenario::new(
    "memory",
    "a memory limit of 64Mi, and 200 Pods of 3 MB at once",
    |stage| {
        let limited = json!({"resources": {"limits": {"memory": "64Mi"}}});
        stage.with_container(&limited, || stage.fault(|| large_at_once(stage)))
    },
);

pub(super) const CPU: Scenario = Scenario::new("cpu", "a CPU limit of 50m, for 30 s", |stage| {
    let limited = json!({"resources": {"limits": {"cpu": "50m"}}});
    stage.fault(|| {
        stage.event("limited");
        stage.with_container(&limited, || {
            std::thread::sleep(stage.by_extent(Duration::from_secs(30), Duration::from_secs(5)));
            Ok(())
        })
    })
});

fn large_at_once(stage: &Stage<'_>) -> anyhow::Result<()> {
    let count = stage.by_extent(200, 20);
    let plan = Plan {
        rate: count * 1_000,
        duration: Duration::from_millis(1),
        clients: 16,
        padding: LARGE,
        ..Plan::new(&stage.namespace)
    };
    stage.event(format!("{count} large Pods"));
    let report = load::start(stage.cluster, &plan)?.wait()?;
    stage.event("all are answered");
    stage.note(format!("large ones: {report}"));
    let restarts = restarts(stage.cluster)?;
    ensure!(
        restarts.iter().all(|count| *count == 0),
        "containers were restarted: {restarts:?}"
    );
    ensure!(report.is_clean(), "large ones: {report}");
    Ok(())
}
