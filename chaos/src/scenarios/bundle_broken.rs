//! The caBundle is taken away, by hand or by a tool that thinks it its own. Until the leader has put
//! it back, kube-apiserver believes nobody.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::command::eventually;
use crate::install::CONFIGURATION;
use crate::replicas::leaves;
use crate::rotation;
use crate::scenario::{Budget, Excused, Scenario, Stage};

/// How long kube-apiserver may believe nobody.
const MOST: Duration = Duration::from_secs(2);

const PATH: &str = "/webhooks/0/clientConfig/caBundle";

const UNTIL_REPAIRED: Budget = Budget::nothing_but("0 but until repaired, under 2 s");

pub(super) const EMPTIED: Scenario = Scenario {
    budget: UNTIL_REPAIRED,
    ..Scenario::new("bundle-emptied", "the caBundle emptied", |stage| {
        broken(stage, &json!([{"op": "remove", "path": PATH}]))
    })
};

pub(super) const FOREIGN: Scenario = Scenario {
    budget: UNTIL_REPAIRED,
    ..Scenario::new(
        "bundle-foreign",
        "the caBundle overwritten by another CA",
        |stage| {
            let ca = STANDARD.encode(rotation::foreign()?.ca);
            broken(
                stage,
                &json!([{"op": "replace", "path": PATH, "value": ca}]),
            )
        },
    )
};

pub(super) const DELETED: Scenario = Scenario {
    budget: Budget::nothing_but("0 but until it is there again"),
    ..Scenario::new(
        "webhook-deleted",
        "the webhook configuration deleted, and applied again 5 s later",
        deleted,
    )
};

fn broken(stage: &Stage<'_>, patch: &Value) -> anyhow::Result<()> {
    let patch = patch.to_string();
    let words = ["patch", "mutatingwebhookconfiguration", CONFIGURATION];
    let words = [&words[..], &["--type=json", "-p", &patch]].concat();
    stage.fault(|| {
        stage.excused(
            Excused::Distrust,
            "kube-apiserver believes nobody",
            Some(MOST),
            || {
                stage.event("broken");
                stage.cluster.ask(&words)?;
                believed(stage)
            },
        )?;
        stage.event("repaired");
        rotation::settled(stage.cluster)
    })
}

fn deleted(stage: &Stage<'_>) -> anyhow::Result<()> {
    let manifest = crate::repository().join("deploy/base/webhook.yaml");
    let manifest = manifest.display().to_string();
    stage.fault(|| {
        stage.excused(
            Excused::Uninstalled,
            "there is no webhook configuration",
            None,
            || {
                stage.event("deleted");
                let words = ["delete", "mutatingwebhookconfiguration", CONFIGURATION];
                stage.cluster.ask(&words)?;
                std::thread::sleep(Duration::from_secs(5));
                Ok(())
            },
        )?;
        stage.excused(
            Excused::Distrust,
            "kube-apiserver believes nobody",
            Some(MOST),
            || {
                stage.event("applied again");
                // Until it is, Pods go through as they are.
                stage.excused(Excused::Uninstalled, "it is being applied", None, || {
                    stage.cluster.ask(&["apply", "-f", &manifest])
                })?;
                believed(stage)
            },
        )?;
        stage.event("repaired");
        rotation::settled(stage.cluster)
    })
}

fn believed(stage: &Stage<'_>) -> anyhow::Result<()> {
    let patience = Duration::from_secs(30);
    eventually("the caBundle is right again", patience, || {
        leaves(stage.cluster).map(drop)
    })
}
