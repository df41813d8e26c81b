//! `imageswap serve` from outside: a process, its files, its signals, TLS and HTTP.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    unreachable_pub,
    missing_docs
)]

mod client;
mod drain;
mod hostile;
mod process;
mod reload;
mod requests;
mod start;
