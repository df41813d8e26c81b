//! A trust bundle: the CAs that a client believes, as a set.
//!
//! Two bundles are the same if they hold the same certificates, whatever their order, comments and
//! line breaks: what differs in text alone needs no write.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, PAD};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use super::ca::Ca;
use super::certificate::is_minted_ca;

/// Bytes that make a line of 64 columns of base64 (RFC 7468, section 2).
const LINE: usize = 48;

/// How the first line of a section begins.
const BEGIN: &[u8] = b"-----BEGIN ";

/// How its last line begins.
const END: &[u8] = b"-----END ";

/// What follows in both if it holds a certificate.
const KIND: &[u8] = b"CERTIFICATE-----";

/// Base64 as Go reads it, which does not look at the bits that are left over in the end.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, PAD.with_decode_allow_trailing_bits(true));

/// CAs in the order they were found, each once.
#[derive(Clone, Default)]
pub struct Bundle {
    cas: Vec<Arc<Ca>>,
    has_rubbish: bool,
}

impl Bundle {
    /// Reads what kube-apiserver can read; sections that hold no certificate are skipped.
    pub fn read(pem: &[u8]) -> Self {
        #[cfg(test)]
        return super::memo::recall(|memo| &mut memo.bundles, pem, || Self::parse(pem));
        #[cfg(not(test))]
        Self::parse(pem)
    }

    /// One CA alone, if it can be read.
    pub(super) fn of(ca: CertificateDer<'static>) -> Option<Self> {
        let mut bundle = Self::default();
        bundle.push(Arc::new(Ca::read(ca)?));
        Some(bundle)
    }

    /// As `Decode` in Go's encoding/pem, for what Go passes over, kube-apiserver does not believe: a line ends with LF or
    /// with CR and LF, and behind the dashes of a first or last line only spaces and tabs may follow. Each line that begins
    /// a section begins it anew, so that one that was cut off hides none.
    fn parse(pem: &[u8]) -> Self {
        let mut bundle = Self::default();
        let mut open = None;
        for line in pem.split_inclusive(|byte| *byte == b'\n').map(trimmed) {
            if let Some(kind) = line.strip_prefix(BEGIN) {
                bundle.has_rubbish |= open.replace((kind, Vec::new())).is_some();
            } else if let Some(end) = line.strip_prefix(END) {
                match open.take().filter(|(kind, _)| *kind == end) {
                    Some((KIND, text)) => bundle.read_one(text),
                    // Something else that is whole, such as a key.
                    Some(_) => {}
                    None => bundle.has_rubbish = true,
                }
            } else if let Some((_, text)) = &mut open {
                text.extend(line);
            }
        }
        bundle.has_rubbish |= open.is_some() || bundle.cas.is_empty() && !pem.is_empty();
        bundle
    }

    fn read_one(&mut self, mut text: Vec<u8>) {
        text.retain(|byte| !matches!(byte, b' ' | b'\t' | b'\r'));
        let der = BASE64.decode(text).ok();
        match der.and_then(|der| Ca::read(CertificateDer::from(der))) {
            Some(ca) => self.push(Arc::new(ca)),
            None => self.has_rubbish = true,
        }
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

/// A line as Go takes it: without its end, and the spaces and tabs before that.
fn trimmed(line: &[u8]) -> &[u8] {
    let mut line = match line.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => line,
    };
    while let [rest @ .., b' ' | b'\t'] = line {
        line = rest;
    }
    line
}

fn pem_of(certificate: &CertificateDer<'static>) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in certificate.chunks(LINE) {
        BASE64.encode_string(line, &mut text);
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
        let read = Bundle::read(good.as_bytes());
        let longer = read.ders().flat_map(|der| der.iter().chain(&[0]));
        let longer: Vec<u8> = longer.copied().collect();
        let padded = (1..).map(ca).find(|one| one.contains('=')).unwrap();
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
            // Go passes over what follows the dashes with more than blanks, and what does so there.
            (good.trim_end().to_owned() + &good, 0),
            (format!("{}{good}{}", good.trim_end(), ca(2)), 1),
            (format!("{} # imageswap\n{}", good.trim_end(), ca(2)), 1),
            (format!("{}\r", good.trim_end()), 0),
            (good.replace('\n', "\r"), 0),
            (format!("{}{}", good.replace('\n', "\r"), ca(2)), 0),
            (format!("\u{feff}{good}{}", ca(2)), 1),
            (good.replacen("-----\n", "----- x\n", 1), 0),
            (good.replacen("-----\n", "-----\nName: x\n\n", 1), 0),
            (padded.replace('=', ""), 0),
            (format!("{begin}{}\n{end}", BASE64.encode(longer)), 0),
        ] {
            let bundle = Bundle::read(text.as_bytes());
            assert_eq!(bundle.cas().len(), cas, "{text}");
            assert!(bundle.has_rubbish(), "{text}");
        }
        assert!(!Bundle::read(b"").has_rubbish());
    }

    #[test]
    fn what_go_reads_is_no_rubbish() {
        let good = ca(1);
        let key = mint(&["a".to_owned()], Duration::DAY, NOW).unwrap().key;
        for text in [
            good.replace('\n', "\r\n"),
            good.replace('\n', " \t\r\n"),
            good.trim_end().to_owned(),
            format!("{} \t", good.trim_end()),
            format!("text\n{good}text -----BEGIN CERTIFICATE-----"),
            good.replace("MII", " M\tI\rI"),
            key + &good,
        ] {
            let bundle = Bundle::read(text.as_bytes());
            assert_eq!(bundle.cas().len(), 1, "{text}");
            assert!(!bundle.has_rubbish(), "{text}");
        }
    }
}
