//! A client that costs less than what it measures: HTTP/1.1 by hand over TLS, one request at a time.

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::exchange::{Answer, Request};
use super::loops::PATIENCE;
use super::server::Server;
use crate::handshake;

/// What every answer begins with that is one.
const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\n";

/// A server and what is asked of it. A clone is the same.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    address: std::net::SocketAddr,
    config: Arc<ClientConfig>,
    request: Request,
    answer: Answer,
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    request: Request,
    answer: Answer,
    buffer: Vec<u8>,
    /// The number of its next request: no two connections have one in common.
    next: u64,
}

impl Peer {
    /// Asks a server for the first time, and judges what it answers.
    ///
    /// # Errors
    /// It does not answer, or not as it must.
    pub(super) async fn meet(server: &Server, body: &[u8]) -> anyhow::Result<Self> {
        let config = handshake::config(&server.ca, None)?;
        let request = Request::new(body)?;
        let answer = async {
            let mut stream = connect(server.address, &config).await?;
            stream.write_all(request.as_it_is()).await?;
            stream.flush().await?;
            whole_answer(&mut stream).await
        };
        let answer = timeout(PATIENCE, answer).await;
        let answer = answer.with_context(|| format!("{} does not answer", server.address))??;
        Ok(Self {
            address: server.address,
            config,
            answer: Answer::judge(server.kind, body, answer)?,
            request,
        })
    }

    /// Connects. `n` is a number that no other connection to this server has.
    ///
    /// # Errors
    /// The server does not answer, or is not trusted.
    pub(super) async fn connect(&self, n: u64) -> anyhow::Result<Connection> {
        Ok(Connection {
            stream: connect(self.address, &self.config).await?,
            request: self.request.clone(),
            answer: self.answer.clone(),
            // One more than is expected would be seen.
            buffer: vec![0; self.answer.len() + 1],
            next: n << 24,
        })
    }
}

async fn connect(
    address: std::net::SocketAddr,
    config: &Arc<ClientConfig>,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address)
        .await
        .with_context(|| format!("can't reach {address}"))?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("localhost")?;
    let connector = TlsConnector::from(config.clone());
    let stream = connector.connect(name, tcp).await;
    stream.context("the TLS handshake failed")
}

impl Connection {
    /// Asks, and checks what is answered.
    ///
    /// # Errors
    /// The answer does not come, or is another.
    pub(super) async fn ask(&mut self) -> anyhow::Result<()> {
        let n = self.next;
        self.next += 1;
        self.stream.write_all(self.request.number(n)).await?;
        self.stream.flush().await?;
        let mut filled = 0;
        while filled < self.answer.len() {
            let room = self.buffer.get_mut(filled..).unwrap_or_default();
            let read = self.stream.read(room).await?;
            ensure!(read > 0, "the connection ended in place of an answer");
            filled += read;
            let got = self.buffer.get(..filled).unwrap_or_default();
            // Another answer may be shorter, and would be waited for in vain.
            if !got.starts_with(GOOD.get(..filled.min(GOOD.len())).unwrap_or_default()) {
                bail!("an answer is {}", String::from_utf8_lossy(got));
            }
        }
        let got = self.buffer.get(..filled).unwrap_or_default();
        self.answer.check(n, got)
    }
}

/// By its Content-Length.
async fn whole_answer(stream: &mut TlsStream<TcpStream>) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let read = stream.read_buf(&mut bytes).await?;
        ensure!(
            read > 0,
            "the connection ended after {:?}",
            String::from_utf8_lossy(&bytes)
        );
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length
                .context("an answer without Content-Length")?
                .parse()?;
            if body.len() >= length {
                return Ok(bytes);
            }
        }
    }
}
