//! All that there is to see of a cluster before an installation, for a person who wants to know
//! what would be in the way. Nothing is written; whatever may not be read is said to be unseen.
//!
//! Objects are read as JSON: the types of nodes and Pods made the binary 0.8 MB larger, for a few
//! fields.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use http::Request;
use serde_json::{Value, json};

use super::{Kubernetes, LABEL, Refused};
use crate::rotation::write::Failure;
use crate::status::pre::{self, Facts, Hook, Limit, Quota, Seen, Unseen};

/// Where the kinds without a group are.
const CORE: &str = "/api/v1";

/// The maps: the ConfigMap's name and key, as `deploy/base/deployment.yaml` has them.
const MAPS: (&str, &str) = ("imageswap-maps", "maps");

/// The ConfigMap with the replicas' variables, by the same file.
const SETTINGS: &str = "imageswap-env";

/// The container that is told them.
const CONTAINER: &str = "imageswap";

/// What says that `kubectl apply` made an object on its own side.
const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The label of the nodes that our Pods want.
const OS: (&str, &str) = ("kubernetes.io/os", "linux");

/// The pod-security level of a namespace.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// So many nodes are looked at together.
const NODES: u32 = 500;

/// So many times, until two are free: together more than any cluster has.
const PAGES: usize = 200;

/// Group, resource, name, and whether it is in the namespace. All of these groups have a `v1`.
type Object<'a> = (&'a str, &'a str, &'a str, bool);

/// What `deploy/install.yaml` holds.
pub(super) const APPLIED_OBJECTS: [Object<'static>; 11] = [
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        "imageswap-webhook",
        false,
    ),
    ("", "namespaces", "imageswap-system", false),
    ("", "serviceaccounts", "imageswap-sa", true),
    (
        "rbac.authorization.k8s.io",
        "clusterroles",
        "imageswap-write",
        false,
    ),
    (
        "rbac.authorization.k8s.io",
        "clusterrolebindings",
        "imageswap-write-crb",
        false,
    ),
    ("rbac.authorization.k8s.io", "roles", "imageswap-ops", true),
    (
        "rbac.authorization.k8s.io",
        "rolebindings",
        "imageswap-ops-rb",
        true,
    ),
    ("", "services", "imageswap", true),
    ("networking.k8s.io", "networkpolicies", "imageswap", true),
    ("policy", "poddisruptionbudgets", "imageswap-pdb", true),
    ("apps", "deployments", "imageswap", true),
];

/// What `kubectl apply` does with each, of which one that is there already needs no `create`.
const VERBS: [&str; 3] = ["get", "create", "patch"];

/// Who makes roles and binds them must hold what they give, or hold these.
const ESCALATE: [(&str, &str, &str, bool); 4] = [
    ("escalate", "clusterroles", "imageswap-write", false),
    ("bind", "clusterroles", "imageswap-write", false),
    ("escalate", "roles", "imageswap-ops", true),
    ("bind", "roles", "imageswap-ops", true),
];

/// What the roles of `deploy/install.yaml` give: group, resource, name (any, if it is empty), and
/// the verbs.
pub(super) const GIVEN: [(&str, &str, &str, &[&str]); 7] = [
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        "imageswap-webhook",
        &["get", "list", "watch", "patch"],
    ),
    (
        "",
        "secrets",
        "imageswap-tls",
        &["get", "list", "watch", "create", "patch"],
    ),
    ("", "secrets", "imageswap-tls-ca", &["get", "list", "watch"]),
    (
        "coordination.k8s.io",
        "leases",
        "imageswap-leader",
        &["get", "create", "patch"],
    ),
    ("events.k8s.io", "events", "", &["create", "patch"]),
    ("apps", "deployments", "imageswap", &["get"]),
    ("discovery.k8s.io", "endpointslices", "", &["list"]),
];

/// What 1.5.3 had and nobody needs any more.
const OLD_ROLES: [(&str, &str); 2] = [
    ("clusterrole", "imageswap-read"),
    ("clusterrolebinding", "imageswap-read-crb"),
];
const OLD_MAP: &str = "imageswap-mwc-template";

/// And what sets the number of replicas: where, and by which name.
const OLD_SCALER: (&str, &str) = ("/apis/autoscaling/v2", "horizontalpodautoscalers/imageswap");

