//! A small process that keeps the listening sockets while the server behind them is replaced.
//!
//! A process that is killed takes its listening sockets with it, and kube-apiserver tries no call
//! again whose dial was refused. So a Pod's first process binds the sockets and does nothing else: the
//! server is its child, the worker, with the same command line, and inherits them as from systemd
//! (`LISTEN_FDS`, from file descriptor 3 on). When the worker is killed another one is started, and
//! connections wait in the kernel's backlog meanwhile. The keeper reads no key, no map and nothing
//! that comes over the network: there is little in it that could fail.

mod policy;

use std::env;
use std::io::{self, IsTerminal};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use listenfd::ListenFd;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getppid, kill_process, set_parent_process_death_signal,
    wait,
};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;
use tracing::warn;

use self::policy::{Deaths, EARLY, Next};

/// Tells a worker that it is one, and of whom. (systemd's own `LISTEN_PID` would have to hold a
/// number that is not known before the worker is there.)
const KEEPER: &str = "IMAGESWAP_KEEPER_PID";

/// Tells a worker how many there were before it.
const RESTARTS: &str = "IMAGESWAP_KEEPER_RESTARTS";

/// systemd's first one.
const FIRST_FD: i32 = 3;

/// What outlives a worker.
#[derive(Debug)]
pub struct Sockets {
    /// Where reviews come in.
    pub webhook: TcpListener,
    /// Where probes come in: one that comes while there is no worker waits, too.
    pub admin: TcpListener,
}

/// What a worker has of its keeper.
#[derive(Debug)]
pub struct Inheritance {
    /// The sockets, listening.
    pub sockets: Sockets,
    /// How many workers were killed before this one.
    pub restarts: u64,
}

/// Why there is no server any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused what a keeper needs.
    #[error("can't keep a server: {0}; try --keeper off")]
    System(#[from] io::Error),
    /// It does no good to start another.
    #[error(
        "the server was killed {times} times, each time within {EARLY:?} of its start, the last time \
         by {signal}; giving up: look at what kills it"
    )]
    Dies {
        /// How often.
        times: u32,
        /// The signal's name.
        signal: &'static str,
    },
    /// The worker's side: its keeper is gone, or it has none.
    #[error("{KEEPER} and LISTEN_FDS are for a keeper to set, and this is no child of one")]
    NoKeeper,
}

// === the worker's side ===

/// What the keeper left to this process, if it is a worker; from now on it ends when its keeper
/// does. To be called before there are other threads: variables are taken out of the environment.
///
/// # Errors
/// It is said to be a worker, but has no keeper (any more).
pub fn inherit() -> Result<Option<Inheritance>, Error> {
    let number = |name| -> Option<u64> { env::var(name).ok()?.parse().ok() };
    let Some(keeper) = number(KEEPER) else {
        return Ok(None);
    };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)?;
    // It may have ended before that took effect.
    let parent = getppid().map(|pid| i64::from(pid.as_raw_nonzero().get()));
    if parent != i64::try_from(keeper).ok() {
        return Err(Error::NoKeeper);
    }
    let mut given = ListenFd::from_env();
    let mut socket = |n| given.take_tcp_listener(n)?.ok_or(Error::NoKeeper);
    Ok(Some(Inheritance {
        sockets: Sockets {
            webhook: socket(0)?,
            admin: socket(1)?,
        },
        restarts: number(RESTARTS).unwrap_or_default(),
    }))
}

// === the keeper's side ===

