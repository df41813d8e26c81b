//! The two clocks: the wall's, which dates certificates, and the steady one, which measures how long
//! something has been so, and which nobody sets.
//!
//! A machine's wall clock may be wrong by years. What counts is kube-apiserver's: it is the one that
//! verifies. So each answer of it that tells the time sets this clock, and the steady one carries it
//! on. An answer may be wrong, too, as while a control plane's clock is set, or of one among three of them: one
//! that is far off counts only after answers have said so for some time ([`Told`]), and until that is known,
//! nobody acts on either ([`Clock::settled`]).

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::write::Failure;
use crate::text::rfc3339;

/// How wrong this machine's clock may be.
const DOUBT: time::Duration = time::Duration::DAY;

/// How wrong kube-apiserver's may be.
const DOUBT_IF_TOLD: time::Duration = time::Duration::HOUR;

/// For so long an answer that agrees with what counts stands for that, whatever another says: they may come from
/// several kube-apiservers, each of which answers other calls.
const CONFIRMED: Duration = Duration::from_secs(20);

/// For how long answers must agree that it is another time.
const AGREED: Duration = Duration::from_secs(60);

/// The same at a start, when nothing is known but this machine's own clock, and nothing may be served.
const AGREED_AT_START: Duration = Duration::from_secs(10);

/// How wrong the clock may be that a pair is judged by which lives that long.
pub fn doubt(is_told: bool, life: time::Duration) -> time::Duration {
    let doubt = if is_told { DOUBT_IF_TOLD } else { DOUBT };
    doubt.min(life / 10)
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The date, as far as it is known.
    pub wall: OffsetDateTime,
    /// Whether that is kube-apiserver's word, and not just this machine's.
    pub is_told: bool,
    /// Since some moment in the life of this process.
    pub steady: Duration,
}

/// Since when and until when something was read, by the steady clock: what was read was so at some
/// moment between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Before the first call.
    pub from: Duration,
    /// After the last answer.
    pub to: Duration,
}

impl Span {
    /// How old at most is what was read.
    pub fn age(&self, now: Moment) -> Duration {
        now.steady.saturating_sub(self.from)
    }
}

/// A date, and when that was by the steady clock, which carries it on.
#[derive(Debug, Clone, Copy)]
struct Date {
    wall: OffsetDateTime,
    at: Duration,
}

impl Date {
    fn now(self, steady: Duration) -> OffsetDateTime {
        self.wall + steady.saturating_sub(self.at)
    }
}

/// What kube-apiserver says that it is. Pure.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    /// What counts.
    date: Option<Date>,
    /// What it said last if that is far off, and since when answers have agreed to that.
    odd: Option<(Date, Duration)>,
}

impl Told {
    /// Takes note of an answer, `own` being this machine's clocks. Whether it counts.
    ///
    /// Answers that agree with what counts end what was said in between, so that one control plane among others is
    /// never believed if it is wrong for ever. But for what this machine's own clock agrees with and is still heard: else
    /// the wrong one would be believed for ever if it had been heard alone for some time.
    fn hear(&mut self, wall: OffsetDateTime, own: Moment) -> bool {
        let is_near = |one: OffsetDateTime, doubt| (one - wall).abs() <= doubt;
        let is_expected = match self.date {
            Some(date) => is_near(date.now(own.steady), DOUBT_IF_TOLD),
            None => is_near(own.wall, DOUBT),
        };
        let date = Date {
            wall,
            at: own.steady,
        };
        if is_expected {
            self.date = Some(date);
            let is_open = |(odd, _): &(Date, Duration)| {
                let says = odd.now(own.steady);
                let is_own = (says - own.wall).abs() <= DOUBT_IF_TOLD;
                let is_heard = own.steady.saturating_sub(odd.at) <= AGREED;
                is_own && is_heard && !is_near(says, DOUBT_IF_TOLD)
            };
            self.odd = self.odd.filter(is_open);
            return true;
        }
        let odd = self.odd;
        let odd = odd.filter(|(odd, _)| is_near(odd.now(own.steady), DOUBT_IF_TOLD));
        let since = odd.map_or(own.steady, |(_, since)| since);
        let agreed = match self.date {
            Some(_) => AGREED,
            None => AGREED_AT_START,
        };
        let is_agreed = own.steady.saturating_sub(since) >= agreed;
        *self = match is_agreed {
            true => Self {
                date: Some(date),
                odd: None,
            },
            false => Self {
                odd: Some((date, since)),
                ..*self
            },
        };
        is_agreed
    }

