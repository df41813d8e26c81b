//! A trust bundle: the CAs that a client believes, as a set.
//!
//! Two bundles are the same if they hold the same certificates, whatever their order, comments and
//! line breaks: what differs in text alone needs no write.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;

use super::ca::Ca;
use super::certificate::is_minted_ca;

/// Bytes that make a line of 64 columns of base64 (RFC 7468, section 2).
const LINE: usize = 48;

/// How the first line of a section begins.
const BEGIN: &[u8] = b"-----BEGIN ";

/// CAs in the order they were found, each once.
#[derive(Clone, Default)]
pub struct Bundle {
    cas: Vec<Arc<Ca>>,
    has_rubbish: bool,
}

impl Bundle {
    /// Reads what can be read; sections that hold no certificate are skipped.
    pub fn read(pem: &[u8]) -> Self {
        #[cfg(test)]
        return super::memo::recall(|memo| &mut memo.bundles, pem, || Self::parse(pem));
        #[cfg(not(test))]
        Self::parse(pem)
    }

    fn parse(pem: &[u8]) -> Self {
        let mut bundle = Self::default();
        for section in sections(pem).flat_map(CertificateDer::pem_slice_iter) {
            match section {
                Ok(der) => match Ca::read(der) {
                    Some(ca) => bundle.push(Arc::new(ca)),
                    None => bundle.has_rubbish = true,
                },
                Err(_) => bundle.has_rubbish = true,
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
            self.push(Arc::clone(ca));
        }
        self
    }

    /// Whether both hold the same certificates, and no rubbish.
    pub fn is_same(&self, other: &Self) -> bool {
        let is_clean = !self.has_rubbish && !other.has_rubbish;
        is_clean && self.cas.len() == other.cas.len() && self.holds(other)
    }

    /// Without the other's certificates.
    #[must_use]
    pub fn without(mut self, other: &Self) -> Self {
        self.cas.retain(|ca| !other.cas.contains(ca));
        self
    }

    /// Those that the other holds, too.
    #[must_use]
    pub fn common(mut self, other: &Self) -> Self {
        self.cas.retain(|ca| other.cas.contains(ca));
        self
    }

    /// Those that have ended: no client believes them any more.
    #[must_use]
    pub fn ended(mut self, now: OffsetDateTime) -> Self {
        self.cas.retain(|ca| ca.dates.not_after <= now);
        self
    }

    /// Those that have not ended.
    #[must_use]
    pub fn valid(mut self, now: OffsetDateTime) -> Self {
        self.cas.retain(|ca| ca.dates.not_after > now);
        self
    }

    /// Whether one of them is a CA that ImageSwap minted.
    pub fn has_minted(&self) -> bool {
        self.cas.iter().any(|ca| is_minted_ca(&ca.der))
    }

    /// Each certificate as a bundle of its own.
    pub fn singles(&self) -> impl Iterator<Item = Self> {
        self.cas.iter().map(|ca| Self {
            cas: vec![Arc::clone(ca)],
            has_rubbish: false,
        })
    }

    /// When the last of them ends.
    pub fn last_end(&self) -> Option<OffsetDateTime> {
        self.cas.iter().map(|ca| ca.dates.not_after).max()
    }

    /// The first so many.
    #[must_use]
    pub fn first(mut self, most: usize) -> Self {
        self.cas.truncate(most);
        self
    }

    /// As text: the certificates alone, and each once.
    pub fn pem(&self) -> String {
        self.cas.iter().map(|ca| pem_of(&ca.der)).collect()
    }

    /// The certificates, DER.
    pub fn ders(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.cas.iter().map(|ca| &ca.der)
    }

    pub(super) fn cas(&self) -> &[Arc<Ca>] {
        &self.cas
    }

    fn push(&mut self, ca: Arc<Ca>) {
        if !self.cas.contains(&ca) {
            self.cas.push(ca);
        }
    }
}

#[cfg(test)]
impl std::hash::Hash for Bundle {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.ders().for_each(|der| der.hash(state));
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bundle {{ {} CAs }}", self.cas.len())
    }
}

/// Split before each line that begins a section: Go, too, looks for the next one behind it, so that one that was cut off
/// hides none.
fn sections(mut pem: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let mut lines = pem.split_inclusive(|byte| matches!(byte, b'\n' | b'\r'));
        let first = lines.next()?.len();
        let others = lines.take_while(|line| !line.starts_with(BEGIN));
        let length = first + others.map(<[u8]>::len).sum::<usize>();
        let (section, rest) = pem.split_at_checked(length)?;
        pem = rest;
        Some(section)
    })
}

fn pem_of(certificate: &CertificateDer<'static>) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in certificate.chunks(LINE) {
        BASE64_STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
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
        assert_eq!(read(both.pem()).pem(), both.pem());
        let ended = both.clone().ended(NOW + Duration::hours(30));
        assert_eq!(ended.pem(), read(one.clone()).pem());
        let later = both.clone().without(&ended);
        assert_eq!(later.pem(), read(two.clone()).pem());
        assert!(later.is_same(&both.clone().common(&read(two.clone()))));
        assert!(!later.is_same(&both) && both.is_same(&other));
        assert_eq!(both.singles().count(), 2);
        assert_eq!(read(one.clone()).and(&read(two.clone())).cas().len(), 2);
        assert_eq!(other.first(1).pem(), read(one).pem());
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
            // One that was cut off hides none behind it.
            (format!("{begin}AAAA\n{good}"), 1),
            (format!("{begin}{good}"), 1),
            (format!("{begin}AAAA\n{begin}{good}{begin}AAAA"), 1),
            (format!("text\r\n-----BEGIN CERT\r\n{good}"), 1),
            (format!("{}{}", good.replace(end, ""), ca(2)), 1),
        ] {
            let bundle = Bundle::read(text.as_bytes());
            assert_eq!(bundle.cas().len(), cas, "{text}");
            assert!(bundle.has_rubbish(), "{text}");
        }
        assert!(!Bundle::read(b"").has_rubbish());
    }
}
