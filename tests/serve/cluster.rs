//! In a cluster: against a small Kubernetes API in this process, found by a kubeconfig.

use std::fs;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use serde_json::json;

use crate::api::{Api, CONFIGURATION, LEASE, Mood, Person, SECRET};
use crate::client::{Client, metric};
use crate::process::{Serve, imageswap, write_kubeconfig};

pub const NAME: &str = "imageswap.ns.svc";
pub const HOOK: &str = "/webhooks/0/clientConfig/caBundle";

pub fn configuration() -> serde_json::Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {},
        "webhooks": [{
            "name": "imageswap.webhook.k8s.twr.io",
            "clientConfig": {"service": {"namespace": "ns", "name": "imageswap"}},
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }],
    })
}

/// What a person's command comes to. It is waited for on a thread on which the API does not live.
pub async fn person(api: &Api, words: &[&str]) -> Output {
    person_reading(api, words, Stdio::piped()).await
}

/// The same, of whose output nobody reads a word.
pub async fn person_unread(api: &Api, words: &[&str]) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    person_reading(api, words, writer.into()).await
}

async fn person_reading(api: &Api, words: &[&str], stdout: Stdio) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    write_kubeconfig(&kubeconfig, api.address);
    let mut command = imageswap();
    command
        .args(words)
        .args(["--namespace", "ns"])
        .env("KUBECONFIG", kubeconfig)
        // `serve` would end by it; what others would make of theirs does not hang on it.
        .env("IMAGESWAP_DRAIN_DELAY", "no time")
        .stdout(stdout);
    let done = tokio::task::spawn_blocking(move || command.output().unwrap());
    done.await.unwrap()
}

async fn ready(serve: &Serve) -> u16 {
    let answer = Client::plain(serve.admin).await.get("/readyz").await;
    answer.status.as_u16()
}

