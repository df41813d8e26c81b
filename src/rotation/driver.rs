//! The leader's work: observe, plan, apply one step, observe again.
//!
//! It is generic over where the state is kept, so that tests run it in memory. It may be dropped at
//! any await, and another one may run at the same time: see `plan` for why neither harms.

use std::future::Future;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::belief::Belief;
use super::clock::{Clock, Moment};
use super::plan::{Kind, Known, Needs, Plan, Policy, Step, plan};
use super::rivals::Rivals;
use super::state::{Endpoint, Hook, Observed};
use super::write::{Change, Failure, Next, Write};
use crate::pki::{self, Bundle, KeyPem, MintError, Pem};
use crate::telemetry::logs::Sparingly;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::notices::{Notices, Reason};
use crate::text::shortened;

/// Where the state is kept.
pub trait Store: Sync {
    /// Reads the webhook configuration, then the Secret, both fresh.
    fn observe(&self) -> impl Future<Output = Result<Observed, Failure>> + Send;

    /// Makes one write, if its precondition holds.
    fn apply(&self, write: &Write) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Looks which leaf every endpoint serves, ready or not.
    fn endpoints(&self) -> impl Future<Output = Result<Vec<Endpoint>, Failure>> + Send;

    /// As [`Store::endpoints`], but without this process, as far as it can be told apart.
    fn others(&self) -> impl Future<Output = Result<Vec<Endpoint>, Failure>> + Send {
        self.endpoints()
    }

    /// Makes a pair. Tests have some at hand.
    ///
    /// # Errors
    /// As for [`pki::mint`].
    fn mint(&self, policy: &Policy, now: OffsetDateTime) -> Result<Pem, MintError> {
        pki::mint(&policy.names, policy.life, now)
    }
}

impl From<MintError> for Failure {
    fn from(error: MintError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// After a conflict; doubled each time.
const AFTER_CONFLICT: Duration = Duration::from_millis(50);

/// After a failure; doubled each time.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The longest pause after one.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// So many writes may follow each other at once: a rotation's, and those for somebody who corrects a Secret
/// several times. Whoever takes back what is written must not be raced against.
const AT_ONCE: u32 = 10;

/// Beyond them there is one in this time.
const BETWEEN_WRITES: Duration = Duration::from_secs(3);

/// A look without a reason comes this often.
const LOOK: Duration = Duration::from_secs(60);

/// What is shown as the step while the state can't be read, so that nobody knows which is next.
pub const LOOK_STEP: &str = "look";

/// What may come of a step.
const OK: &str = "ok";
const CONFLICT: &str = "conflict";
const FAILED: &str = "failed";

/// The same failure again is logged this often.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// Does the leader's work.
#[derive(Debug)]
pub struct Driver<S> {
    /// Where the state is kept.
    pub store: S,
    /// What is wanted.
    pub policy: Policy,
    /// The pair that this replica serves.
    pub served: watch::Receiver<Option<Pem>>,
    /// What this replica has seen so far, whoever led.
    pub believed: watch::Receiver<Belief>,
    /// What time it is.
    pub clock: Clock,
    /// Where to count.
    pub metrics: Metrics,
    /// Where to tell what an operator should see.
    pub notices: Notices,
}

/// What a leader remembers from step to step. A new one begins with what its replica has seen.
#[derive(Debug, Default)]
pub struct Memory {
    belief: Belief,
    rivals: Rivals,
    /// The reason to wait that was logged last.
    said: String,
}

/// Makes the series of its steps: a counter that is there from the start shows its first increase.
pub fn begin_counting(metrics: &Metrics) {
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Wait) {
        for result in [OK, CONFLICT, FAILED] {
            let steps = &metrics.rotation_steps;
            steps.with_label_values(&[kind.name(), result]);
        }
    }
}

impl<S: Store> Driver<S> {
    /// Works for ever: at once, when told that something changed, when the plan says so, and each
    /// minute.
    pub async fn run(&self, changed: &Notify) {
        let sparingly = Sparingly::new(SAY_AGAIN);
        let mut memory = self.memory();
        let mut pace = Pace::new(Instant::now());
        // A conflict after many failures is the first one: whoever was faster has changed something.
        let (mut conflict, mut failure) = (Duration::ZERO, Duration::ZERO);
        loop {
            let done = self.step(&mut memory).await;
            if !matches!(done, Err(Failure::Conflict(_))) {
                conflict = Duration::ZERO;
            }
            if !matches!(done, Err(Failure::Failed(_))) {
                failure = Duration::ZERO;
            }
            match done {
                Ok(None) => {
                    let wait = pace.wrote(Instant::now());
                    if !wait.is_zero() {
                        if sparingly.may() {
                            warn!("one write follows the other: is something taking them back?");
                        }
                        tokio::time::sleep(wait).await;
                    }
                }
                Ok(Some(wait)) => {
                    // Never at once: a clock that jumps must not make this spin.
                    let wait = wait.clamp(AFTER_FAILURE, LOOK);
                    let _ = timeout(wait, changed.notified()).await;
                }
                Err(Failure::Conflict(why)) => {
                    conflict = longer(conflict, AFTER_CONFLICT);
                    if conflict < AFTER_FAILURE {
                        debug!(why, "somebody else was first; looking again");
                    } else if sparingly.may() {
                        warn!(why, "a step conflicts again and again; looking again");
                    }
                    tokio::time::sleep(conflict).await;
                }
                Err(Failure::Failed(why)) => {
                    if sparingly.may() {
                        warn!(why, "rotation can't go on; trying again");
                    }
                    failure = longer(failure, AFTER_FAILURE);
                    let _ = timeout(failure, changed.notified()).await;
                }
            }
        }
    }

