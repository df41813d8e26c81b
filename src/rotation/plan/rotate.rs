//! From one pair to the next: stage it, wait until all believe it, promote it.

use std::time::Duration as Steady;

use time::Duration;

use super::repair::promotion;
use super::{Eyes, KEPT, Needs, Plan, SOON, Step, attention, wait_for};
use crate::pki::{self, Flaw, Pair};
use crate::rotation::state::Secret;
use crate::text::rfc3339;

/// Replicas see a caBundle some moments after the leader. When it promotes a pair, they too have
/// seen its CA for the trust delay.
const LATER: Steady = Steady::from_secs(3);

pub(super) fn plan(eyes: &Eyes<'_>, secret: &Secret, pair: &Pair) -> Option<Plan> {
    if secret.has_next() {
        match pki::judge(&secret.next_pem(), &eyes.policy.required, eyes.now) {
            Ok(next) if is_worth_it(eyes, pair, &next) => {
                return Some(promote(eyes, secret, pair, &next));
            }
            Err(Flaw::NotYet(begins)) if eyes.is_worth_waiting(secret, begins) => {
                let reason = format!(
                    "what is staged begins at {}: is the clock slow?",
                    rfc3339(begins)
                );
                return Some(attention(begins, reason));
            }
            // Nobody serves it yet, so another may take its place.
            Ok(_) | Err(_) => {}
        }
    }
    stage(eyes, secret, pair)
}

/// Whether the staged pair is one to go on with. That it is due itself is none the worse: a rotation
/// that is begun anew whenever it takes long never ends.
fn is_worth_it(eyes: &Eyes<'_>, pair: &Pair, next: &Pair) -> bool {
    !next.is_same(pair) && eyes.lacks_name(next).is_none()
}

fn promote(eyes: &Eyes<'_>, secret: &Secret, pair: &Pair, next: &Pair) -> Plan {
    // Not on the word that nobody calls: a configuration may have been applied since, and its
    // kube-apiservers know the old CA alone. A leaf that ends is another matter, see `repair`.
    if eyes.observed.hooks().is_empty() {
        let reason = "there is no webhook that could trust the staged pair";
        return wait_for(Needs::Belief, eyes.now + SOON, reason.to_owned());
    }
    let delay = eyes.policy.trust_delay;
    let Some(held) = eyes.known.belief.held(next, eyes.now) else {
        let reason = if eyes.policy.writes_bundles {
            "the caBundle does not trust the staged pair yet"
        } else {
            "the caBundle does not trust the staged pair; whoever writes it must add all of ca.crt"
        };
        return wait_for(Needs::Belief, eyes.now + SOON, reason.to_owned());
    };
    let seconds = held.as_secs();
    // Later than that, the one that is served is of no use, however fast the clock is.
    let most = Steady::try_from(pair.not_after - eyes.surely()).unwrap_or_default();
    let left = (delay + LATER).saturating_sub(held).min(most);
    if !left.is_zero() {
        let reason = format!(
            "the staged pair has been trusted for {seconds} s; promoting it in {} s",
            left.as_secs() + 1
        );
        let until = eyes.now + Duration::try_from(left).unwrap_or(SOON);
        return wait_for(Needs::Belief, until, reason);
    }
    Plan {
        step: Step::Promote(promotion(secret)),
        reason: format!("the staged pair has been trusted for {seconds} s"),
    }
}

fn stage(eyes: &Eyes<'_>, secret: &Secret, pair: &Pair) -> Option<Plan> {
    let due = eyes.due(pair);
    let request = secret.open_request();
    let reason = if let Some(text) = request {
        let text: String = text.chars().take(80).collect();
        format!("a rotation was asked for: {text:?}")
    } else if let Some(name) = eyes.lacks_name(pair) {
        format!("the leaf is not valid for {name}")
    } else if due <= eyes.now {
        format!("the leaf ends at {}", pair.not_after)
    } else {
        return None;
    };
    let ca = secret.bundle();
    let needed = pair.needs(&ca, eyes.now);
    let rest = eyes.kept(ca.without(&needed), KEPT);
    Some(Plan {
        step: Step::Stage {
            version: secret.version.clone(),
            keep: needed.and(&rest),
            answered: request.map(str::to_owned),
        },
        reason,
    })
}
