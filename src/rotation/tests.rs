//! Rotation as tables, stories and properties, against a cluster in memory.

use std::sync::{Mutex, OnceLock};
use std::time::Duration as Steady;

use futures_util::FutureExt;
use proptest::prelude::*;
use time::{Duration, OffsetDateTime};
use tokio::sync::{Notify, watch};

use super::belief::Belief;
use super::clock::{Clock, Moment, Span};
use super::driver::{Driver, Memory as Leader, Store, begin_counting};
use super::plan::{Kind, Known, OLDEST, Plan, Policy, SETTLED, Step, oldest, plan};
use super::replica::{Choice, Others, View, choose, choose_unseen, is_trusted, may_lead};
use super::source::Source;
use super::state::{Configuration, Endpoint, Hook, Observed, Secret};
use super::write::{Change, Failure, Next, Write};
use crate::pki::{Bundle, Pair, Pem, by_way_of_another, judge, mint, two_ways};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::notices::Notices;

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_000));
const YEAR: Duration = Duration::days(365);
const HOST: &str = "imageswap.ns.svc";
const DELAY: Steady = Steady::from_secs(60);
/// Longer than the leader waits before it promotes.
const LONG: Steady = Steady::from_secs(70);

fn policy() -> Policy {
    Policy {
        names: vec!["imageswap".to_owned(), HOST.to_owned()],
        required: vec![HOST.to_owned()],
        life: YEAR,
        renew_before: YEAR / 2,
        trust_delay: DELAY,
        writes_bundles: true,
        settled: SETTLED,
        shown: SETTLED,
        oldest: OLDEST,
    }
}

/// Two good pairs, one that has ended, one for another Service.
fn pairs() -> &'static [Pem; 4] {
    static PAIRS: OnceLock<[Pem; 4]> = OnceLock::new();
    PAIRS.get_or_init(|| {
        let ended = NOW - YEAR - YEAR;
        [(HOST, NOW), (HOST, NOW), (HOST, ended), ("other.svc", NOW)].map(|(name, at)| {
            let names = ["imageswap".to_owned(), name.to_owned()];
            mint(&names, YEAR, at).unwrap()
        })
    })
}

fn bundle(pems: &[&Pem]) -> Vec<u8> {
    pems.iter().flat_map(|pem| pem.ca.bytes()).collect()
}

fn secret(pem: &Pem) -> Secret {
    Secret::minted("1", pem)
}

fn configuration(bundles: &[Vec<u8>]) -> Configuration {
    let hook = |(index, bundle): (usize, &Vec<u8>)| Hook {
        index,
        name: format!("hook{index}"),
        bundle: bundle.clone(),
        ..Hook::default()
    };
    Configuration {
        version: "1".to_owned(),
        uid: "uid".to_owned(),
        generation: Some(1),
        hooks: bundles.iter().enumerate().map(hook).collect(),
    }
}

fn observed(secret: Option<Secret>, bundles: Option<&[Vec<u8>]>) -> Observed {
    Observed {
        configuration: bundles.map(configuration),
        secret,
    }
}

// === the cluster in memory ===

/// Keeps versions as Kubernetes does.
#[derive(Debug, Default)]
struct Memory(Mutex<(Observed, u64)>);

impl Memory {
    fn new(observed: Observed) -> Self {
        Self(Mutex::new((observed, 1)))
    }

    fn now(&self) -> Observed {
        self.0.lock().unwrap().0.clone()
    }

    fn write(&self, write: &Write) -> Result<(), Failure> {
        let conflict = || Failure::Conflict("another version".to_owned());
        let (state, version) = &mut *self.0.lock().unwrap();
        *version += 1;
        let next = version.to_string();
        match write {
            Write::Create(_) if state.secret.is_some() => return Err(conflict()),
            Write::Create(pem) => {
                let version = next;
                state.secret = Some(Secret {
                    version,
                    ..secret(pem)
                });
            }
            Write::Change { version, change } => {
                let old = state.secret.as_ref().filter(|old| old.version == *version);
                let old = old.ok_or_else(conflict)?.clone();
                let version = next;
                state.secret = Some(Secret {
                    version,
                    ..changed(old, change)
                });
            }
            Write::Bundles { version, hooks } => {
                let live = state.configuration.as_mut();
                let live = live.filter(|live| live.version == *version);
                let live = live.ok_or_else(conflict)?;
                for hook in hooks {
                    let place = &mut live.hooks[hook.index];
                    assert_eq!(place.name, hook.name);
                    place.bundle.clone_from(&hook.bundle);
                }
                live.version = next;
                live.generation = live.generation.map(|count| count + 1);
            }
        }
        Ok(())
    }
}

pub(super) fn changed(mut secret: Secret, change: &Change) -> Secret {
    let part = |text: &str| Some(text.as_bytes().to_vec());
    if let Some(pair) = &change.pair {
        (secret.chain, secret.key) = (part(&pair.chain), part(&pair.key));
    }
    match &change.next {
        Some(Next::Set(pair)) => {
            (secret.next_chain, secret.next_key) = (part(&pair.chain), part(&pair.key));
        }
        Some(Next::Clear) => (secret.next_chain, secret.next_key) = (None, None),
        None => {}
    }
    if let Some(ca) = &change.ca {
        secret.ca = part(ca);
    }
    if let Some(text) = &change.answered {
        secret.answered = Some(text.clone());
    }
    secret
}

/// What happens to a leader's write.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Done,
    /// The leader is gone before it.
    CrashBefore,
    /// The leader is gone after it.
    CrashAfter,
    /// Another leader takes so many steps first.
    Overtaken(usize),
    /// It is done, and undone by somebody at once.
    TakenBack,
    /// What there is can't even be read.
    Blind,
}

struct Fated<'m>(&'m Memory, Fate);

impl Store for Fated<'_> {
    async fn observe(&self) -> Result<Observed, Failure> {
        match self.1 {
            Fate::Blind => Err(Failure::Failed("forbidden".to_owned())),
            _ => Ok(self.0.now()),
        }
    }

    async fn apply(&self, write: &Write) -> Result<(), Failure> {
        let gone = || Err(Failure::Failed("gone".to_owned()));
        match self.1 {
            Fate::Done => self.0.write(write),
            Fate::CrashBefore | Fate::Blind => gone(),
            Fate::CrashAfter => self.0.write(write).and(gone()),
            Fate::Overtaken(steps) => {
                for _ in 0..steps {
                    let _ = step(self.0, Fate::Done);
                }
                self.0.write(write)
            }
            Fate::TakenBack => Ok(()),
        }
    }

    /// Nobody can be reached: what is pruned has ended.
    async fn endpoints(&self) -> Result<Vec<Endpoint>, Failure> {
        Ok(Vec::new())
    }
}

fn driver(memory: &Memory, fate: Fate, metrics: Metrics) -> Driver<Fated<'_>> {
    Driver {
        store: Fated(memory, fate),
        policy: policy(),
        served: watch::channel(None).1,
        believed: watch::channel(Belief::default()).1,
        clock: Clock::of(|| Moment {
            wall: NOW,
            is_told: false,
            steady: LONG,
        }),
        metrics,
        notices: Notices::default(),
    }
}

