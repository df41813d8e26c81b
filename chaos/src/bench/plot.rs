//! The figures as a picture: for each, a bar for what ImageSwap is compared with, one for ImageSwap,
//! and a dot for each round.

use super::figures::{Figure, Sheet, Target, median, shown};
use crate::facts::UNFINISHED;

/// In units of the picture, as all lengths here.
const BARS: f64 = 430.0;
const ROW: f64 = 34.0;
const HEAD: f64 = 92.0;
const MARGIN: f64 = 10.0;

/// Right of the bars: values, then the ratio.
const VALUES: f64 = 14.0;
const RATIO: f64 = 110.0;
const RIGHT: f64 = 170.0;

/// Of a letter, as wide as a usual sans-serif has them at 12. Which one it will be is not known.
const LETTER: f64 = 6.6;

const FLOOR: &str = "#9aa7b5";
const OURS: &str = "#2f6fb5";
const REACHED: &str = "#17713a";
const MISSED: &str = "#b3191f";
const INK: &str = "#1c2430";
const FAINT: &str = "#56616f";

/// An SVG of its own, which loads nothing from elsewhere.
pub(super) fn plot(facts: &[(String, String)], floor: &str, sheet: &Sheet) -> String {
    let figures = &sheet.figures;
    let names = figures.iter().map(|figure| length(&figure.name));
    // Where the bars begin.
    let names = 2.0 * MARGIN + names.fold(200.0, f64::max);
    let (width, height) = (
        names + BARS + RIGHT,
        HEAD + ROW * figures.len() as f64 + MARGIN,
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.1} {height:.1}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width:.1}\" height=\"{height:.1}\" fill=\"#fff\"/>\n"
    );
    svg += &head(facts);
    svg += &legend(floor);
    for (n, figure) in figures.iter().enumerate() {
        svg += &row(figure, names, HEAD + ROW * n as f64);
    }
    svg + "</svg>\n"
}

/// What it is, when and where it was measured, and whether it is all.
fn head(facts: &[(String, String)]) -> String {
    let title = "ImageSwap's whole server";
    let fact = |wanted: &str| facts.iter().find(|(name, _)| name == wanted);
    let told = [fact("date"), fact("machine")].into_iter().flatten();
    let mut told: Vec<_> = told.map(|(_, value)| value.as_str()).collect();
    told.extend(fact(UNFINISHED).map(|(name, _)| name.as_str()));
    label(MARGIN, 24.0, INK, "font-size=\"16\"", title)
        + &label(MARGIN, 42.0, FAINT, "", &told.join(", "))
}

/// What the colours and marks mean, each with its mark before it.
fn legend(floor: &str) -> String {
    let (mut svg, mut x) = (String::new(), MARGIN);
    let mut tell = |mark: &dyn Fn(f64) -> String, y: f64, text: &str| {
        svg += &mark(x);
        svg += &label(x + 15.0, y, INK, "", text);
        x += 30.0 + length(text);
    };
    tell(&|x| bar(x, 52.0, 10.0, FLOOR, floor), 61.0, floor);
    tell(
        &|x| bar(x, 52.0, 10.0, OURS, "ImageSwap"),
        61.0,
        "ImageSwap",
    );
    tell(&|x| dot(x + 5.0, 57.0), 61.0, "a round");
    let times = format!("×: the ratio, ImageSwap's by the {floor}'s in the same round");
    svg += &label(x, 61.0, FAINT, "", &times);
    let mut x = MARGIN;
    for (mark, colour, text) in [
        (tick as Mark, REACHED, "target, reached"),
        (tick, MISSED, "target, missed"),
        (beyond, FAINT, "target beyond the scale"),
    ] {
        svg += &mark(x + 5.0, 70.0, colour, text);
        svg += &label(x + 15.0, 80.0, INK, "", text);
        x += 30.0 + length(text);
    }
    svg
}

/// Draws a target at x, from y down, in this colour, with this told where one points at it.
type Mark = fn(f64, f64, &str, &str) -> String;

