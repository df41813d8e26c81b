//! What a cluster is like before ImageSwap is installed on it, and what would be in the way: from
//! facts to findings. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;

use super::quantity::milli;
use super::{CREATE_MAPS, FILL_MAPS};
use super::{Finding, Severity, finding};
use crate::maps_file::Loaded;
use crate::rotation::source::Source;
use crate::rotation::state;
use crate::text::counted;

/// The oldest Kubernetes that is supported: `docs/compatibility.md`.
pub const OLDEST: (u32, u32) = (1, 32);

/// How long Kubernetes waits for a Pod of `deploy/base/deployment.yaml` to end.
pub const GRACE: Duration = Duration::from_secs(30);

/// What two replicas take of a quota, and in a rollout one more, by `deploy/base/deployment.yaml`; a resource has two
/// names.
const NEEDS: [(&[&str], &str); 6] = [
    (&["pods", "count/pods"], "3"),
    (&["cpu", "requests.cpu"], "150m"),
    (&["memory", "requests.memory"], "96Mi"),
    (&["limits.memory"], "960Mi"),
    (&["services", "count/services"], "1"),
    (&["secrets", "count/secrets"], "1"),
];

/// What a quota may want every container to state, and ours do not: the quota's name for it, and
/// where a LimitRange has it.
const UNSTATED: [(&str, &str, bool); 3] = [
    ("limits.cpu", "cpu", true),
    ("limits.ephemeral-storage", "ephemeral-storage", true),
    ("requests.ephemeral-storage", "ephemeral-storage", false),
];

/// What our container, the one of its Pod, asks for and may take, by the same file.
const CONTAINER: [(&str, &str, Option<&str>); 2] =
    [("cpu", "50m", None), ("memory", "32Mi", Some("320Mi"))];

/// How many lines in error are named and variables that are bad, and how many rights that are missing.
const NAMED: usize = 3;
const NAMED_RIGHTS: usize = 8;

/// What was seen, or why it could not be.
pub type Seen<T> = Result<T, Unseen>;

/// Why something could not be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unseen {
    /// As it was said.
    pub why: String,
    /// Whether whoever asks may not read it; else it may be seen another time.
    pub is_forbidden: bool,
}

/// What was seen of a cluster.
#[derive(Debug)]
pub struct Facts {
    /// When.
    pub now: OffsetDateTime,
    /// The namespace to be.
    pub namespace: String,
    /// The Service to be, and the name that kube-apiserver will verify.
    pub service: String,
    /// As above.
    pub host: String,
    /// The name of the webhook configuration to be.
    pub configuration: String,
    /// kube-apiserver's version: major, minor, and in full.
    pub version: (u32, u32, String),
    /// What applying `deploy/install.yaml` needs, and whoever asks may not.
    pub denied: Seen<Vec<String>>,
    /// The namespace, if it is there.
    pub found: Seen<Option<Namespace>>,
    /// All mutating webhooks; `None` if kube-apiserver does not know the kind.
    pub hooks: Seen<Option<Vec<Hook>>>,
    /// The Deployment that is called as ours.
    pub deployment: Seen<Option<Deployment>>,
    /// What 1.5.3 had and nobody needs any more, as `kubectl delete` takes it.
    pub leftovers: Seen<Vec<String>>,
    /// Whether 1.5.3's autoscaler is there.
    pub has_scaler: Seen<bool>,
    /// How many endpoints of the Service are ready.
    pub ready: Seen<usize>,
    /// The cluster's nodes.
    pub nodes: Seen<Vec<Node>>,
    /// The quotas of the namespace.
    pub quotas: Seen<Vec<Quota>>,
    /// The limits of the namespace for containers and Pods.
    pub limits: Seen<Vec<Limit>>,
    /// The ConfigMap with the maps, and what its key `maps` holds.
    pub maps: Seen<Option<Option<Vec<u8>>>>,
    /// The ConfigMap with the replicas' variables.
    pub settings: Seen<Option<Entries>>,
    /// The Secret, with the CA of a pair that is brought.
    pub secret: Seen<Option<state::Secret>>,
}

/// What a ConfigMap holds.
pub type Entries = BTreeMap<String, String>;

/// What the Deployment sets itself, without values that only its Pods see.
pub type Env = BTreeMap<String, Option<String>>;

