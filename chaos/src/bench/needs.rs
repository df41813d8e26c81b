//! What a run needs, looked at before anything is built or measured: what is missed after half an hour could have
//! been said in the first second.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use rustix::process::{Resource, getrlimit};

use super::cores::Cores;
use super::memory::MANY;
use super::{Options, Part};
use crate::{binaries, cluster, doctor};

/// What a run has.
#[derive(Debug)]
pub(super) struct Needs {
    pub(super) cores: Cores,
    /// Where Kubernetes' programs are, if there shall be a cluster.
    pub(super) kubernetes: Option<Vec<PathBuf>>,
}

/// Installs what is missing for a cluster, and builds Kubernetes.
///
/// # Errors
/// Something is missing still, or the options contradict each other.
pub(super) fn met(options: &Options) -> anyhow::Result<Needs> {
    parts(&options.parts)?;
    files(options)?;
    let cores = Cores::choose()?;
    let connections = connections(options);
    open_files(connections, getrlimit(Resource::Nofile).maximum)?;
    let kubernetes = options.through_kubernetes.then(kubernetes).transpose()?;
    Ok(Needs { cores, kubernetes })
}

fn parts(parts: &[Part]) -> anyhow::Result<()> {
    let has = |part| parts.contains(&part);
    ensure!(
        has(Part::Throughput) || !has(Part::Latency),
        "latency is measured at shares of the capacity, which throughput finds: add throughput to --parts"
    );
    Ok(())
}

/// The programs that are named.
fn files(options: &Options) -> anyhow::Result<()> {
    for (flag, path) in [
        ("--binary", &options.binary),
        ("--null-webhook", &options.null_webhook),
        ("--before", &options.before),
    ] {
        if let Some(path) = path.as_ref().filter(|path| !path.is_file()) {
            bail!("{flag} names no file: {}", path.display());
        }
    }
    Ok(())
}

/// The most that are open at once.
fn connections(options: &Options) -> u64 {
    let usual = u64::from(options.connections);
    match options.parts.contains(&Part::Memory) {
        true => usual.max(MANY as u64),
        false => usual,
    }
}

/// Open files that ImageSwap keeps for other things, as `OTHER_FILES` in its `cli/serve.rs` says. Where this would
/// leave it less, it gives connections a fourth of all.
const OTHERS: u64 = 1_216;

/// What client and server have open besides, where connections are few.
const LEAST: u64 = 256;

/// Whether the hard limit, to which client and servers raise theirs, is enough for so many connections.
fn open_files(connections: u64, limit: Option<u64>) -> anyhow::Result<()> {
    let wanted = (connections + OTHERS).min(connections * 4).max(LEAST);
    let limit = limit.unwrap_or(u64::MAX);
    ensure!(
        limit >= wanted,
        "{connections} connections want {wanted} open files, and the hard limit (`ulimit -Hn`) is {limit}: raise it, \
         by `ulimit -n {wanted}` as root or by the container's settings, or leave memory out of --parts"
    );
    Ok(())
}

fn kubernetes() -> anyhow::Result<Vec<PathBuf>> {
    let ready = || {
        doctor::cure()?;
        cluster::has_room()?;
        binaries::ready()
    };
    ready().context(
        "--through-kubernetes wants a cluster (`cargo run -p chaos -- doctor` says what it lacks); all else is \
         measured without it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_wants_throughput() {
        for (asked, fits) in [
            (&[Part::Latency][..], false),
            (&[Part::Start, Part::Latency], false),
            (&[Part::Latency, Part::Throughput], true),
            (&[Part::Memory], true),
        ] {
            assert_eq!(parts(asked).is_ok(), fits, "{asked:?}");
        }
    }

    #[test]
    fn as_many_open_files_as_client_and_server_want() {
        for (connections, limit, fits) in [
            (1_000, Some(1_024), false),
            (1_000, Some(2_215), false),
            (1_000, Some(2_216), true),
            (1_000, None, true),
            (16, Some(255), false),
            (16, Some(1_024), true),
            (256, Some(1_024), true),
            (257, Some(1_024), false),
        ] {
            let found = open_files(connections, limit);
            assert_eq!(found.is_ok(), fits, "{connections} {limit:?}");
        }
    }
}
