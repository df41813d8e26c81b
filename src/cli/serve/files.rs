//! Looks at files for ever, where a slow disk holds nobody up, and tells of what is new.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinError, spawn_blocking};

use super::tasks::{supervise, text_of};
use crate::files::{Follower, Parts};
use crate::telemetry::metrics::Metrics;

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How often files that do not change are judged again: certificates end, and begin.
pub(super) const JUDGE_AGAIN: Duration = Duration::from_secs(30);

/// How often they are looked at before a start is given up: they may be in the middle of a change.
const LOOKS_AT_START: u32 = 3;

/// What the files hold now, or why that can't be told.
pub(super) type News = Result<Parts, String>;

/// Looks for ever, in a task of this name. What does not fit together is told only when it has stayed so for some
/// seconds.
pub(super) fn follow(
    task: &'static str,
    follower: Follower,
    fits: impl Fn(&[Vec<u8>]) -> bool + Clone + Send + Sync + 'static,
    metrics: &Metrics,
) -> mpsc::Receiver<News> {
    let (sender, receiver) = mpsc::channel(1);
    let metrics = metrics.clone();
    tokio::spawn(async move {
        let (paths, mut first) = (follower.paths().to_vec(), Some(follower));
        let look = || {
            // After a panic nobody knows what was told.
            let follower = first.take();
            let follower = follower.unwrap_or_else(|| Follower::new(paths.clone()));
            look(follower, fits.clone(), sender.clone())
        };
        supervise(task, &metrics, look).await
    });
    receiver
}

/// Who is told of news.
pub(super) trait Listener: Send {
    /// Takes all, until there are no more.
    fn follow(&mut self, news: &mut mpsc::Receiver<News>) -> impl Future<Output = ()> + Send;
}

/// Tells the news in a task of this name. A panic loses what it was about, and none that come later.
pub(super) async fn tell(
    task: &str,
    metrics: Metrics,
    listener: impl Listener,
    news: mpsc::Receiver<News>,
) {
    let state = Mutex::new((listener, news));
    let follow = || async {
        let (listener, news) = &mut *state.lock().await;
        listener.follow(news).await;
    };
    supervise(task, &metrics, follow).await;
}

async fn look(
    mut follower: Follower,
    fits: impl Fn(&[Vec<u8>]) -> bool + Clone + Send + Sync + 'static,
    news: mpsc::Sender<News>,
) -> Infallible {
    loop {
        tokio::time::sleep(LOOK).await;
        let (mut looking, fits) = (follower.clone(), fits.clone());
        let looked = spawn_blocking(move || {
            let found = looking.look(Instant::now(), fits);
            (
                looking,
                found.map(|found| found.map_err(|error| error.to_string())),
            )
        });
        let found = match looked.await {
            Ok((looked, found)) => {
                follower = looked;
                found
            }
            // One that fails again and again is told once.
            Err(error) => {
                let why = failed(error);
                follower.begin_anew(why.clone()).then_some(Err(why))
            }
        };
        if let Some(found) = found
            && news.send(found).await.is_err()
        {
            // Nobody wants to know any more: the process ends.
            std::future::pending::<()>().await;
        }
    }
}

/// The same for the same panic.
fn failed(error: JoinError) -> String {
    let panic = error.try_into_panic();
    let why = panic.as_ref().map_or("", |panic| text_of(&**panic));
    format!("reading files failed: {why}")
}

/// What the files hold at the start, judged; looked at again for a moment if that is not right.
pub(super) async fn begin<T, E>(
    follower: &mut Follower,
    judge: impl Fn(&[Vec<u8>]) -> Result<T, E>,
) -> anyhow::Result<(Parts, T)>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut looks = 1;
    loop {
        let mut reading = follower.clone();
        let read = spawn_blocking(move || {
            let read = reading.read();
            (reading, read)
        });
        let (reading, read) = read.await?;
        *follower = reading;
        let judged = match read {
            Ok(parts) => judge(&parts)
                .map(|judged| (parts, judged))
                .map_err(anyhow::Error::from),
            Err(error) => Err(error.into()),
        };
        match judged {
            Err(_) if looks < LOOKS_AT_START => looks += 1,
            judged => return judged,
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::timeout;

    use super::*;

    /// As the swap of a mounted Secret that is taken back.
    #[tokio::test(start_paused = true)]
    async fn what_can_be_read_after_a_panic_is_told_and_a_panic_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("one"), "one").unwrap();
        fs::write(at("two"), "two").unwrap();
        let point_at = |name: &str| {
            symlink(name, at("beside")).unwrap();
            fs::rename(at("beside"), at("link")).unwrap();
        };
        point_at("one");
        let mut follower = Follower::new(vec![at("link")]);
        follower.read().unwrap();
        let panics = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&panics);
        let fits = move |parts: &[Vec<u8>]| {
            if parts.concat() == b"two" {
                counted.fetch_add(1, Ordering::Relaxed);
                panic!("on purpose");
            }
            true
        };
        let mut news = follow("test", follower, fits, &Metrics::new().unwrap());
        let soon = Duration::from_secs(20);
        let mut next = async || timeout(soon, news.recv()).await.ok().flatten();
        assert!(next().await.is_none());
        point_at("two");
        let why = next().await.unwrap().unwrap_err();
        assert_eq!(why, "reading files failed: on purpose");
        assert!(next().await.is_none());
        assert!(panics.load(Ordering::Relaxed) > 5);
        point_at("one");
        assert_eq!(next().await.unwrap().unwrap().concat(), b"one");
        assert!(next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_panics_at_one_piece_of_news_is_told_the_next() {
        struct Heard(Vec<Parts>);
        impl Listener for &mut Heard {
            async fn follow(&mut self, news: &mut mpsc::Receiver<News>) {
                while let Some(found) = news.recv().await {
                    self.0.push(found.unwrap());
                }
            }
        }
        let (sender, news) = mpsc::channel(3);
        let part = |text: &str| vec![text.as_bytes().to_vec()];
        for found in [Ok(part("one")), Err("bad".to_owned()), Ok(part("two"))] {
            sender.send(found).await.unwrap();
        }
        drop(sender);
        let (metrics, mut heard) = (Metrics::new().unwrap(), Heard(Vec::new()));
        tell("test", metrics.clone(), &mut heard, news).await;
        assert_eq!(heard.0, [part("one"), part("two")]);
        assert_eq!(metrics.restarts.with_label_values(&["test"]).get(), 1);
    }
}
