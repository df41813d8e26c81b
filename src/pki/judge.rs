//! Reads a pair and judges it as a TLS client would: the chain, the key, the names, the time.

use std::sync::Arc;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use time::{Duration, OffsetDateTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};

use super::ca::reach;
use super::certificate::{Dates, certificates, dates, has_negative_serial, is_minted};
#[cfg(test)]
use super::memo;
use super::readable::is_readable;
use super::{Bundle, Pair, Pem};
use crate::text::rfc3339;

/// Why a pair can't be served. Each is a sentence that names the part.
#[derive(Debug, Clone, thiserror::Error)]
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
    /// One of the certificates that are sent, counted from the leaf, which is the first.
    #[error(
        "certificate {0} in tls.crt is damaged, or holds what kube-apiserver can't read, which then believes none of \
         them: take it out if it is no leaf, or have it issued anew"
    )]
    Malformed(usize),
    /// The chain breaks, or has ended.
    #[error("the leaf in tls.crt does not lead to a CA in ca.crt: {}", because(.0))]
    Chain(webpki::Error),
    /// The chain breaks, or has ended, where no CA is named.
    #[error("the leaf in tls.crt does not lead to the last certificate there: {}", because(.0))]
    OwnChain(webpki::Error),
    /// The leaf itself has ended.
    #[error("the leaf in tls.crt ended at {}", rfc3339(*.0))]
    Ended(OffsetDateTime),
    /// A name is missing.
    #[error("the leaf in tls.crt is not valid for {0}")]
    Name(String),
    /// All is right but that it begins later: by this machine's clock.
    #[error("the leaf in tls.crt begins at {}: is this machine's clock slow?", rfc3339(*.0))]
    NotYet(OffsetDateTime),
    /// It has hardly any time left, and a clock may be wrong.
    #[error("the leaf in tls.crt ends at {}, and may have ended if this clock is slow", rfc3339(*.0))]
    MayHaveEnded(OffsetDateTime),
}

/// Why a chain is not believed, the same at any time: it is said once, and in all replicas alike.
fn because(error: &webpki::Error) -> String {
    let date = |time: &UnixTime| {
        let seconds = i64::try_from(time.as_secs()).ok()?;
        OffsetDateTime::from_unix_timestamp(seconds)
            .ok()
            .map(rfc3339)
    };
    let (what, date) = match error {
        webpki::Error::CertExpired { not_after, .. } => ("ended", date(not_after)),
        webpki::Error::CertNotValidYet { not_before, .. } => ("begins", date(not_before)),
        webpki::Error::InvalidSerialNumber => {
            return "a certificate's serial number is below zero or malformed".to_owned();
        }
        webpki::Error::CaUsedAsEndEntity => {
            return "it is a CA itself; a leaf has basicConstraints CA:FALSE".to_owned();
        }
        other => return other.to_string(),
    };
    let date = date.unwrap_or_else(|| "a time that is no date".to_owned());
    format!("a certificate on the way {what} at {date}")
}

/// Reads a pair and judges it: it chains to the bundle now, the key is its own, and it is valid
/// for every one of the names.
///
/// # Errors
/// The first flaw found. That it begins later is told only if there is no other.
pub fn judge(pem: &Pem, names: &[String], now: OffsetDateTime) -> Result<Pair, Flaw> {
    #[cfg(test)]
    {
        let question = (&pem.chain, &pem.key, &pem.ca, names, memo::hour(now));
        memo::recall(
            |memo| &mut memo.pairs,
            question,
            || judge_anew(pem, names, now),
        )
    }
    #[cfg(not(test))]
    judge_anew(pem, names, now)
}

fn judge_anew(pem: &Pem, names: &[String], now: OffsetDateTime) -> Result<Pair, Flaw> {
    let bundle = Bundle::read(pem.ca.as_bytes());
    let mut pair = read(&pem.chain, &pem.key, &bundle)?;
    if bundle.is_empty() {
        return Err(Flaw::NoCertificate("ca.crt"));
    }
    let begun = now.max(pair.not_before);
    pair.verify(&bundle, begun)?;
    pair.ca_not_after = pair.ca_end(&bundle, begun).unwrap_or(pair.ca_not_after);
    pair.finish(names, now)
}

