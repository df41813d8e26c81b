//! A process: a replica that serves a leaf, and a leader whenever it believes to be one.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration as Steady;

use time::{Duration, OffsetDateTime};
use tokio::sync::watch;

use super::pool::{self, BEGIN, HOST, LIFE};
use super::world::{Serving, World, is_good};
use super::{DELAY, Dice, FORGOTTEN, Mutation};
use crate::pki::{MintError, Pair, Pem};
use crate::rotation::belief::Belief;
use crate::rotation::clock::{Clock, Moment, Span};
use crate::rotation::driver::{Driver, Memory, Store};
use crate::rotation::plan::{Policy, SETTLED, oldest, shown};
use crate::rotation::replica::{Choice, FRESH, Others, UNSEEN, View, choose, is_trusted, may_lead};
use crate::rotation::source::Source;
use crate::rotation::state::{Configuration, Endpoint, Observed};
use crate::rotation::write::{Failure, Write};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::notices::Notices;

/// A call is given up after this, in seconds: as those of `cluster::kubernetes`.
const DEADLINE: u64 = 5;

/// What was given up may still be done so long after it was begun, in seconds.
pub(super) const LATEST: u64 = 10;

/// Who has had nothing to serve for so long stands for leader all the same, in seconds: two leases, as in
/// `cli::serve`.
const PATIENCE: u64 = 30;

type Shared = Arc<Mutex<World>>;
type Step = Pin<Box<dyn Future<Output = Memory>>>;

pub(super) struct Process {
    pub(super) id: usize,
    pub(super) leads: bool,
    /// Whether all that it does takes its time.
    pub(super) dozes: bool,
    /// Until then it does nothing.
    pub(super) still_until: u64,
    world: Shared,
    mutation: Mutation,
    /// How wrong its wall clock is, in seconds, and whether that is kube-apiserver's.
    skew: Arc<Mutex<(i64, bool)>>,
    /// When it began.
    born: u64,
    /// Whether it may stand for leader from now on.
    may_lead: bool,
    /// What it saw last, while it may not.
    seen: Option<Box<Observed>>,
    others: Option<Others>,
    /// Of each process.
    lost: Vec<Option<Lost>>,
    serving: Option<Pair>,
    kept: watch::Sender<Option<Pem>>,
    believed: watch::Sender<Belief>,
    glance: Glance,
    driver: Arc<Driver<Api>>,
    memory: Option<Memory>,
    step: Option<Step>,
}

/// How far a replica's look is. Any time may pass between one and the next.
enum Glance {
    None,
    /// The configuration is read, and the Secret is yet to be.
    Half(u64, Option<Configuration>),
    /// Both are, and it is yet to act.
    Whole(Span, Box<Observed>),
    /// It asks what the other endpoints serve, one after the other: those that the cluster knew then.
    Asking(Span, Box<Observed>, Asked),
}

/// How far it is with the other endpoints.
struct Asked {
    since: u64,
    /// Whom it is yet to ask.
    left: Vec<usize>,
    seen: Vec<Endpoint>,
}

/// When a handshake with another process was first lost since one was not, and how many were.
type Lost = (u64, u32);

impl Process {
    pub(super) fn new(id: usize, world: &Shared, mutation: Mutation, dice: &mut Dice) -> Self {
        let (kept, served) = watch::channel(None);
        let (believed, belief) = watch::channel(Belief::default());
        let is_told = !dice.one_in(4);
        let skew = Arc::new(Mutex::new((0, is_told)));
        let (time, wrong) = (Arc::clone(world), Arc::clone(&skew));
        let clock = Clock::of(move || {
            let now = time.lock().unwrap().time;
            let (wrong, is_told) = *wrong.lock().unwrap();
            let wall = Duration::seconds(i64::try_from(now).unwrap() + wrong);
            Moment {
                wall: BEGIN + wall,
                is_told,
                steady: Steady::from_secs(now),
            }
        });
        let unless = |broken: Mutation, right: Steady| match mutation == broken {
            true => Steady::ZERO,
            false => right,
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
                trust_delay: unless(Mutation::SkipTrustDelay, Steady::from_secs(DELAY)),
                writes_bundles: !world.lock().unwrap().has_copier,
                settled: unless(Mutation::PruneUnsettled, SETTLED),
                shown: unless(Mutation::PruneUnshown, shown(Steady::from_secs(FORGOTTEN))),
                oldest: match mutation {
                    Mutation::WriteLate => Steady::MAX,
                    _ => oldest(Steady::from_secs(DELAY)),
                },
            },
            served,
            believed: belief,
            clock,
            metrics: metrics().clone(),
            notices: Notices::default(),
        };
        let (born, count) = {
            let mut world = world.lock().unwrap();
            world.serving[id] = None;
            (world.time, world.serving.len())
        };
        let mut process = Self {
            id,
            leads: false,
            dozes: false,
            still_until: 0,
            world: Arc::clone(world),
            mutation,
            skew,
            born,
            may_lead: false,
            seen: None,
            others: None,
            lost: vec![None; count],
            serving: None,
            kept,
            believed,
            glance: Glance::None,
            driver: Arc::new(driver),
            memory: None,
            step: None,
        };
        process.set_clock(dice);
        process
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(super) fn stands_still(&self) -> bool {
        self.world().time < self.still_until
    }

