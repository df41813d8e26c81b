//! Pods created at a steady rate through kube-apiserver, and every answer looked at.
//!
//! The load is open: a call is made when its time has come, whether those before it are answered or
//! not, and its latency counts from that time. So a stall is seen by all the calls that it would
//! have met. Every call is told as soon as it is answered, so that one can watch.
//!
//! Where there are several servers, those are called that say they are ready, as behind a load
//! balancer.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use http::header::CONTENT_TYPE;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, ServiceBuilder};

use crate::clock;
use crate::cluster::Cluster;
use crate::{image, install};

/// How long a call may take before it counts as failed: kube-apiserver's own limit, and a little.
const PATIENCE: Duration = Duration::from_secs(40);

/// How often a server is asked whether it is ready.
const PROBED: Duration = Duration::from_secs(1);

/// How long it may take to say so; one whose way to etcd is long takes long.
const SAID: Duration = Duration::from_secs(10);

/// How long a Pod that was really created is left alone: the nodes shall see it, and not fill up.
const LIFE: Duration = Duration::from_secs(5);

/// Pods a second that disturb nobody on two cores.
pub const RATE: u32 = 20;

/// How many different failures are told to a person.
const TOLD: usize = 5;

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Calls a second.
    pub rate: u32,
    /// For how long.
    pub duration: Duration,
    /// Over how many connections' worth of clients: every second one speaks HTTP/2.
    pub clients: usize,
    /// Whom the clients call, in turns and if they are ready: URLs. Whom the kubeconfig names, if
    /// none.
    pub servers: Vec<String>,
    /// In which namespace.
    pub namespace: String,
    /// Containers of each Pod: what makes it large.
    pub containers: usize,
    /// Bytes that are added to each Pod: what makes it large without more to swap.
    pub padding: usize,
    /// The containers' image.
    pub image: String,
    /// What must become of it: one of these, and the same in all containers.
    pub swapped: Vec<String>,
    /// One Pod of so many is really created, all others only go through admission. 0 for none.
    pub real: u32,
}

impl Plan {
    /// [`RATE`] Pods a second that must be swapped, for an hour, and are not stored.
    pub fn new(namespace: impl Into<String>) -> Self {
        Self {
            rate: RATE,
            duration: Duration::from_secs(3_600),
            clients: 4,
            servers: Vec::new(),
            namespace: namespace.into(),
            containers: 1,
            padding: 0,
            image: install::UNSWAPPED.to_owned(),
            swapped: vec![image::WORKLOAD.to_owned()],
            real: 0,
        }
    }
}

/// One call. Times are those of [`clock::now`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// When it was to be made.
    pub due: Duration,
    /// When its answer was there, or it was given up.
    pub answered: Duration,
    /// Which of the plan's servers was called, from 0.
    pub server: usize,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Answered with the swapped image.
    Swapped,
    /// Answered with another image: this one.
    Unswapped(String),
    /// Refused, or not answered, and why.
    Failed(String),
}

/// What came of many.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Calls made.
    pub calls: usize,
    /// Answered with the swapped image.
    pub swapped: usize,
    /// Answered with another image.
    pub unswapped: usize,
    /// Refused, or not answered.
    pub failed: usize,
    /// Milliseconds from when a call was due to its answer: the median, 99 of 100, the longest.
    pub p50: f64,
    /// See `p50`.
    pub p99: f64,
    /// See `p50`.
    pub max: f64,
    /// The longest time without a success, in milliseconds.
    pub gap: f64,
    /// What the failures said, each once.
    pub failures: Vec<String>,
}

/// A load under way, in a process of its own in node 1's network.
#[derive(Debug)]
pub struct Load {
    worker: Child,
    /// It goes on as long as this is open.
    input: Option<ChildStdin>,
    calls: Arc<Mutex<Vec<Call>>>,
    reader: Option<JoinHandle<anyhow::Result<()>>>,
}

/// Starts a load on a cluster.
///
/// # Errors
/// It can't be started. Calls that fail are counted.
pub fn start(cluster: &Cluster, plan: &Plan) -> anyhow::Result<Load> {
    let mut worker = cluster.chaos();
    worker
        .arg("load-worker")
        .arg(cluster.kubeconfig())
        .arg(serde_json::to_string(plan)?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut worker = worker.spawn().context("can't start the load")?;
    let input = worker.stdin.take();
    let output = worker.stdout.take().context("a load without output")?;
    let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
    let told = calls.clone();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let call = serde_json::from_str(&line?).context("the load tells what is no call")?;
            told.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(call);
        }
        Ok(())
    });
    Ok(Load {
        worker,
        input,
        calls,
        reader: Some(reader),
    })
}

