//! The accept loop: every connection gets a place, for which it may have to wait, a task, and a handshake that
//! must be quick.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::FutureExt;
use rustls::ServerConnection;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::activity::State;
use super::client_certs;
use super::closed::Closed;
use super::connection::{self, Terms};
use super::lifecycle::Phase;
use super::places::{MOMENT, Newcomers, Place};
use super::tls::ServingCert;
use super::waiting::{Waiting, WaitingRoom};
use super::{Answers, Endpoint, RECEIVE_BUFFER};
use crate::telemetry::logs::Sparingly;
use crate::telemetry::metrics::{Metrics, set_count};

/// After an error that is the machine's and not a peer's, such as too many open files.
const BACK_OFF: Duration = Duration::from_millis(100);

/// And it is logged this often.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// How long the last look into the kernel's queue takes.
const LAST_LOOK: Duration = Duration::from_millis(1);

/// How many connections may wait for a place: with a moment for each, three thousand a second, where all are
/// silent.
pub const MOST_WAITING: usize = 512;

/// How much the kernel may keep of what comes for one that waits, in bytes; it takes twice as much for its own
/// account. It counts as ours from when it was accepted, and would be 64 MiB on a port if each sent what it can.
const WAITING_BUFFER: usize = 8 << 10;

/// How much of what a peer does not read TLS keeps, in bytes, besides the kernel: a record. Its own measure is four
/// times as much.
const TLS_BUFFER: usize = 16 << 10;

/// How often to look for a place for those that wait: one that is answered makes room as well as one that leaves,
/// and says nothing.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

impl<S: Answers> Endpoint<S> {
    /// Accepts and serves until the process finishes, and then what has come in by then.
    pub async fn serve(self) {
        let finishing = self.lifecycle.reached(Phase::Finishing);
        let sparingly = Sparingly::new(SAY_AGAIN);
        let mut room = WaitingRoom::new(MOST_WAITING, MOMENT, has_spoken);
        let mut look_again = tokio::time::interval(LOOK_AGAIN);
        look_again.set_missed_tick_behavior(MissedTickBehavior::Skip);
        tokio::pin!(finishing);
        loop {
            // None before the others: neither those that come nor those that wait shall stop the rest.
            tokio::select! {
                () = &mut finishing => break,
                accepted = self.listener.accept(), if self.has_room(&room) => match accepted {
                    Ok((stream, peer)) => self.take_in(stream, peer.ip(), &mut room),
                    Err(error) => self.back_off(&error, &sparingly, &mut room).await,
                },
                _ = look_again.tick(), if !room.is_empty() => self.seat(&mut room),
            }
        }
        self.serve_backlog(room).await;
    }

    /// Connections the kernel has taken on would be reset with the socket.
    async fn serve_backlog(&self, mut room: WaitingRoom<TcpStream>) {
        loop {
            let accepted = async {
                match self.has_room(&room) {
                    true => self.listener.accept().await.ok(),
                    false => std::future::pending().await,
                }
            };
            match tokio::time::timeout(LAST_LOOK, accepted).await {
                Ok(Some((stream, peer))) => self.take_in(stream, peer.ip(), &mut room),
                // There is none any more, or none that can be had.
                Ok(None) | Err(_) if room.is_empty() => break,
                Ok(None) => tokio::time::sleep(LAST_LOOK).await,
                Err(_) => {}
            }
            self.seat(&mut room);
        }
    }

    fn take_in(&self, stream: TcpStream, peer: IpAddr, room: &mut WaitingRoom<TcpStream>) {
        self.metrics.accepted.inc();
        let peer = peer.to_canonical();
        // Behind others it has its turn.
        if room.is_empty()
            && let Some(place) = self.places.try_enter(peer, Duration::ZERO)
        {
            return self.start(stream, place);
        }
        set_receive_buffer(&stream, WAITING_BUFFER);
        let waiting = Waiting::new(stream, peer, Instant::now());
        if room.enter(waiting, self.newcomers()).is_some() {
            count_closed(&self.metrics, Closed::Evicted);
        }
        self.count(room);
    }

    fn has_room(&self, room: &WaitingRoom<TcpStream>) -> bool {
        room.has_room(Instant::now(), self.newcomers())
    }

    /// The newcomers with a place that an address has; counted when it is asked first.
    fn newcomers(&self) -> impl Fn(IpAddr) -> Newcomers {
        let counted = LazyCell::new(|| self.places.newcomers());
        move |peer| counted.get(&peer).copied().unwrap_or_default()
    }

    /// As many of those that wait as have a place.
    fn seat(&self, room: &mut WaitingRoom<TcpStream>) {
        let place =
            |next: &Waiting<TcpStream>| self.places.try_enter(next.peer, next.since.elapsed());
        let (before, mut seated) = (self.newcomers(), HashMap::<_, usize>::new());
        loop {
            let newcomers =
                |peer| before(peer).all + seated.get(&peer).copied().unwrap_or_default();
            let Some((next, place)) = room.next(newcomers, place) else {
                break;
            };
            *seated.entry(next.peer).or_default() += 1;
            set_receive_buffer(&next.stream, RECEIVE_BUFFER);
            self.start(next.stream, place);
        }
        self.count(room);
    }

    fn count(&self, room: &WaitingRoom<TcpStream>) {
        set_count(&self.metrics.connections_waiting, room.len());
    }

