//! Takes a cluster down when whoever runs it ends, however that comes about.
//!
//! A child in a session of its own reads a pipe that only its parent holds open. When the pipe
//! ends, by Control-C, a panic or `kill -9`, the child takes the cluster down.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::progress::say;

/// What is written to say that the cluster shall stay.
const KEEP: &[u8] = b"keep\n";

/// A watch over one cluster.
#[derive(Debug)]
pub struct Guard(Arc<Mutex<Option<(Child, ChildStdin)>>>);

impl Guard {
    /// Watches over a cluster from now on. `chaos` is the program of this crate.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(chaos: &Path, cluster: &str) -> anyhow::Result<Self> {
        let mut child = Command::new(chaos)
            .args(["guard", cluster])
            .stdin(Stdio::piped())
            // Control-C in a terminal goes to the process group.
            .process_group(0)
            .spawn()
            .with_context(|| format!("can't start {}", chaos.display()))?;
        let pipe = child.stdin.take().context("a guard without a pipe")?;
        let guard = Self(Arc::new(Mutex::new(Some((child, pipe)))));
        guard.on_signals()?;
        Ok(guard)
    }

    /// Leaves the cluster running.
    pub fn keep(&self) {
        if let Some((mut child, mut pipe)) = self.take() {
            // A guard that is gone takes nothing down.
            let _ = pipe.write_all(KEEP);
            drop(pipe);
            let _ = child.wait();
        }
    }

    /// Takes the cluster down and waits for it.
    pub fn end(&self) {
        if let Some((mut child, pipe)) = self.take() {
            drop(pipe);
            let _ = child.wait();
        }
    }

    fn take(&self) -> Option<(Child, ChildStdin)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// So that the prompt is back only when all is gone.
    fn on_signals(&self) -> anyhow::Result<()> {
        let guard = Self(self.0.clone());
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                say("\nstopping: taking the cluster down");
                guard.end();
                std::process::exit(128 + signal);
            }
        });
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.end();
    }
}

/// The guard's own part: waits for the pipe's end. True if the cluster shall go.
///
/// # Errors
/// The pipe can't be read.
pub fn wait() -> anyhow::Result<bool> {
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut std::io::stdin(), &mut text)?;
    Ok(text != KEEP)
}
