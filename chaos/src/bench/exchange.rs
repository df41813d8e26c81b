//! What is asked, and what must come back.
//!
//! The first answer is parsed and judged, and becomes the template of all others: from then on
//! bytes are compared, which costs the client next to nothing and lets nothing through.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::server::Kind;
use crate::json::{at, text_at};

/// The rules that ImageSwap has.
pub(super) const MAPS: &str = "\
docker.io::mirror.example.com/docker.io
quay.io::mirror.example.com/quay.io
ghcr.io::mirror.example.com/ghcr.io
default::
";

/// The registries that these rules mirror; all others stay.
const MIRRORED: [&str; 3] = ["docker.io", "quay.io", "ghcr.io"];

/// How many digits of a uid differ from request to request.
const DIGITS: usize = 12;

/// A body that is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    Typical,
    Large,
}

impl Body {
    pub(super) const ALL: [Self; 2] = [Self::Typical, Self::Large];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Typical => "typical",
            Self::Large => "large",
        }
    }

    /// An AdmissionReview as kube-apiserver sends it.
    pub(super) const fn bytes(self) -> &'static [u8] {
        match self {
            Self::Typical => include_bytes!("../../../benches/bodies/typical.json"),
            Self::Large => include_bytes!("../../../benches/bodies/large.json"),
        }
    }
}

/// A request, to be sent as often as one likes.
#[derive(Debug, Clone)]
pub(super) struct Request {
    bytes: Vec<u8>,
    /// Where the digits of its uid are that differ.
    digits: Range<usize>,
}

/// An answer that was judged, as the template of others.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    bytes: Vec<u8>,
    digits: Option<Range<usize>>,
    date: Option<Range<usize>>,
}

impl Request {
    /// As kube-apiserver makes it.
    ///
    /// # Errors
    /// The body has not one uid.
    pub(super) fn new(body: &[u8]) -> anyhow::Result<Self> {
        let review: Value = serde_json::from_slice(body)?;
        let uid = text_at(&review, "/request/uid");
        let head = format!(
            "POST /?timeout=10s HTTP/1.1\r\nHost: imageswap.imageswap-system.svc:443\r\n\
             User-Agent: kube-apiserver-admission\r\nContent-Length: {}\r\n\
             Accept: application/json, */*\r\nContent-Type: application/json\r\n\
             Accept-Encoding: gzip\r\n\r\n",
            body.len()
        );
        let bytes = [head.as_bytes(), body].concat();
        let at = only(&bytes, uid.as_bytes()).context("the body has not one uid")?;
        let end = at + uid.len();
        let digits = end.checked_sub(DIGITS).context("a short uid")?..end;
        Ok(Self { bytes, digits })
    }

    /// With the uid that is in the file.
    pub(super) fn as_it_is(&self) -> &[u8] {
        &self.bytes
    }

    /// With a uid of its own.
    pub(super) fn number(&mut self, n: u64) -> &[u8] {
        write_digits(&mut self.bytes, &self.digits, n);
        &self.bytes
    }
}

impl Answer {
    /// Judges an answer to a request of which this was the body.
    ///
    /// # Errors
    /// It is not what the kind of server must answer.
    pub(super) fn judge(kind: Kind, body: &[u8], bytes: Vec<u8>) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(&bytes).context("the answer is no text")?;
        let (head, answer) = text
            .split_once("\r\n\r\n")
            .context("an answer without end")?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "it answers {text}");
        let lower = head.to_ascii_lowercase();
        ensure!(!lower.contains("connection: close"), "it closes: {head}");
        let answer: Value = serde_json::from_str(answer).context("the answer is no JSON")?;
        ensure!(text_at(&answer, "/kind") == "AdmissionReview", "{answer}");
        ensure!(at(&answer, "/response/allowed") == true, "{answer}");
        let date = lower.find("\r\ndate: ").map(|at| {
            let from = at + "\r\ndate: ".len();
            let length = lower.get(from..).and_then(|rest| rest.find('\r'));
            from..length.map_or(lower.len(), |length| from + length)
        });
        let digits = match kind {
            Kind::Null(patch) => {
                let has_patch = !at(&answer, "/response/patch").is_null();
                ensure!(has_patch == patch.is_some(), "{answer}");
                None
            }
            Kind::ImageSwap => {
                let review = serde_json::from_slice(body)?;
                judge_review(&review, &answer)?;
                let uid = text_at(&answer, "/response/uid").as_bytes();
                let at = only(&bytes, uid).context("the uid comes twice")?;
                Some(at + uid.len() - DIGITS..at + uid.len())
            }
        };
        Ok(Self {
            bytes,
            digits,
            date,
        })
    }

    /// How many bytes each has.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether these are the answer to the request of this number, and if not, what they are.
    ///
    /// # Errors
    /// They are another.
    pub(super) fn check(&mut self, n: u64, got: &[u8]) -> anyhow::Result<()> {
        if let Some(digits) = &self.digits {
            write_digits(&mut self.bytes, digits, n);
        }
        // The date's place is skipped.
        let date = self.date.clone().unwrap_or(0..0);
        let is_same = |range: Range<usize>| self.bytes.get(range.clone()) == got.get(range);
        let whole = got.len() == self.bytes.len();
        if whole && is_same(0..date.start) && is_same(date.end..got.len()) {
            return Ok(());
        }
        bail!(
            "request {n} was answered with\n{}\nin place of\n{}",
            String::from_utf8_lossy(got),
            String::from_utf8_lossy(&self.bytes)
        )
    }
}

