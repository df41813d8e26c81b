//! The two lines that a person needs after the start: where it listens, and a `curl` that works.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::cli::terminal;

/// A review to try the webhook with, where the project's own are not at hand.
const TRY_FILE: &str = "tests/reviews/pod-create-test-pod01.json";
const TRY_REVIEW: &str = r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"1","kind":{"group":"","version":"v1","kind":"Pod"},"operation":"CREATE","object":{"spec":{"containers":[{"name":"web","image":"docker.io/nginx/nginx:latest"}]}}}}"#;

/// The two lines that a person needs. `ca` is what a client here should trust, if it can trust; whether it
/// must show a certificate of its own, which the person has.
pub(super) fn greet(
    address: SocketAddr,
    admin: SocketAddr,
    ca: Option<&Path>,
    asks_clients: bool,
) -> anyhow::Result<()> {
    use std::io::Write;
    let host = |address: SocketAddr| {
        let is_localhost =
            address.ip() == Ipv4Addr::LOCALHOST || address.ip() == Ipv6Addr::LOCALHOST;
        if address.ip().is_unspecified() || is_localhost {
            format!("localhost:{}", address.port())
        } else {
            address.to_string()
        }
    };
    let data = if Path::new(TRY_FILE).is_file() {
        format!("@{TRY_FILE}")
    } else {
        format!("'{TRY_REVIEW}'")
    };
    let url = format!("https://{}/", host(address));
    let trust = match ca {
        Some(ca) => format!("--cacert {}", quoted(ca)),
        None => "--insecure".to_owned(),
    };
    let mut out = terminal::stdout();
    writeln!(
        out,
        "imageswap {} listens on {url} (metrics and probes: http://{}/metrics)",
        env!("CARGO_PKG_VERSION"),
        host(admin),
    )?;
    let own = if asks_clients {
        " --cert YOUR.crt --key YOUR.key"
    } else {
        ""
    };
    writeln!(out, "try: curl {trust}{own} -d {data} {url}")?;
    out.flush()?;
    Ok(())
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
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
