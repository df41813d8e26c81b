//! What every replica sees. A watch only says that something changed; what it is now is read
//! fresh, the webhook configuration before the Secret, and each minute in any case: a watch that
//! has died without a word is noticed late.

use std::convert::Infallible;
use std::fmt::Debug;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Resource};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::{Kubernetes, Refused};
use crate::cluster::{Look, Seen};
use crate::rotation::clock::Clock;
use crate::rotation::state;
use crate::telemetry::logs::Sparingly;

/// A look without a reason comes this often.
const LOOK: Duration = Duration::from_secs(60);

/// Changes come in groups.
const GROUPED: Duration = Duration::from_millis(20);

/// Looks because of another time are at least so far apart.
const SET_AGAIN: Duration = Duration::from_secs(1);

/// After the first failure; doubled each time.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The longest pause between two attempts to watch: for so long a change is not seen.
const LONGEST_BLIND: Duration = Duration::from_secs(5);

/// A watch that has lasted this long was a good one.
const STEADY: Duration = Duration::from_secs(10);

/// What does not work is logged this often.
const SAY_AGAIN: Duration = Duration::from_secs(30);

impl Kubernetes {
    /// Keeps `seen` up to date for ever, and tells `leader` of each new look. What is told `changed`
    /// makes it look again at once.
    pub async fn watch(
        &self,
        seen: &watch::Sender<Seen>,
        leader: &Notify,
        changed: &Notify,
        clock: &Clock,
    ) -> Infallible {
        tokio::select! {
            never = self.look(changed, seen, leader, clock) => never,
            never = self.watch_pair(changed) => never,
            never = watch_clock(clock, changed) => never,
            never = watch_one(
                self.configurations_metadata(),
                &self.names.configuration,
                changed,
            ) => never,
        }
    }

    /// Tells of every change of what is served: files, or both Secrets.
    async fn watch_pair(&self, changed: &Notify) -> Infallible {
        if let Some(files) = self.files.clone() {
            return watch_files(files, changed).await;
        }
        let ca_secret = self.names.ca_secret();
        tokio::select! {
            never = watch_one(self.secrets_metadata(), &self.names.secret, changed) => never,
            never = watch_one(self.secrets_metadata(), &ca_secret, changed) => never,
        }
    }

    async fn look(
        &self,
        changed: &Notify,
        seen: &watch::Sender<Seen>,
        leader: &Notify,
        clock: &Clock,
    ) -> Infallible {
        let sparingly = Sparingly::new(SAY_AGAIN);
        let mut pause = Duration::ZERO;
        loop {
            let wait = match Look::at(self, clock).await {
                Ok(look) => {
                    pause = Duration::ZERO;
                    seen.send_replace(Some(look));
                    leader.notify_one();
                    LOOK
                }
                Err(why) => {
                    if sparingly.may() {
                        warn!(
                            "can't see the cluster's state; what is served, if anything is, stays: {why}"
                        );
                    }
                    pause = (pause * 2).clamp(AFTER_FAILURE, LONGEST_PAUSE);
                    pause
                }
            };
            if timeout(wait, changed.notified()).await.is_ok() {
                tokio::time::sleep(GROUPED).await;
            }
        }
    }

    /// Only metadata is watched: no key comes by where none is needed.
    fn secrets_metadata(&self) -> Api<PartialObjectMeta<Secret>> {
        let namespace = &self.names.namespace;
        Api::<PartialObjectMeta<Secret>>::namespaced(self.secrets.clone().into_client(), namespace)
    }

    fn configurations_metadata(&self) -> Api<PartialObjectMeta<MutatingWebhookConfiguration>> {
        Api::all(self.configurations.clone().into_client())
    }
}

/// What was judged by another time is judged anew; and not again and again, should answers never agree.
async fn watch_clock(clock: &Clock, changed: &Notify) -> Infallible {
    loop {
        clock.set().await;
        changed.notify_one();
        tokio::time::sleep(SET_AGAIN).await;
    }
}

async fn watch_files(mut files: watch::Receiver<state::Secret>, changed: &Notify) -> Infallible {
    while files.changed().await.is_ok() {
        changed.notify_one();
    }
    // Nobody follows them any more: the process ends.
    std::future::pending().await
}

/// Tells of every change of one object, and of every start of the watch.
///
/// After a failure the watch is begun anew: kube takes each line of a refusal that kube-apiserver
/// prints over several for a failure of its own, and its backoff would let minutes pass before the
/// last of them. A kube-apiserver that has just been started refuses so for a moment.
async fn watch_one<K>(api: Api<PartialObjectMeta<K>>, name: &str, changed: &Notify) -> Infallible
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + 'static,
{
    let sparingly = Sparingly::new(SAY_AGAIN);
    // By this selector, a Role may name the object.
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut pause = Duration::ZERO;
    loop {
        let began = Instant::now();
        let mut events = watcher(api.clone(), config.clone()).boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Ok(_) => changed.notify_one(),
                Err(error) => {
                    if sparingly.may() {
                        let why = explain(name, &error);
                        warn!("can't watch; looking each minute all the same: {why}");
                    }
                    break;
                }
            }
        }
        if began.elapsed() > STEADY {
            pause = Duration::ZERO;
        }
        pause = (pause * 2).clamp(AFTER_FAILURE, LONGEST_BLIND);
        tokio::time::sleep(pause).await;
    }
}

fn explain(name: &str, error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => {
            Refused::new(name, error).text
        }
        other => format!("{name}: {other}"),
    }
}
