//! What is probably not meant in a map file whose lines all are rules.
//!
//! Each finding is a warning: the file is used as it is.

use super::book::Kind;
use super::diagnostic::{Diagnostic, Findings, Place};
use super::glob::Pattern;
use super::index::RuleId;
use super::sample::{can_swap, sample_results};
use super::{LIBRARY_KEY, Maps, canonical_key, feed};
use crate::image::{self, Reference, Registry};
use crate::text::shortened;

/// How many characters of a key or a result are shown.
const SHOWN: usize = 200;

pub(super) fn lint(maps: &Maps) -> Findings {
    let mut findings = Findings::default();
    for found in [none_applies(maps), no_default(maps)].into_iter().flatten() {
        findings.warning(|| found);
    }
    for id in maps.book.ids() {
        let found = [
            key(maps, id),
            key_without_port(maps, id),
            value(maps, id),
            no_registry(maps, id),
            any_host(maps, id),
            digest(maps, id),
            item(maps, id),
        ];
        for found in found.into_iter().flatten() {
            findings.warning(|| found);
        }
    }
    findings.append(feed::feeds(maps));
    findings
}

/// Whether some rule could ever apply to an image.
pub(super) fn has_live_rule(maps: &Maps) -> bool {
    let makes_none = |id| sample_results(maps, id)[0].is_some() && !can_swap(maps, id);
    let is_live = |id| {
        let is_rule = maps.book.kind(id).is_some();
        is_rule && key(maps, id).is_none() && !makes_none(id) && !is_of_an_error_page(maps, id)
    };
    maps.book.ids().any(is_live)
}

/// As in "404: Not Found", which reads as a rule for images at `404:PORT/…`, or in "Error: timeout", as one for those at
/// `Error/…`.
fn is_of_an_error_page(maps: &Maps, id: RuleId) -> bool {
    let key = maps.book.key(id).to_ascii_lowercase();
    !maps.book.text(id).contains("::") && is_bare_word(maps, id, &key)
}

/// Whether the key is a registry's that only a port makes one.
fn wants_port(maps: &Maps, id: RuleId) -> bool {
    is_bare_word(maps, id, maps.book.key(id))
}

/// Whether the rule is a registry's, of which so written a key is none by itself.
fn is_bare_word(maps: &Maps, id: RuleId, key: &str) -> bool {
    let key = canonical_key(key);
    maps.book.kind(id) == Some(Kind::Registry)
        && Registry::parse(key).is_ok()
        && !image::names_registry(key)
}

/// A key that no image can match.
fn key(maps: &Maps, id: RuleId) -> Option<Diagnostic> {
    let key = maps.book.key(id);
    let (why, help) = match maps.book.kind(id)? {
        Kind::Exact => {
            let error = Reference::parse(key).err()?;
            let help = "the key is compared with the image as a whole, as written".to_owned();
            (
                format!("no image can be {:?}: {error}", shortened(key, SHOWN)),
                help,
            )
        }
        Kind::Replace if Pattern::parse(key).is_none() => (
            format!("no image reference can match {:?}", shortened(key, SHOWN)),
            "image references are ASCII; \"*\", \"?\", \"[seq]\" and \"[!seq]\" are special"
                .to_owned(),
        ),
        Kind::Registry => registry_key(canonical_key(key))?,
        _ => return None,
    };
    let place = maps.book.key_place(id, "never matches");
    Some(Diagnostic::warning("key-never-matches", place, why).help(help))
}

/// A key that hardly any image can match: that of Docker Hub's images which begin so was meant, perhaps.
fn key_without_port(maps: &Maps, id: RuleId) -> Option<Diagnostic> {
    if !wants_port(maps, id) {
        return None;
    }
    let key = shortened(maps.book.key(id), SHOWN);
    let place = maps.book.key_place(id, "no dot, no port");
    let message = format!("{key:?} matches only images with a port, such as {key}:5000/app");
    Some(
        Diagnostic::warning("key-wants-port", place, message).help(format!(
            "if images of Docker Hub are meant, write [EXACT]{key}::RESULT for one, or [REPLACE]{key}/*::VALUE for those \
             below a path"
        )),
    )
}

fn registry_key(key: &str) -> Option<(String, String)> {
    if key == LIBRARY_KEY || Registry::parse(key).is_ok() {
        return None;
    }
    if let Some((_, bare)) = key.split_once("://") {
        let said = format!(
            "{:?} is no registry: a key has no scheme",
            shortened(key, SHOWN)
        );
        return Some((said, help_with_path(bare)));
    }
    if let Some(registry) = key.strip_suffix("/library") {
        return Some((
            format!(
                "{} has no library images: only docker.io, without a port, has",
                shortened(registry, SHOWN)
            ),
            "for a path below another registry write [REPLACE]REGISTRY/library/*::VALUE".to_owned(),
        ));
    }
    if key.contains('/') {
        return Some((
            format!(
                "{:?} is no registry: a key has no path",
                shortened(key, SHOWN)
            ),
            help_with_path(key),
        ));
    }
    Some((
        format!(
            "{:?} is no registry: HOST or HOST:PORT is one",
            shortened(key, SHOWN)
        ),
        "a key is a registry, default, noswap_wildcards, [EXACT]IMAGE or [REPLACE]PATTERN"
            .to_owned(),
    ))
}

