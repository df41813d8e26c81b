//! Which leaf every endpoint of the Service serves, ready or not: seen by a handshake with each, as
//! kube-apiserver would make it. Any certificate is taken: it is looked at, not believed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Kubernetes;
use crate::rotation::plan::Endpoint;
use crate::rotation::write::Failure;

/// The longest a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// Handshakes at once.
const AT_ONCE: usize = 16;

/// The port that kube-apiserver calls, where a Service has several.
const PORT: &str = "https";

impl Kubernetes {
    /// Looks at every endpoint. One that can't be reached is told, too.
    pub(super) async fn look_at_endpoints(&self) -> Result<Vec<Endpoint>, Failure> {
        let label = format!("kubernetes.io/service-name={}", self.names.service);
        let params = ListParams::default().labels(&label);
        let slices = self
            .call("endpoint slices", self.slices.list(&params))
            .await?;
        let addresses: BTreeSet<_> = slices.items.iter().flat_map(addresses).collect();
        let config = config().map_err(|error| Failure::Failed(error.to_string()))?;
        let host = self.names.host();
        let looks = addresses.into_iter().map(|address| {
            let (config, host) = (Arc::clone(&config), host.clone());
            async move {
                let leaf = leaf_served_at(&address, &host, config).await;
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

/// Where a slice says that the webhook is.
fn addresses(slice: &EndpointSlice) -> Vec<(String, u16)> {
    let all = slice.ports.as_deref().unwrap_or_default();
    let has_name = all.iter().any(|port| port.name.as_deref() == Some(PORT));
    let named = all
        .iter()
        .filter(|port| !has_name || port.name.as_deref() == Some(PORT));
    let ports: Vec<_> = named
        .filter_map(|port| u16::try_from(port.port?).ok())
        .collect();
    let endpoints = slice.endpoints.iter();
    let ips = endpoints.flat_map(|endpoint| &endpoint.addresses);
    ips.flat_map(|ip| ports.iter().map(|port| (ip.clone(), *port)))
        .collect()
}

async fn leaf_served_at(
    (ip, port): &(String, u16),
    host: &str,
    config: Arc<ClientConfig>,
) -> Result<Vec<u8>, String> {
    let handshake = async {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let connected = TcpStream::connect((ip.as_str(), *port)).await;
        let stream = connected.map_err(|error| error.to_string())?;
        let shaken = TlsConnector::from(config).connect(name, stream).await;
        let stream = shaken.map_err(|error| error.to_string())?;
        let chain = stream.get_ref().1.peer_certificates();
        let leaf = chain.and_then(<[_]>::first).map(|leaf| leaf.to_vec());
        leaf.ok_or_else(|| "no certificate".to_owned())
    };
    match timeout(HANDSHAKE, handshake).await {
        Ok(done) => done,
        Err(_) => Err(format!("no handshake within {HANDSHAKE:?}")),
    }
}

fn config() -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Takes any certificate, but only from who has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