/// Keeps a worker running until it ends by itself, and returns its exit code.
///
/// # Errors
/// No worker can be started, or they are killed as soon as they are.
pub fn keep(sockets: Sockets) -> Result<ExitCode, Error> {
    let signals = signals()?;
    let mut keeper = Keeper {
        signals,
        sockets: Some(sockets),
    };
    let (mut deaths, mut restarts) = (Deaths::default(), 0_u64);
    loop {
        let Some(sockets) = &keeper.sockets else {
            return Ok(ExitCode::SUCCESS);
        };
        let worker = match start(sockets, restarts) {
            Ok(worker) => worker,
            // It did start once: what is lacking now, such as memory, may come back.
            Err(error) if restarts > 0 => {
                let Next::Start(pause) = deaths.another(Duration::ZERO) else {
                    return Err(error.into());
                };
                warn!(%error, ?pause, "can't start the server; trying again");
                keeper.pause(pause);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let started = Instant::now();
        let status = keeper.follow(worker)?;
        let Some(number) = status.terminating_signal() else {
            return Ok(exit_code(status.exit_status().unwrap_or(1)));
        };
        if keeper.sockets.is_none() {
            return Ok(match number {
                // It had not begun yet.
                SIGTERM | SIGINT | SIGHUP => ExitCode::SUCCESS,
                // As a shell tells it.
                _ => exit_code(128 + number),
            });
        }
        let signal = signal_name(number).unwrap_or("a signal");
        match deaths.another(started.elapsed()) {
            Next::Start(pause) => {
                restarts += 1;
                warn!(
                    signal,
                    restarts,
                    ?pause,
                    "the server was killed; starting it again"
                );
                keeper.pause(pause);
            }
            Next::GiveUp(times) => return Err(Error::Dies { times, signal }),
        }
    }
}

struct Keeper {
    signals: Receiver<i32>,
    /// Until it is told to stop: from then on they are the worker's alone, so that they are closed
    /// when it closes them.
    sockets: Option<Sockets>,
}

impl Keeper {
    /// Hands signals on to the worker until it ends.
    fn follow(&mut self, worker: Pid) -> Result<WaitStatus, Error> {
        loop {
            match self.signals.recv() {
                Ok(SIGCHLD) => {
                    if let Some(status) = reap(worker) {
                        return Ok(status);
                    }
                }
                Ok(number) => {
                    self.sockets = None;
                    if let Some(signal) = Signal::from_named_raw(number) {
                        // It is not reaped yet, so that the number is still its own.
                        kill_process(worker, signal).map_err(io::Error::from)?;
                    }
                }
                Err(_) => return Err(io::Error::other("no more signals").into()),
            }
        }
    }

    /// Waits, unless it is told to stop.
    fn pause(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.signals.recv_timeout(left) {
                Ok(SIGCHLD) => {}
                Ok(_) => {
                    self.sockets = None;
                    return;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

/// Whether somebody runs this on a terminal, wherever some of what it says may go.
pub fn is_at_terminal() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}

/// The signals that matter, as they come. That a terminal hangs up does only where there is one: elsewhere the signal
/// asks a server to read its files anew, which ours does by itself.
fn signals() -> io::Result<Receiver<i32>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGCHLD])?;
    let is_at_terminal = is_at_terminal();
    let (sender, receiver) = channel();
    let matters = move |signal: &i32| *signal != SIGHUP || is_at_terminal;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut signals = signals.forever().filter(matters);
            signals.try_for_each(|signal| sender.send(signal))
        })?;
    Ok(receiver)
}

fn start(sockets: &Sockets, restarts: u64) -> io::Result<Pid> {
    // The file may have been replaced or removed since; we are still the same.
    let program = env::current_exe().ok().filter(|path| path.exists());
    let mut command = Command::new(program.unwrap_or_else(|| "/proc/self/exe".into()));
    let mut mappings = Vec::new();
    for (child_fd, socket) in (FIRST_FD..).zip([&sockets.webhook, &sockets.admin]) {
        mappings.push(FdMapping {
            parent_fd: socket.try_clone()?.into(),
            child_fd,
        });
    }
    command
        .args(env::args_os().skip(1))
        .env(KEEPER, std::process::id().to_string())
        .env(RESTARTS, restarts.to_string())
        .env("LISTEN_FDS", mappings.len().to_string())
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDS_FIRST_FD")
        // A terminal's Control-C is for the keeper, who hands it on: two would mean "now".
        .process_group(0)
        .fd_mappings(mappings)
        .map_err(io::Error::other)?;
    let worker = command.spawn()?;
    Ok(Pid::from_child(&worker))
}

/// Takes leave of all children that ended (a container's first process is everyone's heir), and says
/// how the worker did if it is among them.
fn reap(worker: Pid) -> Option<WaitStatus> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == worker {
            ended = Some(status);
        }
    }
    ended
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
