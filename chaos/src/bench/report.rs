//! What was measured as a table for people, and as JSON for machines.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use serde::Serialize;

use super::figures::{Figure, Sheet, Target, median, shown};
use super::plot::plot;
use crate::facts::{State, UNFINISHED};

/// Where it goes, and what stands in its head.
#[derive(Debug)]
pub(super) struct Report {
    /// Date, sources, machine, command.
    pub(super) facts: Vec<(String, String)>,
    /// What ImageSwap is compared with.
    pub(super) floor: &'static str,
    pub(super) folder: PathBuf,
}

/// `bench.json`.
#[derive(Debug, Serialize)]
struct Told<'r> {
    facts: &'r [(String, String)],
    floor: &'static str,
    figures: Vec<Verdict<'r>>,
}

/// A figure, and what follows from it.
#[derive(Debug, Serialize)]
struct Verdict<'r> {
    #[serde(flatten)]
    figure: &'r Figure,
    entries_per_round: usize,
    floor_median: Option<f64>,
    imageswap_median: Option<f64>,
    ratio: Option<f64>,
    /// Whether the target is.
    reached: Option<bool>,
}

/// What the columns mean.
const LEGEND: &str = "Each value is the median over the rounds, and the ratio that of the ratios within each \
     round; requests and CPU of the closed loops are over the 16 turns of each round, starts over the 4 of each. \
     10 % and 70 % are of what ImageSwap reached in the closed loop, for both servers alike. \
     Latencies count from when a request was due. In the rounds in which a server was saturated, less than \
     99 % of what was due was answered in time, or requests waited for a free connection as a rule: latency then is \
     that of the queue.";

impl Report {
    /// Writes `bench.json`, `bench.md` and `bench.svg`.
    ///
    /// # Errors
    /// The disk is full, or the like.
    pub(super) fn write(&self, sheet: &Sheet, state: &State<'_>) -> anyhow::Result<()> {
        let mut facts = self.facts.clone();
        facts.extend(state.unfinished().map(|why| (UNFINISHED.to_owned(), why)));
        let told = Told {
            facts: &facts,
            floor: self.floor,
            figures: sheet.figures.iter().map(verdict).collect(),
        };
        self.file("bench.json", &serde_json::to_string_pretty(&told)?)?;
        let list: String = facts
            .iter()
            .map(|(name, value)| format!("- {name}: {value}\n"))
            .collect();
        let table = self.table(sheet);
        self.file("bench.md", &format!("{list}\n{table}\n{LEGEND}\n"))?;
        self.file("bench.svg", &plot(&facts, self.floor, sheet))
    }

    /// What was there stays until the new one is whole.
    fn file(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.folder.join(name);
        let part = self.folder.join(format!("{name}.part"));
        fs::write(&part, text)
            .and_then(|()| fs::rename(&part, &path))
            .with_context(|| format!("can't write {}", path.display()))
    }

    /// In Markdown that is as readable on a terminal.
    pub(super) fn table(&self, sheet: &Sheet) -> String {
        let head = ["", "unit", self.floor, "ImageSwap", "ratio", "target", ""];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(sheet.figures.iter().map(row));
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..head.len()).map(width).collect();
        let mut text = String::new();
        for (n, row) in rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).enumerate();
            let cells: Vec<_> = cells
                .map(|(column, (cell, width))| match column {
                    2..=4 => format!("{cell:>width$}"),
                    _ => format!("{cell:<width$}"),
                })
                .collect();
            text += &format!("| {} |\n", cells.join(" | "));
            if n == 0 {
                let rules = widths
                    .iter()
                    .enumerate()
                    .map(|(column, width)| match column {
                        2..=4 => format!("{}:", "-".repeat(width + 1)),
                        _ => "-".repeat(width + 2),
                    });
                text += &format!("|{}|\n", rules.collect::<Vec<_>>().join("|"));
            }
        }
        text
    }
}

