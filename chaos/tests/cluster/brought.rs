//! A certificate of one's own, in both of the ways that docs/install.md tells, word by word.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chaos::command::{command, eventually, run};
use chaos::install::{self, NAMESPACE};
use chaos::progress::say;
use imageswap::pki::{Pem, Served};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::status::Status;
use crate::world::{Installed, QUICK, World, under_load};
use chaos::replicas::{leaves, replicas};
use chaos::rotation::{PATIENCE, foreign, patch_secret, secret, settled};

/// The kubelet's sync period, a bit of chance, and the trust delay: 60 s where a test left the default.
const SYNC: Duration = Duration::from_secs(150);

pub(crate) fn files(world: &World) -> anyhow::Result<()> {
    world.need_with(Installed::Production, &QUICK)?;
    settled(&world.cluster)?;
    let (one, two) = (foreign()?, foreign()?);
    let mixed = Pem {
        key: one.key.clone(),
        ..two.clone()
    };
    mount(world, &one)?;
    let patch = docs("**In files**", "```yaml", "```")?;
    let ours = secret(&world.cluster)?["data"].clone();
    let (report, (patched, pods)) = under_load(world, || {
        // Who leads has no files yet, and does not know their CA.
        let patched = world.patched(&patch)?;
        serves(world, &one)?;
        // From here on the Secret means nothing.
        patch_secret(&world.cluster, &data(&mixed))?;
        serves(world, &one)?;
        let pods = names(world)?;
        let status = |ids: &[&str]| {
            Status::inside(world, &pods[0])?.ensure(ids)?;
            Status::outside(world)?.ensure(ids)
        };
        status(&[])?;
        mount(world, &mixed)?;
        refused(world)?;
        serves(world, &one)?;
        status(&["files-unusable"])?;
        mount(world, &two)?;
        serves(world, &two)?;
        status(&[])?;
        Ok((patched, pods))
    })?;
    say(format_args!("files mounted, broken, replaced: {report}"));
    ensure!(report.is_clean(), "{report}");
    for pod in replicas(&world.cluster)? {
        let status = &pod["status"]["containerStatuses"][0];
        ensure!(status["restartCount"] == 0, "{status}");
    }
    ensure!(names(world)? == pods, "other Pods");
    holds(world, &mixed)?;
    // And back: those without files serve what is in the Secret.
    patch_secret(&world.cluster, &json!({"data": ours}))?;
    let (report, ()) = under_load(world, || {
        drop(patched);
        settled(&world.cluster)
    })?;
    say(format_args!("files taken away: {report}"));
    ensure!(report.is_clean(), "{report}");
    Status::outside(world)?.ensure(&[])
}

pub(crate) fn annotated(world: &World) -> anyhow::Result<()> {
    world.need_with(Installed::Production, &QUICK)?;
    settled(&world.cluster)?;
    let (one, two) = (foreign()?, foreign()?);
    let (report, ()) = under_load(world, || {
        annotate(world, &one)?;
        serves(world, &one)?;
        holds(world, &one)?;
        Status::outside(world)?.ensure(&[])?;

        // Another CA, as the page says: both, then the pair.
        let both = format!("{}{}", one.ca, two.ca);
        let patch = json!({"data": {"rootca.pem": STANDARD.encode(both)}}).to_string();
        let words = ["-n", NAMESPACE, "patch", "secret", "imageswap-tls-ca", "-p"];
        world.kubectl(&[&words[..], &[&patch]].concat())?;
        eventually("both CAs", PATIENCE, || believes(world, &two))?;
        patch_secret(&world.cluster, &data(&two))?;
        serves(world, &two)?;

        let broken = Pem {
            key: one.key.clone(),
            ..two.clone()
        };
        patch_secret(&world.cluster, &data(&broken))?;
        refused(world)?;
        Status::outside(world)?.ensure(&["secret-unusable"])?;
        serves(world, &two)?;
        holds(world, &broken)?;
        own_again(world)
    })?;
    say(format_args!("a Secret that somebody else keeps: {report}"));
    ensure!(report.is_clean(), "{report}");
    Status::outside(world)?.ensure(&[])
}

/// Runs what the page says of the Secret.
fn annotate(world: &World, pem: &Pem) -> anyhow::Result<()> {
    annotate_by(world, pem, &docs("**In the Secret**", "\n\n    ", "\n\n")?)
}

/// The same with what the page says of a Secret that 1.5.3 made.
pub(crate) fn annotate_that_of_1_5_3(world: &World, pem: &Pem) -> anyhow::Result<()> {
    let script = docs("**In the Secret**", "\n\n    ", "\n\n")?;
    let instead = docs("there, say `create secret generic imageswap-tls`", "`", "`")?;
    let usual = "create secret tls imageswap-tls --cert=cert.pem --key=key.pem";
    ensure!(script.contains(usual), "the page is another: {script}");
    let generic = format!("create secret generic imageswap-tls {instead}");
    annotate_by(world, pem, &script.replace(usual, &generic))?;
    serves(world, pem)?;
    Status::outside(world)?.ensure(&[])
}

