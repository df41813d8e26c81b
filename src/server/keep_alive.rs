//! HTTP/1.1 on a stream, one request after the other. Where there are many connections, the stream alone
//! is kept between two of them.
//!
//! hyper has two buffers of 8 KiB for each connection as long as that lives. A thousand take more than
//! all else in this process, and most of them wait. So hyper begins anew with each request then; where
//! there are few, that would only cost time.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::response::Response;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::activity::Activity;
use super::closed::Closed;
use super::places::Places;
use super::tracked::Tracked;

/// The stretch in which a connection is read, in bytes; no head may be longer. A thousand peers can fill
/// it.
const BUFFER: usize = 16 << 10;

/// The same for one that is begun where there are few, and keeps it: a usual body comes in one piece, and is read
/// where it was received. That piece and the next stretch may be there at once.
const LARGE: usize = 64 << 10;

/// Up to this many connections keep their buffers.
const FEW: usize = 64;

/// What answers one request after the other.
pub(super) trait Replies:
    Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone
{
}

impl<V> Replies for V where
    V: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone
{
}

/// See the module's description.
pub(super) struct KeepAlive<T, V: Replies> {
    activity: Arc<Activity>,
    places: Places,
    service: V,
    /// One of the two is there, until the end.
    waiting: Option<Tracked<T>>,
    talking: Option<Box<http1::Connection<TokioIo<Tracked<T>>, V>>>,
    /// It was begun where there were many.
    is_cramped: bool,
}

impl<T, V> KeepAlive<T, V>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    V: Replies,
{
    pub(super) fn new(stream: T, activity: Arc<Activity>, places: Places, service: V) -> Self {
        Self {
            waiting: Some(Tracked::new(stream, activity.clone())),
            talking: None,
            is_cramped: false,
            activity,
            places,
            service,
        }
    }

    /// Serves to the end of the stream, and says why that came.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        loop {
            if let Some(stream) = &mut self.waiting {
                if ready!(stream.poll_something(cx)).is_err() {
                    return Poll::Ready(Closed::Broken);
                }
                self.talk();
            }
            let Some(connection) = &mut self.talking else {
                return Poll::Ready(Closed::Done);
            };
            match Pin::new(&mut **connection).poll(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Closed::Done),
                Poll::Ready(Err(error)) if error.is_parse() => return Poll::Ready(Closed::NotHttp),
                Poll::Ready(Err(_)) => return Poll::Ready(Closed::Broken),
                // Where there are few again, it is begun anew once.
                Poll::Pending
                    if self.activity.rests() && (self.is_cramped || self.places.len() > FEW) =>
                {
                    self.wait();
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The stream, between two requests.
    pub(super) fn into_stream(self) -> Option<T> {
        let talked = |connection: Box<http1::Connection<TokioIo<Tracked<T>>, V>>| {
            connection.into_parts().io.into_inner()
        };
        let tracked = self.waiting.or_else(|| self.talking.map(talked))?;
        Some(tracked.into_inner())
    }

    fn talk(&mut self) {
        if let Some(stream) = self.waiting.take() {
            let mut http = http1::Builder::new();
            let io = TokioIo::new(stream);
            self.is_cramped = self.places.len() > FEW;
            http.max_buf_size(if self.is_cramped { BUFFER } else { LARGE });
            // Who has said all may still want to hear the answer.
            let connection = http.half_close(true);
            let connection = connection.serve_connection(io, self.service.clone());
            self.talking = Some(Box::new(connection));
        }
    }

    fn wait(&mut self) {
        if let Some(connection) = self.talking.take() {
            let parts = connection.into_parts();
            let mut stream = parts.io.into_inner();
            stream.unread(&parts.read_buf);
            self.waiting = Some(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use axum::body::Body;
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::activity::{HERE, State};
    use super::*;
    use crate::telemetry::metrics::Metrics;

    /// After each of three requests on a connection beside so many others: whether it keeps only its stream.
    async fn waits(others: usize) -> Vec<bool> {
        let connections = Places::new(1_000, Metrics::new().unwrap());
        let mut places = Vec::new();
        for _ in 0..=others {
            places.push(connections.enter(HERE).await);
        }
        let activity = places[0].activity.clone();
        activity.enter(State::Fresh);
        let answering = activity.clone();
        let service = service_fn(move |_| {
            answering.enter(State::Writing);
            async { Ok(Response::new(Body::from("answer"))) }
        });
        let (mut peer, stream) = tokio::io::duplex(1 << 10);
        let mut requests = KeepAlive::new(stream, activity, connections, service);
        let mut waits = Vec::new();
        for _ in 0..3 {
            peer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let pending = poll_fn(|cx| Poll::Ready(requests.poll(cx).is_pending())).await;
            assert!(pending);
            let mut answer = [0; 1 << 10];
            let length = peer.read(&mut answer).await.unwrap();
            assert!(answer[..length].ends_with(b"answer"));
            waits.push(requests.waiting.is_some() && requests.talking.is_none());
        }
        drop(peer);
        assert_eq!(poll_fn(|cx| requests.poll(cx)).await, Closed::Done);
        waits
    }

    #[tokio::test]
    async fn with_many_connections_a_stream_is_all_that_is_kept_between_two_requests() {
        assert_eq!(waits(FEW - 1).await, [false; 3]);
        assert_eq!(waits(FEW).await, [true; 3]);
    }
}
