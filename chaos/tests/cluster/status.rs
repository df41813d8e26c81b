//! What `imageswap status` says of an installation in each of its states: its exit code, and the
//! identifiers of what it finds.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chaos::command::{eventually, output, run};
use chaos::install::{self, CONFIGURATION, NAMESPACE};
use serde_json::{Value, json};

use crate::world::{Installed, QUICK, World, text};
use chaos::replicas::{Process, leader, leaves, process, replicas};
use chaos::rotation::{PATIENCE, foreign, patch_secret, served, settled};

/// A handshake that nobody answers takes five seconds, and probes must notice first.
const SOON: Duration = Duration::from_secs(30);

/// What it said.
#[derive(Debug)]
pub(crate) struct Status {
    code: Option<i32>,
    pub(crate) report: Value,
}

impl Status {
    /// As one of the replicas sees it.
    pub(crate) fn inside(world: &World, pod: &str) -> anyhow::Result<Self> {
        let words = ["-n", NAMESPACE, "exec", pod, "--", "/imageswap", "status"];
        Self::said(
            &mut world
                .cluster
                .kubectl([&words[..], &["-o", "json"]].concat()),
        )
    }

    /// As a person sees it, with a kubeconfig.
    pub(crate) fn outside(world: &World) -> anyhow::Result<Self> {
        let mut status = world.cluster.program(&world.binary);
        Self::said(status.args(["status", "-o", "json"]))
    }

    fn said(command: &mut Command) -> anyhow::Result<Self> {
        let output = output(command)?;
        let report = serde_json::from_slice(&output.stdout)
            .with_context(|| text(&[output.stdout, output.stderr].concat()))?;
        let code = output.status.code();
        Ok(Self { code, report })
    }

