//! Rules that feed each other: the result of one is an image that another swaps again.
//!
//! kube-apiserver may call a webhook twice for one Pod, and a Pod may be copied from a swapped one,
//! so swapping twice must be swapping once. `default` sees to that itself (`targets.rs`). The other
//! rules are as their author wrote them, and are reported where one leads to another. The report
//! errs on the side of saying too much: a file without it is stable, which is tested over
//! generated files.
//!
//! In all of this, *x* is an image, *producer* the rule that swaps it, *r* its result, and
//! *consumer* a rule that would swap *r*. Of several producers with one target, one is named.

use std::collections::BTreeMap;
use std::ops::Bound;

use hashbrown::{HashMap, HashSet};

use super::book::{Book, Kind};
use super::diagnostic::{Diagnostic, Findings};
use super::glob::Pattern;
use super::index::RuleId;
use super::sample::{can_swap, key_host};
use super::{LIBRARY_KEY, Maps, canonical_key, is_bare_host};
use crate::image::{self, Reference, Registry};

/// How much the comparison of patterns and targets may cost: less than a second.
const MAX_STEPS: usize = 50_000_000;

/// Reports producers, each with a consumer of each kind.
pub(super) fn feeds(maps: &Maps) -> Findings {
    let mut feeds = Feeds {
        maps,
        reported: HashSet::new(),
        findings: Findings::default(),
        steps: 0,
    };
    feeds.results_of_exact();
    feeds.named_by_exact();
    feeds.named_by_registries();
    feeds.matched_by_patterns();
    feeds.bare_names();
    if feeds.steps > MAX_STEPS {
        feeds.report_incomplete();
    }
    feeds.findings
}

struct Feeds<'m> {
    maps: &'m Maps,
    reported: HashSet<(RuleId, RuleId)>,
    findings: Findings,
    steps: usize,
}