    /// Whether somebody may act on what counts now.
    fn is_settled(&self, steady: Duration) -> bool {
        let is_confirmed = |date: Date| steady.saturating_sub(date.at) <= CONFIRMED;
        self.odd.is_none() || self.date.is_some_and(is_confirmed)
    }

    /// What it is now, if anything was said. What was heard first counts for want of a better.
    fn now(&self, steady: Duration) -> Option<OffsetDateTime> {
        let date = self.date.or(self.odd.map(|(odd, _)| odd))?;
        Some(date.now(steady))
    }
}

/// Tells the moment. A clone tells the same.
#[derive(Clone)]
pub struct Clock {
    tell: Arc<dyn Fn() -> Moment + Send + Sync>,
    told: Arc<Mutex<Told>>,
    /// Told when it is another time.
    set: Arc<Notify>,
}

impl Clock {
    /// This machine's clocks.
    pub fn system() -> Self {
        let (began, asleep) = (Instant::now(), asleep());
        Self::of(move || Moment {
            wall: OffsetDateTime::now_utc(),
            is_told: false,
            steady: began.elapsed() + self::asleep().saturating_sub(asleep),
        })
    }

    /// Whatever this tells.
    pub fn of(tell: impl Fn() -> Moment + Send + Sync + 'static) -> Self {
        Self {
            tell: Arc::new(tell),
            told: Arc::default(),
            set: Arc::default(),
        }
    }

    /// The moment that it is.
    pub fn now(&self) -> Moment {
        let moment = (self.tell)();
        match self.told().now(moment.steady) {
            Some(wall) => Moment {
                wall,
                is_told: true,
                ..moment
            },
            None => moment,
        }
    }

    /// Hears kube-apiserver say that it is this late now. Returns by how much this machine's own wall clock is
    /// ahead, if that counts.
    pub fn hear(&self, wall: OffsetDateTime) -> Option<time::Duration> {
        let moment = (self.tell)();
        let mut told = self.told();
        let before = *told;
        let counts = told.hear(wall, moment);
        let [was, is] = [before, *told].map(|told| told.now(moment.steady));
        let is_other = was
            .zip(is)
            .is_some_and(|(was, is)| (was - is).abs() > DOUBT_IF_TOLD);
        let [was, is] = [before, *told].map(|told| told.is_settled(moment.steady));
        if is && (is_other || !was) {
            self.set.notify_one();
        }
        counts.then(|| moment.wall - wall)
    }

    /// That it is known what time it is, so that somebody may act by it.
    ///
    /// # Errors
    /// The last answer of kube-apiserver was far off, and none before it has agreed with what counts for a while.
    pub fn settled(&self) -> Result<(), Failure> {
        self.told_otherwise(Told::is_settled)
    }

    /// The same, and that none was far off lately, so that somebody may do what a wrong date makes harmful.
    ///
    /// # Errors
    /// One was that this machine's clock agrees with, or the last.
    pub fn undisputed(&self) -> Result<(), Failure> {
        self.told_otherwise(|told, _| told.odd.is_none())
    }

    fn told_otherwise(&self, is_fine: fn(&Told, Duration) -> bool) -> Result<(), Failure> {
        let now = (self.tell)();
        let told = *self.told();
        let Some((odd, _)) = told.odd.filter(|_| !is_fine(&told, now.steady)) else {
            return Ok(());
        };
        let says = |at: OffsetDateTime| rfc3339(at);
        let before = told.date.map_or(String::new(), |date| {
            format!(", by what it said before {}", says(date.now(now.steady)))
        });
        Err(Failure::Failed(format!(
            "kube-apiserver says that it is {}{before}, and by this machine's clock it is {}; nothing is done until its \
             answers agree, or have said so for a while: are the clocks of all control planes right?",
            says(odd.now(now.steady)),
            says(now.wall)
        )))
    }

