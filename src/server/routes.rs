//! The routes: reviews and 1.5.3's own pages on the webhook's port, probes and metrics on the
//! admin port, which speaks plain HTTP and is never shed.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::future::Either;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, StatusCode};
use serde_json::json;
use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tower::ServiceExt;

use super::body::discard;
use super::lifecycle::{Lifecycle, Phase};
use super::overload::{self, Bounded, Read, Stack};
use super::{Answers, Arrival, Limits};
use crate::admission::about::about;
use crate::admission::{self, Outcome, Reply};
use crate::maps::{Effort, Rules};
use crate::telemetry::logs::Sparingly;
use crate::telemetry::metrics::Metrics;

/// Reviews up to this many bytes are decided where they are read, in microseconds, if that takes no more than this
/// effort. All others are decided aside, so that they hold up nothing else.
const QUICK: usize = 64 << 10;
const QUICK_EFFORT: u64 = 100_000;

/// What any may take aside for each of its bytes, and for as many bytes at least as a quick one may have, before it is
/// one of those that are hard to decide: several times what many images take by many patterns.
const EFFORT_A_BYTE: u64 = 8;

/// Of the places that all reviews share, those that are hard to decide may have one in so many. Each keeps its own until
/// its deadline if need be: were there no bound, they would soon have them all.
const HARD_ONES: usize = 4;

/// For so long one may wait for its turn that has a share of the memory of bodies meanwhile: other large ones want it.
const HARD_AND_LARGE: Duration = Duration::from_millis(250);

/// For so long somebody may still hear an answer that is late: by then it has been told, and counted.
const LATE: Duration = Duration::from_millis(100);

/// What is wrong with a stranger's requests is logged this often at most; metrics count all of it.
static SPARINGLY: Sparingly = Sparingly::new(Duration::from_millis(100));

/// What answering takes: all of it is published by others, and none of it is waited for.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// The rules in use.
    pub rules: Arc<ArcSwap<Rules>>,
    /// The label that disables ImageSwap for an object.
    pub disable_label: Arc<str>,
    /// This Pod's name, if it is one.
    pub pod_name: Option<Arc<str>>,
    /// Where to count.
    pub metrics: Metrics,
}

/// The webhook's port.
pub fn webhook(webhook: Webhook, limits: &Limits) -> impl Answers + use<> {
    let metrics = webhook.metrics.clone();
    let pages = pages(webhook.clone());
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let decider = Arc::new(Decider {
        webhook,
        large: Arc::new(Semaphore::new(cores.min(8))),
        hard: Hard::new(
            cores.div_ceil(2).min(4),
            (limits.max_in_flight / HARD_ONES).max(1),
        ),
    });
    let reviews = overload::stack(limits, &metrics, move |read| answer(decider.clone(), read));
    Port(Arc::new(Parts {
        metrics,
        reviews,
        pages,
    }))
}

/// Reviews do not go through the router, which boxes each layer's service and future anew for each,
/// and notes where the path matched.
struct Port<S>(Arc<Parts<S>>);

/// What all connections share of it.
struct Parts<S> {
    metrics: Metrics,
    reviews: Stack<S>,
    pages: Router,
}

impl<S> Clone for Port<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Bounded> Answers for Port<S> {
    fn answer(&self, arrival: Arrival) -> impl Future<Output = Response> + Send {
        if is_review(&arrival.request) {
            Either::Left(self.0.account(arrival))
        } else {
            Either::Right(route(self.0.pages.clone(), arrival.request))
        }
    }
}

impl<S: Bounded> Parts<S> {
    fn account(&self, arrival: Arrival) -> impl Future<Output = Response> + Send {
        let arrived = arrival.at;
        let answered = self.reviews.answer(arrival);
        async move {
            let response = answered.await;
            let took = arrived.elapsed().as_secs_f64();
            self.metrics.review_duration.observe(took);
            self.metrics.responses.add([response.status().as_str()], 1);
            response
        }
    }
}

fn is_review(request: &Request) -> bool {
    *request.method() == Method::POST && matches!(request.uri().path(), "/" | "/mutate")
}

