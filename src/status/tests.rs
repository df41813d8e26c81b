//! A healthy installation, and each thing that can be wrong with it, one at a time.

use std::collections::BTreeSet;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::Duration;

use super::*;
use crate::pki::{Pem, mint};
use crate::rotation::state::{Configuration, Hook, Secret};
use crate::telemetry::metrics::Metrics;

pub(super) const NOW: OffsetDateTime =
    OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_000));
const HOST: &str = "imageswap.ns.svc";

pub(super) fn pair(days: i64) -> Pem {
    pair_of(days, NOW)
}

pub(super) fn pair_of(days: i64, at: OffsetDateTime) -> Pem {
    mint(&[HOST.to_owned()], Duration::days(days), at).unwrap()
}

pub(super) fn served(pem: &Pem) -> Served {
    let chain = CertificateDer::pem_slice_iter(pem.chain.as_bytes());
    Served::read(chain.collect::<Result<_, _>>().unwrap()).unwrap()
}

pub(super) fn healthy(pem: &Pem) -> Facts {
    healthy_at(pem, NOW)
}

fn healthy_at(pem: &Pem, now: OffsetDateTime) -> Facts {
    let replica = |pod: &str| Replica {
        pod: pod.to_owned(),
        address: "10.0.0.1:5000".to_owned(),
        is_ready: true,
        is_leaving: false,
        served: Ok(served(pem)),
        page: Ok(Page {
            version: Some("2.0.0".to_owned()),
            maps: Some("abc".to_owned()),
            refuses_maps: false,
            has_no_rule: false,
            lines_in_error: 0,
            leads: false,
            step: Some("wait".to_owned()),
            is_from_files: false,
            is_refused: false,
        }),
    };
    Facts {
        now,
        is_told: true,
        namespace: "ns".to_owned(),
        host: HOST.to_owned(),
        observed: Observed {
            configuration: Some(Configuration {
                version: "1".to_owned(),
                uid: "1".to_owned(),
                generation: Some(1),
                hooks: vec![Hook {
                    index: 0,
                    name: "hook".to_owned(),
                    bundle: pem.ca.clone().into_bytes(),
                    ..Hook::default()
                }],
            }),
            secret: Some(Secret::minted("1", pem)),
        },
        lease: Some(Lease {
            holder: Some("one-123".to_owned()),
            since: Some(now - Duration::hours(1)),
            until: Some(now + Duration::seconds(9)),
        }),
        scale: Ok(Some(Scale {
            wanted: 2,
            available: 2,
            names_files: false,
        })),
        replicas: vec![replica("one"), replica("two")],
    }
}

fn found(facts: &Facts) -> Vec<&'static str> {
    report(facts)
        .findings
        .iter()
        .map(|finding| finding.id)
        .collect()
}

/// The Lease is dated by the clock of its holder's node.
#[test]
fn who_leads_by_its_own_account_is_shown_though_its_lease_has_ended() {
    let mut facts = healthy(&pair(365));
    facts.lease.as_mut().unwrap().until = Some(NOW);
    assert!(report(&facts).leader.is_none());
    let page = facts.replicas[1].page.as_mut().unwrap();
    (page.leads, page.step) = (true, Some("trust".to_owned()));
    let leader = report(&facts).leader.unwrap();
    assert_eq!(leader.holder, facts.replicas[1].pod);
    assert_eq!(leader.step.as_deref(), Some("trust"));
}

#[test]
fn a_healthy_installation_has_no_findings_and_is_shown_whole() {
    let pem = pair(365);
    let report = report(&healthy(&pem));
    assert_eq!(report.findings, []);
    assert!(report.healthy);
    let leader = report.leader.unwrap();
    assert_eq!(
        (leader.holder.as_str(), leader.step.as_deref()),
        ("one-123", Some("wait"))
    );
    let certificate = report.certificate.unwrap();
    assert_eq!(certificate.days_left, 365);
    assert!(report.webhooks[0].trusts_secret);
    assert_eq!(report.rotation.step, "wait");
    for replica in &report.replicas {
        assert_eq!(
            replica.leaf.as_deref(),
            Some(certificate.fingerprint.as_str())
        );
        assert!(replica.trusted && replica.ready);
    }
}

