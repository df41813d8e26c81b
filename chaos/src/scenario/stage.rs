//! What a scenario may do: the cluster, and a diary of what it did there.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;

use super::dials::Dials;
use super::diary::{Allowance, Diary, Excuse, Excused, Span};
use crate::clock;
use crate::cluster::{Cluster, Machine, Second};
use crate::command::eventually;
use crate::install::{self, NAMESPACE};
use crate::json::{at, text_at};
use crate::replicas;

/// How often something is done that is done for a minute.
const EVERY: Duration = Duration::from_secs(2);

/// So many connections may be begun to a replica that can't answer, until the cluster sends none there.
const MANY: usize = 10;

/// How soon after a process ended those who wait for its answer know.
const NOTICED: Duration = Duration::from_millis(500);

/// How long a call may be under way to a server that does not answer: `timeoutSeconds` of the webhook is 5.
const UNANSWERED: Duration = Duration::from_secs(6);

/// What becomes of a call to a server that stands still, or whose machine is cut off or gone.
const CUT_OFF: [&str; 8] = [
    "EOF",
    "connection reset",
    // The network of a Pod whose processes were killed is there a while longer.
    "connection refused",
    "broken pipe",
    "deadline exceeded",
    "imeout",
    "no route to host",
    "network is unreachable",
];

/// How much of a scenario is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Full,
    /// As little as still shows something: for the test suite.
    Short,
}

/// Where a scenario plays.
#[derive(Debug)]
pub struct Stage<'c> {
    /// On which ImageSwap is installed.
    pub cluster: &'c Cluster,
    /// In which the load's Pods are made.
    pub namespace: String,
    /// How much is played.
    pub extent: Extent,
    second: Option<Second>,
    diary: Mutex<Diary>,
}

/// Processor time that was taken.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    /// By kube-apiserver, or by both where there are two.
    pub kube_apiserver: Duration,
    /// By all replicas.
    pub imageswap: Duration,
}

impl Cpu {
    fn taken(cluster: &Cluster) -> anyhow::Result<Self> {
        Ok(Self {
            kube_apiserver: cluster.cpu_time("kube-apiserver")?,
            imageswap: cluster.cpu_time("imageswap")?,
        })
    }
}

impl<'c> Stage<'c> {
    pub(super) fn new(
        cluster: &'c Cluster,
        namespace: String,
        extent: Extent,
        second: Option<Second>,
    ) -> Self {
        Self {
            cluster,
            namespace,
            extent,
            second,
            diary: Mutex::default(),
        }
    }

    pub(super) fn diary(&self) -> MutexGuard<'_, Diary> {
        self.diary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one or the other, by how much is played.
    pub fn by_extent<T>(&self, full: T, short: T) -> T {
        match self.extent {
            Extent::Full => full,
            Extent::Short => short,
        }
    }

    // === the diary ===

    /// The fault, with its healing: before it and after it all calls must be well.
    ///
    /// # Errors
    /// Those of the work.
    pub fn fault<T>(&self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let (span, done) = spanned(work);
        self.diary().fault = Some(span);
        done
    }

    /// A time within the fault in which a call that fails so is not ImageSwap's.
    ///
    /// # Errors
    /// Those of the work.
    pub fn excused<T>(
        &self,
        of: Excused,
        why: &str,
        most: Option<Duration>,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.excused_at(None, of, why, most, work)
    }

    /// The same for all calls to the second kube-apiserver, and no others.
    ///
    /// # Errors
    /// Those of the work.
    pub fn second_excused<T>(
        &self,
        why: &str,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.excused_at(Some(1), Excused::All, why, None, work)
    }

    fn excused_at<T>(
        &self,
        server: Option<usize>,
        of: Excused,
        why: &str,
        most: Option<Duration>,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let (span, done) = spanned(work);
        self.diary().excuses.push(Excuse {
            span,
            why: why.to_owned(),
            most,
            of,
            server,
        });
        done
    }

    /// Something was done.
    pub fn event(&self, what: impl Into<String>) {
        self.diary().events.push((clock::now(), what.into()));
    }

    /// Something was found out.
    pub fn note(&self, what: impl Into<String>) {
        self.diary().notes.push(what.into());
    }

