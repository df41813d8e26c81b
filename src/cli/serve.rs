//! `imageswap serve`: the webhook. The only place that knows all rooms and wires them together.
//!
//! Start: load the maps, listen, load or make the certificate (in a cluster: wait for it), then be
//! ready. SIGTERM: not ready at once, give the lease up, serve on for the drain delay while every
//! answer closes its connection, stop listening, finish what is under way, exit 0. A second signal
//! exits now. In a Pod, all that is the work of a child, and the process itself is its keeper.

mod args;
mod brought;
mod certificate;
mod client_certs;
mod cluster;
mod files;
mod greeting;
mod machine;
mod maps;
mod settings;
mod tasks;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

pub(super) use self::args::Args;
use self::args::name_forgotten;
use self::brought::Brought;
use self::cluster::Cluster;
use self::greeting::greet;
use self::maps::SharedRules;
pub(super) use self::settings::settings;
use super::terminal::stderr_has_colour;
use crate::cluster::place::Place;
use crate::keeper::{self, Inheritance, Sockets};
use crate::server::lifecycle::{Lifecycle, Phase};
use crate::server::routes::{self, Webhook};
use crate::server::tls::ServingCert;
use crate::server::{self, Answers, Endpoint, MOST_FAREWELLS, MOST_WAITING, Places};
use crate::telemetry::logs;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::notices;

/// Connections that probes and a scraper or two need.
const ADMIN_CONNECTIONS: usize = 128;

/// Files that are open besides the webhook's connections; some wait for a place on either port, some have lost theirs.
const OTHER_FILES: u64 = (ADMIN_CONNECTIONS + 2 * (MOST_WAITING + MOST_FAREWELLS)) as u64 + 64;

/// Said when a signal comes so early.
const EARLY: &str = "stopping, before there was a certificate";

/// Signals that come within so long of the first are one.
const TOGETHER: Duration = Duration::from_secs(1);

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // Before there are threads.
    let inherited = keeper::inherit()?;
    let _logs = logs::start(&args.log_level, args.log_format, stderr_has_colour())
        .with_context(|| no_level(&args.log_level))?;
    let done = keep_or_serve(args, inherited);
    match done {
        // Who reads a log of JSON finds the end of it there, too.
        Err(error) if args.log_format.is_json() && tracing::enabled!(tracing::Level::ERROR) => {
            error!("{}", super::chain(error.as_ref()));
            Ok(ExitCode::from(super::FAILED))
        }
        done => done,
    }
}

fn keep_or_serve(args: &Args, inherited: Option<Inheritance>) -> anyhow::Result<ExitCode> {
    if inherited.is_none() && args.has_keeper() {
        return Ok(keeper::keep(sockets(args)?)?);
    }
    name_forgotten();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(16)
        .build()
        .context("can't start the runtime")?;
    let code = runtime.block_on(serve(args, inherited));
    // Large reviews that were given up may still be under way.
    runtime.shutdown_background();
    code
}

fn no_level(level: &str) -> String {
    format!("{level:?} is no log level: say off, error, warn, info, debug or trace")
}

