//! What large bodies and long answers may take of the memory, all together.
//!
//! Each kind of large has a part of the budget for itself, so that one who says that he will send 16 MiB and
//! does not is in the way of his like alone. One address may hold half of a part; of the last, which no usual review
//! needs, all: who holds as much as he may is in his own way alone. Who holds a share and stands still loses it when
//! another address waits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::refusal::Refusal;

/// Bodies up to this many bytes need no share of the budget. A thousand peers can send as much.
pub(super) const SMALL: usize = 16 << 10;

/// The kinds of large, each up to so many bytes and with so many quarters of the budget. Most reviews that
/// are large at all are of the first; hardly any Pod is of the last.
const KINDS: [(usize, usize); 3] = [(64 << 10, 1), (1 << 20, 1), (usize::MAX, 2)];

/// The budget is counted in this many bytes.
const UNIT: usize = 1 << 10;

/// Addresses that hold nothing are forgotten when there are this many.
const MANY: usize = 64;

/// The budget, in as many parts as there are [`KINDS`].
#[derive(Debug, Clone)]
pub(super) struct Budget {
    parts: [Arc<Part>; KINDS.len()],
    /// For answers that are longer than their bodies, beside the budget: as much as a quarter of it. From the
    /// bodies' parts they would get nothing, for bodies that wait take each share that comes free.
    answers: Arc<Part>,
    /// What such answers may take while they wait for that: as much again.
    unshared: Arc<Part>,
}

/// A part of the budget.
#[derive(Debug)]
struct Part {
    all: Pool,
    /// How much of it one address may take, in units: half, but one of the largest in any case.
    allowance: usize,
    by_peer: Mutex<HashMap<IpAddr, Arc<Pool>>>,
}

/// Units that are taken and given back; who finds too few waits, one after the other.
#[derive(Debug)]
struct Pool {
    left: Arc<Semaphore>,
    /// How many wait for units of the whole part: anybody, or in an address's pool those of the address.
    waiting: AtomicUsize,
}

/// A share of the budget, given back with the last clone of it.
#[derive(Debug, Clone)]
pub(super) struct Share(Arc<Held>);

/// A look at a share that does not keep it.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch(Weak<Held>);

#[derive(Debug)]
struct Held {
    part: Arc<Part>,
    /// Of the address's allowance.
    own: (Arc<Pool>, OwnedSemaphorePermit),
    permit: OwnedSemaphorePermit,
}

impl Budget {
    /// Of so many bytes.
    pub(super) fn new(memory: usize) -> Self {
        let units =
            |quarters: usize| (memory / 4 * quarters / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        let part = |(most, quarters)| Arc::new(Part::new(units(quarters), most));
        Self {
            parts: KINDS.map(part),
            answers: part((1 << 20, 1)),
            unshared: part((1 << 20, 1)),
        }
    }

    /// The part of the budget for what has so many bytes.
    fn part(&self, bytes: usize) -> &Arc<Part> {
        let kinds = KINDS.iter().zip(&self.parts);
        let [.., last] = &self.parts;
        let part = kinds.take_while(|((most, _), _)| *most < bytes).count();
        self.parts.get(part).unwrap_or(last)
    }

    /// A share for a body of so many bytes, when there is room.
    pub(super) async fn share(&self, size: usize, peer: IpAddr) -> Option<Share> {
        self.part(size).share(size, peer).await
    }

    /// What an answer of so many bytes holds until it is written: the body's share if that is enough. Where there is
    /// no room for more, it waits until then, without the body's share: two that each kept theirs would wait for each
    /// other. What is longer than an address may have does not wait.
    pub(super) async fn share_of_answer(
        &self,
        bytes: usize,
        body: Option<Share>,
        peer: IpAddr,
        until: Instant,
    ) -> Result<Share, Refusal> {
        if let Ok(share) = self.share_at_once(bytes, body, peer) {
            return Ok(share);
        }
        if bytes > self.answers.allowance * UNIT {
            return Err(Refusal::NoMemory);
        }
        if let Ok(share) = self.answers.take(bytes, peer) {
            return Ok(share);
        }
        let _unshared = self.unshared.take(bytes, peer)?;
        match timeout_at(until, self.answers.share(bytes, peer)).await {
            Ok(Some(share)) => Ok(share),
            Ok(None) | Err(_) => Err(Refusal::NoMemory),
        }
    }

    /// The body's share as far as that goes, and more.
    fn share_at_once(
        &self,
        bytes: usize,
        body: Option<Share>,
        peer: IpAddr,
    ) -> Result<Share, Refusal> {
        let Some(held) = body.and_then(|share| Arc::into_inner(share.0)) else {
            return self.part(bytes).take(bytes, peer);
        };
        let units = held.part.units_of(bytes);
        let (own, of_own) = held.own;
        let of_own = own.resize(of_own, units)?;
        let permit = held.part.all.resize(held.permit, units)?;
        Ok(Share::of(held.part, (own, of_own), permit))
    }
}

impl Part {
    /// Of so many units, of which an address may take half, or what has so many bytes.
    fn new(units: usize, most: usize) -> Self {
        Self {
            all: Pool::new(units),
            allowance: (units / 2).max(most / UNIT).min(units),
            by_peer: Mutex::default(),
        }
    }

