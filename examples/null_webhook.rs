//! A webhook that decides nothing: the floor that ImageSwap's speed is measured against.
//!
//! `cargo run -p chaos -- bench` builds and starts it. It is ImageSwap's own accept loop, TLS
//! settings, table of connections, and hyper ([`imageswap::server::Endpoint`]), with the same
//! runtime, the same heap and the same certificate in a directory. Only what answers a request is another: one
//! function, without a router.
//!
//! What it does: takes each request's body off the wire and throws it away, and answers 200 with
//! the same AdmissionReview, whatever was asked. What it does not do: look at method, path or
//! headers; keep, parse or bound the body; give the review's `uid` back; count or time requests;
//! shed load, keep a deadline, or catch a panic. So all of that is in ImageSwap's share.
//!
//! With `--patch` the constant has one, so that kube-apiserver's own cost of taking a patch can be told from
//! that of a webhook that finds out which.
//!
//! The constant is of version v1beta1, where kube-apiserver does not compare the `uid`: register it
//! with `admissionReviewVersions: ["v1beta1"]`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use axum::body::Body;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Parser;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body_util::BodyExt;
use imageswap::cluster::local::StateDir;
use imageswap::server::lifecycle::{Lifecycle, Phase};
use imageswap::server::tls::ServingCert;
use imageswap::server::{self, Arrival, Endpoint, Patience, Places};
use imageswap::telemetry::metrics::Metrics;
use serde_json::json;
use time::OffsetDateTime;

/// As ImageSwap's.
#[cfg(target_arch = "x86_64")]
#[global_allocator]
static HEAP: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Answers every request with the same AdmissionReview, over ImageSwap's own TLS and HTTP.
#[derive(Debug, Parser)]
struct Args {
    /// Where reviews come in, over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:5000")]
    listen: SocketAddr,

    /// Where certificate, key and ca.crt are kept
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,

    /// Connections open at once, as for `imageswap serve`
    #[arg(long, value_name = "N", default_value = "1024")]
    max_connections: usize,

    /// A JSON patch to send with each answer
    #[arg(long, value_name = "JSON")]
    patch: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(16)
        .build()?;
    runtime.block_on(serve(&args))
}

async fn serve(args: &Args) -> anyhow::Result<()> {
    let dir = StateDir {
        path: args.state_dir.clone(),
    };
    let names = ["localhost".to_owned(), args.listen.ip().to_string()];
    let pair = dir.load_or_mint(
        &dir.turn()?,
        &names,
        time::Duration::days(365),
        OffsetDateTime::now_utc(),
    )?;
    let socket = server::listen(args.listen).with_context(|| {
        format!(
            "can't listen on {}; name another with --listen",
            args.listen
        )
    })?;
    socket.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(socket)?;
    let address = listener.local_addr()?;
    let constant = Bytes::from(constant(args.patch.as_deref()));
    let (metrics, lifecycle) = (Metrics::new()?, Lifecycle::default());
    let endpoint = Endpoint {
        listener,
        tls: Some(ServingCert::new(&pair.pair)?),
        service: move |arrival: Arrival| answer(arrival, constant.clone()),
        places: Places::new(args.max_connections, metrics.clone()),
        // As `imageswap serve` has them.
        patience: Patience {
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(150),
            max_age: Duration::from_secs(600),
        },
        lifecycle: lifecycle.clone(),
        metrics,
    };
    let serving = tokio::spawn(endpoint.serve());
    lifecycle.enter(Phase::Ready);
    let mut out = std::io::stdout();
    writeln!(
        out,
        "null webhook listens on https://localhost:{}/",
        address.port()
    )?;
    out.flush()?;
    Ok(serving.await?)
}

/// What is answered to everything.
fn constant(patch: Option<&str>) -> String {
    let response = match patch {
        None => json!({"uid": "", "allowed": true}),
        Some(patch) => json!({
            "uid": "",
            "allowed": true,
            "patchType": "JSONPatch",
            "patch": STANDARD.encode(patch),
        }),
    };
    let api_version = "admission.k8s.io/v1beta1";
    json!({"apiVersion": api_version, "kind": "AdmissionReview", "response": response}).to_string()
}

async fn answer(arrival: Arrival, constant: Bytes) -> Response {
    drain(arrival.request.into_body()).await;
    let mut response = Response::new(Body::from(constant));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// To its end: what is left of a body on the wire would be taken for the next request.
async fn drain(mut body: Body) {
    while let Some(Ok(_)) = body.frame().await {}
}
