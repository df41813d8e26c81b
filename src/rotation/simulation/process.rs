//! A process: a replica that serves a leaf, and a leader whenever it believes to be one.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration as Steady;

use time::{Duration, OffsetDateTime};
use tokio::sync::watch;

use super::pool::{self, BEGIN, HOST, LIFE};
use super::world::World;
use super::{DELAY, Dice, Mutation};
use crate::pki::{MintError, Pair, Pem};
use crate::rotation::belief::Belief;
use crate::rotation::clock::{Clock, Moment};
use crate::rotation::driver::{Driver, Memory, Store};
use crate::rotation::plan::{Endpoint, Policy};
use crate::rotation::replica::{Choice, View, choose, is_trusted};
use crate::rotation::state::{Configuration, Observed};
use crate::rotation::write::{Failure, Write};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::notices::Notices;

type Shared = Arc<Mutex<World>>;
type Step = Pin<Box<dyn Future<Output = Memory>>>;

pub(super) struct Process {
    pub(super) id: usize,
    pub(super) leads: bool,
    /// Whether what it serves was all that it found.
    pub(super) had_nothing_else: bool,
    world: Shared,
    mutation: Mutation,
    /// How wrong its wall clock is, in seconds.
    skew: Arc<Mutex<i64>>,
    serving: Option<Pair>,
    kept: watch::Sender<Option<Pem>>,
    belief: Belief,
    /// Half a look: the configuration that was read, and the Secret is yet to be.
    half: Option<Option<Configuration>>,
    /// The oldest that it may still see.
    oldest: (usize, usize),
    driver: Arc<Driver<Api>>,
    memory: Option<Memory>,
    step: Option<Step>,
}

impl Process {
    pub(super) fn new(id: usize, world: &Shared, mutation: Mutation, dice: &mut Dice) -> Self {
        let (kept, served) = watch::channel(None);
        let skew = Arc::new(Mutex::new(0));
        let (time, wrong) = (Arc::clone(world), Arc::clone(&skew));
        let clock = Clock::of(move || {
            let now = time.lock().unwrap().time;
            let wall = Duration::seconds(i64::try_from(now).unwrap() + *wrong.lock().unwrap());
            Moment {
                wall: BEGIN + wall,
                steady: Steady::from_secs(now),
            }
        });
        let delay = match mutation {
            Mutation::SkipTrustDelay => 0,
            _ => DELAY,
        };
        let driver = Driver {
            store: Api {
                world: Arc::clone(world),
                id,
                mutation,
            },
            policy: Policy {
                names: vec!["imageswap".to_owned(), HOST.to_owned()],
                required: vec![HOST.to_owned()],
                life: LIFE,
                renew_before: LIFE / 2,
                trust_delay: Steady::from_secs(delay),
                writes_bundles: true,
            },
            served,
            clock,
            metrics: metrics().clone(),
            notices: Notices::default(),
        };
        let mut guard = world.lock().unwrap();
        guard.serving[id] = None;
        let oldest = (guard.published.len() - 1, guard.secrets.len() - 1);
        drop(guard);
        let mut process = Self {
            id,
            leads: false,
            had_nothing_else: false,
            world: Arc::clone(world),
            mutation,
            skew,
            serving: None,
            kept,
            belief: Belief::default(),
            half: None,
            oldest,
            driver: Arc::new(driver),
            memory: None,
            step: None,
        };
        process.set_clock(dice);
        process
    }

    pub(super) fn set_clock(&mut self, dice: &mut Dice) {
        let day = 86_400;
        let skew = match dice.below(3) {
            0 => 0,
            _ => i64::try_from(dice.below(2 * day + 1)).unwrap() - 86_400,
        };
        *self.skew.lock().unwrap() = skew;
        let id = self.id;
        let mut world = self.world.lock().unwrap();
        world.say(format!("the clock of process {id} is wrong by {skew} s"));
    }

    // === the replica ===

    /// Half a look: at the configuration, then at the Secret.
    pub(super) fn look(&mut self, is_fresh: bool) {
        let mut world = self.world.lock().unwrap();
        let newest = (world.published.len() - 1, world.secrets.len() - 1);
        let mut late = |oldest: usize, newest: usize| match is_fresh || !world.dice.one_in(4) {
            true => newest,
            false => oldest + world.dice.below(newest - oldest + 1),
        };
        let Some(configuration) = self.half.take() else {
            self.oldest.0 = late(self.oldest.0, newest.0);
            self.half = Some(world.configuration_at(self.oldest.0));
            return;
        };
        self.oldest.1 = late(self.oldest.1, newest.1);
        let observed = Observed {
            configuration,
            secret: world.secrets[self.oldest.1].clone(),
        };
        drop(world);
        self.act(&observed);
    }

