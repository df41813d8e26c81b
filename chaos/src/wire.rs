//! A wire: connections that are accepted here lead to another address, and what comes back may come
//! late, or not at all while the wire is cut. Nothing is lost by that, as nothing is when a network
//! heals before its peers give up.

use std::io::BufRead;
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::cluster::Cluster;

/// How much is read at once.
const PIECE: usize = 64 * 1024;

const CUT: &str = "cut";
const JOIN: &str = "join";

/// A wire in a process of its own, in node 1's network; it is gone when this is dropped.
#[derive(Debug)]
pub struct Wire {
    program: Child,
    input: ChildStdin,
}

impl Wire {
    /// Lays one.
    ///
    /// # Errors
    /// The process can't be started.
    pub fn lay(
        cluster: &Cluster,
        address: SocketAddr,
        to: SocketAddr,
        late: Duration,
    ) -> anyhow::Result<Self> {
        let mut program = cluster.chaos();
        program.arg("wire");
        program.arg(format!("--late={}", late.as_millis()));
        let addresses = [address.to_string(), to.to_string()];
        let program = program.args(addresses).stdin(Stdio::piped());
        let mut program = program.spawn().context("can't start a wire")?;
        let input = program.stdin.take().context("a wire without input")?;
        Ok(Self { program, input })
    }

    /// Nothing passes from now on.
    ///
    /// # Errors
    /// The process is gone.
    pub fn cut(&self) -> anyhow::Result<()> {
        self.tell(CUT)
    }

    /// All passes again, what was held back first.
    ///
    /// # Errors
    /// The process is gone.
    pub fn join(&self) -> anyhow::Result<()> {
        self.tell(JOIN)
    }

    fn tell(&self, word: &str) -> anyhow::Result<()> {
        use std::io::Write;
        writeln!(&self.input, "{word}").context("the wire is gone")
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// Is a wire until standard input ends, on which it is told to be cut and joined.
///
/// # Errors
/// The address is taken, or what is told is not understood.
pub fn run(address: SocketAddr, to: SocketAddr, late: Duration) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (cut, is_cut) = watch::channel(false);
        let told = tokio::task::spawn_blocking(move || follow(&cut));
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("can't listen on {address}"))?;
        let accepting = async {
            loop {
                let (near, _) = listener.accept().await?;
                // Who can't be reached has closed a connection.
                if let Ok(far) = TcpStream::connect(to).await {
                    join(near, far, late, &is_cut);
                }
            }
        };
        tokio::select! {
            told = told => told?,
            failed = accepting => failed,
        }
    })
}

/// Does as it is told.
fn follow(cut: &watch::Sender<bool>) -> anyhow::Result<()> {
    for line in std::io::stdin().lock().lines() {
        match line?.as_str() {
            CUT => cut.send_replace(true),
            JOIN => cut.send_replace(false),
            other => bail!("{other:?} is neither {CUT} nor {JOIN}"),
        };
    }
    Ok(())
}

fn join(near: TcpStream, far: TcpStream, late: Duration, is_cut: &watch::Receiver<bool>) {
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::spawn(carry(near_in, far_out, Duration::ZERO, is_cut.clone()));
    tokio::spawn(carry(far_in, near_out, late, is_cut.clone()));
}

/// One way, to its end.
async fn carry(
    mut from: impl AsyncReadExt + Unpin + Send + 'static,
    mut to: impl AsyncWriteExt + Unpin,
    late: Duration,
    mut is_cut: watch::Receiver<bool>,
) {
    let (sender, mut pieces) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut piece = vec![0; PIECE];
        while let Ok(n @ 1..) = from.read(&mut piece).await {
            let bytes = piece.get(..n).unwrap_or_default().to_vec();
            if sender.send((Instant::now() + late, bytes)).is_err() {
                return;
            }
        }
        // The end is as late as all else.
        let _ = sender.send((Instant::now() + late, Vec::new()));
    });
    while let Some((due, bytes)) = pieces.recv().await {
        sleep_until(due).await;
        // It ends with the process that tells.
        let is_whole = is_cut.wait_for(|is_cut| !is_cut).await.is_ok();
        if !is_whole || to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
