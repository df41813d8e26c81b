//! ImageSwap on a cluster, from `deploy/`, as its README says.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::cluster::Cluster;
use crate::command::{eventually, output, run, run_with};
use crate::image;
use crate::progress::Step;

/// ImageSwap's namespace.
pub const NAMESPACE: &str = "imageswap-system";

/// The name that kube-apiserver verifies.
pub const HOST: &str = "imageswap.imageswap-system.svc";

/// The webhook configuration.
pub const CONFIGURATION: &str = "imageswap-webhook";

/// An image as a test Pod names it, which no node has; [`MAPS`] makes [`image::WORKLOAD`] of it.
pub const UNSWAPPED: &str = "chaos/busybox:1";

/// Maps for test Pods: Docker Hub's images come from where busybox is known.
pub const MAPS: &str = "docker.io::mirror.example.com\ndefault::\n";

/// Builds ImageSwap's image of a static binary and loads it into every node.
///
/// # Errors
/// The build fails, or the image is too large.
pub fn load_image(cluster: &Cluster, binary: &Path) -> anyhow::Result<()> {
    let archive = image::imageswap(&cluster.folder().join("images"), binary)?;
    let size = fs::metadata(&archive)?.len();
    ensure!(
        size < image::MOST,
        "ImageSwap's image has {size} bytes, and should have less than {}",
        image::MOST
    );
    cluster.import(&archive)
}

/// Makes a namespace in which images are swapped, ready for Pods.
///
/// # Errors
/// kubectl refuses it.
pub fn make_namespace(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let manifest = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"k8s.twr.io/imageswap": "enabled"}},
    });
    apply(cluster, &manifest.to_string())?;
    // A Pod can't be made without it.
    eventually("a service account", Duration::from_secs(20), || {
        run(&mut cluster.kubectl(["-n", name, "get", "serviceaccount", "default"])).map(drop)
    })
}

/// Applies a manifest, given as text.
///
/// # Errors
/// kubectl refuses it.
pub fn apply(cluster: &Cluster, manifest: &str) -> anyhow::Result<String> {
    let output = run_with(&mut cluster.kubectl(["apply", "-f", "-"]), manifest)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(
        output.status.success(),
        "kubectl apply: {}",
        text(&output.stderr)
    );
    Ok(text(&output.stdout) + &text(&output.stderr))
}

/// The namespace, if there is none, and in it the maps.
///
/// # Errors
/// kubectl refuses them.
pub fn apply_maps(cluster: &Cluster, maps: &str) -> anyhow::Result<()> {
    let created = output(&mut cluster.kubectl(["create", "namespace", NAMESPACE]))?;
    let said = String::from_utf8_lossy(&created.stderr);
    ensure!(
        created.status.success() || said.contains("AlreadyExists"),
        "can't create {NAMESPACE}: {said}"
    );
    let manifest = serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "imageswap-maps", "namespace": NAMESPACE},
        "data": {"maps": maps},
    });
    apply(cluster, &manifest.to_string()).map(drop)
}

/// Applies `deploy/install.yaml` and waits until ImageSwap answers and is trusted.
///
/// # Errors
/// It does not come up.
pub fn install(cluster: &Cluster) -> anyhow::Result<()> {
    let step = Step::begin("installing deploy/install.yaml");
    let manifest = crate::repository().join("deploy/install.yaml");
    let text = fs::read_to_string(&manifest)
        .with_context(|| format!("can't read {}", manifest.display()))?;
    apply(cluster, &text)?;
    wait(cluster)?;
    step.done("ImageSwap is available and trusted");
    Ok(())
}

/// Waits until the Deployment is rolled out, the caBundle is set, and the Service answers
/// kube-apiserver with a leaf that it trusts.
///
/// # Errors
/// They are not within a minute.
pub fn wait(cluster: &Cluster) -> anyhow::Result<()> {
    run(&mut cluster.kubectl([
        "-n",
        NAMESPACE,
        "rollout",
        "status",
        "deployment/imageswap",
        "--timeout=60s",
    ]))
    .context("ImageSwap does not become available")?;
    let words = ["-n", NAMESPACE, "get", "service", "imageswap", "-o"];
    let words = words.into_iter().chain(["jsonpath={.spec.clusterIP}"]);
    let address = run(&mut cluster.kubectl(words))?;
    // Nodes learn a moment later where the replicas are.
    eventually("a trusted answer", Duration::from_secs(20), || {
        leaf(cluster, &format!("{address}:443")).map(drop)
    })
}

/// The SHA-256 of the leaf that an address serves, verified against the live caBundle as
/// kube-apiserver does it.
///
/// # Errors
/// Nobody answers there, or is not trusted.
pub fn leaf(cluster: &Cluster, address: &str) -> anyhow::Result<String> {
    let ca = STANDARD.decode(ca_bundle(cluster)?)?;
    ensure!(!ca.is_empty(), "the caBundle is empty");
    let file = cluster.folder().join("live-ca.crt");
    fs::write(&file, ca)?;
    let [cert, key, _] = cluster.caller();
    let mut handshake = cluster.chaos();
    handshake
        .args(["handshake", "--name", HOST, "--ca"])
        .arg(&file)
        .arg("--cert")
        .arg(cert)
        .arg("--key")
        .arg(key)
        .arg(address);
    run(&mut handshake)
}

/// The live caBundle, base64.
///
/// # Errors
/// There is no webhook configuration.
pub fn ca_bundle(cluster: &Cluster) -> anyhow::Result<String> {
    run(&mut cluster.kubectl([
        "get",
        "mutatingwebhookconfiguration",
        CONFIGURATION,
        "-o",
        "jsonpath={.webhooks[0].clientConfig.caBundle}",
    ]))
}
