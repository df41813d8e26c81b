//! Pods created at a steady rate through kube-apiserver, and every answer looked at.
//!
//! The load is open: a call is made when its time has come, whether those before it are answered or
//! not, and its latency counts from that time. So a stall is seen by all the calls that it would
//! have met.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::cluster::Cluster;

/// How long a call may take before it counts as failed: kube-apiserver's own limit, and a little.
const PATIENCE: Duration = Duration::from_secs(40);

/// How many different failures are told.
const TOLD: usize = 5;

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Calls a second.
    pub rate: u32,
    /// For how long.
    pub duration: Duration,
    /// Over how many connections' worth of clients.
    pub clients: usize,
    /// In which namespace.
    pub namespace: String,
    /// Containers of each Pod: what makes it large.
    pub containers: usize,
    /// Their image, and what must become of it.
    pub image: String,
    /// See `image`.
    pub swapped: String,
    /// Whether the Pods are stored, or only gone through admission.
    pub is_real: bool,
}

/// What came of it.
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
    /// Some of the failures.
    pub failures: Vec<String>,
}

/// One call, with times from the start of the load.
#[derive(Debug)]
struct Call {
    due: Duration,
    answered: Duration,
    result: Result<bool, String>,
}

/// A load under way, in a process of its own in node 1's network.
#[derive(Debug)]
pub struct Load(Child);

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
    Ok(Load(worker.spawn().context("can't start the load")?))
}

impl Load {
    /// Waits until its time is over.
    ///
    /// # Errors
    /// It ends without a report.
    pub fn wait(mut self) -> anyhow::Result<Report> {
        // Its standard input stays open as long as it shall go on.
        let pipe = self.0.stdin.take();
        let output = self.0.wait_with_output()?;
        drop(pipe);
        let report = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&report).with_context(|| format!("no report: {report:?}"))
    }

    /// Makes no more calls, and waits for the answers to those that were made.
    ///
    /// # Errors
    /// As for [`Load::wait`].
    pub fn end(mut self) -> anyhow::Result<Report> {
        drop(self.0.stdin.take());
        self.wait()
    }
}

/// Runs a load to its end, or until standard input ends, against the cluster of a kubeconfig whose
/// network this process is in.
///
/// # Errors
/// The kubeconfig is not one. Calls that fail are counted.
pub fn run(plan: &Plan, kubeconfig: &Path) -> anyhow::Result<Report> {
    ensure!(plan.rate > 0 && plan.clients > 0, "a load of nothing");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let calls = runtime.block_on(calls(plan, kubeconfig))?;
    // Standard input may be open still.
    runtime.shutdown_background();
    Ok(report(&calls))
}

async fn calls(plan: &Plan, kubeconfig: &Path) -> anyhow::Result<Vec<Call>> {
    let mut clients = Vec::new();
    for _ in 0..plan.clients {
        let file = Kubeconfig::read_from(kubeconfig)?;
        let mut config =
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        // What fails is to be seen.
        config.default_retry = false;
        clients.push(Client::try_from(config)?);
    }
    // Before the first call, so that none waits for it.
    let mut ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let started = Instant::now();
    let pause = Duration::from_secs(1) / plan.rate;
    let mut running = JoinSet::new();
    let mut done = Vec::new();
    for (n, client) in (0u32..).zip(clients.iter().cycle()) {
        let due = pause * n;
        let is_over = tokio::select! {
            () = tokio::time::sleep_until(started + due) => due >= plan.duration,
            _ = &mut ended => true,
        };
        if is_over {
            break;
        }
        let (client, plan) = (client.clone(), plan.clone());
        running.spawn(async move {
            let result = match timeout(PATIENCE, create(&client, &plan, n)).await {
                Ok(result) => result.map_err(|error| told(&error)),
                Err(_) => Err(format!("no answer within {PATIENCE:?}")),
            };
            let answered = started.elapsed();
            Call {
                due,
                answered,
                result,
            }
        });
        while let Some(Ok(call)) = running.try_join_next() {
            done.push(call);
        }
    }
    while let Some(call) = running.join_next().await {
        done.push(call.context("a call panicked")?);
    }
    Ok(done)
}