fn step(memory: &Memory, fate: Fate) -> Result<Option<Steady>, Failure> {
    let driver = driver(memory, fate, metrics().clone());
    let mut leader = Leader::default();
    driver.step(&mut leader).now_or_never().unwrap()
}

/// Plans with eyes that have seen only this.
fn plan_for(observed: &Observed) -> Plan {
    let mut belief = Belief::default();
    belief.look(observed, at(Steady::ZERO));
    let known = Known {
        served: None,
        belief: &belief,
        endpoints: None,
        is_told: false,
    };
    plan(observed, &known, &policy(), NOW)
}

fn view<'a>(observed: &'a Observed, belief: &'a Belief, required: &'a [String]) -> View<'a> {
    View {
        observed,
        belief,
        read: at(Steady::ZERO),
        required,
        trust_delay: DELAY,
        others: None,
    }
}

/// A look that took no time.
fn at(moment: Steady) -> Span {
    Span {
        from: moment,
        to: moment,
    }
}

fn wall(wall: OffsetDateTime) -> Moment {
    let steady = Steady::ZERO;
    Moment {
        wall,
        steady,
        is_told: false,
    }
}

fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| Metrics::new().unwrap())
}

/// Steps until there is nothing to do.
fn settle(memory: &Memory) -> Steady {
    let mut steps = (0..9).map(|_| step(memory, Fate::Done));
    steps
        .find_map(|step| step.unwrap())
        .expect("no end of steps")
}

// === the policy ===

/// A Secret, caBundles, and what is expected of them.
type Row<'a, E> = (Option<Secret>, Option<&'a [Vec<u8>]>, E, &'a str);

#[test]
fn each_state_has_its_step() {
    let [good, other, ended, foreign] = pairs();
    let mixed = Pem {
        key: other.key.clone(),
        ..good.clone()
    };
    let upstream = Secret {
        chain: None,
        key: None,
        ca: None,
        ..secret(good)
    };
    let both = bundle(&[other, good]);
    let (ca, none): (_, &[Vec<u8>]) = (bundle(&[good]), &[]);
    let rubbish = [ca.as_slice(), b"-----BEGIN CERTIFICATE-----\nAA"].concat();
    let rows: &[Row<'_, &str>] = &[
        (None, None, "bootstrap", "no Secret"),
        (None, Some(none), "bootstrap", "no Secret"),
        (
            Some(upstream),
            None,
            "replace",
            "tls.crt holds no certificate",
        ),
        (Some(secret(&mixed)), None, "replace", "not the key"),
        (
            Some(secret(ended)),
            None,
            "replace",
            "the leaf in tls.crt ended at",
        ),
        (
            Some(secret(foreign)),
            None,
            "replace",
            "not valid for imageswap.ns.svc",
        ),
        (Some(secret(good)), None, "wait", "until the leaf is due"),
        (Some(secret(good)), Some(none), "wait", ""),
        (
            Some(secret(good)),
            Some(&[ca.clone(), both.clone()]),
            "wait",
            "looking which leaf",
        ),
        (
            Some(secret(good)),
            Some(&[ca.clone(), vec![]]),
            "trust",
            "in hook1 (it is empty)",
        ),
        (
            Some(secret(good)),
            Some(&[bundle(&[other])]),
            "trust",
            "in hook0",
        ),
        (Some(secret(good)), Some(&[rubbish]), "trust", ""),
        (
            Some(secret(good)),
            Some(&[b"rubbish".to_vec()]),
            "trust",
            "",
        ),
    ];
    for (secret, bundles, name, part) in rows {
        let Plan { step, reason } = plan_for(&observed(secret.clone(), *bundles));
        assert_eq!(step.kind().name(), *name, "{reason}");
        assert!(reason.contains(part), "{reason}");
    }
}

#[test]
fn no_step_but_prune_takes_a_ca_away() {
    let [good, other, ended, _] = pairs();
    let broken = Secret {
        chain: None,
        ..secret(good)
    };
    let live = [bundle(&[other, ended])];
    let Plan {
        step: Step::Replace { keep, .. },
        ..
    } = plan_for(&observed(Some(broken), Some(&live)))
    else {
        panic!("no replacement");
    };
    let read = |pems: &[&Pem]| Bundle::read(&bundle(pems));
    assert!(keep.holds(&read(&[good, other, ended])));

    // A Secret replaced by hand: the old leaf stays believed beside the new one.
    let seen = observed(Some(secret(good)), Some(&live));
    let Plan {
        step: Step::Trust(Write::Bundles { hooks, .. }),
        ..
    } = plan_for(&seen)
    else {
        panic!("no trust");
    };
    assert!(hooks[0].bundle().holds(&read(&[good, other, ended])));
}

/// Plans a step of a leader that has looked at this again and again, for so long.
fn plan_after(
    observed: &Observed,
    served: Option<&Pem>,
    endpoints: &[Endpoint],
    when: (OffsetDateTime, bool, Steady),
) -> Plan {
    plan_by(&policy(), observed, served, endpoints, when)
}

fn plan_by(
    policy: &Policy,
    observed: &Observed,
    served: Option<&Pem>,
    endpoints: &[Endpoint],
    (wall, is_told, passed): (OffsetDateTime, bool, Steady),
) -> Plan {
    let mut belief = Belief::default();
    for moment in [Steady::ZERO, passed] {
        belief.look(observed, at(moment));
        belief.saw(endpoints, at(moment));
    }
    let known = Known {
        served,
        belief: &belief,
        endpoints: Some(endpoints),
        is_told,
    };
    plan(observed, &known, policy, wall)
}

fn endpoint(leaf: Result<&Pem, &str>) -> Endpoint {
    let leaf = leaf.map(|pem| pem.leaf().unwrap());
    Endpoint::new("there", leaf.map_err(str::to_owned))
}

