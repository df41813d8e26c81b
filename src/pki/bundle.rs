//! A trust bundle: the CAs that a client believes, as a set.
//!
//! Two bundles are the same if they hold the same certificates, whatever their order, comments and
//! line breaks: what differs in text alone needs no write.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::judge::not_after;

/// Columns of base64 in a PEM file (RFC 7468, section 2).
const COLUMNS: usize = 64;

/// CAs in the order they were found, each once.
#[derive(Clone, Default)]
pub struct Bundle {
    cas: Vec<CertificateDer<'static>>,
    has_rubbish: bool,
}

impl Bundle {
    /// Reads what can be read; sections that hold no certificate are skipped.
    pub fn read(pem: &[u8]) -> Self {
        let mut bundle = Self::default();
        for section in CertificateDer::pem_slice_iter(pem) {
            match section {
                Ok(ca) if X509Certificate::from_der(&ca).is_ok() => bundle.push(ca),
                _ => bundle.has_rubbish = true,
            }
        }
        bundle.has_rubbish |= bundle.cas.is_empty() && !pem.is_empty();
        bundle
    }

    /// Whether there was something that is no certificate, besides plain text around them.
    pub fn has_rubbish(&self) -> bool {
        self.has_rubbish
    }

    /// Whether no certificate is in it.
    pub fn is_empty(&self) -> bool {
        self.cas.is_empty()
    }

    /// How many certificates are in it.
    pub fn len(&self) -> usize {
        self.cas.len()
    }

    /// Whether every certificate of the other is here, too.
    pub fn holds(&self, other: &Self) -> bool {
        other.cas.iter().all(|ca| self.cas.contains(ca))
    }

    /// This one's certificates, then the other's.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for ca in &other.cas {
            self.push(ca.clone());
        }
        self
    }

    /// Without those that have ended: no client believes them any more.
    #[must_use]
    pub fn living(mut self, now: OffsetDateTime) -> Self {
        self.cas
            .retain(|ca| not_after(ca).is_some_and(|end| end > now));
        self
    }

    /// The first so many.
    #[must_use]
    pub fn first(mut self, most: usize) -> Self {
        self.cas.truncate(most);
        self
    }

    /// As text: the certificates alone, and each once.
    pub fn pem(&self) -> String {
        self.cas.iter().map(pem_of).collect()
    }

    pub(super) fn cas(&self) -> &[CertificateDer<'static>] {
        &self.cas
    }

    fn push(&mut self, ca: CertificateDer<'static>) {
        if !self.cas.contains(&ca) {
            self.cas.push(ca);
        }
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bundle {{ {} CAs }}", self.cas.len())
    }
}

fn pem_of(certificate: &CertificateDer<'static>) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----".to_owned();
    for (column, letter) in BASE64_STANDARD.encode(certificate).chars().enumerate() {
        if column % COLUMNS == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text + "\n-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;
    use crate::pki::mint;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_000));

    fn ca(days: i64) -> String {
        mint(&["a".to_owned()], Duration::days(days), NOW)
            .unwrap()
            .ca
    }

    #[test]
    fn a_bundle_is_a_set() {
        let (one, two) = (ca(1), ca(2));
        let read = |text: String| Bundle::read(text.as_bytes());
        let both = read(format!("# two\n{two}\n\n{one}{two}"));
        assert!(!both.has_rubbish());
        assert_eq!(both.cas().len(), 2);
        let other = read(one.clone() + &two);
        assert!(both.holds(&other) && other.holds(&both));
        assert!(!read(one.clone()).holds(&both));
        assert_eq!(read(both.pem()).cas(), both.cas());
        let later = both.clone().living(NOW + Duration::hours(30));
        assert_eq!(later.cas(), read(two.clone()).cas());
        assert_eq!(read(one.clone()).and(&read(two)).cas().len(), 2);
        assert_eq!(other.first(1).cas(), read(one).cas());
    }

    #[test]
    fn rubbish_is_skipped_and_told() {
        let good = ca(1);
        let begin = "-----BEGIN CERTIFICATE-----\n";
        let end = "-----END CERTIFICATE-----\n";
        for (text, cas) in [
            ("rubbish".to_owned(), 0),
            (format!("{begin}AAAA\n{end}{good}"), 1),
            (format!("{good}{begin}%%%%\n{end}"), 1),
            (format!("{good}{begin}AAAA"), 1),
        ] {
            let bundle = Bundle::read(text.as_bytes());
            assert_eq!(bundle.cas().len(), cas, "{text}");
            assert!(bundle.has_rubbish(), "{text}");
        }
        assert!(!Bundle::read(b"").has_rubbish());
    }
}