    pub(super) fn set_clock(&mut self, dice: &mut Dice) {
        let is_told = self.skew.lock().unwrap().1;
        // Half an hour, or a day.
        let most = if is_told { 1_800 } else { 86_400 };
        let skew = match dice.below(3) {
            0 => 0,
            _ => i64::try_from(dice.below(2 * most + 1)).unwrap() - i64::try_from(most).unwrap(),
        };
        self.skew.lock().unwrap().0 = skew;
        let id = self.id;
        let line = || format!("the clock of process {id} is wrong by {skew} s");
        self.world().say(line);
    }

    // === the replica ===

    /// Goes on with a look: reads the configuration, then the Secret, then acts.
    pub(super) fn look(&mut self) {
        let now = self.world().time;
        match std::mem::replace(&mut self.glance, Glance::None) {
            Glance::None => {
                let mut configuration = self.world().configuration();
                if self.mutation == Mutation::BelieveOne {
                    let hooks = configuration.iter_mut().map(|found| &mut found.hooks);
                    hooks.for_each(|hooks| hooks.truncate(1));
                }
                self.glance = Glance::Half(now, configuration);
            }
            // As for a look that takes too long.
            Glance::Half(from, _) if now - from > FRESH.as_secs() => {}
            Glance::Half(from, configuration) => {
                let secret = self.world().secret();
                let observed = Box::new(Observed {
                    configuration,
                    secret,
                });
                let (from, to) = (Steady::from_secs(from), Steady::from_secs(now));
                self.glance = Glance::Whole(Span { from, to }, observed);
            }
            Glance::Whole(read, observed) => {
                self.believed
                    .send_modify(|belief| belief.look(&observed, read));
                self.act(observed, read);
            }
            Glance::Asking(read, observed, asked) => self.ask(read, observed, asked),
        }
    }

    /// Looks at the next of the other endpoints; after the last, acts.
    fn ask(&mut self, read: Span, observed: Box<Observed>, mut asked: Asked) {
        let now = self.world().time;
        if let Some(id) = asked.left.pop() {
            let mut world = self.world();
            let is_lost = world.dice.one_in(40);
            let leaf = world.shaken(id).filter(|_| !is_lost);
            drop(world);
            match leaf {
                Some(_) => self.lost[id] = None,
                None => self.lose(id, now),
            }
            asked.seen.push(endpoint(id, leaf.map(|one| one.leaf)));
            self.glance = Glance::Asking(read, observed, asked);
            return;
        }
        let span = Span {
            from: Steady::from_secs(asked.since),
            to: Steady::from_secs(now),
        };
        // The whole has a time limit, too, and who exceeds it has seen nobody.
        let is_lost = self.world().dice.one_in(40);
        let mut seen = asked.seen;
        if is_lost {
            seen = vec![Endpoint::new("any", Err("no answer".to_owned()))];
            (0..self.lost.len()).for_each(|id| self.lose(id, now));
        }
        self.others = Some(Others::after(self.others.as_ref(), seen, span));
        self.act(observed, read);
    }

    fn lose(&mut self, id: usize, now: u64) {
        let (since, count) = self.lost[id].unwrap_or((now, 0));
        self.lost[id] = Some((since, count + 1));
    }

    /// Whether one that is there may be taken to serve nothing: it was looked for in vain again and again.
    fn is_missed(&self, id: usize) -> bool {
        let now = self.world().time;
        self.lost[id].is_some_and(|(since, count)| count >= 3 && now - since >= UNSEEN.as_secs())
    }

    /// Ends the look that is begun, and takes another.
    pub(super) fn look_anew(&mut self) {
        while !matches!(self.glance, Glance::None) {
            self.look();
        }
        for _ in 0..3 {
            self.look();
        }
    }

