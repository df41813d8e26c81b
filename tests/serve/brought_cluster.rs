//! A certificate that is brought, in a cluster: in files, or in the Secret as 1.5.3 has it. Nothing
//! is minted; the caBundle is kept right, or watched.

use std::fs;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use imageswap::pki::Pem;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::{Api, CA_SECRET, CONFIGURATION, LEASE, SECRET};
use crate::client::{Client, metric};
use crate::cluster::{HOOK, NAME, configuration, connect, until_ready};
use crate::pem::{ended, mixed, mount, pair, pair_for, rename, write};
use crate::process::{Serve, imageswap};

/// Waits until something is so.
async fn until(serve: &Serve, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    // What is renewed has 12 s to be seen.
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so().await {
        assert!(Instant::now() < end, "no {what}: {}", serve.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn bundle(api: &Api) -> String {
    let live = api.object(CONFIGURATION).unwrap();
    let bundle = live.pointer(HOOK).and_then(|text| text.as_str());
    String::from_utf8(STANDARD.decode(bundle.unwrap_or_default()).unwrap()).unwrap()
}

/// As somebody else writes it.
fn inject(api: &Api, ca: &str) {
    let mut live = api.object(CONFIGURATION).unwrap();
    live["webhooks"][0]["clientConfig"]["caBundle"] = json!(STANDARD.encode(ca));
    api.put(CONFIGURATION, live);
}

/// Whether what is served leads to this pair's CA.
async fn serves(serve: &Serve, pem: &Pem) -> bool {
    let ca = serve.dir.path().join("believed");
    fs::write(&ca, &pem.ca).unwrap();
    let connected = Client::try_connect_as(serve.address, &ca, NAME).await;
    connected.is_ok()
}

async fn is_trusted(serve: &Serve) -> bool {
    metric(serve, "imageswap_certificate_trusted").await > 0.5
}

async fn failed(serve: &Serve) -> f64 {
    metric(
        serve,
        "imageswap_certificate_reloads_total{result=\"failed\"}",
    )
    .await
}

/// With the files of this directory.
fn start(api: &Api, files: &TempDir, with_ca: bool) -> Serve {
    let at = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let (cert, key, ca) = (at("tls.crt"), at("tls.key"), at("ca.crt"));
    let mut args = vec![
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--trust-delay",
        "0s",
    ];
    if with_ca {
        args.extend(["--tls-ca", &ca]);
    }
    Serve::start_in_cluster(api.address, &args)
}

/// The Secret was not so much as read.
fn assert_untouched(api: &Api) {
    let calls = api.calls();
    assert!(
        !calls.iter().any(|call| call.contains("secrets")),
        "{calls:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_with_a_ca_are_trusted_and_the_secret_is_left_alone() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    let files = tempfile::tempdir().unwrap();
    let (one, two) = (pair(), pair());
    mount(files.path(), "..1", &one);
    let replicas = [(); 2].map(|()| start(&api, &files, true));
    for serve in &replicas {
        until_ready(serve).await;
        connect(&api, serve).await;
        until(serve, "trust", async || is_trusted(serve).await).await;
    }
    // Another CA: it is believed before the leaf is served, and the old one stays believed.
    mount(files.path(), "..2", &two);
    for serve in &replicas {
        until(serve, "new leaf", async || {
            connect(&api, serve).await;
            serves(serve, &two).await
        })
        .await;
        assert!(is_trusted(serve).await);
        assert_eq!(failed(serve).await, 0.0);
    }
    assert!(bundle(&api).contains(one.ca.trim()) && bundle(&api).contains(two.ca.trim()));

    // Emptied by somebody, and repaired.
    inject(&api, "");
    until(&replicas[0], "repair", async || {
        bundle(&api).contains(two.ca.trim())
    })
    .await;

    // A leaf for something else changes nothing, and is said with what to do.
    let good = bundle(&api);
    write(files.path(), &pair_for(&["else.svc"], 9));
    for serve in &replicas {
        serve.until_log("not valid for imageswap.ns.svc; correct the files");
        assert!(serves(serve, &two).await);
        assert_eq!(failed(serve).await, 1.0);
    }
    // That its CA is believed, too, takes nothing away.
    assert!(bundle(&api).contains(good.trim()));

    // Files that can't be read at all are shown as well, for as long as that is so.
    let key = files.path().join("tls.key");
    let refused = async |is: f64| {
        for serve in &replicas {
            let refused = async || metric(serve, "imageswap_certificate_refused").await;
            until(serve, "such a gauge", async || {
                (refused().await - is).abs() < 0.5
            })
            .await;
            assert!(serves(serve, &two).await);
        }
    };
    refused(1.0).await;
    write(files.path(), &two);
    refused(0.0).await;
    fs::rename(&key, files.path().join("away")).unwrap();
    refused(1.0).await;
    fs::rename(files.path().join("away"), &key).unwrap();
    refused(0.0).await;
    assert_untouched(&api);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_without_a_ca_leave_the_ca_bundle_to_its_injector_and_tell_of_distrust() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    let files = tempfile::tempdir().unwrap();
    let (one, two) = (pair(), pair());
    write(files.path(), &one);
    let serve = start(&api, &files, false);
    until_ready(&serve).await;
    serve.until_log("let cert-manager do so");
    assert!(serves(&serve, &one).await && !is_trusted(&serve).await);
    inject(&api, &one.ca);
    until(&serve, "trust", async || is_trusted(&serve).await).await;

    // Not before the caBundle believes it.
    rename(files.path(), &two);
    serve.until_log("not trusted everywhere yet");
    assert!(serves(&serve, &one).await && is_trusted(&serve).await);
    inject(&api, &two.ca);
    until(&serve, "new leaf", async || serves(&serve, &two).await).await;
    until(&serve, "trust", async || is_trusted(&serve).await).await;

    // Distrust is told of, and left alone.
    inject(&api, &one.ca);
    until(&serve, "distrust", async || !is_trusted(&serve).await).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(bundle(&api), one.ca);
    until(&serve, "leader", async || api.object(LEASE).is_some()).await;
    let calls = api.calls();
    let is_write = |call: &&String| call.starts_with("PATCH") && call.contains("webhook");
    assert_eq!(calls.iter().find(is_write), None);
    assert_untouched(&api);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_served_while_the_api_is_out_of_reach() {
    let api = Api::start().await;
    api.set_mood(crate::api::Mood::Forbidding);
    let files = tempfile::tempdir().unwrap();
    let (one, two) = (pair(), pair());
    write(files.path(), &one);
    let replicas = [true, false].map(|with_ca| start(&api, &files, with_ca));
    for serve in &replicas {
        until_ready(serve).await;
        assert!(serves(serve, &one).await);
    }
    // Renewed: where the caBundle is ours, it may not hold the new CA.
    rename(files.path(), &two);
    let [with_ca, alone] = replicas;
    until(&alone, "new leaf", async || serves(&alone, &two).await).await;
    with_ca.until_log("a new certificate may not be trusted");
    assert!(serves(&with_ca, &one).await);
}

#[test]
fn in_a_cluster_the_services_name_is_required_at_the_start() {
    let files = tempfile::tempdir().unwrap();
    write(files.path(), &pair_for(&["else.svc"], 9));
    fs::write(files.path().join("kubeconfig"), "{}").unwrap();
    let at = |name: &str| files.path().join(name);
    let output = imageswap()
        .args(["serve", "--cluster", "on", "--namespace", "ns"])
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .env("KUBECONFIG", at("kubeconfig"))
        .env("IMAGESWAP_TLS_CERT", at("tls.crt"))
        .env("IMAGESWAP_TLS_KEY", at("tls.key"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("not valid for imageswap.ns.svc; correct the files"),
        "{text}"
    );
}

// === as 1.5.3 has it ===

fn data(parts: &[(&str, &str)]) -> Value {
    let encoded = parts
        .iter()
        .map(|(name, text)| ((*name).to_owned(), json!(STANDARD.encode(text))));
    Value::Object(encoded.collect())
}

/// `kind` is a type and a pair of keys.
fn secret(pem: &Pem, kind: (&str, &str, &str)) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"annotations": {"imageswap-byoc": ""}},
        "type": kind.0,
        "data": data(&[(kind.1, &pem.chain), (kind.2, &pem.key)]),
    })
}

fn ca_secret(pem: &Pem) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {},
        "type": "Opaque",
        "data": data(&[("rootca.pem", &pem.ca)]),
    })
}

