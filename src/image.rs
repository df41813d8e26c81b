//! Image references: parse, split, print. Borrowed, no allocation to parse.
//!
//! `[registry/]path[:tag][@digest]`, by the grammar of the distribution project's reference
//! package (v0.6.0, `regexp.go` and `normalize.go`). Two things are wider here, as the recorded
//! cases of `tests/compat` want it: an IPv6 address in brackets may end in an IPv4 address
//! (`[::ffff:10.0.0.1]:5000/app`), and a path may be longer than 255 bytes.
//!
//! No character of a reference needs an escape in JSON: patches hold them as they are.
//!
//! Pure: no I/O, no clock. `docs/maps.md` describes the same for users.

use std::fmt;

/// The registry that is meant where none is written.
pub const DOCKER_HUB: &str = "docker.io";

/// Another name of [`DOCKER_HUB`], from the time of its first index.
pub const DOCKER_HUB_INDEX: &str = "index.docker.io";

/// Where Docker Hub keeps its official images: `nginx` is `docker.io/library/nginx`.
const LIBRARY: &str = "library/";

/// The longest reference, in bytes. The grammar bounds neither host nor digest; nothing that a
/// registry serves comes near this.
pub const MAX_REFERENCE: usize = 4096;

/// The longest tag, in bytes.
const MAX_TAG: usize = 128;

/// The fewest hexadecimal digits in a digest.
const MIN_DIGEST_HEX: usize = 32;

/// A valid image reference, split, borrowing the text it was parsed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference<'a> {
    text: &'a str,
    registry: Option<Registry<'a>>,
    /// Behind the registry and its slash: path, tag and digest, byte for byte.
    tail: &'a str,
    path: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

/// A registry as written in a reference: a host and perhaps a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registry<'a> {
    /// Host and port as written.
    pub text: &'a str,
    /// A domain name, an IPv4 address, or an IPv6 address with its brackets.
    pub host: &'a str,
    /// The port's digits.
    pub port: Option<&'a str>,
}

/// Why a text is no image reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing is there.
    #[error("it is empty")]
    Empty,
    /// What stands before the first slash looks like a registry and is none.
    #[error("its registry is not HOST or HOST:PORT")]
    Registry,
    /// It is longer than 4,096 bytes.
    #[error("it is longer than 4,096 characters")]
    TooLong,
    /// A path component breaks the grammar.
    #[error(
        "its path is not made of lower-case letters and digits, joined by '.', '_', '__' or dashes, with '/' between the components"
    )]
    Path,
    /// The tag breaks the grammar.
    #[error("its tag is not 1 to 128 letters, digits, '_', '.' or '-', starting with none of '.-'")]
    Tag,
    /// The digest breaks the grammar.
    #[error("its digest is not ALGORITHM:HEX with at least 32 hexadecimal digits")]
    Digest,
    /// 64 hexadecimal digits name a local image, not one that can be pulled.
    #[error("64 hexadecimal digits are an image's local identifier, not a name")]
    Identifier,
}

// === impl Reference ===

impl<'a> Reference<'a> {
    /// Splits a reference.
    ///
    /// # Errors
    /// Says which part breaks the grammar.
    pub fn parse(text: &'a str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::Empty);
        }
        if text.len() > MAX_REFERENCE {
            return Err(Error::TooLong);
        }
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(Error::Identifier);
        }
        let (registry, tail) = match cut(text, b'/') {
            Some((first, rest)) if names_registry(first) => (Some(Registry::parse(first)?), rest),
            _ => (None, text),
        };
        let (name, digest) = split(tail, b'@');
        let (path, tag) = split(name, b':');
        if !is_path(path) {
            return Err(Error::Path);
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(Error::Tag);
        }
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(Error::Digest);
        }
        Ok(Self {
            text,
            registry,
            tail,
            path,
            tag,
            digest,
        })
    }

    /// The whole reference as it was written.
    pub fn as_str(&self) -> &'a str {
        self.text
    }

    /// The registry as written, if one is.
    pub fn registry(&self) -> Option<Registry<'a>> {
        self.registry
    }

    /// The registry's host: `docker.io` where none is written, and for `index.docker.io`.
    pub fn host(&self) -> &'a str {
        self.registry
            .map_or(DOCKER_HUB, |registry| canonical_host(registry.host))
    }

    /// The registry's port, if one is written.
    pub fn port(&self) -> Option<&'a str> {
        self.registry.and_then(|registry| registry.port)
    }

    /// The repository below the registry, as written: `library/` is not added.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The tag, byte for byte.
    pub fn tag(&self) -> Option<&'a str> {
        self.tag
    }

    /// The digest, byte for byte.
    pub fn digest(&self) -> Option<&'a str> {
        self.digest
    }

    /// All behind the registry and its slash: path, tag and digest, byte for byte.
    pub fn tail(&self) -> &'a str {
        self.tail
    }

    /// The last path component with tag and digest, byte for byte.
    pub fn last(&self) -> &'a str {
        // A slash can stand in neither tag nor digest.
        memchr::memrchr(b'/', self.text.as_bytes())
            .and_then(|slash| self.text.get(slash + 1..))
            .unwrap_or(self.text)
    }

    /// Of a library image (Docker Hub, one path component or `library/` and one): all behind
    /// `library/`, with tag and digest. A registry with a port is never Docker Hub.
    pub fn library_tail(&self) -> Option<&'a str> {
        if !self.is_docker_hub() {
            return None;
        }
        match cut(self.path, b'/') {
            None => Some(self.tail),
            Some((_, name)) if cut(name, b'/').is_some() => None,
            Some(_) => self.tail.strip_prefix(LIBRARY),
        }
    }

    fn is_docker_hub(&self) -> bool {
        self.port().is_none() && self.host() == DOCKER_HUB
    }
}

