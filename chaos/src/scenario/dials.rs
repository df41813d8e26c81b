//! kube-apiserver's connections to one replica, as the kernel notes them that gives the Service's
//! address another. A replica that is gone can't count them, and no metric tells of those that are
//! being opened.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::Context;

use crate::cluster::Cluster;
use crate::command::run;
use crate::install;
use crate::json::text_at;
use crate::replicas;

/// What counts them.
const PROGRAM: &str = "conntrack";

/// How soon it surely listens.
const LISTENS: Duration = Duration::from_secs(1);

/// In the states of connections on which nothing is asked any more.
const OVER: [&str; 4] = ["FIN_WAIT", "CLOSE", "LAST_ACK", "TIME_WAIT"];

/// Counts, until it is asked how many there were.
#[derive(Debug)]
pub(super) struct Dials {
    /// Those that were open at the beginning.
    open: usize,
    watch: Child,
    /// A line for each since.
    lines: PathBuf,
}

impl Dials {
    /// # Errors
    /// The kernel does not tell.
    pub(super) fn to(cluster: &Cluster, pod: &str) -> anyhow::Result<Self> {
        let service = install::address(cluster)?;
        let (service, _) = service
            .split_once(':')
            .context("an address without a port")?;
        let pod = replicas::find(cluster, pod)?;
        let ours = ["-p", "tcp", "--orig-dst", service, "--reply-src"];
        let ours = [&ours[..], &[text_at(&pod, "/status/podIP")]].concat();
        let lines = cluster
            .folder()
            .join(format!("dials-{}", text_at(&pod, "/metadata/name")));
        let mut watch = cluster.program(Path::new(PROGRAM));
        watch.args(["--event", "--event-mask", "NEW"]).args(&ours);
        let watch = watch.stdout(File::create(&lines)?).stderr(Stdio::null());
        let watch = watch.spawn().context("can't start conntrack")?;
        // What is begun before it listens must be in the list.
        thread::sleep(LISTENS);
        let mut list = cluster.program(Path::new(PROGRAM));
        let list = run(list.arg("--dump").args(&ours))?;
        let is_over = |line: &&str| OVER.iter().any(|state| line.contains(state));
        let open = list.lines().filter(|line| !is_over(line)).count();
        Ok(Self { open, watch, lines })
    }

    /// How many there were: those that were open, and those that were begun since.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn count(mut self) -> anyhow::Result<(usize, usize)> {
        let ended = self.watch.try_wait()?;
        anyhow::ensure!(ended.is_none(), "conntrack has ended");
        self.end();
        let begun = fs::read_to_string(&self.lines)?.lines().count();
        Ok((self.open, begun))
    }

    fn end(&mut self) {
        // One that has ended does not mind.
        let _ = self.watch.kill();
        let _ = self.watch.wait();
    }
}

impl Drop for Dials {
    fn drop(&mut self) {
        self.end();
    }
}
