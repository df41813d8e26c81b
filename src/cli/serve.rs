//! `imageswap serve`: the webhook. The only place that knows all rooms and wires them together.
//!
//! Start: load the maps, listen, load or make the certificate, then be ready. SIGTERM: not ready at
//! once, serve on for the drain delay while every answer closes its connection, stop listening,
//! finish what is under way, exit 0. A second signal exits now.

mod args;
mod greeting;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use time::OffsetDateTime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

pub(super) use self::args::Args;
use self::args::name_forgotten;
use self::greeting::greet;
use super::args::{Mode, example};
use crate::cluster::local::{Origin, StateDir, margin};
use crate::maps::{Diagnostic, Maps, Rules, Severity};
use crate::maps_file::{Follower, Loaded};
use crate::server::lifecycle::{Lifecycle, Phase};
use crate::server::routes::{self, Webhook};
use crate::server::tls::ServingCert;
use crate::server::{self, Connections, Endpoint};
use crate::telemetry::logs;
use crate::telemetry::metrics::Metrics;

/// How often the map file is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How much is logged of a bad map file; `check` shows all.
const MAX_LOGGED: usize = 20;

/// Connections that probes and a scraper or two need.
const ADMIN_CONNECTIONS: usize = 128;

/// Files that are open besides the webhook's connections.
const OTHER_FILES: u64 = ADMIN_CONNECTIONS as u64 + 64;

/// How often to look whether the certificate ends.
const CERTIFICATE_LOOK: Duration = Duration::from_secs(3600);

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let _logs = logs::start(&args.log_level, args.log_format)
        .with_context(|| format!("{:?} is no log level", args.log_level))?;
    name_forgotten();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(16)
        .build()
        .context("can't start the runtime")?;
    let code = runtime.block_on(serve(args));
    // Large reviews that were given up may still be under way.
    runtime.shutdown_background();
    code
}

async fn serve(args: &Args) -> anyhow::Result<ExitCode> {
    let metrics = Metrics::new()?;
    let lifecycle = Lifecycle::default();
    let mut signals = Signals::new()?;
    let (rules, follower) = load_rules(args, &metrics)?;
    let listener = listen(args.listen, "--listen")?;
    let admin_listener = listen(args.admin_listen, "--admin-listen")?;
    let (address, admin_address) = (listener.local_addr()?, admin_listener.local_addr()?);
    let state_dir = args.state_dir()?;
    let cert = certificate(args, &state_dir, &metrics)?;

    let connections = Connections::new(max_connections(args.max_connections), metrics.clone());
    let webhook = Endpoint {
        listener,
        tls: Some(cert),
        router: routes::webhook(webhook_of(args, &rules, &metrics), &args.limits()),
        connections: connections.clone(),
        patience: args.patience(),
        lifecycle: lifecycle.clone(),
        metrics: metrics.clone(),
    };
    // Not the webhook's connections, so not counted as such.
    let uncounted = Metrics::new()?;
    let admin = Endpoint {
        listener: admin_listener,
        tls: None,
        router: routes::admin(metrics.clone(), lifecycle.clone()),
        connections: Connections::new(ADMIN_CONNECTIONS, uncounted.clone()),
        patience: args.patience(),
        lifecycle: lifecycle.clone(),
        metrics: uncounted,
    };
    if let Some(follower) = follower {
        tokio::spawn(follow(follower, rules, metrics));
    }
    let admin = tokio::spawn(admin.serve());
    let webhook = tokio::spawn(webhook.serve());
    lifecycle.enter(Phase::Ready);
    if let Err(error) = greet(address, admin_address, &state_dir) {
        warn!(%error, "can't print to standard output; serving all the same");
    }

    tokio::select! {
        signal = signals.next() => {
            let delay = if signal == "SIGINT" { Duration::ZERO } else { args.drain_delay };
            info!(signal, ?delay, "draining");
            Ok(drain(&lifecycle, &connections, delay, args.request_timeout, &mut signals).await)
        }
        died = either(webhook, admin) => bail!("a listener died: {died}"),
    }
}

