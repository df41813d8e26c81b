//! A chain as a peer served it in a handshake: certificates without a key.

use rustls::pki_types::{CertificateDer, ServerName};
use time::{Duration, OffsetDateTime};
use webpki::EndEntityCert;

use super::Bundle;
use super::certificate::{dates, is_minted};
use super::judge::verify;
use crate::text::sha256;

/// A leaf and what stands between it and its CA; at least the leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    chain: Vec<CertificateDer<'static>>,
}

impl Served {
    /// What a peer sent, if it is a leaf that can be read.
    pub fn read(chain: Vec<CertificateDer<'static>>) -> Option<Self> {
        dates(chain.first()?)?;
        Some(Self { chain })
    }

    /// SHA-256 of the leaf, in hexadecimal.
    pub fn fingerprint(&self) -> String {
        sha256(self.chain.first().map_or(&[], |leaf| leaf))
    }

    /// When the leaf ends.
    pub fn not_after(&self) -> Option<OffsetDateTime> {
        Some(dates(self.chain.first()?)?.not_after)
    }

    /// For how long it was made.
    pub fn life(&self) -> Option<Duration> {
        let leaf = self.chain.first()?;
        Some(dates(leaf)?.life(is_minted(leaf)))
    }

    /// Whether it is the same leaf.
    pub fn is(&self, leaf: Option<&CertificateDer<'_>>) -> bool {
        self.chain.first() == leaf
    }

    /// Whether a client that believes these CAs, and calls by this name, goes on. The error is a
    /// part of a sentence.
    ///
    /// # Errors
    /// It does not.
    pub fn verify(&self, bundle: &Bundle, host: &str, now: OffsetDateTime) -> Result<(), String> {
        let (leaf, intermediates) = self.chain.split_first().ok_or("there is no leaf")?;
        let entity = EndEntityCert::try_from(leaf).map_err(|error| error.to_string())?;
        verify(leaf, intermediates, bundle, now).map_err(|error| error.to_string())?;
        let name = ServerName::try_from(host).map_err(|_| format!("{host} is no name"))?;
        entity
            .verify_is_valid_for_subject_name(&name)
            .map_err(|_| format!("it is not valid for {host}"))
    }
}

/// Whether a client that believes these CAs believes this leaf, by way of these intermediates (all DER).
pub fn is_leaf_trusted(
    leaf: &[u8],
    intermediates: &[Vec<u8>],
    bundle: &Bundle,
    now: OffsetDateTime,
) -> bool {
    let leaf = CertificateDer::from(leaf);
    let between = intermediates.iter().map(|der| CertificateDer::from(&**der));
    let between: Vec<_> = between.collect();
    verify(&leaf, &between, bundle, now).is_ok()
}

/// Those of the CAs by which a client believes this leaf (DER, as is what is sent with it), or did until it ended: it may
/// not have, for who says so.
pub fn needed_by_leaf(
    leaf: &[u8],
    intermediates: &[Vec<u8>],
    bundle: &Bundle,
    now: OffsetDateTime,
) -> Bundle {
    let Some(dates) = dates(&CertificateDer::from(leaf)) else {
        return Bundle::default();
    };
    let between = intermediates.iter().map(|der| CertificateDer::from(&**der));
    let between = between.filter_map(|between| Some(self::dates(&between)?.not_after));
    let end = between.fold(dates.not_after, OffsetDateTime::min);
    let is_needed = |ca: &Bundle| {
        // A leaf may outlive its CA, where somebody else made them.
        let end = ca.last_end().map_or(end, |ca| ca.min(end));
        let at = now.max(dates.not_before).min(end - Duration::SECOND);
        is_leaf_trusted(leaf, intermediates, ca, at)
    };
    bundle
        .singles()
        .filter(is_needed)
        .fold(Bundle::default(), |all, one| all.and(&one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Pem, by_way_of_another, mint};
    use rustls::pki_types::pem::PemObject;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_000));

    fn served(pem: &Pem) -> Served {
        let chain = CertificateDer::pem_slice_iter(pem.chain.as_bytes());
        Served::read(chain.collect::<Result<_, _>>().unwrap()).unwrap()
    }

    #[test]
    fn it_is_verified_as_kube_apiserver_does_it() {
        let [one, two] = ["a.b.svc", "a.b.svc"]
            .map(|name| mint(&[name.to_owned()], Duration::days(2), NOW).unwrap());
        let (leaf, ca) = (served(&one), Bundle::read(one.ca.as_bytes()));
        assert_eq!(leaf.verify(&ca, "a.b.svc", NOW), Ok(()));
        assert!(
            leaf.verify(&ca, "c.b.svc", NOW)
                .unwrap_err()
                .contains("c.b.svc")
        );
        assert!(
            leaf.verify(&ca, "a.b.svc", NOW + Duration::days(3))
                .is_err()
        );
        let other = Bundle::read(two.ca.as_bytes());
        assert!(leaf.verify(&other, "a.b.svc", NOW).is_err());
        assert!(leaf.verify(&Bundle::default(), "a.b.svc", NOW).is_err());
        for (bundle, at, is_right) in [(&ca, 0, true), (&other, 0, false), (&ca, 3, false)] {
            let der = one.leaf().unwrap();
            let trusted = is_leaf_trusted(&der, &[], bundle, NOW + Duration::days(at));
            assert_eq!(trusted, is_right, "{at}");
        }
        assert!(!is_leaf_trusted(&[1, 2, 3], &[], &ca, NOW));
        let both = other.clone().and(&ca);
        for at in [-9, 0, 1, 3, 900] {
            let now = NOW + Duration::days(at);
            let needed = needed_by_leaf(&one.leaf().unwrap(), &[], &both, now);
            assert!(needed.is_same(&ca), "{at}");
            assert!(needed_by_leaf(&[1, 2, 3], &[], &both, now).is_empty());
        }
        assert_eq!(leaf.fingerprint().len(), 64);
        assert_ne!(leaf.fingerprint(), served(&two).fingerprint());
        assert_eq!(leaf.not_after(), Some(NOW + Duration::days(2)));
        assert!(Served::read(Vec::new()).is_none());
        assert!(Served::read(vec![CertificateDer::from(vec![1, 2, 3])]).is_none());
    }

    #[test]
    fn a_leaf_is_believed_by_way_of_what_is_sent_with_it() {
        let (root, between, leaf) = by_way_of_another(NOW);
        let root = Bundle::read(root.as_bytes());
        let ways = [
            (vec![between.clone()], true),
            (vec![], false),
            (vec![leaf.clone()], false),
        ];
        for (intermediates, is_trusted) in ways {
            let trusted = is_leaf_trusted(&leaf, &intermediates, &root, NOW);
            assert_eq!(trusted, is_trusted, "{}", intermediates.len());
        }
        let late = NOW + Duration::days(9);
        assert!(!is_leaf_trusted(
            &leaf,
            std::slice::from_ref(&between),
            &root,
            late
        ));
        // Its root ends first.
        for days in [0, 9, 99, 900] {
            let now = NOW + Duration::days(days);
            let needed = needed_by_leaf(&leaf, std::slice::from_ref(&between), &root, now);
            assert!(needed.is_same(&root), "{days}");
            assert!(needed_by_leaf(&leaf, &[], &root, now).is_empty());
        }
    }
}
