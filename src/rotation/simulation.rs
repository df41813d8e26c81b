//! A deterministic simulation: the real driver, plan and replica code in a world drawn from a seed.
//!
//! The world (`world`) keeps the Secret and the webhook configuration with their whole history.
//! One to four processes (`process`) each serve a leaf and may believe to lead, several at once. Every
//! call of a leader and every part of a replica's look is an event of its own, so that whatever can
//! come between two of them does: crashes before and after each write, lost calls and lost answers,
//! conflicts, writes that land after their caller gave up or died, other writes, hours, restarts, Pods
//! that the cluster forgets while they are still called, or knows only some seconds after they began, or
//! that are called while no other one can reach them, and a hand that deletes, corrupts, puts old or
//! foreign things in the place of ours, or brings a pair that is not ours to replace. In a third of the
//! stories there is no such hand, so that nothing at all is excused by one; in some of them nobody but a
//! copier of `ca.crt` writes the caBundles. Processes stand still for seconds or a minute, wherever they
//! are. Some go by a kube-apiserver's clock, wrong by half an hour, the others by their own, wrong by a
//! day; both jump. In some stories nobody does
//! anything for days, and leaves end. So what is acted on may be of any age. What is read is what
//! there is at that moment: Kubernetes promises that of a `get` without a resourceVersion, whatever
//! kube-apiserver is asked.
//!
//! After each event, every leaf that is served must be believed by every kube-apiserver whose view is
//! at most the trust delay old: that is, by each configuration that was the current one at any moment
//! within the trust delay, as if there were a kube-apiserver for every lateness. Excused is only what
//! a person did:
//! - A CA that a hand took out of a caBundle, until it is back there; for a leaf that was
//!   served or in the Secret when the hand came, or that came to be by what was seen just before.
//! - A leaf that a hand put into the Secret, or that was made because a hand had damaged or deleted it
//!   (or there was none yet, or it had ended), in a replica that had nothing else to serve that is
//!   believed, while no other process had served such a leaf for some seconds: towards configurations
//!   from before its CA was first published, and those from the half minute after a hand put it there,
//!   when a leader may not have seen it yet.
//! - A leaf that ended while nobody did anything, or brought another, in a replica that has not seen since
//!   that there is another, where no clock leaves a doubt.
//!
//! No leader takes a CA out of a caBundle that `ca.crt` names, unless a hand was at the Secret since the
//! leader looked. In the end the hand rests and a rotation is asked for, and it must end with a leaf that
//! was not there before, and pruned, and then nothing is written any more; be it that all believe to lead,
//! or one alone.
//!
//! That it bites is shown by mutants, each of which is caught by a story that goes well without it,
//! and that all is reached by counting the writes.
//!
//! What it does not show, and must be read with: excuses have no end but the CA's return; that nobody
//! serves for a while is no fault in it until the end; so few CAs are about that none is left out for
//! want of room (`tests` has that); nobody brings files, and what is brought in a Secret is read at once
//! with its CA; names and settings stay as they are; `Driver::run` and what wires replicas are not in it.
//! Where the cluster takes much longer to know a new Pod (its controller manager is down, say), a leaf
//! can be called for a moment that nobody believes any more: `told` has that.
//!
//! `IMAGESWAP_SEED=n` replays one seed and prints its story.

mod pool;
mod process;
mod told;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use self::process::Process;
use self::world::{Hand, World, Writes};
use crate::pki::memo;

/// How late a kube-apiserver may be, in seconds.
const DELAY: u64 = 60;

/// Seeds of the test run; `IMAGESWAP_SEEDS=n` tries others, many more if there is time.
const SEEDS: u64 = 20_000;

/// Events of a story before the hand rests.
const EVENTS: usize = 185;

/// How long a Pod may be called after the cluster has forgotten it, in seconds: until every node has
/// learnt so, or it has drained.
const FORGOTTEN: u64 = 8;

/// How long it may take until the cluster knows a new Pod and looks at it, in seconds. What is seen of the
/// endpoints must have been so for longer before a CA goes (`shown`, and the Secret's `settled`).
const LISTED: usize = 8;

