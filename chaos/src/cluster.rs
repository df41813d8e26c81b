//! A Kubernetes cluster on this machine, in network namespaces of its own.
//!
//! Every node is a [`Machine`]: processes in a PID and a mount namespace of their own, so that
//! ending one process ends all of them and undoes every mount. Nothing has a route out: no packet
//! of a cluster can leave, and no port clashes with one of the host's.
//!
//! | what | where |
//! |---|---|
//! | network `isw-NAME-net` | the bridge that joins the nodes |
//! | network `isw-NAME-1` … | a node, 10.99.0.N; its Pods are in 10.244.N.0/24 |
//! | `/var/tmp/imageswap-chaos/NAME` | all files: state, logs, kubeconfigs |
//! | `/var/tmp/imageswap-chaos.lock` | whose turn it is: tests, runs and benches are one at a time |
//! | `/var/tmp/imageswap-chaos-NAME.lock` | whose the name is: who starts, guards or takes down a cluster |

mod control_plane;
mod credentials;
mod down;
mod faults;
mod layout;
mod machine;
mod network;
mod node;
mod second;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use self::credentials::CALLER;
pub use self::down::{claim, clear, down, remains};
pub use self::layout::APISERVER;
use self::layout::Layout;
pub(crate) use self::layout::TURN;
pub use self::machine::Machine;
pub(crate) use self::machine::parent;
pub use self::second::{SECOND_APISERVER, Second, Way};
use crate::command::{command, eventually, run};
use crate::doctor;
use crate::image::{PAUSE, WORKLOAD};
use crate::progress::{Step, say};

/// The name of a cluster for a person who names none.
pub const DEFAULT_NAME: &str = "dev";

/// The most nodes that the addresses are laid out for.
pub const MAX_NODES: usize = 9;

/// Whether the disk has room for one that is not there yet.
///
/// # Errors
/// It has not.
pub fn has_room() -> anyhow::Result<()> {
    let folders = Path::new(layout::STATE).ancestors();
    let mut there = folders.filter(|folder| folder.is_dir());
    there.next().map_or(Ok(()), doctor::has_room)
}

/// A cluster that runs.
#[derive(Debug)]
pub struct Cluster {
    layout: Layout,
    parts: Parts,
    /// When kube-apiserver was started anew, and when it was ready.
    starts: Mutex<Vec<(OffsetDateTime, OffsetDateTime)>>,
}

/// What is written down of a cluster, for whoever deals with it later.
#[derive(Debug, Serialize, Deserialize)]
struct Parts {
    /// The program of this crate: what it does within the cluster's networks, it does as itself.
    chaos: PathBuf,
    /// Folders with Kubernetes' programs.
    binaries: Vec<PathBuf>,
    /// Where etcd, kube-apiserver and the controllers run, in node 1's network.
    control: Machine,
    /// In the order of their numbers, from 1.
    nodes: Vec<Machine>,
}

