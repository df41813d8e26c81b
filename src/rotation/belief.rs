//! What was seen without interruption, and since when: each CA in every caBundle of ours, the Secret
//! as it is, and what the endpoints serve. Pure.
//!
//! kube-apiservers learn a caBundle by watch, each at its own pace. Who has seen a CA published for
//! the trust delay may take it that all of them have. It counts from when `ca.crt` holds the CA, too:
//! one that a caBundle holds and `ca.crt` does not may be about to be pruned by a leader that has not
//! seen yet that somebody put an old Secret back. What is measured here is kept in memory alone:
//! whoever starts anew, measures anew, and what was looked at is as old as the beginning of the look.
//!
//! Without a webhook of ours nobody calls, once all kube-apiservers know that: so its absence is
//! measured like the presence of a CA.

use std::time::Duration;

use time::OffsetDateTime;

use super::clock::Span;
use super::source::Source;
use super::state::{Configuration, Endpoint, Observed};
use crate::pki::{Bundle, Pair};

/// What endpoints served in between two looks counts as seen only if the looks are no further apart. While
/// it matters, a leader that works looks at them each minute or sooner.
const BETWEEN: Duration = Duration::from_secs(120);

/// What was seen, look by look.
#[derive(Debug, Clone, Default)]
pub struct Belief {
    last: Option<Look>,
    /// The leaf that every endpoint was seen serving, since when, and when those that were looked at last
    /// were all that there were.
    leaf: Option<(Vec<u8>, Duration, Duration)>,
    /// Each CA that every caBundle and `ca.crt` hold, and since when.
    since: Vec<(Bundle, Duration)>,
}

/// What of a look tells whether something else was there between it and the next.
#[derive(Debug, Clone)]
struct Look {
    /// The configuration's `uid` and `generation`, if it is there.
    object: Option<(String, Option<i64>)>,
    has_hooks: bool,
    /// When it began: so long ago is what is known for sure.
    from: Duration,
    /// Since when no webhook of ours has been there, if none is.
    absent_since: Duration,
    /// The Secret's version, if it is there.
    secret: Option<String>,
    /// Since when it has had that.
    unchanged_since: Duration,
}

