//! What a replica serves, decided from what it observed. Pure.
//!
//! A leaf is published once it is right *and* the live caBundle has been seen to believe it for the
//! trust delay, so that all kube-apiservers do; until then the one in memory goes on, and neither a
//! rotation nor a Secret replaced by hand makes a gap. It is not waited for if the one in memory is
//! of no use: it has surely ended, or the caBundle believes the new one alone. A Secret that can't be
//! served changes nothing; nor does one whose leaf may have ended by a clock that is right, while the
//! one in memory has not.
//!
//! A replica that has none serves the one it finds, unless that may be a newcomer beside one that has
//! been believed for longer: the caBundles do not believe it alone, and one of the other endpoints
//! serves another leaf that is believed. Until all have gone over, or the one that was found has been
//! believed for the trust delay, calls are better answered by those. It also does not stand for leader
//! where others may have in memory what it could only replace.
//!
//! A pair in files can be seen where the cluster can't, and is not waited for in vain: it is served when the one in
//! memory is of no use any more, as a replica that is started then would serve it; and at once if somebody else injects
//! the caBundle, who should have done so before ([`choose_unseen`]).
//!
//! What was seen too long ago changes nothing either: a process that was stopped for an hour between
//! its look and this would serve a leaf whose CA is gone. The leader counts on it, see `plan::prune`.

use std::time::Duration;

use time::OffsetDateTime;

use super::belief::Belief;
use super::clock::{self, Moment, Span};
use super::source::Source;
use super::state::{Endpoint, Observed, Secret};
use crate::pki::{Flaw, Pair};

/// Nobody acts on what was read longer ago.
pub const FRESH: Duration = Duration::from_secs(5);

/// For how long endpoints that can't be seen are looked at again, before it is taken that they serve
/// nobody.
pub const UNSEEN: Duration = Duration::from_secs(6);

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
        /// For how long still, if every caBundle believes it. Never zero: who waits for nothing looks again
        /// at once, for ever.
        rest: Option<Duration>,
    },
    /// There is nothing in memory, and it must be known first what the other endpoints serve.
    AskOthers,
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
    pub trust_delay: Duration,
    /// What the other endpoints of the Service serve, if they were looked at.
    pub others: Option<&'a Others>,
}

/// What the other endpoints of the Service were seen serving.
#[derive(Debug, Clone)]
pub struct Others {
    /// Each of them, as it was seen now or a moment ago; this one perhaps among them: it serves nothing.
    pub endpoints: Vec<Endpoint>,
    /// Which of them were seen to serve something, and when last.
    pub sights: Vec<(Endpoint, Duration)>,
    /// When that was.
    pub read: Span,
    /// For how long they have been looked at again and again.
    pub since: Duration,
    /// How often.
    pub times: u32,
}

impl Others {
    /// What was seen now, after what was seen before. One that was seen a moment ago is not gone because
    /// it was not seen once, or nobody could tell where to look.
    pub fn after(before: Option<&Self>, mut endpoints: Vec<Endpoint>, read: Span) -> Self {
        let seen = endpoints.iter().filter(|one| one.leaf.is_ok());
        let mut sights: Vec<_> = seen.map(|one| (one.clone(), read.to)).collect();
        for old in before.into_iter().flat_map(|before| &before.sights) {
            let (one, at) = old;
            let is_fresh = read.from.saturating_sub(*at) < UNSEEN;
            let is_known = |(known, _): &(Endpoint, Duration)| known.address == one.address;
            if is_fresh && !sights.iter().any(is_known) {
                sights.push(old.clone());
                endpoints.retain(|other| other.address != one.address);
                endpoints.push(one.clone());
            }
        }
        // What was not seen long ago may have been there since.
        let soon = |before: &&Self| read.from.saturating_sub(before.read.to) <= UNSEEN;
        let before = before.filter(soon);
        let gap = |before: &Self| read.from.saturating_sub(before.read.from);
        Self {
            endpoints,
            sights,
            read,
            since: before.map_or(Duration::ZERO, |before| before.since + gap(before)),
            times: before.map_or(0, |before| before.times) + 1,
        }
    }

    /// Whether those that were not seen may be taken to serve nobody.
    fn is_enough(&self) -> bool {
        let is_seen = self.endpoints.iter().all(|one| one.leaf.is_ok());
        is_seen || self.since >= UNSEEN && self.times >= 3
    }
}

/// Chooses. `serving` is what is in memory.
pub fn choose(view: &View<'_>, serving: Option<&Pair>, now: Moment) -> Choice {
    if view.read.age(now) > FRESH {
        return Choice::TooOld;
    }
    let (moment, now) = (now, now.wall);
    let Some(secret) = &view.observed.secret else {
        return Choice::Absent;
    };
    let pair = match secret.judge(view.required, now) {
        Ok(pair) => pair,
        Err(flaw) => return Choice::Bad(flaw),
    };
    match serving {
        Some(served) if served.is_same(&pair) => Choice::Same,
        Some(served) if may_have_ended(view.observed, served, &pair, moment) => {
            Choice::Bad(Flaw::MayHaveEnded(pair.not_after))
        }
        Some(served) if must_wait(view, served, &pair, moment) => Choice::NotTrustedYet {
            rest: rest(view, &pair, now),
        },
        Some(_) => Choice::Publish(pair),
        None => first(view, pair, moment),
    }
}

