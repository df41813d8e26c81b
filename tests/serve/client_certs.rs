//! Peers that must present a certificate.

use std::fs;
use std::time::{Duration, Instant};

use imageswap::pki::Pem;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

use crate::client::{Client, metric, review, tls_as};
use crate::process::Serve;

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn client(ca: &Ca, name: &str) -> Pem {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    Pem {
        chain: params.signed_by(&key, ca).unwrap().pem(),
        key: key.serialize_pem(),
        ca: ca.pem(),
    }
}

/// Whether a review is answered. With TLS 1.3, a client learns of a refusal only after its own
/// part of the handshake.
async fn is_answered(
    serve: &Serve,
    own: Option<&Pem>,
    version: &'static SupportedProtocolVersion,
) -> bool {
    let stream = tls_as(serve.address, &serve.ca(), "localhost", &[version], own).await;
    let Ok(stream) = stream else { return false };
    let Ok(mut client) = Client::over(stream).await else {
        return false;
    };
    let answer = client.try_send(http::Method::POST, "/", &review("a")).await;
    answer.is_ok_and(|answer| answer.status == 200)
}

async fn refused(serve: &Serve, reason: &str) -> f64 {
    let name = format!("imageswap_clients_refused_total{{reason=\"{reason}\"}}");
    metric(serve, &name).await
}

#[tokio::test]
async fn only_who_presents_the_right_certificate_is_answered() {
    let (ours, other) = (ca(), ca());
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("clients"), ours.pem()).unwrap();
    let args = ["--client-ca", "{dir}/clients", "--client-name", "api, kube"];
    let serve = Serve::start_in(dir, &args, &[]);
    let [right, also_right, wrong_name] = ["api", "kube", "someone"].map(|n| client(&ours, n));
    let wrong_ca = client(&other, "api");
    for version in [&TLS12, &TLS13] {
        assert!(is_answered(&serve, Some(&right), version).await);
        assert!(is_answered(&serve, Some(&also_right), version).await);
        assert!(!is_answered(&serve, None, version).await);
        // The client may know before it is told.
        serve.until_log("it presents no certificate");
        assert!(!is_answered(&serve, Some(&wrong_ca), version).await);
        assert!(!is_answered(&serve, Some(&wrong_name), version).await);
    }
    for reason in ["missing", "untrusted", "name"] {
        assert_eq!(refused(&serve, reason).await, 2.0, "{reason}");
    }
    let log = serve.log();
    assert!(log.contains("it presents no certificate"), "{log}");
    // Sparingly: of those that came at once, one is told of.
    assert_eq!(log.matches("refused a client").count(), 1, "{log}");

    // Probes and metrics are elsewhere.
    let mut admin = Client::plain(serve.admin).await;
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(admin.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_refused_peer_is_told_of_with_its_name_and_address() {
    let ours = ca();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("clients"), ours.pem()).unwrap();
    let env = [
        ("IMAGESWAP_CLIENT_CA", "{dir}/clients"),
        ("IMAGESWAP_CLIENT_NAME", "kube"),
    ];
    let serve = Serve::start_in(dir, &[], &env);
    assert!(!is_answered(&serve, Some(&client(&ours, "someone")), &TLS13).await);
    serve.until_log("bears none of the names in --client-name");
    let log = serve.log();
    let line = log
        .lines()
        .find(|line| line.contains("bears none"))
        .unwrap();
    assert!(
        line.contains("someone") && line.contains("\"peer\":\"127.0.0.1:"),
        "{line}"
    );
}

#[tokio::test]
async fn the_ca_is_followed_and_the_last_good_one_stays() {
    let (one, two) = (ca(), ca());
    let [of_one, of_two] = [&one, &two].map(|ca| client(ca, "kube"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clients");
    fs::write(&path, one.pem()).unwrap();
    let serve = Serve::start_in(dir, &["--client-ca", "{dir}/clients"], &[]);
    let stream = tls_as(
        serve.address,
        &serve.ca(),
        "localhost",
        &[&TLS13],
        Some(&of_one),
    )
    .await;
    let mut old = Client::over(stream.unwrap()).await.unwrap();
    assert_eq!(old.swap("quay.io/a").await, "quay.io/a");

    fs::write(&path, two.pem()).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while !is_answered(&serve, Some(&of_two), &TLS13).await {
        assert!(Instant::now() < until, "{}", serve.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!is_answered(&serve, Some(&of_one), &TLS13).await);
    assert_eq!(old.swap("quay.io/a").await, "quay.io/a");

    fs::write(&path, "rubbish").unwrap();
    serve.until_log("the new CA of clients is refused, and the old stays");
    assert!(is_answered(&serve, Some(&of_two), &TLS13).await);
    let loads = "imageswap_client_ca_loads_total{result=\"failed\"}";
    assert_eq!(metric(&serve, loads).await, 1.0);
    let refused = "imageswap_client_ca_refused";
    assert_eq!(metric(&serve, refused).await, 1.0);
    fs::write(&path, one.pem()).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while metric(&serve, refused).await > 0.0 {
        assert!(Instant::now() < until, "{}", serve.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
