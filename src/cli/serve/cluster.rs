//! The wiring of the Kubernetes half: six tasks, none of which a review waits for.
//!
//! `watch` sees the cluster's state, `certificate` serves what is right of it, `election` stands for
//! leader, `rotation` works while this replica is one, `rescue` where no leader does and there is nothing to
//! serve, `events` tells operators what happened.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use super::args::Args;
use super::brought::Brought;
use super::certificate::{BroughtPair, OTHERS, Replica, Serving, ask};
use super::tasks;
use crate::cluster::Seen;
use crate::cluster::claim::{Claim, while_held};
use crate::cluster::kubernetes::lease::{Election, Stopped};
use crate::cluster::kubernetes::{Kubernetes, Names};
use crate::cluster::place::Place;
use crate::rotation::belief::Belief;
use crate::rotation::clock::Clock;
use crate::rotation::driver::{self, Driver};
use crate::rotation::replica;
use crate::server::tls::ServingCert;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::notices::{Inbox, Notices};

/// So long who brings a pair waits for it to be believed before it works on that itself.
const LEADERLESS: Duration = Duration::from_secs(2);

/// A cluster that is worked with.
pub(super) struct Cluster {
    serving: watch::Receiver<Option<Serving>>,
    watch: JoinHandle<Infallible>,
    rotation: JoinHandle<()>,
    rescue: JoinHandle<Infallible>,
    events: JoinHandle<Infallible>,
    election: JoinHandle<Stopped>,
    stop: watch::Sender<bool>,
}

impl Cluster {
    /// Starts all tasks.
    pub(super) async fn start(
        args: &Args,
        place: Place,
        brought: Option<Brought>,
        metrics: &Metrics,
        (notices, told): (Notices, Inbox),
    ) -> anyhow::Result<Self> {
        let (names, identity) = (args.names.names(place), args.identity()?);
        let policy = args.policy(names.leaf(), vec![names.host()])?;
        args.warn_of_doubtful(&policy);
        let clock = Clock::system();
        info!(namespace = names.namespace, identity, "joining the cluster");
        let cluster = Kubernetes::new(place, names, identity, metrics.clone(), &clock).await?;
        let mut cluster = cluster.with_pod(args.pod());
        let from = match &brought {
            Some(brought) => brought.name().to_owned(),
            None => source(cluster.names()),
        };
        let patience = 2 * args.lease_time;
        let mut alone = patience;
        let mut brought_pair = None;
        if let Some(brought) = brought {
            // Who leads may have no files, and does not know this CA.
            alone = LEADERLESS;
            let (pair, paths) = (brought.pair.clone(), brought.paths());
            let (files, is_unreadable) = brought.feed(metrics, &notices);
            cluster.set_files(files.clone());
            brought_pair = Some(BroughtPair {
                pair,
                paths,
                files,
                is_unreadable,
            });
        }
        let election = Election::new(&cluster, args.lease_time)?;
        let (seen_sender, seen) = watch::channel(None);
        let (serving_sender, serving) = watch::channel(None);
        let (kept, served) = watch::channel(None);
        let (believed_sender, believed) = watch::channel(Belief::default());
        let (claim_sender, claims) = watch::channel(Claim::default());
        let (stop, stopped) = watch::channel(false);
        let changed = Arc::new(Notify::new());
        let again = Arc::new(Notify::new());
        let replica = Replica {
            store: cluster.clone(),
            again: again.clone(),
            brought: brought_pair,
            required: policy.required.clone(),
            trust_delay: policy.trust_delay,
            writes_bundles: policy.writes_bundles,
            source: from,
            seen: seen.clone(),
            serving: serving_sender,
            kept,
            believed: believed_sender,
            clock: clock.clone(),
            metrics: metrics.clone(),
            notices: notices.clone(),
        };
        driver::begin_counting(metrics);
        let driver = Arc::new(Driver {
            store: cluster.clone(),
            policy,
            served,
            believed,
            clock: clock.clone(),
            metrics: metrics.clone(),
            notices,
        });

        let told = (cluster.clone(), told);
        let events = tasks::start("events", metrics, told, |(cluster, told)| {
            cluster.tell(told).boxed()
        });
        let candidate = Candidate {
            election,
            claim: claim_sender,
            stop: stopped,
            patience,
            store: cluster.clone(),
            clock: clock.clone(),
            serving: serving.clone(),
            seen,
        };
        let looks = (cluster, seen_sender, changed.clone(), again, clock);
        let watch = tasks::start(
            "watch",
            metrics,
            looks,
            |(cluster, seen, leader, again, clock)| {
                cluster.watch(seen, leader, again, clock).boxed()
            },
        );
        tasks::start("certificate", metrics, replica, |replica| {
            replica.follow().boxed()
        });
        let election = tasks::start("election", metrics, candidate, |one| one.stand().boxed());
        let helps = (Arc::clone(&driver), serving.clone(), alone);
        let rescue = tasks::start("rescue", metrics, helps, |(driver, serving, patience)| {
            rescue(driver, serving.clone(), *patience).boxed()
        });
        let leads = (driver, claims, changed, metrics.clone());
        let rotation = tasks::start(
            "rotation",
            metrics,
            leads,
            |(driver, claims, changed, metrics)| {
                while_held(claims.clone(), metrics, || driver.run(changed)).boxed()
            },
        );
        Ok(Self {
            serving,
            watch,
            rotation,
            rescue,
            events,
            election,
            stop,
        })
    }

