//! What the whole server costs, beside a webhook that decides nothing.
//!
//! The floor is the null webhook, `examples/null_webhook.rs`: ImageSwap's own accept loop, TLS and
//! hyper, and a constant answer. Both are built with release flags and run on one core; the client has
//! another, which is no second thread of that core where there is a choice. They take turns in short
//! rounds, because a machine's clock drifts, and who comes first in one round is last in the next: a
//! ratio is of the two runs of one round, and what is told is the median over all rounds. Of the closed
//! loops, which tell requests and CPU, a round has 16 such turns, and the median is that over all of
//! them.
//!
//! - Connections are TLS 1.3 and HTTP/1.1 with keep-alive, as kube-apiserver's are. ImageSwap closes
//!   one only when it is older than `--max-connection-age`, 10 minutes; no run lasts that long.
//! - Every answer is checked. The first is parsed: its uid, `allowed`, and that its patch makes of
//!   each image what the map file says, reckoned here and not by ImageSwap. All others must be the
//!   same bytes but for the date and the uid. Each request has a uid of its own, which must come back.
//! - *Closed loop*: each connection asks again as soon as it is answered. That gives the capacity.
//!   The client spins while it waits: to wake one that sleeps is work of the server's, some 5 µs for an
//!   answer on this kind of machine, and a server that keeps its client busy would be spared it.
//! - *Open loop*: requests are due at a steady rate, whether those before them are answered or not.
//!   One that finds no connection free waits for one, and its latency counts from when it was due. So
//!   a stall is seen by all requests that it would have met: nothing coordinates with the server.
//!   The client spins between them, for a timer would be late by up to a millisecond; how late the
//!   client itself was is told, too, how much of what was due was answered in time, and the server's
//!   CPU per request. A load that a server did not bear, so that a queue grew, is marked as saturated.
//! - CPU is the server's whole process, by its own clock in the kernel. Where the server does not fill
//!   its core, the client and not it limits the rate, and then CPU per request is the figure that counts.
//!
//! What a run needs is looked at before anything is built, and what was measured is written after each
//! part, so that a late failure takes nothing away. The table goes to standard output, progress to
//! standard error.
//!
//! `run` is the order of it all, `needs` is what is looked at first, `cores` says what runs where,
//! `loops` makes the load, `client` speaks HTTP, `exchange` knows what is asked and what must come
//! back, `server` starts what is measured, `process` reads the kernel's accounts, `handshake` measures
//! rustls alone, `parts`, `latency` and `memory` are the measurements, `figures` and `report` tell what
//! came of it, `plot` draws it, and `cluster` does the like through kube-apiserver, with `creations` as
//! its client.

mod build;
mod client;
mod cluster;
mod cores;
pub mod creations;
mod exchange;
mod figures;
mod handshake;
mod latency;
mod loops;
mod memory;
mod needs;
mod parts;
mod plot;
mod process;
mod report;
mod run;
mod server;

use std::path::PathBuf;

pub use self::run::run;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// From the start of the process to its first answer
    Start,
    /// Requests a second and CPU, closed loop
    Throughput,
    /// Latency at 10 % and 70 % of ImageSwap's capacity, open loop; needs `throughput`
    Latency,
    /// New connections
    Handshakes,
    /// Memory at rest and with 1,000 connections
    Memory,
}

/// How to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How long each run of a round lasts, in seconds
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u64).range(1..=120))]
    pub seconds: u64,
    /// How often the servers take turns
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Connections of the client
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub connections: u16,
    /// Only some of it
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART", default_values_t = [Part::Start, Part::Throughput, Part::Latency, Part::Handshakes, Part::Memory])]
    pub parts: Vec<Part>,
    /// Memory over 2,000,000 requests, too
    #[arg(long)]
    pub long: bool,
    /// Through kube-apiserver, too: on a cluster of its own
    #[arg(long)]
    pub through_kubernetes: bool,
    /// Another build of ImageSwap, in place of one of these sources
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
    /// Another build of the null webhook; with --binary, nothing is compiled
    #[arg(long, value_name = "FILE")]
    pub null_webhook: Option<PathBuf>,
    /// Another build of ImageSwap to compare with, in place of the null webhook
    #[arg(long, value_name = "FILE")]
    pub before: Option<PathBuf>,
    /// Where to write bench.json, bench.md and bench.svg to
    #[arg(long, value_name = "DIR", default_value = "target/chaos-bench")]
    pub report: PathBuf,
}