impl fmt::Display for Reference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = self.registry {
            write!(f, "{}/", registry.text)?;
        }
        f.write_str(self.path)?;
        if let Some(tag) = self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

// === impl Registry ===

impl<'a> Registry<'a> {
    /// Splits `HOST[:PORT]`.
    ///
    /// # Errors
    /// [`Error::Registry`] if it breaks the grammar.
    pub fn parse(text: &'a str) -> Result<Self, Error> {
        let host_end = match text.strip_prefix('[') {
            Some(rest) => memchr::memchr(b']', rest.as_bytes()).ok_or(Error::Registry)? + 2,
            None => memchr::memchr(b':', text.as_bytes()).unwrap_or(text.len()),
        };
        let (host, rest) = text.split_at_checked(host_end).ok_or(Error::Registry)?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(port),
            None if rest.is_empty() => None,
            None => return Err(Error::Registry),
        };
        let port_is_sound =
            port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
        if port_is_sound && is_host(host) {
            Ok(Self { text, host, port })
        } else {
            Err(Error::Registry)
        }
    }
}

/// Whether `TEXT/PATH[:TAG][@DIGEST]` is a reference for every path, tag and digest of a reference, unless that is
/// too long. A registry, and a registry with a path, is such a prefix.
pub fn is_prefix(text: &str) -> bool {
    match cut(text, b'/') {
        Some((first, path)) if names_registry(first) => {
            Registry::parse(first).is_ok() && is_path(path)
        }
        None if names_registry(text) => Registry::parse(text).is_ok(),
        _ => is_path(text),
    }
}

/// `docker.io` for its old name, any other host as it is.
pub fn canonical_host(host: &str) -> &str {
    if host == DOCKER_HUB_INDEX {
        DOCKER_HUB
    } else {
        host
    }
}

// === the grammar ===

/// Whether the first component of a reference is its registry.
pub(crate) fn names_registry(first: &str) -> bool {
    first == "localhost" || first.bytes().any(|b| is(b, REGISTRY_MARK))
}

fn split(text: &str, at: u8) -> (&str, Option<&str>) {
    match cut(text, at) {
        Some((before, behind)) => (before, Some(behind)),
        None => (text, None),
    }
}

/// As `split_once`, which takes four times as long over a text as short as an image.
fn cut(text: &str, at: u8) -> Option<(&str, &str)> {
    let place = memchr::memchr(at, text.as_bytes())?;
    Some((text.get(..place)?, text.get(place + 1..)?))
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => is_ipv6(address),
        None => is_domain(host),
    }
}

/// The reference package takes any row of hexadecimal digits and colons. Without a colon it is no address, and
/// without a port or a capital no registry to that package either.
fn is_ipv6(address: &str) -> bool {
    let is_row = |b: u8| b.is_ascii_hexdigit() || b == b':';
    address.contains(':')
        && (address.bytes().all(is_row) || address.parse::<std::net::Ipv6Addr>().is_ok())
}

/// Rows of letters, digits and inner dashes, joined by dots.
fn is_domain(host: &str) -> bool {
    let mut before = b'.';
    for b in host.bytes() {
        let follows = match b {
            b'.' => before != b'.' && before != b'-',
            b'-' => before != b'.',
            _ => is(b, ALPHANUMERIC),
        };
        if !follows {
            return false;
        }
        before = b;
    }
    before != b'.' && before != b'-'
}

