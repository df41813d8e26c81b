//! What was measured: a name, and the values of all rounds for each of the two servers.

use serde::Serialize;

use super::parts::{SLICES, STARTS};

/// One thing that was measured.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) unit: &'static str,
    /// What each value in both lists is of. Those at one place of the two were measured one after the other.
    pub(super) entry: Entry,
    /// Of the null webhook, or of what else ImageSwap is compared with.
    pub(super) floor: Vec<f64>,
    /// Of ImageSwap.
    pub(super) imageswap: Vec<f64>,
    pub(super) target: Option<Target>,
    /// What makes it mean less than it seems to; empty as a rule.
    pub(super) remark: String,
}

/// What a value is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Entry {
    Round,
    /// One turn of those that a round is cut into.
    Slice,
    /// One start of those in a round.
    Start,
}

impl Entry {
    /// How many there are in a round.
    pub(super) const fn per_round(self) -> usize {
        match self {
            Self::Round => 1,
            Self::Slice => SLICES as usize,
            Self::Start => STARTS as usize,
        }
    }
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
#[derive(Debug)]
pub(super) struct Sheet {
    pub(super) figures: Vec<Figure>,
    /// Whether they are compared with the null webhook, for which the targets are.
    has_targets: bool,
}

/// What is to be reached, by the name of the figure.
const TARGETS: [(&str, Target); 15] = [
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
    // A leak of one byte a request would be 1.9.
    ("memory grown over 2,000,000 requests", Target::AtMost(1.0)),
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
    /// Without any figure yet. There are targets beside the null webhook.
    pub(super) fn new(has_targets: bool) -> Self {
        Self {
            figures: Vec::new(),
            has_targets,
        }
    }

    /// Adds a round's value to the figure of that name.
    pub(super) fn add(&mut self, side: Side, name: &str, unit: &'static str, value: f64) {
        self.add_entry(Entry::Round, side, name, unit, value);
    }

    /// The same of a part of a round.
    pub(super) fn add_entry(
        &mut self,
        entry: Entry,
        side: Side,
        name: &str,
        unit: &'static str,
        value: f64,
    ) {
        if self.find(name).is_none() {
            let targets = TARGETS.iter().filter(|_| self.has_targets);
            let mut targets = targets.filter(|(of, _)| *of == name);
            let target = targets.next().map(|(_, target)| *target);
            self.figures.push(Figure::new(name, unit, entry, target));
        }
        match (self.find_mut(name), side) {
            (Some(figure), Side::Floor) => figure.floor.push(value),
            (Some(figure), Side::ImageSwap) => figure.imageswap.push(value),
            (None, _) => {}
        }
    }

    /// Says of a figure what a reader must know; of one that there is not, nothing.
    pub(super) fn remark(&mut self, name: &str, remark: &str) {
        if let Some(figure) = self.find_mut(name) {
            remark.clone_into(&mut figure.remark);
        }
    }

    fn find_mut(&mut self, name: &str) -> Option<&mut Figure> {
        self.figures.iter_mut().find(|figure| figure.name == name)
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
            let told = format!(
                "{} {} against {} {}{ratio}",
                value(&figure.imageswap),
                figure.unit,
                value(&figure.floor),
                figure.unit
            );
            match figure.remark.as_str() {
                "" => told,
                remark => format!("{told}, {remark}"),
            }
        });
        texts.collect::<Vec<_>>().join("; ")
    }
}

impl Figure {
    fn new(name: &str, unit: &'static str, entry: Entry, target: Option<Target>) -> Self {
        Self {
            name: name.to_owned(),
            unit,
            entry,
            floor: Vec::new(),
            imageswap: Vec::new(),
            target,
            remark: String::new(),
        }
    }

    /// The median of ImageSwap's value by the other's at the same time. What shrinks, or does not grow, has none.
    pub(super) fn ratio(&self) -> Option<f64> {
        let pairs = self.imageswap.iter().zip(&self.floor);
        let pairs = pairs.filter(|(ours, floor)| **ours > 0.0 && **floor > 0.0);
        let ratios: Vec<_> = pairs.map(|(ours, floor)| ours / floor).collect();
        median(&ratios).filter(|ratio| ratio.is_finite())
    }

    /// The median of each round.
    pub(super) fn rounds(&self, values: &[f64]) -> Vec<f64> {
        let rounds = values.chunks(self.entry.per_round());
        rounds.filter_map(median).collect()
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
        let mut figure = Figure::new("requests", "1/s", Entry::Round, None);
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
    fn what_does_not_grow_has_no_ratio() {
        let mut figure = Figure::new("memory grown", "MiB", Entry::Round, None);
        for (floor, ours, expected) in [
            (0.5, 0.25, Some(0.5)),
            (0.0, 0.25, None),
            (-0.5, 0.25, None),
            (0.5, 0.0, None),
        ] {
            (figure.floor, figure.imageswap) = (vec![floor], vec![ours]);
            assert_eq!(figure.ratio(), expected, "{floor} {ours}");
        }
    }

    #[test]
    fn a_round_is_the_median_of_its_parts() {
        let figure = Figure::new("requests", "1/s", Entry::Slice, None);
        let values = [[1.0; 16], [5.0; 16]].concat();
        assert_eq!(figure.rounds(&values), [1.0, 5.0]);
        // One that was broken off counts as far as it went.
        assert_eq!(figure.rounds(values.get(..20).unwrap()), [1.0, 5.0]);
        let figure = Figure::new("memory", "MiB", Entry::Round, None);
        assert_eq!(figure.rounds(&[1.0, 5.0]), [1.0, 5.0]);
    }

    #[test]
    fn figures_are_found_by_their_names_and_have_targets_beside_the_null_webhook() {
        for (has_targets, expected) in [(true, Some(true)), (false, None)] {
            let mut sheet = Sheet::new(has_targets);
            sheet.add(Side::Floor, "memory at rest", "MiB", 6.0);
            sheet.add(Side::ImageSwap, "memory at rest", "MiB", 11.0);
            sheet.remark("memory at rest", "a remark");
            sheet.remark("no such figure", "another");
            let [figure] = &sheet.figures[..] else {
                panic!("{sheet:?}");
            };
            assert_eq!(
                (&figure.floor[..], &figure.imageswap[..]),
                (&[6.0][..], &[11.0][..])
            );
            assert_eq!(figure.remark, "a remark");
            assert_eq!(figure.is_reached(), expected);
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