/// The replicas' variables, so far as they can be seen.
#[derive(Debug, Default)]
pub struct Variables {
    /// Those of the ConfigMap and of the Deployment, whose word counts more.
    pub entries: Entries,
    /// Which of them the Deployment sets.
    pub env: Env,
    /// Whether replicas may be told what is not seen here: there is no Deployment of ours yet, or it names more sources.
    pub has_more: bool,
}

impl Variables {
    fn of(config: Option<&Entries>, deployment: Option<&Deployment>) -> Self {
        let mut entries = config.cloned().unwrap_or_default();
        let env = deployment.map(|found| found.env.clone());
        let env = env.unwrap_or_default();
        entries.retain(|name, _| !env.contains_key(name));
        let seen = |(name, value): (&String, &Option<String>)| Some((name.clone(), value.clone()?));
        entries.extend(env.iter().filter_map(seen));
        Self {
            entries,
            env,
            has_more: deployment.is_none_or(|found| found.has_more),
        }
    }
}

/// What replicas make of their variables.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Each that ends a replica at its start, with the reason.
    pub unusable: Vec<String>,
    /// Each that does so unless the Deployment carries what it needs, with the reason.
    pub unusable_alone: Vec<String>,
    /// Each that `deploy/` does not carry, so that replicas are not ready or not reached, with the reason.
    pub unfit: Vec<String>,
    /// The one for which nobody could lead.
    pub unled: Option<String>,
    /// How long to end may take.
    pub longest_end: Duration,
    /// The names that look like ours, and that nobody knows.
    pub unknown: Vec<String>,
    /// Whether a map file with lines in error is refused.
    pub strict_maps: bool,
    /// Whether no map file is read.
    pub is_legacy: bool,
    /// Whether that is so, and no prefix is seen.
    pub has_no_prefix: bool,
    /// The map file that is read in place of the usual one.
    pub other_maps: Option<String>,
}

/// A namespace.
#[derive(Debug, Clone, Default)]
pub struct Namespace {
    /// Whether it is being deleted.
    pub is_terminating: bool,
    /// The pod-security level that it enforces.
    pub enforces: Option<String>,
}

/// A mutating webhook.
#[derive(Debug, Clone, Default)]
pub struct Hook {
    /// The configuration that it is in.
    pub configuration: String,
    /// Its name.
    pub name: String,
    /// Namespace and name of the Service that it calls.
    pub service: Option<(String, String)>,
    /// Whether what it can't be asked about is refused.
    pub fails_closed: bool,
    /// Whether it is called when a Pod is created.
    pub takes_pods: bool,
    /// Whether one of its selectors asks for our label.
    pub has_our_label: bool,
    /// Whether its namespaces are selected by labels that `kubectl apply` would leave beside a selector without them:
    /// nobody has applied the configuration yet.
    pub keeps_labels: bool,
    /// Whether it has a caBundle that was written by `kubectl apply`, so that applying one without takes it out.
    pub loses_bundle: bool,
    /// Who applied the caBundle at the server, and so would take it out by applying one without.
    pub bundle_applier: Option<String>,
}

/// A Deployment.
#[derive(Debug, Clone, Default)]
pub struct Deployment {
    /// What its first container runs.
    pub command: Option<String>,
    /// Its selector's labels, as `key=value`.
    pub selector: Vec<String>,
    /// Whether it has init containers: 1.5.3 has one.
    pub has_init: bool,
    /// What its container is given besides the ConfigMap.
    pub env: Env,
    /// Whether that container is told more in other ways.
    pub has_more: bool,
    /// How long its Pods may take to end.
    pub grace: Option<Duration>,
    /// Whether `kubectl apply` has made it, and so can take something out of it.
    pub is_applied: bool,
    /// Who has applied it at the server, and so can take something out of it.
    pub applier: Option<String>,
}

/// A node.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// Whether it is ready, and takes Pods that tolerate nothing.
    pub is_free: bool,
}

/// A ResourceQuota that counts our Pods.
#[derive(Debug, Clone, Default)]
pub struct Quota {
    /// Its name.
    pub name: String,
    /// Resource, the most that is allowed, and what is used.
    pub hard: Vec<(String, String, String)>,
}

