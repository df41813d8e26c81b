//! What stands between a review and its answer, outermost first: panics, errors to statuses, the body,
//! load shed, concurrency limit, deadline, handler.
//!
//! kube-apiserver repeats a call that is answered 429, or 5xx with `Retry-After`, inside the same
//! admission, up to ten times. So too much at once is delay, not denial.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::Map;
use http::StatusCode;
use http::header::{CONNECTION, HeaderName, RETRY_AFTER};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, Timeout, timeout_at};
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::load_shed::error::Overloaded;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use super::body::{BodyReader, Coming, WholeBody};
use super::long_answer;
use super::refusal::Refusal;
use super::{Arrival, Limits};
use crate::telemetry::metrics::Metrics;

/// Counted where a peer has gone in the middle of its body, as nginx has it: kube-apiserver gives calls up.
const GONE: u16 = 499;

/// Taken off the time a caller gives, so that the answer arrives within it.
const MARGIN: Duration = Duration::from_millis(500);

/// A review whose body has been read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) body: WholeBody,
    pub(super) deadline: Instant,
}

/// The stack around a handler. Panics, errors and the body are seen to in one future and not in layers,
/// each of which would box the next one's for every review.
pub(super) fn stack<H, F, R>(
    limits: &Limits,
    metrics: &Metrics,
    handler: H,
) -> Stack<impl Bounded + use<H, F, R>>
where
    H: Fn(Read) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = R> + Send + 'static,
    R: IntoResponse + Send + 'static,
{
    let bounded = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(limits.max_in_flight))
        .layer(DeadlineLayer)
        .service(service_fn(move |read: Read| {
            let answer = handler(read);
            async move { Ok::<_, BoxError>(answer.await) }
        }));
    Stack {
        metrics: metrics.clone(),
        reader: BodyReader::new(limits.max_body, limits.body_memory),
        request_timeout: limits.request_timeout,
        bounded,
    }
}

/// What stands behind the body.
pub(super) trait Bounded:
    Service<Read, Response: IntoResponse + Send, Error = BoxError, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Bounded for S
where
    S: Service<Read, Error = BoxError, Future: Send> + Clone + Send + Sync + 'static,
    S::Response: IntoResponse + Send,
{
}

/// See [`stack`].
pub(super) struct Stack<S> {
    metrics: Metrics,
    reader: BodyReader,
    request_timeout: Duration,
    bounded: S,
}

impl<S: Bounded> Stack<S> {
    /// Answers a review. Whatever goes wrong has an answer, too.
    pub(super) fn answer(&self, arrival: Arrival) -> impl Future<Output = Response> + Send {
        let query = arrival.request.uri().query();
        let deadline = deadline(query, self.request_timeout, arrival.at);
        let coming = Coming::of(arrival);
        async move {
            let answered = AssertUnwindSafe(self.read_and_decide(coming, deadline)).catch_unwind();
            match answered.await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => rescue(&self.metrics, &error),
                Err(panic) => on_panic(&self.metrics, &*panic),
            }
        }
    }

    /// Reads the body before it asks whether there is room for the review.
    async fn read_and_decide(
        &self,
        coming: Coming,
        deadline: Instant,
    ) -> Result<Response, BoxError> {
        let (peer, since) = (coming.peer, coming.since);
        // So early that kube-apiserver, which pauses for a second, has the time to ask again.
        let shed = |from: Instant| from + deadline.saturating_duration_since(from) / 3;
        let body = self.reader.read(coming, shed(since), deadline).await?;
        let share = body.share();
        let read = Read { body, deadline };
        let decided = self.bounded.clone().oneshot(read).await?;
        let mut answer = decided.into_response();
        if let Some(length) = long_answer::length(&answer) {
            let budget = self.reader.budget();
            let until = shed(Instant::now());
            let share = budget.share_of_answer(length, share, peer, until);
            long_answer::attach(&mut answer, share.await?);
        }
        Ok(answer)
    }
}

