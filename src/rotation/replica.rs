//! What a replica serves, decided from what it observed. Pure.
//!
//! A leaf is published once it is right *and* the live caBundle has been seen to believe it for the
//! trust delay, so that all kube-apiservers do; until then the one in memory goes on, and neither a
//! rotation nor a Secret replaced by hand makes a gap. It is not waited for if the one in memory is
//! of no use: it has ended, or the caBundle believes the new one alone. A replica that has none
//! serves the one it finds. A Secret that can't be served changes nothing.
//!
//! What was seen too long ago changes nothing either: a process that was stopped for an hour between
//! its look and this would serve a leaf whose CA is gone. The leader counts on it, see `plan::prune`.

use std::time::Duration as Steady;

use time::OffsetDateTime;

use super::belief::Belief;
use super::clock::{Moment, Span};
use super::state::Observed;
use crate::pki::{Flaw, Pair};

/// Nobody acts on what was read longer ago.
pub const FRESH: Steady = Steady::from_secs(5);

/// What to do with what was observed.
#[derive(Debug)]
pub enum Choice {
    /// Serve this pair from now on.
    Publish(Pair),
    /// The pair that is served is the one in the Secret.
    Same,
    /// Go on with what is in memory, if there is something: the Secret is not there.
    Absent,
    /// Go on with what is in memory, if there is something: the Secret can't be served.
    Bad(Flaw),
    /// Go on with what is in memory: not all kube-apiservers believe the new leaf for sure.
    NotTrustedYet {
        /// For how long still, if every caBundle believes it.
        rest: Option<Steady>,
    },
    /// Go on with what is in memory, if there is something, and look again.
    TooOld,
}

/// What a replica has seen and wants.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Both objects, as they were seen last.
    pub observed: &'a Observed,
    /// When that was.
    pub read: Span,
    /// What it has seen of the caBundles, the last look included.
    pub belief: &'a Belief,
    /// The names that a leaf must have.
    pub required: &'a [String],
    /// How late kube-apiservers may learn a caBundle.
    pub trust_delay: Steady,
}

/// Chooses. `serving` is what is in memory.
pub fn choose(view: &View<'_>, serving: Option<&Pair>, now: Moment) -> Choice {
    if view.read.age(now) > FRESH {
        return Choice::TooOld;
    }
    let now = now.wall;
    let Some(secret) = &view.observed.secret else {
        return Choice::Absent;
    };
    let pair = match secret.judge(view.required, now) {
        Ok(pair) => pair,
        Err(flaw) => return Choice::Bad(flaw),
    };
    match serving {
        Some(served) if served.is_same(&pair) => Choice::Same,
        Some(served) if must_wait(view, served, &pair, now) => Choice::NotTrustedYet {
            rest: rest(view, &pair, now),
        },
        _ => Choice::Publish(pair),
    }
}

fn must_wait(view: &View<'_>, served: &Pair, pair: &Pair, now: OffsetDateTime) -> bool {
    if rest(view, pair, now) == Some(Steady::ZERO) || served.not_after <= now {
        return false;
    }
    // Whom the caBundle believes is the one to serve; if it believes both, or none, the old one.
    !refuses(view.observed, served, now) || refuses(view.observed, pair, now)
}

/// How much of the trust delay is left, if every caBundle believes this pair.
fn rest(view: &View<'_>, pair: &Pair, now: OffsetDateTime) -> Option<Steady> {
    let held = view.belief.held(pair, now)?;
    Some(view.trust_delay.saturating_sub(held))
}

/// Whether every webhook of ours believes this pair. No webhook, no belief.
pub fn is_trusted(observed: &Observed, pair: &Pair, now: OffsetDateTime) -> bool {
    !observed.hooks().is_empty() && !refuses(observed, pair, now)
}

/// Whether some webhook of ours would refuse this pair. Without one, nobody calls.
fn refuses(observed: &Observed, pair: &Pair, now: OffsetDateTime) -> bool {
    let mut hooks = observed.hooks().iter();
    hooks.any(|hook| !pair.is_trusted(&hook.bundle(), now))
}
