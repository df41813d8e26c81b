//! Requests, good and bad, one at a time.

use std::time::{Duration, Instant};

use http::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Client, connect_tls, metric, review, review_of};
use crate::process::Serve;

#[tokio::test]
async fn both_paths_answer_reviews_on_one_connection() {
    let serve = Serve::start(&[]);
    let mut client = Client::connect(&serve).await;
    for path in ["/", "/mutate", "/?timeout=10s", "/mutate?timeout=1s"] {
        let answer = client.send(Method::POST, path, &review("nginx")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["content-type"], "application/json");
        assert!(
            answer.text().contains("my-registry.example.com/nginx"),
            "{answer:?}"
        );
        assert!(!answer.closes());
    }
    assert_eq!(client.post(b"no review").await.status, 400);
    let answers = |code| format!("imageswap_responses_total{{code=\"{code}\"}}");
    assert_eq!(metric(&serve, &answers(200)).await, 4.0);
    assert_eq!(metric(&serve, &answers(400)).await, 1.0);
    assert_eq!(
        metric(&serve, "imageswap_connections_accepted_total").await,
        1.0
    );
    let reviews = "imageswap_reviews_total{operation=\"CREATE\",outcome=\"swapped\"}";
    assert_eq!(metric(&serve, reviews).await, 4.0);
    assert_eq!(
        metric(&serve, "imageswap_images_total{rule=\"registry\"}").await,
        4.0
    );
}

#[tokio::test]
async fn pages() {
    let serve = Serve::start_with(&[], &[("IMAGESWAP_POD_NAME", "p")]);
    let mut client = Client::connect(&serve).await;
    let health: Value = serde_json::from_slice(&client.get("/healthz").await.body).unwrap();
    assert_eq!(
        (&health["health"], &health["pod_name"]),
        (&json!("ok"), &json!("p"))
    );
    let time = health["date_time"].as_str().unwrap();
    let like = regex::Regex::new(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}$").unwrap();
    assert!(like.is_match(time), "{time}");
    assert!(
        client
            .get("/metrics")
            .await
            .text()
            .contains("imageswap_build_info")
    );

    let mut admin = Client::plain(serve.admin).await;
    for path in ["/healthz", "/livez", "/readyz"] {
        let answer = admin.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text()),
            (200, "ok\n"),
            "{path}"
        );
    }
    assert_eq!(admin.get("/nothing").await.status, 404);
    assert_eq!(admin.post(b"").await.status, 404);
    let metrics = admin.get("/metrics").await;
    assert_eq!(
        metrics.headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
}

#[tokio::test]
async fn bad_requests_are_answered_with_a_sentence_and_the_connection_goes_on() {
    let serve = Serve::start(&[]);
    let mut client = Client::connect(&serve).await;
    let rows: &[(Method, &str, &[u8], u16, &str)] = &[
        (Method::POST, "/", b"", 400, "the body is not JSON"),
        (Method::POST, "/", b"\xff\xfe", 400, "not UTF-8"),
        (
            Method::POST,
            "/mutate",
            b"{}",
            400,
            "not an AdmissionReview",
        ),
        (
            Method::POST,
            "/",
            br#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v9"}"#,
            400,
            "admission.k8s.io/v9",
        ),
        (
            Method::POST,
            "/",
            br#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{}}"#,
            400,
            "no request.uid",
        ),
        (Method::GET, "/", b"", 405, "another method"),
        (Method::PUT, "/mutate", b"x", 405, "another method"),
        (Method::POST, "/healthz", b"x", 405, "another method"),
        (Method::POST, "/other", b"x", 404, "nothing here"),
        (Method::GET, "/%2e%2e/etc", b"", 404, "nothing here"),
    ];
    for (method, path, body, status, sentence) in rows {
        let answer = client.send(method.clone(), path, body).await;
        assert_eq!(answer.status, *status, "{method} {path}");
        assert!(
            answer.text().contains(sentence),
            "{method} {path}: {answer:?}"
        );
        assert_eq!(answer.text().lines().count(), 1, "{answer:?}");
        if *status == 405 {
            assert!(answer.headers.contains_key("allow"), "{method} {path}");
        }
    }
    assert_eq!(client.swap("nginx").await, "my-registry.example.com/nginx");
    for (reason, count) in [
        ("not_json", 2.0),
        ("not_a_review", 1.0),
        ("version", 1.0),
        ("no_uid", 1.0),
    ] {
        let name = format!("imageswap_bad_requests_total{{reason=\"{reason}\"}}");
        assert_eq!(metric(&serve, &name).await, count, "{reason}");
    }
    assert_eq!(metric(&serve, "imageswap_panics_total").await, 0.0);
}