#[test]
fn each_thing_that_is_wrong_is_named() {
    let (pem, other, short, day) = (pair(365), pair(365), pair(20), pair(1));
    let ends = pair_of(365, NOW - Duration::days(340));
    let scale = |wanted, available| {
        let names_files = false;
        Ok(Some(Scale {
            wanted,
            available,
            names_files,
        }))
    };
    type Break<'a> = Box<dyn Fn(&mut Facts) + 'a>;
    let bundle = |facts: &mut Facts, text: &str| {
        let configuration = facts.observed.configuration.as_mut().unwrap();
        configuration.hooks[0].bundle = text.as_bytes().to_vec();
    };
    let rows: Vec<(Break<'_>, &[&str], bool)> = vec![
        (
            Box::new(|facts| facts.observed.secret = None),
            &["secret-missing"],
            false,
        ),
        (
            Box::new(|facts| facts.observed.secret.as_mut().unwrap().key = None),
            &["secret-unusable"],
            false,
        ),
        (
            Box::new(|facts| facts.observed.configuration = None),
            &["webhook-missing"],
            false,
        ),
        (
            Box::new(|facts| facts.observed.configuration.as_mut().unwrap().hooks.clear()),
            &["webhook-elsewhere"],
            false,
        ),
        (
            Box::new(|facts| bundle(facts, "")),
            &["ca-bundle-empty", "replica-untrusted", "replica-untrusted"],
            false,
        ),
        (
            Box::new(|facts| bundle(facts, &other.ca)),
            &[
                "ca-bundle-distrusts",
                "replica-untrusted",
                "replica-untrusted",
            ],
            false,
        ),
        (
            Box::new(|facts| facts.lease = None),
            &["leader-none"],
            false,
        ),
        (
            Box::new(|facts| facts.lease.as_mut().unwrap().until = Some(NOW)),
            &["leader-none"],
            false,
        ),
        (
            Box::new(|facts| {
                let leads = |it: &&mut Replica| {
                    let lease = facts.lease.as_ref().unwrap();
                    lease.holder.as_ref().unwrap().contains(&it.pod)
                };
                let leader = facts.replicas.iter_mut().find(leads).unwrap();
                leader.page.as_mut().unwrap().step = Some("look".to_owned());
            }),
            &["leader-blind"],
            false,
        ),
        // The clock of its node is behind.
        (
            Box::new(|facts| {
                facts.lease.as_mut().unwrap().until = Some(NOW);
                facts.replicas[1].page.as_mut().unwrap().leads = true;
            }),
            &[],
            true,
        ),
        (
            Box::new(|facts| facts.lease.as_mut().unwrap().holder = Some(String::new())),
            &["leader-none"],
            false,
        ),
        (
            Box::new(|facts| facts.replicas.clear()),
            &["replicas-none"],
            false,
        ),
        // One that has no address is no endpoint.
        (
            Box::new(|facts| facts.scale = scale(3, 2)),
            &["replicas-missing"],
            false,
        ),
        // In a rollout there is one more; and somebody may want none.
        (Box::new(|facts| facts.scale = scale(2, 3)), &[], true),
        (Box::new(|facts| facts.scale = scale(0, 0)), &[], true),
        // It is installed by other means, or is not for whoever asks.
        (Box::new(|facts| facts.scale = Ok(None)), &[], true),
        (
            Box::new(|facts| facts.scale = Err("forbidden".to_owned())),
            &["replicas-uncounted"],
            true,
        ),
        (
            Box::new(|facts| {
                let configuration = facts.observed.configuration.as_mut().unwrap();
                configuration.hooks[0].fails_open = true;
            }),
            &["webhook-fails-open"],
            false,
        ),
        // As somebody declared it.
        (
            Box::new(|facts| {
                let configuration = facts.observed.configuration.as_mut().unwrap();
                configuration.hooks[0].fails_open = true;
                configuration.hooks[0].is_declared = true;
            }),
            &["webhook-fails-open"],
            true,
        ),
        (
            Box::new(|facts| facts.replicas[1].is_ready = false),
            &["replica-not-ready"],
            false,
        ),
        // It drains, and then nothing of it can be seen.
        (
            Box::new(|facts| {
                let leaving = &mut facts.replicas[1];
                (leaving.is_leaving, leaving.is_ready) = (true, false);
                leaving.served = Err("refused".to_owned());
                leaving.page = Err("refused".to_owned());
            }),
            &["replica-leaving"],
            true,
        ),
        // Of the map file that was.
        (
            Box::new(|facts| {
                let leaving = &mut facts.replicas[1];
                (leaving.is_leaving, leaving.is_ready) = (true, false);
                leaving.page.as_mut().unwrap().maps = Some("x".to_owned());
            }),
            &["replica-leaving"],
            true,
        ),
        (
            Box::new(|facts| facts.replicas[1].served = Err("refused".to_owned())),
            &["replica-unreachable"],
            false,
        ),
        (
            Box::new(|facts| facts.replicas[0].served = Ok(served(&other))),
            &["replica-untrusted", "replica-other-leaf"],
            false,
        ),
        // In the middle of a rotation: both are believed.
        (
            Box::new(|facts| {
                facts.replicas[0].served = Ok(served(&other));
                bundle(facts, &format!("{}{}", pem.ca, other.ca));
            }),
            &["replica-other-leaf"],
            true,
        ),
        // One that did not hear of it, and whose own leaf ends.
        (
            Box::new(|facts| {
                facts.replicas[0].served = Ok(served(&ends));
                bundle(facts, &format!("{}{}", pem.ca, ends.ca));
            }),
            &["replica-other-leaf"],
            false,
        ),
        // It may, while the next one is still to be believed.
        (
            Box::new(|facts| {
                facts.replicas[0].served = Ok(served(&ends));
                facts.observed.secret.as_mut().unwrap().next_key = Some(Vec::new());
                bundle(facts, &format!("{}{}", pem.ca, ends.ca));
            }),
            &["replica-other-leaf"],
            true,
        ),
        (
            Box::new(|facts| facts.replicas[0].page.as_mut().unwrap().maps = Some("x".to_owned())),
            &["maps-differ"],
            false,
        ),
        (
            Box::new(|facts| {
                let page = facts.replicas[0].page.as_mut().unwrap();
                (page.maps, page.refuses_maps) = (None, true);
            }),
            &["maps-none"],
            false,
        ),
        (
            Box::new(|facts| facts.replicas[0].page.as_mut().unwrap().refuses_maps = true),
            &["maps-refused"],
            false,
        ),
        (
            Box::new(|facts| facts.replicas[0].page.as_mut().unwrap().has_no_rule = true),
            &["maps-empty"],
            false,
        ),
        (
            Box::new(|facts| {
                for replica in &mut facts.replicas {
                    let page = replica.page.as_mut().unwrap();
                    (page.maps, page.has_no_rule) = (None, true); // LEGACY mode
                }
            }),
            &[],
            true,
        ),
        (
            Box::new(|facts| facts.replicas[1].page.as_mut().unwrap().lines_in_error = 3),
            &["maps-in-error"],
            false,
        ),
        (
            Box::new(|facts| facts.replicas[1].page = Err("refused".to_owned())),
            &["replica-silent"],
            false,
        ),
        (
            Box::new(|facts| *facts = healthy_at(&pem, NOW + Duration::days(336))),
            &["certificate-ends"],
            false,
        ),
        (
            Box::new(|facts| *facts = healthy_at(&pem, NOW + Duration::days(334))),
            &[],
            true,
        ),
        // One of a day, from the day before to the hour.
        (Box::new(|facts| *facts = healthy(&day)), &[], true),
        (
            Box::new(|facts| *facts = healthy_at(&day, NOW + Duration::hours(21))),
            &[],
            true,
        ),
        (
            Box::new(|facts| *facts = healthy_at(&day, NOW + Duration::hours(23))),
            &["certificate-ends"],
            false,
        ),
        // It is renewed with half of its life left, as one of a year is.
        (Box::new(|facts| *facts = healthy(&short)), &[], true),
        (
            Box::new(|facts| *facts = healthy_at(&short, NOW + Duration::days(19))),
            &["certificate-ends"],
            false,
        ),
    ];
    for (row, (break_it, ids, is_healthy)) in rows.iter().enumerate() {
        let mut facts = healthy(&pem);
        break_it(&mut facts);
        assert_eq!(found(&facts), *ids, "row {row}");
        assert_eq!(report(&facts).healthy, *is_healthy, "row {row}");
    }
}