fn annotate_by(world: &World, pem: &Pem, script: &str) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let files = [
        ("cert.pem", &pem.chain),
        ("key.pem", &pem.key),
        ("ca.pem", &pem.ca),
    ];
    for (name, text) in files {
        fs::write(folder.path().join(name), text)?;
    }
    run_script(world, script, folder.path())
}

/// As a person would, with the cluster's kubectl.
pub(crate) fn run_script(world: &World, script: &str, folder: &Path) -> anyhow::Result<()> {
    let path = format!("{}:/usr/bin:/bin", world.cluster.bin().display());
    let mut sh = command("sh", ["-ec", script]);
    sh.env("PATH", path).env_remove("KUBECONFIG");
    run(sh.current_dir(folder)).map(drop)
}

/// Makes the Secret ImageSwap's own, with nothing in it that can be served.
fn own_again(world: &World) -> anyhow::Result<()> {
    let brought = secret(&world.cluster)?["data"]["tls.crt"].clone();
    let patch = json!({
        "metadata": {"annotations": {"imageswap-byoc": null}},
        "data": {"tls.key": STANDARD.encode("none")},
    });
    patch_secret(&world.cluster, &patch)?;
    world.kubectl(&["-n", NAMESPACE, "delete", "secret", "imageswap-tls-ca"])?;
    eventually("a pair of its own", PATIENCE, || {
        let is = secret(&world.cluster)?["data"]["tls.crt"].clone();
        ensure!(is != brought, "it is still the one that was brought");
        Ok(())
    })?;
    settled(&world.cluster)
}

/// What docs/install.md has in the first block after these words.
pub(crate) fn docs(words: &str, begin: &str, end: &str) -> anyhow::Result<String> {
    let page = fs::read_to_string(chaos::repository().join("docs/install.md"))?;
    let (_, rest) = page.split_once(words).context("the page is another")?;
    let (_, rest) = rest.split_once(begin).context("no block")?;
    let (block, _) = rest.split_once(end).context("a block without end")?;
    Ok(block.to_owned())
}

/// Puts a pair into the Secret that the page mounts.
fn mount(world: &World, pem: &Pem) -> anyhow::Result<()> {
    let mut secret = data(pem);
    secret["data"]["ca.crt"] = STANDARD.encode(&pem.ca).into();
    secret["apiVersion"] = "v1".into();
    secret["kind"] = "Secret".into();
    secret["metadata"] = json!({"name": "my-certificate", "namespace": NAMESPACE});
    world.apply(&secret).map(drop)
}

fn data(pem: &Pem) -> Value {
    json!({"data": {
        "tls.crt": STANDARD.encode(&pem.chain),
        "tls.key": STANDARD.encode(&pem.key),
    }})
}

/// Waits until every replica serves the leaf of this pair, and is trusted.
fn serves(world: &World, pem: &Pem) -> anyhow::Result<()> {
    let chain = CertificateDer::pem_slice_iter(pem.chain.as_bytes());
    let chain = chain.collect::<Result<_, _>>()?;
    let wanted = Served::read(chain).context("no leaf")?.fingerprint();
    eventually("its leaf", SYNC, || {
        let leaves = leaves(&world.cluster)?;
        let is_it = |leaf: &String| leaf.trim() == wanted;
        let replicas = replicas(&world.cluster)?.len();
        ensure!(leaves.len() == replicas, "{} of {replicas}", leaves.len());
        ensure!(leaves.iter().all(is_it), "{leaves:?}, not {wanted}");
        Ok(())
    })
}

fn believes(world: &World, pem: &Pem) -> anyhow::Result<()> {
    let bundle = STANDARD.decode(install::ca_bundle(&world.cluster)?)?;
    let bundle = String::from_utf8_lossy(&bundle);
    ensure!(bundle.contains(pem.ca.trim()), "not believed");
    Ok(())
}

/// Waits until every replica has seen that what is there now can't be served.
fn refused(world: &World) -> anyhow::Result<()> {
    for pod in names(world)? {
        eventually("a refusal", SYNC, || {
            let refused = world.metric(&pod, "imageswap_certificate_refused")?;
            ensure!(refused > 0.0, "{pod} has refused nothing");
            Ok(())
        })?;
    }
    Ok(())
}

/// Whether the Secret has this pair, and nothing that ImageSwap put there.
fn holds(world: &World, pem: &Pem) -> anyhow::Result<()> {
    let is = secret(&world.cluster)?;
    for (name, value) in data(pem)["data"].as_object().context("no data")? {
        ensure!(is["data"][name] == *value, "{name} was written");
    }
    ensure!(is["data"]["next.crt"].is_null(), "a pair is staged");
    Ok(())
}

fn names(world: &World) -> anyhow::Result<Vec<String>> {
    let pods = replicas(&world.cluster)?;
    let name = |pod: &Value| pod["metadata"]["name"].as_str().map(str::to_owned);
    pods.iter()
        .map(|pod| name(pod).context("no name"))
        .collect()
}
