//! How far a rotation is, as the Secret, the caBundles and the leaves that are served tell it: for people.
//!
//! The leader knows more (what it has seen for how long, and its settings) and decides in
//! `rotation::plan`; its log has its own words. This needs none of it, so it can be told whoever leads,
//! or if nobody does.

use serde::Serialize;
use time::OffsetDateTime;

use super::Facts;
use crate::pki::{self, Flaw, Pair, Served};
use crate::rotation::plan::Kind;
use crate::rotation::source::Source;
use crate::rotation::state::Secret;
use crate::text::rfc3339;

/// What comes next, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rotation {
    /// A step of the plan; `wait` if there is nothing to do.
    pub step: &'static str,
    /// Why it is next, or what it waits for.
    pub reason: String,
}

/// Says what comes next.
pub fn rotation(facts: &Facts) -> Rotation {
    let (step, reason) = next(facts);
    let step = step.name();
    Rotation { step, reason }
}

type Next = (Kind, String);

fn next(facts: &Facts) -> Next {
    if facts.is_from_files() {
        return rest("files are served, which are renewed where they come from");
    }
    let Some(secret) = &facts.observed.secret else {
        let why = "there is no Secret with a certificate";
        return restored(facts, why).unwrap_or_else(|| (Kind::Bootstrap, why.to_owned()));
    };
    let judged = secret.judge(std::slice::from_ref(&facts.host), facts.now);
    match judged {
        Ok(_) | Err(_) if secret.source != Source::Minted => {
            rest("somebody else keeps the Secret, and renews what is in it")
        }
        Err(Flaw::NotYet(begins)) if facts.waits_for(secret, &secret.pem(), begins) => {
            let wait = || rest(format!("the certificate begins at {}", rfc3339(begins)));
            lacking(facts, secret).unwrap_or_else(wait)
        }
        Err(flaw) => {
            let why = format!("the Secret can't be served: {flaw}");
            restored(facts, &why).unwrap_or_else(|| match next_of(facts, secret) {
                Ok(_) => lacking(facts, secret)
                    .unwrap_or_else(|| (Kind::Promote, format!("{why}, but what is staged can"))),
                Err(_) => (Kind::Replace, why),
            })
        }
        Ok(pair) => lacking(facts, secret)
            .or_else(|| staged(facts, secret, &pair))
            .or_else(|| left_over(facts, secret, &pair))
            .unwrap_or_else(|| {
                let half = half(&pair);
                rest(match half > facts.now {
                    true => format!("all is right; not renewed before {}", rfc3339(half)),
                    false => {
                        "all is right, but renewal may be due (--cert-renew-before)".to_owned()
                    }
                })
            }),
    }
}

/// When it is renewed. A shorter `--cert-renew-before` makes it later.
fn half(pair: &Pair) -> OffsetDateTime {
    pair.not_after - pair.life() / 2
}

fn rest(reason: impl Into<String>) -> Next {
    (Kind::Wait, reason.into())
}

/// A replica that serves a good leaf has the pair in memory, and writes it back when it leads.
fn restored(facts: &Facts, why: &str) -> Option<Next> {
    let is_served = facts.leaves().any(|leaf| facts.believes(leaf));
    is_served.then(|| {
        (
            Kind::Restore,
            format!("{why}; a replica that serves one writes it back"),
        )
    })
}

/// A caBundle that lacks a CA, or holds what is none.
fn lacking(facts: &Facts, secret: &Secret) -> Option<Next> {
    let wanted = secret.bundle();
    let mut hooks = facts.observed.hooks().iter();
    hooks.find_map(|hook| {
        let (live, name) = (hook.bundle(), &hook.name);
        let what = match live.holds(&wanted) {
            false => "lacks a CA of the Secret",
            true if live.has_rubbish() => "holds what is no certificate",
            true => return None,
        };
        Some((Kind::Trust, format!("the caBundle of {name} {what}")))
    })
}

fn next_of(facts: &Facts, secret: &Secret) -> Result<Pair, Flaw> {
    let names = std::slice::from_ref(&facts.host);
    pki::judge(&secret.next_pem(), names, facts.now)
}

fn staged(facts: &Facts, secret: &Secret, pair: &Pair) -> Option<Next> {
    if secret.has_next() {
        let promote = |reason: &str| Some((Kind::Promote, reason.to_owned()));
        return match next_of(facts, secret) {
            Err(Flaw::NotYet(begins)) if facts.waits_for(secret, &secret.next_pem(), begins) => {
                Some(rest(format!(
                    "what is staged begins at {}",
                    rfc3339(begins)
                )))
            }
            Err(flaw) => Some(staged_in_vain(facts, secret, pair, &flaw)),
            Ok(_) if facts.observed.hooks().is_empty() => {
                promote("a new certificate is staged, and there is no webhook that could trust it")
            }
            Ok(_) => promote(
                "a new certificate is staged; it is served once every kube-apiserver has had the \
                 time to learn its CA (--trust-delay)",
            ),
        };
    }
    let request = secret.open_request()?;
    Some((
        Kind::Stage,
        format!("a rotation was asked for: {request:?}"),
    ))
}