pub async fn until_ready(serve: &Serve) {
    let until = Instant::now() + Duration::from_secs(10);
    while ready(serve).await != 200 {
        assert!(Instant::now() < until, "{}", serve.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// As kube-apiserver connects: it believes the caBundle, and nothing else.
pub async fn connect(api: &Api, serve: &Serve) -> Client {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let live = api.object(CONFIGURATION).unwrap();
        let bundle = live.pointer(HOOK).and_then(|text| text.as_str());
        fs::write(
            serve.ca(),
            STANDARD.decode(bundle.unwrap_or_default()).unwrap(),
        )
        .unwrap();
        match Client::try_connect_as(serve.address, &serve.ca(), NAME).await {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < until, "{error}: {}", serve.log()),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_one_pair_that_is_trusted_and_follow_maps_to_come() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    let maps = ["--maps", "{dir}/maps"];
    let replicas = [(); 2].map(|()| Serve::start_in_cluster(api.address, &maps));
    for serve in &replicas {
        until_ready(serve).await;
        let mut client = connect(&api, serve).await;
        // No map file, no swap.
        assert_eq!(client.swap("docker.io/a/b").await, "docker.io/a/b");
        assert!(
            serve.log().contains("create the ConfigMap"),
            "{}",
            serve.log()
        );
        fs::write(serve.dir.path().join("maps"), "default::mirror.io\n").unwrap();
        serve.until_log("loaded the map file");
        assert_eq!(client.swap("docker.io/a/b").await, "mirror.io/a/b");
        assert!(metric(serve, "imageswap_certificate_trusted").await > 0.5);
    }
    let made = api.object(SECRET).unwrap();

    // Replaced by rubbish: nothing is lost, and there is a good one again.
    let mut rubbish = made.clone();
    rubbish["data"]["tls.key"] = json!("cnViYmlzaA==");
    api.put(SECRET, rubbish.clone());
    let until = Instant::now() + Duration::from_secs(10);
    while api.object(SECRET).unwrap()["data"]["tls.key"] == rubbish["data"]["tls.key"] {
        connect(&api, &replicas[0]).await;
        assert!(Instant::now() < until, "{}", replicas[0].log());
    }
    for serve in &replicas {
        connect(&api, serve).await;
    }
    assert!(api.nameless().is_empty(), "{:?}", api.nameless());

    // The API is gone: reviews are answered, and a stop is no slower.
    api.set_mood(Mood::Hanging);
    for mut serve in replicas {
        let mut client = connect(&api, &serve).await;
        assert_eq!(client.swap("docker.io/a/b").await, "mirror.io/a/b");
        serve.signal(Signal::INT);
        let status = serve.wait(Duration::from_secs(8));
        assert!(status.success(), "{status}: {}", serve.log());
        // The greeting is for people.
        assert_eq!(serve.rest_of_stdout(), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_gives_the_lease_up_while_still_serving() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    let mut serve = Serve::start_in_cluster(api.address, &["--drain-delay", "2s"]);
    until_ready(&serve).await;
    connect(&api, &serve).await;
    assert!(metric(&serve, "imageswap_leader").await > 0.5);
    assert!(
        metric(
            &serve,
            "imageswap_rotation_steps_total{result=\"ok\",step=\"bootstrap\"}"
        )
        .await
            > 0.5
    );
    serve.signal(Signal::TERM);
    serve.until_log("gave the lease up");
    assert_eq!(api.object(LEASE).unwrap()["spec"]["holderIdentity"], "");
    assert_eq!(ready(&serve).await, 503);
    connect(&api, &serve).await;
    assert!(serve.wait(Duration::from_secs(6)).success());
}

/// As one that serves files, and has no use for the Secret.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_makes_no_certificate_is_not_waited_for_for_ever() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    // Renewed for ever: it never expires.
    let lease = json!({"metadata": {}, "spec": {
        "holderIdentity": "somebody",
        "leaseDurationSeconds": 3600,
        "acquireTime": "2100-01-01T00:00:00.000000Z",
        "renewTime": "2100-01-01T00:00:00.000000Z",
        "leaseTransitions": 0,
    }});
    api.put(LEASE, lease.clone());
    let serve = Serve::start_in_cluster(api.address, &["--lease-time", "3s"]);
    let lead = api.clone();
    let holding = tokio::spawn(async move {
        for second in 0.. {
            let mut held = lease.clone();
            held["spec"]["renewTime"] =
                json!(format!("2100-01-01T00:00:{:02}.000000Z", second % 60));
            lead.put(LEASE, held);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    until_ready(&serve).await;
    connect(&api, &serve).await;
    assert!(metric(&serve, "imageswap_leader").await < 0.5);
    assert!(serve.log().contains("working on it without leading"));
    holding.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_api_it_lives_is_not_ready_and_stops_when_told() {
    let api = Api::start().await;
    api.set_mood(Mood::Forbidding);
    let mut serve = Serve::start_in_cluster(api.address, &[]);
    serve.until_log("the Role does not allow it; apply deploy/");
    assert_eq!(ready(&serve).await, 503);
    let live = Client::plain(serve.admin).await.get("/livez").await;
    assert_eq!(live.status, 200);
    let told = Instant::now();
    serve.signal(Signal::TERM);
    assert!(serve.wait(Duration::from_secs(5)).success());
    assert!(
        told.elapsed() < Duration::from_secs(2),
        "{:?}",
        told.elapsed()
    );
}

/// Waits for an Event, and says what it says.
async fn told(api: &Api, serve: &Serve, reason: &str) -> String {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(event) = api.events(reason).first() {
            return event["note"].as_str().unwrap().to_owned();
        }
        assert!(Instant::now() < until, "no {reason}: {}", serve.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_are_told_by_events_and_without_the_right_to_write_them_it_serves_on() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    api.set_mood(Mood::ForbiddingEvents);
    let serve = Serve::start_in_cluster(api.address, &["--maps", "{dir}/maps"]);
    let maps = |text: &str| fs::write(serve.dir.path().join("maps"), text).unwrap();
    until_ready(&serve).await;
    // That there is a certificate can't be told, nor that a line is in error.
    serve.until_log("can't write an Event; serving on");
    maps("default::mirror.io\n: :\n");
    serve.until_log("loaded the map file");
    let mut client = connect(&api, &serve).await;
    assert_eq!(client.swap("docker.io/a/b").await, "mirror.io/a/b");

    api.set_mood(Mood::Fine);
    maps("default::mirror.io\n\n: : :\n");
    let note = told(&api, &serve, "MapsInError").await;
    assert!(
        note.contains("1 line ") && note.contains("line 3"),
        "{note}"
    );
    assert_eq!(serve.log().matches("can't write an Event").count(), 1);
    maps(": :\n");
    let note = told(&api, &serve, "MapsRefused").await;
    assert!(note.contains("the rules in use stay"), "{note}");

    // Somebody overwrites the caBundle: the Event names who.
    let mut live = api.object(CONFIGURATION).unwrap();
    live["webhooks"][0]["clientConfig"]["caBundle"] = json!("");
    api.put(CONFIGURATION, live);
    let note = told(&api, &serve, "TrustRepaired").await;
    assert!(note.contains("last written by someone"), "{note}");
    assert_eq!(client.swap("docker.io/a/b").await, "mirror.io/a/b");

    // A Secret that is brought and can't be served.
    let mut secret = api.object(SECRET).unwrap();
    secret["metadata"]["annotations"] = json!({"imageswap-byoc": "yes"});
    secret["data"]["tls.key"] = json!("cnViYmlzaA==");
    api.put(SECRET, secret);
    let note = told(&api, &serve, "CertificateRefused").await;
    assert!(note.contains("can't be served"), "{note}");
}

#[test]
fn where_there_is_no_cluster_it_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let pod = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    let nothing = ("NOTHING", "");
    // As in `deploy/`.
    let no_kubeconfig = ("KUBECONFIG", "");
    for (wish, env, part) in [
        ("on", [nothing; 2], "set KUBECONFIG"),
        ("on", [no_kubeconfig; 2], "set KUBECONFIG"),
        ("auto", [pod; 2], "automountServiceAccountToken"),
        ("on", [pod; 2], "automountServiceAccountToken"),
        ("on", [pod, no_kubeconfig], "automountServiceAccountToken"),
    ] {
        let output = imageswap()
            .args(["serve", "--cluster", wish])
            // Somebody may run one on the usual ports.
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env_remove("KUBECONFIG")
            .env("HOME", dir.path())
            .envs(env)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(part), "{text}");
    }
}

/// Whoever may write the ConfigMaps could have the replicas' token sent anywhere by one.
#[tokio::test(flavor = "multi_thread")]
async fn no_config_map_names_a_kubeconfig() {
    let manifest = include_str!("../../deploy/install.yaml");
    let empty = "        - name: KUBECONFIG\n          value: \"\"\n        envFrom:\n";
    assert!(manifest.contains(empty));

    // kube, too, takes that for none.
    let api = Api::start().await;
    api.set_person(Person::default());
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(".kube")).unwrap();
    write_kubeconfig(&dir.path().join(".kube/config"), api.address);
    let mut command = imageswap();
    command
        .args(["status", "--pre", "--namespace", "ns", "-o", "json"])
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env("HOME", dir.path())
        .env("KUBECONFIG", "");
    let done = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = done.await.unwrap();
    assert!(!output.stdout.is_empty(), "{output:?}");
    assert!(!api.calls().is_empty());
}
