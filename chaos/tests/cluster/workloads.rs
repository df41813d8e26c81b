//! Every kind that makes Pods: the Pods run, and their images are the swapped ones.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chaos::command::eventually;
use chaos::install::CONFIGURATION;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::world::{Installed, Namespace, SWAPPED, UNSWAPPED, World, images};

pub(crate) fn all_kinds(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Base)?;
    let namespace = world.namespace()?;
    namespace.apply(json!({
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "cron-job"},
        "spec": {
            "schedule": "* * * * *",
            "jobTemplate": {"spec": {"template": ending("cron-job")}},
        },
    }))?;
    let mut pod = running("bare");
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "bare".into();
    namespace.apply(pod)?;
    for kind in ["Deployment", "StatefulSet", "DaemonSet"] {
        let name = kind.to_lowercase();
        let mut spec = json!({
            "selector": {"matchLabels": {"of": name}},
            "template": running(&name),
        });
        if kind != "DaemonSet" {
            spec["replicas"] = 2.into();
        }
        if kind == "StatefulSet" {
            spec["serviceName"] = "none".into();
        }
        namespace.apply(json!({
            "apiVersion": "apps/v1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        }))?;
    }
    namespace.apply(json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "job"},
        "spec": {"template": ending("job")},
    }))?;

    for (of, count) in [
        ("bare", 1),
        ("deployment", 2),
        ("statefulset", 2),
        ("daemonset", 3),
    ] {
        reach(&namespace, of, "Running", count)?;
    }
    reach(&namespace, "job", "Succeeded", 1)?;
    // By what it says itself, its last run was two minutes ago: the next one is due now, and need not
    // be waited for.
    let before = OffsetDateTime::now_utc() - Duration::from_secs(120);
    let last = json!({"status": {"lastScheduleTime": before.format(&Rfc3339)?}}).to_string();
    let words = ["patch", "cronjob/cron-job", "--subresource=status"];
    namespace.kubectl(&[&words[..], &["--type=merge", "-p", &last]].concat())?;
    reach(&namespace, "cron-job", "Succeeded", 1)
}

/// Where somebody registers the webhook for ReplicaSets, and not for Deployments: a Deployment that does not find its
/// template in its ReplicaSet would make the next, without end.
pub(crate) fn replica_sets(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Base)?;
    let rule = json!({
        "operations": ["CREATE", "UPDATE"],
        "apiGroups": ["apps"],
        "apiVersions": ["v1"],
        "resources": ["replicasets"],
    });
    let added = json!([{"op": "add", "path": "/webhooks/0/rules/-", "value": rule}]);
    let configuration = format!("mutatingwebhookconfiguration/{CONFIGURATION}");
    let patch = |patch: &Value| {
        let patch = patch.to_string();
        world.kubectl(&["patch", &configuration, "--type=json", "-p", &patch])
    };
    let rules = || -> anyhow::Result<usize> {
        let found = world.get(&[&configuration])?;
        let rules = found["webhooks"][0]["rules"].as_array();
        Ok(rules.context("no rules")?.len())
    };
    let before = rules()?;
    patch(&added)?;
    let done = owned_and_alone(world);
    patch(&json!([{"op": "remove", "path": format!("/webhooks/0/rules/{before}")}]))?;
    done
}

fn owned_and_alone(world: &World) -> anyhow::Result<()> {
    let namespace = world.namespace()?;
    let set = |kind: &str, of: &str| {
        json!({
            "apiVersion": "apps/v1",
            "kind": kind,
            "metadata": {"name": of},
            "spec": {"selector": {"matchLabels": {"of": of}}, "template": running(of)},
        })
    };
    // kube-apiserver may not have heard of the rule yet.
    eventually("a ReplicaSet of its own", Duration::from_secs(30), || {
        namespace.apply(set("ReplicaSet", "alone"))?;
        let alone = namespace.get(&["replicaset/alone"])?;
        if images(&alone["spec"]["template"]) != [SWAPPED; 3] {
            namespace.kubectl(&["delete", "replicaset/alone", "--cascade=orphan"])?;
            bail!("it is not swapped");
        }
        Ok(())
    })?;
    namespace.apply(set("Deployment", "owned"))?;
    reach(&namespace, "owned", "Running", 1)?;
    // Each of them would have been made within milliseconds.
    std::thread::sleep(Duration::from_secs(3));
    let list = namespace.get(&["replicasets", "-l", "of=owned"])?;
    let found = list["items"].as_array().context("no list")?;
    let [owned] = &found[..] else {
        bail!("there are {} ReplicaSets", found.len());
    };
    let kept = images(&owned["spec"]["template"]);
    ensure!(kept == [UNSWAPPED; 3], "the images are {kept:?}");
    let deployment = namespace.get(&["deployment/owned"])?;
    let generation = &deployment["status"]["observedGeneration"];
    ensure!(*generation == 1, "{generation} changes were seen");
    Ok(())
}

/// Waits until that many Pods are there, in that phase, and looks at their images.
fn reach(namespace: &Namespace<'_>, of: &str, phase: &str, count: usize) -> anyhow::Result<()> {
    eventually(of, Duration::from_secs(100), || {
        let list = namespace.get(&["pods", "-l", &format!("of={of}")])?;
        let pods = list["items"].as_array().context("no list")?;
        for pod in pods {
            let images = images(pod);
            ensure!(
                images.len() == 3 && images.iter().all(|image| *image == SWAPPED),
                "the images are {images:?}"
            );
        }
        let reached = pods.iter().filter(|pod| is_in(pod, phase)).count();
        ensure!(reached >= count, "{reached} of {count} Pods are {phase}");
        Ok(())
    })
}

fn is_in(pod: &Value, phase: &str) -> bool {
    let statuses = pod["status"]["containerStatuses"].as_array();
    let all_ready = statuses.is_some_and(|all| all.iter().all(|one| one["ready"] == true));
    pod["status"]["phase"] == phase && (phase != "Running" || all_ready)
}

/// A template with an init container, a native sidecar, and a container that stays.
fn running(of: &str) -> Value {
    json!({
        "metadata": {"labels": {"of": of}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "initContainers": [
                {"name": "init", "image": UNSWAPPED, "command": ["busybox", "true"]},
                {"name": "sidecar", "image": UNSWAPPED, "restartPolicy": "Always"},
            ],
            "containers": [{"name": "main", "image": UNSWAPPED}],
        },
    })
}

/// The same, with a container that ends.
fn ending(of: &str) -> Value {
    let mut template = running(of);
    template["spec"]["restartPolicy"] = "Never".into();
    template["spec"]["containers"][0]["command"] = json!(["busybox", "true"]);
    template
}
