//! Against a small Kubernetes API in this process.

mod api;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use k8s_openapi::ByteString;
use kube::Config;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};

use self::api::{Api, CONFIGURATION, DEPLOYMENT, LEASE, Mood, Person, SECRET};
use super::lease::Election;
use super::*;
use crate::cluster::claim::Claim;
use crate::cluster::{Look, Seen};
use crate::pki::{self, Pem};
use crate::rotation::belief::Belief;
use crate::rotation::clock::{Clock, Moment};
use crate::rotation::driver::{Driver, Memory};
use crate::rotation::plan::{OLDEST, Policy, SETTLED};
use crate::rotation::write::Change;
use crate::status::Scale;
use crate::telemetry::notices::{self, Notices, Reason};

fn names() -> Names {
    Names {
        namespace: "ns".to_owned(),
        service: "imageswap".to_owned(),
        secret: "imageswap-tls".to_owned(),
        configuration: "imageswap-webhook".to_owned(),
        lease: "imageswap-leader".to_owned(),
    }
}

fn cluster(api: &Api, nonce: u64) -> Kubernetes {
    cluster_by(&Clock::system(), api, nonce)
}

fn cluster_by(clock: &Clock, api: &Api, nonce: u64) -> Kubernetes {
    let config = Config::new(format!("http://{}", api.address).parse().unwrap());
    let metrics = Metrics::new().unwrap();
    Kubernetes::with(config, names(), identity("pod", nonce), metrics, clock).unwrap()
}

/// For it, time has not begun to pass.
fn at_the_epoch() -> Clock {
    Clock::of(|| Moment {
        wall: OffsetDateTime::UNIX_EPOCH,
        is_told: false,
        steady: Duration::ZERO,
    })
}

fn driver(store: Kubernetes) -> Driver<Kubernetes> {
    Driver {
        believed: watch::channel(Belief::default()).1,
        metrics: store.metrics.clone(),
        notices: Notices::default(),
        policy: Policy {
            names: names().leaf(),
            required: vec![names().host()],
            life: time::Duration::days(1),
            renew_before: time::Duration::hours(12),
            trust_delay: Duration::from_secs(60),
            writes_bundles: true,
            settled: SETTLED,
            shown: SETTLED,
            oldest: OLDEST,
        },
        served: watch::channel(None).1,
        clock: Clock::system(),
        store,
    }
}

fn pair() -> Pem {
    let life = time::Duration::days(1);
    pki::mint(&names().leaf(), life, OffsetDateTime::now_utc()).unwrap()
}

/// Theirs, ours, and one that calls a URL.
fn configuration() -> Value {
    let service = |namespace: &str| json!({"namespace": namespace, "name": "imageswap"});
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {},
        "webhooks": [
            hook("theirs", json!({"service": service("elsewhere"), "caBundle": "dGhlaXJz"})),
            hook("ours", json!({"service": service("ns")})),
            hook("url", json!({"url": "https://example.com"})),
        ],
    })
}

fn hook(name: &str, client: Value) -> Value {
    json!({
        "name": name,
        "clientConfig": client,
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "failurePolicy": "Ignore",
    })
}

async fn settle(driver: &Driver<Kubernetes>) {
    let mut memory = Memory::default();
    for _ in 0..9 {
        if driver.step(&mut memory).await.unwrap().is_some() {
            return;
        }
    }
    panic!("no end of steps");
}

/// Waits until something is so.
async fn until(within: Duration, what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    since.elapsed()
}

#[test]
fn identities_differ_and_are_short() {
    assert_eq!(identity("pod-1", 255), "imageswap-pod-1-00000000000000ff");
    let long = identity(&"ü x".repeat(300), 1);
    assert!(long.len() <= 128 && long.is_ascii(), "{long}");
}

