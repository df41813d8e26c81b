//! A second kube-apiserver beside the first, on the same etcd, but at the end of a wire.
//!
//! No Service leads to it: who wants it calls it by its address. ImageSwap itself never does.

use std::net::SocketAddr;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal};

use super::Cluster;
use super::control_plane::{ETCD, apiserver_flags, flag};
use crate::command::eventually;
use crate::wire::Wire;

/// Where nodes call it; the first is at [`super::APISERVER`].
pub const SECOND_APISERVER: &str = "https://10.99.0.1:6444";

const PORT: &str = "--secure-port=6444";

/// Where its wire begins.
const WIRE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2389);

/// What is at stake in a rotation.
const CONFIGURATIONS: &str = "admissionregistration.k8s.io/mutatingwebhookconfigurations";

/// Which way to etcd is a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The only one, and it can be cut.
    Whole,
    /// That of webhook configurations, which come so late.
    Late(Duration),
}

/// A second kube-apiserver, gone when this is dropped.
#[derive(Debug)]
pub struct Second {
    /// What etcd is reached by.
    pub wire: Wire,
    program: Child,
}

impl Cluster {
    /// Starts one, and waits until it answers.
    ///
    /// # Errors
    /// There is one already, or it does not come up; its log is `second-kube-apiserver.log`.
    pub fn second_apiserver(&self, way: Way) -> anyhow::Result<Second> {
        ensure!(
            self.ask_second("/version").is_err(),
            "another kube-apiserver answers at {SECOND_APISERVER} already"
        );
        let late = match way {
            Way::Whole => Duration::ZERO,
            Way::Late(late) => late,
        };
        let etcd = ETCD.trim_start_matches("http://");
        let etcd = etcd.parse().context("etcd without an address")?;
        let laid = Wire::lay(self, WIRE, etcd, late)?;
        let wire = format!("http://{WIRE}");
        let mut flags = apiserver_flags(&self.layout);
        flags.extend([
            PORT.to_owned(),
            // No Service leads here.
            flag("endpoint-reconciler-type", "none"),
        ]);
        match way {
            Way::Whole => flags.push(flag("etcd-servers", wire)),
            Way::Late(_) => flags.extend([
                flag("etcd-servers", ETCD),
                flag("etcd-servers-overrides", format!("{CONFIGURATIONS}#{wire}")),
                // It is asked over the wire whether all is well, too.
                flag("etcd-healthcheck-timeout", "20s"),
                flag("etcd-readycheck-timeout", "20s"),
            ]),
        }
        let control = &self.parts.control;
        let mut second = Second {
            wire: laid,
            program: control.spawn_as("second-kube-apiserver", "kube-apiserver", &flags)?,
        };
        let ready = eventually("a second kube-apiserver", Duration::from_secs(90), || {
            ensure!(second.program.try_wait()?.is_none(), "it has ended");
            self.second_answers()
        });
        if let Err(error) = ready {
            let logs = self.keep_logs("second-kube-apiserver")?;
            return Err(error.context(format!("the logs are in {}", logs.display())));
        }
        Ok(second)
    }

    /// Whether the second kube-apiserver says that it is ready, as a load balancer would ask it.
    ///
    /// # Errors
    /// It does not.
    pub fn second_answers(&self) -> anyhow::Result<()> {
        self.ask_second("/readyz").map(drop)
    }

    /// What it answers at a path.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub fn ask_second(&self, path: &str) -> anyhow::Result<String> {
        let server = format!("--server={SECOND_APISERVER}");
        self.ask(&["get", "--raw", path, &server, "--request-timeout=20s"])
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        // If it has ended by itself, all the better, and its number may be another's.
        if let Ok(None) = self.program.try_wait() {
            // It is the child of what entered the machine's namespaces, and in that one's process group.
            let group = Pid::from_child(&self.program);
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
            let _ = self.program.wait();
        }
    }
}
