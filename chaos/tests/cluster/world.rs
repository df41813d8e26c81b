//! The cluster that all tests share, what is installed on it, and what a test asks of it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::ensure;
use chaos::cluster::Cluster;
use chaos::command::{eventually, output};
use chaos::guard::{self, Guard};
use chaos::install::{self, NAMESPACE};
use chaos::load::{self, Plan, Report};
use chaos::{binaries, doctor, rotation};
use serde_json::Value;
use time::OffsetDateTime;

/// The program of this crate, which holds namespaces and watches over the cluster.
pub(crate) const CHAOS: &str = env!("CARGO_BIN_EXE_chaos");

/// The test cluster's name; one that a person has started goes on beside it.
const NAME: &str = "test";

/// What most tests want that wait for rotations, leaders and old replicas; to change settings takes a
/// rollout. One node learns within a second that a replica goes, and no drain may lose a call.
pub(crate) const QUICK: [(&str, &str); 3] = [
    rotation::QUICK,
    ("IMAGESWAP_LEASE_TIME", "6s"),
    ("IMAGESWAP_DRAIN_DELAY", "4s"),
];

/// How long a load goes on before what a test does, and after it.
const CALM: Duration = Duration::from_secs(1);

/// An image as a test Pod names it, which no node has …
pub(crate) const UNSWAPPED: &str = install::UNSWAPPED;
/// … and what becomes of it, which every node has.
pub(crate) const SWAPPED: &str = chaos::image::WORKLOAD;

/// What is installed at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Installed {
    Nothing,
    /// `deploy/install.yaml`, with two replicas.
    Base,
    /// `deploy/overlays/production`, with three.
    Production,
    /// `deploy/overlays/cluster-wide`.
    ClusterWide,
}

pub(crate) struct World {
    pub(crate) cluster: Cluster,
    /// ImageSwap's, as it is in the image.
    pub(crate) binary: PathBuf,
    /// Held as long as the cluster is there.
    _lock: File,
    guard: Guard,
    installed: Mutex<Installed>,
    /// When installations were removed, from and to.
    removals: Mutex<Vec<(OffsetDateTime, OffsetDateTime)>>,
    namespaces: AtomicUsize,
}

/// A namespace of one test's, removed at its end.
pub(crate) struct Namespace<'a> {
    pub(crate) name: String,
    world: &'a World,
}

/// The Deployment, other than it was installed.
pub(crate) struct Patched<'a> {
    world: &'a World,
    before: Value,
}

impl World {
    pub(crate) fn make() -> anyhow::Result<Self> {
        doctor::cure()?;
        let lock = guard::turn()?;
        let binaries = binaries::ready()?;
        // Before the cluster, which would only be in its way.
        let binary = chaos::image::binary()?;
        let chaos = Path::new(CHAOS);
        let guard = Guard::start(chaos, NAME, Some(&lock))?;
        let cluster = Cluster::up(NAME, 3, binaries, chaos)?;
        install::load_image(&cluster, &binary)?;
        Ok(Self {
            cluster,
            binary,
            _lock: lock,
            guard,
            installed: Mutex::new(Installed::Nothing),
            removals: Mutex::default(),
            namespaces: AtomicUsize::new(0),
        })
    }

    /// Takes the cluster down, and says what is left if something is.
    pub(crate) fn end(&self) -> Vec<String> {
        self.guard.end();
        chaos::cluster::remains(NAME)
    }

    // === kubectl ===

    /// What `kubectl` prints.
    pub(crate) fn kubectl(&self, words: &[&str]) -> anyhow::Result<String> {
        self.cluster.ask(words)
    }

    /// What `kubectl` says as it refuses.
    pub(crate) fn refused(&self, command: &mut Command) -> anyhow::Result<String> {
        let output = output(command)?;
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        ensure!(!output.status.success(), "not refused: {out}{err}");
        Ok(err)
    }

    /// A series of a replica's metrics, 0 if it has none of that name.
    pub(crate) fn metric(&self, pod: &str, series: &str) -> anyhow::Result<f64> {
        install::metric(&self.cluster, pod, series)
    }