fn verdict(figure: &Figure) -> Verdict<'_> {
    Verdict {
        figure,
        entries_per_round: figure.entry.per_round(),
        floor_median: median(&figure.floor),
        imageswap_median: median(&figure.imageswap),
        ratio: figure.ratio(),
        reached: figure.is_reached(),
    }
}

fn row(figure: &Figure) -> [String; 7] {
    let value = |values| median(values).map_or("–".to_owned(), shown);
    let reached = match figure.is_reached() {
        None => "",
        Some(true) => "reached",
        Some(false) => "**missed**",
    };
    let words = [reached, &figure.remark];
    let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
    [
        figure.name.clone(),
        figure.unit.to_owned(),
        value(&figure.floor),
        value(&figure.imageswap),
        figure
            .ratio()
            .map_or("–".to_owned(), |ratio| format!("{ratio:.2}")),
        figure.target.map_or(String::new(), self::words),
        words.join("; "),
    ]
}

fn words(target: Target) -> String {
    match target {
        Target::RatioAtLeast(least) => format!("ratio ≥ {least}"),
        Target::RatioAtMost(most) => format!("ratio ≤ {most}"),
        Target::AtMost(most) => format!("≤ {most}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::{Entry, Side};
    use super::*;
    use serde_json::{Value, json};

    fn sheet() -> Sheet {
        let mut sheet = Sheet::new(true);
        for (floor, ours) in [(100.0, 90.0), (120.0, 84.0), (80.0, 60.0)] {
            let requests = "requests, typical";
            sheet.add_entry(Entry::Slice, Side::Floor, requests, "1/s", floor);
            sheet.add_entry(Entry::Slice, Side::ImageSwap, requests, "1/s", ours);
        }
        sheet.add(Side::ImageSwap, "p50 at 70 %, typical", "µs", 42.0);
        sheet.remark("p50 at 70 %, typical", "saturated: ImageSwap 2 of 5");
        sheet
    }

    fn report(folder: PathBuf) -> Report {
        Report {
            facts: vec![("date".to_owned(), "today".to_owned())],
            floor: "null webhook",
            folder,
        }
    }

    #[test]
    fn the_table_tells_medians_targets_and_remarks() {
        let table = report(PathBuf::new()).table(&sheet());
        let rows: Vec<Vec<_>> = table
            .lines()
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        assert_eq!(
            rows[2][1..8],
            [
                "requests, typical",
                "1/s",
                "100",
                "84.0",
                "0.75",
                "ratio ≥ 0.8",
                "**missed**"
            ]
        );
        assert_eq!(
            rows[3][3..8],
            ["–", "42.0", "–", "", "saturated: ImageSwap 2 of 5"]
        );
    }

    #[test]
    fn json_has_what_follows_from_the_values_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        let read = || -> Value {
            serde_json::from_slice(&fs::read(folder.path().join("bench.json")).unwrap()).unwrap()
        };
        let report = report(folder.path().to_owned());
        report.write(&sheet(), &State::Done).unwrap();
        let told = read();
        assert_eq!(told["facts"], json!([["date", "today"]]));
        assert_eq!(told["floor"], "null webhook");
        assert_eq!(
            told["figures"][0],
            json!({
                "name": "requests, typical",
                "unit": "1/s",
                "entry": "slice",
                "entries_per_round": 16,
                "floor": [100.0, 120.0, 80.0],
                "imageswap": [90.0, 84.0, 60.0],
                "floor_median": 100.0,
                "imageswap_median": 84.0,
                "ratio": 0.75,
                "target": {"ratio_at_least": 0.8},
                "reached": false,
                "remark": "",
            })
        );
        assert_eq!(told["figures"][1]["entry"], "round");
        assert_eq!(told["figures"][1]["reached"], Value::Null);
        // What was measured before something failed is kept, and says that it is not all.
        let error = anyhow::anyhow!("no answer");
        report.write(&sheet(), &State::Failed(&error)).unwrap();
        assert_eq!(read()["facts"][1], json!(["unfinished", "no answer"]));
        assert_eq!(read()["figures"], told["figures"]);
    }
}
