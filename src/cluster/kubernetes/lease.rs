//! Leader election by kube-leader-election's Lease lock: a hint about who should work.
//!
//! It is not what safety rests on: the lock writes without a version and compares the clocks of
//! different machines. What it says is believed only so far as this replica can tell by itself:
//! - only an answer that names us counts, and only the second in a row: of two that took over at
//!   once, one is overwritten by then;
//! - a claim lasts from when the call was *sent* until the lease's time, less a margin, on our own
//!   monotonic clock;
//! - every call has a deadline, and nothing is sent again by the client below.
//!
//! The lock makes a missing Lease by a plain create, which a Role can't allow by name, and fails
//! for ever at one with empty fields. So the Lease is made, or completed, before the lock sees it.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{Kubernetes, Refused, Unreachable, client};
use crate::cluster::claim::Claim;
use crate::telemetry::logs::Sparingly;
use crate::text::chain;

/// How often a replica that does not lead asks.
const FOLLOWER: Duration = Duration::from_millis(700);

/// The pause before a second look: at a Lease that was released, and at one that is ours now.
const SOON: Duration = Duration::from_millis(150);

/// The pause after an error.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// The longest a release may take, so that a stop is not held up.
const RELEASE: Duration = Duration::from_secs(2);

/// The longest lease time that a replica can be given.
const LONGEST: Duration = Duration::from_secs(3600);

/// What does not work is logged this often.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// When nobody held a Lease that was just made.
const LONG_AGO: &str = "1970-01-01T00:00:00.000000Z";

/// Proof that the election was stopped, and did not just end.
#[derive(Debug)]
pub struct Stopped(());

/// One candidate.
pub struct Election {
    lock: LeaseLock,
    leases: Api<Lease>,
    cluster: Kubernetes,
    time: Duration,
}

impl fmt::Debug for Election {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Election").finish_non_exhaustive()
    }
}

/// What the candidate remembers from poll to poll.
#[derive(Debug, Default)]
struct Memory {
    /// Polls in a row that said we lead.
    streak: u32,
    /// Whether the Lease named us when it was read last.
    is_named: bool,
    /// Whether the Lease was seen to be one that the lock can read.
    is_whole: bool,
    /// What the Lease said, and since when it has said so.
    record: Option<(Record, Instant)>,
}

/// What a living leader changes.
type Record = (Option<String>, Option<String>);

impl Election {
    /// A candidate for the cluster's Lease, with connections of its own. `time` is how long a lease
    /// lasts without renewal: whole seconds.
    ///
    /// # Errors
    /// No client can be made.
    pub fn new(cluster: &Kubernetes, time: Duration) -> Result<Self, Unreachable> {
        let client = client(&cluster.config, &cluster.clock)?;
        let params = LeaseLockParams {
            lease_name: cluster.names.lease.clone(),
            holder_id: cluster.identity.clone(),
            lease_ttl: time,
        };
        let mut cluster = cluster.clone();
        // Two calls must fit into a lease.
        cluster.deadline = cluster.deadline.min(time / 3);
        Ok(Self {
            lock: LeaseLock::new(client.clone(), &cluster.names.namespace, params),
            leases: Api::namespaced(client, &cluster.names.namespace),
            cluster,
            time,
        })
    }

    /// Stands for election until told to stop; then whoever is next need not wait for the lease's
    /// end. What is done under the claim must have been stopped before.
    pub async fn run(
        &self,
        claim: &watch::Sender<Claim>,
        mut stop: watch::Receiver<bool>,
    ) -> Stopped {
        let sparingly = Sparingly::new(SAY_AGAIN);
        let mut memory = Memory::default();
        loop {
            let polled = {
                let stopped = async { stop.wait_for(|stop| *stop).await.map(|_| ()) };
                let poll = self.poll(&mut memory, claim);
                tokio::pin!(poll);
                tokio::select! {
                    polled = &mut poll => Some(polled),
                    _ = stopped => {
                        // A renewal that is under way must not land after the release.
                        let _ = timeout(RELEASE, poll).await;
                        None
                    }
                }
            };
            let Some(polled) = polled else {
                return self.release(&memory, claim).await;
            };
            let pause = polled.unwrap_or_else(|refused| {
                if sparingly.may() {
                    warn!("leader election: {}", refused.text);
                }
                AFTER_ERROR
            });
            let stopped = stop.wait_for(|stop| *stop);
            if timeout(pause, stopped).await.is_ok() {
                return self.release(&memory, claim).await;
            }
        }
    }

    /// Asks once, and says when to ask again.
    async fn poll(
        &self,
        memory: &mut Memory,
        claim: &watch::Sender<Claim>,
    ) -> Result<Duration, Refused> {
        // After an error it is none in a row any more.
        let streak = std::mem::take(&mut memory.streak);
        if !memory.is_whole {
            self.make_whole().await?;
            memory.is_whole = true;
        }
        let sent = Instant::now();
        let lock = self.cluster.call("lease", async {
            // The lock's own errors are of many kinds: told apart where it matters.
            Ok(self.lock.try_acquire_or_renew().await)
        });
        let result = lock.await?.map_err(|error| {
            // It may be gone, or its fields may be.
            memory.is_whole = false;
            let errors = &self.cluster.metrics.cluster_errors;
            errors.with_label_values(&["lease"]).inc();
            refused(&error)
        })?;
        let lease = match &result {
            LeaseLockResult::Acquired(lease) | LeaseLockResult::NotAcquired(lease) => lease,
        };
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
        memory.is_named = holder == Some(self.cluster.identity.as_str());
        if matches!(result, LeaseLockResult::Acquired(_)) && memory.is_named {
            memory.streak = streak.saturating_add(1);
            if memory.streak < 2 {
                return Ok(SOON);
            }
            let until = Some(sent + self.time - self.time / 5);
            claim.send_replace(Claim { until });
            return Ok(self.time / 5);
        }
        claim.send_replace(Claim::default());
        if self.is_dead(memory, lease) {
            self.expire(lease).await?;
            return Ok(SOON);
        }
        Ok(match holder {
            None | Some("") => SOON,
            Some(_) => FOLLOWER,
        })
    }

