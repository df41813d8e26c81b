//! Where this process is: in a cluster, or on a machine by itself. The decision is pure.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

/// Where a Pod finds what its ServiceAccount gives it.
const MOUNTED: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the user wishes. Its values' texts are those of `--cluster`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wish {
    /// In a cluster if it is one's Pod, unless a directory for the certificate is named
    Auto,
    /// In a cluster
    On,
    /// By itself
    Off,
}

/// What there is to see.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surroundings {
    /// Kubernetes says where its API is (`KUBERNETES_SERVICE_HOST`).
    pub is_pod: bool,
    /// A ServiceAccount's token is mounted.
    pub has_token: bool,
    /// `KUBECONFIG` is set.
    pub kubeconfig_set: bool,
    /// There is a `~/.kube/config`.
    pub has_kubeconfig: bool,
}

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// By itself.
    Machine,
    /// In a cluster, as one of its Pods.
    Pod,
    /// In a cluster, by way of a kubeconfig.
    Kubeconfig,
}

/// Why it can't be where it is wished to be, and what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A Pod that may not speak to the API.
    #[error(
        "this is a Pod of a cluster, but no ServiceAccount token is mounted at {MOUNTED}; set \
         automountServiceAccountToken: true (deploy/ does), or run without the cluster: \
         --cluster off --state-dir DIR"
    )]
    NoToken,
    /// No cluster to be seen.
    #[error(
        "--cluster on, but there is no cluster: this is no Pod, and there is no kubeconfig; set \
         KUBECONFIG, or run without a cluster: --cluster off"
    )]
    NoCluster,
}

impl Surroundings {
    /// Looks around.
    pub fn look() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let home = std::env::var_os("HOME").map(PathBuf::from);
        Self {
            is_pod: set("KUBERNETES_SERVICE_HOST"),
            has_token: Path::new(MOUNTED).join("token").exists(),
            kubeconfig_set: set("KUBECONFIG"),
            has_kubeconfig: home.is_some_and(|home| home.join(".kube/config").exists()),
        }
    }
}

/// Decides. `has_state_dir`: a directory for the certificate was named.
///
/// # Errors
/// There is no cluster where one is wished for, or it can't be spoken to.
pub fn place(wish: Wish, has_state_dir: bool, seen: Surroundings) -> Result<Place, Error> {
    let pod = match seen.has_token {
        true => Ok(Place::Pod),
        false => Err(Error::NoToken),
    };
    match wish {
        Wish::Off => Ok(Place::Machine),
        Wish::Auto if seen.is_pod && !has_state_dir => pod,
        Wish::Auto => Ok(Place::Machine),
        Wish::On if seen.kubeconfig_set => Ok(Place::Kubeconfig),
        Wish::On if seen.is_pod => pod,
        Wish::On if seen.has_kubeconfig => Ok(Place::Kubeconfig),
        Wish::On => Err(Error::NoCluster),
    }
}

/// The namespace of this Pod, if it is one.
pub fn pod_namespace() -> Option<String> {
    let text = std::fs::read_to_string(Path::new(MOUNTED).join("namespace")).ok()?;
    Some(text.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_follows_from_the_wish_and_what_is_there() {
        let [machine, no_token, pod] =
            [(false, false), (true, false), (true, true)].map(|(is_pod, has_token)| Surroundings {
                is_pod,
                has_token,
                ..Surroundings::default()
            });
        let home = Surroundings {
            has_kubeconfig: true,
            ..machine
        };
        let set = Surroundings {
            kubeconfig_set: true,
            ..pod
        };
        for (wish, has_state_dir, seen, expected) in [
            (Wish::Auto, false, machine, Ok(Place::Machine)),
            (Wish::Auto, false, home, Ok(Place::Machine)),
            (Wish::Auto, false, pod, Ok(Place::Pod)),
            (Wish::Auto, false, set, Ok(Place::Pod)),
            (Wish::Auto, true, pod, Ok(Place::Machine)),
            (Wish::Auto, true, no_token, Ok(Place::Machine)),
            (Wish::Auto, false, no_token, Err(Error::NoToken)),
            (Wish::On, true, pod, Ok(Place::Pod)),
            (Wish::On, false, set, Ok(Place::Kubeconfig)),
            (Wish::On, false, home, Ok(Place::Kubeconfig)),
            (Wish::On, false, no_token, Err(Error::NoToken)),
            (Wish::On, false, machine, Err(Error::NoCluster)),
            (Wish::Off, false, pod, Ok(Place::Machine)),
        ] {
            let row = format!("{wish:?} {has_state_dir} {seen:?}");
            assert_eq!(place(wish, has_state_dir, seen), expected, "{row}");
        }
    }
}