    fn act(&mut self, observed: Box<Observed>, read: Span) {
        let now = self.driver.clock.now();
        let is_careless = self.mutation == Mutation::ActOnOldViews;
        let belief = self.believed.borrow();
        let view = View {
            observed: &observed,
            read: match is_careless {
                true => Span {
                    from: now.steady,
                    to: now.steady,
                },
                false => read,
            },
            belief: &belief,
            required: &self.driver.policy.required,
            trust_delay: match self.mutation {
                Mutation::ServeBeforeTrusted => Steady::ZERO,
                _ => Steady::from_secs(DELAY),
            },
            others: self.others.as_ref(),
        };
        let choice = choose(&view, self.serving.as_ref(), now);
        drop(belief);
        let is_too_old = matches!(choice, Choice::TooOld);
        match choice {
            Choice::Publish(pair) => {
                // Nothing, or what the caBundle believes no more.
                let old = self.serving.as_ref();
                let real = BEGIN + now.steady;
                let is_lost = |old| !is_trusted(&observed, old, real);
                let was_lost = old.map(is_lost);
                self.serving = Some(pair);
                self.keep(&observed);
                let pem = observed.secret.as_ref().unwrap().pem();
                let leaf = pool::leaf(&pem.chain).unwrap();
                let missed: Vec<_> = (0..self.lost.len()).map(|id| self.is_missed(id)).collect();
                let is_missed = |other: usize| missed[other];
                let (id, mut world) = (self.id, self.world());
                let had_nothing_else =
                    was_lost.unwrap_or_else(|| !world.has_rival(id, leaf, &observed, is_missed));
                world.serving[id] = Some(Serving {
                    leaf,
                    since: world.time,
                    had_nothing_else,
                    is_outlived: false,
                });
                let source = observed.secret.as_ref().map(|secret| secret.source);
                world.writes.brought += u64::from(source == Some(Source::Annotated));
                world.say(|| format!("process {id} serves {leaf}"));
            }
            Choice::Same => self.keep(&observed),
            Choice::AskOthers if self.mutation == Mutation::ServeFirst => {
                let read_now = Span {
                    from: now.steady,
                    to: now.steady,
                };
                self.others = Some(Others::after(None, Vec::new(), read_now));
                return self.act(observed, read);
            }
            Choice::AskOthers => {
                let world = self.world();
                let mut left = world.known();
                left.retain(|id| *id != self.id);
                let since = world.time;
                drop(world);
                let asked = Asked {
                    since,
                    left,
                    seen: Vec::new(),
                };
                self.glance = Glance::Asking(read, observed, asked);
                return;
            }
            Choice::Absent | Choice::Bad(_) | Choice::NotTrustedYet { .. } | Choice::TooOld => {}
        }
        if !is_too_old {
            self.note_outlived(&observed);
        }
        self.seen = Some(observed);
    }

    /// As a replica does.
    fn keep(&self, observed: &Observed) {
        let secret = observed.secret.as_ref().unwrap();
        self.kept.send_replace(secret.kept());
    }

    /// Takes note if it still serves what has ended for sure, though it saw another one that nobody can
    /// have doubted, whatever the clock.
    fn note_outlived(&self, seen: &Observed) {
        // How far a clock may be wrong, and the doubt in it.
        let most: u64 = match self.skew.lock().unwrap().1 {
            true => 2 * 3_600,
            false => 2 * 86_400,
        };
        let good = seen.secret.as_ref().filter(|secret| is_good(secret));
        let leaf = good.and_then(|secret| pool::leaf(&secret.pem().chain));
        let mut world = self.world();
        let now = world.time;
        let Some((leaf, serving)) = leaf.zip(world.serving[self.id].as_mut()) else {
            return;
        };
        let (old, new) = (pool::of(serving.leaf), pool::of(leaf));
        let has_begun = new.begins <= i64::try_from(now).unwrap() - most.cast_signed();
        let is_valid = has_begun && now + most < new.ends;
        serving.is_outlived = leaf != serving.leaf && is_valid && old.ends + most < now;
    }

    /// Whether it may stand for leader.
    pub(super) fn may_lead(&mut self) -> bool {
        if !self.may_lead {
            let now = self.world().time;
            let observed = self.seen.as_deref();
            self.may_lead = self.serving.is_some()
                || now - self.born > PATIENCE
                || self.mutation == Mutation::ServeFirst
                || observed.is_some_and(|seen| may_lead(seen, self.others.as_ref()));
        }
        self.may_lead
    }

    // === the leader ===

