//! Makes a CA, lets it sign one leaf, and drops its key.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
#[cfg(test)]
use rustls::pki_types::{CertificateDer, pem::PemObject};
use time::{Duration, OffsetDateTime};

use super::Pem;

/// How far `notBefore` lies back: the clocks of two machines may each be wrong by a day, in opposite
/// directions.
pub(super) const BACKDATED: Duration = Duration::hours(49);

/// How the names of our CAs begin.
pub(super) const CA_NAME: &str = "imageswap CA ";

/// A pair could not be made.
#[derive(Debug, thiserror::Error)]
#[error("can't make a certificate")]
pub struct MintError(#[from] rcgen::Error);

/// Makes a pair for these names (DNS names and IP addresses), valid for `life` from now. ECDSA on
/// P-256, from the system's randomness.
///
/// # Errors
/// A name that is none, or a system without randomness.
pub fn mint(names: &[String], life: Duration, now: OffsetDateTime) -> Result<Pem, MintError> {
    // Certificates count in seconds.
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let ca = CertifiedIssuer::self_signed(ca_params(now, life)?, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let leaf = leaf_params(names, now, life)?.signed_by(&key, &ca)?;
    Ok(Pem {
        chain: leaf.pem(),
        key: key.serialize_pem(),
        ca: ca.pem(),
    })
}

fn ca_params(now: OffsetDateTime, life: Duration) -> Result<CertificateParams, MintError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.not_before = now - BACKDATED;
    params.not_after = now + life;
    // The date tells the CAs of a bundle apart.
    let name = format!("{CA_NAME}{}", now.date());
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf_params(
    names: &[String],
    now: OffsetDateTime,
    life: Duration,
) -> Result<CertificateParams, MintError> {
    let mut params = CertificateParams::new(names)?;
    params.not_before = now - BACKDATED;
    params.not_after = now + life;
    params
        .distinguished_name
        .push(DnType::CommonName, "imageswap");
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

/// The root (PEM) and then, DER, a CA that it signed and a leaf that that one signed: as somebody may bring.
#[cfg(test)]
pub(crate) fn by_way_of_another(now: OffsetDateTime) -> (String, Vec<u8>, Vec<u8>) {
    let [one, _] = two_ways(now, [Duration::days(8); 2]);
    let chain = CertificateDer::pem_slice_iter(one.chain.as_bytes());
    let chain: Vec<_> = chain.map(|der| der.unwrap().to_vec()).collect();
    let [leaf, between] = <[_; 2]>::try_from(chain).unwrap();
    (one.ca, between, leaf)
}

/// One leaf and its key with two chains, each by way of a CA of the same name and key to a root of its own, which
/// lives so long: as when somebody's issuing CA is renewed or signed by another.
#[cfg(test)]
pub(crate) fn two_ways(now: OffsetDateTime, roots: [Duration; 2]) -> [Pem; 2] {
    let life = Duration::days(100);
    let between = KeyPair::generate().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut leaf = None;
    roots.map(|root| {
        let mut params = ca_params(now, root).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut params = ca_params(now, life).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "between");
        let between = KeyPair::from_pem(&between.serialize_pem()).unwrap();
        let between = CertifiedIssuer::signed_by(params, between, &root).unwrap();
        let leaf = leaf.get_or_insert_with(|| {
            let names = ["imageswap.ns.svc".to_owned()];
            let leaf = leaf_params(&names, now, life).unwrap();
            leaf.signed_by(&key, &between).unwrap().pem()
        });
        Pem {
            chain: [leaf.as_str(), &between.pem()].concat(),
            key: key.serialize_pem(),
            ca: root.pem(),
        }
    })
}
