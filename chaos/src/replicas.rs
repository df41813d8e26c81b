//! ImageSwap's replicas, seen from outside: who they are, who leads, what they serve; and their
//! processes, to be killed or stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::cluster::{Cluster, Machine};
use crate::command::{eventually, run};
use crate::install::{self, NAMESPACE};
use crate::json::{at, text_at};

/// One of a replica's two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// The container's first one, with which all others end: the keeper.
    First,
    /// The server, its child.
    Worker,
}

/// The Pods that are not about to go.
///
/// # Errors
/// kube-apiserver does not answer.
pub fn replicas(cluster: &Cluster) -> anyhow::Result<Vec<Value>> {
    let list = cluster.get(&["-n", NAMESPACE, "pods", "-l", "app=imageswap"])?;
    let pods = at(&list, "/items").as_array().context("no list")?;
    let lives = |pod: &&Value| at(pod, "/metadata/deletionTimestamp").is_null();
    Ok(pods.iter().filter(lives).cloned().collect())
}

/// Their names.
///
/// # Errors
/// As for [`replicas`].
pub fn names(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let pods = replicas(cluster)?;
    Ok(pods.iter().map(|pod| name(pod).to_owned()).collect())
}

/// A Pod's name.
pub fn name(pod: &Value) -> &str {
    text_at(pod, "/metadata/name")
}

/// How often the container of each was started anew.
///
/// # Errors
/// As for [`replicas`].
pub fn restarts(cluster: &Cluster) -> anyhow::Result<Vec<u64>> {
    let pods = replicas(cluster)?;
    let count = |pod| at(pod, "/status/containerStatuses/0/restartCount").as_u64();
    let all = pods.iter().map(count);
    Ok(all.map(Option::unwrap_or_default).collect())
}

/// The number of each replica's server, by its name. The keeper starts another one if it is killed, as for its
/// memory where the kernel kills no container as a whole, and Kubernetes does not see it.
///
/// # Errors
/// As for [`process`].
pub fn servers(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, String>> {
    of_each(cluster, |pod| {
        let (_, number) = process(cluster, pod, Process::Worker)?;
        Ok(number)
    })
}

/// How often the kernel kept each container from running, since it had its share of CPU.
///
/// # Errors
/// It does not say.
pub fn throttled(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, u64>> {
    of_each(cluster, |pod| {
        let (node, number) = process(cluster, pod, Process::First)?;
        // As the container sees it: its own group, of the second version or the first.
        let root = format!("/proc/{number}/root/sys/fs/cgroup");
        let files = ["cpu.stat", "cpu/cpu.stat", "cpu,cpuacct/cpu.stat"];
        let found = files.iter().find_map(|file| {
            let text = run(node.command("cat").arg(format!("{root}/{file}"))).ok()?;
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix("nr_throttled ")?.parse().ok())
        });
        found.with_context(|| format!("no nr_throttled below {root}"))
    })
}

/// The most memory that each replica's server has had resident since it was started, in KiB.
///
/// # Errors
/// It does not say.
pub fn peaks(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, u64>> {
    of_each(cluster, |pod| {
        let (node, number) = process(cluster, pod, Process::Worker)?;
        let status = run(node.command("cat").arg(format!("/proc/{number}/status")))?;
        peak(&status).with_context(|| format!("no VmHWM of process {number}"))
    })
}

/// By `/proc/PID/status`.
fn peak(status: &str) -> Option<u64> {
    let mut lines = status.lines();
    let told = lines.find_map(|line| line.strip_prefix("VmHWM:"))?;
    told.trim().strip_suffix(" kB")?.parse().ok()
}

/// A setting with which hardly a connection carries more than one review: its answer closes it. (Within a millisecond a quiet
/// machine has answered.) So each call meets the door that is open then, and the certificate that is served then.
pub const DIALS: (&str, &str) = ("IMAGESWAP_MAX_CONNECTION_AGE", "1us");

/// That most of the reviews so far came on connections of their own, as they do by [`DIALS`].
///
/// # Errors
/// They did not, or there were too few.
pub fn were_dialled(cluster: &Cluster) -> anyhow::Result<()> {
    eventually("reviews", Duration::from_secs(30), || {
        let sum = |series: &str| -> anyhow::Result<u64> {
            let all = of_each(cluster, |pod| {
                install::metric_if_any::<u64>(cluster, name(pod), series)
            })?;
            Ok(all.into_values().flatten().sum())
        };
        let reviews = sum("imageswap_review_duration_seconds_count")?;
        let connections = sum("imageswap_connections_accepted_total")?;
        ensure!(reviews >= 20, "there were {reviews}");
        ensure!(
            connections * 5 >= reviews * 4,
            "{reviews} came on {connections} connections"
        );
        Ok(())
    })
}

/// Something of each replica, by its name.
fn of_each<T>(
    cluster: &Cluster,
    of: impl Fn(&Value) -> anyhow::Result<T>,
) -> anyhow::Result<BTreeMap<String, T>> {
    let pods = replicas(cluster)?;
    let named = pods.iter().map(|pod| Ok((name(pod).to_owned(), of(pod)?)));
    named.collect()
}

/// The Lease's holder.
///
/// # Errors
/// Nobody leads.
pub fn leader(cluster: &Cluster) -> anyhow::Result<String> {
    let lease = cluster.get(&["-n", NAMESPACE, "lease/imageswap-leader"])?;
    let holder = text_at(&lease, "/spec/holderIdentity");
    ensure!(!holder.is_empty(), "nobody leads");
    Ok(holder.to_owned())
}

/// The same, if it is not about to go: just after a rollout, the Lease may name one of before still.
///
/// # Errors
/// Nobody leads, or such a one.
pub fn lasting_leader(cluster: &Cluster) -> anyhow::Result<String> {
    let leader = leader(cluster)?;
    find(cluster, &leader)?;
    Ok(leader)
}

/// The Pod of a replica that is named by its Pod, or as the Lease does.
///
/// # Errors
/// There is none.
pub fn find(cluster: &Cluster, replica: &str) -> anyhow::Result<Value> {
    let pods = replicas(cluster)?;
    let is_it = |pod: &Value| !name(pod).is_empty() && replica.contains(name(pod));
    let found = pods.into_iter().find(is_it);
    found.with_context(|| format!("no Pod is the replica {replica}"))
}

/// The leaf of each replica as a handshake sees it, each verified against the live caBundle.
///
/// # Errors
/// One does not answer, or is not believed.
pub fn leaves(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let pods = replicas(cluster)?;
    let address = |pod| format!("{}:5000", text_at(pod, "/status/podIP"));
    install::leaves(cluster, &pods.iter().map(address).collect::<Vec<_>>())
}

/// The node on which a Pod is.
///
/// # Errors
/// It is on none.
pub fn node<'c>(cluster: &'c Cluster, pod: &Value) -> anyhow::Result<&'c Machine> {
    let mut nodes = cluster.nodes().iter();
    nodes
        .find(|node| text_at(pod, "/spec/nodeName") == node.name)
        .with_context(|| format!("{} is on no node", name(pod)))
}

