//! Where the process is in its life, for all who act on it.
//!
//! Starting → Ready → Draining (not ready; still serving, and every answer closes its connection,
//! while endpoints propagate) → Finishing (no new connections) → Stopping (idle ones are told that
//! they are over, last).

use std::sync::Arc;

use tokio::sync::watch;

/// A stage of the process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Maps or certificate are not loaded yet.
    Starting,
    /// Serving.
    Ready,
    /// Serving, but no longer wanted: callers are being sent elsewhere.
    Draining,
    /// No longer listening; what is under way is answered.
    Finishing,
    /// All is answered, and connections that are idle are told that they are over.
    Stopping,
}

/// The phase, shared. A clone sees and sets the same.
#[derive(Debug, Clone)]
pub struct Lifecycle(Arc<watch::Sender<Phase>>);

impl Default for Lifecycle {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Phase::Starting)))
    }
}

impl Lifecycle {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Goes on to a phase; never back.
    pub fn enter(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let goes_on = phase > *current;
            if goes_on {
                *current = phase;
            }
            goes_on
        });
    }

    /// Returns when the phase has come, at once if it has.
    pub async fn reached(&self, phase: Phase) {
        let mut phases = self.0.subscribe();
        // The sender lives as long as `self`.
        let _ = phases.wait_for(|current| *current >= phase).await;
    }
}