    pub(crate) fn apply(&self, manifest: &Value) -> anyhow::Result<String> {
        install::apply(&self.cluster, &manifest.to_string())
    }

    /// An object, as JSON.
    pub(crate) fn get(&self, words: &[&str]) -> anyhow::Result<Value> {
        self.cluster.get(words)
    }

    // === installing ===

    /// Sees to it that this is what is installed, with [`install::MAPS`].
    pub(crate) fn need(&self, wanted: Installed) -> anyhow::Result<()> {
        let is = self.installed();
        if is == wanted {
            return Ok(());
        }
        if is != Installed::Nothing {
            self.uninstall()?;
        }
        if wanted != Installed::Nothing {
            install::apply_maps(&self.cluster, install::MAPS)?;
            self.kubectl(&["apply", "-k", &overlay(wanted)])?;
            install::wait(&self.cluster)?;
        }
        self.set_installed(wanted);
        Ok(())
    }

    /// The same, with these variables and no others in ConfigMap `imageswap-env`.
    pub(crate) fn need_with(
        &self,
        wanted: Installed,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        self.need(wanted)?;
        if self.set(settings)? {
            self.restart()?;
        }
        Ok(())
    }

    /// Says whether that is a change, which replicas learn when they are started anew.
    pub(crate) fn set(&self, settings: &[(&str, &str)]) -> anyhow::Result<bool> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        install::set(&self.cluster, &settings.iter().map(owned).collect())
    }

    /// All replicas one after the other, as a person would do it; waits until the last one is there.
    pub(crate) fn restart(&self) -> anyhow::Result<()> {
        install::restart(&self.cluster)
    }

    /// Changes the Deployment as a person's kustomize patch would, until what is given is dropped.
    /// Returns when the replicas as they were are gone, who serve on for a while.
    pub(crate) fn patched(&self, patch: &str) -> anyhow::Result<Patched<'_>> {
        let before = install::deployment(&self.cluster)?;
        let patched = Patched {
            world: self,
            before,
        };
        install::patch_deployment(&self.cluster, "strategic", patch)?;
        install::wait(&self.cluster)?;
        install::old_ones_gone(&self.cluster)?;
        Ok(patched)
    }

    pub(crate) fn installed(&self) -> Installed {
        *self.installed.lock().unwrap()
    }

    pub(crate) fn set_installed(&self, installed: Installed) {
        *self.installed.lock().unwrap() = installed;
    }

    /// Removes all that any installation brings.
    pub(crate) fn uninstall(&self) -> anyhow::Result<()> {
        self.removing(|| install::remove(&self.cluster))
    }

    /// Removes an installation in this way.
    pub(crate) fn removing(
        &self,
        remove: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let started = OffsetDateTime::now_utc();
        remove()?;
        self.set_installed(Installed::Nothing);
        self.removals
            .lock()
            .unwrap()
            .push((started, OffsetDateTime::now_utc()));
        Ok(())
    }

    /// Whether an installation was being removed then: its Pods live a little longer than its roles.
    pub(crate) fn was_being_removed(&self, at: OffsetDateTime) -> bool {
        let removals = self.removals.lock().unwrap();
        removals
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&at))
    }

    /// So many replicas; waits until they are there, or none is.
    pub(crate) fn scale(&self, replicas: usize) -> anyhow::Result<()> {
        let count = format!("--replicas={replicas}");
        self.kubectl(&["-n", NAMESPACE, "scale", "deployment/imageswap", &count])?;
        let words = ["-n", NAMESPACE, "wait", "pod", "-l", "app=imageswap"];
        match replicas {
            0 => self
                .kubectl(&[&words[..], &["--for=delete", "--timeout=60s"]].concat())
                .map(drop),
            _ => install::wait(&self.cluster),
        }
    }

    // === namespaces ===

    /// One in which images are swapped.
    pub(crate) fn namespace(&self) -> anyhow::Result<Namespace<'_>> {
        self.namespace_with(&["k8s.twr.io/imageswap=enabled"])
    }

    pub(crate) fn namespace_with(&self, labels: &[&str]) -> anyhow::Result<Namespace<'_>> {
        let n = self.namespaces.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{n}");
        self.kubectl(&["create", "namespace", &name])?;
        let namespace = Namespace { name, world: self };
        for label in labels {
            self.kubectl(&["label", "namespace", &namespace.name, label])?;
        }
        // A Pod can't be made without it.
        eventually("its service account", Duration::from_secs(20), || {
            namespace
                .kubectl(&["get", "serviceaccount", "default"])
                .map(drop)
        })?;
        Ok(namespace)
    }

    // === after a failure ===

    /// Copies all logs to where they outlive the cluster.
    pub(crate) fn keep_logs(&self, test: &str) -> anyhow::Result<PathBuf> {
        let name = format!("{}-{}", std::process::id(), test.replace("::", "-"));
        install::keep_logs(&self.cluster, &name)
    }
}

