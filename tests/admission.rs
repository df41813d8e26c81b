//! Reviews in, reviews out: recorded ones, broken ones, generated ones.
//!
//! `tests/reviews/README.md` says where the recorded ones come from.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeSet;
use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use imageswap::admission::{BadReview, Outcome, Reply, Skip, review};
use imageswap::maps::{Maps, Rules};
use proptest::prelude::*;
use serde_json::{Value, json};

const MAPS: &str = "\
default::mirror.example.com
docker.io::hub.example.com
registry.k8s.io::
";
const LABEL: &str = "k8s.twr.io/imageswap";

fn rules() -> Rules {
    Rules::Maps(Box::new(Maps::parse(MAPS.as_bytes()).unwrap().0))
}

fn answer(body: &[u8]) -> Result<Reply, BadReview> {
    review(body, &rules(), LABEL)
}

/// The reply to a review that must be answered, as JSON.
fn response(body: &Value) -> (Value, Reply) {
    let reply = answer(body.to_string().as_bytes()).unwrap();
    let json: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(json["apiVersion"], body["apiVersion"]);
    assert_eq!(json["kind"], "AdmissionReview");
    assert_eq!(json["response"]["uid"], body["request"]["uid"]);
    assert_eq!(json["response"]["allowed"], true);
    let has = |key: &str| json["response"].get(key).is_some();
    assert_eq!(has("patch"), has("patchType"));
    (json["response"].clone(), reply)
}

/// The object after the patch, as kube-apiserver would make it.
fn patched(object: &Value, response: &Value) -> Value {
    let mut object = object.clone();
    if let Some(patch) = response.get("patch") {
        let patch = STANDARD.decode(patch.as_str().unwrap()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
        assert!(!patch.0.is_empty(), "an empty patch");
        json_patch::patch(&mut object, &patch).unwrap();
    }
    object
}

/// What the review's object is expected to become: the original but for these slots.
fn expect(body: &Value, slots: &[(&str, &str)], outcome: Outcome) -> (Value, Reply) {
    let (response, reply) = response(body);
    let mut expected = body["request"]["object"].clone();
    for (pointer, image) in slots {
        *expected.pointer_mut(pointer).unwrap() = json!(image);
    }
    let object = patched(&body["request"]["object"], &response);
    assert_eq!(object, expected);
    assert_eq!(reply.outcome, outcome);
    (response, reply)
}

fn recorded(file: &str) -> Value {
    let text = fs::read_to_string(format!("tests/reviews/{file}")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn pod_review(object: Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "operation": "CREATE",
            "namespace": "n",
            "object": object,
        }
    })
}

fn pod(containers: Value) -> Value {
    pod_review(json!({"metadata": {"name": "p"}, "spec": {"containers": containers}}))
}

type Slots = &'static [(&'static str, &'static str)];

const POD_0: &str = "/spec/containers/0/image";
const INIT_0: &str = "/spec/initContainers/0/image";
const TEMPLATE_0: &str = "/spec/template/spec/containers/0/image";
const HELLO: &str = "hub.example.com/paulbouwer/hello-kubernetes:1.5";
const TOOLBOX: &str = "hub.example.com/jmsearcy/toolbox:latest";
const JMSEARCY: &str = "hub.example.com/jmsearcy/hello-kubernetes:1.5";
const NODE_EXPORTER: &str = "mirror.example.com/prometheus/node-exporter:v1.8.2";

