//! etcd, kube-apiserver, the controllers and the scheduler.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::json;

use super::Cluster;
use super::layout::Layout;
use super::machine::Machine;
use crate::command::{eventually, run};

/// kube-apiserver's audit log keeps what ImageSwap's service account asked for, and nothing else.
const AUDITED: &str = "system:serviceaccount:imageswap-system:imageswap-sa";

/// Where etcd listens.
pub(super) const ETCD: &str = "http://127.0.0.1:2379";

const POLICY: &str = "control/audit-policy.json";
const ADMISSION: &str = "control/admission.json";

/// etcd and kube-apiserver; they find each other.
pub(super) fn start(layout: &Layout, control: &Machine) -> anyhow::Result<()> {
    write_kubectl(layout)?;
    let data = layout.state.join("control/etcd");
    control.spawn(
        "etcd",
        &[
            flag("data-dir", data.display()),
            // A cluster that nobody wants back after a power cut.
            "--unsafe-no-fsync".to_owned(),
            flag("listen-client-urls", ETCD),
            flag("advertise-client-urls", ETCD),
            flag("log-level", "warn"),
        ],
    )?;
    write_settings(layout)?;
    start_apiserver(layout, control)
}

/// What kube-apiserver reads: whom it audits, and what it shows to webhooks.
fn write_settings(layout: &Layout) -> anyhow::Result<()> {
    let policy = layout.state.join(POLICY);
    fs::write(
        &policy,
        json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata", "users": [AUDITED]}, {"level": "None"}],
        })
        .to_string(),
    )?;
    let secret = |name: &str| layout.secrets().join(name).display().to_string();
    let callers = layout.state.join("control/webhooks.json");
    let plugin = "MutatingAdmissionWebhook";
    fs::write(
        layout.state.join(ADMISSION),
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "AdmissionConfiguration",
            "plugins": [{"name": plugin, "configuration": {
                "apiVersion": "apiserver.config.k8s.io/v1",
                "kind": "WebhookAdmissionConfiguration",
                "kubeConfigFile": callers,
            }}],
        })
        .to_string(),
    )?;
    // Shown only to a webhook that asks for it.
    fs::write(
        &callers,
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "users": [{"name": "imageswap.imageswap-system.svc", "user": {
                "client-certificate": secret("caller.crt"),
                "client-key": secret("caller.key"),
            }}],
        })
        .to_string(),
    )?;
    Ok(())
}

/// kube-apiserver alone, as often as it has ended.
pub(super) fn start_apiserver(layout: &Layout, control: &Machine) -> anyhow::Result<()> {
    let own = |name: &str| layout.state.join(name).display().to_string();
    let mut flags = apiserver_flags(layout);
    flags.extend([
        flag("etcd-servers", ETCD),
        flag("secure-port", "6443"),
        flag("audit-policy-file", own(POLICY)),
        flag("audit-log-path", layout.audit_log().display()),
    ]);
    control.spawn("kube-apiserver", &flags)
}

/// What is so of each kube-apiserver.
pub(super) fn apiserver_flags(layout: &Layout) -> Vec<String> {
    let secret = |name: &str| layout.secrets().join(name).display().to_string();
    vec![
        flag("advertise-address", "10.99.0.1"),
        flag("service-cluster-ip-range", "10.0.0.0/24"),
        flag("authorization-mode", "Node,RBAC"),
        flag("enable-admission-plugins", "NodeRestriction"),
        flag("allow-privileged", "true"),
        // There is no DNS.
        flag("kubelet-preferred-address-types", "InternalIP"),
        flag("token-auth-file", secret("tokens.csv")),
        flag("tls-cert-file", secret("apiserver.crt")),
        flag("tls-private-key-file", secret("apiserver.key")),
        flag("service-account-issuer", "https://kubernetes.default.svc"),
        flag("service-account-key-file", secret("accounts.crt")),
        flag("service-account-signing-key-file", secret("accounts.key")),
        flag(
            "admission-control-config-file",
            layout.state.join(ADMISSION).display(),
        ),
    ]
}

/// What needs kube-apiserver.
pub(super) fn start_controllers(layout: &Layout, control: &Machine) -> anyhow::Result<()> {
    let secret = |name: &str| layout.secrets().join(name).display().to_string();
    let kubeconfig = |user: &str| flag("kubeconfig", layout.kubeconfig(user).display());
    control.spawn(
        "kube-controller-manager",
        &[
            kubeconfig("kube-controller-manager"),
            flag("use-service-account-credentials", "true"),
            flag("service-account-private-key-file", secret("accounts.key")),
            flag("root-ca-file", secret("ca.crt")),
            flag("leader-elect", "false"),
        ],
    )?;
    control.spawn(
        "kube-scheduler",
        &[kubeconfig("kube-scheduler"), flag("leader-elect", "false")],
    )
}

/// kube-apiserver makes most roles by itself, but not this binding.
pub(super) fn bind_kube_proxy(cluster: &Cluster) -> anyhow::Result<()> {
    eventually(
        "the roles of kube-apiserver",
        Duration::from_secs(30),
        || run(&mut cluster.kubectl(["get", "clusterrole", "system:node-proxier"])).map(drop),
    )?;
    run(&mut cluster.kubectl([
        "create",
        "clusterrolebinding",
        "chaos:kube-proxy",
        "--clusterrole=system:node-proxier",
        "--user=system:kube-proxy",
    ]))
    .map(drop)
}

/// A `kubectl` for a person's PATH: it enters the network, as the administrator.
fn write_kubectl(layout: &Layout) -> anyhow::Result<()> {
    let folders = super::binaries_of(layout)?;
    let kubectl = crate::binaries::find(&folders, "kubectl")?;
    let path = layout.bin().join("kubectl");
    fs::write(
        &path,
        format!(
            "#!/bin/sh\n\
             export KUBECONFIG=\"${{KUBECONFIG:-{}}}\" KUBECACHEDIR={}\n\
             exec nsenter --net=/run/netns/{} {} \"$@\"\n",
            layout.kubeconfig("admin").display(),
            layout.state.join("kubectl-cache").display(),
            layout.network(1),
            kubectl.display(),
        ),
    )?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

pub(super) fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}
