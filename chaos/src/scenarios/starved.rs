//! Replicas with very little of what they need.
//!
//! Of 200 Pods of 3 MB at once kube-apiserver itself has no time for all: to apply a patch of one line to
//! such a Pod takes it a third of a second of CPU, and a request may take 34 s. So what it gives up of
//! these is not counted, and a few of the small ones may be lost beside them, as long as ImageSwap takes
//! hardly any time. docs/reliability.md has the figures.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{bail, ensure};
use serde_json::json;

use crate::load::{self, Outcome, Plan, Report};
use crate::replicas::{peaks, restarts, servers, throttled};
use crate::scenario::{Budget, Scenario, Stage};

/// With what kube-apiserver adds, just below its limit of 3 MiB.
const LARGE: usize = 3_000_000;

pub(super) const MEMORY: Scenario = Scenario {
    budget: Budget::nothing_but(
        "no OOM kill; of the small 20, of the large what kube-apiserver has CPU for",
    ),
    ..Scenario::new(
        "memory",
        "a memory limit of 64Mi, and 200 Pods of 3 MB at once",
        |stage| {
            let limited = json!({"resources": {"limits": {"memory": "64Mi"}}});
            stage.with_container(&limited, || stage.fault(|| large_at_once(stage)))
        },
    )
};

pub(super) const CPU: Scenario = Scenario::new(
    "cpu",
    "a CPU limit of 50m, for 30 s, and a Pod of 3 MB each second",
    |stage| {
        let limited = json!({"resources": {"limits": {"cpu": "50m"}}});
        stage.fault(|| {
            stage.event("limited");
            stage.with_container(&limited, || little_cpu(stage))
        })
    },
);

/// Forty small Pods a second are far less than a twentieth of a core, but a large one takes twice what a container
/// has in a tenth of a second.
fn little_cpu(stage: &Stage<'_>) -> anyhow::Result<()> {
    let before = throttled(stage.cluster)?;
    let plan = Plan {
        rate: 1,
        duration: stage.by_extent(Duration::from_secs(30), Duration::from_secs(5)),
        clients: 1,
        padding: LARGE,
        ..Plan::new(&stage.namespace)
    };
    let report = load::start(stage.cluster, &plan)?.wait()?;
    ensure!(report.is_clean(), "large ones: {report}");
    let now = throttled(stage.cluster)?;
    ensure!(
        before.iter().any(|(pod, count)| now.get(pod) > Some(count)),
        "nobody was kept waiting for CPU: {before:?} then, {now:?} now"
    );
    let times = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
    let times = times(&now).saturating_sub(times(&before));
    stage.note(format!(
        "kept waiting for CPU {times} times; large ones: {report}"
    ));
    Ok(())
}

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
    let before = servers(stage.cluster)?;
    let least = peaks(stage.cluster)?;
    let (calls, cpu) = stage.with_cpu(|| load::start(stage.cluster, &plan)?.wait_for_all())?;
    stage.event("all are answered");
    stage.note(format!("large ones: {}", Report::of(&calls)));
    let restarts = restarts(stage.cluster)?;
    ensure!(
        restarts.iter().all(|count| *count == 0),
        "containers were restarted: {restarts:?}"
    );
    let now = servers(stage.cluster)?;
    ensure!(
        now == before,
        "servers were killed: {before:?} then, {now:?} now"
    );
    let most = peaks(stage.cluster)?;
    ensure!(
        has_held_large(&least, &most),
        "no large one came to ImageSwap, by what its servers had of memory, in KiB: {least:?} then, {most:?} now"
    );
    stage.note(format!(
        "KiB of memory that the servers had at most: {least:?} before, {most:?} now"
    ));
    let outcomes = || calls.iter().map(|call| &call.outcome);
    let given_up = outcomes().filter(|outcome| is_given_up(outcome)).count();
    let mut others = outcomes().filter(|outcome| !outcome.is_swapped() && !is_given_up(outcome));
    if let Some(one) = others.next() {
        bail!(
            "{} large ones were lost otherwise than by time, such as {one:?}",
            others.count() + 1
        );
    }
    if given_up > 0 {
        ensure!(
            cpu.imageswap * 10 < cpu.kube_apiserver,
            "{given_up} large ones came too late, and {cpu:.1?} was taken"
        );
        // One after the other they pass: it was not ImageSwap that hung.
        let plan = Plan {
            rate: 1,
            duration: Duration::from_secs(4),
            clients: 1,
            ..plan
        };
        let report = load::start(stage.cluster, &plan)?.wait()?;
        ensure!(report.is_clean(), "one large one after the other: {report}");
        stage.may_lose(
            20,
            format!("{given_up} large ones came too late for kube-apiserver"),
        );
    }
    Ok(())
}

/// Whether a server has had so much more memory than before that a large Pod was in it: half of one, for what is free
/// is taken first. Reviews are no proof, for those of the small ones count meanwhile, too.
fn has_held_large(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> bool {
    let more = |(pod, most): (&String, &u64)| most.saturating_sub(*before.get(pod).unwrap_or(most));
    now.iter()
        .map(more)
        .any(|more| more >= LARGE as u64 / 2 / 1024)
}

/// Whether time was the reason: kube-apiserver's own, or its client's, or it had sent nothing for so long
/// that ImageSwap took it for gone.
fn is_given_up(outcome: &Outcome) -> bool {
    outcome.failed_by(&[
        "context deadline exceeded",
        "did not complete within",
        "no answer within",
        "broken pipe",
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_pod_shows_in_a_servers_memory() {
        let peaks =
            |all: [(&str, u64); 2]| BTreeMap::from(all.map(|(pod, kib)| (pod.to_owned(), kib)));
        let before = peaks([("a", 16_440), ("b", 16_400)]);
        for (now, has_held) in [
            ([("a", 16_440), ("b", 17_400)], false),
            ([("a", 16_440), ("b", 20_976)], true),
            // Another Pod, of which nobody knows what it had.
            ([("a", 16_440), ("c", 20_976)], false),
        ] {
            assert_eq!(has_held_large(&before, &peaks(now)), has_held, "{now:?}");
        }
    }
}
