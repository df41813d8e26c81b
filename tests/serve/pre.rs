//! `imageswap status --pre` against the small API: a cluster before an installation.

use std::process::Output;

use serde_json::{Value, json};

use crate::api::{Api, CONFIGURATION, DEPLOYMENT, Mood, Person, SECRET};
use crate::cluster::{configuration, person};

const NODES: &str = "/api/v1/nodes";
const NAMESPACE: &str = "/api/v1/namespaces/ns";

/// Asks with these words besides.
async fn pre(api: &Api, words: &[&str]) -> Output {
    person(api, &[&["status", "--pre"], words].concat()).await
}

/// The exit code, and the findings by their identifiers.
async fn findings(api: &Api) -> (i32, Vec<String>) {
    let output = pre(api, &["-o", "json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let found = report["findings"].as_array().unwrap().iter();
    let ids = found.map(|finding| finding["id"].as_str().unwrap().to_owned());
    assert_eq!(
        report["healthy"],
        output.status.code() == Some(0),
        "{report}"
    );
    (output.status.code().unwrap(), ids.collect())
}

fn add_nodes(api: &Api, count: usize, taint: Value) {
    add_nodes_named(api, "node", count, taint);
}

fn add_nodes_named(api: &Api, name: &str, count: usize, taint: Value) {
    for n in 0..count {
        let node = json!({
            "metadata": {"labels": {"kubernetes.io/os": "linux"}}, "spec": {"taints": taint},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        api.put(&format!("{NODES}/{name}-{n}"), node);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_cluster_is_right_and_nothing_is_written() {
    let api = Api::start().await;
    api.set_person(Person::default());
    add_nodes(&api, 2, json!([]));
    assert_eq!(findings(&api).await, (0, vec!["maps-missing".to_owned()]));
    let text = String::from_utf8(pre(&api, &[]).await.stdout).unwrap();
    assert!(
        text.contains("Installing ImageSwap in ns: nothing is in the way"),
        "{text}"
    );
    assert!(
        text.contains("note[maps-missing]") && text.contains("help:"),
        "{text}"
    );
    let writes =
        |call: &String| !call.starts_with("GET") && !call.ends_with("/selfsubjectaccessreviews");
    assert!(!api.calls().iter().any(writes), "{:?}", api.calls());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_is_found_in_the_objects() {
    let api = Api::start().await;
    api.set_person(Person {
        denied: vec!["clusterroles", "deployments", "namespaces"],
    });
    add_nodes(&api, 1, json!([{"key": "k", "effect": "NoSchedule"}]));
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    let metadata = json!({"labels": labels, "deletionTimestamp": "2026-01-01T00:00:00Z"});
    api.put(NAMESPACE, json!({"metadata": metadata}));
    let mut own = configuration();
    own["webhooks"][0]["namespaceSelector"] =
        json!({"matchLabels": {"k8s.twr.io/imageswap": "enabled"}});
    api.put(CONFIGURATION, own);
    let mut rival = configuration();
    rival["webhooks"][0]["objectSelector"] =
        json!({"matchExpressions": [{"key": "k8s.twr.io/imageswap", "operator": "Exists"}]});
    rival["webhooks"][0]["rules"] = json!([
        {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]},
    ]);
    api.put(&CONFIGURATION.replace("imageswap-webhook", "rival"), rival);
    // 1.5.3, made by another tool than kubectl.
    api.put(
        DEPLOYMENT,
        json!({"metadata": {}, "spec": {
            "selector": {"matchLabels": {"app": "imageswap"}},
            "template": {"metadata": {}, "spec": {
                "initContainers": [{"name": "init"}],
                "containers": [{"name": "imageswap"}],
            }},
        }}),
    );
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/imageswap-read";
    api.put(role, json!({"metadata": {}}));
    let scaler = "/apis/autoscaling/v2/namespaces/ns/horizontalpodautoscalers/imageswap";
    api.put(scaler, json!({"metadata": {}}));
    api.put(
        &format!("{NAMESPACE}/resourcequotas/q"),
        json!({
            "metadata": {}, "spec": {"hard": {"limits.cpu": "1"}},
        }),
    );
    api.put(
        &format!("{NAMESPACE}/limitranges/l"),
        json!({"metadata": {}, "spec": {"limits": [
            {"type": "Container", "max": {"memory": "64Mi"}},
        ]}}),
    );
    let maps = json!({"maps": "default::mirror.io\n: :\n"});
    api.put(
        &format!("{NAMESPACE}/configmaps/imageswap-maps"),
        json!({"metadata": {}, "data": maps}),
    );
    api.put(
        SECRET,
        json!({"metadata": {"annotations": {"imageswap-byoc": "yes"}}, "data": {}}),
    );
    let (code, mut found) = findings(&api).await;
    found.sort();
    let expected = [
        "autoscaler",
        "deployment-not-applied",
        "installed-older",
        "leftovers",
        "limit-range",
        "maps-in-error",
        "namespace-terminating",
        "nodes-none",
        "quota-wants",
        "rights-missing",
        "secret-unusable",
        "webhook-blocks",
        "webhook-rival",
        "webhook-selector",
    ];
    assert_eq!((code, found), (1, expected.map(str::to_owned).to_vec()));
    let output = pre(&api, &["-o", "json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["pod_security"], "baseline");
    let text = report.to_string();
    for part in [
        "create clusterroles.rbac.authorization.k8s.io",
        "get namespaces/ns, patch namespaces/ns",
        "get deployments.apps/imageswap, patch deployments.apps/imageswap",
        "line 2: ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Those are there already.
    for part in ["create deployments", "create namespaces"] {
        assert!(!text.contains(part), "{part}: {text}");
    }
}

/// kube-apiserver tells of them by name, and of so many at once.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_free_are_found_behind_many_that_are_not() {
    let api = Api::start().await;
    api.set_person(Person::default());
    let looks = || {
        let calls = api.calls();
        let looks = calls.iter().filter(|call| **call == format!("GET {NODES}"));
        looks.count()
    };
    add_nodes(&api, 1001, json!([{"key": "k", "effect": "NoSchedule"}]));
    for (name, count, expected, more_looks) in [
        ("z", 0, "nodes-none maps-missing", 3),
        ("z", 1, "nodes-one maps-missing", 3),
        ("z", 2, "maps-missing", 3),
        // These are the first, and two are enough.
        ("a", 2, "maps-missing", 1),
    ] {
        add_nodes_named(&api, name, count, json!([]));
        let before = looks();
        let (_, found) = findings(&api).await;
        assert_eq!(found.join(" "), expected, "{name} {count}");
        assert_eq!(looks() - before, more_looks, "{name} {count}");
    }
}

/// Replicas read it when they start, and by then the webhook is there.
#[tokio::test(flavor = "multi_thread")]
async fn the_variables_of_the_replicas_are_judged_and_the_maps_by_them() {
    let api = Api::start().await;
    api.set_person(Person::default());
    add_nodes(&api, 2, json!([]));
    let put = |name: &str, data: Value| {
        let path = format!("{NAMESPACE}/configmaps/{name}");
        api.put(&path, json!({"metadata": {}, "data": data}));
    };
    put(
        "imageswap-maps",
        json!({"maps": "default::mirror.io\n: :\n"}),
    );
    put(
        "imageswap-env",
        json!({"IMAGESWAP_MODE": "maps", "IMAGESWAP_DISABLE_AUTO_MWC": "true"}),
    );
    assert_eq!(findings(&api).await, (1, vec!["maps-in-error".to_owned()]));
    put(
        "imageswap-env",
        json!({"IMAGESWAP_STRICT_MAPS": "1", "IMAGESWAP_DRAIN_DELAY": "8", "IMAGESWAP_DRAIN": "8s"}),
    );
    let (code, found) = findings(&api).await;
    assert_eq!(
        (code, found.join(" ").as_str()),
        (1, "settings-unusable maps-unusable settings-unknown",)
    );
    let text = String::from_utf8(pre(&api, &[]).await.stdout).unwrap();
    for part in [
        "IMAGESWAP_DRAIN_DELAY=\"8\": a time is",
        "imageswap-env: IMAGESWAP_DRAIN\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// As `docs/install.md` has it: the file is mounted by a patch, and its path stands beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_variable_of_the_deployment_goes_with_those_of_the_config_map() {
    let api = Api::start().await;
    api.set_person(Person::default());
    add_nodes(&api, 2, json!([]));
    api.put(
        &format!("{NAMESPACE}/configmaps/imageswap-env"),
        json!({"metadata": {}, "data": {"IMAGESWAP_CLIENT_NAME": "kube-apiserver"}}),
    );
    // Before there is one, it may come to carry it.
    let expected = "settings-unusable maps-missing";
    let (code, found) = findings(&api).await;
    assert_eq!((code, found.join(" ").as_str()), (1, expected));
    let text = String::from_utf8(pre(&api, &[]).await.stdout).unwrap();
    assert!(text.contains("warning[settings-unusable]"), "{text}");
    let install = |env: Value| {
        api.put(
            DEPLOYMENT,
            json!({"metadata": {}, "spec": {
                "selector": {"matchLabels": {"app": "imageswap"}},
                "template": {"metadata": {}, "spec": {"containers": [{
                    "name": "imageswap", "command": ["/imageswap"], "args": ["serve"], "env": env,
                    "envFrom": [{"configMapRef": {"name": "imageswap-env", "optional": true}}],
                }]}},
            }}),
        );
    };
    install(json!([{"name": "IMAGESWAP_CLIENT_CA", "value": "/client-ca/ca.crt"}]));
    let (code, found) = findings(&api).await;
    assert_eq!(
        (code, found.join(" ").as_str()),
        (0, "installed maps-missing")
    );
    install(json!([]));
    let text = String::from_utf8(pre(&api, &[]).await.stdout).unwrap();
    assert!(text.contains("error[settings-unusable]"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_deploy_does_not_know_is_in_the_way_and_so_is_a_limit_range_of_pods() {
    let api = Api::start().await;
    api.set_person(Person::default());
    add_nodes(&api, 2, json!([]));
    api.put(
        &format!("{NAMESPACE}/configmaps/imageswap-env"),
        json!({"metadata": {}, "data": {"IMAGESWAP_LISTEN": ":5001", "IMAGESWAP_DRAIN_DELAY": "1m"}}),
    );
    let limits = json!([{"type": "Pod", "max": {"cpu": "4"}}]);
    api.put(
        &format!("{NAMESPACE}/limitranges/l"),
        json!({"metadata": {}, "spec": {"limits": limits}}),
    );
    let (code, found) = findings(&api).await;
    assert_eq!(
        (code, found.join(" ").as_str()),
        (1, "limit-range settings-unfit settings-drain maps-missing")
    );
    let text = String::from_utf8(pre(&api, &[]).await.stdout).unwrap();
    for part in [
        "by its max 4 of a Pod: of cpu they ask for 50m and may take any",
        "IMAGESWAP_LISTEN=\":5001\": the Service leads to port 5000 of a Pod's address",
        "takes up to 74s to end, and the Deployment gives it 30s",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_seen_is_said_and_an_api_that_refuses_all_is_an_error() {
    let api = Api::start().await;
    // By default it is as for a replica: hardly anything may be read.
    let (code, found) = findings(&api).await;
    assert!(
        found.iter().filter(|id| *id == "not-seen").count() > 5,
        "{found:?}"
    );
    assert_eq!(code, 0, "{found:?}");
    // What may be there all the same is no right that is missing.
    for (code, expected) in [(401, 0), (403, 0), (429, 1), (500, 1), (503, 1), (504, 1)] {
        api.set_mood(Mood::Failing(code));
        let (exit, found) = findings(&api).await;
        assert_eq!(exit, expected, "{code}: {found:?}");
        assert!(found.iter().all(|id| id == "not-seen"), "{found:?}");
        assert!(found.len() > 10, "{found:?}");
        let text = String::from_utf8(pre(&api, &[]).await.stdout).unwrap();
        let severity = ["note[", "warning["][usize::from(expected == 1)];
        assert_eq!(text.matches(severity).count(), found.len(), "{text}");
    }
    api.set_mood(Mood::Forbidding);
    let output = pre(&api, &[]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("can't look at the cluster"), "{said}");
}
