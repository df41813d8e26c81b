//! What rustls itself takes for a handshake as server, without a socket, with the certificate that
//! ImageSwap serves and its settings.

use std::fs;
use std::io::Cursor;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use super::server::Program;
use crate::handshake;

/// The server's share of a handshake: the mean of as many as fit into this time.
///
/// # Errors
/// The certificate can't be read, or a handshake fails.
pub(super) fn alone(program: &Program, time: Duration) -> anyhow::Result<Duration> {
    let server = server_config(program)?;
    let client = handshake::config(&fs::read(program.ca())?, None)?;
    let started = Instant::now();
    let (mut sum, mut number) = (Duration::ZERO, 0);
    while started.elapsed() < time {
        sum += one(&server, &client)?;
        number += 1;
    }
    Ok(sum / number)
}

fn one(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> anyhow::Result<Duration> {
    let name = ServerName::try_from("localhost")?;
    let mut client = ClientConnection::new(client.clone(), name)?;
    let mut took = Duration::ZERO;
    let mut server = timed(&mut took, || Ok(ServerConnection::new(server.clone())?))?;
    for _ in 0..10 {
        if !client.is_handshaking() && !server.is_handshaking() {
            return Ok(took);
        }
        let mut sent = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut sent)?;
        }
        let answer = timed(&mut took, || {
            let mut sent = Cursor::new(sent);
            server.read_tls(&mut sent)?;
            server.process_new_packets()?;
            let mut answer = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut answer)?;
            }
            Ok(answer)
        })?;
        let mut answer = Cursor::new(answer);
        client.read_tls(&mut answer)?;
        client.process_new_packets()?;
    }
    ensure!(!server.is_handshaking(), "a handshake does not end");
    Ok(took)
}

fn timed<T>(sum: &mut Duration, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let started = Instant::now();
    let done = work();
    *sum += started.elapsed();
    done
}

/// As `imageswap::server::tls` has it.
fn server_config(program: &Program) -> anyhow::Result<Arc<ServerConfig>> {
    let [chain, key] = program.pair();
    let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<Vec<_>, _>>();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            chain.context("the chain is no PEM")?,
            PrivateKeyDer::from_pem_file(key)?,
        )?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
