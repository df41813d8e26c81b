//! Ends a cluster and leaves nothing behind: no process, mount, namespace, control group or file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};

use super::layout::{Layout, STATE};
use super::network::ip;
use super::{Cluster, Parts};

/// How long those may take that were not killed themselves.
const GRACE: Duration = Duration::from_secs(1);

/// How long the kernel may take to end what was killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Takes a cluster down, or what is left of one. True if there was something.
///
/// # Errors
/// Something can't be removed; all else is.
pub fn down(name: &str) -> anyhow::Result<bool> {
    let layout = Layout::new(name);
    if remains(name).is_empty() {
        return Ok(false);
    }
    let started = Instant::now();
    let mut ended = processes(&layout)?;
    if let Ok(text) = fs::read_to_string(layout.record())
        && let Ok(parts) = serde_json::from_str::<Parts>(&text)
    {
        parts
            .nodes
            .iter()
            .chain([&parts.control])
            .for_each(|machine| machine.kill());
    }
    // A run that died early has written nothing down; its namespaces tell whose processes are left.
    loop {
        let processes = processes(&layout)?;
        if processes.is_empty() {
            break;
        }
        if started.elapsed() > PATIENCE {
            bail!("processes {processes:?} of cluster {name} do not end");
        }
        // Those that only wait for one that was killed see it off, and end by themselves.
        let all = if started.elapsed() > GRACE {
            processes.as_slice()
        } else {
            &[]
        };
        ended.extend(all);
        for pid in all {
            if let Some(pid) = Pid::from_raw(*pid) {
                // It may have ended in between.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    seen_off(&ended, started);
    for network in networks(&layout) {
        ip(&["netns", "delete", &network])?;
    }
    for group in control_groups(&layout) {
        remove_group(&group, started)?;
    }
    remove_state(&layout, started)?;
    // Gone with the last cluster.
    let _ = fs::remove_dir(STATE);
    Ok(true)
}

/// Orphans are seen off by the machine's first process, which may take its time. Others are by
/// whoever started them.
fn seen_off(processes: &[i32], started: Instant) {
    let is_orphan = |pid: i32| super::machine::parent(pid).as_deref() == Some("1");
    while started.elapsed() < PATIENCE && processes.iter().any(|pid| is_orphan(*pid)) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What is there of a cluster, each a sentence; empty after [`down`].
pub fn remains(name: &str) -> Vec<String> {
    let layout = Layout::new(name);
    let mut found = Vec::new();
    if layout.state.exists() {
        found.push(format!("files in {}", layout.state.display()));
    }
    for pid in processes(&layout).unwrap_or_default() {
        found.push(format!("process {pid}"));
    }
    for network in networks(&layout) {
        found.push(format!("network namespace {network}"));
    }
    for group in control_groups(&layout) {
        found.push(format!("control group {}", group.display()));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let state = layout.state.display().to_string();
    for line in mounts.lines().filter(|line| line.contains(&state)) {
        found.push(format!("mount {line}"));
    }
    found
}

/// Those in the cluster's networks. All others are descendants of theirs, in PID namespaces that
/// end with them.
fn processes(layout: &Layout) -> anyhow::Result<Vec<i32>> {
    let mut all = Vec::new();
    for network in networks(layout) {
        let listed = ip(&["netns", "pids", &network]).context("can't list processes")?;
        all.extend(
            listed
                .split_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    Ok(all)
}

fn networks(layout: &Layout) -> Vec<String> {
    let prefix = layout.prefix();
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

/// The one above all nodes, in each hierarchy.
fn control_groups(layout: &Layout) -> Vec<PathBuf> {
    let name = format!("isw-{}", layout.name);
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
    let mut groups: Vec<_> = hierarchies
        .map(|entry| entry.path())
        // Some are links to others.
        .filter(|path| path.is_dir() && !path.is_symlink())
        .chain([root.to_owned()])
        .map(|hierarchy| hierarchy.join(&name))
        .filter(|group| group.is_dir())
        .collect();
    groups.dedup();
    groups
}

/// From the leaves up. A group is busy for a moment after its last process.
fn remove_group(group: &Path, started: Instant) -> anyhow::Result<()> {
    for entry in fs::read_dir(group)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path(), started)?;
        }
    }
    retry(started, || fs::remove_dir(group))
        .with_context(|| format!("can't remove {}", group.display()))
}

fn remove_state(layout: &Layout, started: Instant) -> anyhow::Result<()> {
    let state = &layout.state;
    if !state.exists() {
        return Ok(());
    }
    retry(started, || fs::remove_dir_all(state))
        .with_context(|| format!("can't remove {}", state.display()))
}

/// Until the patience is over.
fn retry(started: Instant, mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) if started.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(50)),
            done => return done,
        }
    }
}

impl Cluster {
    /// Takes the cluster down.
    ///
    /// # Errors
    /// As for [`down`].
    pub fn down(self) -> anyhow::Result<()> {
        down(&self.layout.name).map(drop)
    }
}
