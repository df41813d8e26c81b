//! What the objects of an installation are called, for all commands that deal with a cluster.

use clap::builder::NonEmptyStringValueParser;

use crate::cluster::kubernetes::Names;
use crate::cluster::place::{Place, pod_namespace};

/// Where 1.5.3 was, and where we are if nobody says otherwise.
const NAMESPACE: &str = "imageswap-system";

/// Names of objects.
#[derive(Debug, clap::Args)]
pub(super) struct NameArgs {
    /// The namespace of the Service, the Secret and the Lease [default: this Pod's, else
    /// imageswap-system]
    #[arg(
        help_heading = "Cluster",
        long,
        value_name = "NAME",
        env = "IMAGESWAP_NAMESPACE_NAME"
    )]
    namespace: Option<String>,

    /// The Service that kube-apiserver calls, for the certificate's names
    #[arg(help_heading = "Cluster", long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), default_value = "imageswap", env = "IMAGESWAP_SERVICE")]
    service: String,

    /// The Secret that holds the certificate
    #[arg(help_heading = "Cluster", long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), default_value = "imageswap-tls", env = "IMAGESWAP_TLS_SECRET")]
    tls_secret: String,

    /// The MutatingWebhookConfiguration whose caBundle is kept right
    #[arg(help_heading = "Cluster", long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), default_value = "imageswap-webhook", env = "IMAGESWAP_WEBHOOK_CONFIGURATION")]
    webhook_configuration: String,

    /// The Lease of the replica that leads
    #[arg(help_heading = "Cluster", long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), default_value = "imageswap-leader", env = "IMAGESWAP_LEASE")]
    lease: String,
}

impl NameArgs {
    /// What the objects are called. On a machine without a cluster, what they would be.
    pub(super) fn names(&self, place: Place) -> Names {
        // A variable that is set to nothing is not set.
        let named = self.namespace.clone().filter(|name| !name.is_empty());
        let here = || pod_namespace().filter(|_| place != Place::Machine);
        Names {
            namespace: named.or_else(here).unwrap_or_else(|| NAMESPACE.to_owned()),
            service: self.service.clone(),
            secret: self.tls_secret.clone(),
            configuration: self.webhook_configuration.clone(),
            lease: self.lease.clone(),
        }
    }
}
