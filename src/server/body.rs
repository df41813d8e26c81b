//! Reads a review's body whole, within bounds of size, time and memory.
//!
//! The body is read before anything is refused: a Go client whose request is answered unread sees
//! a broken connection in place of up to a third of the answers. Small bodies are just read. Large
//! ones hold a share of the [`budget`](super::budget), from when they are seen to be large: a peer that
//! only says so takes nothing from the others.

use std::io;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::header::EXPECT;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::time::{Instant, timeout_at};

use super::Arrival;
use super::budget::{Budget, SMALL, Share};
use super::refusal::Refusal;

/// How long a body may take, besides its size.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same for a large body, which holds a share of the budget.
const PATIENCE_IF_LARGE: Duration = Duration::from_secs(2);

/// The same for one whose share another address has waited for as long.
const PATIENCE_IF_WANTED: Duration = Duration::from_millis(200);

/// How long what is left of a slow body is still read, to throw it away.
const PARTING: Duration = Duration::from_secs(1);

/// How fast a body must come at least, in bytes a second.
const PACE: usize = 1 << 20;

/// The same where only who stands still is looked for.
const PACE_IF_WANTED: usize = PACE / 2;

/// How much of a body that is refused is read and thrown away, in bytes.
const DISCARDED: usize = 64 << 20;

/// How many buffers are kept for the next bodies that come in pieces: a heap that shrinks after each such
/// body and grows for the next takes a fifth of the time of a review of 60 KB.
const KEPT: usize = 4;

/// How large a buffer may be and be kept, in bytes.
const LARGEST_KEPT: usize = 128 << 10;

/// Reads bodies, and bounds what all of those under way take.
#[derive(Debug, Clone)]
pub(super) struct BodyReader {
    max: usize,
    budget: Budget,
    spares: Arc<Spares>,
}

/// A body on its way. The rest of its request has been let go: it would keep the memory it came in.
#[derive(Debug)]
pub(super) struct Coming {
    body: Body,
    /// Whose it is.
    pub(super) peer: IpAddr,
    /// When its request arrived.
    pub(super) since: Instant,
    /// Its peer has asked first whether to send it.
    waits_for_us: bool,
}

impl Coming {
    /// That of a request.
    pub(super) fn of(arrival: Arrival) -> Self {
        Self {
            waits_for_us: arrival.request.headers().contains_key(EXPECT),
            body: arrival.request.into_body(),
            peer: arrival.peer,
            since: arrival.at,
        }
    }
}

/// A body and its share of the budget.
#[derive(Debug)]
pub(super) struct WholeBody {
    bytes: Content,
    /// For as long as the body is there, be it awaited still or not.
    share: Option<Share>,
}

impl WholeBody {
    pub(super) fn share(&self) -> Option<Share> {
        self.share.clone()
    }
}

#[derive(Debug)]
enum Content {
    /// Where it was received.
    Piece(Bytes),
    Gathered(Buffer),
}

impl Deref for WholeBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Content::Piece(bytes) => bytes,
            Content::Gathered(buffer) => &buffer.bytes,
        }
    }
}

/// Buffers for the next.
type Spares = Mutex<Vec<BytesMut>>;

/// What a body's pieces are gathered in.
#[derive(Debug, Default)]
struct Buffer {
    bytes: BytesMut,
    /// Where its memory is kept for another, once it is large.
    spares: Option<Arc<Spares>>,
}

impl Buffer {
    /// Goes on in a buffer that was kept, if there is one, with room for so many bytes more. Only a body
    /// that has its share of the budget may: others would hold more than their small one.
    fn enlarge(&mut self, bytes: usize, spares: &Arc<Spares>) {
        if let Some(mut kept) = kept(spares).pop() {
            kept.extend_from_slice(&self.bytes);
            self.bytes = kept;
        }
        self.spares = Some(spares.clone());
        self.bytes.reserve(bytes);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(spares) = &self.spares else {
            return;
        };
        let mut bytes = std::mem::take(&mut self.bytes);
        if (SMALL + 1..=LARGEST_KEPT).contains(&bytes.capacity()) {
            bytes.clear();
            let mut spares = kept(spares);
            if spares.len() < KEPT {
                spares.push(bytes);
            }
        }
    }
}

