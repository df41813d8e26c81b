//! Single Pods: what is swapped in them, and what is left alone.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use chaos::command::{eventually, run_with};
use serde_json::json;

use crate::world::{Installed, SWAPPED, UNSWAPPED, World, images, pod, pod_with, text};

pub(crate) fn debug(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Base)?;
    let namespace = world.namespace()?;
    namespace.apply(pod("web"))?;
    namespace.runs("web")?;
    let image = format!("--image={UNSWAPPED}");
    for container in ["first", "second"] {
        let name = format!("--container={container}");
        namespace.kubectl(&[
            "debug",
            "web",
            &image,
            &name,
            "--profile=general",
            "--",
            "busybox",
            "sleep",
            "1000",
        ])?;
    }
    // kube-apiserver drops what else such an update says, after it was swapped.
    for (name, place, value) in [
        ("third", "annotations", "kubernetes.io/config.mirror"),
        ("fourth", "labels", "k8s.twr.io/imageswap"),
    ] {
        let path = format!(
            "/api/v1/namespaces/{}/pods/web/ephemeralcontainers",
            namespace.name
        );
        // The kubelet writes the Pod's status meanwhile.
        eventually(
            "an update without a conflict",
            Duration::from_secs(30),
            || {
                let mut web = namespace.get(&["pod/web"])?;
                web["metadata"][place][value] = json!("disabled");
                let containers = web["spec"]["ephemeralContainers"].as_array_mut();
                containers.context("none")?.push(json!({
                    "name": name, "image": UNSWAPPED, "command": ["busybox", "sleep", "1000"],
                }));
                let mut replace = world
                    .cluster
                    .kubectl(["replace", "--raw", &path, "-f", "-"]);
                let replaced = run_with(&mut replace, &web.to_string())?;
                ensure!(replaced.status.success(), "{}", text(&replaced.stderr));
                Ok(())
            },
        )?;
        let web = namespace.get(&["pod/web"])?;
        ensure!(
            web["metadata"][place][value].is_null(),
            "{}",
            web["metadata"]
        );
    }
    eventually("all debug containers", Duration::from_secs(30), || {
        let web = namespace.get(&["pod/web"])?;
        ensure!(images(&web) == [SWAPPED; 5], "{:?}", images(&web));
        let statuses = web["status"]["ephemeralContainerStatuses"]
            .as_array()
            .context("no statuses")?;
        let running = statuses
            .iter()
            .filter(|one| one["state"]["running"].is_object());
        ensure!(running.count() == 4, "{statuses:?}");
        Ok(())
    })
}

pub(crate) fn image_volume(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Base)?;
    let namespace = world.namespace()?;
    let mut web = pod("web");
    web["spec"]["volumes"] = json!([{"name": "files", "image": {"reference": UNSWAPPED}}]);
    web["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "files", "mountPath": "/files"}]);
    namespace.apply(web)?;
    let web = namespace.runs("web")?;
    let reference = &web["spec"]["volumes"][0]["image"]["reference"];
    ensure!(reference == SWAPPED, "{reference}");
    let listed = namespace.kubectl(&["exec", "web", "--", "busybox", "ls", "/files/bin"])?;
    ensure!(listed.contains("busybox"), "{listed}");
    Ok(())
}

pub(crate) fn static_pod(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Base)?;
    let namespace = world.namespace()?;
    // One that would be swapped, and that this one node can run as it is.
    let image = "docker.io/chaos/static:1";
    let node = world.cluster.nodes().first().context("no node")?;
    node.tag(SWAPPED, image)?;
    let mut manifest = pod_with("static", image);
    manifest["metadata"]["namespace"] = namespace.name.clone().into();
    let file = world.cluster.static_pods(1).join("static.json");
    fs::write(&file, manifest.to_string())?;
    let looked = eventually("the mirror", Duration::from_secs(60), || {
        let mirror = namespace.get(&["pod/static-node1"])?;
        ensure!(images(&mirror) == [image], "{:?}", images(&mirror));
        ensure!(
            mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string(),
            "it is no mirror"
        );
        ensure!(
            mirror["status"]["phase"] == "Running",
            "{}",
            mirror["status"]
        );
        Ok(())
    });
    fs::remove_file(&file)?;
    looked?;
    eventually("its end", Duration::from_secs(60), || {
        let left = namespace.kubectl(&["get", "pods", "-o", "name"])?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    })
}

