//! What an operator should see without reading logs: handed in here by whoever has it to tell, and
//! made a Kubernetes Event by `cluster::kubernetes::events`.
//!
//! Nobody waits: the channel is bounded, and what there is no room for is dropped. The log has it
//! all the same.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};

/// How many may wait to be told.
const WAITING: usize = 32;

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What kind of thing happened.
    pub reason: Reason,
    /// What happened, to what, and why.
    pub note: String,
}

/// What kind of thing happened: the `reason` of an Event. `docs/operations.md` lists them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The first pair was made.
    CertificateCreated,
    /// The pair in the Secret could not be served any more: there is a new one.
    CertificateReplaced,
    /// The Secret was lost or broken, and the pair in memory was written back.
    CertificateRestored,
    /// The pair that was staged is the one to be served.
    CertificateRotated,
    /// CAs that no leaf needs were taken out of the caBundle: the end of a rotation.
    TrustPruned,
    /// Somebody overwrote the caBundle, and it was written again.
    TrustRepaired,
    /// A Secret or files that can't be served; the pair in use stays.
    CertificateRefused,
    /// A map file in use has lines in error, which are skipped.
    MapsInError,
    /// A changed map file can't be used; the one in use stays.
    MapsRefused,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::CertificateCreated,
        Self::CertificateReplaced,
        Self::CertificateRestored,
        Self::CertificateRotated,
        Self::TrustPruned,
        Self::TrustRepaired,
        Self::CertificateRefused,
        Self::MapsInError,
        Self::MapsRefused,
    ];

    /// Its name, as Events have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CertificateCreated => "CertificateCreated",
            Self::CertificateReplaced => "CertificateReplaced",
            Self::CertificateRestored => "CertificateRestored",
            Self::CertificateRotated => "CertificateRotated",
            Self::TrustPruned => "TrustPruned",
            Self::TrustRepaired => "TrustRepaired",
            Self::CertificateRefused => "CertificateRefused",
            Self::MapsInError => "MapsInError",
            Self::MapsRefused => "MapsRefused",
        }
    }

    /// Whether somebody should look; else it is only good to know.
    pub fn is_warning(self) -> bool {
        match self {
            Self::CertificateCreated | Self::CertificateRotated | Self::TrustPruned => false,
            Self::CertificateReplaced
            | Self::CertificateRestored
            | Self::TrustRepaired
            | Self::CertificateRefused
            | Self::MapsInError
            | Self::MapsRefused => true,
        }
    }
}

/// Where notices are handed in. By default nobody reads them.
#[derive(Debug, Clone, Default)]
pub struct Notices(Option<mpsc::Sender<Notice>>);

impl Notices {
    /// Hands one in, and does not wait.
    pub fn tell(&self, reason: Reason, note: String) {
        if let Some(sender) = &self.0 {
            // Full, or nobody reads: it is in the log.
            let _ = sender.try_send(Notice { reason, note });
        }
    }
}

/// Where notices are read, by one reader at a time.
#[derive(Debug)]
pub struct Inbox(Mutex<mpsc::Receiver<Notice>>);

impl Inbox {
    /// The next one. Waits for ever once nobody can hand in any more.
    pub async fn next(&self) -> Notice {
        match self.0.lock().await.recv().await {
            Some(notice) => notice,
            None => std::future::pending().await,
        }
    }
}

/// Both ends.
pub fn channel() -> (Notices, Inbox) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Notices(Some(sender)), Inbox(Mutex::new(receiver)))
}

// === how much may be told ===

/// So many of one reason at once …
const BURST: u32 = 3;

/// … and one more after each such time.
const EVERY: Duration = Duration::from_secs(300);

/// The same for all warnings together, and for all that is normal: with the first burst, 20 in an
/// hour of each. A warning must not want for room because all went well.
const BURST_OF_ALL: u32 = 10;
const EVERY_OF_ALL: Duration = Duration::from_secs(360);

/// How much one process may still tell. Pure.
///
/// A few at once are let through, as client-go does it, because the second one may say something
/// else: another line in error, another tool that writes the caBundle.
#[derive(Debug, Default)]
pub struct Budget {
    warnings: Bucket,
    normal: Bucket,
    reasons: BTreeMap<Reason, Bucket>,
}

/// Spent, and given back with time.
#[derive(Debug, Default)]
struct Bucket {
    spent: u32,
    /// From when on the time counts that gives back.
    since: Duration,
}

impl Budget {
    /// Whether this may be told now, by a steady clock; if so, it is.
    pub fn may(&mut self, reason: Reason, at: Duration) -> bool {
        let one = self.reasons.entry(reason).or_default();
        one.refill(EVERY, at);
        let all = match reason.is_warning() {
            true => &mut self.warnings,
            false => &mut self.normal,
        };
        all.refill(EVERY_OF_ALL, at);
        let may = one.spent < BURST && all.spent < BURST_OF_ALL;
        if may {
            one.spent += 1;
            all.spent += 1;
        }
        may
    }
}

impl Bucket {
    fn refill(&mut self, every: Duration, at: Duration) {
        while self.spent > 0 && self.since + every <= at {
            self.since += every;
            self.spent -= 1;
        }
        // What is full does not save.
        if self.spent == 0 {
            self.since = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_of_a_reason_at_once_and_no_more_than_twenty_of_a_kind_in_an_hour() {
        let mut budget = Budget::default();
        let mut told = Vec::new();
        // One that somebody fights for, each ten seconds.
        for second in (0..1800).step_by(10) {
            if budget.may(Reason::TrustRepaired, Duration::from_secs(second)) {
                told.push(second);
            }
        }
        assert_eq!(told, [0, 10, 20, 300, 600, 900, 1200, 1500]);
        // Another reason has a budget of its own …
        assert!(budget.may(Reason::MapsInError, Duration::from_secs(1800)));
        // … and all of a kind together have one, even in the worst hour.
        let mut budget = Budget::default();
        let mut count = |from: u64| {
            let seconds = from..from + 3600;
            let all = seconds.flat_map(|at| Reason::ALL.map(|reason| (at, reason)));
            all.filter(|(at, reason)| budget.may(*reason, Duration::from_secs(*at)))
                .count()
        };
        assert_eq!([count(0), count(3600)], [38, 20]);
        // A quiet hour gives back no more than the burst.
        assert_eq!(count(50_000), 38);
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_dropped_and_nobody_waits() {
        Notices::default().tell(Reason::MapsRefused, "to nobody".to_owned());
        let (notices, inbox) = channel();
        for n in 0..2 * WAITING {
            notices.tell(Reason::MapsRefused, n.to_string());
        }
        for n in 0..WAITING {
            assert_eq!(inbox.next().await.note, n.to_string());
        }
        drop(notices);
        let next = tokio::time::timeout(Duration::from_millis(1), inbox.next());
        assert!(next.await.is_err(), "more than there was room for");
    }

    #[test]
    fn the_runbook_names_all_reasons() {
        let runbook = include_str!("../../docs/operations.md");
        for reason in Reason::ALL {
            let row = format!("| {} | `{}` |", kind(reason), reason.name());
            assert!(runbook.contains(&row), "no row {row:?}");
        }
    }

    fn kind(reason: Reason) -> &'static str {
        if reason.is_warning() {
            "Warning"
        } else {
            "Normal"
        }
    }
}
