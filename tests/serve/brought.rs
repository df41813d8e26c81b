//! A certificate that is brought in files, without a cluster: served, followed, and never given up
//! for a bad one.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use imageswap::pki::Pem;

use crate::client::{Client, metric};
use crate::pem::{beginning_in, ended, mixed, mount, pair, pair_for, rename, write};
use crate::process::{Serve, refused};

const PAIR: [&str; 4] = ["--tls-cert", "{dir}/tls.crt", "--tls-key", "{dir}/tls.key"];
const CA: [&str; 2] = ["--tls-ca", "{dir}/ca.crt"];

const REFUSED: &str = "imageswap_certificate_refused";

type Spoil<'s> = &'s dyn Fn(&Path);

fn start(pem: &Pem, args: &[&str]) -> Serve {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), pem);
    Serve::start_in(dir, args, &[])
}

/// A client that believes this pair's CA alone.
async fn try_connect(serve: &Serve, pem: &Pem) -> Option<Client> {
    let ca = serve.dir.path().join("believed");
    fs::write(&ca, &pem.ca).unwrap();
    Client::try_connect(serve.address, &ca).await.ok()
}

/// Waits until new connections get this pair; until then they get the other.
async fn turns(serve: &Serve, from: &Pem, to: &Pem) -> Client {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(client) = try_connect(serve, to).await {
            return client;
        }
        assert!(try_connect(serve, from).await.is_some() || try_connect(serve, to).await.is_some());
        assert!(Instant::now() < until, "{}", serve.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn reloads(serve: &Serve, result: &str) -> f64 {
    let name = format!("imageswap_certificate_reloads_total{{result=\"{result}\"}}");
    metric(serve, &name).await
}

#[tokio::test]
async fn files_are_served_and_followed_whatever_way_they_change() {
    let [one, two, three, four, five] = [(); 5].map(|()| pair());
    let dir = tempfile::tempdir().unwrap();
    mount(dir.path(), "..1", &one);
    let serve = Serve::start_in(dir, &[&PAIR[..], &CA].concat(), &[]);
    let dir = serve.dir.path();
    let mut old = try_connect(&serve, &one).await.unwrap();
    assert!(!dir.join("state").exists());

    mount(dir, "..2", &two);
    turns(&serve, &one, &two).await;
    mount(dir, "..3", &three);
    turns(&serve, &two, &three).await;
    rename(dir, &four);
    turns(&serve, &three, &four).await;

    // In place and slowly: what does not fit yet is not said.
    fs::write(dir.join("ca.crt"), &five.ca).unwrap();
    for (name, text) in [("tls.crt", &five.chain), ("tls.key", &five.key)] {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        fs::write(dir.join(name), &text.as_bytes()[..text.len() / 2]).unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        fs::write(dir.join(name), text).unwrap();
    }
    turns(&serve, &four, &five).await;

    assert_eq!(old.swap("quay.io/a").await, "quay.io/a");
    assert_eq!(
        (reloads(&serve, "ok").await, reloads(&serve, "failed").await),
        (5.0, 0.0)
    );
    assert!(!serve.log().contains("ERROR"), "{}", serve.log());
}

#[tokio::test]
async fn a_bad_one_is_refused_with_a_sentence_and_the_last_good_one_stays() {
    let good = pair();
    let spoil: [(&str, Spoil<'_>); 7] = [
        ("tls.key is not the key of the leaf", &|dir| {
            write(dir, &mixed(&pair(), &good));
        }),
        (" ended at ", &|dir| write(dir, &ended())),
        ("does not lead to a CA in ca.crt", &|dir| {
            let ca = pair().ca;
            write(dir, &Pem { ca, ..pair() });
        }),
        ("tls.crt holds no certificate", &|dir| {
            fs::write(dir.join("tls.crt"), "rubbish").unwrap();
        }),
        ("tls.key holds no private key", &|dir| {
            fs::write(dir.join("tls.key"), "").unwrap();
        }),
        ("tls.crt: No such file", &|dir| {
            fs::remove_file(dir.join("tls.crt")).unwrap();
        }),
        ("it is no regular file", &|dir| {
            fs::remove_file(dir.join("ca.crt")).unwrap();
            fs::create_dir(dir.join("ca.crt")).unwrap();
        }),
    ];
    // All at once: each is given its time.
    let mut serves = Vec::new();
    for (sentence, spoil) in spoil {
        let serve = start(&good, &[&PAIR[..], &CA].concat());
        let client = try_connect(&serve, &good).await.unwrap();
        spoil(serve.dir.path());
        serves.push((serve, client, sentence));
    }
    for (serve, old, sentence) in &mut serves {
        serve.until_log(sentence);
        assert!(
            serve.log().contains("the one in use stays"),
            "{}",
            serve.log()
        );
        assert_eq!(old.swap("quay.io/a").await, "quay.io/a");
        let mut new = try_connect(serve, &good).await.unwrap();
        assert_eq!(new.swap("quay.io/a").await, "quay.io/a");
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (serve, ..) in &serves {
        assert_eq!(reloads(serve, "failed").await, 1.0, "{}", serve.log());
        assert_eq!(metric(serve, REFUSED).await, 1.0, "{}", serve.log());
    }
    let next = pair();
    for (serve, ..) in &serves {
        let _ = fs::remove_dir(serve.dir.path().join("ca.crt"));
        rename(serve.dir.path(), &next);
    }
    for (serve, ..) in &serves {
        turns(serve, &good, &next).await;
        assert_eq!(metric(serve, REFUSED).await, 0.0, "{}", serve.log());
    }
}

#[tokio::test]
async fn without_a_ca_the_chain_speaks_for_itself() {
    let (one, two) = (pair(), pair());
    let serve = start(&one, &[&PAIR[..], &["--namespace", "ns"]].concat());
    // The chain alone is enough for curl.
    assert!(
        serve.greeting[1].contains("--cacert") && serve.greeting[1].contains("tls.crt"),
        "{:?}",
        serve.greeting
    );
    assert!(!serve.log().contains("is not valid for"), "{}", serve.log());
    try_connect(&serve, &one).await.unwrap();
    // A chain that does not hold together.
    let broken = Pem {
        chain: two.chain.clone() + &one.ca,
        ..two.clone()
    };
    write(serve.dir.path(), &broken);
    serve.until_log("does not lead to the last certificate");
    try_connect(&serve, &one).await.unwrap();
    write(serve.dir.path(), &two);
    turns(&serve, &one, &two).await;
}

#[tokio::test]
async fn on_a_machine_names_are_not_required_but_told() {
    let serve = start(&pair_for(&["else.svc"], 9), &PAIR);
    assert!(
        serve.greeting[1].contains("--insecure"),
        "{:?}",
        serve.greeting
    );
    serve.until_log("is not valid for imageswap.imageswap-system.svc");
}

#[test]
fn a_start_with_what_can_not_be_served_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (good, all) = (pair(), [&PAIR[..], &CA].concat());
    let says = |args: &[&str], parts: &[&str]| {
        let text = refused(args, dir.path());
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    says(&all, &["tls.crt: No such file", "correct the files"]);
    for (pem, part) in [
        (mixed(&good, &pair()), "tls.key is not the key"),
        (ended(), " ended at "),
        (beginning_in(time::Duration::hours(1)), " begins at "),
        (
            Pem {
                ca: pair().ca,
                ..good.clone()
            },
            "does not lead to a CA",
        ),
    ] {
        write(dir.path(), &pem);
        says(&all, &[part, "correct the files"]);
    }
    // What has another name is said with it.
    write(dir.path(), &mixed(&good, &pair()));
    for (from, to) in [("tls.crt", "server.pem"), ("tls.key", "server-key.pem")] {
        fs::rename(dir.path().join(from), dir.path().join(to)).unwrap();
    }
    says(
        &[
            "--tls-cert",
            "{dir}/server.pem",
            "--tls-key",
            "{dir}/server-key.pem",
        ],
        &[
            "tls.key is not the key of the leaf in tls.crt (tls.crt is /",
            "/server.pem, tls.key is /",
            "/server-key.pem); correct the files",
        ],
    );
    write(dir.path(), &good);
    says(&PAIR[..2], &["--tls-cert needs --tls-key"]);
    says(&PAIR[2..], &["--tls-key needs --tls-cert"]);
    says(&CA, &["--tls-ca needs --tls-cert and --tls-key"]);
    says(
        &["--client-name", "a"],
        &["--client-name needs --client-ca"],
    );
    fs::write(dir.path().join("clients"), "").unwrap();
    let args = ["--client-ca", "{dir}/clients"];
    let parts = [
        "clients",
        "no CA that can be read",
        "--client-ca names a PEM file",
    ];
    says(&args, &parts);
}

/// As by one that runs when it ends: to start with none would be an outage.
#[tokio::test]
async fn a_ca_of_clients_that_has_ended_is_told_and_believed() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("clients"), &ended().ca).unwrap();
    let serve = Serve::start_in(dir, &["--client-ca", "{dir}/clients"], &[]);
    serve.until_log("the CA of clients has ended");
    assert_eq!(metric(&serve, "imageswap_client_ca_refused").await, 1.0);
}

/// Who made it may have a clock that is a little ahead, and dates it from that moment.
#[test]
fn one_that_begins_in_a_moment_is_served_at_a_start() {
    for args in [&PAIR[..], &[&PAIR[..], &CA].concat()] {
        let serve = start(&beginning_in(time::Duration::minutes(2)), args);
        serve.until_log("has not begun by this machine's clock");
    }
}

/// As everywhere, a variable that is set to nothing is not set.
#[tokio::test]
async fn variables_name_the_files_and_empty_ones_are_none() {
    let nothing = [
        "IMAGESWAP_TLS_CERT",
        "IMAGESWAP_TLS_KEY",
        "IMAGESWAP_TLS_CA",
        "IMAGESWAP_CLIENT_CA",
        "IMAGESWAP_CLIENT_NAME",
    ]
    .map(|name| (name, ""));
    let serve = Serve::start_with(&[], &nothing);
    Client::connect(&serve).await;
    let (dir, one) = (tempfile::tempdir().unwrap(), pair());
    write(dir.path(), &one);
    let files = [
        ("IMAGESWAP_TLS_CERT", "{dir}/tls.crt"),
        ("IMAGESWAP_TLS_KEY", "{dir}/tls.key"),
        ("IMAGESWAP_TLS_CA", "{dir}/ca.crt"),
    ];
    let serve = Serve::start_in(dir, &[], &files);
    try_connect(&serve, &one).await.unwrap();
}
