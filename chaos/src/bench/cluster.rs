//! Pods created through a real kube-apiserver: with no webhook, with what ImageSwap is compared with
//! (that changes nothing, and that sends one patch to all), with ImageSwap, and with a
//! MutatingAdmissionPolicy that does the same inside kube-apiserver.
//!
//! Each has a namespace of its own on one cluster, so that they can take turns. Both webhooks are
//! processes on the node that kube-apiserver calls by their address, and nothing is pinned: client,
//! kube-apiserver, etcd and webhook share the machine as they would a control plane's.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Options;
use super::creations::{Created, Plan};
use super::figures::{Sheet, Side};
use super::parts::by_turns;
use super::server::{Kind, Program, Server};
use crate::cluster::{self, Cluster};
use crate::command::run;
use crate::guard::Guard;
use crate::progress::Step;
use crate::{install, load};

/// The cluster's name; one that a person has started goes on beside it.
const NAME: &str = "bench";

/// Clients that create Pods at once.
const CLIENTS: usize = 8;

/// What a Pod names, and what becomes of it by the map file of the bench.
const IMAGE: &str = "chaos/busybox:1";
const SWAPPED: &str = "mirror.example.com/docker.io/chaos/busybox:1";

/// The same as a patch, by whoever knows it beforehand.
const PATCH: &str = r#"[{"op":"replace","path":"/spec/containers/0/image","value":"mirror.example.com/docker.io/chaos/busybox:1"}]"#;

/// The null webhook that sends it, as the report calls it.
const KNOWN: &str = "a null webhook with a patch";

/// The map file's rules in CEL, for the image of `c`.
const SWAP: &str = "c.image.startsWith('docker.io/') || c.image.startsWith('quay.io/') || \
     c.image.startsWith('ghcr.io/') ? 'mirror.example.com/' + c.image : \
     c.image.contains('/') && (c.image.split('/')[0].contains('.') || \
     c.image.split('/')[0].contains(':') || c.image.split('/')[0] == 'localhost') ? c.image : \
     'mirror.example.com/docker.io/' + c.image";

/// Who changes Pods in a namespace.
#[derive(Debug)]
struct Way {
    /// The namespace, and the name of the object that makes it so.
    name: &'static str,
    /// As the report calls it.
    about: String,
    swapped: &'static str,
    webhook: Option<Server>,
}

/// Measures on a cluster of its own. `chaos` is the program of this crate, `binaries` are the folders of Kubernetes'.
///
/// # Errors
/// The cluster does not come up, or a Pod is not what it should be.
pub(super) fn measure(
    options: &Options,
    chaos: &Path,
    turn: &File,
    binaries: Vec<PathBuf>,
    programs: &[(Side, Program); 2],
    sheet: &mut Sheet,
) -> anyhow::Result<()> {
    let guard = Guard::start(chaos, NAME, Some(turn))?;
    let cluster = Cluster::up(NAME, 1, binaries, chaos)?;
    let done = ways(&cluster, programs).and_then(|ways| rounds(&cluster, options, &ways, sheet));
    if done.is_err() {
        cluster.keep_logs(NAME)?;
    }
    guard.end();
    let remains = cluster::remains(NAME);
    anyhow::ensure!(
        remains.is_empty(),
        "the cluster left {}",
        remains.join("; ")
    );
    done
}

fn ways(cluster: &Cluster, programs: &[(Side, Program); 2]) -> anyhow::Result<Vec<Way>> {
    let [(_, floor), (_, ours)] = programs;
    let way = |name, about: &str, swapped| Way {
        name,
        about: about.to_owned(),
        swapped,
        webhook: None,
    };
    let mut ways = vec![way("bench-none", "no webhook at all", IMAGE)];
    // What kube-apiserver takes for a patch, it takes whoever sends it.
    let patching = Program {
        kind: Kind::Null(Some(PATCH)),
        name: KNOWN,
        folder: floor.folder.join("patching"),
        ..floor.clone()
    };
    for (name, port, program) in [
        ("bench-floor", 7443, floor),
        ("bench-patching", 7445, &patching),
        ("bench-ours", 7444, ours),
    ] {
        let listen = SocketAddr::from(([10, 99, 0, 1], port));
        let server = program.start_by(cluster.program(&program.path), listen, |command| {
            command.spawn().context("can't enter the cluster's network")
        })?;
        install::apply(cluster, &webhook(name, &server).to_string())?;
        let swapped = match server.kind {
            Kind::Null(None) => IMAGE,
            Kind::Null(Some(_)) | Kind::ImageSwap => SWAPPED,
        };
        ways.push(Way {
            webhook: Some(server),
            ..way(name, program.name, swapped)
        });
    }
    let by_apply = "a policy by ApplyConfiguration";
    for (name, about, mutation) in [
        ("bench-apply", by_apply, apply_configuration()),
        ("bench-patch", "a policy by JSONPatch", json_patch()),
    ] {
        for object in policy(name, &mutation) {
            install::apply(cluster, &object.to_string())?;
        }
        ways.push(way(name, about, SWAPPED));
    }
    let step = Step::begin("namespaces for each way");
    for way in &ways {
        let manifest =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": way.name}});
        install::apply(cluster, &manifest.to_string())?;
        install::account(cluster, way.name)?;
    }
    step.done(ways.len());
    Ok(ways)
}

