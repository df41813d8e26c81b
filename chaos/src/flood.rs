//! Connections that want nothing: a thousand that made a handshake and then say nothing, and a
//! stream of new ones that do not even do that. Hostile ones besides: heads that come a byte at a
//! time, bodies of 10 MB, and what is no TLS.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::setpriority_process;
use rustls::{ClientConnection, StreamOwned};
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::handshake::{config, connect};
use crate::install;

/// How connections of one kind are opened.
#[derive(Clone, Copy)]
struct Pace {
    /// So many are kept; the oldest goes for a new one, as its peer cuts it off in any case.
    most: usize,
    /// From one to the next until all are there, and from then on.
    filling: Duration,
    pause: Duration,
}

impl Pace {
    /// As fast as can be until all are there.
    const fn new(most: usize, milliseconds: u64) -> Self {
        Self {
            most,
            filling: Duration::ZERO,
            pause: Duration::from_millis(milliseconds),
        }
    }

    /// Never faster than it has to be: where flood and flooded share a machine, a thousand
    /// handshakes at once are a lack of CPU, and nothing else.
    const fn measured(self) -> Self {
        Self {
            filling: Duration::from_millis(5),
            ..self
        }
    }
}

const IDLE: Pace = Pace::new(1_000, 50);
const SILENT: Pace = Pace::new(1_000, 5);

/// Heads that never end, bodies, and what is no TLS.
const SLOW: Pace = Pace::new(100, 100).measured();
const BODIES: Pace = Pace::new(0, 500);
const GARBAGE: Pace = Pace::new(0, 20);

/// How large a body is.
const BODY: usize = 10_000_000;

/// How long it may take until all idle connections are there.
const FILLED: Duration = Duration::from_secs(120);

/// How often a slow head goes on by a byte.
const DRIP: Duration = Duration::from_secs(1);

/// What is said on standard output when all idle connections are there.
pub const READY: &str = "flooded";

/// What came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Flooded {
    /// Handshakes that were made.
    pub idle: usize,
    /// Connections that said nothing.
    pub silent: usize,
    /// Heads that were begun and never ended.
    #[serde(default)]
    pub slow: usize,
    /// Bodies that were sent whole, and answered.
    #[serde(default)]
    pub bodies: usize,
    /// What was no TLS.
    #[serde(default)]
    pub garbage: usize,
    /// What was refused of all.
    pub refused: usize,
}

impl Flooded {
    /// Whether a hostile flood was one: there was something of each kind.
    ///
    /// # Errors
    /// There was nothing of one.
    pub fn ensure_of_all_kinds(&self) -> anyhow::Result<()> {
        let kinds = [
            ("idle connections", self.idle),
            ("silent connections", self.silent),
            ("slow heads", self.slow),
            ("bodies", self.bodies),
            ("garbage", self.garbage),
        ];
        let missing = kinds.iter().find(|(_, count)| *count == 0);
        ensure!(
            missing.is_none(),
            "no {}",
            missing.map_or("", |(kind, _)| kind)
        );
        Ok(())
    }
}

