//! `deploy/monitoring`: the alerts, their unit tests, their runbooks and the dashboard.
//!
//! Prometheus' own `promtool` judges the rules and runs `deploy/monitoring/tests`; it is unpacked
//! from Debian's package `prometheus` if it is not there. `IMAGESWAP_CHAOS_TESTS=off` skips that on
//! purpose. The other tests need nothing.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use chaos::command::{command, run, run_with};
use chaos::progress::say;
use chaos::{doctor, repository};
use imageswap::telemetry::metrics::Metrics;
use serde_json::{Value, json};

/// What skips what needs `promtool`.
const VARIABLE: &str = "IMAGESWAP_CHAOS_TESTS";

/// What others export: Prometheus itself, kube-apiserver, kube-state-metrics, the kubelet.
const FOREIGN: [&str; 11] = [
    "up",
    "apiserver_admission_webhook_admission_duration_seconds_bucket",
    "apiserver_admission_webhook_fail_open_count",
    "apiserver_admission_webhook_rejection_count",
    "kube_deployment_spec_replicas",
    "kube_deployment_status_condition",
    "kube_deployment_status_replicas_available",
    "kube_pod_container_status_restarts_total",
    "process_start_time_seconds",
    "container_cpu_usage_seconds_total",
    "container_memory_working_set_bytes",
];

/// All of PromQL that is used.
const WORDS: [&str; 18] = [
    "absent",
    "and",
    "by",
    "clamp_max",
    "count",
    "histogram_quantile",
    "increase",
    "max",
    "max_over_time",
    "min",
    "min_over_time",
    "offset",
    "on",
    "or",
    "rate",
    "sum",
    "time",
    "unless",
];

/// Labels that a scrape adds, and a histogram has.
const ADDED: [&str; 3] = ["namespace", "pod", "le"];

// === promtool ===

#[test]
fn promtool_finds_nothing_wrong_with_the_rules() {
    let Some(promtool) = promtool() else { return };
    let folder = tempfile::tempdir().unwrap();
    let rules = write_rules(folder.path(), rule_groups());
    succeeds(command(promtool, ["check", "rules", "--lint-fatal"]).arg(rules));
}

#[test]
fn every_alert_fires_when_it_should_and_not_else() {
    let Some(promtool) = promtool() else { return };
    let folder = tempfile::tempdir().unwrap();
    // `promtool` compares all annotations; of those, only the summary is made from values.
    let mut groups = rule_groups();
    for rule in groups.iter_mut().flat_map(rules_of_mut) {
        let annotations = rule["annotations"].as_object_mut().unwrap();
        annotations.retain(|name, _| name == "summary");
    }
    write_rules(folder.path(), groups);
    let tests = test_files().into_iter().map(|file| {
        let copy = folder.path().join(file.file_name().unwrap());
        fs::copy(file, &copy).unwrap();
        copy
    });
    let tests: Vec<_> = tests.collect();
    succeeds(command(promtool, ["test", "rules"]).args(tests));
}

#[test]
fn promtool_can_read_the_dashboards_expressions() {
    let Some(promtool) = promtool() else { return };
    let folder = tempfile::tempdir().unwrap();
    let rules = expressions().into_iter().enumerate();
    let rules = rules.map(|(number, (place, expression))| {
        let expr = expression.replace("$__rate_interval", "5m");
        json!({"record": format!("test:{number}"), "expr": expr, "labels": {"place": place}})
    });
    let rules: Vec<_> = rules.collect();
    let group = json!({"name": "expressions", "rules": rules});
    let rules = write_rules(folder.path(), vec![group]);
    succeeds(command(promtool, ["check", "rules"]).arg(rules));
}

#[test]
fn promtool_finds_nothing_wrong_with_the_names_of_metrics() {
    let Some(promtool) = promtool() else { return };
    let metrics = Metrics::new().unwrap().render().unwrap();
    let judged = run_with(&mut command(promtool, ["check", "metrics"]), &metrics).unwrap();
    let text = String::from_utf8_lossy(&judged.stderr);
    assert!(judged.status.success(), "{text}");
}

