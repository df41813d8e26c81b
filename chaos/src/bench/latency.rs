//! Latency at shares of the capacity, in open loops, and whether the server bore the load.

use std::time::Duration;

use super::client::Peer;
use super::exchange::Body;
use super::figures::Side;
use super::loops::{Connections, Load};
use super::parts::{Bench, Running, by_turns, microseconds};
use super::server::Server;
use crate::progress::Step;

/// Of the capacity, in percent.
const SHARES: [u8; 2] = [10, 70];

/// Less than so many percent of what was due was not borne.
const BORNE: f64 = 99.0;

/// One run of one server.
#[derive(Debug)]
struct Run {
    /// Requests a second that were due.
    due: f64,
    load: Load,
    /// How late the client itself was.
    late: Load,
    /// CPU of the server.
    cpu: Duration,
}

impl Run {
    /// What was answered of what was due, in percent: those that came late make the run longer.
    fn reached(&self) -> f64 {
        self.load.rate() / self.due * 100.0
    }

    /// Whether requests waited for a free connection as a rule. By Little's law there are as many under way as come
    /// within the time that one takes. Latency then says how long the queue had become, and not how quick the server
    /// is.
    fn is_saturated(&self, connections: u16) -> bool {
        let under_way = self.load.within(500).as_secs_f64() * self.due;
        self.reached() < BORNE || under_way > f64::from(connections)
    }

    /// What is told of it.
    fn figures(&self) -> [(&'static str, &'static str, f64); 7] {
        let within = |thousandths| microseconds(self.load.within(thousandths));
        let cpu = microseconds(self.cpu) / self.load.latencies.len() as f64;
        [
            ("p50", "µs", within(500)),
            ("p99", "µs", within(990)),
            ("p99.9", "µs", within(999)),
            ("client late p99", "µs", microseconds(self.late.within(990))),
            ("CPU per request", "µs", cpu),
            ("rate due", "1/s", self.due),
            ("rate reached", "%", self.reached()),
        ]
    }
}

/// The figures that say little of a server that was saturated, and the one that says that it was.
const MARKED: [&str; 4] = ["p50", "p99", "p99.9", "rate reached"];

impl Bench<'_> {
    pub(super) fn latency(&mut self, running: &Running<'_>, body: Body) -> anyhow::Result<()> {
        let (name, capacity) = (body.name(), self.capacity(body)?);
        let peers = self.meet(running, body)?;
        let mut step = Step::begin(format!("latency, {name} body"));
        let mut saturated = Vec::new();
        for round in 1..=self.options.rounds {
            for percent in SHARES {
                let at = format!("at {percent} %, {name}");
                for (side, server, peer) in by_turns(&peers, round) {
                    let due = capacity * f64::from(percent) / 100.0;
                    let run = self.open_loop(server, peer, due)?;
                    for (what, unit, value) in run.figures() {
                        self.sheet.add(*side, &format!("{what} {at}"), unit, value);
                    }
                    if run.is_saturated(self.options.connections) {
                        saturated.push((percent, *side));
                    }
                    step.update(format_args!(
                        "round {round}, {} at {percent} %: p99 {:.0} µs",
                        self.called(*side),
                        microseconds(run.load.within(990))
                    ));
                }
                let sides = saturated.iter().filter(|(at, _)| *at == percent);
                let sides: Vec<_> = sides.map(|(_, side)| *side).collect();
                self.mark(&at, &sides, round);
            }
        }
        step.done(self.sheet.in_short(&[
            &format!("p99 at 10 %, {name}"),
            &format!("p99 at 70 %, {name}"),
        ]));
        Ok(())
    }

    /// Connections of its own: a warm-up at the same rate, then the run that counts.
    fn open_loop(&self, server: &Server, peer: &Peer, due: f64) -> anyhow::Result<Run> {
        let (time, number) = (self.time(), self.options.connections.into());
        self.runtime.block_on(async {
            let mut connections = Connections::open(peer, number).await?;
            connections.open_loop(due, time / 8).await?;
            let before = server.cpu_time()?;
            let (load, late) = connections.open_loop(due, time).await?;
            let cpu = server.cpu_time()? - before;
            Ok(Run {
                due,
                load,
                late,
                cpu,
            })
        })
    }

    /// Says in the rows of a load who was saturated so far, and how often: each is in `saturated` once a round.
    fn mark(&mut self, at: &str, saturated: &[Side], rounds: u32) {
        let told = [Side::Floor, Side::ImageSwap]
            .into_iter()
            .filter_map(|side| {
                let times = saturated.iter().filter(|one| **one == side).count();
                (times > 0).then(|| format!("{} {times} of {rounds}", self.called(side)))
            });
        let told = match told.collect::<Vec<_>>() {
            none if none.is_empty() => String::new(),
            some => format!("saturated: {}", some.join(", ")),
        };
        for what in MARKED {
            self.sheet.remark(&format!("{what} {at}"), &told);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many requests in so many milliseconds, each answered after so many microseconds.
    fn run(due: f64, requests: usize, took: u64, latency: u64) -> Run {
        let latencies = vec![Duration::from_micros(latency); requests];
        Run {
            due,
            load: Load::new(Duration::from_millis(took), latencies),
            late: Load::default(),
            cpu: Duration::from_millis(500),
        }
    }

    #[test]
    fn a_queue_is_saturation() {
        for (due, requests, took, latency, expected) in [
            // 1.5 of 16 under way.
            (12_000.0, 12_000, 1_000, 126, false),
            // 192 under way, though nearly all are answered in time.
            (12_000.0, 12_000, 1_005, 16_000, true),
            // 16 under way.
            (1_000.0, 1_000, 1_000, 16_000, false),
            // The rest came half a second late.
            (12_000.0, 12_000, 1_500, 126, true),
        ] {
            let run = run(due, requests, took, latency);
            assert_eq!(run.is_saturated(16), expected, "{run:.0?}");
        }
    }

    #[test]
    fn a_run_tells_the_rate_reached_and_cpu_of_each_request() {
        let told = run(1_000.0, 1_000, 1_250, 100).figures();
        let find = |wanted| told.iter().find(|(what, _, _)| *what == wanted).unwrap();
        assert_eq!(*find("CPU per request"), ("CPU per request", "µs", 500.0));
        assert_eq!(*find("rate due"), ("rate due", "1/s", 1_000.0));
        assert_eq!(*find("rate reached"), ("rate reached", "%", 80.0));
        assert!(MARKED.iter().all(|what| !find(*what).1.is_empty()));
    }
}
