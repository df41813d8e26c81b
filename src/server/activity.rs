//! One connection: what it is doing and since when, as its own task tells and the table of all sees.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Patience;
use super::budget::{Share, Watch};

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// Nothing has come at all. In a connection without TLS it is the first request that does.
    Silent,
    /// In the TLS handshake.
    Handshake,
    /// Nothing has come since the handshake.
    Fresh,
    /// A request's head is coming in.
    Head,
    /// A request's body is coming in.
    Body,
    /// It is our turn.
    Answering,
    /// An answer is going out.
    Writing,
    /// Nothing has come since the last answer. The last one, by which `ALL` is as long as there are states.
    Idle,
}

impl State {
    /// By their numbers.
    const ALL: [Self; Self::Idle as usize + 1] = [
        Self::Silent,
        Self::Handshake,
        Self::Fresh,
        Self::Head,
        Self::Body,
        Self::Answering,
        Self::Writing,
        Self::Idle,
    ];
}

/// A peer that has kept us waiting this long in the middle of something is late, if its place is
/// needed.
pub(super) const LATE: Duration = Duration::from_secs(1);

/// How often a connection looks whether its peer is late.
const TICK: Duration = Duration::from_secs(2);

/// One connection, as its own task and the table see it.
#[derive(Debug)]
pub(super) struct Activity {
    peer: IpAddr,
    born: Instant,
    state: AtomicU8,
    /// Milliseconds from birth to the last change of state.
    since: AtomicU64,
    is_welcome: AtomicBool,
    /// Of the request that was begun last: it may be answered before.
    has_whole_body: AtomicBool,
    /// Whether all of the last answer has been handed to who writes it.
    has_whole_answer: AtomicBool,
    /// The last long answer's share of the budget, while it is held.
    share: Mutex<Watch>,
    /// Whether nothing was there to read when it was last tried.
    listens: AtomicBool,
    is_evicted: AtomicBool,
    /// There is something for who watches over it.
    wake: Notify,
}

// === impl Activity ===

