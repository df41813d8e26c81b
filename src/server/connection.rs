//! One connection: HTTP/1.1 over a stream, cut off when its peer takes too long, and never closed under
//! a request.
//!
//! Whoever closes a connection that is idle may cross a request on its way, and kube-apiserver does not
//! send a review again that it has begun to write. So an idle connection is not closed but told that it
//! is over, by an answer to nothing: a peer that is idle closes by itself, and one that has just sent a
//! request takes it for its answer, and asks again elsewhere.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use http::header::{CONNECTION, HeaderValue};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::activity::{Activity, State};
use super::closed::Closed;
use super::keep_alive::KeepAlive;
use super::lifecycle::{Lifecycle, Phase};
use super::long_answer;
use super::places::Places;
use super::{Answers, Arrival, Patience};

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

/// The same of one whose place another has already.
const BRIEF_LINGER: Duration = Duration::from_millis(500);

/// What a connection needs to know.
pub(super) struct Terms<S> {
    pub(super) service: S,
    pub(super) patience: Patience,
    /// Of this one connection.
    pub(super) max_age: Duration,
    pub(super) lifecycle: Lifecycle,
    /// All of the endpoint's.
    pub(super) places: Places,
}

/// Serves a stream to its end and says why it ended.
pub(super) async fn serve<T, S>(stream: T, activity: Arc<Activity>, terms: Terms<S>) -> Closed
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Answers,
{
    let terms = Arc::new(terms);
    let (answering, agreed) = (activity.clone(), terms.clone());
    let service = service_fn(move |request| answer(request, answering.clone(), agreed.clone()));
    let places = terms.places.clone();
    let mut requests = KeepAlive::new(stream, activity.clone(), places, service);
    let stopping = terms.lifecycle.reached(Phase::Stopping);
    tokio::pin!(stopping);
    let mut is_stopping = false;
    let mut farewell = None;
    let reason = loop {
        let tick = activity.look_again();
        let wait = match activity.deadline(&terms.patience) {
            Some(deadline) => tick.min(deadline.saturating_duration_since(Instant::now())),
            None => tick,
        };
        tokio::select! {
            biased;
            reason = poll_fn(|cx| requests.poll(cx)) => return reason,
            // A request may have come since it was chosen: it is answered, and that answer closes.
            () = activity.woken() => if activity.is_evicted()
                && activity.state() != State::Answering
            {
                // Whoever was served may be asking again in this very moment.
                let was_served = activity.state() == State::Idle && !activity.is_newcomer();
                farewell = was_served.then(|| terms.places.farewell()).flatten();
                match farewell {
                    Some(_) => break Closed::Evicted,
                    None => return Closed::Evicted,
                }
            },
            () = &mut stopping, if !is_stopping => {
                is_stopping = true;
                if activity.awaits_request() {
                    break Closed::Done;
                }
                // What is under way is answered, and that answer closes.
            }
            () = tokio::time::sleep(wait) => {
                let late = |deadline| deadline <= Instant::now();
                if activity.deadline(&terms.patience).is_some_and(late) {
                    break Closed::Late;
                }
            }
        }
    };
    // In the middle of an answer it would be taken for more of it.
    if (is_stopping || activity.awaits_request())
        && activity.state() != State::Writing
        && let Some(stream) = requests.into_stream()
    {
        // In a box, for the task would have room for it as long as the connection lives.
        let dismissed = Box::pin(dismiss(stream));
        let linger = if farewell.is_some() {
            BRIEF_LINGER
        } else {
            LINGER
        };
        tokio::select! {
            // A peer that does not hear it out is gone.
            _ = tokio::time::timeout(linger, dismissed) => {}
            () = activity.evicted(), if farewell.is_none() => {}
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
    let at = Instant::now();
    let body_is_here = request.body().is_end_stream();
    let state = match body_is_here {
        true => State::Answering,
        false => State::Body,
    };
    activity.enter_at(state, at);
    let reading = activity.clone();
    let arrival = Arrival {
        request: request.map(|body| {
            Body::new(Ended {
                body,
                activity: reading,
            })
        }),
        peer: activity.peer(),
        at,
    };
    let mut response = terms.service.answer(arrival).await;
    // Who is asked to come again soon, comes on this connection.
    let status = response.status();
    if status.is_success() || status == StatusCode::TOO_MANY_REQUESTS {
        activity.welcome();
    }
    let now = Instant::now();
    let age = now.saturating_duration_since(activity.born());
    // Of a body that was not read to its end, the rest can't be told from a request.
    let is_over = age > terms.max_age || activity.is_evicted() || !activity.has_whole_body();
    if is_over || terms.lifecycle.phase() >= Phase::Draining {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    if long_answer::length(&response).is_some() {
        // In a box, for there is seldom need of it.
        response = Box::pin(long_answer::in_pieces(response, &activity)).await;
    }
    activity.enter_at(State::Writing, now);
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::response::IntoResponse;
    use futures_util::FutureExt;
    use http_body_util::BodyExt;
    use tokio::io::DuplexStream;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::server::activity::HERE;
    use crate::server::places::Place;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn the_farewell_is_as_long_as_it_says() {
        let farewell = std::str::from_utf8(FAREWELL).unwrap();
        let (head, body) = farewell.split_once("\r\n\r\n").unwrap();
        let length = format!("content-length: {}", body.len());
        assert!(head.lines().any(|line| line == length), "{head}");
    }

    /// A stream that can't be closed, and not flushed either once its peer has gone.
    struct Stuck {
        stream: DuplexStream,
        has_ended: bool,
    }

    fn stuck(stream: DuplexStream) -> Stuck {
        Stuck {
            stream,
            has_ended: false,
        }
    }

    impl AsyncRead for Stuck {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let before = buf.filled().len();
            let read = Pin::new(&mut self.stream).poll_read(cx, buf);
            self.has_ended |= read.is_ready() && buf.filled().len() == before;
            read
        }
    }

    impl AsyncWrite for Stuck {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.stream).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            match self.has_ended {
                true => Poll::Pending,
                false => Pin::new(&mut self.stream).poll_flush(cx),
            }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    /// A connection, among so many, to a service that notes what it is asked. It reads all bodies but two:
    /// one it drops, of the other it wants more.
    struct Talk {
        peer: DuplexStream,
        asked: Arc<Mutex<Vec<String>>>,
        served: JoinHandle<Closed>,
        activity: Arc<Activity>,
        connections: Places,
        lifecycle: Lifecycle,
        _others: Vec<Place>,
    }

    impl Talk {
        async fn among(others: usize) -> Self {
            Self::on(others, |stream| stream).await
        }

        async fn on<T>(others: usize, stream: impl FnOnce(DuplexStream) -> T) -> Self
        where
            T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        {
            Self::through(1 << 10, others, stream).await
        }

        /// So many bytes may be on their way.
        async fn through<T>(
            room: usize,
            others: usize,
            stream: impl FnOnce(DuplexStream) -> T,
        ) -> Self
        where
            T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        {
            let connections = Places::new(1_000, Metrics::new().unwrap());
            let mut places = Vec::new();
            for _ in 0..others {
                places.push(connections.enter(HERE).await);
            }
            let asked = Arc::new(Mutex::new(Vec::new()));
            let notes = asked.clone();
            let kept = Arc::new(Mutex::new(Vec::new()));
            let service = move |Arrival { request, .. }: Arrival| {
                let path = request.uri().path().to_owned();
                notes.lock().unwrap().push(path.clone());
                let kept = kept.clone();
                async move {
                    match &*path {
                        "/dropped" => drop(request),
                        "/slow" => tokio::time::sleep(Duration::from_millis(5)).await,
                        "/kept" => {
                            let mut body = request.into_body();
                            body.frame().await.unwrap().unwrap();
                            assert!(body.frame().now_or_never().is_none());
                            tokio::time::sleep(Duration::from_millis(5)).await;
                            kept.lock().unwrap().push(body);
                        }
                        _ => drop(request.into_body().collect().await.unwrap()),
                    }
                    let long = "x".repeat(if path == "/long" { 50_000 } else { 0 });
                    let answer = Body::from(format!("{long}{path} is answered\n"));
                    let status = match &*path {
                        "/shed" => StatusCode::TOO_MANY_REQUESTS,
                        "/unknown" => StatusCode::NOT_FOUND,
                        _ => StatusCode::OK,
                    };
                    (status, answer).into_response()
                }
            };
            let forever = FOREVER;
            let lifecycle = Lifecycle::default();
            let terms = Terms {
                service,
                patience: Patience {
                    handshake: forever,
                    head: forever,
                    idle: forever,
                    max_age: forever,
                },
                max_age: forever,
                lifecycle: lifecycle.clone(),
                places: connections.clone(),
            };
            let (peer, theirs) = tokio::io::duplex(room);
            let stream = stream(theirs);
            let place = connections.enter(HERE).await;
            let activity = place.activity.clone();
            let served = tokio::spawn(async move {
                let activity = place.activity.clone();
                serve(stream, activity, terms).await
            });
            Self {
                peer,
                asked,
                served,
                activity,
                connections,
                lifecycle,
                _others: places,
            }
        }

        /// Sends it in pieces, each of which is seen by itself.
        async fn send(&mut self, bytes: &[u8], piece: usize) {
            for piece in bytes.chunks(piece) {
                self.peer.write_all(piece).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }

        async fn read_to(&mut self, end: &str) -> String {
            let mut text = String::new();
            while !text.ends_with(end) {
                let byte = self.peer.read_u8().await.unwrap();
                text.push(char::from(byte));
            }
            text
        }
    }

    const MANY: usize = 100;

    const FOREVER: Duration = Duration::from_secs(600);

    #[tokio::test(start_paused = true)]
    async fn who_is_asked_to_come_again_is_no_newcomer() {
        let mut talk = Talk::among(0).await;
        for (path, is_newcomer) in [("/unknown", true), ("/shed", false)] {
            let request = format!("GET {path} HTTP/1.1\r\n\r\n");
            talk.send(request.as_bytes(), 1_000).await;
            talk.read_to(&format!("{path} is answered\n")).await;
            assert_eq!(talk.activity.is_newcomer(), is_newcomer, "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_farewell_does_not_stand_in_the_middle_of_an_answer() {
        let mut talk = Talk::among(0).await;
        talk.send(b"GET /long HTTP/1.1\r\n\r\n", 1_000).await;
        talk.lifecycle.enter(Phase::Stopping);
        tokio::time::sleep(FOREVER + LINGER / 2).await;
        let mut answer = Vec::new();
        talk.peer.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains("content-length: 50018\r\n"), "{answer}");
        assert!(answer.ends_with("xxxx"), "{answer}");
        assert_eq!(talk.served.await.unwrap(), Closed::Late);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_answered_in_whatever_pieces_they_come() {
        let all = "POST /a HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcGET /b HTTP/1.1\r\n\r\n\
            POST /c HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n\r\n\
            GET /d HTTP/1.1\r\n\r\n";
        for others in [0, MANY] {
            for piece in [1, 2, 3, 7, 20, 41, 60, 1_000] {
                let mut talk = Talk::among(others).await;
                talk.send(all.as_bytes(), piece).await;
                for path in ["/a", "/b", "/c", "/d"] {
                    talk.read_to(&format!("{path} is answered\n")).await;
                }
                assert_eq!(*talk.asked.lock().unwrap(), ["/a", "/b", "/c", "/d"]);
                drop(talk.peer);
                assert_eq!(
                    talk.served.await.unwrap(),
                    Closed::Done,
                    "in pieces of {piece}"
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_a_body_that_nobody_read_is_no_request() {
        for (others, path) in [0, MANY]
            .into_iter()
            .flat_map(|n| [(n, "/dropped"), (n, "/kept")])
        {
            let mut talk = Talk::among(others).await;
            let head = format!("POST {path} HTTP/1.1\r\ncontent-length: 1000\r\n\r\nbegin");
            talk.send(head.as_bytes(), 1_000).await;
            let answer = talk.read_to(&format!("{path} is answered\n")).await;
            assert!(answer.contains("connection: close\r\n"), "{answer}");
            // The connection may be closed by then.
            let _ = talk.peer.write_all(b"GET /smuggled HTTP/1.1\r\n\r\n").await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(*talk.asked.lock().unwrap(), [path]);
        }
    }

    /// kube-apiserver does not repeat what it has begun to write.
    #[tokio::test(start_paused = true)]
    async fn a_request_that_crosses_its_eviction_is_answered() {
        for others in [0, MANY] {
            let mut talk = Talk::among(others).await;
            talk.send(b"GET /a HTTP/1.1\r\n\r\n", 1_000).await;
            talk.read_to("/a is answered\n").await;
            talk.activity.enter(State::Idle);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let request = b"GET /slow HTTP/1.1\r\n\r\n";
            talk.peer.write_all(request).await.unwrap();
            while !talk.activity.is_evicted() {
                talk.connections.evict_one();
            }
            let answer = talk.read_to("/slow is answered\n").await;
            assert!(answer.contains("connection: close\r\n"), "{answer}");
            assert_eq!(talk.served.await.unwrap(), Closed::Done);
        }
    }

    /// It may be asking again just then. Of so many at once the others are closed without a word.
    #[tokio::test(start_paused = true)]
    async fn who_was_served_hears_that_its_place_is_another_s() {
        for (others, is_crowded, path) in [
            (0, false, "/a"),
            (MANY, false, "/a"),
            (0, true, "/a"),
            // Nothing of what it wanted.
            (0, false, "/unknown"),
        ] {
            let mut talk = Talk::among(others).await;
            talk.send(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes(), 1_000)
                .await;
            talk.read_to(&format!("{path} is answered\n")).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(talk.activity.state(), State::Idle);
            let connections = talk.connections.clone();
            let _taken: Vec<_> = std::iter::from_fn(|| connections.farewell())
                .take(if is_crowded { 1_000 } else { 0 })
                .collect();
            let started = Instant::now();
            talk.activity.evict();
            tokio::time::sleep(Duration::from_millis(1)).await;
            let _ = talk.peer.write_all(b"GET /b HTTP/1.1\r\n\r\n").await;
            let mut heard = Vec::new();
            talk.peer.read_to_end(&mut heard).await.unwrap();
            let expected = match is_crowded || path == "/unknown" {
                true => (&b""[..], Duration::ZERO),
                false => (FAREWELL, BRIEF_LINGER),
            };
            assert_eq!(heard, expected.0, "{path}, {is_crowded}");
            let lasted = started.elapsed();
            assert!(lasted >= expected.1 && lasted < expected.1 + Duration::from_millis(10));
            assert_eq!(talk.served.await.unwrap(), Closed::Evicted);
            assert_eq!(*talk.asked.lock().unwrap(), [path]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_a_close_gets_one() {
        for others in [0, MANY] {
            let mut talk = Talk::among(others).await;
            for line in ["", "connection: close\r\n"] {
                let request = format!("GET /a HTTP/1.1\r\n{line}\r\n");
                talk.send(request.as_bytes(), 1_000).await;
                talk.read_to("/a is answered\n").await;
            }
            assert_eq!(talk.peer.read(&mut [0]).await.unwrap(), 0);
            assert_eq!(talk.served.await.unwrap(), Closed::Done);
        }
    }

    /// As `nc` and `openssl s_client` do at the end of their input.
    #[tokio::test(start_paused = true)]
    async fn who_has_said_all_is_answered() {
        for others in [0, MANY] {
            for (path, body) in [("/slow", ""), ("/long", ""), ("/a", "abc")] {
                let mut talk = Talk::among(others).await;
                let length = body.len();
                let head = format!("POST {path} HTTP/1.1\r\ncontent-length: {length}\r\n\r\n");
                let request = head + body;
                talk.peer.write_all(request.as_bytes()).await.unwrap();
                talk.peer.shutdown().await.unwrap();
                talk.read_to(&format!("{path} is answered\n")).await;
                assert_eq!(talk.peer.read(&mut [0]).await.unwrap(), 0);
                assert_eq!(talk.served.await.unwrap(), Closed::Done);
            }
        }
    }

    /// Whether somebody hears it is known when the answer goes out, and no later.
    #[tokio::test(start_paused = true)]
    async fn who_is_gone_before_the_answer_takes_no_place_after_it() {
        for others in [0, MANY] {
            for path in ["/slow", "/long"] {
                let mut talk = Talk::among(others).await;
                let request = format!("GET {path} HTTP/1.1\r\n\r\n");
                talk.peer.write_all(request.as_bytes()).await.unwrap();
                drop(talk.peer);
                let started = Instant::now();
                assert_eq!(talk.served.await.unwrap(), Closed::Broken, "{path}");
                assert!(started.elapsed() < Duration::from_millis(20), "{path}");
                assert_eq!(*talk.asked.lock().unwrap(), [path]);
            }
        }
    }

    /// In pieces, between which all of what has come so far goes out.
    #[tokio::test(start_paused = true)]
    async fn a_connection_goes_on_after_a_long_answer_and_rests_no_sooner() {
        for others in [0, MANY] {
            let mut talk = Talk::through(40_000, others, |stream| stream).await;
            for _ in 0..2 {
                talk.send(b"GET /long HTTP/1.1\r\n\r\n", 1_000).await;
                assert_eq!(talk.activity.state(), State::Writing);
                let head = talk.read_to("\r\n\r\n").await;
                assert!(head.contains("content-length: 50018\r\n"), "{head}");
                talk.read_to("/long is answered\n").await;
                tokio::time::sleep(Duration::from_millis(1)).await;
                assert_eq!(talk.activity.state(), State::Idle);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_answered_after_a_close_that_takes_long() {
        for others in [0, MANY] {
            let mut talk = Talk::on(others, stuck).await;
            talk.send(b"GET /a HTTP/1.1\r\nconnection: close\r\n\r\n", 1_000)
                .await;
            talk.read_to("/a is answered\n").await;
            talk.send(b"GET /b HTTP/1.1\r\n\r\n", 1_000).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(*talk.asked.lock().unwrap(), ["/a"]);
        }
    }
    /// It would begin with hyper again and again, since the end is there to read each time.
    #[tokio::test(start_paused = true)]
    async fn a_peer_that_went_without_taking_what_was_to_go_out_is_waited_for_in_peace() {
        for others in [0, MANY] {
            let mut talk = Talk::on(others, stuck).await;
            talk.send(b"GET /a HTTP/1.1\r\n\r\n", 1_000).await;
            talk.read_to("/a is answered\n").await;
            talk.peer.shutdown().await.unwrap();
            // This task would not come on again.
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert!(!talk.served.is_finished());
        }
    }
}
