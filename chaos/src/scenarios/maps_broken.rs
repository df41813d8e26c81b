//! The ConfigMap with the maps is replaced by what is none, or by far more than is sensible. Pods
//! are swapped by the last good rules, or the new ones.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use crate::command::{eventually, run_with};
use crate::install::{MAPS, NAMESPACE, metric};
use crate::replicas;
use crate::scenario::{Scenario, Stage};

/// What a failed download leaves. One line of it looks like a rule.
const RUBBISH: &str = "<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head>\n<body>\n\
     <p>::[\n</body></html>\n";

const LINES: usize = 100_000;

/// The kubelet brings a ConfigMap within its own time.
const PATIENCE: Duration = Duration::from_secs(90);

pub(super) const REPLACED: Scenario = Scenario::new(
    "maps-rubbish",
    "the maps replaced by an HTML page, one line of which looks like a rule",
    |stage| replaced(stage, RUBBISH, "imageswap_maps_refused", 1.0),
);

pub(super) const EMPTIED: Scenario = Scenario::new(
    "maps-emptied",
    "the maps replaced by an empty file",
    |stage| replaced(stage, "", "imageswap_maps_refused", 1.0),
);

pub(super) const LARGE: Scenario = Scenario::new(
    "maps-large",
    "the maps replaced by 100,000 lines",
    |stage| {
        // An object holds a MiB: ten bytes a line.
        let lines = (0..LINES).map(|n| format!("a.{n:05}::\n"));
        let maps = MAPS.to_owned() + &lines.collect::<String>();
        replaced(stage, &maps, "imageswap_maps_rules", (LINES + 2) as f64)
    },
);

fn replaced(stage: &Stage<'_>, maps: &str, series: &str, wanted: f64) -> anyhow::Result<()> {
    stage.fault(|| {
        replace(stage, maps)?;
        stage.event("replaced");
        let arrived = all_reach(stage, series, wanted);
        if arrived.is_ok() {
            stage.event("all replicas have seen it");
            std::thread::sleep(Duration::from_secs(2));
        }
        replace(stage, MAPS)?;
        stage.event("mended");
        // Whatever came of it, the scenario ends when Pods are swapped by the good ones.
        all_reach(stage, "imageswap_maps_refused", 0.0)?;
        all_reach(stage, "imageswap_maps_rules", 2.0)?;
        arrived
    })
}

/// Not `apply`, which would keep a copy in an annotation that has no room.
fn replace(stage: &Stage<'_>, maps: &str) -> anyhow::Result<()> {
    let manifest = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "imageswap-maps", "namespace": NAMESPACE},
        "data": {"maps": maps},
    });
    let mut replace = stage.cluster.kubectl(["replace", "-f", "-"]);
    let replaced = run_with(&mut replace, &manifest.to_string())?;
    let said = String::from_utf8_lossy(&replaced.stderr);
    ensure!(replaced.status.success(), "can't replace the maps: {said}");
    Ok(())
}

fn all_reach(stage: &Stage<'_>, series: &str, wanted: f64) -> anyhow::Result<()> {
    eventually(&format!("{series} {wanted}"), PATIENCE, || {
        for pod in replicas::names(stage.cluster)? {
            let now: f64 = metric(stage.cluster, &pod, series)?;
            ensure!(now == wanted, "{pod} has {now}");
        }
        Ok(())
    })
}