/// As in break-glass, where nobody is to be told that Pods are refused.
#[test]
fn whether_pods_are_refused_is_for_the_webhook_to_say() {
    let bare = |change: &dyn Fn(&mut Facts)| {
        let mut facts = healthy(&pair(365));
        facts.replicas.clear();
        let configuration = facts.observed.configuration.as_mut().unwrap();
        configuration.hooks[0].bundle.clear();
        change(&mut facts);
        let findings = report(&facts).findings.into_iter();
        let told = findings.filter(|it| ["ca-bundle-empty", "replicas-none"].contains(&it.id));
        let told = told.map(|it| (it.id, it.severity, it.text.contains("Pods are refused")));
        told.collect::<Vec<_>>()
    };
    let hooks = |facts: &mut Facts, change: &dyn Fn(&mut Vec<Hook>)| {
        change(&mut facts.observed.configuration.as_mut().unwrap().hooks);
    };
    let all = |is_refused| {
        let ids = ["ca-bundle-empty", "replicas-none"];
        ids.map(|id| (id, Error, is_refused)).to_vec()
    };
    let unasked = vec![("replicas-none", Warning, false)];
    assert_eq!(bare(&|_| {}), all(true));
    let open = |facts: &mut Facts| hooks(facts, &|hooks| hooks[0].fails_open = true);
    assert_eq!(bare(&open), all(false));
    let deleted = |facts: &mut Facts| facts.observed.configuration = None;
    assert_eq!(bare(&deleted), unasked);
    let elsewhere = |facts: &mut Facts| hooks(facts, &Vec::clear);
    assert_eq!(bare(&elsewhere), unasked);
    // One of two is enough to refuse them.
    let both = |facts: &mut Facts| {
        hooks(facts, &|hooks| {
            hooks.push(Hook {
                fails_open: true,
                ..Hook::default()
            });
        });
    };
    let told = bare(&both);
    assert_eq!(told.last(), Some(&("replicas-none", Error, true)));
}

