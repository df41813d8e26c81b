//! What a person is told while long work goes on: one line a step, on standard error. Standard output has what was
//! asked for, so that it can be kept in a file.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::{Duration, Instant};

/// How often a step that runs is heard of where no terminal shows it.
const SEEN: Duration = Duration::from_secs(30);

/// One line: what was done, or is the case.
pub fn say(text: impl std::fmt::Display) {
    // Nobody can be told that nobody can be told.
    let _ = writeln!(stderr(), "{text}");
}

/// What was asked for, on standard output, with a line's end.
pub fn print(text: impl std::fmt::Display) {
    // Whoever closed standard output does not want it.
    let _ = writeln!(stdout(), "{text}");
}

/// A step under way. On a terminal its line is written over, elsewhere a line is added now and
/// then.
#[derive(Debug)]
pub struct Step {
    name: String,
    started: Instant,
    shown: Option<Instant>,
    is_terminal: bool,
}

impl Step {
    /// Begins a step, and says so.
    pub fn begin(name: impl Into<String>) -> Self {
        let mut step = Self {
            name: name.into(),
            started: Instant::now(),
            shown: None,
            is_terminal: stderr().is_terminal(),
        };
        step.update("…");
        step
    }

    /// How far it is. May be called as often as one likes.
    pub fn update(&mut self, state: impl std::fmt::Display) {
        let pause = if self.is_terminal {
            Duration::from_millis(100)
        } else {
            SEEN
        };
        if self.shown.is_some_and(|shown| shown.elapsed() < pause) {
            return;
        }
        self.shown = Some(Instant::now());
        let (start, end) = if self.is_terminal {
            ("\r\x1b[K", "")
        } else {
            ("", "\n")
        };
        let elapsed = self.elapsed();
        let mut out = stderr();
        let _ = write!(out, "{start}{}: {state}{elapsed}{end}", self.name);
        let _ = out.flush();
    }

    /// Ends the step with what came of it.
    pub fn done(self, result: impl std::fmt::Display) {
        let start = if self.is_terminal { "\r\x1b[K" } else { "" };
        say(format_args!(
            "{start}{}: {result}{}",
            self.name,
            self.elapsed()
        ));
    }

    /// Nothing for the first second.
    fn elapsed(&self) -> String {
        let seconds = self.started.elapsed().as_secs();
        match seconds {
            0 => String::new(),
            1..60 => format!(" ({seconds} s)"),
            _ => format!(" ({} min {} s)", seconds / 60, seconds % 60),
        }
    }
}
