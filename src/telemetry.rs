//! What the process tells of itself: logs and metrics. Nobody waits for either.

pub mod logs;
pub mod metrics;