const RECORDED: &[(&str, Outcome, Slots)] = &[
    // registry.k8s.io is not swapped by these maps.
    ("cronjob-create-cron.json", Outcome::Unchanged, &[]),
    (
        "daemonset-create-ds.json",
        Outcome::Swapped,
        &[(TEMPLATE_0, NODE_EXPORTER)],
    ),
    (
        "deployment-create-test-deploy01.json",
        Outcome::Swapped,
        &[(TEMPLATE_0, JMSEARCY)],
    ),
    (
        "job-create-job.json",
        Outcome::Swapped,
        &[(TEMPLATE_0, "hub.example.com/perl:5.34.0")],
    ),
    (
        "pod-create-dry-dryrun.json",
        Outcome::Swapped,
        &[(POD_0, "hub.example.com/nginx:latest")],
    ),
    (
        "pod-create-ds-by-daemon-set-controller.json",
        Outcome::Swapped,
        &[(POD_0, NODE_EXPORTER)],
    ),
    (
        "pod-create-everything.json",
        Outcome::Swapped,
        &[
            (
                "/spec/volumes/0/image/reference",
                "mirror.example.com/models/llama:7b",
            ),
            (INIT_0, "hub.example.com/busybox:1.36"),
            (
                "/spec/initContainers/1/image",
                "mirror.example.com/fluxcd/source-controller:v1.4.1@sha256:3c3a9e5d0ad3f2f3c7b2f4e4c4f8b8bd1c8d4e6a9f6a0d7d8c5b4a3f2e1d0c9b",
            ),
            (POD_0, "hub.example.com/nginx"),
            (
                "/spec/containers/1/image",
                "mirror.example.com/team/app:dev",
            ),
        ],
    ),
    (
        "pod-create-job-by-job-controller.json",
        Outcome::Swapped,
        &[(POD_0, "hub.example.com/perl:5.34.0")],
    ),
    (
        "pod-create-mirror-by-kubelet.json",
        Outcome::Skipped(Skip::Mirror),
        &[],
    ),
    (
        "pod-create-sts-0-by-statefulset-controller.json",
        Outcome::Swapped,
        &[(POD_0, "hub.example.com/postgres:16-alpine")],
    ),
    (
        "pod-create-test-deploy01-7984fb4cf-by-replicaset-controller.json",
        Outcome::Swapped,
        &[(POD_0, JMSEARCY)],
    ),
    (
        "pod-create-test-pod01.json",
        Outcome::Swapped,
        &[(POD_0, TOOLBOX)],
    ),
    (
        "pod-create-test-pod02.json",
        Outcome::Swapped,
        &[(POD_0, HELLO)],
    ),
    (
        "pod-create-test-pod03.json",
        Outcome::Swapped,
        &[(INIT_0, HELLO), (POD_0, TOOLBOX)],
    ),
    (
        "pod-create-test-pod04.json",
        Outcome::Swapped,
        &[(INIT_0, HELLO), (POD_0, HELLO)],
    ),
    (
        "pod-create-test-pod05-dryrun.json",
        Outcome::Swapped,
        &[(POD_0, "hub.example.com/nginx:latest")],
    ),
    (
        "pod-create-test-pod05.json",
        Outcome::Swapped,
        &[(POD_0, "hub.example.com/nginx:latest")],
    ),
    (
        "pod-create-test-pod06.json",
        Outcome::Swapped,
        &[(POD_0, "hub.example.com/nginx:latest")],
    ),
    (
        "pod-ephemeralcontainers-update-first-debug.json",
        Outcome::Swapped,
        &[(
            "/spec/ephemeralContainers/0/image",
            "hub.example.com/busybox:1.36",
        )],
    ),
    // The first one is there already, and must stay as it is.
    (
        "pod-ephemeralcontainers-update-second-debug.json",
        Outcome::Swapped,
        &[(
            "/spec/ephemeralContainers/1/image",
            "hub.example.com/nicolaka/netshoot",
        )],
    ),
    // A label was changed; a swap would restart the container.
    ("pod-update-test-pod02.json", Outcome::NoImages, &[]),
    (
        "statefulset-create-sts.json",
        Outcome::Swapped,
        &[(TEMPLATE_0, "hub.example.com/postgres:16-alpine")],
    ),
];

#[test]
fn every_recorded_review_is_answered_and_changes_nothing_but_images() {
    let on_disk: BTreeSet<String> = fs::read_dir("tests/reviews")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json"))
        .collect();
    let in_table: BTreeSet<String> = RECORDED.iter().map(|row| row.0.to_owned()).collect();
    assert_eq!(on_disk, in_table);
    for (file, outcome, slots) in RECORDED {
        let body = recorded(file);
        expect(&body, slots, *outcome);
        let mut beta = body.clone();
        beta["apiVersion"] = json!("admission.k8s.io/v1beta1");
        expect(&beta, slots, *outcome);
    }
}

#[test]
fn a_swapped_object_is_not_swapped_again() {
    for (file, ..) in RECORDED {
        let mut body = recorded(file);
        let (first, _) = response(&body);
        body["request"]["object"] = patched(&body["request"]["object"], &first);
        let (second, reply) = response(&body);
        assert!(second.get("patch").is_none(), "{file}");
        assert!(second.get("auditAnnotations").is_none(), "{file}");
        assert_ne!(reply.outcome, Outcome::Swapped, "{file}");
    }
}

#[test]
fn an_audit_annotation_says_what_was_swapped_and_by_which_rule() {
    let (response, _) = response(&recorded("pod-create-test-pod03.json"));
    let annotations = response["auditAnnotations"].as_object().unwrap();
    let name = recorded("pod-create-test-pod03.json")["request"]["object"]["spec"]["containers"][0]
        ["name"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        annotations[&format!("containers.{name}")],
        format!("jmsearcy/toolbox:latest => {TOOLBOX} by docker.io::hub.example.com (line 2)")
    );
    assert_eq!(annotations.len(), 2);
}

