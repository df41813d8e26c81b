//! The measurements, each with the two servers in turn.

use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::runtime::Runtime;

use super::client::Peer;
use super::cores::Cores;
use super::exchange::Body;
use super::figures::{Entry, Sheet, Side, median};
use super::handshake;
use super::loops::{Connections, Load, newcomers, reconnecting};
use super::report::Report;
use super::server::{Program, Server};
use super::{Options, Part};
use crate::facts::State;
use crate::progress::Step;

/// Starts of each kind in a round: a start is soon over.
pub(super) const STARTS: u32 = 4;

/// A round of the closed loops is cut into so many, in which the servers take turns: what else a machine does
/// comes and goes within seconds, and made CPU per request of one server differ by a half from round to round.
pub(super) const SLICES: u32 = 16;

/// New connections a second that must not hold up the others.
const STORM: f64 = 200.0;

/// One run of the bench.
pub(super) struct Bench<'o> {
    pub(super) options: &'o Options,
    pub(super) cores: Cores,
    /// What ImageSwap is compared with, and ImageSwap.
    pub(super) programs: [(Side, Program); 2],
    /// Of one thread, on the client's core.
    pub(super) runtime: Runtime,
    pub(super) sheet: &'o mut Sheet,
    pub(super) report: &'o Report,
}

/// A load, and what it took.
pub(super) struct Taken {
    pub(super) load: Load,
    /// CPU of the server.
    server: Duration,
}

pub(super) type Running<'s> = [(Side, &'s Server); 2];

/// In the order of a round: who comes first in one is last in the next.
pub(super) fn by_turns<T>(all: &[T], round: u32) -> Vec<&T> {
    let mut turns: Vec<_> = all.iter().collect();
    if round.is_multiple_of(2) {
        turns.reverse();
    }
    turns
}

