//! The two clocks: the wall's, which dates certificates and may be wrong, and the steady one, which
//! measures how long something has been so, and which nobody sets.

use std::fmt;
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
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
