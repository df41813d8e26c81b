//! A second mutating webhook, of the kind that adds a sidecar to every Pod: what meshes do.
//!
//! It serves one connection at a time and one request on each: enough for a test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use imageswap::pki::{self, Pem};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// The container that it adds.
pub const NAME: &str = "sidecar";

/// Adds a container with an image of Docker Hub's, for ever. Writes the CA to trust into a file
/// once it listens.
///
/// # Errors
/// It can't listen.
pub fn serve(address: SocketAddr, image: &str, ca: &Path) -> anyhow::Result<()> {
    let life = time::Duration::days(1);
    let pem = pki::mint(&[address.ip().to_string()], life, OffsetDateTime::now_utc())?;
    let config = Arc::new(config(&pem)?);
    let listener = TcpListener::bind(address)?;
    std::fs::write(ca, &pem.ca)?;
    for tcp in listener.incoming() {
        // A peer that fails is its own loss.
        let _ = tcp
            .context("no connection")
            .and_then(|tcp| answer(tcp, &config, image));
    }
    Ok(())
}

fn config(pem: &Pem) -> anyhow::Result<ServerConfig> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.chain.as_bytes()).collect();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain?, PrivateKeyDer::from_pem_slice(pem.key.as_bytes())?)?)
}

fn answer(tcp: TcpStream, config: &Arc<ServerConfig>, image: &str) -> anyhow::Result<()> {
    tcp.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut stream = BufReader::new(StreamOwned::new(
        ServerConnection::new(config.clone())?,
        tcp,
    ));
    let mut length = 0;
    loop {
        let mut line = String::new();
        ensure!(stream.read_line(&mut line)? > 0, "the head is cut");
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
    }
    let mut body = Vec::new();
    stream.by_ref().take(length).read_to_end(&mut body)?;
    let review = response(&serde_json::from_slice(&body)?, image).to_string();
    let stream = stream.get_mut();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{review}",
        review.len()
    )?;
    stream.conn.send_close_notify();
    Ok(stream.flush()?)
}

fn response(review: &Value, image: &str) -> Value {
    let containers = review.pointer("/request/object/spec/containers");
    let is_ours = |container: &Value| container.get("name").is_some_and(|name| name == NAME);
    let is_there = containers
        .and_then(Value::as_array)
        .is_some_and(|all| all.iter().any(is_ours));
    let uid = review.pointer("/request/uid");
    let response = if is_there {
        json!({"uid": uid, "allowed": true})
    } else {
        let container = json!({"name": NAME, "image": image});
        let patch = json!([{"op": "add", "path": "/spec/containers/-", "value": container}]);
        let patch = STANDARD.encode(patch.to_string());
        json!({"uid": uid, "allowed": true, "patchType": "JSONPatch", "patch": patch})
    };
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": response,
    })
}
