//! A machine: a process that holds namespaces, and all that is started in them.
//!
//! It has processes and mounts of its own, and `/run`, `/var/lib` and `/var/log` too: what runs in
//! it finds things where they are on any machine. When the process that holds it ends, the kernel
//! ends all others and undoes their mounts.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::layout::Layout;
use crate::command::{command, eventually, run};

/// What the holder does before it holds.
const SCRIPT: &str = r#"
set -e
state=$1 chaos=$2 name=$3; shift 3
: > "$state/init"
mount --bind "$chaos" "$state/init"
n=0
for binaries; do
    mkdir -p "$state/binaries/$n"
    mount --bind "$binaries" "$state/binaries/$n"
    n=$((n + 1))
done
for own in run:/run var-lib:/var/lib var-log:/var/log; do
    mount --bind "$state/$name/${own%%:*}" "${own#*:}"
done
# The kubelet writes these, which are the whole kernel's, unless it finds them so.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    found="$state/$name/sys/${setting%%=*}"
    mkdir -p "${found%/*}"
    echo "${setting#*=}" > "$found"
    mount --bind "$found" "/proc/sys/${setting%%=*}"
done
mount --make-rshared /
: > "$state/$name/held"
exec "$state/init" init
"#;

/// A process that holds namespaces.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Such as `node1`.
    pub name: String,
    pid: i32,
    /// When it was started, in the kernel's own count: a number is given to others later.
    started: u64,
    programs: Vec<PathBuf>,
    logs: PathBuf,
}

impl Machine {
    pub(super) fn start(
        layout: &Layout,
        name: &str,
        network: &str,
        binaries: &[PathBuf],
        chaos: &Path,
    ) -> anyhow::Result<Self> {
        let log = File::create(layout.log(&format!("{name}-init")))?;
        let mut holder = command("nsenter", [format!("--net=/run/netns/{network}")]);
        holder
            .args([
                "unshare",
                "--pid",
                "--mount",
                "--mount-proc",
                "--fork",
                "--kill-child",
            ])
            .args(["--propagation", "private", "sh", "-c", SCRIPT, "sh"])
            .arg(&layout.state)
            .arg(chaos)
            .arg(name)
            .args(binaries)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let outer = holder.spawn().context("can't start nsenter")?;
        let held = layout.state.join(name).join("held");
        eventually("namespaces", Duration::from_secs(10), || {
            ensure!(held.is_file(), "{name} holds no namespaces");
            Ok(())
        })
        .with_context(|| format!("see {}", layout.log(&format!("{name}-init")).display()))?;
        let pid = child_of(outer.id()).context("unshare has no child")?;
        Ok(Self {
            name: name.to_owned(),
            pid,
            started: started(pid).context("the holder is gone")?,
            programs: (0..binaries.len())
                .map(|n| layout.state.join("binaries").join(n.to_string()))
                .collect(),
            logs: layout.logs(),
        })
    }

    /// Whether the process that holds it is there still.
    pub fn is_up(&self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// Ends all that runs in it.
    pub fn kill(&self) {
        if let (true, Some(pid)) = (self.is_up(), Pid::from_raw(self.pid)) {
            // It may end in between.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }

    /// A command in the machine. Kubernetes' programs are found by their names.
    pub fn command(&self, program: &str) -> Command {
        let mut command = command("nsenter", ["-t", &self.pid.to_string(), "-m", "-p", "-n"]);
        command
            .arg("--")
            .arg("env")
            .arg(format!("PATH={}", self.path()))
            .arg(program);
        command
    }

    /// Kubernetes' programs, then Debian's.
    fn path(&self) -> String {
        let mut path = String::new();
        for folder in &self.programs {
            path += &format!("{}:", folder.display());
        }
        path + "/usr/sbin:/usr/bin:/sbin:/bin"
    }

    /// Starts a program that stays, with its output in a log of its name.
    pub(super) fn spawn(&self, program: &str, args: &[String]) -> anyhow::Result<()> {
        let name = match self.name.as_str() {
            "control" => program.to_owned(),
            node => format!("{node}-{program}"),
        };
        self.spawn_as(&name, program, args).map(drop)
    }

    /// The same, with a log of this name, and in a process group of its own.
    pub(super) fn spawn_as(
        &self,
        name: &str,
        program: &str,
        args: &[String],
    ) -> anyhow::Result<Child> {
        let path = self.logs.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(&path)?;
        self.command(program)
            .args(args)
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("can't start {program} in {}", self.name))
    }

    /// Loads the images of an archive.
    ///
    /// # Errors
    /// containerd refuses it.
    pub fn import(&self, archive: &Path) -> anyhow::Result<()> {
        run(self.ctr(&["images", "import"]).arg(archive)).map(drop)
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// There is no such image.
    pub fn tag(&self, name: &str, other: &str) -> anyhow::Result<()> {
        run(&mut self.ctr(&["images", "tag", "--force", name, other])).map(drop)
    }

    /// `ctr` among Kubernetes' images.
    pub fn ctr(&self, words: &[&str]) -> Command {
        let mut ctr = self.command("ctr");
        ctr.args(["-n", "k8s.io"]).args(words);
        ctr
    }
}

fn child_of(parent_of_it: u32) -> Option<i32> {
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|process| {
        let pid: i32 = process.file_name().to_str()?.parse().ok()?;
        (parent(pid)?.parse() == Ok(parent_of_it)).then_some(pid)
    })
}

/// The number of a process's parent; `None` if there is no process.
pub(crate) fn parent(pid: i32) -> Option<String> {
    stat(pid)?.get(1).cloned()
}

/// In ticks since the machine was booted; `None` for what has ended.
fn started(pid: i32) -> Option<u64> {
    let fields = stat(pid)?;
    let is_alive = !matches!(fields.first()?.as_str(), "Z" | "X");
    is_alive.then(|| fields.get(19)?.parse().ok())?
}

/// The fields of `/proc/PID/stat` from the state on.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}
