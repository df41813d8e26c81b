//! The flags of `imageswap serve`, and what they come to.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use clap::builder::{BoolishValueParser, OsStringValueParser};
use tracing::warn;

use crate::cli::args::{DISABLE_LABEL, RulesArgs, duration, flag, label_key, some_time};
use crate::cli::names::NameArgs;
use crate::cluster::kubernetes::identity;
use crate::cluster::local::StateDir;
use crate::cluster::place::{self, Place, Surroundings, Wish, place};
use crate::rotation::plan::{Policy, SETTLED, oldest, shown};
use crate::server::{LINGER, Limits, Patience};
use crate::status::pre::GRACE;
use crate::telemetry::logs;

/// A shorter trust delay is warned of: most kube-apiservers learn a caBundle at once, but one that was
/// cut off may need so long.
const SHORT_DELAY: Duration = Duration::from_secs(30);

/// Variables of 1.5.3 that have no meaning any more.
const FORGOTTEN: [&str; 6] = [
    "IMAGESWAP_CLUSTER_NAME",
    "IMAGESWAP_CSR_SIGNER_NAME",
    "IMAGESWAP_DISABLE_AUTO_MWC",
    "imageswap_tls_secret_name",
    "FLASK_ENV",
    "PYTHONUNBUFFERED",
];

/// What variables begin with that are for others: the keeper's for its server, the test suite's.
const OTHERS: [&str; 2] = ["IMAGESWAP_KEEPER_", "IMAGESWAP_CHAOS_"];