/// Neither from `ca.crt`, from which it would be put back if a caBundle lost it, nor from a caBundle.
#[test]
fn no_ca_goes_that_an_endpoint_may_need() {
    let [good, other, ended, _] = pairs();
    let wide = Secret {
        ca: Some(bundle(&[good, other, ended])),
        ..secret(good)
    };
    let (ours, theirs, unseen) = (
        endpoint(Ok(good)),
        endpoint(Ok(other)),
        endpoint(Err("gone")),
    );
    let left = |pems: &[&Pem]| Some(Bundle::read(&bundle(pems)).pem());
    // Who serves what; what is left in `ca.crt`, if something is taken.
    for (endpoints, expected) in [
        (vec![ours.clone()], left(&[good])),
        (vec![ours.clone(), theirs.clone()], left(&[good, other])),
        (vec![theirs.clone()], left(&[good, other])),
        (vec![theirs, unseen.clone()], left(&[good, other])),
        (vec![ours.clone(), unseen.clone()], left(&[good, other])),
        (vec![unseen.clone()], left(&[good, other])),
        (vec![endpoint(Ok(ended)), unseen], None),
        (vec![], None),
    ] {
        let seen = observed(Some(wide.clone()), Some(&[bundle(&[good, other, ended])]));
        let step = plan_after(&seen, Some(good), &endpoints, (NOW, true, LONG)).step;
        let taken = match step {
            Step::Prune(Write::Change { change, .. }) => change.ca,
            Step::Wait { .. } => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(taken, expected, "{endpoints:?}");
    }
    // From a caBundle only after the Secret, and what is served, were so for longer than anybody
    // acts on what was otherwise.
    let seen = observed(Some(secret(good)), Some(&[bundle(&[good, other])]));
    for (passed, name) in [(0, "wait"), (5, "wait"), (6, "prune")] {
        let passed = (NOW, true, Steady::from_secs(passed));
        let Plan { step, reason } =
            plan_after(&seen, Some(good), std::slice::from_ref(&ours), passed);
        assert_eq!(step.kind().name(), name, "{reason}");
    }
    // Where somebody else copies `ca.crt` into the caBundles, that is so for it.
    let theirs = Policy {
        writes_bundles: false,
        ..policy()
    };
    let wide = Secret {
        ca: Some(bundle(&[good, other])),
        ..secret(good)
    };
    let seen = observed(Some(wide), Some(&[bundle(&[good, other])]));
    for (policy, passed, name) in [
        (&policy(), 0, "prune"),
        (&theirs, 0, "wait"),
        (&theirs, 5, "wait"),
        (&theirs, 6, "prune"),
    ] {
        let passed = (NOW, true, Steady::from_secs(passed));
        let endpoints = std::slice::from_ref(&ours);
        let Plan { step, reason } = plan_by(policy, &seen, Some(good), endpoints, passed);
        assert_eq!(step.kind().name(), name, "{reason}");
    }
    // Nor is there a caBundle that keeps it while the configuration is deleted and made anew.
    let gone = Observed {
        configuration: None,
        ..seen
    };
    for (passed, name) in [(5, "wait"), (6, "prune")] {
        let passed = (NOW, true, Steady::from_secs(passed));
        let endpoints = std::slice::from_ref(&ours);
        let Plan { step, reason } = plan_after(&gone, Some(good), endpoints, passed);
        assert_eq!(step.kind().name(), name, "{reason}");
    }
    // A CA counts as ended when it surely is.
    let soon = mint(&[HOST.to_owned()], Duration::days(9), NOW).unwrap();
    let wide = [bundle(&[good, &soon])];
    let seen = observed(Some(secret(good)), Some(&wide));
    for (hours, is_told, name) in [
        (0, true, "wait"),
        (2, true, "prune"),
        (2, false, "wait"),
        (25, false, "prune"),
    ] {
        let wall = NOW + Duration::days(9) + Duration::hours(hours);
        // A replica by whose clock it has not ended may serve its leaf.
        for (there, name) in [
            (endpoint(Err("gone")), name),
            (endpoint(Ok(good)), "prune"),
            (endpoint(Ok(&soon)), "wait"),
        ] {
            let plan = plan_after(&seen, Some(good), &[there], (wall, is_told, LONG));
            let reason = plan.reason;
            assert_eq!(plan.step.kind().name(), name, "{hours} {is_told}: {reason}");
        }
    }
}

/// The leaf alone does not say which CA a replica needs.
#[test]
fn no_ca_goes_by_which_an_endpoint_sends_another_chain_of_the_same_leaf() {
    let [old, new] = two_ways(NOW, [YEAR, YEAR]);
    let seen = observed(Some(secret(&new)), Some(&[bundle(&[&old, &new])]));
    for (chain, expected) in [(&old, "wait"), (&new, "prune")] {
        let between = judge(chain, &policy().required, NOW).unwrap();
        let between = between.certified.cert.iter().skip(1);
        let endpoint = Endpoint {
            intermediates: between.map(|der| der.to_vec()).collect(),
            ..endpoint(Ok(chain))
        };
        let plan = plan_after(&seen, Some(chain), &[endpoint], (NOW, true, LONG));
        assert_eq!(plan.step.kind().name(), expected, "{}", plan.reason);
    }
}

/// As when somebody completes a chain, or renews the CA that issues for him.
#[test]
fn another_chain_of_the_same_leaf_is_served_when_it_is_believed() {
    let [old, new] = two_ways(NOW, [YEAR, YEAR]);
    let required = policy().required;
    let served = judge(&old, &required, NOW).unwrap();
    let both = bundle(&[&old, &new]);
    for (secret, live, first, later) in [
        (secret(&old), both.clone(), "same", "same"),
        (secret(&new), both, "not yet", "publish"),
        (secret(&new), bundle(&[&new]), "publish", "publish"),
        (secret(&new), bundle(&[&old]), "not yet", "not yet"),
    ] {
        let seen = observed(Some(secret), Some(&[live]));
        let mut belief = Belief::default();
        for (moment, expected) in [(Steady::ZERO, first), (DELAY, later)] {
            belief.look(&seen, at(moment));
            let choice = choose(&view(&seen, &belief, &required), Some(&served), wall(NOW));
            assert_eq!(word(&choice), expected, "{seen:?}");
        }
    }
}

/// Of a pair that somebody else put there.
#[test]
fn a_leaf_is_due_with_its_ca() {
    let [_, short] = two_ways(NOW, [YEAR, Duration::days(30)]);
    let seen = observed(Some(secret(&short)), Some(&[bundle(&[&short])]));
    let ours = [endpoint(Ok(&short))];
    for (day, expected) in [(0, "wait"), (19, "wait"), (21, "stage"), (29, "stage")] {
        let wall = NOW + Duration::days(day);
        let plan = plan_after(&seen, Some(&short), &ours, (wall, true, LONG));
        assert_eq!(plan.step.kind().name(), expected, "{day}: {}", plan.reason);
    }
}

/// A Service that got another name is served as before, and soon by a leaf of that name.
#[test]
fn a_leaf_that_lacks_a_name_that_is_wanted_is_renewed() {
    let [good, ..] = pairs();
    let lacking = || mint(&[HOST.to_owned()], YEAR, NOW).unwrap();
    let (one, other) = (lacking(), lacking());
    let staged = |next: &Pem| Secret {
        ca: Some(bundle(&[&one, next])),
        next_chain: Some(next.chain.clone().into_bytes()),
        next_key: Some(next.key.clone().into_bytes()),
        ..secret(&one)
    };
    for (secret, step, why) in [
        (secret(&one), "stage", "not valid for imageswap"),
        // Nothing would be won by that.
        (staged(&other), "stage", "not valid for imageswap"),
        (staged(good), "promote", "trusted for"),
    ] {
        let live = [secret.ca.clone().unwrap()];
        let seen = observed(Some(secret), Some(&live));
        let plan = plan_after(&seen, Some(&one), &[], (NOW, true, LONG));
        assert_eq!(plan.step.kind().name(), step, "{}", plan.reason);
        assert!(plan.reason.contains(why), "{}", plan.reason);
    }
}

/// It would be renewed again and again: a namespace may be called 123.
#[test]
fn a_leaf_needs_no_name_that_no_client_can_ask_for() {
    let names = ["imageswap", "imageswap.123", HOST, "imageswap.0x1f"].map(str::to_owned);
    let pem = mint(&names, YEAR, NOW).unwrap();
    let policy = Policy {
        names: names.to_vec(),
        ..policy()
    };
    let live = [bundle(&[&pem])];
    let seen = observed(Some(secret(&pem)), Some(&live));
    let plan = plan_by(&policy, &seen, Some(&pem), &[], (NOW, true, LONG));
    assert_eq!(plan.step.kind().name(), "wait", "{}", plan.reason);
}

/// What is staged beside a pair that can't be served is the next to serve, but believed first.
#[test]
fn a_staged_pair_takes_the_place_of_one_that_is_broken_once_it_is_believed() {
    let [good, other, ..] = pairs();
    let broken = Secret {
        key: None,
        ca: Some(bundle(&[good, other])),
        next_chain: Some(other.chain.clone().into_bytes()),
        next_key: Some(other.key.clone().into_bytes()),
        ..secret(good)
    };
    for (live, name) in [
        (vec![good], "trust"),
        (vec![], "trust"),
        (vec![good, other], "promote"),
    ] {
        let seen = observed(Some(broken.clone()), Some(&[bundle(&live)]));
        let plan = plan_after(&seen, None, &[], (NOW, true, Steady::ZERO));
        assert_eq!(plan.step.kind().name(), name, "{}", plan.reason);
    }
}

/// A backup that was taken in the middle of a rotation holds a pair that has ended, and one older than what is
/// served since.
#[test]
fn what_was_staged_before_the_pair_that_is_served_does_not_take_its_place() {
    let [_, _, ended, _] = pairs();
    let [older, served, newer] = [-2, -1, 0].map(|days| {
        let names = ["imageswap".to_owned(), HOST.to_owned()];
        mint(&names, YEAR, NOW + Duration::days(days)).unwrap()
    });
    for (next, is_cleared) in [(&older, true), (&newer, false)] {
        let backup = Secret {
            ca: Some(bundle(&[ended, next])),
            next_chain: Some(next.chain.clone().into_bytes()),
            next_key: Some(next.key.clone().into_bytes()),
            ..secret(ended)
        };
        let seen = observed(Some(backup), Some(&[bundle(&[&served])]));
        let plan = plan_after(&seen, Some(&served), &[], (NOW, true, Steady::ZERO));
        let Step::Restore(Write::Change { change, .. }) = plan.step else {
            panic!("{:?}", plan.step);
        };
        assert_eq!(matches!(change.next, Some(Next::Clear)), is_cleared);
    }
}

/// All that is believed stays, whatever is made anew.
#[test]
fn every_new_pair_keeps_what_is_believed() {
    let [good, other, ..] = pairs();
    let holds = |keep: &Bundle, pems: &[&Pem]| {
        assert!(keep.holds(&Bundle::read(&bundle(pems))), "{keep:?}");
    };
    let live = [bundle(&[good, other])];
    let at = (NOW, true, LONG);
    match plan_after(&observed(None, Some(&live)), None, &[], at).step {
        Step::Bootstrap { keep } => holds(&keep, &[good, other]),
        step => panic!("{step:?}"),
    }
    match plan_after(&observed(None, Some(&live)), Some(good), &[], at).step {
        Step::Restore(Write::Create(pem)) => {
            assert_eq!(pem.chain, good.chain);
            holds(&Bundle::read(pem.ca.as_bytes()), &[good, other]);
        }
        step => panic!("{step:?}"),
    }
    let wide = Secret {
        ca: Some(bundle(&[good, other])),
        request: Some("now".to_owned()),
        ..secret(good)
    };
    match plan_after(
        &observed(Some(wide.clone()), Some(&live)),
        Some(good),
        &[],
        at,
    )
    .step
    {
        Step::Stage { keep, answered, .. } => {
            holds(&keep, &[good, other]);
            assert_eq!(answered.as_deref(), Some("now"));
        }
        step => panic!("{step:?}"),
    }
    let broken = Secret { key: None, ..wide };
    match plan_after(
        &observed(Some(broken.clone()), Some(&live)),
        Some(good),
        &[],
        at,
    )
    .step
    {
        Step::Restore(Write::Change { change, .. }) => {
            holds(&Bundle::read(change.ca.unwrap().as_bytes()), &[good, other]);
        }
        step => panic!("{step:?}"),
    }
    match plan_after(&observed(Some(broken), Some(&live)), None, &[], at).step {
        Step::Replace { keep, answered, .. } => {
            holds(&keep, &[good, other]);
            assert_eq!(answered.as_deref(), Some("now"));
        }
        step => panic!("{step:?}"),
    }
}

/// More CAs than are kept: what is served is not among those that go.
#[test]
fn the_ca_of_what_is_served_is_kept_first() {
    let [good, ..] = pairs();
    let strangers: Vec<_> = (0..300)
        .map(|_| mint(&[HOST.to_owned()], YEAR, NOW).unwrap())
        .collect();
    let foreign = &strangers[0];
    let all: Vec<_> = strangers.iter().chain([good]).collect();
    let seen = observed(Some(secret(foreign)), Some(&[vec![], bundle(&all)]));
    let Step::Trust(Write::Bundles { hooks, .. }) =
        plan_after(&seen, Some(good), &[], (NOW, true, LONG)).step
    else {
        panic!("no trust");
    };
    // The second lacks nothing.
    assert_eq!(hooks.len(), 1);
    let live = [bundle(&all[1..])];
    let seen = observed(Some(secret(foreign)), Some(&live));
    let step = plan_after(&seen, Some(good), &[], (NOW, true, LONG)).step;
    let Step::Trust(Write::Bundles { hooks, .. }) = step else {
        panic!("no trust");
    };
    assert_eq!(hooks[0].bundle().len(), 257);
    assert!(
        hooks[0]
            .bundle()
            .holds(&Bundle::read(&bundle(&[foreign, good])))
    );
    let broken = observed(
        Some(Secret {
            key: None,
            ..secret(foreign)
        }),
        Some(&live),
    );
    let step = plan_after(&broken, None, &[], (NOW, true, LONG)).step;
    assert!(
        matches!(&step, Step::Replace { keep, .. } if keep.len() == 32),
        "{step:?}"
    );
}

/// By kube-apiserver's clock it is of no use; by ours, who knows.
#[test]
fn a_pair_that_has_not_begun_is_waited_for_or_replaced() {
    let [good, ..] = pairs();
    let mut asked = secret(good);
    asked.request = Some("now".to_owned());
    // How many hours before it begins.
    for (secret, hours, is_told, name) in [
        (secret(good), 1, true, "wait"),
        (secret(good), 2, true, "replace"),
        (secret(good), 2, false, "wait"),
        (secret(good), 900, false, "wait"),
        (asked.clone(), 900, false, "replace"),
        (asked, 1, true, "wait"),
    ] {
        let wall = NOW - Duration::hours(49 + hours);
        let seen = observed(Some(secret), Some(&[bundle(&[good])]));
        let plan = plan_after(&seen, None, &[], (wall, is_told, LONG));
        assert_eq!(
            plan.step.kind().name(),
            name,
            "{hours} {is_told}: {}",
            plan.reason
        );
    }
}

/// Promoted when all believe it and replicas, which see a caBundle somewhat later, know that; or when
/// there is nothing else to serve.
#[test]
fn a_staged_pair_is_promoted_when_it_is_believed_and_no_later_than_the_leaf_surely_ends() {
    let [_, other, ..] = pairs();
    let short = mint(
        &["imageswap".to_owned(), HOST.to_owned()],
        Duration::days(1),
        NOW,
    )
    .unwrap();
    let both = [bundle(&[&short, other])];
    let staged = Secret {
        ca: Some(bundle(&[&short, other])),
        next_chain: Some(other.chain.clone().into_bytes()),
        next_key: Some(other.key.clone().into_bytes()),
        ..secret(&short)
    };
    // How long it has been believed, and how many seconds the leaf has left.
    for (held, left, expected) in [
        (0, 1_000, "wait"),
        (60, 1_000, "wait"),
        (62, 1_000, "wait"),
        (63, 1_000, "promote"),
        (5, 1, "wait"),
        // kube-apiserver's clock may be fast by an hour.
        (5, 0, "wait"),
        (5, -3_500, "wait"),
        (63, -3_500, "promote"),
        (5, -3_600, "promote"),
    ] {
        let wall = NOW + Duration::days(1) - Duration::seconds(left);
        let seen = observed(Some(staged.clone()), Some(&both));
        let held = (wall, true, Steady::from_secs(held));
        let Plan { step, reason } = plan_after(&seen, Some(&short), &[], held);
        assert_eq!(step.kind().name(), expected, "{left}: {reason}");
        if let Step::Wait { until, .. } = step {
            assert!(until <= wall + Duration::seconds(3_600 + left), "{until}");
        }
    }
}

/// Somebody may replace the Secret again and again.
#[test]
fn bundles_do_not_grow_without_end() {
    let memory = Memory::new(observed(None, Some(&[vec![]])));
    let certificates = || {
        let settled = memory.now();
        let live = String::from_utf8(settled.hooks()[0].bundle.clone()).unwrap();
        [settled.secret.unwrap().pem().ca, live].map(|text| text.matches("BEGIN").count())
    };
    for round in 0..300 {
        settle(&memory);
        let [in_secret, live] = certificates();
        assert!(in_secret <= 33 && live <= 33 + 256, "{in_secret} {live}");
        let mut state = memory.0.lock().unwrap();
        let secret = state.0.secret.as_mut().unwrap();
        secret.key = None;
        if round % 2 == 0 {
            secret.ca = None;
        }
    }
    assert!(certificates()[0] > 30);
}

#[test]
fn from_nothing_to_trusted_in_two_steps_and_no_more() {
    let memory = Memory::new(observed(None, Some(&[vec![], b"rubbish".to_vec()])));
    let count = |step, result| {
        let counter = &metrics().rotation_steps;
        counter.with_label_values(&[step, result]).get()
    };
    let before = count("bootstrap", "ok");
    assert!(step(&memory, Fate::Done).unwrap().is_none());
    assert!(step(&memory, Fate::Done).unwrap().is_none());
    let half = Steady::try_from(YEAR / 2).unwrap();
    assert_eq!(step(&memory, Fate::Done).unwrap(), Some(half));
    assert!(count("bootstrap", "ok") > before);
    let settled = memory.now();
    let pair = judge(
        &settled.secret.as_ref().unwrap().pem(),
        &policy().names,
        NOW,
    )
    .unwrap();
    assert!(is_trusted(&settled, &pair, NOW));
}

#[test]
fn a_conflict_is_counted_and_adopts_what_the_other_made() {
    let memory = Memory::default();
    let done = step(&memory, Fate::Overtaken(1));
    assert!(matches!(done, Err(Failure::Conflict(_))), "{done:?}");
    let theirs = memory.now().secret.unwrap();
    settle(&memory);
    assert_eq!(memory.now().secret.unwrap().version, theirs.version);
}

#[tokio::test(start_paused = true)]
async fn the_driver_works_at_once_and_when_told() {
    let memory = Memory::new(observed(None, Some(&[vec![]])));
    let driver = driver(&memory, Fate::Done, Metrics::new().unwrap());
    let changed = Notify::new();
    let pass = |millis| tokio::time::sleep(std::time::Duration::from_millis(millis));
    let story = async {
        pass(1).await;
        let first = memory.now();
        assert!(!first.live_bundle().is_empty());
        memory.0.lock().unwrap().0.secret = None;
        pass(100).await;
        assert!(memory.now().secret.is_none());
        changed.notify_one();
        pass(100).await;
        assert!(memory.now().secret.is_some());
        // Nobody says so, but a minute later it is seen.
        memory.0.lock().unwrap().0.secret = None;
        pass(61_000).await;
        assert!(memory.now().secret.is_some());
    };
    tokio::select! {
        () = driver.run(&changed) => panic!("it ended"),
        () = story => {}
    }
}

/// Whatever takes back what is written is not raced against, be it at once or when it was seen.
#[tokio::test(start_paused = true)]
async fn no_writes_follow_each_other_without_end() {
    let ten_minutes = Steady::from_secs(600);
    for fate in [Fate::TakenBack, Fate::Done] {
        let memory = Memory::new(observed(None, Some(&[vec![]])));
        let metrics = Metrics::new().unwrap();
        let driver = driver(&memory, fate, metrics.clone());
        let changed = Notify::new();
        let rival = async {
            loop {
                tokio::time::sleep(Steady::from_millis(20)).await;
                memory.0.lock().unwrap().0.secret = None;
                changed.notify_one();
            }
        };
        tokio::select! {
            () = driver.run(&changed) => panic!("it ended"),
            () = rival => panic!("it ended"),
            () = tokio::time::sleep(ten_minutes) => {}
        }
        let steps = metrics
            .rotation_steps
            .with_label_values(&["bootstrap", "ok"]);
        let count = steps.get();
        assert!((100..300).contains(&count), "{count} writes in ten minutes");
    }
}

/// An endpoint that is in the way for long is somebody's business, and so is that none can be found.
#[test]
fn what_waits_to_be_pruned_is_shown_as_such() {
    let [good, other, ..] = pairs();
    let live = [bundle(&[good, other])];
    let memory = Memory::new(observed(Some(secret(good)), Some(&live)));
    let metrics = Metrics::new().unwrap();
    let driver = driver(&memory, Fate::Done, metrics.clone());
    let waits = driver.step(&mut Leader::default()).now_or_never().unwrap();
    assert!(waits.unwrap().is_some());
    for (step, is_now) in [("prune", 1), ("wait", 0)] {
        let gauge = metrics.rotation_step.with_label_values(&[step]);
        assert_eq!(gauge.get(), is_now, "{step}");
    }
}

/// A leader that lost the right to read repairs nothing, and must not look as if all were well.
#[test]
fn that_nothing_can_be_read_is_shown() {
    let memory = Memory::new(observed(None, Some(&[vec![]])));
    let metrics = Metrics::new().unwrap();
    let shown = |step| metrics.rotation_step.with_label_values(&[step]).get();
    for (fate, look, bootstrap) in [(Fate::Done, 0, 1), (Fate::Blind, 1, 0), (Fate::Done, 0, 0)] {
        let driver = driver(&memory, fate, metrics.clone());
        let done = driver.step(&mut Leader::default()).now_or_never().unwrap();
        assert_eq!(done.is_err(), look == 1, "{done:?}");
        assert_eq!((shown("look"), shown("bootstrap")), (look, bootstrap));
    }
}

// === what replicas serve ===

#[test]
fn a_replica_serves_what_is_right_and_believed() {
    let [good, other, _, foreign] = pairs();
    let pair = |pem: &Pem| judge(pem, &policy().required, NOW).unwrap();
    let (old, fresh) = (pair(good), secret(other));
    let mixed = Pem {
        key: good.key.clone(),
        ..other.clone()
    };
    let (none, fits, lacks): (&[Vec<u8>], _, _) = (&[], [bundle(&[other])], [bundle(&[good])]);
    let wide = [bundle(&[good, other])];
    let required = policy().required;
    let rows: &[Row<'_, Option<&Pair>>] = &[
        (None, Some(&fits), None, "absent"),
        (None, Some(&fits), Some(&old), "absent"),
        (Some(secret(&mixed)), Some(&fits), Some(&old), "bad"),
        (Some(secret(foreign)), Some(&fits), None, "bad"),
        (Some(fresh.clone()), Some(&fits), Some(&old), "publish"),
        (Some(fresh.clone()), Some(&wide), Some(&old), "not yet"),
        (Some(fresh.clone()), Some(&lacks), Some(&old), "not yet"),
        // Nothing else to serve: is there one who does?
        (Some(fresh.clone()), Some(&fits), None, "publish"),
        (Some(fresh.clone()), Some(&lacks), None, "ask"),
        (Some(fresh.clone()), Some(&wide), None, "ask"),
        (Some(fresh.clone()), None, None, "ask"),
        (Some(fresh.clone()), Some(none), None, "ask"),
        // kube-apiservers may not know yet that there is nobody to call.
        (Some(fresh.clone()), None, Some(&old), "not yet"),
        (Some(fresh.clone()), Some(none), Some(&old), "not yet"),
        (Some(secret(good)), Some(&fits), Some(&old), "same"),
    ];
    for (secret, bundles, serving, expected) in rows {
        let seen = observed(secret.clone(), *bundles);
        let mut belief = Belief::default();
        belief.look(&seen, at(Steady::ZERO));
        let choice = choose(&view(&seen, &belief, &required), *serving, wall(NOW));
        assert_eq!(word(&choice), *expected, "{seen:?}");
        // When all know what was seen, what waited for that waits no longer.
        belief.look(&seen, at(DELAY));
        let choice = choose(&view(&seen, &belief, &required), *serving, wall(NOW));
        let waits = matches!(*expected, "not yet" | "ask") && *bundles == Some(&lacks);
        let is_waiting = matches!(word(&choice), "not yet" | "ask");
        assert_eq!(is_waiting, waits, "{seen:?}");
    }
    // What is in memory has ended, unless the clock is fast.
    let short = mint(&[HOST.to_owned()], Duration::days(1), NOW).unwrap();
    let trusting = [bundle(&[good, &short])];
    let seen = observed(Some(secret(good)), Some(&trusting));
    let end = NOW + Duration::days(1);
    for (when, expected) in [
        (NOW, "not yet"),
        (end + Duration::minutes(59), "not yet"),
        (end + Duration::hours(8), "publish"),
    ] {
        let mut belief = Belief::default();
        belief.look(&seen, at(Steady::ZERO));
        let choice = choose(
            &view(&seen, &belief, &required),
            Some(&pair(&short)),
            wall(when),
        );
        assert_eq!(word(&choice), expected, "{when}");
    }
}

/// As when somebody puts an old Secret back; unless the one in memory is believed no more.
#[test]
fn what_may_have_ended_takes_the_place_of_nothing_good() {
    let [good, ..] = pairs();
    let required = policy().required;
    let served = judge(good, &required, NOW).unwrap();
    let short = mint(&[HOST.to_owned()], Duration::days(1), NOW).unwrap();
    let [both, alone] = [bundle(&[good, &short]), bundle(&[&short])];
    for (after, bundle, expected) in [
        (Duration::hours(12), &both, "publish"),
        (Duration::hours(23), &both, "bad"),
        (Duration::hours(23), &alone, "publish"),
    ] {
        let seen = observed(Some(secret(&short)), Some(std::slice::from_ref(bundle)));
        let mut belief = Belief::default();
        belief.look(&seen, at(Steady::ZERO));
        belief.look(&seen, at(DELAY));
        let view = view(&seen, &belief, &required);
        let choice = choose(&view, Some(&served), wall(NOW + after));
        assert_eq!(word(&choice), expected, "{after}");
        // Who has nothing in memory leaves it to another one that has.
        let others = others(&[Some(good.leaf().unwrap())], 1, 0);
        let view = View {
            others: Some(&others),
            ..view
        };
        let choice = choose(&view, None, wall(NOW + after));
        let expected = expected.replace("bad", "not yet");
        assert_eq!(word(&choice), expected, "{after}");
        if let Choice::NotTrustedYet { rest } = choice {
            assert_eq!(
                rest, None,
                "the trust delay is over, and something else is waited for"
            );
        }
    }
}

#[test]
fn what_is_in_files_is_served_unseen_when_the_old_is_of_no_use() {
    use Source::{Files, FilesAlone};
    let [good, ..] = pairs();
    let required = policy().required;
    let short = mint(&[HOST.to_owned()], Duration::days(1), NOW).unwrap();
    let served = judge(&short, &required, NOW).unwrap();
    let end = NOW + Duration::days(1);
    let [both, old, new] = [&[good, &short][..], &[&short], &[good]].map(|pems| [bundle(pems)]);
    let [both, old, new] = [&both, &old, &new].map(|bundle| Some(&bundle[..]));
    // Who brings the new one; the caBundle that was seen last, and whether beside these files; when; what then.
    for (source, bundle, is_seen, when, expected) in [
        (Files, None, false, NOW, "not yet"),
        (Files, None, false, end - Duration::hours(1), "not yet"),
        // It has surely ended, however fast the clock is.
        (Files, None, false, end + Duration::hours(2), "not yet"),
        (Files, None, false, end + Duration::hours(3), "publish"),
        (Files, old, true, end + Duration::hours(2), "not yet"),
        (Files, old, true, end + Duration::hours(3), "publish"),
        // Believed, too: then not later than when the old one may have ended.
        (Files, both, true, end - Duration::hours(3), "not yet"),
        (Files, both, true, end - Duration::hours(1), "publish"),
        (Files, new, false, NOW, "publish"),
        (FilesAlone, None, false, NOW, "publish"),
        (FilesAlone, old, false, NOW, "publish"),
        (FilesAlone, old, true, NOW, "not yet"),
        (FilesAlone, old, true, end + Duration::hours(2), "not yet"),
        (FilesAlone, old, true, end + Duration::hours(3), "publish"),
    ] {
        let choose = |pem, serving, when| {
            let files = Secret {
                source,
                ..secret(pem)
            };
            let seen = observed(Some(files), bundle);
            word(&choose_unseen(
                &seen,
                is_seen,
                &required,
                serving,
                wall(when),
            ))
        };
        let row = format!("{source:?} {bundle:?} {is_seen} {when}");
        assert_eq!(choose(good, Some(&served), when), expected, "{row}");
        assert_eq!(choose(good, None, when), "publish", "{row}");
        assert_eq!(choose(&short, Some(&served), NOW), "same", "{row}");
        let odd = Pem {
            key: short.key.clone(),
            ..good.clone()
        };
        assert_eq!(choose(&odd, Some(&served), when), "bad", "{row}");
        // Served before it begins, as at a start.
        let early = NOW - Duration::days(9);
        assert_eq!(choose(&short, Some(&served), early), "same", "{row}");
        assert_eq!(choose(good, Some(&served), early), "bad", "{row}");
    }
    // An old Secret that was put back, by a clock that may be slow.
    let served = judge(good, &required, NOW).unwrap();
    for (source, bundle, when, expected) in [
        (FilesAlone, None, end - Duration::hours(3), "publish"),
        (FilesAlone, None, end - Duration::hours(1), "bad"),
        (FilesAlone, both, end - Duration::hours(1), "bad"),
        (FilesAlone, old, end - Duration::hours(1), "publish"),
        (Files, None, end - Duration::hours(1), "bad"),
    ] {
        let files = Secret {
            source,
            ..secret(&short)
        };
        let seen = observed(Some(files), bundle);
        let choice = choose_unseen(&seen, false, &required, Some(&served), wall(when));
        assert_eq!(word(&choice), expected, "{source:?} {bundle:?} {when}");
    }
}

/// A replica that has nothing to serve finds a pair whose CA is new, beside one that is known.
#[test]
fn a_newcomer_is_not_served_beside_one_that_is_believed() {
    let [good, other, _, foreign] = pairs();
    let (required, wide) = (policy().required, [bundle(&[good, other])]);
    let seen = observed(Some(secret(other)), Some(&wide));
    let mut belief = Belief::default();
    belief.look(&seen, at(Steady::ZERO));
    let [old, new, stranger] = [good, other, foreign].map(|pem| Some(pem.leaf().unwrap()));
    // What the others serve, how often they were looked at, for how many seconds; what is chosen.
    for (leaves, times, since, expected) in [
        (vec![old.clone()], 1, 0, "not yet"),
        (vec![None, old.clone()], 3, 6, "not yet"),
        (vec![old.clone(), new.clone()], 1, 0, "not yet"),
        (vec![None, new.clone()], 1, 0, "ask"),
        (vec![], 1, 0, "publish"),
        (vec![stranger.clone()], 1, 0, "publish"),
        (vec![None], 1, 0, "ask"),
        (vec![None, stranger], 2, 90, "ask"),
        (vec![None], 3, 6, "publish"),
        (vec![None], 9, 5, "ask"),
    ] {
        let others = others(&leaves, times, since);
        let view = View {
            others: Some(&others),
            ..view(&seen, &belief, &required)
        };
        let choice = choose(&view, None, wall(NOW));
        assert_eq!(word(&choice), expected, "{leaves:?} {times} {since}");
        let late = Moment {
            steady: Steady::from_secs(6),
            ..wall(NOW)
        };
        let read = at(late.steady);
        let choice = choose(&View { read, ..view }, None, late);
        assert_eq!(
            word(&choice),
            "ask",
            "what was seen long ago is asked again"
        );
        // A caBundle that was emptied will be as `ca.crt` says.
        let mut known = secret(other);
        known.ca = Some(bundle(&[other, good]));
        for (secret, is_known) in [(known, true), (secret(other), false)] {
            let seen = observed(Some(secret), Some(&[Vec::new()]));
            let view = View {
                observed: &seen,
                ..view
            };
            let word = word(&choose(&view, None, wall(NOW)));
            let is_first = expected == "not yet" && !is_known;
            assert_eq!(
                word,
                if is_first { "publish" } else { expected },
                "{leaves:?}"
            );
        }
    }
}

/// As when an annotation is taken off: the others serve what somebody had brought.
#[test]
fn a_leaf_is_believed_for_longer_also_by_way_of_another_ca() {
    let [_, other, ..] = pairs();
    let (root, between, leaf) = by_way_of_another(NOW);
    let (required, wide) = (
        policy().required,
        [[other.ca.clone(), root].concat().into()],
    );
    let seen = observed(Some(secret(other)), Some(&wide));
    let mut belief = Belief::default();
    belief.look(&seen, at(Steady::ZERO));
    for (intermediates, expected) in [(vec![between], "not yet"), (vec![], "publish")] {
        let mut others = others(&[Some(leaf.clone())], 1, 0);
        others.endpoints[0].intermediates = intermediates;
        let view = View {
            others: Some(&others),
            ..view(&seen, &belief, &required)
        };
        assert_eq!(word(&choose(&view, None, wall(NOW))), expected);
    }
}

#[test]
fn who_has_nothing_to_serve_leads_only_where_nobody_else_has() {
    let [good, ..] = pairs();
    let leaf = Some(good.leaf().unwrap());
    let live = [bundle(&[good])];
    let brought = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
    let brought = [brought.cert.pem().into_bytes()];
    let rows: [(&[Vec<u8>], _, _); 8] = [
        (&[], None, true),
        (&[Vec::new()], None, true),
        // As 1.5.3 has it: nobody can write that back.
        (&brought, None, true),
        (&live, None, false),
        (
            &live,
            Some(others(std::slice::from_ref(&leaf), 9, 90)),
            false,
        ),
        (&live, Some(others(&[None], 1, 0)), false),
        (&live, Some(others(&[None], 3, 6)), true),
        (&live, Some(others(&[], 1, 0)), true),
    ];
    for (row, (bundles, others, expected)) in rows.into_iter().enumerate() {
        let seen = observed(None, Some(bundles));
        assert_eq!(may_lead(&seen, others.as_ref()), expected, "row {row}");
    }
}

/// What was seen at last, after so many looks in so many seconds.
fn others(leaves: &[Option<Vec<u8>>], times: u32, since: u64) -> Others {
    let endpoint = |(index, leaf): (usize, &Option<Vec<u8>>)| {
        Endpoint::new(index.to_string(), leaf.clone().ok_or_else(String::new))
    };
    Others {
        endpoints: leaves.iter().enumerate().map(endpoint).collect(),
        sights: Vec::new(),
        read: at(Steady::ZERO),
        since: Steady::from_secs(since),
        times,
    }
}

#[test]
fn looks_at_others_count_while_they_follow_each_other() {
    let mut seen = None;
    // When a look is taken; how many count then, since when.
    for (moment, times, since) in [(0, 1, 0), (3, 2, 3), (9, 3, 9), (16, 1, 0), (18, 2, 2)] {
        let read = at(Steady::from_secs(moment));
        let others = Others::after(seen.as_ref(), Vec::new(), read);
        assert_eq!(
            (others.times, others.since.as_secs()),
            (times, since),
            "{moment}"
        );
        seen = Some(others);
    }
    // One that was seen a moment ago and is not seen once may be there.
    let look = |leaves: &[Option<Vec<u8>>], before: Option<&Others>, moment| {
        let endpoints = others(leaves, 1, 0).endpoints;
        Others::after(before, endpoints, at(Steady::from_secs(moment)))
    };
    let leaf = || Some(vec![1]);
    let mut seen = look(&[None], None, 0);
    for (moment, leaves, known) in [
        (3, &[None, leaf()][..], 1),
        (6, &[None, None], 1),
        // Two that are seen in turns.
        (7, &[leaf(), None], 2),
        (8, &[None, leaf()], 2),
        // Nobody could be listed.
        (10, &[None], 2),
        (13, &[None, None], 1),
        (14, &[None, None], 0),
    ] {
        seen = look(leaves, Some(&seen), moment);
        let leaves = seen.endpoints.iter().filter(|one| one.leaf.is_ok());
        assert_eq!(leaves.count(), known, "{moment}");
    }
    assert_eq!(seen.endpoints.len(), 2);
    assert_eq!((seen.times, seen.since.as_secs()), (8, 14));
}

fn word(choice: &Choice) -> &'static str {
    match choice {
        Choice::Publish(_) => "publish",
        Choice::Same => "same",
        Choice::Absent => "absent",
        Choice::Bad(_) => "bad",
        Choice::NotTrustedYet { .. } => "not yet",
        Choice::TooOld => "too old",
        Choice::AskOthers => "ask",
    }
}