    /// What it finds, each once and in the order of the alphabet.
    fn ids(&self) -> Vec<&str> {
        let findings = self.report["findings"].as_array().into_iter().flatten();
        let mut ids: Vec<_> = findings.filter_map(|it| it["id"].as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Whether it finds this, and is right about whether that is bad.
    pub(crate) fn ensure(&self, ids: &[&str]) -> anyhow::Result<()> {
        ensure!(self.ids() == ids, "{:?}: {}", self.ids(), self.report);
        let code = i32::from(!ids.is_empty());
        ensure!(self.code == Some(code), "{:?} of {ids:?}", self.code);
        ensure!(self.report["healthy"] == ids.is_empty(), "{}", self.report);
        Ok(())
    }
}

/// Waits until it finds this from outside.
fn finds(world: &World, ids: &[&str]) -> anyhow::Result<()> {
    eventually("the right status", SOON, || {
        Status::outside(world)?.ensure(ids)
    })
}

pub(crate) fn in_every_state(world: &World) -> anyhow::Result<()> {
    world.need_with(Installed::Production, &QUICK)?;
    settled(&world.cluster)?;
    healthy(world)?;
    in_a_rotation(world).context("in a rotation")?;
    with_one_down(world).context("with one down")?;
    with_one_leaving(world).context("with one leaving")?;

    // Nobody is there, and those who come then leave the caBundle to somebody who does not care.
    let careless = ("IMAGESWAP_PATCH_CA_BUNDLE", "false");
    world.set(&[&QUICK[..], &[careless]].concat())?;
    world.scale(0)?;
    finds(world, &["leader-none", "replicas-none"])?;
    patch_secret(&world.cluster, &json!({"data": {"tls.key": ""}}))?;
    finds(world, &["leader-none", "replicas-none", "secret-unusable"])?;
    world.kubectl(&["-n", NAMESPACE, "delete", "secret", "imageswap-tls"])?;
    finds(world, &["leader-none", "replicas-none", "secret-missing"])?;
    let at = "/webhooks/0/clientConfig/caBundle";
    let patch = |patch: Value| {
        let patch = json!([patch]).to_string();
        let words = ["mutatingwebhookconfiguration", CONFIGURATION, "--type=json"];
        world.kubectl(&[&["patch"], &words[..], &["-p", &patch]].concat())
    };
    patch(json!({"op": "remove", "path": at}))?;
    let scale = ["scale", "deployment/imageswap", "--replicas=3"];
    world.kubectl(&[&["-n", NAMESPACE], &scale[..]].concat())?;
    let rollout = ["rollout", "status", "deployment/imageswap", "--timeout=60s"];
    world.kubectl(&[&["-n", NAMESPACE], &rollout[..]].concat())?;
    finds(world, &["ca-bundle-empty", "replica-untrusted"])?;
    ensure!(
        install::ca_bundle(&world.cluster)?.is_empty(),
        "it was filled"
    );
    let other = STANDARD.encode(foreign()?.ca);
    patch(json!({"op": "add", "path": at, "value": other}))?;
    finds(world, &["ca-bundle-distrusts", "replica-untrusted"])?;

    world.need_with(Installed::Production, &QUICK)?;
    settled(&world.cluster)?;
    finds(world, &[])
}

fn healthy(world: &World) -> anyhow::Result<()> {
    finds(world, &[])?;
    let pods = replicas(&world.cluster)?;
    let name = pods[0]["metadata"]["name"].as_str().context("no name")?;
    let inside = Status::inside(world, name)?;
    inside.ensure(&[])?;
    let seen = inside.report["replicas"]
        .as_array()
        .context("no replicas")?;
    ensure!(seen.len() == 3, "{}", inside.report);
    let is_well = |replica: &Value| replica["trusted"] == true && replica["ready"] == true;
    ensure!(seen.iter().all(is_well), "{}", inside.report);
    let holder = inside.report["leader"]["holder"].as_str();
    ensure!(
        holder == Some(&leader(&world.cluster)?),
        "{}",
        inside.report
    );
    Ok(())
}

/// Nothing is wrong, and both CAs are shown.
fn in_a_rotation(world: &World) -> anyhow::Result<()> {
    let before = leaves(&world.cluster)?;
    let mut rotate = world.cluster.program(&world.binary);
    let rotate = rotate.args(["rotate", "--wait"]).stdout(Stdio::piped());
    let rotate = rotate.spawn()?;
    let status = eventually("both CAs", PATIENCE, || {
        let status = Status::outside(world)?;
        ensure!(
            status.report["webhooks"][0]["cas"] == 2,
            "{}",
            status.report
        );
        Ok(status)
    })?;
    // Replicas take the new leaf one after the other.
    ensure!(
        status.ids().iter().all(|id| *id == "replica-other-leaf"),
        "{}",
        status.report
    );
    ensure!(status.code == Some(0), "{:?}", status.code);
    let step = status.report["rotation"]["step"].as_str();
    ensure!(
        matches!(step, Some("promote" | "prune")),
        "{}",
        status.report
    );
    served(&world.cluster, &before)?;
    let output = rotate.wait_with_output()?;
    let said = text(&output.stdout);
    ensure!(
        output.status.success() && said.contains("done: every replica serves it"),
        "{}: {said}",
        output.status
    );
    Ok(())
}

/// A Pod that does not lead.
fn follower(world: &World) -> anyhow::Result<Value> {
    let holder = leader(&world.cluster)?;
    let leads = |pod: &Value| {
        let name = pod["metadata"]["name"].as_str();
        name.is_some_and(|name| holder.contains(name))
    };
    let mut pods = replicas(&world.cluster)?.into_iter();
    pods.find(|pod| !leads(pod)).context("no Pod")
}

/// As in each rollout: that is no reason for a warning.
fn with_one_leaving(world: &World) -> anyhow::Result<()> {
    finds(world, &[])?;
    let pod = follower(world)?;
    let name = pod["metadata"]["name"].as_str().context("no name")?;
    world.kubectl(&["-n", NAMESPACE, "delete", "pod", name, "--wait=false"])?;
    eventually("a replica that goes", SOON, || {
        let status = Status::outside(world)?;
        let is_right = status.ids() == ["replica-leaving"] && status.code == Some(0);
        ensure!(is_right, "{:?}: {}", status.code, status.report);
        Ok(())
    })?;
    finds(world, &[])
}

/// One that does not lead stands still.
fn with_one_down(world: &World) -> anyhow::Result<()> {
    let pod = follower(world)?;
    let (node, process) = process(&world.cluster, &pod, Process::Worker)?;
    let signal = |signal: &str| run(node.command("kill").args(["-s", signal, &process]));
    signal("STOP")?;
    let found = finds(
        world,
        &[
            "replica-not-ready",
            "replica-silent",
            "replica-unreachable",
            "replicas-missing",
        ],
    );
    signal("CONT")?;
    found
}