#[tokio::test]
async fn from_nothing_to_a_trusted_pair_touching_only_what_is_ours() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    let driver = driver(cluster(&api, 1));
    settle(&driver).await;
    let secret = api.object(SECRET).unwrap();
    assert_eq!(secret["type"], "kubernetes.io/tls");
    let live = api.object(CONFIGURATION).unwrap();
    let bundle = &live["webhooks"][1]["clientConfig"]["caBundle"];
    assert_eq!(*bundle, secret["data"]["ca.crt"]);
    // All the rest is as it was.
    let mut expected = configuration();
    expected["webhooks"][1]["clientConfig"]["caBundle"] = bundle.clone();
    assert_eq!(live["webhooks"], expected["webhooks"]);
    let (pem, now) = (
        driver.store.secret().await.unwrap().unwrap().pem(),
        OffsetDateTime::now_utc(),
    );
    pki::judge(&pem, &names().leaf(), now).unwrap();
    // Nothing without a name.
    assert!(api.nameless().is_empty(), "{:?}", api.nameless());
    assert_eq!(
        driver
            .metrics
            .cluster_errors
            .with_label_values(&["secret"])
            .get(),
        0
    );
}

#[tokio::test]
async fn of_two_who_create_the_secret_one_adopts_the_others() {
    let api = Api::start().await;
    let (one, two) = (cluster(&api, 1), cluster(&api, 2));
    one.apply(&Write::Create(pair())).await.unwrap();
    let made = api.object(SECRET);
    let late = two.apply(&Write::Create(pair())).await;
    assert!(matches!(late, Err(Failure::Conflict(_))), "{late:?}");
    settle(&driver(two)).await;
    assert_eq!(api.object(SECRET), made);
}

#[tokio::test]
async fn a_secret_of_1_5_3_gets_a_pair_and_keeps_the_rest() {
    let api = Api::start().await;
    let theirs = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"labels": {"a": "b"}},
        "data": {"cert.pem": "eA==", "key.pem": "eQ=="},
    });
    api.put(SECRET, theirs);
    let driver = driver(cluster(&api, 1));
    settle(&driver).await;
    let now = api.object(SECRET).unwrap();
    assert_eq!(
        (&now["type"], &now["data"]["key.pem"]),
        (&json!("Opaque"), &json!("eQ=="))
    );
    assert_eq!(now["metadata"]["labels"]["a"], "b");
    assert!(now["data"]["tls.crt"].is_string());
    // What was planned on another version is not written.
    let (version, change) = ("1".to_owned(), Change::default());
    let write = Write::Change { version, change };
    let late = driver.store.apply(&write).await;
    assert!(matches!(late, Err(Failure::Conflict(_))), "{late:?}");
    assert_eq!(api.object(SECRET).unwrap(), now);
}

#[tokio::test]
async fn a_configuration_that_changed_or_is_gone_is_not_patched() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    let cluster = cluster(&api, 1);
    let seen = cluster.observe().await.unwrap().configuration.unwrap();
    let trust = |version: &str, name: &str| Write::Bundles {
        version: version.to_owned(),
        hooks: seen
            .hooks
            .iter()
            .map(|hook| crate::rotation::state::Hook {
                name: name.to_owned(),
                ..hook.clone()
            })
            .collect(),
    };
    api.put(CONFIGURATION, configuration());
    let now = cluster.observe().await.unwrap().configuration.unwrap();
    let before = api.object(CONFIGURATION);
    for (version, name) in [(&seen.version, "ours"), (&now.version, "theirs")] {
        let late = cluster.apply(&trust(version, name)).await;
        assert!(matches!(late, Err(Failure::Conflict(_))), "{late:?}");
        assert_eq!(api.object(CONFIGURATION), before);
    }
    cluster.apply(&trust(&now.version, "ours")).await.unwrap();
    // Who was second has not failed, but who is denied it has.
    let errors = cluster.metrics.cluster_errors.clone();
    let errors = errors.with_label_values(&["webhook configuration"]);
    assert_eq!(errors.get(), 0);
    let now = cluster.observe().await.unwrap().configuration.unwrap();
    api.set_mood(Mood::DenyingBundles);
    let denied = cluster.apply(&trust(&now.version, "ours")).await;
    assert!(matches!(denied, Err(Failure::Failed(_))), "{denied:?}");
    assert_eq!(errors.get(), 1);
    api.set_mood(Mood::Fine);
    api.delete(CONFIGURATION);
    let late = cluster.apply(&trust(&now.version, "ours")).await;
    assert!(matches!(late, Err(Failure::Conflict(_))), "{late:?}");
    settle(&driver(cluster)).await;
    assert_eq!(api.object(CONFIGURATION), None);
}

