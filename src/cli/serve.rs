//! `imageswap serve`: the webhook. The only place that knows all rooms and wires them together.
//!
//! Start: listen, load maps and certificate, then be ready. SIGTERM: not ready at once, serve on
//! for the drain delay while every answer closes its connection, stop listening, finish what is
//! under way, exit 0. A second signal exits now.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use clap::builder::{FalseyValueParser, OsStringValueParser};
use time::OffsetDateTime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::args::{DISABLE_LABEL, Mode, RulesArgs, example};
use super::terminal;
use crate::cluster::local::{Origin, StateDir, margin};
use crate::maps::{Diagnostic, Maps, Rules, Severity};
use crate::maps_file::{Follower, Loaded};
use crate::server::lifecycle::{Lifecycle, Phase};
use crate::server::routes::{self, Webhook};
use crate::server::tls::ServingCert;
use crate::server::{self, Connections, Endpoint, Limits, Patience};
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

/// Variables of 1.5.3 that have no meaning any more.
const FORGOTTEN: [&str; 6] = [
    "IMAGESWAP_CLUSTER_NAME",
    "IMAGESWAP_CSR_SIGNER_NAME",
    "IMAGESWAP_DISABLE_AUTO_MWC",
    "imageswap_tls_secret_name",
    "FLASK_ENV",
    "PYTHONUNBUFFERED",
];

/// A review to try the webhook with, where the project's own are not at hand.
const TRY_FILE: &str = "tests/reviews/pod-create-test-pod01.json";
const TRY_REVIEW: &str = r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"1","kind":{"group":"","version":"v1","kind":"Pod"},"operation":"CREATE","object":{"spec":{"containers":[{"name":"web","image":"docker.io/nginx/nginx:latest"}]}}}}"#;