impl Kubernetes {
    /// Looks at everything once.
    ///
    /// # Errors
    /// kube-apiserver does not even tell its version. All else that can't be read is among the
    /// facts.
    pub async fn preview(&self) -> Result<Facts, Failure> {
        let version = self.version().await?;
        let (denied, found, hooks, deployment) = tokio::join!(
            self.denied(),
            self.namespace_found(),
            self.hooks(),
            self.deployment()
        );
        let (leftovers, has_scaler, ready, nodes, quotas) = tokio::join!(
            self.leftovers(),
            self.has_scaler(),
            self.ready(),
            self.nodes(),
            self.quotas()
        );
        let (limits, maps, settings, secret) =
            tokio::join!(self.limits(), self.maps(), self.settings(), self.secret());
        Ok(Facts {
            now: self.clock.now().wall,
            namespace: self.names.namespace.clone(),
            service: self.names.service.clone(),
            host: self.names.host(),
            configuration: self.names.configuration.clone(),
            version,
            denied,
            found,
            hooks,
            deployment,
            leftovers,
            has_scaler,
            ready,
            nodes,
            quotas,
            limits,
            maps,
            settings,
            secret: secret.map_err(unseen),
        })
    }

    async fn version(&self) -> Result<(u32, u32, String), Failure> {
        let client = self.secrets.clone().into_client();
        let info = self.call("version", client.apiserver_version()).await?;
        // Some say `32+`.
        let number = |text: &str| text.trim_end_matches('+').parse().unwrap_or_default();
        Ok((number(&info.major), number(&info.minor), info.git_version))
    }

    // === what the caller may do ===

    /// What applying needs, and is not allowed.
    async fn denied(&self) -> Seen<Vec<String>> {
        if self.may("*", ("*", "*", "", false)).await? {
            return Ok(Vec::new());
        }
        let objects = APPLIED_OBJECTS.map(|object| self.as_applied(object));
        let are_there = join_all(objects.map(|object| self.is_there(object))).await;
        let applied = objects.into_iter().zip(are_there).flat_map(verbs_for);
        let mut denied = self.denied_of(applied).await?;
        let rbac = |(verb, resource, name, is_ours)| {
            (verb, ("rbac.authorization.k8s.io", resource, name, is_ours))
        };
        if !self
            .denied_of(ESCALATE.into_iter().map(rbac))
            .await?
            .is_empty()
        {
            let given = GIVEN.iter().flat_map(|(group, resource, name, verbs)| {
                let is_ours = *group != "admissionregistration.k8s.io";
                verbs
                    .iter()
                    .map(move |verb| (*verb, (*group, *resource, *name, is_ours)))
            });
            denied.extend(self.denied_of(given).await?);
        }
        denied.dedup();
        Ok(denied)
    }

    /// The namespace is called as it is to be, and all else as in the file.
    fn as_applied<'a>(&'a self, (group, resource, name, is_ours): Object<'a>) -> Object<'a> {
        let name = match resource {
            "namespaces" => &self.names.namespace,
            _ => name,
        };
        (group, resource, name, is_ours)
    }

    /// Whether it was seen. What may not be read may not be there.
    async fn is_there(&self, (group, resource, name, is_ours): Object<'_>) -> bool {
        let api = match group {
            "" => CORE.to_owned(),
            group => format!("/apis/{group}/v1"),
        };
        let kind = format!("{resource}/{name}");
        let found = match is_ours {
            true => self.read_ours("object", &api, &kind).await,
            false => self.read("object", &format!("{api}/{kind}")).await,
        };
        matches!(found, Ok(Some(_)))
    }