/// A quota that is used up is no fault of the Role's.
#[test]
fn of_what_is_forbidden_only_what_the_role_does_not_allow_is_its_fault() {
    for (said, is_the_roles) in [
        (
            r#"secrets "imageswap-tls" is forbidden: User "a" cannot get resource "secrets""#,
            true,
        ),
        (
            r#"secrets "imageswap-tls" is forbidden: exceeded quota: few, requested: secrets=1"#,
            false,
        ),
    ] {
        let status = kube::core::Status::failure(said, "Forbidden").with_code(403);
        let refused = Refused::new("Secret", &kube::Error::Api(status.boxed()));
        assert_eq!(
            refused.text.contains("the Role"),
            is_the_roles,
            "{}",
            refused.text
        );
        assert!(refused.text.contains(said) && refused.code == 403);
    }
}

#[tokio::test]
async fn an_api_that_hangs_or_forbids_is_an_error_in_time_that_says_so() {
    let api = Api::start().await;
    let mut cluster = cluster(&api, 1);
    cluster.deadline = Duration::from_millis(50);
    for (mood, part) in [
        (Mood::Hanging, "no answer within"),
        (
            Mood::Forbidding,
            "the Role does not allow it; apply deploy/",
        ),
    ] {
        api.set_mood(mood);
        let failed = cluster.observe().await.unwrap_err().to_string();
        assert!(failed.contains(part), "{failed}");
    }
    let errors = cluster
        .metrics
        .cluster_errors
        .with_label_values(&["webhook configuration"]);
    assert_eq!(errors.get(), 2);
}

/// As of something in front of the API that answers all with `{}`.
#[tokio::test]
async fn what_has_no_version_or_another_name_is_not_taken_for_an_empty_object() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    let cluster = cluster(&api, 1);
    let named =
        |name: &str, version: &str| json!({"metadata": {"name": name, "resourceVersion": version}});
    for (path, name) in [
        (SECRET, "imageswap-tls"),
        (CONFIGURATION, "imageswap-webhook"),
    ] {
        for other in [
            json!({}),
            named(name, ""),
            named("another", "7"),
            json!({"metadata": {"name": name}}),
        ] {
            api.put_as_is(path, other.clone());
            let failed = cluster.observe().await.unwrap_err();
            assert!(matches!(failed, Failure::Failed(_)), "{other}: {failed}");
            assert!(failed.to_string().contains(name), "{other}: {failed}");
        }
        api.delete(path);
        cluster.observe().await.unwrap();
    }
}

#[tokio::test]
async fn nobody_acts_by_a_date_that_is_far_off_and_none_is_heard_of_a_refusal() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    // Its answers are of today.
    let clock = at_the_epoch();
    let cluster = cluster_by(&clock, &api, 1);
    api.set_mood(Mood::Forbidding);
    cluster.observe().await.unwrap_err();
    assert!(!clock.now().is_told);
    api.set_mood(Mood::Fine);
    let look = Look::at(&cluster, &clock).await.unwrap_err().to_string();
    assert!(
        look.contains("by this machine's clock it is 1970-01-01"),
        "{look}"
    );
    let driver = Driver {
        clock: clock.clone(),
        ..driver(cluster)
    };
    let step = driver.step(&mut Memory::default()).await.unwrap_err();
    assert_eq!(step.to_string(), look);
    assert!(api.object(SECRET).is_none());
    // A command that looks once goes by it.
    assert!(clock.now().is_told);
}