/// `None` if it is not wanted.
fn promtool() -> Option<&'static Path> {
    static PROMTOOL: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = PROMTOOL.get_or_init(|| {
        if std::env::var(VARIABLE).is_ok_and(|value| value == "off") {
            say(format_args!(
                "{VARIABLE}=off: the tests that need promtool are skipped"
            ));
            return None;
        }
        Some(doctor::ensure("promtool", "prometheus").unwrap_or_else(|error| panic!("{error:#}")))
    });
    found.as_deref()
}

fn succeeds(command: &mut Command) {
    if let Err(error) = run(command) {
        panic!("{error:#}");
    }
}

/// The groups as Prometheus reads them: JSON is YAML.
fn write_rules(folder: &Path, groups: Vec<Value>) -> PathBuf {
    let path = folder.join("rules.yaml");
    fs::write(&path, json!({ "groups": groups }).to_string()).unwrap();
    path
}

// === the alerts ===

#[test]
fn every_alert_has_a_test_that_it_fires_and_one_that_it_does_not() {
    let mut tested: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
    for file in test_files() {
        for test in read_yaml(&file)["tests"].as_array().unwrap() {
            for case in test["alert_rule_test"].as_array().unwrap() {
                let fires = case["exp_alerts"].as_array().is_some_and(|a| !a.is_empty());
                let name = case["alertname"].as_str().unwrap();
                tested.entry(name.to_owned()).or_default().insert(fires);
            }
        }
    }
    let alerts = alerts();
    for alert in alerts.keys() {
        let cases = tested.remove(alert).unwrap_or_default();
        assert_eq!(cases, BTreeSet::from([false, true]), "{alert}");
    }
    assert!(tested.is_empty(), "tests of no alert: {tested:?}");
}

#[test]
fn every_alert_says_what_a_person_needs_and_has_a_runbook() {
    let headings = headings(&read("docs/operations.md"));
    let alerts = alerts();
    for (name, rule) in &alerts {
        let text = |pointer: &str| rule.pointer(pointer).and_then(Value::as_str);
        let severity = text("/labels/severity").unwrap_or_default();
        assert!(["critical", "warning"].contains(&severity), "{name}");
        assert!(text("/annotations/summary").is_some(), "{name}");
        // Only summaries are tested as they are rendered.
        let description = text("/annotations/description").unwrap_or_default();
        assert!(description.ends_with('.'), "{name}");
        assert!(!description.contains("{{"), "{name}");
        let runbook = format!("docs/operations.md#{}", anchor(name));
        assert_eq!(text("/annotations/runbook_url"), Some(&*runbook), "{name}");
        assert!(headings.contains(name), "docs/operations.md lacks {name}");
    }
    let is_alert = |heading: &&String| heading.starts_with("ImageSwap");
    let runbooks: BTreeSet<_> = headings.iter().filter(is_alert).collect();
    assert_eq!(runbooks, alerts.keys().collect(), "runbooks without alerts");
}

#[test]
fn links_within_the_documents_lead_somewhere() {
    for page in ["docs/operations.md", "docs/metrics.md"] {
        let text = read(page);
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let file = match file {
                "" => page.to_owned(),
                file => format!("docs/{file}"),
            };
            let headings = headings(&read(&file));
            let is_there = fragment.is_empty() || headings.iter().any(|h| anchor(h) == fragment);
            assert!(is_there, "{page} links to {link}");
        }
    }
}

#[test]
fn log_lines_that_are_explained_are_logged() {
    let sources = sources(&repository().join("src"));
    let operations = read("docs/operations.md");
    let rows = operations.lines().filter(|line| {
        let level = line.split('|').nth(1).unwrap_or_default().trim();
        ["ERROR", "WARN", "INFO"].contains(&level)
    });
    let mut count = 0;
    for row in rows {
        let messages = row.split('|').nth(2).unwrap().split('`').skip(1).step_by(2);
        for message in messages {
            count += 1;
            // What is filled in stands as "…" there, and in braces here.
            let parts: Vec<_> = message.split('…').filter(|part| part.len() > 3).collect();
            let is_logged = |line: &str| parts.iter().all(|part| line.contains(part));
            let is_logged = sources.lines().any(is_logged) && !parts.is_empty();
            assert!(is_logged, "nothing logs {message:?}");
        }
    }
    assert!(count > 20);
}