    async fn denied_of<'a>(
        &self,
        wanted: impl Iterator<Item = (&'a str, Object<'a>)>,
    ) -> Seen<Vec<String>> {
        let asked = wanted.map(|(verb, object)| async move {
            let (group, resource, name, _) = object;
            let (dot, slash) = (
                if group.is_empty() { "" } else { "." },
                if name.is_empty() { "" } else { "/" },
            );
            let text = format!("{verb} {resource}{dot}{group}{slash}{name}");
            self.may(verb, object).await.map(|may| (may, text))
        });
        let answers: Result<Vec<_>, _> = join_all(asked).await.into_iter().collect();
        let denied = answers?.into_iter().filter(|(may, _)| !may);
        Ok(denied.map(|(_, text)| text).collect())
    }

    async fn may(&self, verb: &str, (group, resource, name, is_ours): Object<'_>) -> Seen<bool> {
        let namespace = if is_ours { &self.names.namespace } else { "" };
        let asked = json!({
            "verb": verb, "group": group, "resource": resource, "name": name, "namespace": namespace,
        });
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let request = Request::post(path).header("content-type", "application/json");
        let answer = self.ask("access review", request, review.to_string()).await;
        let answer = answer.map_err(unseen)?;
        Ok(answer.pointer("/status/allowed") == Some(&Value::Bool(true)))
    }

    // === how it is read ===

    async fn ask(
        &self,
        what: &'static str,
        request: http::request::Builder,
        body: String,
    ) -> Result<Value, Refused> {
        let request = request.body(body.into_bytes()).map_err(|error| Refused {
            code: 0,
            text: format!("{what}: {error}"),
        })?;
        let client = self.secrets.clone().into_client();
        self.call(what, client.request(request)).await
    }

    /// What is at a path; `None` if nothing is.
    async fn read(&self, what: &'static str, path: &str) -> Seen<Option<Value>> {
        match self.ask(what, Request::get(path), String::new()).await {
            Ok(found) => Ok(Some(found)),
            Err(Refused { code: 404, .. }) => Ok(None),
            Err(refused) => Err(unseen(refused)),
        }
    }

    /// An object of the namespace, or a list of them.
    pub(super) async fn read_ours(
        &self,
        what: &'static str,
        api: &str,
        kind: &str,
    ) -> Seen<Option<Value>> {
        let namespace = &self.names.namespace;
        let path = format!("{api}/namespaces/{namespace}/{kind}");
        self.read(what, &path).await
    }

    // === what is there ===

    async fn namespace_found(&self) -> Seen<Option<pre::Namespace>> {
        let path = format!("{CORE}/namespaces/{}", self.names.namespace);
        let found = self.read("namespace", &path).await?;
        Ok(found.map(|found| pre::Namespace {
            is_terminating: found.pointer("/metadata/deletionTimestamp").is_some(),
            enforces: found
                .pointer("/metadata/labels")
                .and_then(|labels| text(labels.get(ENFORCE)?)),
        }))
    }

    async fn hooks(&self) -> Seen<Option<Vec<Hook>>> {
        let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
        let found = self.read("webhook configurations", path).await?;
        let hooks = |found: &Value| {
            let configurations = list(found.get("items"));
            let hooks = configurations.flat_map(|configuration| {
                let hooks = list(configuration.get("webhooks"));
                hooks.map(move |hook| hook_of(configuration, hook))
            });
            hooks.collect()
        };
        Ok(found.as_ref().map(hooks))
    }

    async fn deployment(&self) -> Seen<Option<pre::Deployment>> {
        let kind = format!("deployments/{}", self.names.service);
        let found = self.read_ours("deployment", "/apis/apps/v1", &kind).await?;
        Ok(found.as_ref().map(deployment_of))
    }

    async fn leftovers(&self) -> Seen<Vec<String>> {
        let mut left = Vec::new();
        for (kind, name) in OLD_ROLES {
            let path = format!("/apis/rbac.authorization.k8s.io/v1/{kind}s/{name}");
            if self.read("role", &path).await?.is_some() {
                left.push(format!("{kind}/{name}"));
            }
        }
        let kind = format!("configmaps/{OLD_MAP}");
        if self.read_ours("config map", CORE, &kind).await?.is_some() {
            left.push(format!("configmap/{OLD_MAP}"));
        }
        Ok(left)
    }

    async fn has_scaler(&self) -> Seen<bool> {
        let (api, kind) = OLD_SCALER;
        let found = self.read_ours("autoscaler", api, kind).await?;
        Ok(found.is_some())
    }

    async fn ready(&self) -> Seen<usize> {
        let found = self.listed_endpoints().await.map_err(unseen)?;
        Ok(found.iter().filter(|endpoint| endpoint.is_ready).count())
    }

    async fn nodes(&self) -> Seen<Vec<pre::Node>> {
        let node = |node: &Value| pre::Node {
            is_free: is_free(node),
        };
        let (mut nodes, mut next) = (Vec::new(), String::new());
        for _ in 0..PAGES {
            let path = format!("{CORE}/nodes?limit={NODES}{next}");
            let found = self.read("nodes", &path).await?.unwrap_or_default();
            nodes.extend(list(found.get("items")).map(node));
            let token = found.pointer("/metadata/continue").and_then(text);
            // No more would change what is said.
            let is_enough = nodes.iter().filter(|node| node.is_free).count() > 1;
            match token.filter(|token| !token.is_empty() && !is_enough) {
                // kube-apiserver makes it of what a URL may hold.
                Some(token) => next = format!("&continue={token}"),
                None => return Ok(nodes),
            }
        }
        Err(Unseen {
            why: format!(
                "of {} less than two take Pods, and there are more",
                nodes.len()
            ),
            is_forbidden: false,
        })
    }

    async fn quotas(&self) -> Seen<Vec<Quota>> {
        let found = self.read_ours("quotas", CORE, "resourcequotas").await?;
        let found = found.unwrap_or_default();
        Ok(list(found.get("items")).filter_map(quota_of).collect())
    }

    async fn limits(&self) -> Seen<Vec<Limit>> {
        let found = self.read_ours("limit ranges", CORE, "limitranges").await?;
        let found = found.unwrap_or_default();
        Ok(list(found.get("items")).flat_map(limits_of).collect())
    }

    async fn settings(&self) -> Seen<Option<pre::Entries>> {
        let kind = format!("configmaps/{SETTINGS}");
        let found = self.read_ours("config map", CORE, &kind).await?;
        Ok(found.map(|found| pairs(found.get("data")).collect()))
    }

    async fn maps(&self) -> Seen<Option<Option<Vec<u8>>>> {
        let (name, key) = MAPS;
        let kind = format!("configmaps/{name}");
        let found = self.read_ours("config map", CORE, &kind).await?;
        Ok(found.map(|found| {
            let of = |part: &str| text(found.get(part)?.get(key)?);
            // What is no UTF-8 is elsewhere.
            let bytes = || STANDARD.decode(of("binaryData")?).ok();
            of("data").map(String::into_bytes).or_else(bytes)
        }))
    }
}

