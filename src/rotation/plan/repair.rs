//! The Secret is missing, or what it holds can't be served.

use super::{Eyes, KEPT, Plan, Step, trust};
use crate::pki::{self, Bundle, Flaw, KeyPem, Pair, Pem};
use crate::rotation::state::Secret;
use crate::rotation::write::{Change, Next, Write};

/// There is no Secret.
pub(super) fn missing(eyes: &Eyes<'_>) -> Plan {
    let live = eyes.observed.live_bundle();
    if let Some((served, _, needed)) = served(eyes) {
        let ca = needed.and(&eyes.kept(live, KEPT)).pem();
        let pem = Pem {
            ca,
            ..served.clone()
        };
        return Plan {
            step: Step::Restore(Write::Create(pem)),
            reason: "there is no Secret, but this replica serves what was in it".to_owned(),
        };
    }
    Plan {
        step: Step::Bootstrap {
            keep: eyes.kept(live, KEPT),
        },
        reason: "there is no Secret".to_owned(),
    }
}

/// There is one, and its pair can't be served.
pub(super) fn unusable(eyes: &Eyes<'_>, secret: &Secret, flaw: &Flaw) -> Plan {
    let version = secret.version.clone();
    let believed = secret.bundle().and(&eyes.observed.live_bundle());
    let reason = format!("the Secret can't be served: {flaw}");
    if let Some((served, pair, needed)) = served(eyes) {
        let change = Change {
            pair: Some(pair_of(served)),
            ca: Some(needed.and(&eyes.kept(believed, KEPT)).pem()),
            next: is_older(eyes, secret, &pair).then_some(Next::Clear),
            ..Change::default()
        };
        return Plan {
            step: Step::Restore(Write::Change { version, change }),
            reason: format!("{reason}; this replica serves one that can"),
        };
    }
    if pki::judge(&secret.next_pem(), &eyes.policy.required, eyes.now).is_ok() {
        // It is none the worse for being believed first.
        return trust::plan(eyes, secret).unwrap_or_else(|| Plan {
            step: Step::Promote(promotion(secret)),
            reason: format!("{reason}; the one that is staged can"),
        });
    }
    Plan {
        step: Step::Replace {
            version,
            keep: eyes.kept(believed, KEPT),
            answered: secret.open_request().map(str::to_owned),
        },
        reason,
    }
}

/// The staged pair becomes the one that is served.
pub(super) fn promotion(secret: &Secret) -> Write {
    Write::Change {
        version: secret.version.clone(),
        change: Change {
            pair: Some(secret.next()),
            next: Some(Next::Clear),
            ..Change::default()
        },
    }
}

/// The pair that this replica serves and the CAs it needs, if it can be served on.
fn served<'a>(eyes: &Eyes<'a>) -> Option<(&'a Pem, Pair, Bundle)> {
    let (pem, pair) = eyes.served()?;
    let needed = pair.needs(&Bundle::read(pem.ca.as_bytes()), eyes.now);
    Some((pem, pair, needed))
}

/// Whether what is staged was made before this pair: a backup was taken in the middle of a rotation, and put back.
fn is_older(eyes: &Eyes<'_>, secret: &Secret, pair: &Pair) -> bool {
    let next = pki::judge(&secret.next_pem(), &eyes.policy.required, eyes.now);
    // Those that others made begin when they say so.
    next.is_ok_and(|next| next.is_minted && pair.is_minted && next.not_before < pair.not_before)
}

fn pair_of(pem: &Pem) -> KeyPem {
    KeyPem {
        chain: pem.chain.clone(),
        key: pem.key.clone(),
    }
}
