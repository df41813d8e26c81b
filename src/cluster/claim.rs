//! Leadership as data: a claim that ends by itself.
//!
//! Whoever holds it works only until the claim's end, on this machine's monotonic clock, whatever
//! has become of the task that renews it.

use std::future::Future;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use crate::telemetry::metrics::Metrics;

/// Whether this replica leads, and until when without another word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Claim {
    /// When it ends, if there is one.
    pub until: Option<Instant>,
}

impl Claim {
    /// Whether it holds at this time.
    pub fn is_held(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// Works whenever the claim is held, and drops the work when it is not any more. Returns when
/// nobody renews claims any more, or when the work returns.
pub async fn while_held<W, F>(mut claims: watch::Receiver<Claim>, metrics: &Metrics, mut work: W)
where
    W: FnMut() -> F,
    F: Future<Output = ()>,
{
    loop {
        let held = |claim: &Claim| claim.is_held(Instant::now());
        if claims.wait_for(held).await.is_err() {
            return;
        }
        info!("this replica leads");
        let leading = Leading::new(metrics);
        tokio::select! {
            () = lost(&mut claims) => {}
            () = work() => return,
        }
        drop(leading);
        info!("this replica leads no longer");
    }
}

/// Returns when the claim has ended.
async fn lost(claims: &mut watch::Receiver<Claim>) {
    loop {
        let until = claims.borrow_and_update().until;
        let Some(until) = until.filter(|until| Instant::now() < *until) else {
            return;
        };
        tokio::select! {
            () = sleep_until(until) => {}
            changed = claims.changed() => if changed.is_err() {
                // Nobody renews it: it lasts as long as it was given.
                sleep_until(until).await;
            },
        }
    }
}

/// Shows leadership as long as it lives, however the work ends.
struct Leading<'m>(&'m Metrics);

impl<'m> Leading<'m> {
    fn new(metrics: &'m Metrics) -> Self {
        metrics.leader.set(1);
        Self(metrics)
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.0.leader.set(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    /// Work that counts its seconds.
    async fn work(seconds: &AtomicU32) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            seconds.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_goes_on_while_renewed_and_ends_with_the_claim() {
        let (sender, claims) = watch::channel(Claim::default());
        let (seconds, metrics) = (AtomicU32::new(0), Metrics::new().unwrap());
        let worked = || seconds.swap(0, Ordering::Relaxed);
        let give = |millis| {
            let until = Some(Instant::now() + Duration::from_millis(millis));
            sender.send_replace(Claim { until });
        };
        let story = async {
            let pass = |millis| tokio::time::sleep(Duration::from_millis(millis));
            pass(5_000).await;
            assert_eq!((worked(), metrics.leader.get()), (0, 0));
            give(2_500);
            pass(2_000).await;
            assert_eq!(metrics.leader.get(), 1);
            give(2_600);
            // Nobody renews it: its task may be stuck.
            pass(10_000).await;
            assert_eq!((worked(), metrics.leader.get()), (4, 0));
            give(60_000);
            pass(2_100).await;
            sender.send_replace(Claim::default());
            pass(10_000).await;
            assert_eq!((worked(), metrics.leader.get()), (2, 0));
        };
        tokio::select! {
            () = while_held(claims, &metrics, || work(&seconds)) => panic!("it ended"),
            () = story => {}
        }
    }
}