/// What a LimitRange says of one resource of a container or a Pod; amounts as they are written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limit {
    /// The LimitRange's name.
    pub name: String,
    /// Whether it is for all containers of a Pod together, and gives none what it does not state.
    pub is_of_pods: bool,
    /// Such as `cpu`.
    pub resource: String,
    /// The least that may be asked for.
    pub min: Option<String>,
    /// The highest limit.
    pub max: Option<String>,
    /// The limit of a container that states none.
    pub default: Option<String>,
    /// What is asked for by one that does not say.
    pub default_request: Option<String>,
    /// How many times what is asked for the limit may be.
    pub max_ratio: Option<String>,
}

/// What is installed already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Installed {
    /// Nothing by our name.
    Nothing,
    /// This program, in some version.
    Imageswap,
    /// ImageSwap 1.5.3, or whatever else has its Deployment's name.
    Older,
    /// That could not be seen.
    Unknown,
}

/// All of it, to be shown.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether nothing is in the way.
    pub healthy: bool,
    /// The namespace to be.
    pub namespace: String,
    /// kube-apiserver's version.
    pub kubernetes: String,
    /// What is installed already.
    pub installed: Installed,
    /// Whether the namespace is there.
    pub namespace_exists: Option<bool>,
    /// The pod-security level that it enforces. Ours meets `restricted`.
    pub pod_security: Option<String>,
    /// How many nodes can take a replica.
    pub nodes: Option<usize>,
    /// What is in the way, the worst first.
    pub findings: Vec<Finding>,
}

use Severity::{Error, Note, Warning};

/// Judges what was seen. What variables come to, only who has the flags can tell.
pub fn report(facts: &Facts, read: impl Fn(&Variables) -> Settings) -> Report {
    let mut findings = Vec::new();
    let all = &mut findings;
    version_found(facts, all);
    if let Some(denied) = seen(all, "your rights", &facts.denied) {
        rights_found(denied, all);
    }
    let namespace = seen(all, "the namespace", &facts.found);
    if let Some(Some(namespace)) = namespace {
        namespace_found(facts, namespace, all);
    }
    let deployment = seen(all, "the Deployment", &facts.deployment);
    let installed = installed(deployment);
    if let Some(Some(deployment)) = deployment {
        deployment_found(facts, deployment, installed, all);
    }
    if let Some(leftovers) = seen(all, "the roles of 1.5.3", &facts.leftovers) {
        leftovers_found(leftovers, all);
    }
    if installed == Installed::Older
        && let Some(true) = seen(all, "the autoscalers", &facts.has_scaler)
    {
        finding(
            all,
            ("autoscaler", Warning),
            "1.5.3's HorizontalPodAutoscaler would set the number of replicas, also to two of three",
            "delete it first: `kubectl -n NAMESPACE delete hpa imageswap`",
        );
    }
    let ready = seen(all, "the Service's endpoints", &facts.ready);
    match seen(all, "the webhook configurations", &facts.hooks) {
        Some(Some(hooks)) => {
            if installed != Installed::Imageswap {
                bundles_found(facts, hooks, all);
            }
            hooks_found(facts, hooks, ready, all);
        }
        Some(None) => finding(
            all,
            ("admission-missing", Error),
            "kube-apiserver does not know MutatingWebhookConfigurations",
            "it was started with admissionregistration.k8s.io/v1 switched off (--runtime-config)",
        ),
        None => {}
    }
    let nodes = seen(all, "the nodes", &facts.nodes);
    let free = nodes.map(|nodes| nodes.iter().filter(|node| node.is_free).count());
    if let Some(free) = free {
        nodes_found(free, all);
    }
    let limits = seen(all, "the LimitRanges", &facts.limits);
    if let Some(limits) = limits {
        limits_found(limits, all);
    }
    if let Some(quotas) = seen(all, "the ResourceQuotas", &facts.quotas) {
        let is_new = installed == Installed::Nothing;
        quotas_found(quotas, limits.unwrap_or(&Vec::new()), is_new, all);
    }
    let settings = seen(all, "the ConfigMap imageswap-env", &facts.settings);
    // Somebody may have changed ours; an older one's goes.
    let ours = deployment.and_then(Option::as_ref);
    let ours = ours.filter(|_| installed == Installed::Imageswap);
    let settings = settings.map(|found| read(&Variables::of(found.as_ref(), ours)));
    let settings = settings.unwrap_or_default();
    settings_found(&settings, ours, all);
    if let Some(path) = settings.other_maps.as_ref().filter(|_| !settings.is_legacy) {
        finding(
            all,
            ("maps-elsewhere", Note),
            format!(
                "replicas read their rules from {path}, by IMAGESWAP_MAPS_FILE, and not from the ConfigMap"
            ),
            "see that it is mounted, and `imageswap check` it: it is not looked at here",
        );
    } else if let Some(maps) = seen(all, "the maps", &facts.maps)
        && !settings.is_legacy
    {
        maps_found(maps.as_ref(), settings.strict_maps, all);
    }
    // Ours that names more sources may have it from there.
    if settings.has_no_prefix && !ours.is_some_and(|found| found.has_more) {
        let unless = match ours {
            Some(_) => "",
            None => ", unless the Deployment carries it",
        };
        finding(
            all,
            ("maps-empty", Warning),
            format!(
                "IMAGESWAP_MODE is legacy, and IMAGE_PREFIX is not set: nothing is swapped{unless}"
            ),
            "set it, or better write a map file (docs/maps.md) and leave the mode out",
        );
    }
    if let Some(Some(secret)) = seen(all, "the Secret", &facts.secret) {
        secret_found(facts, secret, all);
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let is_note = |finding: &Finding| finding.severity == Note;
    Report {
        healthy: findings.iter().all(is_note),
        namespace: facts.namespace.clone(),
        kubernetes: facts.version.2.clone(),
        installed,
        namespace_exists: namespace.map(Option::is_some),
        pod_security: namespace.and_then(|found| found.as_ref()?.enforces.clone()),
        nodes: free,
        findings,
    }
}

/// What was seen; else a finding says why not.
fn seen<'a, T>(findings: &mut Vec<Finding>, what: &str, seen: &'a Seen<T>) -> Option<&'a T> {
    let mut unseen = |Unseen { why, is_forbidden }: &Unseen| {
        let text = format!("can't look at {what}: {why}");
        match is_forbidden {
            true => finding(
                findings,
                ("not-seen", Note),
                text,
                "ask again as somebody who may read it; nothing is said of it here",
            ),
            false => finding(
                findings,
                ("not-seen", Warning),
                text,
                "try again: nothing is said of it here, and what is in the way may be there",
            ),
        }
    };
    seen.as_ref().inspect_err(|why| unseen(why)).ok()
}

