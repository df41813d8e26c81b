//! The networks: a bridge in one namespace, a namespace for each node joined to it.
//!
//! A packet finds its way to the Pods of every node and to Services, and to nothing else.

use super::layout::Layout;
use crate::command::{command, run};

pub(super) fn make(layout: &Layout, nodes: usize) -> anyhow::Result<()> {
    let bridge = layout.network(0);
    ip(&["netns", "add", &bridge])?;
    ip(&["-n", &bridge, "link", "add", "br0", "type", "bridge"])?;
    ip(&["-n", &bridge, "link", "set", "br0", "up"])?;
    for node in 1..=nodes {
        let network = layout.network(node);
        let link = format!("node{node}");
        ip(&["netns", "add", &network])?;
        ip(&[
            "-n", &bridge, "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns",
            &network,
        ])?;
        ip(&["-n", &bridge, "link", "set", &link, "master", "br0", "up"])?;
        ip(&["-n", &network, "link", "set", "lo", "up"])?;
        let address = format!("10.99.0.{node}/24");
        ip(&["-n", &network, "address", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &network, "link", "set", "eth0", "up"])?;
        // kube-proxy rewrites what goes to a Service, wherever it is said to go.
        ip(&["-n", &network, "route", "add", "10.0.0.0/24", "dev", "eth0"])?;
        for other in (1..=nodes).filter(|other| *other != node) {
            let pods = format!("10.244.{other}.0/24");
            let via = format!("10.99.0.{other}");
            ip(&["-n", &network, "route", "add", &pods, "via", &via])?;
        }
        // Not `ip netns exec`: it would take /sys from a container that runs this.
        let net = format!("--net=/run/netns/{network}");
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        run(&mut command("nsenter", [&net, "sh", "-c", forward]))?;
    }
    Ok(())
}

pub(super) fn ip(words: &[&str]) -> anyhow::Result<String> {
    run(&mut command("ip", words))
}
