//! ImageSwap on a cluster, from `deploy/`, as docs/install.md says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::command::{eventually, output, run, run_with};
use crate::image;
use crate::json::at;
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

/// What there is to install.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// `deploy/install.yaml`, with two replicas.
    Base,
    /// `deploy/overlays/production`, with three.
    Production,
    /// `deploy/overlays/cluster-wide`: it holds all that the others do.
    ClusterWide,
}

impl Variant {
    /// The folder for `kubectl apply -k`.
    pub fn folder(self) -> String {
        let folder = match self {
            Self::Base => "deploy/base",
            Self::Production => "deploy/overlays/production",
            Self::ClusterWide => "deploy/overlays/cluster-wide",
        };
        crate::repository().join(folder).display().to_string()
    }
}

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
    account(cluster, name)
}

/// Waits for what no Pod can be made without in a new namespace.
///
/// # Errors
/// It does not come.
pub fn account(cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    eventually("a service account", Duration::from_secs(20), || {
        let words = ["-n", namespace, "get", "serviceaccount", "default"];
        cluster.ask(&words).map(drop)
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

/// Installs a variant with [`MAPS`], and waits as [`install`] does.
///
/// # Errors
/// It does not come up.
pub fn apply_variant(cluster: &Cluster, variant: Variant) -> anyhow::Result<()> {
    apply_maps(cluster, MAPS)?;
    cluster.ask(&["apply", "-k", &variant.folder()])?;
    wait(cluster)
}

/// Removes all that any variant brings.
///
/// # Errors
/// Something does not go.
pub fn remove(cluster: &Cluster) -> anyhow::Result<()> {
    let all = Variant::ClusterWide.folder();
    let words = ["delete", "-k", &all, "--ignore-not-found", "--timeout=60s"];
    cluster.ask(&words).map(drop)
}

/// Sets these variables and no others in ConfigMap `imageswap-env`. Says whether that is a change,
/// which replicas learn when they are started anew.
///
/// # Errors
/// kubectl refuses it.
pub fn set(cluster: &Cluster, settings: &BTreeMap<String, String>) -> anyhow::Result<bool> {
    let words = ["-n", NAMESPACE, "get", "configmap", "imageswap-env"];
    let words = [
        &words[..],
        &["--ignore-not-found", "-o", "jsonpath={.data}"],
    ]
    .concat();
    let is = cluster.ask(&words)?;
    if is == serde_json::to_string(settings)? || is.is_empty() && settings.is_empty() {
        return Ok(false);
    }
    let manifest = serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "imageswap-env", "namespace": NAMESPACE},
        "data": settings,
    });
    apply(cluster, &manifest.to_string())?;
    Ok(true)
}

/// All replicas one after the other, as a person would do it; waits until the last one is there.
///
/// # Errors
/// It does not come up.
pub fn restart(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.ask(&[
        "-n",
        NAMESPACE,
        "rollout",
        "restart",
        "deployment/imageswap",
    ])?;
    wait(cluster)
}

/// A series of a replica's metrics.
///
/// # Errors
/// The replica does not answer, or has no such series: one with labels is there when it was first counted.
pub fn metric<T: FromStr>(cluster: &Cluster, pod: &str, series: &str) -> anyhow::Result<T> {
    let found = metric_if_any(cluster, pod, series)?;
    found.with_context(|| format!("{pod} has no {series}"))
}

/// The same; nothing if there is no such series.
///
/// # Errors
/// The replica does not answer.
pub fn metric_if_any<T: FromStr>(
    cluster: &Cluster,
    pod: &str,
    series: &str,
) -> anyhow::Result<Option<T>> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:9090/proxy/metrics");
    let page = cluster.ask(&["get", "--raw", &path])?;
    let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
    Ok(page.lines().find_map(value))
}

/// Changes the Deployment by a patch in JSON or YAML; see `kubectl patch --type`.
///
/// # Errors
/// kubectl refuses it.
pub fn patch_deployment(cluster: &Cluster, kind: &str, patch: &str) -> anyhow::Result<()> {
    let kind = format!("--type={kind}");
    let words = ["patch", "deployment/imageswap", &kind, "-p", patch];
    cluster
        .ask(&[&["-n", NAMESPACE], &words[..]].concat())
        .map(drop)
}

