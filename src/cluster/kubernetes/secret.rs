//! The Secret with the pair: read, made by name, and its pair replaced.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::{Kubernetes, Refused, brought};
use crate::pki::Pem;
use crate::rotation::driver::Failure;
use crate::rotation::source::Source;
use crate::rotation::state;

/// The type of a Secret that we make.
const KIND: &str = "kubernetes.io/tls";

impl Kubernetes {
    pub(super) async fn secret(&self) -> Result<Option<state::Secret>, Failure> {
        let call = self.secrets.get_opt(&self.names.secret);
        let Some(found) = self.call("secret", call).await? else {
            return Ok(None);
        };
        if !brought::is_brought(&found) {
            return Ok(Some(state_of(found)));
        }
        let name = self.names.ca_secret();
        let ca = self.call("CA secret", self.secrets.get_opt(&name)).await?;
        Ok(Some(brought::state_of(found, ca)))
    }

    /// By server-side apply, because a Role can name what is patched but not what is created. No
    /// other process has our field manager, and nothing is forced: if another one made the Secret
    /// meanwhile, that is a conflict.
    pub(super) async fn create_secret(&self, pem: &Pem) -> Result<(), Failure> {
        let secret = Secret {
            metadata: kube::api::ObjectMeta {
                name: Some(self.names.secret.clone()),
                ..Default::default()
            },
            type_: Some(KIND.to_owned()),
            data: Some(data(pem).into()),
            ..Default::default()
        };
        let (params, patch) = (PatchParams::apply(&self.identity), Patch::Apply(&secret));
        let call = self.secrets.patch(&self.names.secret, &params, &patch);
        self.call("secret", call).await?;
        Ok(())
    }

    /// By a merge patch that names the version: type, labels and other keys stay as they are.
    pub(super) async fn replace_pair(&self, version: &str, pem: &Pem) -> Result<(), Failure> {
        let data: std::collections::BTreeMap<_, _> = data(pem).into();
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": version},
            "data": data,
        }));
        let params = PatchParams {
            field_manager: Some(self.identity.clone()),
            ..Default::default()
        };
        let call = self.secrets.patch(&self.names.secret, &params, &patch);
        match self.call("secret", call).await {
            // It was deleted meanwhile.
            Err(Refused { code: 404, text }) => Err(Failure::Conflict(text)),
            done => Ok(done.map(|_| ())?),
        }
    }
}

fn data(pem: &Pem) -> [(String, ByteString); 3] {
    [
        ("tls.crt", &pem.chain),
        ("tls.key", &pem.key),
        ("ca.crt", &pem.ca),
    ]
    .map(|(name, text)| (name.to_owned(), ByteString(text.clone().into_bytes())))
}

fn state_of(secret: Secret) -> state::Secret {
    let mut data = secret.data.unwrap_or_default();
    let mut part = |name: &str| data.remove(name).map(|bytes| bytes.0);
    state::Secret {
        chain: part("tls.crt"),
        key: part("tls.key"),
        ca: part("ca.crt"),
        version: secret.metadata.resource_version.unwrap_or_default(),
        kind: secret.type_.unwrap_or_default(),
        source: Source::Minted,
    }
}
