//! Patience with whoever else writes the caBundle. Pure.
//!
//! One that is overwritten is written again at once. If it is overwritten again and again, so does
//! another tool, and a race of writes helps nobody: the pauses grow. They stay short: while a
//! caBundle is wrong, calls fail.

use std::collections::BTreeSet;
use std::time::Duration;

use super::state::Hook;

/// The pause before the second repair; doubled with each that follows soon.
const FIRST: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(5);

/// After so long without a repair, the next one is the first again.
const CALM: Duration = Duration::from_secs(300);

/// What was written when, by the steady clock.
#[derive(Debug, Clone, Default)]
pub(super) struct Rivals {
    /// The version of the webhook configuration that was seen to be right.
    right: Option<String>,
    /// The version of the Secret by which the caBundles were written last.
    by: Option<String>,
    /// The webhooks whose caBundle was right then. What another one has is no work of ours undone.
    hooks: BTreeSet<String>,
    last: Option<Duration>,
    pause: Duration,
}

impl Rivals {
    /// The caBundles of all webhooks, which are these, are as they should be in this version.
    pub(super) fn saw_right(&mut self, version: &str, hooks: &[Hook]) {
        self.hooks.clear();
        self.pruned(version, hooks);
    }

    /// Those of these webhooks hold no more than they should, from this version on.
    pub(super) fn pruned(&mut self, version: &str, hooks: &[Hook]) {
        self.right = Some(version.to_owned());
        self.hooks.extend(names(hooks));
    }

    /// They will have to change, or are gone.
    pub(super) fn saw_none(&mut self) {
        (self.right, self.by) = (None, None);
        self.hooks.clear();
    }

    /// How long to wait before the caBundles are written.
    pub(super) fn wait(&self, at: Duration) -> Option<Duration> {
        let next = self.last? + self.pause;
        next.checked_sub(at).filter(|left| !left.is_zero())
    }

    /// The caBundles of these webhooks were written, as they were wrong in this version, by what is in this version
    /// of the Secret. Returns those that somebody else had made so: they were right in an earlier one, or
    /// have been written by the same Secret before, by somebody quicker than a look. In the same one
    /// it was the Secret that changed.
    pub(super) fn wrote<'h>(
        &mut self,
        at: Duration,
        (version, hooks): (&str, &'h [Hook]),
        secret: &str,
    ) -> Vec<&'h Hook> {
        let known = hooks.iter().filter(|hook| self.hooks.contains(&hook.name));
        let known: Vec<_> = known.collect();
        self.hooks.extend(names(hooks));
        let was_right = self.right.take().is_some_and(|right| right != version);
        let before = self.by.replace(secret.to_owned());
        let is_undone = was_right || before.as_deref() == Some(secret);
        if !is_undone || known.is_empty() {
            return Vec::new();
        }
        let is_calm = self.last.is_none_or(|last| at.saturating_sub(last) > CALM);
        self.pause = match is_calm {
            true => FIRST,
            false => (self.pause * 2).clamp(FIRST, LONGEST),
        };
        self.last = Some(at);
        known
    }
}

fn names(hooks: &[Hook]) -> impl Iterator<Item = String> {
    hooks.iter().map(|hook| hook.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(name: &str) -> Hook {
        Hook {
            index: 0,
            name: name.to_owned(),
            bundle: Vec::new(),
            ..Hook::default()
        }
    }

    #[test]
    fn pauses_grow_while_somebody_fights_and_end_with_the_fight() {
        let (mut rivals, mut at) = (Rivals::default(), Duration::ZERO);
        let hooks = [hook("pods")];
        // To publish is no repair, and makes none wait.
        assert!(rivals.wrote(at, ("1", &hooks), "a").is_empty());
        // Nor is it, where nobody touched the caBundle.
        rivals.saw_right("1", &hooks);
        assert!(rivals.wrote(at, ("1", &hooks), "b").is_empty());
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let pause = rivals.wait(at).unwrap_or_default();
            pauses.push(pause.as_secs());
            at += pause;
            rivals.saw_right("1", &hooks);
            assert!(!rivals.wrote(at, ("2", &hooks), "c").is_empty());
        }
        assert_eq!(pauses, [0, 1, 2, 4, 5, 5, 5, 5, 5]);
        at += CALM + CALM;
        assert_eq!(rivals.wait(at), None);
        rivals.saw_right("1", &hooks);
        assert!(!rivals.wrote(at, ("2", &hooks), "c").is_empty());
        assert_eq!(rivals.wait(at), Some(FIRST));
    }

    #[test]
    fn who_is_quicker_than_a_look_is_met_with_patience_too() {
        let mut rivals = Rivals::default();
        let hooks = [hook("pods")];
        assert!(rivals.wrote(Duration::ZERO, ("1", &hooks), "a").is_empty());
        // Never seen to be right, and written by the same Secret again.
        for version in ["2", "3"] {
            assert!(
                !rivals
                    .wrote(Duration::ZERO, (version, &hooks), "a")
                    .is_empty()
            );
        }
        assert_eq!(rivals.wait(Duration::ZERO), Some(2 * FIRST));
        // The Secret changed.
        assert!(rivals.wrote(Duration::ZERO, ("4", &hooks), "b").is_empty());
        // All of it was deleted, and applied anew.
        rivals.saw_none();
        assert!(rivals.wrote(Duration::ZERO, ("5", &hooks), "b").is_empty());
    }

    #[test]
    fn a_webhook_that_is_new_was_overwritten_by_nobody() {
        let mut rivals = Rivals::default();
        let (old, new) = ([hook("pods")], [hook("jobs")]);
        assert!(rivals.wrote(Duration::ZERO, ("1", &old), "a").is_empty());
        rivals.saw_right("2", &old);
        assert!(rivals.wrote(Duration::ZERO, ("3", &new), "a").is_empty());
        assert_eq!(rivals.wait(Duration::ZERO), None);
        // And then it is no longer new.
        rivals.saw_right("4", &[hook("pods"), hook("jobs")]);
        assert!(!rivals.wrote(Duration::ZERO, ("5", &new), "a").is_empty());
        // Beside one that was overwritten, it was not.
        let both = [hook("pods"), hook("cronjobs")];
        let undone = rivals.wrote(Duration::ZERO, ("6", &both), "a");
        assert_eq!(undone.len(), 1);
        assert_eq!(undone[0].name, "pods");
    }
}