    async fn back_off(
        &self,
        error: &io::Error,
        sparingly: &Sparingly,
        room: &mut WaitingRoom<TcpStream>,
    ) {
        match error.kind() {
            // The peer was gone before we came.
            io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset => {}
            _ => {
                if sparingly.may() {
                    tracing::warn!(%error, "can't accept a connection; closing another and trying again");
                }
                // Who has no place goes first, and its file and memory with it.
                if room.put_one_out(self.newcomers()).is_some() {
                    count_closed(&self.metrics, Closed::Evicted);
                    self.seat(room);
                    tokio::time::sleep(LOOK_AGAIN).await;
                    return;
                }
                self.places.evict_one();
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }

    fn start(&self, stream: TcpStream, place: Place) {
        // Answers are small and awaited.
        let _ = stream.set_nodelay(true);
        // On a busy machine it may be a while before its task looks.
        if self.tls.is_some() && has_spoken(&stream) {
            place.activity.enter(State::Handshake);
        }
        let terms = Terms {
            service: self.service.clone(),
            max_age: jittered(self.patience.max_age),
            patience: self.patience.clone(),
            lifecycle: self.lifecycle.clone(),
            places: self.places.clone(),
        };
        let (tls, metrics) = (self.tls.clone(), self.metrics.clone());
        tokio::spawn(async move {
            let reason = match tls {
                // In a box, as is its stream: the task would have room for both as long as it lives.
                Some(cert) => {
                    match Box::pin(shake_hands(stream, &place, &cert, &terms, &metrics)).await {
                        Ok(stream) => {
                            place.activity.enter(State::Fresh);
                            connection::serve(stream, place.activity.clone(), terms).await
                        }
                        Err(reason) => reason,
                    }
                }
                None => connection::serve(stream, place.activity.clone(), terms).await,
            };
            count_closed(&metrics, reason);
        });
    }
}

fn count_closed(metrics: &Metrics, why: Closed) {
    metrics.closed.with_label_values(&[why.as_str()]).inc();
}

/// The stream to serve, or why there is none.
async fn shake_hands<S>(
    stream: TcpStream,
    place: &Place,
    cert: &ServingCert,
    terms: &Terms<S>,
    metrics: &Metrics,
) -> Result<Box<TlsStream<TcpStream>>, Closed> {
    let peer = stream.peer_addr().ok();
    let handshake = async {
        // A new stream is taken for readable until it was read.
        stream.peek(&mut [0]).await?;
        place.activity.enter(State::Handshake);
        let acceptor = TlsAcceptor::from(cert.current());
        let bounded = |tls: &mut ServerConnection| tls.set_buffer_limit(Some(TLS_BUFFER));
        acceptor.accept_with(stream, bounded).await
    };
    let handshake = client_certs::told(peer, metrics, handshake);
    let (result, stream) = tokio::select! {
        done = tokio::time::timeout(terms.patience.handshake, handshake) => match done {
            Ok(Ok(stream)) => ("ok", Ok(Box::new(stream))),
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                ("failed", Err(Closed::NoTls))
            }
            Err(_) => ("late", Err(Closed::NoTls)),
        },
        () = place.activity.evicted() => ("evicted", Err(Closed::Evicted)),
        // Those that were young had two seconds, see `any_busy`.
        () = terms.lifecycle.reached(Phase::Stopping) => ("late", Err(Closed::NoTls)),
    };
    metrics.handshakes.with_label_values(&[result]).inc();
    stream
}

/// Whether anything is there to read. The kernel is asked for a new stream and for one of which something is known.
fn has_spoken(stream: &TcpStream) -> bool {
    let mut byte = [0];
    // Else a task that has asked of many is told of none.
    let peeked = tokio::task::unconstrained(stream.peek(&mut byte));
    matches!(peeked.now_or_never(), Some(Ok(1..)))
}

fn set_receive_buffer(stream: &TcpStream, size: usize) {
    // What it does not take is the kernel's usual.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(stream, size);
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

    #[tokio::test]
    async fn a_stream_has_spoken_once_something_came_and_not_before() {
        use tokio::io::AsyncWriteExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut peer = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        // More often than a task may ask in a row.
        assert!((0..1_000).all(|_| !has_spoken(&stream)));
        peer.write_all(b"x").await.unwrap();
        stream.peek(&mut [0]).await.unwrap();
        assert!((0..1_000).all(|_| has_spoken(&stream)));
        // Who only leaves has said nothing.
        let gone = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        drop(gone);
        stream.peek(&mut [0]).await.unwrap();
        assert!(!has_spoken(&stream));
    }

    #[tokio::test]
    async fn what_the_kernel_keeps_of_a_peer_is_bounded_and_less_while_it_waits() {
        let listener = crate::server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let _peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        // The kernel says what it takes for its own account.
        let kept = || rustix::net::sockopt::socket_recv_buffer_size(&stream).unwrap() / 2;
        assert_eq!(kept(), RECEIVE_BUFFER);
        set_receive_buffer(&stream, WAITING_BUFFER);
        assert_eq!(kept(), WAITING_BUFFER);
    }

    #[test]
    fn jitter_is_a_tenth_at_most_and_not_always_the_same() {
        let minute = Duration::from_secs(60);
        let all: std::collections::BTreeSet<_> = (0..100).map(|_| jittered(minute)).collect();
        assert!(all.len() > 10);
        assert!(all.iter().all(|age| (54..=66).contains(&age.as_secs())));
    }
}