/// Answer kube-apiserver's AdmissionReviews over TLS
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Where reviews come in, over TLS
    #[arg(help_heading = "Addresses", long, value_name = "ADDRESS", value_parser = address, default_value = "[::]:5000", env = "IMAGESWAP_LISTEN")]
    pub(super) listen: SocketAddr,

    /// Where /metrics, /livez and /readyz are, over plain HTTP
    #[arg(help_heading = "Addresses", long, value_name = "ADDRESS", value_parser = address, default_value = "[::]:9090", env = "IMAGESWAP_ADMIN_LISTEN")]
    pub(super) admin_listen: SocketAddr,

    #[command(flatten)]
    pub(super) rules: RulesArgs,

    /// Refuse a map file with lines in error, in place of skipping them
    #[arg(help_heading = "Rules", long, value_parser = flag, env = "IMAGESWAP_STRICT_MAPS")]
    pub(super) strict_maps: bool,

    /// Where certificate, key and ca.crt are kept [default: $XDG_STATE_HOME/imageswap or
    /// ~/.local/state/imageswap]
    #[arg(
        help_heading = "Certificate",
        long,
        value_name = "DIR", value_parser = OsStringValueParser::new(),
        env = "IMAGESWAP_STATE_DIR"
    )]
    pub(super) state_dir: Option<OsString>,

    /// How long a certificate lives
    #[arg(help_heading = "Certificate", long, value_name = "TIME", value_parser = duration, default_value = "365d", env = "IMAGESWAP_CERT_LIFETIME")]
    pub(super) cert_lifetime: Duration,

    /// How much of its life is left of a certificate that is renewed [default: half of it, and no more than
    /// that]
    #[arg(help_heading = "Certificate", long, value_name = "TIME", value_parser = duration, env = "IMAGESWAP_CERT_RENEW_BEFORE")]
    cert_renew_before: Option<Duration>,

    /// How long a new CA is published before a certificate of it is served: kube-apiservers learn it
    /// each at its own pace
    #[arg(help_heading = "Certificate", long, value_name = "TIME", value_parser = duration, default_value = "60s", env = "IMAGESWAP_TRUST_DELAY")]
    pub(super) trust_delay: Duration,
    /// A certificate of your own, as PEM with its chain: nothing is made then. All these files are
    /// followed, and the last good ones stay in use
    #[arg(
        help_heading = "Certificate",
        long,
        value_name = "FILE",
        value_parser = OsStringValueParser::new(),
        env = "IMAGESWAP_TLS_CERT"
    )]
    tls_cert: Option<OsString>,

    /// The key of --tls-cert
    #[arg(
        help_heading = "Certificate",
        long,
        value_name = "FILE",
        value_parser = OsStringValueParser::new(),
        env = "IMAGESWAP_TLS_KEY"
    )]
    tls_key: Option<OsString>,

    /// The CA of --tls-cert. In a cluster, the caBundle is made to hold it; without it, the
    /// caBundle is left to whoever injects it
    #[arg(
        help_heading = "Certificate",
        long,
        value_name = "FILE",
        value_parser = OsStringValueParser::new(),
        env = "IMAGESWAP_TLS_CA"
    )]
    tls_ca: Option<OsString>,

    /// Let only those connect whose certificate leads to a CA in this file; kube-apiserver must be
    /// told to present one
    #[arg(
        help_heading = "Clients",
        long,
        value_name = "FILE",
        value_parser = OsStringValueParser::new(),
        env = "IMAGESWAP_CLIENT_CA"
    )]
    client_ca: Option<OsString>,

    /// A name, common or alternative, that their certificate must bear; of several, with commas between
    /// them, any
    #[arg(
        help_heading = "Clients",
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "IMAGESWAP_CLIENT_NAME"
    )]
    pub(super) client_name: Vec<String>,

    /// The label whose value "disabled" on an object keeps ImageSwap away
    #[arg(help_heading = "Rules", long, value_name = "LABEL", value_parser = label_key, default_value = DISABLE_LABEL, env = "IMAGESWAP_DISABLE_LABEL")]
    pub(super) disable_label: String,

    /// Whether to share the certificate through a cluster and keep its caBundle right; auto: in a
    /// cluster's Pod, unless --state-dir is given
    #[arg(
        help_heading = "Cluster",
        long,
        value_enum,
        hide_possible_values = true,
        value_name = "auto|on|off",
        default_value = "auto",
        env = "IMAGESWAP_CLUSTER"
    )]
    cluster: Wish,

    /// Whether a small process of its own keeps the listening sockets and starts the server again
    /// when it was killed, so that no connection is refused; auto: in a cluster's Pod
    #[arg(
        help_heading = "Cluster",
        long,
        value_enum,
        hide_possible_values = true,
        value_name = "auto|on|off",
        default_value = "auto",
        env = "IMAGESWAP_KEEPER"
    )]
    keeper: KeeperWish,

    #[command(flatten)]
    pub(super) names: NameArgs,

    /// Whether to write caBundles; false if another tool does, which must add all of the Secret's
    /// ca.crt
    #[arg(help_heading = "Cluster", long, value_name = "true|false", value_parser = BoolishValueParser::new(), hide_possible_values = true, action = clap::ArgAction::Set, default_value = "true", env = "IMAGESWAP_PATCH_CA_BUNDLE")]
    patch_ca_bundle: bool,

    /// How long a leader leads without renewal, in whole seconds from 3s on
    #[arg(help_heading = "Cluster", long, value_name = "TIME", value_parser = lease_time, default_value = "15s", env = "IMAGESWAP_LEASE_TIME")]
    pub(super) lease_time: Duration,

    /// This Pod's name: it stands for it in the Lease and on /healthz, and tells it from the other endpoints
    #[arg(
        help_heading = "Addresses",
        long,
        value_name = "NAME",
        env = "IMAGESWAP_POD_NAME"
    )]
    pub(super) pod_name: Option<String>,

    /// The longest a review may take; kube-apiserver's own ?timeout= may shorten it
    #[arg(help_heading = "Limits", long, value_name = "TIME", value_parser = some_time, default_value = "9s", env = "IMAGESWAP_REQUEST_TIMEOUT")]
    pub(super) request_timeout: Duration,

    /// Reviews decided at once; more are answered 429, which kube-apiserver repeats
    #[arg(help_heading = "Limits", long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), default_value = "256", env = "IMAGESWAP_MAX_IN_FLIGHT")]
    pub(super) max_in_flight: u32,

    /// The largest review, in MiB
    #[arg(help_heading = "Limits", long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=1024), default_value = "16", env = "IMAGESWAP_MAX_BODY_MIB")]
    pub(super) max_body_mib: u32,

    /// What all large reviews and long answers together may take, in MiB, a quarter of it those up to 64 KiB, a quarter those up
    /// to 1 MiB, the rest larger ones; more wait. Answers longer than their reviews take up to half as much again
    #[arg(help_heading = "Limits", long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=65_536), default_value = "24", env = "IMAGESWAP_BODY_MEMORY_MIB")]
    pub(super) body_memory_mib: u32,

    /// Connections open at once; for one more, the least useful is closed
    #[arg(help_heading = "Limits", long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000), default_value = "1024", env = "IMAGESWAP_MAX_CONNECTIONS")]
    pub(super) max_connections: u32,

    /// How old a connection may become, so that new replicas get their share
    #[arg(help_heading = "Limits", long, value_name = "TIME", value_parser = duration, default_value = "10m", env = "IMAGESWAP_MAX_CONNECTION_AGE")]
    pub(super) max_connection_age: Duration,

    /// How long to serve on after SIGTERM, while the cluster learns that this replica goes
    #[arg(help_heading = "Limits", long, value_name = "TIME", value_parser = duration, default_value = "8s", env = "IMAGESWAP_DRAIN_DELAY")]
    pub(super) drain_delay: Duration,

    /// What to log: error, warn, info, debug, trace, or filters such as info,imageswap=debug
    #[arg(
        help_heading = "Logs",
        long,
        value_name = "LEVEL",
        default_value = "info",
        env = "IMAGESWAP_LOG_LEVEL"
    )]
    pub(super) log_level: String,

    /// The form of the log
    #[arg(
        help_heading = "Logs",
        long,
        value_enum,
        value_name = "FORM",
        default_value = "auto",
        env = "IMAGESWAP_LOG_FORMAT"
    )]
    pub(super) log_format: logs::Format,
}

