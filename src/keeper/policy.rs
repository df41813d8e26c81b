//! When to start a worker again that was killed, after what pause, and when to give up. Pure.
//!
//! One that has lived for a while is replaced at once, however often that happens. One that dies
//! soon after its start is replaced at once the first time, then after pauses that double, so that
//! connections still find a server well within the five seconds that kube-apiserver waits; the eighth in a row is
//! the last, and the container ends, for Kubernetes to see and to start it anew.

use std::time::Duration;

/// A worker that was killed before this is taken for one that dies of its start.
pub(super) const EARLY: Duration = Duration::from_secs(3);

/// The pause after the second early death.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// So many early deaths in a row are enough.
const ENOUGH: u32 = 8;

/// The early deaths in a row.
#[derive(Debug, Default)]
pub(super) struct Deaths(u32);

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Start another, after a pause.
    Start(Duration),
    /// After so many.
    GiveUp(u32),
}

impl Deaths {
    /// A worker was killed that had lived this long.
    pub(super) fn another(&mut self, lived: Duration) -> Next {
        self.0 = if lived < EARLY { self.0 + 1 } else { 0 };
        match self.0 {
            0 | 1 => Next::Start(Duration::ZERO),
            ENOUGH.. => Next::GiveUp(self.0),
            n => Next::Start(FIRST_PAUSE * (1 << (n - 2))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_deaths_make_longer_pauses_and_then_an_end() {
        let start = |millis| Next::Start(Duration::from_millis(millis));
        for (story, lives, expected) in [
            ("the first, however early", &[0][..], start(0)),
            ("the second", &[2_999, 0], start(50)),
            ("the third", &[0, 0, 0], start(100)),
            ("the last that is replaced", &[0; 7], start(1600)),
            ("enough", &[2_999; 8], Next::GiveUp(8)),
            ("a life in between", &[0, 0, 0, 0, 0, 0, 0, 3_000], start(0)),
            ("and again", &[0, 0, 0, 0, 0, 0, 0, 3_000, 0, 0], start(50)),
            ("long lives have no end", &[3_000; 1_000], start(0)),
        ] {
            let mut deaths = Deaths::default();
            let next = lives
                .iter()
                .map(|millis| deaths.another(Duration::from_millis(*millis)));
            assert_eq!(next.last(), Some(expected), "{story}");
        }
    }

    #[test]
    fn all_pauses_together_are_shorter_than_kube_apiserver_waits() {
        let mut deaths = Deaths::default();
        let mut all = Duration::ZERO;
        while let Next::Start(pause) = deaths.another(Duration::ZERO) {
            all += pause;
        }
        assert!(all < Duration::from_secs(5), "{all:?}");
    }
}
