//! What was measured: a name, and a value of each round for each of the two servers.

use serde::Serialize;

/// One thing that was measured.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) unit: &'static str,
    /// Of the null webhook, or of what else ImageSwap is compared with; one value a round.
    pub(super) floor: Vec<f64>,
    /// Of ImageSwap.
    pub(super) imageswap: Vec<f64>,
    pub(super) target: Option<Target>,
}

/// What is to be reached.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Target {
    /// ImageSwap's value is at least so many times the other's.
    RatioAtLeast(f64),
    /// At most so many times.
    RatioAtMost(f64),
    /// ImageSwap's value itself.
    AtMost(f64),
}

/// Whose value it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// What ImageSwap is compared with.
    Floor,
    ImageSwap,
}

/// All figures, in the order in which they came.
#[derive(Debug, Default, Serialize)]
pub(super) struct Sheet {
    pub(super) figures: Vec<Figure>,
    /// Whether they are compared with the null webhook, for which the targets are.
    #[serde(skip)]
    pub(super) has_targets: bool,
}

/// What is to be reached, by the name of the figure.
const TARGETS: [(&str, Target); 14] = [
    ("requests, typical", Target::RatioAtLeast(0.80)),
    ("CPU per request, typical", Target::RatioAtMost(1.3)),
    ("requests, large", Target::RatioAtLeast(0.65)),
    ("CPU per request, large", Target::RatioAtMost(1.6)),
    ("start to first answer", Target::AtMost(50.0)),
    ("first start to first answer", Target::AtMost(50.0)),
    (
        "p99 beside 200 new connections/s at 10 %",
        Target::AtMost(5.0),
    ),
    ("memory at rest", Target::AtMost(12.0)),
    (
        "memory with 1,000 connections at full load",
        Target::AtMost(24.0),
    ),
    ("memory after 2,000,000 requests", Target::AtMost(24.0)),
    ("Pods created, dry run", Target::RatioAtLeast(0.97)),
    (
        "Pods created, beside a null webhook with a patch",
        Target::RatioAtLeast(0.97),
    ),
    (
        "Pods created, beside a policy by ApplyConfiguration",
        Target::RatioAtLeast(1.0),
    ),
    (
        "Pods created, beside a policy by JSONPatch",
        Target::RatioAtLeast(1.0),
    ),
];

impl Sheet {
    /// Adds a value to the figure of that name.
    pub(super) fn add(&mut self, side: Side, name: &str, unit: &'static str, value: f64) {
        let found = self.figures.iter().position(|figure| figure.name == name);
        let figure = match found.and_then(|at| self.figures.get_mut(at)) {
            Some(figure) => figure,
            None => {
                let mut targets = TARGETS.iter().filter(|_| self.has_targets);
                let target = targets.find(|(of, _)| *of == name);
                self.figures.push(Figure {
                    name: name.to_owned(),
                    unit,
                    floor: Vec::new(),
                    imageswap: Vec::new(),
                    target: target.map(|(_, target)| *target),
                });
                let Some(figure) = self.figures.last_mut() else {
                    return;
                };
                figure
            }
        };
        match side {
            Side::Floor => figure.floor.push(value),
            Side::ImageSwap => figure.imageswap.push(value),
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }

    /// Some figures in one line, for whoever waits.
    pub(super) fn in_short(&self, names: &[&str]) -> String {
        let figures = names.iter().filter_map(|name| self.find(name));
        let texts = figures.map(|figure| {
            let value = |values| median(values).map_or("–".to_owned(), shown);
            let ratio = figure
                .ratio()
                .map_or(String::new(), |ratio| format!(" ({ratio:.2} of it)"));
            format!(
                "{} {} against {} {}{ratio}",
                value(&figure.imageswap),
                figure.unit,
                value(&figure.floor),
                figure.unit
            )
        });
        texts.collect::<Vec<_>>().join("; ")
    }
}

impl Figure {
    /// The median of ImageSwap's value by the other's in the same round.
    pub(super) fn ratio(&self) -> Option<f64> {
        let pairs = self.imageswap.iter().zip(&self.floor);
        let ratios: Vec<_> = pairs.map(|(ours, floor)| ours / floor).collect();
        median(&ratios).filter(|ratio| ratio.is_finite())
    }

    /// Whether the target is reached; `None` if there is none.
    pub(super) fn is_reached(&self) -> Option<bool> {
        Some(match self.target? {
            Target::RatioAtLeast(least) => self.ratio()? >= least,
            Target::RatioAtMost(most) => self.ratio()? <= most,
            Target::AtMost(most) => median(&self.imageswap)? <= most,
        })
    }
}

/// The middle value; the mean of the two if there is none.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some((lower + upper) / 2.0)
}

/// As a person reads it: three digits or more.
pub(super) fn shown(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_of_the_runs_of_one_round() {
        let mut figure = Figure {
            name: "requests".to_owned(),
            unit: "1/s",
            floor: Vec::new(),
            imageswap: Vec::new(),
            target: None,
        };
        assert_eq!(figure.ratio(), None);
        // The machine is three times as fast in the last round.
        figure.floor = vec![100.0, 120.0, 300.0];
        figure.imageswap = vec![90.0, 96.0, 270.0];
        assert_eq!(figure.ratio(), Some(0.9));
        for (target, reached) in [
            (Target::RatioAtLeast(0.8), true),
            (Target::RatioAtLeast(0.95), false),
            (Target::RatioAtMost(1.3), true),
            (Target::RatioAtMost(0.5), false),
            (Target::AtMost(96.0), true),
            (Target::AtMost(95.0), false),
        ] {
            figure.target = Some(target);
            assert_eq!(figure.is_reached(), Some(reached), "{target:?}");
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
