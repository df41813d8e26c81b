//! The accept loop: every connection gets a place, a task, and a handshake that must be quick.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::clients;
use super::connection::{self, Terms};
use super::connections::{Place, State};
use super::lifecycle::Phase;
use super::tls::ServingCert;
use super::{Answers, Endpoint};
use crate::telemetry::logs::Sparingly;
use crate::telemetry::metrics::Metrics;

/// After an error that is the machine's and not a peer's, such as too many open files.
const BACK_OFF: Duration = Duration::from_millis(100);

/// And it is logged this often.
const SAY_AGAIN: Duration = Duration::from_secs(30);

impl<S: Answers> Endpoint<S> {
    /// Accepts and serves until the process finishes, and then what has come in by then.
    pub async fn serve(self) {
        let finishing = self.lifecycle.reached(Phase::Finishing);
        let sparingly = Sparingly::new(SAY_AGAIN);
        tokio::pin!(finishing);
        loop {
            tokio::select! {
                biased;
                () = &mut finishing => break,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let place = self.connections.enter(peer.ip()).await;
                        self.start(stream, place);
                    }
                    Err(error) => self.back_off(&error, &sparingly).await,
                }
            }
        }
        self.serve_backlog().await;
    }

    /// Connections the kernel has taken on would be reset with the socket.
    async fn serve_backlog(&self) {
        while let Ok(Ok((stream, peer))) =
            tokio::time::timeout(Duration::from_millis(1), self.listener.accept()).await
        {
            self.start(stream, self.connections.enter(peer.ip()).await);
        }
    }

    async fn back_off(&self, error: &io::Error, sparingly: &Sparingly) {
        match error.kind() {
            // The peer was gone before we came.
            io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset => {}
            _ => {
                if sparingly.may() {
                    tracing::warn!(%error, "can't accept a connection; closing another and trying again");
                }
                // Too many open files, most likely.
                self.connections.evict_one();
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }

    fn start(&self, stream: TcpStream, place: Place) {
        // Answers are small and awaited.
        let _ = stream.set_nodelay(true);
        self.metrics.accepted.inc();
        let terms = Terms {
            service: self.service.clone(),
            max_age: jittered(self.patience.max_age),
            patience: self.patience.clone(),
            lifecycle: self.lifecycle.clone(),
            connections: self.connections.clone(),
        };
        let (tls, metrics) = (self.tls.clone(), self.metrics.clone());
        tokio::spawn(async move {
            let reason = match tls {
                // In a box, as is its stream: the task would have room for both as long as it lives.
                Some(cert) => match Box::pin(shake_hands(stream, &place, &cert, &terms, &metrics))
                    .await
                {
                    Ok(stream) => connection::serve(stream, place.activity.clone(), terms).await,
                    Err(reason) => reason,
                },
                None => connection::serve(stream, place.activity.clone(), terms).await,
            };
            metrics.closed.with_label_values(&[reason]).inc();
        });
    }
}

/// The stream to serve, or why there is none, as a label.
async fn shake_hands<S>(
    stream: TcpStream,
    place: &Place,
    cert: &ServingCert,
    terms: &Terms<S>,
    metrics: &Metrics,
) -> Result<Box<TlsStream<TcpStream>>, &'static str> {
    let peer = stream.peer_addr().ok();
    let handshake = async {
        stream.readable().await?;
        place.activity.enter(State::Handshake);
        TlsAcceptor::from(cert.current()).accept(stream).await
    };
    let handshake = clients::told(peer, metrics, handshake);
    let (result, stream) = tokio::select! {
        done = tokio::time::timeout(terms.patience.handshake, handshake) => match done {
            Ok(Ok(stream)) => ("ok", Ok(Box::new(stream))),
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                ("failed", Err("no_tls"))
            }
            Err(_) => ("late", Err("no_tls")),
        },
        () = place.activity.evicted() => ("evicted", Err("evicted")),
        // All that were young are done by then.
        () = terms.lifecycle.reached(Phase::Stopping) => ("late", Err("no_tls")),
    };
    metrics.handshakes.with_label_values(&[result]).inc();
    stream
}

/// A tenth more or less, so that connections made together do not end together.
fn jittered(age: Duration) -> Duration {
    // A hasher's fresh keys are the randomness that std has.
    let random = RandomState::new().hash_one(0_u8) % 2001;
    let share = u32::try_from(random).unwrap_or_default();
    age / 10_000 * (9_000 + share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_a_tenth_at_most_and_not_always_the_same() {
        let minute = Duration::from_secs(60);
        let all: std::collections::BTreeSet<_> = (0..100).map(|_| jittered(minute)).collect();
        assert!(all.len() > 10);
        assert!(all.iter().all(|age| (54..=66).contains(&age.as_secs())));
    }
}
