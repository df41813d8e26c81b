//! The two clocks: the wall's, which dates certificates, and the steady one, which measures how long
//! something has been so, and which nobody sets.
//!
//! A machine's wall clock may be wrong by years. What counts is kube-apiserver's: it is the one that
//! verifies. So each answer of it that tells the time sets this clock, and the steady one carries it
//! on.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use time::OffsetDateTime;
use tokio::time::Instant;

/// How wrong this machine's clock may be.
const DOUBT: time::Duration = time::Duration::DAY;

/// How wrong kube-apiserver's may be.
const DOUBT_IF_TOLD: time::Duration = time::Duration::HOUR;

/// How wrong the clock may be that a pair is judged by which lives that long.
pub fn doubt(is_told: bool, life: time::Duration) -> time::Duration {
    let doubt = if is_told { DOUBT_IF_TOLD } else { DOUBT };
    doubt.min(life / 10)
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The date, as far as it is known.
    pub wall: OffsetDateTime,
    /// Whether that is kube-apiserver's word, and not just this machine's.
    pub is_told: bool,
    /// Since some moment in the life of this process.
    pub steady: Duration,
}

/// Since when and until when something was read, by the steady clock: what was read was so at some
/// moment between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Before the first call.
    pub from: Duration,
    /// After the last answer.
    pub to: Duration,
}

impl Span {
    /// How old at most is what was read.
    pub fn age(&self, now: Moment) -> Duration {
        now.steady.saturating_sub(self.from)
    }
}

/// Tells the moment. A clone tells the same.
#[derive(Clone)]
pub struct Clock {
    tell: Arc<dyn Fn() -> Moment + Send + Sync>,
    /// What kube-apiserver said last, and when by the steady clock.
    told: Arc<Mutex<Option<(OffsetDateTime, Duration)>>>,
}

impl Clock {
    /// This machine's clocks.
    pub fn system() -> Self {
        let (began, asleep) = (Instant::now(), asleep());
        Self::of(move || Moment {
            wall: OffsetDateTime::now_utc(),
            is_told: false,
            steady: began.elapsed() + self::asleep().saturating_sub(asleep),
        })
    }

    /// Whatever this tells.
    pub fn of(tell: impl Fn() -> Moment + Send + Sync + 'static) -> Self {
        Self {
            tell: Arc::new(tell),
            told: Arc::default(),
        }
    }

    /// The moment that it is.
    pub fn now(&self) -> Moment {
        let moment = (self.tell)();
        let told = *self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match told {
            Some((wall, at)) => Moment {
                wall: wall + moment.steady.saturating_sub(at),
                is_told: true,
                ..moment
            },
            None => moment,
        }
    }

    /// Sets it: kube-apiserver says that it is this late now. Returns by how much this machine's
    /// own wall clock is ahead.
    pub fn hear(&self, wall: OffsetDateTime) -> time::Duration {
        let moment = (self.tell)();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        *told = Some((wall, moment.steady));
        moment.wall - wall
    }

    /// Reads something, and tells when that was.
    pub async fn spanned<T>(&self, reading: impl Future<Output = T>) -> (T, Span) {
        let from = self.now().steady;
        let read = reading.await;
        let to = self.now().steady;
        (read, Span { from, to })
    }
}

/// For how long this machine has slept since it was started: a virtual machine that is moved may, and
/// others go on meanwhile. Rust's own steady clock leaves that out.
fn asleep() -> Duration {
    let [whole, awake] = [ClockId::Boottime, ClockId::Monotonic].map(|id| {
        let read = clock_gettime(id);
        let seconds = Duration::from_secs(u64::try_from(read.tv_sec).unwrap_or_default());
        seconds + Duration::from_nanos(u64::try_from(read.tv_nsec).unwrap_or_default())
    });
    // Read one after the other, they differ by some nanoseconds where nothing slept.
    let slept = whole.saturating_sub(awake);
    Duration::from_millis(u64::try_from(slept.as_millis()).unwrap_or_default())
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kube_apiserver_says_counts_and_the_steady_clock_carries_it_on() {
        let begin = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let steady = Arc::new(Mutex::new(5));
        let read = Arc::clone(&steady);
        let clock = Clock::of(move || Moment {
            wall: begin + time::Duration::days(400),
            is_told: false,
            steady: Duration::from_secs(*read.lock().unwrap()),
        });
        assert!(!clock.now().is_told);
        let other = clock.clone();
        assert_eq!(clock.hear(begin), time::Duration::days(400));
        *steady.lock().unwrap() = 15;
        let now = other.now();
        assert!(now.is_told);
        assert_eq!(now.wall, begin + time::Duration::seconds(10));
        assert_eq!(now.steady, Duration::from_secs(15));
    }
}
