//! The Secret and the webhook configuration with its history: what processes read and write. `hand` is who
//! meddles, `judge` what must be so, `writes` counts.

mod hand;
mod judge;
mod writes;

pub(super) use self::hand::Hand;
use self::judge::holds;
pub(super) use self::judge::is_good;
pub(super) use self::writes::Writes;
use super::process::LATEST;
use super::{DELAY, Dice, Mutation, pool};
use crate::rotation::replica::FRESH;
use crate::rotation::source::Source;
use crate::rotation::state::{Configuration, Hook, Observed, Secret};
use crate::rotation::tests::changed;
use crate::rotation::write::{Failure, Next, Write};

/// What a leader planned on what it saw before a hand came is written so long after at the latest,
/// in seconds: the driver's bound, and a call's.
pub(super) const UNDER_WAY: u64 = 20 + 10;

/// One state of the configuration.
struct Published {
    since: u64,
    configuration: Option<Configuration>,
    /// What each webhook believes, by number.
    believed: Vec<Vec<usize>>,
    excused: Vec<Excuse>,
}

/// A CA that a hand took out of a caBundle, until it is back there.
#[derive(Clone, Copy)]
struct Excuse {
    hook: usize,
    ca: usize,
    /// When the hand came.
    at: u64,
    /// Whether its leaf was served then, or was the one in the Secret.
    is_needed: bool,
}

/// A leaf that was put there because of a hand, or by it.
struct Emergency {
    leaf: usize,
    /// The configuration of that moment.
    index: usize,
    /// When a hand put it there.
    by_hand: Option<u64>,
}

/// What a process serves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Serving {
    pub(super) leaf: usize,
    /// Since when.
    pub(super) since: u64,
    /// Whether it was all that there was to serve.
    pub(super) had_nothing_else: bool,
    /// Whether it had ended for sure, by whatever clock, and another one was seen that could be served.
    pub(super) is_outlived: bool,
}

pub(super) struct World {
    /// In seconds since the story began.
    pub(super) time: u64,
    /// What each process serves.
    pub(super) serving: Vec<Option<Serving>>,
    /// When the cluster gets to know each process: before, it is neither called nor looked at.
    pub(super) listed: Vec<u64>,
    /// Which processes are called, and none of the others can reach them.
    pub(super) is_cut_off: Vec<bool>,
    /// Processes that the cluster has forgotten, and that are still called until then.
    pub(super) ghosts: Vec<(u64, Serving)>,
    /// Writes that are on their way: since when, whose, and what.
    pub(super) late: Vec<(u64, usize, Write)>,
    /// The write that each leader is waiting for, and since when.
    pub(super) writing: Vec<Option<(u64, Write)>>,
    pub(super) dice: Dice,
    pub(super) trace: Vec<String>,
    /// Whether somebody listens.
    pub(super) is_told: bool,
    /// Whether a leader has just written.
    pub(super) is_tempting: bool,
    /// How often each kind of write was made.
    pub(super) writes: Writes,
    published: Vec<Published>,
    /// The last, and those before that a hand might put back.
    secrets: Vec<Option<Secret>>,
    /// How many webhooks are ours.
    hooks: usize,
    mutation: Mutation,
    versions: u64,
    minted: usize,
    /// Whether a hand damaged the Secret, and nobody has put it right.
    is_damaged: bool,
    /// When a hand was last at the Secret.
    meddled: u64,
    /// A write that must not have been made.
    wrong: Option<String>,
    emergencies: Vec<Emergency>,
    /// When each leaf became the one in the Secret.
    promoted: Vec<(usize, u64)>,
    requests: u64,
    is_resting: bool,
    /// Whether it is not leaders who write the caBundles, but somebody who copies `ca.crt` now and then.
    pub(super) has_copier: bool,
    /// The leaves that there were when a rotation was asked for at the end.
    pub(super) before_the_last: Option<Vec<usize>>,
    /// Whether nobody does anything for days now and then, so that leaves end.
    pub(super) may_end: bool,
}

