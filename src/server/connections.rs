//! The open connections, and who has to go when there are too many.
//!
//! A connection that has not asked anything yet goes first, the oldest before the others; then the
//! one that has been idle longest; one whose request is being answered never. So ten thousand
//! silent peers displace each other, and not kube-apiserver.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Patience;
use crate::telemetry::metrics::Metrics;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// In the TLS handshake.
    Handshake,
    /// Nothing has come since the handshake.
    Fresh,
    /// A request's head is coming in.
    Head,
    /// Nothing has come since the last answer.
    Idle,
    /// A request is being read or answered.
    Busy,
}

/// The open connections of one endpoint. A clone is the same ones.
#[derive(Debug, Clone)]
pub struct Connections(Arc<Table>);

#[derive(Debug)]
struct Table {
    max: usize,
    open: Mutex<Open>,
    left: Notify,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_number: HashMap<u64, Arc<Activity>>,
}

/// One connection, as its own task and the table see it.
#[derive(Debug)]
pub(super) struct Activity {
    born: Instant,
    state: AtomicU8,
    /// Milliseconds from birth to the last change of state.
    since: AtomicU64,
    has_served: AtomicBool,
    evicted: Notify,
}

/// A place in the table, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    connections: Connections,
    number: u64,
    pub(super) activity: Arc<Activity>,
}

// === impl Connections ===

impl Connections {
    /// Room for this many.
    pub fn new(max: usize, metrics: Metrics) -> Self {
        Self(Arc::new(Table {
            max,
            open: Mutex::default(),
            left: Notify::new(),
            metrics,
        }))
    }

    /// A place for a new connection, if need be that of another; waits while all are busy.
    pub(super) async fn enter(&self) -> Place {
        loop {
            let left = self.0.left.notified();
            if let Some(place) = self.try_enter() {
                return place;
            }
            left.await;
        }
    }

    fn try_enter(&self) -> Option<Place> {
        let mut open = self.open();
        if open.by_number.len() >= self.0.max {
            let victim = open.most_dispensable()?;
            if let Some(activity) = open.by_number.remove(&victim) {
                activity.evicted.notify_one();
            }
        }
        let number = open.next;
        open.next += 1;
        let activity = Arc::new(Activity::new());
        open.by_number.insert(number, activity.clone());
        self.count(&open);
        Some(Place {
            connections: self.clone(),
            number,
            activity,
        })
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open().by_number.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a request is being read or answered on any of them.
    pub fn any_busy(&self) -> bool {
        let busy = |activity: &Arc<Activity>| matches!(activity.state(), State::Head | State::Busy);
        self.open().by_number.values().any(busy)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Nothing in here can be left half done.
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, open: &Open) {
        let open = i64::try_from(open.by_number.len()).unwrap_or(i64::MAX);
        self.0.metrics.connections.set(open);
    }
}

impl Open {
    fn most_dispensable(&self) -> Option<u64> {
        self.by_number
            .iter()
            .filter_map(|(number, activity)| Some((activity.dispensability()?, *number)))
            .min()
            .map(|(_, number)| number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        open.by_number.remove(&self.number);
        self.connections.count(&open);
        drop(open);
        self.connections.0.left.notify_waiters();
    }
}

// === impl Activity ===

impl Activity {
    fn new() -> Self {
        Self {
            born: Instant::now(),
            state: AtomicU8::new(State::Handshake as u8),
            since: AtomicU64::new(0),
            has_served: AtomicBool::new(false),
            evicted: Notify::new(),
        }
    }

    pub(super) fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            0 => State::Handshake,
            1 => State::Fresh,
            2 => State::Head,
            3 => State::Idle,
            _ => State::Busy,
        }
    }

    /// Called by the connection's own task alone.
    pub(super) fn enter(&self, state: State) {
        if state == State::Busy {
            self.has_served.store(true, Ordering::Relaxed);
        }
        let since = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(since, Ordering::Relaxed);
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// Bytes came in.
    pub(super) fn heard(&self) {
        if matches!(self.state(), State::Fresh | State::Idle) {
            self.enter(State::Head);
        }
    }

    pub(super) fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// When the peer must have gone on; `None` while it is our turn.
    pub(super) fn deadline(&self, patience: &Patience) -> Option<Instant> {
        let patience = match self.state() {
            State::Handshake => patience.handshake,
            State::Fresh | State::Head => patience.head,
            State::Idle => patience.idle,
            // A body that does not come is the business of who reads it.
            State::Busy => return None,
        };
        Some(self.since() + patience)
    }

    /// Returns when the place is needed for another.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    fn since(&self) -> Instant {
        self.born + Duration::from_millis(self.since.load(Ordering::Relaxed))
    }

    /// The least goes first; `None` for one that must not.
    fn dispensability(&self) -> Option<(u8, Instant)> {
        let rank = match self.state() {
            State::Busy => return None,
            _ if !self.has_served.load(Ordering::Relaxed) => 0,
            State::Handshake | State::Fresh | State::Head => 1,
            State::Idle => 2,
        };
        // Of those that never asked anything, the one that has taken longest over it.
        let since = if rank == 0 { self.born } else { self.since() };
        Some((rank, since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_never_asked_goes_before_who_is_idle_and_who_is_busy_stays() {
        let connections = Connections::new(3, Metrics::new().unwrap());
        let mut places = Vec::new();
        for state in [State::Idle, State::Busy, State::Fresh] {
            let place = connections.enter().await;
            place.activity.enter(State::Busy);
            if state == State::Fresh {
                // Fresh is what has not asked anything.
                place.activity.has_served.store(false, Ordering::Relaxed);
            }
            place.activity.enter(state);
            places.push(place);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let evicted = |place: &Place| !connections.open().by_number.contains_key(&place.number);
        let fourth = connections.enter().await;
        assert_eq!(
            places.iter().map(evicted).collect::<Vec<_>>(),
            [false, false, true]
        );
        fourth.activity.enter(State::Busy);
        let fifth = connections.enter().await;
        assert_eq!(
            places.iter().map(evicted).collect::<Vec<_>>(),
            [true, false, true]
        );
        fifth.activity.enter(State::Busy);
        assert!(connections.try_enter().is_none());
        // Whoever is evicted hears of it, and leaves no gap twice.
        places[2].activity.evicted().await;
        drop(places);
        assert_eq!(connections.len(), 2);
        assert!(connections.try_enter().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn each_state_has_its_patience() {
        let seconds = Duration::from_secs;
        let patience = Patience {
            handshake: seconds(5),
            head: seconds(10),
            idle: seconds(150),
            max_age: seconds(600),
        };
        let activity = Activity::new();
        let left = || activity.deadline(&patience).map(|at| at - Instant::now());
        assert_eq!(left(), Some(seconds(5)));
        tokio::time::advance(seconds(1)).await;
        activity.enter(State::Fresh);
        activity.heard();
        assert_eq!(left(), Some(seconds(10)));
        tokio::time::advance(seconds(2)).await;
        // One byte a second does not win time.
        activity.heard();
        assert_eq!(left(), Some(seconds(8)));
        activity.enter(State::Busy);
        assert_eq!(left(), None);
        activity.enter(State::Idle);
        assert_eq!(left(), Some(seconds(150)));
    }
}