impl Feeds<'_> {
    /// The result of `[EXACT]` is one image: ask what becomes of it.
    fn results_of_exact(&mut self) {
        let maps = self.maps;
        let by_line: HashMap<_, _> = maps.book.ids().map(|id| (maps.book.line(id), id)).collect();
        for producer in maps.book.ids_of(Kind::Exact) {
            let image = maps.book.value(producer);
            self.steps += maps.replace.patterns.tried_on(image) * image.len();
            if self.steps > MAX_STEPS {
                return;
            }
            let verdict = maps.swap(image);
            if verdict.image().is_some()
                && let Some(line) = verdict.rule.and_then(|rule| rule.line)
                && let Some(consumer) = by_line.get(&line)
            {
                self.report(producer, *consumer);
            }
        }
    }

    /// An image that `[EXACT]` names, and that lies where another rule puts images.
    fn named_by_exact(&mut self) {
        let maps = self.maps;
        for consumer in maps.book.ids_of(Kind::Exact) {
            let (key, value) = (maps.book.key(consumer), maps.book.value(consumer));
            if key == value || !can_swap(maps, consumer) {
                continue;
            }
            let Ok(image) = Reference::parse(key) else {
                continue;
            };
            let mut producers = maps.targets.all_holding(&image, &maps.book);
            if let Some(producer) = producers.next() {
                self.report(producer, consumer);
            }
        }
    }

    /// A registry key that names the registry in which another rule puts images.
    fn named_by_registries(&mut self) {
        let maps = self.maps;
        let keys = Keys::of(maps);
        for producer in maps.book.ids() {
            let Some(product) = Product::of(maps, producer) else {
                continue;
            };
            let changes = |id: &RuleId| can_swap(maps, *id) && !product.stays_under(maps, *id);
            if let Some(consumer) = keys.naming(&product).into_iter().find(changes) {
                self.report(producer, consumer);
            }
        }
    }

    /// A pattern that matches where another rule puts images.
    fn matched_by_patterns(&mut self) {
        let maps = self.maps;
        let patterns = &maps.replace.rules;
        if patterns.is_empty() {
            return;
        }
        let by_literal = ByLiteral::of(patterns.iter().map(|(_, pattern)| pattern));
        let order_of: HashMap<RuleId, usize> = patterns
            .iter()
            .enumerate()
            .map(|(order, (id, _))| (*id, order))
            .collect();
        let mut seen = HashSet::new();
        for producer in maps.book.ids() {
            let prefixes = pattern_prefixes(maps, producer);
            let order = order_of.get(&producer).copied();
            // All of one target are alike, but for the place of a pattern among the others.
            if prefixes.is_empty() || (order.is_none() && !seen.insert(prefixes.clone())) {
                continue;
            }
            let consumer = prefixes.iter().find_map(|prefix| {
                by_literal.near(&prefix.text).find_map(|index| {
                    let (consumer, pattern) = patterns.get(index)?;
                    self.steps += pattern.len() * prefix.text.len();
                    // r = TARGET/last becomes TARGET/last.
                    let same = order.is_some()
                        && maps.book.target(*consumer) == maps.book.target(producer);
                    let swaps = maps.book.value(*consumer).is_empty() || can_swap(maps, *consumer);
                    let found = !same && swaps && prefix.reaches(pattern, index, order);
                    (found || self.steps > MAX_STEPS).then_some(*consumer)
                })
            });
            if self.steps > MAX_STEPS {
                return;
            }
            if let Some(consumer) = consumer {
                self.report(producer, consumer);
            }
        }
    }

    /// `[REPLACE]` without a value strips an image to its last component, an image of Docker Hub.
    fn bare_names(&mut self) {
        let maps = self.maps;
        let exact = maps.book.ids_of(Kind::Exact).find(|id| {
            let key = maps.book.key(*id);
            !key.contains('/') && key != maps.book.value(*id) && can_swap(maps, *id)
        });
        let docker_hub = [LIBRARY_KEY, image::DOCKER_HUB]
            .into_iter()
            .find_map(|key| {
                let find = |id| canonical_key(maps.book.key(id));
                maps.registries.find(key, find)
            });
        let rest = docker_hub.or(maps.default).filter(|id| can_swap(maps, *id));
        let slash_free: Vec<_> = maps
            .replace
            .rules
            .iter()
            .enumerate()
            .filter(|(_, (id, pattern))| can_swap(maps, *id) && !pattern.needs_slash())
            .collect();
        for (order, (producer, pattern)) in maps.replace.rules.iter().enumerate() {
            if !maps.book.value(*producer).is_empty() || pattern.never_crosses_slash() {
                continue;
            }
            // r matches the pattern that made it, before all that come later.
            let again = pattern.is_plain_suffix();
            let other = slash_free.iter().find(|(index, (_, other))| {
                // Whatever an open pattern matches in r, it matches in x, and was tried first.
                (*index < order && !other.starts_open()) || (*index > order && !again)
            });
            self.steps += slash_free.len();
            if self.steps > MAX_STEPS {
                return;
            }
            let consumers = [
                exact,
                other.map(|(_, (id, _))| *id),
                rest.filter(|_| !again),
            ];
            for consumer in consumers.into_iter().flatten() {
                self.report(*producer, consumer);
            }
        }
    }

    fn report(&mut self, producer: RuleId, consumer: RuleId) {
        if self.reported.insert((producer, consumer)) {
            let book = &self.maps.book;
            self.findings.warning(|| feed(book, producer, consumer));
        }
    }

    fn report_incomplete(&mut self) {
        let book = &self.maps.book;
        let Some((id, _)) = self.maps.replace.rules.first() else {
            return;
        };
        self.findings.warning(|| {
            Diagnostic::warning(
                "feeds-unknown",
                book.key_place(*id, ""),
                "there are too many patterns and values to tell whether rules feed each other",
            )
            .help("fewer [REPLACE] patterns, or patterns that begin with a registry")
        });
    }
}

fn feed(book: &Book, producer: RuleId, consumer: RuleId) -> Diagnostic {
    if producer == consumer {
        return Diagnostic::warning(
            "feeds",
            book.value_place(producer, "an image that is here matches the key again"),
            "the rule feeds itself: an image that is swapped twice ends up elsewhere",
        )
        .help("let the value be a registry that the key does not name");
    }
    let (line, other) = (book.line(producer), book.line(consumer));
    Diagnostic::warning(
        "feeds",
        book.value_place(producer, "what is put here"),
        format!("line {line} feeds line {other}: an image that is swapped twice ends up elsewhere"),
    )
    .also(book.key_place(consumer, "is swapped again by this"))
    .help(format!(
        "let line {line} name the final place, or take line {other} out"
    ))
}

// === where a producer puts images ===

/// How every *r* of a producer begins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Prefix {
    text: String,
    /// *x*, or what of it is kept, follows at once.
    is_whole: bool,
}

impl Prefix {
    /// Whether a pattern can match an *r* that begins so, though it did not match the *x* that *r*
    /// was made of. `index` is the pattern's place among all, `order` the producer's, if it is one.
    fn reaches(&self, pattern: &Pattern, index: usize, order: Option<usize>) -> bool {
        let tried_first = order.is_none_or(|order| index < order);
        if tried_first && self.is_whole && pattern.starts_open() {
            // A match of all but the leading "*" behind the prefix is a match in x as well.
            pattern.can_begin_inside(&self.text, order.is_some())
        } else {
            // But one path component follows what [REPLACE] puts before it.
            pattern.can_begin_with(&self.text, order.is_some())
        }
    }
}

