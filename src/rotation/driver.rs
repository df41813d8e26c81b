//! The leader's work: observe, plan, apply one step, observe again.
//!
//! It is generic over where the state is kept, so that tests run it in memory. It may be dropped at
//! any await, and another one may run at the same time: see `plan` for why neither harms.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::plan::{Plan, Policy, Step, plan};
use super::state::{Hook, Observed};
use crate::pki::{self, Bundle, MintError, Pem};
use crate::telemetry::logs::Sparingly;
use crate::telemetry::metrics::Metrics;

/// Where the state is kept.
pub trait Store: Sync {
    /// Reads the webhook configuration, then the Secret, both fresh.
    fn observe(&self) -> impl Future<Output = Result<Observed, Failure>> + Send;

    /// Makes one write, if its precondition holds.
    fn apply(&self, write: &Write) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// One write and its precondition.
#[derive(Debug)]
pub enum Write {
    /// Make the Secret. A conflict if another made it with other contents meanwhile.
    Create(Pem),
    /// Put the pair into the Secret, and leave alone what else is in it.
    Replace {
        /// The version it must still have.
        version: String,
        /// The pair.
        pem: Pem,
    },
    /// Write these caBundles, and nothing else.
    Trust {
        /// The version the configuration must still have.
        version: String,
        /// The webhooks, with the caBundles they shall have.
        hooks: Vec<Hook>,
    },
}

/// Why a call came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// Somebody else was first: look again.
    Conflict(String),
    /// It failed, and may have been done all the same.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(why) => write!(f, "somebody else was first: {why}"),
            Self::Failed(why) => f.write_str(why),
        }
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

/// A look without a reason comes this often.
const LOOK: Duration = Duration::from_secs(60);

/// The same failure again is logged this often.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// Does the leader's work.
#[derive(Debug)]
pub struct Driver<S> {
    /// Where the state is kept.
    pub store: S,
    /// What is wanted.
    pub policy: Policy,
    /// Where to count.
    pub metrics: Metrics,
}

impl<S: Store> Driver<S> {
    /// Works for ever: at once, when told that something changed, when the plan says so, and each
    /// minute.
    pub async fn run(&self, changed: &Notify) {
        let sparingly = Sparingly::new(SAY_AGAIN);
        let mut pause = Duration::ZERO;
        loop {
            let now = OffsetDateTime::now_utc();
            match self.step(now).await {
                Ok(None) => pause = Duration::ZERO,
                Ok(Some(until)) => {
                    pause = Duration::ZERO;
                    let wait = Duration::try_from(until - now).unwrap_or_default();
                    // Never at once: a clock that jumps must not make this spin.
                    let wait = wait.clamp(AFTER_FAILURE, LOOK);
                    let _ = timeout(wait, changed.notified()).await;
                }
                Err(Failure::Conflict(why)) => {
                    pause = longer(pause, AFTER_CONFLICT);
                    if pause < AFTER_FAILURE {
                        debug!(why, "somebody else was first; looking again");
                    } else if sparingly.may() {
                        warn!(why, "a step conflicts again and again; looking again");
                    }
                    tokio::time::sleep(pause).await;
                }
                Err(Failure::Failed(why)) => {
                    if sparingly.may() {
                        warn!(why, "rotation can't go on; trying again");
                    }
                    pause = longer(pause, AFTER_FAILURE);
                    let _ = timeout(pause, changed.notified()).await;
                }
            }
        }
    }

    /// Observes and takes one step. Returns when to look again if there is nothing to do.
    ///
    /// # Errors
    /// The state can't be read or written, or was written by somebody else meanwhile.
    pub async fn step(&self, now: OffsetDateTime) -> Result<Option<OffsetDateTime>, Failure> {
        let observed = self.store.observe().await?;
        let Plan { step, reason } = plan(&observed, &self.policy, now);
        self.show(&step);
        let name = step.name();
        let write = match step {
            Step::Wait { until } => {
                debug!(step = name, reason, "rotation");
                return Ok(Some(until));
            }
            Step::Bootstrap { keep } => Write::Create(self.mint(&keep, now)?),
            Step::Replace { version, keep } => {
                let pem = self.mint(&keep, now)?;
                Write::Replace { version, pem }
            }
            Step::Trust { version, hooks } => Write::Trust { version, hooks },
        };
        let done = self.store.apply(&write).await;
        let result = match &done {
            Ok(()) => "ok",
            Err(Failure::Conflict(_)) => "conflict",
            Err(Failure::Failed(_)) => "failed",
        };
        info!(step = name, reason, result, "rotation");
        let steps = &self.metrics.rotation_steps;
        steps.with_label_values(&[name, result]).inc();
        done.map(|()| None)
    }

    /// A new pair, and the CAs to keep in its bundle.
    fn mint(&self, keep: &Bundle, now: OffsetDateTime) -> Result<Pem, MintError> {
        let pem = pki::mint(&self.policy.names, self.policy.life, now)?;
        let ca = Bundle::read(pem.ca.as_bytes()).and(keep).pem();
        Ok(Pem { ca, ..pem })
    }

    fn show(&self, step: &Step) {
        for name in Step::NAMES {
            let is_now = i64::from(name == step.name());
            let gauge = self.metrics.rotation_step.with_label_values(&[name]);
            gauge.set(is_now);
        }
    }
}

fn longer(pause: Duration, first: Duration) -> Duration {
    (pause * 2).clamp(first, LONGEST_PAUSE)
}