// === properties ===

/// A part of some pair, rubbish, or nothing.
fn part(of: fn(&Pem) -> &str) -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(vec![0xff, b'\n', b'-'])),
        6 => (0..4_usize).prop_map(move |i| Some(of(&pairs()[i]).as_bytes().to_vec())),
    ]
}

fn any_secret() -> impl Strategy<Value = Option<Secret>> {
    let parts = (part(|p| &p.chain), part(|p| &p.key), part(|p| &p.ca));
    let pieced = parts.prop_map(|(chain, key, ca)| Secret {
        version: "1".to_owned(),
        chain,
        key,
        ca,
        next_chain: None,
        next_key: None,
        request: None,
        answered: None,
        source: Source::Minted,
    });
    let whole = (0..4_usize).prop_map(|i| secret(&pairs()[i]));
    prop::option::of(prop_oneof![pieced, whole])
}

fn any_configuration() -> impl Strategy<Value = Option<Configuration>> {
    let some_cas = prop::collection::vec(0..4_usize, 0..3);
    let one = prop_oneof![
        5 => some_cas.prop_map(|cas| {
            let pems: Vec<_> = cas.into_iter().map(|i| &pairs()[i]).collect();
            bundle(&pems)
        }),
        1 => Just(b"rubbish".to_vec()),
    ];
    let all = prop::collection::vec(one, 0..3).prop_map(|bundles| configuration(&bundles));
    prop::option::weighted(0.9, all)
}

