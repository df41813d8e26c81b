//! An empty cluster, and each thing that can be in the way, one at a time.

use std::collections::BTreeSet;

use time::Duration;

use super::*;
use crate::pki::{Pem, mint};

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_000));
const HOST: &str = "imageswap.imageswap-system.svc";

/// Three nodes and nothing else.
fn empty() -> Facts {
    Facts {
        now: NOW,
        namespace: "imageswap-system".to_owned(),
        service: "imageswap".to_owned(),
        host: HOST.to_owned(),
        configuration: "imageswap-webhook".to_owned(),
        version: (1, 37, "v1.37.2".to_owned()),
        denied: Ok(Vec::new()),
        found: Ok(None),
        hooks: Ok(Some(Vec::new())),
        deployment: Ok(None),
        leftovers: Ok(Vec::new()),
        has_scaler: Ok(false),
        ready: Ok(0),
        nodes: Ok(vec![Node { is_free: true }; 3]),
        quotas: Ok(Vec::new()),
        limits: Ok(Vec::new()),
        maps: Ok(Some(Some(b"default::mirror.io\n".to_vec()))),
        settings: Ok(None),
        secret: Ok(None),
    }
}

fn report(facts: &Facts) -> Report {
    super::report(facts, read)
}

/// As it is written in `variables`.
fn read(variables: &Variables) -> Settings {
    let entries = &variables.entries;
    let all = |name: &str| entries.get(name).cloned().into_iter().collect();
    Settings {
        unusable: all("unusable"),
        unusable_alone: all("half"),
        unfit: all("unfit"),
        unled: entries.get("unled").cloned(),
        longest_end: match entries.contains_key("slow") {
            true => GRACE + std::time::Duration::from_secs(1),
            false => GRACE,
        },
        unknown: all("unknown"),
        strict_maps: entries.contains_key("strict"),
        is_legacy: entries.contains_key("legacy"),
        has_no_prefix: entries.get("legacy").is_some_and(String::is_empty),
        other_maps: entries.get("maps").cloned(),
    }
}

fn variables(name: &str) -> Seen<Option<Entries>> {
    Ok(Some(Entries::from([(name.to_owned(), "V=1".to_owned())])))
}

/// Ours, applied a while ago.
fn deployment() -> Deployment {
    Deployment {
        command: Some("/imageswap".to_owned()),
        selector: vec!["app=imageswap".to_owned()],
        has_init: false,
        env: Env::new(),
        has_more: false,
        grace: Some(GRACE),
        is_applied: true,
        applier: None,
    }
}

fn hook(configuration: &str, service: &str) -> Hook {
    Hook {
        configuration: configuration.to_owned(),
        name: "hook".to_owned(),
        service: Some(("imageswap-system".to_owned(), service.to_owned())),
        fails_closed: true,
        takes_pods: true,
        has_our_label: false,
        keeps_labels: false,
        loses_bundle: false,
        bundle_applier: None,
    }
}

fn secret(source: Source, pem: &Pem) -> state::Secret {
    state::Secret {
        source,
        ..state::Secret::minted("1", pem)
    }
}

fn quota(resource: &str, hard: &str, used: &str) -> Seen<Vec<Quota>> {
    Ok(vec![Quota {
        name: "q".to_owned(),
        hard: vec![(resource.to_owned(), hard.to_owned(), used.to_owned())],
    }])
}

fn limit(resource: &str, change: impl Fn(&mut Limit)) -> Seen<Vec<Limit>> {
    let mut limit = Limit {
        name: "l".to_owned(),
        resource: resource.to_owned(),
        ..Limit::default()
    };
    change(&mut limit);
    Ok(vec![limit])
}

fn of_pods(resource: &str, change: impl Fn(&mut Limit)) -> Seen<Vec<Limit>> {
    limit(resource, |limit| {
        limit.is_of_pods = true;
        change(limit);
    })
}