/// What may have been meant by a registry with a path.
fn help_with_path(key: &str) -> String {
    let bare = key.trim_end_matches('/');
    if bare == LIBRARY_KEY || Registry::parse(bare).is_ok() {
        return format!("write {}::VALUE", shortened(bare, SHOWN));
    }
    let of_hub = bare.strip_prefix("docker.io/").filter(|_| bare == key);
    let name = of_hub.map(|path| path.strip_prefix("library/").unwrap_or(path));
    match name.filter(|name| !name.contains('/')) {
        Some(_) => {
            "for one image write [EXACT]IMAGE::RESULT, as the image is written in Pods".to_owned()
        }
        None => "for images below a path write [REPLACE]REGISTRY/PATH/*::VALUE".to_owned(),
    }
}

/// A value whose results are no references, whatever the image.
fn value(maps: &Maps, id: RuleId) -> Option<Diagnostic> {
    let sample = sample_results(maps, id).into_iter().flatten().next()?;
    let error = Reference::parse(&sample).err()?;
    let is_few = can_swap(maps, id);
    let place = maps
        .book
        .value_place(id, "images that match are left alone");
    let message = match maps.book.kind(id)? {
        Kind::Exact => format!("the result is no image reference: {error}"),
        _ if is_few => format!("hardly any result of this rule is an image reference: {error}"),
        _ => format!("no result of this rule is an image reference: {error}"),
    };
    let help = match (maps.book.kind(id)?, maps.book.value(id)) {
        (Kind::Exact, "") => format!(
            "to leave this image alone, write [EXACT]{key}::{key}",
            key = shortened(maps.book.key(id), SHOWN)
        ),
        _ => format!("an image would become {:?}", shortened(&sample, SHOWN)),
    };
    Some(Diagnostic::warning("value-never-valid", place, message).help(help))
}

/// A value with a digest that the grammar allows and no kubelet takes: it also wants the algorithm to be a known one,
/// and all of its digits, in lower case (OCI image specification, "Registered Algorithms").
fn digest(maps: &Maps, id: RuleId) -> Option<Diagnostic> {
    if maps.book.kind(id)? != Kind::Exact {
        return None;
    }
    let digest = Reference::parse(maps.book.value(id)).ok()?.digest()?;
    let (algorithm, digits) = digest.split_once(':')?;
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => 0,
    };
    if digits.len() == length && !digits.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    let place = maps.book.value_place(id, "no kubelet takes this image");
    let message = match length {
        0 => format!(
            "{:?} is no algorithm of digests",
            shortened(algorithm, SHOWN)
        ),
        _ => format!(
            "a digest of {algorithm} has {length} digits in lower case, and this one has {}",
            digits.len()
        ),
    };
    Some(
        Diagnostic::warning("value-digest", place, message)
            .help("copy the digest anew from the registry"),
    )
}

/// A value that names no registry: what is behind it is then looked for on Docker Hub, where anybody may have
/// that name.
fn no_registry(maps: &Maps, id: RuleId) -> Option<Diagnostic> {
    let kind = maps.book.kind(id)?;
    if kind == Kind::Exact {
        return None;
    }
    // An empty value exempts a registry, and not what a pattern matches.
    if kind == Kind::Replace && maps.book.value(id).is_empty() {
        let place = maps.book.key_place(id, "docker.io is meant");
        let message =
            "an empty value leaves of an image its last component, which is pulled from Docker Hub";
        return Some(
            Diagnostic::warning("value-no-registry", place, message).help(
                "a [REPLACE] line exempts no image: to keep images where they are, name their registry and path as \
                 VALUE",
            ),
        );
    }
    let sample = sample_results(maps, id).into_iter().flatten().next()?;
    if Reference::parse(&sample).ok()?.registry().is_some() {
        return None;
    }
    let target = maps.book.target(id);
    let message = format!(
        "{:?} names no registry, so images are pulled from that path on Docker Hub",
        shortened(target, SHOWN)
    );
    let place = maps.book.value_place(id, "docker.io is meant");
    Some(
        Diagnostic::warning("value-no-registry", place, message).help(format!(
            "a registry has a dot or a port, or is localhost; say docker.io/{} if Docker Hub is meant",
            shortened(target, SHOWN)
        )),
    )
}