#[tokio::test]
async fn the_content_type_does_not_matter() {
    let serve = Serve::start(&[]);
    for kind in [
        "application/json",
        "text/plain",
        "application/x-www-form-urlencoded",
        "",
    ] {
        let mut stream = connect_tls(&serve).await;
        let body = review("nginx");
        let head = format!(
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{kind}: {answer}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_answered_413_and_leaves_the_connection_usable() {
    let serve = Serve::start(&["--max-body-mib", "1"]);
    let mut client = Client::connect(&serve).await;
    for size in [(1 << 20) + 1, 5 << 20, 20 << 20] {
        let answer = client.post(&vec![b' '; size]).await;
        assert_eq!(answer.status, 413, "{answer:?}");
        assert!(
            answer.text().contains("larger than 1048576 bytes"),
            "{answer:?}"
        );
    }
    assert_eq!(client.post(&vec![b' '; 1 << 20]).await.status, 400);
    assert_eq!(client.swap("nginx").await, "my-registry.example.com/nginx");
}

/// curl asks before it sends a large body, and needs not send it.
#[tokio::test]
async fn who_asks_first_is_told_at_once_that_the_body_is_too_large() {
    let serve = Serve::start(&["--max-body-mib", "1"]);
    let mut stream = connect_tls(&serve).await;
    let head =
        "POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn three_mib_with_two_thousand_containers_are_answered_in_time() {
    let serve = Serve::start(&[]);
    let mut client = Client::connect(&serve).await;
    let containers: Vec<_> = (0..2000)
        .map(|i| json!({"name": format!("c{i}"), "image": format!("a/b:{i}"), "args": ["x".repeat(1600)]}))
        .collect();
    let body = review_of(json!(containers));
    assert!(body.len() > 3 << 20);
    let started = Instant::now();
    let answer = client.send(Method::POST, "/?timeout=5s", &body).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.len() > 2000 * 50);
    // The deadline, not a measure of speed.
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(
        metric(&serve, "imageswap_images_total{rule=\"registry\"}").await,
        2000.0
    );
}

#[tokio::test]
async fn a_connection_that_has_had_its_time_is_closed_with_an_answer() {
    let serve = Serve::start(&["--max-connection-age", "1s"]);
    let mut client = Client::connect(&serve).await;
    assert!(!client.post(&review("a")).await.closes());
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(client.post(&review("a")).await.closes());
    assert!(
        client
            .try_send(Method::POST, "/", &review("a"))
            .await
            .is_err()
    );
    assert_eq!(
        Client::connect(&serve).await.swap("a").await,
        "my-registry.example.com/a"
    );
}

/// kube-apiserver gives calls up, which is no fault of theirs.
#[tokio::test]
async fn who_goes_away_in_the_middle_of_a_body_is_not_counted_as_answered() {
    let serve = Serve::start(&[]);
    let mut stream = connect_tls(&serve).await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[b' '; 500]).await.unwrap();
    drop(stream);
    let end = Instant::now() + Duration::from_secs(5);
    let code = |code| format!("imageswap_responses_total{{code=\"{code}\"}}");
    while metric(&serve, &code(499)).await < 1.0 {
        assert!(Instant::now() < end, "{}", serve.log());
    }
    assert_eq!(metric(&serve, &code(400)).await, 0.0);
    // One who has only said that no more comes is told.
    let mut stream = connect_tls(&serve).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 499"), "{answer}");
    // One who is there still is told.
    let mut stream = connect_tls(&serve).await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(metric(&serve, &code(499)).await, 2.0);
}

/// A large review, which is decided elsewhere while its connection waits; and a small one.
fn requests() -> [Vec<u8>; 2] {
    let containers: Vec<_> = (0..2000)
        .map(|i| json!({"name": format!("c{i}"), "image": format!("a/b:{i}"), "args": ["x".repeat(1600)]}))
        .collect();
    [review_of(json!(containers)), review("nginx")].map(|body| {
        let length = body.len();
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
        [head.into_bytes(), body].concat()
    })
}

/// As `nc` and `openssl s_client` do at the end of their input.
#[tokio::test]
async fn who_says_no_more_after_a_request_is_answered() {
    let serve = Serve::start(&[]);
    for request in requests().iter().cycle().take(6) {
        let mut stream = connect_tls(&serve).await;
        stream.write_all(request).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:.200}");
    }
    for _ in 0..20 {
        let mut stream = TcpStream::connect(serve.admin).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n";
        stream.write_all(request).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:.200}");
    }
    // Who says nothing at all is closed.
    let mut stream = connect_tls(&serve).await;
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn who_is_gone_during_a_review_holds_up_neither_others_nor_the_end() {
    let mut serve = Serve::start(&["--drain-delay", "0s"]);
    let [large, _] = requests();
    for is_reset in [false, true].into_iter().cycle().take(6) {
        let mut stream = connect_tls(&serve).await;
        stream.write_all(&large).await.unwrap();
        if is_reset {
            stream.get_ref().0.set_zero_linger().unwrap();
        }
    }
    let mut client = Client::connect(&serve).await;
    assert_eq!(client.swap("nginx").await, "my-registry.example.com/nginx");
    let end = Instant::now() + Duration::from_secs(10);
    while metric(&serve, "imageswap_connections").await > 1.0 {
        assert!(Instant::now() < end, "{}", serve.log());
    }
    let mut stream = connect_tls(&serve).await;
    stream.write_all(&large).await.unwrap();
    drop((stream, client));
    serve.signal(Signal::TERM);
    assert_eq!(serve.wait(Duration::from_secs(10)).code(), Some(0));
}

#[tokio::test]
async fn a_warning_in_the_log_says_which_object_it_is_about() {
    let serve = Serve::start(&[]);
    let mut review: Value = serde_json::from_slice(&review("a b")).unwrap();
    review["request"]["namespace"] = json!("shop");
    review["request"]["object"]["metadata"]["generateName"] = json!("cart-\n");
    let answer = Client::connect(&serve)
        .await
        .post(review.to_string().as_bytes())
        .await;
    assert_eq!(answer.status, 200);
    serve.until_log("stays as it is");
    let log = serve.log();
    let line = log.lines().find(|line| line.contains("stays as it is"));
    let line: Value = serde_json::from_str(line.unwrap()).unwrap();
    let said = ["uid", "kind", "namespace", "name"].map(|key| line[key].clone());
    assert_eq!(said, ["u", "Pod", "shop", "cart-\n"]);
}