fn kept(spares: &Spares) -> MutexGuard<'_, Vec<BytesMut>> {
    // Nothing in there can be left half done.
    spares.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BodyReader {
    pub(super) fn new(max: usize, memory: usize) -> Self {
        Self {
            max,
            budget: Budget::new(memory),
            spares: Arc::default(),
        }
    }

    /// Reads a body until the deadline at most; waits for its share of the budget until `shed`, and then
    /// throws the body away.
    pub(super) async fn read(
        &self,
        coming: Coming,
        shed: Instant,
        deadline: Instant,
    ) -> Result<WholeBody, Refusal> {
        let Coming {
            mut body,
            peer,
            since,
            waits_for_us,
        } = coming;
        let declared = body.size_hint().upper();
        let size = declared.map_or(self.max, |size| usize::try_from(size).unwrap_or(usize::MAX));
        if size > self.max {
            // Who asked first has sent nothing yet.
            if !waits_for_us {
                discard_by(&mut body, deadline).await;
            }
            return Err(Refusal::TooLarge(self.max));
        }
        let mut reading = Reading {
            body,
            whole: Buffer::default(),
            share: None,
            started: since,
            haste: Haste::default(),
        };
        loop {
            let frame = match reading.next_frame(deadline).await {
                Ok(None) => break,
                Ok(Some(frame)) => frame.map_err(|error| broken(&error))?,
                Err(slow) => {
                    // It may be in the middle of writing.
                    reading
                        .discard(deadline.min(Instant::now() + PARTING))
                        .await;
                    return Err(slow);
                }
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let had = reading.whole.bytes.len();
            if had + data.len() > self.max {
                reading.discard(deadline).await;
                return Err(Refusal::TooLarge(self.max));
            }
            let is_large_now = had + data.len() > SMALL && reading.share.is_none();
            if is_large_now {
                let Ok(share) = timeout_at(shed, self.budget.share(size, peer)).await else {
                    drop(data);
                    reading.discard(deadline).await;
                    return Err(Refusal::NoMemory);
                };
                reading.share = share;
                // To wait for that was not the peer's time.
                reading.started = Instant::now();
            }
            // Most come in one piece, which is then where it is wanted.
            if had == 0 && reading.body.is_end_stream() {
                return Ok(WholeBody {
                    bytes: Content::Piece(data),
                    share: reading.share,
                });
            }
            if is_large_now {
                reading.whole.enlarge(size - had, &self.spares);
            } else if had == 0 {
                reading.whole.bytes.reserve(size.min(SMALL));
            }
            reading.whole.bytes.extend_from_slice(&data);
        }
        Ok(WholeBody {
            bytes: Content::Gathered(reading.whole),
            share: reading.share,
        })
    }

    /// What holds the shares of the answers, too.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }
}

/// A body of which some has come.
struct Reading {
    body: Body,
    whole: Buffer,
    share: Option<Share>,
    /// From when on it is the peer's time.
    started: Instant,
    haste: Haste,
}

impl Reading {
    /// What comes next, if it comes in time.
    async fn next_frame(
        &mut self,
        deadline: Instant,
    ) -> Result<Option<Result<Frame, axum::Error>>, Refusal> {
        // Most is there already, and needs no clock.
        if let Some(frame) = self.body.frame().now_or_never() {
            return Ok(frame);
        }
        let (started, had) = (self.started, self.whole.bytes.len());
        let due = started + Duration::from_millis((had * 1000 / PACE) as u64);
        match &self.share {
            Some(share) => {
                let late = deadline.min(due + PATIENCE_IF_LARGE);
                let come = (started, had);
                self.haste.next(&mut self.body, come, late, share).await
            }
            None => next(&mut self.body, deadline.min(due + PATIENCE)).await,
        }
    }

    /// Throws away what has come and what comes until then. Others have the memory meanwhile.
    async fn discard(mut self, until: Instant) {
        drop((self.share, self.whole));
        discard_by(&mut self.body, until).await;
    }
}

/// Whether somebody is there still to be told.
fn broken(error: &axum::Error) -> Refusal {
    let mut causes =
        std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |e| {
            e.source()
        });
    let is_end = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let hyper = cause.downcast_ref::<hyper::Error>();
        hyper.is_some_and(hyper::Error::is_incomplete_message)
            || matches!(
                io,
                Some(
                    io::ErrorKind::UnexpectedEof
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::BrokenPipe
                )
            )
    };
    match causes.any(is_end) {
        true => Refusal::Gone(error.to_string()),
        false => Refusal::Broken(error.to_string()),
    }
}

type Frame = hyper::body::Frame<Bytes>;

/// What comes next of a body, if it comes in time.
async fn next(
    body: &mut Body,
    late: Instant,
) -> Result<Option<Result<Frame, axum::Error>>, Refusal> {
    let frame = timeout_at(late, body.frame()).await;
    frame.map_err(|_| Refusal::Slow)
}