/// Whether a keeper is wished for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KeeperWish {
    /// In a cluster's Pod
    Auto,
    /// Always
    On,
    /// Never
    Off,
}

impl Args {
    /// Whether there is a cluster to work with.
    pub(super) fn place(&self) -> Result<Place, place::Error> {
        self.place_in(Surroundings::look())
    }

    /// The same of what is to be seen elsewhere.
    pub(super) fn place_in(&self, seen: Surroundings) -> Result<Place, place::Error> {
        place(self.cluster, self.named_state_dir().is_some(), seen)
    }

    /// Whether a keeper shall start the server.
    pub(super) fn has_keeper(&self) -> bool {
        match self.keeper {
            KeeperWish::Auto => Surroundings::look().is_pod,
            KeeperWish::On => true,
            KeeperWish::Off => false,
        }
    }

    /// Who this process is, among all replicas and over all restarts.
    pub(super) fn identity(&self) -> anyhow::Result<String> {
        let mut nonce = [0; 8];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut nonce)
            .ok()
            .context("the system gives no random numbers")?;
        let pod = self.pod().unwrap_or_default();
        Ok(identity(&pod, u64::from_ne_bytes(nonce)))
    }

    /// The Pod that this is, as far as it is known.
    pub(super) fn pod(&self) -> Option<String> {
        let pod = self.pod_name.clone().filter(|name| !name.is_empty());
        pod.or_else(|| std::env::var("HOSTNAME").ok())
    }

    /// What a certificate without a cluster is valid for: the Service all the same, and this
    /// machine.
    pub(super) fn local_names(&self) -> Vec<String> {
        let mut names = self.names.names(Place::Machine).leaf();
        names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
        let ip = self.listen.ip().to_string();
        if !self.listen.ip().is_unspecified() && !names.contains(&ip) {
            names.push(ip);
        }
        names
    }

    /// What certificates shall be like. `names` are those of a new one, `required` those without which
    /// none is served.
    pub(super) fn policy(
        &self,
        names: Vec<String>,
        required: Vec<String>,
    ) -> anyhow::Result<Policy> {
        let reckoned = |time: Duration| time::Duration::try_from(time);
        let life = reckoned(self.cert_lifetime).context("--cert-lifetime is too long")?;
        let renew_before = self.cert_renew_before.map(reckoned).transpose();
        let renew_before = renew_before.context("--cert-renew-before is too long")?;
        let renew_before = renew_before.unwrap_or(life / 2);
        ensure!(
            life > time::Duration::ZERO,
            "--cert-lifetime must be longer than nothing"
        );
        ensure!(
            renew_before < life,
            "--cert-renew-before must be shorter than --cert-lifetime: a new certificate would be \
             renewed at once"
        );
        let late = reckoned(self.trust_delay).context("--trust-delay is too long")?;
        ensure!(
            renew_before > late * 2,
            "{} --trust-delay: a certificate would end before the next one may be served",
            match self.cert_renew_before {
                Some(_) => "--cert-renew-before must be longer than twice",
                None => "--cert-lifetime must be longer than four times",
            }
        );
        Ok(Policy {
            names,
            required,
            life,
            renew_before,
            trust_delay: self.trust_delay,
            writes_bundles: self.patch_ca_bundle,
            settled: SETTLED,
            shown: shown(self.drain_delay),
            oldest: oldest(self.trust_delay),
        })
    }

    /// Warns of what may be wished for and is doubtful.
    pub(super) fn warn_of_doubtful(&self, policy: &Policy) {
        let renew_before = policy.renew_before;
        if renew_before > policy.life / 2 {
            warn!(
                cert_renew_before = %renew_before,
                "--cert-renew-before is more than half of --cert-lifetime: half of it is what counts"
            );
        }
        if renew_before < time::Duration::days(30) {
            warn!(
                renewed_before = %renew_before,
                "a certificate is renewed less than 30 days before its end (--cert-renew-before, or half of \
                 --cert-lifetime): ImageSwapCertificateEndsIn30Days fires before it is due, and \
                 `imageswap status` may warn of it, too"
            );
        }
        if self.trust_delay < SHORT_DELAY {
            warn!(
                trust_delay = ?self.trust_delay,
                "--trust-delay is short: a kube-apiserver that learns a caBundle later than that \
                 refuses calls during a rotation"
            );
        }
    }

    /// The longest that to end may take.
    pub(super) fn longest_end(&self) -> Duration {
        let drained = self.drain_delay.saturating_add(self.request_timeout);
        drained.saturating_add(LINGER)
    }

    /// Warns if to end takes longer than Kubernetes waits: what is under way would be cut off.
    pub(super) fn warn_of_long_drain(&self) {
        let longest = self.longest_end();
        if longest > GRACE {
            warn!(
                "to end takes up to {longest:?} (--drain-delay, --request-timeout, and {LINGER:?} to take leave); the \
                 Pod's terminationGracePeriodSeconds must be more; where nobody raised it, it is {}",
                GRACE.as_secs()
            );
        }
    }

    pub(super) fn state_dir(&self) -> anyhow::Result<StateDir> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let path = self
            .named_state_dir()
            .or_else(|| Some(PathBuf::from(variable("XDG_STATE_HOME")?).join("imageswap")))
            .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/state/imageswap")))
            .context(
                "there is no home directory to keep the certificate in; name one with --state-dir",
            )?;
        Ok(StateDir { path })
    }

    fn named_state_dir(&self) -> Option<PathBuf> {
        named(&self.state_dir)
    }

    /// The files of a certificate that is brought: chain, key and CA, so far as they are named.
    pub(super) fn tls_files(&self) -> [Option<PathBuf>; 3] {
        [&self.tls_cert, &self.tls_key, &self.tls_ca].map(named)
    }

    pub(super) fn client_ca(&self) -> Option<PathBuf> {
        named(&self.client_ca)
    }

    pub(super) fn limits(&self) -> Limits {
        let mib = |n: u32| n as usize * (1 << 20);
        Limits {
            max_in_flight: self.max_in_flight as usize,
            max_body: mib(self.max_body_mib),
            body_memory: mib(self.body_memory_mib),
            request_timeout: self.request_timeout,
        }
    }

    pub(super) fn patience(&self) -> Patience {
        Patience {
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(150),
            max_age: self.max_connection_age,
        }
    }
}