    /// Whether the Lease has said the same for two lease times by our own clock: its holder is gone,
    /// and its clock was ahead of ours. The lease time is the longer one of ours and the holder's, which may have been
    /// started with another.
    fn is_dead(&self, memory: &mut Memory, lease: &Lease) -> bool {
        let record = record(lease);
        let now = Instant::now();
        match &memory.record {
            Some((seen, since)) if *seen == record => {
                let spec = lease.spec.as_ref();
                let theirs = spec.and_then(|spec| spec.lease_duration_seconds);
                let theirs = u64::try_from(theirs.unwrap_or_default()).unwrap_or_default();
                // Whatever anybody wrote there, it must not hold for ever.
                let theirs = Duration::from_secs(theirs).min(LONGEST);
                now - *since > self.time.max(theirs) * 2
            }
            _ => {
                memory.record = Some((record, now));
                false
            }
        }
    }

    async fn expire(&self, lease: &Lease) -> Result<(), Refused> {
        info!("the Lease has not changed for two lease times: taking it for expired");
        let spec = json!({"renewTime": LONG_AGO, "leaseDurationSeconds": 1});
        self.patch(lease, &spec).await
    }

    /// Sees to it that the Lease is there, with all fields that the lock reads.
    async fn make_whole(&self) -> Result<(), Refused> {
        let name = &self.cluster.names.lease;
        let found = self
            .cluster
            .call("lease", self.leases.get_opt(name))
            .await?;
        let Some(lease) = found else {
            return self.create().await;
        };
        match gaps(&lease) {
            None => Ok(()),
            Some(spec) => self.patch(&lease, &spec).await,
        }
    }

    /// By server-side apply: a Role can name what is patched. All candidates write the same, so that
    /// none is in another's way; one who already leads is, which is as well.
    async fn create(&self) -> Result<(), Refused> {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.cluster.names.lease},
            "spec": nobody(),
        });
        let params = PatchParams::apply(&self.cluster.identity);
        self.write(&params, &Patch::Apply(lease)).await
    }

    /// Writes these fields into the Lease, if it is still the same.
    async fn patch(&self, lease: &Lease, spec: &Value) -> Result<(), Refused> {
        let version = &lease.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": spec});
        let params = self.cluster.as_manager();
        self.write(&params, &Patch::Merge(patch)).await
    }

    async fn write(&self, params: &PatchParams, patch: &Patch<Value>) -> Result<(), Refused> {
        let name = &self.cluster.names.lease;
        let call = self.leases.patch(name, params, patch);
        match self.cluster.call("lease", call).await {
            // Somebody else was first, and the next poll shows what they did.
            Err(Refused { code: 409, .. }) => Ok(()),
            done => done.map(|_| ()),
        }
    }

    /// Gives the lease up if it is ours, be it claimed already, not yet, or no more since renewals failed.
    async fn release(&self, memory: &Memory, claim: &watch::Sender<Claim>) -> Stopped {
        claim.send_replace(Claim::default());
        if memory.is_named {
            match timeout(RELEASE, self.lock.step_down()).await {
                Ok(Ok(())) => info!("gave the lease up"),
                Ok(Err(error)) => warn!("can't give the lease up: {}", refused(&error).text),
                Err(_) => warn!("can't give the lease up: no answer within {RELEASE:?}"),
            }
        }
        Stopped(())
    }
}

fn refused(error: &kube_leader_election::Error) -> Refused {
    use kube_leader_election::Error::{
        AcquireLease, ApiError, CreateLease, GetLease, Kube, ReleaseLease, RenewLease,
    };
    match error {
        ApiError { response } => Refused::new("lease", &kube::Error::Api(response.clone())),
        AcquireLease(error) | CreateLease(error) | GetLease(error) | Kube(error)
        | ReleaseLease(error) | RenewLease(error) => Refused::new("lease", error),
        other => Refused {
            code: 0,
            text: chain(other),
        },
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.clone());
    let renewed = spec.and_then(|spec| spec.renew_time.as_ref());
    (holder, renewed.map(|time| time.0.to_string()))
}

/// A Lease that nobody holds, and that anybody may take.
fn nobody() -> Value {
    json!({
        "holderIdentity": "",
        "leaseDurationSeconds": 1,
        "acquireTime": LONG_AGO,
        "renewTime": LONG_AGO,
        "leaseTransitions": 0,
    })
}

/// The fields that the lock would stumble over, as nobody's.
fn gaps(lease: &Lease) -> Option<Value> {
    let spec = serde_json::to_value(&lease.spec).unwrap_or_default();
    let Value::Object(whole) = nobody() else {
        return None;
    };
    let is_gap = |name: &String| spec.get(name).is_none_or(Value::is_null);
    let gaps: Map<_, _> = whole.into_iter().filter(|(name, _)| is_gap(name)).collect();
    (!gaps.is_empty()).then_some(Value::Object(gaps))
}