impl Namespace<'_> {
    /// `kubectl` in this namespace.
    pub(crate) fn kubectl(&self, words: &[&str]) -> anyhow::Result<String> {
        self.world.kubectl(&[&["-n", &self.name], words].concat())
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        self.world
            .cluster
            .kubectl([&["-n", &self.name], words].concat())
    }

    pub(crate) fn get(&self, words: &[&str]) -> anyhow::Result<Value> {
        self.world.get(&[&["-n", &self.name], words].concat())
    }

    /// Applies an object here.
    pub(crate) fn apply(&self, mut manifest: Value) -> anyhow::Result<String> {
        manifest["metadata"]["namespace"] = self.name.clone().into();
        self.world.apply(&manifest)
    }

    /// Waits until a Pod runs, with all its containers ready.
    pub(crate) fn runs(&self, pod: &str) -> anyhow::Result<Value> {
        let name = format!("pod/{pod}");
        self.kubectl(&["wait", "--for=condition=Ready", &name, "--timeout=60s"])?;
        self.get(&[&name])
    }
}

impl Drop for Patched<'_> {
    fn drop(&mut self) {
        let cluster = &self.world.cluster;
        // A test that failed has more to say; another one that needs it says so.
        let _ = install::patch_deployment(cluster, "json", &install::undoing(&self.before))
            .and_then(|()| install::wait(cluster));
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        // A test that failed has more to say than that this failed, too.
        let _ = self
            .world
            .kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

/// The folder of an installation.
pub(crate) fn overlay(installed: Installed) -> String {
    let variant = match installed {
        Installed::Nothing | Installed::Base => install::Variant::Base,
        Installed::Production => install::Variant::Production,
        Installed::ClusterWide => install::Variant::ClusterWide,
    };
    variant.folder()
}

/// A Pod with one container, of an image that must be swapped to run.
pub(crate) fn pod(name: &str) -> Value {
    pod_with(name, UNSWAPPED)
}

pub(crate) fn pod_with(name: &str, image: &str) -> Value {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": image}],
        },
    })
}

/// Does something while Pods are created, and a little before and after it.
pub(crate) fn under_load<T>(
    world: &World,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(Report, T)> {
    under_load_of(world, load::RATE, work)
}

/// Does something while Pods are created at such a rate.
pub(crate) fn under_load_of<T>(
    world: &World,
    rate: u32,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(Report, T)> {
    let namespace = world.namespace()?;
    let plan = Plan {
        rate,
        ..dry_runs(&namespace, Duration::from_secs(600))
    };
    let load = load::start(&world.cluster, &plan)?;
    std::thread::sleep(CALM);
    let done = work();
    std::thread::sleep(CALM);
    let report = load.end()?;
    done.map(|done| (report, done))
}

/// So many Pods a second that must be swapped and are not stored.
pub(crate) fn dry_runs(namespace: &Namespace<'_>, duration: Duration) -> Plan {
    Plan {
        duration,
        ..Plan::new(&namespace.name)
    }
}

/// Every image of a Pod's containers, of all kinds.
pub(crate) fn images(pod: &Value) -> Vec<&str> {
    ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .filter_map(|kind| pod["spec"][kind].as_array())
        .flatten()
        .filter_map(|container| container["image"].as_str())
        .collect()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
