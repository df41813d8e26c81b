//! The Kubernetes API: the only room that names `kube`.
//!
//! Every object is read, watched and written by its name, so that the Role can name it, too; a
//! plain `create` has no name for the Role to look at, so what is missing is made by server-side
//! apply. (EndpointSlices are listed: Kubernetes makes up their names. Events are created: each has
//! another.) Every call has a deadline, and none is on the way of a review.

mod brought;
mod date;
mod endpoints;
mod events;
mod handshake;
pub mod lease;
mod preview;
mod proxy;
mod secret;
mod survey;
mod watch;
mod webhook;

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use http::Response;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ObjectMeta, PatchParams};
use kube::{Api, Client, Config};
use tokio::sync::watch as watch_channel;
use tower::util::MapResponseLayer;

use self::date::Listener;
pub use self::secret::{ROTATE, ROTATED};
pub use self::survey::Reach;
use super::place::Place;
use crate::rotation::clock::Clock;
use crate::rotation::driver::Store;
use crate::rotation::state::{self, Endpoint, Observed};
use crate::rotation::write::{Failure, Write};
use crate::telemetry::metrics::Metrics;
use crate::text::chain;

/// The longest a call may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Kubernetes takes names of field managers of up to 128 bytes. Some have a number behind.
const MAX_IDENTITY: usize = 128 - 16;

/// The label by which namespaces ask for ImageSwap, and by which an object is left alone.
pub const LABEL: &str = "k8s.twr.io/imageswap";

/// The names of the objects that are ours.
#[derive(Debug, Clone)]
pub struct Names {
    /// The namespace of all that has one.
    pub namespace: String,
    /// The Service that kube-apiserver calls.
    pub service: String,
    /// The Secret with the pair.
    pub secret: String,
    /// The MutatingWebhookConfiguration.
    pub configuration: String,
    /// The Lease of the leader.
    pub lease: String,
}

impl Names {
    /// What a new leaf is valid for: the Service, by all of its names.
    pub fn leaf(&self) -> Vec<String> {
        let (service, namespace) = (&self.service, &self.namespace);
        vec![
            service.clone(),
            format!("{service}.{namespace}"),
            self.host(),
            format!("{service}.{namespace}.svc.cluster.local"),
        ]
    }

    /// The Secret with the CA of a pair that somebody brings in the Secret: `imageswap-tls-ca`
    /// beside `imageswap-tls`, as in 1.5.3.
    pub fn ca_secret(&self) -> String {
        format!("{}-ca", self.secret)
    }

    /// The name that kube-apiserver verifies.
    pub fn host(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }
}

/// Who this process is to the cluster: the holder of the Lease and the manager of fields. Unlike
/// any other process, and at most 112 bytes long.
pub fn identity(pod: &str, nonce: u64) -> String {
    // What Kubernetes takes there is printable; a Pod's name is, a machine's may be anything.
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || "-.".contains(*c);
    let room = MAX_IDENTITY - "imageswap--".len() - 16;
    let pod: String = pod.chars().filter(is_plain).take(room).collect();
    format!("imageswap-{pod}-{nonce:016x}")
}

/// The way to the API can't be found.
#[derive(Debug, thiserror::Error)]
#[error("can't find the way to the Kubernetes API: {0}")]
pub struct Unreachable(String);

/// The cluster.
#[derive(Clone)]
pub struct Kubernetes {
    secrets: Api<Secret>,
    configurations: Api<MutatingWebhookConfiguration>,
    slices: Api<EndpointSlice>,
    config: Config,
    clock: Clock,
    names: Names,
    identity: String,
    metrics: Metrics,
    deadline: Duration,
    /// The Pod that this is, if that is known.
    pod: Option<String>,
    /// What is served in place of the Secret, if something is.
    files: Option<watch_channel::Receiver<state::Secret>>,
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The configuration holds a token.
        f.debug_struct("Kubernetes")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// To write fields as this process.
    fn as_manager(&self) -> PatchParams {
        PatchParams {
            field_manager: Some(self.identity.clone()),
            ..PatchParams::default()
        }
    }

    /// Reads how to reach the API. Nothing is called yet. Each answer will set the clock.
    ///
    /// # Errors
    /// What the Pod or the kubeconfig says can't be used.
    pub async fn new(
        place: Place,
        names: Names,
        identity: String,
        metrics: Metrics,
        clock: &Clock,
    ) -> Result<Self, Unreachable> {
        let config = match place {
            Place::Pod => Config::incluster().map_err(|error| Unreachable(error.to_string()))?,
            Place::Machine | Place::Kubeconfig => proxy::config().await.map_err(Unreachable)?,
        };
        Self::with(config, names, identity, metrics, clock)
    }

    fn with(
        mut config: Config,
        names: Names,
        identity: String,
        metrics: Metrics,
        clock: &Clock,
    ) -> Result<Self, Unreachable> {
        // Whoever calls tries again, with fresh data: a write that lands late is a wrong one.
        config.default_retry = false;
        config.connect_timeout = Some(DEADLINE);
        let client = client(&config, clock)?;
        Ok(Self {
            secrets: Api::namespaced(client.clone(), &names.namespace),
            slices: Api::namespaced(client.clone(), &names.namespace),
            configurations: Api::all(client),
            config,
            clock: clock.clone(),
            names,
            identity,
            metrics,
            deadline: DEADLINE,
            pod: None,
            files: None,
        })
    }

