//! A scenario: Pods are created at a steady rate, one thing breaks, it heals, and what was lost is
//! counted against a budget.
//!
//! `stage` is what a scenario may do, and `diary` what it did; `runner` plays it under load; `timeline`
//! lays the calls over that; `verdict` judges; `table` and `page` show it to a person; `run` does all that for
//! many, on a cluster of its own.

mod dials;
pub mod diary;
pub mod page;
pub mod run;
pub mod runner;
pub mod stage;
pub mod table;
pub mod timeline;
pub mod verdict;

pub use self::diary::Excused;
pub use self::stage::Stage;
pub use self::verdict::Budget;
use crate::cluster::Way;

/// One fault, as a file in `scenarios/` tells it.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// By which it is run.
    pub name: &'static str,
    /// What breaks, in a line.
    pub about: &'static str,
    /// What it may cost.
    pub budget: Budget,
    /// How ImageSwap is set for it, by environment variables; nothing is as it is installed.
    pub settings: &'static [(&'static str, &'static str)],
    /// Images that Pods may have, beside the one of [`crate::install::MAPS`].
    pub images: &'static [&'static str],
    /// A second kube-apiserver, which is called as often as the first, and its way to etcd.
    pub second: Option<Way>,
    /// The fault and its healing. Anything unexpected is an error, and fails the scenario.
    pub play: fn(&Stage<'_>) -> anyhow::Result<()>,
}

impl Scenario {
    /// One that may cost nothing.
    pub(crate) const fn new(
        name: &'static str,
        about: &'static str,
        play: fn(&Stage<'_>) -> anyhow::Result<()>,
    ) -> Self {
        Self {
            name,
            about,
            budget: Budget::NOTHING,
            settings: &[],
            images: &[],
            second: None,
            play,
        }
    }
}
