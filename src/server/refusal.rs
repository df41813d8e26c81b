//! Why a review gets no answer of the handler's. `overload` turns each into a status.

/// Why a review gets no answer of the handler's.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the body came too slowly")]
    Slow,
    #[error("the body is broken: {0}")]
    Broken(String),
    #[error("the peer has gone in the middle of the body: {0}")]
    Gone(String),
    #[error("too many large reviews are under way")]
    NoMemory,
    #[error("the review was not answered in time")]
    Deadline,
}
