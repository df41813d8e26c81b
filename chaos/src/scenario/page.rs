//! The outcome of a run as a page for a browser, which loads nothing from elsewhere.

use super::runner::Performance;
use super::table::{LEGEND, remarks};
use super::timeline::{Slot, Timeline};

/// The size of a time line, in its own units.
const WIDTH: f64 = 1_000.0;
const CALLS: f64 = 90.0;
const TIMES: f64 = 60.0;
const FOOT: f64 = 18.0;

const STYLE: &str = "\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; \
  color: #1c2430; background: #fff; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: 3px 9px; text-align: left; border-bottom: 1px solid #dde2e8; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.ok { color: #17713a; font-weight: 600; } .bad { color: #b3191f; font-weight: 600; }
section { margin: 2.2em 0; } h2 { margin: 0; font-size: 18px; } p { margin: .3em 0; }
svg { width: 100%; height: auto; display: block; margin: .5em 0; background: #f7f9fb; }
ol, ul { margin: .3em 0; font-size: 13px; } ol { columns: 2; } .small { font-size: 13px; color: #56616f; }
.key span { display: inline-block; width: 10px; height: 10px; margin: 0 4px 0 14px; }
";

const SWAPPED: &str = "#3f9c5f";
const FAILED: &str = "#d0222a";
const UNSWAPPED: &str = "#e08a00";
const EXCUSED: &str = "#8a93a0";

/// The page. `facts` are the run's own: date, versions, command; `asked` is how many scenarios were to be played.
pub fn page(facts: &[(String, String)], asked: usize, played: &[Performance]) -> String {
    let passed = played.iter().filter(|one| one.verdict.is_passed).count();
    let facts: String = facts
        .iter()
        .map(|(name, value)| format!("<tr><th>{}<td>{}", text(name), text(value)))
        .collect();
    let rows: String = played.iter().map(row).collect();
    let sections: String = played.iter().map(section).collect();
    format!(
        "<!doctype html>\n<html lang=en><meta charset=utf-8><title>ImageSwap: faults and what they \
         cost</title>\n<meta name=viewport content=\"width=device-width\">\n<style>{STYLE}</style>\n\
         <h1>ImageSwap: faults and what they cost</h1>\n<p>{passed} of {asked} scenarios are within their \
         budgets.\n<table>{facts}</table>\n<h2>All scenarios</h2>\n<table><tr><th>scenario<th>budget\
         <th>Pods<th>lost<th>excused<th>p50<th>p99 quiet<th>p99<th>longest<th>gap<th>{rows}</table>\n\
         <p class=small>{LEGEND}.\n{}{sections}</html>\n",
        key(),
    )
}

fn key() -> String {
    let one = |colour, what| format!("<span style=\"background:{colour}\"></span>{what}");
    format!(
        "<p class=\"small key\">Upper half: Pods in each quarter of a second, by when they were due: \
         {}{}{}{}. Lower half: the slowest of them. Shaded: from the fault to its healing.</p>\n",
        one(SWAPPED, "swapped"),
        one(FAILED, "failed"),
        one(UNSWAPPED, "let through unswapped"),
        one(EXCUSED, "excused"),
    )
}

fn row(played: &Performance) -> String {
    let verdict = &played.verdict;
    let number = |value: String| format!("<td class=n>{value}");
    let whole = |milliseconds: f64| number(format!("{milliseconds:.0}"));
    format!(
        "<tr><td><a href=\"#{name}\">{name}</a><td>{}{}{}{}{}{}{}{}{}<td>{}\n",
        text(played.budget.words),
        number(verdict.all.calls.to_string()),
        number(verdict.lost.to_string()),
        number(verdict.excused.to_string()),
        whole(verdict.all.p50),
        whole(verdict.before.p99),
        whole(verdict.during.p99),
        whole(verdict.all.max),
        whole(verdict.all.gap),
        mark(played),
        name = text(played.name),
    )
}

fn mark(played: &Performance) -> &'static str {
    match played.verdict.is_passed {
        true => "<span class=ok>within</span>",
        false => "<span class=bad>over</span>",
    }
}

fn section(played: &Performance) -> String {
    let remarks: String = remarks(played)
        .iter()
        .map(|remark| format!("<li>{}", text(remark)))
        .collect();
    let events: String = played
        .timeline
        .events
        .iter()
        .map(|(at, what)| format!("<li>{at:.1} s: {}", text(what)))
        .collect();
    let settings: Vec<_> = played
        .settings
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let settings = match settings.is_empty() {
        true => String::new(),
        false => format!("<p class=small>Set: {}", text(&settings.join(", "))),
    };
    format!(
        "<section id=\"{name}\"><h2>{name}: {}</h2>\n<p>{}. Budget: {}.\n{settings}{}<ul>{remarks}\
         </ul><ol>{events}</ol></section>\n",
        mark(played),
        text(played.about),
        text(played.budget.words),
        drawing(&played.timeline),
        name = text(played.name),
    )
}

fn drawing(line: &Timeline) -> String {
    let scale = WIDTH / line.seconds.max(0.001);
    let x = |seconds: f64| seconds * scale;
    let height = CALLS + TIMES + FOOT;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=img>\n");
    let band = |(from, to): (f64, f64), top: f64, colour: &str, title: &str| {
        let title = text(title);
        rect(
            x(from),
            top,
            x(to) - x(from),
            height - FOOT - top,
            colour,
            &title,
        )
    };
    if let Some(fault) = line.fault {
        svg += &band(fault, 0.0, "#ffe9b8", "the fault");
    }
    for (from, to, what) in &line.excused {
        svg += &band((*from, *to), 0.0, "#d9dee5", what);
    }
    svg += &bars(&line.slots, scale);
    for (at, what) in &line.events {
        svg += &format!(
            "<path d=\"M{0:.1} 0V{1}\" stroke=#56616f stroke-width=1 stroke-dasharray=2><title>{at:.1} s: \
             {2}</title></path>\n",
            x(*at),
            height - FOOT,
            text(what)
        );
    }
    svg += &axis(line, scale, height);
    svg + "</svg>\n"
}

fn bars(slots: &[Slot], scale: f64) -> String {
    let count = |slot: &Slot| slot.swapped + slot.excused + slot.unswapped + slot.failed;
    let most = slots.iter().map(count).max().unwrap_or(1).max(1) as f64;
    let slowest = slots.iter().map(|slot| slot.slowest).fold(1.0, f64::max);
    let width = (0.25 * scale - 0.3).max(0.5);
    let mut svg = String::new();
    for slot in slots {
        let mut y = CALLS;
        for (calls, colour, what) in [
            (slot.failed, FAILED, "failed"),
            (slot.unswapped, UNSWAPPED, "unswapped"),
            (slot.excused, EXCUSED, "excused"),
            (slot.swapped, SWAPPED, "swapped"),
        ] {
            if calls > 0 {
                // A single failure among many must be seen.
                let least = if colour == SWAPPED { 0.0 } else { 6.0 };
                let height = ((CALLS - 10.0) * calls as f64 / most).max(least);
                y -= height;
                let title = format!("{:.2} s: {calls} {what}", slot.at);
                svg += &rect(slot.at * scale, y, width, height, colour, &title);
            }
        }
        let height = (TIMES - 6.0) * slot.slowest / slowest;
        let title = format!("{:.2} s: slowest {:.0} ms", slot.at, slot.slowest);
        let top = CALLS + TIMES - height;
        svg += &rect(slot.at * scale, top, width, height, "#5b7fb5", &title);
    }
    svg + &format!(
        "<text x=4 y={} font-size=11 fill=#56616f>slowest: {slowest:.0} ms</text>\n",
        CALLS + 12.0
    )
}

/// Ten marks or fewer.
fn axis(line: &Timeline, scale: f64, height: f64) -> String {
    let step = [1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0];
    let step = step.into_iter().find(|step| line.seconds / step <= 12.0);
    let step = step.unwrap_or(300.0);
    let marks = (line.seconds / step).floor();
    let mut svg = String::new();
    let mut n = 0.0;
    while n <= marks {
        svg += &format!(
            "<text x={:.1} y={} font-size=11 fill=#56616f>{} s</text>\n",
            n * step * scale + 2.0,
            height - 5.0,
            n * step
        );
        n += 1.0;
    }
    svg
}

/// A rectangle with a tip, which is HTML already.
fn rect(x: f64, y: f64, width: f64, height: f64, colour: &str, tip: &str) -> String {
    format!(
        "<rect x={x:.1} y={y:.1} width={width:.1} height={height:.1} fill=\"{colour}\"><title>{tip}\
         </title></rect>\n"
    )
}

/// Any text, as HTML.
fn text(any: &str) -> String {
    let mut html = String::with_capacity(any.len());
    for c in any.chars() {
        match c {
            '&' => html += "&amp;",
            '<' => html += "&lt;",
            '>' => html += "&gt;",
            '"' => html += "&quot;",
            c => html.push(c),
        }
    }
    html
}
