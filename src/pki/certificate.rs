//! What a certificate says of itself: its dates, and whether ImageSwap minted it.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use super::mint::{BACKDATED, CA_NAME};

/// Those of a text of PEM. `None` if one can't be read, or there is none.
pub(super) fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    all.ok().filter(|all| !all.is_empty())
}

/// Whether the leaf of a chain can be read and was minted by somebody else.
pub fn is_foreign(chain: &str) -> bool {
    let chain = certificates(chain).unwrap_or_default();
    chain.first().is_some_and(|leaf| !is_minted(leaf))
}

/// Whether the issuer is a CA of ours.
pub(super) fn is_minted(leaf: &CertificateDer<'_>) -> bool {
    let parsed = X509Certificate::from_der(leaf);
    parsed.is_ok_and(|(_, leaf)| is_ours(leaf.issuer()))
}

/// Whether it is a CA of ours.
pub(super) fn is_minted_ca(ca: &CertificateDer<'_>) -> bool {
    let parsed = X509Certificate::from_der(ca);
    parsed.is_ok_and(|(_, ca)| is_ours(ca.subject()))
}

fn is_ours(name: &X509Name<'_>) -> bool {
    let mut names = name.iter_common_name();
    names.any(|name| name.as_str().is_ok_and(|name| name.starts_with(CA_NAME)))
}

/// Whether its serial number is below zero, which Go does not read (`parseCertificate` in crypto/x509, since 1.23).
pub(super) fn has_negative_serial(certificate: &CertificateDer<'_>) -> bool {
    let parsed = X509Certificate::from_der(certificate);
    parsed.is_ok_and(|(_, certificate)| is_serial_negative(&certificate))
}

/// As [`has_negative_serial`], of one that was read.
pub(super) fn is_serial_negative(certificate: &X509Certificate<'_>) -> bool {
    let first = certificate.raw_serial().first();
    first.is_some_and(|first| first & 0x80 != 0)
}

/// When a certificate begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dates {
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
}

impl Dates {
    /// See [`Pair::life`].
    pub(super) fn life(self, is_minted: bool) -> Duration {
        let life = self.not_after - self.not_before;
        match is_minted {
            true => life - BACKDATED,
            false => life,
        }
    }
}

/// An identifier in its parts, if they are not too large to be known to anybody.
pub(super) fn numbers(identifier: &Oid<'_>) -> Option<Vec<u64>> {
    identifier.iter().map(Iterator::collect)
}

pub(super) fn dates(certificate: &CertificateDer<'_>) -> Option<Dates> {
    let (rest, certificate) = X509Certificate::from_der(certificate).ok()?;
    // Neither Go nor webpki reads one with something behind it.
    if !rest.is_empty() {
        return None;
    }
    let validity = certificate.validity();
    let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).ok();
    Some(Dates {
        not_before: at(validity.not_before.timestamp())?,
        not_after: at(validity.not_after.timestamp())?,
    })
}