/// What `kubectl apply` needs for an object that is there, or is not.
fn verbs_for<'a>(
    ((group, resource, name, is_ours), is_there): (Object<'a>, bool),
) -> impl Iterator<Item = (&'a str, Object<'a>)> {
    let verbs = VERBS.into_iter();
    let verbs = verbs.filter(move |verb| !is_there || *verb != "create");
    // What is created has no name yet, for whoever decides.
    let name_for = move |verb| if verb == "create" { "" } else { name };
    verbs.map(move |verb| (verb, (group, resource, name_for(verb), is_ours)))
}

fn unseen(refused: Refused) -> Unseen {
    Unseen {
        is_forbidden: matches!(refused.code, 401 | 403),
        why: refused.text,
    }
}

// === what is in an object ===

fn list(of: Option<&Value>) -> impl Iterator<Item = &Value> {
    of.and_then(Value::as_array).into_iter().flatten()
}

fn text(of: &Value) -> Option<String> {
    of.as_str().map(str::to_owned)
}

fn name_of(object: &Value) -> String {
    let name = object.pointer("/metadata/name");
    name.and_then(text).unwrap_or_default()
}

/// Keys and values that are text.
fn pairs(of: Option<&Value>) -> impl Iterator<Item = (String, String)> {
    let all = of.and_then(Value::as_object).into_iter().flatten();
    all.filter_map(|(key, value)| Some((key.clone(), text(value)?)))
}

/// What `kubectl apply` applied last, if it made it: what its next one leaves out goes.
fn applied(object: &Value) -> Option<String> {
    let mut annotations = pairs(object.pointer("/metadata/annotations"));
    annotations.find_map(|(key, value)| (key == APPLIED).then_some(value))
}

/// Who applied it at the server, as Flux does: what his next one leaves out goes.
fn applier(object: &Value) -> Option<String> {
    applier_of(object, |_| true)
}

/// The same, of those fields in it.
fn applier_of(object: &Value, is_meant: impl Fn(&Value) -> bool) -> Option<String> {
    let mut fields = list(object.pointer("/metadata/managedFields"));
    let applied =
        fields.find(|one| one.get("operation") == Some(&json!("Apply")) && is_meant(one))?;
    text(applied.get("manager")?)
}

