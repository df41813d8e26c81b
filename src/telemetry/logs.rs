//! Logs, to standard error: coloured text on a terminal, JSON lines elsewhere.
//!
//! A thread of their own writes them, and what it can't keep up with is dropped: whoever reads the
//! logs may be slow or stuck, and no review waits for that.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt, registry};

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

impl Format {
    /// Whether lines are JSON.
    pub fn is_json(self) -> bool {
        match self {
            Self::Json => true,
            Self::Auto => !std::io::stderr().is_terminal(),
            Self::Text => false,
        }
    }
}

/// How many lines may wait to be written.
const WAITING: usize = 4096;

/// They log each poll and each refused watch, unless they are asked for; what matters of it is logged here, sparingly.
const QUIET: &str = "kube_leader_election=warn,kube_runtime=error";

/// It logs all of an answer that it can't read, with whatever key is in it: never, whoever asks for it.
const MUTE: &str = "kube_client";

/// Starts logging. `level` is a level (`info`, or one of Python's names as 1.5.3 took them) or a
/// list of filters (`info,imageswap::server=debug`). Text has colour if that is wanted. What waits is written
/// when the guard is dropped.
///
/// # Errors
/// The level is neither.
pub fn start(level: &str, format: Format, colour: bool) -> Result<WorkerGuard, ParseError> {
    let filter = filter(level)?;
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING)
        .thread_name("logs")
        .finish(std::io::stderr());
    let lines = fmt::layer().with_writer(writer).with_target(false);
    let lines = match format.is_json() {
        true => lines.json().flatten_event(true).boxed(),
        false => lines.with_ansi(colour).boxed(),
    };
    registry().with(filter).with(lines).init();
    Ok(guard)
}

/// What a level or a list of filters lets through.
///
/// # Errors
/// It is neither.
pub fn filter(level: &str) -> Result<Targets, ParseError> {
    // What the caller says of the same targets comes later, and wins.
    let level = level_name(level);
    if !level.contains(['=', ',', ':', '[']) {
        // A word that is no level would be taken for a target, and all else be silent.
        format!("imageswap={level}").parse::<Targets>()?;
    }
    // An empty one would be a level, the lowest, and a blank in front part of a name.
    let all = level.split(',').map(str::trim);
    let all: Vec<_> = all.filter(|one| !one.is_empty()).collect();
    format!("{QUIET},{}", all.join(",")).parse::<Targets>()?;
    // The longest target that fits wins, so that none of its parts may stay.
    let others = all.into_iter().filter(|one| !one.starts_with(MUTE));
    let filters: Vec<_> = [QUIET].into_iter().chain(others).collect();
    let filters: Targets = filters.join(",").parse()?;
    Ok(filters.with_target(MUTE, LevelFilter::OFF))
}

/// Says whether one more line may be logged: one in each stretch of time.
#[derive(Debug)]
pub struct Sparingly {
    every: Duration,
    /// When the next line may come, in milliseconds from the first question.
    next: AtomicU64,
    began: OnceLock<Instant>,
}

impl Sparingly {
    /// One line in each such stretch.
    pub const fn new(every: Duration) -> Self {
        Self {
            every,
            next: AtomicU64::new(0),
            began: OnceLock::new(),
        }
    }

    /// Whether this line may be logged.
    pub fn may(&self) -> bool {
        let began = self.began.get_or_init(Instant::now);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = millis(began.elapsed());
        let next = self.next.load(Ordering::Relaxed);
        let after = now.saturating_add(millis(self.every));
        // Of several that ask at once, one may.
        now >= next
            && self
                .next
                .compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
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
    use tracing::Level;

    use super::*;

    #[test]
    fn one_line_in_each_stretch() {
        let sparingly = Sparingly::new(Duration::from_secs(3600));
        assert_eq!(
            [sparingly.may(), sparingly.may(), sparingly.may()],
            [true, false, false]
        );
        let sparingly = Sparingly::new(Duration::ZERO);
        assert_eq!([sparingly.may(), sparingly.may()], [true, true]);
    }

    #[test]
    fn python_levels_are_understood() {
        for (python, ours) in [("INFO", "INFO"), ("warning", "warn"), ("CRITICAL", "error")] {
            assert_eq!(level_name(python), ours);
            assert!(filter(python).is_ok());
        }
    }

    #[test]
    fn kube_is_quiet_unless_it_is_asked_for_and_its_client_always() {
        let lets = |list: &str, target, level| filter(list).unwrap().would_enable(target, &level);
        assert!(lets("info", "imageswap::server", Level::INFO));
        assert!(!lets("info", "imageswap::server", Level::DEBUG));
        assert!(!lets("debug", "kube_runtime::watcher", Level::WARN));
        let runtime = "warn,kube_runtime=debug";
        assert!(lets(runtime, "kube_runtime::watcher", Level::DEBUG));
        // It would log answers, and in one of them is the key.
        for list in [
            "trace",
            "kube=trace",
            "info,kube_client=warn",
            "info,kube_client",
            "info,kube_client::client=debug,kube_client::client::builder=trace",
            "kube_client[{e}]=trace,info",
            "info, kube_client=trace",
        ] {
            for target in [
                "kube_client",
                "kube_client::client",
                "kube_client::client::builder",
            ] {
                assert!(!lets(list, target, Level::ERROR), "{list} {target}");
            }
        }
        assert!(lets(
            "kube_client=warn,info",
            "imageswap::server",
            Level::INFO
        ));
        assert!(filter("info,kube_client=nonsense").is_err());
        for list in ["info,", "warn, info", "info,,imageswap::x=debug"] {
            assert!(lets(list, "imageswap::server", Level::INFO), "{list}");
        }
        let spaced = "info, imageswap::server=debug";
        assert!(lets(spaced, "imageswap::server", Level::DEBUG));
        let one = "warn,imageswap::server=debug";
        assert!(lets(one, "imageswap::server::tls", Level::DEBUG));
        assert!(!lets(one, "imageswap::maps_file", Level::INFO));
        assert!(!lets("off", "imageswap", Level::ERROR));
    }
}
