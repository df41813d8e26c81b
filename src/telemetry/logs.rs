//! Logs, to standard error: coloured text on a terminal, JSON lines elsewhere.
//!
//! A thread of their own writes them, and what it can't keep up with is dropped: whoever reads the
//! logs may be slow or stuck, and no review waits for that.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// The form of the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text on a terminal, JSON elsewhere
    Auto,
    /// For people
    Text,
    /// For machines, one object a line
    Json,
}

/// How many lines may wait to be written.
const WAITING: usize = 4096;

/// Starts logging. `level` is a level (`info`, or one of Python's names as 1.5.3 took them) or a
/// list of filters (`info,imageswap::server=debug`). What waits is written when the guard is
/// dropped.
///
/// # Errors
/// The level is neither.
pub fn start(level: &str, format: Format) -> Result<WorkerGuard, ParseError> {
    let filter = EnvFilter::builder().parse(level_name(level))?;
    let is_terminal = std::io::stderr().is_terminal();
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING)
        .thread_name("logs")
        .finish(std::io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_target(false);
    match format {
        Format::Json => builder.json().flatten_event(true).init(),
        Format::Auto if !is_terminal => builder.json().flatten_event(true).init(),
        Format::Auto | Format::Text => builder.with_ansi(is_terminal).init(),
    }
    Ok(guard)
}

/// 1.5.3 handed `IMAGESWAP_LOG_LEVEL` to Python.
fn level_name(level: &str) -> String {
    match level.to_ascii_uppercase().as_str() {
        "CRITICAL" | "FATAL" => "error".to_owned(),
        "WARNING" => "warn".to_owned(),
        "NOTSET" => "trace".to_owned(),
        _ => level.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_levels_are_understood() {
        for (python, ours) in [("INFO", "INFO"), ("warning", "warn"), ("CRITICAL", "error")] {
            assert_eq!(level_name(python), ours);
            assert!(EnvFilter::builder().parse(level_name(python)).is_ok());
        }
    }
}
