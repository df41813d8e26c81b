//! All that lies outside of the process and is shared: `kubernetes`, the Secret, the caBundle and
//! the Lease of a cluster; or `local`, a directory, on a machine without one. `place` decides
//! which, `claim` is leadership as data.

pub mod claim;
pub mod kubernetes;
pub mod local;
pub mod place;

use std::sync::Arc;

use crate::rotation::state::Observed;

/// What was seen last; `None` before the first look.
pub type Seen = Option<Arc<Observed>>;
