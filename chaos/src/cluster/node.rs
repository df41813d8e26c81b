//! What runs on a node: containerd, kubelet, kube-proxy.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::control_plane::flag;
use super::layout::Layout;
use super::machine::Machine;
use crate::command::{command, eventually, output, run};
use crate::image::PAUSE;

/// Starts containerd and waits until it answers.
pub(super) fn start_runtime(layout: &Layout, n: usize, machine: &Machine) -> anyhow::Result<()> {
    let node = layout.node(n);
    fs::write(node.join("cni/10-bridge.conflist"), cni(n).to_string())?;
    let config = node.join("containerd.toml");
    fs::write(&config, containerd(&node, snapshotter(&node)))?;
    machine.spawn("containerd", &[flag("config", config.display())])?;
    eventually("containerd", Duration::from_secs(30), || {
        run(&mut machine.ctr(&["version"])).map(drop)
    })
}

/// Starts kubelet and kube-proxy.
pub(super) fn start(layout: &Layout, n: usize, machine: &Machine) -> anyhow::Result<()> {
    let node = layout.node(n);
    let config = node.join("kubelet.json");
    fs::write(&config, kubelet(layout, n).to_string())?;
    machine.spawn(
        "kubelet",
        &[
            flag("config", config.display()),
            flag("kubeconfig", layout.kubeconfig(&machine.name).display()),
            flag("hostname-override", &machine.name),
            flag("node-ip", format_args!("10.99.0.{n}")),
        ],
    )?;
    let config = node.join("kube-proxy.json");
    fs::write(&config, kube_proxy(layout, machine).to_string())?;
    machine.spawn("kube-proxy", &[flag("config", config.display())])
}

fn cni(n: usize) -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "chaos",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": format!("10.244.{n}.0/24")}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn containerd(node: &Path, snapshotter: &str) -> String {
    format!(
        r#"version = 3

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "{}"

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "{snapshotter}"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE}"

[plugins.'io.containerd.nri.v1.nri']
  disable = true
"#,
        node.join("cni").display()
    )
}

/// Overlays can't be stacked: in a container the state may lie on one already.
fn snapshotter(node: &Path) -> &'static str {
    let script = "mkdir -p \"$1\"/try/l \"$1\"/try/u \"$1\"/try/w \"$1\"/try/m && \
         mount -t overlay -o lowerdir=\"$1\"/try/l,upperdir=\"$1\"/try/u,workdir=\"$1\"/try/w \
         overlay \"$1\"/try/m";
    let mut words = command("unshare", ["--mount", "sh", "-c", script, "sh"]);
    let works = output(words.arg(node.join("var-lib"))).is_ok_and(|output| output.status.success());
    // The mount ended with its namespace.
    let _ = fs::remove_dir_all(node.join("var-lib/try"));
    if works { "overlayfs" } else { "native" }
}

fn kubelet(layout: &Layout, n: usize) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        // Only this cluster can reach it.
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "staticPodPath": layout.node(n).join("manifests"),
        // A mounted ConfigMap is fresh after that, where the default takes a minute.
        "syncFrequency": "3s",
        "fileCheckFrequency": "2s",
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "cgroupRoot": layout.control_group(n),
        "failCgroupV1": false,
        "failSwapOn": false,
        "resolvConf": "",
        "serializeImagePulls": false,
        "evictionHard": {
            "memory.available": "1%",
            // Of a large disk 1 % is much, and more than one may have left.
            "nodefs.available": "100Mi",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "100Mi",
        },
        // Nodes that share a disk must not clear each other's images away.
        "imageGCHighThresholdPercent": 100,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    })
}

fn kube_proxy(layout: &Layout, machine: &Machine) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": layout.kubeconfig("kube-proxy")},
        "clusterCIDR": "10.244.0.0/16",
        "hostnameOverride": machine.name,
        // These are settings of the whole kernel.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    })
}
