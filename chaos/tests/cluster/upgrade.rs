//! Over ImageSwap 1.5.3: its names, its selector, its user's maps.

use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chaos::command::{eventually, output, run_with};
use chaos::install::{self, CONFIGURATION, NAMESPACE};
use chaos::rotation;
use imageswap::pki;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::brought;
use crate::world::{Installed, SWAPPED, UNSWAPPED, World, images, pod, text};

/// What its user wrote, with comments of their own.
const MAPS: &str =
    "# ours, do not touch\ndefault:registry.example.com\ndocker.io::mirror.example.com\n";

pub(crate) fn over_1_5_3(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Nothing)?;
    let life = time::Duration::days(30);
    let name = "imageswap.imageswap-system.svc".to_owned();
    let old = pki::mint(&[name], life, OffsetDateTime::now_utc())?;
    for object in applied_by_1_5_3() {
        world.apply(&object)?;
    }
    // These it made itself, without kubectl.
    for object in made_by_1_5_3(&old) {
        let mut create = world.cluster.kubectl(["create", "-f", "-"]);
        let created = run_with(&mut create, &object.to_string())?;
        ensure!(created.status.success(), "{}", text(&created.stderr));
    }
    rolled_out(world)?;

    script(world, "**Before**")?;
    let manifest = chaos::repository()
        .join("deploy/install.yaml")
        .display()
        .to_string();
    world.kubectl(&["apply", "-f", &manifest])?;
    world.set_installed(Installed::Base);
    install::wait(&world.cluster)?;

    let maps = world.get(&["-n", NAMESPACE, "configmap/imageswap-maps"])?;
    ensure!(maps["data"]["maps"] == MAPS, "{}", maps["data"]);
    let namespace = world.namespace()?;
    eventually("a swapped Pod", Duration::from_secs(20), || {
        let image = format!("--image={UNSWAPPED}");
        let created = output(&mut namespace.command(&["run", "web", &image]))?;
        ensure!(created.status.success(), "{}", text(&created.stderr));
        Ok(())
    })?;
    let web = namespace.runs("web")?;
    ensure!(images(&web) == [SWAPPED], "{:?}", images(&web));
    namespace.apply(pod("second"))?;

    // What it looks at is what ours looks at, and nothing more.
    let hook = &world.get(&["mutatingwebhookconfiguration", CONFIGURATION])?["webhooks"][0];
    let rules = hook["rules"].as_array().context("no rules")?;
    let looks: Vec<_> = rules
        .iter()
        .map(|rule| format!("{} {}", rule["operations"], rule["resources"]))
        .collect();
    ensure!(
        looks
            == [
                r#"["CREATE"] ["pods"]"#,
                r#"["UPDATE"] ["pods/ephemeralcontainers"]"#
            ],
        "{looks:?}"
    );
    ensure!(hook["timeoutSeconds"] == 5, "{}", hook["timeoutSeconds"]);

    // Nothing of the old program is left in the Deployment, and its wide roles are narrow now.
    let deployment = world.get(&["-n", NAMESPACE, "deployment/imageswap"])?;
    let spec = &deployment["spec"]["template"]["spec"];
    ensure!(
        spec["initContainers"].is_null(),
        "{}",
        spec["initContainers"]
    );
    ensure!(
        spec["containers"]
            .as_array()
            .is_some_and(|all| all.len() == 1),
        "{spec}"
    );
    let account = "--as=system:serviceaccount:imageswap-system:imageswap-sa";
    let words = ["auth", "can-i", "list", "secrets", "-A", account];
    let may = text(&output(&mut world.cluster.kubectl(words))?.stdout);
    ensure!(may.trim() == "no", "its account may list all Secrets");
    // The old Secret is adopted: its type can't change, and what else was in it is not ours.
    let secret = world.get(&["-n", NAMESPACE, "secret/imageswap-tls"])?;
    ensure!(secret["type"] == "tls", "{}", secret["type"]);
    let data = secret["data"].as_object().context("an empty Secret")?;
    for key in ["tls.crt", "tls.key", "ca.crt", "cert.pem", "key.pem"] {
        ensure!(data.contains_key(key), "{key} is not in {:?}", data.keys());
    }
    // Replicas of 1.5.3 that were still there served a leaf of the old CA.
    let bundle = STANDARD.decode(install::ca_bundle(&world.cluster)?)?;
    ensure!(
        text(&bundle).contains(old.ca.trim()),
        "the old CA was dropped at once"
    );
    let words = ["-n", NAMESPACE, "get", "hpa", "-o", "name"];
    let scalers = text(&output(&mut world.cluster.kubectl(words))?.stdout);
    ensure!(scalers.is_empty(), "{scalers}");
    // The template is not among what stands in for it.
    world.kubectl(&[
        "-n",
        NAMESPACE,
        "create",
        "configmap",
        "imageswap-mwc-template",
    ])?;
    script(world, "**After**")?;
    // There are two pairs in it now.
    brought::annotate_that_of_1_5_3(world, &rotation::foreign()?)
}

