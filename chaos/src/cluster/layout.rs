//! Where a cluster's files are, and what its networks are called.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// All clusters' files; a folder each.
pub(super) const STATE: &str = "/var/tmp/imageswap-chaos";

/// Whose turn it is on this machine. Beside the clusters, which all users share, and not in somebody's cache.
pub(crate) const TURN: &str = "/var/tmp/imageswap-chaos.lock";

/// Where kube-apiserver answers.
pub const APISERVER: &str = "https://10.99.0.1:6443";

#[derive(Debug)]
pub(super) struct Layout {
    pub(super) name: String,
    pub(super) state: PathBuf,
}

/// Whether a cluster may be called so: its files and networks are, too.
pub(super) fn check_name(name: &str) -> anyhow::Result<()> {
    ensure!(
        !name.is_empty() && name.len() <= 12 && name.bytes().all(|b| b.is_ascii_alphanumeric()),
        "a cluster's name is up to 12 letters and digits, not {name:?}"
    );
    Ok(())
}

/// Whose a cluster's name is. Not among its files, which come and go.
pub(super) fn claim(name: &str) -> PathBuf {
    format!("{STATE}-{name}.lock").into()
}

impl Layout {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: Path::new(STATE).join(name),
        }
    }

    /// Makes the folders.
    pub(super) fn make(&self, nodes: usize) -> anyhow::Result<()> {
        let machines =
            std::iter::once("control".to_owned()).chain((1..=nodes).map(|n| format!("node{n}")));
        let mut folders = vec![self.logs(), self.secrets(), self.images(), self.bin()];
        for machine in machines {
            for part in ["run", "var-lib", "var-log", "manifests", "cni"] {
                folders.push(self.state.join(&machine).join(part));
            }
        }
        for folder in folders {
            fs::create_dir_all(&folder)
                .with_context(|| format!("can't make {}", folder.display()))?;
        }
        Ok(())
    }

    /// A name that only this cluster's namespaces begin with.
    pub(super) fn prefix(&self) -> String {
        format!("isw-{}-", self.name)
    }

    /// The network namespace of a node; of node 0, the bridge's.
    pub(super) fn network(&self, node: usize) -> String {
        match node {
            0 => format!("{}net", self.prefix()),
            _ => format!("{}{node}", self.prefix()),
        }
    }

    /// The control group above all containers of a node.
    pub(super) fn control_group(&self, node: usize) -> String {
        format!("/isw-{}/node{node}", self.name)
    }

    pub(super) fn node(&self, node: usize) -> PathBuf {
        self.state.join(format!("node{node}"))
    }

    pub(super) fn record(&self) -> PathBuf {
        self.state.join("cluster.json")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    pub(super) fn log(&self, program: &str) -> PathBuf {
        self.logs().join(format!("{program}.log"))
    }

    pub(super) fn audit_log(&self) -> PathBuf {
        self.logs().join("audit.jsonl")
    }

    pub(super) fn secrets(&self) -> PathBuf {
        self.state.join("secrets")
    }

    pub(super) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.secrets().join(format!("{user}.kubeconfig"))
    }

    pub(super) fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    pub(super) fn bin(&self) -> PathBuf {
        self.state.join("bin")
    }
}