impl Bench<'_> {
    pub(super) fn has(&self, part: Part) -> bool {
        self.options.parts.contains(&part)
    }

    pub(super) fn time(&self) -> Duration {
        Duration::from_secs(self.options.seconds)
    }

    /// Writes down what was measured so far: what comes may fail.
    pub(super) fn keep(&self) -> anyhow::Result<()> {
        self.report.write(self.sheet, &State::UnderWay)
    }

    /// From the start of the process to its first answer, with a certificate and without.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let mut step = Step::begin("start to first answer");
        for round in 1..=self.options.rounds * STARTS {
            for (side, program) in by_turns(&self.programs, round) {
                for (name, is_first) in [
                    ("start to first answer", false),
                    ("first start to first answer", true),
                ] {
                    if is_first || round == 1 {
                        program.forget()?;
                    }
                    if !is_first && round == 1 {
                        drop(program.start(self.cores.server)?);
                    }
                    let started = Instant::now();
                    let server = program.start(self.cores.server)?;
                    let met = Peer::meet(&server, Body::Typical.bytes());
                    self.runtime.block_on(met)?;
                    let took = started.elapsed().as_secs_f64() * 1e3;
                    let entry = Entry::Start;
                    self.sheet.add_entry(entry, *side, name, "ms", took);
                    step.update(format_args!("{name}: {took:.1} ms"));
                }
            }
        }
        step.done(format_args!("{} times", self.options.rounds * STARTS));
        Ok(())
    }

    /// Throughput, latency and handshakes, with two servers that run all the time.
    pub(super) fn loads(&mut self) -> anyhow::Result<()> {
        let [floor, ours] = &self.programs;
        let servers = [floor, ours].map(|(side, program)| {
            let server = program.start(self.cores.server);
            server.map(|server| (*side, server))
        });
        let [floor, ours] = servers;
        let (floor, ours) = (floor?, ours?);
        let running = [(floor.0, &floor.1), (ours.0, &ours.1)];
        for body in Body::ALL {
            if self.has(Part::Throughput) {
                self.throughput(&running, body)?;
                self.keep()?;
            }
            if self.has(Part::Latency) {
                self.latency(&running, body)?;
                self.keep()?;
            }
        }
        if self.has(Part::Handshakes) {
            self.handshakes(&running)?;
            self.keep()?;
        }
        Ok(())
    }

    /// The peers of a body, met anew: each first answer is judged.
    pub(super) fn meet<'s>(
        &self,
        running: &Running<'s>,
        body: Body,
    ) -> anyhow::Result<Vec<(Side, &'s Server, Peer)>> {
        let meet = |(side, server): &(Side, &'s Server)| {
            let peer = self.runtime.block_on(Peer::meet(server, body.bytes()))?;
            Ok((*side, *server, peer))
        };
        running.iter().map(meet).collect()
    }

    fn throughput(&mut self, running: &Running<'_>, body: Body) -> anyhow::Result<()> {
        let (time, name) = (self.time(), body.name());
        let peers = self.meet(running, body)?;
        let mut step = Step::begin(format!("throughput, {name} body"));
        for round in 1..=self.options.rounds {
            let mut open = Vec::new();
            for (side, server, peer) in &peers {
                let connections = self.warm(peer, self.options.connections.into(), time)?;
                open.push((*side, *server, connections, Vec::new()));
            }
            for _ in 0..SLICES {
                for (side, server, connections, all) in &mut open {
                    let taken = self.more(server, connections, time / SLICES)?;
                    let requests = taken.load.latencies.len() as f64;
                    let busy = taken.server.as_secs_f64() / taken.load.time.as_secs_f64();
                    let cpu = taken.server.as_secs_f64() * 1e6 / requests;
                    for (what, unit, value) in [
                        ("requests", "1/s", taken.load.rate()),
                        ("CPU per request", "µs", cpu),
                        ("server's core busy", "%", busy * 100.0),
                    ] {
                        let what = format!("{what}, {name}");
                        let entry = Entry::Slice;
                        self.sheet.add_entry(entry, *side, &what, unit, value);
                    }
                    all.push(taken.load);
                }
                // Who comes first in one is last in the next.
                open.reverse();
            }
            for (side, _, _, all) in open {
                let all = Load::sum(all);
                for (which, thousandths) in [("p50", 500), ("p99", 990), ("p99.9", 999)] {
                    let what = format!("closed loop {which}, {name}");
                    let value = milliseconds(all.within(thousandths));
                    self.sheet.add(side, &what, "ms", value);
                }
                let rate = all.rate();
                step.update(format_args!(
                    "round {round}, {}: {rate:.0}/s",
                    self.called(side)
                ));
            }
        }
        step.done(self.sheet.in_short(&[
            &format!("requests, {name}"),
            &format!("CPU per request, {name}"),
        ]));
        Ok(())
    }

    /// Connections that have had their warm-up.
    fn warm(&self, peer: &Peer, number: usize, time: Duration) -> anyhow::Result<Connections> {
        self.runtime.block_on(async {
            let mut connections = Connections::open(peer, number).await?;
            connections.closed(time / 8).await?;
            Ok(connections)
        })
    }

    fn more(
        &self,
        server: &Server,
        connections: &mut Connections,
        time: Duration,
    ) -> anyhow::Result<Taken> {
        let before = server.cpu_time()?;
        let load = self.runtime.block_on(connections.closed(time))?;
        Ok(Taken {
            load,
            server: server.cpu_time()? - before,
        })
    }

    /// Connections of its own: a warm-up, then the run that counts.
    pub(super) fn closed(
        &self,
        server: &Server,
        peer: &Peer,
        connections: usize,
        time: Duration,
    ) -> anyhow::Result<Taken> {
        let mut connections = self.warm(peer, connections, time)?;
        self.more(server, &mut connections, time)
    }

    pub(super) fn capacity(&self, body: Body) -> anyhow::Result<f64> {
        let name = format!("requests, {}", body.name());
        let figure = self.sheet.find(&name);
        let capacity = figure.and_then(|figure| median(&figure.imageswap));
        capacity.context("without `throughput` there is no capacity to take a share of")
    }

    fn handshakes(&mut self, running: &Running<'_>) -> anyhow::Result<()> {
        let time = self.time();
        let peers = self.meet(running, Body::Typical)?;
        let mut step = Step::begin("new connections");
        for round in 1..=self.options.rounds {
            for (side, server, peer) in by_turns(&peers, round) {
                let before = server.cpu_time()?;
                let at_once = self.options.connections.into();
                let load = self.runtime.block_on(reconnecting(peer, at_once, time))?;
                let cpu = (server.cpu_time()? - before).as_secs_f64() * 1e6;
                let cpu = cpu / load.latencies.len() as f64;
                self.sheet.add(*side, "new connections", "1/s", load.rate());
                self.sheet
                    .add(*side, "CPU per new connection with a request", "µs", cpu);
                step.update(format_args!(
                    "round {round}, {}: {:.0}/s, {cpu:.0} µs",
                    self.called(*side),
                    load.rate()
                ));
            }
            let [_, (side, program)] = &self.programs;
            let alone = handshake::alone(program, time / 8)?;
            self.sheet.add(
                *side,
                "rustls's own handshake, in memory",
                "µs",
                microseconds(alone),
            );
        }
        step.done(
            self.sheet
                .in_short(&["CPU per new connection with a request"]),
        );
        if self.has(Part::Throughput) {
            self.storm(&peers)?;
        }
        Ok(())
    }

    /// At a tenth of the capacity, new connections beside those that are open.
    fn storm(&mut self, peers: &[(Side, &Server, Peer)]) -> anyhow::Result<()> {
        let (time, rate) = (self.time(), self.capacity(Body::Typical)? * 0.1);
        let number = self.options.connections.into();
        let mut step = Step::begin("200 new connections a second at 10 %");
        for round in 1..=self.options.rounds {
            for (side, _, peer) in by_turns(peers, round) {
                let (load, new) = self.runtime.block_on(async {
                    let mut connections = Connections::open(peer, number).await?;
                    connections.open_loop(rate, time / 8).await?;
                    let first = number as u64;
                    tokio::try_join!(
                        connections.open_loop(rate, time),
                        newcomers(peer, first, STORM, time),
                    )
                })?;
                let (old, new) = (
                    milliseconds(load.0.within(990)),
                    milliseconds(new.within(990)),
                );
                self.sheet
                    .add(*side, "p99 beside 200 new connections/s at 10 %", "ms", old);
                self.sheet
                    .add(*side, "p99 of those new connections", "ms", new);
                step.update(format_args!(
                    "round {round}, {}: {old:.2} ms",
                    self.called(*side)
                ));
            }
        }
        step.done(
            self.sheet
                .in_short(&["p99 beside 200 new connections/s at 10 %"]),
        );
        Ok(())
    }

    pub(super) fn called(&self, side: Side) -> &'static str {
        let mut programs = self.programs.iter();
        let found = programs.find(|(one, _)| *one == side);
        found.map_or("", |(_, program)| program.name)
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(super) fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::by_turns;

    #[test]
    fn who_comes_first_in_a_round_is_last_in_the_next() {
        for (round, expected) in [(1, [&'a', &'b']), (2, [&'b', &'a']), (3, [&'a', &'b'])] {
            assert_eq!(by_turns(&['a', 'b'], round), expected, "{round}");
        }
    }
}
