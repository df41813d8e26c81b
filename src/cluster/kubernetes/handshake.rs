//! A TLS handshake to look at what a peer serves, over any stream. Any certificate is taken: it is
//! looked at, not believed.
//!
//! No certificate is presented, so where clients need one, the peer refuses us. By then it has shown
//! its own, in TLS 1.2 and 1.3: that is taken from the verifier, and a later error changes nothing.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// The chain that a peer serves to whoever calls it by this name, as it was sent. The error is a
/// part of a sentence.
pub(super) async fn look(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(AnyCertificate {
        provider,
        shown: Mutex::default(),
    });
    let config = config(&verifier).map_err(|error| error.to_string())?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let shaken = TlsConnector::from(config).connect(name, stream).await;
    match verifier.proven() {
        Some(chain) => Ok(chain),
        None => shaken
            .map(|_| Vec::new())
            .map_err(|error| error.to_string()),
    }
}

fn config(verifier: &Arc<AnyCertificate>) -> Result<Arc<ClientConfig>, Error> {
    let config = ClientConfig::builder_with_provider(Arc::clone(&verifier.provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<AnyCertificate>::clone(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Takes any certificate, but only from who has its key. It is for one handshake.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
    shown: Mutex<Shown>,
}

/// What a peer has shown so far.
#[derive(Debug, Default)]
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    /// Whether it has the key of the first of them.
    is_proven: bool,
}

impl AnyCertificate {
    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chain, if the peer has its key.
    fn proven(&self) -> Option<Vec<CertificateDer<'static>>> {
        let shown = self.shown();
        shown.is_proven.then(|| shown.chain.clone())
    }

    /// Takes note that the key was proven.
    fn prove(
        &self,
        verified: Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.shown().is_proven = verified.is_ok();
        verified
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = [end_entity].into_iter().chain(intermediates);
        self.shown().chain = chain.map(|one| one.clone().into_owned()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.prove(rustls::crypto::verify_tls12_signature(
            message, cert, dss, algorithms,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.prove(rustls::crypto::verify_tls13_signature(
            message, cert, dss, algorithms,
        ))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::server::WebPkiClientVerifier;
    use rustls::version::{TLS12, TLS13};
    use rustls::{RootCertStore, ServerConfig};
    use time::{Duration, OffsetDateTime};
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::pki::{Bundle, judge, mint};

    const HOST: &str = "imageswap.ns.svc";

    #[tokio::test]
    async fn a_leaf_is_seen_even_where_clients_need_a_certificate() {
        let (names, now) = ([HOST.to_owned()], OffsetDateTime::now_utc());
        let pem = mint(&names, Duration::DAY, now).unwrap();
        let pair = judge(&pem, &names, now).unwrap();
        let mut roots = RootCertStore::empty();
        let bundle = Bundle::read(pem.ca.as_bytes());
        roots.add_parsable_certificates(bundle.ders().cloned());
        let (roots, provider) = (Arc::new(roots), Arc::new(ring::default_provider()));
        for version in [&TLS12, &TLS13] {
            let clients =
                WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
            let config = ServerConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[version])
                .unwrap()
                .with_client_cert_verifier(clients.build().unwrap())
                .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
                    pair.certified.clone(),
                )));
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let (seen, accepted) = tokio::join!(look(ours, HOST), acceptor.accept(theirs));
            assert_eq!(seen.unwrap().first(), pair.certified.cert.first());
            assert!(accepted.is_err(), "{version:?}");
        }
    }

    #[tokio::test]
    async fn who_ends_without_a_certificate_is_told() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        drop(theirs);
        assert!(look(ours, HOST).await.is_err());
    }
}