/// What is broken on purpose, to show that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    None,
    /// A leader promotes at once.
    SkipTrustDelay,
    /// A leader takes all endpoints to serve the current leaf.
    PruneEarly,
    /// A leader prunes a caBundle though the Secret was another one a moment ago.
    PruneUnsettled,
    /// A leader prunes a caBundle though an endpoint that is just gone served another leaf.
    PruneUnshown,
    /// Who has nothing to serve leads all the same, and serves what it finds.
    ServeFirst,
    /// A Secret is made though there is one.
    CreateAnew,
    /// A Secret is changed whatever its version.
    ChangeAnyVersion,
    /// A webhook configuration is changed whatever its version.
    PatchAnyVersion,
    /// Nobody counts how often the webhook configuration was written between two looks.
    MissWrites,
    /// A replica looks at the first webhook alone.
    BelieveOne,
    /// An endpoint that can't be seen is taken to serve nothing.
    PassOverUnseen,
    /// The cluster takes minutes to know a new Pod.
    ListLate,
    /// A leader writes however long ago it looked.
    WriteLate,
    /// A leader reads the Secret before the webhook configuration.
    SecretFirst,
    /// A replica serves what it finds.
    ServeBeforeTrusted,
    /// A replica acts on what it saw long ago.
    ActOnOldViews,
    /// A new leaf is served while the CA of the old one is replaced, not joined.
    ForgetOldCa,
}

/// Numbers from a seed (splitmix64).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// One run of the world.
struct Story {
    world: Arc<Mutex<World>>,
    processes: Vec<Process>,
    dice: Dice,
    mutation: Mutation,
    /// How seldom something goes wrong.
    calm: usize,
    /// Whether somebody meddles.
    has_hand: bool,
    /// Whether processes take their time now and then.
    is_sleepy: bool,
    /// Those before the hand rested.
    writes: Writes,
}

