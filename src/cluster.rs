//! All that lies outside of the process and is shared: today a directory on this machine, for a
//! machine without a cluster. The Kubernetes half will stand beside it with the same duties.

pub mod local;