/// Every layer's error to its answer.
fn rescue(metrics: &Metrics, error: &BoxError) -> Response {
    let text = error.to_string();
    let retry = |seconds| (RETRY_AFTER, seconds);
    const CLOSE: (HeaderName, &str) = (CONNECTION, "close");
    if error.is::<Overloaded>() {
        metrics.shed.inc();
        let text = "too many reviews are under way";
        return (StatusCode::TOO_MANY_REQUESTS, [retry("1")], text).into_response();
    }
    match error.downcast_ref::<Refusal>() {
        Some(Refusal::TooLarge(_)) => (StatusCode::PAYLOAD_TOO_LARGE, text).into_response(),
        Some(Refusal::Broken(_)) => (StatusCode::BAD_REQUEST, [CLOSE], text).into_response(),
        // Mostly nobody reads it: it is there to be counted.
        Some(Refusal::Gone(_)) => {
            let status = StatusCode::from_u16(GONE).unwrap_or(StatusCode::BAD_REQUEST);
            (status, [CLOSE], text).into_response()
        }
        Some(Refusal::NoMemory) => {
            metrics.shed.inc();
            // On a new connection: another replica may have the memory.
            let headers = [retry("1"), CLOSE];
            (StatusCode::TOO_MANY_REQUESTS, headers, text).into_response()
        }
        // A slow one gets no 408, for kube-apiserver repeats none.
        Some(late @ (Refusal::Slow | Refusal::Deadline)) => {
            if matches!(late, Refusal::Deadline) {
                metrics.deadline_exceeded.inc();
            }
            // Repeated at once, and on a new connection: perhaps to another replica.
            let headers = [retry("0"), CLOSE];
            (StatusCode::SERVICE_UNAVAILABLE, headers, text).into_response()
        }
        None => (StatusCode::INTERNAL_SERVER_ERROR, text).into_response(),
    }
}

fn on_panic(metrics: &Metrics, panic: &(dyn Any + Send)) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    metrics.panics.inc();
    tracing::error!(panic = text.unwrap_or("?"), "a review made ImageSwap panic");
    let text = "ImageSwap failed on this review; its log says more";
    (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
}

/// When the answer must be there: by our own limit, or by the time that kube-apiserver names in
/// the query, less a margin.
fn deadline(query: Option<&str>, request_timeout: Duration, arrived: Instant) -> Instant {
    let named = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .find_map(|pair| {
            pair.strip_prefix("timeout=")?
                .strip_suffix('s')?
                .parse()
                .ok()
        })
        // kube-apiserver names 1 to 30 seconds.
        .filter(|seconds: &u64| (1..=300).contains(seconds))
        .map(Duration::from_secs);
    let named = named.map(|time| time - MARGIN.min(time / 4));
    arrived + named.map_or(request_timeout, |time| time.min(request_timeout))
}

// === the deadline ===

#[derive(Debug, Clone)]
struct DeadlineLayer;

/// Gives up at the review's own deadline.
#[derive(Debug, Clone)]
struct Deadline<S>(S);

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Deadline(inner)
    }
}

impl<S> Service<Read> for Deadline<S>
where
    S: Service<Read, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Map<Timeout<S::Future>, fn(InTime<S::Response>) -> Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, read: Read) -> Self::Future {
        let deadline = read.deadline;
        timeout_at(deadline, self.0.call(read))
            .map(|answered| answered.unwrap_or_else(|_| Err(Refusal::Deadline.into())))
    }
}