/// The node of a Pod, and the number that one of its container's processes has there.
///
/// # Errors
/// It has none.
pub fn process<'c>(
    cluster: &'c Cluster,
    pod: &Value,
    process: Process,
) -> anyhow::Result<(&'c Machine, String)> {
    let node = node(cluster, pod)?;
    let id = text_at(pod, "/status/containerStatuses/0/containerID");
    let id = id.trim_start_matches("containerd://");
    ensure!(!id.is_empty(), "{} has no container", name(pod));
    // A table of container, process and state.
    let tasks = run(&mut node.ctr(&["tasks", "ls"]))?;
    let line = tasks.lines().find(|line| line.starts_with(id));
    let first = line.and_then(|line| line.split_whitespace().nth(1));
    let first = first.context("no such process")?;
    let number = match process {
        Process::First => first.to_owned(),
        // It is the first one's only child.
        Process::Worker => eventually("a worker", Duration::from_secs(10), || {
            let children = format!("/proc/{first}/task/{first}/children");
            let found = run(node.command("cat").arg(children))?.trim().to_owned();
            ensure!(!found.is_empty(), "{first} has no child");
            Ok(found)
        })?,
    };
    Ok((node, number))
}

/// Sends a signal, such as `KILL`, to a process of a replica, which is named as for [`find`].
///
/// # Errors
/// There is no such replica or process.
pub fn signal(
    cluster: &Cluster,
    replica: &str,
    process: Process,
    signal: &str,
) -> anyhow::Result<()> {
    let pod = find(cluster, replica)?;
    let (node, process) = self::process(cluster, &pod, process)?;
    run(node.command("kill").args(["-s", signal, &process])).map(drop)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_tells_a_peak() {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(super::peak(&status).unwrap() > 1_000);
        assert_eq!(
            super::peak("VmRSS:\t 16440 kB\nVmHWM:\t 20976 kB\n"),
            Some(20_976)
        );
        assert_eq!(super::peak("VmRSS:\t 16440 kB\n"), None);
    }
}