/// A variable that is set to nothing is not set.
fn named(path: &Option<OsString>) -> Option<PathBuf> {
    path.clone()
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

/// One warning for all variables of 1.5.3 that mean nothing any more, and one for those that nobody knows:
/// a slip in a name would be a setting that is not there.
pub(super) fn name_forgotten() {
    let set: Vec<_> = FORGOTTEN
        .into_iter()
        .filter(|name| std::env::var_os(name).is_some())
        .collect();
    if !set.is_empty() {
        let names = set.join(", ");
        warn!("set, but without a meaning since ImageSwap 2: {names} (docs/compatibility.md)");
    }
    let command = crate::cli::command();
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let unknown: Vec<_> = names.filter(|name| is_unknown(&command, name)).collect();
    if !unknown.is_empty() {
        let names = unknown.join(", ");
        warn!("set, but unknown: {names}; `imageswap serve --help` names all variables");
    }
}

/// Whether it looks like one of ours and is none.
pub(super) fn is_strange(command: &clap::Command, name: &str) -> bool {
    name.starts_with("IMAGESWAP_") && !FORGOTTEN.contains(&name) && !has_variable(command, name)
}

/// The same of a process's own: Kubernetes makes some for each Service, by its name, and the keeper and the tests have
/// theirs.
fn is_unknown(command: &clap::Command, name: &str) -> bool {
    let is_of_service = || {
        let mut parts = name.split('_').skip(1);
        parts.any(|part| part == "PORT" || part == "SERVICE")
    };
    let is_other = OTHERS.iter().any(|prefix| name.starts_with(prefix));
    is_strange(command, name) && !is_other && !is_of_service()
}

/// Of a command, or one of its own.
fn has_variable(command: &clap::Command, name: &str) -> bool {
    let mut variables = command.get_arguments().filter_map(clap::Arg::get_env);
    variables.any(|variable| variable == name)
        || command.get_subcommands().any(|one| has_variable(one, name))
}

// === values of flags ===

/// `HOST:PORT`, or `:PORT` for all addresses.
fn address(text: &str) -> Result<SocketAddr, String> {
    let full = match text.strip_prefix(':') {
        Some(port) if !text.starts_with("::") => format!("[::]:{port}"),
        _ => text.to_owned(),
    };
    full.parse()
        .map_err(|_| "an address is IP:PORT, [IPv6]:PORT, or :PORT for all".to_owned())
}

/// Leases count whole seconds, and must be long enough to be renewed in time.
fn lease_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    let is_right = time.subsec_nanos() == 0 && (3..=3600).contains(&time.as_secs());
    is_right
        .then_some(time)
        .ok_or_else(|| "a lease lasts whole seconds, from 3s to 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::builder::PossibleValue;

    use super::*;

    #[test]
    fn a_variable_that_looks_like_ours_is_known_or_of_a_service() {
        let command = crate::cli::command();
        for (name, expected) in [
            ("IMAGESWAP_STRICT_MAPS", false),
            ("IMAGESWAP_STRICT_MAP", true),
            ("IMAGESWAP_CLIENT_CAS", true),
            // Another command's.
            ("IMAGESWAP_DIFF", false),
            ("IMAGESWAP_COLOR", false),
            ("IMAGESWAP_DISABLE_AUTO_MWC", false),
            ("IMAGESWAP_SERVICE_HOST", false),
            ("IMAGESWAP_PORT", false),
            ("IMAGESWAP_PORT_443_TCP_ADDR", false),
            ("IMAGESWAP_CACHE_SERVICE_PORT_HTTPS", false),
            ("IMAGESWAP_CHAOS_TESTS", false),
            ("PATH", false),
        ] {
            assert_eq!(is_unknown(&command, name), expected, "{name}");
        }
    }

    /// Completions show it.
    #[test]
    fn what_a_value_of_keeper_does_is_not_what_the_same_one_of_cluster_does() {
        let command = crate::cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        let values = |id: &str| {
            let flag = serve.get_arguments().find(|flag| flag.get_id() == id);
            let values = flag.unwrap().get_possible_values();
            let said = |value: &PossibleValue| {
                let help = value.get_help().unwrap().to_string();
                (value.get_name().to_owned(), help)
            };
            values.iter().map(said).collect::<Vec<_>>()
        };
        let said = [
            ("auto", "In a cluster's Pod"),
            ("on", "Always"),
            ("off", "Never"),
        ];
        let said = said.map(|(value, help)| (value.to_owned(), help.to_owned()));
        assert_eq!(values("keeper"), said);
        for (keeper, cluster) in values("keeper").iter().zip(&values("cluster")) {
            assert_eq!(keeper.0, cluster.0);
            assert_ne!(keeper.1, cluster.1);
        }
    }

    #[test]
    fn an_address_to_listen_on_has_a_port() {
        for (text, expected) in [
            ("127.0.0.1:5000", Some("127.0.0.1:5000")),
            (":0", Some("[::]:0")),
            ("[::1]:5", Some("[::1]:5")),
            ("localhost:5000", None),
            ("5000", None),
            ("", None),
        ] {
            assert_eq!(
                address(text).ok(),
                expected.map(|a| a.parse().unwrap()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_lease_time_is_of_whole_seconds_and_neither_too_short_nor_too_long() {
        for (text, is_right) in [
            ("15s", true),
            ("3s", true),
            ("2s", false),
            ("3500ms", false),
            ("2h", false),
        ] {
            assert_eq!(lease_time(text).is_ok(), is_right, "{text}");
        }
    }
}