async fn route(pages: Router, request: Request) -> Response {
    match pages.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// What else is asked for on the webhook's port. A review has a place here for the answer to another
/// method, which says which one it wants; it does not come here.
fn pages(webhook: Webhook) -> Router {
    Router::new()
        .route("/", post(not_found))
        .route("/mutate", post(not_found))
        .route("/healthz", get(health))
        .route(
            "/metrics",
            get(|State(w): State<Webhook>| render(w.metrics)),
        )
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .with_state(webhook)
}

/// The admin port.
pub fn admin(metrics: Metrics, lifecycle: Lifecycle) -> impl Answers + use<> {
    let pages = Router::new()
        .route("/metrics", get(|| render(metrics)))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(|| ready(lifecycle)))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method);
    move |arrival: Arrival| route(pages.clone(), arrival.request)
}

// === reviews ===

/// Decides, and bounds how much is decided aside.
struct Decider {
    webhook: Webhook,
    /// As many at once as there are cores, but fewer than there are threads for it: while it is decided, a review takes
    /// many times its size in memory.
    large: Arc<Semaphore>,
    hard: Hard,
}

/// Those whose images many patterns are tried on have turns of their own, which may last until their deadlines: no
/// other waits for them.
#[derive(Clone)]
struct Hard {
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

impl Hard {
    fn new(turns: usize, places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            turns: Arc::new(Semaphore::new(turns)),
        }
    }

    /// Waits for a turn, if there is a place to wait at.
    async fn turn(&self, has_share: bool) -> Option<[OwnedSemaphorePermit; 2]> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let turn = self.turns.clone().acquire_owned();
        let turn = if has_share {
            timeout(HARD_AND_LARGE, turn).await.ok()?
        } else {
            turn.await
        };
        let turn = turn.ok()?;
        Some([place, turn])
    }
}

/// What a review, or what is none, is answered. The layers hand it on, each to the next: that is why it is small.
enum Decided {
    /// An AdmissionReview.
    Review(Vec<u8>),
    /// What is wrong with the body.
    Bad(String),
    /// Too many are under way that are as hard to decide.
    Shed,
    /// It is past its deadline, so hardly anybody hears it; or the process ends, and another replica will know.
    Late,
}

impl IntoResponse for Decided {
    fn into_response(self) -> Response {
        match self {
            Self::Review(review) => json(review),
            Self::Bad(text) => (StatusCode::BAD_REQUEST, text).into_response(),
            Self::Shed => {
                let text = "too many reviews are under way that are hard to decide";
                (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "1")], text).into_response()
            }
            Self::Late => {
                let again = [(RETRY_AFTER, "0"), (CONNECTION, "close")];
                (StatusCode::SERVICE_UNAVAILABLE, again).into_response()
            }
        }
    }
}

async fn answer(decider: Arc<Decider>, read: Read) -> Decided {
    if read.body.len() <= QUICK {
        let rules = decider.webhook.rules.load();
        let effort = Effort::of(QUICK_EFFORT);
        if let Some(decided) = decide(&decider.webhook, &rules, &read.body, &effort) {
            return decided;
        }
    }
    // In a box: this future is moved through each layer, for every review.
    Box::pin(decide_aside(decider, read)).await
}

async fn decide_aside(decider: Arc<Decider>, read: Read) -> Decided {
    // It is never closed.
    let turn = decider.large.clone().acquire_owned().await;
    let effort = EFFORT_A_BYTE * read.body.len().max(QUICK) as u64;
    let hard = match on_a_thread(decider.clone(), turn, read, Some(effort)).await {
        Ok(decided) => return decided,
        Err(hard) => hard,
    };
    let Some(turn) = decider.hard.turn(hard.body.share().is_some()).await else {
        decider.webhook.metrics.shed.inc();
        return Decided::Shed;
    };
    let decided = on_a_thread(decider, turn, hard, None).await;
    decided.unwrap_or(Decided::Late)
}

/// Gives the review back if that takes more than the effort, or than it has time.
async fn on_a_thread(
    decider: Arc<Decider>,
    turn: impl Send + 'static,
    read: Read,
    effort: Option<u64>,
) -> Result<Decided, Read> {
    let decided = tokio::task::spawn_blocking(move || {
        // Also when nobody awaits it any more.
        let _turn = turn;
        let rules = decider.webhook.rules.load();
        let is_awaited = || Instant::now() < read.deadline + LATE;
        let effort = match effort {
            Some(steps) => Effort::of(steps),
            None => Effort::as_long_as(&is_awaited),
        };
        decide(&decider.webhook, &rules, &read.body, &effort).ok_or(read)
    });
    match decided.await {
        Ok(decided) => decided,
        // Whoever catches panics around this shall see it.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_) => Ok(Decided::Late),
        },
    }
}

