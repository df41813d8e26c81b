//! The Secret and the webhook configuration with their history, and the hand that meddles.

use super::{DELAY, Dice, Mutation, pool};
use crate::rotation::state::{Configuration, Hook, Secret};
use crate::rotation::tests::changed;
use crate::rotation::write::{Failure, Write};

/// One state of the configuration.
pub(super) struct Published {
    since: u64,
    configuration: Option<Configuration>,
    /// What each webhook believes, by number.
    believed: Vec<Vec<usize>>,
    /// CAs that a hand took away.
    excused: Vec<usize>,
}

pub(super) struct World {
    /// In seconds since the story began.
    pub(super) time: u64,
    pub(super) published: Vec<Published>,
    pub(super) secrets: Vec<Option<Secret>>,
    /// What each process serves.
    pub(super) serving: [Option<usize>; 3],
    pub(super) dice: Dice,
    pub(super) trace: Vec<String>,
    mutation: Mutation,
    versions: u64,
    minted: usize,
    /// Whether a hand damaged the Secret, and nobody has put it right.
    is_damaged: bool,
    /// Leaves that were made in an emergency.
    emergencies: Vec<usize>,
    requests: u64,
    is_resting: bool,
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
    EmptyBundle,
    Rubbish,
    ForeignBundle,
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
            Self::EmptyBundle,
            Self::Rubbish,
            Self::ForeignBundle,
            Self::DeleteConfiguration,
            Self::Apply,
        ];
        all[dice.below(all.len())]
    }
}

