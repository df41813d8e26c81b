//! `imageswap serve` from outside: a process, its files, its signals, TLS and HTTP.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    unreachable_pub,
    missing_docs
)]

#[path = "../../src/cluster/kubernetes/tests/api.rs"]
mod api;
mod brought;
mod brought_cluster;
mod client;
mod client_certs;
mod cluster;
mod drain;
mod hostile;
mod keeper;
mod pem;
mod pre;
mod process;
mod proxy;
mod reload;
mod requests;
mod rotate;
mod start;
