//! A TLS handshake as kube-apiserver makes it: which leaf does an address serve, and is it trusted?

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use imageswap::pki::Served;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};

/// How long a peer may take for each step.
const PATIENCE: Duration = Duration::from_secs(5);

/// The SHA-256 of the leaf that an address serves for a name, in hexadecimal, if it leads to one
/// of these CAs (PEM). A peer that asks for a certificate gets `own`, a chain and its key (PEM).
///
/// # Errors
/// Nobody answers, the leaf is not trusted or not for that name, or we are refused.
pub fn leaf(
    address: SocketAddr,
    name: &str,
    ca: &[u8],
    own: Option<(Vec<u8>, Vec<u8>)>,
) -> anyhow::Result<String> {
    let (mut connection, mut tcp) = connect(address, name, config(ca, own)?)?;
    let mut stream = Stream::new(&mut connection, &mut tcp);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: imageswap\r\nConnection: close\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    let chain = connection.peer_certificates().unwrap_or_default();
    let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
    let served = Served::read(chain).context("no certificate was sent that can be read")?;
    Ok(served.fingerprint())
}

/// What trusts these CAs (PEM) and nothing else, and presents this chain with its key.
pub(crate) fn config(
    ca: &[u8],
    own: Option<(Vec<u8>, Vec<u8>)>,
) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate.context("the CAs are no PEM")?)?;
    }
    ensure!(!roots.is_empty(), "there is no CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match own {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>();
            let key = PrivateKeyDer::from_pem_slice(&key).context("the key is no PEM")?;
            config.with_client_auth_cert(chain.context("the chain is no PEM")?, key)?
        }
    };
    Ok(Arc::new(config))
}

/// A connection whose handshake is still to be made.
pub(crate) fn connect(
    address: SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
) -> anyhow::Result<(ClientConnection, TcpStream)> {
    let name = ServerName::try_from(name.to_owned())?;
    let connection = ClientConnection::new(config, name)?;
    let tcp = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("can't reach {address}"))?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    Ok((connection, tcp))
}
