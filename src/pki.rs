//! Certificates: mint a pair, read and judge a chain. No I/O; the time is an argument.
//!
//! A pair is minted as a whole: a CA key is made, signs one leaf, and is dropped. CA and leaf end
//! together, so that a CA can't expire under a leaf that is served. Keys are never printed.

mod alone;
mod bundle;
mod ca;
mod certificate;
mod judge;
#[cfg(test)]
pub(crate) mod memo;
mod mint;
mod names;
mod readable;
mod served;

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use crate::text::sha256;

pub use self::alone::judge_alone;
pub use self::bundle::Bundle;
pub use self::certificate::is_foreign;
pub use self::judge::{Flaw, can_be_asked_for, is_key_of, judge};
pub use self::mint::{MintError, mint};
#[cfg(test)]
pub(crate) use self::mint::{by_way_of_another, two_ways};
pub use self::names::names_of;
pub use self::served::{Served, is_leaf_trusted, needed_by_leaf};

/// What is kept of a pair, each part PEM: in files or in a Secret of type `kubernetes.io/tls`.
#[derive(Clone)]
pub struct Pem {
    /// `tls.crt`: the leaf, and what stands between it and the CA.
    pub chain: String,
    /// `tls.key`: the leaf's private key.
    pub key: String,
    /// `ca.crt`: what clients trust.
    pub ca: String,
}

/// A chain and its key, PEM, without what trusts them.
#[derive(Clone)]
pub struct KeyPem {
    /// The leaf, and what stands between it and the CA.
    pub chain: String,
    /// The leaf's private key.
    pub key: String,
}

/// A pair that was judged and found right.
#[derive(Clone)]
pub struct Pair {
    /// Chain and key as rustls serves them.
    pub certified: Arc<CertifiedKey>,
    /// When the leaf begins.
    pub not_before: OffsetDateTime,
    /// When the leaf ends.
    pub not_after: OffsetDateTime,
    /// When the last CA in the trust bundle ends by which it is believed, or an intermediate on the way.
    pub ca_not_after: OffsetDateTime,
    /// Whether ImageSwap minted it, and nobody brought it.
    pub is_minted: bool,
}

impl Pem {
    /// The leaf, DER, if there is one that can be read.
    pub fn leaf(&self) -> Option<Vec<u8>> {
        let leaf = CertificateDer::from_pem_slice(self.chain.as_bytes());
        leaf.ok().map(|leaf| leaf.to_vec())
    }
}

impl KeyPem {
    /// SHA-256 of the leaf, in hexadecimal, if there is one that can be read.
    pub fn fingerprint(&self) -> Option<String> {
        let leaf = CertificateDer::from_pem_slice(self.chain.as_bytes());
        leaf.ok().map(|leaf| sha256(&leaf))
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pem { … }")
    }
}

