//! Whether Go reads a certificate. A client of Go's, such as kube-apiserver, ends a handshake at the first that it is
//! sent and can't read, whether it needs that or not.
//!
//! It is read whole, with its key and its extensions, of which `x509-parser` alone lets those pass that are damaged.
//! Go's `parseCertificate` (crypto/x509, 1.26) is stricter, and this does not see it: characters that a PrintableString of
//! the subject or the issuer must not have (`_`, `@`), curves but NIST's, a URI among the names that is none, what must not
//! be critical and is, masks of addresses with holes, a point that is not on its curve. Nor does it take RSA keys of more than 8,192 bits.

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::{FromDer, X509Certificate, X509Extension};

use super::certificate::{dates, numbers};

/// What Go looks into below 2.5.29.
const READ_BY_GO: [u64; 12] = [14, 15, 17, 19, 30, 31, 32, 33, 35, 36, 37, 54];

/// Whether it does; that a serial number is below zero is told elsewhere.
pub(super) fn is_readable(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let algorithms = [
        &parsed.signature_algorithm,
        &parsed.tbs_certificate.signature,
    ];
    // Each date is one, and nothing stands behind it.
    dates(certificate).is_some()
        && algorithms[0] == algorithms[1]
        && parsed.public_key().parsed().is_ok()
        // None twice.
        && parsed.extensions_map().is_ok()
        && parsed.extensions().iter().all(is_extension_readable)
}

fn is_extension_readable(extension: &X509Extension<'_>) -> bool {
    let is_name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
            text.is_ascii()
        }
        GeneralName::IPAddress(address) => matches!(address.len(), 4 | 16),
        name => !matches!(name, GeneralName::Invalid(..)),
    };
    match extension.parsed_extension() {
        ParsedExtension::ParseError { .. } => !is_read_by_go(&extension.oid),
        ParsedExtension::SubjectAlternativeName(names) => names.general_names.iter().all(is_name),
        _ => true,
    }
}

/// Whether Go looks into such an extension (`processExtensions` in crypto/x509, 1.26). `x509-parser` reads others, too: those of
/// people's own CAs may hold what they like, such as a comment in Latin-1.
fn is_read_by_go(extension: &Oid<'_>) -> bool {
    match numbers(extension).as_deref() {
        Some([2, 5, 29, last]) => READ_BY_GO.contains(last),
        // Where more about its issuer is.
        Some(numbers) => numbers == [1, 3, 6, 1, 5, 5, 7, 1, 1],
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, KeyPair};

    use super::*;

    fn certificate(extension: Option<(&[u64], Vec<u8>, bool)>) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["a".to_owned()]).unwrap();
        if let Some((oid, value, is_critical)) = extension {
            let mut extension = CustomExtension::from_oid_content(oid, value);
            extension.set_criticality(is_critical);
            params.custom_extensions.push(extension);
            params.subject_alt_names.clear();
        }
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().into()
    }

    /// A value with its tag, of fewer than 128 bytes.
    fn tagged(tag: u8, value: &[u8]) -> Vec<u8> {
        let len = u8::try_from(value.len()).unwrap();
        [&[tag, len], value].concat()
    }

    #[test]
    fn what_is_whole_is_read_and_what_is_cut_or_has_something_behind_is_not() {
        let whole = certificate(None);
        assert!(is_readable(&whole));
        for at in 0..whole.len() {
            let (before, after) = whole.split_at(at);
            assert!(!is_readable(&CertificateDer::from(before)), "{at}");
            // A line of base64.
            let lost = [before, after.get(48..).unwrap_or_default()].concat();
            assert!(!is_readable(&CertificateDer::from(lost)), "{at}");
        }
        let longer = [&*whole, &[0]].concat();
        assert!(!is_readable(&CertificateDer::from(longer)));
    }

    /// Each was shown to Go 1.26, which reads the same.
    #[test]
    fn an_extension_is_read_if_go_reads_it() {
        let id_ce = |nth| vec![2, 5, 29, nth];
        let of = |values: &[Vec<u8>]| tagged(0x30, &values.concat());
        let oid = tagged(6, &[0x2a, 3]);
        for (name, value, is_critical, is_right) in [
            (id_ce(15), tagged(3, &[5, 0xa0]), true, true),
            (id_ce(15), tagged(3, &[6, 0xa0]), true, false),
            (id_ce(17), of(&[tagged(0x82, b"a")]), false, true),
            (
                id_ce(17),
                of(&[tagged(0x82, "\u{e4}".as_bytes())]),
                false,
                false,
            ),
            (id_ce(17), of(&[tagged(0x87, &[1, 2, 3])]), false, false),
            (id_ce(19), of(&[tagged(1, &[0xff])]), true, true),
            (
                id_ce(32),
                of(&[of(std::slice::from_ref(&oid))]),
                false,
                true,
            ),
            (id_ce(35), of(&[tagged(0x80, b"key")]), false, true),
            (id_ce(37), of(std::slice::from_ref(&oid)), false, true),
            (id_ce(37), oid.clone(), false, false),
            // Nobody reads it.
            (id_ce(9), vec![1, 2, 3], false, true),
            // Nor these, but for `x509-parser`: another name of the issuer, a number of a list, and a comment.
            (id_ce(18), vec![5, 0], false, true),
            (id_ce(20), vec![1, 2, 3], false, true),
            (
                vec![2, 16, 840, 1, 113_730, 1, 13],
                tagged(0x16, b"f\xfcr uns"),
                false,
                true,
            ),
        ] {
            let case = format!("{name:?} {value:x?} {is_critical}");
            let read = is_readable(&certificate(Some((&name, value, is_critical))));
            assert_eq!(read, is_right, "{case}");
        }
    }
}