    /// A share of it for so many bytes, when there is room.
    async fn share(self: &Arc<Self>, bytes: usize, peer: IpAddr) -> Option<Share> {
        let (units, own) = (self.units_of(bytes), self.pool_of(peer));
        // Who waits for his own stands in nobody's way.
        let of_own = own.acquire(units).await?;
        // There are none at once if anybody waits.
        let permit = match self.all.take(units) {
            Ok(permit) => permit,
            Err(_) => {
                // In this order, and back, no other address sees one of its own wait for a moment.
                let _of_own = Waits::at(&own.waiting);
                let _of_all = Waits::at(&self.all.waiting);
                self.all.acquire(units).await?
            }
        };
        Some(Share::of(self.clone(), (own, of_own), permit))
    }

    /// The same, if there is room now.
    fn take(self: &Arc<Self>, bytes: usize, peer: IpAddr) -> Result<Share, Refusal> {
        let (units, own) = (self.units_of(bytes), self.pool_of(peer));
        let of_own = own.take(units)?;
        let permit = self.all.take(units)?;
        Ok(Share::of(self.clone(), (own, of_own), permit))
    }

    /// What so many bytes take of it, and at most all that one may.
    fn units_of(&self, bytes: usize) -> u32 {
        let units = bytes.div_ceil(UNIT).min(self.allowance);
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    /// What is left for an address of its allowance.
    fn pool_of(&self, peer: IpAddr) -> Arc<Pool> {
        // Nothing in there can be left half done.
        let mut pools = self.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        if pools.len() >= MANY && !pools.contains_key(&peer) {
            pools.retain(|_, pool| Arc::strong_count(pool) > 1);
        }
        let pool = pools.entry(peer);
        pool.or_insert_with(|| Arc::new(Pool::new(self.allowance)))
            .clone()
    }
}

impl Pool {
    fn new(units: usize) -> Self {
        Self {
            left: Arc::new(Semaphore::new(units)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// So many units, when they are there. `None` never, for the semaphore is never closed.
    async fn acquire(&self, units: u32) -> Option<OwnedSemaphorePermit> {
        self.left.clone().acquire_many_owned(units).await.ok()
    }

    /// So many units, if they are there now.
    fn take(&self, units: u32) -> Result<OwnedSemaphorePermit, Refusal> {
        let taken = self.left.clone().try_acquire_many_owned(units);
        taken.map_err(|_| Refusal::NoMemory)
    }

    /// A permit for so many units in place of this one.
    fn resize(
        &self,
        mut permit: OwnedSemaphorePermit,
        units: u32,
    ) -> Result<OwnedSemaphorePermit, Refusal> {
        let has = permit.num_permits();
        match has.checked_sub(units as usize) {
            Some(rest) => drop(permit.split(rest)),
            None => permit.merge(self.take(units - u32::try_from(has).unwrap_or(units))?),
        }
        Ok(permit)
    }
}

/// Counts one who waits, until it is dropped.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn at(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Share {
    fn of(
        part: Arc<Part>,
        own: (Arc<Pool>, OwnedSemaphorePermit),
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self(Arc::new(Held { part, own, permit }))
    }

    /// Whether another address waits for it. That more of the same wait is no haste: a kube-apiserver that has
    /// too much to do sends all of it slowly, and would do none of it if that were taken for standing still.
    pub(super) fn is_wanted(&self) -> bool {
        let waiting = |pool: &Pool| pool.waiting.load(Ordering::Relaxed);
        waiting(&self.0.part.all) > waiting(&self.0.own.0)
    }

    pub(super) fn watch(&self) -> Watch {
        Watch(Arc::downgrade(&self.0))
    }
}

impl Watch {
    /// The share, while it is held.
    pub(super) fn share(&self) -> Option<Share> {
        self.0.upgrade().map(Share)
    }
}

#[cfg(test)]
mod tests {
    use super::super::activity::HERE;
    use super::*;

    const MIB: usize = 1 << 20;

    /// How much of each part of the budget is taken, in bytes.
    fn taken(budget: &Budget) -> [usize; KINDS.len()] {
        let of = |pool: &Pool, units: usize| (units - pool.left.available_permits()) * UNIT;
        budget.parts.each_ref().map(|part| {
            let pools = part.by_peer.lock().unwrap();
            pools
                .values()
                .map(|pool| of(pool, part.allowance))
                .sum::<usize>()
        })
    }

    #[tokio::test]
    async fn each_kind_of_large_has_a_part_of_the_budget() {
        let budget = Budget::new(24 * MIB);
        for (size, part, share) in [
            (SMALL + 1, 0, SMALL + UNIT),
            (64 << 10, 0, 64 << 10),
            ((64 << 10) + 1, 1, 65 << 10),
            (MIB, 1, MIB),
            (MIB + 1, 2, MIB + UNIT),
            // All of it.
            (16 * MIB, 2, 12 * MIB),
        ] {
            let share_of_it = budget.share(size, HERE).await;
            let mut expected = [0; KINDS.len()];
            expected[part] = share;
            assert_eq!(taken(&budget), expected, "{size}");
            drop(share_of_it);
            assert_eq!(taken(&budget), [0; KINDS.len()]);
        }
    }

    #[tokio::test]
    async fn a_long_answer_holds_a_share_in_place_of_its_bodys() {
        let budget = Budget::new(MIB);
        for (body, answer) in [
            (60 << 10, 20 << 10),
            (60 << 10, 80 << 10),
            (1_000, 20 << 10),
        ] {
            let read = budget.share(body, HERE).await.filter(|_| body > SMALL);
            let share = budget.share_at_once(answer, read, HERE).unwrap();
            assert_eq!(taken(&budget), [answer, 0, 0]);
            drop(share);
            assert_eq!(taken(&budget), [0; KINDS.len()]);
        }
        let most = budget.share(64 << 10, HERE).await;
        let second = budget.share(60 << 10, HERE).await;
        let others = [
            budget.share(64 << 10, peer(1)).await,
            budget.share(60 << 10, peer(1)).await,
        ];
        // What a body holds that is there still is not the answer's, and there is no more for this address,
        // nor for another.
        for (body, peer) in [(None, HERE), (most.clone(), HERE), (None, peer(2))] {
            let none = budget.share_at_once(20 << 10, body, peer);
            assert!(matches!(none, Err(Refusal::NoMemory)), "{none:?}");
        }
        drop(others);
        let none = budget.share_at_once(20 << 10, None, HERE);
        assert!(matches!(none, Err(Refusal::NoMemory)), "{none:?}");
        assert!(budget.share_at_once(20 << 10, None, peer(2)).is_ok());
        drop((most, second));
        assert_eq!(taken(&budget), [0; KINDS.len()]);
    }

    fn peer(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    /// What is left for anybody of the part for what has so many bytes, in bytes.
    fn left(budget: &Budget, size: usize) -> usize {
        budget.part(size).all.left.available_permits() * UNIT
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_may_have_half_of_a_part_and_waits_for_itself_alone() {
        let budget = Budget::new(24 * MIB);
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(budget.share(MIB, peer(1)).await.unwrap());
        }
        assert_eq!(left(&budget, MIB), 3 * MIB);
        assert!(!all.iter().any(Share::is_wanted));
        let (again, other) = (budget.clone(), budget.clone());
        let waiting = tokio::spawn(async move { again.share(MIB, peer(1)).await });
        tokio::task::yield_now().await;
        for _ in 0..3 {
            all.push(budget.share(MIB, peer(2)).await.unwrap());
        }
        assert!(!all.iter().any(Share::is_wanted));
        // Who waits for all may have anybody's.
        let third = tokio::spawn(async move { other.share(MIB, peer(3)).await });
        tokio::task::yield_now().await;
        assert!(all.iter().all(Share::is_wanted));
        drop(all.remove(5));
        let third = third.await.unwrap().unwrap();
        assert!(!all.iter().any(Share::is_wanted));
        // All of it is held: one of the first address waits, which is no haste of its own.
        drop(all.remove(0));
        let waiting = waiting.await.unwrap();
        assert!(waiting.is_some() && !all.iter().any(Share::is_wanted));
        drop(all.remove(0));
        all.push(budget.share(MIB, peer(3)).await.unwrap());
        let again = budget.clone();
        let waiting_too = tokio::spawn(async move { again.share(MIB, peer(1)).await });
        tokio::task::yield_now().await;
        assert!(!all[0].is_wanted() && third.is_wanted());
        drop(third);
        assert!(waiting_too.await.unwrap().is_some());
    }

    #[tokio::test]
    async fn one_that_is_given_up_waits_no_longer() {
        let budget = Budget::new(4 * MIB);
        let share = budget.share(MIB, HERE).await.unwrap();
        let soon = std::time::Duration::from_millis(5);
        let none = tokio::time::timeout(soon, budget.share(MIB, peer(1))).await;
        assert!(none.is_err() && !share.is_wanted());
    }

    #[tokio::test]
    async fn the_largest_of_a_kind_finds_room_in_a_small_budget() {
        for memory in [1, 100 << 10, MIB, 4 * MIB] {
            let budget = Budget::new(memory);
            for size in [SMALL + 1, 64 << 10, MIB, 16 * MIB] {
                assert!(budget.share(size, HERE).await.is_some(), "{memory} {size}");
            }
        }
    }

    #[tokio::test]
    async fn addresses_that_hold_nothing_are_forgotten() {
        let budget = Budget::new(24 * MIB);
        let kept = budget.share(SMALL + 1, peer(0)).await;
        for n in 1..=200 {
            assert!(budget.share(SMALL + 1, peer(n)).await.is_some());
        }
        let pools = budget.parts[0].by_peer.lock().unwrap();
        assert!(pools.len() <= MANY && pools.contains_key(&peer(0)));
        drop(kept);
    }
}