impl fmt::Debug for KeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPem { … }")
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair {{ not_after: {}, … }}", self.not_after)
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_000));
    const YEAR: Duration = Duration::days(365);

    fn names() -> Vec<String> {
        ["imageswap.ns.svc", "localhost", "127.0.0.1"]
            .map(str::to_owned)
            .to_vec()
    }

    fn minted() -> Pem {
        mint(&names(), YEAR, NOW).unwrap()
    }

    #[test]
    fn a_minted_pair_is_right_from_two_days_back_to_its_end() {
        let pem = minted();
        for (at, is_right) in [
            (NOW, true),
            (NOW - Duration::hours(48), true),
            (NOW - Duration::hours(50), false),
            (NOW + YEAR - Duration::minutes(1), true),
            (NOW + YEAR + Duration::minutes(1), false),
        ] {
            assert_eq!(judge(&pem, &names(), at).is_ok(), is_right, "{at}");
        }
        let early = judge(&pem, &names(), NOW - YEAR).unwrap_err().to_string();
        assert!(early.contains("clock slow"), "{early}");
        let pair = judge(&pem, &names(), NOW).unwrap();
        assert!(pair.is_minted);
        assert_eq!(pair.not_after, NOW + YEAR);
        assert_eq!(pair.not_after, pair.ca_not_after);
    }

    #[test]
    fn the_ca_that_ends_is_the_one_that_signed() {
        let (good, longer) = (minted(), mint(&names(), YEAR * 2, NOW).unwrap());
        let both = Pem {
            ca: format!("{}{}", longer.ca, good.ca),
            ..good
        };
        let pair = judge(&both, &names(), NOW).unwrap();
        assert_eq!(pair.ca_not_after, NOW + YEAR);
        let bundle = Bundle::read(both.ca.as_bytes());
        assert_eq!(bundle.last_end(), Some(NOW + YEAR * 2));
        assert_eq!(pair.ca_end(&bundle, NOW + YEAR * 3), None);
    }

    #[test]
    fn each_flaw_is_named() {
        let (good, other) = (minted(), minted());
        let pem = |chain: &str, key: &str, ca: &str| Pem {
            chain: chain.to_owned(),
            key: key.to_owned(),
            ca: ca.to_owned(),
        };
        let mut wanted = names();
        let right = |pem: &Pem| judge(pem, &names(), NOW).unwrap_err().to_string();
        for (pem, sentence) in [
            (pem("", &good.key, &good.ca), "tls.crt holds no certificate"),
            (
                pem("rubbish", &good.key, &good.ca),
                "tls.crt holds no certificate",
            ),
            (
                pem(&good.chain, "", &good.ca),
                "tls.key holds no private key",
            ),
            (
                pem(&good.chain, &good.key, ""),
                "ca.crt holds no certificate",
            ),
            (
                pem(&good.chain, &other.key, &good.ca),
                "tls.key is not the key of the leaf",
            ),
            (
                pem(&good.chain, &good.key, &other.ca),
                "does not lead to a CA in ca.crt",
            ),
        ] {
            let text = right(&pem);
            assert!(text.contains(sentence), "{text}");
        }
        wanted.push("elsewhere.svc".to_owned());
        let text = judge(&good, &wanted, NOW).unwrap_err().to_string();
        assert!(text.contains("not valid for elsewhere.svc"), "{text}");
    }

    #[test]
    fn a_bundle_may_hold_more_than_the_one_ca() {
        let (good, other) = (minted(), minted());
        let both = Pem {
            ca: format!("# two\n{}{}", other.ca, good.ca),
            ..good
        };
        assert!(judge(&both, &names(), NOW).is_ok());
    }

    #[test]
    fn a_pair_is_trusted_by_whoever_believes_its_ca_while_both_live() {
        let (good, other) = (minted(), minted());
        let pair = judge(&good, &names(), NOW).unwrap();
        let believes = |text: &str, at| pair.is_trusted(&Bundle::read(text.as_bytes()), at);
        assert!(believes(&good.ca, NOW));
        assert!(believes(&(other.ca.clone() + &good.ca), NOW));
        assert!(!believes(&other.ca, NOW));
        assert!(!believes("", NOW));
        assert!(!believes(&good.ca, NOW + YEAR));
        // What it needs of a bundle does not depend on the time.
        let both = Bundle::read((other.ca.clone() + &good.ca).as_bytes());
        for at in [NOW - YEAR, NOW, NOW + YEAR + YEAR] {
            assert_eq!(
                pair.needs(&both, at).pem(),
                good.ca.replace('\r', ""),
                "{at}"
            );
        }
    }

    /// What a certificate of [`names`] begins with that lives a year from now.
    fn of_a_year() -> rcgen::CertificateParams {
        let mut params = rcgen::CertificateParams::new(names()).unwrap();
        (params.not_before, params.not_after) = (NOW, NOW + YEAR);
        params
    }

    /// A leaf like this, of a CA like that.
    fn issued(leaf: rcgen::CertificateParams, ca: rcgen::CertificateParams) -> Pem {
        use rcgen::{CertifiedIssuer, KeyPair};
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        Pem {
            chain: leaf.signed_by(&key, &ca).unwrap().pem(),
            key: key.serialize_pem(),
            ca: ca.pem(),
        }
    }

    /// As Go does, and webpki does not.
    #[test]
    fn a_ca_is_believed_from_its_begin_to_its_end_and_if_it_may_sign() {
        use rcgen::KeyUsagePurpose::{DigitalSignature, KeyCertSign};
        use rcgen::{BasicConstraints, CertificateParams, IsCa};
        let params = |begin, days| {
            let mut params = CertificateParams::new(names()).unwrap();
            params.not_before = NOW + Duration::days(begin);
            params.not_after = NOW + Duration::days(days);
            params
        };
        let is_ca = || IsCa::Ca(BasicConstraints::Constrained(0));
        for (begin, end, is_ca, usages, at, is_believed) in [
            (0, 2, is_ca(), vec![], 1, true),
            (0, 2, is_ca(), vec![], 3, false),
            (2, 9, is_ca(), vec![], 1, false),
            (2, 9, is_ca(), vec![], 3, true),
            (0, 9, is_ca(), vec![KeyCertSign, DigitalSignature], 1, true),
            (0, 9, is_ca(), vec![DigitalSignature], 1, false),
            (0, 9, IsCa::NoCa, vec![], 1, false),
            (0, 9, IsCa::ExplicitNoCa, vec![], 1, false),
        ] {
            let case = format!("{begin} {end} {is_ca:?} {usages:?} {at}");
            let mut ca = params(begin, end);
            (ca.is_ca, ca.key_usages) = (is_ca, usages);
            let pem = issued(params(0, 20), ca);
            match judge(&pem, &names(), NOW + Duration::days(at)) {
                Ok(_) => assert!(is_believed, "{case}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(
                        !is_believed && text.contains("does not lead to a CA"),
                        "{case}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_ca_that_makes_other_leaves_is_not_believed() {
        use rcgen::ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
        use rcgen::{BasicConstraints, IsCa};
        for (uses, is_believed) in [
            (vec![], true),
            (vec![Any], true),
            (vec![ClientAuth, ServerAuth], true),
            (vec![ClientAuth], false),
        ] {
            let mut ca = of_a_year();
            ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            ca.extended_key_usages = uses.clone();
            let pem = issued(of_a_year(), ca);
            assert_eq!(judge(&pem, &names(), NOW).is_ok(), is_believed, "{uses:?}");
        }
    }

    const SERIAL: [u8; 2] = [0x7f, 0x17];

    /// With another first byte of its serial number: rcgen makes no negative ones.
    fn with_serial(pem: &str, first: u8) -> String {
        use base64::prelude::{BASE64_STANDARD, Engine as _};
        let mut der = CertificateDer::from_pem_slice(pem.as_bytes())
            .unwrap()
            .to_vec();
        let number = [2, 2, SERIAL[0], SERIAL[1]];
        let at = der.windows(4).position(|bytes| bytes == number).unwrap();
        der[at + 2] = first;
        let text = BASE64_STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    }

    /// Go ends the handshake, whatever the way to a CA may be.
    #[test]
    fn a_leaf_or_an_intermediate_with_a_negative_serial_number_is_refused() {
        let (mut leaf, mut ca) = (of_a_year(), of_a_year());
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        for one in [&mut leaf, &mut ca] {
            one.serial_number = Some(SERIAL.to_vec().into());
        }
        let good = issued(leaf, ca);
        judge(&good, &names(), NOW).unwrap();
        let sent = |chain: String| Pem {
            chain,
            ..good.clone()
        };
        for chain in [
            with_serial(&good.chain, 0xff),
            // Nobody needs it.
            good.chain.clone() + &with_serial(&good.ca, 0xff),
        ] {
            let refused = judge(&sent(chain), &names(), NOW).unwrap_err().to_string();
            assert!(refused.contains("serial number is below zero"), "{refused}");
        }
        judge(&sent(good.chain.clone() + &good.ca), &names(), NOW).unwrap();
    }

    /// The text of a certificate with its second line of base64 left out.
    fn with_a_line_lost(pem: &str) -> String {
        let lines = pem.lines().enumerate().filter(|(at, _)| *at != 2);
        lines.map(|(_, line)| format!("{line}\n")).collect()
    }

    /// Go ends the handshake there, whether it needs it or not.
    #[test]
    fn a_certificate_that_can_not_be_read_is_named_wherever_it_is_sent() {
        let (good, other) = (minted(), minted());
        let broken = with_a_line_lost(&other.ca);
        let behind = good.chain.clone() + &broken;
        let between = good.chain.clone() + &broken + &good.ca;
        for (chain, key, ca, place) in [
            (&behind, &good.key, &good.ca, 2),
            (&between, &good.key, &good.ca, 2),
        ] {
            let pem = Pem {
                chain: chain.clone(),
                key: key.clone(),
                ca: ca.clone(),
            };
            let named = format!("certificate {place} in tls.crt is damaged");
            let together = judge(&pem, &names(), NOW).unwrap_err();
            let alone = judge_alone(chain, key, &names(), NOW).unwrap_err();
            for refused in [together, alone] {
                assert!(refused.to_string().contains(&named), "{refused}");
            }
            let sent = certificates(chain);
            let served = Served::read(sent).unwrap();
            let ca = Bundle::read(ca.as_bytes());
            let refused = served.verify(&ca, "localhost", NOW).unwrap_err();
            assert!(refused.contains("is damaged"), "{refused}");
        }
    }

    fn certificates(chain: &str) -> Vec<CertificateDer<'static>> {
        let sent: Result<_, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
        sent.unwrap()
    }

    /// As Go has it, which refuses what it does not know where that is critical, and negative serial numbers.
    #[test]
    fn a_ca_that_go_does_not_take_is_not_believed() {
        use rcgen::{BasicConstraints, CustomExtension, IsCa};
        let of_netscape = [2, 16, 840, 1, 113_730, 1, 13];
        let policies = [2, 5, 29, 32];
        for (oid, is_critical, serial, is_believed) in [
            (of_netscape.as_slice(), false, 0x7f, true),
            (&of_netscape, true, 0x7f, false),
            (&policies, true, 0x7f, true),
            (&[2, 5, 29, 9], true, 0x7f, false),
            (&[2, 5, 29, 9], false, 0x7f, true),
            (&policies, true, 0xff, false),
        ] {
            let mut ca = of_a_year();
            ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            ca.serial_number = Some(SERIAL.to_vec().into());
            let mut extension = CustomExtension::from_oid_content(oid, vec![0x30, 0]);
            extension.set_criticality(is_critical);
            ca.custom_extensions.push(extension);
            let mut pem = issued(of_a_year(), ca);
            // Nobody looks at the signature of a root.
            pem.ca = with_serial(&pem.ca, serial);
            let judged = judge(&pem, &names(), NOW);
            assert_eq!(
                judged.is_ok(),
                is_believed,
                "{oid:?} {is_critical} {serial}"
            );
        }
    }

    /// As Go counts, and webpki does not for an anchor.
    #[test]
    fn no_more_stand_between_a_ca_and_a_leaf_than_it_says() {
        use rcgen::{BasicConstraints, CertifiedIssuer, IsCa, Issuer, KeyPair};
        let named = |name: &str| {
            let mut params = of_a_year();
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            params
        };
        let ca = |name, constraints| {
            let mut params = named(name);
            params.is_ca = IsCa::Ca(constraints);
            params
        };
        let any = BasicConstraints::Unconstrained;
        let middle_key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(ca("middle", any), &middle_key);
        let key = KeyPair::generate().unwrap();
        let leaf = named("leaf").signed_by(&key, &issuer).unwrap().pem();
        for (constraints, is_believed) in [
            (any, true),
            (BasicConstraints::Constrained(1), true),
            (BasicConstraints::Constrained(0), false),
        ] {
            let root = ca("root", constraints);
            let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
            let middle = ca("middle", BasicConstraints::Unconstrained);
            let middle = middle.signed_by(&middle_key, &root).unwrap().pem();
            let pem = Pem {
                chain: leaf.clone() + &middle,
                key: key.serialize_pem(),
                ca: root.pem(),
            };
            let judged = judge(&pem, &names(), NOW);
            assert_eq!(judged.is_ok(), is_believed, "{constraints:?}: {judged:?}");
            // Nobody goes further than to what is believed itself.
            let pem = Pem { ca: middle, ..pem };
            assert!(judge(&pem, &names(), NOW).is_ok());
        }
    }

    #[test]
    fn an_intermediate_that_ends_ends_the_way_to_the_ca_unless_there_is_another() {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
        let params = |name: &str, days| {
            let mut params = CertificateParams::new(names()).unwrap();
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            params.not_before = NOW - Duration::DAY;
            params.not_after = NOW + Duration::days(days);
            params
        };
        let ca = |name, days| {
            let mut params = params(name, days);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let root = CertifiedIssuer::self_signed(ca("root", 100), KeyPair::generate().unwrap());
        let root = root.unwrap();
        let middle_key = KeyPair::generate().unwrap();
        // The same key and name, certified for as many days.
        let middle = |days| ca("middle", days).signed_by(&middle_key, &root).unwrap();
        let issuer = rcgen::Issuer::new(ca("middle", 1), &middle_key);
        let key = KeyPair::generate().unwrap();
        for (leaf, middles, end) in [
            (20, vec![9], 9),
            (20, vec![9, 12], 12),
            (20, vec![12, 9], 12),
            (20, vec![9, 50], 100),
            (20, vec![50], 100),
            // The leaf itself is told by another gauge.
            (5, vec![9], 100),
        ] {
            let mut chain = params("leaf", leaf).signed_by(&key, &issuer).unwrap().pem();
            chain.extend(middles.iter().map(|days| middle(*days).pem()));
            let pem = Pem {
                chain,
                key: key.serialize_pem(),
                ca: root.pem(),
            };
            let pair = judge(&pem, &names(), NOW).unwrap();
            let expected = NOW + Duration::days(end);
            assert_eq!(pair.ca_not_after, expected, "{leaf} {middles:?}");
        }
    }

    /// By Go, too: what is believed itself is asked for no issuer.
    #[test]
    fn a_leaf_may_be_its_own_ca() {
        use rcgen::{CertificateParams, KeyPair};
        let mut params = CertificateParams::new(names()).unwrap();
        params.not_before = NOW;
        params.not_after = NOW + YEAR;
        let key = KeyPair::generate().unwrap();
        let leaf = params.self_signed(&key).unwrap().pem();
        let pem = Pem {
            chain: leaf.clone(),
            key: key.serialize_pem(),
            ca: leaf,
        };
        assert!(judge(&pem, &names(), NOW).is_ok());
    }

    #[test]
    fn keys_are_not_printed() {
        let pem = minted();
        let printed = format!("{pem:?} {:?}", judge(&pem, &names(), NOW).unwrap());
        assert!(!printed.contains("PRIVATE"), "{printed}");
        assert!(printed.len() < 100, "{printed}");
    }
}
