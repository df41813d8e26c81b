//! What the process tells of itself: logs, metrics, and notices for operators. Nobody
//! waits for any of them.

pub mod logs;
pub mod metrics;
pub mod notices;
