//! Verdicts remembered, for tests that ask the same some million times. Production has none of it.
//!
//! It is off until a test's thread asks for it. All dates of the certificates must lie on whole
//! hours: then a verdict holds from one hour to the next, the full hour itself apart.

use std::cell::RefCell;
use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashMap};
use rustls::pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};
use time::OffsetDateTime;
use webpki::{ALL_VERIFICATION_ALGS, ring::ECDSA_P256_SHA256};

use super::{Bundle, Flaw, Pair};

/// So many of a kind are kept, lest millions of stories fill the memory.
const KEPT: usize = 200_000;

type Known<T> = HashMap<u64, T>;

#[derive(Default)]
pub(super) struct Memo {
    hasher: DefaultHashBuilder,
    pub(super) bundles: Known<Bundle>,
    pub(super) pairs: Known<Result<Pair, Flaw>>,
    pub(super) trusted: Known<bool>,
    pub(super) named: Known<bool>,
    signatures: Known<Result<(), InvalidSignature>>,
}

thread_local! {
    static MEMO: RefCell<Option<Memo>> = const { RefCell::new(None) };
}

/// From now on, this thread remembers.
pub(crate) fn remember() {
    MEMO.with_borrow_mut(|memo| {
        memo.get_or_insert_default();
    });
}

/// What was found out before, or is now.
pub(super) fn recall<T: Clone>(
    kind: fn(&mut Memo) -> &mut Known<T>,
    question: impl Hash,
    find_out: impl FnOnce() -> T,
) -> T {
    let key = MEMO.with_borrow(|memo| memo.as_ref().map(|memo| memo.hasher.hash_one(question)));
    let Some(key) = key else {
        return find_out();
    };
    let known =
        |memo: &mut Option<Memo>| memo.as_mut().and_then(|memo| kind(memo).get(&key).cloned());
    if let Some(known) = MEMO.with_borrow_mut(known) {
        return known;
    }
    // It may ask in turn, so the memory is not held meanwhile.
    let found = find_out();
    MEMO.with_borrow_mut(|memo| {
        let all = kind(memo.get_or_insert_default());
        if all.len() >= KEPT {
            all.clear();
        }
        all.insert(key, found.clone());
    });
    found
}

/// How signatures are verified: as ever, or, where it is remembered, those of the kind we make.
pub(super) fn algorithms() -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    match MEMO.with_borrow(Option::is_some) {
        true => &[&Remembered],
        false => ALL_VERIFICATION_ALGS,
    }
}

#[derive(Debug)]
struct Remembered;

impl SignatureVerificationAlgorithm for Remembered {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let question = (public_key, message, signature);
        let verify = || ECDSA_P256_SHA256.verify_signature(public_key, message, signature);
        recall(|memo| &mut memo.signatures, question, verify)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        ECDSA_P256_SHA256.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        ECDSA_P256_SHA256.signature_alg_id()
    }
}

/// The time, as far as a verdict depends on it.
pub(super) fn hour(now: OffsetDateTime) -> (i64, bool) {
    let seconds = now.unix_timestamp();
    let is_full = seconds % 3_600 == 0 && now.nanosecond() == 0;
    (seconds.div_euclid(3_600), is_full)
}
