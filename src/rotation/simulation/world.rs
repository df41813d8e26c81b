//! The Secret and the webhook configuration with its history, the hand that meddles, and what must
//! be so.

use super::process::LATEST;
use super::{DELAY, Dice, Mutation, pool};
use crate::pki::Bundle;
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

/// How often which write was made.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Writes {
    created: u64,
    replaced: u64,
    staged: u64,
    promoted: u64,
    pruned: u64,
    bundles_widened: u64,
    bundles_pruned: u64,
    conflicts: u64,
    /// Of those that were staged, with nobody asking.
    pub(super) due: u64,
    /// Pairs that took the place of one that had ended.
    pub(super) too_late: u64,
    /// Not written, but served: leaves that somebody brought.
    pub(super) brought: u64,
}

impl Writes {
    fn all(&mut self) -> [&mut u64; 11] {
        [
            &mut self.created,
            &mut self.replaced,
            &mut self.staged,
            &mut self.promoted,
            &mut self.pruned,
            &mut self.bundles_widened,
            &mut self.bundles_pruned,
            &mut self.conflicts,
            &mut self.due,
            &mut self.too_late,
            &mut self.brought,
        ]
    }

    /// How often the rarest of those was made that need no days to pass and nobody to bring a pair.
    pub(super) fn least(mut self) -> u64 {
        self.all()
            .into_iter()
            .take(8)
            .map(|count| *count)
            .min()
            .unwrap_or(0)
    }
}

impl std::ops::AddAssign for Writes {
    fn add_assign(&mut self, mut other: Self) {
        for (mine, theirs) in self.all().into_iter().zip(other.all()) {
            *mine += *theirs;
        }
    }
}

/// What a person does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hand {
    Request,
    DeleteSecret,
    CorruptKey,
    CorruptChain,
    CorruptCa,
    DropNext,
    /// An old Secret is put back, as from a backup.
    Backup,
    /// A good pair of another CA takes the place of ours.
    ForeignPair,
    /// The same, and it is said that it is not ours to replace.
    Bring,
    /// Whatever was brought is ours to replace from now on.
    TakeBack,
    /// One CA is taken out of `ca.crt`.
    DropCa,
    EmptyBundle,
    Rubbish,
    ForeignBundle,
    /// One CA is taken out of a caBundle.
    DropFromBundle,
    /// The caBundles are as they were once, as by a tool that applies what it knows.
    OldBundles,
    DeleteConfiguration,
    Apply,
}