fn version_found(facts: &Facts, findings: &mut Vec<Finding>) {
    let (major, minor, ref text) = facts.version;
    if (major, minor) < OLDEST {
        let (major, minor) = OLDEST;
        finding(
            findings,
            ("kubernetes-too-old", Error),
            format!("kube-apiserver is {text}; {major}.{minor} is the oldest that is supported"),
            "update Kubernetes first; docs/compatibility.md says what an older one lacks",
        );
    }
}

fn rights_found(denied: &[String], findings: &mut Vec<Finding>) {
    if !denied.is_empty() {
        finding(
            findings,
            ("rights-missing", Error),
            format!("you may not {}", listed(denied, NAMED_RIGHTS, ", ")),
            "apply deploy/install.yaml as a cluster administrator",
        );
    }
}

/// So many of them, and how many more there are.
fn listed(all: &[String], most: usize, between: &str) -> String {
    let named = all.get(..most).unwrap_or(all);
    match all.len() - named.len() {
        0 => named.join(between),
        more => format!("{} and {more} more", named.join(between)),
    }
}

fn namespace_found(facts: &Facts, namespace: &Namespace, findings: &mut Vec<Finding>) {
    if namespace.is_terminating {
        finding(
            findings,
            ("namespace-terminating", Error),
            format!("the namespace {} is being deleted", facts.namespace),
            "wait until it is gone; if it never is, `kubectl get namespace NAME -o yaml` says what \
             holds it",
        );
    }
}

fn installed(deployment: Option<&Option<Deployment>>) -> Installed {
    match deployment {
        None => Installed::Unknown,
        Some(None) => Installed::Nothing,
        Some(Some(found)) if found.command.as_deref() == Some("/imageswap") => Installed::Imageswap,
        Some(Some(_)) => Installed::Older,
    }
}