impl Load {
    /// How many calls were answered so far, and how many of them otherwise than they should be.
    pub fn so_far(&self) -> (usize, usize) {
        let calls = self.calls();
        let bad = calls.iter().filter(|call| !call.outcome.is_swapped());
        (calls.len(), bad.count())
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until its time is over.
    ///
    /// # Errors
    /// It ends before that.
    pub fn wait(self) -> anyhow::Result<Report> {
        Ok(Report::of(&self.wait_for_all()?))
    }

    /// The same, with every call.
    ///
    /// # Errors
    /// As for [`Load::wait`].
    pub fn wait_for_all(mut self) -> anyhow::Result<Vec<Call>> {
        self.rest()?;
        Ok(std::mem::take(&mut *self.calls()))
    }

    /// Makes no more calls, and waits for the answers to those that were made.
    ///
    /// # Errors
    /// As for [`Load::wait`].
    pub fn end(self) -> anyhow::Result<Report> {
        Ok(Report::of(&self.finish()?))
    }

    /// The same, with every call.
    ///
    /// # Errors
    /// As for [`Load::wait`].
    pub fn finish(mut self) -> anyhow::Result<Vec<Call>> {
        drop(self.input.take());
        self.wait_for_all()
    }

    /// To the end of what it tells.
    fn rest(&mut self) -> anyhow::Result<()> {
        let told = self.reader.take().map(JoinHandle::join);
        let ended = self.worker.wait()?;
        ensure!(ended.success(), "the load ended early: {ended}");
        match told {
            Some(Ok(told)) => told,
            _ => bail!("what the load told was lost"),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // One that is not wanted any more; one that has ended does not mind.
        let _ = self.worker.kill();
        let _ = self.worker.wait();
    }
}

/// Runs a load to its end, or until standard input ends, against the cluster of a kubeconfig whose
/// network this process is in. Every call is written to `told`, JSON, a line each.
///
/// # Errors
/// The kubeconfig is not one, or nobody is told any more. Calls that fail are told.
pub fn run(plan: &Plan, kubeconfig: &Path, told: impl Write) -> anyhow::Result<()> {
    ensure!(plan.rate > 0 && plan.clients > 0, "a load of nothing");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(calls(plan, kubeconfig, told));
    // Standard input may be open still.
    runtime.shutdown_background();
    done
}

async fn calls(plan: &Plan, kubeconfig: &Path, mut told: impl Write) -> anyhow::Result<()> {
    let mut clients: Vec<Caller> = Vec::new();
    for n in 0..plan.clients {
        // Over HTTP/1.1 and HTTP/2 to each.
        let server = n / 2 % plan.servers.len().max(1);
        let url = plan.servers.get(server).map(String::as_str);
        let client = client(kubeconfig, url, n % 2 == 1).await?;
        let known = clients.iter().find(|known| known.server == server);
        let is_ready = match known {
            Some(known) => known.is_ready.clone(),
            None => Arc::new(AtomicBool::new(true)),
        };
        if url.is_some() && known.is_none() {
            tokio::spawn(probe(client.clone(), is_ready.clone()));
        }
        clients.push(Caller {
            server,
            client,
            is_ready,
        });
    }
    // Before the first call, so that none waits for it.
    let mut ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let (started, began) = (Instant::now(), clock::now());
    let pause = Duration::from_secs(1) / plan.rate;
    let mut running = JoinSet::new();
    for n in 0u32.. {
        let due = pause * n;
        let is_over = tokio::select! {
            () = tokio::time::sleep_until(started + due) => due >= plan.duration,
            _ = &mut ended => true,
        };
        if is_over {
            break;
        }
        let (caller, plan) = (
            next(&clients, n).context("no client")?.clone(),
            plan.clone(),
        );
        running.spawn(async move {
            let outcome = match timeout(PATIENCE, create(caller.client, &plan, n)).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => Outcome::Failed(sentence(&error)),
                Err(_) => Outcome::Failed(format!("no answer within {PATIENCE:?}")),
            };
            Call {
                due: began + due,
                answered: began + started.elapsed(),
                server: caller.server,
                outcome,
            }
        });
        while let Some(call) = running.try_join_next() {
            tell(&mut told, &call.context("a call panicked")?)?;
        }
    }
    while let Some(call) = running.join_next().await {
        tell(&mut told, &call.context("a call panicked")?)?;
    }
    Ok(())
}

/// A client, and whom it calls.
#[derive(Clone)]
struct Caller {
    server: usize,
    client: Client,
    is_ready: Arc<AtomicBool>,
}

/// Whose turn it is: if its server is not ready, the next one's whose server is.
fn next(clients: &[Caller], n: u32) -> Option<&Caller> {
    let turn = n as usize % clients.len().max(1);
    let (before, after) = clients.split_at(turn);
    let mut all = after.iter().chain(before);
    let is_ready = |caller: &&Caller| caller.is_ready.load(Ordering::Relaxed);
    all.clone().find(is_ready).or(all.next())
}

/// Asks a server all the time whether it is ready.
async fn probe(client: Client, is_ready: Arc<AtomicBool>) {
    loop {
        let request = http::Request::get("/readyz").body(Vec::new());
        let answered = match request {
            Ok(request) => timeout(SAID, client.request_text(request)).await,
            Err(_) => return,
        };
        is_ready.store(matches!(answered, Ok(Ok(_))), Ordering::Relaxed);
        sleep(PROBED).await;
    }
}

fn tell(told: &mut impl Write, call: &Call) -> anyhow::Result<()> {
    let line = serde_json::to_string(call)?;
    writeln!(told, "{line}").context("nobody listens")
}

/// One with connections of its own, to this URL or to whom the kubeconfig names. Not kube's, which
/// speaks HTTP/1.1 alone, and without `TCP_NODELAY`: each call waited 40 ms for an acknowledgement.
pub(crate) async fn client(
    kubeconfig: &Path,
    url: Option<&str>,
    is_http2: bool,
) -> anyhow::Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    if let Some(url) = url {
        config.cluster_url = url.parse().context("a server that is no URL")?;
    }
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_only();
    let connector = match is_http2 {
        true => connector.enable_http2().wrap_connector(tcp),
        false => connector.enable_http1().wrap_connector(tcp),
    };
    let pool = Pool::builder(TokioExecutor::new())
        .http2_only(is_http2)
        // What fails is to be seen.
        .retry_canceled_requests(false)
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .map_err(BoxError::from)
        .service(pool);
    Ok(Client::new(service, config.default_namespace))
}

