//! Which leaf every endpoint of the Service serves, ready or not: seen by a handshake with each, as
//! kube-apiserver would make it. Any certificate is taken: it is looked at, not believed.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use k8s_openapi::api::discovery::v1::{Endpoint as Listed, EndpointSlice};
use kube::api::ListParams;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Kubernetes, handshake};
use crate::rotation::plan::Endpoint;
use crate::rotation::write::Failure;

/// The longest a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// Handshakes at once.
const AT_ONCE: usize = 16;

/// The port that kube-apiserver calls, where a Service has several.
const PORT: &str = "https";

impl Kubernetes {
    /// Where Kubernetes says that the Service's endpoints are.
    pub(super) async fn endpoint_slices(&self) -> Result<Vec<EndpointSlice>, Failure> {
        let label = format!("kubernetes.io/service-name={}", self.names.service);
        let params = ListParams::default().labels(&label);
        let call = self.slices.list(&params);
        Ok(self.call("endpoint slices", call).await?.items)
    }

    /// Looks at every endpoint but those of this Pod. One that can't be reached is told, too.
    pub(super) async fn look_at_endpoints(
        &self,
        but: Option<&str>,
    ) -> Result<Vec<Endpoint>, Failure> {
        let slices = self.endpoint_slices().await?;
        let addresses: BTreeSet<_> = slices
            .iter()
            .flat_map(|slice| addresses(slice, but))
            .collect();
        let host = self.names.host();
        let looks = addresses.into_iter().map(|address| {
            let host = host.clone();
            async move {
                let leaf = leaf_served_at(&address, &host).await;
                let (ip, port) = address;
                let address = format!("{ip} port {port}");
                Endpoint { address, leaf }
            }
        });
        Ok(stream::iter(looks)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await)
    }
}

/// Where a slice says that the webhook is, but for one Pod.
fn addresses(slice: &EndpointSlice, but: Option<&str>) -> Vec<(String, u16)> {
    let is_left_out = |endpoint: &&Listed| {
        let target = endpoint.target_ref.as_ref();
        let pod = target.and_then(|target| target.name.as_deref());
        pod.is_some() && pod == but
    };
    let all = slice.ports.as_deref().unwrap_or_default();
    let has_name = all.iter().any(|port| port.name.as_deref() == Some(PORT));
    let named = all
        .iter()
        .filter(|port| !has_name || port.name.as_deref() == Some(PORT));
    let ports: Vec<_> = named
        .filter_map(|port| u16::try_from(port.port?).ok())
        .collect();
    let endpoints = slice.endpoints.iter().filter(|one| !is_left_out(one));
    let ips = endpoints.flat_map(|endpoint| &endpoint.addresses);
    ips.flat_map(|ip| ports.iter().map(|port| (ip.clone(), *port)))
        .collect()
}

async fn leaf_served_at((ip, port): &(String, u16), host: &str) -> Result<Vec<u8>, String> {
    let handshake = async {
        let connected = TcpStream::connect((ip.as_str(), *port)).await;
        let stream = connected.map_err(|error| error.to_string())?;
        let chain = handshake::look(stream, host).await?;
        let leaf = chain.first().map(|leaf| leaf.to_vec());
        leaf.ok_or_else(|| "no certificate".to_owned())
    };
    match timeout(HANDSHAKE, handshake).await {
        Ok(done) => done,
        Err(_) => Err(format!("no handshake within {HANDSHAKE:?}")),
    }
}
