//! How it starts, and when it refuses to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls::version::{TLS12, TLS13};

use crate::client::{Client, metric, tls};
use crate::pem::{beginning_in, pair_for, write};
use crate::process::{Serve, refused, serve};

#[tokio::test]
async fn with_no_flags_it_makes_a_certificate_and_swaps_docker_hubs_images() {
    let serve = Serve::start(&[]);
    let mut client = Client::connect(&serve).await;
    assert_eq!(
        client.swap("docker.io/nginx/nginx:latest").await,
        "my-registry.example.com/nginx/nginx:latest"
    );
    assert_eq!(client.swap("quay.io/a").await, "quay.io/a");
    assert!(
        serve.log().contains("a built-in example"),
        "{}",
        serve.log()
    );
    let mode = |name: &str| {
        let metadata = fs::metadata(serve.dir.path().join("state").join(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!((mode("tls.key"), mode("")), (0o600, 0o700));
    assert!(
        metric(
            &serve,
            "imageswap_certificate_not_after_timestamp_seconds{certificate=\"leaf\"}"
        )
        .await
            > 1.7e9
    );
}

/// The line is run by a shell, as a person would.
#[test]
fn the_printed_curl_works_and_shows_the_swapped_image() {
    let serve = Serve::start(&[]);
    let command = serve.greeting[1].trim().strip_prefix("try: ").unwrap();
    let output = Command::new("sh")
        .args(["-c", command])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let image = "my-registry.example.com/jmsearcy/toolbox:latest";
    assert!(text.contains(image), "{command}: {output:?}");
}

#[test]
fn without_the_projects_files_the_printed_curl_carries_its_own_review() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = serve(&["--state-dir", "{dir}/it's here"], dir.path())
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let command = lines.nth(1).unwrap().unwrap();
    let output = Command::new("sh")
        .args(["-c", command.strip_prefix("try: ").unwrap()])
        .output();
    child.kill().unwrap();
    child.wait().unwrap();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(
        text.contains("my-registry.example.com/nginx/nginx:latest"),
        "{command}: {text}"
    );
}

#[tokio::test]
async fn the_certificate_names_this_machine_and_the_service_and_stays() {
    let serve = Serve::start(&["--namespace", "elsewhere"]);
    for name in [
        "localhost",
        "127.0.0.1",
        "imageswap.elsewhere.svc",
        "imageswap",
    ] {
        for version in [&TLS12, &TLS13] {
            tls(serve.address, &serve.ca(), name, &[version])
                .await
                .unwrap();
        }
    }
    assert!(
        tls(serve.address, &serve.ca(), "other.svc", &[&TLS13])
            .await
            .is_err()
    );
    let other = Serve::start(&[]);
    assert!(
        tls(serve.address, &other.ca(), "localhost", &[&TLS13])
            .await
            .is_err()
    );

    let ca = fs::read(serve.ca()).unwrap();
    let again = Serve::start(&[
        "--namespace",
        "elsewhere",
        "--state-dir",
        serve.dir.path().join("state").to_str().unwrap(),
    ]);
    assert_eq!(fs::read(serve.ca()).unwrap(), ca);
    tls(again.address, &serve.ca(), "localhost", &[&TLS13])
        .await
        .unwrap();
}

#[tokio::test]
async fn the_variables_of_1_5_3_keep_working() {
    let legacy = Serve::start_with(
        &[],
        &[
            ("IMAGESWAP_MODE", "LEGACY"),
            ("IMAGE_PREFIX", "mirror.io/hub-"),
        ],
    );
    let mut client = Client::connect(&legacy).await;
    assert_eq!(client.swap("a/b:1").await, "mirror.io/hub-a/b:1");
    assert!(legacy.log().contains("LEGACY mode is deprecated"));
    let bad = [
        ("IMAGESWAP_MODE", "LEGACY"),
        ("IMAGE_PREFIX", "https://mirror.io"),
    ];
    for (variables, warns) in [
        (&bad[..], true),
        (&[bad[0], ("IMAGE_PREFIX", "mirror.io")], false),
    ] {
        let log = Serve::start_with(&[], variables).log();
        assert_eq!(log.contains("no image is swapped"), warns, "{log}");
    }

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("maps"), "default::mirror.io").unwrap();
    let maps = Serve::start_in(
        dir,
        &[],
        &[
            ("IMAGESWAP_MODE", "Maps"),
            ("IMAGE_PREFIX", "unused.io"),
            ("IMAGESWAP_MAPS_FILE", "{dir}/maps"),
            ("IMAGESWAP_DISABLE_LABEL", "my.io/label"),
            ("IMAGESWAP_NAMESPACE_NAME", "my-namespace"),
            ("IMAGESWAP_POD_NAME", "my-pod"),
            ("IMAGESWAP_LOG_LEVEL", "WARNING"),
            ("IMAGESWAP_CSR_SIGNER_NAME", "x"),
            ("IMAGESWAP_DISABLE_AUTO_MWC", "TRUE"),
            ("IMAGESWAP_STRICT_MAP", "TRUE"),
            ("IMAGESWAP_SERVICE_HOST", "10.0.0.1"),
        ],
    );
    let mut client = Client::connect(&maps).await;
    assert_eq!(client.swap("a/b:1").await, "mirror.io/a/b:1");
    let disabled = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","kind":{"kind":"Pod"},"object":{"metadata":{"labels":{"my.io/label":"disabled"}},"spec":{"containers":[{"image":"a"}]}}}}"#;
    let answer = client.post(disabled.as_bytes()).await;
    assert!(!answer.text().contains("patch"), "{answer:?}");
    let health = client.get("/healthz").await;
    assert!(
        health.text().contains("\"pod_name\":\"my-pod\""),
        "{health:?}"
    );
    tls(
        maps.address,
        &maps.ca(),
        "imageswap.my-namespace.svc",
        &[&TLS13],
    )
    .await
    .unwrap();
    let log = maps.log();
    let forgotten: Vec<_> = log
        .lines()
        .filter(|line| line.contains("without a meaning"))
        .collect();
    assert_eq!(forgotten.len(), 1, "{log}");
    assert!(forgotten[0].contains("IMAGESWAP_CSR_SIGNER_NAME, IMAGESWAP_DISABLE_AUTO_MWC"));
    assert!(log.contains("unknown: IMAGESWAP_STRICT_MAP;"), "{log}");
    assert!(
        log.contains("IMAGE_PREFIX (--image-prefix) has no effect"),
        "{log}"
    );
    assert!(!log.contains("INFO"), "{log}");
}

#[tokio::test]
async fn variables_set_to_nothing_are_not_set() {
    let serve = Serve::start_with(
        &[],
        &[
            ("IMAGESWAP_MAPS_FILE", ""),
            ("IMAGESWAP_MODE", ""),
            ("IMAGE_PREFIX", ""),
        ],
    );
    let mut client = Client::connect(&serve).await;
    assert_eq!(client.swap("a").await, "my-registry.example.com/a");
}

#[tokio::test]
async fn a_certificate_is_renewed_while_it_serves() {
    let life = ["--cert-lifetime", "12s", "--cert-renew-before", "10s"];
    let serve = Serve::start(&[&life[..], &["--trust-delay", "0s"]].concat());
    let first = fs::read(serve.ca()).unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !serve.log().contains("serving a new certificate") {
        assert!(std::time::Instant::now() < until, "{}", serve.log());
        // Who follows ca.crt never notices.
        Client::connect(&serve).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_ne!(fs::read(serve.ca()).unwrap(), first);
    Client::connect(&serve).await;
}

#[tokio::test]
async fn what_follows_files_is_started_again_like_any_task() {
    let dir = tempfile::tempdir().unwrap();
    let one = pair_for(&["localhost"], 9);
    write(dir.path(), &one);
    fs::write(dir.path().join("maps"), "default::a.io").unwrap();
    let files = ["--maps", "{dir}/maps", "--client-ca", "{dir}/ca.crt"];
    let pair = ["--tls-cert", "{dir}/tls.crt", "--tls-key", "{dir}/tls.key"];
    let serve = Serve::start_in(dir, &[files, pair].concat(), &[]);
    let metrics = Client::plain(serve.admin).await.get("/metrics").await;
    for task in ["maps", "client_ca", "files"] {
        let line = format!("imageswap_task_restarts_total{{task=\"{task}\"}} 0");
        assert!(metrics.text().contains(&line), "{line}");
    }
}

/// Another process holds the directory, as one does that makes a pair on a slow disk.
#[test]
fn a_signal_ends_a_start_that_waits() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let lock = fs::File::create(at(".lock")).unwrap();
    lock.lock().unwrap();
    let log = fs::File::create(at("log")).unwrap();
    let mut serve = serve(&["--state-dir", "{dir}"], dir.path())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let said = || fs::read_to_string(at("log")).unwrap();
    let until = |what: &str, is: &mut dyn FnMut() -> bool| {
        let end = Instant::now() + Duration::from_secs(5);
        while !is() {
            assert!(Instant::now() < end, "no {what}: {}", said());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    until("start", &mut || said().contains("no map file is named"));
    kill_process(Pid::from_child(&serve), Signal::TERM).unwrap();
    let mut status = None;
    until("end", &mut || {
        status = serve.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(0), "{}", said());
    assert!(said().contains("stopping, before there was a certificate"));
}

/// As after a wrong clock, which is right now.
#[test]
fn a_pair_that_begins_much_later_is_waited_for_until_another_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let later = beginning_in(time::Duration::days(99));
    write(&state, &later);
    let is_there = || fs::read_to_string(state.join("tls.crt")).unwrap() == later.chain;
    let serve = Serve::start_in(dir, &["--namespace", "ns"], &[]);
    let help = format!(
        "if the clock is right, write a new text into the file {}/rotate",
        state.display()
    );
    serve.until_log(&help);
    assert!(is_there());
    fs::write(state.join("rotate"), "now").unwrap();
    // The directory is looked at every ten seconds.
    let end = Instant::now() + Duration::from_secs(30);
    while is_there() {
        assert!(Instant::now() < end, "{}", serve.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A signal in the middle of it leaves no half of a pair.
#[test]
fn a_start_that_is_stopped_writes_its_pair_to_the_end() {
    for trial in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut serve = serve(&["--state-dir", "{dir}"], dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The first file of three.
        while !at("ca.crt").exists() && serve.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        kill_process(Pid::from_child(&serve), Signal::INT).unwrap();
        assert_eq!(serve.wait().unwrap().code(), Some(0), "trial {trial}");
        let is_there = |name: &str| at(name).exists();
        assert!(is_there("tls.key") && is_there("tls.crt"), "trial {trial}");
    }
}

#[test]
fn what_it_can_not_start_with_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let file = |name: &str, text: &[u8]| {
        fs::write(at(name), text).unwrap();
        at(name)
    };
    let large = file("large", b"");
    fs::File::options()
        .write(true)
        .open(&large)
        .unwrap()
        .set_len(100 << 20)
        .unwrap();
    let taken = Serve::start(&[]);
    let (address, admin) = (taken.address.to_string(), taken.admin.to_string());
    let rows: &[(&[&str], &[&str])] = &[
        (&["--maps", &at("none")], &["none", "No such file"]),
        (&["--maps", &at("")], &["it is a directory"]),
        (&["--maps", &large], &["larger than 8 MiB"]),
        (
            &["--maps", &file("binary", &[0x7f, b'E', b'L', b'F', 0, 1])],
            &["binary file"],
        ),
        (
            &["--maps", &file("rubbish", b"no rule\nnor this")],
            &["not one of its lines with text (2)"],
        ),
        (
            &[
                "--strict-maps",
                "--maps",
                &file("some", b"default::a.io\nno rule"),
            ],
            &["lines in error (1)", "imageswap check"],
        ),
        (
            &["--listen", &address],
            &["can't listen on 127.0.0.1", "in use", "--listen"],
        ),
        (&["--admin-listen", &admin], &["in use", "--admin-listen"]),
        (
            &["--listen", "203.0.113.1:5000"],
            &["can't listen on 203.0.113.1:5000"],
        ),
        (
            &["--state-dir", &format!("{large}/below")],
            &["large/below", "--state-dir"],
        ),
        (
            &["--state-dir", "/proc/none"],
            &["/proc/none", "--state-dir"],
        ),
        // Where the log has no room for it, it stands by itself.
        (
            &["--log-level", "off", "--admin-listen", &admin],
            &["in use", "--admin-listen"],
        ),
        (
            &["--log-level", "kube=debug", "--admin-listen", &admin],
            &["in use", "--admin-listen"],
        ),
        (&["--log-level", "imageswap=loud"], &["is no log level"]),
        (&["--log-level", "warm"], &["is no log level"]),
        (
            &["--cert-lifetime", "1h", "--cert-renew-before", "1h"],
            &["must be shorter than --cert-lifetime"],
        ),
    ];
    for (args, parts) in rows {
        let text = refused(args, dir.path());
        for part in *parts {
            assert!(text.contains(part), "{args:?}: {text}");
        }
    }
    // Unreadable: root may read all, so only where the test is not root.
    let unreadable = file("unreadable", b"default::a.io");
    fs::set_permissions(&unreadable, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&unreadable).is_err() {
        assert!(refused(&["--maps", &unreadable], dir.path()).contains("ermission denied"));
    }
}