async fn serve(args: &Args, inherited: Option<Inheritance>) -> anyhow::Result<ExitCode> {
    let metrics = Metrics::new()?;
    let lifecycle = Lifecycle::default();
    let mut signals = Signals::new()?;
    let place = args.place()?;
    let (notices, told) = notices::channel();
    let (rules, follower) = maps::load(args, place, &metrics, &notices)?;
    let read = async {
        let brought = Brought::read(args, place).await?;
        let clients = client_certs::load(args, &metrics).await?;
        anyhow::Ok((brought, clients))
    };
    let Some((brought, clients)) = unless_stopped(&mut signals, read).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let Sockets { webhook, admin } = match inherited {
        Some(inherited) => {
            metrics.worker_restarts.inc_by(inherited.restarts);
            inherited.sockets
        }
        None => sockets(args)?,
    };
    let (listener, admin_listener) = (listening(webhook)?, listening(admin)?);
    let (address, admin_address) = (listener.local_addr()?, admin_listener.local_addr()?);
    if place != Place::Machine {
        args.warn_of_long_drain();
        info!(%address, admin = %admin_address, "listening");
    }
    if let Some(follower) = follower {
        let follow = maps::follow(follower, rules.clone(), metrics.clone(), notices.clone());
        tokio::spawn(follow);
    }
    let admin = admin_endpoint(args, admin_listener, &lifecycle, &metrics)?;
    let mut admin = tokio::spawn(admin.serve());

    let (cert, home) = if place == Place::Machine {
        let mut writing = machine::Writing::default();
        let made = machine(args, brought, &metrics, &mut writing);
        let Some(made) = unless_stopped(&mut signals, made).await? else {
            writing.finish().await;
            return Ok(ExitCode::SUCCESS);
        };
        made
    } else {
        let start = Cluster::start(args, place, brought, &metrics, (notices, told));
        let Some(cluster) = unless_stopped(&mut signals, start).await? else {
            return Ok(ExitCode::SUCCESS);
        };
        let cert = tokio::select! {
            cert = cluster.certificate() => cert,
            signal = signals.next() => {
                info!(signal, "{EARLY}");
                cluster.leave().await;
                return Ok(ExitCode::SUCCESS);
            }
            died = ended(&mut admin) => bail!("a listener died: {died}"),
        };
        (cert, Home::Cluster(cluster))
    };

    if let Some(clients) = clients {
        cert.require(clients)?;
    }
    let places = Places::new(max_connections(args.max_connections), metrics.clone());
    let webhook = Endpoint {
        listener,
        tls: Some(cert),
        service: routes::webhook(webhook_of(args, &rules, &metrics), &args.limits()),
        places: places.clone(),
        patience: args.patience(),
        lifecycle: lifecycle.clone(),
        metrics: metrics.clone(),
    };
    let mut webhook = tokio::spawn(webhook.serve());
    lifecycle.enter(Phase::Ready);
    home.greet(address, admin_address, args.client_ca().is_some());

    tokio::select! {
        signal = signals.next() => {
            let delay = if signal == "SIGTERM" { args.drain_delay } else { Duration::ZERO };
            info!(signal, ?delay, "draining");
            let left = tokio::spawn(home.leave());
            let code = drain(&lifecycle, &places, delay, args.request_timeout, &mut signals).await;
            if code == ExitCode::SUCCESS {
                // It has a bound of its own.
                let _ = left.await;
            }
            Ok(code)
        }
        died = ended(&mut webhook) => bail!("a listener died: {died}"),
        died = ended(&mut admin) => bail!("a listener died: {died}"),
    }
}