/// One of ours begins two days before it is made, and an hour.
pub(super) fn pair_that_begins(at: OffsetDateTime) -> Pem {
    pair_of(365, at + Duration::hours(49))
}

/// The leader's rule: by kube-apiserver's clock it waits for an hour, by its own until somebody asks for another.
#[test]
fn who_reads_of_a_pair_that_begins_later_is_told_what_the_leader_does() {
    for (hours, is_told, is_asked, says) in [
        (1, true, false, "kube-apiserver's clock"),
        (1, true, true, "kube-apiserver's clock"),
        (2, true, false, "replaces it"),
        (2, false, false, "`imageswap rotate`"),
        (2, false, true, "replaces it"),
    ] {
        let mut facts = healthy(&pair_that_begins(NOW + Duration::hours(hours)));
        facts.is_told = is_told;
        facts.observed.secret.as_mut().unwrap().request = is_asked.then(|| "now".to_owned());
        let findings = report(&facts).findings;
        let found = findings.iter().find(|it| it.id == "secret-unusable");
        assert!(found.unwrap().help.contains(says), "{hours} {found:?}");
    }
}

/// Nobody but who brought it can renew it.
#[test]
fn who_brought_a_certificate_that_ends_is_not_sent_to_the_leader() {
    let mut facts = healthy_at(&pair(20), NOW + Duration::days(19));
    for (source, says) in [
        (Source::Minted, "leader"),
        (Source::Annotated, "comes from"),
    ] {
        if let Some(secret) = &mut facts.observed.secret {
            secret.source = source;
        }
        let report = report(&facts);
        let help = report
            .findings
            .iter()
            .find(|it| it.id == "certificate-ends");
        assert!(help.is_some_and(|it| it.help.contains(says)), "{report:?}");
    }
}