    /// Does something every two seconds for a minute, or four times where that is enough. Gives how
    /// often that was.
    ///
    /// # Errors
    /// Those of the work.
    pub fn for_a_minute(
        &self,
        mut work: impl FnMut(usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<usize> {
        let times = self.by_extent(30, 4);
        let began = clock::now();
        for n in 0..times {
            let due = began + EVERY * u32::try_from(n)?;
            std::thread::sleep(due.saturating_sub(clock::now()));
            work(n)?;
        }
        Ok(times)
    }

    /// So many calls may be lost in the fault.
    pub fn may_lose(&self, most: usize, why: impl Into<String>) {
        self.allow(Allowance {
            most,
            at: Vec::new(),
            words: &[],
            is_at_once: false,
        });
        self.note(why);
    }

    /// Ends a process, which may cost a call that is in its hands just then: its connection ends, and nobody is
    /// refused one.
    ///
    /// # Errors
    /// Those of the work.
    pub fn at_the_cost_of_a_call<T>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let (mut span, done) = spanned(work);
        span.to += NOTICED;
        self.allow(Allowance {
            most: 1,
            at: vec![span],
            words: &["EOF", "connection reset", "broken pipe"],
            is_at_once: true,
        });
        done
    }

    fn allow(&self, allowance: Allowance) {
        self.diary().may_lose.push(allowance);
    }

    /// Does something that may cost a call for each connection that kube-apiserver has to these replicas,
    /// or opens to them meanwhile: the cluster sends some there until it has taken them out.
    ///
    /// # Errors
    /// Those of the work, or the kernel does not tell of connections.
    pub fn at_the_cost_of_connections<T>(
        &self,
        pods: &[String],
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let dials = pods.iter().map(|pod| Dials::to(self.cluster, pod));
        let dials = dials.collect::<anyhow::Result<Vec<_>>>()?;
        let (mut span, done) = spanned(work);
        span.to += UNANSWERED;
        let (mut open, mut begun) = (0, 0);
        for dials in dials {
            let (more_open, more_begun) = dials.count()?;
            open += more_open;
            begun += more_begun;
        }
        let pods = pods.join(" and ");
        let why = format!("to {pods} {open} connections were open, and {begun} were begun");
        self.allow(Allowance {
            most: open + begun,
            at: vec![span],
            words: &CUT_OFF,
            is_at_once: false,
        });
        self.note(why);
        let done = done?;
        // One that is begun for each call would make a budget of anything.
        anyhow::ensure!(
            begun <= open.max(MANY),
            "to {pods}, which can't answer, {begun} connections were begun, where {open} were open"
        );
        Ok(done)
    }

    /// Does something, and notes the CPU that was taken meanwhile.
    ///
    /// # Errors
    /// Those of the work, or a process that was measured has ended.
    pub fn with_cpu<T>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, Cpu)> {
        let before = Cpu::taken(self.cluster)?;
        let done = work()?;
        let after = Cpu::taken(self.cluster)?;
        let took = |after: Duration, before| after.checked_sub(before).context("one was restarted");
        let cpu = Cpu {
            kube_apiserver: took(after.kube_apiserver, before.kube_apiserver)?,
            imageswap: took(after.imageswap, before.imageswap)?,
        };
        self.note(format!(
            "CPU meanwhile: kube-apiserver {:.1?}, imageswap {:.1?}",
            cpu.kube_apiserver, cpu.imageswap
        ));
        Ok((done, cpu))
    }

    // === the cluster ===

    /// `kubectl` in ImageSwap's namespace.
    ///
    /// # Errors
    /// It fails.
    pub fn kubectl(&self, words: &[&str]) -> anyhow::Result<String> {
        self.cluster.ask(&[&["-n", NAMESPACE], words].concat())
    }

    /// The second kube-apiserver.
    ///
    /// # Errors
    /// The scenario asks for none.
    pub fn second(&self) -> anyhow::Result<&Second> {
        self.second.as_ref().context("there is one kube-apiserver")
    }

    /// The replica that leads, waited for.
    ///
    /// # Errors
    /// None does within half a minute.
    pub fn leader(&self) -> anyhow::Result<String> {
        eventually("a leader", Duration::from_secs(30), || {
            replicas::lasting_leader(self.cluster)
        })
    }

