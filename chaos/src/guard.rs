//! Takes a cluster down when whoever runs it ends, however that comes about.
//!
//! A child in a process group of its own reads a pipe that only its parent holds open. When the pipe
//! ends, by Control-C, a panic or `kill -9`, the child takes the cluster down. After a signal the
//! parent stops what it was doing and stays until that is done, so that the prompt comes back when
//! all is gone.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, WaitOptions};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cluster;
use crate::lock;
use crate::progress::say;

/// What is written to say that the cluster shall stay.
const KEEP: &[u8] = b"keep\n";

/// A watch over one cluster.
#[derive(Debug)]
pub struct Guard(Mutex<Option<(Child, ChildStdin)>>);

impl Guard {
    /// Watches over a cluster from now on. `chaos` is the program of this crate. Waits until the cluster's name is
    /// nobody else's. It is the guard's until the cluster is kept or gone, and so is a [`turn`], also if who took it
    /// is killed: what an old guard takes down must not be another's new cluster.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(chaos: &Path, cluster: &str, turn: Option<&File>) -> anyhow::Result<Self> {
        let claim = cluster::claim(cluster)?;
        let turn = turn.map(File::try_clone).transpose()?;
        for inherited in turn.iter().chain([&claim]) {
            fcntl_setfd(inherited, FdFlags::empty())?;
        }
        let mut child = Command::new(chaos)
            .args(["guard", cluster])
            .stdin(Stdio::piped())
            // Control-C in a terminal goes to the process group.
            .process_group(0)
            .spawn()
            .with_context(|| format!("can't start {}", chaos.display()))?;
        drop((turn, claim));
        let pipe = child.stdin.take().context("a guard without a pipe")?;
        let guard = Self(Mutex::new(Some((child, pipe))));
        end_children_on_signals(chaos.to_owned(), "stopping: taking the cluster down")?;
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
            // What the cluster ran was started by us.
            while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        }
    }

    fn take(&self) -> Option<(Child, ChildStdin)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// On a signal says this and ends all children, and then this process. It is replaced as a whole, so
/// that no thread of it goes on with what it was doing. `chaos` is the program of this crate.
///
/// # Errors
/// Signals can't be caught.
pub fn end_children_on_signals(chaos: PathBuf, text: &'static str) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            say(format_args!("\n{text}"));
            let code = 128 + signal;
            // The pipe is closed by it, which wakes the guard.
            let error = Command::new(chaos)
                .args(["interrupted", &code.to_string()])
                .exec();
            say(format_args!("can't wait for it: {error}"));
            std::process::exit(code);
        }
    });
    Ok(())
}

/// What the process becomes that got a signal: ends what it had started, and waits for the guard
/// and all others.
pub fn interrupted() {
    let us = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let pid = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && cluster::parent(pid).as_deref() == Some(&us)
            && !is_guard(pid)
            && let Some(pid) = Pid::from_raw(pid)
        {
            // It may have ended.
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
    }
    while rustix::process::wait(WaitOptions::empty()).is_ok() {}
}

fn is_guard(pid: i32) -> bool {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).nth(1) == Some(b"guard")
}

/// Tests and runs of scenarios on one machine take turns, whoever starts them: their clusters have the same names.
/// Waits for the turn, which lasts until what is given is dropped.
///
/// # Errors
/// The lock can't be made.
pub fn turn() -> anyhow::Result<File> {
    lock::hold(
        Path::new(cluster::TURN),
        "another run on a cluster is under way on this machine: waiting for its end",
    )
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