/// `[a-z0-9]+` rows, joined by a slash, one dot, one or two underscores, or any number of dashes.
fn is_path(path: &str) -> bool {
    let mut bytes = path.bytes().peekable();
    let mut in_word = false;
    while let Some(b) = bytes.next() {
        if is(b, LOWER_OR_DIGIT) {
            in_word = true;
            continue;
        }
        match b {
            _ if !in_word => return false,
            b'/' | b'.' => {}
            b'_' => _ = bytes.next_if_eq(&b'_'),
            b'-' => while bytes.next_if_eq(&b'-').is_some() {},
            _ => return false,
        }
        in_word = false;
    }
    in_word
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= MAX_TAG
        && !tag.starts_with(['.', '-'])
        && !tag.is_empty()
        && tag.bytes().all(|b| is(b, IN_TAG))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = cut(digest, b':') else {
        return false;
    };
    algorithm.split(['-', '_', '+', '.']).all(|part| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.bytes().all(|b| is(b, ALPHANUMERIC))
    }) && hex.len() >= MIN_DIGEST_HEX
        && is_hex(hex)
}

/// Looks at all digits before it says so, since the compiler then takes many at once.
fn is_hex(digits: &str) -> bool {
    let is_digit = |b: u8| b.wrapping_sub(b'0') < 10 || (b | 0x20).wrapping_sub(b'a') < 6;
    digits.bytes().fold(true, |all, b| all & is_digit(b))
}

// What a byte may be, each a bit: an image is looked at byte by byte, twice for each swap.
const LOWER_OR_DIGIT: u8 = 1;
const ALPHANUMERIC: u8 = 2;
const IN_TAG: u8 = 4;
const REGISTRY_MARK: u8 = 8;

#[allow(clippy::indexing_slicing)] // the compiler evaluates it
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut b = 0_u8;
    loop {
        let lower_or_digit = b.is_ascii_lowercase() || b.is_ascii_digit();
        let in_tag = b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let mark = matches!(b, b'.' | b':' | b'[') || b.is_ascii_uppercase();
        classes[b as usize] = (LOWER_OR_DIGIT * lower_or_digit as u8)
            | (ALPHANUMERIC * b.is_ascii_alphanumeric() as u8)
            | (IN_TAG * in_tag as u8)
            | (REGISTRY_MARK * mark as u8);
        if b == u8::MAX {
            break classes;
        }
        b += 1;
    }
};