/// With nothing of ours in its way; busybox can't show that it swaps.
pub(crate) fn back_to_1_5_3(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Base)?;
    let maps = || world.get(&["-n", NAMESPACE, "configmap/imageswap-maps"]);
    let before = maps()?["data"].clone();
    let namespace = world.namespace()?;
    script(world, "### Back to 1.5.3")?;
    // Nobody is in the way of a Pod meanwhile.
    namespace.apply(pod("meanwhile"))?;
    let is_its_own = |object: &&Value| object["metadata"]["name"] != "imageswap-maps";
    for object in applied_by_1_5_3().iter().filter(is_its_own) {
        world.apply(object)?;
    }
    rolled_out(world)?;
    ensure!(maps()?["data"] == before, "{before}");
    let words = ["-n", NAMESPACE, "get", "secret,lease", "-o", "name"];
    let left = text(&output(&mut world.cluster.kubectl(words))?.stdout);
    let gone = [
        "secret/imageswap-tls",
        "lease.coordination.k8s.io/imageswap-leader",
    ];
    ensure!(!left.lines().any(|one| gone.contains(&one)), "{left}");
    let all = [
        "clusterrole/imageswap-read",
        "clusterrolebinding/imageswap-read-crb",
    ];
    world.kubectl(&[&["delete"], &all[..]].concat())?;
    world.uninstall()
}

/// Runs the first block of commands that docs/install.md has after these words.
fn script(world: &World, words: &str) -> anyhow::Result<()> {
    let script = brought::docs(words, "\n\n    ", "\n\n")?;
    brought::run_script(world, &script, tempfile::tempdir()?.path())
}

fn rolled_out(world: &World) -> anyhow::Result<()> {
    let words = ["rollout", "status", "deployment/imageswap", "--timeout=60s"];
    world
        .kubectl(&[&["-n", NAMESPACE], &words[..]].concat())
        .map(drop)
}