/// kube-apiserver's own sentence where there is one: kube tells it three times.
fn sentence(error: &anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(kube::Error::Api(status)) => status.message.clone(),
        _ => format!("{error:#}"),
    }
}

/// Makes a Pod and looks at its images.
pub(crate) async fn create(client: Client, plan: &Plan, n: u32) -> anyhow::Result<Outcome> {
    let is_real = plan.real > 0 && n.is_multiple_of(plan.real);
    let pods = format!("/api/v1/namespaces/{}/pods", plan.namespace);
    let dry = if is_real { "" } else { "?dryRun=All" };
    let request = http::Request::post(format!("{pods}{dry}"))
        .header(CONTENT_TYPE, "application/json")
        .body(pod(plan, n).to_string().into_bytes())?;
    let made: Value = client.request(request).await?;
    if is_real && let Some(name) = made.pointer("/metadata/name").and_then(Value::as_str) {
        let delete = http::Request::delete(format!("{pods}/{name}")).body(Vec::new())?;
        tokio::spawn(async move {
            sleep(LIFE).await;
            // If not, it goes with its namespace.
            let _ = client.request_text(delete).await;
        });
    }
    let made = made
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .context("a Pod without containers")?;
    ensure!(made.len() == plan.containers, "{} containers", made.len());
    let all_are = |image: &String| made.iter().all(|one| one["image"] == *image);
    if plan.swapped.iter().any(all_are) {
        return Ok(Outcome::Swapped);
    }
    let image = made.first().and_then(|one| one["image"].as_str());
    Ok(Outcome::Unswapped(image.unwrap_or_default().to_owned()))
}

fn pod(plan: &Plan, n: u32) -> Value {
    let mut containers: Vec<_> = (0..plan.containers)
        .map(|n| json!({"name": format!("c{n}"), "image": plan.image}))
        .collect();
    if plan.padding > 0
        && let Some(first) = containers.first_mut()
    {
        first["env"] = json!([{"name": "PADDING", "value": "x".repeat(plan.padding)}]);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": format!("load-{n}-"), "labels": {"of": "load"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": containers},
    })
}

/// To the microsecond.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn report(calls: &[&Call]) -> Report {
    let count = |wanted: fn(&Outcome) -> bool| {
        let outcomes = calls.iter().map(|call| &call.outcome);
        outcomes.filter(|outcome| wanted(outcome)).count()
    };
    let mut latencies: Vec<_> = calls.iter().map(|call| call.latency()).collect();
    latencies.sort();
    let share = |hundredths: usize| {
        let at = (latencies.len() * hundredths)
            .div_ceil(100)
            .saturating_sub(1);
        milliseconds(latencies.get(at).copied().unwrap_or_default())
    };
    let mut failures: Vec<_> = calls
        .iter()
        .filter_map(|call| match &call.outcome {
            Outcome::Failed(why) => Some(why.clone()),
            _ => None,
        })
        .collect();
    failures.sort();
    failures.dedup();
    Report {
        calls: calls.len(),
        swapped: count(Outcome::is_swapped),
        unswapped: count(|outcome| matches!(outcome, Outcome::Unswapped(_))),
        failed: count(|outcome| matches!(outcome, Outcome::Failed(_))),
        p50: share(50),
        p99: share(99),
        max: share(100),
        gap: milliseconds(gap(calls)),
        failures,
    }
}