/// A part of the start; `None` if a signal comes before its end.
async fn unless_stopped<T>(
    signals: &mut Signals,
    part: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<Option<T>> {
    tokio::select! {
        done = part => done.map(Some),
        signal = signals.next() => {
            info!(signal, "{EARLY}");
            Ok(None)
        }
    }
}

/// The certificate without a cluster: what is brought, or one of our own.
async fn machine(
    args: &Args,
    brought: Option<Brought>,
    metrics: &Metrics,
    writing: &mut machine::Writing,
) -> anyhow::Result<(ServingCert, Home)> {
    if let Some(brought) = brought {
        let home = Home::Machine(brought.trusted_here());
        return Ok((brought.serve(metrics)?, home));
    }
    let dir = args.state_dir()?;
    let cert = machine::start(args, &dir, metrics, writing).await?;
    Ok((cert, Home::Machine(Some(dir.ca()))))
}

/// Where the certificate comes from.
enum Home {
    /// This machine, with what a client here should trust.
    Machine(Option<PathBuf>),
    Cluster(Cluster),
}

impl Home {
    /// Says that all is up: to a person, or to a log.
    fn greet(&self, address: SocketAddr, admin: SocketAddr, asks_clients: bool) {
        match self {
            Self::Machine(ca) => {
                if let Err(error) = greet(address, admin, ca.as_deref(), asks_clients) {
                    warn!(%error, "can't print to standard output; serving all the same");
                }
            }
            Self::Cluster(_) => {
                info!(version = env!("CARGO_PKG_VERSION"), %address, %admin, "ready");
            }
        }
    }

    async fn leave(self) {
        if let Self::Cluster(cluster) = self {
            cluster.leave().await;
        }
    }
}

fn admin_endpoint(
    args: &Args,
    listener: tokio::net::TcpListener,
    lifecycle: &Lifecycle,
    metrics: &Metrics,
) -> anyhow::Result<Endpoint<impl Answers + use<>>> {
    // Not the webhook's connections, so not counted as such.
    let uncounted = Metrics::new()?;
    Ok(Endpoint {
        listener,
        tls: None,
        service: routes::admin(metrics.clone(), lifecycle.clone()),
        places: Places::new(ADMIN_CONNECTIONS, uncounted.clone()),
        patience: args.patience(),
        lifecycle: lifecycle.clone(),
        metrics: uncounted,
    })
}

/// Serves on for the delay, then finishes what is under way and takes leave of what is idle.
async fn drain(
    lifecycle: &Lifecycle,
    places: &Places,
    delay: Duration,
    request_timeout: Duration,
    signals: &mut Signals,
) -> ExitCode {
    let drained = async {
        lifecycle.enter(Phase::Draining);
        tokio::time::sleep(delay).await;
        lifecycle.enter(Phase::Finishing);
        let finished = tokio::time::timeout(request_timeout, quiet(places)).await;
        lifecycle.enter(Phase::Stopping);
        let closed = async {
            while !places.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Whoever does not close by then is a peer that does not listen.
        let _ = tokio::time::timeout(server::LINGER, closed).await;
        finished.is_ok()
    };
    tokio::select! {
        finished = drained => {
            if finished {
                info!("all reviews are answered");
            } else {
                warn!("requests, or what may be ones, were still under way after {request_timeout:?}");
            }
            ExitCode::SUCCESS
        }
        signal = signals.second() => {
            warn!(signal, "a second signal: stopping now");
            ExitCode::from(1)
        }
    }
}

/// Returns when nothing was under way for a moment.
async fn quiet(places: &Places) {
    let mut quiet = 0;
    while quiet < 10 {
        quiet = if places.any_busy() { 0 } else { quiet + 1 };
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// No listener ends before the process finishes.
async fn ended(listener: &mut JoinHandle<()>) -> String {
    match listener.await {
        Ok(()) => "it ended".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn webhook_of(args: &Args, rules: &SharedRules, metrics: &Metrics) -> Webhook {
    Webhook {
        rules: rules.clone(),
        disable_label: args.disable_label.as_str().into(),
        pod_name: args.pod_name.as_deref().map(Into::into),
        metrics: metrics.clone(),
    }
}

// === signals, sockets, open files ===

/// The signals that end the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// A terminal that hangs up ends what runs in it. Elsewhere the signal asks a server to read its files anew.
    is_at_terminal: bool,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            is_at_terminal: keeper::is_at_terminal(),
        })
    }

    async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => if self.is_at_terminal {
                    return "SIGHUP";
                },
            }
            info!("SIGHUP changes nothing: maps and certificates are followed as they change");
        }
    }

    /// After the first. What comes together with that is the same one: whoever signals all of a container's
    /// processes reaches the keeper, too, which hands it on.
    async fn second(&mut self) -> &'static str {
        let since = Instant::now();
        loop {
            let signal = self.next().await;
            if since.elapsed() > TOGETHER {
                return signal;
            }
        }
    }
}

fn sockets(args: &Args) -> anyhow::Result<Sockets> {
    let listen = |address, flag| {
        server::listen(address)
            .with_context(|| format!("can't listen on {address}; name another address with {flag}"))
    };
    Ok(Sockets {
        webhook: listen(args.listen, "--listen")?,
        admin: listen(args.admin_listen, "--admin-listen")?,
    })
}

fn listening(socket: std::net::TcpListener) -> io::Result<tokio::net::TcpListener> {
    socket.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(socket)
}

/// How many connections so many open files allow; where they are few, that fewer may wait is the lesser evil.
fn places(files: u64) -> u64 {
    files.saturating_sub(OTHER_FILES).max(files / 4).max(1)
}

/// As many as are asked for, and as the machine lets us have open files.
fn max_connections(wanted: u32) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let wanted = u64::from(wanted);
    let most = current.map_or(wanted, places);
    if most < wanted {
        warn!("the limit of open files allows {most} connections in place of {wanted}");
    }
    usize::try_from(most.min(wanted)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_open_files_leave_places_for_connections() {
        for (files, expected) in [(0, 1), (256, 64), (1_024, 256), (4_096, 2_624)] {
            assert_eq!(places(files), expected, "{files}");
        }
    }
}