/// Patterns by what they say before their first wildcard: few can match a given prefix.
struct ByLiteral(BTreeMap<String, Vec<usize>>);

impl ByLiteral {
    fn of<'a>(patterns: impl Iterator<Item = &'a Pattern>) -> Self {
        let mut by_literal: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (index, pattern) in patterns.enumerate() {
            by_literal
                .entry(pattern.literal_prefix())
                .or_default()
                .push(index);
        }
        Self(by_literal)
    }

    /// Those that say a part of the text, or the text and more.
    fn near<'a>(&'a self, text: &'a str) -> impl Iterator<Item = usize> + 'a {
        let part = (0..text.len()).filter_map(|end| self.0.get(text.get(..end)?));
        let more = self
            .0
            .range::<str, _>((Bound::Included(text), Bound::Unbounded))
            .take_while(move |(literal, _)| literal.starts_with(text))
            .map(|(_, indices)| indices);
        part.chain(more).flatten().copied()
    }
}

fn pattern_prefixes(maps: &Maps, producer: RuleId) -> Vec<Prefix> {
    let (value, target) = (maps.book.value(producer), maps.book.target(producer));
    let whole = |text: String| Prefix {
        text,
        is_whole: true,
    };
    if target.is_empty() || !can_swap(maps, producer) {
        return Vec::new();
    }
    match maps.book.kind(producer) {
        Some(Kind::Registry) if value.ends_with('-') => key_host(maps.book.key(producer))
            .map(|host| whole([value, host, "/"].concat()))
            .into_iter()
            .collect(),
        // Any registry may follow, and its port is dropped.
        Some(Kind::Default) if value.ends_with('-') => vec![Prefix {
            text: value.to_owned(),
            is_whole: false,
        }],
        Some(Kind::Registry | Kind::Default | Kind::Replace) => {
            let mut prefixes = vec![whole([target, "/"].concat())];
            if maps.keeps_port(producer) {
                prefixes.push(whole([target, ":"].concat()));
            }
            prefixes
        }
        _ => Vec::new(),
    }
}

/// The registry and the path in which a producer puts images.
struct Product {
    /// As written in *r*; `None` where only what it begins with is known.
    registry: Option<String>,
    /// What it begins with, where that is all that is known.
    begins: String,
    /// Whether any port may follow the registry.
    any_port: bool,
    /// The path up to the part that comes from *x*.
    path: String,
    /// Registry and path.
    place: String,
    /// Whether but one path component of *x* follows.
    one_component: bool,
}

impl Product {
    fn of(maps: &Maps, producer: RuleId) -> Option<Self> {
        let (value, target) = (maps.book.value(producer), maps.book.target(producer));
        let kind = maps.book.kind(producer)?;
        let places = matches!(kind, Kind::Registry | Kind::Default | Kind::Replace);
        if target.is_empty() || !places || !can_swap(maps, producer) {
            return None;
        }
        let dashed = value.ends_with('-') && kind != Kind::Replace;
        let place = match (dashed, kind) {
            (true, Kind::Registry) => [value, key_host(maps.book.key(producer))?].concat(),
            _ => target.to_owned(),
        };
        let (registry, path) = match place.split_once('/') {
            Some((registry, path)) => (registry.to_owned(), path.to_owned()),
            None => (place.clone(), String::new()),
        };
        let unknown = dashed && kind == Kind::Default && !value.contains('/');
        Some(Self {
            begins: if unknown {
                registry.clone()
            } else {
                String::new()
            },
            registry: (!unknown).then_some(registry),
            any_port: maps.keeps_port(producer),
            path,
            place,
            one_component: kind == Kind::Replace
                || canonical_key(maps.book.key(producer)) == LIBRARY_KEY,
        })
    }

    /// Whether a registry key makes of *r* what it was.
    fn stays_under(&self, maps: &Maps, consumer: RuleId) -> bool {
        let (key, value, target) = (
            maps.book.key(consumer),
            maps.book.value(consumer),
            maps.book.target(consumer),
        );
        let Some(registry) = self.registry.as_deref() else {
            return false;
        };
        if value.ends_with('-') {
            return false;
        }
        if canonical_key(key) == LIBRARY_KEY {
            // One component of x follows both, unless the x of a producer brings its own library/.
            return target == self.place
                && (self.one_component || self.path == "library" || self.place == "library");
        }
        let Ok(Registry { host, .. }) = Registry::parse(registry) else {
            return false;
        };
        if !is_registry(registry) {
            return false;
        }
        match Registry::parse(key).map(|registry| registry.port) {
            // A bare host is given the port that r has.
            Ok(None) if is_bare_host(target) => target == host,
            Ok(None) => target == registry && !self.any_port,
            Ok(Some(port)) => is_host_with_port(target, host, port),
            Err(_) => false,
        }
    }
}

