//! What a scenario cost, against what it may cost. Nothing here does anything.

use std::time::Duration;

use serde::Serialize;

use super::diary::{Diary, Excuse, covers, is_allowed, is_at_webhook, is_distrust, is_excused};
use crate::load::{Call, Outcome, Report};

/// How long after a server's end a call may be begun that is sent to it: whoever sends it has not heard yet.
const CROSSED: Duration = Duration::from_millis(150);

/// How many calls more than one fault may cost on the whole it may cost now and then: clients call at the same moment.
const CHANCE: usize = 1;

/// What a scenario may cost.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Budget {
    /// Calls that may be lost during the fault: failed, and not excused. None may be let through
    /// unswapped.
    pub lost: usize,
    /// How many times longer than before the fault the 99 of 100 fastest may take during it.
    pub slower: Option<u32>,
    /// The longest that any call may take.
    pub longest: Option<Duration>,
    /// All that, and what is excused, for a person.
    pub words: &'static str,
}

/// The judgement.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Within the budget, and green before and after.
    pub is_passed: bool,
    /// If not, why not.
    pub reasons: Vec<String>,
    /// Calls that failed, or were let through unswapped, and are not excused.
    pub lost: usize,
    /// Calls for which nobody can answer: the time was excused.
    pub excused: usize,
    /// Calls answered before the fault.
    pub before: Report,
    /// Calls under way during it.
    pub during: Report,
    /// Calls made after it.
    pub after: Report,
    /// All.
    pub all: Report,
}

impl Budget {
    /// Nothing is lost, nothing unswapped.
    pub const NOTHING: Self = Self {
        lost: 0,
        slower: None,
        longest: None,
        words: "0",
    };

    /// What a replica may cost that stands still or can't be reached: kube-apiserver learns of each of
    /// its connections by a call that is not answered. `timeoutSeconds` of the webhook is 5, and a call
    /// may have waited for another's connection. How many there were, the scenario counts.
    pub const CONNECTIONS: Self = Self {
        longest: Some(Duration::from_secs(6)),
        ..Self::nothing_but("one for each connection to it, open or begun, within timeoutSeconds")
    };

    /// Nothing but what is excused; the words say what that is.
    pub const fn nothing_but(words: &'static str) -> Self {
        Self {
            words,
            ..Self::NOTHING
        }
    }
}

/// In which part of a scenario a call was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Before,
    During,
    After,
}

/// Without a fault all is before it.
pub(super) fn part(call: &Call, diary: &Diary) -> Part {
    match diary.fault {
        Some(fault) if call.due >= fault.to => Part::After,
        Some(fault) if call.answered >= fault.from => Part::During,
        _ => Part::Before,
    }
}

/// Whether it was lost by what no fault of a process, a machine or a wire explains: nobody believed the
/// certificate, or ImageSwap itself answered with an error.
fn is_broken(outcome: &Outcome) -> bool {
    is_distrust(outcome) || is_at_webhook(outcome) && is_answered(outcome)
}

/// Whether there was an answer, and not the one that was wanted: a wire does not say so.
fn is_answered(outcome: &Outcome) -> bool {
    outcome.failed_by(&[
        "ImageSwap failed",
        // An HTTP status, in the words of kube-apiserver's client: they all name the server.
        "the server ",
        // A review that can't be read, or that refuses.
        "webhook response",
        "denied the request",
    ])
}

/// From when the first call was due that an excuse covers, to the answer of the last.
fn failing(excuse: &Excuse, calls: &[Call]) -> Duration {
    let covered = || calls.iter().filter(|call| covers(excuse, call));
    let first = covered().map(|call| call.due).min().unwrap_or_default();
    let last = covered().map(|call| call.answered).max();
    last.unwrap_or_default().saturating_sub(first)
}