fn deployment_found(
    facts: &Facts,
    found: &Deployment,
    installed: Installed,
    findings: &mut Vec<Finding>,
) {
    let namespace = &facts.namespace;
    let (about, what) = match installed {
        Installed::Imageswap => (("installed", Note), "ImageSwap is installed already"),
        _ => (
            ("installed-older", Note),
            "there is ImageSwap 1.5.3, or some other",
        ),
    };
    finding(
        findings,
        about,
        format!("{what}: Deployment {namespace}/{}", facts.service),
        "applying deploy/install.yaml, or your own kustomization, updates it (docs/install.md, Upgrade)",
    );
    if found.selector != ["app=imageswap"] {
        finding(
            findings,
            ("deployment-selector", Error),
            format!(
                "the Deployment selects {}, and that can't be changed to app=imageswap",
                found.selector.join(",")
            ),
            "delete the Deployment first: it is another program's, or was changed",
        );
    }
    // Ours has none, so somebody added it on purpose.
    if installed == Installed::Older && found.has_init && !found.is_applied {
        let made = match &found.applier {
            Some(manager) => format!("applied at the server, by {manager}"),
            None => "not made by `kubectl apply`".to_owned(),
        };
        finding(
            findings,
            ("deployment-not-applied", Warning),
            format!("the Deployment was {made}: `kubectl apply` would leave its init container"),
            "let the same apply the new one at the server, or delete it and its PodDisruptionBudget first \
             (docs/install.md, Upgrade); no Pod is created meanwhile in namespaces that are labelled",
        );
    }
}

fn leftovers_found(leftovers: &[String], findings: &mut Vec<Finding>) {
    if !leftovers.is_empty() {
        finding(
            findings,
            ("leftovers", Note),
            format!("1.5.3 had {}", leftovers.join(", ")),
            "once this one is installed, delete them: nobody needs them (docs/install.md)",
        );
    }
}

fn hooks_found(facts: &Facts, hooks: &[Hook], ready: Option<&usize>, findings: &mut Vec<Finding>) {
    let service = (facts.namespace.clone(), facts.service.clone());
    let calls_us = |hook: &&Hook| hook.service.as_ref() == Some(&service);
    let is_in_ours = |hook: &&Hook| hook.configuration == facts.configuration;
    let list = |some: &[&Hook]| {
        let names = some.iter().map(|hook| {
            let Hook {
                configuration,
                name,
                ..
            } = hook;
            format!("{name} in {configuration}")
        });
        names.collect::<Vec<_>>().join(", ")
    };
    let blocking: Vec<_> = hooks
        .iter()
        .filter(calls_us)
        .filter(|hook| hook.fails_closed)
        .collect();
    if ready == Some(&0) && !blocking.is_empty() {
        finding(
            findings,
            ("webhook-blocks", Error),
            format!(
                "{} calls a Service without a ready endpoint: Pods are refused",
                list(&blocking)
            ),
            "an installation that has ended: install now, or delete the webhook configuration",
        );
    }
    if hooks
        .iter()
        .any(|hook| is_in_ours(&hook) && hook.keeps_labels)
    {
        finding(
            findings,
            ("webhook-selector", Note),
            format!(
                "{} was not applied: `kubectl apply` leaves its matchLabels beside another selector",
                facts.configuration
            ),
            "for deploy/overlays/cluster-wide take them out afterwards (docs/install.md, Upgrade)",
        );
    }
    let elsewhere: Vec<_> = hooks
        .iter()
        .filter(is_in_ours)
        .filter(|hook| !calls_us(hook))
        .collect();
    if !elsewhere.is_empty() {
        finding(
            findings,
            ("webhook-elsewhere", Error),
            format!(
                "{} calls another Service: applying would take it over",
                list(&elsewhere)
            ),
            "remove the other installation first, or name it with --namespace and --service",
        );
    }
    let others = || {
        hooks
            .iter()
            .filter(|hook| !is_in_ours(hook) && hook.takes_pods)
    };
    let rivals: Vec<_> = others()
        .filter(|hook| hook.has_our_label || calls_us(hook))
        .collect();
    if !rivals.is_empty() {
        finding(
            findings,
            ("webhook-rival", Warning),
            format!(
                "{} selects by ImageSwap's label, or calls it, too",
                list(&rivals)
            ),
            "images would be swapped by both: remove that webhook configuration",
        );
    }
    let rest: Vec<_> = others()
        .filter(|hook| !hook.has_our_label && !calls_us(hook))
        .collect();
    if !rest.is_empty() {
        finding(
            findings,
            ("webhook-others", Note),
            format!("Pods are changed by others, too: {}", list(&rest)),
            "images that they add are swapped; if one of them swaps images itself, let one do it",
        );
    }
}