#[test]
fn annotation_keys_are_qualified_names_whatever_a_container_is_called() {
    let long = "n".repeat(63);
    let names = json!([
        {"name": long, "image": "nginx"},
        {"name": "bad name/\u{e9}\n", "image": "nginx"},
        {"name": "", "image": "nginx"},
        {"name": 5, "image": "nginx"},
        {"name": "ends-", "image": "nginx"},
    ]);
    let (response, _) = response(&pod(names));
    let annotations = response["auditAnnotations"].as_object().unwrap();
    assert_eq!(annotations.len(), 5);
    let plain = regex::Regex::new("^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$").unwrap();
    for key in annotations.keys() {
        assert!(plain.is_match(key), "{key}");
    }
}

/// kube-apiserver refuses such a Pod later. Of a key that stands twice each reader takes another.
#[test]
fn containers_of_one_name_have_one_annotation_that_of_the_last() {
    for images in [
        &[("b", "one"), ("a", "two"), ("b", "three"), ("a", "four")][..],
        &[("a", "two"), ("a", "four"), ("b", "one"), ("b", "three")],
    ] {
        let containers = images.iter();
        let containers = containers.map(|(name, image)| json!({"name": name, "image": image}));
        let body = pod(containers.collect()).to_string();
        let reply = review(body.as_bytes(), &rules(), LABEL).unwrap();
        let text = String::from_utf8(reply.body).unwrap();
        for (key, image) in [("containers.a", "four => "), ("containers.b", "three => ")] {
            assert_eq!(text.matches(&format!("\"{key}\":")).count(), 1, "{text}");
            assert!(text.contains(&format!("\"{key}\":\"{image}")), "{text}");
        }
    }
}