    /// What a new leader knows. A trust delay that had to be waited for by each anew would never be
    /// over where leaders change often.
    pub fn memory(&self) -> Memory {
        Memory {
            belief: self.believed.borrow().clone(),
            ..Memory::default()
        }
    }

    /// Observes and takes one step. Returns how long to wait if there is nothing to do.
    ///
    /// # Errors
    /// The state can't be read or written, or was written by somebody else meanwhile.
    pub async fn step(&self, memory: &mut Memory) -> Result<Option<Duration>, Failure> {
        let (observed, read) = self.clock.spanned(self.store.observe()).await;
        let observed = observed.inspect_err(|_| self.show_name(LOOK_STEP))?;
        memory.belief.look(&observed, read);
        // No alarm is raised while a step is to be waited for, and this may last.
        self.clock
            .settled()
            .inspect_err(|_| self.show_name(LOOK_STEP))?;
        let now = self.clock.now();
        let belief = &mut memory.belief;
        let Plan { step, reason } = self.plan(&observed, belief, now).await?;
        let kind = step.kind();
        // What adds, or puts back what was served, is right by any date.
        if !matches!(kind, Kind::Trust | Kind::Restore | Kind::Wait) {
            self.clock
                .undisputed()
                .inspect_err(|_| self.show_name(LOOK_STEP))?;
        }
        self.show(&step);
        let write = match step {
            Step::Wait { until, needs } => {
                match &observed.configuration {
                    Some(found) => memory.rivals.saw_right(&found.version, &found.hooks),
                    None => memory.rivals.saw_none(),
                }
                memory.say(needs, &reason);
                return Ok(Some(
                    Duration::try_from(until - now.wall).unwrap_or_default(),
                ));
            }
            Step::Trust(write) => {
                if let Some(wait) = memory.rivals.wait(now.steady) {
                    debug!(
                        step = kind.name(),
                        reason,
                        ?wait,
                        "somebody writes the caBundle, too"
                    );
                    return Ok(Some(wait));
                }
                write
            }
            step => self.write_of(step, now.wall)?,
        };
        let age = read.age(self.clock.now());
        if age > self.policy.oldest {
            let why = format!("what was seen {} s ago may be otherwise now", age.as_secs());
            return Err(Failure::Conflict(why));
        }
        let done = self.store.apply(&write).await;
        let result = match &done {
            Ok(()) => OK,
            Err(Failure::Conflict(_)) => CONFLICT,
            Err(Failure::Failed(_)) => FAILED,
        };
        info!(step = kind.name(), reason, result, "rotation");
        let steps = &self.metrics.rotation_steps;
        steps.with_label_values(&[kind.name(), result]).inc();
        if done.is_ok() {
            let secret = observed.secret.as_ref().map(|found| &*found.version);
            self.remember(memory, &write, (kind, &reason), secret, now);
        }
        done.map(|()| None)
    }