impl Cluster {
    /// Starts a cluster, first clearing away what an earlier one of that name left. `chaos` is the
    /// program of this crate. Returns when every node is ready. The name must be the caller's, by a
    /// [`guard::Guard`](crate::guard::Guard) that was started before.
    ///
    /// # Errors
    /// Something does not start; its log is named.
    pub fn up(
        name: &str,
        nodes: usize,
        binaries: Vec<PathBuf>,
        chaos: &Path,
    ) -> anyhow::Result<Self> {
        layout::check_name(name)?;
        ensure!(
            (1..=MAX_NODES).contains(&nodes),
            "a cluster has 1 to {MAX_NODES} nodes, not {nodes}"
        );
        let started = Instant::now();
        if clear(name)? {
            say("cleared what an earlier run left");
        }
        let layout = Layout::new(name);
        layout.make(nodes)?;
        doctor::has_room(&layout.state)?;
        let step = Step::begin("network namespaces");
        network::make(&layout, nodes)?;
        credentials::make(&layout, nodes)?;
        let start = |which: &str, network: usize| {
            Machine::start(&layout, which, &layout.network(network), &binaries, chaos)
        };
        let control = start("control", 1)?;
        let nodes: Vec<_> = (1..=nodes)
            .map(|n| start(&format!("node{n}"), n))
            .collect::<anyhow::Result<_>>()?;
        step.done(format_args!("{} nodes", nodes.len()));
        let cluster = Self {
            layout,
            parts: Parts {
                chaos: chaos.to_owned(),
                binaries,
                control,
                nodes,
            },
            starts: Mutex::default(),
        };
        cluster.write_down()?;
        if let Err(error) = cluster.start() {
            let logs = cluster.keep_logs(&format!("{name}-up"))?;
            return Err(error.context(format!("the logs are in {}", logs.display())));
        }
        say(format_args!(
            "cluster {name}: {} nodes ready in {:.1} s",
            cluster.parts.nodes.len(),
            started.elapsed().as_secs_f32()
        ));
        Ok(cluster)
    }

