//! `imageswap rotate` against the small API: what is asked for, and what is refused because nobody would
//! carry it out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::api::{Api, CONFIGURATION, SECRET};
use crate::cluster::{configuration, person, person_unread, until_ready};
use crate::pem::pair;
use crate::process::Serve;

/// A Secret of ours, or of somebody who annotated it.
fn secret(annotations: Value) -> Value {
    let pem = pair();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"annotations": annotations},
        "type": "kubernetes.io/tls",
        "data": {
            "tls.crt": STANDARD.encode(pem.chain),
            "tls.key": STANDARD.encode(pem.key),
            "ca.crt": STANDARD.encode(pem.ca),
        },
    })
}

/// The exit code, and all that it says.
async fn rotate(api: &Api, words: &[&str]) -> (Option<i32>, String) {
    let output = person(api, &[&["rotate"], words].concat()).await;
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn asked(api: &Api) -> bool {
    let annotation = "/metadata/annotations/k8s.twr.io~1imageswap-rotate";
    let secret = api.object(SECRET);
    secret.is_some_and(|secret| secret.pointer(annotation).is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_would_carry_out_is_refused_with_the_next_step() {
    let api = Api::start().await;
    for (secret_is, has_hook, sentence) in [
        (None, true, "there is no Secret yet"),
        (
            Some(secret(json!({}))),
            false,
            "no webhook calls the Service",
        ),
        (
            Some(secret(json!({"imageswap-byoc": ""}))),
            true,
            "renew it where it comes from (docs/install.md)",
        ),
    ] {
        api.delete(CONFIGURATION);
        if has_hook {
            api.put(CONFIGURATION, configuration());
        }
        if let Some(secret) = secret_is {
            api.put(SECRET, secret);
        }
        let (code, text) = rotate(&api, &["--wait"]).await;
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(sentence), "{text}");
        assert!(!asked(&api), "{text}");
    }
}

/// `| true` in a script.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_of_it_has_what_he_asked_for_and_the_right_exit_code() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    api.put(SECRET, secret(json!({})));
    let status = person_unread(&api, &["status"]).await;
    assert_eq!(status.status.code(), Some(1), "{status:?}");
    let rotate = person_unread(&api, &["rotate"]).await;
    assert_eq!(rotate.status.code(), Some(0), "{rotate:?}");
    assert!(asked(&api));
    let waits = ["rotate", "--wait", "--timeout", "1s"];
    let waited = person_unread(&api, &waits).await;
    assert_eq!(waited.status.code(), Some(2), "{waited:?}");
    let text = String::from_utf8(waited.stderr).unwrap();
    assert!(
        text.contains("nobody leads; it goes on once somebody does"),
        "{text}"
    );
    assert!(!text.contains("the leader's log"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_is_asked_for_and_waited_for_and_what_it_waits_for_is_said() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    api.put(SECRET, secret(json!({})));
    let (code, text) = rotate(&api, &[]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("nobody leads now"), "{text}");
    assert!(text.contains("asked for a rotation"), "{text}");
    assert!(asked(&api));

    let serve = Serve::start_in_cluster(api.address, &["--trust-delay", "0s"]);
    until_ready(&serve).await;
    // As far as it goes where a Service has no endpoints.
    let (code, text) = rotate(&api, &["--wait", "--timeout", "12s"]).await;
    assert_eq!(code, Some(2), "{text}");
    for part in [
        "staged: the new CA is being made known",
        "promoted: the replicas take the new certificate",
        "not done within 12s",
        "until the Service has an endpoint to look at",
    ] {
        assert!(text.contains(part), "no {part:?}: {text}");
    }
}
