//! What `deploy/` and the Dockerfile say.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use chaos::command::{eventually, output, run};

use crate::world::{
    CHAOS, Installed, SWAPPED, UNSWAPPED, World, images, overlay, pod, pod_with, text,
};

/// Where what the base says is kept as one file.
const INSTALL: &str = "deploy/install.yaml";

/// Set to write the file anew in place of comparing it.
const UPDATE: &str = "IMAGESWAP_UPDATE_INSTALL";

/// What stands above what kustomize prints.
const HEAD: &str = "\
# ImageSwap, as one file. Generated from deploy/base; change that, then run
#     IMAGESWAP_UPDATE_INSTALL=1 cargo test -p chaos --test cluster install_yaml
";

pub(crate) fn in_step(world: &World) -> anyhow::Result<()> {
    let path = chaos::repository().join(INSTALL);
    let wanted = HEAD.to_owned() + &world.kubectl(&["kustomize", &overlay(Installed::Base)])?;
    if std::env::var_os(UPDATE).is_some() {
        return Ok(fs::write(&path, wanted)?);
    }
    let is = fs::read_to_string(&path).unwrap_or_default();
    ensure!(
        is == wanted,
        "{INSTALL} is not what deploy/base says; {UPDATE}=1 writes it anew"
    );
    // Every name must be one that Kubernetes takes, also where nothing is installed of it later.
    for overlay in [Installed::Production, Installed::ClusterWide].map(overlay) {
        world
            .kubectl(&["create", "--dry-run=client", "-o", "name", "-k", &overlay])
            .with_context(|| overlay)?;
    }
    Ok(())
}

pub(crate) fn image(world: &World) -> anyhow::Result<()> {
    // Its size was looked at when it was loaded.
    ensure!(
        !names_interpreter(&fs::read(&world.binary)?),
        "the binary is not static"
    );
    ensure!(
        names_interpreter(&fs::read(CHAOS)?),
        "a program that is not static is not told apart"
    );
    let node = world.cluster.nodes().first().context("no node")?;
    let words = [
        "images",
        "ls",
        "-q",
        "name==docker.io/library/imageswap:2.0.0",
    ];
    ensure!(
        run(&mut node.ctr(&words))?.contains("imageswap"),
        "the image is not on the node"
    );
    // A Pod that must not be root starts only from an image that names a number.
    let namespace = world.namespace_with(&["pod-security.kubernetes.io/enforce=restricted"])?;
    let mut version = pod_with("version", "imageswap:2.0.0");
    version["spec"]["restartPolicy"] = "Never".into();
    version["spec"]["securityContext"] = serde_json::json!({
        "runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    version["spec"]["containers"][0]["args"] = serde_json::json!(["--version"]);
    version["spec"]["containers"][0]["securityContext"] = serde_json::json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
    });
    namespace.apply(version)?;
    eventually("its end", Duration::from_secs(30), || {
        let logs = namespace.kubectl(&["logs", "version"])?;
        ensure!(logs.contains("imageswap 2."), "it says {logs:?}");
        Ok(())
    })
}

/// Whether a 64-bit ELF program wants another one to load it: a program header of type 3.
fn names_interpreter(elf: &[u8]) -> bool {
    let number = |at: usize, length: usize| {
        let bytes = elf[at..at + length].iter().rev();
        bytes.fold(0, |number, byte| number << 8 | usize::from(*byte))
    };
    assert_eq!(&elf[..5], b"\x7fELF\x02");
    let (first, size, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    assert!(count > 0, "a program without program headers");
    (0..count).any(|n| number(first + n * size, 4) == 3)
}

pub(crate) fn cluster_wide(world: &World) -> anyhow::Result<()> {
    world.need(Installed::ClusterWide)?;
    let (plain, disabled) = (
        world.namespace_with(&[])?,
        world.namespace_with(&["k8s.twr.io/imageswap=disabled"])?,
    );
    plain.apply(pod("web"))?;
    let web = plain.runs("web")?;
    ensure!(images(&web) == [SWAPPED], "{:?}", images(&web));
    disabled.apply(pod("web"))?;
    let web = disabled.get(&["pod/web"])?;
    ensure!(images(&web) == [UNSWAPPED], "{:?}", images(&web));
    // Those without which a cluster can't come up; nothing is stored.
    for namespace in ["kube-system", "kube-node-lease"] {
        let image = format!("--image={UNSWAPPED}");
        let words = [
            "-n",
            namespace,
            "run",
            "web",
            &image,
            "--dry-run=server",
            "-o",
            "jsonpath={.spec.containers[0].image}",
        ];
        let is = world.kubectl(&words)?;
        ensure!(is == UNSWAPPED, "{namespace}: {is}");
    }
    // Its own namespace: a Pod of its own comes up while none answers.
    world.kubectl(&[
        "-n",
        "imageswap-system",
        "scale",
        "deployment/imageswap",
        "--replicas=0",
    ])?;
    eventually("no replica", Duration::from_secs(60), || {
        let left = world.kubectl(&["-n", "imageswap-system", "get", "pods", "-o", "name"])?;
        ensure!(left.trim().is_empty(), "{left}");
        let image = format!("--image={UNSWAPPED}");
        // What was let in once would be there already.
        let words = ["run", "late", &image, "--dry-run=server"];
        let refused = output(&mut plain.command(&words))?;
        ensure!(!refused.status.success(), "a Pod was let in");
        let why = text(&refused.stderr);
        ensure!(why.contains("imageswap.webhook.k8s.twr.io"), "{why}");
        Ok(())
    })?;
    world.kubectl(&[
        "-n",
        "imageswap-system",
        "scale",
        "deployment/imageswap",
        "--replicas=3",
    ])?;
    chaos::install::wait(&world.cluster)?;
    // Every node must learn where the replicas are now.
    eventually("a Pod", Duration::from_secs(15), || {
        plain.apply(pod("after")).map(drop)
    })?;
    plain.runs("after").map(drop)
}