    /// The certificate, once there is one.
    pub(super) async fn certificate(&self) -> ServingCert {
        let mut serving = self.serving.clone();
        let first = serving.wait_for(Option::is_some).await;
        match first.ok().and_then(|served| served.clone()) {
            Some(served) => served.cert,
            // Its task lives as long as the process.
            None => std::future::pending().await,
        }
    }

    /// Ends all calls: the watches and the leader's work at once, then the lease is given up, within
    /// a few seconds. What is served stays as it is. (While an installation is being deleted, a
    /// call would be denied.)
    pub(super) async fn leave(self) {
        self.watch.abort();
        self.rotation.abort();
        self.rescue.abort();
        self.events.abort();
        let _ = self.rotation.await;
        self.stop.send_replace(true);
        let _ = self.election.await;
    }
}

/// What stands for leader.
struct Candidate {
    election: Election,
    claim: watch::Sender<Claim>,
    stop: watch::Receiver<bool>,
    /// How long it waits for others at most.
    patience: Duration,
    store: Kubernetes,
    clock: Clock,
    serving: watch::Receiver<Option<Serving>>,
    seen: watch::Receiver<Seen>,
}

impl Candidate {
    async fn stand(&self) -> Stopped {
        let mut stop = self.stop.clone();
        tokio::select! {
            _ = timeout(self.patience, self.may_lead()) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        self.election.run(&self.claim, self.stop.clone()).await
    }

    /// Waits while another replica may have in memory what this one, as a leader, could only replace.
    async fn may_lead(&self) {
        let mut seen = self.seen.clone();
        let mut others = None;
        while self.serving.borrow().is_none() {
            let look = seen.borrow_and_update().clone();
            if look.is_some_and(|look| replica::may_lead(&look.observed, others.as_ref())) {
                return;
            }
            if seen.borrow().is_some() {
                others = Some(ask(&self.store, &self.clock, others.as_ref()).await);
            }
            let _ = timeout(OTHERS, seen.changed()).await;
        }
    }
}

/// Does the leader's work without leading, if there is still nothing to serve after this long. The
/// leader may be one that serves files and so does not care for the Secret, or one that does not know
/// those that were brought here, or the Lease may be out of order; and it takes no leader to do the
/// work: two can only conflict.
async fn rescue(
    driver: &Driver<Kubernetes>,
    mut serving: watch::Receiver<Option<Serving>>,
    patience: Duration,
) -> Infallible {
    let served = timeout(patience, serving.wait_for(Option::is_some))
        .await
        .is_ok();
    if !served {
        warn!("there is nothing to serve after {patience:?}; working on it without leading");
        let told = Notify::new();
        tokio::select! {
            () = driver.run(&told) => {}
            _ = serving.wait_for(Option::is_some) => {}
        }
    }
    std::future::pending().await
}

/// Where the pair is, for people.
fn source(names: &Names) -> String {
    format!("the Secret {}/{}", names.namespace, names.secret)
}
