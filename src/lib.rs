//! ImageSwap: a mutating admission webhook for Kubernetes that rewrites the image references of
//! Pods. `docs/architecture.md` shows the rooms and the two flows through them.

pub mod admission;
pub mod image;
pub mod maps;