/// What can be read, not judged yet.
pub(super) fn read(chain: &str, key: &str, bundle: &Bundle) -> Result<Pair, Flaw> {
    let unreadable = || Flaw::NoCertificate("tls.crt");
    let chain = certificates(chain).ok_or_else(unreadable)?;
    let leaf = chain.first().ok_or_else(unreadable)?;
    EndEntityCert::try_from(leaf).map_err(|_| unreadable())?;
    let Dates {
        not_before,
        not_after,
    } = dates(leaf).ok_or_else(unreadable)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| Flaw::NoKey);
    let key = key.and_then(|key| any_supported_type(&key).map_err(|_| Flaw::NoKey))?;
    Ok(Pair {
        not_before,
        not_after,
        ca_not_after: bundle.last_end().unwrap_or(not_after),
        is_minted: is_minted(leaf),
        certified: Arc::new(CertifiedKey::new(chain, key)),
    })
}

impl Pair {
    /// For how long it was made. One of ours begins before that, for the sake of slow clocks.
    pub fn life(&self) -> Duration {
        let dates = Dates {
            not_before: self.not_before,
            not_after: self.not_after,
        };
        dates.life(self.is_minted)
    }

    /// Whether a client that believes these CAs believes this pair now.
    pub fn is_trusted(&self, bundle: &Bundle, now: OffsetDateTime) -> bool {
        #[cfg(test)]
        {
            let question = (&self.certified.cert, bundle, memo::hour(now));
            memo::recall(
                |memo| &mut memo.trusted,
                question,
                || self.verify(bundle, now).is_ok(),
            )
        }
        #[cfg(not(test))]
        self.verify(bundle, now).is_ok()
    }

    /// Those of the CAs without which this pair is not believed while it lives.
    pub fn needs(&self, bundle: &Bundle, now: OffsetDateTime) -> Bundle {
        let last = self.not_after - time::Duration::SECOND;
        let at = now.max(self.not_before).min(last);
        self.believed_by(bundle, at)
            .fold(Bundle::default(), |all, one| all.and(&one))
    }

    /// When the last of these CAs ends by which this pair is believed now, or before that an intermediate
    /// without which it is not. Other CAs may be there for another pair.
    pub fn ca_end(&self, bundle: &Bundle, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let believed = self.believed_by(bundle, now);
        let last = believed.filter_map(|ca| ca.last_end()).max()?;
        Some(self.broken_chain(bundle, now, last).unwrap_or(last))
    }

    /// The first end of an intermediate behind which the leaf leads to none of these CAs: there may be another
    /// way.
    fn broken_chain(
        &self,
        bundle: &Bundle,
        now: OffsetDateTime,
        last: OffsetDateTime,
    ) -> Option<OffsetDateTime> {
        let intermediates = self.certified.cert.iter().skip(1);
        let ends = intermediates.filter_map(|one| Some(dates(one)?.not_after));
        let relevant = now..last.min(self.not_after);
        let mut ends: Vec<_> = ends.filter(|end| relevant.contains(end)).collect();
        ends.sort_unstable();
        let is_broken =
            |end: &OffsetDateTime| self.verify(bundle, *end + time::Duration::SECOND).is_err();
        ends.into_iter().find(is_broken)
    }

    /// Those of the CAs by which this pair is believed at a time, each as a bundle of its own.
    fn believed_by(&self, bundle: &Bundle, at: OffsetDateTime) -> impl Iterator<Item = Bundle> {
        bundle.singles().filter(move |ca| self.is_trusted(ca, at))
    }

    /// Whether both are the same to a client: the leaf, and what is sent with it.
    pub fn is_same(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert
    }

    /// The leaf, DER.
    pub fn leaf(&self) -> &[u8] {
        self.certified.cert.first().map_or(&[], AsRef::as_ref)
    }

    /// Whether the leaf is valid for this name.
    pub fn is_valid_for(&self, name: &str) -> bool {
        #[cfg(test)]
        {
            let question = (self.leaf(), name);
            memo::recall(|memo| &mut memo.named, question, || self.covers(name))
        }
        #[cfg(not(test))]
        self.covers(name)
    }

    fn covers(&self, name: &str) -> bool {
        let leaf = self.certified.cert.first();
        let entity = leaf.and_then(|leaf| EndEntityCert::try_from(leaf).ok());
        let server = ServerName::try_from(name).ok();
        entity.zip(server).is_some_and(|(entity, server)| {
            entity.verify_is_valid_for_subject_name(&server).is_ok()
        })
    }

