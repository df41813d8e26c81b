//! The Secret with the pair: read, made by name, and parts of it changed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{Kubernetes, Refused, brought, check};
use crate::pki::{KeyPem, Pem};
use crate::rotation::source::Source;
use crate::rotation::state;
use crate::rotation::write::{Change, Failure, Next};

/// The annotation by which someone asks for a rotation: another text than before.
pub const ROTATE: &str = "k8s.twr.io/imageswap-rotate";

/// The annotation that repeats the text of the request carried out last.
pub const ROTATED: &str = "k8s.twr.io/imageswap-rotated";

/// The type of a Secret that we make.
const KIND: &str = "kubernetes.io/tls";

/// How often this process has tried to make a Secret.
static CREATED: AtomicU64 = AtomicU64::new(0);

impl Kubernetes {
    pub(super) async fn secret(&self) -> Result<Option<state::Secret>, Refused> {
        let call = self.secrets.get_opt(&self.names.secret);
        let Some(found) = self.call("secret", call).await? else {
            return Ok(None);
        };
        check("secret", &found.metadata, &self.names.secret)?;
        if !brought::is_brought(&found) {
            return Ok(Some(state_of(found)));
        }
        let name = self.names.ca_secret();
        let ca = self.call("CA secret", self.secrets.get_opt(&name)).await?;
        if let Some(ca) = &ca {
            check("CA secret", &ca.metadata, &name)?;
        }
        Ok(Some(brought::state_of(found, ca)))
    }

    /// By server-side apply, because a Role can name what is patched but not what is created. Each
    /// is by a field manager of its own, and nothing is forced: if another process made the Secret
    /// meanwhile, or an earlier call of ours that was given up, that is a conflict.
    pub(super) async fn create_secret(&self, pem: &Pem) -> Result<(), Failure> {
        let secret = Secret {
            metadata: kube::api::ObjectMeta {
                name: Some(self.names.secret.clone()),
                ..Default::default()
            },
            type_: Some(KIND.to_owned()),
            data: Some(data(pem)),
            ..Default::default()
        };
        let nth = CREATED.fetch_add(1, Ordering::Relaxed);
        let manager = format!("{}-{nth}", self.identity);
        let (params, patch) = (PatchParams::apply(&manager), Patch::Apply(&secret));
        let call = self.secrets.patch(&self.names.secret, &params, &patch);
        self.call("secret", call).await?;
        Ok(())
    }

    /// Asks the leader for a rotation: by a text that it has not answered yet.
    ///
    /// # Errors
    /// There is no Secret, or it may not be written.
    pub async fn ask_for_rotation(&self, request: &str) -> Result<(), Failure> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {ROTATE: request}}}));
        let params = self.as_manager();
        let call = self.secrets.patch(&self.names.secret, &params, &patch);
        self.call("secret", call).await?;
        Ok(())
    }

    /// By a merge patch that names the version: type, labels and other keys stay as they are.
    pub(super) async fn change_secret(
        &self,
        version: &str,
        change: &Change,
    ) -> Result<(), Failure> {
        let patch = Patch::Merge(patch(version, change));
        let params = self.as_manager();
        let call = self.secrets.patch(&self.names.secret, &params, &patch);
        match self.call("secret", call).await {
            // It was deleted meanwhile.
            Err(Refused { code: 404, text }) => Err(Failure::Conflict(text)),
            done => Ok(done.map(|_| ())?),
        }
    }
}

/// `null` takes a key away.
fn patch(version: &str, change: &Change) -> Value {
    let mut data = serde_json::Map::new();
    let mut put = |name: &str, text: Option<&str>| {
        let value = text.map_or(Value::Null, |text| json!(bytes(text)));
        data.insert(name.to_owned(), value);
    };
    if let Some(KeyPem { chain, key }) = &change.pair {
        put("tls.crt", Some(chain));
        put("tls.key", Some(key));
    }
    match &change.next {
        Some(Next::Set(KeyPem { chain, key })) => {
            put("next.crt", Some(chain));
            put("next.key", Some(key));
        }
        Some(Next::Clear) => {
            put("next.crt", None);
            put("next.key", None);
        }
        None => {}
    }
    if let Some(ca) = &change.ca {
        put("ca.crt", Some(ca));
    }
    let mut annotations = serde_json::Map::new();
    if let Some(text) = &change.answered {
        annotations.insert(ROTATED.to_owned(), json!(text));
    }
    json!({
        "metadata": {"resourceVersion": version, "annotations": annotations},
        "data": data,
    })
}

fn bytes(text: &str) -> ByteString {
    ByteString(text.as_bytes().to_vec())
}

pub(super) fn data(pem: &Pem) -> BTreeMap<String, ByteString> {
    [
        ("tls.crt", &pem.chain),
        ("tls.key", &pem.key),
        ("ca.crt", &pem.ca),
    ]
    .map(|(name, text)| (name.to_owned(), bytes(text)))
    .into()
}

fn state_of(secret: Secret) -> state::Secret {
    let mut data = secret.data.unwrap_or_default();
    let mut part = |name: &str| data.remove(name).map(|bytes| bytes.0);
    let mut annotations = secret.metadata.annotations.unwrap_or_default();
    state::Secret {
        chain: part("tls.crt"),
        key: part("tls.key"),
        ca: part("ca.crt"),
        next_chain: part("next.crt"),
        next_key: part("next.key"),
        request: annotations.remove(ROTATE),
        answered: annotations.remove(ROTATED),
        version: secret.metadata.resource_version.unwrap_or_default(),
        source: Source::Minted,
    }
}