    /// A replica whose turn it is: the leader in every third, else the one that has been there longest,
    /// of those that are ready.
    ///
    /// # Errors
    /// There is none.
    pub fn next_victim(&self, n: usize) -> anyhow::Result<String> {
        let mut pods = eventually("a replica that is ready", Duration::from_secs(30), || {
            let mut pods = replicas::replicas(self.cluster)?;
            pods.retain(|pod| *at(pod, "/status/containerStatuses/0/ready") == true);
            anyhow::ensure!(!pods.is_empty(), "none is");
            Ok(pods)
        })?;
        pods.sort_by_key(|pod| text_at(pod, "/metadata/creationTimestamp").to_owned());
        let leader = replicas::leader(self.cluster).unwrap_or_default();
        let names: Vec<_> = pods.iter().map(replicas::name).collect();
        let leads = names.iter().find(|name| leader.contains(**name));
        let one = leads.filter(|_| n.is_multiple_of(3)).or(names.first());
        Ok((*one.context("no replica")?).to_owned())
    }

    /// What becomes of an image at the moment.
    ///
    /// # Errors
    /// The Pod is refused.
    pub fn swapped(&self, image: &str) -> anyhow::Result<String> {
        let image = format!("--image={image}");
        let words = [
            "-n",
            &self.namespace,
            "run",
            "probe",
            &image,
            "--dry-run=server",
        ];
        let shown = ["-o", "jsonpath={.spec.containers[0].image}"];
        self.cluster.ask(&[&words[..], &shown].concat())
    }

    /// Waits for another leader than this one, and says how long that took.
    ///
    /// # Errors
    /// There is none in time.
    pub fn another_leads(&self, than: &str, within: Duration) -> anyhow::Result<()> {
        let began = clock::now();
        let now = eventually("another leader", within, || {
            let now = replicas::leader(self.cluster)?;
            anyhow::ensure!(now != than, "it is {now} still");
            Ok(now)
        })?;
        self.event(format!("{now} leads"));
        let took = clock::now().saturating_sub(began).as_secs_f64();
        self.note(format!("another leader after {took:.1} s"));
        Ok(())
    }

    /// A node that the control plane is not on, with the replicas there.
    ///
    /// # Errors
    /// All replicas are beside the control plane.
    pub fn node_with_replicas(&self) -> anyhow::Result<(&'c Machine, Vec<String>)> {
        let pods = replicas::replicas(self.cluster)?;
        let first = self.cluster.nodes().first().map(|node| node.name.as_str());
        let mut placed = Vec::new();
        for pod in &pods {
            placed.push((replicas::node(self.cluster, pod)?, replicas::name(pod)));
        }
        let elsewhere = placed
            .iter()
            .find(|(node, _)| Some(node.name.as_str()) != first);
        let (chosen, _) = *elsewhere.context("all replicas are on node 1")?;
        let there = placed.iter().filter(|(node, _)| node.name == chosen.name);
        Ok((chosen, there.map(|(_, name)| (*name).to_owned()).collect()))
    }

    /// Waits until ImageSwap is rolled out, and no replica of before is left.
    ///
    /// # Errors
    /// It is not in time.
    pub fn rolled_out(&self) -> anyhow::Result<()> {
        install::wait(self.cluster)?;
        install::old_ones_gone(self.cluster)
    }

    /// Rolling restarts, one after the other; after each no replica of before is left.
    ///
    /// # Errors
    /// One is not over in time.
    pub fn restarts(&self, times: usize) -> anyhow::Result<()> {
        for n in 1..=times {
            self.event(format!("rolling restart {n}"));
            install::restart(self.cluster)?;
            install::old_ones_gone(self.cluster)?;
        }
        Ok(())
    }

    /// Replicas with this change to their container (a strategic patch) while something is done.
    ///
    /// # Errors
    /// They do not come up, or those of the work.
    pub fn with_container(
        &self,
        container: &serde_json::Value,
        work: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let before = install::deployment(self.cluster)?;
        let mut container = container.clone();
        if let Some(container) = container.as_object_mut() {
            container.insert("name".to_owned(), "imageswap".into());
        }
        let template = serde_json::json!({"spec": {"containers": [container]}});
        let patch = serde_json::json!({"spec": {"template": template}}).to_string();
        install::patch_deployment(self.cluster, "strategic", &patch)?;
        let done = self.rolled_out().and_then(|()| work());
        install::patch_deployment(self.cluster, "json", &install::undoing(&before))?;
        done.and_then(|()| self.rolled_out())
    }
}

fn spanned<T>(work: impl FnOnce() -> T) -> (Span, T) {
    let from = clock::now();
    let done = work();
    let to = clock::now();
    (Span { from, to }, done)
}
