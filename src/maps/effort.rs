//! How much may be tried before an image is decided: who may create Pods chooses the images, and can make one that many
//! patterns are to be tried on.

use std::cell::Cell;

/// So many steps are taken before whoever may end it is asked again: less than a millisecond.
const AT_ONCE: u64 = 200_000;

/// What may be spent on patterns, in steps. One is a character that a pattern is held against, and takes about a nanosecond.
pub struct Effort<'a> {
    left: Cell<u64>,
    /// Whether to go on.
    more: Option<&'a dyn Fn() -> bool>,
    is_spent: Cell<bool>,
}

impl Effort<'static> {
    /// Whatever it takes.
    pub const fn unbounded() -> Self {
        Self::of(u64::MAX)
    }

    /// So many steps.
    pub const fn of(steps: u64) -> Self {
        Self {
            left: Cell::new(steps),
            more: None,
            is_spent: Cell::new(false),
        }
    }
}

impl<'a> Effort<'a> {
    /// As long as this says so, which is asked now and then.
    pub const fn as_long_as(more: &'a dyn Fn() -> bool) -> Self {
        Self {
            left: Cell::new(AT_ONCE),
            more: Some(more),
            is_spent: Cell::new(false),
        }
    }

    /// Whether more was wanted than there was: what was found then counts for nothing.
    pub fn is_spent(&self) -> bool {
        self.is_spent.get()
    }

    /// Takes so many steps. False if they are not there; then none are any more.
    #[inline]
    pub(super) fn spend(&self, steps: u64) -> bool {
        match self.left.get().checked_sub(steps) {
            Some(left) => {
                self.left.set(left);
                true
            }
            None => self.ask(),
        }
    }

    #[cold]
    fn ask(&self) -> bool {
        let goes_on = !self.is_spent() && self.more.is_some_and(|more| more());
        self.left.set(if goes_on { AT_ONCE } else { 0 });
        self.is_spent.set(!goes_on);
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_effort_that_is_spent_stays_so() {
        let effort = Effort::of(10);
        assert!(effort.spend(4) && effort.spend(6) && !effort.is_spent());
        assert!(!effort.spend(1) && effort.is_spent());
        assert!(!effort.spend(1) && effort.is_spent());
        assert!(Effort::unbounded().spend(u64::MAX));
    }

    #[test]
    fn whoever_may_end_it_is_asked_now_and_then() {
        let asked = Cell::new(0);
        let more = || {
            asked.set(asked.get() + 1);
            asked.get() < 3
        };
        let effort = Effort::as_long_as(&more);
        for expected in 0..3 {
            assert_eq!(asked.get(), expected);
            assert!(effort.spend(AT_ONCE / 2) && effort.spend(AT_ONCE / 2));
            assert_eq!(effort.spend(1), expected < 2);
        }
        assert_eq!(asked.get(), 3);
        assert!(effort.is_spent());
    }
}
