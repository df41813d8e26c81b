//! Judges a pair where nobody says what clients trust: the chain against itself.

use time::OffsetDateTime;

use super::certificate::certificates;
use super::judge::{Refusal, read, verify};
use super::{Bundle, Flaw, Pair};

/// Reads a pair and judges what can be said of it without a CA: the chain leads from the leaf to
/// its last certificate, its dates are right, the key is the leaf's own, and it is valid for every
/// one of the names. Of a leaf without a chain, anybody may be the issuer.
///
/// # Errors
/// The first flaw found. That it begins later is told only if there is no other.
pub fn judge_alone(
    chain: &str,
    key: &str,
    names: &[String],
    now: OffsetDateTime,
) -> Result<Pair, Flaw> {
    let unreadable = || Flaw::NoCertificate("tls.crt");
    // What rustls serves, be it as Go reads a bundle or not.
    let mut whole = certificates(chain).ok_or_else(unreadable)?;
    let len = whole.len();
    let last = whole.pop().ok_or_else(unreadable)?;
    let last = Bundle::of(last).ok_or(Flaw::Malformed(len))?;
    let pair = read(chain, key, &last)?;
    let (leaf, others) = pair.certified.cert.split_first().ok_or_else(unreadable)?;
    // A leaf is no issuer of its own.
    let last = match others {
        [] => Bundle::default(),
        _ => last,
    };
    let begun = now.max(pair.not_before);
    pair.not_ended(begun)?;
    match (verify(leaf, others, &last, begun), others) {
        // What is judged before the issuer is looked for was right.
        (Err(Refusal::Path(webpki::Error::UnknownIssuer)), []) | (Ok(()), _) => {}
        (Err(error), _) => return Err(error.flaw(Flaw::OwnChain)),
    }
    pair.finish(names, now)
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
        // Go would not read it, but rustls serves it.
        let commented = |pem: &str| pem.trim_end().to_owned() + " # text\n";
        let later = NOW + Duration::days(10);
        // Leaves are backdated.
        let early = NOW - Duration::days(3);
        for (chain, key, name, at, flaw) in [
            (&good.chain, &good.key, "a.ns.svc", NOW, ""),
            (&whole, &good.key, "a.ns.svc", NOW, ""),
            (&commented(&whole), &good.key, "a.ns.svc", NOW, ""),
            (
                &broken,
                &good.key,
                "a.ns.svc",
                NOW,
                "does not lead to the last",
            ),
            (
                &commented(&broken),
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
            (&good.chain, &good.key, "a.ns.svc", later, " ended at "),
            (&good.chain, &good.key, "a.ns.svc", early, "clock slow"),
            // A CA is no leaf.
            (&good.ca, &good.key, "a.ns.svc", NOW, "it is a CA itself"),
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

    /// What is known already is not said again, and replicas that look at their own times say the same.
    #[test]
    fn what_is_wrong_is_said_in_the_same_words_at_any_time() {
        let pem = minted(9);
        let names = ["a.ns.svc".to_owned()];
        for judge in [
            |pem: &Pem, names: &[String], at| judge_alone(&pem.chain, &pem.key, names, at).err(),
            |pem: &Pem, names: &[String], at| crate::pki::judge(pem, names, at).err(),
        ] {
            for day in [-30, -3, 10, 400] {
                let at = NOW + Duration::days(day);
                let said = |at| judge(&pem, &names, at).unwrap().to_string();
                assert_eq!(said(at), said(at + Duration::HOUR * 2));
            }
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