fn rounds(
    cluster: &Cluster,
    options: &Options,
    ways: &[Way],
    sheet: &mut Sheet,
) -> anyhow::Result<()> {
    // kube-apiserver learns of a configuration a moment later; that must not count.
    for way in ways {
        let ready = || create(cluster, way, std::time::Duration::from_millis(200));
        let patience = std::time::Duration::from_secs(30);
        crate::command::eventually(&way.about, patience, ready)?;
    }
    let mut step = Step::begin("Pods through kube-apiserver");
    for round in 1..=options.rounds {
        for way in by_turns(ways, round) {
            let cpu = way.webhook.as_ref().map(Server::cpu_time).transpose()?;
            let time = std::time::Duration::from_secs(options.seconds);
            let created = create(cluster, way, time)?;
            let after = way.webhook.as_ref().map(Server::cpu_time).transpose()?;
            let cpu = cpu
                .zip(after)
                .map(|(before, after)| (after - before).as_secs_f64() * 1e6 / created.pods as f64);
            note(sheet, way, &created, cpu);
            step.update(format_args!(
                "round {round}, {}: {:.0}/s",
                way.about, created.rate
            ));
        }
    }
    step.done(sheet.in_short(&[PODS]));
    Ok(())
}

/// The figure of which there is a target against the null webhook.
const PODS: &str = "Pods created, dry run";

fn note(sheet: &mut Sheet, way: &Way, created: &Created, cpu: Option<f64>) {
    let others = [
        "no webhook at all",
        KNOWN,
        "a policy by ApplyConfiguration",
        "a policy by JSONPatch",
    ];
    let beside = |other: &str| format!("Pods created, beside {other}");
    match way.name {
        "bench-floor" | "bench-ours" => {
            let side = match way.name {
                "bench-floor" => Side::Floor,
                _ => Side::ImageSwap,
            };
            sheet.add(side, PODS, "1/s", created.rate);
            sheet.add(side, "Pod creation p50", "ms", created.p50);
            sheet.add(side, "Pod creation p99", "ms", created.p99);
            if let Some(cpu) = cpu {
                sheet.add(side, "webhook's CPU per Pod", "µs", cpu);
            }
            if side == Side::ImageSwap {
                for other in others {
                    sheet.add(side, &beside(other), "1/s", created.rate);
                }
            }
        }
        _ => sheet.add(Side::Floor, &beside(&way.about), "1/s", created.rate),
    }
}

fn create(cluster: &Cluster, way: &Way, time: std::time::Duration) -> anyhow::Result<Created> {
    let plan = Plan {
        pods: load::Plan {
            clients: CLIENTS,
            image: IMAGE.to_owned(),
            swapped: vec![way.swapped.to_owned()],
            ..load::Plan::new(way.name)
        },
        time,
    };
    let mut worker = cluster.chaos();
    worker
        .arg("creations")
        .arg(cluster.kubeconfig())
        .arg(serde_json::to_string(&plan)?);
    let told = run(&mut worker).with_context(|| format!("with {}", way.about))?;
    serde_json::from_str(&told).context("the client tells what can't be read")
}

// === what kube-apiserver is told ===

/// Only in the namespace of that name.
fn selector(name: &str) -> Value {
    json!({"matchLabels": {"kubernetes.io/metadata.name": name}})
}

fn rule() -> Value {
    json!({"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]})
}

fn webhook(name: &str, server: &Server) -> Value {
    let versions = match server.kind {
        // The only one whose constant answer is taken.
        Kind::Null(_) => "v1beta1",
        Kind::ImageSwap => "v1",
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [{
            "name": format!("{name}.example.com"),
            "admissionReviewVersions": [versions],
            "clientConfig": {
                "url": format!("https://{}/", server.address),
                "caBundle": STANDARD.encode(&server.ca),
            },
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "timeoutSeconds": 10,
            "namespaceSelector": selector(name),
            "rules": [rule()],
        }],
    })
}

/// Of containers alone, which is all that the Pods here have.
fn apply_configuration() -> Value {
    let container = format!("Object.spec.containers{{name: c.name, image: {SWAP}}}");
    let expression = format!(
        "Object{{spec: Object.spec{{containers: object.spec.containers.map(c, {container})}}}}"
    );
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn json_patch() -> Value {
    let operation = format!(
        "JSONPatch{{op: 'replace', path: '/spec/containers/' + string(i) + '/image', value: {SWAP}}}"
    );
    let expression = format!("object.spec.containers.transformList(i, c, {operation})");
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

/// The policy and its binding.
fn policy(name: &str, mutation: &Value) -> [Value; 2] {
    let version = "admissionregistration.k8s.io/v1";
    let policy = json!({
        "apiVersion": version,
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"namespaceSelector": selector(name), "resourceRules": [rule()]},
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "mutations": [mutation],
        },
    });
    let binding = json!({
        "apiVersion": version,
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name},
    });
    [policy, binding]
}
