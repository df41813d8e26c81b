//! The webhook configuration: read, and its caBundles written. Nothing else in it is ours.

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::Patch;
use serde_json::{Value, json};

use super::{Kubernetes, Names, Refused, check};
use crate::rotation::state::{Configuration, Hook};
use crate::rotation::write::Failure;

impl Kubernetes {
    pub(super) async fn configuration(&self) -> Result<Option<Configuration>, Failure> {
        let call = self.configurations.get_opt(&self.names.configuration);
        let object = "webhook configuration";
        let found = self.call(object, call).await?;
        if let Some(found) = &found {
            check(object, &found.metadata, &self.names.configuration)?;
        }
        Ok(found.map(|found| state_of(found, &self.names)))
    }

    /// By a JSON patch that tests the version and the webhooks' names before it writes.
    pub(super) async fn write_bundles(&self, version: &str, hooks: &[Hook]) -> Result<(), Failure> {
        // The type of a JSON patch is of another crate, and can be had without naming it.
        let operations = serde_json::from_value(operations(version, hooks))
            .map_err(|error| Failure::Failed(error.to_string()))?;
        let params = self.as_manager();
        let patch = Patch::Json::<()>(operations);
        let name = &self.names.configuration;
        let call = self.configurations.patch(name, &params, &patch);
        match self.call("webhook configuration", call).await {
            // It was deleted meanwhile.
            Err(Refused { code: 404, text }) => Err(Failure::Conflict(text)),
            done => Ok(done.map(|_| ())?),
        }
    }
}

fn operations(version: &str, hooks: &[Hook]) -> Value {
    let test = |path: &str, value: &str| json!({"op": "test", "path": path, "value": value});
    let mut operations = vec![test("/metadata/resourceVersion", version)];
    for hook in hooks {
        let at = format!("/webhooks/{}", hook.index);
        operations.push(test(&format!("{at}/name"), &hook.name));
        operations.push(json!({
            "op": "add",
            "path": format!("{at}/clientConfig/caBundle"),
            "value": k8s_openapi::ByteString(hook.bundle.clone()),
        }));
    }
    Value::Array(operations)
}

fn state_of(found: MutatingWebhookConfiguration, names: &Names) -> Configuration {
    let webhooks = found.webhooks.unwrap_or_default();
    let is_ours = |hook: &MutatingWebhook| {
        let service = hook.client_config.service.as_ref();
        service.is_some_and(|to| to.namespace == names.namespace && to.name == names.service)
    };
    let managed = found.metadata.managed_fields.unwrap_or_default();
    Configuration {
        version: found.metadata.resource_version.unwrap_or_default(),
        uid: found.metadata.uid.unwrap_or_default(),
        generation: found.metadata.generation,
        hooks: (0..)
            .zip(webhooks)
            .filter(|(_, hook)| is_ours(hook))
            .map(|(index, hook)| Hook {
                index,
                manager: manager(&managed, &hook.name),
                is_declared: owners(&managed, &hook.name, "/f:failurePolicy").any(declares),
                fails_open: hook.failure_policy.as_deref() == Some("Ignore"),
                name: hook.name,
                bundle: hook
                    .client_config
                    .ca_bundle
                    .map(|bytes| bytes.0)
                    .unwrap_or_default(),
            })
            .collect(),
    }
}

/// What those call themselves who write what somebody declared, where they do not by server-side apply.
const DECLARING: [&str; 9] = [
    "kubectl-client-side-apply",
    "kubectl-create",
    "helm",
    "argocd-controller",
    "argocd-application-controller",
    "kustomize-controller",
    "helm-controller",
    "Terraform",
    "HashiCorp",
];

fn declares(entry: &ManagedFieldsEntry) -> bool {
    let manager = entry.manager.as_deref().unwrap_or_default();
    entry.operation.as_deref() == Some("Apply") || DECLARING.contains(&manager)
}

/// Who wrote the caBundle of this webhook last.
fn manager(managed: &[ManagedFieldsEntry], hook: &str) -> Option<String> {
    let wrote = owners(managed, hook, "/f:clientConfig/f:caBundle");
    let last = wrote.max_by_key(|entry| entry.time.as_ref().map(|at| at.0));
    last.and_then(|entry| entry.manager.clone())
}

/// Those who wrote what this field of this webhook holds: whoever wrote another value has lost it.
fn owners<'a>(
    managed: &'a [ManagedFieldsEntry],
    hook: &str,
    field: &'a str,
) -> impl Iterator<Item = &'a ManagedFieldsEntry> + use<'a> {
    let key = format!("k:{}", json!({ "name": hook }));
    managed.iter().filter(move |entry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        let hook = fields.and_then(|fields| fields.get("f:webhooks")?.get(&key));
        hook.is_some_and(|hook| hook.pointer(field).is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing says how a script, or a dashboard, calls itself.
    #[test]
    fn a_policy_is_declared_if_one_who_declares_wrote_it() {
        let wrote = |manager: &str, operation: &str, policy: &str| {
            json!({
                "manager": manager, "operation": operation,
                "fieldsV1": {"f:webhooks": {"k:{\"name\":\"ours\"}": {policy: {}}}},
            })
        };
        let policy = |manager, operation| wrote(manager, operation, "f:failurePolicy");
        let one = |manager, operation| json!([policy(manager, operation)]);
        let applied = "kubectl-client-side-apply";
        for (managed, is_declared) in [
            (one("kubectl", "Apply"), true),
            (one(applied, "Update"), true),
            (one("helm", "Update"), true),
            (one("argocd-controller", "Update"), true),
            (one("kubectl-edit", "Update"), false),
            (one("kubectl-patch", "Update"), false),
            (one("curl", "Update"), false),
            (one("", ""), false),
            // Both wrote the same.
            (
                json!([policy("curl", "Update"), policy("helm", "Update")]),
                true,
            ),
            // It was applied with another one.
            (
                json!([
                    wrote(applied, "Update", "f:rules"),
                    policy("node", "Update")
                ]),
                false,
            ),
            // Somebody has emptied the list.
            (json!([]), false),
        ] {
            let found = json!({
                "metadata": {"managedFields": managed},
                "webhooks": [{
                    "name": "ours",
                    "failurePolicy": "Ignore",
                    "clientConfig": {"service": {"namespace": "ns", "name": "imageswap"}},
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                }],
            });
            let names = Names {
                namespace: "ns".to_owned(),
                service: "imageswap".to_owned(),
                secret: String::new(),
                configuration: String::new(),
                lease: String::new(),
            };
            let hooks = state_of(serde_json::from_value(found).unwrap(), &names).hooks;
            let [hook] = hooks.as_slice() else {
                panic!("{managed}: {hooks:?}");
            };
            assert!(hook.fails_open);
            assert_eq!(hook.is_declared, is_declared, "{managed}");
        }
    }
}
