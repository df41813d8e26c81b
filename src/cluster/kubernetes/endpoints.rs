//! Which leaf every endpoint of the Service serves, ready or not: seen by a handshake with each, as
//! kube-apiserver would make it. Any certificate is taken: it is looked at, not believed.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use k8s_openapi::api::discovery::v1::{Endpoint as Listed, EndpointSlice};
use kube::api::ListParams;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::{Kubernetes, Refused, handshake};
use crate::rotation::state::Endpoint;
use crate::rotation::write::Failure;

/// The longest a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// The longest all of them together may take: who leads does nothing else meanwhile, and a slice may tell of any number of
/// endpoints that never answer.
const ALL_HANDSHAKES: Duration = Duration::from_secs(6);

/// Handshakes at once.
const AT_ONCE: usize = 16;

/// The port that kube-apiserver calls, where a Service has several.
pub(super) const PORT: &str = "https";

impl Kubernetes {
    /// Where Kubernetes says that the Service's endpoints are.
    pub(super) async fn endpoint_slices(&self) -> Result<Vec<EndpointSlice>, Refused> {
        let label = format!("kubernetes.io/service-name={}", self.names.service);
        let params = ListParams::default().labels(&label);
        let call = self.slices.list(&params);
        Ok(self.call("endpoint slices", call).await?.items)
    }

    /// Looks at every endpoint but those of this Pod. One that can't be reached is told, too; unless all
    /// are looked at, and it goes.
    pub(super) async fn look_at_endpoints(
        &self,
        but: Option<&str>,
    ) -> Result<Vec<Endpoint>, Failure> {
        let slices = self.endpoint_slices().await?;
        let mut all = BTreeMap::new();
        for (address, is_going) in slices.iter().flat_map(|slice| addresses(slice, but)) {
            // Two slices may tell of it while it moves from one to the other.
            *all.entry(address).or_insert(true) &= is_going;
        }
        let is_told = |chain: &Chain, is_going: bool| chain.is_ok() || !is_going || but.is_some();
        Ok(look(all, &self.names.host(), is_told).await)
    }
}

/// What is served, or why that can't be told.
type Chain = Result<Vec<CertificateDer<'static>>, String>;

/// Looks at addresses, of each of which it is known whether it goes.
async fn look(
    all: BTreeMap<(String, u16), bool>,
    host: &str,
    is_told: impl Fn(&Chain, bool) -> bool,
) -> Vec<Endpoint> {
    let end = Instant::now() + ALL_HANDSHAKES;
    let looks = all.into_iter().map(|(address, is_going)| async move {
        (
            chain_served_at(&address, host, end).await,
            address,
            is_going,
        )
    });
    let seen = stream::iter(looks).buffer_unordered(AT_ONCE);
    let told = seen.filter_map(|(chain, (ip, port), is_going)| {
        let is_told = is_told(&chain, is_going);
        std::future::ready(is_told.then(|| endpoint(format!("{ip} port {port}"), chain)))
    });
    told.collect().await
}

/// Where a slice says that the webhook is, but for one Pod; and whether that Pod is deleted and not
/// ready. While its node is gone it stays listed like that, for ever if nobody forces it out. Should it
/// come back, it sees within a second what it has to serve.
fn addresses(slice: &EndpointSlice, but: Option<&str>) -> Vec<((String, u16), bool)> {
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
    let is_going = |endpoint: &Listed| {
        let conditions = endpoint.conditions.as_ref();
        conditions.is_some_and(|is| is.terminating == Some(true) && is.serving == Some(false))
    };
    let ips = endpoints.flat_map(|endpoint| {
        let ips = endpoint.addresses.iter();
        ips.map(move |ip| (ip, is_going(endpoint)))
    });
    ips.flat_map(|(ip, is_going)| {
        ports
            .iter()
            .map(move |port| ((ip.clone(), *port), is_going))
    })
    .collect()
}

/// The leaf first.
async fn chain_served_at((ip, port): &(String, u16), host: &str, end: Instant) -> Chain {
    if Instant::now() >= end {
        return Err(format!(
            "it was not its turn within {ALL_HANDSHAKES:?}, so many others do not answer"
        ));
    }
    let handshake = async {
        let connected = TcpStream::connect((ip.as_str(), *port)).await;
        let stream = connected.map_err(|error| error.to_string())?;
        handshake::look(stream, host).await
    };
    match timeout_at(end.min(Instant::now() + HANDSHAKE), handshake).await {
        Ok(done) => done,
        Err(_) => Err(format!("no handshake within {HANDSHAKE:?}")),
    }
}

fn endpoint(address: String, chain: Chain) -> Endpoint {
    let mut chain = chain.map(|chain| chain.into_iter().map(|der| der.to_vec()));
    let none = || "no certificate".to_owned();
    Endpoint {
        address,
        leaf: match &mut chain {
            Ok(chain) => chain.next().ok_or_else(none),
            Err(why) => Err(std::mem::take(why)),
        },
        intermediates: chain.into_iter().flatten().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn slice(ports: Value, endpoints: Value) -> EndpointSlice {
        let slice = json!({
            "metadata": {"name": "imageswap-1"},
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": endpoints,
        });
        serde_json::from_value(slice).unwrap()
    }

    /// Nobody else leads meanwhile, and the caBundle may have to be repaired.
    #[tokio::test(start_paused = true)]
    async fn endpoints_that_never_answer_hold_nobody_up_for_long() {
        let silent = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let address = |n: usize| (format!("127.0.{}.{}", 1 + n / 200, 1 + n % 200), port);
        let all: BTreeMap<_, _> = (0..300).map(|n| (address(n), false)).collect();
        let started = Instant::now();
        let seen = look(all, "host", |_, _| true).await;
        assert_eq!(seen.len(), 300);
        assert!(
            started.elapsed() <= ALL_HANDSHAKES,
            "{:?}",
            started.elapsed()
        );
    }

    #[test]
    fn every_address_is_told_and_which_of_them_goes() {
        let endpoint = |ip: &str, pod: &str, conditions: Value| {
            json!({
                "addresses": [ip],
                "conditions": conditions,
                "targetRef": {"kind": "Pod", "name": pod},
            })
        };
        let endpoints = json!([
            endpoint("10.0.0.1", "ready", json!({"ready": true, "serving": true})),
            endpoint("10.0.0.2", "unready", json!({"ready": false, "serving": false})),
            endpoint("10.0.0.3", "drains", json!({"serving": true, "terminating": true})),
            endpoint("10.0.0.4", "gone", json!({"serving": false, "terminating": true})),
            endpoint("10.0.0.5", "ours", json!({"ready": true})),
            {"addresses": ["10.0.0.6"]},
        ]);
        let port = json!([{"name": "https", "port": 5000}, {"name": "metrics", "port": 9090}]);
        let found = addresses(&slice(port, endpoints.clone()), Some("ours"));
        let expected = [1, 2, 3, 4, 6].map(|n| ((format!("10.0.0.{n}"), 5000), n == 4));
        assert_eq!(found, expected);
        let nameless = slice(json!([{"port": 8443}]), endpoints);
        let found = addresses(&nameless, None);
        assert_eq!(found.len(), 6);
        assert!(found.iter().all(|((_, port), _)| *port == 8443));
    }
}