impl Activity {
    /// Of one that was just accepted from there.
    pub(super) fn new(peer: IpAddr) -> Self {
        Self {
            peer,
            born: Instant::now(),
            state: AtomicU8::new(State::Silent as u8),
            since: AtomicU64::new(0),
            is_welcome: AtomicBool::new(false),
            has_whole_body: AtomicBool::new(true),
            has_whole_answer: AtomicBool::new(true),
            share: Mutex::default(),
            listens: AtomicBool::new(false),
            is_evicted: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// Where the peer is.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// When it was accepted.
    pub(super) fn born(&self) -> Instant {
        self.born
    }

    /// What it is doing.
    pub(super) fn state(&self) -> State {
        let number = usize::from(self.state.load(Ordering::Relaxed));
        // No other is ever stored.
        State::ALL.get(number).copied().unwrap_or(State::Silent)
    }

    /// Called by the connection's own task, or before that runs.
    pub(super) fn enter(&self, state: State) {
        self.enter_at(state, Instant::now());
    }

    /// The same, where it is known what time it is.
    pub(super) fn enter_at(&self, state: State, now: Instant) {
        let age = now.saturating_duration_since(self.born);
        let since = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.since.store(since, Ordering::Relaxed);
        self.state.store(state as u8, Ordering::Relaxed);
        if matches!(state, State::Body | State::Answering) {
            let is_whole = state == State::Answering;
            self.has_whole_body.store(is_whole, Ordering::Relaxed);
        }
    }

    /// Bytes came in.
    pub(super) fn heard(&self) {
        self.set_listening(false);
        if self.awaits_request() {
            self.enter(State::Head);
        }
    }

    /// Whether it is between requests, or before the first.
    pub(super) fn awaits_request(&self) -> bool {
        matches!(self.state(), State::Silent | State::Fresh | State::Idle)
    }

    /// Whether it waits for more to come in. Not if it is about to close.
    pub(super) fn set_listening(&self, is_so: bool) {
        self.listens.store(is_so, Ordering::Relaxed);
    }

    /// Whether nothing at all is under way: the next that comes is the start of a request. Of a body that
    /// nobody wanted, some may be on its way still when the answer has gone.
    pub(super) fn rests(&self) -> bool {
        self.awaits_request() && self.listens.load(Ordering::Relaxed) && self.has_whole_body()
    }

    /// Whether the body of the request that was begun last has been read to its end.
    pub(super) fn has_whole_body(&self) -> bool {
        self.has_whole_body.load(Ordering::Relaxed)
    }

    /// An answer that comes in pieces has begun, or its last piece has come.
    pub(super) fn set_whole_answer(&self, is_so: bool) {
        self.has_whole_answer.store(is_so, Ordering::Relaxed);
    }

    /// A long answer has begun, and holds a share of the budget until it has gone out.
    pub(super) fn hold(&self, share: Watch) {
        *self.share.lock().unwrap_or_else(PoisonError::into_inner) = share;
        self.wake.notify_one();
    }

    fn share(&self) -> Option<Share> {
        let share = self.share.lock().unwrap_or_else(PoisonError::into_inner);
        share.share()
    }

    /// How long to wait before [`deadline`](Self::deadline) is asked again. Who may want a share comes at any
    /// time.
    pub(super) fn look_again(&self) -> Duration {
        if self.share().is_some() {
            LATE / 4
        } else {
            TICK
        }
    }

    /// All that was to go out so far has.
    pub(super) fn flushed(&self) {
        let is_whole = self.has_whole_answer.load(Ordering::Relaxed);
        if is_whole && self.state() == State::Writing {
            self.enter(State::Idle);
        }
    }

    /// It was answered what it asked, or asked to come again: no newcomer any more.
    pub(super) fn welcome(&self) {
        self.is_welcome.store(true, Ordering::Relaxed);
    }

    /// Whether it was never welcome, and is not being answered.
    pub(super) fn is_newcomer(&self) -> bool {
        !self.is_welcome.load(Ordering::Relaxed) && self.state() != State::Answering
    }

    /// For how long it has been there.
    pub(super) fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// When the peer must have gone on; `None` while it is our turn.
    pub(super) fn deadline(&self, patience: &Patience) -> Option<Instant> {
        let patience = match self.state() {
            State::Silent | State::Handshake => patience.handshake,
            State::Writing if self.share().is_some_and(|share| share.is_wanted()) => {
                patience.head.min(LATE)
            }
            State::Fresh | State::Head | State::Writing => patience.head,
            State::Idle => patience.idle,
            // A body that does not come is the business of who reads it.
            State::Body | State::Answering => return None,
        };
        Some(self.since() + patience)
    }

    /// Returns when the place is needed for another.
    pub(super) async fn evicted(&self) {
        loop {
            self.woken().await;
            if self.is_evicted() {
                return;
            }
        }
    }

    /// Returns when there is something for who watches over it: the place is needed for another, or a long answer has
    /// begun.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Gives its place to another.
    pub(super) fn evict(&self) {
        self.is_evicted.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Whether its place was given to another.
    pub(super) fn is_evicted(&self) -> bool {
        self.is_evicted.load(Ordering::Relaxed)
    }

    /// When its state changed last.
    pub(super) fn since(&self) -> Instant {
        self.born + Duration::from_millis(self.since.load(Ordering::Relaxed))
    }
}

/// Where a peer is that is in no other's way.
#[cfg(test)]
pub(super) const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_state_that_is_entered_is_the_one_that_is_seen() {
        let activity = Activity::new(HERE);
        for (number, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, number);
            activity.enter(state);
            assert_eq!(activity.state(), state);
        }
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
        let activity = Activity::new(HERE);
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
        activity.enter(State::Answering);
        assert_eq!(left(), None);
        // Nor does reading an answer bit by bit.
        activity.enter(State::Writing);
        activity.set_whole_answer(false);
        tokio::time::advance(seconds(9)).await;
        activity.flushed();
        assert_eq!(left(), Some(seconds(1)));
        activity.set_whole_answer(true);
        activity.flushed();
        assert_eq!(left(), Some(seconds(150)));
    }
}
