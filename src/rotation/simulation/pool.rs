//! Pairs at hand, so that nobody mints; each is known by its number.

use std::collections::HashMap;
use std::sync::OnceLock;

use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use super::Dice;
use crate::pki::{Bundle, Pem, mint};

/// When every story begins.
pub(super) const BEGIN: OffsetDateTime =
    OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_000));
pub(super) const LIFE: Duration = Duration::days(12);
pub(super) const HOST: &str = "imageswap.ns.svc";

/// Days of which there are pairs: by clocks that are a day slow or fast, too.
const DAYS: usize = 20;
/// Pairs of a day.
const A_DAY: usize = 24;
/// So many of them are for leaders to mint, the others for a hand.
const OURS: usize = 20;

/// A pair of the pool.
pub(super) struct Pooled {
    pub(super) pem: Pem,
    /// DER.
    pub(super) leaf: Vec<u8>,
    /// In seconds since the story began; negative is long ago.
    pub(super) begins: i64,
    pub(super) ends: u64,
}

struct Pool {
    pairs: Vec<Pooled>,
    chains: HashMap<String, usize>,
    cas: HashMap<CertificateDer<'static>, usize>,
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let pairs: Vec<_> = (0..DAYS * A_DAY).map(|n| pooled(n / A_DAY)).collect();
        let chains = pairs.iter().map(|one| one.pem.chain.clone()).zip(0..);
        let ca = |one: &Pooled| Bundle::read(one.pem.ca.as_bytes()).ders().next().cloned();
        let cas = pairs.iter().filter_map(ca).zip(0..);
        Pool {
            chains: chains.collect(),
            cas: cas.collect(),
            pairs,
        }
    })
}

/// Of the day before the story begins, or of one of the days after.
fn pooled(day: usize) -> Pooled {
    let at = BEGIN + Duration::days(day as i64 - 1);
    let mut pem = mint(&["imageswap".to_owned(), HOST.to_owned()], LIFE, at).unwrap();
    // As it is written after it was read.
    pem.ca = Bundle::read(pem.ca.as_bytes()).pem();
    let begins = (at - BEGIN).whole_seconds() - 49 * 3_600;
    let ends = u64::try_from((at + LIFE - BEGIN).whole_seconds()).unwrap();
    let leaf = pem.leaf().unwrap();
    Pooled {
        pem,
        leaf,
        begins,
        ends,
    }
}

pub(super) fn of(number: usize) -> &'static Pooled {
    &pool().pairs[number]
}

/// The pair that is minted `count`-th, by a clock that says `now`.
pub(super) fn minted(now: OffsetDateTime, count: usize) -> &'static Pem {
    let day = usize::try_from((now - BEGIN).whole_days() + 1).unwrap_or(0);
    &of(day.min(DAYS - 1) * A_DAY + count % OURS).pem
}

/// Whether no leader has minted it.
pub(super) fn is_foreign(number: usize) -> bool {
    number % A_DAY >= OURS
}

/// A pair that no leader has minted.
pub(super) fn foreign(dice: &mut Dice) -> &'static Pem {
    &of(2 * A_DAY - 1 - dice.below(A_DAY - OURS)).pem
}

/// The number of the pair with this leaf.
pub(super) fn leaf(chain: &str) -> Option<usize> {
    pool().chains.get(chain).copied()
}

/// The numbers of the pairs whose CAs these are.
pub(super) fn cas(bundle: &[u8]) -> Vec<usize> {
    let all = Bundle::read(bundle);
    all.ders().map(|ca| pool().cas[ca]).collect()
}
