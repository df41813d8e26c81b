//! The two clocks: the wall's, which dates certificates and may be wrong, and the steady one, which
//! measures how long something has been so, and which nobody sets.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The date, as far as this machine knows it.
    pub wall: OffsetDateTime,
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
pub struct Clock(Arc<dyn Fn() -> Moment + Send + Sync>);

impl Clock {
    /// This machine's clocks.
    pub fn system() -> Self {
        let began = Instant::now();
        Self::of(move || Moment {
            wall: OffsetDateTime::now_utc(),
            steady: began.elapsed(),
        })
    }

    /// Whatever this tells.
    pub fn of(tell: impl Fn() -> Moment + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// The moment that it is.
    pub fn now(&self) -> Moment {
        (self.0)()
    }

    /// Reads something, and tells when that was.
    pub async fn spanned<T>(&self, reading: impl Future<Output = T>) -> (T, Span) {
        let from = self.now().steady;
        let read = reading.await;
        let to = self.now().steady;
        (read, Span { from, to })
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
