//! The leader goes in every step of a rotation, and another one brings the same rotation to its
//! end.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chaos::command::eventually;
use chaos::install::{self, CONFIGURATION, NAMESPACE};
use chaos::progress::say;
use serde_json::{Value, json};

use crate::replicas::lost_own_calls_only;
use crate::world::{Installed, QUICK, World, under_load};
use chaos::replicas::{Process, lasting_leader, leader, leaves, process, replicas};
use chaos::rotation::{PATIENCE, ask, finished, secret, served, settled};

/// How a leader goes.
#[derive(Debug, Clone, Copy)]
enum End {
    /// Its server is killed as by the kernel: nothing is said or given up, and its keeper starts
    /// another.
    Killed,
    /// Its Pod is deleted by force: it is told, and has a moment.
    Deleted,
}

/// What the cluster shows when a step has been taken.
struct Step {
    name: &'static str,
    /// A field, and of which object.
    field: &'static str,
    object: &'static [&'static str],
    /// Whether it is so, from all values of the field since before the rotation.
    is_taken: fn(&[String]) -> bool,
}

const SECRET: &[&str] = &["-n", NAMESPACE, "secret/imageswap-tls"];
const WEBHOOK: &[&str] = &["mutatingwebhookconfiguration", CONFIGURATION];
const BUNDLE: &str = "{.webhooks[0].clientConfig.caBundle}";

const STEPS: [Step; 5] = [
    Step {
        name: "stage",
        field: r"{.data.next\.crt}",
        object: SECRET,
        is_taken: |seen| seen.last().is_some_and(|next| !next.is_empty()),
    },
    Step {
        name: "trust",
        field: BUNDLE,
        object: WEBHOOK,
        is_taken: one_more,
    },
    // After `trust` the leader has looked again, and found that it has to wait: see `reached`.
    Step {
        name: "wait",
        field: BUNDLE,
        object: WEBHOOK,
        is_taken: one_more,
    },
    Step {
        name: "promote",
        field: r"{.data.tls\.crt}",
        object: SECRET,
        is_taken: |seen| seen.last() != seen.first(),
    },
    // The first half of it: the caBundle has both CAs still.
    Step {
        name: "prune",
        field: r"{.data.ca\.crt}",
        object: SECRET,
        is_taken: |seen| seen.last().is_some_and(|last| cas(last) == 1) && seen.len() > 2,
    },
];

/// How many CAs a value holds.
fn cas(value: &str) -> usize {
    let pem = STANDARD.decode(value).unwrap_or_default();
    let pem = String::from_utf8_lossy(&pem);
    pem.matches("BEGIN CERTIFICATE").count()
}

/// A CA has joined the others; that of the rotation before may have gone since.
fn one_more(seen: &[String]) -> bool {
    let fewest = seen.iter().map(|value| cas(value)).min();
    seen.last().map(|last| cas(last)) > fewest
}

pub(crate) fn leaders_killed(world: &World) -> anyhow::Result<()> {
    let report = in_every_step(world, End::Killed)?;
    lost_own_calls_only(&report, STEPS.len())
}

pub(crate) fn leaders_deleted(world: &World) -> anyhow::Result<()> {
    let report = in_every_step(world, End::Deleted)?;
    ensure!(report.is_clean(), "{report}");
    Ok(())
}

fn in_every_step(world: &World, end: End) -> anyhow::Result<chaos::load::Report> {
    world.need_with(Installed::Production, &QUICK)?;
    settled(&world.cluster)?;
    let (report, ()) = under_load(world, || {
        for step in &STEPS {
            let started = Instant::now();
            let left =
                one(world, step, end).with_context(|| format!("{end:?} at {}", step.name))?;
            say(format_args!(
                "{end:?} at {}, which left {left}; at rest after {:.1} s",
                step.name,
                started.elapsed().as_secs_f32()
            ));
        }
        Ok(())
    })?;
    say(format_args!("leaders {end:?} in every step: {report}"));
    Ok(report)
}

