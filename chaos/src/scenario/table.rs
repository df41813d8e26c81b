//! The outcome of a run as a table, in Markdown that is as readable on a terminal.

use super::runner::Performance;

const HEAD: [&str; 11] = [
    "scenario",
    "budget",
    "Pods",
    "lost",
    "excused",
    "p50",
    "p99 quiet",
    "p99",
    "longest",
    "gap",
    "",
];

/// What the columns mean.
pub const LEGEND: &str = "lost: failed or let through unswapped; excused: the same while nobody \
     could answer for it, as the budget says; p50, p99, longest: a call's time from when it was due, \
     in ms; gap: the longest time without a success, in ms";

/// The table.
pub fn table(played: &[Performance]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(played.iter().map(row));
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for (n, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text += &format!("| {} |\n", cells.join(" | "));
        if n == 0 {
            let rules: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
            text += &format!("|-{}-|\n", rules.join("-|-"));
        }
    }
    text
}

fn row(played: &Performance) -> [String; HEAD.len()] {
    let verdict = &played.verdict;
    let whole = |milliseconds: f64| format!("{milliseconds:.0}");
    [
        played.name.to_owned(),
        played.budget.words.to_owned(),
        verdict.all.calls.to_string(),
        verdict.lost.to_string(),
        verdict.excused.to_string(),
        whole(verdict.all.p50),
        whole(verdict.before.p99),
        whole(verdict.during.p99),
        whole(verdict.all.max),
        whole(verdict.all.gap),
        if verdict.is_passed { "✓" } else { "✗" }.to_owned(),
    ]
}

/// What is to be said of one scenario beside its row, a line each.
pub fn remarks(played: &Performance) -> Vec<String> {
    let verdict = &played.verdict;
    let reasons = verdict.reasons.iter().map(|why| format!("over: {why}"));
    let notes = played.notes.iter().cloned();
    let failures = verdict.all.told();
    let failures = failures.map(|failure| format!("a failure: {failure}"));
    reasons.chain(notes).chain(failures).collect()
}
