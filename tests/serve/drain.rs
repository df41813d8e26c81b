//! SIGTERM: not ready at once, no request lost, then gone.
//!
//! Where a test waits for the end with a client of ours still connected, it has a thread for that client
//! to close on: the server waits for its peers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Client, connect_tls, must_be_farewell, review};
use crate::process::Serve;

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_it_drains_under_load() {
    let mut serve = Serve::start(&["--drain-delay", "3s"]);
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let load: Vec<_> = (0..16)
        .map(|_| {
            let (address, ca) = (serve.address, serve.ca());
            let (stop, answered) = (stop.clone(), answered.clone());
            tokio::spawn(async move {
                let mut connections = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut client = Client::try_connect(address, &ca).await.unwrap();
                    connections += 1;
                    loop {
                        let answer = client.post(&review("nginx")).await;
                        assert_eq!(answer.status, 200);
                        answered.fetch_add(1, Ordering::Relaxed);
                        if answer.closes() || stop.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                }
                connections
            })
        })
        .collect();
    // So many more, however busy this machine is.
    let more_than = async |before: usize| {
        let until = Instant::now() + Duration::from_secs(30);
        while answered.load(Ordering::Relaxed) <= before + 100 {
            assert!(Instant::now() < until, "no answers");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    more_than(0).await;
    let before = answered.load(Ordering::Relaxed);
    let mut probe = Client::plain(serve.admin).await;
    assert_eq!(probe.get("/readyz").await.status, 200);

    serve.signal(Signal::TERM);
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        let mut probe = Client::plain(serve.admin).await;
        let answer = probe.get("/readyz").await;
        if answer.status == 503 {
            assert_eq!(answer.text(), "draining\n");
            let mut probe = Client::plain(serve.admin).await;
            assert_eq!(probe.get("/livez").await.status, 200);
            break;
        }
        assert!(Instant::now() < until, "still ready");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    more_than(before).await;
    // As when the endpoint has gone from the Service: nobody calls any more.
    stop.store(true, Ordering::Relaxed);
    for task in load {
        assert!(
            task.await.unwrap() > 1,
            "no connection was closed with an answer"
        );
    }
    assert_eq!(serve.wait(Duration::from_secs(6)).code(), Some(0));
    assert_eq!(serve.rest_of_stdout(), "");
}

#[tokio::test]
async fn what_is_under_way_when_it_stops_listening_is_answered() {
    // The keeper's own hold on the socket must not keep it open.
    for keeper in ["off", "on"] {
        answered_when_it_stops_listening(keeper).await;
    }
}

async fn answered_when_it_stops_listening(keeper: &str) {
    let mut serve = Serve::start(&["--keeper", keeper, "--drain-delay", "500ms"]);
    let mut stream = connect_tls(&serve).await;
    let body = review("nginx");
    let head = format!(
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    serve.signal(Signal::TERM);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        Client::try_connect(serve.address, &serve.ca())
            .await
            .is_err()
    );
    stream.write_all(&body).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(serve.wait(Duration::from_secs(3)).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_served_until_the_end_and_closed_last() {
    let mut serve = Serve::start(&["--drain-delay", "2s"]);
    let mut idle = Client::connect(&serve).await;
    assert_eq!(idle.swap("nginx").await, "my-registry.example.com/nginx");
    serve.signal(Signal::TERM);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let answer = idle.post(&review("nginx")).await;
    assert!(answer.status == 200 && answer.closes(), "{answer:?}");
    let _silent = Client::connect(&serve).await;
    assert_eq!(serve.wait(Duration::from_secs(5)).code(), Some(0));
    assert!(idle.try_send(Method::POST, "/", b"").await.is_err());
}

/// What kube-apiserver sends on an idle connection while a replica closes it must not be lost.
#[tokio::test]
async fn an_idle_connection_is_told_that_it_is_over_and_hears_no_reset_if_it_asks_all_the_same() {
    let mut serve = Serve::start(&["--drain-delay", "200ms"]);
    let request = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n";
    let (mut idle, mut fresh) = (connect_tls(&serve).await, connect_tls(&serve).await);
    idle.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let _ = idle.read(&mut [0; 4096]).await.unwrap();
    serve.signal(Signal::TERM);
    for connection in [&mut idle, &mut fresh] {
        let mut told = [0; 4096];
        let length = connection.read(&mut told).await.unwrap();
        let told = std::str::from_utf8(&told[..length]).unwrap();
        must_be_farewell(told);
        // A request that was on its way: all of it is taken, and none of it breaks.
        connection.write_all(request).await.unwrap();
        for _ in 0..100 {
            connection.write_all(&[b' '; 1000]).await.unwrap();
            connection.flush().await.unwrap();
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(serve.runs(), "it waits until its peers have closed");
    for mut connection in [idle, fresh] {
        connection.shutdown().await.unwrap();
    }
    assert_eq!(serve.wait(Duration::from_secs(2)).code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_now_and_control_c_does_not_wait() {
    for keeper in ["off", "on"] {
        let args = ["--keeper", keeper, "--drain-delay", "60s"];
        let mut serve = Serve::start(&args);
        serve.signal(Signal::TERM);
        serve.until_log("draining");
        // Within a second it would be the same one.
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        serve.signal(Signal::TERM);
        assert_eq!(serve.wait(Duration::from_secs(2)).code(), Some(1));

        let mut serve = Serve::start(&args);
        serve.signal(Signal::INT);
        assert_eq!(serve.wait(Duration::from_secs(3)).code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_and_drains_when_nobody_reads_its_logs_any_more() {
    let mut serve = Serve::start_unread(&["--drain-delay", "500ms"]);
    serve.close_log();
    let mut client = Client::connect(&serve).await;
    for _ in 0..20 {
        assert_eq!(client.post(b"rubbish").await.status, 400);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(client.swap("nginx").await, "my-registry.example.com/nginx");
    serve.signal(Signal::TERM);
    assert_eq!(serve.wait(Duration::from_secs(5)).code(), Some(0));
}

/// Whoever asks for files to be read anew has what was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_ends_nothing_where_there_is_no_terminal() {
    for keeper in ["off", "on"] {
        let mut serve = Serve::start(&["--keeper", keeper]);
        let mut client = Client::connect(&serve).await;
        serve.signal(Signal::HUP);
        if let Some(worker) = serve.find_worker() {
            rustix::process::kill_process(worker, Signal::HUP).unwrap();
        }
        serve.until_log("SIGHUP changes nothing");
        assert_eq!(client.swap("ghcr.io/a").await, "ghcr.io/a");
        assert!(serve.runs());
        drop(client);
        serve.signal(Signal::TERM);
        assert!(serve.wait(Duration::from_secs(30)).success());
    }
}
