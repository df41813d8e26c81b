//! A replica ends while kube-apiserver gets no CPU.
//!
//! A replica that ends closes its connections, and a call that is sent when a close has come, but was not
//! read yet, is lost. On a quiet machine that takes some 50 µs.

use std::thread;
use std::time::Duration;

use anyhow::ensure;

use crate::scenario::{Scenario, Stage};
use crate::{clock, install};

/// From the burst that follows a pause to the deletion: the second pause then lies where the spare
/// connections of that burst, on which nothing was ever asked, are ten seconds old as well.
const AFTER_THE_BURST: Duration = Duration::from_secs(1);

/// How long kube-apiserver stands still. What is asked meanwhile comes to ImageSwap at once after it, also on
/// connections that nobody has used for long.
const PAUSE: Duration = Duration::from_millis(1_500);

/// From a replica's SIGTERM to when it must be left alone: its endpoint is gone, and each answer since has
/// closed its connection, if but one came on each.
const LEFT_ALONE: Duration = Duration::from_secs(4);

/// From its SIGTERM to that pause, and to its close.
const BEFORE_ITS_CLOSE: Duration = Duration::from_millis(7_200);
const CLOSES: Duration = Duration::from_secs(8);

/// How long it takes to ask for its metrics, in the usual case.
const ASKED: Duration = Duration::from_millis(200);

/// So many reviews may come to it after it is left alone: the first on a connection, or on one that was begun when
/// the cluster, which has stood still, too, was late. It would have had some forty of its share, and more
/// if connections are not closed: those that were used last are used first.
const LAST_ONES: u64 = 10;

/// What shows that a replica is asked.
const REVIEWS: &str = r#"imageswap_reviews_total{operation="CREATE",outcome="swapped"}"#;

pub(super) const SCENARIO: Scenario = Scenario::new(
    "pauses",
    "a replica deleted, and kube-apiserver stands still while it closes its connections, six times",
    |stage| {
        stage.fault(|| {
            for n in 0..stage.by_extent(6, 1) {
                // Many connections, to be idle then.
                pause(stage)?;
                thread::sleep(AFTER_THE_BURST);
                let pod = stage.next_victim(n)?;
                stage.event(format!("deleted {pod}"));
                let asked = clock::now();
                stage.kubectl(&["delete", "pod", &pod, "--wait=false"])?;
                let told = clock::now();
                let wait_until = |after: Duration| {
                    thread::sleep((told + after).saturating_sub(clock::now()));
                };
                let reviews = || install::metric::<u64>(stage.cluster, &pod, REVIEWS);
                wait_until(LEFT_ALONE);
                let before = reviews()?;
                wait_until(BEFORE_ITS_CLOSE - ASKED);
                let after = reviews()?;
                ensure!(
                    after <= before + LAST_ONES,
                    "{pod} was about to end, and its reviews still went from {before} to {after}"
                );
                wait_until(BEFORE_ITS_CLOSE);
                pause(stage)?;
                // It may have been told as soon as that was asked for, and kube-apiserver stood still at the latest
                // when it began to do so for this long.
                let at = clock::now().saturating_sub(asked + PAUSE);
                ensure!(
                    at < CLOSES,
                    "this machine is too slow: {pod} had closed when kube-apiserver was to stand still, after {at:.1?}"
                );
                stage.rolled_out()?;
            }
            Ok(())
        })
    },
);

fn pause(stage: &Stage<'_>) -> anyhow::Result<()> {
    stage.event("kube-apiserver stands still");
    stage.cluster.freeze("kube-apiserver", PAUSE)?;
    stage.event("it runs");
    Ok(())
}
