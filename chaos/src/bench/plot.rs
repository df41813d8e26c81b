//! The figures as a picture: for each, a bar for what ImageSwap is compared with, one for ImageSwap,
//! and a dot for each round.

use super::figures::{Figure, Target, median, shown};
use super::report::Report;

/// In units of the picture.
const WIDTH: f64 = 900.0;
const NAMES: f64 = 300.0;
const BARS: f64 = 430.0;
const ROW: f64 = 34.0;
const HEAD: f64 = 74.0;

const FLOOR: &str = "#9aa7b5";
const OURS: &str = "#2f6fb5";
const REACHED: &str = "#17713a";
const MISSED: &str = "#b3191f";

/// An SVG of its own, which loads nothing from elsewhere.
pub(super) fn plot(report: &Report<'_>) -> String {
    let figures = &report.sheet.figures;
    let height = HEAD + ROW * figures.len() as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    svg += &label(
        10.0,
        24.0,
        "#1c2430",
        "font-size=\"16\"",
        "ImageSwap's whole server",
    );
    let date = report.facts.iter().find(|(name, _)| name == "date");
    let machine = report.facts.iter().find(|(name, _)| name == "machine");
    let facts = [date, machine].into_iter().flatten();
    let facts: Vec<_> = facts.map(|(_, value)| value.as_str()).collect();
    svg += &label(10.0, 42.0, "#56616f", "", &facts.join(", "));
    svg += &bar(10.0, 52.0, 10.0, FLOOR, report.floor);
    svg += &label(25.0, 61.0, "#1c2430", "", report.floor);
    svg += &bar(160.0, 52.0, 10.0, OURS, "ImageSwap");
    svg += &label(175.0, 61.0, "#1c2430", "", "ImageSwap; a dot is a round");
    for (n, figure) in figures.iter().enumerate() {
        svg += &row(figure, HEAD + ROW * n as f64);
    }
    svg + "</svg>\n"
}

fn row(figure: &Figure, top: f64) -> String {
    let all = figure.floor.iter().chain(&figure.imageswap);
    let most = all.copied().fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| NAMES + BARS * value / most;
    let mut svg = label(10.0, top + 16.0, "#1c2430", "", &figure.name);
    for (values, y, colour) in [
        (&figure.floor, top + 3.0, FLOOR),
        (&figure.imageswap, top + 15.0, OURS),
    ] {
        let Some(middle) = median(values) else {
            continue;
        };
        let told = format!("{} {}", shown(middle), figure.unit);
        svg += &bar(NAMES, y, BARS * middle / most, colour, &told);
        for value in values {
            svg += &format!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"1.6\" fill=\"#1c2430\"/>\n",
                x(*value),
                y + 5.0
            );
        }
        svg += &label(NAMES + BARS + 8.0, y + 9.0, colour, "", &told);
    }
    let colour = match figure.is_reached() {
        None => "#56616f",
        Some(true) => REACHED,
        Some(false) => MISSED,
    };
    if let Some(ratio) = figure.ratio() {
        let told = format!("{ratio:.2}×");
        svg += &label(WIDTH - 60.0, top + 18.0, colour, "", &told);
    }
    // Where the bar should end.
    let aim = match figure.target {
        None => None,
        Some(Target::AtMost(most)) => Some(most),
        Some(Target::RatioAtLeast(ratio) | Target::RatioAtMost(ratio)) => {
            median(&figure.floor).map(|floor| floor * ratio)
        }
    };
    if let Some(aim) = aim.filter(|aim| *aim <= most * 1.02) {
        svg += &format!(
            "<path d=\"M{0:.1} {1:.1}v12\" stroke=\"{colour}\" stroke-width=\"2\"><title>target: {2}\
             </title></path>\n",
            x(aim),
            top + 14.0,
            shown(aim)
        );
    }
    svg
}

fn bar(x: f64, y: f64, width: f64, colour: &str, tip: &str) -> String {
    format!(
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"10\" fill=\"{colour}\">\
         <title>{tip}</title></rect>\n"
    )
}

/// None of our texts needs escaping.
fn label(x: f64, y: f64, colour: &str, more: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\" {more}>{text}</text>\n")
}