/// A value that is the start of a host: whoever may create Pods chooses how it goes on, and anybody may have such a
/// host. Behind a registry's it goes on with that registry, behind the default's with any.
fn any_host(maps: &Maps, id: RuleId) -> Option<Diagnostic> {
    let kind = maps.book.kind(id)?;
    if !matches!(kind, Kind::Registry | Kind::Default) {
        return None;
    }
    // One without a value looks at no rule's target.
    maps.default
        .filter(|default| !maps.book.value(*default).is_empty())?;
    let value = maps.book.value(id);
    let start = value.strip_suffix('-').filter(|_| !value.contains('/'))?;
    // Not what the rule makes of images, but what somebody may write.
    let image = [value, "a.example/a"].concat();
    Reference::parse(&image).ok()?.registry()?;
    let swaps = match kind {
        Kind::Default => "swaps to hosts that go on with the image's own, and ",
        _ => "",
    };
    let message = format!(
        "{:?} is the start of a host, and default {swaps}leaves alone what is at any host that begins so",
        shortened(value, SHOWN)
    );
    let place = maps.book.value_place(id, "the host goes on behind it");
    Some(
        Diagnostic::warning("value-any-host", place, message).help(format!(
            "name a path, such as {start}/mirror-: without one, images come from hosts like {value}a.example",
            start = shortened(start, SHOWN),
            value = shortened(value, SHOWN)
        )),
    )
}

/// An item of `noswap_wildcards` that is in no image.
fn item(maps: &Maps, id: RuleId) -> Option<Diagnostic> {
    if maps.book.kind(id)? != Kind::Noswap {
        return None;
    }
    let can_be = |c: char| c.is_ascii_alphanumeric() || "._-:/@+[]".contains(c);
    let mut items = maps.book.value(id).split(',').map(str::trim);
    let odd = items.find(|item| !item.chars().all(can_be))?;
    let message = format!("no image contains {:?}", shortened(odd, SHOWN));
    let place = maps.book.value_place(id, "");
    Some(
        Diagnostic::warning("item-never-matches", place, message).help(
            "an item is looked for letter for letter, anywhere in the image: \"*\" is no wildcard",
        ),
    )
}

/// A file that swaps nothing, perhaps because something went wrong when it was written.
fn no_rule() -> Diagnostic {
    let place = Place::new(1, "", 0..0, "");
    Diagnostic::warning("no-rule", place, "there is no rule in the file")
        .help("a server that has rules keeps them and refuses this file; to swap nothing, write \"default::\"")
}

/// Of a file in which nothing is in error, for that says as much.
fn none_applies(maps: &Maps) -> Option<Diagnostic> {
    if maps.skipped() > 0 || has_live_rule(maps) {
        return None;
    }
    let first = maps.book.ids().next()?;
    let place = maps.book.key_place(first, "");
    let message = "there is no rule in the file that a usual image could match";
    Some(Diagnostic::warning("no-rule", place, message).help(
        "a server that has rules keeps them and refuses this file: is it what you meant to write?",
    ))
}

fn no_default(maps: &Maps) -> Option<Diagnostic> {
    if maps.default.is_some() {
        return None;
    }
    let Some(last) = maps.book.ids().last() else {
        // Where lines are in error, it is they that are missing.
        return (maps.skipped() == 0).then(no_rule);
    };
    let is_meant = |id: &RuleId| maps.book.key(*id).eq_ignore_ascii_case("default");
    let (at, help) = match maps.book.ids_of(Kind::Registry).find(is_meant) {
        Some(id) => (
            id,
            "write default, in lower case: in capitals it is a registry",
        ),
        None => (
            last,
            "add \"default::\" to leave all other images alone, or \"default::REGISTRY\"",
        ),
    };
    let place = maps.book.key_place(at, "");
    let diagnostic = Diagnostic::warning("no-default", place, "the file has no default line");
    Some(diagnostic.help(help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_default_that_is_the_start_of_a_host_it_is_told_where_it_swaps_to() {
        for (text, swaps) in [
            ("default::a.io-", true),
            ("b.io::a.io-\ndefault::c.io", false),
        ] {
            let (maps, _) = Maps::parse(text.as_bytes()).unwrap();
            let mut found = maps.book.ids().filter_map(|id| any_host(&maps, id));
            let message = found.next().unwrap().message;
            assert_eq!(message.contains("swaps to hosts"), swaps, "{message}");
            assert!(message.contains("leaves alone"), "{message}");
        }
    }

    #[test]
    fn who_writes_default_in_capitals_is_told() {
        for (text, part) in [
            ("docker.io::a.io", "add \"default::\""),
            (
                "docker.io::a.io\nDefault::a.io\nquay.io::a.io",
                "in lower case",
            ),
        ] {
            let (maps, _) = Maps::parse(text.as_bytes()).unwrap();
            let found = no_default(&maps).unwrap();
            assert!(found.help.unwrap().contains(part), "{text}");
        }
    }
}
