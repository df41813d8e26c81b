//! Since when a CA has been seen in every caBundle of ours without interruption. Pure.
//!
//! kube-apiservers learn a caBundle by watch, each at its own pace. Who has seen a CA published for
//! the trust delay may take it that all of them have. What is measured here is kept in memory alone:
//! whoever starts anew, measures anew.
//!
//! Without a webhook of ours nobody calls, once all kube-apiservers know that: so its absence is
//! measured like the presence of a CA.

use std::time::Duration;

use time::OffsetDateTime;

use super::state::{Configuration, Observed};
use crate::pki::{Bundle, Pair};

/// What was seen of the caBundles, look by look.
#[derive(Debug, Clone, Default)]
pub struct Belief {
    last: Option<Look>,
    /// Each CA that every caBundle holds, and since when.
    since: Vec<(Bundle, Duration)>,
}

/// What of a look tells whether something else was there between it and the next.
#[derive(Debug, Clone)]
struct Look {
    /// The configuration's `uid` and `generation`, if it is there.
    object: Option<(String, Option<i64>)>,
    has_hooks: bool,
    at: Duration,
    /// Since when no webhook of ours has been there, if none is.
    absent_since: Duration,
}

impl Belief {
    /// Takes note of what was seen. `at` is a moment after it was read, by the steady clock.
    pub fn look(&mut self, observed: &Observed, at: Duration) {
        let object = observed.configuration.as_ref().map(object_of);
        let has_hooks = !observed.hooks().is_empty();
        let last = self.last.take();
        let is_gapless = last
            .as_ref()
            .is_some_and(|last| last.has_hooks == has_hooks && is_next(&last.object, &object));
        let absent_since = match &last {
            Some(last) if is_gapless => last.absent_since,
            _ => at,
        };
        let before = std::mem::take(&mut self.since);
        let seen_before = |ca: &Bundle| {
            let found = before.iter().find(|(known, _)| known.is_same(ca));
            found.filter(|_| is_gapless).map(|(_, since)| *since)
        };
        self.since = in_all(observed)
            .singles()
            .map(|ca| {
                let since = seen_before(&ca).unwrap_or(at);
                (ca, since)
            })
            .collect();
        self.last = Some(Look {
            object,
            has_hooks,
            at,
            absent_since,
        });
    }

    /// For how long this pair had been believed by all who call us, when they were last looked at.
    /// `None` if it was not.
    pub fn held(&self, pair: &Pair, now: OffsetDateTime) -> Option<Duration> {
        let last = self.last.as_ref()?;
        let since = if last.has_hooks {
            let trusting = self.since.iter().filter(|(ca, _)| pair.is_trusted(ca, now));
            trusting.map(|(_, since)| *since).min()?
        } else {
            last.absent_since
        };
        Some(last.at.saturating_sub(since))
    }
}

fn object_of(configuration: &Configuration) -> (String, Option<i64>) {
    (configuration.uid.clone(), configuration.generation)
}

/// Whether nothing else can have been there between two looks: the same object, written at most
/// once.
fn is_next(last: &Option<(String, Option<i64>)>, now: &Option<(String, Option<i64>)>) -> bool {
    match (last, now) {
        (None, None) => true,
        (Some((last_uid, last)), Some((uid, now))) => {
            let writes = last.zip(*now).map_or(0, |(last, now)| now - last);
            last_uid == uid && (0..=1).contains(&writes)
        }
        _ => false,
    }
}

/// The CAs that every caBundle of ours holds.
fn in_all(observed: &Observed) -> Bundle {
    let mut bundles = observed.hooks().iter().map(super::state::Hook::bundle);
    let first = bundles.next().unwrap_or_default();
    bundles.fold(first, |all, one| all.common(&one))
}
