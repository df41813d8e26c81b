//! An HTTP client over TLS that trusts one `ca.crt` and nothing else.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use imageswap::pki::Pem;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::process::Serve;

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A connection that is kept.
pub struct Client(SendRequest<Full<Bytes>>);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A TLS connection that trusts `ca` and asks for `name`.
pub async fn tls(
    address: SocketAddr,
    ca: &Path,
    name: &'static str,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<TlsStream<TcpStream>, Error> {
    tls_as(address, ca, name, versions, None).await
}

/// The same, presenting this certificate (chain and key) if there is one.
pub async fn tls_as(
    address: SocketAddr,
    ca: &Path,
    name: &'static str,
    versions: &[&'static SupportedProtocolVersion],
    own: Option<&Pem>,
) -> Result<TlsStream<TcpStream>, Error> {
    let stream = TcpStream::connect(address).await?;
    shake_hands(config(ca, versions, own)?, name, stream).await
}

fn config(
    ca: &Path,
    versions: &[&'static SupportedProtocolVersion],
    own: Option<&Pem>,
) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_root_certificates(roots);
    Ok(match own {
        Some(pem) => {
            let chain: Result<_, _> =
                CertificateDer::pem_slice_iter(pem.chain.as_bytes()).collect();
            let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes())?;
            config.with_client_auth_cert(chain?, key)?
        }
        None => config.with_no_client_auth(),
    })
}

async fn shake_hands(
    config: ClientConfig,
    name: &'static str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, Error> {
    let connector = TlsConnector::from(Arc::new(config));
    Ok(connector
        .connect(ServerName::try_from(name)?, stream)
        .await?)
}

/// A TLS connection from this address of the loopback, on which to say whatever one wants.
pub async fn connect_tls_from(
    from: Ipv4Addr,
    address: SocketAddr,
    ca: &Path,
) -> Result<TlsStream<TcpStream>, Error> {
    let config = config(ca, rustls::DEFAULT_VERSIONS, None)?;
    shake_hands(config, "localhost", connect_from(from, address).await?).await
}

/// From one of this machine's addresses.
pub async fn connect_from(from: Ipv4Addr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(address).await
}

/// A TLS connection on which to say whatever one wants.
pub async fn connect_tls(serve: &Serve) -> TlsStream<TcpStream> {
    let all = rustls::DEFAULT_VERSIONS;
    tls(serve.address, &serve.ca(), "localhost", all)
        .await
        .unwrap()
}

impl Client {
    pub async fn connect(serve: &Serve) -> Self {
        Self::try_connect(serve.address, &serve.ca()).await.unwrap()
    }

    pub async fn try_connect(address: SocketAddr, ca: &Path) -> Result<Self, Error> {
        Self::try_connect_as(address, ca, "localhost").await
    }

    /// By another of its names.
    pub async fn try_connect_as(
        address: SocketAddr,
        ca: &Path,
        name: &'static str,
    ) -> Result<Self, Error> {
        Self::over(tls(address, ca, name, rustls::DEFAULT_VERSIONS).await?).await
    }

    /// On a connection that was made already.
    pub async fn over(stream: TlsStream<TcpStream>) -> Result<Self, Error> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Without TLS, for the admin port.
    pub async fn plain(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub async fn send(&mut self, method: Method, path: &str, body: &[u8]) -> Answer {
        self.try_send(method, path, body).await.unwrap()
    }

    pub async fn try_send(
        &mut self,
        method: Method,
        path: &str,
        body: &[u8],
    ) -> Result<Answer, Error> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .body(Full::new(Bytes::copy_from_slice(body)))?;
        self.0.ready().await?;
        let (parts, body) = self.0.send_request(request).await?.into_parts();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await?.to_bytes(),
        })
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(Method::GET, path, b"").await
    }

    pub async fn post(&mut self, body: &[u8]) -> Answer {
        self.send(Method::POST, "/", body).await
    }

    /// The image that the first container of a Pod gets.
    pub async fn swap(&mut self, image: &str) -> String {
        let answer = self.post(&review(image)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        swapped(&answer).unwrap_or_else(|| image.to_owned())
    }
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn closes(&self) -> bool {
        self.headers
            .get("connection")
            .is_some_and(|value| value == "close")
    }
}

/// A review of a Pod with one container.
pub fn review(image: &str) -> Vec<u8> {
    review_of(json!([{"name": "c", "image": image}]))
}

pub fn review_of(containers: Value) -> Vec<u8> {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "operation": "CREATE",
            "object": {"spec": {"containers": containers}},
        }
    })
    .to_string()
    .into_bytes()
}

/// The first image of the patch in an answer.
pub fn swapped(answer: &Answer) -> Option<String> {
    let review: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(review["response"]["allowed"], true);
    let patch = STANDARD
        .decode(review["response"]["patch"].as_str()?)
        .unwrap();
    let patch: Value = serde_json::from_slice(&patch).unwrap();
    Some(patch[0]["value"].as_str().unwrap().to_owned())
}

/// A metric's value, by its name with labels; 0 if it is not there.
pub async fn metric(serve: &Serve, name: &str) -> f64 {
    let answer = Client::plain(serve.admin).await.get("/metrics").await;
    let line = answer.text().lines().find_map(|line| {
        line.strip_prefix(name)?
            .strip_prefix(' ')
            .map(str::to_owned)
    });
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// What a connection is told before it is closed, if nothing was asked on it: an answer that makes
/// kube-apiserver ask again elsewhere, whole and nothing else.
pub fn must_be_farewell(told: &str) {
    let (head, body) = told.split_once("\r\n\r\n").unwrap();
    for line in [
        "HTTP/1.1 503 ",
        "\r\nconnection: close",
        "\r\nretry-after: 0",
    ] {
        assert!(head.contains(line), "{line:?} is not in {told:?}");
    }
    let length = format!("\r\ncontent-length: {}", body.len());
    assert!(head.contains(&length), "{told:?}");
}
