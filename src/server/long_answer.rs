//! A review's answer too long to be written at once: handed out in pieces, it holds its share of the budget
//! as long as any of them is there. Whoever asks for much and reads nothing takes no more memory than there
//! is for all.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, to_bytes};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};

use super::activity::Activity;
use super::budget::{SMALL, Share};

/// A piece, in bytes.
const PIECE: usize = 16 << 10;

/// How long an answer is, in bytes, if it is long enough to matter.
pub(super) fn length(answer: &Response) -> Option<usize> {
    let length = answer.body().size_hint().exact()?;
    usize::try_from(length)
        .ok()
        .filter(|length| *length > SMALL)
}

/// Gives a long answer its share of the budget, for [`in_pieces`].
pub(super) fn attach(answer: &mut Response, share: Share) {
    answer.extensions_mut().insert(share);
}

/// Has a long answer written piece by piece, which hold the share that was attached to it.
pub(super) async fn in_pieces(answer: Response, activity: &Arc<Activity>) -> Response {
    let (mut head, body) = answer.into_parts();
    let share = head.extensions.remove::<Share>();
    match to_bytes(body, usize::MAX).await {
        Ok(left) => {
            activity.set_whole_answer(false);
            activity.hold(share.as_ref().map(Share::watch).unwrap_or_default());
            // hyper keeps pieces that it could not write, and each keeps all bytes.
            let pieces = Pieces {
                left: Bytes::from_owner(Held {
                    bytes: left,
                    _share: share,
                }),
                activity: activity.clone(),
            };
            Response::from_parts(head, Body::new(pieces))
        }
        // It is there already, so that it can't fail.
        Err(_) => Response::from_parts(head, Body::empty()),
    }
}

/// The bytes of an answer and their share of the budget.
struct Held {
    bytes: Bytes,
    _share: Option<Share>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

struct Pieces {
    left: Bytes,
    activity: Arc<Activity>,
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
