//! The two lines that a person needs after the start: where it listens, and a `curl` that works.

use std::net::SocketAddr;

use crate::cli::terminal;
use crate::cluster::local::StateDir;

/// A review to try the webhook with, where the project's own are not at hand.
const TRY_FILE: &str = "tests/reviews/pod-create-test-pod01.json";
const TRY_REVIEW: &str = r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"1","kind":{"group":"","version":"v1","kind":"Pod"},"operation":"CREATE","object":{"spec":{"containers":[{"name":"web","image":"docker.io/nginx/nginx:latest"}]}}}}"#;

/// The two lines that a person needs.
pub(super) fn greet(address: SocketAddr, admin: SocketAddr, dir: &StateDir) -> anyhow::Result<()> {
    use std::io::Write;
    let host = |address: SocketAddr| {
        if address.ip().is_unspecified() || address.ip().is_loopback() {
            format!("localhost:{}", address.port())
        } else {
            address.to_string()
        }
    };
    let data = if std::path::Path::new(TRY_FILE).is_file() {
        format!("@{TRY_FILE}")
    } else {
        format!("'{TRY_REVIEW}'")
    };
    let (ca, url) = (dir.ca(), format!("https://{}/", host(address)));
    let mut out = terminal::stdout();
    writeln!(
        out,
        "imageswap {} listens on {url} (metrics and probes: http://{}/metrics)",
        env!("CARGO_PKG_VERSION"),
        host(admin),
    )?;
    writeln!(out, "try: curl --cacert {} -d {data} {url}", quoted(&ca))?;
    out.flush()?;
    Ok(())
}

/// A path as a shell takes it.
fn quoted(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@%".contains(c);
    if text.chars().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_a_shell() {
        assert_eq!(quoted("/a/b-c.d".as_ref()), "/a/b-c.d");
        assert_eq!(quoted("/a b/it's".as_ref()), r"'/a b/it'\''s'");
    }
}
