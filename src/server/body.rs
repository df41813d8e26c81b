//! Reads a review's body whole, within bounds of size, time and memory.
//!
//! The body is read before anything is refused: a Go client whose request is answered unread sees
//! a broken connection in place of up to a third of the answers. Small bodies are just read. Large
//! ones share a budget, and wait for it without being read.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::Request;
use http::header::EXPECT;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::refusal::Refusal;

/// Bodies up to this many bytes need no share of the budget.
const SMALL: usize = 64 << 10;

/// The budget is counted in this many bytes.
const UNIT: usize = 1 << 10;

/// How long a body may take, besides its size.
const PATIENCE: Duration = Duration::from_secs(5);

/// How fast a body must come at least, in bytes a second.
const PACE: usize = 1 << 20;

/// How much of a body that is refused is read and thrown away, in bytes.
const DISCARDED: usize = 64 << 20;

/// What all bodies under way may take.
#[derive(Debug, Clone)]
pub(super) struct BodyReader {
    max: usize,
    budget: Arc<Semaphore>,
    units: usize,
}

/// A body and its share of the budget.
#[derive(Debug)]
pub(super) struct WholeBody {
    pub(super) bytes: Bytes,
    /// Given back when the review is answered.
    #[expect(dead_code, reason = "held, not read")]
    share: Option<OwnedSemaphorePermit>,
}

impl BodyReader {
    pub(super) fn new(max: usize, memory: usize) -> Self {
        let units = (memory / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Self {
            max,
            budget: Arc::new(Semaphore::new(units)),
            units,
        }
    }

    /// Reads a body; waits for its share of the budget until the deadline.
    pub(super) async fn read(
        &self,
        request: Request<Body>,
        deadline: Instant,
    ) -> Result<WholeBody, Refusal> {
        let waits_for_us = request.headers().contains_key(EXPECT);
        let body = request.into_body();
        let declared = body.size_hint().upper();
        let size = declared.map_or(self.max, |size| usize::try_from(size).unwrap_or(usize::MAX));
        if size > self.max {
            // Who asked first has sent nothing yet.
            if !waits_for_us {
                discard(body, size).await;
            }
            return Err(Refusal::TooLarge(self.max));
        }
        let late = Instant::now() + PATIENCE + Duration::from_secs((size / PACE) as u64);
        let share = match timeout_at(deadline, self.share(size)).await {
            Ok(share) => share,
            Err(_) => {
                discard(body, size).await;
                return Err(Refusal::NoMemory);
            }
        };
        match timeout_at(late, collect(body, declared.map(|_| size), self.max)).await {
            Ok(bytes) => Ok(WholeBody {
                bytes: bytes?,
                share,
            }),
            Err(_) => Err(Refusal::Slow),
        }
    }

    async fn share(&self, size: usize) -> Option<OwnedSemaphorePermit> {
        if size <= SMALL {
            return None;
        }
        let units = size.div_ceil(UNIT).min(self.units);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        self.budget.clone().acquire_many_owned(units).await.ok()
    }
}

async fn collect(mut body: Body, size: Option<usize>, max: usize) -> Result<Bytes, Refusal> {
    let mut all = BytesMut::with_capacity(size.unwrap_or(SMALL));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal::Broken(error.to_string()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if all.len() + data.len() > max {
            discard(body, DISCARDED).await;
            return Err(Refusal::TooLarge(max));
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

/// Reads and throws away, so that the peer reads our answer in place of an error of its own.
async fn discard(mut body: Body, size: usize) {
    if size > DISCARDED && size != usize::MAX {
        return;
    }
    let mut left = DISCARDED;
    let until = Instant::now() + PATIENCE;
    while let Ok(Some(Ok(frame))) = timeout_at(until, body.frame()).await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
