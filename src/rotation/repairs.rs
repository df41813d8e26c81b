//! Patience with whoever else writes the caBundle. Pure.
//!
//! One that is overwritten is written again at once. If it is overwritten again and again, so does
//! another tool, and a race of writes helps nobody: the pauses grow. They stay short: while a
//! caBundle is wrong, calls fail.

use std::time::Duration;

/// The pause before the second repair; doubled with each that follows soon.
const FIRST: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(5);

/// After so long without a repair, the next one is the first again.
const CALM: Duration = Duration::from_secs(300);

/// What was written when, by the steady clock.
#[derive(Debug, Clone, Default)]
pub(super) struct Repairs {
    /// The version of the webhook configuration that was seen to be right.
    right: Option<String>,
    /// The version of the Secret by which the caBundles were written last.
    by: Option<String>,
    last: Option<Duration>,
    pause: Duration,
}

impl Repairs {
    /// The caBundles of this version are as they should be; or will have to change, or are gone.
    pub(super) fn saw(&mut self, right: Option<&str>) {
        if right.is_none() {
            self.by = None;
        }
        self.right = right.map(str::to_owned);
    }

    /// How long to wait before the caBundles are written.
    pub(super) fn wait(&self, at: Duration) -> Option<Duration> {
        let next = self.last? + self.pause;
        next.checked_sub(at).filter(|left| !left.is_zero())
    }

    /// The caBundles were written, as they were wrong in this version, by what is in this version of
    /// the Secret. Tells whether somebody else had made them so: they were right in an earlier one, or
    /// have been written by the same Secret before, by somebody quicker than a look. In the same one
    /// it was the Secret that changed.
    pub(super) fn wrote(&mut self, at: Duration, version: &str, secret: &str) -> bool {
        let was_right = self.right.take().is_some_and(|right| right != version);
        let before = self.by.replace(secret.to_owned());
        if !was_right && before.as_deref() != Some(secret) {
            return false;
        }
        let is_calm = self.last.is_none_or(|last| at.saturating_sub(last) > CALM);
        self.pause = match is_calm {
            true => FIRST,
            false => (self.pause * 2).clamp(FIRST, LONGEST),
        };
        self.last = Some(at);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_somebody_fights_and_end_with_the_fight() {
        let (mut repairs, mut at) = (Repairs::default(), Duration::ZERO);
        // To publish is no repair, and makes none wait.
        assert!(!repairs.wrote(at, "1", "a"));
        // Nor is it, where nobody touched the caBundle.
        repairs.saw(Some("1"));
        assert!(!repairs.wrote(at, "1", "b"));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let pause = repairs.wait(at).unwrap_or_default();
            pauses.push(pause.as_secs());
            at += pause;
            repairs.saw(Some("1"));
            assert!(repairs.wrote(at, "2", "c"));
        }
        assert_eq!(pauses, [0, 1, 2, 4, 5, 5, 5, 5, 5]);
        at += CALM + CALM;
        assert_eq!(repairs.wait(at), None);
        repairs.saw(Some("1"));
        assert!(repairs.wrote(at, "2", "c"));
        assert_eq!(repairs.wait(at), Some(FIRST));
    }

    #[test]
    fn who_is_quicker_than_a_look_is_met_with_patience_too() {
        let mut repairs = Repairs::default();
        assert!(!repairs.wrote(Duration::ZERO, "1", "a"));
        // Never seen to be right, and written by the same Secret again.
        for version in ["2", "3"] {
            assert!(repairs.wrote(Duration::ZERO, version, "a"));
        }
        assert_eq!(repairs.wait(Duration::ZERO), Some(2 * FIRST));
        // The Secret changed.
        assert!(!repairs.wrote(Duration::ZERO, "4", "b"));
        // All of it was deleted, and applied anew.
        repairs.saw(None);
        assert!(!repairs.wrote(Duration::ZERO, "5", "b"));
    }
}
