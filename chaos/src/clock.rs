//! One clock for all processes of a run, so that what one saw can be laid over what another did.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Since the machine was booted. Nobody sets it.
pub fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds)
}