/// kube-apiserver's own sentence where there is one: kube tells it three times.
fn told(error: &anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(kube::Error::Api(status)) => status.message.clone(),
        _ => format!("{error:#}"),
    }
}

/// Whether the Pod's images were swapped.
async fn create(client: &Client, plan: &Plan, n: u32) -> anyhow::Result<bool> {
    let containers: Vec<_> = (0..plan.containers)
        .map(|n| json!({"name": format!("c{n}"), "image": plan.image}))
        .collect();
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": format!("load-{n}-"), "labels": {"of": "load"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": containers},
    });
    let dry = if plan.is_real { "" } else { "?dryRun=All" };
    let request = http::Request::post(format!("/api/v1/namespaces/{}/pods{dry}", plan.namespace))
        .header("content-type", "application/json")
        .body(pod.to_string().into_bytes())?;
    let made: Value = client.request(request).await?;
    let made = made
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .context("a Pod without containers")?;
    let is_swapped = |container: &Value| container["image"] == plan.swapped;
    Ok(made.len() == plan.containers && made.iter().all(is_swapped))
}

fn report(calls: &[Call]) -> Report {
    let count = |wanted: fn(&Call) -> bool| calls.iter().filter(|call| wanted(call)).count();
    let milliseconds = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let mut latencies: Vec<_> = calls.iter().map(|call| call.answered - call.due).collect();
    latencies.sort();
    let share = |hundredths: usize| {
        let at = (latencies.len() * hundredths)
            .div_ceil(100)
            .saturating_sub(1);
        milliseconds(latencies.get(at).copied().unwrap_or_default())
    };
    let mut failures: Vec<_> = calls
        .iter()
        .filter_map(|call| call.result.clone().err())
        .collect();
    failures.sort();
    failures.dedup();
    failures.truncate(TOLD);
    Report {
        calls: calls.len(),
        swapped: count(|call| call.result == Ok(true)),
        unswapped: count(|call| call.result == Ok(false)),
        failed: count(|call| call.result.is_err()),
        p50: share(50),
        p99: share(99),
        max: share(100),
        gap: milliseconds(gap(calls)),
        failures,
    }
}

/// From the first call's time to the last answer.
fn gap(calls: &[Call]) -> Duration {
    let succeeded = |call: &&Call| call.result == Ok(true);
    let mut successes: Vec<_> = calls
        .iter()
        .filter(succeeded)
        .map(|call| call.answered)
        .collect();
    successes.sort();
    let end = calls
        .iter()
        .map(|call| call.answered)
        .max()
        .unwrap_or_default();
    let mut last = Duration::ZERO;
    let mut longest = Duration::ZERO;
    for at in successes.into_iter().chain([end]) {
        longest = longest.max(at.saturating_sub(last));
        last = at;
    }
    longest
}

impl Report {
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
        for failure in &self.failures {
            write!(f, "\nfailed: {failure}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(due: u64, answered: u64, result: Result<bool, &str>) -> Call {
        Call {
            due: Duration::from_millis(due),
            answered: Duration::from_millis(answered),
            result: result.map_err(str::to_owned),
        }
    }

    #[test]
    fn every_call_is_counted_once_and_latencies_count_from_when_it_was_due() {
        let calls = [
            call(0, 10, Ok(true)),
            call(100, 130, Ok(true)),
            call(200, 700, Err("refused")),
            call(300, 710, Ok(false)),
            call(400, 720, Ok(true)),
        ];
        let report = report(&calls);
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
    fn a_load_that_failed_from_the_start_is_one_gap() {
        let failed = report(&[call(0, 5, Err("x")), call(10, 900, Err("x"))]);
        assert_eq!(failed.gap, 900.0);
        assert!(!failed.is_clean());
        assert!(!report(&[]).is_clean());
        assert!(report(&[call(0, 5, Ok(true))]).is_clean());
    }
}