#[tokio::test]
async fn while_kube_apiservers_disagree_about_the_date_no_pair_is_made() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    // One of them said so just now; the other's answers are of today.
    let clock = at_the_epoch();
    clock.hear(OffsetDateTime::UNIX_EPOCH);
    let cluster = cluster_by(&clock, &api, 1);
    Look::at(&cluster, &clock).await.unwrap();
    let driver = Driver {
        clock: clock.clone(),
        ..driver(cluster)
    };
    let step = driver.step(&mut Memory::default()).await.unwrap_err();
    assert!(step.to_string().contains("control planes"), "{step}");
    assert!(api.object(SECRET).is_none());
}

#[tokio::test]
async fn what_changes_is_seen_soon_by_watches_that_a_role_can_name() {
    let api = Api::start().await;
    let cluster = cluster(&api, 1);
    let (sender, mut seen) = watch::channel(None);
    let leader = Arc::new(Notify::new());
    let wake = leader.clone();
    let watching = tokio::spawn(async move {
        cluster
            .watch(&sender, &wake, &Notify::new(), &Clock::system())
            .await
    });
    // Less than the time after which all is looked at in any case.
    let soon = Duration::from_secs(10);
    let mut see = async |wanted: &dyn Fn(&Observed) -> bool| {
        let is_so = |seen: &Seen| seen.as_ref().is_some_and(|look| wanted(&look.observed));
        let found = tokio::time::timeout(soon, seen.wait_for(is_so)).await;
        drop(found.expect("not seen in time").unwrap());
    };
    see(&|seen| seen.secret.is_none()).await;
    // The watches have begun.
    tokio::time::sleep(Duration::from_millis(200)).await;
    leader.notified().await;
    api.put(CONFIGURATION, configuration());
    see(&|seen| seen.hooks().len() == 1).await;
    let pem = pair();
    let data = |text: &str| serde_json::to_value(ByteString(text.as_bytes().to_vec())).unwrap();
    api.put(SECRET, json!({"data": {"tls.crt": data(&pem.chain)}}));
    let chain = Some(pem.chain.into_bytes());
    see(&|seen| {
        seen.secret
            .as_ref()
            .is_some_and(|secret| secret.chain == chain)
    })
    .await;
    api.delete(SECRET);
    see(&|seen| seen.secret.is_none()).await;
    tokio::time::timeout(soon, leader.notified()).await.unwrap();
    assert!(!watching.is_finished());
}

/// One refusal is one failure, however many lines it has.
#[tokio::test]
async fn a_watch_that_was_refused_for_a_moment_is_soon_there_again() {
    let api = Api::start().await;
    api.set_mood(Mood::ForbiddingWatches);
    let cluster = cluster(&api, 1);
    let (sender, mut seen) = watch::channel(None);
    tokio::spawn(async move {
        let (leader, changed) = (Notify::new(), Notify::new());
        cluster
            .watch(&sender, &leader, &changed, &Clock::system())
            .await
    });
    let refused =
        |call: &String| call.starts_with("GET") && call.ends_with("webhookconfigurations");
    while api.calls().iter().filter(|call| refused(call)).count() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    api.set_mood(Mood::Fine);
    // Longer than the pause after a failure or two.
    tokio::time::sleep(Duration::from_secs(3)).await;
    api.put(CONFIGURATION, configuration());
    let is_seen = |seen: &Seen| {
        let look = seen.as_ref();
        look.is_some_and(|look| look.observed.hooks().len() == 1)
    };
    let soon = tokio::time::timeout(Duration::from_secs(3), seen.wait_for(is_seen)).await;
    drop(soon.expect("not seen in time").unwrap());
}

// === Events ===

/// A replica that makes Events of what is handed in.
fn teller(api: &Api, nonce: u64) -> Notices {
    let (notices, inbox) = notices::channel();
    let cluster = cluster(api, nonce);
    tokio::spawn(async move { cluster.tell(&inbox).await });
    notices
}

