//! Resident memory: at rest, with many connections, and over many requests.

use std::time::Duration;

use super::client::Peer;
use super::exchange::Body;
use super::loops::Connections;
use super::parts::{Bench, by_turns};
use super::server::Server;
use crate::progress::Step;

/// What ImageSwap must bear at once.
pub(super) const MANY: usize = 1_000;

/// Requests over which memory must stay.
const LONG: usize = 2_000_000;

impl Bench<'_> {
    /// Of servers that have done nothing before.
    pub(super) fn memory(&mut self) -> anyhow::Result<()> {
        let mut step = Step::begin("memory");
        for round in 1..=self.options.rounds.min(3) {
            for (side, program) in by_turns(&self.programs, round) {
                let server = program.start(self.cores.server)?;
                let peer = self
                    .runtime
                    .block_on(Peer::meet(&server, Body::Typical.bytes()))?;
                std::thread::sleep(Duration::from_millis(500));
                self.sheet
                    .add(*side, "memory at rest", "MiB", server.resident()?);
                let most = self.runtime.block_on(many(&server, &peer, self.time()))?;
                self.sheet.add(
                    *side,
                    "memory with 1,000 connections at full load",
                    "MiB",
                    most,
                );
                step.update(format_args!(
                    "round {round}, {}: {most:.1} MiB",
                    self.called(*side)
                ));
            }
        }
        step.done(self.sheet.in_short(&[
            "memory at rest",
            "memory with 1,000 connections at full load",
        ]));
        Ok(())
    }

    /// Memory over many requests, after a warm-up.
    pub(super) fn long(&mut self) -> anyhow::Result<()> {
        for (side, program) in &self.programs {
            let mut step = Step::begin(format!("{LONG} requests, {}", self.called(*side)));
            let server = program.start(self.cores.server)?;
            let peer = self
                .runtime
                .block_on(Peer::meet(&server, Body::Typical.bytes()))?;
            let connections = self.options.connections.into();
            let turn = Duration::from_secs(5);
            self.closed(&server, &peer, connections, turn)?;
            let before = server.resident()?;
            let mut answered = 0;
            while answered < LONG {
                let taken = self.closed(&server, &peer, connections, turn)?;
                answered += taken.load.latencies.len();
                step.update(format_args!("{answered}, {:.1} MiB", server.resident()?));
            }
            let after = server.resident()?;
            for (what, value) in [
                ("before", before),
                ("after", after),
                ("grown over", after - before),
            ] {
                let what = format!("memory {what} 2,000,000 requests");
                self.sheet.add(*side, &what, "MiB", value);
            }
            step.done(format_args!("{before:.1} MiB before, {after:.1} MiB after"));
        }
        Ok(())
    }
}

/// The most memory while many connections are all busy.
async fn many(server: &Server, peer: &Peer, time: Duration) -> anyhow::Result<f64> {
    let mut connections = Connections::open(peer, MANY).await?;
    let load = connections.closed(time);
    tokio::pin!(load);
    let mut most: f64 = 0.0;
    loop {
        most = most.max(server.resident()?);
        tokio::select! {
            done = &mut load => {
                done?;
                return Ok(most);
            }
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
}
