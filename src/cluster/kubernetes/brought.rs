//! 1.5.3's way to bring a certificate: the Secret is annotated `imageswap-byoc`, with any value,
//! and a second Secret holds the CA.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use crate::pki;
use crate::rotation::source::Source;
use crate::rotation::state;

/// What says that somebody else keeps the Secret. Its value is not looked at.
const ANNOTATION: &str = "imageswap-byoc";

/// Chain and key: as Kubernetes names them, then as 1.5.3 does.
const PAIRS: [(&str, &str); 2] = [("tls.crt", "tls.key"), ("cert.pem", "key.pem")];

/// The CA: as 1.5.3 names it, then as Kubernetes does.
const CAS: [&str; 2] = ["rootca.pem", "ca.crt"];

pub(super) fn is_brought(secret: &Secret) -> bool {
    let annotations = secret.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key(ANNOTATION))
}

/// The pair of the one, and the CA of the other; or of the same, if there is no other.
pub(super) fn state_of(secret: Secret, ca: Option<Secret>) -> state::Secret {
    let version = |of: &Secret| of.metadata.resource_version.clone().unwrap_or_default();
    let both = ca.as_ref().map(version).unwrap_or_default();
    let (own, others) = (parts(&secret), ca.as_ref().map(parts).unwrap_or_default());
    let (chain, key) = pair(&own);
    state::Secret {
        // Nothing is written on the ground of it, but a change of either is a change.
        version: format!("{}+{both}", version(&secret)),
        chain,
        key,
        ca: CAS
            .iter()
            .find_map(|name| others.get(*name))
            .or_else(|| own.get("ca.crt"))
            .cloned(),
        source: Source::Annotated,
        // Nothing is staged beside it, and nobody but its keeper may ask for another.
        next_chain: None,
        next_key: None,
        request: None,
        answered: None,
    }
}

/// What is not empty.
fn parts(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    let data = secret.data.iter().flatten();
    data.filter(|(_, ByteString(bytes))| !bytes.is_empty())
        .map(|(name, bytes)| (name.clone(), bytes.0.clone()))
        .collect()
}

/// The first pair that is whole, of those that ImageSwap did not make, if there is one: that may be from before the
/// annotation. Else what there is of one.
fn pair(parts: &BTreeMap<String, Vec<u8>>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let found = |(chain, key)| (parts.get(chain).cloned(), parts.get(key).cloned());
    let pairs = PAIRS.map(found);
    let mut whole = pairs.iter().filter(|(c, k)| c.is_some() && k.is_some());
    let is_brought = |(chain, _): &&(Option<Vec<u8>>, _)| {
        let chain = chain.as_deref().map(String::from_utf8_lossy);
        chain.is_some_and(|chain| pki::is_foreign(&chain))
    };
    let whole = whole.clone().find(is_brought).or_else(|| whole.next());
    let some = || pairs.iter().find(|(c, k)| c.is_some() || k.is_some());
    whole.or_else(some).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(version: &str, annotations: &[&str], data: &[(&str, &str)]) -> Secret {
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        let pairs = data.iter().map(|(n, t)| ((*n).to_owned(), bytes(t)));
        let data: BTreeMap<_, _> = pairs.collect();
        let annotations: BTreeMap<_, _> = annotations.iter().map(|name| (*name, "")).collect();
        serde_json::from_value(json!({
            "metadata": {"resourceVersion": version, "annotations": annotations},
            "data": data,
        }))
        .unwrap()
    }

    #[test]
    fn the_annotation_alone_counts() {
        assert!(is_brought(&secret("1", &["a", "imageswap-byoc"], &[])));
        assert!(!is_brought(&secret("1", &["imageswap"], &[])));
        assert!(!is_brought(&Secret::default()));
    }

    /// A Secret that was ImageSwap's before it was annotated.
    #[test]
    fn what_imageswap_made_gives_way_to_what_was_brought() {
        let now = time::OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let minted = pki::mint(&["a".to_owned()], time::Duration::days(9), now).unwrap();
        let theirs = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        let (chain, key) = (theirs.cert.pem(), theirs.signing_key.serialize_pem());
        let ours = [("tls.crt", &*minted.chain), ("tls.key", &*minted.key)];
        let brought = [("cert.pem", &*chain), ("key.pem", &*key)];
        let chain_of = |data: &[(&str, &str)]| state_of(secret("1", &[], data), None).chain;
        let expect = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(chain_of(&[ours, brought].concat()), expect(&chain));
        assert_eq!(chain_of(&ours), expect(&minted.chain));
        // Of two that were brought, Kubernetes' names go first.
        let again = [("tls.crt", &*chain), ("tls.key", &*key)];
        let other = [("cert.pem", "c2"), ("key.pem", "k2")];
        assert_eq!(chain_of(&[again, other].concat()), expect(&chain));
    }

    #[test]
    fn both_names_of_each_part_are_known() {
        let ours = [("tls.crt", "c1"), ("tls.key", "k1")];
        let theirs = [("cert.pem", "c2"), ("key.pem", "k2")];
        let half = [("tls.crt", "c1"), ("tls.key", "")];
        let own_ca = [("tls.crt", "c1"), ("tls.key", "k1"), ("ca.crt", "own")];
        let both = [ours, theirs].concat();
        let half_and_theirs = [half, theirs].concat();
        let (root, ca) = (("rootca.pem", "root"), ("ca.crt", "ca"));
        for (data, cas, expected) in [
            (&ours[..], &[root, ca][..], "c1 k1 root"),
            (&theirs, &[ca], "c2 k2 ca"),
            (&both, &[root], "c1 k1 root"),
            (&half_and_theirs, &[root], "c2 k2 root"),
            (&half, &[("rootca.pem", ""), ca], "c1 - ca"),
            (&own_ca, &[root], "c1 k1 root"),
            (&own_ca, &[], "c1 k1 own"),
            (&[], &[], "- - -"),
        ] {
            let (secret, ca) = (secret("1", &[], data), secret("2", &[], cas));
            let state = state_of(secret, (!cas.is_empty()).then_some(ca));
            let text = |part: Option<Vec<u8>>| match part {
                Some(bytes) => String::from_utf8(bytes).unwrap(),
                None => "-".to_owned(),
            };
            let found = [state.chain, state.key, state.ca].map(text).join(" ");
            assert_eq!(found, expected);
            assert_eq!(state.version, if cas.is_empty() { "1+" } else { "1+2" });
            assert_eq!(state.source, Source::Annotated);
        }
    }
}
