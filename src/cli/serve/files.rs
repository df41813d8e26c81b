//! Looks at files for ever, where a slow disk holds nobody up, and tells of what is new.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::files::{Follower, Parts};

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How often files that do not change are judged again: certificates end, and begin.
pub(super) const JUDGE_AGAIN: Duration = Duration::from_secs(30);

/// How often they are looked at before a start is given up: they may be in the middle of a change.
const LOOKS_AT_START: u32 = 3;

/// What the files hold now, or why that can't be told.
pub(super) type News = Result<Parts, String>;

/// Looks for ever. What does not fit together is told only when it has stayed so for some seconds.
pub(super) async fn follow(
    mut follower: Follower,
    fits: impl Fn(&[Vec<u8>]) -> bool + Clone + Send + 'static,
    news: mpsc::Sender<News>,
) -> Infallible {
    loop {
        tokio::time::sleep(LOOK).await;
        let (mut looking, fits) = (follower.clone(), fits.clone());
        let looked = tokio::task::spawn_blocking(move || {
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
            Err(error) => Some(Err(format!("reading files failed: {error}"))),
        };
        if let Some(found) = found
            && news.send(found).await.is_err()
        {
            // Nobody wants to know any more: the process ends.
            std::future::pending::<()>().await;
        }
    }
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
        let judged = match follower.read() {
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