/// 1.5.3 leaves the configuration to others if it is told to (`IMAGESWAP_DISABLE_AUTO_MWC`).
fn bundles_found(facts: &Facts, hooks: &[Hook], findings: &mut Vec<Finding>) {
    let name = &facts.configuration;
    let mut ours = hooks.iter().filter(|hook| hook.configuration == *name);
    if ours.clone().any(|hook| hook.loses_bundle) {
        finding(
            findings,
            ("webhook-loses-ca", Error),
            format!(
                "{name} was applied with a caBundle: applying ours takes it out, and Pods are refused until a replica writes it"
            ),
            "first take it out of what was applied, and not of the configuration (docs/install.md, Upgrade)",
        );
    } else if let Some(applier) = ours.find_map(|hook| hook.bundle_applier.as_ref()) {
        finding(
            findings,
            ("webhook-ca-applied", Warning),
            format!(
                "the caBundle of {name} was applied by {applier}: if that applies ours, it takes it out, and Pods are refused until a replica writes it"
            ),
            "first have it forgotten who wrote it (docs/install.md, Upgrade)",
        );
    }
}

fn nodes_found(free: usize, findings: &mut Vec<Finding>) {
    match free {
        0 => finding(
            findings,
            ("nodes-none", Error),
            "no node is ready and takes Pods that tolerate nothing",
            "ImageSwap would wait for one, and Pods with it: it fails closed",
        ),
        1 => finding(
            findings,
            ("nodes-one", Warning),
            "one node alone can take a replica: if it is lost, Pods are refused",
            "have two nodes at least, three for deploy/overlays/production",
        ),
        _ => {}
    }
}

fn limits_found(limits: &[Limit], findings: &mut Vec<Finding>) {
    for limit in limits {
        let Limit { name, resource, .. } = limit;
        let (asks, most) = taken(limits, resource);
        let bound = refusing(limit, asks, most);
        if let Some(bound) = bound {
            let kind = if limit.is_of_pods { "Pod" } else { "container" };
            finding(
                findings,
                ("limit-range", Error),
                format!(
                    "the LimitRange {name} refuses our Pods by its {bound} of a {kind}: of {resource} they ask for {} \
                     and may take {}",
                    asks.unwrap_or("no amount"),
                    most.unwrap_or("any")
                ),
                "change it, or the Deployment's resources with kustomize",
            );
        } else if let Some(default) = given(limit)
            && resource == "cpu"
        {
            finding(
                findings,
                ("limit-range-cpu", Warning),
                format!("the LimitRange {name} gives our Pods a CPU limit of {default}"),
                "throttled, ImageSwap holds up every Pod: take the limit out of this namespace",
            );
        }
    }
}

/// The limit that a container gets by it which states none. A max without a default is one.
fn given(limit: &Limit) -> Option<&str> {
    let default = limit.default.as_deref().or(limit.max.as_deref());
    default.filter(|_| !limit.is_of_pods)
}

/// What our Pods ask for of a resource, and what they may take: as stated, else as given.
fn taken<'a>(limits: &'a [Limit], resource: &str) -> (Option<&'a str>, Option<&'a str>) {
    let stated = CONTAINER.iter().find(|(ours, ..)| *ours == resource);
    let stated = stated.map(|(_, asks, most)| (*asks, *most));
    let all = limits.iter().filter(|limit| limit.resource == resource);
    let asked = |limit: &'a Limit| {
        let asks = limit.default_request.as_deref().or(given(limit));
        asks.or(limit.min.as_deref()).filter(|_| !limit.is_of_pods)
    };
    let asks = stated.map(|(asks, _)| asks);
    let most = stated.and_then(|(_, most)| most);
    (
        asks.or_else(|| all.clone().find_map(asked)),
        most.or_else(|| all.clone().find_map(given)),
    )
}

