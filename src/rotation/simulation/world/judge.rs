//! What must be so at each instant, what is excused because of a hand, and how a story must end.

use super::{DELAY, Emergency, Excuse, FRESH, Secret, Serving, UNDER_WAY, World, pool};

impl World {
    /// Why what somebody serves is not believed by all who may call, if it is not.
    pub(in crate::rotation::simulation) fn distrust(&self) -> Option<String> {
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
    pub(in crate::rotation::simulation) fn is_over(&self) -> Result<usize, String> {
        let leaf = self.is_at_rest()?;
        let before = self.before_the_last.as_ref().ok_or("nobody asked")?;
        match before.contains(&leaf) {
            true => Err(format!("{leaf} was there before a rotation was asked for")),
            false => Ok(leaf),
        }
    }

    /// Whether there is nothing to do, and with which leaf.
    pub(in crate::rotation::simulation) fn is_at_rest(&self) -> Result<usize, String> {
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

/// Whether what is in it can be served.
pub(in crate::rotation::simulation) fn is_good(secret: &Secret) -> bool {
    let pem = secret.pem();
    pool::leaf(&pem.chain).is_some_and(|leaf| {
        pem.key == pool::of(leaf).pem.key && pool::cas(pem.ca.as_bytes()).contains(&leaf)
    })
}

/// Whether there are webhooks, and all hold this CA.
pub(super) fn holds(believed: &[Vec<usize>], ca: usize) -> bool {
    !believed.is_empty() && believed.iter().all(|cas| cas.contains(&ca))
}