type InTime<R> = Result<Result<R, BoxError>, Elapsed>;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::ready;

    use super::super::activity::HERE;
    use super::*;
    use axum::body::Body;
    use bytes::Bytes;
    use http::Request;
    use http_body_util::BodyExt;
    use hyper::body::{Frame, SizeHint};
    use tokio::time::{Interval, interval_at};

    fn limits() -> Limits {
        Limits {
            max_in_flight: 2,
            max_body: 200 << 10,
            body_memory: 150 << 10,
            request_timeout: Duration::from_secs(10),
        }
    }

    fn post(uri: &str, body: impl Into<Body>) -> Arrival {
        Arrival {
            request: Request::post(uri).body(body.into()).unwrap(),
            peer: HERE,
            at: Instant::now(),
        }
    }

    /// As it is shared by many connections.
    fn stack<H, F, R>(limits: &Limits, metrics: &Metrics, handler: H) -> Arc<Stack<impl Bounded>>
    where
        H: Fn(Read) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = R> + Send + 'static,
        R: IntoResponse + Send + 'static,
    {
        Arc::new(super::stack(limits, metrics, handler))
    }

    async fn ask(stack: Arc<Stack<impl Bounded>>, arrival: Arrival) -> Response {
        stack.answer(arrival).await
    }

    async fn parts(response: Response) -> (u16, String, String, String) {
        let header = |name| {
            let value = response.headers().get(name);
            value.map_or(String::new(), |v| v.to_str().unwrap().to_owned())
        };
        let (status, retry, close) = (response.status(), header(RETRY_AFTER), header(CONNECTION));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        (status.as_u16(), retry, close, body)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_at_once_is_shed_and_what_takes_too_long_is_given_up() {
        let metrics = Metrics::new().unwrap();
        let stack = stack(&limits(), &metrics, async |_| {
            tokio::time::sleep(Duration::from_secs(100)).await;
            "late".into_response()
        });
        let calls = (0..3).map(|_| tokio::spawn(ask(stack.clone(), post("/", "x"))));
        let mut answers = Vec::new();
        for call in calls.collect::<Vec<_>>() {
            answers.push(parts(call.await.unwrap()).await);
        }
        answers.sort();
        let (shed, late) = (&answers[0], &answers[1]);
        assert_eq!((shed.0, shed.1.as_str(), shed.2.as_str()), (429, "1", ""));
        assert_eq!(
            (late.0, late.1.as_str(), late.2.as_str()),
            (503, "0", "close")
        );
        assert_eq!(answers[2].0, 503);
        assert_eq!(
            (metrics.shed.get(), metrics.deadline_exceeded.get()),
            (1, 2)
        );
        // The places are free again.
        let answer = stack.answer(post("/", "x")).await;
        assert_eq!(answer.status(), 503);
    }

    #[tokio::test]
    async fn a_panic_is_answered_and_counted() {
        let metrics = Metrics::new().unwrap();
        let stack = stack(&limits(), &metrics, async |_| -> Response {
            panic!("on purpose")
        });
        for _ in 0..3 {
            let answer = parts(stack.answer(post("/", "x")).await).await;
            assert_eq!(answer.0, 500);
        }
        assert_eq!(metrics.panics.get(), 3);
    }

    #[tokio::test]
    async fn a_body_is_taken_up_to_the_limit_and_not_beyond() {
        let stack = stack(&limits(), &Metrics::new().unwrap(), async |read: Read| {
            read.body.len().to_string().into_response()
        });
        for (size, status) in [
            (0, 200),
            (100, 200),
            (200 << 10, 200),
            ((200 << 10) + 1, 413),
        ] {
            let answer = stack.answer(post("/", vec![b'x'; size])).await;
            let (got, _, _, body) = parts(answer).await;
            assert_eq!(got, status, "{size}: {body}");
            if status == 200 {
                assert_eq!(body, size.to_string());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_share_a_budget_and_small_ones_need_none() {
        let metrics = Metrics::new().unwrap();
        let wide = Limits {
            max_in_flight: 100,
            ..limits()
        };
        let stack = stack(&wide, &metrics, async |_| {
            tokio::time::sleep(Duration::from_secs(9)).await;
            "done".into_response()
        });
        let call =
            |size: usize, uri: &str| tokio::spawn(ask(stack.clone(), post(uri, vec![b'x'; size])));
        let started = Instant::now();
        let (first, second) = (call(100 << 10, "/"), call(100 << 10, "/?timeout=5s"));
        let small: Vec<_> = (0..20).map(|_| call(10 << 10, "/")).collect();
        let (status, retry, close, _) = parts(second.await.unwrap()).await;
        assert_eq!((status, &*retry, &*close), (429, "1", "close"));
        // A third of four and a half: there is time for another try.
        assert_eq!(started.elapsed().as_millis(), 1500);
        assert_eq!(first.await.unwrap().status(), 200);
        for call in small {
            assert_eq!(call.await.unwrap().status(), 200);
        }
        assert_eq!(metrics.shed.get(), 1);
    }

    /// Bodies that wait for a share take each that comes free, and none is left to an answer that is longer than its
    /// body. Thrown away, it would be asked for again, with the same end.
    #[tokio::test(start_paused = true)]
    async fn long_answers_have_their_turn_among_bodies() {
        let metrics = Metrics::new().unwrap();
        let wide = Limits {
            max_in_flight: 100,
            body_memory: 2 << 20,
            ..limits()
        };
        let stack = stack(&wide, &metrics, async |_| {
            tokio::time::sleep(Duration::from_millis(10)).await;
            "x".repeat(60 << 10)
        });
        let calls: Vec<_> = (0..12)
            .map(|_| {
                let stack = stack.clone();
                tokio::spawn(async move {
                    let answer = stack.answer(post("/", vec![b'x'; 50 << 10])).await;
                    // It is written.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    answer.status()
                })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap(), 200);
        }
    }

    /// Whoever reads no answer keeps others from none: what may wait without a share is bounded for each address, and
    /// in all.
    #[tokio::test(start_paused = true)]
    async fn long_answers_that_nobody_reads_are_in_nobodys_way() {
        let wide = Limits {
            max_in_flight: 1_000,
            body_memory: 8 << 20,
            ..limits()
        };
        let stack = stack(&wide, &Metrics::new().unwrap(), async |_| {
            tokio::time::sleep(Duration::from_millis(10)).await;
            "x".repeat(200 << 10)
        });
        let call = |address: u8| {
            let stack = stack.clone();
            tokio::spawn(async move {
                let started = Instant::now();
                let arrival = Arrival {
                    peer: [10, 0, 0, address].into(),
                    ..post("/?timeout=4s", vec![b'x'; 100 << 10])
                };
                let answer = stack.answer(arrival).await;
                (answer, started.elapsed().as_millis())
            })
        };
        let strangers: Vec<_> = (0..30).map(|_| call(1)).collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        // Others of the stranger's are there and unread, or were refused.
        let waiting = strangers.iter().filter(|call| !call.is_finished()).count();
        assert_eq!(waiting, 5);
        for wanted in (0..4).map(|_| call(2)).collect::<Vec<_>>() {
            let (answer, took) = wanted.await.unwrap();
            assert_eq!((answer.status(), took), (StatusCode::OK, 10));
        }
        let (mut answers, mut last) = (Vec::new(), 0);
        for stranger in strangers {
            let (answer, took) = stranger.await.unwrap();
            last = last.max(took);
            answers.push(answer);
        }
        let read = answers.iter().filter(|a| a.status() == 200).count();
        let refused = answers.iter().filter(|a| a.status() == 429).count();
        assert!(read > 5 && read + refused == 30, "{read} {refused}");
        // There is time for another try.
        assert!((1_000..1_600).contains(&last), "{last}");
    }

    /// Peers that send little of much, again and again, keep others waiting for a moment at most.
    #[tokio::test(start_paused = true)]
    async fn large_bodies_that_stall_leave_room_for_others() {
        let limits = Limits {
            max_in_flight: 100,
            max_body: 16 << 20,
            body_memory: 24 << 20,
            request_timeout: Duration::from_secs(9),
        };
        // How many stall, how much they declare, from how many addresses; how large the review is, and how
        // long it may take in milliseconds.
        let cases = [
            (64, None, 1, 20_000, 0),
            (12, Some(1 << 20), 1, 100_000, 0),
            (120, Some(64 << 10), 1, 20_000, 0),
            (12, Some(1 << 20), 2, 100_000, 600),
            (120, Some(64 << 10), 2, 20_000, 600),
            (48, Some(1 << 20), 8, 100_000, 1_450),
        ];
        let drips = [
            None,
            Some(Duration::from_millis(50)),
            Some(Duration::from_millis(80)),
        ];
        let cases = drips
            .into_iter()
            .flat_map(|drip| cases.map(|case| (drip, case)));
        for (drip, (stalling, declared, addresses, size, most)) in cases {
            let case = format!("{stalling} of {declared:?} from {addresses}, {drip:?}");
            let stack = stack(&limits, &Metrics::new().unwrap(), async |_| {
                "done".into_response()
            });
            let stallers: Vec<_> = (0..stalling)
                .map(|n| {
                    let (stack, address) = (stack.clone(), n % addresses);
                    tokio::spawn(async move {
                        loop {
                            let arrival = Arrival {
                                peer: [10, 0, 0, address].into(),
                                ..post("/?timeout=300s", stall(declared, drip))
                            };
                            stack.answer(arrival).await;
                        }
                    })
                })
                .collect();
            tokio::time::sleep(Duration::from_secs(3)).await;
            for _ in 0..10 {
                let started = Instant::now();
                let review = post("/?timeout=5s", vec![b'x'; size]);
                let answer = stack.answer(review).await;
                let took = started.elapsed().as_millis();
                assert_eq!(answer.status(), 200, "{case}");
                assert!(took <= most, "{case}: {took} ms");
            }
            for staller in stallers {
                staller.abort();
            }
        }
    }

    /// A body that declares so much, or nothing, sends 17 KB, and then no more, or a byte now and then.
    fn stall(declared: Option<u64>, drip: Option<Duration>) -> Body {
        struct Stalling {
            sent: Option<Bytes>,
            declared: Option<u64>,
            drip: Option<Interval>,
        }
        impl hyper::body::Body for Stalling {
            type Data = Bytes;
            type Error = Infallible;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
                if let Some(sent) = self.sent.take() {
                    return Poll::Ready(Some(Ok(Frame::data(sent))));
                }
                let Some(drip) = &mut self.drip else {
                    return Poll::Pending;
                };
                ready!(drip.poll_tick(cx));
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
            }
            fn size_hint(&self) -> SizeHint {
                self.declared
                    .map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
        Body::new(Stalling {
            sent: Some(Bytes::from(vec![b'x'; 17_000])),
            declared,
            drip: drip.map(|drip| interval_at(Instant::now() + drip, drip)),
        })
    }

    /// Who is in the middle of writing it would see a broken connection, and not the answer.
    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_a_slow_body_is_read_before_it_is_refused() {
        let stack = stack(&limits(), &Metrics::new().unwrap(), async |_| {
            "no".into_response()
        });
        let was_read = Arc::new(AtomicBool::new(false));
        let end = was_read.clone();
        let halves = futures_util::stream::unfold(0, move |half| {
            let end = end.clone();
            async move {
                match half {
                    0 => {}
                    1 => tokio::time::sleep(Duration::from_millis(2_500)).await,
                    _ => {
                        end.store(true, Ordering::Relaxed);
                        return None;
                    }
                }
                let bytes = Bytes::from(vec![b'x'; 50_000]);
                Some((Ok::<_, Infallible>(bytes), half + 1))
            }
        });
        let slow = post("/", Body::from_stream(halves));
        let answer = parts(stack.answer(slow).await).await;
        assert_eq!((answer.0, answer.2.as_str()), (503, "close"));
        assert!(was_read.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let stack = stack(&limits(), &Metrics::new().unwrap(), async |_| {
            "no".into_response()
        });
        let never = Body::new(http_body_util::StreamBody::new(futures_never()));
        let started = Instant::now();
        let answer = parts(stack.answer(post("/", never)).await).await;
        assert_eq!((answer.0, answer.2.as_str()), (503, "close"));
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    /// A stream that never yields.
    fn futures_never()
    -> impl futures_core::Stream<Item = Result<hyper::body::Frame<Bytes>, BoxError>> {
        struct Never;
        impl futures_core::Stream for Never {
            type Item = Result<hyper::body::Frame<Bytes>, BoxError>;
            fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
                Poll::Pending
            }
        }
        Never
    }

    #[test]
    fn the_deadline_is_the_shorter_of_ours_and_the_callers_less_a_margin() {
        let arrived = Instant::now();
        let ours = Duration::from_secs(8);
        for (query, expected) in [
            (None, 8_000),
            (Some("timeout=5s"), 4_500),
            (Some("a=b&timeout=1s"), 750),
            (Some("timeout=30s"), 8_000),
            (Some("timeout=0s"), 8_000),
            (Some("timeout=-1s"), 8_000),
            (Some("timeout=99999999999999999999s"), 8_000),
            (Some("timeout="), 8_000),
            (Some("timeout=5"), 8_000),
        ] {
            let deadline = deadline(query, ours, arrived);
            assert_eq!((deadline - arrived).as_millis(), expected, "{query:?}");
        }
    }
}
