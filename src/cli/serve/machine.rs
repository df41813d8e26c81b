//! The wiring without a cluster: three tasks, none of which a review waits for.
//!
//! `watch` looks at the directory, `certificate` serves what is right of it, `rotation` renews it.
//! Nobody else leads here.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tracing::{info, warn};

use super::args::Args;
use super::certificate::{Replica, Serving, show};
use super::tasks;
use crate::cluster::local::store::LocalStore;
use crate::cluster::local::{Error, Loaded, Origin, StateDir};
use crate::pki;
use crate::rotation::belief::Belief;
use crate::rotation::clock::Clock;
use crate::rotation::driver::{self, Driver};
use crate::server::tls::ServingCert;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::notices::Notices;

/// How long a stop waits for a pair that is being written.
const WRITTEN: Duration = Duration::from_secs(2);

/// What may be writing a pair, and goes on when nobody waits for the start any more.
#[derive(Debug, Default)]
pub(super) struct Writing(Option<JoinHandle<Result<Loaded, Error>>>);

impl Writing {
    /// Lets it come to its end: a key without its leaf is taken for somebody else's later. A disk may hang, though.
    pub(super) async fn finish(self) {
        if let Some(writing) = self.0 {
            let _ = timeout(WRITTEN, writing).await;
        }
    }
}

/// Serves the certificate in the directory, made now if need be, and rotates it from now on.
pub(super) async fn start(
    args: &Args,
    dir: &StateDir,
    metrics: &Metrics,
    writing: &mut Writing,
) -> anyhow::Result<ServingCert> {
    let mut names = args.local_names();
    // Such as a Service's in a namespace of digits.
    names.retain(|name| pki::can_be_asked_for(name));
    let policy = args.policy(names.clone(), names)?;
    args.warn_of_doubtful(&policy);
    let (wanted, life, here) = (policy.names.clone(), policy.life, dir.clone());
    // It may wait for another process, or for a disk that hangs.
    let turn = spawn_blocking({
        let dir = dir.clone();
        move || dir.turn()
    });
    let turn = turn.await??;
    let load = move || here.load_or_mint(&turn, &wanted, life, OffsetDateTime::now_utc());
    let loaded = writing.0.insert(spawn_blocking(load)).await;
    writing.0 = None;
    let loaded = loaded??;
    say(&loaded.origin, dir);
    show(&loaded.pair, metrics);
    let Loaded { pair, pem, .. } = loaded;
    let cert = ServingCert::new(&pair)?;

    let (seen_sender, seen) = watch::channel(None);
    let first = Serving {
        cert: cert.clone(),
        pair,
    };
    let (serving, _) = watch::channel(Some(first));
    let (kept, served) = watch::channel(Some(pem));
    let (believed_sender, believed) = watch::channel(Belief::default());
    let (store, clock) = (
        LocalStore::new(dir.clone(), served.clone()),
        Clock::system(),
    );
    let changed = Arc::new(Notify::new());
    let replica = Replica {
        // The directory is looked at all the time.
        again: Arc::default(),
        brought: None,
        required: policy.required.clone(),
        trust_delay: policy.trust_delay,
        writes_bundles: policy.writes_bundles,
        source: dir.path.display().to_string(),
        store: store.clone(),
        seen,
        serving,
        kept,
        believed: believed_sender,
        clock: clock.clone(),
        metrics: metrics.clone(),
        notices: Notices::default(),
    };
    driver::begin_counting(metrics);
    let driver = Driver {
        store: store.clone(),
        policy,
        served,
        believed,
        clock: clock.clone(),
        metrics: metrics.clone(),
        // Nobody reads Events here; the log says the same.
        notices: Notices::default(),
    };
    let looks = (store, seen_sender, Arc::clone(&changed), clock);
    tasks::start("watch", metrics, looks, |(store, seen, leader, clock)| {
        store.watch(seen, leader, clock).boxed()
    });
    tasks::start("certificate", metrics, replica, |replica| {
        replica.follow().boxed()
    });
    tasks::start(
        "rotation",
        metrics,
        (driver, changed),
        |(driver, changed)| {
            let forever = async move {
                driver.run(changed).await;
                std::future::pending::<Infallible>().await
            };
            forever.boxed()
        },
    );
    Ok(cert)
}

fn say(origin: &Origin, dir: &StateDir) {
    let path = dir.path.display();
    match origin {
        Origin::Found => info!(%path, "serving the certificate that was there"),
        Origin::Doubtful(flaw) => warn!(
            %path,
            "serving the certificate that was there, though by this machine's clock it can't be: {flaw}; if the clock is \
             right, write a new text into the file {}, and another is made",
            dir.path.join("rotate").display()
        ),
        Origin::Minted => info!(%path, "made a certificate"),
        Origin::Replaced(flaw) => warn!(%path, "made a new certificate: {flaw}"),
        Origin::Promoted => info!(%path, "serving the certificate that a rotation had made ready"),
        Origin::Renewed => info!(%path, "made a new certificate: the one that was there ends soon"),
    }
}