fn is(b: u8, class: u8) -> bool {
    CLASSES
        .get(usize::from(b))
        .is_some_and(|classes| classes & class != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_taken_apart_and_nothing_is_lost() {
        let full = "localhost:5000/a/b_c:v1@sha256:0123456789abcdef0123456789abcdef";
        let reference = Reference::parse(full).unwrap();
        assert_eq!(reference.host(), "localhost");
        assert_eq!(reference.port(), Some("5000"));
        assert_eq!(reference.path(), "a/b_c");
        assert_eq!(reference.tag(), Some("v1"));
        assert_eq!(
            reference.digest(),
            Some("sha256:0123456789abcdef0123456789abcdef")
        );
        assert_eq!(
            reference.last(),
            "b_c:v1@sha256:0123456789abcdef0123456789abcdef"
        );
        assert_eq!(reference.to_string(), full);
    }

    #[test]
    fn no_character_of_a_reference_needs_an_escape_in_json() {
        let hex = "0".repeat(32);
        let parts = [
            ("", "host.io/a"),
            ("host", ".io:5000/a"),
            ("host.io:50", "00/a"),
            ("[::", "1]:5000/a"),
            ("host.io/a", "b/c:d"),
            ("host.io/a:t", "ag"),
            ("host.io/a@sha", "256:"),
            ("host.io/a@sha256:0", ""),
        ];
        for (before, behind) in parts {
            let hex = if before.contains('@') { &*hex } else { "" };
            let with = |middle: &str| format!("{before}{middle}{behind}{hex}");
            assert!(Reference::parse(&with("1")).is_ok(), "{before}1{behind}");
            for odd in (0..0x20).chain(*b"\"\\").map(char::from) {
                let text = with(&odd.to_string());
                assert!(Reference::parse(&text).is_err(), "{text:?}");
                assert!(!is_prefix(&text), "{text:?}");
            }
        }
    }

    #[test]
    fn the_registry_is_what_stands_before_the_first_slash_if_it_looks_like_one() {
        for (image, host, port) in [
            ("nginx", "docker.io", None),
            ("a/b", "docker.io", None),
            ("nginx:1", "docker.io", None),
            ("docker.io/nginx", "docker.io", None),
            ("index.docker.io/nginx", "docker.io", None),
            ("index.docker.io:443/nginx", "docker.io", Some("443")),
            ("localhost/a", "localhost", None),
            ("myhost:1/a", "myhost", Some("1")),
            ("MYHOST/a", "MYHOST", None),
            ("a.b/c", "a.b", None),
            ("[::1]/c", "[::1]", None),
            ("[::1]:5000/c", "[::1]", Some("5000")),
            (
                "[::ffff:10.0.0.1]:5000/c",
                "[::ffff:10.0.0.1]",
                Some("5000"),
            ),
        ] {
            let reference = Reference::parse(image).unwrap();
            assert_eq!(
                (reference.host(), reference.port()),
                (host, port),
                "{image}"
            );
        }
    }

    #[test]
    fn a_prefix_is_what_makes_a_reference_of_any_path() {
        let firsts = [
            "",
            "a",
            "A",
            "a.b",
            "-a.b",
            "a:1",
            "a:",
            "localhost",
            "[::1]",
            "[::1]:5",
            "[x]",
            "a_b",
            "a@b",
        ];
        let rests = [
            "",
            "/",
            "/b",
            "/b/c_d",
            "/B",
            "/b:1",
            "/b@sha256",
            "//b",
            "/b/",
            "-",
            ":80",
        ];
        let hex = "0123456789abcdef".repeat(4);
        let digest = format!("n@sha256:{hex}");
        let tails = ["n", "m/n:v1", &digest, &hex];
        let mut count = 0;
        for first in firsts {
            for rest in rests {
                let text = format!("{first}{rest}");
                let mut all = tails.map(|tail| Reference::parse(&format!("{text}/{tail}")).is_ok());
                all.sort_unstable();
                assert_eq!(all, [is_prefix(&text); 4], "{text:?}");
                count += usize::from(is_prefix(&text));
            }
        }
        assert!((20..100).contains(&count), "{count}");
    }

    #[test]
    fn only_docker_hub_has_library_images() {
        for (image, library_tail) in [
            ("nginx:1", Some("nginx:1")),
            ("library/nginx", Some("nginx")),
            ("docker.io/nginx", Some("nginx")),
            ("index.docker.io/library/nginx", Some("nginx")),
            ("docker.io:443/nginx", None),
            ("docker.io/library/a/b", None),
            ("library", Some("library")),
            ("quay.io/library/nginx", None),
            ("a/b", None),
        ] {
            let reference = Reference::parse(image).unwrap();
            assert_eq!(reference.library_tail(), library_tail, "{image}");
        }
    }

    #[test]
    fn what_is_no_reference() {
        let long_host = format!("{}.io/a", "a".repeat(4096));
        let long_tag = format!("a:{}", "t".repeat(129));
        let identifier = "0123456789abcdef".repeat(4);
        for (image, error) in [
            ("", Error::Empty),
            (" nginx", Error::Path),
            ("nginx\n", Error::Path),
            ("/nginx", Error::Path),
            ("a//b", Error::Path),
            ("quay.io/", Error::Path),
            ("NGINX", Error::Path),
            ("a___b", Error::Path),
            ("a..b", Error::Path),
            ("a-", Error::Path),
            ("b\u{fc}cher/x", Error::Path),
            ("b\u{fc}cher.example/x", Error::Registry),
            ("http://quay.io/x", Error::Registry),
            ("-a.io/x", Error::Registry),
            ("a-.io/x", Error::Registry),
            ("a.io-/x", Error::Registry),
            ("a..io/x", Error::Registry),
            ("[::1/x", Error::Registry),
            ("[]/x", Error::Registry),
            ("[abcd]/x", Error::Registry),
            ("[::1]5/x", Error::Registry),
            ("[1.2.3.4]/x", Error::Registry),
            ("a.io:/x", Error::Registry),
            ("nginx:", Error::Tag),
            ("nginx:a b", Error::Tag),
            ("nginx:.a", Error::Tag),
            ("nginx:-a", Error::Tag),
            (long_tag.as_str(), Error::Tag),
            ("nginx@", Error::Digest),
            ("nginx@sha256:abc", Error::Digest),
            ("nginx@:0123456789abcdef0123456789abcdef", Error::Digest),
            (long_host.as_str(), Error::TooLong),
            (identifier.as_str(), Error::Identifier),
        ] {
            assert_eq!(Reference::parse(image), Err(error), "{image:?}");
        }
    }
}