/// What its install file holds, as far as it matters: busybox stands in for its program.
fn applied_by_1_5_3() -> Vec<Value> {
    let labels = json!({"app": "imageswap"});
    let meta = |name: &str| json!({"name": name, "namespace": NAMESPACE, "labels": labels});
    let role = |kind: &str, name: &str, rules: Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": kind,
            "metadata": meta(name),
            "rules": rules,
        })
    };
    let binding = |kind: &str, name: &str, of: &str, role: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": kind,
            "metadata": meta(name),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": of, "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "imageswap-sa", "namespace": NAMESPACE}],
        })
    };
    let all = json!([
        "get", "list", "watch", "create", "patch", "update", "delete"
    ]);
    let container =
        |name: &str| json!({"name": name, "image": SWAPPED, "imagePullPolicy": "IfNotPresent"});
    let mut init = container("imageswap-init");
    init["command"] = json!(["/bin/busybox", "true"]);
    init["envFrom"] = json!([{"configMapRef": {"name": "imageswap-env"}}]);
    let mut main = container("imageswap");
    main["command"] = json!(["/bin/busybox", "sleep", "100000"]);
    main["ports"] = json!([{"containerPort": 5000}]);
    main["volumeMounts"] = json!([
        {"name": "imageswap-tls", "mountPath": "/tls"},
        {"name": "imageswap-maps", "mountPath": "/app/maps"},
    ]);
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}),
        role(
            "ClusterRole",
            "imageswap-write",
            json!([{
                "apiGroups": ["admissionregistration.k8s.io", "certificates.k8s.io", ""],
                "resources": ["mutatingwebhookconfigurations", "certificatesigningrequests", "secrets"],
                "verbs": all,
            }]),
        ),
        role(
            "ClusterRole",
            "imageswap-read",
            json!([{
                "apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"],
            }]),
        ),
        binding(
            "ClusterRoleBinding",
            "imageswap-write-crb",
            "ClusterRole",
            "imageswap-write",
        ),
        binding(
            "ClusterRoleBinding",
            "imageswap-read-crb",
            "ClusterRole",
            "imageswap-read",
        ),
        role(
            "Role",
            "imageswap-ops",
            json!([{
                "apiGroups": [""], "resources": ["secrets", "configmaps"], "verbs": all,
            }]),
        ),
        binding("RoleBinding", "imageswap-ops-rb", "Role", "imageswap-ops"),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta("imageswap-sa")}),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("imageswap-env"),
            "data": {
                "FLASK_ENV": "production",
                "PYTHONUNBUFFERED": "TRUE",
                "IMAGESWAP_MODE": "MAPS",
                "IMAGESWAP_LOG_LEVEL": "INFO",
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "imageswap-maps", "namespace": NAMESPACE},
            "data": {"maps": MAPS},
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": meta("imageswap"),
            "spec": {
                "ports": [{"name": "https", "port": 443, "targetPort": 5000}],
                "selector": labels,
            },
        }),
        json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta("imageswap-pdb"),
            "spec": {"minAvailable": 1, "selector": {"matchLabels": labels}},
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta("imageswap"),
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "serviceAccountName": "imageswap-sa",
                        "terminationGracePeriodSeconds": 1,
                        "securityContext": {"runAsUser": 1898, "runAsGroup": 1898},
                        "initContainers": [init],
                        "containers": [main],
                        "volumes": [
                            {"name": "imageswap-maps", "configMap": {
                                "name": "imageswap-maps",
                                "items": [{"key": "maps", "path": "imageswap-maps.conf"}],
                            }},
                            {"name": "imageswap-tls", "emptyDir": {}},
                        ],
                    },
                },
            },
        }),
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": meta("imageswap"),
            "spec": {
                "minReplicas": 2,
                "maxReplicas": 6,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "imageswap"},
                "metrics": [{"type": "Resource", "resource": {
                    "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80},
                }}],
            },
        }),
    ]
}

fn made_by_1_5_3(old: &pki::Pem) -> Vec<Value> {
    vec![
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "imageswap-tls", "namespace": NAMESPACE},
            "type": "tls",
            "data": {"cert.pem": STANDARD.encode(&old.chain), "key.pem": STANDARD.encode(&old.key)},
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "imageswap-webhook", "labels": {"app": "imageswap"}},
            "webhooks": [{
                "name": "imageswap.webhook.k8s.twr.io",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "reinvocationPolicy": "IfNeeded",
                "clientConfig": {
                    "caBundle": STANDARD.encode(&old.ca),
                    "service": {"name": "imageswap", "namespace": NAMESPACE, "path": "/"},
                },
                "namespaceSelector": {"matchLabels": {"k8s.twr.io/imageswap": "enabled"}},
                "rules": [{
                    "operations": ["CREATE", "UPDATE"],
                    "apiGroups": ["*"],
                    "apiVersions": ["*"],
                    "resources": ["pods"],
                }],
            }],
        }),
    ]
}
