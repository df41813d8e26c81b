//! A real Kubernetes on this machine, in network namespaces of its own, and ImageSwap on it.
//!
//! `binaries` builds Kubernetes and containerd; `cluster` runs them; `image` builds ImageSwap's
//! container image; `install` applies `deploy/`; `load` creates Pods at a steady rate and counts;
//! `flood` opens connections that want nothing.
//! `replicas` and `rotation` look at what is installed; `scenario` runs one of `scenarios`: a load, a
//! fault, and a verdict.
//! `bench` measures the whole server beside a webhook that decides nothing.
//! `doctor` knows what all of that needs. The command line is in `main.rs`, the tests that need a
//! cluster in `tests/cluster`.

pub mod bench;
pub mod binaries;
pub mod cargo;
pub mod clock;
pub mod cluster;
pub mod command;
pub mod doctor;
pub mod facts;
pub mod flood;
pub mod guard;
pub mod handshake;
pub mod image;
pub mod install;
pub mod json;
pub mod load;
mod lock;
pub mod progress;
pub mod replicas;
pub mod rotation;
pub mod scenario;
pub mod scenarios;
pub mod sidecar;
pub mod wire;

use std::path::{Path, PathBuf};

/// The repository's root: what is built and installed is what stands there.
pub fn repository() -> &'static Path {
    let chaos = Path::new(env!("CARGO_MANIFEST_DIR"));
    chaos.parent().unwrap_or(chaos)
}

/// Where what is dear to build is kept, outside of the checkout.
pub fn cache() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || PathBuf::from(variable("HOME").unwrap_or_else(|| "/root".into()));
    let cache = variable("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    cache.join("imageswap-chaos")
}
