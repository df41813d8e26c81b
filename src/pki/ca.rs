//! A CA, as kube-apiserver takes one for it: Go looks at more than webpki does of an anchor.

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::certificate::{Dates, dates, is_serial_negative, numbers};
use super::readable::is_readable;

/// What may be marked critical in a CA, below 2.5.29 (`processExtensions` in crypto/x509, Go 1.24 and later, of which
/// every kube-apiserver is that is maintained).
const HANDLED: [u64; 10] = [15, 17, 19, 30, 31, 32, 33, 36, 37, 54];

/// A CA, read once.
#[derive(PartialEq, Eq)]
pub(super) struct Ca {
    pub(super) der: CertificateDer<'static>,
    pub(super) dates: Dates,
    reach: Option<usize>,
}

impl Ca {
    /// `None` if its dates can't be read.
    pub(super) fn read(der: CertificateDer<'static>) -> Option<Self> {
        Some(Self {
            dates: dates(&der)?,
            reach: reach(&der).filter(|_| is_readable(&der)),
            der,
        })
    }

    /// How many certificates may stand between it and this leaf, if kube-apiserver (Go) ends a chain with it. A leaf
    /// that is believed itself needs to sign nothing.
    pub(super) fn reach_to(&self, leaf: &CertificateDer<'_>, now: OffsetDateTime) -> Option<usize> {
        let is_valid = self.dates.not_before <= now && now < self.dates.not_after;
        let is_itself = self.der == *leaf;
        let reach = self.reach.or(is_itself.then_some(0));
        reach.filter(|_| is_valid)
    }
}

/// How many certificates may stand between a CA and a leaf, if Go takes it for a CA of servers
/// (`CheckSignatureFrom`, `checkChainForKeyUsage` and `isValid` in crypto/x509): of version 3 it must say so; if
/// it says what its key is for, to sign certificates must be among that, and if what its leaves are for, to be a
/// server; nothing that Go does not know may be critical, and the serial number not negative.
pub(super) fn reach(ca: &CertificateDer<'_>) -> Option<usize> {
    let (_, ca) = X509Certificate::from_der(ca).ok()?;
    let mut critical = ca.extensions().iter().filter(|one| one.critical);
    if is_serial_negative(&ca) || critical.any(|one| !is_handled(&one.oid)) {
        return None;
    }
    let constraints = ca.basic_constraints().ok()?.map(|found| found.value);
    let usage = ca.key_usage().ok()?.map(|found| found.value);
    let extended = ca.extended_key_usage().ok()?.map(|found| found.value);
    let is_ca = match constraints {
        Some(constraints) => constraints.ca,
        None => ca.version() != X509Version::V3,
    };
    let may_sign = is_ca
        && usage.is_none_or(|usage| usage.key_cert_sign())
        && extended.is_none_or(|usage| usage.any || usage.server_auth);
    let most = constraints.and_then(|constraints| constraints.path_len_constraint);
    let most = most.map_or(usize::MAX, |most| {
        usize::try_from(most).unwrap_or(usize::MAX)
    });
    may_sign.then_some(most)
}

fn is_handled(extension: &Oid<'_>) -> bool {
    matches!(numbers(extension).as_deref(), Some([2, 5, 29, last]) if HANDLED.contains(last))
}