#[test]
fn a_body_that_is_no_review_is_refused_with_one_sentence() {
    let with = |change: fn(&mut Value)| {
        let mut body = pod(json!([{"name": "a", "image": "nginx"}]));
        change(&mut body);
        body.to_string().into_bytes()
    };
    let deep = "[".repeat(100_000).into_bytes();
    let rows: Vec<(Vec<u8>, &str, &str)> = vec![
        (b"".to_vec(), "not_json", "the body is not JSON: EOF"),
        (b"{".to_vec(), "not_json", "the body is not JSON: EOF"),
        (
            b"nope".to_vec(),
            "not_json",
            "the body is not JSON: expected",
        ),
        (
            b"{\"kind\":\"\xff\"}".to_vec(),
            "not_json",
            "the body is not JSON: byte 9 is not UTF-8",
        ),
        (deep, "not_a_review", "the body is not an AdmissionReview"),
        (
            b"{}{}".to_vec(),
            "not_json",
            "the body is not JSON: trailing",
        ),
        (
            b"[]".to_vec(),
            "not_a_review",
            "the body is not an AdmissionReview",
        ),
        (
            b"null".to_vec(),
            "not_a_review",
            "the body is not an AdmissionReview",
        ),
        (b"{}".to_vec(), "not_a_review", "its kind is \"\""),
        (
            br#"["AdmissionReview","admission.k8s.io/v1",{"uid":"u"}]"#.to_vec(),
            "not_a_review",
            "the body is not an AdmissionReview",
        ),
        (
            with(|body| body["kind"] = json!("Pod")),
            "not_a_review",
            "its kind is \"Pod\"",
        ),
        (
            with(|body| body["kind"] = json!(5)),
            "not_a_review",
            "invalid type",
        ),
        (
            with(|body| body["apiVersion"] = json!("admission.k8s.io/v2")),
            "version",
            "v2",
        ),
        (
            with(|body| body["apiVersion"] = Value::Null),
            "version",
            "version \"\"",
        ),
        (
            with(|body| body["request"] = Value::Null),
            "no_request",
            "no request",
        ),
        (
            with(|body| body["request"]["uid"] = Value::Null),
            "no_uid",
            "no request.uid",
        ),
        (
            with(|body| body["request"]["uid"] = json!("")),
            "no_uid",
            "no request.uid",
        ),
        (
            br#"{"kind":"AdmissionReview","kind":"AdmissionReview"}"#.to_vec(),
            "not_a_review",
            "duplicate field",
        ),
    ];
    for (body, reason, sentence) in rows {
        let error = answer(&body).unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        let text = error.to_string();
        assert!(text.contains(sentence), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
}

#[test]
fn an_image_that_is_none_is_left_alone_and_the_others_are_swapped() {
    let huge = "a".repeat(64 << 10);
    let huge_host = format!("{huge}.io/x");
    for bad in [
        Value::Null,
        json!(""),
        json!(5),
        json!(1e300),
        json!({"image": "nginx"}),
        json!(["nginx"]),
        json!(true),
        json!("no reference"),
        json!("NGINX"),
        json!(huge),
        json!(huge_host),
    ] {
        let body = pod(json!([
            {"name": "a", "image": "nginx"},
            {"name": "b", "image": bad},
            {"name": "c", "image": "busybox"},
        ]));
        let slots = [
            (POD_0, "hub.example.com/nginx"),
            ("/spec/containers/2/image", "hub.example.com/busybox"),
        ];
        let (response, reply) = expect(&body, &slots, Outcome::Swapped);
        let warnings = response["warnings"].as_array().unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let warning = warnings[0].as_str().unwrap();
        assert!(
            warning.starts_with("imageswap: containers[1] \"b\": the image "),
            "{warning}"
        );
        assert!(warning.len() < 600, "{warning}");
        assert_eq!(reply.images, [("registry", 2), ("invalid", 1)]);
    }
    // Missing altogether, in a list with holes: indices count everything.
    let body = pod(json!([null, {"name": "a"}, 5, {"image": "nginx"}]));
    let slots = [("/spec/containers/3/image", "hub.example.com/nginx")];
    let (response, _) = expect(&body, &slots, Outcome::Swapped);
    assert!(
        response["warnings"][0]
            .as_str()
            .unwrap()
            .contains("it is missing")
    );
}

#[test]
fn volumes_without_an_image_are_no_fault() {
    let body = pod_review(json!({"spec": {"volumes": [
        {"name": "a", "emptyDir": {}},
        {"name": "b", "image": {"reference": "nginx", "pullPolicy": "Always"}},
        {"name": "c", "image": {"reference": ""}},
        {"name": "d", "image": {}},
        {"name": "e", "image": "nginx"},
    ]}}));
    let slots = [("/spec/volumes/1/image/reference", "hub.example.com/nginx")];
    let (_, reply) = expect(&body, &slots, Outcome::Swapped);
    assert_eq!(reply.warnings.len(), 2);
}

#[test]
fn what_is_left_untouched() {
    let disabled = json!({"labels": {LABEL: "disabled"}});
    let enabled = json!({"labels": {LABEL: "enabled"}});
    let spec = json!({"containers": [{"name": "a", "image": "nginx"}]});
    let deployment = |object: Value| {
        let mut body = pod_review(object);
        body["request"]["kind"] = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
        body
    };
    let with = |pointer: &str, value: Value| {
        let mut body = pod(json!([{"name": "a", "image": "nginx"}]));
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[key] = value;
        body
    };
    let label = Outcome::Skipped(Skip::Label);
    let none = Outcome::NoImages;
    for (body, outcome) in [
        (with("/request/object/metadata", disabled.clone()), label),
        (
            deployment(json!({"metadata": disabled, "spec": {"template": {"spec": spec}}})),
            label,
        ),
        (
            deployment(json!({"spec": {"template": {"metadata": disabled, "spec": spec}}})),
            label,
        ),
        // Either label disables, whatever the other says.
        (
            deployment(
                json!({"metadata": disabled, "spec": {"template": {"metadata": enabled, "spec": spec}}}),
            ),
            label,
        ),
        (
            deployment(
                json!({"metadata": enabled, "spec": {"template": {"metadata": disabled, "spec": spec}}}),
            ),
            label,
        ),
        (with("/request/operation", json!("DELETE")), none),
        (with("/request/operation", json!("CONNECT")), none),
        (with("/request/subResource", json!("status")), none),
        (with("/request/subResource", json!("resize")), none),
        (
            with("/request/kind", json!({"group": "", "kind": "Service"})),
            none,
        ),
        (
            with(
                "/request/kind",
                json!({"group": "other.io", "kind": "Deployment"}),
            ),
            none,
        ),
        (with("/request/kind", Value::Null), none),
        (with("/request/object", Value::Null), none),
        (with("/request/object", json!([])), none),
        (with("/request/object", json!("text")), none),
        (with("/request/object", json!({})), none),
        (with("/request/object/spec", Value::Null), none),
        (with("/request/object/spec", json!([1])), none),
        (with("/request/object/spec/containers", Value::Null), none),
        (
            with(
                "/request/object/spec/containers",
                json!({"0": {"image": "nginx"}}),
            ),
            none,
        ),
        (
            with("/request/object/spec/containers", json!("nginx")),
            none,
        ),
    ] {
        expect(&body, &[], outcome);
    }
    // Only the value "disabled" disables, and only under that label.
    for metadata in [
        json!({"labels": {LABEL: "enabled"}}),
        json!({"labels": {LABEL: true}}),
        json!({"labels": {"other": "disabled"}}),
        json!({"labels": null, "annotations": null}),
        json!(null),
    ] {
        let body = with("/request/object/metadata", metadata);
        expect(&body, &[(POD_0, "hub.example.com/nginx")], Outcome::Swapped);
    }
}

/// A CronJob's label, or its Pods', counts; not that of the Jobs between them.
#[test]
fn the_label_of_a_job_template_disables_nothing() {
    let disabled = json!({"labels": {LABEL: "disabled"}});
    let spec = json!({"containers": [{"name": "a", "image": "nginx"}]});
    let mut body = pod_review(json!({"spec": {"jobTemplate": {
        "metadata": disabled, "spec": {"template": {"spec": spec}},
    }}}));
    body["request"]["kind"] = json!({"group": "batch", "version": "v1", "kind": "CronJob"});
    let slot = "/spec/jobTemplate/spec/template/spec/containers/0/image";
    expect(&body, &[(slot, "hub.example.com/nginx")], Outcome::Swapped);
}

/// kube-apiserver drops them after admission, so that no policy that forbids the label sees it.
#[test]
fn no_label_and_no_annotation_of_such_an_update_keeps_imageswap_away() {
    let slot = "/spec/ephemeralContainers/0/image";
    for metadata in [
        json!({"labels": {LABEL: "disabled"}}),
        json!({"annotations": {"kubernetes.io/config.mirror": "x"}}),
    ] {
        let mut body = recorded("pod-ephemeralcontainers-update-first-debug.json");
        body["request"]["object"]["metadata"] = metadata;
        expect(
            &body,
            &[(slot, "hub.example.com/busybox:1.36")],
            Outcome::Swapped,
        );
    }
    // The Pod's own label does.
    let mut body = recorded("pod-ephemeralcontainers-update-first-debug.json");
    body["request"]["oldObject"]["metadata"] = json!({"labels": {LABEL: "disabled"}});
    expect(&body, &[], Outcome::Skipped(Skip::Label));
}

/// kube-apiserver ignores all else that such an update says.
#[test]
fn of_an_update_of_ephemeral_containers_only_those_are_looked_at() {
    let mut body = recorded("pod-ephemeralcontainers-update-first-debug.json");
    body["request"]["oldObject"]["spec"]["containers"] = json!([]);
    let slot = "/spec/ephemeralContainers/0/image";
    expect(
        &body,
        &[(slot, "hub.example.com/busybox:1.36")],
        Outcome::Swapped,
    );
}

#[test]
fn an_image_that_would_become_too_long_for_a_reference_stays() {
    let longest = 4_096 - "mirror.example.com/".len();
    for (length, outcome) in [
        (longest, Outcome::Swapped),
        (longest + 1, Outcome::Unchanged),
    ] {
        let path = "b".repeat(length);
        let body = pod(json!([{"name": "a", "image": format!("a.io/{path}")}]));
        let swapped = [(POD_0, &*format!("mirror.example.com/{path}"))];
        let is_swapped = outcome == Outcome::Swapped;
        let (_, reply) = expect(&body, if is_swapped { &swapped } else { &[] }, outcome);
        assert_eq!(reply.warnings.len(), usize::from(!is_swapped), "{length}");
    }
}

/// serde_json's own maps can't hold a key twice, so these are text.
#[test]
fn an_object_with_a_key_twice_is_left_alone() {
    let container = r#"{"name":"a","image":"nginx"}"#;
    for object in [
        r#"{"spec":{"containers":[{"name":"a","image":"nginx","image":"busybox"}]}}"#.to_owned(),
        r#"{"spec":{"containers":[{"name":"a","name":"b","image":"busybox"}]}}"#.to_owned(),
        format!(r#"{{"spec":{{"containers":[{container}],"containers":[]}}}}"#),
        format!(r#"{{"spec":{{"containers":[{container}]}},"spec":null}}"#),
        format!(r#"{{"metadata":{{}},"metadata":{{}},"spec":{{"containers":[{container}]}}}}"#),
        r#"{"spec":{"volumes":[{"image":{"reference":"a","reference":"b"}}]}}"#.to_owned(),
        r#"{"metadata":{"labels":{},"labels":{}},"spec":{"containers":[]}}"#.to_owned(),
        // Escapes make another text of the same key.
        r#"{"spec":{"containers":[{"image":"nginx","im\u0061ge":"busybox"}]}}"#.to_owned(),
    ] {
        let body = format!(
            r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"u","kind":{{"kind":"Pod"}},"operation":"CREATE","object":{object}}}}}"#
        );
        let reply = answer(body.as_bytes()).unwrap();
        assert_eq!(
            reply.outcome,
            Outcome::Skipped(Skip::DuplicateKey),
            "{object}"
        );
        assert!(
            reply.warnings[0].contains("appears twice"),
            "{:?}",
            reply.warnings
        );
    }
}

/// What decides about an object may be another one for who reads the first.
#[test]
fn an_object_in_a_request_with_a_key_twice_is_left_alone() {
    let object = r#"{"spec":{"containers":[{"name":"a","image":"nginx"}]}}"#;
    let reviewed = |first: &str, last: &str| {
        let body = format!(
            r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{{first}"uid":"u","kind":{{"kind":"Pod"}},"operation":"CREATE","subResource":"","object":{object},"oldObject":{{}}{last}}}}}"#
        );
        answer(body.as_bytes()).unwrap()
    };
    for (key, value) in [
        ("kind", r#"{"kind":"Pod"}"#),
        ("kind", r#"{"kind":"ConfigMap"}"#),
        ("operation", r#""DELETE""#),
        ("subResource", r#""status""#),
        ("object", object),
        ("object", "{}"),
        ("oldObject", "null"),
    ] {
        let reply = reviewed("", &format!(r#","{key}":{value}"#));
        assert_eq!(reply.outcome, Outcome::Skipped(Skip::DuplicateKey), "{key}");
        let warning = format!("imageswap: the key {key:?} appears twice, so nothing is swapped");
        assert_eq!(reply.warnings, [warning]);
        let body: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(body["response"]["allowed"], true);
        assert_eq!(body["response"].get("patch"), None);
    }
    // The last answers.
    let reply = reviewed(r#""uid":"first","#, r#","name":"a","name":"b""#);
    assert_eq!(reply.outcome, Outcome::Swapped);
    let body: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(body["response"]["uid"], "u");
}

#[test]
fn an_update_of_a_pod_swaps_only_images_that_are_changed() {
    let mut body = pod(json!([
        {"name": "same", "image": "nginx:1"},
        {"name": "changed", "image": "nginx:2"},
        {"name": "new", "image": "nginx:3"},
    ]));
    body["request"]["operation"] = json!("UPDATE");
    body["request"]["oldObject"] = json!({"spec": {"containers": [
        {"name": "changed", "image": "nginx:1"},
        {"name": "same", "image": "nginx:1"},
    ]}});
    let slots = [
        ("/spec/containers/1/image", "hub.example.com/nginx:2"),
        ("/spec/containers/2/image", "hub.example.com/nginx:3"),
    ];
    expect(&body, &slots, Outcome::Swapped);
}

/// What was there can't be known, so nothing is taken for new.
#[test]
fn an_update_without_the_old_object_swaps_nothing() {
    let mut body = pod(json!([{"name": "a", "image": "nginx"}]));
    body["request"]["operation"] = json!("UPDATE");
    for old in [Value::Null, json!(5), json!([])] {
        body["request"]["oldObject"] = old;
        expect(&body, &[], Outcome::NoImages);
    }
    body["request"]["oldObject"] = json!({});
    expect(&body, &[(POD_0, "hub.example.com/nginx")], Outcome::Swapped);
}

#[test]
fn only_a_pod_is_a_mirror() {
    let mirror = json!({"annotations": {"kubernetes.io/config.mirror": "x"}});
    let mut body = recorded("deployment-create-test-deploy01.json");
    body["request"]["object"]["spec"]["template"]["metadata"] = mirror;
    expect(&body, &[(TEMPLATE_0, JMSEARCY)], Outcome::Swapped);
}

#[test]
fn an_update_of_a_template_swaps_all() {
    let mut body = recorded("deployment-create-test-deploy01.json");
    body["request"]["operation"] = json!("UPDATE");
    body["request"]["oldObject"] = body["request"]["object"].clone();
    expect(&body, &[(TEMPLATE_0, JMSEARCY)], Outcome::Swapped);
}

/// kube-apiserver refuses a Job whose template is changed, be it only by a webhook.
#[test]
fn an_update_of_a_job_touches_no_image_that_it_does_not_change() {
    let job = |images: [&str; 2]| {
        let [a, b] = images.map(|image| json!({"name": image, "image": image}));
        json!({"spec": {"template": {"spec": {"containers": [a, b]}}}})
    };
    let mut body = pod_review(job(["nginx", "redis"]));
    body["request"]["kind"] = json!({"group": "batch", "version": "v1", "kind": "Job"});
    body["request"]["operation"] = json!("UPDATE");
    body["request"]["oldObject"] = job(["nginx", "redis"]);
    expect(&body, &[], Outcome::NoImages);
    body["request"]["oldObject"] = job(["nginx", "caddy"]);
    let slot = "/spec/template/spec/containers/1/image";
    expect(&body, &[(slot, "hub.example.com/redis")], Outcome::Swapped);
}

#[test]
fn every_kind_with_a_pod_template() {
    let pod = || json!({"spec": {"containers": [{"name": "a", "image": "nginx"}]}});
    for (group, kind, pointer) in [
        ("", "Pod", ""),
        ("", "PodTemplate", "/template"),
        ("", "ReplicationController", "/spec/template"),
        ("apps", "Deployment", "/spec/template"),
        ("apps", "StatefulSet", "/spec/template"),
        ("apps", "DaemonSet", "/spec/template"),
        ("apps", "ReplicaSet", "/spec/template"),
        ("batch", "Job", "/spec/template"),
        ("batch", "CronJob", "/spec/jobTemplate/spec/template"),
    ] {
        let object = pointer.rsplit('/').filter(|step| !step.is_empty());
        let object = object.fold(pod(), |inner, step| json!({ step: inner }));
        let mut body = pod_review(object);
        body["request"]["kind"] = json!({"group": group, "version": "v1", "kind": kind});
        let slot = format!("{pointer}/spec/containers/0/image");
        expect(&body, &[(&slot, "hub.example.com/nginx")], Outcome::Swapped);
    }
}

/// Who owns it compares its template with its own, and makes another if they differ.
#[test]
fn what_a_controller_finds_by_its_template_is_left_to_it() {
    let pod = json!({"spec": {"containers": [{"name": "a", "image": "nginx"}]}});
    let mut body = pod_review(json!({"spec": {"template": pod}}));
    let slots = [(TEMPLATE_0, "hub.example.com/nginx")];
    let owner = |controller: Value| json!([{"kind": "X"}, {"kind": "Y", "controller": controller}]);
    for (kind, owners, is_left) in [
        ("ReplicaSet", owner(json!(true)), true),
        ("ReplicationController", owner(json!(true)), true),
        ("ReplicaSet", owner(json!(false)), false),
        ("ReplicaSet", owner(json!("true")), false),
        ("ReplicaSet", owner(json!({"a": true})), false),
        ("ReplicaSet", json!(true), false),
        ("ReplicaSet", json!(null), false),
        ("Deployment", owner(json!(true)), false),
        ("Job", owner(json!(true)), false),
    ] {
        let group = if kind == "Job" { "batch" } else { "apps" };
        let group = if kind == "ReplicationController" {
            ""
        } else {
            group
        };
        body["request"]["kind"] = json!({"group": group, "version": "v1", "kind": kind});
        for operation in ["CREATE", "UPDATE"] {
            if (kind, operation) == ("Job", "UPDATE") {
                continue;
            }
            body["request"]["operation"] = json!(operation);
            body["request"]["object"]["metadata"] = json!({"ownerReferences": owners});
            match is_left {
                true => expect(&body, &[], Outcome::Skipped(Skip::Owned)),
                false => expect(&body, &slots, Outcome::Swapped),
            };
        }
    }
    // The template's metadata is not the object's, and who owns a Pod does not matter.
    body["request"]["kind"] = json!({"group": "apps", "version": "v1", "kind": "ReplicaSet"});
    body["request"]["object"]["metadata"] = json!({});
    let owned = json!({"ownerReferences": owner(json!(true))});
    body["request"]["object"]["spec"]["template"]["metadata"] = owned.clone();
    expect(&body, &slots, Outcome::Swapped);
    let mut body = pod_review(pod);
    body["request"]["object"]["metadata"] = owned;
    expect(&body, &[(POD_0, "hub.example.com/nginx")], Outcome::Swapped);
}

#[test]
fn a_long_line_of_a_map_file_is_shown_by_its_start() {
    let line = format!("default::m.example.com/{}", "p".repeat(2000));
    let rules = Rules::Maps(Box::new(Maps::parse(line.as_bytes()).unwrap().0));
    let body = pod(json!([{"name": "a", "image": "nginx"}])).to_string();
    let reply = review(body.as_bytes(), &rules, LABEL).unwrap();
    let json: Value = serde_json::from_slice(&reply.body).unwrap();
    let shown = json["response"]["auditAnnotations"]["containers.a"].as_str();
    let end = format!(" by {}… (line 1)", line.get(..512).unwrap());
    assert!(shown.is_some_and(|shown| shown.ends_with(&end)), "{json}");
}

#[test]
fn a_warning_names_the_line_whose_result_is_none() {
    let (maps, _) = Maps::parse(b"default::m.io\n[EXACT]nginx::\n").unwrap();
    let body = pod(json!([{"name": "a", "image": "nginx"}])).to_string();
    let reply = review(body.as_bytes(), &Rules::Maps(Box::new(maps)), LABEL).unwrap();
    assert!(
        reply.warnings[0].ends_with("it is empty: \"\" (line 2 of the map file)"),
        "{:?}",
        reply.warnings
    );
}

#[test]
fn two_thousand_containers() {
    let containers: Vec<_> = (0..2000)
        .map(|i| json!({"name": format!("c{i}"), "image": format!("nginx:{i}"), "args": ["x".repeat(1400)]}))
        .collect();
    let body = pod(json!(containers));
    assert!(body.to_string().len() > 2 << 20);
    let slots: Vec<_> = (0..2000)
        .map(|i| {
            (
                format!("/spec/containers/{i}/image"),
                format!("hub.example.com/nginx:{i}"),
            )
        })
        .collect();
    let slots: Vec<_> = slots
        .iter()
        .map(|(p, i)| (p.as_str(), i.as_str()))
        .collect();
    expect(&body, &slots, Outcome::Swapped);
    // All of them wrong: the answer stays small.
    let containers: Vec<_> = (0..2000)
        .map(|i| json!({"name": format!("c{i}"), "image": "NO"}))
        .collect();
    let (response, reply) = expect(&pod(json!(containers)), &[], Outcome::Unchanged);
    assert_eq!(response["warnings"].as_array().unwrap().len(), 17);
    assert_eq!(reply.images, [("invalid", 2000)]);
}

/// Any JSON, with the keys that matter in it.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z./:]{0,8}".prop_map(Value::from),
        Just(json!("nginx")),
        Just(json!("disabled")),
    ];
    let keys = proptest::sample::select(vec![
        "metadata",
        "labels",
        "spec",
        "template",
        "jobTemplate",
        "containers",
        "initContainers",
        "ephemeralContainers",
        "volumes",
        "image",
        "reference",
        "name",
        LABEL,
        "other",
    ]);
    leaf.prop_recursive(8, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((keys.clone(), inner), 0..6).prop_map(|entries| {
                Value::Object(
                    entries
                        .into_iter()
                        .map(|(k, v)| (k.to_owned(), v))
                        .collect(),
                )
            }),
        ]
    })
}

/// All texts of an object, with their places.
fn texts(value: &Value, place: &str, into: &mut Vec<(String, String)>) {
    match value {
        Value::String(text) => into.push((place.to_owned(), text.clone())),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(i, v)| texts(v, &format!("{place}/{i}"), into)),
        Value::Object(map) => map.iter().for_each(|(k, v)| {
            texts(
                v,
                &format!("{place}/{}", k.replace('~', "~0").replace('/', "~1")),
                into,
            )
        }),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_object_is_answered_with_a_patch_that_applies_and_changes_only_images(
        object in any_json(),
        old in any_json(),
        kind in proptest::sample::select(vec!["Pod", "Deployment", "CronJob", "PodTemplate"]),
        operation in proptest::sample::select(vec!["CREATE", "UPDATE", "DELETE"]),
        sub in proptest::sample::select(vec!["", "ephemeralcontainers", "status"]),
    ) {
        let mut body = pod_review(object);
        body["request"]["kind"]["kind"] = json!(kind);
        body["request"]["operation"] = json!(operation);
        body["request"]["subResource"] = json!(sub);
        body["request"]["oldObject"] = old;
        let (response, _) = response(&body);
        let before = &body["request"]["object"];
        let after = patched(before, &response);
        let (mut was, mut is) = (Vec::new(), Vec::new());
        texts(before, "", &mut was);
        texts(&after, "", &mut is);
        prop_assert_eq!(was.len(), is.len());
        for ((place, from), (same, to)) in was.into_iter().zip(is) {
            prop_assert_eq!(&place, &same);
            if from != to {
                prop_assert!(place.ends_with("/image") || place.ends_with("/image/reference"));
                let swapped = rules().swap(&from).image().map(str::to_owned);
                prop_assert_eq!(Some(to), swapped);
            }
        }
    }

    #[test]
    fn no_bytes_panic_the_review_handler(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = answer(&body);
    }

    /// A review with a few bytes changed is refused or answered, and never panics.
    #[test]
    fn a_damaged_review_never_panics(
        row in 0..RECORDED.len(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut body = fs::read(format!("tests/reviews/{}", RECORDED[row].0)).unwrap();
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if let Ok(reply) = answer(&body) {
            prop_assert!(serde_json::from_slice::<Value>(&reply.body).is_ok());
        }
    }
}
