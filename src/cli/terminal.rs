//! Colour where a person looks, none where a program reads.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;

use crate::text::visible;

/// When to use colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    /// On a terminal
    #[default]
    Auto,
    /// Also into files and pipes
    Always,
    /// Not at all
    Never,
}

pub(super) const ERROR: Style = AnsiColor::Red.on_default().bold();
pub(super) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const BOLD: Style = Style::new().bold();
pub(super) const DIM: Style = Style::new().dimmed();

impl From<Color> for clap::ColorChoice {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => Self::Auto,
            Color::Always => Self::Always,
            Color::Never => Self::Never,
        }
    }
}

impl Color {
    /// By arguments that nobody has understood yet, or the variable. What is no colour is told of later.
    pub(super) fn wished(args: impl Iterator<Item = OsString>) -> Self {
        let mut said = std::env::var_os("IMAGESWAP_COLOR");
        let mut args = args.take_while(|arg| arg != "--");
        while let Some(arg) = args.next() {
            if arg == "--color" {
                said = args.next();
            } else if let Some(color) = arg.to_str().and_then(|arg| arg.strip_prefix("--color=")) {
                said = Some(color.into());
            }
        }
        let said = said.as_deref().and_then(OsStr::to_str);
        said.and_then(|said| Self::from_str(said, false).ok())
            .unwrap_or_default()
    }

    /// For all that is printed from now on.
    pub(super) fn apply(self) {
        match self {
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Always => anstream::ColorChoice::Always,
            Self::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}

/// Whether colour is wanted on standard error: by `--color`, NO_COLOR and their like, or a terminal.
pub(super) fn stderr_has_colour() -> bool {
    has_colour(&std::io::stderr())
}

/// The same on standard output.
pub(super) fn stdout_has_colour() -> bool {
    has_colour(&std::io::stdout())
}

fn has_colour(stream: &impl anstream::stream::RawStream) -> bool {
    anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never
}

/// Standard output; drops colour where it is not wanted, and other control characters with it.
pub(super) fn stdout() -> impl Write {
    std::io::BufWriter::with_capacity(64 << 10, Named(anstream::stdout()))
}

/// Standard output, and each byte as it is.
pub(super) fn plain_stdout() -> impl Write {
    Named(std::io::stdout().lock())
}

/// Standard output, which says so where it can't be written.
struct Named<W>(W);

impl<W: Write> Write for Named<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(named)
    }
}

fn named(error: io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("can't write to standard output: {error}"),
    )
}

/// An error, in one line, on standard error.
pub(super) fn complain(text: &str) {
    say(ERROR, "error", text);
}

/// A hint, in one line, on standard error.
pub(super) fn hint(text: &str) {
    say(WARNING, "note", text);
}

/// Whatever it quotes does nothing to the terminal, and makes no lines of its own.
fn say(style: Style, what: &str, text: &str) {
    let text = visible(text);
    // There is nobody left to tell.
    let _ = writeln!(anstream::stderr(), "{style}{what}{style:#}: {text}");
}