fn hook_of(configuration: &Value, hook: &Value) -> Hook {
    let asks = |selector: &str| {
        let selector = hook.get(selector).unwrap_or(&Value::Null);
        let mut expressions = list(selector.get("matchExpressions"));
        pairs(selector.get("matchLabels")).any(|(key, _)| key == LABEL)
            || expressions.any(|one| one.get("key") == Some(&json!(LABEL)))
    };
    let takes = |rule: &Value| {
        let has = |part: &str, wanted: &[&str]| {
            list(rule.get(part)).any(|one| one.as_str().is_some_and(|one| wanted.contains(&one)))
        };
        has("apiGroups", &["", "*"])
            && has("resources", &["pods", "*", "*/*"])
            && has("operations", &["CREATE", "*"])
    };
    let service = hook.pointer("/clientConfig/service");
    let bundle = hook.pointer("/clientConfig/caBundle").and_then(text);
    let has_bundle = bundle.is_some_and(|bundle| !bundle.is_empty());
    Hook {
        configuration: name_of(configuration),
        name: hook.get("name").and_then(text).unwrap_or_default(),
        service: service.and_then(|to| Some((text(to.get("namespace")?)?, text(to.get("name")?)?))),
        // The API's default is to fail.
        fails_closed: hook.get("failurePolicy") != Some(&json!("Ignore")),
        takes_pods: list(hook.get("rules")).any(takes),
        has_our_label: asks("namespaceSelector") || asks("objectSelector"),
        keeps_labels: pairs(hook.pointer("/namespaceSelector/matchLabels"))
            .next()
            .is_some()
            && applied(configuration).is_none()
            && applier(configuration).is_none(),
        loses_bundle: has_bundle
            && applied(configuration).is_some_and(|text| text.contains("\"caBundle\":\"")),
        bundle_applier: bundle_applier(configuration).filter(|_| has_bundle),
    }
}

/// Who applied a caBundle at the server.
fn bundle_applier(configuration: &Value) -> Option<String> {
    applier_of(configuration, |one| {
        let fields = one.get("fieldsV1").map(Value::to_string);
        fields.is_some_and(|fields| fields.contains("\"f:caBundle\""))
    })
}

pub(super) fn deployment_of(found: &Value) -> pre::Deployment {
    let pod = found.pointer("/spec/template/spec").unwrap_or(&Value::Null);
    let labels = pairs(found.pointer("/spec/selector/matchLabels"));
    let first = pod.pointer("/containers/0");
    let mut containers = list(pod.get("containers"));
    // Somebody may have put another before it.
    let ours = containers.find(|one| one.get("name") == Some(&json!(CONTAINER)));
    let ours = ours.or(first).unwrap_or(&Value::Null);
    pre::Deployment {
        command: ours.pointer("/command/0").and_then(text),
        selector: labels
            .map(|(key, value)| format!("{key}={value}"))
            .collect(),
        has_init: list(pod.get("initContainers")).next().is_some(),
        env: list(ours.get("env")).filter_map(variable_of).collect(),
        has_more: ours.get("args") != Some(&json!(["serve"]))
            || !list(ours.get("envFrom")).all(is_settings),
        grace: pod
            .get("terminationGracePeriodSeconds")
            .and_then(Value::as_u64)
            .map(Duration::from_secs),
        is_applied: applied(found).is_some(),
        applier: applier(found),
    }
}

/// The value is seen if it stands there: `$(NAME)` in it stands for another.
fn variable_of(one: &Value) -> Option<(String, Option<String>)> {
    let value = one.get("value").and_then(text).unwrap_or_default();
    let is_seen = one.get("valueFrom").is_none() && !value.contains("$(");
    Some((text(one.get("name")?)?, is_seen.then_some(value)))
}

fn is_settings(source: &Value) -> bool {
    source.pointer("/configMapRef/name") == Some(&json!(SETTINGS)) && source.get("prefix").is_none()
}

fn is_free(node: &Value) -> bool {
    let is = |value: &Value, part: &str, wanted: &str| value.get(part) == Some(&json!(wanted));
    let refuses = |taint: &Value| {
        ["NoSchedule", "NoExecute"]
            .iter()
            .any(|one| is(taint, "effect", one))
    };
    let mut conditions = list(node.pointer("/status/conditions"));
    let mut labels = pairs(node.pointer("/metadata/labels"));
    labels.any(|(key, value)| (&*key, &*value) == OS)
        && node.pointer("/spec/unschedulable") != Some(&Value::Bool(true))
        && !list(node.pointer("/spec/taints")).any(refuses)
        && conditions.any(|now| is(now, "type", "Ready") && is(now, "status", "True"))
}

