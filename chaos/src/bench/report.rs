//! What was measured as a table for people, and as JSON for machines.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use super::figures::{Figure, Sheet, Target, median, shown};
use super::plot::plot;

/// What there is to tell.
#[derive(Debug, Serialize)]
pub(super) struct Report<'r> {
    /// Date, sources, machine, command.
    pub(super) facts: &'r [(String, String)],
    /// What ImageSwap is compared with.
    pub(super) floor: &'static str,
    #[serde(flatten)]
    pub(super) sheet: &'r Sheet,
}

/// What the columns mean.
const LEGEND: &str = "Each value is the median over the rounds, and the ratio that of the ratios within each \
     round; requests and CPU of the closed loops are over the 16 turns of each round. Latencies count from when a \
     request was due.";

impl Report<'_> {
    /// Writes `bench.json`, `bench.md` and `bench.svg`.
    ///
    /// # Errors
    /// The disk is full, or the like.
    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let text = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))
        };
        text("bench.json", serde_json::to_string_pretty(self)?)?;
        let facts: String = self
            .facts
            .iter()
            .map(|(name, value)| format!("- {name}: {value}\n"))
            .collect();
        text("bench.md", format!("{facts}\n{}\n{LEGEND}\n", self.table()))?;
        text("bench.svg", plot(self))
    }

    /// In Markdown that is as readable on a terminal.
    pub(super) fn table(&self) -> String {
        let head = ["", "unit", self.floor, "ImageSwap", "ratio", "target", ""];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(self.sheet.figures.iter().map(row));
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

fn row(figure: &Figure) -> [String; 7] {
    let value = |values| median(values).map_or("–".to_owned(), shown);
    [
        figure.name.clone(),
        figure.unit.to_owned(),
        value(&figure.floor),
        value(&figure.imageswap),
        figure
            .ratio()
            .map_or("–".to_owned(), |ratio| format!("{ratio:.2}")),
        figure.target.map_or(String::new(), words),
        match figure.is_reached() {
            None => "",
            Some(true) => "reached",
            Some(false) => "**missed**",
        }
        .to_owned(),
    ]
}

fn words(target: Target) -> String {
    match target {
        Target::RatioAtLeast(least) => format!("ratio ≥ {least}"),
        Target::RatioAtMost(most) => format!("ratio ≤ {most}"),
        Target::AtMost(most) => format!("≤ {most}"),
    }
}
