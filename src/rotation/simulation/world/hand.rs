//! A person, or a tool, that changes what is ours: what it does to the Secret and the caBundles.

use super::{Dice, Secret, Source, World, is_good, pool};
use crate::pki::Bundle;

/// What a person does.
#[derive(Debug, Clone, Copy)]
pub(in crate::rotation::simulation) enum Hand {
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
    pub(in crate::rotation::simulation) fn draw(dice: &mut Dice) -> Self {
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
    pub(in crate::rotation::simulation) fn hand(&mut self, hand: Hand) {
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
    pub(in crate::rotation::simulation) fn last(&self) -> usize {
        self.secrets.len() - 1
    }

    /// The `which`-th Secret there was is the current one again.
    pub(in crate::rotation::simulation) fn put_back(&mut self, which: usize) {
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
    pub(in crate::rotation::simulation) fn rest(&mut self) {
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
    pub(in crate::rotation::simulation) fn ask(&mut self) {
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
