//! ImageSwap: a mutating admission webhook for Kubernetes that rewrites the image references of
//! Pods. `docs/architecture.md` shows the rooms and the two flows through them.

pub mod admission;
pub mod cli;
pub mod cluster;
pub mod files;
pub mod image;
pub mod keeper;
pub mod manifests;
pub mod maps;
pub mod maps_file;
pub mod pki;
pub mod rotation;
pub mod server;
pub mod status;
pub mod telemetry;
mod text;
