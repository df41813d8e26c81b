//! Judges a pair where nobody says what clients trust: the chain against itself.

use rustls::pki_types::{CertificateDer, ServerName};
use time::OffsetDateTime;
use webpki::EndEntityCert;

use super::judge::{certificates, certified, not_after, verify};
use super::{Flaw, Pair};

/// Reads a pair and judges what can be said of it without a CA: the chain leads from the leaf to
/// its last certificate, its dates are right, the key is the leaf's own, and it is valid for every
/// one of the names. Of a leaf without a chain, anybody may be the issuer.
///
/// # Errors
/// The first flaw found.
pub fn judge_alone(
    chain: &str,
    key: &str,
    names: &[String],
    now: OffsetDateTime,
) -> Result<Pair, Flaw> {
    let chain = certificates(chain, "tls.crt")?;
    let (leaf, others) = chain.split_first().ok_or(Flaw::NoCertificate("tls.crt"))?;
    let entity = EndEntityCert::try_from(leaf).map_err(|_| Flaw::NoCertificate("tls.crt"))?;
    match (verify(&entity, others, last(others), now), others) {
        // What is judged before the issuer is looked for was right.
        (Err(webpki::Error::UnknownIssuer), []) | (Ok(()), _) => {}
        (Err(error), _) => return Err(Flaw::OwnChain(error)),
    }
    named(&entity, names)?;
    let ends = |certificate| not_after(certificate).ok_or(Flaw::NoCertificate("tls.crt"));
    Ok(Pair {
        not_after: ends(leaf)?,
        ca_not_after: ends(chain.last().unwrap_or(leaf))?,
        certified: certified(chain, key)?.into(),
    })
}

impl Pair {
    /// Whether a client that asks for this name believes the leaf to be of that name.
    pub fn is_valid_for(&self, name: &str) -> bool {
        let leaf = self.certified.cert.first();
        leaf.and_then(|leaf| EndEntityCert::try_from(leaf).ok())
            .is_some_and(|entity| named(&entity, &[name.to_owned()]).is_ok())
    }
}

/// The last one, as a bundle of one.
fn last<'c>(chain: &'c [CertificateDer<'static>]) -> &'c [CertificateDer<'static>] {
    chain.last().map(std::slice::from_ref).unwrap_or_default()
}

/// Every one of the names.
pub(super) fn named(entity: &EndEntityCert<'_>, names: &[String]) -> Result<(), Flaw> {
    for name in names {
        let flaw = || Flaw::Name(name.clone());
        let server = ServerName::try_from(name.as_str()).map_err(|_| flaw())?;
        entity
            .verify_is_valid_for_subject_name(&server)
            .map_err(|_| flaw())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;
    use crate::pki::{Pem, mint};

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_000));

    fn minted(days: i64) -> Pem {
        mint(&["a.ns.svc".to_owned()], Duration::days(days), NOW).unwrap()
    }

    #[test]
    fn a_chain_is_judged_by_what_it_says_itself() {
        let (good, other) = (minted(9), minted(9));
        // By its name, too.
        let day_before = NOW - Duration::DAY;
        let stranger = mint(&["a".to_owned()], Duration::days(9), day_before).unwrap();
        let strange = good.chain.clone() + &stranger.ca;
        let whole = good.chain.clone() + &good.ca;
        let broken = good.chain.clone() + &other.ca;
        let later = NOW + Duration::days(10);
        let early = NOW - Duration::days(1);
        for (chain, key, name, at, flaw) in [
            (&good.chain, &good.key, "a.ns.svc", NOW, ""),
            (&whole, &good.key, "a.ns.svc", NOW, ""),
            (
                &broken,
                &good.key,
                "a.ns.svc",
                NOW,
                "does not lead to the last",
            ),
            (
                &strange,
                &good.key,
                "a.ns.svc",
                NOW,
                "does not lead to the last",
            ),
            (&good.chain, &other.key, "a.ns.svc", NOW, "not the key"),
            (&good.chain, &good.key, "b.ns.svc", NOW, "not valid for b"),
            (&good.chain, &good.key, "a.ns.svc", later, "CertExpired"),
            (&good.chain, &good.key, "a.ns.svc", early, "CertNotValidYet"),
            // A CA is no leaf.
            (&good.ca, &good.key, "a.ns.svc", NOW, "CaUsedAsEndEntity"),
        ] {
            let judged = judge_alone(chain, key, &[name.to_owned()], at);
            let said = judged.err().map(|flaw| flaw.to_string());
            let is_right = match &said {
                None => flaw.is_empty(),
                Some(said) => !flaw.is_empty() && said.contains(flaw),
            };
            assert!(is_right, "{flaw:?}: {said:?}");
        }
    }

    #[test]
    fn a_pair_knows_its_names() {
        let pem = minted(9);
        let pair = judge_alone(&pem.chain, &pem.key, &[], NOW).unwrap();
        assert!(pair.is_valid_for("a.ns.svc"));
        assert!(!pair.is_valid_for("localhost") && !pair.is_valid_for("no name"));
    }
}
