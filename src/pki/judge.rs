//! Reads a pair and judges it as a TLS client would: the chain, the key, the names, the time.

use std::sync::Arc;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Bundle, Pair, Pem};

/// Why a pair can't be served. Each is a sentence that names the part.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// No certificate, or a broken one.
    #[error("{0} holds no certificate that can be read")]
    NoCertificate(&'static str),
    /// No key, or one of a kind that can't be used.
    #[error("tls.key holds no private key that can be used")]
    NoKey,
    /// Somebody else's key.
    #[error("tls.key is not the key of the leaf in tls.crt")]
    KeyMismatch,
    /// The chain breaks, or has ended.
    #[error("the leaf in tls.crt does not lead to a CA in ca.crt: {0}")]
    Chain(webpki::Error),
    /// A name is missing.
    #[error("the leaf in tls.crt is not valid for {0}")]
    Name(String),
}

/// Reads a pair and judges it: it chains to the bundle now, the key is its own, and it is valid
/// for every one of the names.
///
/// # Errors
/// The first flaw found.
pub fn judge(pem: &Pem, names: &[String], now: OffsetDateTime) -> Result<Pair, Flaw> {
    let chain = certificates(&pem.chain, "tls.crt")?;
    let bundle = certificates(&pem.ca, "ca.crt")?;
    let (leaf, intermediates) = chain.split_first().ok_or(Flaw::NoCertificate("tls.crt"))?;
    let entity = EndEntityCert::try_from(leaf).map_err(|_| Flaw::NoCertificate("tls.crt"))?;
    verify(&entity, intermediates, &bundle, now).map_err(Flaw::Chain)?;
    for name in names {
        let flaw = || Flaw::Name(name.clone());
        let server = ServerName::try_from(name.as_str()).map_err(|_| flaw())?;
        entity
            .verify_is_valid_for_subject_name(&server)
            .map_err(|_| flaw())?;
    }
    Ok(Pair {
        not_after: not_after(leaf).ok_or(Flaw::NoCertificate("tls.crt"))?,
        ca_not_after: bundle
            .iter()
            .filter_map(not_after)
            .max()
            .ok_or(Flaw::NoCertificate("ca.crt"))?,
        certified: Arc::new(certified(chain, &pem.key)?),
    })
}

impl Pair {
    /// Whether a client that believes these CAs believes this pair now.
    pub fn is_trusted(&self, bundle: &Bundle, now: OffsetDateTime) -> bool {
        let Some((leaf, intermediates)) = self.certified.cert.split_first() else {
            return false;
        };
        EndEntityCert::try_from(leaf)
            .is_ok_and(|entity| verify(&entity, intermediates, bundle.cas(), now).is_ok())
    }
}

pub(super) fn verify(
    entity: &EndEntityCert<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &[CertificateDer<'_>],
    now: OffsetDateTime,
) -> Result<(), webpki::Error> {
    // webpki takes no notice of an anchor's dates, but kube-apiserver (Go) refuses one that ended.
    let living = |ca: &&CertificateDer<'_>| not_after(ca).is_some_and(|end| end > now);
    let anchors: Vec<_> = bundle
        .iter()
        .filter(living)
        .filter_map(|ca| anchor_from_trusted_cert(ca).ok())
        .collect();
    let (time, usage) = (unix_time(now), KeyUsage::server_auth());
    entity
        .verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &anchors,
            intermediates,
            time,
            usage,
            None,
            None,
        )
        .map(|_| ())
}

fn certificates(pem: &str, part: &'static str) -> Result<Vec<CertificateDer<'static>>, Flaw> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(Flaw::NoCertificate(part)),
    }
}

fn certified(chain: Vec<CertificateDer<'static>>, key: &str) -> Result<CertifiedKey, Flaw> {
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| Flaw::NoKey)?;
    let key = any_supported_type(&key).map_err(|_| Flaw::NoKey)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| Flaw::KeyMismatch)?;
    Ok(certified)
}

pub(super) fn not_after(certificate: &CertificateDer<'_>) -> Option<OffsetDateTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    OffsetDateTime::from_unix_timestamp(seconds).ok()
}

/// No certificate ended before 1970.
fn unix_time(at: OffsetDateTime) -> UnixTime {
    let seconds = u64::try_from(at.unix_timestamp()).unwrap_or_default();
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}
