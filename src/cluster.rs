//! All that lies outside of the process and is shared: `kubernetes`, the Secret, the caBundle and
//! the Lease of a cluster; or `local`, a directory, on a machine without one. `place` decides
//! which, `claim` is leadership as data.

pub mod claim;
pub mod kubernetes;
pub mod local;
pub mod place;