/// What of a limit our Pods do not keep. Source: `plugin/pkg/admission/limitranger` of Kubernetes, and the rule that no
/// container asks for more than its limit.
fn refusing(limit: &Limit, asks: Option<&str>, most: Option<&str>) -> Option<String> {
    let amount = |text: Option<&str>| text.and_then(milli);
    let (asks, most) = (amount(asks), amount(most));
    let is_low =
        |min: i128| asks.is_none_or(|asks| asks < min) || most.is_some_and(|most| most < min);
    let is_high =
        |max: i128| most.is_none_or(|most| most > max) || asks.is_some_and(|asks| asks > max);
    let is_wide = |ratio: i128| match (asks, most) {
        (Some(asks), Some(most)) => most.saturating_mul(1000) > ratio.saturating_mul(asks),
        _ => true,
    };
    let is_less = |given: i128| most == Some(given) && asks > most;
    let of = |word: &str, text: Option<&str>, is_broken: &dyn Fn(i128) -> bool| {
        let text = text.filter(|text| milli(text).is_some_and(is_broken))?;
        Some(format!("{word} {text}"))
    };
    of("min", limit.min.as_deref(), &is_low)
        .or_else(|| of("max", limit.max.as_deref(), &is_high))
        .or_else(|| of("maxLimitRequestRatio", limit.max_ratio.as_deref(), &is_wide))
        .or_else(|| of("default", given(limit), &is_less))
}

fn quotas_found(quotas: &[Quota], limits: &[Limit], is_new: bool, findings: &mut Vec<Finding>) {
    for Quota { name, hard } in quotas {
        for (resource, hard, used) in hard {
            let needs = NEEDS.iter().find(|(names, _)| names.contains(&&**resource));
            // What is used may be the Deployment's own.
            let left = match is_new {
                true => milli(hard).zip(milli(used)).map(|(hard, used)| hard - used),
                false => milli(hard),
            };
            if let Some((_, needs)) = needs
                && left.is_some_and(|left| Some(left) < milli(needs))
            {
                let why = match is_new {
                    true => format!("{used} of {hard} are used"),
                    false => format!("{hard} are allowed in all"),
                };
                finding(
                    findings,
                    ("quota", Error),
                    format!(
                        "the ResourceQuota {name} leaves less than {needs} of {resource}: {why}"
                    ),
                    "raise it: replicas that can't start leave Pods refused, and a rollout needs one more",
                );
            }
            let unstated = UNSTATED.iter().find(|(name, ..)| name == resource);
            let is_given = |resource: &str, is_limit: bool| match taken(limits, resource) {
                (_, most) if is_limit => most.is_some(),
                (asks, _) => asks.is_some(),
            };
            if let Some((_, stated, is_limit)) = unstated
                && !is_given(stated, *is_limit)
            {
                finding(
                    findings,
                    ("quota-wants", Error),
                    format!(
                        "the ResourceQuota {name} refuses Pods that do not state {resource}, as ours"
                    ),
                    "take it out of the quota, or set it in the Deployment with kustomize",
                );
            }
        }
    }
}

/// The webhook is applied before the Deployment: what ends each replica leaves Pods refused.
fn settings_found(settings: &Settings, ours: Option<&Deployment>, findings: &mut Vec<Finding>) {
    let grace = ours.and_then(|found| found.grace).unwrap_or(GRACE);
    let place = match ours {
        Some(_) => "the ConfigMap imageswap-env and the Deployment's env",
        None => "the ConfigMap imageswap-env",
    };
    let Settings {
        unusable,
        unusable_alone,
        unfit,
        unknown,
        longest_end,
        ..
    } = settings;
    if !unusable.is_empty() {
        finding(
            findings,
            ("settings-unusable", Error),
            format!(
                "replicas would not start with {place}: {}",
                listed(unusable, NAMED, "; ")
            ),
            "correct it first; `imageswap serve --help` names all variables and what they take",
        );
    }
    if !unusable_alone.is_empty() {
        finding(
            findings,
            ("settings-unusable", Warning),
            format!(
                "replicas would not start with {place} alone: {}",
                listed(unusable_alone, NAMED, "; ")
            ),
            "see that the Deployment carries the rest, by your own kustomization for instance; else correct it",
        );
    }
    if !unfit.is_empty() {
        finding(
            findings,
            ("settings-unfit", Error),
            format!(
                "replicas would not be ready, or not be reached, with the ConfigMap imageswap-env: {}",
                listed(unfit, NAMED, "; ")
            ),
            "take it out, or change what is named in deploy/ with kustomize to go with it",
        );
    }
    if let Some(unled) = &settings.unled {
        finding(
            findings,
            ("settings-unfit", Warning),
            format!("no replica could lead with the ConfigMap imageswap-env: {unled}"),
            "take it out, or change the Role in deploy/ with kustomize: who leads renews the certificate",
        );
    }
    if *longest_end > grace {
        finding(
            findings,
            ("settings-drain", Warning),
            format!(
                "with {place} a replica takes up to {longest_end:?} to end, and the Deployment gives it {grace:?}"
            ),
            "raise terminationGracePeriodSeconds with kustomize, or what is under way is cut off",
        );
    }
    if !unknown.is_empty() {
        finding(
            findings,
            ("settings-unknown", Warning),
            format!(
                "nobody knows what is set in {place}: {}",
                listed(unknown, NAMED_RIGHTS, ", ")
            ),
            "a slip in a name is a setting that is not there; `imageswap serve --help` names all variables",
        );
    }
}