/// All of it, with strings that are broken across lines put together.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let texts = entries.map(|entry| match entry.path() {
        path if path.is_dir() => sources(&path),
        path => fs::read_to_string(path).unwrap(),
    });
    let text = texts.collect::<Vec<_>>().join("\n");
    let mut pieces = text.split("\\\n");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| text + piece.trim_start())
}

/// As GitHub makes them of headings.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        c => c.is_alphanumeric().then_some(c),
    });
    kept.collect::<String>().to_lowercase()
}

fn headings(markdown: &str) -> BTreeSet<String> {
    let lines = markdown.lines().filter(|line| line.starts_with('#'));
    lines
        .map(|line| line.trim_start_matches('#').trim().to_owned())
        .collect()
}

// === the dashboard ===

#[test]
fn every_panel_says_what_it_shows_and_in_which_unit() {
    let dashboard = dashboard();
    let variables: Vec<_> = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| (variable["name"].as_str(), variable["type"].as_str()))
        .collect();
    assert_eq!(
        variables,
        [
            (Some("datasource"), Some("datasource")),
            (Some("namespace"), Some("query")),
        ]
    );
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        for place in places(&panel["gridPos"]) {
            assert!(taken.insert(place), "{title} covers another panel");
        }
        if panel["type"] == "row" {
            continue;
        }
        let description = panel["description"].as_str().unwrap_or_default();
        assert!(description.ends_with('.'), "{title}");
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str();
        assert!(unit.is_some(), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{title}");
    }
    let rows = panels.iter().filter(|panel| panel["type"] == "row");
    assert!(rows.count() >= 6);
}

/// The cells of the grid that a panel covers.
fn places(position: &Value) -> Vec<(u64, u64)> {
    let number = |name: &str| position[name].as_u64().unwrap();
    let (x, y, w, h) = (number("x"), number("y"), number("w"), number("h"));
    assert!(x + w <= 24);
    let columns = x..x + w;
    columns
        .flat_map(|column| (y..y + h).map(move |line| (column, line)))
        .collect()
}

#[test]
fn the_kustomization_names_what_is_there() {
    let folder = repository().join("deploy/monitoring");
    let kustomization = read_yaml(&folder.join("kustomization.yaml"));
    let generator = &kustomization["configMapGenerator"][0];
    assert_eq!(generator["options"]["labels"]["grafana_dashboard"], "1");
    let files = generator["files"].as_array().unwrap().iter();
    let files = files.map(|file| file.as_str().unwrap().split_once('=').unwrap().1);
    let resources = kustomization["resources"].as_array().unwrap().iter();
    let resources = resources.map(|name| name.as_str().unwrap());
    let named: Vec<_> = files.chain(resources).collect();
    assert!(named.contains(&"dashboard.json") && named.len() >= 3);
    for name in named {
        assert!(folder.join(name).is_file(), "{name}");
    }
}

// === what both are made of ===