#[tokio::test]
async fn replicas_that_say_the_same_make_one_event_of_the_deployment_and_no_flood() {
    let api = Api::start().await;
    api.put(DEPLOYMENT, json!({"metadata": {"uid": "its-uid"}}));
    let replicas = [teller(&api, 1), teller(&api, 2)];
    let soon = Duration::from_secs(5);
    let event = || {
        api.events("MapsInError")
            .first()
            .cloned()
            .unwrap_or_default()
    };
    replicas[0].tell(Reason::MapsInError, "line 7".to_owned());
    until(soon, "an Event", || !event().is_null()).await;
    assert_eq!(event()["type"], "Warning");
    assert_eq!(event()["note"], "line 7");
    assert_eq!(event()["reportingInstance"], identity("pod", 1));
    assert_eq!(event()["regarding"]["kind"], "Deployment");
    assert_eq!(event()["regarding"]["uid"], "its-uid");
    replicas[1].tell(Reason::MapsInError, "line 7".to_owned());
    until(soon, "two", || event()["series"]["count"] == 2).await;
    assert_eq!(api.events("MapsInError").len(), 1);

    // Of many more only some are told, and all of those that are told already are counted.
    for n in 0..9 {
        replicas[1].tell(Reason::MapsInError, format!("line {}", n % 3));
    }
    replicas[1].tell(Reason::MapsRefused, "é".repeat(2000));
    until(soon, "the last", || !api.events("MapsRefused").is_empty()).await;
    let notes: Vec<_> = api
        .events("MapsInError")
        .iter()
        .map(|event| event["note"].clone())
        .collect();
    assert_eq!(notes.len(), 3, "{notes:?}");
    let note = api.events("MapsRefused")[0]["note"].clone();
    assert!(
        note.as_str().unwrap().len() <= 1024,
        "longer than Kubernetes takes"
    );
}

#[tokio::test]
async fn who_overwrote_the_ca_bundle_is_told_and_a_changed_secret_is_nobodys_fault() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    let (notices, inbox) = notices::channel();
    // Long between two looks, so that no repair waits for the one before.
    let minutes = Arc::new(AtomicU64::new(0));
    let passed = Arc::clone(&minutes);
    let clock = Clock::of(move || Moment {
        is_told: false,
        wall: OffsetDateTime::now_utc(),
        steady: Duration::from_secs(60 * passed.load(Ordering::Relaxed)),
    });
    let driver = Driver {
        notices,
        clock,
        ..driver(cluster(&api, 1))
    };
    let (mut memory, mut told) = (Memory::default(), Vec::new());
    let foreign = pair();
    for round in 0..3 {
        if round == 1 {
            let mut live = api.object(CONFIGURATION).unwrap();
            live["webhooks"][1]["clientConfig"]["caBundle"] = json!("");
            api.put(CONFIGURATION, live);
        } else if round == 2 {
            let mut secret = api.object(SECRET).unwrap();
            secret["data"] = serde_json::to_value(secret::data(&foreign)).unwrap();
            api.put(SECRET, secret);
        }
        // In the end it wants to look at endpoints, which there are none of.
        while let Ok(None) = driver.step(&mut memory).await {
            minutes.fetch_add(1, Ordering::Relaxed);
        }
        while let Some(notice) = inbox.next().now_or_never() {
            told.push(notice);
        }
    }
    let reasons: Vec<_> = told.iter().map(|notice| notice.reason).collect();
    assert_eq!(
        reasons,
        [Reason::CertificateCreated, Reason::TrustRepaired],
        "{told:?}"
    );
    assert!(
        told[1].note.contains("ours (last written by someone)"),
        "{told:?}"
    );
    let repairs = &driver.metrics.bundle_repairs;
    assert_eq!(repairs.with_label_values(&["someone"]).get(), 1);
    let live = api.object(CONFIGURATION).unwrap();
    let bundle = live["webhooks"][1]["clientConfig"]["caBundle"].to_string();
    let secret = api.object(SECRET).unwrap()["data"]["ca.crt"].to_string();
    assert!(
        bundle.len() > secret.len(),
        "the new CA is not believed: {bundle}"
    );
}

// === what there is to see ===