/// Judges all calls. `played` is what the scenario itself came to.
pub fn judge(
    budget: &Budget,
    calls: &[Call],
    diary: &Diary,
    played: Result<(), String>,
) -> Verdict {
    let of = |wanted: Part| {
        let own = calls.iter().filter(|call| part(call, diary) == wanted);
        own.collect::<Vec<_>>()
    };
    let is_lost = |call: &Call| !call.outcome.is_swapped() && !is_excused(call, &diary.excuses);
    let lost = |calls: &[&Call]| calls.iter().filter(|call| is_lost(call)).count();
    let [before, during, after] = [Part::Before, Part::During, Part::After].map(of);
    let all: Vec<_> = calls.iter().collect();
    let report = |calls: &[&Call]| Report::of(calls.iter().copied());
    let bad = all.iter().filter(|call| !call.outcome.is_swapped()).count();
    let mut verdict = Verdict {
        is_passed: true,
        reasons: played.err().into_iter().collect(),
        lost: lost(&all),
        excused: bad - lost(&all),
        before: report(&before),
        during: report(&during),
        after: report(&after),
        all: report(&all),
    };
    for (when, calls) in [("before", &before), ("after", &after)] {
        match lost(calls) {
            _ if calls.is_empty() => verdict.fail(format!("no call {when} the fault")),
            0 => {}
            lost => verdict.fail(format!(
                "{lost} lost {when} the fault, where all must be well"
            )),
        }
    }
    let in_fault = lost(&during);
    let most = match &diary.may_lose[..] {
        [] => budget.lost,
        all => all.iter().map(|may| may.most).sum(),
    };
    if in_fault > most {
        verdict.fail(format!("{in_fault} lost, and {most} may be"));
    }
    let is_accounted_for = |call: &Call| diary.may_lose.iter().any(|may| is_allowed(may, call));
    if !diary.may_lose.is_empty() {
        let others = during
            .iter()
            .filter(|call| is_lost(call) && !is_accounted_for(call));
        verdict.fail_for(others, "lost at another time or otherwise than may be");
    }
    for (n, may) in diary.may_lose.iter().enumerate() {
        // What another may have cost as well counts in the sum alone.
        let is_of_another = |call: &Call| {
            let mut others = diary.may_lose.iter().enumerate();
            others.any(|(other, may)| other != n && is_allowed(may, call))
        };
        let lost = during
            .iter()
            .filter(|call| is_lost(call) && is_allowed(may, call));
        let own = lost.clone().filter(|call| !is_of_another(call)).count();
        if own > may.most + CHANCE && diary.may_lose.len() > 1 {
            verdict.fail(format!(
                "{own} lost by what may cost {} at a time, and {CHANCE} more by chance",
                may.most
            ));
        }
        if !may.is_at_once {
            continue;
        }
        let last = lost.clone().map(|call| call.due).max();
        let first = lost.clone().map(|call| call.answered).min();
        if let Some((last, first)) = last.zip(first)
            && last > first + CROSSED
        {
            verdict.fail(format!(
                "{} lost at the end of one server, not all of them at once: the last was begun {:.1?} after the first had failed",
                lost.count(),
                last.saturating_sub(first)
            ));
        }
    }
    let broken = during
        .iter()
        .filter(|call| is_lost(call) && is_broken(&call.outcome));
    verdict.fail_for(
        broken,
        "lost for trust or by an answer, which no budget has",
    );
    let through = |call: &&Call| matches!(call.outcome, Outcome::Unswapped(_));
    let through: Vec<_> = all.iter().copied().filter(through).collect();
    if lost(&through) > 0 {
        verdict.fail(format!("{} let through unswapped", lost(&through)));
    }
    verdict.check_times(budget);
    for excuse in &diary.excuses {
        verdict.check_excuse(excuse, failing(excuse, calls));
    }
    verdict.is_passed = verdict.reasons.is_empty();
    verdict
}

impl Verdict {
    fn fail(&mut self, reason: String) {
        self.reasons.push(reason);
    }