impl Story {
    fn new(seed: u64, mutation: Mutation, is_told: bool) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ 0xA5A5);
        let count = [1, 2, 3, 3, 3, 4][dice.below(6)];
        let world = World::new(Dice(dice.next()), mutation, count);
        let world = Arc::new(Mutex::new(world));
        world.lock().unwrap().is_told = is_told;
        world.lock().unwrap().may_end = dice.one_in(8);
        let has_hand = !dice.one_in(3);
        world.lock().unwrap().has_copier = !has_hand && dice.one_in(4);
        let is_settled = !dice.one_in(3);
        if is_settled {
            world.lock().unwrap().settle();
        }
        let processes = (0..count)
            .map(|id| Process::new(id, &world, mutation, &mut dice))
            .collect();
        let mut story = Self {
            world,
            processes,
            writes: Writes::default(),
            calm: [1, 3, 8, 20][dice.below(4)],
            has_hand,
            is_sleepy: dice.one_in(3),
            dice,
            mutation,
        };
        if is_settled {
            story.look_at_all();
        }
        story.processes[0].leads = true;
        if story.dice.one_in(4) {
            story.processes.iter_mut().for_each(|one| one.leads = true);
        }
        story
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn event(&mut self) {
        let who = self.dice.below(self.processes.len());
        let is_tempting = std::mem::take(&mut self.world().is_tempting);
        if is_tempting && self.has_hand && self.dice.one_in(4 * self.calm) {
            // Trouble likes company.
            let hand = Hand::draw(&mut self.dice);
            return self.world().hand(hand);
        }
        match self.dice.below(100) {
            0..40 => self.lead(who),
            40..70 => self.look(who),
            70..83 => {
                let seconds = match self.dice.below(20) {
                    0..9 => self.dice.below(3),
                    9..15 => self.dice.below(20),
                    15..19 => 20 + self.dice.below(100),
                    _ => self.long_jump(),
                };
                self.world().pass(seconds as u64);
            }
            83 => self.world().copy(),
            84 => self.world().arrive(),
            85 => self.world().hand(Hand::Request),
            // What is left goes wrong.
            _ if !self.dice.one_in(self.calm) => self.lead(who),
            86 => self.processes[who].crash_leader(),
            87 => self.stand_still(who),
            88..90 => self.processes[who].dozes ^= self.is_sleepy,
            90..91 => {
                let is_forgotten = self.dice.one_in(2);
                match self.dice.one_in(8) {
                    // As when they run out of memory together.
                    true => (0..self.processes.len()).for_each(|who| self.restart(who, false)),
                    false => self.restart(who, is_forgotten),
                }
            }
            91..93 => {
                let process = &mut self.processes[who];
                process.leads = !process.leads;
                let leads = process.leads;
                self.world()
                    .say(|| format!("process {who} believes to lead: {leads}"));
            }
            93..95 => self.processes[who].set_clock(&mut self.dice),
            95 => {
                let is_so = self.dice.one_in(3);
                let mut world = self.world();
                world.is_cut_off[who] = is_so;
                world.say(|| format!("process {who} is cut off from the others: {is_so}"));
            }
            _ if !self.has_hand => self.stand_still(who),
            _ => {
                // Without a webhook there is little to see, and little to do with a pair that was brought.
                let has_webhook = self.world().configuration().is_some();
                let is_brought = self.world().is_brought();
                let hand = match self.dice.one_in(2) {
                    true if !has_webhook => Hand::Apply,
                    true if is_brought => Hand::TakeBack,
                    _ => Hand::draw(&mut self.dice),
                };
                self.world().hand(hand);
            }
        }
    }

    /// A process stands still wherever it is, for some seconds or more than a minute.
    fn stand_still(&mut self, who: usize) {
        let most = [10, 30, 90][self.dice.below(3)];
        let seconds = 3 + self.dice.below(most) as u64;
        let mut world = self.world.lock().unwrap();
        let until = world.time + seconds;
        world.say(|| format!("process {who} stands still for {seconds} s"));
        drop(world);
        self.processes[who].still_until = until;
    }

    fn look(&mut self, who: usize) {
        let process = &self.processes[who];
        if process.stands_still() || process.dozes && !self.dice.one_in(8) {
            return;
        }
        for _ in 0..=self.dice.below(4) {
            self.processes[who].look();
        }
    }

    /// One of those who believe to lead makes some calls.
    fn lead(&mut self, who: usize) {
        let leads = |one: &mut Process| one.leads && !one.stands_still() && one.may_lead();
        let processes = self.processes.iter_mut().enumerate();
        let leading: Vec<_> = processes
            .filter_map(|(i, one)| leads(one).then_some(i))
            .collect();
        let Some(who) = leading.get(who % leading.len().max(1)) else {
            return;
        };
        let calls = match self.processes[*who].dozes {
            true => usize::from(self.dice.one_in(4)),
            false => 1 + self.dice.below(8),
        };
        for _ in 0..calls {
            self.processes[*who].lead();
        }
    }

    /// Another process takes the place of this one, which lives on for a moment if the cluster forgets
    /// it before all nodes do.
    fn restart(&mut self, who: usize, is_forgotten: bool) {
        let mut world = self.world.lock().unwrap();
        let (until, serving) = (world.time + FORGOTTEN, world.serving[who]);
        if is_forgotten {
            world.ghosts.extend(serving.map(|serving| (until, serving)));
        }
        world.say(|| format!("process {who} is restarted; the old one lives on: {is_forgotten}"));
        drop(world);
        self.processes[who].let_go();
        let leads = self.processes[who].leads;
        let again = Process::new(who, &self.world, self.mutation, &mut self.dice);
        self.processes[who] = again;
        if is_forgotten {
            // It is another Pod.
            let longest = match self.mutation {
                Mutation::ListLate => 120,
                _ => LISTED,
            };
            let after = self.dice.below(longest + 1) as u64;
            let mut world = self.world();
            world.listed[who] = world.time + after;
        }
        self.processes[who].leads = leads && self.dice.one_in(2);
    }

    /// A day or less, as long as nothing ends in it, or to about when a pair is due. That a pair is left
    /// alone for half of its life is another story.
    fn long_jump(&mut self) -> usize {
        const DAY: u64 = 86_400;
        // There are pairs for no longer than that.
        const LAST: u64 = 17 * DAY;
        let world = self.world();
        let (served, now, may_end) = (world.serving.clone(), world.time, world.may_end);
        drop(world);
        let ends = |serving: &world::Serving| pool::of(serving.leaf).ends;
        match served.iter().flatten().map(ends).min() {
            Some(end) if may_end && now + DAY < end && end < LAST && self.dice.one_in(2) => {
                self.until_about(end - now)
            }
            Some(end) if now + 6 * DAY < end && self.dice.one_in(2) => {
                self.until_about(end - 6 * DAY - now)
            }
            Some(end) if now + 5 * DAY < end => self.dice.below(86_400),
            _ if may_end && now + 6 * DAY < LAST => self.dice.below(6 * 86_400),
            _ => 0,
        }
    }

    /// Some minutes before it, or after.
    fn until_about(&mut self, seconds: u64) -> usize {
        (usize::try_from(seconds).unwrap() + self.dice.below(1_200)).saturating_sub(600)
    }

    fn look_at_all(&mut self) {
        self.processes.iter_mut().for_each(Process::look_anew);
    }

    /// Every leaf that is served is believed by all who may call.
    fn check(&self) -> Result<(), String> {
        self.world().distrust().map_or(Ok(()), Err)
    }

    /// The hand rests, and all goes on in turns.
    fn finale(&mut self) -> Result<(), String> {
        self.world().rest();
        for process in &mut self.processes {
            process.leads = true;
        }
        let (first, is_alone) = (self.dice.below(self.processes.len()), self.dice.one_in(2));
        for _ in 0..60 {
            self.world().ask();
            self.in_turns(first, is_alone)?;
            if self.is_over().is_ok() {
                return self.rest(first, is_alone);
            }
        }
        self.is_over()
    }

    /// Half a minute passes, and all who may lead do, or the first of them alone.
    fn in_turns(&mut self, first: usize, is_alone: bool) -> Result<(), String> {
        self.world().pass(31);
        self.world().copy();
        self.look_at_all();
        self.check()?;
        let count = self.processes.len();
        for who in (first..first + count).map(|who| who % count) {
            if !self.processes[who].may_lead() {
                continue;
            }
            while !self.processes[who].lead() {
                self.check()?;
            }
            self.check()?;
            if is_alone {
                break;
            }
        }
        Ok(())
    }

    /// What is over stays so.
    fn rest(&mut self, first: usize, is_alone: bool) -> Result<(), String> {
        let before = self.world().written();
        for _ in 0..2 {
            self.in_turns(first, is_alone)?;
        }
        self.is_over()?;
        match self.world().written() == before {
            true => Ok(()),
            false => Err("something was written though all was at rest".to_owned()),
        }
    }

    /// Rotated and pruned.
    fn is_over(&self) -> Result<(), String> {
        let world = self.world();
        let leaf = world.is_over()?;
        let serves = |serving: &Option<world::Serving>| serving.is_some_and(|one| one.leaf == leaf);
        match world.serving.iter().position(|serving| !serves(serving)) {
            Some(late) => Err(format!("process {late} does not serve {leaf}")),
            None => Ok(()),
        }
    }

    fn tell(&mut self) -> Result<(), String> {
        for _ in 0..EVENTS {
            self.event();
            self.check()?;
        }
        let writes = self.world().writes;
        self.writes = writes;
        self.finale().map_err(|why| format!("in the end: {why}"))
    }
}