    /// The plan; endpoints are looked at only if it can't go on without.
    async fn plan(
        &self,
        observed: &Observed,
        belief: &mut Belief,
        now: Moment,
    ) -> Result<Plan, Failure> {
        let served = self.served.borrow().clone();
        let known = Known {
            served: served.as_ref(),
            belief,
            endpoints: None,
            is_told: now.is_told,
        };
        let first = plan(observed, &known, &self.policy, now.wall);
        let Step::Wait {
            needs: Needs::Endpoints,
            ..
        } = first.step
        else {
            return Ok(first);
        };
        // Also while nobody can tell where they are.
        self.show(&first.step);
        let (endpoints, looked) = self.clock.spanned(self.store.endpoints()).await;
        let endpoints = endpoints?;
        belief.saw(&endpoints, looked);
        let known = Known {
            served: served.as_ref(),
            belief,
            endpoints: Some(&endpoints),
            is_told: now.is_told,
        };
        Ok(plan(observed, &known, &self.policy, now.wall))
    }

    /// The write that a step comes to. A new pair is minted here: its CA's key is gone by the time
    /// it is written.
    fn write_of(&self, step: Step, now: OffsetDateTime) -> Result<Write, Failure> {
        Ok(match step {
            Step::Bootstrap { keep } => Write::Create(self.mint(&keep, now)?),
            Step::Replace {
                version,
                keep,
                answered,
            } => {
                let Pem { chain, key, ca } = self.mint(&keep, now)?;
                let change = Change {
                    pair: Some(KeyPem { chain, key }),
                    next: Some(Next::Clear),
                    ca: Some(ca),
                    answered,
                };
                Write::Change { version, change }
            }
            Step::Stage {
                version,
                keep,
                answered,
            } => {
                let Pem { chain, key, ca } = self.mint(&keep, now)?;
                let change = Change {
                    pair: None,
                    next: Some(Next::Set(KeyPem { chain, key })),
                    ca: Some(ca),
                    answered,
                };
                Write::Change { version, change }
            }
            Step::Restore(write)
            | Step::Trust(write)
            | Step::Promote(write)
            | Step::Prune(write) => write,
            Step::Wait { .. } => return Err(Failure::Failed("to wait is no write".to_owned())),
        })
    }

    /// A new pair, and the CAs to keep in its bundle.
    fn mint(&self, keep: &Bundle, now: OffsetDateTime) -> Result<Pem, MintError> {
        let pem = self.store.mint(&self.policy, now)?;
        let ca = Bundle::read(pem.ca.as_bytes()).and(keep).pem();
        Ok(Pem { ca, ..pem })
    }

    /// `secret` is the version of the Secret by which it was written.
    fn remember(
        &self,
        memory: &mut Memory,
        write: &Write,
        (kind, reason): (Kind, &str),
        secret: Option<&str>,
        now: Moment,
    ) {
        memory.said.clear();
        match write {
            Write::Bundles { version, hooks } if kind == Kind::Trust => {
                let secret = secret.unwrap_or_default();
                let undone = memory.rivals.wrote(now.steady, (version, hooks), secret);
                if !undone.is_empty() {
                    self.tell_repair(&undone, reason);
                }
            }
            // After a change of the Secret, the caBundles will have to change.
            Write::Create(_) | Write::Change { .. } => {
                memory.rivals.saw_none();
                self.tell(kind, write, reason);
            }
            Write::Bundles { version, hooks } => {
                memory.rivals.pruned(version, hooks);
                self.tell(kind, write, reason);
            }
        }
    }

