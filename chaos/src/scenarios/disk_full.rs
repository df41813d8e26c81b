//! Replicas without a cluster keep their certificate in a directory, and the disk under it is full.
//!
//! They get what the Secret holds, on a small disk of each node, so that they are believed; and take
//! it from the Secret again when all is over.

use std::time::Duration;

use anyhow::{Context, ensure};
use imageswap::pki;
use serde_json::json;
use time::{Duration as Days, OffsetDateTime};

use crate::cluster::Machine;
use crate::command::run;
use crate::install::{self, NAMESPACE};
use crate::json::text_at;
use crate::replicas::names;
use crate::rotation::{QUICK, data_of, patch_secret, secret, settled};
use crate::scenario::{Scenario, Stage};

/// On each node.
const DISK: &str = "/var/lib/imageswap-state";

/// What refuses Pods that see a folder of their node, as these must.
const GUARD: &str = "pod-security.kubernetes.io/enforce";

/// A disk with room for some files of one page each, and the three of a pair; 1898 is whom replicas
/// run as. A rotation is asked for by a file that gets its name later: then there is no room for one.
const MAKE: &str = r#"
set -e
mkdir -p "$1"
mount -t tmpfs -o size=64k,uid=1898,gid=1898,mode=0700 imageswap-state "$1"
cd "$1"
printf %s "$2" | base64 -d > tls.crt
(umask 077; printf %s "$3" | base64 -d > tls.key)
printf %s "$4" | base64 -d > ca.crt
echo while-it-is-full > wanted
chown 1898:1898 *
"#;

/// To the last byte.
const FILL: &str = r#"
cd "$1"
dd if=/dev/zero of=filler bs=4096 2>/dev/null || true
mv wanted rotate
! (echo more > more) 2>/dev/null
"#;

const EMPTY: &str = r#"cd "$1" && rm -f rotate filler more"#;

const REMOVE: &str = r#"umount "$1" 2>/dev/null; rmdir "$1" 2>/dev/null; true"#;

const SHOW: &str = r#"base64 -w 0 "$1/tls.crt""#;

pub(super) const SCENARIO: Scenario = Scenario {
    settings: &[QUICK],
    ..Scenario::new(
        "disk-full",
        "replicas without a cluster, the disk under their state directory full as a rotation is \
         asked for and they are restarted",
        play,
    )
};

/// All that a leaf is to be valid for: else replicas would make another one at their start.
const NAMES: [&str; 7] = [
    "imageswap",
    "imageswap.imageswap-system",
    install::HOST,
    "imageswap.imageswap-system.svc.cluster.local",
    "localhost",
    "127.0.0.1",
    "::1",
];

fn play(stage: &Stage<'_>) -> anyhow::Result<()> {
    let nodes = stage.cluster.nodes();
    let names = NAMES.map(str::to_owned);
    let minted = pki::mint(&names, Days::days(300), OffsetDateTime::now_utc())?;
    patch_secret(stage.cluster, &data_of(&minted))?;
    settled(stage.cluster)?;
    let pair = secret(stage.cluster)?;
    let part = |name: &str| text_at(&pair, &format!("/data/{name}")).to_owned();
    let parts = ["tls.crt", "tls.key", "ca.crt"].map(part);
    on_all(nodes, MAKE, &parts)?;
    let done = guarded_by(stage, "privileged", || full(stage, &parts));
    // If there is still a replica that has it, it goes with its node.
    let removed = on_all(nodes, REMOVE, &[]);
    done.and(removed)
}

fn full(stage: &Stage<'_>, parts: &[String]) -> anyhow::Result<()> {
    let before = install::deployment(stage.cluster)?;
    stage.fault(|| {
        let done = on_full_disks(stage, parts);
        on_all(stage.cluster.nodes(), EMPTY, &[])?;
        stage.event("room again");
        install::patch_deployment(stage.cluster, "json", &install::undoing(&before))?;
        done.and_then(|()| stage.rolled_out())
    })
}

fn on_full_disks(stage: &Stage<'_>, parts: &[String]) -> anyhow::Result<()> {
    let (cluster, nodes) = (stage.cluster, stage.cluster.nodes());
    install::patch_deployment(cluster, "strategic", &on_disk())?;
    stage.rolled_out()?;
    stage.event("replicas without a cluster");
    on_all(nodes, FILL, &[])?;
    stage.event("full");
    // Long enough to see the request, and to try more than once.
    std::thread::sleep(stage.by_extent(Duration::from_secs(45), Duration::from_secs(25)));
    noticed(stage)?;
    install::restart(cluster)?;
    stage.rolled_out()?;
    stage.event("restarted on it");
    for node in nodes {
        let chain = shell(node, SHOW, &[])?;
        let is_same = parts.first() == Some(&chain);
        ensure!(is_same, "{}: tls.crt is another one", node.name);
    }
    Ok(())
}

/// The request was seen, and could not be fulfilled.
fn noticed(stage: &Stage<'_>) -> anyhow::Result<()> {
    for pod in names(stage.cluster)? {
        let series = r#"imageswap_rotation_steps_total{result="failed",step="stage"}"#;
        let count: f64 = install::metric(stage.cluster, &pod, series)?;
        ensure!(count > 0.0, "{pod} did not try to stage a pair");
        stage.note(format!("{pod} could not stage a pair {count} times"));
    }
    Ok(())
}

/// Replicas that keep their certificate on a node's disk.
fn on_disk() -> String {
    let set = |name: &str, value: &str| json!({"name": name, "value": value});
    let container = json!({
        "name": "imageswap",
        "env": [set("IMAGESWAP_CLUSTER", "off"), set("IMAGESWAP_STATE_DIR", "/state")],
        "volumeMounts": [{"name": "state", "mountPath": "/state"}],
    });
    let volume = json!({"name": "state", "hostPath": {"path": DISK, "type": "Directory"}});
    let template = json!({"spec": {"containers": [container], "volumes": [volume]}});
    json!({"spec": {"template": template}}).to_string()
}

/// With the namespace's guard at this level.
fn guarded_by(
    stage: &Stage<'_>,
    level: &str,
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let set = |level: &str| {
        let label = format!("{GUARD}={level}");
        stage
            .cluster
            .ask(&["label", "--overwrite", "namespace", NAMESPACE, &label])
    };
    set(level)?;
    let done = work();
    set("restricted")?;
    done
}

fn on_all(nodes: &[Machine], script: &str, words: &[String]) -> anyhow::Result<()> {
    nodes
        .iter()
        .try_for_each(|node| shell(node, script, words).map(drop))
}

fn shell(node: &Machine, script: &str, words: &[String]) -> anyhow::Result<String> {
    let mut sh = node.command("sh");
    sh.args(["-c", script, "sh", DISK]).args(words);
    run(&mut sh).with_context(|| format!("on {}", node.name))
}