/// How long another address has been seen waiting for the share of a body. That is looked at as often whether
/// something of the body comes or not: a byte now and then wins no time.
#[derive(Debug, Default)]
struct Haste {
    wanted_since: Option<Instant>,
    look: Option<Instant>,
}

impl Haste {
    /// What comes next of a body of which so much has come since then, if it comes before `late`, and fast enough if
    /// the share has been wanted for a while.
    async fn next(
        &mut self,
        body: &mut Body,
        (since, had): (Instant, usize),
        late: Instant,
        share: &Share,
    ) -> Result<Option<Result<Frame, axum::Error>>, Refusal> {
        let is_slow = |had: usize, now| {
            let due = Duration::from_millis((had * 1000 / PACE_IF_WANTED) as u64);
            since + due + PATIENCE_IF_WANTED <= now
        };
        loop {
            let look = *self
                .look
                .get_or_insert_with(|| Instant::now() + PATIENCE_IF_WANTED / 2);
            let come = next(body, look.min(late)).await;
            let now = Instant::now();
            let is_wanted = now >= look && self.is_wanted(share, now);
            match &come {
                Err(_) if is_wanted && is_slow(had, now) => return come,
                Err(_) if now < late => {}
                // What has come to its end is not thrown away.
                Ok(Some(Ok(frame))) if is_wanted && !body.is_end_stream() => {
                    let more = frame.data_ref().map_or(0, Bytes::len);
                    return match is_slow(had + more, now) {
                        true => Err(Refusal::Slow),
                        false => come,
                    };
                }
                _ => return come,
            }
        }
    }

    /// Looks, and says when to look again.
    fn is_wanted(&mut self, share: &Share, now: Instant) -> bool {
        self.look = Some(now + PATIENCE_IF_WANTED / 2);
        let since = self.wanted_since.unwrap_or(now);
        self.wanted_since = share.is_wanted().then_some(since);
        self.wanted_since
            .is_some_and(|since| now - since >= PATIENCE_IF_WANTED)
    }
}

/// Reads and throws away, so that the peer reads our answer in place of an error of its own. Bounded
/// in size and time.
pub(super) async fn discard(mut body: Body) {
    discard_by(&mut body, Instant::now() + PATIENCE).await;
}

/// The same, where nobody hears an answer that comes after the deadline.
async fn discard_by(body: &mut Body, deadline: Instant) {
    let mut left = DISCARDED;
    let until = deadline.min(Instant::now() + PATIENCE);
    while let Ok(Some(Ok(frame))) = timeout_at(until, body.frame()).await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        if Instant::now() >= until {
            return;
        }
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http::Request;

    use super::super::activity::HERE;
    use super::*;

    /// In pieces of ten thousand bytes.
    async fn read(reader: &BodyReader, byte: u8, size: usize) -> WholeBody {
        let bytes = vec![byte; size];
        let pieces: Vec<_> = bytes.chunks(10_000).map(Bytes::copy_from_slice).collect();
        let body = Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, Infallible>)));
        let now = Instant::now();
        let until = now + PATIENCE;
        let coming = Coming::of(Arrival {
            request: Request::new(body),
            peer: HERE,
            at: now,
        });
        reader.read(coming, until, until).await.unwrap()
    }

    #[tokio::test]
    async fn a_buffer_is_kept_for_the_next_and_holds_nothing_of_the_last() {
        let reader = BodyReader::new(100_000, 4 << 20);
        let spares = || kept(&reader.spares).len();
        drop(read(&reader, b'a', 60_000).await);
        assert_eq!(spares(), 1);
        // Who has no share of the budget takes none.
        let small = read(&reader, b's', 16_000).await;
        assert_eq!((spares(), &*small), (1, &*vec![b's'; 16_000]));
        drop(small);
        assert_eq!(spares(), 1);
        let second = read(&reader, b'b', 30_000).await;
        assert_eq!((spares(), &*second), (0, &*vec![b'b'; 30_000]));
        let mut all = vec![second];
        for _ in 0..KEPT + 1 {
            all.push(read(&reader, b'c', 30_000).await);
        }
        drop(all);
        assert_eq!(spares(), KEPT);
    }

    #[tokio::test]
    async fn what_is_large_is_not_kept() {
        let reader = BodyReader::new(1 << 20, 1 << 20);
        drop(read(&reader, b'a', 300_000).await);
        assert_eq!(kept(&reader.spares).len(), 0);
    }
}