    /// The same in this Pod: its endpoints are not among the others.
    #[must_use]
    pub fn with_pod(self, pod: Option<String>) -> Self {
        Self { pod, ..self }
    }

    /// Takes the pair from files: the Secret is neither read nor written.
    pub fn set_files(&mut self, files: watch_channel::Receiver<state::Secret>) {
        self.files = Some(files);
    }

    /// Where kube-apiserver is, and which proxy is on the way, for people.
    pub fn server(&self) -> String {
        let server = &self.config.cluster_url;
        match &self.config.proxy_url {
            Some(proxy) => format!("{server} (by the proxy {})", proxy::shown(proxy)),
            None => server.to_string(),
        }
    }

    /// What the objects are called.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Objects of one kind in our namespace.
    fn namespaced<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.secrets.clone().into_client(), &self.names.namespace)
    }

    /// Makes a call with the deadline, and counts its failure.
    async fn call<T>(
        &self,
        object: &'static str,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Refused> {
        let done = match tokio::time::timeout(self.deadline, call).await {
            Ok(done) => done.map_err(|error| Refused::new(object, &error)),
            Err(_) => Err(Refused {
                code: 0,
                text: format!("{object}: no answer within {:?}", self.deadline),
            }),
        };
        done.inspect_err(|refused| {
            // To be second is no error.
            if refused.code != 409 {
                let errors = &self.metrics.cluster_errors;
                errors.with_label_values(&[object]).inc();
            }
        })
    }
}

/// Without a version it could be overwritten whatever it is then. Something in front of the API may answer in its
/// place.
fn check(object: &str, metadata: &ObjectMeta, name: &str) -> Result<(), Refused> {
    let version = metadata.resource_version.as_deref().unwrap_or_default();
    if metadata.name.as_deref() == Some(name) && !version.is_empty() {
        return Ok(());
    }
    Err(Refused {
        code: 0,
        text: format!(
            "{object}: the answer is not {name} as the Kubernetes API has it, with its name and version; what else \
             answers on the way to it?"
        ),
    })
}

/// A connection pool of its own.
fn client(config: &Config, clock: &Clock) -> Result<Client, Unreachable> {
    let listener = Listener::new(clock.clone());
    let hear = MapResponseLayer::new(move |answer: Response<_>| {
        // Others may answer in its place, such as a load balancer with no server behind it.
        if answer.status().is_success() {
            listener.hear(answer.headers());
        }
        answer
    });
    let builder = proxy::builder(config.clone());
    let builder = builder.map_err(|error| Unreachable(proxy::refusal(&error)))?;
    Ok(builder.with_layer(&hear).build())
}

impl Store for Kubernetes {
    async fn observe(&self) -> Result<Observed, Failure> {
        let configuration = self.configuration().await?;
        let secret = match &self.files {
            Some(files) => Some(files.borrow().clone()),
            None => self.secret().await?,
        };
        Ok(Observed {
            configuration,
            secret,
        })
    }

    async fn apply(&self, write: &Write) -> Result<(), Failure> {
        match write {
            Write::Create(pem) => self.create_secret(pem).await,
            Write::Change { version, change } => self.change_secret(version, change).await,
            Write::Bundles { version, hooks } => self.write_bundles(version, hooks).await,
        }
    }

    async fn endpoints(&self) -> Result<Vec<Endpoint>, Failure> {
        self.look_at_endpoints(None).await
    }

    async fn others(&self) -> Result<Vec<Endpoint>, Failure> {
        self.look_at_endpoints(self.pod.as_deref()).await
    }
}

/// What kube-apiserver says, with 422, of a JSON patch that does not apply, such as one with a test that fails
/// (`NewGenericServerResponse` in apimachinery, which leaves out why). What a policy denies, or validation, is 422, too, and
/// has another message.
const NOT_APPLIED: &str = "the server rejected our request due to an error in our request";

/// A call that came to nothing.
#[derive(Debug)]
struct Refused {
    /// The HTTP status, 0 if there was no answer; 409, too, for a JSON patch that does not apply.
    code: u16,
    text: String,
}

impl Refused {
    fn new(object: &str, error: &kube::Error) -> Self {
        let (code, text) = match error {
            // A quota, a policy or a namespace that ends say 403, too.
            kube::Error::Api(status)
                if status.code == 403 && status.message.contains("forbidden: User ") =>
            {
                (
                    403,
                    format!(
                        "{object}: the Role does not allow it; apply deploy/ anew: {}",
                        status.message
                    ),
                )
            }
            kube::Error::Api(status)
                if status.code == 422 && status.message.starts_with(NOT_APPLIED) =>
            {
                (
                    409,
                    format!("{object}: the patch does not apply, so it has changed"),
                )
            }
            kube::Error::Api(status) => (status.code, format!("{object}: {}", status.message)),
            other => (0, format!("{object}: {}", chain(other))),
        };
        Self { code, text }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused.code {
            409 => Self::Conflict(refused.text),
            _ => Self::Failed(refused.text),
        }
    }
}