impl Hand {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let all = [
            Self::DeleteSecret,
            Self::CorruptKey,
            Self::CorruptChain,
            Self::CorruptCa,
            Self::DropNext,
            Self::DropCa,
            Self::Backup,
            Self::ForeignPair,
            Self::Bring,
            Self::TakeBack,
            Self::EmptyBundle,
            Self::Rubbish,
            Self::ForeignBundle,
            Self::DropFromBundle,
            Self::OldBundles,
            Self::DeleteConfiguration,
            Self::Apply,
        ];
        all[dice.below(all.len())]
    }
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
            manager: None,
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

    fn count(&mut self, write: &Write, is_done: bool) {
        let last = self.published.len() - 1;
        let counter = match write {
            _ if !is_done => &mut self.writes.conflicts,
            Write::Create(_) => &mut self.writes.created,
            Write::Change { change, .. } => match (&change.pair, &change.next) {
                (_, Some(Next::Set(_))) => {
                    self.writes.due += u64::from(change.answered.is_none());
                    &mut self.writes.staged
                }
                (Some(_), _) if change.ca.is_some() => &mut self.writes.replaced,
                (Some(_), _) => &mut self.writes.promoted,
                (None, _) => &mut self.writes.pruned,
            },
            Write::Bundles { .. } => {
                let sizes = |at: usize| self.published[at].believed.iter().map(Vec::len).sum();
                let (before, after): (usize, usize) = (sizes(last.max(1) - 1), sizes(last));
                match before <= after {
                    true => &mut self.writes.bundles_widened,
                    false => &mut self.writes.bundles_pruned,
                }
            }
        };
        *counter += 1;
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

    // === what a hand does ===

    pub(super) fn hand(&mut self, hand: Hand) {
        if self.is_resting {
            return;
        }
        self.say(|| format!("a hand: {hand:?}"));
        match hand {
            Hand::EmptyBundle
            | Hand::Rubbish
            | Hand::ForeignBundle
            | Hand::DropFromBundle
            | Hand::OldBundles => self.meddle_bundle(hand),
            Hand::DeleteConfiguration => self.publish(None, true),
            Hand::Apply => {
                let fresh = self.fresh();
                self.publish(Some(fresh), true);
            }
            Hand::Backup | Hand::ForeignPair | Hand::Bring => self.replace_secret(hand),
            _ => self.meddle_secret(hand),
        }
    }

    fn meddle_bundle(&mut self, hand: Hand) {
        let Some(mut new) = self.configuration() else {
            return;
        };
        if matches!(hand, Hand::OldBundles) {
            let which = self.dice.below(self.published.len());
            if let Some(old) = &self.published[which].configuration {
                new.hooks.clone_from(&old.hooks);
            }
            return self.write_configuration(new, true);
        }
        let which = self.dice.below(self.hooks);
        let rubbish = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        new.hooks[which].bundle = match hand {
            Hand::EmptyBundle => Vec::new(),
            Hand::Rubbish => rubbish.to_vec(),
            Hand::DropFromBundle => {
                let bundle = &new.hooks[which].bundle;
                without_one(bundle, &mut self.dice)
            }
            _ => pool::foreign(&mut self.dice).ca.clone().into_bytes(),
        };
        self.write_configuration(new, true);
    }

    /// Whole, and good as it is.
    fn replace_secret(&mut self, hand: Hand) {
        let version = self.version();
        let new = match hand {
            Hand::Backup => {
                let which = self.dice.below(self.secrets.len());
                self.secrets[which].clone()
            }
            _ => Some(Secret {
                source: match hand {
                    Hand::Bring => Source::Annotated,
                    _ => Source::Minted,
                },
                ..Secret::minted(&version, pool::foreign(&mut self.dice))
            }),
        };
        if let Some(new) = new {
            self.put(Secret { version, ..new });
        }
    }

    /// Which Secret there is.
    pub(super) fn last(&self) -> usize {
        self.secrets.len() - 1
    }

    /// The `which`-th Secret there was is the current one again.
    pub(super) fn put_back(&mut self, which: usize) {
        let (version, old) = (self.version(), self.secrets[which].clone().unwrap());
        self.put(Secret { version, ..old });
    }

    fn put(&mut self, new: Secret) {
        self.meddled = self.time;
        for chain in [new.pem().chain, new.next().chain] {
            if let Some(leaf) = pool::leaf(&chain) {
                self.promoted.push((leaf, self.time));
                self.emergency(leaf, Some(self.time));
            }
        }
        self.is_damaged = !is_good(&new);
        self.secrets.push(Some(new));
    }

    fn meddle_secret(&mut self, hand: Hand) {
        let Some(mut secret) = self.secret() else {
            return;
        };
        let rubbish = Some(b"rubbish".to_vec());
        match hand {
            Hand::Request => {
                self.requests += 1;
                secret.request = Some(format!("request {}", self.requests));
            }
            Hand::CorruptKey => secret.key = rubbish,
            Hand::CorruptChain => secret.chain = None,
            Hand::CorruptCa => secret.ca = rubbish,
            Hand::DropCa => {
                let ca = secret.ca.unwrap_or_default();
                secret.ca = Some(without_one(&ca, &mut self.dice));
            }
            Hand::DropNext => (secret.next_chain, secret.next_key) = (None, rubbish),
            Hand::TakeBack => secret.source = Source::Minted,
            _ => {}
        }
        self.is_damaged |= match hand {
            Hand::Request | Hand::DropNext => false,
            Hand::DropCa | Hand::TakeBack => !is_good(&secret),
            _ => true,
        };
        if !matches!(hand, Hand::Request) {
            self.meddled = self.time;
        }
        secret.version = self.version();
        let new = (!matches!(hand, Hand::DeleteSecret)).then_some(secret);
        self.secrets.push(new);
    }

    /// The hand rests, and leaves a webhook configuration behind.
    pub(super) fn rest(&mut self) {
        if self.configuration().is_none() {
            self.hand(Hand::Apply);
        }
        if self.is_brought() {
            self.hand(Hand::TakeBack);
        }
        self.is_resting = true;
        self.is_cut_off.fill(false);
        self.say(|| "the hand rests".to_owned());
    }

    /// Asks for the last rotation, once there is a Secret.
    pub(super) fn ask(&mut self) {
        if self.before_the_last.is_some() {
            return;
        }
        let Some(mut secret) = self.secret() else {
            return;
        };
        let mut before = self.needed();
        before.extend(pool::leaf(&secret.next().chain));
        self.before_the_last = Some(before);
        secret.request = Some("the last".to_owned());
        secret.version = self.version();
        self.secrets.push(Some(secret));
        self.say(|| "a rotation is asked for".to_owned());
    }

    // === what must be so ===

    /// Why what somebody serves is not believed by all who may call, if it is not.
    pub(super) fn distrust(&self) -> Option<String> {
        if self.wrong.is_some() {
            return self.wrong.clone();
        }
        let listed = self.known().into_iter();
        let served = listed.filter_map(|id| self.serving[id]);
        let mut all = served.chain(self.ghosts.iter().map(|(_, ghost)| *ghost));
        all.find_map(|serving| {
            let why = self.refuses(&serving)?;
            Some(format!("the leaf {} that is served: {why}", serving.leaf))
        })
    }

    fn refuses(&self, serving: &Serving) -> Option<String> {
        let leaf = serving.leaf;
        let pair = pool::of(leaf);
        // What somebody brought is theirs to renew.
        if self.time >= pair.ends && (self.may_end || pool::is_foreign(leaf)) {
            let why = "it ended long ago, and another one was seen";
            return serving.is_outlived.then(|| why.to_owned());
        }
        if self.time >= pair.ends || i64::try_from(self.time).unwrap() < pair.begins {
            return Some("it is not valid now".to_owned());
        }
        let mut until = u64::MAX;
        for (index, one) in self.published.iter().enumerate().rev() {
            // Whoever has not seen since that there is another is later than the trust delay.
            if until.saturating_add(DELAY) <= self.time {
                break;
            }
            until = one.since;
            let hooks = one.believed.iter().enumerate();
            let mut lacking = hooks.filter(|(_, cas)| !cas.contains(&leaf));
            if lacking.any(|(hook, _)| !self.is_excused(index, hook, serving)) {
                return Some(format!(
                    "the configuration since {} s does not believe it: {:?}",
                    one.since, one.believed
                ));
            }
        }
        None
    }

    /// See the head of `simulation` for what is excused.
    fn is_excused(&self, index: usize, hook: usize, serving: &Serving) -> bool {
        let (leaf, one) = (serving.leaf, &self.published[index]);
        let fresh = FRESH.as_secs();
        let soon = |at: u64| at..=at + UNDER_WAY;
        let by_bundle = |excuse: &Excuse| {
            let mut promoted = self.promoted.iter();
            let mut was_promoted =
                || promoted.any(|(new, at)| *new == leaf && soon(excuse.at).contains(at));
            (excuse.hook, excuse.ca) == (hook, leaf)
                && (excuse.is_needed || serving.since <= excuse.at + fresh || was_promoted())
        };
        let by_secret = |emergency: &Emergency| {
            let mut later = self.published.iter().skip(emergency.index);
            let first = later.position(|one| holds(&one.believed, leaf));
            let is_before = first.is_none_or(|first| index < emergency.index + first);
            let is_soon = emergency
                .by_hand
                .is_some_and(|at| one.since <= at + UNDER_WAY);
            emergency.leaf == leaf && (is_before || is_soon)
        };
        one.excused.iter().any(by_bundle)
            || serving.had_nothing_else && self.emergencies.iter().any(by_secret)
    }

    /// Whether it has ended rotated and pruned, with which leaf.
    pub(super) fn is_over(&self) -> Result<usize, String> {
        let leaf = self.is_at_rest()?;
        let before = self.before_the_last.as_ref().ok_or("nobody asked")?;
        match before.contains(&leaf) {
            true => Err(format!("{leaf} was there before a rotation was asked for")),
            false => Ok(leaf),
        }
    }

    /// Whether there is nothing to do, and with which leaf.
    pub(super) fn is_at_rest(&self) -> Result<usize, String> {
        let secret = self.secret().ok_or("there is no Secret")?;
        let pem = secret.pem();
        let leaf = pool::leaf(&pem.chain).ok_or("the chain is none of ours")?;
        let is_right = pem.key == pool::of(leaf).pem.key;
        let published = self.published.last().ok_or("nothing")?;
        for (is_so, what) in [
            (is_right, "the key is none"),
            (pool::of(leaf).ends > self.time, "the leaf has ended"),
            (!secret.has_next(), "something is staged"),
            (secret.open_request().is_none(), "a request is open"),
            (
                pool::cas(pem.ca.as_bytes()) == [leaf],
                "ca.crt is not pruned",
            ),
            (
                published.believed.iter().all(|cas| *cas == [leaf]),
                "a caBundle is not pruned",
            ),
        ] {
            if !is_so {
                return Err(what.to_owned());
            }
        }
        Ok(leaf)
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

/// Whether what is in it can be served.
pub(super) fn is_good(secret: &Secret) -> bool {
    let pem = secret.pem();
    pool::leaf(&pem.chain).is_some_and(|leaf| {
        pem.key == pool::of(leaf).pem.key && pool::cas(pem.ca.as_bytes()).contains(&leaf)
    })
}

/// Whether there are webhooks, and all hold this CA.
fn holds(believed: &[Vec<usize>], ca: usize) -> bool {
    !believed.is_empty() && believed.iter().all(|cas| cas.contains(&ca))
}

/// A bundle without one of its CAs.
fn without_one(bundle: &[u8], dice: &mut Dice) -> Vec<u8> {
    let all = Bundle::read(bundle);
    let one = all.singles().nth(dice.below(all.len().max(1)));
    all.clone()
        .without(&one.unwrap_or_default())
        .pem()
        .into_bytes()
}
