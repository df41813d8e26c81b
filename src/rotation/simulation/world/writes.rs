//! How often which write was made: a simulation that never makes one of them shows nothing about it.

use super::{Next, World, Write};

/// How often which write was made.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::rotation::simulation) struct Writes {
    created: u64,
    replaced: u64,
    staged: u64,
    promoted: u64,
    pruned: u64,
    bundles_widened: u64,
    bundles_pruned: u64,
    conflicts: u64,
    /// Of those that were staged, with nobody asking.
    pub(in crate::rotation::simulation) due: u64,
    /// Pairs that took the place of one that had ended.
    pub(in crate::rotation::simulation) too_late: u64,
    /// Not written, but served: leaves that somebody brought.
    pub(in crate::rotation::simulation) brought: u64,
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
    pub(in crate::rotation::simulation) fn least(mut self) -> u64 {
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

impl World {
    pub(super) fn count(&mut self, write: &Write, is_done: bool) {
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
}