    /// Judges all but the chain.
    pub(super) fn finish(self, names: &[String], now: OffsetDateTime) -> Result<Self, Flaw> {
        if let Some(name) = names.iter().find(|name| !self.is_valid_for(name)) {
            return Err(Flaw::Name(name.clone()));
        }
        self.certified.keys_match().map_err(|_| Flaw::KeyMismatch)?;
        if now < self.not_before {
            return Err(Flaw::NotYet(self.not_before));
        }
        Ok(self)
    }

    /// Else its own end would be told as that of a certificate on the way.
    pub(super) fn not_ended(&self, now: OffsetDateTime) -> Result<(), Flaw> {
        match now > self.not_after {
            true => Err(Flaw::Ended(self.not_after)),
            false => Ok(()),
        }
    }

    fn verify(&self, bundle: &Bundle, now: OffsetDateTime) -> Result<(), Flaw> {
        self.not_ended(now)?;
        let chain = self.certified.cert.split_first();
        let (leaf, intermediates) = chain.ok_or(Flaw::NoCertificate("tls.crt"))?;
        verify(leaf, intermediates, bundle, now).map_err(|error| error.flaw(Flaw::Chain))
    }
}

/// Why a chain is not believed. A part of a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// See [`Flaw::Malformed`].
    #[error(
        "certificate {0} of those that it sends is damaged, or holds what kube-apiserver can't read"
    )]
    Malformed(usize),
    /// There is no way to a CA.
    #[error(transparent)]
    Path(#[from] webpki::Error),
}

impl Refusal {
    /// What it says of a pair.
    pub(super) fn flaw(self, path: impl FnOnce(webpki::Error) -> Flaw) -> Flaw {
        match self {
            Self::Malformed(place) => Flaw::Malformed(place),
            Self::Path(error) => path(error),
        }
    }
}

/// Whether a leaf leads to one of these CAs, as kube-apiserver (Go) sees it, which looks at more than webpki.
pub(super) fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &Bundle,
    now: OffsetDateTime,
) -> Result<(), Refusal> {
    // Go reads all that it is sent, or goes on with none of it.
    let mut sent = [leaf].into_iter().chain(intermediates);
    if let Some(at) = sent.position(|one| !is_readable(one)) {
        return Err(Refusal::Malformed(at + 1));
    }
    if intermediates.iter().chain([leaf]).any(has_negative_serial) {
        return Err(webpki::Error::InvalidSerialNumber.into());
    }
    let entity = EndEntityCert::try_from(leaf)?;
    let intermediates = intermediates.iter().filter(|one| reach(one).is_some());
    let intermediates: Vec<_> = intermediates
        .map(|one| CertificateDer::from(&**one))
        .collect();
    let cas = bundle.cas().iter();
    let (anchors, reaches): (Vec<_>, Vec<_>) = cas
        .filter_map(|ca| {
            let reach = ca.reach_to(leaf, now)?;
            Some((anchor_from_trusted_cert(&ca.der).ok()?, reach))
        })
        .unzip();
    // webpki takes an anchor for no certificate, with no bound of its own.
    let is_in_reach = |path: &VerifiedPath<'_>| {
        let between = path.intermediate_certificates().count();
        let mut all = anchors.iter().zip(&reaches);
        let is_so = all.any(|(anchor, reach)| anchor == path.anchor() && between <= *reach);
        is_so
            .then_some(())
            .ok_or(webpki::Error::PathLenConstraintViolated)
    };
    let (time, usage) = (unix_time(now), KeyUsage::server_auth());
    #[cfg(test)]
    let algorithms = memo::algorithms();
    #[cfg(not(test))]
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    entity
        .verify_for_usage(
            algorithms,
            &anchors,
            &intermediates,
            time,
            usage,
            None,
            Some(&is_in_reach),
        )
        .map(|_| ())
        .map_err(Refusal::Path)
}

/// Whether a client can ask for this name at all. Not so for one that ends in a label of digits, or of a number in
/// hexadecimal: that might be an address, and no leaf is valid for it, whatever it says.
pub fn can_be_asked_for(name: &str) -> bool {
    ServerName::try_from(name).is_ok()
}

/// Whether this is the key of that chain's leaf, as far as both can be read.
pub fn is_key_of(key: &str, chain: &str) -> bool {
    let pair = read(chain, key, &Bundle::default());
    pair.is_ok_and(|pair| pair.certified.keys_match().is_ok())
}

/// No certificate ended before 1970.
fn unix_time(at: OffsetDateTime) -> UnixTime {
    let seconds = u64::try_from(at.unix_timestamp()).unwrap_or_default();
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}
