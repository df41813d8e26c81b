//! Running other programs: what they print is shown only when they fail.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How much of what a failed program printed is shown.
const TAIL: usize = 4_000;

/// Where Debian keeps what only root uses: not on everybody's PATH.
const ROOTS: &str = "/usr/sbin:/sbin";

/// Where programs are looked for, as [`command`] does it.
pub(crate) fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push(ROOTS);
    path
}

/// A program and its arguments. It, and what it starts itself, is found on [`search_path`].
pub fn command<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command.env("PATH", search_path());
    command
}

/// Runs a command to its end and gives what it printed on standard output.
///
/// # Errors
/// It can't be started, or fails; the error holds the end of what it printed.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        let printed = String::from_utf8_lossy(&output.stderr);
        let printed = if printed.trim().is_empty() {
            String::from_utf8_lossy(&output.stdout)
        } else {
            printed
        };
        bail!(
            "{}: {}\n{}",
            line(command),
            output.status,
            tail(printed.trim())
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, whatever comes of it.
///
/// # Errors
/// It can't be started.
pub fn output(command: &mut Command) -> anyhow::Result<Output> {
    command
        .output()
        .with_context(|| format!("can't start {}", line(command)))
}

/// Runs a command with something to read on its standard input.
///
/// # Errors
/// As for [`run`].
pub fn run_with(command: &mut Command, input: &str) -> anyhow::Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start {}", line(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends early says why itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    Ok(child.wait_with_output()?)
}

/// Tries until it succeeds; then the last failure is the error.
///
/// # Errors
/// The time is over.
pub fn eventually<T>(
    what: &str,
    patience: Duration,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(error) if started.elapsed() > patience => {
                return Err(error.context(format!("{what}: not within {patience:?}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

fn tail(text: &str) -> &str {
    let mut from = text.len().saturating_sub(TAIL);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.get(from..).unwrap_or(text)
}
