//! The policy: from what was observed to the one step to take now. Pure.
//!
//! 1. There is no Secret → *Restore* the pair that this replica serves, if it can be served; else
//!    *Bootstrap*: create one with a new pair.
//! 2. There is one that can't be served (unreadable, not its key, no chain, other names, ended; or
//!    1.5.3's, whose keys have other names) → *Restore*; or *Promote* the pair that is staged, once a
//!    caBundle has its CA; or *Replace* the pair in it by a new one.
//! 3. A caBundle of ours lacks a CA of `ca.crt`, or holds something that is no certificate →
//!    *Trust*: add it.
//! 4. A pair is staged (`next.*`), and its CA has been seen in every caBundle for the trust delay →
//!    *Promote*: it is the one to be served. A rotation under way is carried on, not begun anew.
//! 5. Nothing is staged, and the leaf is due, lacks a name that is wanted now, or somebody asked for
//!    a rotation → *Stage*: mint a pair; its CA goes into `ca.crt` beside what is there. This write
//!    also answers the request, so that each is carried out once.
//! 6. `ca.crt`, or after it a caBundle, holds CAs that the leaf does not need, and every endpoint of
//!    the Service, ready or not, has been seen serving that leaf → *Prune* them. One that ended goes
//!    also if an endpoint can't be reached, or serves a leaf that it has not signed.
//! 7. Else *Wait* until the leaf is due.
//!
//! What makes it safe:
//! - Only 6 takes a CA away, and only one that no replica's leaf needs, as seen by a handshake with
//!   each. All other steps add. More than 32 in `ca.crt` besides those that are needed, and 256 in a
//!   caBundle, are not kept: somebody may replace the Secret again and again.
//! - A caBundle loses a CA only after the Secret was the same for longer than any replica acts on
//!   what it saw ([`FRESH`]): one that saw another leaf before can't begin to serve that any more. And
//!   only after all endpoints were seen serving the leaf for longer than a replica drains: one that the
//!   cluster has just forgotten is called for so long.
//! - What was planned on what was seen long ago is not written (`driver`).
//! - Every write carries the version it was planned on. Two leaders can conflict, not harm.
//! - The webhook configuration is read before the Secret, so that no caBundle is taken for too wide
//!   that another leader has widened since.
//! - A webhook configuration that is not there is not made: to delete it is the way to switch
//!   ImageSwap off.
//! - Who has nothing to serve does not lead while others may (`replica::may_lead`): what it could only
//!   replace, they have in memory.
//! - The time is kube-apiserver's (`clock`), which may be wrong by an hour; where nobody tells it, this
//!   machine's, which may be wrong by a day (both: by a tenth of the life of a pair, if that is
//!   shorter). So much later does a pair count as ended. For one that begins later: by our own clock, we wait until
//!   somebody asks for another; by kube-apiserver's, we wait if it begins within the hour. Else nobody
//!   will believe it for long, and it counts as one that can't be served.
//!
//! A pair that somebody else brings is never replaced: `brought` has that plan.
//!
//! Bundles are compared as sets of certificates: order, comments and line breaks make no write.

mod brought;
mod prune;
mod repair;
mod rotate;
mod trust;

use std::time::Duration as Steady;

use time::{Duration, OffsetDateTime};

use super::belief::Belief;
use super::clock::doubt;
use super::replica::FRESH;
use super::source::Source;
use super::state::{Endpoint, Observed, Secret};
use super::write::Write;
use crate::pki::{self, Bundle, Flaw, Pair, Pem};
use crate::text::rfc3339;

/// How long the Secret must have been as it is before a CA goes from a caBundle.
pub const SETTLED: Steady = FRESH.saturating_add(Steady::from_secs(1));
const _: () = assert!(SETTLED.as_secs() > FRESH.as_secs());

/// With less than this left, a certificate that was made for so long should have been renewed, unless the policy
/// renews it later still. The leader renews what somebody else put into the Secret with a tenth left.
pub fn overdue(life: Duration) -> Duration {
    Duration::days(30).min(life / 12)
}

/// Whether a pair of this Secret that begins then is waited for, and not taken for one that can't be served. The time
/// may be kube-apiserver's, and is told then; new pairs live for so long.
pub fn is_worth_waiting(
    secret: &Secret,
    begins: OffsetDateTime,
    (now, is_told): (OffsetDateTime, bool),
    life: Duration,
) -> bool {
    match is_told {
        true => begins <= now + doubt(is_told, life),
        false => secret.open_request().is_none(),
    }
}

/// For how long every endpoint must have been seen serving the leaf that needs it no more, before a CA
/// goes from a caBundle: a replica that the cluster has forgotten drains for so long, and does not hear
/// of another leaf meanwhile.
pub fn shown(drain_delay: Steady) -> Steady {
    SETTLED.max(drain_delay + Steady::from_secs(2))
}

