//! ImageSwap's certificate as the cluster shows it: asked for anew, looked at, replaced by hand.

use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use imageswap::cluster::kubernetes::{ROTATE, ROTATED};
use imageswap::pki;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::cluster::Cluster;
use crate::command::eventually;
use crate::install::{self, NAMESPACE};
use crate::json::at;
use crate::replicas::leaves;

/// Shorter than any person would set it: one kube-apiserver learns at once.
pub const QUICK: (&str, &str) = ("IMAGESWAP_TRUST_DELAY", "1s");

/// How long one rotation may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks for a rotation, by a token that was not used before.
///
/// # Errors
/// There is no Secret.
pub fn ask(cluster: &Cluster, token: &str) -> anyhow::Result<()> {
    let annotation = format!("{ROTATE}={token}");
    let words = ["-n", NAMESPACE, "annotate", "--overwrite", "secret"];
    let words = [&words[..], &["imageswap-tls", &annotation]].concat();
    cluster.ask(&words).map(drop)
}

/// Waits until the rotation that was asked for is begun.
///
/// # Errors
/// It is not in time.
pub fn begun(cluster: &Cluster, token: &str) -> anyhow::Result<()> {
    eventually("the rotation is begun", PATIENCE, || {
        let secret = secret(cluster)?;
        let annotations = at(&secret, "/metadata/annotations");
        let done = annotations.get(ROTATED).and_then(Value::as_str);
        let done = done.unwrap_or("none");
        ensure!(done == token, "the last one was {done}");
        Ok(())
    })
}

/// Waits until the rotation that was asked for is done, and all is at rest.
///
/// # Errors
/// It is not in time.
pub fn finished(cluster: &Cluster, token: &str) -> anyhow::Result<()> {
    begun(cluster, token)?;
    settled(cluster)
}

/// Waits until every replica serves one leaf, and another than before.
///
/// # Errors
/// They do not in time.
pub fn served(cluster: &Cluster, before: &[String]) -> anyhow::Result<()> {
    eventually("another leaf", PATIENCE, || {
        let now = leaves(cluster)?;
        let first = now.first().context("no replica")?;
        ensure!(now.iter().all(|leaf| leaf == first), "{now:?}");
        ensure!(!before.contains(first), "it is the old one");
        Ok(())
    })
}

/// Whether a rotation has not come to its end: kube-apiservers are told of more CAs than one.
///
/// # Errors
/// There is no caBundle.
pub fn is_under_way(cluster: &Cluster) -> anyhow::Result<bool> {
    let bundle = STANDARD.decode(install::ca_bundle(cluster)?)?;
    Ok(count_of_cas(&bundle) > 1)
}

fn count_of_cas(pem: &[u8]) -> usize {
    let text = String::from_utf8_lossy(pem);
    text.matches("BEGIN CERTIFICATE").count()
}

/// Waits until nothing is staged, one CA is believed, and each of three replicas serves the Secret's
/// leaf.
///
/// # Errors
/// It is not so in time.
pub fn settled(cluster: &Cluster) -> anyhow::Result<()> {
    eventually("all is at rest", PATIENCE, || is_settled(cluster))
}

fn is_settled(cluster: &Cluster) -> anyhow::Result<()> {
    let secret = secret(cluster)?;
    let data = at(&secret, "/data")
        .as_object()
        .context("an empty Secret")?;
    let is_staged = data.contains_key("next.crt") || data.contains_key("next.key");
    ensure!(!is_staged, "a pair is staged");
    let part = |name: &str| {
        let part = data.get(name).and_then(Value::as_str);
        let part = part.with_context(|| format!("no {name}"))?;
        anyhow::Ok(STANDARD.decode(part)?)
    };
    let text = |name| anyhow::Ok(String::from_utf8_lossy(&part(name)?).into_owned());
    let (chain, key) = (text("tls.crt")?, text("tls.key")?);
    ensure!(pki::is_key_of(&key, &chain), "tls.key is another's");
    let ca = part("ca.crt")?;
    let bundle = STANDARD.decode(install::ca_bundle(cluster)?)?;
    for (name, pem) in [("ca.crt", &ca), ("the caBundle", &bundle)] {
        let count = count_of_cas(pem);
        ensure!(count == 1, "{name} holds {count} CAs");
    }
    ensure!(bundle == ca, "the caBundle is another than ca.crt");
    let leaves = leaves(cluster)?;
    ensure!(leaves.len() == 3, "{} replicas", leaves.len());
    let all_same = leaves.iter().all(|leaf| Some(leaf) == leaves.first());
    ensure!(all_same, "{leaves:?}");
    let leaf = pki::KeyPem { chain, key }.fingerprint();
    let served = leaves.first().map(|leaf| leaf.trim());
    ensure!(served == leaf.as_deref(), "{served:?}, not {leaf:?}");
    Ok(())
}

/// Changes the Secret as an administrator would, or a tool that thinks it its own.
///
/// # Errors
/// There is none.
pub fn patch_secret(cluster: &Cluster, patch: &Value) -> anyhow::Result<()> {
    let patch = patch.to_string();
    let words = ["-n", NAMESPACE, "patch", "secret", "imageswap-tls"];
    let words = [&words[..], &["--type=merge", "-p", &patch]].concat();
    cluster.ask(&words).map(drop)
}

/// The Secret.
///
/// # Errors
/// There is none.
pub fn secret(cluster: &Cluster) -> anyhow::Result<Value> {
    cluster.get(&["-n", NAMESPACE, "secret/imageswap-tls"])
}

/// The Secret's data with this pair in place of its own.
pub fn data_of(pair: &pki::Pem) -> Value {
    json!({"data": {
        "tls.crt": STANDARD.encode(&pair.chain),
        "tls.key": STANDARD.encode(&pair.key),
        "ca.crt": STANDARD.encode(&pair.ca),
    }})
}

/// A good pair for our Service, of a CA that nobody knows.
///
/// # Errors
/// The system has no randomness.
pub fn foreign() -> anyhow::Result<pki::Pem> {
    let names = [install::HOST.to_owned()];
    let life = time::Duration::days(300);
    Ok(pki::mint(&names, life, OffsetDateTime::now_utc())?)
}