/// uid, and that the patch makes of each image what the rules say.
fn judge_review(review: &Value, answer: &Value) -> anyhow::Result<()> {
    ensure!(
        at(answer, "/response/uid") == at(review, "/request/uid"),
        "another uid: {answer}"
    );
    let mut wanted = BTreeMap::new();
    for list in ["initContainers", "containers"] {
        let containers = at(review, &format!("/request/object/spec/{list}"));
        for (n, container) in containers.as_array().into_iter().flatten().enumerate() {
            if let Some(image) = swapped(text_at(container, "/image")) {
                wanted.insert(format!("/spec/{list}/{n}/image"), image);
            }
        }
    }
    let patch = STANDARD.decode(text_at(answer, "/response/patch"))?;
    let patch: Value = serde_json::from_slice(&patch).context("the patch is no JSON")?;
    let mut found = BTreeMap::new();
    for operation in patch.as_array().context("the patch is no list")? {
        ensure!(text_at(operation, "/op") == "replace", "{operation}");
        let path = text_at(operation, "/path").to_owned();
        found.insert(path, text_at(operation, "/value").to_owned());
    }
    ensure!(
        found == wanted,
        "the patch is {found:?}, and should be {wanted:?}"
    );
    Ok(())
}

/// What [`MAPS`] make of an image; `None` if it stays.
fn swapped(image: &str) -> Option<String> {
    let (first, rest) = image.split_once('/').unwrap_or(("", image));
    let is_registry = first.contains(['.', ':']) || first == "localhost";
    let (registry, rest) = match is_registry {
        true => (first, rest),
        false => ("docker.io", image),
    };
    let is_mirrored = MIRRORED.contains(&registry);
    is_mirrored.then(|| format!("mirror.example.com/{registry}/{rest}"))
}

/// Where the needle is, if it is there once.
fn only(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let mut found = hay.windows(needle.len()).enumerate();
    let mut found = found.by_ref().filter(|(_, window)| *window == needle);
    let (at, _) = found.next()?;
    found.next().is_none().then_some(at)
}

fn write_digits(bytes: &mut [u8], place: &Range<usize>, mut n: u64) {
    for byte in bytes.get_mut(place.clone()).into_iter().flatten().rev() {
        let digit = u32::try_from(n & 15).unwrap_or_default();
        *byte = char::from_digit(digit, 16).map_or(b'0', |digit| digit as u8);
        n >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use imageswap::admission::review;
    use imageswap::maps::{Maps, Rules};

    fn answer_to(body: &[u8]) -> Vec<u8> {
        let (maps, errors) = Maps::parse(MAPS.as_bytes()).unwrap();
        assert!(errors.listed().is_empty(), "{errors:?}");
        let rules = Rules::Maps(Box::new(maps));
        let reply = review(body, &rules, "k8s.twr.io/imageswap").unwrap();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\ndate: Thu, 26 Nov 2026 23:00:00 GMT\r\n\r\n",
            reply.body.len()
        );
        [head.into_bytes(), reply.body].concat()
    }

    /// With one text in place of another.
    fn other(answer: &[u8], from: &str, to: &str) -> Vec<u8> {
        let text = std::str::from_utf8(answer).unwrap();
        assert!(text.contains(from), "{text}");
        text.replacen(from, to, 1).into_bytes()
    }

    #[test]
    fn what_becomes_of_images() {
        for (image, expected) in [
            (
                "nginx:1.25",
                Some("mirror.example.com/docker.io/nginx:1.25"),
            ),
            ("a/b", Some("mirror.example.com/docker.io/a/b")),
            ("docker.io/a/b", Some("mirror.example.com/docker.io/a/b")),
            ("quay.io/a/b:1", Some("mirror.example.com/quay.io/a/b:1")),
            ("gcr.io/a/b", None),
            ("localhost/a", None),
            ("host:5000/a", None),
        ] {
            assert_eq!(swapped(image).as_deref(), expected, "{image}");
        }
    }

    #[test]
    fn the_webhook_s_own_answers_are_right_and_all_others_are_not() {
        for body in Body::ALL.map(Body::bytes) {
            let good = answer_to(body);
            Answer::judge(Kind::ImageSwap, body, good.clone()).unwrap();
            for (from, to) in [
                ("200 OK", "500 Oh"),
                ("\"allowed\":true", "\"allowed\":false"),
                ("\"uid\":\"", "\"uid\":\"0"),
                ("\"patch\":\"", "\"patch\":\"W10=\",\"was\":\""),
                ("date:", "connection: close\r\ndate:"),
            ] {
                let bad = other(&good, from, to);
                let judged = Answer::judge(Kind::ImageSwap, body, bad);
                assert!(judged.is_err(), "{from}");
            }
            // A null webhook does not patch.
            assert!(Answer::judge(Kind::Null(None), body, good).is_err());
        }
    }

    #[test]
    fn an_answer_may_differ_in_date_and_must_in_uid() {
        let body = Body::Typical.bytes();
        let mut request = Request::new(body).unwrap();
        let sent = request.number(0xabc).to_vec();
        let (_, sent) = std::str::from_utf8(&sent)
            .unwrap()
            .split_once("\r\n\r\n")
            .unwrap();
        let got = answer_to(sent.as_bytes());
        let mut answer = Answer::judge(Kind::ImageSwap, body, answer_to(body)).unwrap();
        assert!(answer.check(0xabd, &got).is_err());
        answer.check(0xabc, &got).unwrap();
        answer
            .check(0xabc, &other(&got, "23:00:00", "23:59:59"))
            .unwrap();
        for bad in [
            other(&got, "true", "trus"),
            other(&got, "HTTP", "HTTQ"),
            other(&got, "}}", "}"),
            [&got[..], b"x"].concat(),
        ] {
            assert!(answer.check(0xabc, &bad).is_err());
        }
    }
}
