//! The two kinds of load. `bench.rs` says what each is good for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

use super::client::{Connection, Peer};

/// A run that takes so much longer than it should has lost an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What came of a load.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// How long it took.
    pub(super) time: Duration,
    /// Of each request, sorted.
    pub(super) latencies: Vec<Duration>,
}

/// The connections of a load. They stay open from one run to the next.
#[derive(Debug)]
pub(super) struct Connections(Vec<Connection>);

impl Load {
    pub(super) fn new(time: Duration, mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        Self { time, latencies }
    }

    /// What came of several, one after the other.
    pub(super) fn sum(loads: Vec<Self>) -> Self {
        let time = loads.iter().map(|load| load.time).sum();
        Self::new(
            time,
            loads.into_iter().flat_map(|load| load.latencies).collect(),
        )
    }

    /// Requests a second.
    pub(super) fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.time.as_secs_f64()
    }

    /// The latency that so many of a thousand requests had at most.
    pub(super) fn within(&self, thousandths: usize) -> Duration {
        let at = (self.latencies.len() * thousandths).div_ceil(1_000);
        let found = self.latencies.get(at.saturating_sub(1));
        found.copied().unwrap_or_default()
    }
}

impl Connections {
    /// So many, each with its first answer.
    ///
    /// # Errors
    /// One is not answered.
    pub(super) async fn open(peer: &Peer, number: usize) -> anyhow::Result<Self> {
        let mut open = Vec::with_capacity(number);
        for n in 0..number {
            let answered = async {
                let mut connection = peer.connect(n as u64).await?;
                connection.ask().await?;
                anyhow::Ok(connection)
            };
            let answered = timeout(PATIENCE, answered).await;
            open.push(answered.context("a new connection is not answered")??);
        }
        Ok(Self(open))
    }

    /// Each asks again as soon as it is answered, for this long.
    ///
    /// # Errors
    /// An answer is wrong or does not come.
    pub(super) async fn closed(&mut self, time: Duration) -> anyhow::Result<Load> {
        let started = Instant::now();
        let end = started + time;
        let latencies = awake(self.all(time, move |mut connection| async move {
            let mut latencies = Vec::with_capacity(1 << 16);
            let mut asked = Instant::now();
            while asked < end {
                connection.ask().await?;
                let answered = Instant::now();
                latencies.push(answered - asked);
                asked = answered;
            }
            Ok((connection, latencies))
        }))
        .await?;
        Ok(Load::new(started.elapsed(), latencies))
    }

    /// Requests are due at this rate, for this long. The second load is how late the client was to
    /// see that a request was due.
    ///
    /// # Errors
    /// As for [`Connections::closed`].
    pub(super) async fn open_loop(
        &mut self,
        rate: f64,
        time: Duration,
    ) -> anyhow::Result<(Load, Load)> {
        let (connections, schedule) = (self.0.len(), Schedule::new(rate, time));
        let tickets = Arc::new((Semaphore::new(0), AtomicU64::new(0)));
        let gate = tickets.clone();
        // Each that has no work waits for the next ticket, in the order in which they came.
        let answered = self.all(time, move |mut connection| {
            let tickets = tickets.clone();
            async move {
                let (due, next) = &*tickets;
                let mut latencies = Vec::with_capacity(1 << 12);
                loop {
                    due.acquire().await?.forget();
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if schedule.has_ended(n) {
                        return Ok((connection, latencies));
                    }
                    connection.ask().await?;
                    latencies.push(schedule.due(n).elapsed());
                }
            }
        });
        let released = async {
            let mut late = Vec::new();
            schedule
                .each(|due| {
                    late.push(due.elapsed());
                    gate.0.add_permits(1);
                })
                .await;
            // For each connection, one that says that there is no more.
            gate.0.add_permits(connections);
            late
        };
        let (answered, late) = tokio::join!(answered, released);
        let took = schedule.started.elapsed();
        Ok((Load::new(took, answered?), Load::new(took, late)))
    }

    /// Has each of them work, and gives all their latencies.
    async fn all<F>(
        &mut self,
        time: Duration,
        work: impl Fn(Connection) -> F,
    ) -> anyhow::Result<Vec<Duration>>
    where
        F: Future<Output = anyhow::Result<(Connection, Vec<Duration>)>> + Send + 'static,
    {
        let mut tasks: JoinSet<_> = self.0.drain(..).map(work).collect();
        let joined = async {
            let mut all = Vec::new();
            while let Some(done) = tasks.join_next().await {
                let (connection, latencies) = done.context("a connection panicked")??;
                self.0.push(connection);
                all.extend(latencies);
            }
            Ok(all)
        };
        // An open loop beyond what a server bears ends when its queue has, and is marked then.
        let joined = timeout(4 * time + PATIENCE, joined).await;
        joined.context("an answer does not come")?
    }
}