/// Serves on for the delay, then finishes what is under way and closes what is idle.
async fn drain(
    lifecycle: &Lifecycle,
    connections: &Connections,
    delay: Duration,
    request_timeout: Duration,
    signals: &mut Signals,
) -> ExitCode {
    let drained = async {
        lifecycle.enter(Phase::Draining);
        tokio::time::sleep(delay).await;
        lifecycle.enter(Phase::Finishing);
        let finished = tokio::time::timeout(request_timeout, quiet(connections)).await;
        lifecycle.enter(Phase::Stopping);
        let closed = async {
            while !connections.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Whoever does not close by then is a peer that does not listen.
        let _ = tokio::time::timeout(Duration::from_secs(1), closed).await;
        finished.is_ok()
    };
    tokio::select! {
        finished = drained => {
            if finished {
                info!("all reviews are answered");
            } else {
                warn!("reviews were still under way after {request_timeout:?}");
            }
            ExitCode::SUCCESS
        }
        signal = signals.next() => {
            warn!(signal, "a second signal: stopping now");
            ExitCode::from(1)
        }
    }
}

/// Returns when nothing was under way for a moment.
async fn quiet(connections: &Connections) {
    let mut quiet = 0;
    while quiet < 10 {
        quiet = if connections.any_busy() { 0 } else { quiet + 1 };
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Neither listener ends before the process finishes.
async fn either(one: JoinHandle<()>, other: JoinHandle<()>) -> String {
    let ended = tokio::select! {
        ended = one => ended,
        ended = other => ended,
    };
    match ended {
        Ok(()) => "it ended".to_owned(),
        Err(error) => error.to_string(),
    }
}

// === the rules ===

type SharedRules = Arc<ArcSwap<Rules>>;

fn load_rules(args: &Args, metrics: &Metrics) -> anyhow::Result<(SharedRules, Option<Follower>)> {
    let share = |rules| Arc::new(ArcSwap::from_pointee(rules));
    if args.rules.mode == Mode::Legacy {
        warn!("LEGACY mode is deprecated: a map file says the same and more (docs/maps.md)");
        if args.rules.image_prefix.is_empty() {
            warn!("IMAGE_PREFIX is empty: no image is swapped");
        }
        return Ok((share(args.rules.legacy()), None));
    }
    let Some(path) = args.rules.file() else {
        warn!(
            "no map file is named (--maps FILE): a built-in example sends Docker Hub's images to \
             my-registry.example.com"
        );
        return Ok((share(publish(example()?, metrics)), None));
    };
    let (follower, loaded) = Follower::start(path, args.strict_maps)?;
    Ok((share(publish(loaded, metrics)), Some(follower)))
}

/// Looks at the map file for ever; the last good one stays in use.
async fn follow(mut follower: Follower, rules: SharedRules, metrics: Metrics) {
    let (path, strict) = (follower.path().to_owned(), follower.is_strict());
    loop {
        tokio::time::sleep(LOOK).await;
        // Reading a disk may take time, and must not take it from reviews.
        let looked = tokio::task::spawn_blocking(move || {
            let found = follower.look();
            (follower, found)
        });
        let found;
        (follower, found) = match looked.await {
            Ok(looked) => looked,
            Err(error) => {
                error!(%error, "reading the map file failed; the rules in use stay");
                metrics.maps_loads.with_label_values(&["failed"]).inc();
                (Follower::anew(path.clone(), strict), None)
            }
        };
        match found {
            None => {}
            Some(Ok(loaded)) => rules.store(Arc::new(publish(loaded, &metrics))),
            Some(Err(error)) => {
                error!("{error}; the rules in use stay");
                metrics.maps_loads.with_label_values(&["failed"]).inc();
            }
        }
    }
}

/// Counts and logs what is loaded.
fn publish(loaded: Loaded, metrics: &Metrics) -> Rules {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let (rules, errors) = (loaded.maps.len(), loaded.errors());
    metrics.maps_loads.with_label_values(&["ok"]).inc();
    metrics.maps_rules.set(count(rules));
    metrics.maps_lines_in_error.set(count(errors));
    metrics
        .maps_loaded
        .set(OffsetDateTime::now_utc().unix_timestamp());
    metrics.maps_info.reset();
    metrics.maps_info.with_label_values(&[&loaded.hash]).set(1);
    info!(rules, errors, hash = loaded.hash, "loaded the map file");
    for found in loaded.diagnostics.iter().take(MAX_LOGGED) {
        log(found);
    }
    if let Some(more) = loaded.diagnostics.len().checked_sub(MAX_LOGGED + 1) {
        warn!(
            "{} more findings in the map file; `imageswap check` shows them",
            more + 1
        );
    }
    Rules::Maps(Box::<Maps>::new(loaded.maps))
}

fn log(found: &Diagnostic) {
    let (line, text, code) = (found.place.line, found.place.text.trim(), found.code);
    let help = found.help.as_deref().unwrap_or_default();
    match found.severity {
        Severity::Error => error!(
            line,
            text, code, help, "map file: {}; skipped", found.message
        ),
        Severity::Warning => warn!(line, text, code, help, "map file: {}", found.message),
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

// === the certificate ===

fn certificate(args: &Args, dir: &StateDir, metrics: &Metrics) -> anyhow::Result<ServingCert> {
    let life: time::Duration = args
        .cert_lifetime
        .try_into()
        .context("--cert-lifetime is too long")?;
    let now = OffsetDateTime::now_utc();
    let (pair, origin) = dir.load_or_mint(&args.names(), life, now)?;
    let path = dir.path.display();
    match origin {
        Origin::Found => info!(%path, "serving the certificate that was there"),
        Origin::Minted => info!(%path, "made a certificate"),
        Origin::Replaced(flaw) => warn!(%path, "made a new certificate: {flaw}"),
        Origin::Renewed => info!(%path, "made a new certificate: the one that was there ends soon"),
    }
    for (certificate, ends) in [("leaf", pair.not_after), ("ca", pair.ca_not_after)] {
        let gauge = metrics.not_after.with_label_values(&[certificate]);
        gauge.set(ends.unix_timestamp());
    }
    tokio::spawn(watch_certificate(pair.not_after, margin(life)));
    Ok(ServingCert::new(&pair)?)
}

/// Says when the certificate that is served ends soon, or has ended. It is made anew at a start.
async fn watch_certificate(not_after: OffsetDateTime, margin: time::Duration) {
    loop {
        let left = not_after - OffsetDateTime::now_utc();
        if left <= time::Duration::ZERO {
            error!(%not_after, "the certificate has ended: restart ImageSwap to get a new one");
        } else if left < margin {
            warn!(%not_after, "the certificate ends soon: restart ImageSwap to get a new one");
        }
        // Until there is something to say, or to say again.
        let wait = if left > margin { left - margin } else { left };
        let wait = match wait.is_positive() {
            true => wait.unsigned_abs(),
            false => CERTIFICATE_LOOK,
        };
        tokio::time::sleep(wait.clamp(Duration::from_secs(1), CERTIFICATE_LOOK)).await;
    }
}

// === the machine ===

/// The signals that end the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn listen(address: SocketAddr, flag: &str) -> anyhow::Result<tokio::net::TcpListener> {
    server::listen(address)
        .with_context(|| format!("can't listen on {address}; name another address with {flag}"))
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
    let most = current.map_or(wanted, |files| files.saturating_sub(OTHER_FILES).max(1));
    if most < wanted {
        warn!("the limit of open files allows {most} connections in place of {wanted}");
    }
    usize::try_from(most.min(wanted)).unwrap_or(usize::MAX)
}