/// How old at most is what a step is planned on when it is written: a write that names the version
/// of one object says nothing of the other. Handshakes with many endpoints take some of it. With a
/// call's deadline it is well below the trust delay, which a replica waits before it serves a leaf
/// that somebody put into the Secret; where that is short, half of it, but six seconds.
pub fn oldest(trust_delay: Steady) -> Steady {
    OLDEST.min(LEAST.max(trust_delay / 2))
}

/// See [`oldest`].
pub const OLDEST: Steady = Steady::from_secs(20);

/// Two reads and some handshakes, of which one may be in vain, take their time.
const LEAST: Steady = Steady::from_secs(6);

/// How many CAs are kept in `ca.crt` besides those that are needed. A Secret holds 1 MiB.
pub const KEPT: usize = 32;

/// How many are left in a caBundle. A CA that somebody put there may be needed by a leaf that is
/// served still: there is room for many.
const LEFT: usize = 256;

/// When to look again at what changes without a word.
const SOON: Duration = Duration::seconds(10);

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What a new leaf is valid for.
    pub names: Vec<String>,
    /// What a leaf must be valid for to be served: what kube-apiserver verifies.
    pub required: Vec<String>,
    /// How long a new pair lives.
    pub life: Duration,
    /// How much of its life is left of a pair that is renewed.
    pub renew_before: Duration,
    /// How late kube-apiservers may learn a caBundle.
    pub trust_delay: Steady,
    /// Whether the caBundles are ours to write.
    pub writes_bundles: bool,
    /// How long the Secret must have been as it is before a CA goes from a caBundle: [`SETTLED`].
    pub settled: Steady,
    /// For how long every endpoint must have been seen serving the leaf before one does: see [`shown`].
    pub shown: Steady,
    /// How old at most is what a step is planned on when it is written: see [`oldest`].
    pub oldest: Steady,
}

/// What the leader knows besides the two objects.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The pair that this replica serves.
    pub served: Option<&'a Pem>,
    /// What it has seen of the caBundles, the last look included.
    pub belief: &'a Belief,
    /// What the endpoints of the Service were just seen serving, if they were looked at.
    pub endpoints: Option<&'a [Endpoint]>,
    /// Whether the time is kube-apiserver's, and not this machine's.
    pub is_told: bool,
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
    /// Write the pair that this replica serves into the Secret.
    Restore(Write),
    /// Put a new pair into the Secret that is there; `ca.crt` holds these CAs, too.
    Replace {
        /// The version it must still have.
        version: String,
        /// CAs that stay believed.
        keep: Bundle,
        /// The request that is carried out by this, too.
        answered: Option<String>,
    },
    /// Add to the caBundles.
    Trust(Write),
    /// Mint the next pair, and put it beside the one that is served.
    Stage {
        /// The version the Secret must still have.
        version: String,
        /// CAs that stay believed.
        keep: Bundle,
        /// The request that is carried out by this.
        answered: Option<String>,
    },
    /// Make the staged pair the one that is served.
    Promote(Write),
    /// Take CAs away that no leaf needs, from the Secret or the caBundles.
    Prune(Write),
    /// Nothing, until then.
    Wait {
        /// When something changes by itself.
        until: OffsetDateTime,
        /// What must be known to say more.
        needs: Needs,
    },
}

/// What a plan can't go on without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// That every kube-apiserver has had the time to learn the CA of a staged pair.
    Belief,
    /// What the endpoints serve.
    Endpoints,
    /// That all endpoints serve the leaf, and are seen to.
    Pruning,
    /// A person: something is wrong that can't be put right from here.
    Attention,
}

/// Which step it is, whatever it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// See [`Step::Bootstrap`].
    Bootstrap,
    /// See [`Step::Restore`].
    Restore,
    /// See [`Step::Replace`].
    Replace,
    /// See [`Step::Trust`].
    Trust,
    /// See [`Step::Stage`].
    Stage,
    /// See [`Step::Promote`].
    Promote,
    /// See [`Step::Prune`].
    Prune,
    /// See [`Step::Wait`].
    Wait,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::Bootstrap,
        Self::Restore,
        Self::Replace,
        Self::Trust,
        Self::Stage,
        Self::Promote,
        Self::Prune,
        Self::Wait,
    ];

    /// Its name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::Restore => "restore",
            Self::Replace => "replace",
            Self::Trust => "trust",
            Self::Stage => "stage",
            Self::Promote => "promote",
            Self::Prune => "prune",
            Self::Wait => "wait",
        }
    }
}