/// Does something, and spins while there is nothing to do. To wake a client that sleeps is work of the
/// server, and the slower of two would wake its client more often.
async fn awake<T>(work: impl Future<Output = T>) -> T {
    let spin = async {
        loop {
            yield_now().await;
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        () = spin => unreachable!("it spins for ever"),
    }
}

/// New connections at this rate, each with one request, which counts from when it was due to its
/// answer. The server has seen none of these numbers from `first` on.
///
/// # Errors
/// One is not answered, or not as it must be.
pub(super) async fn newcomers(
    peer: &Peer,
    first: u64,
    rate: f64,
    time: Duration,
) -> anyhow::Result<Load> {
    let schedule = Schedule::new(rate, time);
    let mut tasks = JoinSet::new();
    let mut n = first;
    schedule
        .each(|due| {
            let peer = peer.clone();
            n += 1;
            tasks.spawn(async move {
                let mut connection = peer.connect(n).await?;
                connection.ask().await?;
                anyhow::Ok(due.elapsed())
            });
        })
        .await;
    let mut latencies = Vec::new();
    while let Some(done) = timeout(PATIENCE, tasks.join_next())
        .await
        .context("a new connection is not answered")?
    {
        latencies.push(done.context("a connection panicked")??);
    }
    ensure!(!latencies.is_empty(), "no connection was made");
    Ok(Load::new(schedule.started.elapsed(), latencies))
}

/// New connections with one request each, as many at once as given, for this long.
///
/// # Errors
/// As for [`newcomers`].
pub(super) async fn reconnecting(
    peer: &Peer,
    at_once: usize,
    time: Duration,
) -> anyhow::Result<Load> {
    let started = Instant::now();
    let end = started + time;
    let mut tasks = JoinSet::new();
    for task in 0..at_once {
        let peer = peer.clone();
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            let mut n = (task as u64) << 16;
            while Instant::now() < end {
                let asked = Instant::now();
                peer.connect(n).await?.ask().await?;
                latencies.push(asked.elapsed());
                n += 1;
            }
            anyhow::Ok(latencies)
        });
    }
    let mut all = Vec::new();
    while let Some(done) = timeout(time + PATIENCE, tasks.join_next())
        .await
        .context("a new connection is not answered")?
    {
        all.extend(done.context("a connection panicked")??);
    }
    Ok(Load::new(started.elapsed(), all))
}

/// When requests are due.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    started: Instant,
    end: Instant,
    /// Requests a second.
    rate: f64,
}

impl Schedule {
    fn new(rate: f64, time: Duration) -> Self {
        let started = Instant::now();
        Self {
            started,
            end: started + time,
            rate: rate.max(1.0),
        }
    }

    fn due(&self, n: u64) -> Instant {
        self.started + Duration::from_secs_f64(n as f64 / self.rate)
    }

    /// Whether there are no more than these.
    fn has_ended(&self, n: u64) -> bool {
        self.due(n) >= self.end
    }

    /// Does something for each as it is due. Spins, and lets all else go on in between.
    async fn each(&self, mut then: impl FnMut(Instant)) {
        let mut n = 0;
        while !self.has_ended(n) {
            let now = Instant::now();
            while !self.has_ended(n) && self.due(n) <= now {
                then(self.due(n));
                n += 1;
            }
            yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latency_that_so_many_of_a_thousand_had() {
        let load = Load::new(
            Duration::from_secs(2),
            (1..=1_000).rev().map(Duration::from_micros).collect(),
        );
        assert_eq!(load.rate(), 500.0);
        for (thousandths, expected) in [(500, 500), (990, 990), (999, 999), (1_000, 1_000)] {
            let expected = Duration::from_micros(expected);
            assert_eq!(load.within(thousandths), expected, "{thousandths}");
        }
        assert_eq!(
            Load::new(Duration::ZERO, vec![]).within(990),
            Duration::ZERO
        );
    }

    #[test]
    fn requests_are_due_at_equal_distances() {
        let schedule = Schedule::new(2_000.0, Duration::from_secs(3));
        assert!(!schedule.has_ended(5_999) && schedule.has_ended(6_001));
        let third = schedule.due(3) - schedule.started;
        assert_eq!(third, Duration::from_micros(1_500));
    }
}