/// One rotation. Says what the leader that went left behind.
fn one(world: &World, step: &Step, end: End) -> anyhow::Result<String> {
    let token = format!("{end:?}-{}", step.name);
    let holder = eventually("a leader", PATIENCE, || lasting_leader(&world.cluster))?;
    let before = leaves(&world.cluster)?;
    let armed = Armed::new(world, &holder, end)?;
    let mut watch = Watch::start(world, step)?;
    ask(&world.cluster, &token)?;
    watch.reached(step)?;
    if step.name == "wait" {
        waits(world, &armed.pod)?;
    }
    armed.fire()?;
    let secret_left = secret(&world.cluster)?;
    let bundle_left = install::ca_bundle(&world.cluster)?;
    // It led to the end, and was not put aside for another one before.
    let to_come = match &secret_left["data"]["next.crt"] {
        Value::Null => &secret_left["data"]["tls.crt"],
        next => next,
    };
    // The last CA is pruned while the next rotation goes on, unless what is pruned is at stake.
    match step.name {
        "prune" => finished(&world.cluster, &token)?,
        _ => served(&world.cluster, &before)?,
    }
    ensure!(
        secret(&world.cluster)?["data"]["tls.crt"] == *to_come,
        "another pair was made"
    );
    eventually("another leader", PATIENCE, || {
        let now = leader(&world.cluster)?;
        ensure!(now != holder, "{holder} leads still");
        Ok(())
    })?;
    install::wait(&world.cluster)?;
    let ca = secret_left["data"]["ca.crt"].as_str().unwrap_or_default();
    Ok(format!(
        "{} CAs in the Secret and {} in the caBundle",
        cas(ca),
        cas(&bundle_left)
    ))
}

/// Waits until the leader has found that it has to wait.
fn waits(world: &World, pod: &str) -> anyhow::Result<()> {
    eventually("the leader waits", PATIENCE, || {
        let step = r#"imageswap_rotation_step_info{step="promote"}"#;
        ensure!(world.metric(pod, step)? > 0.0, "it does something else");
        Ok(())
    })
}

/// All values that a field takes.
struct Watch {
    kubectl: Child,
    values: Receiver<String>,
    seen: Vec<String>,
}

impl Watch {
    /// Returns when the value of now is known.
    fn start(world: &World, step: &Step) -> anyhow::Result<Self> {
        let template = format!("jsonpath={}{{\"\\n\"}}", step.field);
        let words = [&["get", "--watch", "-o", &template], step.object].concat();
        let mut kubectl = world.cluster.kubectl(&words);
        let mut kubectl = kubectl.stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(kubectl.stdout.take().context("no output")?).lines();
        let (sender, values) = mpsc::channel();
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let seen = Vec::new();
        let mut watch = Self {
            kubectl,
            values,
            seen,
        };
        watch.next(PATIENCE)?;
        Ok(watch)
    }

    fn next(&mut self, patience: Duration) -> anyhow::Result<()> {
        let value = self.values.recv_timeout(patience);
        let count = self.seen.len();
        self.seen
            .push(value.with_context(|| format!("no value after {count}"))?);
        Ok(())
    }

    /// Waits until the step is taken.
    fn reached(&mut self, step: &Step) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        while !(step.is_taken)(&self.seen) {
            self.next(until.saturating_duration_since(Instant::now()))?;
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

/// What ends a leader at once when it is told to: to find it and to start a program takes longer
/// than a step.
struct Armed {
    program: Child,
    told: String,
    pod: String,
}

impl Armed {
    fn new(world: &World, holder: &str, end: End) -> anyhow::Result<Self> {
        let pods = replicas(&world.cluster)?;
        let name = |pod: &Value| pod["metadata"]["name"].as_str().map(str::to_owned);
        let pod = pods
            .iter()
            .find(|pod| name(pod).is_some_and(|name| holder.contains(&name)))
            .with_context(|| format!("no Pod is {holder}"))?;
        let name = name(pod).unwrap_or_default();
        let (mut command, told) = match end {
            End::Killed => {
                let (node, process) = process(&world.cluster, pod, Process::Worker)?;
                let mut sh = node.command("sh");
                sh.args(["-c", "read go && kill -s KILL \"$1\"", "sh", &process]);
                (sh, "go".to_owned())
            }
            End::Deleted => {
                let words = ["delete", "--force", "--grace-period=0", "--wait=false"];
                let object = json!({
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": name, "namespace": NAMESPACE},
                });
                let kubectl = world.cluster.kubectl([&words[..], &["-f", "-"]].concat());
                (kubectl, object.to_string())
            }
        };
        let program = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            program,
            told,
            pod: name,
        })
    }

    fn fire(mut self) -> anyhow::Result<()> {
        let mut stdin = self.program.stdin.take().context("no input")?;
        writeln!(stdin, "{}", self.told)?;
        drop(stdin);
        let ended = self.program.wait()?;
        ensure!(ended.success(), "{} could not be ended: {ended}", self.pod);
        Ok(())
    }
}
