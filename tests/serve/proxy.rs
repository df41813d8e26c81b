//! A person behind a proxy: the API is reached through one that knows CONNECT, or past it.

use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::api::{Api, Person};
use crate::process::imageswap;

/// A proxy that leads to the API, whatever it is asked for.
struct Proxy {
    address: SocketAddr,
    /// What came before each tunnel.
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start(api: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(tunnel(stream, api, Arc::clone(&all)));
            }
        });
        Self { address, heads }
    }

    /// The first line of each call.
    fn asked(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        let first = |head: &String| head.lines().next().unwrap().to_owned();
        heads.iter().map(first).collect()
    }
}

/// Leads to the API all but those who say that they are `wrong`.
async fn tunnel(mut stream: TcpStream, api: SocketAddr, heads: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    heads.lock().unwrap().push(head.clone());
    if head.contains("Basic d3Jvbmc6") {
        let _ = stream.write_all(b"HTTP/1.1 407 No\r\n\r\n").await;
        return;
    }
    let mut api = TcpStream::connect(api).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    let _ = copy_bidirectional(&mut stream, &mut api).await;
}

/// What `status --pre` says of an API that the kubeconfig has in this way, with these variables alone: its exit code,
/// and all that it prints.
async fn status(cluster: serde_json::Value, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = json!({
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    });
    fs::write(dir.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
    let mut command = imageswap();
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
        .args(["status", "--pre", "--namespace", "ns"])
        .env("KUBECONFIG", dir.path().join("kubeconfig"))
        .envs(variables.iter().copied());
    let done = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = done.await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// An API that is right, and a proxy before it.
async fn behind_a_proxy() -> (Api, Proxy) {
    let api = Api::start().await;
    api.set_person(Person::default());
    for name in ["one", "two"] {
        let node = json!({
            "metadata": {"labels": {"kubernetes.io/os": "linux"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        api.put(&format!("/api/v1/nodes/{name}"), node);
    }
    let proxy = Proxy::start(api.address).await;
    (api, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_reached_through_the_proxy_that_is_named() {
    let (_api, proxy) = behind_a_proxy().await;
    let url = format!("http://{}", proxy.address);
    let bare = proxy.address.to_string();
    let slash = format!("{bare}/");
    let server = "http://api.example.test:6443";
    for (cluster, variables) in [
        (
            json!({"server": server}),
            &[("HTTP_PROXY", url.as_str())][..],
        ),
        (json!({"server": server}), &[("http_proxy", &bare)]),
        (json!({"server": server}), &[("HTTP_PROXY", &slash)]),
        (
            json!({"server": server}),
            &[("HTTP_PROXY", &url), ("NO_PROXY", "example.com")],
        ),
        (json!({"server": server, "proxy-url": url}), &[]),
        // What the kubeconfig names is meant for this very host.
        (
            json!({"server": server, "proxy-url": url}),
            &[("NO_PROXY", "*"), ("HTTP_PROXY", "127.0.0.1:1")],
        ),
    ] {
        proxy.heads.lock().unwrap().clear();
        let (code, said) = status(cluster, variables).await;
        assert_eq!(code, Some(0), "{variables:?}: {said}");
        let asked = proxy.asked();
        let is_right = |line: &String| line == "CONNECT api.example.test:6443 HTTP/1.1";
        assert!(!asked.is_empty() && asked.iter().all(is_right), "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environments_proxy_is_left_out_where_no_proxy_says_so_and_for_this_machine() {
    let (api, proxy) = behind_a_proxy().await;
    let url = format!("http://{}", proxy.address);
    let port = api.address.port();
    // That, too, leads to this machine, but is no address of it by name.
    let any = format!("http://0.0.0.0:{port}");
    let slash = format!("{}/", proxy.address);
    for (server, variables) in [
        (&any, &[("NO_PROXY", "0.0.0.0")][..]),
        (
            &any,
            &[("no_proxy", "example.com, 0.0.0.0/8"), ("NO_PROXY", "")],
        ),
        (&format!("http://127.0.0.1:{port}"), &[]),
        // As for kubectl: it is not for an API without TLS.
        (&any, &[("HTTP_PROXY", ""), ("HTTPS_PROXY", &slash)]),
        // What does not count need not be a proxy.
        (
            &any,
            &[("NO_PROXY", "0.0.0.0"), ("HTTP_PROXY", "socks9:// /")],
        ),
    ] {
        let variables = [&[("HTTP_PROXY", url.as_str())], variables].concat();
        let (code, said) = status(json!({"server": server}), &variables).await;
        assert_eq!(code, Some(0), "{variables:?}: {said}");
        assert_eq!(proxy.asked(), [""; 0], "{variables:?}");
    }
    let (code, said) = status(json!({"server": any}), &[("HTTP_PROXY", &url)]).await;
    assert_eq!((code, proxy.asked().is_empty()), (Some(0), false), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_can_not_be_used_is_named_with_the_way_out_and_without_its_password() {
    let server = json!({"server": "https://api.example.test"});
    for (proxy, parts) in [
        (
            "socks5://me:secret@127.0.0.1:1080",
            &[
                "the proxy socks5://127.0.0.1:1080 is not",
                "NO_PROXY",
                "exec deployment/imageswap",
            ][..],
        ),
        // Nobody listens there.
        (
            "http://me:secret@127.0.0.1:1",
            &["at https://api.example.test/ (by the proxy http://127.0.0.1:1)"],
        ),
        (
            "me:secret@[proxy/",
            &["HTTPS_PROXY", "NO_PROXY", "exec deployment/imageswap"],
        ),
    ] {
        let (code, said) = status(server.clone(), &[("HTTPS_PROXY", proxy)]).await;
        assert_eq!(code, Some(2), "{said}");
        for part in parts {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("secret"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_with_tls_has_a_proxy_of_its_own() {
    let (_api, proxy) = behind_a_proxy().await;
    let url = format!("http://{}", proxy.address);
    let server = json!({"server": "https://api.example.test"});
    // The API behind it has none, so that it ends there.
    let (code, said) = status(server.clone(), &[("HTTPS_PROXY", &url)]).await;
    assert_eq!(code, Some(2), "{said}");
    let asked = proxy.asked();
    let is_right = |line: &String| line == "CONNECT api.example.test:443 HTTP/1.1";
    assert!(!asked.is_empty() && asked.iter().all(is_right), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_told_the_name_and_the_password_without_their_escapes() {
    let (_api, proxy) = behind_a_proxy().await;
    let server = "http://api.example.test:6443";
    for (user, expected) in [
        // me:p@ss
        ("me:p%40ss", "Basic bWU6cEBzcw=="),
        ("me:pass", "Basic bWU6cGFzcw=="),
        // me:
        ("me", "Basic bWU6"),
    ] {
        let url = format!("http://{user}@{}", proxy.address);
        for (cluster, variables) in [
            (
                json!({"server": server}),
                &[("HTTP_PROXY", url.as_str())][..],
            ),
            (json!({"server": server, "proxy-url": url}), &[]),
        ] {
            proxy.heads.lock().unwrap().clear();
            let (code, said) = status(cluster, variables).await;
            assert_eq!(code, Some(0), "{user}: {said}");
            let heads = proxy.heads.lock().unwrap().join("");
            let told = format!("Proxy-Authorization: {expected}\r\n");
            assert!(heads.contains(&told), "{user}: {heads}");
        }
    }
    let url = format!("http://wrong:secret@{}", proxy.address);
    let (code, said) = status(json!({"server": server, "proxy-url": url}), &[]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("proxy authorization required"), "{said}");
    assert!(!said.contains("secret"), "{said}");
}
