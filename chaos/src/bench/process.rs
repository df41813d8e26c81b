//! Which core runs what, and what a process has taken of the machine so far.

use std::fs;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Which core runs what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cores {
    pub(super) server: usize,
    pub(super) client: usize,
}

impl Cores {
    /// The first that we may use for the server, the last for the client.
    ///
    /// # Errors
    /// There are not two.
    pub(super) fn choose() -> anyhow::Result<Self> {
        let ours = sched_getaffinity(None)?;
        let mut ours = (0..CpuSet::MAX_CPU).filter(|core| ours.is_set(*core));
        match (ours.next(), ours.next_back()) {
            (Some(server), Some(client)) => Ok(Self { server, client }),
            _ => bail!("a server and its client need two cores, and this process has one"),
        }
    }
}

/// Has this thread, and those that it starts, run on one core.
///
/// # Errors
/// It is not ours to use.
pub(super) fn pin(core: usize) -> anyhow::Result<()> {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).with_context(|| format!("can't run on core {core}"))
}

/// Starts a program that runs on one core from its first instruction on: it asks for the number of
/// cores when it starts its threads.
///
/// # Errors
/// It can't be started.
pub(super) fn spawn_on(core: usize, command: &mut Command) -> anyhow::Result<Child> {
    let spawn = || {
        // A child inherits it from the thread that starts it.
        pin(core)?;
        let program = command.get_program().to_owned();
        command
            .spawn()
            .with_context(|| format!("can't start {}", program.display()))
    };
    let spawned = std::thread::scope(|scope| scope.spawn(spawn).join());
    spawned.unwrap_or_else(|_| bail!("a thread panicked"))
}

/// CPU time of a process since its start, all threads, in user and kernel.
///
/// # Errors
/// There is no such process.
pub(super) fn cpu_time(process: u32) -> anyhow::Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(process.try_into()?));
    let clock = clock.with_context(|| format!("process {process} is gone"))?;
    Ok(clock.now()?.into())
}

/// Resident memory of a process, in MiB.
///
/// # Errors
/// There is no such process.
pub(super) fn resident(process: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))
        .with_context(|| format!("process {process} is gone"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kibibytes: f64 = kibibytes.context("no resident memory is told")?.parse()?;
    Ok(kibibytes / 1024.0)
}

/// As many open files as may be: a thousand connections are more than usual.
///
/// # Errors
/// The limit can't be raised.
pub(super) fn raise_open_files() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).context("can't have more open files")
}
