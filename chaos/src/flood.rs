//! Connections that want nothing: a thousand that made a handshake and then say nothing, and a
//! stream of new ones that do not even do that.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustls::ClientConnection;
use serde::{Deserialize, Serialize};

use crate::handshake::{config, connect};

/// Connections of one kind that are kept; the oldest goes for a new one, as its peer cuts it off in
/// any case.
const IDLE: usize = 1_000;
const SILENT: usize = 1_000;

/// From one connection to the next, once all are there.
const IDLE_PAUSE: Duration = Duration::from_millis(50);
const SILENT_PAUSE: Duration = Duration::from_millis(5);

/// What is said on standard output when all idle connections are there.
pub const READY: &str = "flooded";

/// What came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Flooded {
    /// Handshakes that were made.
    pub idle: usize,
    /// Connections that said nothing.
    pub silent: usize,
    /// What was refused of both.
    pub refused: usize,
}

/// Floods an address until standard input ends.
///
/// # Errors
/// The CAs are none.
pub fn run(address: SocketAddr, name: &str, ca: &[u8]) -> anyhow::Result<Flooded> {
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
    let ended = AtomicBool::new(false);
    let mut flooded = Flooded::default();
    thread::scope(|scope| {
        let idle = scope.spawn(|| keep(IDLE, IDLE_PAUSE, &ended, idle, ready));
        let silent = scope.spawn(|| keep(SILENT, SILENT_PAUSE, &ended, silent, || ()));
        let _ = io::stdin().read_to_end(&mut Vec::new());
        ended.store(true, Ordering::Relaxed);
        for (thread, count) in [(idle, &mut flooded.idle), (silent, &mut flooded.silent)] {
            let (opened, refused) = thread.join().unwrap_or_default();
            *count = opened;
            flooded.refused += refused;
        }
    });
    Ok(flooded)
}

/// Opens connections, and keeps so many. Gives how many came about, and how many did not.
fn keep<T, E>(
    most: usize,
    pause: Duration,
    ended: &AtomicBool,
    open: impl Fn() -> Result<T, E>,
    when_full: impl Fn(),
) -> (usize, usize) {
    let mut kept = VecDeque::new();
    let (mut opened, mut refused) = (0, 0);
    while !ended.load(Ordering::Relaxed) {
        match open() {
            Ok(connection) => {
                kept.push_back(connection);
                opened += 1;
            }
            Err(_) => refused += 1,
        }
        if opened == most {
            when_full();
        }
        if opened >= most {
            thread::sleep(pause);
        }
        if kept.len() > most {
            kept.pop_front();
        }
    }
    (opened, refused)
}