/// The Secret, if there is one, is what was there before.
#[test]
fn where_files_are_served_the_secret_means_nothing() {
    let (pem, old) = (pair(365), pair(365));
    let from_files = |served_is: &Pem, bundle: &Pem, secret: Option<&Pem>| {
        let mut facts = healthy(bundle);
        facts.observed.secret = secret.map(|pem| Secret::minted("1", pem));
        for replica in &mut facts.replicas {
            replica.served = Ok(served(served_is));
            replica.page.as_mut().unwrap().is_from_files = true;
        }
        facts
    };
    for secret in [None, Some(&old)] {
        let facts = from_files(&pem, &pem, secret);
        let report = report(&facts);
        assert_eq!(report.findings, []);
        assert_eq!(report.certificate.unwrap().days_left, 365);
        assert!(report.webhooks[0].trusts_secret);
    }
    let mut refused = from_files(&pem, &pem, None);
    refused.replicas[1].page.as_mut().unwrap().is_refused = true;
    assert_eq!(found(&refused), ["files-unusable"]);
    let told = |facts: &Facts, id: &str| {
        let findings = report(facts).findings;
        let one = findings.into_iter().find(|one| one.id == id).unwrap();
        format!("{}; {}", one.text, one.help)
    };
    assert!(told(&refused, "files-unusable").contains("serves the last good ones"));
    // One that has begun with them has nothing to serve; that it answers otherwise tells so.
    refused.replicas[1].served = Err("no answer".to_owned());
    assert!(told(&refused, "files-unusable").contains("nothing else"));
    assert!(told(&refused, "replica-unreachable").contains("its log says"));
    refused.replicas[1].page = Err("refused".to_owned());
    assert!(told(&refused, "replica-unreachable").contains("NetworkPolicy"));
    assert!(!report(&refused).healthy);
    let mut late = from_files(&pem, &pem, None);
    (late.now, late.lease) = (NOW + Duration::days(336), None);
    assert_eq!(found(&late), ["certificate-ends", "leader-none"]);
    assert_eq!(
        found(&from_files(&pem, &old, Some(&old))),
        [
            "ca-bundle-distrusts",
            "replica-untrusted",
            "replica-untrusted"
        ]
    );
    // A pair of our own that can't be served is told of by the Secret.
    let mut ours = healthy(&pem);
    ours.replicas[1].page.as_mut().unwrap().is_refused = true;
    assert_eq!(found(&ours), [""; 0]);
}

#[test]
fn while_no_replica_can_be_asked_the_deployment_tells_of_files() {
    let (pem, old) = (pair(365), pair(365));
    let silent = |names_files, is_up: bool| {
        let mut facts = healthy(&pem);
        facts.observed.secret = None;
        facts.scale.as_mut().unwrap().as_mut().unwrap().names_files = names_files;
        for replica in &mut facts.replicas {
            replica.page = Err("refused".to_owned());
        }
        if !is_up {
            facts.replicas.clear();
        }
        facts
    };
    // In CrashLoop for what is in them, and with a NetworkPolicy in the way of metrics.
    assert_eq!(found(&silent(true, false)), ["replicas-none"]);
    let seen = silent(true, true);
    assert_eq!(found(&seen), ["replica-silent", "replica-silent"]);
    let report_of = |facts: &Facts| {
        let report = report(facts);
        (report.rotation.step, report.certificate.is_some())
    };
    assert_eq!(report_of(&silent(true, false)), ("wait", false));
    assert_eq!(report_of(&seen), ("wait", true));
    // What a Secret of before has to do with it is nothing.
    let mut seen = seen;
    seen.observed.secret = Some(Secret::minted("1", &old));
    assert_eq!(found(&seen), ["replica-silent", "replica-silent"]);

    let is_unsure = |facts: &Facts, id: &str| {
        let findings = report(facts).findings;
        let told = findings.iter().find(|one| one.id == id).unwrap();
        told.text.contains("that is not known")
    };
    assert!(is_unsure(&silent(false, false), "secret-missing"));
    let mut unseen = silent(false, true);
    unseen.scale = Err("forbidden".to_owned());
    assert!(is_unsure(&unseen, "secret-missing"));
    unseen.observed.secret = Some(Secret::minted("1", &old));
    assert!(is_unsure(&unseen, "ca-bundle-distrusts"));
    assert!(is_unsure(&unseen, "replica-other-leaf"));
    unseen.observed.secret.as_mut().unwrap().key = None;
    assert!(is_unsure(&unseen, "secret-unusable"));
    // One that can be asked knows.
    unseen.replicas[0].page = Ok(Page::default());
    assert!(!is_unsure(&unseen, "secret-unusable"));
    let mut rolls = silent(true, true);
    rolls.replicas[0].page = Ok(Page::default());
    assert!(found(&rolls).contains(&"secret-missing"));
}

