//! Where images live in an object, and what leaves one alone: one table for the webhook, `rewrite` and the docs.
//!
//! Source: the Pod and pod template types of Kubernetes 1.37 (`core/v1`, `apps/v1`, `batch/v1`).
//! Image fields of a pod spec are exactly `containers`, `initContainers` and
//! `ephemeralContainers` (`.image`), and `volumes` (`.image.reference`).

/// The annotation that the kubelet puts on the mirror of a static pod, which is left alone: the node runs
/// what its file says.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// The label's value that keeps ImageSwap away.
pub const DISABLED: &str = "disabled";

/// A list in a pod spec whose entries name an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    /// `initContainers[].image`
    InitContainers,
    /// `containers[].image`
    Containers,
    /// `ephemeralContainers[].image`, which `kubectl debug` adds to a running Pod
    EphemeralContainers,
    /// `volumes[].image.reference`, files from an image
    Volumes,
}

impl List {
    /// All of them, in the order in which they are patched and printed.
    pub const ALL: [Self; 4] = [
        Self::InitContainers,
        Self::Containers,
        Self::EphemeralContainers,
        Self::Volumes,
    ];

    /// The list's key in a pod spec.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Containers => "containers",
            Self::InitContainers => "initContainers",
            Self::EphemeralContainers => "ephemeralContainers",
            Self::Volumes => "volumes",
        }
    }

    /// The list with this key, if images live in it.
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|list| list.key() == key)
    }

    /// The way from an entry of the list to its image.
    pub const fn image_path(self) -> &'static [&'static str] {
        match self {
            Self::Volumes => &["image", "reference"],
            _ => &["image"],
        }
    }
}

/// The way from an object's root to its pod, that is, to the map with the pod's `metadata` and
/// `spec`; `None` for a kind that holds no pod.
///
/// A kind counts only in Kubernetes' own API groups: another project's `Job` may mean anything by
/// `spec.template`.
pub fn pod_path(group: &str, kind: &str) -> Option<&'static [&'static str]> {
    if !matches!(group, "" | "apps" | "batch" | "extensions") {
        return None;
    }
    match kind {
        "Pod" => Some(&[]),
        "PodTemplate" => Some(&["template"]),
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job" => Some(&["spec", "template"]),
        "CronJob" => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

/// Whether a controller that owns an object of this kind looks for it by its template: one that differs it takes for
/// another's, and makes the next, without end.
///
/// Source: the Deployment controller's look for its newest ReplicaSet.
pub fn is_compared_by_its_owner(kind: &str) -> bool {
    matches!(kind, "ReplicaSet" | "ReplicationController")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_is_found_by_its_key() {
        for list in List::ALL {
            assert_eq!(List::from_key(list.key()), Some(list));
        }
        assert_eq!(List::from_key("imagePullSecrets"), None);
    }

    #[test]
    fn a_kind_of_another_group_is_none_of_ours() {
        assert!(pod_path("apps", "StatefulSet").is_some());
        assert!(pod_path("apps.kruise.io", "StatefulSet").is_none());
        assert!(pod_path("", "Service").is_none());
    }
}
