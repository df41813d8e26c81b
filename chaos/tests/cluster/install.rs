//! Installing on an empty cluster, and removing it again.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chaos::command::{eventually, output};
use chaos::install::{self, CONFIGURATION, MAPS, NAMESPACE};
use serde_json::Value;

use crate::world::{Installed, SWAPPED, UNSWAPPED, World, images, pod, text};

/// How long an installation may take until the first Pod.
const SOON: Duration = Duration::from_secs(15);

/// `imageswap status --pre`, before anything is installed.
pub(crate) fn before(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Nothing)?;
    let admin = world.cluster.kubeconfig();
    let (is_right, ids) = pre(world, &admin)?;
    ensure!(
        is_right && ids == ["maps-missing"],
        "an empty cluster: {ids:?}"
    );

    // Whoever may do little is told so, and of all that they may not see.
    let (is_right, ids) = pre(world, &admin.with_file_name("kube-scheduler.kubeconfig"))?;
    ensure!(
        !is_right && ids.iter().any(|id| id == "rights-missing"),
        "{ids:?}"
    );
    ensure!(ids.iter().any(|id| id == "not-seen"), "{ids:?}");

    // What is left of an installation, and closes the door for ever.
    install::apply_maps(&world.cluster, "default::mirror.example.com\n: :\n")?;
    install::apply(&world.cluster, &first_of_install_yaml()?)?;
    let quota = [
        "-n",
        NAMESPACE,
        "create",
        "quota",
        "few",
        "--hard=pods=1,limits.cpu=1",
    ];
    world.kubectl(&quota)?;
    let found = pre(world, &admin);
    world.uninstall()?;
    let (is_right, mut ids) = found?;
    ids.sort();
    let expected = ["maps-in-error", "quota", "quota-wants", "webhook-blocks"];
    ensure!(!is_right && ids == expected, "{ids:?}");
    Ok(())
}

/// Whether it exits with 0, and its findings.
fn pre(world: &World, kubeconfig: &Path) -> anyhow::Result<(bool, Vec<String>)> {
    let mut command = world.cluster.program(&world.binary);
    command
        .args(["status", "--pre", "-o", "json"])
        .env("KUBECONFIG", kubeconfig);
    let output = output(&mut command)?;
    let report: Value =
        serde_json::from_slice(&output.stdout).with_context(|| text(&output.stderr))?;
    let findings = report["findings"].as_array().context("no findings")?.iter();
    let ids = findings.filter_map(|finding| finding["id"].as_str().map(str::to_owned));
    Ok((output.status.success(), ids.collect()))
}

/// The webhook configuration: it stands first, and closes the door before anybody can answer.
fn first_of_install_yaml() -> anyhow::Result<String> {
    let manifest = fs::read_to_string(chaos::repository().join("deploy/install.yaml"))?;
    let first = manifest
        .split("\n---\n")
        .next()
        .context("an empty manifest")?;
    ensure!(
        first.contains("MutatingWebhookConfiguration"),
        "it does not stand first"
    );
    Ok(first.to_owned())
}

