//! The two programs that are measured, compiled with release flags.

use std::io::BufReader;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::cargo::cargo;
use crate::json::text_at;
use crate::progress::say;

/// Where the programs are.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) imageswap: PathBuf,
    pub(super) null_webhook: PathBuf,
}

/// Compiles what is not compiled; cargo itself shows how far it is.
///
/// # Errors
/// cargo fails.
pub(super) fn build() -> anyhow::Result<Built> {
    say("compiling ImageSwap and the null webhook with release flags, 4 minutes the first time");
    let mut cargo = cargo(&["build", "--release", "--locked", "--package", "imageswap"]);
    cargo
        .args(["--bin", "imageswap", "--example", "null_webhook"])
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped());
    let mut cargo = cargo.spawn().context("can't start cargo")?;
    let messages = cargo.stdout.take().context("cargo without output")?;
    let messages = serde_json::Deserializer::from_reader(BufReader::new(messages));
    let mut programs = Vec::new();
    for message in messages.into_iter::<Value>() {
        let message = message.context("cargo says what is no JSON")?;
        if let Some(path) = message.get("executable").and_then(Value::as_str) {
            programs.push((text_at(&message, "/target/name").to_owned(), path.into()));
        }
    }
    let ended = cargo.wait()?;
    ensure!(ended.success(), "cargo: {ended}; what it printed says why");
    let find = |wanted: &str| {
        let found = programs.iter().find(|(name, _)| name == wanted);
        let found = found.map(|(_, path): &(String, PathBuf)| path.clone());
        found.with_context(|| format!("cargo compiled no {wanted}"))
    };
    Ok(Built {
        imageswap: find("imageswap")?,
        null_webhook: find("null_webhook")?,
    })
}
