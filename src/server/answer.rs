//! An answer too long to be written at once: handed out in pieces, it holds its share of the budget until
//! the last. Whoever asks for much and reads nothing takes no more memory than there is for all.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, to_bytes};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};

use super::body::{SMALL, Share};
use super::connections::Activity;

/// A piece, in bytes. hyper and TLS hold a few of them.
const PIECE: usize = 16 << 10;

/// How long an answer is, in bytes, if it is long enough to matter.
pub(super) fn long(answer: &Response) -> Option<usize> {
    let length = answer.body().size_hint().exact()?;
    usize::try_from(length)
        .ok()
        .filter(|length| *length > SMALL)
}

/// Has a long answer written piece by piece.
pub(super) async fn in_pieces(answer: Response, activity: &Arc<Activity>) -> Response {
    if long(&answer).is_none() {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    let share = head.extensions.remove::<Share>();
    match to_bytes(body, usize::MAX).await {
        Ok(left) => {
            activity.set_whole_answer(false);
            let pieces = Pieces {
                left,
                activity: activity.clone(),
                _share: share,
            };
            Response::from_parts(head, Body::new(pieces))
        }
        // It is there already, so that it can't fail.
        Err(_) => Response::from_parts(head, Body::empty()),
    }
}

struct Pieces {
    left: Bytes,
    activity: Arc<Activity>,
    _share: Option<Share>,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let length = self.left.len().min(PIECE);
        let piece = self.left.split_to(length);
        if self.left.is_empty() {
            self.activity.set_whole_answer(true);
        }
        Poll::Ready((length > 0).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