/// Chooses where the pair is in files and the cluster has not been seen for some time. `observed` has the webhook
/// configuration that was seen last, if one ever was, and what is in the files now; `is_seen` is whether the two were
/// seen together.
pub fn choose_unseen(
    observed: &Observed,
    is_seen: bool,
    required: &[String],
    serving: Option<&Pair>,
    now: Moment,
) -> Choice {
    let Some(secret) = &observed.secret else {
        return Choice::Absent;
    };
    let is_served = |pair: &Pair| serving.is_some_and(|served| served.is_same(pair));
    let pair = match secret.judge(required, now.wall) {
        Ok(pair) => pair,
        // At a start, one is served that begins in a moment.
        Err(Flaw::NotYet(begins))
            if secret
                .judge(required, begins)
                .is_ok_and(|pair| is_served(&pair)) =>
        {
            return Choice::Same;
        }
        Err(flaw) => return Choice::Bad(flaw),
    };
    // Who injects the caBundle does so before the files are here, unless it was seen otherwise.
    let is_ahead = secret.source == Source::FilesAlone && !is_seen;
    match serving {
        Some(served) if served.is_same(&pair) => Choice::Same,
        Some(served) if may_have_ended(observed, served, &pair, now) => {
            Choice::Bad(Flaw::MayHaveEnded(pair.not_after))
        }
        Some(served) if !is_ahead && is_of_use(observed, served, &pair, now) => {
            Choice::NotTrustedYet { rest: None }
        }
        _ => Choice::Publish(pair),
    }
}

/// Whether the one in memory should go on, as far as anybody knows. If the caBundle was seen to believe the new one,
/// that need not wait until the old has surely ended; if not, it is only better than one that has, however fast the
/// clock is.
fn is_of_use(observed: &Observed, served: &Pair, pair: &Pair, moment: Moment) -> bool {
    match is_trusted(observed, pair, moment.wall) {
        true => !refuses(observed, served, latest(served, moment)),
        false => {
            let surely = moment.wall - clock::doubt(moment.is_told, served.life());
            served.not_after.min(served.ca_not_after) > surely
        }
    }
}

/// Whether to serve this pair where there is nothing in memory.
fn first(view: &View<'_>, pair: Pair, moment: Moment) -> Choice {
    let now = moment.wall;
    // A caBundle that was emptied by somebody will be as `ca.crt` says.
    let named = view.observed.secret.as_ref().map(Secret::bundle);
    let known = view.observed.live_bundle().and(&named.unwrap_or_default());
    // One that has ended is none, unless the clock is fast.
    let then = now - clock::doubt(moment.is_told, pair.life());
    let rivals = known.clone().without(&pair.needs(&known, now)).valid(then);
    let is_alone = rivals.is_empty() && is_trusted(view.observed, &pair, now);
    let rest = rest(view, &pair, now);
    // All believe it, but for its end, if this clock is slow: then rather one that has not ended.
    let may_have_ended = pair.not_after <= latest(&pair, moment);
    if is_alone || rest == Some(Duration::ZERO) && !may_have_ended {
        return Choice::Publish(pair);
    }
    let fresh = |others: &&Others| others.read.age(moment) <= FRESH;
    let Some(others) = view.others.filter(fresh) else {
        return Choice::AskOthers;
    };
    let is_rival = |one: &Endpoint| {
        let mut moments = [then, now].into_iter();
        moments.any(|at| one.is_trusted(&rivals, at))
    };
    match others.endpoints.iter().any(is_rival) {
        // Where all of it is over, it is not what is waited for.
        true => Choice::NotTrustedYet {
            rest: rest.filter(|rest| !rest.is_zero()),
        },
        false if others.is_enough() => Choice::Publish(pair),
        false => Choice::AskOthers,
    }
}

/// Whether a replica that has nothing to serve may stand for leader: if no caBundle holds a CA of ours,
/// or nobody else serves anything. Else there is one who can put the Secret right.
pub fn may_lead(observed: &Observed, others: Option<&Others>) -> bool {
    let is_silent = |others: &Others| {
        let mut endpoints = others.endpoints.iter();
        others.is_enough() && endpoints.all(|one| one.leaf.is_err())
    };
    !observed.live_bundle().has_minted() || others.is_some_and(is_silent)
}

/// Whether a clock that is slow may hide that this pair has ended, while the one in memory is of use: as
/// when somebody puts an old Secret back.
fn may_have_ended(observed: &Observed, served: &Pair, pair: &Pair, moment: Moment) -> bool {
    let latest = latest(pair, moment);
    let outlives = served.not_after > latest && latest >= pair.not_after;
    outlives && !refuses(observed, served, moment.wall)
}

/// How late it may be, by a clock that is slow.
fn latest(pair: &Pair, moment: Moment) -> OffsetDateTime {
    moment.wall + clock::doubt(moment.is_told, pair.life())
}

fn must_wait(view: &View<'_>, served: &Pair, pair: &Pair, moment: Moment) -> bool {
    let now = moment.wall;
    // A clock that is fast must not end it.
    let doubt = clock::doubt(moment.is_told, served.life());
    let then = if served.not_after <= now {
        now - doubt
    } else {
        now
    };
    if rest(view, pair, now) == Some(Duration::ZERO) || served.not_after <= then {
        return false;
    }
    // Whom the caBundle believes is the one to serve; if it believes both, or none, the old one.
    !refuses(view.observed, served, then) || refuses(view.observed, pair, now)
}

/// How much of the trust delay is left, if every caBundle believes this pair.
fn rest(view: &View<'_>, pair: &Pair, now: OffsetDateTime) -> Option<Duration> {
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