/// What is staged and can't be served makes room for another, if one is wanted.
fn staged_in_vain(facts: &Facts, secret: &Secret, pair: &Pair, flaw: &Flaw) -> Next {
    let is_wanted = secret.open_request().is_some() || half(pair) <= facts.now;
    let (step, what) = match is_wanted {
        true => (Kind::Stage, "another takes its place"),
        false => (Kind::Prune, "is taken out"),
    };
    (
        step,
        format!("what is staged can't be served, and {what}: {flaw}"),
    )
}

/// CAs that the certificate does not need.
fn left_over(facts: &Facts, secret: &Secret, pair: &Pair) -> Option<Next> {
    let ca = secret.bundle();
    let needed = pair.needs(&ca, facts.now);
    let live = facts.observed.live_bundle();
    if ca.is_same(&needed) && live.without(&needed).is_empty() {
        return None;
    }
    let names = |is_so: &dyn Fn(&Result<Served, String>) -> bool| {
        let all = facts.replicas.iter().filter(|one| is_so(&one.served));
        all.map(|one| one.pod.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let others = names(&|served| {
        let leaf = served.as_ref().ok();
        leaf.is_some_and(|leaf| !leaf.is(pair.certified.cert.first()))
    });
    let unseen = names(&|served| served.is_err());
    let waits = match (others.is_empty(), unseen.is_empty()) {
        _ if facts.replicas.is_empty() => "until the Service has an endpoint to look at".to_owned(),
        (false, _) => format!("until another certificate is no longer served by {others}"),
        (true, false) => format!("until it is seen what is served by {unseen}"),
        (true, true) => {
            "for some seconds, since every replica serves the new one; with --patch-ca-bundle false \
             it is others who take it out of the caBundle"
                .to_owned()
        }
    };
    Some((Kind::Prune, format!("the old CA stays {waits}")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration as Steady;

    use time::Duration;

    use super::*;
    use crate::pki::Pem;
    use crate::rotation::belief::Belief;
    use crate::rotation::plan::{Known, Needs, OLDEST, Policy, SETTLED, Step, plan};
    use crate::status::tests::{NOW, healthy, pair, pair_that_begins, served};

    #[test]
    fn each_state_of_a_rotation_has_its_step_and_its_reason() {
        let (pem, new) = (pair(364), pair(364));
        let both = format!("{}{}", pem.ca, new.ca);
        type Change<'a> = Box<dyn Fn(&mut Facts) + 'a>;
        let secret = |facts: &mut Facts, change: &dyn Fn(&mut Secret)| {
            change(facts.observed.secret.as_mut().unwrap());
        };
        let bundle = |facts: &mut Facts, text: &str| {
            let configuration = facts.observed.configuration.as_mut().unwrap();
            configuration.hooks[0].bundle = text.as_bytes().to_vec();
        };
        let of_both = |secret: &mut Secret| secret.ca = Some(both.clone().into_bytes());
        let stage = |secret: &mut Secret| {
            of_both(secret);
            secret.next_chain = Some(new.chain.clone().into_bytes());
            secret.next_key = Some(new.key.clone().into_bytes());
        };
        let rows: Vec<(Change<'_>, &str, &str)> = vec![
            (Box::new(|_| ()), "wait", "not renewed before 2025-04-04"),
            (
                Box::new(|facts| secret(facts, &|it| it.request = Some("now".to_owned()))),
                "stage",
                "asked for: \"now\"",
            ),
            (
                Box::new(|facts| secret(facts, &stage)),
                "trust",
                "the caBundle of hook lacks",
            ),
            (
                Box::new(|facts| {
                    secret(facts, &stage);
                    bundle(facts, &both);
                }),
                "promote",
                "--trust-delay",
            ),
            (
                Box::new(|facts| {
                    secret(facts, &stage);
                    facts.observed.configuration = None;
                }),
                "promote",
                "no webhook",
            ),
            (
                Box::new(|facts| {
                    secret(facts, &of_both);
                    bundle(facts, &both);
                    facts.replicas[1].served = Ok(served(&new));
                }),
                "prune",
                "no longer served by two",
            ),
            (
                Box::new(|facts| {
                    bundle(facts, &both);
                    facts.replicas[0].served = Err("refused".to_owned());
                }),
                "prune",
                "what is served by one",
            ),
            (
                Box::new(|facts| bundle(facts, &both)),
                "prune",
                "every replica serves the new one",
            ),
            (
                Box::new(|facts| {
                    bundle(facts, &both);
                    facts.replicas.clear();
                }),
                "prune",
                "an endpoint to look at",
            ),
            (Box::new(|facts| bundle(facts, "")), "trust", "lacks"),
            (
                Box::new(|facts| facts.observed.secret = None),
                "restore",
                "no Secret",
            ),
            (
                Box::new(|facts| {
                    facts.observed.secret = None;
                    facts.replicas.clear();
                }),
                "bootstrap",
                "no Secret",
            ),
            (
                Box::new(|facts| {
                    secret(facts, &|it| it.key = None);
                    bundle(facts, &new.ca);
                }),
                "replace",
                "can't be served",
            ),
            (
                Box::new(|facts| {
                    secret(facts, &stage);
                    secret(facts, &|it| it.key = None);
                }),
                "restore",
                "a replica that serves one",
            ),
            (
                Box::new(|facts| {
                    secret(facts, &stage);
                    secret(facts, &|it| it.key = None);
                    facts.replicas.clear();
                }),
                "trust",
                "lacks",
            ),
            (
                Box::new(|facts| {
                    secret(facts, &stage);
                    secret(facts, &|it| it.key = None);
                    bundle(facts, &both);
                    facts.replicas.clear();
                }),
                "promote",
                "what is staged can",
            ),
            (
                Box::new(|facts| bundle(facts, &format!("{}rubbish", pem.ca))),
                "wait",
                "not renewed before",
            ),
            (
                Box::new(|facts| {
                    let rubbish = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
                    bundle(facts, &format!("{}{rubbish}", pem.ca));
                }),
                "trust",
                "no certificate",
            ),
            (
                Box::new(|facts| {
                    secret(facts, &stage);
                    secret(facts, &|it| it.next_key = None);
                    bundle(facts, &both);
                }),
                "prune",
                "is taken out",
            ),
            (
                Box::new(|facts| {
                    secret(facts, &stage);
                    secret(facts, &|it| {
                        (it.next_key, it.request) = (None, Some("now".to_owned()));
                    });
                    bundle(facts, &both);
                }),
                "stage",
                "another takes its place",
            ),
            (
                Box::new(|facts| facts.now = NOW + Duration::days(200)),
                "wait",
                "renewal may be due",
            ),
            (
                Box::new(|facts| secret(facts, &|it| it.source = Source::Annotated)),
                "wait",
                "somebody else",
            ),
            (
                Box::new(|facts| facts.now = NOW - Duration::hours(50)),
                "wait",
                "begins at",
            ),
            (
                Box::new(|facts| {
                    facts.replicas[0].page.as_mut().unwrap().is_from_files = true;
                    facts.observed.secret = None;
                }),
                "wait",
                "files",
            ),
        ];
        for (row, (change, step, part)) in rows.iter().enumerate() {
            let mut facts = healthy(&pem);
            change(&mut facts);
            let found = rotation(&facts);
            assert_eq!(found.step, *step, "row {row}: {found:?}");
            assert!(found.reason.contains(part), "row {row}: {found:?}");
        }
    }

    /// What the leader shows as its step, in the same state.
    fn of_the_leader(facts: &Facts) -> &'static str {
        let policy = Policy {
            names: vec![facts.host.clone()],
            required: vec![facts.host.clone()],
            life: Duration::days(365),
            renew_before: Duration::days(365) / 2,
            trust_delay: Steady::from_secs(60),
            writes_bundles: true,
            settled: SETTLED,
            shown: SETTLED,
            oldest: OLDEST,
        };
        let known = Known {
            served: None,
            belief: &Belief::default(),
            endpoints: None,
            is_told: facts.is_told,
        };
        match plan(&facts.observed, &known, &policy, facts.now).step {
            Step::Wait {
                needs: Needs::Endpoints,
                ..
            } => "prune",
            step => step.kind().name(),
        }
    }

    /// For how long a pair that begins later is waited for, only the leader decides.
    #[test]
    fn of_a_pair_that_begins_later_is_told_what_the_leader_does() {
        let rows = [
            (1, true, false, ["wait", "wait"]),
            (1, true, true, ["wait", "wait"]),
            (2, true, false, ["replace", "prune"]),
            (2, true, true, ["replace", "stage"]),
            (2, false, false, ["wait", "wait"]),
            (2, false, true, ["replace", "stage"]),
        ];
        let pem = pair(365);
        for (hours, is_told, is_asked, expected) in rows {
            let later = pair_that_begins(NOW + Duration::hours(hours));
            let both = Pem {
                ca: format!("{}{}", pem.ca, later.ca),
                ..pem.clone()
            };
            let mut all = [healthy(&later), healthy(&both)];
            let staged = all[1].observed.secret.as_mut().unwrap();
            staged.next_chain = Some(later.chain.into_bytes());
            staged.next_key = Some(later.key.into_bytes());
            for (facts, expected) in all.iter_mut().zip(expected) {
                facts.is_told = is_told;
                facts.observed.secret.as_mut().unwrap().request =
                    is_asked.then(|| "now".to_owned());
                let found = rotation(facts);
                let row = (hours, is_told, is_asked);
                assert_eq!(found.step, expected, "{row:?}: {found:?}");
                assert_eq!(of_the_leader(facts), expected, "{row:?}");
            }
        }
    }
}
