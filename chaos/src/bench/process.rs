//! On which core a process runs, and what it has taken of the machine so far.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

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

/// Kills a process when this one is gone, whatever ended it: a server that was left over would take a
/// core from all that is measured later.
#[derive(Debug)]
pub(super) struct Leash(Child);

impl Leash {
    /// # Errors
    /// There is no shell.
    pub(super) fn on(process: u32) -> anyhow::Result<Self> {
        // Its standard input is ours alone, and ends with us. What ends a whole group of processes
        // must not end this one first.
        const SCRIPT: &str = r#"trap "" HUP INT TERM; read never; kill -s KILL "$1""#;
        let mut sh = Command::new("sh");
        sh.args(["-c", SCRIPT, "sh", &process.to_string()]);
        let sh = sh.stdin(Stdio::piped()).stdout(Stdio::null());
        let sh = sh.stderr(Stdio::null()).spawn().context("can't start sh")?;
        Ok(Self(sh))
    }

    /// Lets go: the process has another end.
    pub(super) fn let_go(&mut self) {
        // One that has ended does not mind.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A `sleep` with its leash.
    fn led() -> (Child, Leash) {
        let sleep = Command::new("sleep").arg("60").spawn().unwrap();
        let leash = Leash::on(sleep.id()).unwrap();
        (sleep, leash)
    }

    #[test]
    fn what_is_led_ends_with_whoever_leads_it() {
        let (mut sleep, leash) = led();
        // As it is when this process is killed: the pipe is closed, and nobody says a word.
        drop(leash);
        assert!(!sleep.wait().unwrap().success());
    }

    #[test]
    fn what_is_let_go_lives_on() {
        let (mut sleep, mut leash) = led();
        leash.let_go();
        std::thread::sleep(Duration::from_millis(200));
        assert!(sleep.try_wait().unwrap().is_none());
        sleep.kill().unwrap();
        sleep.wait().unwrap();
    }
}
