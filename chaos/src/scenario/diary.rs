//! What a scenario did, by its own account: when, what may have been lost for it, and for whose reasons.

use std::time::Duration;

use crate::load::{Call, Outcome};

/// From when to when, by [`crate::clock::now`].
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// The beginning.
    pub from: Duration,
    /// The end.
    pub to: Duration,
}

/// What happened, told by those who did it.
#[derive(Debug, Default, Clone)]
pub struct Diary {
    /// From the fault to its healing.
    pub fault: Option<Span>,
    /// When nobody can answer for a failure.
    pub excuses: Vec<Excuse>,
    /// What was done, and when.
    pub events: Vec<(Duration, String)>,
    /// What else was found.
    pub notes: Vec<String>,
    /// Calls that may be lost, where only the scenario could tell.
    pub may_lose: Vec<Allowance>,
}

/// Calls that may be lost in the fault.
#[derive(Debug, Clone)]
pub struct Allowance {
    /// So many, of those that no other allowance is for; and of all no more than all allow.
    pub most: usize,
    /// Only those that were under way then; at any time of the fault, if there is none.
    pub at: Vec<Span>,
    /// Only those that failed by one of these words; by any, if there is none.
    pub words: &'static [&'static str],
    /// Whether they must have been under way at one and the same time: in the hands of one server.
    pub is_at_once: bool,
}

/// What fails for another's reasons, in a time that is excused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excused {
    /// Any call.
    All,
    /// Those for which kube-apiserver did not find a leaf that it believes.
    Distrust,
    /// Those that failed elsewhere than at the webhook.
    Elsewhere,
    /// Any call; and nobody asked for ImageSwap, so that Pods may go through unswapped, too.
    Uninstalled,
}

/// A time for whose failures ImageSwap can't answer.
#[derive(Debug, Clone)]
pub struct Excuse {
    /// When.
    pub span: Span,
    /// Why.
    pub why: String,
    /// For how long calls may fail then.
    pub most: Option<Duration>,
    /// What.
    pub of: Excused,
    /// Only calls to this one of the load's servers.
    pub server: Option<usize>,
}

/// Whether a call was under way while what befell it was excused.
pub(super) fn is_excused(call: &Call, excuses: &[Excuse]) -> bool {
    excuses.iter().any(|excuse| covers(excuse, call))
}

/// Whether it is one of those that the excuse is for.
pub(super) fn covers(excuse: &Excuse, call: &Call) -> bool {
    let is_meant = match (&call.outcome, excuse.of) {
        (Outcome::Swapped, _) => false,
        (Outcome::Unswapped(_), of) => of == Excused::Uninstalled,
        (Outcome::Failed(_), Excused::All | Excused::Uninstalled) => true,
        (failed, Excused::Distrust) => is_distrust(failed),
        (failed, Excused::Elsewhere) => !is_at_webhook(failed),
    };
    let is_there = excuse.server.is_none_or(|server| server == call.server);
    is_meant && is_there && is_under_way(call, excuse.span)
}

fn is_under_way(call: &Call, span: Span) -> bool {
    call.answered >= span.from && call.due <= span.to
}

/// Whether a call that failed may be one of those that may be lost.
pub(super) fn is_allowed(allowance: &Allowance, call: &Call) -> bool {
    let words = match allowance.words {
        // Whatever it says.
        [] => &[""],
        words => words,
    };
    let mut spans = allowance.at.iter();
    let is_then = allowance.at.is_empty() || spans.any(|span| is_under_way(call, *span));
    is_then && call.outcome.failed_by(words)
}

/// Whether kube-apiserver did not find a leaf that it believes.
pub(super) fn is_distrust(outcome: &Outcome) -> bool {
    outcome.failed_by(&["x509", "certificate"])
}

/// Whether it was lost at the webhook, by kube-apiserver's own words.
pub(super) fn is_at_webhook(outcome: &Outcome) -> bool {
    outcome.failed_by(&["webhook"])
}
