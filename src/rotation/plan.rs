//! The policy: from what was observed to the one step to take now. Pure.
//!
//! 1. There is no Secret → *Bootstrap*: create one with a new pair.
//! 2. There is one that can't be served (unreadable, not its key, no chain, other names, ended; or
//!    1.5.3's, whose keys have other names) → *Replace* the pair in it.
//! 3. A caBundle of ours lacks a CA of `ca.crt`, or holds something that is no certificate →
//!    *Trust*: write it.
//! 4. Else *Wait* until the leaf ends.
//!
//! What makes it safe:
//! - A CA is never taken away: 1 and 2 keep those of `ca.crt` and of the live caBundles beside the
//!   new one, 3 adds to what a caBundle holds. So whatever leaf some replica still serves stays
//!   believed, also when somebody replaces the Secret by hand. Only those that have ended go, and
//!   the oldest of more than 32: somebody may replace it again and again.
//! - Every write carries the version it was planned on. Two leaders can conflict, not harm.
//! - A webhook configuration that is not there is not made: to delete it is the way to switch
//!   ImageSwap off.
//!
//! A pair that somebody else brings is never replaced: `brought` has that plan.
//!
//! Bundles are compared as sets of certificates: order, comments and line breaks make no write.

use time::{Duration, OffsetDateTime};

use super::brought;
use super::source::Source;
use super::state::{Hook, Observed, Secret};
use crate::pki::{self, Bundle};

/// How many CAs are kept besides those that are needed. A Secret holds 1 MiB.
const KEPT: usize = 32;

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What a new leaf is valid for.
    pub names: Vec<String>,
    /// What a leaf must be valid for to be served: what kube-apiserver verifies.
    pub required: Vec<String>,
    /// How long a new pair lives.
    pub life: Duration,
}

/// One step, and why.
#[derive(Debug)]
pub struct Plan {
    /// What to do now.
    pub step: Step,
    /// A sentence, for the log.
    pub reason: String,
}

/// What can be done. Each is one write, or none.
#[derive(Debug)]
pub enum Step {
    /// Create the Secret with a new pair; `ca.crt` holds these CAs, too.
    Bootstrap {
        /// CAs that stay believed.
        keep: Bundle,
    },
    /// Put a new pair into the Secret that is there; `ca.crt` holds these CAs, too.
    Replace {
        /// The version it must still have.
        version: String,
        /// CAs that stay believed.
        keep: Bundle,
    },
    /// Write the caBundles of these webhooks.
    Trust {
        /// The version the configuration must still have.
        version: String,
        /// The webhooks, with the caBundles they shall have.
        hooks: Vec<Hook>,
    },
    /// Nothing, until then.
    Wait {
        /// When something changes by itself.
        until: OffsetDateTime,
    },
}

impl Step {
    /// All names, for metrics.
    pub const NAMES: [&str; 4] = ["bootstrap", "replace", "trust", "wait"];

    /// Its name in logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bootstrap { .. } => "bootstrap",
            Self::Replace { .. } => "replace",
            Self::Trust { .. } => "trust",
            Self::Wait { .. } => "wait",
        }
    }
}

/// What to do now.
pub fn plan(observed: &Observed, policy: &Policy, now: OffsetDateTime) -> Plan {
    let Some(secret) = &observed.secret else {
        return Plan {
            step: Step::Bootstrap {
                keep: kept(observed.live_bundle(), now),
            },
            reason: "there is no Secret".to_owned(),
        };
    };
    if secret.source != Source::Minted {
        return brought::plan(observed, secret, policy, now);
    }
    let pair = match pki::judge(&secret.pem(), &policy.required, now) {
        Ok(pair) => pair,
        Err(flaw) => {
            let keep = kept(secret.bundle().and(&observed.live_bundle()), now);
            let version = secret.version.clone();
            return Plan {
                step: Step::Replace { version, keep },
                reason: format!("the Secret can't be served: {flaw}"),
            };
        }
    };
    trust(observed, secret, now).unwrap_or_else(|| Plan {
        step: Step::Wait {
            until: pair.not_after,
        },
        reason: format!("all is right until the leaf ends, {}", pair.not_after),
    })
}

/// What stays believed beside what is needed. New CAs come first.
fn kept(bundle: Bundle, now: OffsetDateTime) -> Bundle {
    bundle.living(now).first(KEPT)
}

/// The step that makes every caBundle of ours hold `ca.crt`, if one does not.
pub(super) fn trust(observed: &Observed, secret: &Secret, now: OffsetDateTime) -> Option<Plan> {
    let configuration = observed.configuration.as_ref()?;
    let wanted = secret.bundle();
    let hooks: Vec<_> = configuration
        .hooks
        .iter()
        .filter_map(|hook| {
            let live = hook.bundle();
            let is_right = live.holds(&wanted) && !live.has_rubbish();
            (!is_right).then(|| Hook {
                bundle: wanted.clone().and(&kept(live, now)).pem().into_bytes(),
                ..hook.clone()
            })
        })
        .collect();
    if hooks.is_empty() {
        return None;
    }
    let names: Vec<_> = hooks.iter().map(|hook| hook.name.as_str()).collect();
    Some(Plan {
        reason: format!("the caBundle does not trust ca.crt in {}", names.join(", ")),
        step: Step::Trust {
            version: configuration.version.clone(),
            hooks,
        },
    })
}