/// `None` if it takes more than there is of the effort.
fn decide(webhook: &Webhook, rules: &Rules, body: &[u8], effort: &Effort<'_>) -> Option<Decided> {
    let decided = admission::review_within(body, rules, &webhook.disable_label, effort);
    Some(match decided {
        Ok(None) => return None,
        Ok(Some(reply)) => {
            note(&webhook.metrics, &reply, body);
            Decided::Review(reply.body)
        }
        Err(bad) => {
            let reason = bad.reason();
            webhook
                .metrics
                .bad_requests
                .with_label_values(&[reason])
                .inc();
            if SPARINGLY.may() {
                tracing::warn!(reason, "refused a request: {bad}");
            }
            Decided::Bad(format!("{bad}\n"))
        }
    })
}

fn note(metrics: &Metrics, reply: &Reply, body: &[u8]) {
    let (operation, outcome) = (reply.operation, reply.outcome.as_str());
    metrics.reviews.add([operation, outcome], 1);
    for (rule, count) in &reply.images {
        metrics.images.add([rule], *count);
    }
    for warning in reply.warnings.iter().take(4) {
        if tracing::enabled!(tracing::Level::WARN) && SPARINGLY.may() {
            let object = about(body);
            tracing::warn!(
                uid = object.uid,
                kind = object.kind,
                namespace = object.namespace,
                name = object.name,
                "{warning}"
            );
        }
    }
    if reply.outcome != Outcome::NoImages && tracing::enabled!(tracing::Level::DEBUG) {
        let object = about(body);
        tracing::debug!(
            operation,
            outcome,
            uid = object.uid,
            kind = object.kind,
            namespace = object.namespace,
            name = object.name,
            "answered a review"
        );
    }
}

