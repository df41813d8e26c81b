//! Tasks that must not end: a panic is seen, counted and logged, and the task begins anew.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tracing::error;

use crate::telemetry::metrics::Metrics;

/// Before a task begins anew.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts a task that is [supervised](supervise), with what it works with.
pub(super) fn start<S, T>(
    task: &'static str,
    metrics: &Metrics,
    with: S,
    work: impl for<'s> Fn(&'s S) -> BoxFuture<'s, T> + Send + Sync + 'static,
) -> JoinHandle<T>
where
    S: Send + Sync + 'static,
    T: Send + 'static,
{
    let metrics = metrics.clone();
    tokio::spawn(async move { supervise(task, &metrics, || work(&with)).await })
}

/// Runs a task until it returns, however often it panics. One that must never return has a type
/// that says so.
pub(super) async fn supervise<T, F: Future<Output = T>>(
    task: &str,
    metrics: &Metrics,
    mut start: impl FnMut() -> F,
) -> T {
    // A counter that is there from the start shows its first increase.
    let restarts = metrics.restarts.with_label_values(&[task]);
    loop {
        // What the task shares with others is only what may change at any time.
        match AssertUnwindSafe(start()).catch_unwind().await {
            Ok(returned) => return returned,
            Err(panic) => {
                let panic = text_of(&*panic);
                error!(task, panic, "a task panicked; starting it again");
                restarts.inc();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What a panic said.
pub(super) fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref().copied());
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_begins_anew_and_is_counted() {
        let metrics = Metrics::new().unwrap();
        let mut starts = 0;
        let returned = supervise("test", &metrics, || {
            starts += 1;
            let now = starts;
            async move {
                assert!(now > 2, "not yet");
                now
            }
        });
        assert_eq!(returned.await, 3);
        assert_eq!(metrics.restarts.with_label_values(&["test"]).get(), 2);
    }
}
