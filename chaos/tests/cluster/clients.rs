//! Nobody but kube-apiserver is answered, as its certificate shows.

use std::fs;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chaos::cluster::CALLER;
use chaos::command::output;
use chaos::install::{self, NAMESPACE};
use chaos::progress::say;
use serde_json::json;

use crate::status::Status;
use crate::world::{Installed, QUICK, World, text, under_load};
use chaos::replicas::replicas;
use chaos::rotation::{ask, finished, settled};

pub(crate) fn only_kube_apiserver(world: &World) -> anyhow::Result<()> {
    world.need_with(Installed::Production, &QUICK)?;
    settled(&world.cluster)?;
    let [_, _, ca] = world.cluster.caller();
    world.apply(&json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "callers", "namespace": NAMESPACE},
        "data": {"ca.crt": STANDARD.encode(fs::read(ca)?)},
    }))?;
    let patch = json!({"spec": {"template": {"spec": {
        "containers": [{
            "name": "imageswap",
            "env": [
                {"name": "IMAGESWAP_CLIENT_CA", "value": "/callers/ca.crt"},
                {"name": "IMAGESWAP_CLIENT_NAME", "value": CALLER},
            ],
            "volumeMounts": [{"name": "callers", "mountPath": "/callers"}],
        }],
        "volumes": [{"name": "callers", "secret": {"secretName": "callers"}}],
    }}}});
    let (report, _patched) = under_load(world, || {
        let patched = world.patched(&patch.to_string())?;
        refused(world)?;
        // The leader has none to present, and sees what the others serve all the same.
        ask(&world.cluster, "clients")?;
        finished(&world.cluster, "clients")?;
        Status::outside(world)?.ensure(&[])?;
        Ok(patched)
    })?;
    say(format_args!("with a certificate: {report}"));
    ensure!(report.is_clean(), "{report}");
    // Probes ask for none: these have been alive all along.
    for pod in replicas(&world.cluster)? {
        let status = &pod["status"]["containerStatuses"][0];
        ensure!(status["ready"] == true, "{status}");
        ensure!(status["restartCount"] == 0, "{status}");
    }
    Ok(())
}

/// Whoever has no certificate is refused in the handshake, and counted.
fn refused(world: &World) -> anyhow::Result<()> {
    let ca = world.cluster.folder().join("clients-ca.crt");
    fs::write(&ca, STANDARD.decode(install::ca_bundle(&world.cluster)?)?)?;
    for pod in replicas(&world.cluster)? {
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        let ip = pod["status"]["podIP"].as_str().context("no address")?;
        let missing = r#"imageswap_clients_refused_total{reason="missing"}"#;
        let before = install::metric_if_any(&world.cluster, name, missing)?.unwrap_or(0.0);
        let mut handshake = world.cluster.chaos();
        handshake
            .args(["handshake", "--name", install::HOST, "--ca"])
            .arg(&ca)
            .arg(format!("{ip}:5000"));
        let answer = output(&mut handshake)?;
        let said = text(&answer.stderr);
        ensure!(!answer.status.success(), "{name} answered");
        ensure!(said.contains("CertificateRequired"), "{name}: {said}");
        let after = world.metric(name, missing)?;
        ensure!(after > before, "{name} counted {before} and {after}");
    }
    Ok(())
}