const OURS: (&str, &str, &str) = ("kubernetes.io/tls", "tls.crt", "tls.key");
const THEIRS: (&str, &str, &str) = ("Opaque", "cert.pem", "key.pem");

/// No Secret was written by ImageSwap.
fn assert_not_written(api: &Api) {
    let calls = api.calls();
    let is_write = |call: &&String| !call.starts_with("GET") && call.contains("secrets");
    assert_eq!(calls.iter().find(is_write), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_annotated_secret_is_served_trusted_and_never_replaced() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    let (one, two, three) = (pair(), pair(), pair());
    api.put(SECRET, secret(&one, THEIRS));
    api.put(CA_SECRET, ca_secret(&one));
    let serve = Serve::start_in_cluster(api.address, &["--trust-delay", "0s"]);
    until_ready(&serve).await;
    connect(&api, &serve).await;
    assert!(serves(&serve, &one).await);
    until(&serve, "trust", async || is_trusted(&serve).await).await;

    // The CA first, then the pair; in between nothing fits, and nothing changes.
    api.put(CA_SECRET, ca_secret(&two));
    serve.until_log("correct tls.crt and tls.key in imageswap-tls, and rootca.pem");
    assert!(serves(&serve, &one).await && is_trusted(&serve).await);
    api.put(SECRET, secret(&two, OURS));
    until(&serve, "new leaf", async || {
        connect(&api, &serve).await;
        serves(&serve, &two).await
    })
    .await;

    // Whatever is wrong with it is said, and stays as it is.
    for (pem, part) in [
        (ended(), " ended at "),
        (mixed(&two, &one), "tls.key is not the key"),
        (pair_for(&["else.svc"], 9), "not valid for imageswap.ns.svc"),
    ] {
        api.put(SECRET, secret(&pem, OURS));
        api.put(CA_SECRET, ca_secret(&pem));
        serve.until_log(part);
        assert!(serves(&serve, &two).await && is_trusted(&serve).await);
    }
    api.delete(CA_SECRET);
    serve.until_log("ca.crt holds no certificate");
    assert_not_written(&api);

    // The pair was right all the time, but for its CA: that one is watched, too.
    api.put(SECRET, secret(&three, OURS));
    api.put(CA_SECRET, ca_secret(&three));
    until(&serve, "new leaf", async || {
        connect(&api, &serve).await;
        serves(&serve, &three).await
    })
    .await;

    // Without the annotation, it is ours again.
    let mut ours = api.object(SECRET).unwrap();
    ours["metadata"]["annotations"] = json!({});
    api.put(SECRET, ours);
    until(&serve, "a pair of our own", async || {
        connect(&api, &serve).await;
        !serves(&serve, &three).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_ours_does_not_ask_for_the_other() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    let serve = Serve::start_in_cluster(api.address, &[]);
    until_ready(&serve).await;
    connect(&api, &serve).await;
    // It is only watched.
    let read = format!("GET {CA_SECRET}");
    assert!(!api.calls().contains(&read));
}