impl World {
    pub(super) fn new(dice: Dice, mutation: Mutation) -> Self {
        let mut world = Self {
            time: 0,
            published: Vec::new(),
            secrets: vec![None],
            serving: [None; 3],
            dice,
            trace: Vec::new(),
            mutation,
            versions: 0,
            minted: 0,
            is_damaged: true,
            emergencies: Vec::new(),
            requests: 0,
            is_resting: false,
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

    pub(super) fn say(&mut self, line: String) {
        let time = self.time;
        self.trace.push(format!("{time:>8} s  {line}"));
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        self.time += seconds;
    }

    pub(super) fn configuration(&self) -> Option<Configuration> {
        self.published
            .last()
            .and_then(|last| last.configuration.clone())
    }

    pub(super) fn configuration_at(&self, index: usize) -> Option<Configuration> {
        self.published[index].configuration.clone()
    }

    pub(super) fn secret(&self) -> Option<Secret> {
        self.secrets.last().unwrap().clone()
    }

    pub(super) fn mint(&mut self, now: time::OffsetDateTime) -> crate::pki::Pem {
        self.minted += 1;
        pool::minted(now, self.minted).clone()
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
            hooks: vec![hook(0), hook(1)],
        }
    }

    fn publish(&mut self, configuration: Option<Configuration>, by_hand: bool) {
        let hooks = configuration.iter().flat_map(|found| &found.hooks);
        let believed: Vec<_> = hooks.map(|hook| pool::cas(&hook.bundle)).collect();
        let in_all = |ca: &usize| holds(&believed, *ca);
        let last = self.published.last();
        let mut excused = last.map(|last| last.excused.clone()).unwrap_or_default();
        if by_hand {
            let before = last.iter().flat_map(|last| last.believed.iter().flatten());
            excused.extend(before);
            excused.extend(self.serving.iter().flatten());
            let secret = self.secret().and_then(|secret| secret.ca);
            excused.extend(secret.iter().flat_map(|ca| pool::cas(ca)));
        }
        excused.retain(|ca| !in_all(ca));
        self.published.push(Published {
            since: self.time,
            configuration,
            believed,
            excused,
        });
    }

    // === what leaders do ===

    pub(super) fn apply(&mut self, who: usize, write: &Write) -> Result<(), Failure> {
        let done = self.write(write);
        let what = match write {
            Write::Create(pem) => format!("create the Secret with {:?}", pool::leaf(&pem.chain)),
            Write::Change { change, .. } => format!(
                "change the Secret: pair {:?}, next {:?}, ca.crt {:?}, answered {:?}",
                change.pair.as_ref().map(|pair| pool::leaf(&pair.chain)),
                change.next.as_ref().map(|next| match next {
                    crate::rotation::write::Next::Set(pair) => pool::leaf(&pair.chain),
                    crate::rotation::write::Next::Clear => None,
                }),
                change.ca.as_ref().map(|ca| pool::cas(ca.as_bytes())),
                change.answered,
            ),
            Write::Bundles { hooks, .. } => {
                let all: Vec<_> = hooks.iter().map(|hook| pool::cas(&hook.bundle)).collect();
                format!("write the caBundles {all:?}")
            }
        };
        let word = if done.is_ok() { "" } else { " (conflict)" };
        self.say(format!("leader {who}: {what}{word}"));
        done
    }

    fn write(&mut self, write: &Write) -> Result<(), Failure> {
        let conflict = || Failure::Conflict("another version".to_owned());
        let is_blind = self.mutation == Mutation::DropPrecondition;
        match write {
            Write::Create(_) if self.secret().is_some() => Err(conflict()),
            Write::Create(pem) => {
                self.emergency(&pem.chain);
                let version = self.version();
                self.secrets.push(Some(Secret::minted(&version, pem)));
                Ok(())
            }
            Write::Change { version, change } => {
                let old = self.secret();
                let old = old.filter(|old| old.version == *version || is_blind);
                let old = old.ok_or_else(conflict)?;
                if let Some(pair) = &change.pair {
                    self.emergency(&pair.chain);
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
                let old = self.configuration();
                let old = old.filter(|old| old.version == *version || is_blind);
                let mut new = old.ok_or_else(conflict)?;
                for hook in hooks {
                    new.hooks[hook.index].bundle.clone_from(&hook.bundle);
                }
                new.version = self.version();
                new.generation = new.generation.map(|count| count + 1);
                self.publish(Some(new), false);
                Ok(())
            }
        }
    }

    /// Takes note if this leaf is put there because of a hand.
    fn emergency(&mut self, chain: &str) {
        if std::mem::take(&mut self.is_damaged) {
            self.emergencies.extend(pool::leaf(chain));
        }
    }

    // === what a hand does ===

    pub(super) fn hand(&mut self, hand: Hand) {
        if self.is_resting {
            return;
        }
        self.say(format!("a hand: {hand:?}"));
        match hand {
            Hand::EmptyBundle | Hand::Rubbish | Hand::ForeignBundle => self.meddle_bundle(hand),
            Hand::DeleteConfiguration => self.publish(None, true),
            Hand::Apply => {
                let fresh = self.fresh();
                self.publish(Some(fresh), true);
            }
            _ => self.meddle_secret(hand),
        }
    }

    fn meddle_bundle(&mut self, hand: Hand) {
        let Some(mut new) = self.configuration() else {
            return;
        };
        let which = self.dice.below(2);
        let rubbish = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        new.hooks[which].bundle = match hand {
            Hand::EmptyBundle => Vec::new(),
            Hand::Rubbish => rubbish.to_vec(),
            _ => pool::of(self.dice.below(99)).pem.ca.clone().into_bytes(),
        };
        new.version = self.version();
        new.generation = new.generation.map(|count| count + 1);
        self.publish(Some(new), true);
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
            Hand::DropNext => (secret.next_chain, secret.next_key) = (None, rubbish),
            _ => {}
        }
        self.is_damaged |= !matches!(hand, Hand::Request | Hand::DropNext);
        secret.version = self.version();
        let new = (!matches!(hand, Hand::DeleteSecret)).then_some(secret);
        self.secrets.push(new);
    }

    /// The hand rests, and leaves a webhook configuration behind.
    pub(super) fn rest(&mut self) {
        if self.configuration().is_none() {
            self.hand(Hand::Apply);
        }
        self.hand(Hand::Request);
        self.is_resting = true;
        self.say("the hand rests".to_owned());
    }

    // === what must be so ===

    /// Why this leaf is not believed by all, if it is not.
    pub(super) fn refuses(&self, leaf: usize, had_nothing_else: bool) -> Option<String> {
        let pair = pool::of(leaf);
        if self.time >= pair.ends || i64::try_from(self.time).unwrap() < pair.begins {
            return Some("it is not valid now".to_owned());
        }
        let is_excused = had_nothing_else && self.emergencies.contains(&leaf);
        let last = self.published.len() - 1;
        let first = (0..=last).find(|i| holds(&self.published[*i].believed, leaf));
        for index in (0..=last).rev() {
            let one = &self.published[index];
            let until = self
                .published
                .get(index + 1)
                .map_or(u64::MAX, |next| next.since);
            if until.saturating_add(DELAY) <= self.time {
                break;
            }
            let is_before = first.is_none_or(|first| index < first);
            if is_excused && is_before || one.excused.contains(&leaf) {
                continue;
            }
            if one.believed.iter().any(|cas| !cas.contains(&leaf)) {
                let since = one.since;
                return Some(format!(
                    "the configuration since {since} s does not believe it: {:?}",
                    one.believed
                ));
            }
        }
        None
    }

    /// Whether it has ended rotated and pruned, with which leaf.
    pub(super) fn is_over(&self) -> Result<usize, String> {
        let secret = self.secret().ok_or("there is no Secret")?;
        let pem = secret.pem();
        let leaf = pool::leaf(&pem.chain).ok_or("the chain is none of ours")?;
        let is_right = pem.key == pool::of(leaf).pem.key;
        let published = self.published.last().ok_or("nothing")?;
        for (is_so, what) in [
            (is_right, "the key is none"),
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

/// Whether there are webhooks, and all hold this CA.
fn holds(believed: &[Vec<usize>], ca: usize) -> bool {
    !believed.is_empty() && believed.iter().all(|cas| cas.contains(&ca))
}