    /// Returns once it has become another time, or the old one again.
    pub async fn set(&self) {
        self.set.notified().await;
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads something, and tells when that was.
    pub async fn spanned<T>(&self, reading: impl Future<Output = T>) -> (T, Span) {
        let from = self.now().steady;
        let read = reading.await;
        let to = self.now().steady;
        (read, Span { from, to })
    }
}

/// For how long this machine has slept since it was started: a virtual machine that is moved may, and
/// others go on meanwhile. Rust's own steady clock leaves that out.
fn asleep() -> Duration {
    let [whole, awake] = [ClockId::Boottime, ClockId::Monotonic].map(|id| {
        let read = clock_gettime(id);
        let seconds = Duration::from_secs(u64::try_from(read.tv_sec).unwrap_or_default());
        seconds + Duration::from_nanos(u64::try_from(read.tv_nsec).unwrap_or_default())
    });
    // Read one after the other, they differ by some nanoseconds where nothing slept.
    let slept = whole.saturating_sub(awake);
    Duration::from_millis(u64::try_from(slept.as_millis()).unwrap_or_default())
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn what_kube_apiserver_says_counts_and_the_steady_clock_carries_it_on() {
        let begin = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let steady = Arc::new(Mutex::new(5));
        let read = Arc::clone(&steady);
        let clock = Clock::of(move || Moment {
            wall: begin + time::Duration::days(400),
            is_told: false,
            steady: Duration::from_secs(*read.lock().unwrap()),
        });
        assert!(!clock.now().is_told);
        let other = clock.clone();
        // Far from what this machine says.
        assert_eq!(clock.hear(begin), None);
        assert!(clock.settled().is_err());
        *steady.lock().unwrap() = 15;
        let now = other.now();
        assert!(now.is_told);
        assert_eq!(now.wall, begin + time::Duration::seconds(10));
        assert_eq!(now.steady, Duration::from_secs(15));
    }

    const TODAY: OffsetDateTime =
        OffsetDateTime::UNIX_EPOCH.saturating_add(time::Duration::days(20_000));

    /// A machine whose own clock is so many days ahead hears answers, each at a second and so many days ahead. Tells how
    /// many days ahead it takes each to be when it has heard it, and whether anybody may act on that.
    fn story(own: i64, answers: &[(u64, i64)]) -> Vec<(i64, bool)> {
        let steady = Arc::new(Mutex::new(0));
        let read = Arc::clone(&steady);
        let at = |days, seconds| TODAY + time::Duration::days(days) + Duration::from_secs(seconds);
        let clock = Clock::of(move || {
            let seconds = *read.lock().unwrap();
            Moment {
                wall: at(own, seconds),
                is_told: false,
                steady: Duration::from_secs(seconds),
            }
        });
        let heard = answers.iter().map(|&(second, days)| {
            *steady.lock().unwrap() = second;
            clock.hear(at(days, second));
            let ahead = clock.now().wall - at(0, second);
            (ahead.whole_days(), clock.settled().is_ok())
        });
        heard.collect()
    }

    const RIGHT: (i64, bool) = (0, true);
    const HELD: (i64, bool) = (0, false);

    #[test]
    fn a_date_that_is_far_off_for_a_moment_changes_nothing() {
        let told = story(
            0,
            &[(0, 0), (30, 730), (31, 730), (32, 0), (90, 730), (91, 0)],
        );
        assert_eq!(told, [RIGHT, HELD, HELD, RIGHT, HELD, RIGHT]);
        // At a start, too.
        let told = story(0, &[(0, 730), (2, 0), (30, 730)]);
        assert_eq!(told, [(730, false), RIGHT, HELD]);
        // Nor are they one date that differ among each other.
        let told = story(0, &[(0, 0), (25, 730), (90, 800), (150, 900)]);
        assert_eq!(told, [RIGHT, HELD, HELD, HELD]);
    }

    #[test]
    fn a_date_counts_once_answers_have_agreed_for_a_minute_and_so_does_the_way_back() {
        let told = story(
            0,
            &[(0, 0), (25, 730), (84, 730), (85, 730), (110, 0), (170, 0)],
        );
        let gone = [(730, true), (730, false)];
        assert_eq!(told, [&[RIGHT, HELD, HELD][..], &gone, &[RIGHT]].concat());
    }

    #[test]
    fn at_a_start_a_date_counts_that_this_machines_clock_agrees_with_or_all_answers_for_a_while() {
        assert_eq!(story(0, &[(0, 0)]), [RIGHT]);
        let told = story(-20_000, &[(0, 0), (9, 0), (10, 0)]);
        assert_eq!(told, [HELD, HELD, RIGHT]);
    }

    #[test]
    fn one_control_plane_among_others_that_is_always_wrong_is_not_believed() {
        let answers: Vec<_> = (0..300)
            .map(|second| (second, if second % 3 == 2 { 730 } else { 0 }))
            .collect();
        for (days, _) in story(0, &answers) {
            assert_eq!(days, 0);
        }
        // Nor for ever if it was heard alone.
        let alone = (0..100).map(|second| (second, 730));
        let then = answers.iter().map(|(second, days)| (100 + second, *days));
        let told = story(0, &alone.chain(then).collect::<Vec<_>>());
        assert_eq!(told.get(99), Some(&(730, true)));
        let after = told.get(162..).unwrap();
        assert!(after.iter().all(|(days, _)| *days == 0), "{after:?}");
    }

    /// Of two kube-apiservers one may answer all looks, and the other, whose clock is another, only the calls for the
    /// Lease: who looks shall act on what it saw.
    #[test]
    fn kube_apiservers_that_never_agree_hold_nobody_up() {
        for (own, looks, lease) in [(0, 0, 730), (0, 730, 0), (730, 0, 730), (730, 730, 0)] {
            let answers: Vec<_> = (0..600)
                .flat_map(|second| {
                    let look = (second % 3 == 2).then_some((second, looks));
                    let lease = (second % 5 == 0).then_some((second, lease));
                    lease.into_iter().chain(look)
                })
                .collect();
            let told = story(own, &answers);
            let after = answers.iter().zip(&told).filter(|((at, _), _)| *at > 62);
            for ((at, days), (takes, may_act)) in after {
                assert!(
                    *may_act && *takes == own,
                    "{own}: {days} at {at}, and {takes}"
                );
            }
        }
    }

    #[test]
    fn while_another_date_is_heard_what_counts_is_disputed() {
        let clock = Clock::of(|| Moment {
            wall: TODAY,
            is_told: false,
            steady: Duration::from_secs(1),
        });
        for (days, is_undisputed) in [(0, true), (730, false), (0, true)] {
            clock.hear(TODAY + time::Duration::days(days));
            assert!(clock.settled().is_ok());
            assert_eq!(clock.undisputed().is_ok(), is_undisputed, "{days}");
        }
    }

    /// Whether no other date is under suspicion after these answers, each at a second and so many seconds ahead.
    fn ends_settled(own: i64, answers: impl IntoIterator<Item = (u64, i64)>) -> bool {
        let mut told = Told::default();
        for (second, ahead) in answers {
            let steady = Duration::from_secs(second);
            let at = |ahead| TODAY + time::Duration::seconds(ahead) + steady;
            let own = Moment {
                wall: at(own),
                is_told: false,
                steady,
            };
            told.hear(at(ahead), own);
        }
        told.odd.is_none()
    }

    /// By an hour, which is the most that is not far off: answers are cut to whole seconds.
    #[test]
    fn a_clock_that_was_off_by_the_very_bound_is_forgotten() {
        let then_right = |first: &[(u64, i64)]| {
            let right = (7..100).map(|second| (second, 0));
            first.iter().copied().chain(right).collect::<Vec<_>>()
        };
        for first in [
            [(0, 3_600), (5, -1)],
            [(0, -3_600), (5, 1)],
            [(0, 0), (5, 3_601)],
        ] {
            assert!(ends_settled(0, then_right(&first)), "{first:?}");
        }
    }

    #[test]
    fn what_is_heard_no_more_is_forgotten_though_this_machines_wrong_clock_agrees() {
        let right = (21..82).map(|second| (second, 0));
        let once = [(0, 0), (20, 7_200)].into_iter();
        assert!(ends_settled(7_200, once.chain(right)));
    }

    #[tokio::test]
    async fn who_waits_for_another_time_hears_of_it() {
        let steady = Arc::new(Mutex::new(0));
        let read = Arc::clone(&steady);
        let clock = Clock::of(move || {
            let steady = Duration::from_secs(*read.lock().unwrap());
            Moment {
                wall: TODAY + steady,
                is_told: false,
                steady,
            }
        });
        for (second, days, is_told) in [
            (0, 0, false),
            // What counts was just confirmed: nobody has to wait.
            (5, 2, false),
            (6, 0, false),
            (30, 2, false),
            (31, 0, true),
            (60, 2, false),
            (119, 2, false),
            (120, 2, true),
            (121, 2, false),
        ] {
            *steady.lock().unwrap() = second;
            clock.hear(TODAY + time::Duration::days(days) + Duration::from_secs(second));
            let told = clock.set().now_or_never().is_some();
            assert_eq!(told, is_told, "{second}");
        }
    }
}
