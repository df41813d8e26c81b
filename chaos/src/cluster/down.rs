//! Ends a cluster and leaves nothing behind: no process, mount, namespace, control group or file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal};

use super::Parts;
use super::layout::{self, Layout, STATE, check_name};
use super::network::ip;
use crate::lock;

/// How long those may take that were not killed themselves.
const GRACE: Duration = Duration::from_secs(1);

/// How long the kernel may take to end what was killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a cluster's name is nobody's. Then it is the caller's, until what is given is dropped.
///
/// # Errors
/// No cluster is called so, or the lock can't be made.
pub fn claim(name: &str) -> anyhow::Result<File> {
    check_name(name)?;
    let waiting = format!("another process starts, runs or ends cluster {name}: waiting for it");
    lock::hold(&layout::claim(name), &waiting)
}

/// Takes a cluster down, or what is left of one. True if there was something.
///
/// # Errors
/// Something can't be removed; all else is.
pub fn down(name: &str) -> anyhow::Result<bool> {
    let _claim = claim(name)?;
    clear(name)
}

/// The same, for whoever has a [`claim`] on the name.
///
/// # Errors
/// As for [`down`].
pub fn clear(name: &str) -> anyhow::Result<bool> {
    check_name(name)?;
    let layout = Layout::new(name);
    if remains(name).is_empty() {
        return Ok(false);
    }
    let started = Instant::now();
    end_processes(&layout, started);
    let mut done = Vec::new();
    for network in networks(&layout) {
        done.push(remove_network(&network));
    }
    for group in control_groups(&layout) {
        done.push(remove_group(&group, started));
    }
    done.push(remove_state(&layout, started));
    // Gone with the last cluster.
    let _ = fs::remove_dir(STATE);
    let failed = done.into_iter().filter_map(Result::err);
    let failed: Vec<_> = failed.map(|error| format!("{error:#}")).collect();
    ensure!(
        failed.is_empty(),
        "cluster {name} is not gone: {}",
        failed.join("; ")
    );
    Ok(true)
}

/// All that end in time; [`remove_network`] tells of the others.
fn end_processes(layout: &Layout, started: Instant) {
    let mut ended = processes(layout);
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
    while started.elapsed() < PATIENCE {
        let processes = processes(layout);
        if processes.is_empty() {
            break;
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
    for pid in processes(&layout) {
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
/// end with them. One whose processes can't be listed is no network, but what is left of making one.
fn processes(layout: &Layout) -> Vec<i32> {
    let networks = networks(layout).into_iter();
    networks
        .flat_map(|network| pids(&network).unwrap_or_default())
        .collect()
}

fn pids(network: &str) -> anyhow::Result<Vec<i32>> {
    let listed = ip(&["netns", "pids", network]).context("can't list processes")?;
    let words = listed.split_whitespace();
    Ok(words.filter_map(|pid| pid.parse().ok()).collect())
}

/// Not while something runs in it, which nobody would find without it.
fn remove_network(network: &str) -> anyhow::Result<()> {
    let left = pids(network).unwrap_or_default();
    ensure!(
        left.is_empty(),
        "processes {left:?} in network {network} do not end"
    );
    ip(&["netns", "delete", network]).map(drop)
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
