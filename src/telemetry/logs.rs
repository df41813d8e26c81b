//! Logs, to standard error: coloured text on a terminal, JSON lines elsewhere.

use std::io::IsTerminal;

use clap::ValueEnum;
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

/// Starts logging. `level` is a level (`info`, or one of Python's names as 1.5.3 took them) or a
/// list of filters (`info,imageswap::server=debug`).
///
/// # Errors
/// The level is neither.
pub fn start(level: &str, format: Format) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(level_name(level))?;
    let is_terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    match format {
        Format::Json => builder.json().flatten_event(true).init(),
        Format::Auto if !is_terminal => builder.json().flatten_event(true).init(),
        Format::Auto | Format::Text => builder.with_ansi(is_terminal).init(),
    }
    Ok(())
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