    /// Goes on to the leader's next call. Tells whether a step is over.
    pub(super) fn lead(&mut self) -> bool {
        let (driver, memory) = (&self.driver, &mut self.memory);
        let step = self.step.get_or_insert_with(|| {
            let driver = Arc::clone(driver);
            let mut memory = memory.take().unwrap_or_else(|| driver.memory());
            Box::pin(async move {
                // A failure is logged by `run`; what is remembered stays.
                let _ = driver.step(&mut memory).await;
                memory
            })
        });
        let polled = step.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(memory) = polled else {
            return false;
        };
        self.memory = Some(memory);
        self.step = None;
        true
    }

    /// Wherever it is: before or after a write, too.
    pub(super) fn crash_leader(&mut self) {
        let was_busy = self.step.take().is_some();
        self.memory = None;
        let id = self.id;
        self.let_go();
        let line = || format!("leader {id} begins anew, in the middle of a step: {was_busy}");
        self.world().say(line);
    }

    /// What it was writing may still arrive without it.
    pub(super) fn let_go(&self) {
        let mut world = self.world();
        if let Some((made, write)) = world.writing[self.id].take()
            && world.dice.one_in(2)
        {
            world.late.push((made, self.id, write));
        }
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
    async fn others(&self) {
        let mut has_waited = false;
        std::future::poll_fn(|_| match std::mem::replace(&mut has_waited, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }

    /// The world, when a call arrives or its answer does, unless that is too late.
    async fn arrive(&self, made: u64, latest: u64) -> Result<MutexGuard<'_, World>, Failure> {
        self.others().await;
        let mut world = self.world.lock().unwrap();
        let is_late = world.time - made > latest;
        match is_late || world.dice.one_in(40) {
            true => Err(Failure::Failed("no answer".to_owned())),
            false => Ok(world),
        }
    }

    fn time(&self) -> u64 {
        self.world.lock().unwrap().time
    }

    async fn read<T>(&self, what: impl FnOnce(&World) -> T) -> Result<T, Failure> {
        let made = self.time();
        // A process that stood still finds the answer there when it goes on, and no time gone by.
        let stood_still = self.world.lock().unwrap().dice.one_in(2);
        let latest = if stood_still { u64::MAX } else { DEADLINE };
        Ok(what(&*self.arrive(made, latest).await?))
    }
}

impl Store for Api {
    async fn observe(&self) -> Result<Observed, Failure> {
        if self.mutation == Mutation::SecretFirst {
            let secret = self.read(World::secret).await?;
            return Ok(Observed {
                configuration: self.read(World::configuration).await?,
                secret,
            });
        }
        Ok(Observed {
            configuration: self.read(World::configuration).await?,
            secret: self.read(World::secret).await?,
        })
    }

    async fn apply(&self, write: &Write) -> Result<(), Failure> {
        let made = self.time();
        {
            let mut world = self.world.lock().unwrap();
            if world.dice.one_in(40) {
                // It is on the way for long, whatever becomes of its caller.
                world.late.push((made, self.id, write.clone()));
                return Err(Failure::Failed("no answer".to_owned()));
            }
        }
        self.world.lock().unwrap().writing[self.id] = Some((made, write.clone()));
        // It may be lost on the way there, and done though its caller has given up.
        let done = match self.arrive(made, LATEST).await {
            Ok(mut world) => {
                world.writing[self.id] = None;
                world.apply(self.id, write)
            }
            Err(lost) => {
                self.world.lock().unwrap().writing[self.id] = None;
                return Err(lost);
            }
        };
        // Or the answer on the way back.
        drop(self.arrive(made, DEADLINE).await?);
        done
    }

    async fn endpoints(&self) -> Result<Vec<Endpoint>, Failure> {
        let mut seen = Vec::new();
        for id in self.read(World::known).await? {
            let shaken = self.read(|world| match self.mutation {
                Mutation::PruneEarly => pool::leaf(&world.secret()?.pem().chain),
                _ => Some(world.shaken(id)?.leaf),
            });
            let leaf = shaken.await.ok().flatten();
            seen.push(endpoint(id, leaf));
        }
        if self.mutation == Mutation::PassOverUnseen {
            seen.retain(|one| one.leaf.is_ok());
        }
        Ok(seen)
    }

    fn mint(&self, _policy: &Policy, now: OffsetDateTime) -> Result<Pem, MintError> {
        Ok(self.world.lock().unwrap().mint(now))
    }
}

/// As a handshake shows it.
fn endpoint(id: usize, leaf: Option<usize>) -> Endpoint {
    let der = leaf.map(|leaf| pool::of(leaf).leaf.clone());
    let leaf = der.ok_or_else(|| "no handshake".to_owned());
    Endpoint::new(address(id), leaf)
}

fn address(id: usize) -> String {
    format!("process {id}")
}

fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| Metrics::new().unwrap())
}