/// Floods an address until standard input ends; with hostile connections, too, if they are wanted. What
/// the flood itself takes of the machine, it takes of what is left over: strangers bring their own.
///
/// # Errors
/// The CAs are none.
pub fn run(
    address: SocketAddr,
    name: &str,
    ca: &[u8],
    is_hostile: bool,
) -> anyhow::Result<Flooded> {
    setpriority_process(None, 19)?;
    let config = config(ca, None)?;
    let idle = || -> anyhow::Result<(ClientConnection, TcpStream)> {
        let (mut connection, mut tcp) = connect(address, name, config.clone())?;
        while connection.is_handshaking() {
            connection.complete_io(&mut tcp)?;
        }
        Ok((connection, tcp))
    };
    let silent = || TcpStream::connect(address);
    let ready = || {
        // Whoever closed it does not want to know.
        let _ = writeln!(io::stdout(), "{READY}");
    };
    let tls = || -> anyhow::Result<_> {
        let (connection, tcp) = idle()?;
        Ok(StreamOwned::new(connection, tcp))
    };
    let slow = || -> anyhow::Result<_> {
        let mut stream = tls()?;
        stream.write_all(b"POST / HTTP/1.1\r\nHost: i")?;
        Ok(stream)
    };
    let body = || -> anyhow::Result<_> {
        let mut stream = tls()?;
        let head = format!("POST / HTTP/1.1\r\nHost: i\r\nContent-Length: {BODY}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(&vec![b' '; BODY])?;
        stream.read_exact(&mut [0; 12])?;
        Ok(())
    };
    let garbage = || -> io::Result<_> {
        let mut tcp = TcpStream::connect(address)?;
        tcp.write_all(&[0x16, 0x03, 0x01, 0xff, 0xff, 0x41].repeat(100))?;
        Ok(tcp)
    };
    let ended = AtomicBool::new(false);
    let mut flooded = Flooded::default();
    thread::scope(|scope| {
        let idle = scope.spawn(|| {
            keep(
                if is_hostile { IDLE.measured() } else { IDLE },
                &ended,
                idle,
                |_| (),
                ready,
            )
        });
        let silent = scope.spawn(|| keep(SILENT, &ended, silent, |_| (), || ()));
        let ended = &ended;
        let mut threads = vec![(idle, &mut flooded.idle), (silent, &mut flooded.silent)];
        if is_hostile {
            let drip = |stream: &mut StreamOwned<ClientConnection, TcpStream>| {
                // Whoever cut it off does not want more.
                let _ = stream.write_all(b"m").and_then(|()| stream.flush());
            };
            let slow = scope.spawn(move || keep(SLOW, ended, slow, drip, || ()));
            let bodies = scope.spawn(move || keep(BODIES, ended, body, |()| (), || ()));
            let garbage = scope.spawn(move || keep(GARBAGE, ended, garbage, |_| (), || ()));
            threads.push((slow, &mut flooded.slow));
            threads.push((bodies, &mut flooded.bodies));
            threads.push((garbage, &mut flooded.garbage));
        }
        let _ = io::stdin().read_to_end(&mut Vec::new());
        ended.store(true, Ordering::Relaxed);
        for (thread, count) in threads {
            let (opened, refused) = thread.join().unwrap_or_default();
            *count = opened;
            flooded.refused += refused;
        }
    });
    Ok(flooded)
}

/// Opens connections, and keeps so many, each of which is tended to now and then. Gives how many came about, and how
/// many did not.
fn keep<T, E>(
    pace: Pace,
    ended: &AtomicBool,
    open: impl Fn() -> Result<T, E>,
    tend: impl Fn(&mut T),
    when_full: impl Fn(),
) -> (usize, usize) {
    let mut kept = VecDeque::new();
    let (mut opened, mut refused) = (0, 0);
    let mut tended = Instant::now();
    while !ended.load(Ordering::Relaxed) {
        if tended.elapsed() >= DRIP {
            tended = Instant::now();
            kept.iter_mut().for_each(&tend);
        }
        match open() {
            Ok(connection) => {
                kept.push_back(connection);
                opened += 1;
                if opened == pace.most {
                    when_full();
                }
            }
            Err(_) => refused += 1,
        }
        thread::sleep(if opened < pace.most {
            pace.filling
        } else {
            pace.pause
        });
        if kept.len() > pace.most {
            kept.pop_front();
        }
    }
    (opened, refused)
}

/// A hostile flood under way, from node 1's network.
#[derive(Debug)]
pub struct Upon {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Upon {
    /// Upon ImageSwap's Service. Returns when all idle connections are there.
    ///
    /// # Errors
    /// It can't be started.
    pub fn service(cluster: &Cluster) -> anyhow::Result<Self> {
        let address = install::address(cluster)?;
        Self::start(cluster, &address, &["--hostile"])
    }

    /// Upon an address, with these options.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(cluster: &Cluster, address: &str, options: &[&str]) -> anyhow::Result<Self> {
        let ca = cluster.folder().join("flood-ca.crt");
        std::fs::write(&ca, STANDARD.decode(install::ca_bundle(cluster)?)?)?;
        let mut command = cluster.chaos();
        command
            .args(["flood", "--name", install::HOST, "--ca"])
            .arg(&ca)
            .args(options)
            .arg(address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        // In a thread, for it may never come: who refuses all connections is what may be found.
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let read = output.read_line(&mut line).map(|_| (line, output));
            // Nobody waits any more.
            let _ = ready.send(read);
        });
        let come = is_ready.recv_timeout(FILLED);
        if !matches!(come, Ok(Ok(_))) {
            child.kill()?;
            child.wait()?;
        }
        let (line, output) =
            come.with_context(|| format!("its connections do not come about in {FILLED:?}"))??;
        ensure!(line.trim() == READY, "it says {line:?}");
        Ok(Self { child, output })
    }

    /// Ends it, and says what came of it.
    ///
    /// # Errors
    /// It has ended before.
    pub fn end(mut self) -> anyhow::Result<Flooded> {
        // It goes on as long as this is open.
        drop(self.child.stdin.take());
        let flooded = serde_json::from_reader(self.output)?;
        self.child.wait()?;
        Ok(flooded)
    }
}