fn unseen<T>(is_forbidden: bool) -> Seen<T> {
    let why = "refused".to_owned();
    Err(Unseen { why, is_forbidden })
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn maps(text: &str) -> Seen<Option<Option<Vec<u8>>>> {
    Ok(Some(Some(text.as_bytes().to_vec())))
}

fn ids(facts: &Facts) -> Vec<(&'static str, Severity)> {
    let findings = report(facts).findings.into_iter();
    findings
        .map(|finding| (finding.id, finding.severity))
        .collect()
}

/// What is changed, and the findings that it makes, but for the maps' being missing.
type Row<'a> = (&'a str, Severity, &'a dyn Fn(&mut Facts));

#[test]
fn an_empty_cluster_is_right_and_each_fault_is_one_finding() {
    let pem = mint(&[HOST.to_owned()], Duration::days(9), NOW).unwrap();
    let other = mint(&["other.svc".to_owned()], Duration::days(9), NOW).unwrap();
    assert_eq!(ids(&empty()), []);
    let rows: &[Row<'_>] = &[
        ("kubernetes-too-old", Error, &|facts| {
            facts.version = (1, 31, String::new())
        }),
        ("rights-missing", Error, &|facts| {
            facts.denied = Ok(vec!["create namespaces".to_owned()])
        }),
        ("namespace-terminating", Error, &|facts| {
            facts.found = Ok(Some(Namespace {
                is_terminating: true,
                enforces: None,
            }));
        }),
        ("installed", Note, &|facts| {
            facts.deployment = Ok(Some(deployment()))
        }),
        ("installed-older", Note, &|facts| {
            facts.deployment = Ok(Some(Deployment {
                command: None,
                has_init: true,
                ..deployment()
            }));
        }),
        ("deployment-selector", Error, &|facts| {
            facts.deployment = Ok(Some(Deployment {
                selector: vec!["a=b".to_owned()],
                ..deployment()
            }));
        }),
        ("deployment-not-applied", Warning, &|facts| {
            let older = Deployment {
                command: None,
                has_init: true,
                is_applied: false,
                ..deployment()
            };
            facts.deployment = Ok(Some(older));
        }),
        ("autoscaler", Warning, &|facts| {
            facts.has_scaler = Ok(true);
            facts.deployment = Ok(Some(Deployment {
                command: None,
                ..deployment()
            }));
        }),
        ("webhook-selector", Note, &|facts| {
            facts.ready = Ok(1);
            facts.hooks = Ok(Some(vec![Hook {
                keeps_labels: true,
                ..hook("imageswap-webhook", "imageswap")
            }]));
        }),
        ("leftovers", Note, &|facts| {
            facts.leftovers = Ok(vec!["clusterrole/imageswap-read".to_owned()])
        }),
        ("admission-missing", Error, &|facts| facts.hooks = Ok(None)),
        ("webhook-blocks", Error, &|facts| {
            facts.hooks = Ok(Some(vec![hook("imageswap-webhook", "imageswap")]));
        }),
        ("webhook-elsewhere", Error, &|facts| {
            facts.hooks = Ok(Some(vec![hook("imageswap-webhook", "another")]));
        }),
        ("webhook-rival", Warning, &|facts| {
            let rival = Hook {
                has_our_label: true,
                ..hook("another", "another")
            };
            facts.hooks = Ok(Some(vec![rival]));
        }),
        ("webhook-loses-ca", Error, &|facts| {
            facts.hooks = Ok(Some(vec![Hook {
                loses_bundle: true,
                ..hook("imageswap-webhook", "imageswap")
            }]));
            facts.ready = Ok(1);
        }),
        ("webhook-ca-applied", Warning, &|facts| {
            facts.hooks = Ok(Some(vec![Hook {
                bundle_applier: some("flux"),
                ..hook("imageswap-webhook", "imageswap")
            }]));
            facts.ready = Ok(1);
        }),
        ("webhook-others", Note, &|facts| {
            facts.hooks = Ok(Some(vec![hook("another", "another")]))
        }),
        ("nodes-none", Error, &|facts| {
            facts.nodes = Ok(vec![Node { is_free: false }; 3])
        }),
        ("nodes-one", Warning, &|facts| {
            facts.nodes = Ok(vec![Node { is_free: true }])
        }),
        ("limit-range", Error, &|facts| {
            facts.limits = limit("memory", |limit| limit.max = some("64Mi"));
        }),
        ("limit-range", Error, &|facts| {
            facts.limits = limit("memory", |limit| limit.min = some("33Mi"));
        }),
        ("limit-range", Error, &|facts| {
            facts.limits = limit("memory", |limit| limit.max_ratio = some("9"));
        }),
        // Less than is asked for.
        ("limit-range", Error, &|facts| {
            facts.limits = limit("cpu", |limit| limit.default = some("49m"));
        }),
        ("limit-range", Error, &|facts| {
            facts.limits = of_pods("memory", |limit| limit.max = some("319Mi"));
        }),
        ("limit-range", Error, &|facts| {
            facts.limits = of_pods("memory", |limit| limit.min = some("33Mi"));
        }),
        ("limit-range", Error, &|facts| {
            facts.limits = of_pods("memory", |limit| limit.max_ratio = some("9.5"));
        }),
        // No limit is stated, and nothing gives one.
        ("limit-range", Error, &|facts| {
            facts.limits = of_pods("cpu", |limit| limit.max = some("4"));
        }),
        ("limit-range", Error, &|facts| {
            facts.limits = of_pods("cpu", |limit| limit.max_ratio = some("100"));
        }),
        ("limit-range", Error, &|facts| {
            facts.limits = limit("cpu", |limit| limit.max_ratio = some("100"));
        }),
        ("limit-range", Error, &|facts| {
            facts.limits = of_pods("ephemeral-storage", |limit| limit.min = some("1Mi"));
        }),
        ("limit-range-cpu", Warning, &|facts| {
            facts.limits = limit("cpu", |limit| limit.default = some("500m"));
        }),
        // Which the Pod's max then is content with.
        ("limit-range-cpu", Warning, &|facts| {
            let of_container = limit("cpu", |limit| limit.max = some("500m"));
            let of_pod = of_pods("cpu", |limit| {
                limit.max = some("1");
                limit.max_ratio = some("10");
            });
            facts.limits = Ok([of_pod.unwrap(), of_container.unwrap()].concat());
        }),
        ("quota", Error, &|facts| {
            facts.quotas = quota("pods", "10", "8")
        }),
        ("quota", Error, &|facts| {
            facts.quotas = quota("requests.memory", "1Gi", "1000Mi")
        }),
        ("quota-wants", Error, &|facts| {
            facts.quotas = quota("limits.cpu", "10", "0")
        }),
        ("maps-missing", Note, &|facts| facts.maps = Ok(None)),
        ("maps-no-key", Warning, &|facts| facts.maps = Ok(Some(None))),
        ("maps-in-error", Warning, &|facts| {
            facts.maps = maps("default::mirror.io\n: :\n")
        }),
        ("maps-empty", Warning, &|facts| facts.maps = maps("")),
        ("maps-empty", Warning, &|facts| {
            facts.maps = maps("404: Not Found")
        }),
        ("maps-empty", Warning, &|facts| {
            facts.maps = maps("# default::mirror.io\n")
        }),
        ("maps-empty", Warning, &|facts| {
            let mode = ("legacy".to_owned(), String::new());
            facts.settings = Ok(Some(Entries::from([mode])));
        }),
        ("maps-unusable", Error, &|facts| facts.maps = maps(": :\n")),
        ("maps-unusable", Error, &|facts| {
            facts.maps = maps("default::mirror.io\n: :\n");
            facts.settings = variables("strict");
        }),
        ("settings-unusable", Error, &|facts| {
            facts.settings = variables("unusable")
        }),
        ("settings-unusable", Warning, &|facts| {
            facts.settings = variables("half")
        }),
        ("settings-unfit", Error, &|facts| {
            facts.settings = variables("unfit")
        }),
        ("settings-unfit", Warning, &|facts| {
            facts.settings = variables("unled")
        }),
        ("settings-drain", Warning, &|facts| {
            facts.settings = variables("slow")
        }),
        ("settings-unknown", Warning, &|facts| {
            facts.settings = variables("unknown")
        }),
        // Then it does not matter what is in the ConfigMap.
        ("maps-elsewhere", Note, &|facts| {
            facts.settings = variables("maps");
            facts.maps = Ok(Some(Some(b"rubbish".to_vec())));
        }),
        ("not-seen", Note, &|facts| facts.settings = unseen(true)),
        ("secret-replaced", Note, &|facts| {
            facts.secret = Ok(Some(secret(Source::Minted, &other)))
        }),
        ("secret-unusable", Error, &|facts| {
            facts.secret = Ok(Some(secret(Source::Annotated, &other)));
        }),
        ("not-seen", Note, &|facts| facts.nodes = unseen(true)),
        // It says nothing of what there is.
        ("not-seen", Warning, &|facts| facts.nodes = unseen(false)),
    ];
    for (id, severity, change) in rows {
        let mut facts = empty();
        change(&mut facts);
        let mut found = ids(&facts);
        // What is said besides: what there is.
        if id.starts_with("deployment-") || *id == "autoscaler" {
            found.retain(|(id, _)| !id.starts_with("installed"));
        }
        assert_eq!(found, [(*id, *severity)]);
        assert_eq!(report(&facts).healthy, *severity == Note, "{id}");
    }
    // And what is right all the same.
    let quiet: &[&dyn Fn(&mut Facts)] = &[
        &|facts| facts.version = (1, 32, String::new()),
        &|facts| {
            facts.hooks = Ok(Some(vec![Hook {
                takes_pods: false,
                ..hook("another", "another")
            }]))
        },
        &|facts| {
            facts.hooks = Ok(Some(vec![hook("imageswap-webhook", "imageswap")]));
            facts.ready = Ok(1);
        },
        &|facts| {
            facts.hooks = Ok(Some(vec![Hook {
                fails_closed: false,
                ..hook("imageswap-webhook", "imageswap")
            }]));
        },
        // Such replicas read none.
        &|facts| {
            facts.maps = maps(": :\n");
            facts.settings = variables("legacy");
        },
        &|facts| facts.settings = variables("strict"),
        // So it is said that nothing is to be swapped.
        &|facts| facts.maps = maps("default::\n"),
        &|facts| facts.quotas = quota("pods", "10", "7"),
        &|facts| facts.quotas = quota("requests.cpu", "1", "850m"),
        &|facts| facts.limits = limit("memory", |limit| limit.max = some("320Mi")),
        &|facts| facts.limits = limit("memory", |limit| limit.max_ratio = some("10")),
        &|facts| {
            facts.limits = of_pods("memory", |limit| {
                limit.min = some("32Mi");
                limit.max = some("320Mi");
                limit.max_ratio = some("10");
            });
        },
        &|facts| facts.limits = of_pods("cpu", |limit| limit.min = some("50m")),
        // A container that states nothing gets the least.
        &|facts| facts.limits = limit("ephemeral-storage", |limit| limit.min = some("1Mi")),
        // One that somebody made for this program.
        &|facts| facts.has_scaler = Ok(true),
        &|facts| facts.secret = Ok(Some(secret(Source::Minted, &pem))),
    ];
    for (row, change) in quiet.iter().enumerate() {
        let mut facts = empty();
        change(&mut facts);
        assert_eq!(ids(&facts), [], "row {row}");
    }
}

/// Before a Deployment of ours is there, nobody can tell what it will carry.
#[test]
fn a_prefix_that_is_missing_is_told_unless_the_deployment_may_have_it_from_elsewhere() {
    let told = |found: Seen<Option<Deployment>>| {
        let mut facts = empty();
        let mode = ("legacy".to_owned(), String::new());
        facts.settings = Ok(Some(Entries::from([mode])));
        facts.deployment = found;
        let findings = report(&facts).findings.into_iter();
        let mut found = findings.filter(|finding| finding.id == "maps-empty");
        found.next().map(|finding| finding.text)
    };
    let ours = |has_more| Deployment {
        has_more,
        ..deployment()
    };
    let older = Deployment {
        command: None,
        ..ours(true)
    };
    for (found, says) in [
        (Ok(None), Some("unless the Deployment carries it")),
        (Ok(Some(older)), Some("unless the Deployment carries it")),
        (unseen(true), Some("unless the Deployment carries it")),
        (Ok(Some(ours(false))), Some("nothing is swapped")),
        (Ok(Some(ours(true))), None),
    ] {
        let told = told(found);
        let ends = |text: &String| says.is_some_and(|says| text.ends_with(says));
        assert_eq!(told.as_ref().map(ends), says.map(|_| true), "{told:?}");
    }
}

#[test]
fn every_finding_is_documented_with_its_severity() {
    const CODE: &str = include_str!("../pre.rs");
    const DOCS: &str = include_str!("../../../docs/install.md");
    let severities = [("Error", "error"), ("Warning", "warning"), ("Note", "note")];
    let mut in_code = BTreeSet::new();
    for (severity, word) in severities {
        let end = format!("\", {severity})");
        // What comes after the last one has no such end.
        let parts: Vec<_> = CODE.split(&end).collect();
        for before in parts.iter().rev().skip(1) {
            let (_, id) = before.rsplit_once("(\"").unwrap();
            in_code.insert((id, word));
        }
    }
    let mut in_docs = BTreeSet::new();
    for row in DOCS.lines().filter_map(|line| line.strip_prefix("| `")) {
        let mut cells = row.split(" | ");
        let (ids, words) = (cells.next().unwrap(), cells.next().unwrap());
        let words: Vec<_> = words.split(", ").collect();
        if !severities.iter().any(|(_, word)| words[0] == *word) {
            continue;
        }
        for (n, id) in ids.split(", ").enumerate() {
            // One word may be for several.
            let word = words.get(n).or(words.last()).unwrap();
            in_docs.insert((id.trim_matches('`'), *word));
        }
    }
    assert_eq!(in_code, in_docs);
}

#[test]
fn what_is_installed_takes_its_share_of_a_quota_already() {
    let mut facts = empty();
    let older = Deployment {
        command: None,
        ..deployment()
    };
    for (found, said) in [
        (Ok(Some(deployment())), ("installed", Note)),
        (Ok(Some(older)), ("installed-older", Note)),
        (unseen(true), ("not-seen", Note)),
    ] {
        facts.deployment = found;
        for (resource, enough, too_few) in [
            ("pods", "3", "2"),
            ("limits.memory", "960Mi", "512Mi"),
            ("count/services", "1", "0"),
        ] {
            facts.quotas = quota(resource, enough, enough);
            assert_eq!(ids(&facts), [said], "{resource}");
            // A rollout could not end, whatever is used.
            facts.quotas = quota(resource, too_few, "0");
            assert_eq!(ids(&facts), [("quota", Error), said], "{resource}");
        }
    }
    facts.deployment = Ok(Some(deployment()));
    // A quota that wants a limit is content with a LimitRange that gives one.
    facts.quotas = quota("limits.cpu", "10", "0");
    facts.limits = limit("cpu", |limit| limit.default = some("1"));
    assert_eq!(
        ids(&facts),
        [("limit-range-cpu", Warning), ("installed", Note)]
    );
    // And not with one for Pods.
    facts.limits = of_pods("cpu", |limit| limit.max = some("1"));
    let refused = [("limit-range", Error), ("quota-wants", Error)];
    assert_eq!(ids(&facts).get(..2), Some(&refused[..]));
}

#[test]
fn a_replica_may_take_as_long_to_end_as_our_deployment_gives_it() {
    let long = std::time::Duration::from_secs(90);
    for (found, expected) in [
        (
            deployment(),
            vec![("settings-drain", Warning), ("installed", Note)],
        ),
        (
            Deployment {
                grace: Some(long),
                ..deployment()
            },
            vec![("installed", Note)],
        ),
        // 1.5.3's goes.
        (
            Deployment {
                grace: Some(long),
                command: None,
                ..deployment()
            },
            vec![("settings-drain", Warning), ("installed-older", Note)],
        ),
    ] {
        let mut facts = empty();
        facts.settings = variables("slow");
        facts.deployment = Ok(Some(found));
        assert_eq!(ids(&facts), expected);
    }
}

#[test]
fn what_our_deployment_sets_counts_more_than_the_config_map() {
    let text = |text: &str| text.to_owned();
    let config = Entries::from([
        (text("a"), text("1")),
        (text("b"), text("2")),
        (text("c"), text("3")),
    ]);
    let env = Env::from([
        (text("b"), Some(text("4"))),
        (text("c"), None),
        (text("d"), Some(text("5"))),
    ]);
    let ours = Deployment {
        env,
        ..deployment()
    };
    let found = Variables::of(Some(&config), Some(&ours));
    let of = |name: &str| found.entries.get(name).map(String::as_str);
    assert_eq!(
        ["a", "b", "c", "d"].map(of),
        [Some("1"), Some("4"), None, Some("5")]
    );
    assert!(!found.has_more);
    let found = Variables::of(Some(&config), None);
    assert_eq!(found.entries, config);
    assert!(found.has_more && found.env.is_empty());
    // Such replicas may be given all by the Deployment, and 1.5.3's goes.
    for (command, expected) in [
        (
            some("/imageswap"),
            [("settings-unusable", Error), ("installed", Note)],
        ),
        (None, [("installed-older", Note), ("not-seen", Note)]),
    ] {
        let mut facts = empty();
        let env = Env::from([(text("unusable"), Some(text("V=1")))]);
        let is_ours = command.is_some();
        facts.deployment = Ok(Some(Deployment {
            command,
            env,
            ..deployment()
        }));
        if !is_ours {
            facts.nodes = unseen(true);
        }
        assert_eq!(ids(&facts), expected);
    }
}

#[test]
fn the_deployment_asks_for_what_is_counted_here() {
    let manifest = include_str!("../../../deploy/base/deployment.yaml");
    let part = |name: &str| {
        let (_, part) = manifest.split_once(&format!("{name}:\n")).unwrap();
        let lines = part.lines().take(2).map(str::trim);
        lines.collect::<Vec<_>>()
    };
    let [(_, cpu, None), (_, memory, Some(most_memory))] = CONTAINER else {
        panic!("{CONTAINER:?}");
    };
    let asks = [format!("cpu: {cpu}"), format!("memory: {memory}")];
    assert_eq!(part("requests"), asks);
    let [of_memory, ..] = part("limits")[..] else {
        panic!("no limits");
    };
    assert_eq!(of_memory, format!("memory: {most_memory}"));
    let grace = format!("terminationGracePeriodSeconds: {}\n", GRACE.as_secs());
    for part in ["replicas: 2", "app: imageswap", &grace] {
        assert!(manifest.contains(part), "{part}");
    }
    assert!(!manifest.contains("ephemeral-storage"));
    // What a quota must have room for is two of them, and one more in a rollout.
    assert!(manifest.contains("maxSurge: 1") && manifest.contains("maxUnavailable: 0"));
    for (names, one) in [
        ("requests.cpu", cpu),
        ("requests.memory", memory),
        ("limits.memory", most_memory),
    ] {
        let mut needs = NEEDS.iter().filter(|(all, _)| all.contains(&names));
        let all = needs.next().unwrap().1;
        assert_eq!(milli(all), milli(one).map(|one| 3 * one), "{names}");
    }
}

#[test]
fn of_many_rights_that_are_missing_some_are_named() {
    let mut facts = empty();
    facts.denied = Ok((0..10).map(|n| format!("right-{n}")).collect());
    let text = &report(&facts).findings[0].text;
    assert!(text.ends_with("right-7 and 2 more"), "{text}");
}
