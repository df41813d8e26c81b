//! The certificate that is served and who may connect, swapped as a whole while connections come in.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};

use super::client_certs::Clients;
use crate::pki::Pair;

/// The certificate for connections to come. A clone is the same one.
#[derive(Debug, Clone)]
pub struct ServingCert(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// What connections read.
    config: ArcSwap<ServerConfig>,
    /// What it was made from. Held while it is made anew.
    parts: Mutex<Parts>,
}

#[derive(Debug, Clone)]
struct Parts {
    certified: Arc<CertifiedKey>,
    /// Who may connect; without, anybody may.
    clients: Option<Clients>,
}

impl ServingCert {
    /// Serves a pair.
    ///
    /// # Errors
    /// rustls refuses the protocol versions, which no input can bring about.
    pub fn new(pair: &Pair) -> Result<Self, rustls::Error> {
        let parts = Parts {
            certified: pair.certified.clone(),
            clients: None,
        };
        Ok(Self(Arc::new(Inner {
            config: ArcSwap::from_pointee(config(&parts)?),
            parts: Mutex::new(parts),
        })))
    }

    /// Serves another pair to all connections from now on; those before go on.
    ///
    /// # Errors
    /// As for [`ServingCert::new`].
    pub fn publish(&self, pair: &Pair) -> Result<(), rustls::Error> {
        self.change(|parts| parts.certified = pair.certified.clone())
    }

    /// Asks all connections from now on for a certificate.
    ///
    /// # Errors
    /// As for [`ServingCert::new`].
    pub fn require(&self, clients: Clients) -> Result<(), rustls::Error> {
        self.change(|parts| parts.clients = Some(clients))
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) -> Result<(), rustls::Error> {
        let mut parts = self.0.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = parts.clone();
        change(&mut changed);
        self.0.config.store(Arc::new(config(&changed)?));
        *parts = changed;
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.0.config.load_full()
    }
}

fn config(parts: &Parts) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?;
    let builder = match &parts.clients {
        Some(clients) => builder.with_client_cert_verifier(Arc::new(clients.clone())),
        None => builder.with_no_client_auth(),
    };
    let resolver = SingleCertAndKey::from(parts.certified.clone());
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    // A resumed session would not see a new certificate, and kube-apiserver resumes none.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