#[tokio::test]
async fn a_survey_tells_how_many_replicas_are_wanted_and_whether_the_webhook_fails_open() {
    let api = Api::start().await;
    let survey = || async { cluster(&api, 1).survey(Reach::Forwarded).await.unwrap() };
    let fails_open = |facts: &crate::status::Facts| {
        let hooks = facts.observed.hooks().iter();
        hooks.map(|hook| hook.fails_open).collect::<Vec<_>>()
    };
    let scale = |wanted, available| {
        let names_files = false;
        Ok(Some(Scale {
            wanted,
            available,
            names_files,
        }))
    };
    api.put(CONFIGURATION, configuration());
    let facts = survey().await;
    assert_eq!(
        (facts.scale.clone(), fails_open(&facts)),
        (Ok(None), vec![true])
    );
    let mut closed = configuration();
    for (policy, deployment, expected) in [
        (
            json!("Fail"),
            json!({"spec": {"replicas": 3}, "status": {"availableReplicas": 1}}),
            scale(3, 1),
        ),
        // The API's own defaults.
        (Value::Null, json!({"spec": {}, "status": {}}), scale(1, 0)),
        (
            Value::Null,
            json!({"spec": {"replicas": -1}, "status": "rubbish"}),
            scale(1, 0),
        ),
    ] {
        closed["webhooks"][1]["failurePolicy"] = policy;
        api.put(CONFIGURATION, closed.clone());
        api.put(DEPLOYMENT, deployment);
        let facts = survey().await;
        assert_eq!(
            (facts.scale.clone(), fails_open(&facts)),
            (expected, vec![false])
        );
    }
}

#[tokio::test]
async fn a_survey_tells_whether_the_deployment_names_files() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    let variable = |value: Value| json!({"name": "IMAGESWAP_TLS_CERT", "value": value});
    let elsewhere = json!({"name": "IMAGESWAP_TLS_CERT", "valueFrom": {}});
    for (env, expected) in [
        (json!([]), false),
        (json!([variable(json!("/certificate/tls.crt"))]), true),
        (json!([variable(json!(""))]), false),
        (json!([elsewhere]), true),
    ] {
        let containers = json!([{"name": "sidecar"}, {"name": "imageswap", "env": env}]);
        let pod = json!({"spec": {"containers": containers}});
        api.put(DEPLOYMENT, json!({"spec": {"template": pod}}));
        let facts = cluster(&api, 1).survey(Reach::Forwarded).await.unwrap();
        let scale = facts.scale.unwrap().unwrap();
        assert_eq!(scale.names_files, expected, "{env}");
    }
}

/// Whoever may write EndpointSlices has no call made in the name of whoever looks, but to forward a port.
#[tokio::test]
async fn a_survey_calls_a_pod_by_what_can_be_a_pods_name_alone() {
    let api = Api::start().await;
    api.set_person(Person::default());
    api.put(CONFIGURATION, configuration());
    let endpoint =
        |ip: &str, pod: &str| json!({"addresses": [ip], "targetRef": {"kind": "Pod", "name": pod}});
    let endpoints = json!([
        endpoint("10.0.0.1", "imageswap-1"),
        endpoint("10.0.0.2", "victim/exec?command=id&x="),
        {"addresses": ["10.0.0.3"]},
    ]);
    let slice = json!({"metadata": {}, "addressType": "IPv4", "endpoints": endpoints});
    api.put(
        "/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices/imageswap-1",
        slice,
    );
    let facts = cluster(&api, 1).survey(Reach::Forwarded).await.unwrap();
    let seen = facts.replicas.iter();
    let seen: Vec<_> = seen
        .map(|it| (it.pod.as_str(), it.served.is_ok()))
        .collect();
    let expected = ["10.0.0.2", "10.0.0.3", "imageswap-1"].map(|name| (name, false));
    assert_eq!(seen, expected);
    let calls = api.calls();
    let mut pods = calls.iter().filter(|call| call.contains("/pods/"));
    let forwards = "GET /api/v1/namespaces/ns/pods/imageswap-1/portforward";
    assert!(
        pods.clone().count() > 0 && pods.all(|call| call == forwards),
        "{calls:?}"
    );
}

// === before an installation ===

