//! Notices as Kubernetes Events.
//!
//! They regard the Deployment: what people `describe` when they ask how ImageSwap is, and in our
//! namespace, unlike the Events of a webhook configuration (`default`). `kubectl describe` asks by
//! the object's `uid`, too, so that is read first, by name. Without it the Event is still listed.
//!
//! One Event a text, whoever tells it: its name is the text's digest, so that three replicas that
//! read one map file make one. Told again, its series is counted up. (kube's own recorder
//! takes all of a reason for one, and keeps the first one's text; and each replica has its own.)

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Instant;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tracing::warn;

use super::{Kubernetes, Refused};
use crate::telemetry::notices::{Budget, Inbox, Notice};
use crate::text::{sha256, shortened};

/// Who tells, whatever the replica.
const CONTROLLER: &str = "imageswap";

/// The longest note that Kubernetes takes is 1024 bytes; a character has up to four.
const MAX_NOTE: usize = 256;

/// Of so many texts it is remembered how often they were told.
const REMEMBERED: usize = 256;

impl Kubernetes {
    /// Makes Events of what is handed in, for ever, as many as the budget allows. One that can't
    /// be written is lost: the log has it.
    pub async fn tell(&self, inbox: &Inbox) -> Infallible {
        let began = Instant::now();
        let mut budget = Budget::default();
        let mut counts: BTreeMap<String, i32> = BTreeMap::new();
        // The last failure, so that each is said once.
        let mut said = None;
        loop {
            let notice = inbox.next().await;
            if counts.len() >= REMEMBERED {
                counts.clear();
            }
            let count = counts.entry(self.event_name(&notice)).or_default();
            *count = count.saturating_add(1);
            if !budget.may(notice.reason, began.elapsed()) {
                continue;
            }
            let written = self.write_event(&notice, *count).await;
            let failed = written.err().map(|refused| (refused.code, refused.text));
            if let Some((code, why)) = &failed
                && said != Some(*code)
            {
                warn!("can't write an Event; serving on, and the log has it all the same: {why}");
            }
            said = failed.map(|(code, _)| code);
        }
    }

    /// Makes it, or counts it up if it was told already.
    async fn write_event(&self, notice: &Notice, count: i32) -> Result<(), Refused> {
        let events: Api<Event> = self.namespaced();
        let now = MicroTime(jiff::Timestamp::now());
        let event = self.event_of(notice, self.deployment_uid().await, now.clone());
        let params = PostParams::default();
        match self.call("event", events.create(&params, &event)).await {
            // Another replica, or this one some time ago.
            Err(Refused { code: 409, .. }) => {
                let series = EventSeries {
                    count: count.max(2),
                    last_observed_time: now,
                };
                let (name, patch) = (self.event_name(notice), json!({"series": series}));
                let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
                let call = events.patch(&name, &params, &patch);
                self.call("event", call).await.map(drop)
            }
            done => done.map(drop),
        }
    }

    /// The Deployment is called as its Service.
    async fn deployment_uid(&self) -> Option<String> {
        let deployments: Api<Deployment> = self.namespaced();
        let call = deployments.get_metadata_opt(&self.names.service);
        let found = self.call("deployment", call).await;
        found.ok().flatten().and_then(|found| found.metadata.uid)
    }

    fn event_of(&self, notice: &Notice, uid: Option<String>, now: MicroTime) -> Event {
        let kind = if notice.reason.is_warning() {
            "Warning"
        } else {
            "Normal"
        };
        let text = |text: &str| Some(text.to_owned());
        Event {
            metadata: ObjectMeta {
                name: Some(self.event_name(notice)),
                namespace: text(&self.names.namespace),
                ..Default::default()
            },
            event_time: Some(now),
            reporting_controller: text(CONTROLLER),
            reporting_instance: text(&self.identity),
            // Kubernetes wants one, and shows it to nobody.
            action: text(notice.reason.name()),
            reason: text(notice.reason.name()),
            type_: text(kind),
            note: text(shortened(&notice.note, MAX_NOTE)),
            regarding: Some(ObjectReference {
                api_version: text("apps/v1"),
                kind: text("Deployment"),
                name: text(&self.names.service),
                namespace: text(&self.names.namespace),
                uid,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn event_name(&self, notice: &Notice) -> String {
        let text = format!("{} {}", notice.reason.name(), notice.note);
        let digest = sha256(text.as_bytes());
        format!("{}.{}", self.names.service, shortened(&digest, 16))
    }
}
