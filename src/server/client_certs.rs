//! Who may connect: peers with a certificate that leads to a given CA and, if names are given, bears
//! one of them. kube-apiserver presents one if it is told to.
//!
//! The name is looked at in the handshake, not after it: a peer that is refused gets the TLS alert
//! that says so, has no byte of HTTP read, and takes no place among those that are answered. The CA
//! may change at any time, so it is swapped inside of the verifier; no other part of the TLS
//! configuration takes notice.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use time::OffsetDateTime;
use tracing::warn;

use crate::pki::{Bundle, names_of};
use crate::telemetry::logs::Sparingly;
use crate::telemetry::metrics::Metrics;

/// Refused peers are logged this often.
const SAY_AGAIN: Duration = Duration::from_secs(10);

static SPARINGLY: Sparingly = Sparingly::new(SAY_AGAIN);

tokio::task_local! {
    /// The names of the peer whose certificate was refused in this task: rustls tells a verifier
    /// nothing of the connection, and of an error only what becomes an alert.
    static REFUSED: RefCell<Vec<String>>;
}

/// Who may connect. A clone is the same one.
#[derive(Clone)]
pub struct Clients {
    believed: Arc<ArcSwap<Believed>>,
    names: Arc<[String]>,
}

/// The CAs that clients are judged by.
struct Believed {
    verifier: Arc<dyn ClientCertVerifier>,
    cas: Bundle,
    ends: OffsetDateTime,
    has_rubbish: bool,
}

/// Why a CA can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BadCa {
    /// There is none, or none that can be read.
    #[error("it holds no CA that can be read; it must be PEM")]
    None,
    /// All of them have ended.
    #[error("every CA in it has ended")]
    Ended,
    /// rustls does not take it.
    #[error("it can't be used: {0}")]
    Refused(String),
}

impl Clients {
    /// Those whose certificate leads to one of these CAs (PEM) and, unless there are no `names`,
    /// has one of them as common name or subject alternative name. Whether a CA has ended is not asked, so that all
    /// replicas judge alike whenever they read it, and whatever their clocks say: [`ended`](Self::ended) is to be
    /// looked at.
    ///
    /// # Errors
    /// There is no CA to be used.
    pub fn new(ca: &[u8], names: Vec<String>) -> Result<Self, BadCa> {
        Ok(Self {
            believed: Arc::new(ArcSwap::from_pointee(Believed::read(ca)?)),
            names: names.into(),
        })
    }

    /// Believes these CAs in place of those before, for all connections from now on.
    ///
    /// # Errors
    /// There is no CA to be used, or all of them have ended; those before stay. By a clock that comes right they may
    /// not have: try again.
    pub fn believe(&self, ca: &[u8], now: OffsetDateTime) -> Result<(), BadCa> {
        let believed = Believed::read(ca)?;
        if believed.ends <= now {
            return Err(BadCa::Ended);
        }
        self.believed.store(Arc::new(believed));
        Ok(())
    }

    /// When the last of the CAs ends. They are believed longer: kube-apiserver has no other to present, and to refuse it
    /// would be an outage.
    pub fn ends(&self) -> OffsetDateTime {
        self.believed.load().ends
    }

    /// How many of the CAs have ended, and of how many. They are believed all the same.
    pub fn ended(&self, now: OffsetDateTime) -> (usize, usize) {
        let cas = &self.believed.load().cas;
        (cas.clone().ended(now).len(), cas.len())
    }

    /// Whether there is something beside the CAs that is none, such as one that was cut off.
    pub fn has_rubbish(&self) -> bool {
        self.believed.load().has_rubbish
    }

    fn are_named(&self, certificate: &CertificateDer<'_>) -> bool {
        self.names.is_empty()
            || names_of(certificate)
                .iter()
                .any(|name| self.names.contains(name))
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clients {{ names: {:?}, … }}", self.names)
    }
}

impl Believed {
    fn read(ca: &[u8]) -> Result<Self, BadCa> {
        let cas = Bundle::read(ca);
        let ends = cas.last_end().ok_or(BadCa::None)?;
        let has_rubbish = cas.has_rubbish();
        let mut roots = RootCertStore::empty();
        let (_, ignored) = roots.add_parsable_certificates(cas.ders().cloned());
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| BadCa::Refused(error.to_string()))?;
        Ok(Self {
            verifier,
            cas,
            ends,
            has_rubbish: has_rubbish || ignored > 0,
        })
    }
}

