//! One connection: HTTP/1.1 over a stream, cut off when its peer takes too long, and never closed under
//! a request.
//!
//! Whoever closes a connection that is idle may cross a request on its way, and kube-apiserver does not
//! send a review again that it has begun to write. So an idle connection is not closed but told that it
//! is over, by an answer to nothing: a peer that is idle closes by itself, and one that has just sent a
//! request takes it for its answer, and asks again elsewhere.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;
use tower::ServiceExt;

use super::connections::{Activity, State};
use super::lifecycle::{Lifecycle, Phase};
use super::{Answers, Patience};

/// How often a connection looks whether its peer is late.
const TICK: Duration = Duration::from_secs(2);

/// The stretch in which a connection is read, in bytes; a head may be a few times as long. A
/// thousand peers can fill it.
const BUFFER: usize = 16 << 10;

/// Said to a peer that has asked nothing. Go's client closes an idle connection on which anything comes;
/// if it has asked in this very moment, kube-apiserver asks again at once because of `retry-after`. Not
/// a 408: that one, Go takes for a close.
const FAREWELL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: text/plain\r\n\
    connection: close\r\n\
    retry-after: 0\r\n\
    content-length: 51\r\n\
    \r\n\
    this connection is over: another one will be served";

/// How long a peer may take to close after the farewell. One that runs needs a round trip.
pub const LINGER: Duration = Duration::from_secs(5);

/// What a connection needs to know.
pub(super) struct Terms<S> {
    pub(super) service: S,
    pub(super) patience: Patience,
    /// Of this one connection.
    pub(super) max_age: Duration,
    pub(super) lifecycle: Lifecycle,
}

/// Serves a stream to its end and says, as a label, why it ended.
pub(super) async fn serve<T, S>(stream: T, activity: Arc<Activity>, terms: Terms<S>) -> &'static str
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Answers,
{
    activity.enter(State::Fresh);
    let stream = Heard {
        stream,
        activity: activity.clone(),
    };
    let terms = Arc::new(terms);
    let (answering, agreed) = (activity.clone(), terms.clone());
    let service = service_fn(move |request| answer(request, answering.clone(), agreed.clone()));
    let mut connection = http1::Builder::new()
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let stopping = terms.lifecycle.reached(Phase::Stopping);
    tokio::pin!(stopping);
    let mut is_stopping = false;
    let reason = loop {
        let wait = match activity.deadline(&terms.patience) {
            Some(deadline) => TICK.min(deadline.saturating_duration_since(Instant::now())),
            None => TICK,
        };
        tokio::select! {
            biased;
            ended = Pin::new(&mut connection) => return match ended {
                Ok(()) => "done",
                Err(error) if error.is_parse() => "not_http",
                Err(_) => "broken",
            },
            () = activity.evicted() => return "evicted",
            () = &mut stopping, if !is_stopping => {
                is_stopping = true;
                if activity.awaits_request() {
                    break "done";
                }
                // What is under way is answered, and that answer closes.
            }
            () = tokio::time::sleep(wait) => {
                let late = |deadline| deadline <= Instant::now();
                if activity.deadline(&terms.patience).is_some_and(late) {
                    break "late";
                }
            }
        }
    };
    if is_stopping || activity.awaits_request() {
        let stream = connection.into_parts().io.into_inner().stream;
        tokio::select! {
            // A peer that does not hear it out is gone.
            _ = tokio::time::timeout(LINGER, dismiss(stream)) => {}
            () = activity.evicted() => {}
        }
    }
    reason
}

/// Tells the peer that it is over, and waits until it has closed; what it says until then is answered.
async fn dismiss<T>(mut stream: T) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(FAREWELL).await?;
    stream.flush().await?;
    let mut unheard = [0; 1024];
    while stream.read(&mut unheard).await? > 0 {}
    stream.shutdown().await
}

/// Answers a request and, if the connection has had its time, closes it with the answer.
async fn answer<S: Answers>(
    request: http::Request<Incoming>,
    activity: Arc<Activity>,
    terms: Arc<Terms<S>>,
) -> Result<Response, std::convert::Infallible> {
    let body_is_here = request.body().is_end_stream();
    activity.enter(if body_is_here {
        State::Answering
    } else {
        State::Body
    });
    let reading = activity.clone();
    let request = request.map(|body| {
        Body::new(Ended {
            body,
            activity: reading,
        })
    });
    let mut response = terms.service.clone().oneshot(request).await?;
    if response.status().is_success() {
        activity.served();
    }
    if activity.age() > terms.max_age || terms.lifecycle.phase() >= Phase::Draining {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    activity.enter(State::Writing);
    Ok(response)
}

/// A body that notes when it has come to its end, and it is our turn.
struct Ended {
    body: Incoming,
    activity: Arc<Activity>,
}

impl hyper::body::Body for Ended {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.activity.enter(State::Answering);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that notes when its peer says something, or takes something.
struct Heard<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.heard();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        if matches!(wrote, Poll::Ready(Ok(1..))) {
            self.activity.wrote();
        }
        wrote
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if matches!(wrote, Poll::Ready(Ok(1..))) {
            self.activity.wrote();
        }
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.activity.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