/// What stands under `key:` in an object as kustomize prints it: a list, or one value.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let mut lines = text.lines().map(|line| line.trim_start_matches(['-', ' ']));
    let Some(first) = lines
        .by_ref()
        .find_map(|line| line.strip_prefix(&format!("{key}:")))
    else {
        return Vec::new();
    };
    if !first.trim().is_empty() {
        return vec![first.trim()];
    }
    let items = lines.take_while(|line| !line.ends_with(':') && !line.contains(": "));
    items.map(|item| item.trim_matches('"')).collect()
}

#[test]
fn the_rights_that_are_asked_for_are_those_that_install_yaml_needs() {
    let manifest = include_str!("../../../deploy/install.yaml");
    let (mut kinds, mut given) = (Vec::new(), Vec::new());
    for object in manifest.split("\n---\n") {
        let kind = values(object, "kind")[0].to_lowercase();
        // As `y` becomes `ies` in a resource's name.
        kinds.push(
            kind.strip_suffix('y')
                .map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies")),
        );
        if kind == "role" || kind == "clusterrole" {
            let rules = object.split("\n- apiGroups:").skip(1);
            given.extend(rules.map(|rule| {
                let rule = format!("apiGroups:{rule}");
                let name = values(&rule, "resourceNames")
                    .first()
                    .copied()
                    .unwrap_or_default();
                let (group, resource) =
                    (values(&rule, "apiGroups")[0], values(&rule, "resources")[0]);
                let verbs = values(&rule, "verbs").join(" ");
                format!("{group}/{resource}/{name}: {verbs}")
            }));
        }
    }
    let mut applied = preview::APPLIED_OBJECTS.map(|(_, resource, ..)| resource.to_owned());
    kinds.sort();
    applied.sort();
    assert_eq!(kinds, applied);
    let mut expected = preview::GIVEN.map(|(group, resource, name, verbs)| {
        format!("{group}/{resource}/{name}: {}", verbs.join(" "))
    });
    given.sort();
    expected.sort();
    assert_eq!(given, expected);
}

// === the Lease ===

struct Candidate {
    claim: watch::Receiver<Claim>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<super::lease::Stopped>,
}

impl Candidate {
    fn stand(api: &Api, nonce: u64, lease: u64) -> Self {
        let lease = Duration::from_secs(lease);
        let election = Election::new(&cluster(api, nonce), lease).unwrap();
        let (sender, claim) = watch::channel(Claim::default());
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move { election.run(&sender, stopped).await });
        Self { claim, stop, task }
    }

    fn leads(&self) -> bool {
        self.claim.borrow().is_held(tokio::time::Instant::now())
    }

    async fn comes_to_lead(&self, within: Duration) -> Duration {
        until(within, "a leader", || self.leads()).await
    }
}

fn lease(spec: &Value) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {}, "spec": spec})
}

#[tokio::test]
async fn one_leads_and_the_next_takes_over_at_once_or_when_the_lease_has_ended() {
    let api = Api::start().await;
    let one = Candidate::stand(&api, 1, 5);
    one.comes_to_lead(Duration::from_secs(5)).await;
    let two = Candidate::stand(&api, 2, 5);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(one.leads() && !two.leads());
    // Released: sooner than the lease would have ended.
    one.stop.send_replace(true);
    two.comes_to_lead(Duration::from_millis(2_500)).await;
    one.task.await.unwrap();
    // Killed.
    let three = Candidate::stand(&api, 3, 5);
    two.task.abort();
    three.comes_to_lead(Duration::from_secs(9)).await;
    assert!(!two.leads(), "the claim ended before another began");
    assert!(!api.calls().iter().any(|call| call.starts_with("POST")));
}