impl Belief {
    /// Takes note of what was seen, and when.
    pub fn look(&mut self, observed: &Observed, read: Span) {
        let at = read.to;
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
        let secret = observed.secret.as_ref().map(|found| found.version.clone());
        let unchanged_since = match &last {
            Some(last) if last.secret == secret => last.unchanged_since,
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
            from: read.from,
            absent_since,
            secret,
            unchanged_since,
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
        Some(last.from.saturating_sub(since))
    }

    /// Takes note of what every endpoint was seen serving. Which there are is known as of the beginning.
    pub fn saw(&mut self, endpoints: &[Endpoint], looked: Span) {
        let Span { from, to } = looked;
        let mut leaves = endpoints.iter().map(|endpoint| endpoint.leaf.as_ref().ok());
        let first = leaves.next().flatten();
        let one = first.filter(|first| leaves.all(|leaf| leaf == Some(first)));
        self.leaf = one.map(|leaf| match self.leaf.take() {
            Some((known, since, last))
                if known == *leaf && from.saturating_sub(last) <= BETWEEN =>
            {
                (known, since, from)
            }
            _ => (leaf.clone(), to, from),
        });
    }

    /// For how long every endpoint had been seen serving this leaf, when they were last looked at.
    pub fn served_by_all(&self, leaf: &[u8]) -> Duration {
        let seen = self.leaf.as_ref().filter(|(known, ..)| known == leaf);
        seen.map_or(Duration::ZERO, |(_, since, last)| {
            last.saturating_sub(*since)
        })
    }

    /// For how long the Secret had been as it is, when it was last looked at.
    pub fn unchanged(&self) -> Duration {
        let last = self.last.as_ref();
        last.map_or(Duration::ZERO, |last| {
            last.from.saturating_sub(last.unchanged_since)
        })
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

/// The CAs that every caBundle of ours and `ca.crt` hold. Where nobody names a CA, somebody else
/// writes the caBundles, and they alone count.
fn in_all(observed: &Observed) -> Bundle {
    let secret = observed.secret.as_ref();
    let named = secret.filter(|found| found.source != Source::FilesAlone);
    let bundles = observed.hooks().iter().map(super::state::Hook::bundle);
    let mut all = bundles.chain(named.map(super::state::Secret::bundle));
    let first = all.next().unwrap_or_default();
    all.fold(first, |all, one| all.common(&one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Pem, judge, mint};
    use crate::rotation::state::{Hook, Secret};

    const NOW: OffsetDateTime =
        OffsetDateTime::UNIX_EPOCH.saturating_add(time::Duration::days(20_000));

    fn pair() -> Pem {
        mint(&["a".to_owned()], time::Duration::DAY, NOW).unwrap()
    }

    fn seen(generation: i64, bundle: &str, secret: Secret) -> Observed {
        Observed {
            configuration: Some(Configuration {
                version: String::new(),
                uid: "uid".to_owned(),
                generation: Some(generation),
                hooks: vec![Hook {
                    index: 0,
                    name: String::new(),
                    bundle: bundle.as_bytes().to_vec(),
                    ..Hook::default()
                }],
            }),
            secret: Some(secret),
        }
    }

    fn span(from: u64, to: u64) -> Span {
        let [from, to] = [from, to].map(Duration::from_secs);
        Span { from, to }
    }

    #[test]
    fn a_ca_is_held_from_the_end_of_the_first_look_to_the_beginning_of_the_last() {
        let (one, two) = (pair(), pair());
        let judged = judge(&one, &[], NOW).unwrap();
        let both = one.ca.clone() + &two.ca;
        let alone = |source| Secret {
            source,
            ..Secret::minted("1", &two)
        };
        let secret = || Secret::minted("1", &one);
        // What is seen, and for how long the first CA has been held then.
        let rows = [
            (seen(1, &one.ca, secret()), Some(0)),
            (seen(1, &one.ca, secret()), Some(8)),
            (seen(2, &both, secret()), Some(18)),
            // It may have been away between two writes.
            (seen(4, &both, secret()), Some(0)),
            (seen(4, &both, secret()), Some(8)),
            (seen(5, &two.ca, secret()), None),
            (seen(6, &both, secret()), Some(0)),
            // Somebody put another Secret there, and nobody needs the first CA.
            (seen(6, &both, alone(Source::Minted)), None),
            (seen(6, &both, secret()), Some(0)),
            // Whoever brings no CA says nothing of it.
            (seen(6, &both, alone(Source::FilesAlone)), Some(8)),
        ];
        let mut belief = Belief::default();
        for (row, (observed, held)) in rows.into_iter().enumerate() {
            let begun = 10 * row as u64;
            belief.look(&observed, span(begun, begun + 2));
            let expected = held.map(Duration::from_secs);
            assert_eq!(belief.held(&judged, NOW), expected, "row {row}");
        }
    }

    /// As when it is deleted and applied: kube-apiservers may have seen it without the CA.
    #[test]
    fn another_configuration_is_another_however_alike() {
        let one = pair();
        let judged = judge(&one, &[], NOW).unwrap();
        let first = seen(1, &one.ca, Secret::minted("1", &one));
        let mut other = first.clone();
        other.configuration.as_mut().unwrap().uid = "another".to_owned();
        let mut belief = Belief::default();
        for (from, observed, held) in [(0, &first, 0), (10, &first, 10), (20, &other, 0)] {
            belief.look(observed, span(from, from));
            let held = Some(Duration::from_secs(held));
            assert_eq!(belief.held(&judged, NOW), held, "{from}");
        }
    }

    #[test]
    fn a_secret_is_unchanged_while_it_has_the_same_version() {
        let pem = pair();
        let mut belief = Belief::default();
        assert_eq!(belief.unchanged(), Duration::ZERO);
        for (from, version, unchanged) in [(0, "1", 0), (10, "1", 9), (20, "2", 0), (30, "2", 9)] {
            let observed = seen(1, "", Secret::minted(version, &pem));
            belief.look(&observed, span(from, from + 1));
            assert_eq!(belief.unchanged(), Duration::from_secs(unchanged), "{from}");
        }
    }

    #[test]
    fn a_leaf_is_served_by_all_while_every_endpoint_was_seen_to() {
        let endpoint = |leaf: Option<u8>| {
            let leaf = leaf.map(|leaf| vec![leaf]).ok_or_else(String::new);
            Endpoint::new("", leaf)
        };
        let mut belief = Belief::default();
        for ((from, to), leaves, served) in [
            ((0, 1), &[Some(1), Some(1)][..], 0),
            ((5, 5), &[Some(1)], 4),
            // Who came during the look may serve another.
            ((5, 9), &[Some(1)], 4),
            ((10, 10), &[Some(1), Some(2)], 0),
            ((11, 11), &[Some(1), Some(1)], 0),
            ((13, 14), &[Some(1), Some(1)], 2),
            ((14, 14), &[Some(1), None], 0),
            ((15, 15), &[Some(1), Some(1)], 0),
            ((16, 16), &[], 0),
            ((17, 17), &[Some(2)], 0),
        ] {
            let endpoints: Vec<_> = leaves.iter().map(|leaf| endpoint(*leaf)).collect();
            belief.saw(&endpoints, span(from, to));
            let expected = Duration::from_secs(served);
            assert_eq!(belief.served_by_all(&[1]), expected, "{from}");
        }
    }
}
