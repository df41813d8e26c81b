//! Which object a review is about, for a line in the log.

use std::borrow::Cow;

use serde::Deserialize;

use crate::text::shortened;

/// As long as a name in Kubernetes may be, in characters: what is sent may be longer.
const SHOWN: usize = 253;

/// Which object a review is about. What is not there is empty, and so is all of it where one part is no text.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct About {
    /// By which kube-apiserver knows the request.
    pub uid: String,
    /// The object's kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name, or what kube-apiserver will make one of.
    pub name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Review<'a> {
    #[serde(borrow)]
    request: Request<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Request<'a> {
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    kind: Kind<'a>,
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    object: Option<Object<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Kind<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Object<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    generate_name: Cow<'a, str>,
}

/// Reads it from a review's body, once more: hardly any is told of.
pub fn about(body: &[u8]) -> About {
    let Review { request } = serde_json::from_slice(body).unwrap_or_default();
    let shown = |text: &str| shortened(text, SHOWN).to_owned();
    let prefix = request.object.unwrap_or_default().metadata.generate_name;
    About {
        uid: shown(&request.uid),
        kind: shown(&request.kind.kind),
        namespace: shown(&request.namespace),
        name: shown(match request.name.is_empty() {
            true => &prefix,
            false => &request.name,
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_there_is_told_and_what_is_no_text_makes_all_of_it_empty() {
        let request = json!({"uid": "u\n", "kind": {"kind": "Pod"}, "namespace": "ns", "name": "n",
            "object": {"metadata": {"generateName": "g-"}}});
        let of = |request: &serde_json::Value| {
            let About {
                uid,
                kind,
                namespace,
                name,
            } = about(json!({"request": request}).to_string().as_bytes());
            [uid, kind, namespace, name].join("|")
        };
        for (key, value, expected) in [
            ("uid", json!("u\n"), "u\n|Pod|ns|n"),
            ("name", json!(""), "u\n|Pod|ns|g-"),
            ("object", json!(null), "u\n|Pod|ns|n"),
            (
                "namespace",
                json!("x".repeat(300)),
                &format!("u\n|Pod|{}|n", "x".repeat(253)),
            ),
            ("namespace", json!(7), "|||"),
        ] {
            let mut request = request.clone();
            request[key] = value;
            assert_eq!(of(&request), expected);
        }
        assert_eq!(about(b"rubbish"), About::default());
        assert_eq!(about(br#"{"request":{"uid":"u"}}"#).uid, "u");
    }
}