impl Step {
    /// Which it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Bootstrap { .. } => Kind::Bootstrap,
            Self::Restore(_) => Kind::Restore,
            Self::Replace { .. } => Kind::Replace,
            Self::Trust(_) => Kind::Trust,
            Self::Stage { .. } => Kind::Stage,
            Self::Promote(_) => Kind::Promote,
            Self::Prune(_) => Kind::Prune,
            Self::Wait { .. } => Kind::Wait,
        }
    }
}

/// What to do now.
pub fn plan(observed: &Observed, known: &Known<'_>, policy: &Policy, now: OffsetDateTime) -> Plan {
    let eyes = Eyes {
        observed,
        known,
        policy,
        now,
    };
    let Some(secret) = &observed.secret else {
        return repair::missing(&eyes);
    };
    if secret.source != Source::Minted {
        return brought::plan(&eyes, secret);
    }
    match eyes.current(secret) {
        Ok(pair) => trust::plan(&eyes, secret)
            .or_else(|| rotate::plan(&eyes, secret, &pair))
            .or_else(|| prune::plan(&eyes, secret, &pair))
            .unwrap_or_else(|| rest(&eyes, &pair)),
        Err(flaw @ Flaw::NotYet(begins)) if eyes.is_worth_waiting(secret, begins) => {
            let wait = || attention(begins, format!("the Secret is left as it is: {flaw}"));
            trust::plan(&eyes, secret).unwrap_or_else(wait)
        }
        Err(flaw) => repair::unusable(&eyes, secret, &flaw),
    }
}

/// All that a plan is made from.
struct Eyes<'a> {
    observed: &'a Observed,
    known: &'a Known<'a>,
    policy: &'a Policy,
    now: OffsetDateTime,
}

impl<'a> Eyes<'a> {
    /// The pair in the Secret, if it can be served, or could a moment ago by a clock that may be
    /// fast.
    fn current(&self, secret: &Secret) -> Result<Pair, Flaw> {
        let (pem, required) = (secret.pem(), &self.policy.required);
        let judged = pki::judge(&pem, required, self.now);
        judged.or_else(|flaw| pki::judge(&pem, required, self.surely()).map_err(|_| flaw))
    }

    /// How wrong the clock may be.
    fn doubt(&self) -> Duration {
        doubt(self.known.is_told, self.policy.life)
    }

    /// A moment that is past, however fast the clock is.
    fn surely(&self) -> OffsetDateTime {
        self.now - self.doubt()
    }

    /// Whether a pair that begins then is waited for.
    fn is_worth_waiting(&self, secret: &Secret, begins: OffsetDateTime) -> bool {
        let time = (self.now, self.known.is_told);
        is_worth_waiting(secret, begins, time, self.policy.life)
    }

    /// When the pair is to be renewed. What somebody else brought is theirs to renew, until there is
    /// hardly any time left.
    fn due(&self, pair: &Pair) -> OffsetDateTime {
        let life = pair.life();
        let share = if pair.is_minted { 2 } else { 10 };
        // A leaf may outlive its CA where somebody else made them.
        pair.not_after.min(pair.ca_not_after) - self.policy.renew_before.min(life / share)
    }

    /// The pair that this replica serves, if it can be served on.
    fn served(&self) -> Option<(&'a Pem, Pair)> {
        let pem = self.known.served?;
        let judged = pki::judge(pem, &self.policy.required, self.now);
        Some((pem, judged.ok()?))
    }

    /// So many of these CAs stay believed: first those that this replica's own leaf needs.
    fn kept(&self, bundle: Bundle, most: usize) -> Bundle {
        let needed = self.served().map(|(_, pair)| pair.needs(&bundle, self.now));
        needed.unwrap_or_default().and(&bundle).first(most)
    }

    /// Whether the pair lacks a name that is wanted now. What somebody else brought is right as it
    /// is. Some names no client can ask for, such as a Service's in a namespace of digits without `.svc`.
    fn lacks_name(&self, pair: &Pair) -> Option<&str> {
        let mut names = self.policy.names.iter();
        let lacks = |name: &&String| pki::can_be_asked_for(name) && !pair.is_valid_for(name);
        let lacks = names.find(|name| pair.is_minted && lacks(name));
        lacks.map(String::as_str)
    }
}

fn rest(eyes: &Eyes<'_>, pair: &Pair) -> Plan {
    let due = eyes.due(pair);
    wait(
        due,
        format!("all is right until the leaf is due, {}", rfc3339(due)),
    )
}

fn wait(until: OffsetDateTime, reason: String) -> Plan {
    wait_for(Needs::Nothing, until, reason)
}

fn attention(until: OffsetDateTime, reason: String) -> Plan {
    wait_for(Needs::Attention, until, reason)
}

fn wait_for(needs: Needs, until: OffsetDateTime, reason: String) -> Plan {
    Plan {
        step: Step::Wait { until, needs },
        reason,
    }
}