#[tokio::test]
async fn whatever_the_lease_is_somebody_leads_in_the_end() {
    let old = "2020-01-01T00:00:00.000000Z";
    let ahead = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(9)).to_string();
    let released = json!({"holderIdentity": null, "renewTime": null, "leaseTransitions": 3});
    for (spec, seconds) in [
        (Value::Null, 5),
        (released, 5),
        (json!({"holderIdentity": "gone"}), 5),
        (
            json!({"holderIdentity": "gone", "renewTime": old, "acquireTime": old, "leaseDurationSeconds": 15, "leaseTransitions": 0}),
            5,
        ),
        // Of a holder that is gone, whose clock was ahead: two of its lease times by our own clock.
        (
            json!({"holderIdentity": "gone", "renewTime": ahead, "acquireTime": old, "leaseDurationSeconds": 6, "leaseTransitions": 0}),
            20,
        ),
    ] {
        let api = Api::start().await;
        api.put(LEASE, lease(&spec));
        let started = Instant::now();
        let candidate = Candidate::stand(&api, 1, 3);
        candidate.comes_to_lead(Duration::from_secs(seconds)).await;
        // It may be there still, and renew each time it has said.
        let waited = started.elapsed() > Duration::from_secs(12);
        assert_eq!(waited, seconds == 20, "{spec}");
    }
}

#[tokio::test]
async fn a_lease_that_is_deleted_is_made_anew() {
    let api = Api::start().await;
    let one = Candidate::stand(&api, 1, 3);
    one.comes_to_lead(Duration::from_secs(5)).await;
    api.delete(LEASE);
    until(Duration::from_secs(4), "a Lease", || {
        api.object(LEASE)
            .is_some_and(|lease| lease["spec"]["holderIdentity"] != "")
    })
    .await;
    until(Duration::from_secs(4), "a leader", || one.leads()).await;
}

#[tokio::test]
async fn who_can_not_renew_leads_no_longer_than_the_lease() {
    let api = Api::start().await;
    let one = Candidate::stand(&api, 1, 3);
    one.comes_to_lead(Duration::from_secs(5)).await;
    api.set_mood(Mood::Hanging);
    let led = until(Duration::from_secs(6), "the end", || !one.leads()).await;
    assert!(led < Duration::from_secs(3), "{led:?}");
    // Stopped while the API hangs, it does not hang, too.
    one.stop.send_replace(true);
    tokio::time::timeout(Duration::from_secs(5), one.task)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn an_answer_that_names_another_is_not_believed() {
    let api = Api::start().await;
    let one = Candidate::stand(&api, 1, 3);
    one.comes_to_lead(Duration::from_secs(5)).await;
    // The lock reads that we hold it, renews it, and calls that success.
    api.set_mood(Mood::Stealing);
    until(Duration::from_secs(5), "the end", || !one.leads()).await;
}

/// Else two could claim at once: one whose last answer named it long ago, and one who is overwritten.
#[tokio::test]
async fn after_errors_it_takes_two_answers_again() {
    let api = Api::start().await;
    let one = Candidate::stand(&api, 1, 3);
    one.comes_to_lead(Duration::from_secs(5)).await;
    api.set_mood(Mood::Forbidding);
    until(Duration::from_secs(6), "the end", || !one.leads()).await;
    let renewals = || {
        let calls = api.calls();
        let renewals = calls.iter().filter(|call| call.starts_with("PATCH"));
        renewals.filter(|call| call.contains(LEASE)).count()
    };
    let before = renewals();
    api.set_mood(Mood::Fine);
    one.comes_to_lead(Duration::from_secs(5)).await;
    let answers = renewals() - before;
    assert!(answers >= 2, "{answers}: {:?}", api.calls());
}

#[tokio::test]
async fn a_lease_that_was_not_claimed_yet_is_given_back_too() {
    let api = Api::start().await;
    let one = Candidate::stand(&api, 1, 5);
    let holder = || {
        api.object(LEASE)
            .map(|lease| lease["spec"]["holderIdentity"].clone())
    };
    until(Duration::from_secs(5), "a holder", || {
        holder().is_some_and(|holder| holder.as_str().is_some_and(|name| !name.is_empty()))
    })
    .await;
    assert!(!one.leads(), "one answer is no claim");
    one.stop.send_replace(true);
    one.task.await.unwrap();
    let left = holder();
    let is_nobody = |left: &Value| left.as_str().is_none_or(str::is_empty);
    assert!(left.as_ref().is_some_and(is_nobody), "{left:?}");
}
