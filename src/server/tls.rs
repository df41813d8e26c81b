//! The certificate that is served, swapped as a whole while connections come in.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};

use crate::pki::Pair;

/// The certificate for connections to come. A clone is the same one.
#[derive(Debug, Clone)]
pub struct ServingCert(Arc<ArcSwap<ServerConfig>>);

impl ServingCert {
    /// Serves a pair.
    ///
    /// # Errors
    /// rustls refuses the protocol versions, which no input can bring about.
    pub fn new(pair: &Pair) -> Result<Self, rustls::Error> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(config(pair)?))))
    }

    /// Serves another pair to all connections from now on; those before go on.
    ///
    /// # Errors
    /// As for [`ServingCert::new`].
    pub fn publish(&self, pair: &Pair) -> Result<(), rustls::Error> {
        self.0.store(Arc::new(config(pair)?));
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.0.load_full()
    }
}

fn config(pair: &Pair) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair.certified.clone())));
    // A resumed session would not see a new certificate, and kube-apiserver resumes none.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