fn is_host_with_port(target: &str, host: &str, port: &str) -> bool {
    target.strip_prefix(host).and_then(|t| t.strip_prefix(':')) == Some(port)
}

/// Whether a first component is a registry at all; otherwise the image is one of Docker Hub.
fn is_registry(first: &str) -> bool {
    let probe = [first, "/app"].concat();
    Reference::parse(&probe).is_ok_and(|image| image.registry().is_some())
}

// === the registry keys ===

/// Registry keys by the host they name.
struct Keys<'m> {
    by_host: HashMap<&'m str, HostKeys<'m>>,
}

/// The keys that name one host.
#[derive(Default)]
struct HostKeys<'m> {
    library: Option<RuleId>,
    plain: Option<RuleId>,
    by_port: HashMap<&'m str, RuleId>,
    /// With a port, and making something else of an image with that port: the first for each name of
    /// the host.
    changing: Vec<RuleId>,
    /// For which of its names one is there.
    is_changed: [bool; 2],
}

impl HostKeys<'_> {
    /// Notes under which names of the host an image with this port becomes another, and says whether that
    /// was known of none of them.
    fn change(&mut self, host: &str, port: &str, target: &str) -> bool {
        let names: &[&str] = match host {
            image::DOCKER_HUB => &[image::DOCKER_HUB, image::DOCKER_HUB_INDEX],
            host => &[host],
        };
        let mut is_new = false;
        for (name, is_changed) in names.iter().zip(&mut self.is_changed) {
            let stays = is_host_with_port(target, name, port);
            is_new |= !stays && !*is_changed;
            *is_changed |= !stays;
        }
        is_new
    }
}

impl<'m> Keys<'m> {
    fn of(maps: &'m Maps) -> Self {
        let mut by_host: HashMap<&str, HostKeys<'m>> = HashMap::new();
        for id in maps.book.ids_of(Kind::Registry) {
            let key = canonical_key(maps.book.key(id));
            let Some(host) = key_host(key) else {
                continue;
            };
            let keys = by_host.entry(host).or_default();
            match Registry::parse(key).map(|registry| registry.port) {
                Ok(Some(port)) => {
                    keys.by_port.insert(port, id);
                    if can_swap(maps, id) && keys.change(host, port, maps.book.target(id)) {
                        keys.changing.push(id);
                    }
                }
                Ok(None) => keys.plain = Some(id),
                // `docker.io/library`
                Err(_) => keys.library = Some(id),
            }
        }
        Self { by_host }
    }

    /// The keys that can name the registry of an *r*.
    fn naming(&self, product: &Product) -> Vec<RuleId> {
        let Some(registry) = product.registry.as_deref() else {
            let begins =
                |host: &str| host.starts_with(&product.begins) || host == image::DOCKER_HUB;
            let keys = self.by_host.iter().filter(|(host, _)| begins(host));
            // The port of x is dropped.
            return keys
                .flat_map(|(_, keys)| [keys.library, keys.plain])
                .flatten()
                .collect();
        };
        if is_registry(registry)
            && let Ok(Registry { host, port, .. }) = Registry::parse(registry)
        {
            return self.of_host(image::canonical_host(host), port, product);
        }
        let mut ids = self.of_host(image::DOCKER_HUB, None, product);
        if product.any_port {
            ids.extend(self.of_host(registry, None, product));
        }
        ids
    }

    fn of_host(&self, host: &str, port: Option<&str>, product: &Product) -> Vec<RuleId> {
        let Some(keys) = self.by_host.get(host) else {
            return Vec::new();
        };
        if let Some(port) = port {
            // As in a look-up: the key with the port, else the one without.
            let named = keys.by_port.get(port).copied();
            return named.or(keys.plain).into_iter().collect();
        }
        let can_be_library = matches!(product.path.as_str(), "" | "library");
        let library = keys.library.filter(|_| can_be_library);
        let mut ids: Vec<_> = library.into_iter().chain(keys.plain).collect();
        if product.any_port {
            ids.extend(&keys.changing);
        }
        ids
    }
}