impl World {
    pub(super) fn new(mut dice: Dice, mutation: Mutation, processes: usize) -> Self {
        let hooks = 1 + dice.below(3);
        let mut world = Self {
            time: 0,
            serving: vec![None; processes],
            listed: vec![0; processes],
            is_cut_off: vec![false; processes],
            ghosts: Vec::new(),
            late: Vec::new(),
            writing: vec![None; processes],
            hooks,
            dice,
            trace: Vec::new(),
            is_told: false,
            is_tempting: false,
            writes: Writes::default(),
            published: Vec::new(),
            secrets: vec![None],
            mutation,
            versions: 0,
            minted: 0,
            is_damaged: true,
            meddled: 0,
            wrong: None,
            emergencies: Vec::new(),
            promoted: Vec::new(),
            requests: 0,
            is_resting: false,
            has_copier: false,
            before_the_last: None,
            may_end: false,
        };
        let fresh = world.fresh();
        world.publish(Some(fresh), true);
        world
    }

    /// Begins where all is well.
    pub(super) fn settle(&mut self) {
        let pem = pool::minted(pool::BEGIN, 0);
        self.minted = 1;
        let write = Write::Create(pem.clone());
        self.apply(0, &write).unwrap();
        let mut configuration = self.configuration().unwrap();
        for hook in &mut configuration.hooks {
            hook.bundle = pem.ca.clone().into_bytes();
        }
        self.published.clear();
        self.publish(Some(configuration), true);
        self.time = 2 * DELAY;
    }

    /// Goes on with the story. If nobody listens, nothing is told, which saves time.
    pub(super) fn say(&mut self, line: impl FnOnce() -> String) {
        if self.is_told {
            let time = self.time;
            self.trace.push(format!("{time:>8} s  {}", line()));
        }
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        self.time += seconds;
        let now = self.time;
        self.ghosts.retain(|(until, _)| *until > now);
        self.late.retain(|(made, ..)| now - made <= LATEST);
    }

    /// What was on its way arrives.
    pub(super) fn arrive(&mut self) {
        if let Some((_, who, write)) = self.late.pop() {
            let _ = self.apply(who, &write);
        }
    }

    pub(super) fn configuration(&self) -> Option<Configuration> {
        let last = self.published.last();
        let mut found = last.and_then(|last| last.configuration.clone())?;
        if self.mutation == Mutation::MissWrites {
            found.generation = None;
        }
        Some(found)
    }

    /// Which processes the cluster knows.
    pub(super) fn known(&self) -> Vec<usize> {
        let all = 0..self.serving.len();
        all.filter(|id| self.is_listed(*id)).collect()
    }

    /// Whether a process is called, and looked at.
    pub(super) fn is_listed(&self, id: usize) -> bool {
        self.listed[id] <= self.time
    }

    /// What a process is seen to serve. One that is not known yet has taken the place of one that is gone.
    pub(super) fn shaken(&self, id: usize) -> Option<Serving> {
        self.serving[id].filter(|_| !self.is_cut_off[id] && self.is_listed(id))
    }

    pub(super) fn secret(&self) -> Option<Secret> {
        self.secrets.last().unwrap().clone()
    }

    /// Whether the pair in the Secret is not ours to replace.
    pub(super) fn is_brought(&self) -> bool {
        let secret = self.secrets.last().unwrap().as_ref();
        secret.is_some_and(|secret| secret.source == Source::Annotated)
    }

    pub(super) fn mint(&mut self, now: time::OffsetDateTime) -> crate::pki::Pem {
        self.minted += 1;
        pool::minted(now, self.minted).clone()
    }

    /// How often anything was written.
    pub(super) fn written(&self) -> u64 {
        self.versions
    }

    fn version(&mut self) -> String {
        self.versions += 1;
        self.versions.to_string()
    }

    /// As it is installed.
    fn fresh(&mut self) -> Configuration {
        let version = self.version();
        let hook = |index| Hook {
            index,
            name: format!("hook{index}"),
            bundle: Vec::new(),
            ..Hook::default()
        };
        Configuration {
            uid: version.clone(),
            version,
            generation: Some(1),
            hooks: (0..self.hooks).map(hook).collect(),
        }
    }