pub(crate) fn disabled(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Base)?;
    let namespace = world.namespace()?;
    let label = json!({"k8s.twr.io/imageswap": "disabled", "of": "disabled"});
    let mut web = pod("web");
    web["metadata"]["labels"] = label.clone();
    namespace.apply(web)?;
    let mut template = pod("unused");
    template["metadata"] = json!({"labels": label});
    namespace.apply(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "deployment"},
        "spec": {
            "selector": {"matchLabels": {"of": "disabled"}},
            "template": {"metadata": template["metadata"], "spec": template["spec"]},
        },
    }))?;
    eventually("both Pods", Duration::from_secs(30), || {
        let list = namespace.get(&["pods"])?;
        let pods = list["items"].as_array().context("no list")?;
        ensure!(pods.len() == 2, "{} Pods", pods.len());
        for pod in pods {
            ensure!(images(pod) == [UNSWAPPED], "{:?}", images(pod));
        }
        Ok(())
    })
}

pub(crate) fn other_namespace(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Base)?;
    for labels in [&[][..], &["k8s.twr.io/imageswap=disabled"][..]] {
        let namespace = world.namespace_with(labels)?;
        namespace.apply(pod("web"))?;
        let web = namespace.get(&["pod/web"])?;
        ensure!(
            images(&web) == [UNSWAPPED],
            "{labels:?}: {:?}",
            images(&web)
        );
    }
    Ok(())
}

pub(crate) fn dry_run(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Base)?;
    let namespace = world.namespace()?;
    let image = format!("--image={UNSWAPPED}");
    let shown = namespace.kubectl(&[
        "run",
        "web",
        &image,
        "--dry-run=server",
        "-o",
        "jsonpath={.spec.containers[0].image}",
    ])?;
    ensure!(shown == SWAPPED, "{shown}");
    let left = namespace.kubectl(&["get", "pods", "-o", "name"])?;
    ensure!(left.trim().is_empty(), "{left}");
    Ok(())
}

pub(crate) fn generate_name(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Base)?;
    let namespace = world.namespace()?;
    let mut manifest = pod("unused");
    manifest["metadata"] = json!({"generateName": "made-up-"});
    let mut create = namespace.command(&["create", "-o", "name", "-f", "-"]);
    let created = run_with(&mut create, &manifest.to_string())?;
    ensure!(created.status.success(), "{}", text(&created.stderr));
    let name = text(&created.stdout).trim().replace("pod/", "");
    ensure!(name.starts_with("made-up-"), "{name}");
    let made = namespace.runs(&name)?;
    ensure!(images(&made) == [SWAPPED], "{:?}", images(&made));
    Ok(())
}

pub(crate) fn label_edit(world: &World) -> anyhow::Result<()> {
    world.need(Installed::Base)?;
    let namespace = world.namespace()?;
    // Made before ImageSwap looked: its image would be swapped now, and the container restarted.
    let plain = world.namespace_with(&[])?;
    plain.apply(pod_with("old", "docker.io/chaos/static:1"))?;
    for node in world.cluster.nodes() {
        node.tag(SWAPPED, "docker.io/chaos/static:1")?;
    }
    let old = plain.runs("old")?;
    namespace.apply(pod("new"))?;
    let new = namespace.runs("new")?;
    world.kubectl(&[
        "label",
        "namespace",
        &plain.name,
        "k8s.twr.io/imageswap=enabled",
    ])?;
    for (namespace, before) in [(&plain, &old), (&namespace, &new)] {
        let name = before["metadata"]["name"].as_str().context("no name")?;
        namespace.kubectl(&["label", "pod", name, "edited=yes"])?;
        // Longer than the kubelet takes to see it.
        std::thread::sleep(Duration::from_secs(3));
        let after = namespace.get(&[&format!("pod/{name}")])?;
        ensure!(after["metadata"]["labels"]["edited"] == "yes");
        ensure!(images(&after) == images(before), "{:?}", images(&after));
        for field in ["containerID", "restartCount"] {
            let of = |pod: &serde_json::Value| pod["status"]["containerStatuses"][0][field].clone();
            ensure!(
                of(&after) == of(before),
                "{name}'s {field} is {} now",
                of(&after)
            );
        }
    }
    Ok(())
}
