//! Peers that mean harm or are broken: each is cut off in bounded time and memory, and real
//! requests are answered meanwhile.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::{
    Client, connect_from, connect_tls, connect_tls_from, metric, must_be_farewell, review,
    review_of, tls,
};
use crate::process::Serve;

/// The longest that any of these peers may keep a connection: the head's ten seconds, twice, and
/// the tick with which it is looked for.
const CUT_OFF: Duration = Duration::from_secs(25);

/// Open files are the whole process's: those that hold hundreds of connections or more take turns.
static MANY: Mutex<()> = Mutex::const_new(());

/// As many open files as the machine lets us have, until what is given is dropped.
async fn many_files() -> MutexGuard<'static, ()> {
    let turn = MANY.lock().await;
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum;
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
    // The ten thousand, and those that other tests have meanwhile.
    assert!(
        current.is_none_or(|files| files >= 11_000),
        "this test needs 11,000 open files"
    );
    turn
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(CUT_OFF)).unwrap();
    stream
}

/// Everything the server says until it closes; a reset is a close.
fn read_to_close(mut stream: &TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("still open: {error}"),
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_are_slow_or_silent_are_cut_off() {
    let serve = Serve::start(&[]);
    let address = serve.address;
    let silent = std::thread::spawn(move || read_to_close(&connect(address)));
    let dripping = std::thread::spawn(move || {
        let mut stream = connect(address);
        // The start of a handshake that never comes to its end.
        for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
            .iter()
            .cycle()
        {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    let ca = serve.ca();
    let after_handshake = |first: &'static [u8], drip: &'static [u8]| {
        let ca = ca.clone();
        tokio::spawn(async move {
            let mut stream = tls(address, &ca, "localhost", rustls::DEFAULT_VERSIONS)
                .await
                .unwrap();
            stream.write_all(first).await.unwrap();
            let started = Instant::now();
            let mut answer = Vec::new();
            let mut buffer = [0; 1024];
            loop {
                let read = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut buffer));
                match read.await {
                    Ok(Ok(0) | Err(_)) => return answer,
                    Ok(Ok(n)) => answer.extend_from_slice(&buffer[..n]),
                    Err(_) => {
                        assert!(started.elapsed() < CUT_OFF, "still open");
                        // The peer may have been cut off just now.
                        let _ = stream.write_all(drip).await;
                    }
                }
            }
        })
    };
    let says_nothing = after_handshake(b"", b"");
    let drips_head = after_handshake(b"POST / HTTP/1.1\r\n", b"x");
    let drips_body = after_handshake(
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n",
        b"{",
    );
    let large_body = after_handshake(
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n\r\n",
        b"{",
    );

    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(3) {
        let mut client = Client::connect(&serve).await;
        assert_eq!(client.swap("nginx").await, "my-registry.example.com/nginx");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // It may be a spare connection of a client that is about to ask.
    must_be_farewell(std::str::from_utf8(&says_nothing.await.unwrap()).unwrap());
    assert_eq!(drips_head.await.unwrap(), b"");
    for drips in [drips_body, large_body] {
        let answer = String::from_utf8(drips.await.unwrap()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    }
    tokio::task::spawn_blocking(move || {
        assert_eq!(silent.join().unwrap(), b"");
        dripping.join().unwrap();
    })
    .await
    .unwrap();
    let late = "imageswap_tls_handshakes_total{result=\"late\"}";
    assert_eq!(metric(&serve, late).await, 2.0);
    assert_eq!(
        metric(
            &serve,
            "imageswap_connections_closed_total{reason=\"late\"}"
        )
        .await,
        2.0
    );
}

/// Whoever has long answers made and reads none of them takes no more memory than is for all.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_are_bounded_in_memory_and_time() {
    let serve = Serve::start(&[]);
    // More than the kernel takes off our hands.
    let long = "a/".repeat(600);
    let containers: Vec<_> = (0..4_000)
        .map(|n| json!({"name": format!("c{n}"), "image": format!("{long}{n}")}))
        .collect();
    let body = review_of(Value::from(containers));
    let mut client = Client::connect(&serve).await;
    let answer = client.post(&body).await;
    assert_eq!(answer.status, 200);
    let length = answer.body.len();
    assert!(length > 6 << 20, "{length}");
    let before = serve.resident();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut peers = Vec::new();
    for _ in 0..24 {
        let mut peer = connect_tls(&serve).await;
        // The kernel shall not read it for him.
        set_socket_recv_buffer_size(peer.get_ref().0, 4 << 10).unwrap();
        peer.write_all(head.as_bytes()).await.unwrap();
        peer.write_all(&body).await.unwrap();
        peers.push(peer);
    }
    let mut most = 0;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        most = serve.resident().max(most);
        assert_eq!(client.swap("nginx").await, "my-registry.example.com/nginx");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let more = most.saturating_sub(before);
    assert!(
        more < 90 << 20,
        "{more} more bytes for {} answers of {length}",
        peers.len()
    );
    // Those that were given an answer are cut off, though they take some bytes of it all the time.
    let late = "imageswap_connections_closed_total{reason=\"late\"}";
    while metric(&serve, late).await == 0.0 {
        assert!(started.elapsed() < CUT_OFF, "none is cut off");
        for peer in &mut peers {
            let mut some = [0; 100];
            let _ = tokio::time::timeout(Duration::from_millis(1), peer.read(&mut some)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_speak_something_else_are_turned_away() {
    let serve = Serve::start(&[]);
    let address = serve.address;
    let answer = |bytes: &[u8]| {
        let mut stream = connect(address);
        stream.write_all(bytes).unwrap();
        read_to_close(&stream)
    };
    // A TLS alert (21), not HTTP.
    let plain = answer(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(plain.first(), Some(&21), "{plain:?}");
    // A fatal alert: handshake_failure or protocol_version.
    let tls_1_1 = answer(&client_hello_1_1());
    assert!(
        matches!(tls_1_1[..], [21, 3, _, 0, 2, 2, 40 | 70]),
        "{tls_1_1:?}"
    );
    answer(&[0; 4096]);
    answer(&[0xff; 4096]);
    // Whoever leaves in the middle of a body.
    for _ in 0..20 {
        let mut stream = connect_tls(&serve).await;
        let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n{\"kind\":";
        stream.write_all(head).await.unwrap();
        drop(stream);
    }
    // Over TLS, but no HTTP.
    let mut stream = connect_tls(&serve).await;
    stream
        .write_all(b"\x00\x01\x02 nonsense\r\n\r\n")
        .await
        .unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    assert!(
        said.is_empty() || said.starts_with(b"HTTP/1.1 400"),
        "{said:?}"
    );
    // A head without end.
    let mut stream = connect_tls(&serve).await;
    let mut said = Vec::new();
    let header = vec![b'x'; 1 << 20];
    let _ = stream.write_all(b"POST / HTTP/1.1\r\nlong: ").await;
    let _ = stream.write_all(&header).await;
    let _ = stream.read_to_end(&mut said).await;
    assert!(
        said.is_empty() || said.starts_with(b"HTTP/1.1 431"),
        "{said:?}"
    );

    assert_eq!(
        Client::connect(&serve).await.swap("nginx").await,
        "my-registry.example.com/nginx"
    );
    assert_eq!(metric(&serve, "imageswap_panics_total").await, 0.0);
    let until = Instant::now() + Duration::from_secs(10);
    while metric(&serve, "imageswap_connections").await > 0.0 {
        assert!(Instant::now() < until, "connections are left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A handshake that knows TLS 1.1 and nothing newer.
fn client_hello_1_1() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_silent_peers_displace_each_other_and_not_the_real_ones() {
    let _turn = many_files().await;
    let serve = Serve::start(&[]);
    let mut kept = Client::connect(&serve).await;
    assert_eq!(kept.swap("nginx").await, "my-registry.example.com/nginx");
    let address = serve.address;
    let flood = tokio::task::spawn_blocking(move || {
        (0..10_000)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect::<Vec<_>>()
    });
    let mut answered = 0;
    while !flood.is_finished() || answered < 50 {
        assert_eq!(kept.swap("nginx").await, "my-registry.example.com/nginx");
        let mut client = Client::connect(&serve).await;
        assert_eq!(client.swap("nginx").await, "my-registry.example.com/nginx");
        answered += 1;
    }
    let flood = flood.await.unwrap();
    assert_eq!(flood.len(), 10_000);
    assert!(metric(&serve, "imageswap_connections").await <= 1024.0);
    let resident = serve.resident();
    assert!(resident < 64 << 20, "{} MiB", resident >> 20);
    eprintln!(
        "{answered} rounds answered meanwhile; {} MiB resident",
        resident >> 20
    );
    assert_eq!(kept.swap("nginx").await, "my-registry.example.com/nginx");
    drop(flood);
    assert_eq!(kept.swap("nginx").await, "my-registry.example.com/nginx");
}

/// From one address, more than the admin port could let in if each had its moment: the kubelet's probes would wait
/// behind all of them, and the container be restarted.
#[tokio::test(flavor = "multi_thread")]
async fn who_crowds_the_admin_port_keeps_no_probe_from_its_answer() {
    crowded(0).await;
}

/// Those that begin a request have a longer moment than the others.
#[tokio::test(flavor = "multi_thread")]
async fn nor_does_a_crowd_of_which_half_begins_a_request() {
    crowded(4).await;
}

/// Of eight connections so many begin a request.
async fn crowded(speaking: usize) {
    let _turn = many_files().await;
    let serve = Serve::start(&[]);
    let address = serve.admin;
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    let crowd = tokio::spawn(async move {
        let there = Ipv4Addr::new(127, 0, 0, 2);
        let mut open = Vec::new();
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        loop {
            tick.tick().await;
            for number in 0..8 {
                let connected = connect_from(there, address);
                // What the kernel does not take is no use.
                if let Ok(Ok(mut stream)) = timeout(Duration::from_millis(50), connected).await {
                    if number < speaking {
                        let _ = stream.write_all(b"GET /").await;
                    }
                    open.push(stream);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    let (started, mut longest) = (Instant::now(), Duration::ZERO);
    while started.elapsed() < Duration::from_secs(9) {
        let asked = Instant::now();
        let answer = timeout(Duration::from_secs(2), async {
            Client::plain(address).await.get("/readyz").await
        });
        let Ok(answer) = answer.await else {
            panic!("a probe waits for longer than the kubelet does");
        };
        assert_eq!(answer.text(), "ok\n");
        longest = longest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    crowd.abort();
    let opened = opened.load(Ordering::Relaxed);
    eprintln!("{opened} connections beside it; the longest answer took {longest:?}");
    assert!(opened > 2_500, "{opened}: no crowd");
}

/// Asks so often at once whether it is ready, each on a connection of its own: how many were told within four
/// seconds, and how long all took.
async fn burst(address: SocketAddr, count: usize) -> (usize, Duration) {
    let started = Instant::now();
    let asked = (0..count).map(|_| async move {
        let answer = async {
            let mut stream = tokio::net::TcpStream::connect(address).await?;
            stream
                .write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.map(|_| answer)
        };
        let answer = timeout(Duration::from_secs(4), answer).await;
        matches!(answer, Ok(Ok(answer)) if answer.ends_with(b"\r\n\r\nok\n"))
    });
    let answered = asked.collect::<JoinSet<_>>().join_all().await;
    let answered = answered.iter().filter(|is_so| **is_so).count();
    (answered, started.elapsed())
}

/// An address that takes all places and keeps a few waiting, always, and one that has more: who has fewer waiting
/// is not for that reason before the other.
#[tokio::test(flavor = "multi_thread")]
async fn who_keeps_few_waiting_does_not_starve_who_has_many() {
    // The places of the admin port, and a few more.
    const HELD: usize = 128 + 30;
    const BURST: usize = 60;
    let _turn = many_files().await;
    let serve = Serve::start(&[]);
    let address = serve.admin;
    let opened = Arc::new(AtomicUsize::new(0));
    let mut crowd: JoinSet<()> = (0..HELD)
        .map(|number| {
            let opened = opened.clone();
            async move {
                // Else they all have their moment together, and all end it together.
                tokio::time::sleep(Duration::from_millis(3 * number as u64)).await;
                loop {
                    let there = Ipv4Addr::new(127, 0, 0, 2);
                    if let Ok(mut stream) = connect_from(there, address).await {
                        opened.fetch_add(1, Ordering::Relaxed);
                        let _ = stream.write_all(b"GET /").await;
                        let _ = stream.read(&mut [0; 1]).await;
                    }
                }
            }
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (answered, took) = burst(address, BURST).await;
    let opened = opened.load(Ordering::Relaxed);
    crowd.abort_all();
    eprintln!("{answered} of {BURST} answered within {took:?} beside {opened} connections");
    assert!(opened > 2 * HELD, "{opened}: no crowd");
    assert_eq!(answered, BURST);
}

/// A hundred addresses of which each has few, and one that opens many at once, as kube-apiserver does.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_not_cut_off_for_silent_peers_of_many_addresses() {
    const ADDRESSES: u8 = 100;
    /// Of each. Together they are more than the admin port's places and those that wait.
    const HELD: usize = 8;
    const BURST: usize = 60;
    let _turn = many_files().await;
    let serve = Serve::start(&[]);
    let address = serve.admin;
    let opened = Arc::new(AtomicUsize::new(0));
    let mut crowd = JoinSet::new();
    for (number, last) in (1..=ADDRESSES)
        .cycle()
        .take(usize::from(ADDRESSES) * HELD)
        .enumerate()
    {
        let opened = opened.clone();
        let there = Ipv4Addr::new(127, 0, 1, last);
        crowd.spawn(async move {
            tokio::time::sleep(Duration::from_millis(number as u64)).await;
            loop {
                if let Ok(mut stream) = connect_from(there, address).await {
                    opened.fetch_add(1, Ordering::Relaxed);
                    let _ = stream.read(&mut [0; 1]).await;
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (answered, took) = burst(address, BURST).await;
    let opened = opened.load(Ordering::Relaxed);
    crowd.abort_all();
    eprintln!("{answered} of {BURST} answered within {took:?} beside {opened} connections");
    assert!(
        opened > 2 * usize::from(ADDRESSES) * HELD,
        "{opened}: no crowd"
    );
    assert_eq!(answered, BURST);
}

/// Who asks as kube-apiserver does, on more connections than there are places, and begins each next request
/// before the last one's place is wanted.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_is_served_displaces_himself_and_nobody_else() {
    const PLACES: usize = 48;
    let serve = Serve::start(&["--max-connections", &PLACES.to_string()]);
    let mut kept = Client::connect(&serve).await;
    assert_eq!(kept.swap("nginx").await, "my-registry.example.com/nginx");
    let body = review("nginx");
    let head = format!(
        "OST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let rest = [head.as_bytes(), &body].concat();
    let asked = Arc::new(AtomicUsize::new(0));
    let strangers: JoinSet<()> = (0..PLACES + 12)
        .map(|_| {
            let (address, ca, rest, asked) =
                (serve.address, serve.ca(), rest.clone(), asked.clone());
            async move {
                loop {
                    // Not so fast that all are late.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    let there = Ipv4Addr::new(127, 0, 0, 2);
                    let Ok(mut stream) = connect_tls_from(there, address, &ca).await else {
                        continue;
                    };
                    let mut answer = [0; 4096];
                    while stream.write_all(b"P").await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(500)).await;
                        if stream.write_all(&rest).await.is_err()
                            || !matches!(stream.read(&mut answer).await, Ok(1..))
                        {
                            break;
                        }
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        })
        .collect();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        let mut client = Client::connect(&serve).await;
        assert_eq!(client.swap("nginx").await, "my-registry.example.com/nginx");
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert_eq!(client.swap("nginx").await, "my-registry.example.com/nginx");
        assert_eq!(kept.swap("nginx").await, "my-registry.example.com/nginx");
    }
    drop(strangers);
    let asked = asked.load(Ordering::Relaxed);
    assert!(asked > PLACES, "{asked} answers: nobody was crowded out");
    let evicted = "imageswap_connections_closed_total{reason=\"evicted\"}";
    assert!(metric(&serve, evicted).await > 0.5, "there was room");
}

/// More large reviews at once than there is memory for: all are answered, some later.
#[tokio::test(flavor = "multi_thread")]
async fn many_large_reviews_share_the_memory() {
    let serve = Serve::start(&["--body-memory-mib", "8", "--request-timeout", "30s"]);
    let mut body = review("nginx");
    body.resize(3 << 20, b' ');
    let calls: Vec<_> = (0..40)
        .map(|_| {
            let (address, ca, body) = (serve.address, serve.ca(), body.clone());
            tokio::spawn(async move {
                let mut client = Client::try_connect(address, &ca).await.unwrap();
                client.post(&body).await.status.as_u16()
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), 200);
    }
    // At once, all bodies would take 120 MiB.
    let most = serve.most_resident();
    assert!(most < 64 << 20, "{} MiB", most >> 20);
    println!("at most {} MiB resident", most >> 20);
}

/// What one has taken goes back before the next.
#[tokio::test(flavor = "multi_thread")]
async fn reviews_of_16_mib_one_after_the_other_take_no_more_than_one() {
    let serve = Serve::start(&[]);
    let review = |containers: usize, length: usize| {
        let long = "a".repeat(length);
        let containers: Vec<_> = (0..containers)
            .map(|n| json!({"name": format!("c{n}"), "image": format!("{long}{n}")}))
            .collect();
        review_of(Value::from(containers))
    };
    let bodies = [review(3_900, 4_000), review(9_900, 1_600)];
    for body in bodies.iter().cycle().take(8) {
        assert!((14 << 20..16 << 20).contains(&body.len()), "{}", body.len());
        let answer = Client::connect(&serve).await.post(body).await;
        assert_eq!(answer.status, 200);
    }
    let most = serve.most_resident();
    assert!(most < 100 << 20, "{} MiB", most >> 20);
    println!("at most {} MiB resident", most >> 20);
}

/// Whoever should read the logs is stuck; reviews are answered all the same.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_the_logs() {
    let serve = Serve::start_unread(&[]);
    let mut client = Client::connect(&serve).await;
    let refusals = async {
        for _ in 0..20_000 {
            assert_eq!(client.post(b"rubbish").await.status, 400);
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(60), refusals).await;
    assert!(done.is_ok(), "it waits");
    assert_eq!(client.swap("nginx").await, "my-registry.example.com/nginx");
}

/// Peers that say they will send much, send a little and wait do not hold up those who do send.
#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_that_do_not_come_deny_none_that_do() {
    let serve = Serve::start(&[]);
    let mut waiting = Vec::new();
    for sent in [1, 1, 1, 1, 10 << 10, 10 << 10] {
        let mut stream = connect_tls(&serve).await;
        let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 12000000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        stream.write_all(&vec![b' '; sent]).await.unwrap();
        waiting.push(stream);
    }
    let mut large = review("nginx");
    large.resize(3 << 20, b' ');
    for _ in 0..10 {
        assert_eq!(Client::connect(&serve).await.post(&large).await.status, 200);
    }
    for mut stream in waiting {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    }
}

/// Reviews that are small on the wire and large in memory, and refusals that could quote them.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_review_costs_is_bounded() {
    let serve = Serve::start(&[]);
    let mut client = Client::connect(&serve).await;
    let head = br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","kind":{"kind":"Pod"},"object":{"spec":{"containers":["#;
    let entries = b"{},".repeat(4_500_000);
    let answer = client
        .post(&[&head[..], &entries, b"{}]}}}}"].concat())
        .await;
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .text()
            .contains("more than 20000 images, so none is swapped"),
        "{answer:?}"
    );

    let quoted = "x".repeat(15 << 20);
    let body = format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":"{quoted}"}}"#
    );
    let answer = client.post(body.as_bytes()).await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.len() < 400, "{}", answer.body.len());
    assert!(serve.log().len() < 10_000);
    let most = serve.most_resident();
    assert!(most < 128 << 20, "{} MiB", most >> 20);
    println!("at most {} MiB resident", most >> 20);
}

/// A body that is sent to the wrong place is read all the same, so that the answer arrives.
#[tokio::test]
async fn a_large_body_to_the_wrong_place_gets_its_answer() {
    let serve = Serve::start(&[]);
    let mut client = Client::connect(&serve).await;
    let large = vec![b' '; 3 << 20];
    for _ in 0..10 {
        assert_eq!(
            client.send(Method::POST, "/webhook", &large).await.status,
            404
        );
        assert_eq!(
            client.send(Method::POST, "/healthz", &large).await.status,
            405
        );
    }
    assert_eq!(client.swap("nginx").await, "my-registry.example.com/nginx");
}

/// From one other address and from two, all of the memory for large bodies is asked for, and again: by bodies
/// that do not come, and by answers that nobody reads. Whoever is honest is answered.
#[tokio::test(flavor = "multi_thread")]
async fn who_holds_memory_and_stands_still_gives_way() {
    let stalls = |declared: usize| {
        let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {declared}\r\n\r\n");
        [head.as_bytes(), &[b' '; 17_000]].concat()
    };
    let unread = {
        // 16 answers of 191 KiB are what one address may have, and each is more than is taken off our hands.
        let long = "a/".repeat(600);
        let containers: Vec<_> = (0..112)
            .map(|n| json!({"name": "c", "image": format!("{long}{n}")}))
            .collect();
        let body = review_of(Value::from(containers));
        assert!((64 << 10..1 << 20).contains(&body.len()), "{}", body.len());
        let head = format!(
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), &body].concat()
    };
    // What they send, how many, from how many addresses; and how large the honest review is.
    for (what, sent, peers, addresses, honest) in [
        ("stalled of 1 MiB", stalls(1 << 20), 24, 1, 100_000),
        ("stalled of 1 MiB", stalls(1 << 20), 24, 2, 100_000),
        ("stalled of 64 KiB", stalls(64 << 10), 120, 2, 30_000),
        ("unread", unread.clone(), 40, 1, 100_000),
        ("unread", unread, 40, 2, 100_000),
    ] {
        let case = format!("{what} from {addresses}");
        let serve = Serve::start(&[]);
        let mut review = review("nginx");
        review.resize(honest, b' ');
        let strangers: JoinSet<()> = (0..peers)
            .map(|n| {
                let from = Ipv4Addr::new(127, 0, 1, n % addresses);
                let (address, ca, sent) = (serve.address, serve.ca(), sent.clone());
                async move {
                    loop {
                        let Ok(mut stream) = connect_tls_from(from, address, &ca).await else {
                            continue;
                        };
                        let _ = set_socket_recv_buffer_size(stream.get_ref().0, 4 << 10);
                        let mut more = stream.write_all(&sent).await;
                        // Until it is cut off.
                        while more.is_ok() {
                            tokio::time::sleep(Duration::from_millis(50)).await;
                            more = stream.write_all(b" ").await;
                        }
                    }
                }
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let started = Instant::now();
        let mut answered = 0;
        while started.elapsed() < Duration::from_secs(3) {
            let mut client = Client::connect(&serve).await;
            // kube-apiserver with its default of ten seconds.
            let answer = client.send(Method::POST, "/?timeout=10s", &review).await;
            assert_eq!(
                answer.status,
                200,
                "{case}, after {answered}: {}",
                answer.text()
            );
            answered += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("{case}: {answered} answered");
        drop(strangers);
    }
}

/// Images that are made to be held against many patterns for long, of more peers at once than reviews may be under way.
#[tokio::test(flavor = "multi_thread")]
async fn pods_that_are_hard_to_decide_take_no_place_from_others() {
    let dir = tempfile::tempdir().unwrap();
    let patterns: String = (0..2_000)
        .map(|n| format!("[REPLACE]*a{n}b*c*d::m.io\n"))
        .collect();
    std::fs::write(
        dir.path().join("maps"),
        format!("{patterns}default::b.io\n"),
    )
    .unwrap();
    let args = ["--maps", "{dir}/maps", "--max-in-flight", "64"];
    let serve = Serve::start_in(dir, &args, &[]);
    let names: String = (0..600).map(|n| format!("a{n}b")).collect();
    let image = format!("{names}{}", "c".repeat(500));
    let hard = json!([{"image": image}, {"image": image}, {"image": image}, {"image": image}]);
    let hard = Arc::new(review_of(hard));
    let refused = Arc::new(AtomicUsize::new(0));
    let strangers: JoinSet<()> = (0..80)
        .map(|_| {
            let (address, ca) = (serve.address, serve.ca());
            let (hard, refused) = (hard.clone(), refused.clone());
            async move {
                loop {
                    let Ok(mut client) = Client::try_connect(address, &ca).await else {
                        continue;
                    };
                    while let Ok(answer) = client.try_send(Method::POST, "/", &hard).await {
                        if answer.status == 429 {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        // As kube-apiserver does.
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        if answer.closes() {
                            break;
                        }
                    }
                }
            }
        })
        .collect();
    while refused.load(Ordering::Relaxed) < 80 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut client = Client::connect(&serve).await;
    for _ in 0..100 {
        assert_eq!(client.swap("nginx").await, "b.io/nginx");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(strangers);
}