fn maps_found(maps: Option<&Option<Vec<u8>>>, is_strict: bool, findings: &mut Vec<Finding>) {
    let bytes = match maps {
        None => {
            let text = "there is no ConfigMap imageswap-maps: nothing is swapped until there is";
            return finding(findings, ("maps-missing", Note), text, CREATE_MAPS);
        }
        Some(None) => {
            let text = "the ConfigMap imageswap-maps has no key maps: nothing is swapped";
            return finding(findings, ("maps-no-key", Warning), text, CREATE_MAPS);
        }
        Some(Some(bytes)) => bytes,
    };
    let loaded = match Loaded::parse(bytes) {
        Ok(loaded) => loaded,
        Err(why) => {
            let text = format!("the maps can't be used: {why}; replicas would not start");
            return finding(
                findings,
                ("maps-unusable", Error),
                text,
                "`imageswap check` shows more",
            );
        }
    };
    let errors = loaded.errors();
    if errors > 0 && !loaded.maps.has_live_rule() {
        finding(
            findings,
            ("maps-unusable", Error),
            "not one line of the maps is a rule that could ever apply; replicas would not start",
            "`imageswap check` shows what is wrong",
        );
    } else if errors > 0 {
        let is_error =
            |found: &&crate::maps::Diagnostic| found.severity == crate::maps::Severity::Error;
        let found = loaded.findings.listed().iter().filter(is_error).take(NAMED);
        let lines: Vec<_> = found
            .map(|found| format!("line {}: {}", found.place.line, found.message))
            .collect();
        let (about, what) = match is_strict {
            true => (
                ("maps-unusable", Error),
                "and IMAGESWAP_STRICT_MAPS is set; replicas would not start",
            ),
            false => (("maps-in-error", Warning), "skipped"),
        };
        finding(
            findings,
            about,
            format!(
                "the maps have {} in error, {what}; {}",
                counted(errors, "line"),
                lines.join("; ")
            ),
            "`imageswap check` shows all of them",
        );
    } else if !loaded.maps.has_live_rule() {
        let which = match loaded.maps.is_empty() {
            true => "",
            false => " that a usual image could match",
        };
        finding(
            findings,
            ("maps-empty", Warning),
            format!("there is no rule in the maps{which}: nothing is swapped"),
            FILL_MAPS,
        );
    }
}

fn secret_found(facts: &Facts, secret: &state::Secret, findings: &mut Vec<Finding>) {
    let Err(flaw) = secret.judge(std::slice::from_ref(&facts.host), facts.now) else {
        return;
    };
    let name = secret.source.name();
    if secret.source == Source::Minted {
        finding(
            findings,
            ("secret-replaced", Note),
            format!("{name} that is there can't be served: {flaw}"),
            "the leader puts a new pair into it; other keys in it stay",
        );
    } else {
        finding(
            findings,
            ("secret-unusable", Error),
            format!("{name} can't be served, and nobody but you replaces it: {flaw}"),
            secret.source.help_if_bad(),
        );
    }
}

#[cfg(test)]
mod tests;
