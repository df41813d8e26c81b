//! What time it is by kube-apiserver: each of its answers says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use http::header::DATE;
use jiff::fmt::rfc2822;
use time::{Duration, OffsetDateTime};
use tracing::warn;

use crate::rotation::clock::Clock;

/// By how much two clocks may differ without a word.
const TOLERATED: Duration = Duration::MINUTE;

/// Sets the clock by what is read.
#[derive(Clone)]
pub(super) struct Listener {
    clock: Clock,
    has_warned: Arc<AtomicBool>,
}

impl Listener {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            has_warned: Arc::default(),
        }
    }

    /// Takes note of the date of an answer, if it has one.
    pub(super) fn hear(&self, headers: &HeaderMap) {
        let ahead = date(headers).and_then(|date| self.clock.hear(date));
        let Some(ahead) = ahead else { return };
        let is_wrong = ahead.abs() > TOLERATED;
        if is_wrong && !self.has_warned.swap(is_wrong, Ordering::Relaxed) {
            let seconds = ahead.whole_seconds();
            warn!(
                "this machine's clock and kube-apiserver's differ by {seconds} s; certificates are \
                 judged and dated by the latter, for it is who verifies them"
            );
        }
    }
}

/// As RFC 9110, section 5.6.7 has it; of a year that a clock may show, for dates are carried on.
fn date(headers: &HeaderMap) -> Option<OffsetDateTime> {
    let text = headers.get(DATE)?.to_str().ok()?;
    let at = rfc2822::parse(text).ok()?;
    let at = OffsetDateTime::from_unix_timestamp(at.timestamp().as_second()).ok()?;
    (1970..2500).contains(&at.year()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::clock::Moment;

    #[test]
    fn the_date_of_an_answer_sets_the_clock_and_rubbish_does_not() {
        // Later that day.
        let wall = OffsetDateTime::from_unix_timestamp(1_606_420_000).unwrap();
        let clock = Clock::of(move || Moment {
            wall,
            is_told: false,
            steady: std::time::Duration::ZERO,
        });
        let listener = Listener::new(clock.clone());
        for rubbish in [
            "",
            "yesterday",
            "Thu, 99 Nov 2026 18:11:59 GMT",
            "\u{ff}",
            "Wed, 01 Dec 9999 00:00:00 GMT",
        ] {
            let mut headers = HeaderMap::new();
            if let Ok(value) = rubbish.parse() {
                headers.insert(DATE, value);
            }
            listener.hear(&headers);
            assert!(!clock.now().is_told, "{rubbish}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(DATE, "Thu, 26 Nov 2020 18:11:59 GMT".parse().unwrap());
        listener.hear(&headers);
        let now = clock.now();
        assert!(now.is_told);
        assert_eq!(now.wall.unix_timestamp(), 1_606_414_319);
        assert!(listener.has_warned.load(Ordering::Relaxed));
    }
}