    fn act(&mut self, observed: &Observed) {
        let now = self.driver.clock.now();
        self.belief.look(observed, now.steady);
        let trust_delay = match self.mutation {
            Mutation::ServeBeforeTrusted => Steady::ZERO,
            _ => Steady::from_secs(DELAY),
        };
        let view = View {
            observed,
            belief: &self.belief,
            required: &self.driver.policy.required,
            trust_delay,
        };
        match choose(&view, self.serving.as_ref(), now.wall) {
            Choice::Publish(pair) => {
                // Nothing, or what the caBundle believes no more.
                let old = self.serving.as_ref();
                let is_lost = |old| !is_trusted(observed, old, now.wall);
                self.had_nothing_else = old.is_none_or(is_lost);
                self.serving = Some(pair);
                let pem = observed.secret.as_ref().unwrap().pem();
                let leaf = pool::leaf(&pem.chain);
                self.kept.send_replace(Some(pem));
                let mut world = self.world.lock().unwrap();
                world.serving[self.id] = leaf;
                let id = self.id;
                world.say(format!("process {id} serves {leaf:?}"));
            }
            Choice::Same => {
                let pem = observed.secret.as_ref().unwrap().pem();
                self.kept.send_replace(Some(pem));
            }
            Choice::Absent | Choice::Bad(_) | Choice::NotTrustedYet => {}
        }
    }

    // === the leader ===

    /// Goes on to the leader's next call.
    pub(super) fn lead(&mut self) {
        let (driver, memory) = (&self.driver, &mut self.memory);
        let step = self.step.get_or_insert_with(|| {
            let (driver, mut memory) = (Arc::clone(driver), memory.take().unwrap_or_default());
            Box::pin(async move {
                // A failure is logged by `run`; what is remembered stays.
                let _ = driver.step(&mut memory).await;
                memory
            })
        });
        let polled = step.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(memory) = polled {
            self.memory = Some(memory);
            self.step = None;
        }
    }

    /// Wherever it is: before or after a write, too.
    pub(super) fn crash_leader(&mut self) {
        let was_busy = self.step.take().is_some();
        self.memory = None;
        let (id, mut world) = (self.id, self.world.lock().unwrap());
        world.say(format!(
            "leader {id} begins anew, in the middle of a step: {was_busy}"
        ));
    }
}

/// The world, as a leader calls it.
struct Api {
    world: Shared,
    id: usize,
    mutation: Mutation,
}

impl Api {
    /// Others come first.
    async fn call(&self) -> Result<(), Failure> {
        let mut has_waited = false;
        std::future::poll_fn(|_| match std::mem::replace(&mut has_waited, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
        let mut world = self.world.lock().unwrap();
        match world.dice.one_in(40) {
            true => Err(Failure::Failed("no answer".to_owned())),
            false => Ok(()),
        }
    }
}

impl Store for Api {
    async fn observe(&self) -> Result<Observed, Failure> {
        self.call().await?;
        let configuration = self.world.lock().unwrap().configuration();
        self.call().await?;
        let secret = self.world.lock().unwrap().secret();
        Ok(Observed {
            configuration,
            secret,
        })
    }

    async fn apply(&self, write: &Write) -> Result<(), Failure> {
        // Lost on the way there.
        self.call().await?;
        let done = self.world.lock().unwrap().apply(self.id, write);
        // Or the answer on the way back.
        self.call().await?;
        done
    }

    async fn endpoints(&self) -> Result<Vec<Endpoint>, Failure> {
        let mut seen = Vec::new();
        for id in 0..3 {
            let shaken = self.call().await;
            let world = self.world.lock().unwrap();
            let current = || pool::leaf(&world.secret()?.pem().chain);
            let leaf = match self.mutation {
                Mutation::PruneEarly => current(),
                _ => world.serving[id],
            };
            let der = leaf.filter(|_| shaken.is_ok());
            let der = der.and_then(|leaf| pool::of(leaf).pem.leaf());
            seen.push(Endpoint {
                address: format!("process {id}"),
                leaf: der.ok_or_else(|| "no handshake".to_owned()),
            });
        }
        Ok(seen)
    }

    fn mint(&self, _policy: &Policy, now: OffsetDateTime) -> Result<Pem, MintError> {
        Ok(self.world.lock().unwrap().mint(now))
    }
}

fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| Metrics::new().unwrap())
}
