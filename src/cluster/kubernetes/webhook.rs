//! The webhook configuration: read, and its caBundles written. Nothing else in it is ours.

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::Patch;
use serde_json::{Value, json};

use super::{Kubernetes, Names, Refused};
use crate::rotation::state::{Configuration, Hook};
use crate::rotation::write::Failure;

impl Kubernetes {
    pub(super) async fn configuration(&self) -> Result<Option<Configuration>, Failure> {
        let call = self.configurations.get_opt(&self.names.configuration);
        let found = self.call("webhook configuration", call).await?;
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
                manager: manager(&managed, &hook.name, "/f:clientConfig/f:caBundle"),
                is_patched: manager(&managed, &hook.name, "/f:failurePolicy")
                    .is_some_and(|manager| BY_HAND.contains(&manager.as_str())),
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

/// What `kubectl` calls itself where a person changes an object at the server.
const BY_HAND: [&str; 2] = ["kubectl-patch", "kubectl-edit"];

/// Who wrote this field of this webhook last.
fn manager(managed: &[ManagedFieldsEntry], hook: &str, field: &str) -> Option<String> {
    let key = format!("k:{}", json!({ "name": hook }));
    let wrote = |entry: &&ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        let hook = fields.and_then(|fields| fields.get("f:webhooks")?.get(&key));
        hook.is_some_and(|hook| hook.pointer(field).is_some())
    };
    let last = managed
        .iter()
        .filter(wrote)
        .max_by_key(|entry| entry.time.as_ref().map(|at| at.0));
    last.and_then(|entry| entry.manager.clone())
}