    /// Tells who overwrote the caBundles, as far as that is known.
    fn tell_repair(&self, hooks: &[&Hook], reason: &str) {
        let manager = hooks.iter().find_map(|hook| hook.manager.as_deref());
        self.metrics.repaired(manager);
        let note = format!("{reason}, though it did: somebody overwrote it; written again");
        warn!("{note}");
        self.notices.tell(Reason::TrustRepaired, note);
    }

    /// Tells what an operator should see. Not each step: to stage a pair is only the begin of a
    /// rotation, and what is pruned from the Secret is pruned from the caBundle next.
    fn tell(&self, kind: Kind, write: &Write, reason: &str) {
        let pair = match write {
            Write::Create(Pem { chain, key, .. }) => Some(KeyPem {
                chain: chain.clone(),
                key: key.clone(),
            }),
            Write::Change { change, .. } => change.pair.clone(),
            Write::Bundles { .. } => None,
        };
        let fingerprint = pair.and_then(|pair| pair.fingerprint()).unwrap_or_default();
        let leaf = shortened(&fingerprint, 12);
        let (about, what) = match (kind, write) {
            (Kind::Bootstrap, _) => (Reason::CertificateCreated, format!("made {leaf}")),
            (Kind::Restore, _) => (Reason::CertificateRestored, format!("wrote {leaf} back")),
            (Kind::Replace, _) => (Reason::CertificateReplaced, format!("made {leaf}")),
            (Kind::Promote, _) => (
                Reason::CertificateRotated,
                format!("{leaf} is the one to serve"),
            ),
            (Kind::Prune, Write::Bundles { .. }) => (
                Reason::TrustPruned,
                "took out of the caBundle what no certificate needs".to_owned(),
            ),
            (Kind::Prune | Kind::Trust | Kind::Stage | Kind::Wait, _) => return,
        };
        self.notices.tell(about, format!("{what}: {reason}"));
    }

    fn show(&self, step: &Step) {
        let shown = match step {
            // Not at rest: what is in the way for long is somebody's business.
            Step::Wait {
                needs: Needs::Belief,
                ..
            } => Kind::Promote,
            Step::Wait {
                needs: Needs::Endpoints | Needs::Pruning,
                ..
            } => Kind::Prune,
            step => step.kind(),
        };
        self.show_name(shown.name());
    }

    fn show_name(&self, shown: &str) {
        for name in Kind::ALL.map(Kind::name).into_iter().chain([LOOK_STEP]) {
            let is_now = i64::from(name == shown);
            let gauge = self.metrics.rotation_step.with_label_values(&[name]);
            gauge.set(is_now);
        }
    }
}

impl Memory {
    /// Logs why nothing is done, once for each reason.
    fn say(&mut self, needs: Needs, reason: &str) {
        let step = Kind::Wait.name();
        // Times that are left change with every look.
        let kind: String = reason.chars().filter(|c| !c.is_ascii_digit()).collect();
        if self.said == kind {
            debug!(step, reason, "rotation");
            return;
        }
        self.said = kind;
        match needs {
            Needs::Attention => warn!(step, reason, "rotation"),
            Needs::Nothing | Needs::Belief | Needs::Endpoints | Needs::Pruning => {
                info!(step, reason, "rotation");
            }
        }
    }
}

/// When the next write may be made, by those before: looks between them change nothing, since who takes a
/// write back may do so a moment after it was seen.
#[derive(Debug)]
struct Pace {
    /// When as many may follow each other again as ever may.
    rested: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { rested: now }
    }

    /// How long to wait after a write.
    fn wrote(&mut self, now: Instant) -> Duration {
        self.rested = self.rested.max(now) + BETWEEN_WRITES;
        let most = BETWEEN_WRITES * (AT_ONCE - 1);
        (self.rested - now).saturating_sub(most)
    }
}

fn longer(pause: Duration, first: Duration) -> Duration {
    (pause * 2).clamp(first, LONGEST_PAUSE)
}