    /// One that was started before.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn open(name: &str) -> anyhow::Result<Self> {
        let layout = Layout::new(name);
        let path = layout.record();
        let text = fs::read_to_string(&path)
            .with_context(|| format!("there is no cluster {name}; `chaos up` starts one"))?;
        let parts: Parts = serde_json::from_str(&text)
            .with_context(|| format!("can't read {}; `chaos up` starts anew", path.display()))?;
        ensure!(
            parts.control.is_up(),
            "cluster {name} has died; `chaos up` starts it anew"
        );
        Ok(Self {
            layout,
            parts,
            starts: Mutex::default(),
        })
    }

    fn write_down(&self) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(&self.parts)?;
        Ok(fs::write(self.layout.record(), text)?)
    }

    fn start(&self) -> anyhow::Result<()> {
        let step = Step::begin("images for the nodes");
        let workload = crate::image::workload(&self.layout.images())?;
        step.done("built");
        let step = Step::begin("control plane");
        control_plane::start(&self.layout, &self.parts.control)?;
        let runtimes: anyhow::Result<Vec<()>> = std::thread::scope(|scope| {
            let starts: Vec<_> = self
                .numbered()
                .map(|(n, machine)| {
                    let workload = &workload;
                    scope.spawn(move || {
                        node::start_runtime(&self.layout, n, machine)?;
                        machine.import(workload)?;
                        machine.tag(PAUSE, WORKLOAD)
                    })
                })
                .collect();
            starts
                .into_iter()
                .map(|start| start.join().unwrap_or_else(|_| bail!("a thread panicked")))
                .collect()
        });
        runtimes?;
        eventually("kube-apiserver", Duration::from_secs(60), || {
            run(&mut self.kubectl(["get", "--raw", "/readyz"])).map(drop)
        })?;
        step.done("answers");

        let step = Step::begin("nodes");
        control_plane::start_controllers(&self.layout, &self.parts.control)?;
        control_plane::bind_kube_proxy(self)?;
        for (n, machine) in self.numbered() {
            node::start(&self.layout, n, machine)?;
        }
        let nodes = self.parts.nodes.len();
        eventually("all nodes ready", Duration::from_secs(90), || {
            let ready = run(&mut self.kubectl([
                "get",
                "nodes",
                "-o",
                "jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].status} {end}",
            ]))?;
            let count = ready
                .split_whitespace()
                .filter(|word| *word == "True")
                .count();
            ensure!(count == nodes, "{count} of {nodes} nodes are ready");
            Ok(())
        })?;
        // Pods can't be made in a namespace without it.
        eventually(
            "the default service account",
            Duration::from_secs(30),
            || run(&mut self.kubectl(["get", "serviceaccount", "default"])).map(drop),
        )?;
        step.done("ready");
        Ok(())
    }

    fn numbered(&self) -> impl Iterator<Item = (usize, &Machine)> {
        self.parts
            .nodes
            .iter()
            .enumerate()
            .map(|(i, machine)| (i + 1, machine))
    }

    /// The nodes, in the order of their names `node1` ….
    pub fn nodes(&self) -> &[Machine] {
        &self.parts.nodes
    }

    /// Where all its files are.
    pub fn folder(&self) -> &Path {
        &self.layout.state
    }

    /// The administrator's kubeconfig, of use in the cluster's networks.
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig("admin")
    }

    /// What kube-apiserver presents to webhooks that ask for it, under the name [`CALLER`]:
    /// certificate, key and its CA.
    pub fn caller(&self) -> [PathBuf; 3] {
        ["caller.crt", "caller.key", "caller-ca.crt"].map(|name| self.layout.secrets().join(name))
    }

    /// One log for each program, and kube-apiserver's audit log of what ImageSwap asked for.
    pub fn logs(&self) -> PathBuf {
        self.layout.logs()
    }

    /// Copies the logs to a folder of that name where they outlive the cluster.
    ///
    /// # Errors
    /// The disk is full, or the like.
    pub fn keep_logs(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = crate::repository().join("target/chaos-logs").join(name);
        fs::create_dir_all(&folder)?;
        for log in fs::read_dir(self.logs())?.flatten() {
            fs::copy(log.path(), folder.join(log.file_name()))?;
        }
        Ok(folder)
    }

    /// kube-apiserver's audit log: every call of ImageSwap's service account, a JSON object a line.
    pub fn audit_log(&self) -> PathBuf {
        self.layout.audit_log()
    }

    /// Where a node reads static Pods from.
    pub fn static_pods(&self, node: usize) -> PathBuf {
        self.layout.node(node).join("manifests")
    }

    /// A folder with a `kubectl` that speaks to this cluster, to be put on PATH.
    pub fn bin(&self) -> PathBuf {
        self.layout.bin()
    }

    /// `kubectl` as the cluster's administrator.
    pub fn kubectl<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut kubectl = command(self.bin().join("kubectl"), args);
        // Not what the person who runs this has set.
        kubectl.env_remove("KUBECONFIG");
        kubectl
    }

    /// What `kubectl` prints.
    ///
    /// # Errors
    /// It fails; the error holds what it said.
    pub fn ask(&self, words: &[&str]) -> anyhow::Result<String> {
        run(&mut self.kubectl(words))
    }

    /// An object, or a list of them, as JSON.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, words: &[&str]) -> anyhow::Result<serde_json::Value> {
        let words = [&["get", "-o", "json"], words].concat();
        Ok(serde_json::from_str(&self.ask(&words)?)?)
    }

    /// This crate's program in node 1's network.
    pub fn chaos(&self) -> Command {
        self.program(&self.parts.chaos)
    }

    /// A program of the host in node 1's network, as the cluster's administrator.
    pub fn program(&self, program: &Path) -> Command {
        let network = format!("--net=/run/netns/{}", self.layout.network(1));
        let mut command = command("nsenter", [network]);
        command.arg("--").arg(program);
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Gives an image another name, on every node.
    ///
    /// # Errors
    /// A node has no such image.
    pub fn tag(&self, name: &str, other: &str) -> anyhow::Result<()> {
        self.parts
            .nodes
            .iter()
            .try_for_each(|node| node.tag(name, other))
    }

    /// Loads the images of an archive into every node.
    ///
    /// # Errors
    /// containerd refuses it.
    pub fn import(&self, archive: &Path) -> anyhow::Result<()> {
        self.parts
            .nodes
            .iter()
            .try_for_each(|node| node.import(archive))
    }
}

/// The folders with Kubernetes' programs, of a cluster that is being started.
fn binaries_of(layout: &Layout) -> anyhow::Result<Vec<PathBuf>> {
    let text = fs::read_to_string(layout.record())?;
    Ok(serde_json::from_str::<Parts>(&text)?.binaries)
}