/// Tells one story, and which writes were made in it, or how it went wrong.
fn run(seed: u64, mutation: Mutation) -> Result<Writes, String> {
    memo::remember();
    let mut story = Story::new(seed, mutation, false);
    let told = story.tell();
    told.map(|()| story.writes)
}

/// Tells it again to whoever wants to know.
fn retell(seed: u64, mutation: Mutation) -> String {
    let mut story = Story::new(seed, mutation, true);
    let told = story.tell();
    let lines = story.world().trace.join("\n");
    format!("{lines}\nseed {seed}, {mutation:?}: {told:?}; replay it with IMAGESWAP_SEED={seed}")
}

/// A number that a person has set.
fn set(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Asks of one seed after the other, with all processors, until there is an answer.
fn search<T: Send>(seeds: u64, ask: impl Fn(u64) -> Option<T> + Sync) -> Option<(u64, T)> {
    let (next, answer) = (AtomicU64::new(0), Mutex::new(None));
    let work = || {
        while answer.lock().unwrap().is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            if let Some(found) = ask(seed) {
                answer.lock().unwrap().get_or_insert((seed, found));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    answer.into_inner().unwrap()
}

#[test]
fn no_story_has_an_instant_of_distrust_and_all_end_well() {
    if let Some(seed) = set("IMAGESWAP_SEED") {
        println!("{}", retell(seed, Mutation::None));
        run(seed, Mutation::None).unwrap();
        return;
    }
    let seeds = set("IMAGESWAP_SEEDS").unwrap_or(SEEDS);
    let all = Mutex::new(Writes::default());
    let failed = search(seeds, |seed| match run(seed, Mutation::None) {
        Ok(writes) => {
            *all.lock().unwrap() += writes;
            None
        }
        Err(why) => Some(why),
    });
    if let Some((seed, _)) = failed {
        panic!("{}", retell(seed, Mutation::None));
    }
    let all = all.into_inner().unwrap();
    println!("{seeds} stories: {all:?}");
    assert!(all.least() * 12 > seeds, "some writes are rare: {all:?}");
    assert!(all.due * 12 > seeds, "hardly a leaf falls due: {all:?}");
    assert!(all.too_late * 100 > seeds, "hardly a leaf ends: {all:?}");
    assert!(
        all.brought * 12 > seeds,
        "hardly a leaf is brought: {all:?}"
    );
}

/// By a story that goes well without it. The others are in `told`: drawn stories seldom come to them.
#[test]
fn each_mutant_is_caught() {
    let mut missed = Vec::new();
    for mutation in [
        Mutation::SkipTrustDelay,
        Mutation::PruneEarly,
        Mutation::ServeFirst,
        Mutation::CreateAnew,
        Mutation::ChangeAnyVersion,
        Mutation::PatchAnyVersion,
        Mutation::MissWrites,
        Mutation::BelieveOne,
        Mutation::PassOverUnseen,
        Mutation::ServeBeforeTrusted,
        Mutation::ForgetOldCa,
    ] {
        let is_right = |seed| run(seed, Mutation::None).is_ok();
        let caught = search(SEEDS, |seed| {
            let why = run(seed, mutation).err()?;
            is_right(seed).then_some(why)
        });
        println!("{mutation:?} is caught: {caught:?}");
        if caught.is_none() {
            missed.push(mutation);
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