#[test]
fn a_metrics_page_is_read_for_what_is_known() {
    let page = Page::read(
        "# HELP imageswap_build_info 1\n\
         imageswap_build_info{version=\"2.0.1\"} 1\n\
         imageswap_maps_info{hash=\"abc\"} 1\n\
         imageswap_maps_refused 1\n\
         imageswap_maps_lines_in_error 7\n\
         imageswap_leader 1\n\
         imageswap_rotation_step_info{step=\"trust\"} 0\n\
         imageswap_rotation_step_info{step=\"wait\"} 1\n\
         imageswap_certificate_from_files 1\n\
         imageswap_certificate_refused 0\n\
         rubbish\n imageswap_maps_info{hash=\"cut",
    );
    let expected = Page {
        version: Some("2.0.1".to_owned()),
        maps: Some("abc".to_owned()),
        refuses_maps: true,
        has_no_rule: false,
        lines_in_error: 7,
        leads: true,
        step: Some("wait".to_owned()),
        is_from_files: true,
        is_refused: false,
    };
    assert_eq!(page, expected);
    assert_eq!(Page::read(""), Page::default());
}

/// By the names that a replica of this version gives them.
#[test]
fn a_metrics_page_of_our_own_is_read_whole() {
    let metrics = Metrics::new().unwrap();
    let quiet = Page::read(&metrics.render().unwrap());
    assert_eq!(quiet.version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    metrics.maps_refused.set(1);
    metrics.maps_lines_in_error.set(7);
    metrics.maps_info.with_label_values(&["abc"]).set(1);
    metrics.leader.set(1);
    metrics.rotation_step.with_label_values(&["wait"]).set(1);
    metrics.from_files.set(1);
    metrics.refused.set(1);
    let expected = Page {
        version: quiet.version,
        maps: Some("abc".to_owned()),
        refuses_maps: true,
        has_no_rule: true,
        lines_in_error: 7,
        leads: true,
        step: Some("wait".to_owned()),
        is_from_files: true,
        is_refused: true,
    };
    assert_eq!(Page::read(&metrics.render().unwrap()), expected);
}

#[test]
fn every_finding_is_documented() {
    const CODE: &str = include_str!("../status.rs");
    const DOCS: &str = include_str!("../../docs/operations.md");
    let words = [("Error", "error"), ("Warning", "warning"), ("Note", "note")];
    let mut in_code = BTreeSet::new();
    for (severity, word) in words {
        let end = format!("\", {severity}),");
        let lines = CODE.lines().map(str::trim);
        let ids = lines.filter_map(|line| line.strip_prefix("(\"")?.strip_suffix(&end));
        in_code.extend(ids.map(|id| (id, word)));
    }
    let rows = DOCS.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| {
        let (id, rest) = row.split_once("` | ")?;
        Some((id, rest.split_once(" | ")?.0))
    });
    let is_severity = |cell: &(&str, &str)| words.iter().any(|(_, word)| *word == cell.1);
    let in_docs: Vec<_> = cells.filter(is_severity).collect();
    assert_eq!(in_docs.len(), in_code.len(), "a row twice, or one too few");
    assert_eq!(in_code, in_docs.into_iter().collect());
}
