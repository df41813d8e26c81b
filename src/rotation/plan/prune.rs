//! CAs that no leaf needs any more, and what is left of a pair that was staged.

use time::Duration;

use super::{Eyes, Needs, Plan, SOON, Step, wait_for};
use crate::pki::{Bundle, Pair};
use crate::rotation::state::{Configuration, Endpoint, Hook, Secret};
use crate::rotation::write::{Change, Next, Write};

/// Names so many endpoints, and counts the others.
const NAMED: usize = 5;

pub(super) fn plan(eyes: &Eyes<'_>, secret: &Secret, pair: &Pair) -> Option<Plan> {
    let ca = secret.bundle();
    let needed = pair.needs(&ca, eyes.now);
    let configuration = eyes.observed.configuration.as_ref();
    let configuration = configuration.filter(|_| eyes.policy.writes_bundles);
    let live = configuration.map(|_| eyes.observed.live_bundle());
    let extra = ca.clone().and(&live.unwrap_or_default()).without(&needed);
    let is_clean = extra.is_empty() && !ca.has_rubbish() && !secret.has_next();
    if is_clean || needed.is_empty() {
        return None;
    }
    let (removable, reason) = match removable(eyes, pair, extra) {
        Ok(removable) => removable,
        Err(plan) => return Some(*plan),
    };
    let wait = too_early(eyes, pair, &removable, &reason);
    let prune = |write| Plan {
        step: Step::Prune(write),
        reason,
    };
    if let Some(write) = in_secret(secret, &ca, &removable) {
        // caBundles that we write keep what goes from here until they are pruned, too. Else whoever copies `ca.crt`
        // into them takes it away at once, and so do we where they are made anew.
        let keeps = configuration.is_some_and(|found| !found.hooks.is_empty());
        let wait = wait.filter(|_| !keeps);
        return Some(wait.unwrap_or_else(|| prune(write)));
    }
    let write = in_hooks(configuration?, &removable)?;
    Some(wait.unwrap_or_else(|| prune(write)))
}

/// What to wait for before a caBundle may lose these CAs: a replica may be about to act on a Secret that
/// it saw before, and one that the cluster has just forgotten may still be called.
fn too_early(eyes: &Eyes<'_>, pair: &Pair, removable: &Bundle, reason: &str) -> Option<Plan> {
    let (belief, policy) = (eyes.known.belief, eyes.policy);
    let is_ended = removable.is_same(&removable.clone().ended(eyes.surely()));
    let unsettled = policy.settled.saturating_sub(belief.unchanged());
    let served = belief.served_by_all(pair.leaf());
    let left = policy.shown.saturating_sub(served).max(unsettled);
    if left.is_zero() || is_ended {
        return None;
    }
    let reason = format!("{reason}, and has been seen to for {} s", served.as_secs());
    let until = eyes.now + Duration::try_from(left).unwrap_or(SOON);
    Some(wait_for(Needs::Pruning, until, reason))
}

/// Which of the CAs may go, and why. If none may, what to do instead.
fn removable(eyes: &Eyes<'_>, pair: &Pair, extra: Bundle) -> Result<(Bundle, String), Box<Plan>> {
    let soon = |needs, reason| Err(Box::new(wait_for(needs, eyes.now + SOON, reason)));
    let Some(endpoints) = eyes.known.endpoints else {
        let reason = "looking which leaf the endpoints serve".to_owned();
        return soon(Needs::Endpoints, reason);
    };
    let later = |reason| soon(Needs::Pruning, reason);
    if endpoints.is_empty() {
        return later("the Service has no endpoint to be looked at".to_owned());
    }
    let is_other = |leaf: &Vec<u8>| leaf != pair.leaf();
    let others = named(endpoints, |one| one.leaf.as_ref().is_ok_and(is_other));
    let unseen = named(endpoints, |one| one.leaf.is_err());
    // The same leaf may be sent with another chain than the Secret has.
    let hooks = eyes.observed.hooks().iter().map(Hook::bundle);
    let bundles: Vec<_> = hooks
        .map(|live| (live.clone().without(&extra), live))
        .collect();
    let leans_on_them = |one: &Endpoint| {
        bundles
            .iter()
            .any(|(left, live)| one.is_trusted(live, eyes.now) && !one.is_trusted(left, eyes.now))
    };
    let leaning = named(endpoints, leans_on_them);
    let why = match (others, unseen, leaning) {
        (Some(others), ..) => format!("another leaf is served by {others}"),
        (None, Some(unseen), _) => format!("can't see which leaf is served by {unseen}"),
        (None, None, Some(leaning)) => format!("another chain is served by {leaning}"),
        (None, None, None) => {
            return Ok((extra, "every endpoint serves the leaf".to_owned()));
        }
    };
    let ended = extra.ended(eyes.surely());
    // By a clock that is years ahead all have ended by which a leaf is still believed.
    let needed = endpoints.iter().map(|one| one.needs(&ended, eyes.now));
    let needed = needed.fold(Bundle::default(), |all, one| all.and(&one));
    let ended = ended.without(&needed);
    if ended.is_empty() {
        return later(why);
    }
    Ok((ended, format!("these CAs have ended ({why})")))
}

fn in_secret(secret: &Secret, ca: &Bundle, removable: &Bundle) -> Option<Write> {
    let left = ca.clone().without(removable);
    if left.is_same(ca) && !secret.has_next() {
        return None;
    }
    Some(Write::Change {
        version: secret.version.clone(),
        change: Change {
            ca: Some(left.pem()),
            next: secret.has_next().then_some(Next::Clear),
            ..Change::default()
        },
    })
}

fn in_hooks(configuration: &Configuration, removable: &Bundle) -> Option<Write> {
    let hooks: Vec<_> = configuration
        .hooks
        .iter()
        .filter_map(|hook| {
            let live = hook.bundle();
            let left = live.clone().without(removable);
            (!left.is_same(&live)).then(|| Hook {
                bundle: left.pem().into_bytes(),
                ..hook.clone()
            })
        })
        .collect();
    (!hooks.is_empty()).then(|| Write::Bundles {
        version: configuration.version.clone(),
        hooks,
    })
}

/// The endpoints of which this is so, as a list for people; `None` if there are none.
fn named(endpoints: &[Endpoint], is_so: impl Fn(&Endpoint) -> bool) -> Option<String> {
    let all: Vec<_> = endpoints.iter().filter(|one| is_so(one)).collect();
    let more = all.len().saturating_sub(NAMED);
    let names = all.iter().take(NAMED).map(|endpoint| match &endpoint.leaf {
        Ok(_) => endpoint.address.clone(),
        Err(why) => format!("{} ({why})", endpoint.address),
    });
    let list = names.collect::<Vec<_>>().join(", ");
    match (all.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(list),
        (false, more) => Some(format!("{list} and {more} more")),
    }
}
