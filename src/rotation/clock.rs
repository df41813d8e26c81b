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

/// How wrong this machine's clock may be.
const DOUBT: time::Duration = time::Duration::DAY;

/// How wrong kube-apiserver's may be.
const DOUBT_IF_TOLD: time::Duration = time::Duration::HOUR;

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
    /// never believed if it is wrong for ever. But for what this machine's own clock agrees with, too: else the wrong one
    /// would be believed for ever if it had been heard alone for some time.
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
            let is_own = |(odd, _): &(Date, Duration)| {
                (odd.now(own.steady) - own.wall).abs() <= DOUBT_IF_TOLD
            };
            self.odd = self.odd.filter(is_own);
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

    /// The moment that it is. What was heard first counts for want of a better.
    pub fn now(&self) -> Moment {
        let moment = (self.tell)();
        let told = *self.told();
        match told.date.or(told.odd.map(|(odd, _)| odd)) {
            Some(date) => Moment {
                wall: date.now(moment.steady),
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
        let was_odd = told.odd.is_some();
        let counts = told.hear(wall, moment);
        if counts && was_odd {
            self.set.notify_one();
        }
        counts.then(|| moment.wall - wall)
    }

    /// That it is known what time it is, so that somebody may act by it.
    ///
    /// # Errors
    /// The last answer of kube-apiserver was far off.
    pub fn settled(&self) -> Result<(), Failure> {
        let now = (self.tell)();
        let Told { date, odd } = *self.told();
        let Some((odd, _)) = odd else {
            return Ok(());
        };
        let (known, whose) = match date {
            Some(date) => (date.now(now.steady), "its answers before"),
            None => (now.wall, "this machine's clock"),
        };
        let seconds = (odd.now(now.steady) - known).whole_seconds();
        Err(Failure::Failed(format!(
            "kube-apiserver's clock is {seconds} s ahead of {whose}; nothing is done until its answers agree, or have \
             said so for a while: are all clocks right?"
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
        let told = story(0, &[(0, 0), (5, 730), (6, 730), (7, 0), (66, 730), (67, 0)]);
        assert_eq!(told, [RIGHT, HELD, HELD, RIGHT, HELD, RIGHT]);
        // At a start, too.
        let told = story(0, &[(0, 730), (2, 0), (3, 730)]);
        assert_eq!(told, [(730, false), RIGHT, HELD]);
        // Nor are they one date that differ among each other.
        let told = story(0, &[(0, 0), (5, 730), (70, 800), (130, 900)]);
        assert_eq!(told, [RIGHT, HELD, HELD, HELD]);
    }

    #[test]
    fn a_date_counts_once_answers_have_agreed_for_a_minute_and_so_does_the_way_back() {
        let told = story(
            0,
            &[(0, 0), (5, 730), (64, 730), (65, 730), (70, 0), (130, 0)],
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

    #[tokio::test]
    async fn who_waits_for_another_time_hears_of_it() {
        let clock = Clock::system();
        let now = OffsetDateTime::now_utc();
        clock.hear(now);
        assert!(clock.set().now_or_never().is_none());
        clock.hear(now + time::Duration::days(2));
        assert!(clock.set().now_or_never().is_none());
        clock.hear(now);
        assert!(clock.set().now_or_never().is_some());
    }
}
