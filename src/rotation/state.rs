//! What rotation acts on: the shared Secret and the caBundles, as they were observed. No I/O.

use std::fmt;

use time::OffsetDateTime;

use super::source::Source;
use crate::pki::{self, Bundle, Flaw, KeyPem, Pair, Pem};
use crate::text::shortened;

/// So much of the text of a request counts, in characters.
const MAX_REQUEST: usize = 200;

/// Both objects as they were read: the webhook configuration first, then the Secret. So a caBundle
/// that was seen can't be newer than a Secret that was seen.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Where kube-apiserver learns whom to call; absent if someone deleted it.
    pub configuration: Option<Configuration>,
    /// Where the pair is.
    pub secret: Option<Secret>,
}

/// The webhook configuration, so far as it is ours.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// Its `resourceVersion`.
    pub version: String,
    /// Its `uid`: another one is another object, whatever its name.
    pub uid: String,
    /// Its `generation`, which each write of a webhook raises by one; absent where nobody counts.
    pub generation: Option<i64>,
    /// The webhooks that call our Service.
    pub hooks: Vec<Hook>,
}

/// A webhook that calls our Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hook {
    /// Its place in the configuration.
    pub index: usize,
    /// Its name, unique in the configuration.
    pub name: String,
    /// Its `caBundle` (PEM), empty if it has none.
    pub bundle: Vec<u8>,
    /// Who wrote the `caBundle` last, if that is known.
    pub manager: Option<String>,
    /// Whether what it can't be asked about is let through: its `failurePolicy` is `Ignore`.
    pub fails_open: bool,
    /// Whether one of those who wrote that policy is known to write what was declared, such as `kubectl apply`.
    pub is_declared: bool,
}

/// The Secret. Its parts may be missing or anything.
#[derive(Clone)]
pub struct Secret {
    /// Its `resourceVersion`.
    pub version: String,
    /// `tls.crt`
    pub chain: Option<Vec<u8>>,
    /// `tls.key`
    pub key: Option<Vec<u8>>,
    /// `ca.crt`
    pub ca: Option<Vec<u8>>,
    /// `next.crt`: staged, to be served once it is believed.
    pub next_chain: Option<Vec<u8>>,
    /// `next.key`
    pub next_key: Option<Vec<u8>>,
    /// The annotation by which someone asks for a rotation: any text.
    pub request: Option<String>,
    /// The annotation that repeats the text of the request that was carried out last.
    pub answered: Option<String>,
    /// Who brings it. If that is not the leader, it may be no Secret at all.
    pub source: Source,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {{ version: {}, … }}", self.version)
    }
}

/// An endpoint of the Service, as a handshake showed it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Where it is, for people.
    pub address: String,
    /// The leaf it serves (DER), or why that can't be told.
    pub leaf: Result<Vec<u8>, String>,
    /// What it sends with the leaf, for the way to a CA (DER).
    pub intermediates: Vec<Vec<u8>>,
}

impl Endpoint {
    /// One that sends nothing but its leaf, as of all pairs of ours.
    pub fn new(address: impl Into<String>, leaf: Result<Vec<u8>, String>) -> Self {
        Self {
            address: address.into(),
            leaf,
            intermediates: Vec::new(),
        }
    }

    /// Whether a client that believes these CAs believes its leaf.
    pub fn is_trusted(&self, bundle: &Bundle, now: OffsetDateTime) -> bool {
        let leaf = self.leaf.as_ref();
        leaf.is_ok_and(|leaf| pki::is_leaf_trusted(leaf, &self.intermediates, bundle, now))
    }

    /// Those of the CAs by which clients believe its leaf, or did until that ended.
    pub fn needs(&self, bundle: &Bundle, now: OffsetDateTime) -> Bundle {
        let needed = |leaf: &Vec<u8>| pki::needed_by_leaf(leaf, &self.intermediates, bundle, now);
        self.leaf.as_ref().map(needed).unwrap_or_default()
    }
}

#[cfg(test)]
impl Secret {
    /// One that holds a pair of ours and nothing else.
    pub(crate) fn minted(version: &str, pem: &Pem) -> Self {
        let part = |text: &str| Some(text.as_bytes().to_vec());
        Self {
            version: version.to_owned(),
            chain: part(&pem.chain),
            key: part(&pem.key),
            ca: part(&pem.ca),
            next_chain: None,
            next_key: None,
            request: None,
            answered: None,
            source: Source::Minted,
        }
    }
}

impl Secret {
    /// What is worth keeping to be written back, if it is lost. What somebody else brings is theirs to
    /// restore: written back, it would be taken for one of ours.
    pub fn kept(&self) -> Option<Pem> {
        (self.source == Source::Minted).then(|| self.pem())
    }

    /// The pair in it. What is missing is empty, and what is no text is no PEM: the judge will say.
    pub fn pem(&self) -> Pem {
        Pem {
            chain: text(&self.chain),
            key: text(&self.key),
            ca: text(&self.ca),
        }
    }

    /// Reads the pair in it and judges whether it may be served now, with these names.
    ///
    /// # Errors
    /// The first flaw found.
    pub fn judge(&self, required: &[String], now: OffsetDateTime) -> Result<Pair, Flaw> {
        let pem = self.pem();
        match self.source {
            Source::FilesAlone => pki::judge_alone(&pem.chain, &pem.key, required, now),
            _ => pki::judge(&pem, required, now),
        }
    }

    /// Whether something is staged, be it usable or not.
    pub fn has_next(&self) -> bool {
        self.next_chain.is_some() || self.next_key.is_some()
    }

    /// The staged pair, as it is.
    pub fn next(&self) -> KeyPem {
        KeyPem {
            chain: text(&self.next_chain),
            key: text(&self.next_key),
        }
    }

    /// The staged pair, as it would be judged.
    pub fn next_pem(&self) -> Pem {
        let KeyPem { chain, key } = self.next();
        let ca = text(&self.ca);
        Pem { chain, key, ca }
    }

    /// The text of a request for a rotation that was not carried out yet, or how it begins: it is written
    /// once more as the answer, and the API server bounds all annotations together.
    pub fn open_request(&self) -> Option<&str> {
        let request = self.request.as_deref();
        let request = request.map(|text| shortened(text, MAX_REQUEST));
        let request = request.filter(|text| !text.is_empty());
        request.filter(|text| self.answered.as_deref() != Some(*text))
    }

    /// The CAs in `ca.crt`.
    pub fn bundle(&self) -> Bundle {
        Bundle::read(self.ca.as_deref().unwrap_or_default())
    }
}

fn text(part: &Option<Vec<u8>>) -> String {
    let bytes = part.as_deref().unwrap_or_default();
    // It is text, but for what somebody broke.
    let text = std::str::from_utf8(bytes).map(str::to_owned);
    text.unwrap_or_else(|_| String::from_utf8_lossy(bytes).into_owned())
}

impl Observed {
    /// The webhooks that call our Service.
    pub fn hooks(&self) -> &[Hook] {
        self.configuration
            .as_ref()
            .map_or(&[], |found| found.hooks.as_slice())
    }

    /// The CAs that kube-apiserver was seen to believe, in any of our webhooks.
    pub fn live_bundle(&self) -> Bundle {
        self.hooks()
            .iter()
            .map(Hook::bundle)
            .fold(Bundle::default(), |all, one| all.and(&one))
    }
}

impl Hook {
    /// The CAs in its caBundle.
    pub fn bundle(&self) -> Bundle {
        Bundle::read(&self.bundle)
    }
}
