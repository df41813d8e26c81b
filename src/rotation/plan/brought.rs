//! The plan where somebody else brings the pair: nothing is minted, nothing is taken away, and
//! whatever is wrong with the pair is said and left alone.
//!
//! 1. The leaf leads to no CA that was brought, or has ended → *Wait*: whoever brings it must correct
//!    it. The caBundle stays, too: of a CA and a leaf that do not fit together, nobody knows which one
//!    is meant.
//! 2. Its CA is known, and a caBundle lacks it → *Trust*, as for a pair of our own; also if the pair
//!    is wrong in another way (not its key, other names): replicas serve the one before it, which most
//!    likely needs the same CA.
//! 3. Else *Wait*.

use time::Duration;

use super::{Eyes, Plan, attention, trust, wait};
use crate::pki::Flaw;
use crate::rotation::source::Source;
use crate::rotation::state::Secret;

/// When to look again at what only others can correct.
const LOOK: Duration = Duration::MINUTE;

/// What to do now.
pub(super) fn plan(eyes: &Eyes<'_>, secret: &Secret) -> Plan {
    let name = secret.source.name();
    let trusted = || match secret.source {
        Source::FilesAlone => None,
        _ => trust::plan(eyes, secret),
    };
    match secret.judge(&eyes.policy.required, eyes.now) {
        Ok(pair) => trusted().unwrap_or_else(|| {
            let reason = format!("{name} is right until the leaf ends, {}", pair.not_after);
            wait(pair.not_after, reason)
        }),
        Err(flaw) => {
            // Found where CA and leaf had been found to fit together.
            let fits = matches!(flaw, Flaw::NotYet(_) | Flaw::KeyMismatch | Flaw::Name(_));
            let trust = fits.then(trusted).flatten();
            trust.unwrap_or_else(|| match flaw {
                Flaw::NotYet(begins) => {
                    attention(begins, format!("{name} can't be served: {flaw}"))
                }
                _ => {
                    let help = secret.source.help_if_bad();
                    let reason = format!("{name} can't be served: {flaw}; {help}");
                    attention(eyes.now + LOOK, reason)
                }
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use time::OffsetDateTime;

    use super::*;
    use crate::pki::{Pem, mint};
    use crate::rotation::belief::Belief;
    use crate::rotation::plan::{Known, Needs, OLDEST, Policy, SETTLED, Step};
    use crate::rotation::state::{Configuration, Hook, Observed};
    use crate::rotation::write::Write;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_000));
    const HOST: &str = "imageswap.ns.svc";

    /// A good pair, another, one that has ended, one for another Service.
    fn pairs() -> &'static [Pem; 4] {
        static PAIRS: OnceLock<[Pem; 4]> = OnceLock::new();
        PAIRS.get_or_init(|| {
            let ended = NOW - Duration::days(9);
            [(HOST, NOW), (HOST, NOW), (HOST, ended), ("other.svc", NOW)]
                .map(|(name, at)| mint(&[name.to_owned()], Duration::days(8), at).unwrap())
        })
    }

    fn observed(pem: &Pem, source: Source, live: Option<&str>) -> Observed {
        let part = |text: &str| Some(text.as_bytes().to_vec());
        let hook = |bundle: &str| Hook {
            index: 0,
            name: "hook".to_owned(),
            bundle: bundle.as_bytes().to_vec(),
            ..Hook::default()
        };
        Observed {
            configuration: live.map(|bundle| Configuration {
                version: "1".to_owned(),
                uid: String::new(),
                generation: None,
                hooks: vec![hook(bundle)],
            }),
            secret: Some(Secret {
                version: "1".to_owned(),
                chain: part(&pem.chain),
                key: part(&pem.key),
                ca: part(&pem.ca).filter(|ca| !ca.is_empty()),
                source,
                next_chain: None,
                next_key: None,
                request: Some("now".to_owned()),
                answered: None,
            }),
        }
    }

    /// By way of the one plan, which must know whose the pair is.
    fn planned(pem: &Pem, source: Source, live: Option<&str>) -> Plan {
        let policy = Policy {
            names: vec![HOST.to_owned()],
            required: vec![HOST.to_owned()],
            life: Duration::days(8),
            renew_before: Duration::days(7),
            trust_delay: std::time::Duration::ZERO,
            writes_bundles: true,
            settled: SETTLED,
            shown: SETTLED,
            oldest: OLDEST,
        };
        // Even if there were something to be restored.
        let known = Known {
            served: Some(&pairs()[1]),
            belief: &Belief::default(),
            endpoints: Some(&[]),
            is_told: false,
        };
        crate::rotation::plan::plan(&observed(pem, source, live), &known, &policy, NOW)
    }

    #[test]
    fn what_is_wrong_is_said_and_never_replaced() {
        let [good, other, ended, elsewhere] = pairs();
        let [no_chain, no_ca, wrong_key, wrong_ca] = [
            ("", &*good.key, &*good.ca),
            (&*good.chain, &*good.key, ""),
            (&*good.chain, &*other.key, &*good.ca),
            (&*good.chain, &*good.key, &*other.ca),
        ]
        .map(|(chain, key, ca)| Pem {
            chain: chain.to_owned(),
            key: key.to_owned(),
            ca: ca.to_owned(),
        });
        for (pem, part, is_flaw_alone, fits) in [
            (&no_chain, "holds no certificate", true, false),
            (&no_ca, "ca.crt holds no certificate", false, false),
            (&wrong_key, "not the key", true, true),
            (&wrong_ca, "does not lead to a CA", false, false),
            (ended, " ended at ", true, false),
            (elsewhere, "not valid for imageswap.ns.svc", true, true),
        ] {
            for source in [Source::Annotated, Source::Files, Source::FilesAlone] {
                for live in [None, Some(""), Some("rubbish"), Some(&*other.ca)] {
                    let Plan { step, reason } = planned(pem, source, live);
                    let is_trusted = fits && source != Source::FilesAlone && live.is_some();
                    let (until, needs) = match step {
                        Step::Wait { until, needs } => (until, needs),
                        Step::Trust(_) if is_trusted => continue,
                        other => panic!("{other:?}: {reason}"),
                    };
                    assert!(!is_trusted, "{reason}");
                    if source != Source::FilesAlone || is_flaw_alone {
                        assert_eq!(until, NOW + LOOK, "{reason}");
                        assert_eq!(needs, Needs::Attention, "{reason}");
                        assert!(reason.contains("correct "), "{reason}");
                    }
                    if source != Source::FilesAlone {
                        assert!(reason.contains(part), "{part}: {reason}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_ca_that_is_brought_is_added_to_the_ca_bundle_and_none_is_taken_away() {
        let [good, other, ..] = pairs();
        for source in [Source::Annotated, Source::Files] {
            for (live, wanted) in [
                (String::new(), Some(good.ca.clone())),
                (other.ca.clone(), Some(good.ca.clone() + &other.ca)),
                (good.ca.clone(), None),
                (other.ca.clone() + &good.ca, None),
            ] {
                match (planned(good, source, Some(&live)).step, wanted) {
                    (Step::Trust(Write::Bundles { version, hooks }), Some(wanted)) => {
                        assert_eq!(version, "1");
                        assert_eq!(String::from_utf8(hooks[0].bundle.clone()).unwrap(), wanted);
                    }
                    (Step::Wait { until, needs }, None) => {
                        assert_eq!(until, NOW + Duration::days(8));
                        assert_eq!(needs, Needs::Nothing);
                    }
                    (step, wanted) => panic!("{step:?} {wanted:?}"),
                }
            }
        }
    }

    #[test]
    fn without_a_ca_nothing_is_written() {
        let [good, other, ..] = pairs();
        for live in [None, Some(""), Some("rubbish"), Some(&*other.ca)] {
            let step = planned(good, Source::FilesAlone, live).step;
            assert!(matches!(step, Step::Wait { .. }), "{step:?}");
        }
    }
}
