//! What a replica serves, decided from what it observed. Pure.
//!
//! A leaf is published once it is right *and* the live caBundle believes it; until then the one in
//! memory goes on, so that neither a rotation nor a Secret replaced by hand makes a gap. Only a
//! replica that has nothing usable serves a leaf that is not believed (yet). A Secret that can't be
//! served changes nothing.

use time::OffsetDateTime;

use super::state::Observed;
use crate::pki::{Flaw, Pair};

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
    /// Go on with what is in memory: the caBundle does not believe the new leaf yet.
    NotTrustedYet,
}

/// Chooses. `required` are the names that a leaf must have; `serving` is what is in memory.
pub fn choose(
    observed: &Observed,
    required: &[String],
    serving: Option<&Pair>,
    now: OffsetDateTime,
) -> Choice {
    let Some(secret) = &observed.secret else {
        return Choice::Absent;
    };
    let pair = match secret.judge(required, now) {
        Ok(pair) => pair,
        Err(flaw) => return Choice::Bad(flaw),
    };
    match serving {
        Some(served) if served.certified.cert == pair.certified.cert => Choice::Same,
        Some(served) if is_usable(served, now) && refuses(observed, &pair, now) => {
            Choice::NotTrustedYet
        }
        _ => Choice::Publish(pair),
    }
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

fn is_usable(pair: &Pair, now: OffsetDateTime) -> bool {
    pair.not_after > now
}
