//! What large bodies and long answers may take of the memory, all together.
//!
//! Each kind of large has a part of the budget for itself, so that one who says that he will send 16 MiB and
//! does not is in the way of his like alone.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refusal::Refusal;

/// Bodies up to this many bytes need no share of the budget. A thousand peers can send as much.
pub(super) const SMALL: usize = 16 << 10;

/// The kinds of large, each up to so many bytes and with so many quarters of the budget. Most reviews that
/// are large at all are of the first; no Pod of Kubernetes is of the last.
const KINDS: [(usize, usize); 3] = [(64 << 10, 1), (1 << 20, 1), (usize::MAX, 2)];

/// The budget is counted in this many bytes.
const UNIT: usize = 1 << 10;

/// The budget, in as many parts as there are [`KINDS`].
#[derive(Debug, Clone)]
pub(super) struct Budget([Part; KINDS.len()]);

/// A part of the budget.
#[derive(Debug, Clone)]
struct Part {
    left: Arc<Semaphore>,
    units: usize,
}

/// A share of the budget, given back with the last clone of it.
#[derive(Debug, Clone)]
pub(super) struct Share(Arc<(Part, OwnedSemaphorePermit)>);

impl Budget {
    /// Of so many bytes.
    pub(super) fn new(memory: usize) -> Self {
        let part = |(_, quarters): (usize, usize)| {
            let units = (memory / 4 * quarters / UNIT).clamp(1, Semaphore::MAX_PERMITS);
            let left = Arc::new(Semaphore::new(units));
            Part { left, units }
        };
        Self(KINDS.map(part))
    }

    /// The part of the budget for what has so many bytes.
    fn part(&self, bytes: usize) -> &Part {
        let kinds = KINDS.iter().zip(&self.0);
        let [.., last] = &self.0;
        let part = kinds.take_while(|((most, _), _)| *most < bytes).count();
        self.0.get(part).unwrap_or(last)
    }

    /// A share for a body of so many bytes, when there is room.
    pub(super) async fn share(&self, size: usize) -> Option<Share> {
        let part = self.part(size);
        let permit = part.left.clone().acquire_many_owned(part.units_of(size));
        // The semaphore is never closed.
        Some(Share::of(part, permit.await.ok()?))
    }

    /// What an answer of so many bytes holds until it is written: the body's share as far as that goes, and
    /// more. None of it is waited for, since the answer is there already.
    pub(super) fn share_of_answer(
        &self,
        bytes: usize,
        body: Option<Share>,
    ) -> Result<Share, Refusal> {
        let Some((part, mut permit)) = body.and_then(|share| Arc::into_inner(share.0)) else {
            let part = self.part(bytes);
            return Ok(Share::of(part, part.take(part.units_of(bytes))?));
        };
        let (has, wants) = (permit.num_permits(), part.units_of(bytes));
        match has.checked_sub(wants as usize) {
            Some(rest) => drop(permit.split(rest)),
            None => permit.merge(part.take(wants - u32::try_from(has).unwrap_or(wants))?),
        }
        Ok(Share::of(&part, permit))
    }
}

impl Part {
    /// What so many bytes take of it, and at most all.
    fn units_of(&self, bytes: usize) -> u32 {
        let units = bytes.div_ceil(UNIT).min(self.units);
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    /// So much of it, if it is there now.
    fn take(&self, units: u32) -> Result<OwnedSemaphorePermit, Refusal> {
        let taken = self.left.clone().try_acquire_many_owned(units);
        taken.map_err(|_| Refusal::NoMemory)
    }
}

impl Share {
    fn of(part: &Part, permit: OwnedSemaphorePermit) -> Self {
        Self(Arc::new((part.clone(), permit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much of each part of the budget is taken, in bytes.
    fn taken(budget: &Budget) -> [usize; KINDS.len()] {
        let taken = |part: &Part| (part.units - part.left.available_permits()) * UNIT;
        budget.0.each_ref().map(taken)
    }

    #[tokio::test]
    async fn each_kind_of_large_has_a_part_of_the_budget() {
        const MIB: usize = 1 << 20;
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
            let share_of_it = budget.share(size).await;
            let mut expected = [0; KINDS.len()];
            expected[part] = share;
            assert_eq!(taken(&budget), expected, "{size}");
            drop(share_of_it);
            assert_eq!(taken(&budget), [0; KINDS.len()]);
        }
    }

    #[tokio::test]
    async fn a_long_answer_holds_a_share_in_place_of_its_bodys() {
        let budget = Budget::new(1 << 20);
        for (body, answer) in [
            (60 << 10, 20 << 10),
            (60 << 10, 80 << 10),
            (1_000, 20 << 10),
        ] {
            let read = budget.share(body).await.filter(|_| body > SMALL);
            let share = budget.share_of_answer(answer, read).unwrap();
            assert_eq!(taken(&budget), [answer, 0, 0]);
            drop(share);
            assert_eq!(taken(&budget), [0; KINDS.len()]);
        }
        let most = budget.share(64 << 10).await;
        let mut all = vec![most.clone()];
        for _ in 0..3 {
            all.push(budget.share(60 << 10).await);
        }
        // What a body holds that is there still is not the answer's, and there is no more.
        for body in [None, most] {
            let none = budget.share_of_answer(20 << 10, body);
            assert!(matches!(none, Err(Refusal::NoMemory)), "{none:?}");
        }
    }
}
