//! A second webhook, called after ImageSwap, that adds a container to every Pod.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chaos::command::eventually;
use serde_json::json;

use crate::world::{Installed, SWAPPED, UNSWAPPED, World, images, pod};

/// Sorted after ImageSwap's, so called after it.
const NAME: &str = "zz-sidecars";

/// In node 1's network, where kube-apiserver is.
const ADDRESS: &str = "10.99.0.1:9443";

/// Ends with its test.
struct Webhook<'a>(Child, &'a World);

impl Drop for Webhook<'_> {
    fn drop(&mut self) {
        let _ = self
            .1
            .kubectl(&["delete", "mutatingwebhookconfiguration", NAME]);
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn reinvocation(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Base)?;
    let namespace = world.namespace()?;
    let ca = world.cluster.folder().join("sidecars-ca.crt");
    let child = world
        .cluster
        .chaos()
        .args(["sidecar", "--image", UNSWAPPED, "--ca"])
        .arg(&ca)
        .arg(ADDRESS)
        .stderr(Stdio::inherit())
        .spawn()
        .context("can't start the second webhook")?;
    let _webhook = Webhook(child, world);
    let ca = eventually("the second webhook", Duration::from_secs(10), || {
        Ok(std::fs::read(&ca)?)
    })?;
    world.apply(&json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": NAME},
        "webhooks": [{
            "name": "sidecars.chaos.test",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "timeoutSeconds": 5,
            "clientConfig": {"url": format!("https://{ADDRESS}/"), "caBundle": STANDARD.encode(ca)},
            "namespaceSelector": {
                "matchLabels": {"kubernetes.io/metadata.name": namespace.name},
            },
            "rules": [{
                "operations": ["CREATE"],
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "resources": ["pods"],
            }],
        }],
    }))?;
    // kube-apiserver learns of it by a watch.
    let swapped = eventually("a Pod with a sidecar", Duration::from_secs(10), || {
        let _ = namespace.kubectl(&["delete", "pod", "web", "--ignore-not-found", "--force"]);
        namespace.apply(pod("web"))?;
        let web = namespace.get(&["pod/web"])?;
        ensure!(images(&web).len() == 2, "{:?}", images(&web));
        Ok(web)
    })?;
    ensure!(images(&swapped) == [SWAPPED; 2], "{:?}", images(&swapped));
    namespace.runs("web").map(drop)
}