impl ClientCertVerifier for Clients {
    /// None: a peer with one certificate presents that one.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let believed = self.believed.load();
        let verified = believed
            .verifier
            .verify_client_cert(end_entity, intermediates, now);
        let verified = verified.and_then(|verified| match self.are_named(end_entity) {
            true => Ok(verified),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        });
        verified.inspect_err(|_| {
            // Outside of a handshake that was started here, nobody asks.
            let _ = REFUSED.try_with(|refused| refused.replace(names_of(end_entity)));
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let believed = self.believed.load();
        believed
            .verifier
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let believed = self.believed.load();
        believed
            .verifier
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.believed.load().verifier.supported_verify_schemes()
    }
}

// === telling ===

/// Runs a handshake, and counts and tells if it fails for the peer's certificate.
pub(super) async fn told<T>(
    peer: Option<SocketAddr>,
    metrics: &Metrics,
    handshake: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let told = async {
        let done = handshake.await;
        if let Err(error) = &done
            && let Some((reason, sentence)) = refusal(error)
        {
            metrics.clients_refused.with_label_values(&[reason]).inc();
            if SPARINGLY.may() {
                let names = REFUSED.with(RefCell::take);
                let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
                warn!(peer, ?names, "refused a client: {sentence}");
            }
        }
        done
    };
    REFUSED.scope(RefCell::default(), told).await
}

/// Why a peer was refused, as a label and as a sentence; `None` if not for its certificate.
fn refusal(error: &io::Error) -> Option<(&'static str, String)> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    match error {
        Error::NoCertificatesPresented => Some((
            "missing",
            "it presents no certificate, and --client-ca asks for one; see docs/install.md for how \
             kube-apiserver is told to"
                .to_owned(),
        )),
        Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => Some((
            "name",
            "its certificate bears none of the names in --client-name".to_owned(),
        )),
        Error::InvalidCertificate(why) => Some((
            "untrusted",
            format!("its certificate is not believed: {why}"),
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose,
        IsCa, KeyPair,
    };

    use super::*;

    fn now() -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    fn ca(days: i64) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.not_after = now() + time::Duration::days(days);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn client(
        ca: &CertifiedIssuer<'static, KeyPair>,
        usage: ExtendedKeyUsagePurpose,
    ) -> CertificateDer<'static> {
        let sans = ["api.example.com", "10.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(sans).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, ca).unwrap().der().clone()
    }

    fn said(clients: &Clients, certificate: &CertificateDer<'_>) -> String {
        let verified = clients.verify_client_cert(certificate, &[], UnixTime::now());
        match verified {
            Ok(_) => "right".to_owned(),
            Err(error) => {
                let error = io::Error::new(io::ErrorKind::InvalidData, error);
                refusal(&error).unwrap().0.to_owned()
            }
        }
    }

    #[test]
    fn chain_usage_and_name_are_looked_at() {
        let (ours, other) = (ca(9), ca(9));
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        let right = client(&ours, usage.clone());
        let wrong_ca = client(&other, usage);
        let server = client(&ours, ExtendedKeyUsagePurpose::ServerAuth);
        for (names, certificate, expected) in [
            (&[][..], &right, "right"),
            (&["kube-apiserver"], &right, "right"),
            (&["else", "api.example.com"], &right, "right"),
            (&["10.0.0.1"], &right, "right"),
            (&["kube-apiserve", "example.com", ""], &right, "name"),
            (&["*.example.com"], &right, "name"),
            (&["kube-apiserver"], &wrong_ca, "untrusted"),
            (&[], &wrong_ca, "untrusted"),
            (&[], &server, "untrusted"),
        ] {
            let names_given = names.iter().map(|name| (*name).to_owned()).collect();
            let clients = Clients::new(ours.pem().as_bytes(), names_given).unwrap();
            assert_eq!(said(&clients, certificate), expected, "{names:?}");
        }
    }

    #[test]
    fn the_ca_may_change_and_the_last_good_one_stays() {
        let (one, two) = (ca(9), ca(9));
        let of_two = client(&two, ExtendedKeyUsagePurpose::ClientAuth);
        let clients = Clients::new(one.pem().as_bytes(), Vec::new()).unwrap();
        let clone = clients.clone();
        assert_eq!(said(&clone, &of_two), "untrusted");
        clients.believe(two.pem().as_bytes(), now()).unwrap();
        assert_eq!(said(&clone, &of_two), "right");
        for (text, part) in [
            (String::new(), "no CA"),
            ("rubbish".to_owned(), "no CA"),
            (ca(-1).pem(), "has ended"),
        ] {
            let error = clients.believe(text.as_bytes(), now()).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(said(&clone, &of_two), "right");
        }
    }

    /// Those that read it before the end went on with it.
    #[test]
    fn a_ca_that_has_ended_is_believed_and_told() {
        let (ended, living) = (ca(-1), ca(9));
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        let (of_ended, of_living) = (client(&ended, usage.clone()), client(&living, usage));
        let alone = Clients::new(ended.pem().as_bytes(), Vec::new()).unwrap();
        assert!(alone.ends() <= now());
        assert_eq!(alone.ended(now()), (1, 1));
        assert_eq!(said(&alone, &of_ended), "right");
        let both = ended.pem() + &living.pem();
        let both = Clients::new(both.as_bytes(), Vec::new()).unwrap();
        assert!(both.ends() > now());
        assert_eq!(both.ended(now()), (1, 2));
        assert_eq!(said(&both, &of_ended), "right");
        assert_eq!(said(&both, &of_living), "right");
    }

    #[test]
    fn what_is_no_ca_is_passed_over_and_told() {
        let good = ca(9);
        let of_good = client(&good, ExtendedKeyUsagePurpose::ClientAuth);
        let cut_off = "-----BEGIN CERTIFICATE-----\nAAAA\n";
        for (text, has_rubbish) in [
            (format!("# a comment\n{}", good.pem()), false),
            (good.pem() + cut_off, true),
            (cut_off.to_owned() + &good.pem(), true),
        ] {
            let clients = Clients::new(text.as_bytes(), Vec::new()).unwrap();
            assert_eq!(clients.has_rubbish(), has_rubbish, "{text}");
            assert_eq!(said(&clients, &of_good), "right", "{text}");
        }
    }

    #[test]
    fn what_fails_for_another_reason_is_no_refusal() {
        assert!(refusal(&io::ErrorKind::ConnectionReset.into()).is_none());
        let error = io::Error::new(io::ErrorKind::InvalidData, Error::DecryptError);
        assert!(refusal(&error).is_none());
    }
}