    fn publish(&mut self, configuration: Option<Configuration>, by_hand: bool) {
        let hooks = configuration.iter().flat_map(|found| &found.hooks);
        let believed: Vec<_> = hooks.map(|hook| pool::cas(&hook.bundle)).collect();
        let last = self.published.last();
        let mut excused = last.map(|last| last.excused.clone()).unwrap_or_default();
        if by_hand {
            let needed = self.needed();
            for hook in 0..self.hooks {
                let before = last.and_then(|last| last.believed.get(hook));
                if before == believed.get(hook) && before.is_some() {
                    // The hand was at another one.
                    continue;
                }
                let before = before.into_iter().flatten();
                let taken = before.chain(&needed).map(|ca| Excuse {
                    hook,
                    ca: *ca,
                    at: self.time,
                    is_needed: needed.contains(ca),
                });
                excused.extend(taken);
            }
        }
        excused.retain(|excuse| {
            let cas = believed.get(excuse.hook);
            cas.is_none_or(|cas| !cas.contains(&excuse.ca))
        });
        self.published.push(Published {
            since: self.time,
            configuration,
            believed,
            excused,
        });
    }

    /// Whether another process has served another leaf for so long that whoever asked must have seen
    /// it, and all webhooks believed that leaf when they were seen.
    pub(super) fn has_rival(
        &self,
        id: usize,
        leaf: usize,
        seen: &Observed,
        is_missed: impl Fn(usize) -> bool,
    ) -> bool {
        let asked = self.time.saturating_sub(FRESH.as_secs());
        let hooks = seen.hooks().iter();
        let believed: Vec<_> = hooks.map(|hook| pool::cas(&hook.bundle)).collect();
        let is_believed = |leaf| holds(&believed, leaf);
        let mut others = self.serving.iter().enumerate();
        others.any(|(other, one)| {
            let is_rival = |one: &Serving| {
                let is_good = pool::of(one.leaf).ends > self.time && is_believed(one.leaf);
                one.leaf != leaf && one.since < asked && is_good
            };
            let is_seen = self.listed[other] < asked && !is_missed(other);
            other != id && is_seen && one.as_ref().is_some_and(is_rival)
        })
    }

    /// The leaves that are served, and the one in the Secret.
    fn needed(&self) -> Vec<usize> {
        let served = self.serving.iter().flatten();
        let ghosts = self.ghosts.iter().map(|(_, ghost)| ghost);
        let mut needed: Vec<_> = served.chain(ghosts).map(|serving| serving.leaf).collect();
        let secret = self.secrets.last().unwrap().as_ref();
        needed.extend(secret.and_then(|secret| pool::leaf(&secret.pem().chain)));
        needed
    }

    // === what leaders do ===

    pub(super) fn apply(&mut self, who: usize, write: &Write) -> Result<(), Failure> {
        let done = self.write(write);
        self.count(write, done.is_ok());
        self.is_tempting = done.is_ok();
        let word = if done.is_ok() { "" } else { " (conflict)" };
        self.say(|| format!("leader {who}: {}{word}", told(write)));
        done
    }

    fn write(&mut self, write: &Write) -> Result<(), Failure> {
        let conflict = || Failure::Conflict("another version".to_owned());
        let is_broken = |mutation| self.mutation == mutation;
        match write {
            Write::Create(_) if self.secret().is_some() && !is_broken(Mutation::CreateAnew) => {
                Err(conflict())
            }
            Write::Create(pem) => {
                self.current(&pem.chain);
                let version = self.version();
                self.secrets.push(Some(Secret::minted(&version, pem)));
                Ok(())
            }
            Write::Change { version, change } => {
                let is_blind = is_broken(Mutation::ChangeAnyVersion);
                let old = self.secret();
                let old = old.filter(|old| old.version == *version || is_blind);
                let old = old.ok_or_else(conflict)?;
                if let Some(pair) = &change.pair {
                    self.current(&pair.chain);
                }
                let mut new = changed(old, change);
                if self.mutation == Mutation::ForgetOldCa && change.next.is_some() {
                    new.ca = change.ca.as_ref().map_or(new.ca, |ca| {
                        let first = pool::cas(ca.as_bytes())[0];
                        Some(pool::of(first).pem.ca.clone().into_bytes())
                    });
                }
                new.version = self.version();
                self.secrets.push(Some(new));
                Ok(())
            }
            Write::Bundles { version, hooks } => {
                let is_blind = is_broken(Mutation::PatchAnyVersion);
                let old = self.published.last();
                let old = old.and_then(|last| last.configuration.clone());
                let old = old.filter(|old| old.version == *version || is_blind);
                let mut new = old.ok_or_else(conflict)?;
                for hook in hooks {
                    let old =
                        std::mem::replace(&mut new.hooks[hook.index].bundle, hook.bundle.clone());
                    self.look_what_went(&old, &hook.bundle);
                }
                self.write_configuration(new, false);
                Ok(())
            }
        }
    }