fn row(figure: &Figure, names: f64, top: f64) -> String {
    let sides = [
        (&figure.floor, top + 3.0, FLOOR),
        (&figure.imageswap, top + 15.0, OURS),
    ];
    let dots = sides.map(|(values, _, _)| figure.rounds(values));
    let medians = sides.map(|(values, _, _)| median(values));
    let all = dots.iter().flatten().chain(medians.iter().flatten());
    let most = all.copied().fold(f64::MIN_POSITIVE, f64::max);
    // What shrank has no bar.
    let long = |value: f64| BARS * value.max(0.0) / most;
    let mut svg = label(MARGIN, top + 18.0, INK, "", &figure.name);
    for (((_, y, colour), dots), middle) in sides.into_iter().zip(dots).zip(medians) {
        let Some(middle) = middle else {
            continue;
        };
        let told = format!("{} {}", shown(middle), figure.unit);
        svg += &bar(names, y, long(middle), colour, &told);
        let dots = dots.iter().map(|value| dot(names + long(*value), y + 5.0));
        svg.extend(dots);
        svg += &label(names + BARS + VALUES, y + 9.0, colour, "", &told);
    }
    let colour = match figure.is_reached() {
        None => FAINT,
        Some(true) => REACHED,
        Some(false) => MISSED,
    };
    if let Some(ratio) = figure.ratio() {
        let told = format!("{ratio:.2}×");
        svg += &label(names + BARS + RATIO, top + 18.0, colour, "", &told);
    }
    if let Some(aim) = aim(figure) {
        let told = format!("target: {} {}", shown(aim), figure.unit);
        svg += &match aim <= most {
            true => tick(names + long(aim), top + 14.0, colour, &told),
            false => beyond(names + BARS, top + 14.0, colour, &told),
        };
    }
    svg
}

/// Where ImageSwap's bar should end.
fn aim(figure: &Figure) -> Option<f64> {
    match figure.target? {
        Target::AtMost(most) => Some(most),
        Target::RatioAtLeast(ratio) | Target::RatioAtMost(ratio) => {
            median(&figure.floor).map(|floor| floor * ratio)
        }
    }
}

fn tick(x: f64, y: f64, colour: &str, tip: &str) -> String {
    mark(&format!("M{x:.1} {y:.1}v12"), colour, tip)
}

/// An arrow to the right of the scale, which ends at x.
fn beyond(x: f64, y: f64, colour: &str, tip: &str) -> String {
    let from = x + 3.0;
    mark(&format!("M{from:.1} {y:.1}l6 6l-6 6"), colour, tip)
}

fn mark(path: &str, colour: &str, tip: &str) -> String {
    format!(
        "<path d=\"{path}\" stroke=\"{colour}\" stroke-width=\"2\" fill=\"none\"><title>{tip}\
         </title></path>\n"
    )
}

fn dot(x: f64, y: f64) -> String {
    format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.6\" fill=\"{INK}\"/>\n")
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

/// How long a text becomes, about.
fn length(text: &str) -> f64 {
    text.chars().count() as f64 * LETTER
}

#[cfg(test)]
mod tests {
    use super::super::figures::{Entry, Side};
    use super::*;

    const LONG: &str = "Pods created, beside a policy by ApplyConfiguration, and so on";

    fn drawn(name: &str, values: [&[f64]; 2]) -> String {
        let mut sheet = Sheet::new(true);
        for (side, values) in [Side::Floor, Side::ImageSwap].into_iter().zip(values) {
            for value in values {
                sheet.add_entry(Entry::Slice, side, name, "1/s", *value);
            }
        }
        plot(&[], "null webhook", &sheet)
    }

    #[test]
    fn bars_begin_where_the_longest_name_has_ended() {
        for (name, expected) in [("short", 220.0), (LONG, 20.0 + 62.0 * LETTER)] {
            let svg = drawn(name, [&[2.0], &[1.0]]);
            let bar = format!("<rect x=\"{expected:.1}\" y=\"95.0\" width=\"430.0\"");
            assert!(svg.contains(&bar), "{svg}");
        }
    }

    #[test]
    fn a_dot_is_a_round() {
        let (once, twice) = ([1.0; 16], [1.0; 32]);
        for (values, dots) in [(&once[..], 2), (&twice[..], 4)] {
            let svg = drawn("requests", [values, values]);
            // One is the legend's.
            assert_eq!(svg.matches("<circle").count(), dots + 1, "{svg}");
        }
    }

    #[test]
    fn a_target_is_seen_wherever_it_is() {
        for (value, expected) in [(60.0, "M578.3 106.0v12"), (5.0, "M653.0 106.0l6 6l-6 6")] {
            let svg = drawn("start to first answer", [&[], &[value]]);
            assert!(svg.contains(expected), "{svg}");
            assert!(svg.contains("<title>target: 50.0 1/s</title>"), "{svg}");
        }
    }

    #[test]
    fn what_shrinks_has_no_bar() {
        let svg = drawn("memory grown over 2,000,000 requests", [&[-0.5], &[-0.25]]);
        assert!(!svg.contains("width=\"-"), "{svg}");
        assert!(!svg.contains("inf") && !svg.contains("NaN"), "{svg}");
    }
}
