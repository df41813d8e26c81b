//! What was done to the cluster, and what became of the calls meanwhile, on one line of time.

use std::time::Duration;

use serde::Serialize;

use super::diary::{Diary, Excuse, is_excused};
use crate::load::{Call, Outcome, milliseconds};

/// How fine a time line is.
const SLOT: Duration = Duration::from_millis(250);

/// All times are seconds from the first call.
#[derive(Debug, Clone, Serialize)]
pub struct Timeline {
    /// How long all took.
    pub seconds: f64,
    /// The fault's window.
    pub fault: Option<(f64, f64)>,
    /// Times that are excused, and why.
    pub excused: Vec<(f64, f64, String)>,
    /// What was done.
    pub events: Vec<(f64, String)>,
    /// Calls by when they were due.
    pub slots: Vec<Slot>,
}

/// The calls of a short time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Slot {
    /// When it begins.
    pub at: f64,
    /// Answered with the swapped image.
    pub swapped: usize,
    /// Failed or let through, and excused.
    pub excused: usize,
    /// Let through unswapped.
    pub unswapped: usize,
    /// Failed.
    pub failed: usize,
    /// The slowest, in milliseconds.
    pub slowest: f64,
}

impl Timeline {
    /// Of these calls and this diary.
    pub fn new(calls: &[Call], diary: &Diary) -> Self {
        let start = calls.iter().map(|call| call.due).min().unwrap_or_default();
        let end = calls.iter().map(|call| call.answered).max();
        let since = |at: Duration| milliseconds(at.saturating_sub(start)) / 1e3;
        let excuses = diary.excuses.iter();
        Self {
            seconds: since(end.unwrap_or(start)),
            fault: diary.fault.map(|span| (since(span.from), since(span.to))),
            excused: excuses
                .map(|one| (since(one.span.from), since(one.span.to), one.why.clone()))
                .collect(),
            events: diary
                .events
                .iter()
                .map(|(at, what)| (since(*at), what.clone()))
                .collect(),
            slots: slots(calls, start, &diary.excuses),
        }
    }
}

fn slots(calls: &[Call], start: Duration, excuses: &[Excuse]) -> Vec<Slot> {
    let mut slots: Vec<Slot> = Vec::new();
    for call in calls {
        let n = (call.due.saturating_sub(start).as_millis() / SLOT.as_millis()) as usize;
        while slots.len() <= n {
            let at = SLOT.as_secs_f64() * slots.len() as f64;
            slots.push(Slot {
                at,
                ..Slot::default()
            });
        }
        let Some(slot) = slots.get_mut(n) else {
            continue;
        };
        let count = match &call.outcome {
            Outcome::Swapped => &mut slot.swapped,
            _ if is_excused(call, excuses) => &mut slot.excused,
            Outcome::Unswapped(_) => &mut slot.unswapped,
            Outcome::Failed(_) => &mut slot.failed,
        };
        *count += 1;
        slot.slowest = slot.slowest.max(milliseconds(call.latency()));
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::diary::{Excused, Span};

    #[test]
    fn calls_are_where_they_were_due_and_times_count_from_the_first() {
        let call = |due: u64, took: u64, outcome: Outcome| Call {
            due: Duration::from_millis(9_000 + due),
            answered: Duration::from_millis(9_000 + due + took),
            server: 0,
            outcome,
        };
        let failed = || Outcome::Failed("EOF".to_owned());
        let calls = [
            call(600, 40, failed()),
            call(0, 10, Outcome::Swapped),
            call(100, 900, Outcome::Swapped),
            call(700, 10, failed()),
        ];
        let span = |from, to| Span {
            from: Duration::from_millis(from),
            to: Duration::from_millis(to),
        };
        let diary = Diary {
            fault: Some(span(9_500, 9_800)),
            excuses: vec![Excuse {
                span: span(9_690, 9_800),
                why: "away".to_owned(),
                most: None,
                of: Excused::All,
                server: None,
            }],
            events: vec![(Duration::from_millis(9_500), "cut".to_owned())],
            ..Diary::default()
        };
        let line = Timeline::new(&calls, &diary);
        assert_eq!((line.seconds, line.fault), (1.0, Some((0.5, 0.8))));
        assert_eq!(line.events, [(0.5, "cut".to_owned())]);
        let seen: Vec<_> = line
            .slots
            .iter()
            .map(|slot| {
                (
                    slot.at,
                    slot.swapped,
                    slot.excused,
                    slot.failed,
                    slot.slowest,
                )
            })
            .collect();
        let expected = [
            (0.0, 2, 0, 0, 900.0),
            (0.25, 0, 0, 0, 0.0),
            (0.5, 0, 1, 1, 40.0),
        ];
        assert_eq!(seen, expected);
    }
}
