//! The HTTP server: accept loop, TLS, bounds on connections, overload, routes, drain.
//!
//! Everything here is there so that kube-apiserver always gets an answer in time, whatever else
//! connects. It knows nothing of Kubernetes but what an AdmissionReview's caller does with HTTP:
//! `docs/architecture.md` has the reasons.

mod accept;
mod activity;
mod body;
mod budget;
pub mod client_certs;
mod closed;
mod connection;
mod keep_alive;
pub mod lifecycle;
mod long_answer;
mod overload;
mod places;
mod refusal;
pub mod routes;
pub mod tls;
mod tracked;
mod waiting;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::Request;
use rustix::net::sockopt;
use tokio::time::Instant;

pub use self::accept::MOST_WAITING;
pub use self::closed::Closed;
pub use self::connection::LINGER;
use self::lifecycle::Lifecycle;
pub use self::places::{MOST_FAREWELLS, Places};
use self::tls::ServingCert;
use crate::telemetry::metrics::Metrics;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4096;

/// How much of its answers a peer may leave unread in the kernel, in bytes; the kernel takes twice as much for
/// its own account. What kube-apiserver is sent is a tenth of that.
const SEND_BUFFER: usize = 32 << 10;

/// How much the kernel may keep of what a peer sends and nobody has read yet, in bytes; it takes twice as much for
/// its own account: 128 MiB for a thousand peers. Its own measure grows with what was read before, to a MB and more
/// for a peer that sends large reviews, of which many wait for memory. It is set before the peers agree on a window's
/// scale: set later, windows of loopback went wrong, and large reviews took nine times as long.
const RECEIVE_BUFFER: usize = 64 << 10;

/// Bounds on what reviews may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Reviews decided at once; more are answered with 429.
    pub max_in_flight: usize,
    /// The largest body, in bytes.
    pub max_body: usize,
    /// What all large bodies and long answers together may take, in bytes.
    pub body_memory: usize,
    /// The longest a review may take, if its caller names no shorter time.
    pub request_timeout: Duration,
}

/// Bounds on how long a connection may be in each state.
#[derive(Debug, Clone)]
pub struct Patience {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// From the handshake to the first request, and for the head of any request.
    pub head: Duration,
    /// Between requests. kube-apiserver closes after 90 s, and should be first: to be told that it is over
    /// costs it a line in its log, and a request that crosses the word another call.
    pub idle: Duration,
    /// How old a connection may be before its next answer closes it, so that new replicas get
    /// their share; each connection adds or takes up to a tenth.
    pub max_age: Duration,
}

/// A request that has arrived; of its body, what has come so far.
#[derive(Debug)]
pub struct Arrival {
    /// What is asked.
    pub request: Request<Body>,
    /// By whom.
    pub peer: IpAddr,
    /// When its head was there.
    pub at: Instant,
}

/// What answers requests, whatever they are. A function does, too.
pub trait Answers: Clone + Send + Sync + 'static {
    /// Answers one. There is no failure that has no answer.
    fn answer(&self, arrival: Arrival) -> impl Future<Output = Response> + Send;
}

impl<F, A> Answers for F
where
    F: Fn(Arrival) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response> + Send,
{
    fn answer(&self, arrival: Arrival) -> impl Future<Output = Response> + Send {
        self(arrival)
    }
}

/// One listening socket and what it serves.
#[derive(Debug)]
pub struct Endpoint<S> {
    /// Where connections come from.
    pub listener: tokio::net::TcpListener,
    /// The certificate; without one, plain HTTP is spoken.
    pub tls: Option<ServingCert>,
    /// What answers.
    pub service: S,
    /// The connections that are open.
    pub places: Places,
    /// How long to wait for peers.
    pub patience: Patience,
    /// Where the process is in its life.
    pub lifecycle: Lifecycle,
    /// Where to count.
    pub metrics: Metrics,
}

/// Listens on an address. `[::]` means `0.0.0.0` where there is no IPv6.
///
/// # Errors
/// The address is taken or is not this machine's.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = listen_on(address);
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => bound.or_else(|error| {
            if error.kind() == io::ErrorKind::AddrInUse {
                return Err(error);
            }
            listen_on((Ipv4Addr::UNSPECIFIED, v6.port()).into())
        }),
        _ => bound,
    }
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    // It sets SO_REUSEADDR: a restart must not wait for the last life's connections to be forgotten.
    let listener = TcpListener::bind(address)?;
    // Inherited by each connection. The kernel's own bounds are some MiB, and with cgroup v2 it counts them as the
    // container's memory.
    sockopt::set_socket_send_buffer_size(&listener, SEND_BUFFER)?;
    sockopt::set_socket_recv_buffer_size(&listener, RECEIVE_BUFFER)?;
    // The standard library's own backlog is short.
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}