#[derive(Debug, Clone)]
enum Event {
    /// A leader takes a step.
    Leader(Fate),
    /// A replica looks.
    Replica(usize),
    /// Somebody puts another Secret there, or takes it away.
    Meddle(Box<Option<Secret>>),
}

fn any_event() -> impl Strategy<Value = Event> {
    let fate = prop_oneof![
        3 => Just(Fate::Done),
        1 => Just(Fate::CrashBefore),
        1 => Just(Fate::CrashAfter),
        2 => (1..4_usize).prop_map(Fate::Overtaken),
    ];
    prop_oneof![
        5 => fate.prop_map(Event::Leader),
        3 => (0..3_usize).prop_map(Event::Replica),
        1 => any_secret().prop_map(|secret| Event::Meddle(Box::new(secret))),
    ]
}

fn look(memory: &Memory, serving: &mut Option<Pair>) {
    let (observed, required) = (memory.now(), policy().required);
    let mut belief = Belief::default();
    belief.look(&observed, at(Steady::ZERO));
    belief.look(&observed, at(DELAY));
    let view = view(&observed, &belief, &required);
    let choice = choose(&view, serving.as_ref(), wall(NOW));
    if let Choice::Publish(pair) = choice {
        *serving = Some(pair);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever there was, however leaders crash and overtake each other, and whoever replaces the
    /// Secret: a leaf that is believed stays so, and in the end all is right.
    #[test]
    fn no_gap_and_an_end(
        secret in any_secret(),
        configuration in any_configuration(),
        running in prop::collection::vec(any::<bool>(), 3),
        events in prop::collection::vec(any_event(), 0..12),
    ) {
        let memory = Memory::new(Observed { configuration, secret });
        let first = || judge(&pairs()[0], &policy().required, NOW).unwrap();
        let mut replicas: Vec<_> = running.iter().map(|runs| runs.then(first)).collect();
        let mut believed = [false; 3];
        for event in events {
            match event {
                Event::Leader(fate) => drop(step(&memory, fate)),
                Event::Replica(i) => look(&memory, &mut replicas[i]),
                Event::Meddle(secret) => {
                    let version = "meddled".to_owned();
                    memory.0.lock().unwrap().0.secret =
                        secret.map(|secret| Secret { version, ..secret });
                }
            }
            for (replica, was_believed) in replicas.iter().zip(&mut believed) {
                let is_believed = replica
                    .as_ref()
                    .is_some_and(|pair| is_trusted(&memory.now(), pair, NOW));
                prop_assert!(is_believed || !*was_believed, "a gap");
                *was_believed = is_believed;
            }
        }
        settle(&memory);
        let settled = memory.now();
        let secret = settled.secret.as_ref().unwrap();
        let pair = judge(&secret.pem(), &policy().required, NOW).unwrap();
        for hook in settled.hooks() {
            prop_assert!(pair.is_trusted(&hook.bundle(), NOW));
            prop_assert!(!hook.bundle().has_rubbish());
        }
        for replica in &mut replicas {
            look(&memory, replica);
            let served = replica.as_ref().unwrap();
            prop_assert!(served.certified.cert == pair.certified.cert);
        }
    }
}

#[test]
fn what_a_step_was_planned_on_is_younger_than_half_the_trust_delay() {
    let seconds = std::time::Duration::from_secs;
    for (delay, most) in [(600, 20), (60, 20), (30, 15), (12, 6), (10, 6), (0, 6)] {
        assert_eq!(oldest(seconds(delay)), seconds(most), "{delay}");
    }
}

#[test]
fn every_step_that_writes_is_counted_from_the_start() {
    let metrics = Metrics::new().unwrap();
    begin_counting(&metrics);
    let page = metrics.render().unwrap();
    for kind in Kind::ALL {
        for result in ["ok", "conflict", "failed"] {
            let name = kind.name();
            let series = format!("rotation_steps_total{{result=\"{result}\",step=\"{name}\"}} 0\n");
            assert_eq!(page.contains(&series), kind != Kind::Wait, "{series}");
        }
    }
}
