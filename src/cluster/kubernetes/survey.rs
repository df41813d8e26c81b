//! All that there is to see of an installation, for a person: the objects, and every replica as a
//! handshake and its metrics page show it.
//!
//! Within the cluster replicas are called at their addresses. From outside, through port-forwards
//! of kube-apiserver.

use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::api::coordination::v1;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::Api;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Kubernetes, Refused, chain, endpoints, handshake, preview};
use crate::pki::Served;
use crate::rotation::driver::Store;
use crate::rotation::write::Failure;
use crate::status::{Facts, Lease, Page, Replica, Scale};

/// How long a replica may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest metrics page, in bytes.
const MAX_PAGE: u64 = 1 << 20;

/// The names of the Service's ports in an EndpointSlice; with others the usual numbers are meant.
const PORTS: [(&str, u16); 2] = [(endpoints::PORT, 5000), ("metrics", 9090)];

/// How replicas are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// At their addresses, from a Pod.
    Direct,
    /// Through kube-apiserver.
    Forwarded,
}

/// A stream to a replica.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// An endpoint before it was called.
pub(super) struct Found {
    /// The name of its Pod, if it has one.
    pod: Option<String>,
    address: String,
    pub(super) is_ready: bool,
    is_leaving: bool,
    ports: [u16; 2],
}

impl Kubernetes {
    /// Looks at everything once.
    ///
    /// # Errors
    /// The API can't be asked. Replicas that do not answer are among the facts.
    pub async fn survey(&self, reach: Reach) -> Result<Facts, Failure> {
        let observed = self.observe().await?;
        let lease = self.lease().await?;
        let scale = self.scale().await;
        let endpoints = self.listed_endpoints().await?;
        let replicas = join_all(endpoints.iter().map(|found| self.replica(found, reach))).await;
        let now = self.clock.now();
        Ok(Facts {
            now: now.wall,
            is_told: now.is_told,
            namespace: self.names.namespace.clone(),
            host: self.names.host(),
            observed,
            lease,
            scale,
            replicas,
        })
    }

    async fn lease(&self) -> Result<Option<Lease>, Failure> {
        let leases: Api<v1::Lease> = self.namespaced();
        let call = leases.get_opt(&self.names.lease);
        let found = self.call("lease", call).await?;
        Ok(found.and_then(|lease| lease.spec).map(lease_of))
    }

    /// The Deployment has the Service's name. Not all who may read the rest may read it.
    async fn scale(&self) -> Result<Option<Scale>, String> {
        let kind = format!("deployments/{}", self.names.service);
        let found = self.read_ours("deployment", "/apis/apps/v1", &kind).await;
        let found = found.map_err(|unseen| unseen.why)?;
        Ok(found.as_ref().map(scale_of))
    }

    pub(super) async fn listed_endpoints(&self) -> Result<Vec<Found>, Refused> {
        let slices = self.endpoint_slices().await?;
        let mut found: Vec<_> = slices.into_iter().flat_map(found_in).collect();
        found.sort_by(|one, other| one.name().cmp(other.name()));
        Ok(found)
    }

    async fn replica(&self, found: &Found, reach: Reach) -> Replica {
        let [https, metrics] = found.ports;
        let served =
            async { served(self.open(found, https, reach).await?, &self.names.host()).await };
        let page = async { page(self.open(found, metrics, reach).await?).await };
        let (served, page) = tokio::join!(in_time(served), in_time(page));
        Replica {
            pod: found.name().to_owned(),
            address: found.address.clone(),
            is_ready: found.is_ready,
            is_leaving: found.is_leaving,
            served,
            page,
        }
    }

    async fn open(
        &self,
        found: &Found,
        port: u16,
        reach: Reach,
    ) -> Result<Box<dyn Stream>, String> {
        match reach {
            Reach::Direct => {
                let ip = found
                    .address
                    .parse()
                    .map_err(|_| "its address is none".to_owned())?;
                let stream = TcpStream::connect(std::net::SocketAddr::new(ip, port)).await;
                Ok(Box::new(stream.map_err(|error| error.to_string())?))
            }
            Reach::Forwarded => {
                let pods: Api<Pod> = self.namespaced();
                let pod = found.pod.as_deref();
                let pod = pod
                    .ok_or("its EndpointSlice names no Pod, to which a port could be forwarded")?;
                let forwarded = pods.portforward(pod, &[port]).await;
                let mut forwarded = forwarded.map_err(|error| chain(&error))?;
                let stream = forwarded.take_stream(port).ok_or("no stream was given")?;
                Ok(Box::new(stream))
            }
        }
    }
}

