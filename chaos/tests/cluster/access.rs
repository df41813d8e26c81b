//! What ImageSwap's service account may do, and what it did.

use std::fs;

use anyhow::{Context, ensure};
use chaos::command::output;
use chaos::install::{CONFIGURATION, NAMESPACE};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::world::{Installed, World, text};

const ACCOUNT: &str = "system:serviceaccount:imageswap-system:imageswap-sa";

/// Verb, object, namespace (`*` is all), and whether it is allowed.
const RULES: &[(&str, &str, &str, bool)] = &[
    ("get", "secrets/imageswap-tls", NAMESPACE, true),
    ("watch", "secrets/imageswap-tls", NAMESPACE, true),
    ("create", "secrets/imageswap-tls", NAMESPACE, true),
    ("patch", "secrets/imageswap-tls", NAMESPACE, true),
    ("update", "secrets/imageswap-tls", NAMESPACE, false),
    ("delete", "secrets/imageswap-tls", NAMESPACE, false),
    ("get", "secrets/imageswap-tls-ca", NAMESPACE, true),
    ("watch", "secrets/imageswap-tls-ca", NAMESPACE, true),
    ("create", "secrets/imageswap-tls-ca", NAMESPACE, false),
    ("patch", "secrets/imageswap-tls-ca", NAMESPACE, false),
    ("get", "secrets/another", NAMESPACE, false),
    ("create", "secrets/another", NAMESPACE, false),
    ("patch", "secrets/another", NAMESPACE, false),
    ("list", "secrets", NAMESPACE, false),
    ("watch", "secrets", NAMESPACE, false),
    ("create", "secrets", NAMESPACE, false),
    ("get", "secrets/imageswap-tls", "default", false),
    ("get", "secrets/imageswap-tls", "kube-system", false),
    (
        "get",
        "mutatingwebhookconfigurations/imageswap-webhook",
        "*",
        true,
    ),
    (
        "watch",
        "mutatingwebhookconfigurations/imageswap-webhook",
        "*",
        true,
    ),
    (
        "patch",
        "mutatingwebhookconfigurations/imageswap-webhook",
        "*",
        true,
    ),
    (
        "create",
        "mutatingwebhookconfigurations/imageswap-webhook",
        "*",
        false,
    ),
    (
        "delete",
        "mutatingwebhookconfigurations/imageswap-webhook",
        "*",
        false,
    ),
    ("get", "mutatingwebhookconfigurations/another", "*", false),
    ("patch", "mutatingwebhookconfigurations/another", "*", false),
    ("list", "mutatingwebhookconfigurations", "*", false),
    (
        "patch",
        "validatingwebhookconfigurations/imageswap-webhook",
        "*",
        false,
    ),
    (
        "get",
        "leases.coordination.k8s.io/imageswap-leader",
        NAMESPACE,
        true,
    ),
    (
        "patch",
        "leases.coordination.k8s.io/imageswap-leader",
        NAMESPACE,
        true,
    ),
    (
        "patch",
        "leases.coordination.k8s.io/another",
        NAMESPACE,
        false,
    ),
    (
        "patch",
        "leases.coordination.k8s.io/imageswap-leader",
        "kube-system",
        false,
    ),
    ("create", "events.events.k8s.io", NAMESPACE, true),
    ("patch", "events.events.k8s.io", NAMESPACE, true),
    ("get", "events.events.k8s.io", NAMESPACE, false),
    ("delete", "events.events.k8s.io", NAMESPACE, false),
    ("create", "events.events.k8s.io", "default", false),
    ("create", "events", NAMESPACE, false),
    ("get", "deployments.apps/imageswap", NAMESPACE, true),
    ("patch", "deployments.apps/imageswap", NAMESPACE, false),
    ("get", "deployments.apps/another", NAMESPACE, false),
    ("list", "endpointslices.discovery.k8s.io", NAMESPACE, true),
    ("watch", "endpointslices.discovery.k8s.io", NAMESPACE, false),
    ("list", "endpointslices.discovery.k8s.io", "default", false),
    ("get", "pods", NAMESPACE, false),
    ("create", "pods", NAMESPACE, false),
    ("get", "configmaps/imageswap-maps", NAMESPACE, false),
    ("get", "nodes", "*", false),
];

pub(crate) fn by_name(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Base)?;
    let mut wrong = Vec::new();
    for (verb, object, namespace, is_allowed) in RULES {
        let account = format!("--as={ACCOUNT}");
        let mut words = vec!["auth", "can-i", verb, object, &account];
        if *namespace == "*" {
            words.push("--all-namespaces");
        } else {
            words.extend(["-n", namespace]);
        }
        let answer = text(&output(&mut world.cluster.kubectl(&words))?.stdout);
        let answer = answer.trim().to_owned();
        if answer != if *is_allowed { "yes" } else { "no" } {
            wrong.push(format!("{verb} {object} in {namespace}: {answer:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    // Nor does a Pod get a token that did not ask for one.
    let account = world.get(&["-n", NAMESPACE, "serviceaccount/imageswap-sa"])?;
    ensure!(
        account["automountServiceAccountToken"] == false,
        "{account}"
    );
    world
        .get(&[&format!("mutatingwebhookconfiguration/{CONFIGURATION}")])
        .map(drop)
}

/// kube-apiserver's own record of all calls of ImageSwap since the cluster was started, but for
/// those of replicas that were being removed along with their roles, and those to a kube-apiserver
/// that has not read the roles yet.
pub(crate) fn none_denied(world: &World) -> anyhow::Result<()> {
    // So that there is something to look at also when this test alone is run.
    world.need(Installed::Base)?;
    let audit = fs::read_to_string(world.cluster.audit_log())?;
    let (mut calls, mut denied) = (0, Vec::new());
    for line in audit.lines() {
        let event: Value = serde_json::from_str(line).context("an audit line that is no JSON")?;
        ensure!(
            event["user"]["username"] == ACCOUNT,
            "another's call: {line}"
        );
        calls += 1;
        let at = event["requestReceivedTimestamp"]
            .as_str()
            .context("an event without a time")?;
        let when = OffsetDateTime::parse(at, &Rfc3339)?;
        if world.was_being_removed(when) || world.cluster.apiserver_was_starting(when) {
            continue;
        }
        let code = event["responseStatus"]["code"].as_u64().unwrap_or_default();
        if code == 401 || code == 403 {
            let why = &event["annotations"]["authorization.k8s.io/reason"];
            let (verb, uri) = (&event["verb"], &event["requestURI"]);
            denied.push(format!("{at}: {verb} {uri} {code} {why}"));
        }
    }
    ensure!(calls > 10, "only {calls} calls were recorded");
    denied.sort();
    denied.dedup();
    ensure!(denied.is_empty(), "denied: {}", denied.join("; "));
    Ok(())
}