/// Without `into_response`, which makes headers of its own first, for every review.
fn json(text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

// === pages ===

/// As 1.5.3 answers.
async fn health(State(webhook): State<Webhook>) -> Response {
    let now = OffsetDateTime::now_utc();
    let health = json!({
        "health": "ok",
        "pod_name": webhook.pod_name.as_deref(),
        "date_time": format!("{} {:02}:{:02}:{:02}.{:06}",
            now.date(), now.hour(), now.minute(), now.second(), now.microsecond()),
    });
    json(health.to_string())
}

async fn render(metrics: Metrics) -> Response {
    match metrics.render() {
        Ok(text) => {
            let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
            (kind, text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(lifecycle: Lifecycle) -> Response {
    match lifecycle.phase() {
        Phase::Ready => "ok\n".into_response(),
        phase => {
            let text = match phase {
                Phase::Starting => "starting\n",
                _ => "draining\n",
            };
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

/// A body that is not read would break the connection before the answer is.
async fn not_found(request: Request) -> Response {
    discard(request.into_body()).await;
    (StatusCode::NOT_FOUND, "there is nothing here\n").into_response()
}

async fn wrong_method(request: Request) -> Response {
    discard(request.into_body()).await;
    let text = "this path takes another method; the Allow header names it\n";
    (StatusCode::METHOD_NOT_ALLOWED, text).into_response()
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};

    use crate::maps::Maps;

    use super::super::activity::HERE;
    use super::super::body::{BodyReader, Coming};
    use super::*;

    /// To nothing that is a review.
    fn answer_to(size: usize, aside: &Arc<Semaphore>) -> impl Future<Output = Response> + use<> {
        let time = Duration::from_secs(60);
        answer_by(
            Maps::default(),
            vec![b'x'; size],
            aside,
            &Hard::new(0, 0),
            time,
        )
    }

    /// By these rules, to a review that is given up after this time.
    fn answer_by(
        rules: Maps,
        body: Vec<u8>,
        large: &Arc<Semaphore>,
        hard: &Hard,
        time: Duration,
    ) -> impl Future<Output = Response> + use<> {
        let decider = Arc::new(Decider {
            webhook: Webhook {
                rules: Arc::new(ArcSwap::from_pointee(Rules::Maps(Box::new(rules)))),
                disable_label: Arc::from("label"),
                pod_name: None,
                metrics: Metrics::new().unwrap(),
            },
            large: large.clone(),
            hard: hard.clone(),
        });
        let answered = async move {
            let at = Instant::now();
            let deadline = at + time;
            let coming = Coming::of(Arrival {
                request: Request::new(Body::from(body)),
                peer: HERE,
                at,
            });
            let reader = BodyReader::new(1 << 20, 8 << 20);
            let body = reader.read(coming, deadline, deadline).await.unwrap();
            answer(decider, Read { body, deadline })
                .await
                .into_response()
        };
        // Nobody here ends it at its deadline.
        async move {
            let answered = tokio::time::timeout(Duration::from_secs(60), answered);
            answered.await.unwrap()
        }
    }

    #[tokio::test]
    async fn large_reviews_wait_for_their_turn_and_others_do_not() {
        let aside = Arc::new(Semaphore::new(1));
        let turn = aside.clone().acquire_owned().await.unwrap();
        let mut large = pin!(answer_to(QUICK + 1, &aside));
        let soon = Duration::from_millis(100);
        assert!(tokio::time::timeout(soon, large.as_mut()).await.is_err());
        let small = answer_to(QUICK, &aside).await;
        assert_eq!(small.status(), StatusCode::BAD_REQUEST);
        drop(turn);
        assert_eq!(large.await.status(), StatusCode::BAD_REQUEST);
        // The turn is given back.
        let _turn = aside.acquire().await.unwrap();
    }

    /// However small it is.
    #[tokio::test]
    async fn a_review_that_takes_long_to_decide_waits_for_its_turn_and_has_it_until_its_deadline() {
        let (patterns, image) = hard_to_decide();
        let maps = || Maps::parse(patterns.as_bytes()).unwrap().0;
        let long = [image.as_str(); 3];
        assert!(pod(&long).len() < 16 << 10);
        let (large, hard) = (Arc::new(Semaphore::new(1)), Hard::new(1, 2));
        let others = hard.turns.clone().acquire_owned().await.unwrap();
        let time = Duration::from_secs(60);
        let usual = || answer_by(maps(), pod(&["a.io/a7b/cd"]), &large, &hard, time);
        assert_eq!(usual().await.status(), StatusCode::OK);
        let waiting = async |review: &mut Pin<Box<dyn Future<Output = Response>>>| {
            let soon = Duration::from_millis(300);
            assert!(tokio::time::timeout(soon, review.as_mut()).await.is_err());
        };
        let mut hostile = Vec::new();
        for _ in 0..2 {
            let review = answer_by(maps(), pod(&long), &large, &hard, Duration::ZERO);
            let mut review: Pin<Box<dyn Future<Output = Response>>> = Box::pin(review);
            waiting(&mut review).await;
            hostile.push(review);
        }
        // There is no place for another one, nor does that keep anybody else waiting.
        let shed = answer_by(maps(), pod(&long), &large, &hard, time).await;
        assert_eq!(shed.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(shed.headers()[RETRY_AFTER], "1");
        assert_eq!(usual().await.status(), StatusCode::OK);
        let _turn = large.try_acquire().unwrap();
        drop(others);
        for review in hostile {
            assert_eq!(review.await.status(), StatusCode::SERVICE_UNAVAILABLE);
        }
        // What all this takes is given back.
        let _turn = hard.turns.acquire().await.unwrap();
        assert_eq!(hard.places.available_permits(), 2);
    }

    /// Others wait for the memory that it has.
    #[tokio::test]
    async fn a_large_review_that_takes_long_to_decide_waits_for_its_turn_for_a_moment() {
        let (patterns, image) = hard_to_decide();
        let maps = Maps::parse(patterns.as_bytes()).unwrap().0;
        let body = pod(&[image.as_str(); 10]);
        assert!(body.len() > 16 << 10);
        let (large, hard) = (Arc::new(Semaphore::new(1)), Hard::new(1, 2));
        let _others = hard.turns.clone().acquire_owned().await.unwrap();
        let shed = answer_by(maps, body, &large, &hard, Duration::from_secs(60)).await;
        assert_eq!(shed.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(hard.places.available_permits(), 2);
    }

    /// Rules, and an image that is held against each of them for long.
    fn hard_to_decide() -> (String, String) {
        let patterns = (0..2_000)
            .map(|n| format!("[REPLACE]*a{n}b*c*d::m.io\n"))
            .collect();
        let names: String = (0..600).map(|n| format!("a{n}b")).collect();
        (patterns, format!("{names}{}", "c".repeat(500)))
    }

    /// A review of a Pod with these images.
    fn pod(images: &[&str]) -> Vec<u8> {
        let containers: Vec<_> = images.iter().map(|image| json!({"image": image})).collect();
        let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
        let object = json!({"spec": {"containers": containers}});
        let request = json!({"uid": "u", "kind": kind, "operation": "CREATE", "object": object});
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        review.to_string().into_bytes()
    }
}