impl Found {
    /// What it is called: as its Pod, or by where it is.
    fn name(&self) -> &str {
        self.pod.as_deref().unwrap_or(&self.address)
    }
}

/// Whether a Pod can be called that (a DNS-1123 subdomain). kube-apiserver takes any text there, and kube makes it a part
/// of a path as it is: `x/exec?command=…` would run something with the rights of whoever asks for the status.
fn is_pod_name(name: &str) -> bool {
    let is_right = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_label = |label: &str| {
        !label.is_empty() && label.chars().all(is_right) && label.trim_matches('-') == label
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

async fn in_time<T>(call: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(done) => done,
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

fn lease_of(spec: k8s_openapi::api::coordination::v1::LeaseSpec) -> Lease {
    let time = |at: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime>| {
        OffsetDateTime::from_unix_timestamp_nanos(at?.0.as_nanosecond()).ok()
    };
    let lasts = spec.lease_duration_seconds.unwrap_or_default();
    Lease {
        holder: spec.holder_identity,
        since: time(spec.acquire_time),
        until: time(spec.renew_time).map(|at| at + time::Duration::seconds(lasts.into())),
    }
}

/// What tells a container of a certificate in files; others go with it.
const FILES: &str = "IMAGESWAP_TLS_CERT";

/// Of a Deployment, as JSON: for so little its type is not worth its size.
fn scale_of(deployment: &Value) -> Scale {
    let env = preview::deployment_of(deployment).env;
    let number = |path: &str| deployment.pointer(path).and_then(Value::as_u64);
    let count = |path: &str| number(path).and_then(|number| usize::try_from(number).ok());
    Scale {
        // The API's own default. What is none is left out of a status.
        wanted: count("/spec/replicas").unwrap_or(1),
        available: count("/status/availableReplicas").unwrap_or_default(),
        // One that is set to nothing is not set.
        names_files: env
            .get(FILES)
            .is_some_and(|path| path.as_deref() != Some("")),
    }
}

fn found_in(slice: EndpointSlice) -> Vec<Found> {
    let numbers = PORTS.map(|(name, usual)| {
        let ports = slice.ports.iter().flatten();
        let named = ports
            .filter(|port| port.name.as_deref() == Some(name))
            .find_map(|port| u16::try_from(port.port?).ok());
        named.unwrap_or(usual)
    });
    let found = |endpoint: Endpoint| {
        let pod = endpoint.target_ref.and_then(|target| target.name);
        let pod = pod.filter(|name| is_pod_name(name));
        let address = endpoint.addresses.into_iter().next()?;
        let conditions = endpoint.conditions.unwrap_or_default();
        Some(Found {
            pod,
            address,
            // What says nothing is ready, by the API's word.
            is_ready: conditions.ready != Some(false),
            is_leaving: conditions.terminating == Some(true),
            ports: numbers,
        })
    };
    slice.endpoints.into_iter().filter_map(found).collect()
}

// === what a replica shows ===

async fn served(stream: Box<dyn Stream>, host: &str) -> Result<Served, String> {
    let chain = handshake::look(stream, host).await?;
    Served::read(chain).ok_or_else(|| "it sent no certificate that can be read".to_owned())
}

async fn page(mut stream: Box<dyn Stream>) -> Result<Page, String> {
    let read = async {
        let request = b"GET /metrics HTTP/1.0\r\nHost: imageswap\r\n\r\n";
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        stream.take(MAX_PAGE).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = read.await.map_err(|error| error.to_string())?;
    let answer = String::from_utf8_lossy(&answer);
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(Page::read(body)),
        _ => Err("it is no metrics page".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_name_is_a_subdomain_and_no_path() {
        for name in ["a", "imageswap-5d8f-x2", "a.b-c.0", &"a".repeat(253)] {
            assert!(is_pod_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "a..b",
            "a.",
            "-a",
            "a-",
            "A",
            "a/exec?command=id",
            "a%2fexec",
            "a\n",
            "\u{e9}",
            "fd00::1",
            &"a".repeat(254),
        ] {
            assert!(!is_pod_name(name), "{name}");
        }
    }
}