pub(crate) fn on_an_empty_cluster(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Nothing)?;
    install::apply_maps(&world.cluster, MAPS)?;
    let (swapped, other) = (world.namespace()?, world.namespace_with(&[])?);
    let manifest = fs::read_to_string(chaos::repository().join("deploy/install.yaml"))?;
    let image = format!("--image={UNSWAPPED}");
    let refuses = || {
        let said = world.refused(&mut swapped.command(&["run", "early", &image]))?;
        ensure!(
            said.contains("imageswap.webhook.k8s.twr.io"),
            "refused for another reason: {said}"
        );
        anyhow::Ok(())
    };

    install::apply(&world.cluster, &first_of_install_yaml()?)?;
    eventually("fail closed", Duration::from_secs(5), refuses)?;
    other.apply(pod("untouched"))?;
    let untouched = other.get(&["pod/untouched"])?;
    ensure!(
        images(&untouched) == [UNSWAPPED],
        "{:?}",
        images(&untouched)
    );

    let started = Instant::now();
    install::apply(&world.cluster, &manifest)?;
    world.set_installed(Installed::Base);
    loop {
        let created = output(&mut swapped.command(&["run", "web", &image]))?;
        if created.status.success() {
            break;
        }
        let said = text(&created.stderr);
        ensure!(started.elapsed() < SOON, "no Pod within {SOON:?}: {said}");
        ensure!(said.contains("imageswap.webhook.k8s.twr.io"), "{said}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let took = started.elapsed();
    ensure!(took < SOON, "the first Pod after {took:?}");
    ensure!(images(&swapped.runs("web")?) == [SWAPPED]);
    install::wait(&world.cluster)?;
    // Nobody else writes it.
    let owners = world.get(&[
        "mutatingwebhookconfiguration",
        CONFIGURATION,
        "--show-managed-fields",
    ])?;
    let owners = owners["metadata"]["managedFields"].to_string();
    ensure!(owners.matches("f:caBundle").count() == 1, "{owners}");
    Ok(())
}

/// A new installation swaps nothing until its owner says what, and needs no restart then.
pub(crate) fn late_maps(world: &World) -> anyhow::Result<()> {
    world.uninstall()?;
    world.kubectl(&[
        "apply",
        "-f",
        &chaos::repository()
            .join("deploy/install.yaml")
            .display()
            .to_string(),
    ])?;
    world.set_installed(Installed::Base);
    install::wait(&world.cluster)?;
    let namespace = world.namespace()?;
    let image = format!("--image={UNSWAPPED}");
    let shown = || {
        namespace.kubectl(&[
            "run",
            "web",
            &image,
            "--dry-run=server",
            "-o",
            "jsonpath={.spec.containers[0].image}",
        ])
    };
    // Every node must learn where the replicas are.
    let is = eventually("an answer", Duration::from_secs(15), shown)?;
    ensure!(is == UNSWAPPED, "swapped without maps: {is}");
    install::apply_maps(&world.cluster, MAPS)?;
    // The kubelet brings it within its sync period and a little; ImageSwap looks twice a second.
    eventually("the maps are used", Duration::from_secs(90), || {
        let is = shown()?;
        ensure!(is == SWAPPED, "{is}");
        Ok(())
    })?;
    // Every replica: a few new connections find them all.
    eventually("all replicas use them", Duration::from_secs(60), || {
        let pods = world.kubectl(&["-n", NAMESPACE, "get", "pods", "-o", "name"])?;
        for pod in pods.lines() {
            let log = world.kubectl(&["-n", NAMESPACE, "logs", pod])?;
            ensure!(log.contains("loaded the map file"), "{pod} has not");
        }
        Ok(())
    })
}

pub(crate) fn uninstall(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Base)?;
    let namespace = world.namespace()?;
    let manifest = chaos::repository()
        .join("deploy/install.yaml")
        .display()
        .to_string();
    world.removing(|| {
        let words = ["delete", "-f", &manifest, "--timeout=60s"];
        world.kubectl(&words).map(drop)
    })?;
    namespace.apply(pod("web"))?;
    let web = namespace.get(&["pod/web"])?;
    ensure!(images(&web) == [UNSWAPPED], "{:?}", images(&web));
    // Kinds that could hold something back, cluster-wide and in every namespace.
    let left = world.kubectl(&[
        "get",
        "mutatingwebhookconfigurations,clusterroles,clusterrolebindings,namespaces,priorityclasses",
        "-l",
        "app=imageswap",
        "-o",
        "name",
    ])?;
    ensure!(left.trim().is_empty(), "left: {left}");
    let there = output(&mut world.cluster.kubectl(["get", "namespace", NAMESPACE]))?;
    ensure!(!there.status.success(), "{NAMESPACE} is there still");
    Ok(())
}
