//! A second kube-apiserver beside the first, on the same etcd, but at the end of a wire.
//!
//! No Service leads to it: who wants it calls it by its address. ImageSwap itself never does.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;

use super::control_plane::{ETCD, apiserver_flags, flag};
use super::{Cluster, Machine};
use crate::command::{eventually, run};
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
    control: Machine,
}

impl Cluster {
    /// Starts one, and waits until it answers.
    ///
    /// # Errors
    /// It does not come up; its log is `second-kube-apiserver.log`.
    pub fn second_apiserver(&self, way: Way) -> anyhow::Result<Second> {
        let late = match way {
            Way::Whole => Duration::ZERO,
            Way::Late(late) => late,
        };
        let etcd = ETCD.trim_start_matches("http://");
        let etcd = etcd.parse().context("etcd without an address")?;
        let second = Second {
            wire: Wire::lay(self, WIRE, etcd, late)?,
            control: self.parts.control.clone(),
        };
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
        control.spawn_as("second-kube-apiserver", "kube-apiserver", &flags)?;
        let ready = eventually("a second kube-apiserver", Duration::from_secs(90), || {
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
        let server = format!("--server={SECOND_APISERVER}");
        let words = ["get", "--raw", "/readyz", &server, "--request-timeout=20s"];
        self.ask(&words).map(drop)
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let mut pkill = self.control.command("pkill");
        // If it has ended by itself, all the better.
        let _ = run(pkill.args(["-KILL", "-f", "--", PORT]));
    }
}