/// The Deployment.
///
/// # Errors
/// There is none.
pub fn deployment(cluster: &Cluster) -> anyhow::Result<Value> {
    cluster.get(&["-n", NAMESPACE, "deployment/imageswap"])
}

/// What makes the Deployment again what it was: its replicas and their template.
pub fn undoing(before: &Value) -> String {
    let replace = ["replicas", "template"].map(|part| {
        let value = at(before, &format!("/spec/{part}"));
        serde_json::json!({"op": "replace", "path": format!("/spec/{part}"), "value": value})
    });
    Value::from(replace.to_vec()).to_string()
}

/// Waits until the replicas as they were before a rollout are gone: they serve on for a while.
///
/// # Errors
/// They stay.
pub fn old_ones_gone(cluster: &Cluster) -> anyhow::Result<()> {
    let wanted = at(&deployment(cluster)?, "/spec/replicas").as_u64();
    let wanted = usize::try_from(wanted.unwrap_or_default())?;
    eventually("the old replicas go", Duration::from_secs(40), || {
        let pods = cluster.ask(&["-n", NAMESPACE, "get", "pods", "-o", "name"])?;
        ensure!(pods.lines().count() == wanted, "{pods}");
        Ok(())
    })
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
    let address = address(cluster)?;
    // Nodes learn a moment later where the replicas are.
    eventually("a trusted answer", Duration::from_secs(20), || {
        leaf(cluster, &address).map(drop)
    })
}

/// Where the Service answers, in the cluster's networks.
///
/// # Errors
/// There is none.
pub fn address(cluster: &Cluster) -> anyhow::Result<String> {
    address_of(cluster, "imageswap")
}

/// The same, of another Service in its namespace.
///
/// # Errors
/// There is none.
pub fn address_of(cluster: &Cluster, service: &str) -> anyhow::Result<String> {
    let words = ["-n", NAMESPACE, "get", "service", service];
    let words = [&words[..], &["-o", "jsonpath={.spec.clusterIP}"]].concat();
    Ok(format!("{}:443", cluster.ask(&words)?))
}

/// The SHA-256 of the leaf that an address serves, verified against the live caBundle as
/// kube-apiserver does it.
///
/// # Errors
/// Nobody answers there, or is not trusted.
pub fn leaf(cluster: &Cluster, address: &str) -> anyhow::Result<String> {
    leaves(cluster, &[address.to_owned()]).map(|leaves| leaves.concat())
}

/// The same of several addresses.
///
/// # Errors
/// As for [`leaf`], for any of them.
pub fn leaves(cluster: &Cluster, addresses: &[String]) -> anyhow::Result<Vec<String>> {
    if addresses.is_empty() {
        return Ok(Vec::new());
    }
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
        .args(addresses);
    let leaves = run(&mut handshake)?;
    Ok(leaves.lines().map(str::to_owned).collect())
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

/// Copies the logs of all programs, ImageSwap's, and what a person would look at first, to a folder
/// of that name where they outlive the cluster.
///
/// # Errors
/// The disk is full, or kube-apiserver does not answer.
pub fn keep_logs(cluster: &Cluster, name: &str) -> anyhow::Result<PathBuf> {
    let folder = cluster.keep_logs(name)?;
    let write = |file: &str, words: &[&str]| {
        let output = output(&mut cluster.kubectl(words))?;
        let all = [output.stdout, output.stderr].concat();
        fs::write(folder.join(file), all).context("can't write")
    };
    write("pods.txt", &["get", "pods", "-A", "-o", "wide"])?;
    write("events.txt", &["get", "events", "-A"])?;
    write(
        "webhook.yaml",
        &["get", "mutatingwebhookconfigurations", "-o", "yaml"],
    )?;
    let pods = cluster.ask(&["-n", NAMESPACE, "get", "pods", "-o", "name"])?;
    for pod in pods.lines() {
        let file = pod.replace("pod/", "");
        write(&format!("{file}.log"), &["-n", NAMESPACE, "logs", pod])?;
        let before = ["-n", NAMESPACE, "logs", "--previous", pod];
        write(&format!("{file}-before.log"), &before)?;
    }
    Ok(folder)
}