/// From the first call's time to the last answer.
fn gap(calls: &[&Call]) -> Duration {
    let begin = calls.iter().map(|call| call.due).min();
    let end = calls.iter().map(|call| call.answered).max();
    let mut successes: Vec<_> = calls
        .iter()
        .filter(|call| call.outcome.is_swapped())
        .map(|call| call.answered)
        .collect();
    successes.sort();
    let mut last = begin.unwrap_or_default();
    let mut longest = Duration::ZERO;
    for at in successes.into_iter().chain(end) {
        longest = longest.max(at.saturating_sub(last));
        last = at;
    }
    longest
}

impl Call {
    /// From when it was due to its answer.
    pub fn latency(&self) -> Duration {
        self.answered.saturating_sub(self.due)
    }
}

impl Outcome {
    /// Whether all is well.
    pub fn is_swapped(&self) -> bool {
        *self == Self::Swapped
    }

    /// Whether it failed, and why has one of these words in it.
    pub(crate) fn failed_by(&self, words: &[&str]) -> bool {
        match self {
            Self::Failed(why) => words.iter().any(|word| why.contains(word)),
            Self::Swapped | Self::Unswapped(_) => false,
        }
    }
}

impl Report {
    /// Of these calls.
    pub fn of<'a>(calls: impl IntoIterator<Item = &'a Call>) -> Self {
        report(&calls.into_iter().collect::<Vec<_>>())
    }

    /// Some of the failures, for a person.
    pub fn told(&self) -> impl Iterator<Item = &String> {
        self.failures.iter().take(TOLD)
    }

    /// Whether every Pod was let in, with the swapped image.
    pub fn is_clean(&self) -> bool {
        self.calls > 0 && self.swapped == self.calls
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} Pods: {} swapped, {} unswapped, {} failed",
            self.calls, self.swapped, self.unswapped, self.failed
        )?;
        write!(
            f,
            "latency: p50 {} ms, p99 {} ms, longest {} ms; longest time without a success: {} ms",
            self.p50, self.p99, self.max, self.gap
        )?;
        for failure in self.told() {
            write!(f, "\nfailed: {failure}")?;
        }
        match self.failures.len().saturating_sub(TOLD) {
            0 => Ok(()),
            more => write!(f, "\nand {more} others"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(due: u64, answered: u64, outcome: Outcome) -> Call {
        Call {
            due: Duration::from_millis(1_000 + due),
            answered: Duration::from_millis(1_000 + answered),
            server: 0,
            outcome,
        }
    }

    fn failed(why: &str) -> Outcome {
        Outcome::Failed(why.to_owned())
    }

    #[test]
    fn every_call_is_counted_once_and_latencies_count_from_when_it_was_due() {
        let calls = [
            call(0, 10, Outcome::Swapped),
            call(100, 130, Outcome::Swapped),
            call(200, 700, failed("refused")),
            call(300, 710, Outcome::Unswapped(String::new())),
            call(400, 720, Outcome::Swapped),
        ];
        let report = Report::of(&calls);
        assert_eq!(
            (
                report.calls,
                report.swapped,
                report.unswapped,
                report.failed
            ),
            (5, 3, 1, 1)
        );
        assert_eq!((report.p50, report.p99, report.max), (320.0, 500.0, 500.0));
        // From the second answer to the fifth: the failure and the unswapped Pod are no success.
        assert_eq!(report.gap, 590.0);
        assert_eq!(report.failures, ["refused"]);
        assert!(!report.is_clean());
    }

    #[test]
    fn all_failures_are_kept_and_some_are_told() {
        let calls = (0..9).map(|n| call(n, n + 1, failed(&format!("port {}", n % 7))));
        let report = Report::of(&calls.collect::<Vec<_>>());
        assert_eq!(report.failures.len(), 7);
        let told = report.to_string();
        assert!(told.ends_with("failed: port 4\nand 2 others"), "{told}");
    }

    #[test]
    fn a_load_that_failed_from_the_start_is_one_gap() {
        let all_failed = Report::of(&[call(0, 5, failed("x")), call(10, 900, failed("x"))]);
        assert_eq!(all_failed.gap, 900.0);
        assert!(!all_failed.is_clean());
        assert!(!Report::of(&[]).is_clean());
        assert!(Report::of(&[call(0, 5, Outcome::Swapped)]).is_clean());
    }
}