    /// No leader takes a CA out of a caBundle that `ca.crt` names, unless it could not know that.
    fn look_what_went(&mut self, old: &[u8], new: &[u8]) {
        let ca = self
            .secret()
            .and_then(|secret| secret.ca)
            .unwrap_or_default();
        let (named, left) = (pool::cas(&ca), pool::cas(new));
        let mut old = pool::cas(old).into_iter();
        let went = old.find(|ca| named.contains(ca) && !left.contains(ca));
        if let Some(went) = went
            && self.meddled + UNDER_WAY < self.time
        {
            self.wrong = Some(format!("{went} went from a caBundle, and ca.crt names it"));
        }
    }

    fn write_configuration(&mut self, mut new: Configuration, by_hand: bool) {
        new.version = self.version();
        new.generation = new.generation.map(|count| count + 1);
        self.publish(Some(new), by_hand);
    }

    /// Takes note that this leaf is now the one in the Secret, and if it is because of a hand.
    fn current(&mut self, chain: &str) {
        let leaf = pool::leaf(chain).unwrap();
        self.promoted.push((leaf, self.time));
        let old = self.secret().and_then(|old| pool::leaf(&old.pem().chain));
        let has_ended = old.is_some_and(|old| pool::of(old).ends <= self.time);
        self.writes.too_late += u64::from(has_ended);
        if std::mem::take(&mut self.is_damaged) || has_ended {
            self.emergency(leaf, None);
        }
    }

    fn emergency(&mut self, leaf: usize, by_hand: Option<u64>) {
        let index = self.published.len().saturating_sub(1);
        self.emergencies.push(Emergency {
            leaf,
            index,
            by_hand,
        });
    }

    /// Somebody copies `ca.crt` into the caBundles, if that is how they are written.
    pub(super) fn copy(&mut self) {
        let ca = self.secret().and_then(|secret| secret.ca);
        let Some((mut new, ca)) = self.configuration().zip(ca).filter(|_| self.has_copier) else {
            return;
        };
        if new.hooks.iter().any(|hook| hook.bundle != ca) {
            new.hooks
                .iter_mut()
                .for_each(|hook| hook.bundle.clone_from(&ca));
            self.say(|| format!("ca.crt is copied: {:?}", pool::cas(&ca)));
            self.write_configuration(new, false);
        }
    }
}

/// A write, by the numbers of what is in it.
fn told(write: &Write) -> String {
    match write {
        Write::Create(pem) => format!("create the Secret with {:?}", pool::leaf(&pem.chain)),
        Write::Change { change, .. } => format!(
            "change the Secret: pair {:?}, next {:?}, ca.crt {:?}, answered {:?}",
            change.pair.as_ref().map(|pair| pool::leaf(&pair.chain)),
            change.next.as_ref().map(|next| match next {
                Next::Set(pair) => pool::leaf(&pair.chain),
                Next::Clear => None,
            }),
            change.ca.as_ref().map(|ca| pool::cas(ca.as_bytes())),
            change.answered,
        ),
        Write::Bundles { hooks, .. } => {
            let all: Vec<_> = hooks.iter().map(|hook| pool::cas(&hook.bundle)).collect();
            format!("write the caBundles {all:?}")
        }
    }
}