    /// If there are any of these calls.
    fn fail_for<'c>(&mut self, calls: impl Iterator<Item = &'c &'c Call>, how: &str) {
        let calls: Vec<_> = calls.collect();
        if let Some(first) = calls.first() {
            let (count, outcome) = (calls.len(), &first.outcome);
            self.fail(format!("{count} {how}, such as {outcome:?}"));
        }
    }

    fn check_times(&mut self, budget: &Budget) {
        let (quiet, busy) = (self.before.p99, self.during.p99);
        if let Some(slower) = budget.slower
            && busy > quiet * f64::from(slower)
        {
            self.fail(format!(
                "p99 {busy} ms during the fault, {quiet} ms before it; {slower} times as long may be"
            ));
        }
        if let Some(longest) = budget.longest
            && self.all.max > longest.as_secs_f64() * 1e3
        {
            self.fail(format!(
                "a call took {} ms, and {longest:?} may be",
                self.all.max
            ));
        }
    }

    fn check_excuse(&mut self, excuse: &Excuse, took: Duration) {
        if let Some(most) = excuse.most
            && took > most
        {
            self.fail(format!(
                "{}: calls failed for {:.1} s, and {most:?} may be",
                excuse.why,
                took.as_secs_f64()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::diary::{Allowance, Excused, Span};

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn span(from: u64, to: u64) -> Span {
        Span {
            from: at(from),
            to: at(to),
        }
    }

    /// A call a second for 30 seconds, answered in a tenth; these go wrong.
    fn calls(wrong: &[(u64, Outcome)]) -> Vec<Call> {
        let outcome = |n| wrong.iter().find(|(at, _)| *at == n);
        let one = |n| Call {
            due: at(n),
            answered: at(n) + Duration::from_millis(100),
            server: usize::from(n % 2 == 1),
            outcome: outcome(n).map_or(Outcome::Swapped, |(_, outcome)| outcome.clone()),
        };
        (0..30).map(one).collect()
    }

    fn failed() -> Outcome {
        Outcome::Failed("EOF".to_owned())
    }

    fn distrusted() -> Outcome {
        Outcome::Failed("x509: certificate signed by unknown authority".to_owned())
    }

    fn unswapped() -> Outcome {
        Outcome::Unswapped("nginx".to_owned())
    }

    /// A fault from 10 to 20, with 12 to 15 excused.
    fn diary() -> Diary {
        let excuse = Excuse {
            span: span(12, 15),
            why: "away".to_owned(),
            most: Some(at(5)),
            of: Excused::All,
            server: None,
        };
        Diary {
            fault: Some(span(10, 20)),
            excuses: vec![excuse],
            ..Diary::default()
        }
    }

    #[test]
    fn a_verdict_by_what_went_wrong_and_when() {
        let two = Budget {
            lost: 2,
            ..Budget::NOTHING
        };
        for (what, wrong, budget, passed, lost, excused) in [
            ("all well", vec![], Budget::NOTHING, true, 0, 0),
            ("over", vec![(11, failed())], Budget::NOTHING, false, 1, 0),
            (
                "within",
                vec![(11, failed()), (18, failed())],
                two,
                true,
                2,
                0,
            ),
            ("before", vec![(3, failed())], two, false, 1, 0),
            ("trust", vec![(11, distrusted())], two, false, 1, 0),
            (
                "trust, excused",
                vec![(13, distrusted())],
                Budget::NOTHING,
                true,
                0,
                1,
            ),
            ("after", vec![(20, failed())], two, false, 1, 0),
            ("excused", vec![(13, failed())], Budget::NOTHING, true, 0, 1),
            ("let through", vec![(11, unswapped())], two, false, 1, 0),
            (
                "let through while away",
                vec![(13, unswapped())],
                two,
                false,
                1,
                0,
            ),
        ] {
            let verdict = judge(&budget, &calls(&wrong), &diary(), Ok(()));
            let seen = (verdict.is_passed, verdict.lost, verdict.excused);
            assert_eq!(
                seen,
                (passed, lost, excused),
                "{what}: {:?}",
                verdict.reasons
            );
        }
    }

    #[test]
    fn while_it_is_uninstalled_pods_may_go_through() {
        let mut diary = diary();
        diary.excuses[0].of = Excused::Uninstalled;
        let verdict = judge(
            &Budget::NOTHING,
            &calls(&[(13, unswapped())]),
            &diary,
            Ok(()),
        );
        assert!(verdict.is_passed, "{:?}", verdict.reasons);
    }

    #[test]
    fn an_excuse_is_for_what_it_names() {
        let at_webhook = |why: &str| {
            Outcome::Failed(format!(
                "Internal error occurred: failed calling webhook \"imageswap\": {why}"
            ))
        };
        for (of, outcome, passes) in [
            (Excused::All, at_webhook("EOF"), true),
            (Excused::Distrust, distrusted(), true),
            (Excused::Distrust, at_webhook("EOF"), false),
            (Excused::Distrust, failed(), false),
            (Excused::Elsewhere, failed(), true),
            (
                Excused::Elsewhere,
                at_webhook("context deadline exceeded"),
                false,
            ),
            (Excused::Elsewhere, unswapped(), false),
            (Excused::Uninstalled, at_webhook("EOF"), true),
        ] {
            let mut diary = diary();
            diary.excuses[0].of = of;
            let calls = calls(&[(13, outcome.clone())]);
            let verdict = judge(&Budget::NOTHING, &calls, &diary, Ok(()));
            assert_eq!(verdict.is_passed, passes, "{of:?}: {outcome:?}");
        }
    }

    #[test]
    fn a_call_is_lost_only_by_what_may_cost_one() {
        let judge = |second, why: &str| {
            let outcome = || Outcome::Failed(format!("failed calling webhook: {why}"));
            let diary = Diary {
                fault: Some(span(10, 20)),
                may_lose: [11, 15]
                    .map(|at| Allowance {
                        most: 1,
                        at: vec![span(at, at)],
                        words: &["EOF", "reset", "x509", "server", "webhook response"],
                        is_at_once: false,
                    })
                    .into(),
                ..Diary::default()
            };
            let calls = calls(&[(11, outcome()), (second, outcome())]);
            super::judge(&Budget::NOTHING, &calls, &diary, Ok(())).is_passed
        };
        assert!(judge(15, "EOF"));
        // What was in a server's hands as it ended, and an outage after it.
        let diary = Diary {
            fault: Some(span(10, 20)),
            may_lose: vec![Allowance {
                most: 9,
                at: vec![span(11, 19)],
                words: &["EOF"],
                is_at_once: true,
            }],
            ..Diary::default()
        };
        let wrong: Vec<_> = (12..15).map(|at| (at, failed())).collect();
        for (takes, passes) in [(100, false), (1_800, false), (2_000, true)] {
            let mut calls = calls(&wrong);
            for call in calls.iter_mut().filter(|call| !call.outcome.is_swapped()) {
                call.answered = call.due + Duration::from_millis(takes);
            }
            let verdict = super::judge(&Budget::NOTHING, &calls, &diary, Ok(()));
            assert_eq!(verdict.is_passed, passes, "{:?}", verdict.reasons);
        }
        // A server that closes what it was sent, all the time.
        assert!(!judge(13, "EOF"));
        // Nobody listens.
        assert!(!judge(15, "connection refused"));
        for answer in [
            "an error on the server (\"no\") has prevented the request from succeeding",
            "the server has received too many requests and has asked us to try again later",
            "the server is currently unable to handle the request",
            "the server responded with the status code 413 but did not return more information",
            "received invalid webhook response: expected response.uid",
        ] {
            assert!(!judge(15, answer), "{answer}");
        }
    }

    #[test]
    fn what_one_fault_does_not_cost_another_may_not() {
        let kill = |from, to| Allowance {
            most: 1,
            at: vec![span(from, to)],
            words: &["EOF"],
            is_at_once: false,
        };
        let apart = || [kill(11, 14), kill(16, 18), kill(19, 20)];
        let overlapping = || [kill(11, 15), kill(13, 18), kill(19, 20)];
        for (what, kills, lost, passes) in [
            ("one each", apart(), vec![12, 17], true),
            ("two to one, by chance", apart(), vec![12, 13], true),
            ("all to one", apart(), vec![11, 12, 13], false),
            ("more than all", apart(), vec![11, 12, 16, 17], false),
            ("to either", overlapping(), vec![13, 14, 15], true),
            ("one to either", overlapping(), vec![11, 12, 14], true),
            ("all to the second", overlapping(), vec![16, 17, 18], false),
        ] {
            let diary = Diary {
                fault: Some(span(10, 20)),
                may_lose: kills.into(),
                ..Diary::default()
            };
            let wrong: Vec<_> = lost.into_iter().map(|at| (at, failed())).collect();
            let verdict = judge(&Budget::NOTHING, &calls(&wrong), &diary, Ok(()));
            assert_eq!(verdict.is_passed, passes, "{what}: {:?}", verdict.reasons);
        }
    }

    #[test]
    fn what_else_fails_a_scenario() {
        let wrong = [(13, failed()), (15, failed())];
        let judge = |budget, diary: &Diary, played| judge(&budget, &calls(&wrong), diary, played);
        let none = Diary {
            fault: None,
            ..diary()
        };
        let mut long = diary();
        long.excuses[0].most = Some(at(2));
        let longest = Budget {
            longest: Some(Duration::from_millis(50)),
            ..Budget::NOTHING
        };
        let slower = Budget {
            slower: Some(0),
            ..Budget::NOTHING
        };
        for (what, verdict) in [
            ("no fault", judge(Budget::NOTHING, &none, Ok(()))),
            (
                "the scenario's own word",
                judge(Budget::NOTHING, &diary(), Err("no".to_owned())),
            ),
            ("an excuse too long", judge(Budget::NOTHING, &long, Ok(()))),
            ("a call too long", judge(longest, &diary(), Ok(()))),
            ("slower than before", judge(slower, &diary(), Ok(()))),
        ] {
            assert!(!verdict.is_passed, "{what}");
            assert_eq!(verdict.reasons.len(), 1, "{what}: {:?}", verdict.reasons);
        }
    }
}
