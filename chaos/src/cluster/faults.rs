//! What can be broken of a cluster, and mended again.

use std::net::SocketAddr;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use time::OffsetDateTime;

use super::network::ip;
use super::{Cluster, Machine, control_plane, node};
use crate::command::{eventually, run};

impl Cluster {
    /// Cuts a node off from all others: its processes go on, no packet comes or goes.
    ///
    /// # Errors
    /// There is no such node.
    pub fn cut_off(&self, node: &Machine) -> anyhow::Result<()> {
        self.link(node, "down")
    }

    /// Ends [`Cluster::cut_off`].
    ///
    /// # Errors
    /// There is no such node.
    pub fn join_again(&self, node: &Machine) -> anyhow::Result<()> {
        self.link(node, "up")
    }

    fn link(&self, node: &Machine, state: &str) -> anyhow::Result<()> {
        let bridge = self.layout.network(0);
        ip(&["-n", &bridge, "link", "set", &node.name, state]).map(drop)
    }

    /// From now on, whoever in node 1's network, such as kube-apiserver, connects to this
    /// address comes to this port there.
    ///
    /// # Errors
    /// The kernel can't.
    pub fn lead_astray(&self, from: SocketAddr, to: u16) -> anyhow::Result<()> {
        self.detour("-I", from, to)
    }

    /// Ends [`Cluster::lead_astray`] for connections that are begun from now on.
    ///
    /// # Errors
    /// It was not so.
    pub fn lead_back(&self, from: SocketAddr, to: u16) -> anyhow::Result<()> {
        self.detour("-D", from, to)
    }

    fn detour(&self, how: &str, from: SocketAddr, to: u16) -> anyhow::Result<()> {
        let mut iptables = self.parts.control.command("iptables");
        iptables.args(["-t", "nat", how, "OUTPUT", "-p", "tcp"]);
        iptables.args([
            "-d",
            &from.ip().to_string(),
            "--dport",
            &from.port().to_string(),
        ]);
        iptables.args(["-j", "REDIRECT", "--to-ports", &to.to_string()]);
        run(&mut iptables).map(drop)
    }

    /// Kills all that runs on a node, at once: containerd, kubelet, kube-proxy, and every container.
    ///
    /// # Errors
    /// No process can be started there to do it.
    pub fn kill_node(&self, node: &Machine) -> anyhow::Result<()> {
        // -1: all that may be signalled but the namespace's first process.
        run(node.command("sh").args(["-c", "kill -s KILL -- -1"])).map(drop)
    }

    /// Starts on a node what [`Cluster::kill_node`] has killed, but for the containers.
    ///
    /// # Errors
    /// containerd does not come up.
    pub fn start_node(&self, node: &Machine) -> anyhow::Result<()> {
        let mut numbered = self.numbered();
        let found = numbered.find(|(_, machine)| machine.name == node.name);
        let (n, machine) = found.with_context(|| format!("there is no {}", node.name))?;
        node::start_runtime(&self.layout, n, machine)?;
        node::start(&self.layout, n, machine)
    }

    /// Waits until kube-apiserver is told by a node that it is ready.
    ///
    /// # Errors
    /// It is not in time.
    pub fn node_ready(&self, node: &Machine) -> anyhow::Result<()> {
        let name = format!("node/{}", node.name);
        let words = ["wait", "--for=condition=Ready", &name, "--timeout=90s"];
        self.ask(&words).map(drop)
    }

    /// Lets a program of the control plane stand still for a while.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&self, program: &str, time: Duration) -> anyhow::Result<()> {
        self.signal(program, "STOP")?;
        std::thread::sleep(time);
        self.signal(program, "CONT")
    }

    /// Sends a signal, such as `STOP`, to a program of the control plane.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, program: &str, signal: &str) -> anyhow::Result<()> {
        let script = "kill -s \"$2\" $(pidof \"$1\")";
        let mut sh = self.parts.control.command("sh");
        run(sh.args(["-c", script, "sh", program, signal])).map(drop)
    }

    /// What all processes of a program that run now, on the nodes or beside them, have taken of the
    /// machine's processors.
    ///
    /// # Errors
    /// A node can't be looked at.
    pub fn cpu_time(&self, program: &str) -> anyhow::Result<Duration> {
        // By proc(5): behind the name in parentheses come eleven fields, then user and system.
        const SUM: &str = "cat /proc/[0-9]*/stat 2>/dev/null | sed -n \"s/^[0-9]* ($1) //p\" | \
             awk -v hz=\"$(getconf CLK_TCK)\" '{ sum += $12 + $13 } END { printf \"%d\", sum * 1000 / hz }'";
        let mut millis = 0;
        for machine in self.nodes().iter().chain([&self.parts.control]) {
            let words = ["-c", SUM, "sh", program];
            millis += run(machine.command("sh").args(words))?
                .trim()
                .parse::<u64>()?;
        }
        Ok(Duration::from_millis(millis))
    }

    /// Whether a program of the control plane runs.
    pub fn runs(&self, program: &str) -> bool {
        run(self.parts.control.command("pidof").arg(program)).is_ok()
    }

    /// Starts kube-apiserver, which has ended, and waits until it answers.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_apiserver(&self) -> anyhow::Result<()> {
        ensure!(!self.runs("kube-apiserver"), "kube-apiserver runs still");
        let started = OffsetDateTime::now_utc();
        control_plane::start_apiserver(&self.layout, &self.parts.control)?;
        eventually("kube-apiserver", Duration::from_secs(60), || {
            self.ask(&["get", "--raw", "/readyz"]).map(drop)
        })?;
        self.starts().push((started, OffsetDateTime::now_utc()));
        Ok(())
    }

    /// Whether kube-apiserver was starting then: it answers before it has read all roles, and denies
    /// what it has not read yet.
    pub fn apiserver_was_starting(&self, at: OffsetDateTime) -> bool {
        let starts = self.starts();
        starts.iter().any(|(from, to)| (*from..=*to).contains(&at))
    }

    fn starts(&self) -> MutexGuard<'_, Vec<(OffsetDateTime, OffsetDateTime)>> {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
