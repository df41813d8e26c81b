//! All that lies outside of the process and is shared: `kubernetes`, the Secret, the caBundle and
//! the Lease of a cluster; or `local`, a directory, on a machine without one. `place` decides
//! which, `claim` is leadership as data.

pub mod claim;
pub mod kubernetes;
pub mod local;
pub mod place;

use std::sync::Arc;

use tokio::time::timeout;

use crate::rotation::clock::{Clock, Span};
use crate::rotation::driver::Store;
use crate::rotation::replica::FRESH;
use crate::rotation::state::Observed;
use crate::rotation::write::Failure;

/// What was seen last; `None` before the first look.
pub type Seen = Option<Look>;

/// A look at both objects.
#[derive(Debug, Clone)]
pub struct Look {
    /// What was seen.
    pub observed: Arc<Observed>,
    /// When.
    pub read: Span,
}

impl Look {
    /// Looks now. One that takes longer than anybody would act on it is a failure.
    async fn at(store: &impl Store, clock: &Clock) -> Result<Self, Failure> {
        let (observed, read) = clock.spanned(timeout(FRESH, store.observe())).await;
        let late = |_| Failure::Failed(format!("not read within {FRESH:?}"));
        let observed = Arc::new(observed.map_err(late)??);
        clock.settled()?;
        Ok(Self { observed, read })
    }
}