/// Those with scopes count only some Pods: ours, which run on and ask for memory, if for that.
fn quota_of(found: &Value) -> Option<Quota> {
    let ours = ["NotTerminating", "NotBestEffort"].map(Value::from);
    if list(found.pointer("/spec/scopes")).any(|scope| !ours.contains(scope))
        || found.pointer("/spec/scopeSelector").is_some()
    {
        return None;
    }
    let used = found.pointer("/status/used");
    let used = |resource: &str| used.and_then(|used| text(used.get(resource)?));
    let hard = pairs(found.pointer("/spec/hard")).map(|(resource, hard)| {
        let used = used(&resource).unwrap_or_else(|| "0".to_owned());
        (resource, hard, used)
    });
    Some(Quota {
        name: name_of(found),
        hard: hard.collect(),
    })
}

fn limits_of(found: &Value) -> Vec<Limit> {
    let name = name_of(found);
    let items = list(found.pointer("/spec/limits"));
    let is = |item: &Value, kind: &str| item.get("type") == Some(&json!(kind));
    let ours = items.filter(|item| is(item, "Container") || is(item, "Pod"));
    let limits = ours.flat_map(|item| {
        let parts = [
            "min",
            "max",
            "default",
            "defaultRequest",
            "maxLimitRequestRatio",
        ];
        let resources: BTreeSet<_> = parts
            .iter()
            .flat_map(|part| pairs(item.get(part)))
            .map(|(resource, _)| resource)
            .collect();
        let name = name.clone();
        resources.into_iter().map(move |resource| {
            let of = |part: &str| text(item.get(part)?.get(&resource)?);
            Limit {
                name: name.clone(),
                is_of_pods: is(item, "Pod"),
                min: of("min"),
                max: of("max"),
                default: of("default"),
                default_request: of("defaultRequest"),
                max_ratio: of("maxLimitRequestRatio"),
                resource: resource.clone(),
            }
        })
    });
    limits.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_applied_an_object_takes_out_what_his_next_leaves_out() {
        let selector = json!({"matchLabels": {LABEL: "enabled"}});
        let updated = json!({"operation": "Update", "manager": "kubectl-create"});
        let applied = json!({"operation": "Apply", "manager": "flux"});
        for (metadata, is_by_kubectl, by) in [
            (json!({}), false, None),
            (json!({"managedFields": [updated]}), false, None),
            (json!({"annotations": {"other": "{}"}}), false, None),
            (json!({"annotations": {APPLIED: "{}"}}), true, None),
            (
                json!({"managedFields": [updated, applied]}),
                false,
                Some("flux"),
            ),
        ] {
            let object = json!({"metadata": metadata});
            let found = deployment_of(&object);
            let found = (found.is_applied, found.applier.as_deref());
            assert_eq!(found, (is_by_kubectl, by), "{object}");
            let hook = hook_of(&object, &json!({"namespaceSelector": selector}));
            assert_eq!(
                hook.keeps_labels,
                !is_by_kubectl && by.is_none(),
                "{object}"
            );
            assert!(!hook_of(&object, &json!({})).keeps_labels, "{object}");
        }
    }

    #[test]
    fn a_deployments_grace_is_that_of_its_pods() {
        let pod = json!({"terminationGracePeriodSeconds": 90});
        let found = deployment_of(&json!({"spec": {"template": {"spec": pod}}}));
        assert_eq!(found.grace, Some(Duration::from_secs(90)));
    }

    #[test]
    fn what_a_deployments_container_is_given_is_read_so_far_as_it_stands_there() {
        let container = json!({
            "name": "imageswap", "command": ["/imageswap"], "args": ["serve"],
            "env": [
                {"name": "A", "value": "1"}, {"name": "B"}, {"name": "C", "value": "$(A)"},
                {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ],
            "envFrom": [{"configMapRef": {"name": SETTINGS, "optional": true}}],
        });
        let read = |change: &dyn Fn(&mut Value)| {
            let mut container = container.clone();
            change(&mut container);
            let containers = json!([{"name": "sidecar"}, container]);
            deployment_of(&json!({"spec": {"template": {"spec": {"containers": containers}}}}))
        };
        let found = read(&|_| {});
        let value = |name: &str| found.env.get(name).cloned().unwrap();
        assert_eq!(
            ["A", "B", "C", "D"].map(value),
            [Some("1".to_owned()), Some(String::new()), None, None]
        );
        assert_eq!(found.command.as_deref(), Some("/imageswap"));
        assert!(!found.has_more);
        let more: [&dyn Fn(&mut Value); 3] = [
            &|one| one["args"] = json!(["serve", "--client-ca=f"]),
            &|one| one["envFrom"][0]["prefix"] = json!("IMAGESWAP_"),
            &|one| one["envFrom"][0] = json!({"secretRef": {"name": SETTINGS}}),
        ];
        for (n, change) in more.into_iter().enumerate() {
            assert!(read(change).has_more, "{n}");
        }
    }

    #[test]
    fn who_applied_a_ca_bundle_would_take_it_out() {
        let hook = json!({"clientConfig": {"caBundle": "Q0E="}});
        let with = r#"{"webhooks":[{"clientConfig":{"caBundle":"Q0E="}}]}"#;
        let fields = json!({"f:webhooks": {"k": {"f:clientConfig": {"f:caBundle": {}}}}});
        let managed = |operation: &str, fields: &Value| json!({"managedFields": [{"operation": operation, "manager": "flux", "fieldsV1": fields}]});
        let without = r#"{"webhooks":[{"clientConfig":{}}]}"#;
        for (metadata, loses, applier) in [
            (json!({}), false, None),
            (json!({"annotations": {APPLIED: without}}), false, None),
            (json!({"annotations": {APPLIED: with}}), true, None),
            (json!({"annotations": {"other": with}}), false, None),
            (managed("Update", &fields), false, None),
            (managed("Apply", &json!({"f:webhooks": {}})), false, None),
            (managed("Apply", &fields), false, Some("flux")),
        ] {
            let object = json!({"metadata": metadata});
            let found = hook_of(&object, &hook);
            let found = (found.loses_bundle, found.bundle_applier.as_deref());
            assert_eq!(found, (loses, applier), "{object}");
            let none = hook_of(&object, &json!({}));
            assert!(
                !none.loses_bundle && none.bundle_applier.is_none(),
                "{object}"
            );
        }
    }

    #[test]
    fn a_quota_with_a_scope_that_our_pods_are_in_counts() {
        for (scopes, counts) in [
            (json!([]), true),
            (json!(["NotTerminating", "NotBestEffort"]), true),
            (json!(["NotTerminating", "BestEffort"]), false),
            (json!(["Terminating"]), false),
        ] {
            let quota = json!({"spec": {"scopes": scopes, "hard": {"pods": "1"}}});
            assert_eq!(quota_of(&quota).is_some(), counts, "{scopes}");
        }
        assert!(quota_of(&json!({"spec": {"scopeSelector": {}}})).is_none());
    }

    #[test]
    fn what_a_limit_range_says_of_containers_and_pods_is_read_and_not_of_claims() {
        let limits = limits_of(&json!({"metadata": {"name": "l"}, "spec": {"limits": [
            {"type": "Container", "max": {"cpu": "2"}, "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1m"}},
            {"type": "Pod", "min": {"memory": "1Mi"}, "maxLimitRequestRatio": {"cpu": "4"}},
            {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}},
        ]}}));
        let some = |text: &str| Some(text.to_owned());
        let limit = |resource: &str, is_of_pods| Limit {
            name: "l".to_owned(),
            resource: resource.to_owned(),
            is_of_pods,
            ..Limit::default()
        };
        let expected = [
            Limit {
                max: some("2"),
                default: some("1"),
                default_request: some("1m"),
                ..limit("cpu", false)
            },
            Limit {
                max_ratio: some("4"),
                ..limit("cpu", true)
            },
            Limit {
                min: some("1Mi"),
                ..limit("memory", true)
            },
        ];
        assert_eq!(limits, expected);
    }

    #[test]
    fn a_node_of_another_system_takes_none_of_our_pods() {
        let node = |os: &str| {
            json!({
                "metadata": {"labels": {"kubernetes.io/os": os}},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            })
        };
        assert!(is_free(&node("linux")));
        assert!(!is_free(&node("windows")));
    }
}
