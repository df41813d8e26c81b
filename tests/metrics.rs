//! `docs/metrics.md` lists exactly what the code exports.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeSet;

use imageswap::rotation::plan::Kind;
use imageswap::server::Closed;
use imageswap::telemetry::metrics::{Exported, Metrics};

const DOCS: &str = include_str!("../docs/metrics.md");

/// A row of a table: `name` | type | `label`: its values; … | what it tells.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row<'d> {
    name: &'d str,
    kind: &'d str,
    labels: Vec<&'d str>,
}

fn rows() -> Vec<Row<'static>> {
    let rows = DOCS.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, tells] = cells.try_into().expect("four cells");
        assert!(tells.ends_with('.'), "{name} tells nothing");
        Row {
            name: name.trim_matches('`'),
            kind,
            labels: labels.split('`').skip(1).step_by(2).collect(),
        }
    })
    .collect()
}

#[test]
fn the_documented_metrics_are_the_exported_ones() {
    let metrics = Metrics::new().unwrap();
    let exported: BTreeSet<_> = metrics.catalogue().iter().map(as_row).collect();
    let rows = rows();
    let documented: BTreeSet<_> = rows.iter().map(Row::sorted).collect();
    assert_eq!(rows.len(), documented.len(), "a metric is listed twice");
    let lacking: Vec<_> = exported.difference(&documented).collect();
    let gone: Vec<_> = documented.difference(&exported).collect();
    assert!(
        lacking.is_empty() && gone.is_empty(),
        "docs/metrics.md lacks {lacking:#?}, and has what is not exported: {gone:#?}"
    );
}

#[test]
fn what_is_rendered_is_in_the_catalogue() {
    let metrics = Metrics::new().unwrap();
    let known: BTreeSet<_> = metrics.catalogue().iter().map(|m| &*m.name).collect();
    let text = metrics.render().unwrap();
    let rendered = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    for line in rendered.clone() {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(known.contains(name), "{name} is rendered, and not listed");
        let listed = metrics.catalogue().iter().find(|m| m.name == name).unwrap();
        assert_eq!(listed.kind, kind, "{name}");
    }
    assert!(rendered.count() > 10);
}

#[test]
fn every_step_of_the_rotation_is_documented() {
    let row = DOCS.lines().find(|line| line.contains("_step_info`"));
    for step in Kind::ALL.map(Kind::name) {
        let words = row.unwrap().split(|c: char| !c.is_alphanumeric());
        assert!(words.clone().any(|word| word == step), "{step}");
    }
}

#[test]
fn the_documented_reasons_why_connections_end_are_those_that_are_counted() {
    let row = DOCS
        .lines()
        .find(|line| line.contains("_connections_closed_total`"));
    let labels = row.unwrap().split('|').nth(3).unwrap();
    let documented = labels.trim().strip_prefix("`reason`: ").unwrap();
    let counted = Closed::ALL.map(Closed::as_str);
    assert_eq!(documented.split(", ").collect::<Vec<_>>(), counted);
}

fn as_row(exported: &Exported) -> Row<'_> {
    Row {
        name: &exported.name,
        kind: exported.kind,
        labels: exported.labels.iter().map(String::as_str).collect(),
    }
    .sorted()
}

impl<'d> Row<'d> {
    fn sorted(&self) -> Row<'d> {
        let mut labels = self.labels.clone();
        labels.sort_unstable();
        Row { labels, ..*self }
    }
}