/// Answers `POST /` and `POST /mutate` with the swapped images, and keeps doing so.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where reviews come in, over TLS
    #[arg(help_heading = "Addresses", long, value_name = "ADDRESS", value_parser = address, default_value = "[::]:5000", env = "IMAGESWAP_LISTEN")]
    listen: SocketAddr,

    /// Where /metrics, /livez and /readyz are, over plain HTTP
    #[arg(help_heading = "Addresses", long, value_name = "ADDRESS", value_parser = address, default_value = "[::]:9090", env = "IMAGESWAP_ADMIN_LISTEN")]
    admin_listen: SocketAddr,

    #[command(flatten)]
    rules: RulesArgs,

    /// Refuse a map file with lines in error, in place of skipping them
    #[arg(help_heading = "Rules", long, value_parser = FalseyValueParser::new(), env = "IMAGESWAP_STRICT_MAPS")]
    strict_maps: bool,

    /// Where certificate, key and ca.crt are kept [default: $XDG_STATE_HOME/imageswap or
    /// ~/.local/state/imageswap]
    #[arg(
        help_heading = "Certificate",
        long,
        value_name = "DIR", value_parser = OsStringValueParser::new(),
        env = "IMAGESWAP_STATE_DIR"
    )]
    state_dir: Option<OsString>,

    /// How long a certificate lives
    #[arg(help_heading = "Certificate", long, value_name = "TIME", value_parser = duration, default_value = "365d", env = "IMAGESWAP_CERT_LIFETIME")]
    cert_lifetime: Duration,

    /// The label whose value "disabled" on an object keeps ImageSwap away
    #[arg(help_heading = "Rules", long, value_name = "LABEL", default_value = DISABLE_LABEL, env = "IMAGESWAP_DISABLE_LABEL")]
    disable_label: String,

    /// The namespace of the webhook's Service, for the certificate's names
    #[arg(
        help_heading = "Certificate",
        long,
        value_name = "NAME",
        default_value = "imageswap-system",
        env = "IMAGESWAP_NAMESPACE_NAME"
    )]
    namespace: String,

    /// The name that /healthz tells
    #[arg(
        help_heading = "Addresses",
        long,
        value_name = "NAME",
        env = "IMAGESWAP_POD_NAME"
    )]
    pod_name: Option<String>,

    /// The longest a review may take; kube-apiserver's own ?timeout= may shorten it
    #[arg(help_heading = "Limits", long, value_name = "TIME", value_parser = duration, default_value = "9s", env = "IMAGESWAP_REQUEST_TIMEOUT")]
    request_timeout: Duration,

    /// Reviews decided at once; more are answered 429, which kube-apiserver repeats
    #[arg(help_heading = "Limits", long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), default_value = "256", env = "IMAGESWAP_MAX_IN_FLIGHT")]
    max_in_flight: u32,

    /// The largest review, in MiB
    #[arg(help_heading = "Limits", long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=1024), default_value = "16", env = "IMAGESWAP_MAX_BODY_MIB")]
    max_body_mib: u32,

    /// What all large reviews together may take, in MiB; more wait
    #[arg(help_heading = "Limits", long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=65_536), default_value = "24", env = "IMAGESWAP_BODY_MEMORY_MIB")]
    body_memory_mib: u32,

    /// Connections open at once; for one more, the least useful is closed
    #[arg(help_heading = "Limits", long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000), default_value = "1024", env = "IMAGESWAP_MAX_CONNECTIONS")]
    max_connections: u32,

    /// How old a connection may become, so that new replicas get their share
    #[arg(help_heading = "Limits", long, value_name = "TIME", value_parser = duration, default_value = "10m", env = "IMAGESWAP_MAX_CONNECTION_AGE")]
    max_connection_age: Duration,

    /// How long to serve on after SIGTERM, while the cluster learns that this replica goes
    #[arg(help_heading = "Limits", long, value_name = "TIME", value_parser = duration, default_value = "8s", env = "IMAGESWAP_DRAIN_DELAY")]
    drain_delay: Duration,

    /// What to log: error, warn, info, debug, trace, or filters such as info,imageswap=debug
    #[arg(
        help_heading = "Logs",
        long,
        value_name = "LEVEL",
        default_value = "info",
        env = "IMAGESWAP_LOG_LEVEL"
    )]
    log_level: String,

    /// The form of the log
    #[arg(
        help_heading = "Logs",
        long,
        value_enum,
        value_name = "FORM",
        default_value = "auto",
        env = "IMAGESWAP_LOG_FORMAT"
    )]
    log_format: logs::Format,
}

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
        router: routes::webhook(args.webhook(&rules, &metrics), &args.limits()),
        connections: connections.clone(),
        patience: args.patience(),
        lifecycle: lifecycle.clone(),
        metrics: metrics.clone(),
    };
    let admin = Endpoint {
        listener: admin_listener,
        tls: None,
        router: routes::admin(metrics.clone(), lifecycle.clone()),
        // Not the webhook's connections, so not counted as such.
        connections: Connections::new(ADMIN_CONNECTIONS, Metrics::new()?),
        patience: args.patience(),
        lifecycle: lifecycle.clone(),
        metrics: Metrics::new()?,
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

impl Args {
    /// What the certificate is valid for: the Service in a cluster, and this machine.
    fn names(&self) -> Vec<String> {
        let namespace = &self.namespace;
        let mut names = vec![
            format!("imageswap.{namespace}.svc"),
            format!("imageswap.{namespace}.svc.cluster.local"),
            format!("imageswap.{namespace}"),
            "imageswap".to_owned(),
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
        ];
        let ip = self.listen.ip().to_string();
        if !self.listen.ip().is_unspecified() && !names.contains(&ip) {
            names.push(ip);
        }
        names
    }

    fn state_dir(&self) -> anyhow::Result<StateDir> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        // A variable that is set to nothing is not set.
        let named = self.state_dir.clone().filter(|path| !path.is_empty());
        let named = named.map(PathBuf::from);
        let path = named
            .or_else(|| Some(PathBuf::from(variable("XDG_STATE_HOME")?).join("imageswap")))
            .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/state/imageswap")))
            .context(
                "there is no home directory to keep the certificate in; name one with --state-dir",
            )?;
        Ok(StateDir { path })
    }

    fn webhook(&self, rules: &SharedRules, metrics: &Metrics) -> Webhook {
        Webhook {
            rules: rules.clone(),
            disable_label: self.disable_label.as_str().into(),
            pod_name: self.pod_name.as_deref().map(Into::into),
            metrics: metrics.clone(),
        }
    }

    fn limits(&self) -> Limits {
        let mib = |n: u32| n as usize * (1 << 20);
        Limits {
            max_in_flight: self.max_in_flight as usize,
            max_body: mib(self.max_body_mib),
            body_memory: mib(self.body_memory_mib),
            request_timeout: self.request_timeout,
        }
    }

    fn patience(&self) -> Patience {
        Patience {
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(150),
            max_age: self.max_connection_age,
        }
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

fn name_forgotten() {
    let set: Vec<_> = FORGOTTEN
        .into_iter()
        .filter(|name| std::env::var_os(name).is_some())
        .collect();
    if !set.is_empty() {
        let names = set.join(", ");
        warn!("set, but without a meaning since ImageSwap 2: {names} (docs/compatibility.md)");
    }
}

/// The two lines that a person needs.
fn greet(address: SocketAddr, admin: SocketAddr, dir: &StateDir) -> anyhow::Result<()> {
    use std::io::Write;
    let host = |address: SocketAddr| {
        if address.ip().is_unspecified() || address.ip().is_loopback() {
            format!("localhost:{}", address.port())
        } else {
            address.to_string()
        }
    };
    let data = if std::path::Path::new(TRY_FILE).is_file() {
        format!("@{TRY_FILE}")
    } else {
        format!("'{TRY_REVIEW}'")
    };
    let (ca, url) = (dir.ca(), format!("https://{}/", host(address)));
    let mut out = terminal::stdout();
    writeln!(
        out,
        "imageswap {} listens on {url} (metrics and probes: http://{}/metrics)",
        env!("CARGO_PKG_VERSION"),
        host(admin),
    )?;
    writeln!(out, "try: curl --cacert {} -d {data} {url}", quoted(&ca))?;
    out.flush()?;
    Ok(())
}

/// A path as a shell takes it.
fn quoted(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@%".contains(c);
    if text.chars().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

// === values of flags ===

/// `HOST:PORT`, or `:PORT` for all addresses.
fn address(text: &str) -> Result<SocketAddr, String> {
    let full = match text.strip_prefix(':') {
        Some(port) if !text.starts_with("::") => format!("[::]:{port}"),
        _ => text.to_owned(),
    };
    full.parse()
        .map_err(|_| "an address is IP:PORT, [IPv6]:PORT, or :PORT for all".to_owned())
}

/// `9s`, `10m`, `365d`.
fn duration(text: &str) -> Result<Duration, String> {
    let help = "a time is a number with a unit: 500ms, 9s, 10m, 12h, 365d";
    let days = text
        .strip_suffix('d')
        .and_then(|days| days.trim().parse::<u32>().ok());
    let parsed = match days {
        Some(days) => Duration::from_secs(u64::from(days) * 86_400),
        None => {
            let signed: jiff::SignedDuration = text.parse().map_err(|_| help.to_owned())?;
            Duration::try_from(signed).map_err(|_| help.to_owned())?
        }
    };
    if parsed > MAX_TIME {
        return Err("a time is at most 36500d".to_owned());
    }
    Ok(parsed)
}

/// A hundred years: dates and deadlines are reckoned with it.
const MAX_TIME: Duration = Duration::from_secs(36_500 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("127.0.0.1:5000", Some("127.0.0.1:5000")),
            (":0", Some("[::]:0")),
            ("[::1]:5", Some("[::1]:5")),
            ("localhost:5000", None),
            ("5000", None),
            ("", None),
        ] {
            assert_eq!(
                address(text).ok(),
                expected.map(|a| a.parse().unwrap()),
                "{text}"
            );
        }
    }

    #[test]
    fn durations() {
        for (text, expected) in [
            ("9s", Some(9_000)),
            ("500ms", Some(500)),
            ("10m", Some(600_000)),
            ("365d", Some(31_536_000_000)),
            ("0s", Some(0)),
            ("36500d", Some(3_153_600_000_000)),
            ("36501d", None),
            ("9223372036854775807s", None),
            ("-1s", None),
            ("9", None),
            ("", None),
        ] {
            assert_eq!(
                duration(text).ok().map(|d| d.as_millis()),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn paths_are_quoted_for_a_shell() {
        assert_eq!(quoted("/a/b-c.d".as_ref()), "/a/b-c.d");
        assert_eq!(quoted("/a b/it's".as_ref()), r"'/a b/it'\''s'");
    }
}
