//! The process that keeps the sockets: what becomes of calls, and of it, when the server is killed.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};

use crate::api::{Api, CONFIGURATION, Mood};
use crate::client::{Client, metric, review};
use crate::cluster::{NAME, configuration, connect, until_ready};
use crate::process::{PROGRAM, Serve, refused};

/// Whether it is there still, and not only its exit code.
fn lives(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}

/// Waits for what must come soon.
fn until(what: &str, serve: &Serve, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !is() {
        assert!(
            Instant::now() < end,
            "not {what}; the log:\n{}",
            serve.log()
        );
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Kills the worker, and returns when it is dead.
fn kill(serve: &Serve) -> Pid {
    let worker = serve.worker();
    kill_process(worker, Signal::KILL).unwrap();
    until("dead", serve, || !lives(worker));
    worker
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_worker_is_killed_no_call_is_refused_and_all_but_those_in_it_are_answered() {
    const KILLS: usize = 5;
    let serve = Serve::start(&["--keeper", "on"]);
    let stop = Arc::new(AtomicBool::new(false));
    // What the keeper tells its worker is no stranger's.
    assert!(!serve.log().contains("unknown"), "{}", serve.log());
    // Kills that were begun, and those after which the worker was dead.
    let (begun, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let answered = Arc::new(AtomicUsize::new(0));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (address, ca) = (serve.address, serve.ca());
            let (stop, begun, done) = (stop.clone(), begun.clone(), done.clone());
            let answered = answered.clone();
            tokio::spawn(async move {
                let mut lost = 0;
                while !stop.load(Ordering::SeqCst) {
                    let before = done.load(Ordering::SeqCst);
                    let Err(error) = call(address, &ca).await else {
                        answered.fetch_add(1, Ordering::SeqCst);
                        continue;
                    };
                    assert!(!error.contains("refused"), "{error}");
                    assert!(
                        begun.load(Ordering::SeqCst) > before,
                        "with nobody killed: {error}"
                    );
                    lost += 1;
                }
                lost
            })
        })
        .collect();
    for n in 0..KILLS {
        let so_far = answered.load(Ordering::SeqCst);
        until("under load", &serve, || {
            answered.load(Ordering::SeqCst) > so_far + 20
        });
        begun.fetch_add(1, Ordering::SeqCst);
        let dead = kill(&serve);
        done.fetch_add(1, Ordering::SeqCst);
        // A probe waits, too.
        let probe = Client::plain(serve.admin).await.get("/livez").await;
        assert_eq!(probe.status, 200);
        assert_ne!(serve.worker(), dead);
        let restarts = metric(&serve, "imageswap_worker_restarts_total").await;
        assert!((restarts - (n + 1) as f64).abs() < 0.5, "{restarts}");
    }
    let so_far = answered.load(Ordering::SeqCst);
    until("answering", &serve, || {
        answered.load(Ordering::SeqCst) > so_far + 20
    });
    stop.store(true, Ordering::SeqCst);
    let mut lost = 0;
    for task in load {
        lost += task.await.unwrap();
    }
    assert!(lost <= 4 * KILLS, "{lost}");
    assert_eq!(serve.log().matches("starting it again").count(), KILLS);
}

/// On a connection of its own.
async fn call(address: std::net::SocketAddr, ca: &Path) -> Result<(), String> {
    let called = async {
        let mut client = Client::try_connect(address, ca).await?;
        client
            .try_send(http::Method::POST, "/", &review("nginx"))
            .await
    };
    let answer = called.await.map_err(|error| error.to_string())?;
    assert_eq!(answer.status, 200);
    Ok(())
}

/// The next worker needs the certificate from the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_is_away_connections_wait_and_are_answered_when_it_is_back() {
    let api = Api::start().await;
    api.put(CONFIGURATION, configuration());
    let serve = Serve::start_in_cluster(api.address, &["--keeper", "on"]);
    until_ready(&serve).await;
    connect(&api, &serve).await;
    api.set_mood(Mood::Forbidding);
    kill(&serve);
    let mut early = Client::plain(serve.admin).await;
    assert_eq!(early.get("/readyz").await.status, 503);
    let (address, ca) = (serve.address, serve.ca());
    let waits =
        tokio::spawn(async move { Client::try_connect_as(address, &ca, NAME).await.is_ok() });
    serve.until_log("the Role does not allow it");
    assert!(!waits.is_finished());
    api.set_mood(Mood::Fine);
    assert!(waits.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_replaced_though_the_program_s_file_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("imageswap");
    fs::copy(PROGRAM, &copy).unwrap();
    let serve = Serve::start_in(dir, &["--keeper", "on"], &[]);
    fs::remove_file(copy).unwrap();
    let dead = kill(&serve);
    let probe = Client::plain(serve.admin).await.get("/livez").await;
    assert_eq!(probe.status, 200);
    assert_ne!(serve.worker(), dead);
}

#[tokio::test]
async fn a_worker_does_not_outlive_its_keeper() {
    let mut serve = Serve::start(&["--keeper", "on"]);
    let worker = serve.worker();
    serve.signal(Signal::KILL);
    serve.wait(Duration::from_secs(2));
    until("dead", &serve, || !lives(worker));
    assert!(call(serve.address, &serve.ca()).await.is_err());
}

#[tokio::test]
async fn one_that_is_killed_again_and_again_is_given_up() {
    let mut serve = Serve::start(&["--keeper", "on"]);
    for n in 1..=8 {
        let dead = kill(&serve);
        if n < 8 {
            until("replaced", &serve, || {
                serve.find_worker().is_some_and(|pid| pid != dead)
            });
        }
    }
    assert_eq!(serve.wait(Duration::from_secs(5)).code(), Some(2));
    let log = serve.log();
    assert_eq!(log.matches("starting it again").count(), 7, "{log}");
    assert_eq!(log.matches("\"level\":\"ERROR\"").count(), 1, "{log}");
    assert!(log.contains("was killed 8 times"), "{log}");
    assert!(log.contains("the last time by SIGKILL"), "{log}");
}

#[test]
fn a_start_that_fails_is_told_once_and_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let maps = dir.path().join("maps");
    fs::write(&maps, "no rule\n").unwrap();
    let maps = maps.to_str().unwrap();
    // In the worker, and in the keeper itself.
    let error = refused(
        &["--keeper", "on", "--strict-maps", "--maps", maps],
        dir.path(),
    );
    assert!(error.contains(maps), "{error}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = refused(&["--keeper", "on", "--admin-listen", &address], dir.path());
    assert!(error.contains("--admin-listen"), "{error}");
}

/// A terminal sends it to every process of its foreground group.
#[test]
fn control_c_reaches_the_worker_once() {
    let mut serve = Serve::start_in_group(&["--keeper", "on", "--drain-delay", "60s"]);
    // Two that come together may count as one, or as two: "now".
    assert_eq!(getpgid(Some(serve.worker())).unwrap(), serve.worker());
    kill_process_group(serve.pid(), Signal::INT).unwrap();
    assert_eq!(serve.wait(Duration::from_secs(3)).code(), Some(0));
}

/// As when every process of a container is told to stop: the server hears it twice.
#[tokio::test]
async fn a_signal_to_both_is_one_and_another_one_later_is_a_second() {
    let mut serve = Serve::start(&["--keeper", "on", "--drain-delay", "60s"]);
    kill_process(serve.worker(), Signal::TERM).unwrap();
    serve.until_log("draining");
    serve.signal(Signal::TERM);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    call(serve.address, &serve.ca()).await.unwrap();
    serve.signal(Signal::TERM);
    assert_eq!(serve.wait(Duration::from_secs(2)).code(), Some(1));
    assert!(serve.log().contains("a second signal"), "{}", serve.log());
}

#[test]
fn whoever_is_told_to_stop_starts_no_other() {
    let mut serve = Serve::start(&["--keeper", "on", "--drain-delay", "60s"]);
    serve.signal(Signal::TERM);
    serve.until_log("draining");
    kill(&serve);
    assert_eq!(serve.wait(Duration::from_secs(2)).code(), Some(128 + 9));
    assert!(
        !serve.log().contains("starting it again"),
        "{}",
        serve.log()
    );
}