#[test]
fn the_rules_and_the_dashboard_use_metrics_that_are_exported() {
    let metrics = Metrics::new().unwrap();
    let mut known: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for metric in metrics.catalogue() {
        let suffixes: &[_] = match metric.kind {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        for suffix in suffixes {
            let labels = metric.labels.clone();
            known.insert(format!("{}{suffix}", metric.name), labels);
        }
    }
    let mut seen = BTreeSet::new();
    for (place, expression) in expressions() {
        for (metric, labels) in metrics_in(&expression) {
            seen.insert(metric.clone());
            if FOREIGN.contains(&&*metric) {
                continue;
            }
            let has = known.get(&metric);
            let has = has.unwrap_or_else(|| panic!("{place}: nobody exports {metric}"));
            let is_known = |label: &String| ADDED.contains(&&**label) || has.contains(label);
            let unknown: Vec<_> = labels.iter().filter(|label| !is_known(label)).collect();
            assert!(unknown.is_empty(), "{place}: {metric} has no {unknown:?}");
        }
    }
    for foreign in FOREIGN {
        assert!(seen.contains(foreign), "{foreign} is used nowhere");
    }
}

#[test]
fn metrics_are_found_in_expressions() {
    let found = metrics_in(
        r#"sum by (pod) (rate(a_total{x="}{", y=~"b|c"}[5m])) / on (z) b_info unless c offset 1m"#,
    );
    let expected = [
        ("a_total", vec!["x", "y"]),
        ("b_info", vec![]),
        ("c", vec![]),
    ];
    let expected = expected.map(|(name, labels): (&str, Vec<&str>)| {
        (
            name.to_owned(),
            labels.into_iter().map(str::to_owned).collect(),
        )
    });
    assert_eq!(found, expected);
}

/// Where an expression stands, and the expression.
fn expressions() -> Vec<(String, String)> {
    let rules = alerts().into_iter().map(|(name, rule)| {
        let expression = rule["expr"].as_str().unwrap().to_owned();
        (name, expression)
    });
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| {
            let expression = target["expr"].as_str().unwrap().to_owned();
            (format!("panel {title}"), expression)
        })
    });
    rules.chain(targets).collect()
}

/// The metrics of an expression, each with the labels that it is selected by.
fn metrics_in(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    let mut rest = expression.trim_start();
    let mut after_grouping = false;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' => rest.match_indices('"').nth(1).unwrap().0 + 1,
            '[' => rest.find(']').unwrap() + 1,
            // `by (…)` and `on (…)` name labels.
            '(' if after_grouping => rest.find(')').unwrap() + 1,
            '{' => {
                let (end, labels) = selector(rest);
                found.last_mut().unwrap().1 = labels;
                end
            }
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (token, following) = rest.split_at(end);
        after_grouping = matches!(token, "by" | "on");
        let is_name = token.starts_with(|c: char| c.is_ascii_alphabetic());
        if is_name && !WORDS.contains(&token) {
            found.push((token.to_owned(), Vec::new()));
        }
        // A duration is a number.
        rest = following.trim_start();
    }
    found
}

/// The length of `{…}`, and the labels in it.
fn selector(text: &str) -> (usize, Vec<String>) {
    let (mut labels, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for (index, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '}' => return (index + 1, labels),
            '=' | '!' if !word.is_empty() => labels.push(std::mem::take(&mut word)),
            c if is_word(c) => word.push(c),
            _ => {}
        }
    }
    panic!("a selector without an end: {text}")
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_:".contains(c)
}

// === the files ===

fn alerts() -> BTreeMap<String, Value> {
    let mut groups = rule_groups();
    let rules: Vec<_> = groups.iter_mut().flat_map(rules_of_mut).collect();
    let count = rules.len();
    let alerts: BTreeMap<_, _> = rules
        .into_iter()
        .map(|rule| (rule["alert"].as_str().unwrap().to_owned(), rule.take()))
        .collect();
    assert_eq!(alerts.len(), count, "two alerts have one name");
    assert!(count >= 15);
    alerts
}

fn rule_groups() -> Vec<Value> {
    let mut rule = read_yaml(&repository().join("deploy/monitoring/prometheus-rule.yaml"));
    assert_eq!(rule["kind"], "PrometheusRule");
    serde_json::from_value(rule["spec"]["groups"].take()).unwrap()
}

fn rules_of_mut(group: &mut Value) -> std::slice::IterMut<'_, Value> {
    group["rules"].as_array_mut().unwrap().iter_mut()
}

fn test_files() -> Vec<PathBuf> {
    let folder = repository().join("deploy/monitoring/tests");
    let entries = fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn dashboard() -> Value {
    serde_json::from_str(&read("deploy/monitoring/dashboard.json")).unwrap()
}

fn read_yaml(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
