//! The certificate that somebody brings in files: cert-manager's mounted Secret, for instance.
//! Nothing is minted. What is wrong is an error at the start, and later changes nothing but a
//! metric and a log line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use super::args::Args;
use super::certificate::show;
use super::files::{self, JUDGE_AGAIN, Listener, News};
use crate::cluster::place::Place;
use crate::files::{Follower, Parts};
use crate::pki::{Flaw, Pair};
use crate::rotation::source::Source;
use crate::rotation::state::Secret;
use crate::server::tls::ServingCert;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::notices::{Notices, Reason};
use crate::text::rfc3339;

/// How slow a machine's clock may be beside that of who makes certificates, which may begin at the moment they are
/// made.
const SLOW: Duration = Duration::from_secs(300);

/// The task's name, in logs and metrics.
const TASK: &str = "files";

/// The name by which a person on this machine calls.
const HERE: &str = "localhost";

/// A flaw names the parts as a Secret does, whatever the files are called.
const PARTS: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// Where chain, key and CA are.
#[derive(Debug, Clone, Default)]
pub(super) struct Paths(Vec<PathBuf>);

impl Paths {
    /// A flaw, with the path of each part it names whose file is called otherwise.
    pub(super) fn tell(&self, flaw: &Flaw) -> String {
        let flaw = flaw.to_string();
        let is_told =
            |(part, path): &(&str, &PathBuf)| flaw.contains(part) && !path.ends_with(part);
        let told = PARTS.into_iter().zip(&self.0).filter(is_told);
        let told: Vec<_> = told
            .map(|(part, path)| format!("{part} is {}", path.display()))
            .collect();
        match told.is_empty() {
            true => flaw,
            false => format!("{flaw} ({})", told.join(", ")),
        }
    }
}

/// The files, found right.
pub(super) struct Brought {
    follower: Follower,
    kind: Kind,
    parts: Parts,
    /// The pair to begin with.
    pub(super) pair: Pair,
}

/// How the files are to be read.
#[derive(Debug, Clone)]
struct Kind {
    source: Source,
    paths: Paths,
    /// What a leaf must be valid for.
    required: Vec<String>,
    /// What kube-apiserver asks for where a Service is called.
    host: String,
}

impl Brought {
    /// What the flags name, if they do.
    pub(super) async fn read(args: &Args, place: Place) -> anyhow::Result<Option<Self>> {
        let Some((paths, source)) = files_of(args)? else {
            return Ok(None);
        };
        let host = args.names.names(place).host();
        let is_called_by_service = place != Place::Machine;
        let kind = Kind {
            source,
            paths: Paths(paths.clone()),
            required: is_called_by_service
                .then(|| host.clone())
                .into_iter()
                .collect(),
            host,
        };
        let mut follower = Follower::new(paths);
        match files::begin(&mut follower, |parts| kind.judge_first(parts)).await {
            Ok((parts, pair)) => Ok(Some(Self {
                follower,
                kind,
                parts,
                pair,
            })),
            Err(error) => {
                let (name, help) = (source.name(), source.help_if_bad());
                // What can't be read is named by its path already.
                let flaw = error.downcast_ref().map(|flaw| kind.paths.tell(flaw));
                let why = flaw.unwrap_or_else(|| error.to_string());
                bail!("can't serve {name}: {why}; {help}")
            }
        }
    }

    /// Where its parts are.
    pub(super) fn paths(&self) -> Paths {
        self.kind.paths.clone()
    }

    /// What it is called in a sentence.
    pub(super) fn name(&self) -> &'static str {
        self.kind.source.name()
    }

    /// What a client here should trust: the CA, or the chain; `None` if the leaf is not for this
    /// machine.
    pub(super) fn trusted_here(&self) -> Option<PathBuf> {
        let paths = self.follower.paths();
        let ca = paths.get(2).or_else(|| paths.first());
        ca.cloned().filter(|_| self.pair.is_valid_for(HERE))
    }

    /// Serves the files outside of a cluster, as they change.
    pub(super) fn serve(self, metrics: &Metrics) -> anyhow::Result<ServingCert> {
        info!(
            not_after = rfc3339(self.pair.not_after),
            "serving {}",
            self.kind.source.name()
        );
        metrics.from_files.set(1);
        let local = Local {
            cert: ServingCert::new(&self.pair)?,
            metrics: metrics.clone(),
            kind: self.kind,
            parts: self.parts,
            serving: self.pair,
            said: None,
            is_unreadable: false,
        };
        local.tell(&local.serving);
        let cert = local.cert.clone();
        let news = followed(self.follower, &local.kind, metrics);
        tokio::spawn(files::tell(TASK, metrics.clone(), local, news));
        Ok(cert)
    }

    /// Hands the files on in the place of a Secret, as they change.
    /// Tells, too, whether they can't be read: what was read before stays.
    pub(super) fn feed(
        self,
        metrics: &Metrics,
        notices: &Notices,
    ) -> (watch::Receiver<Secret>, watch::Receiver<bool>) {
        metrics.from_files.set(1);
        let (secret, secrets) = watch::channel(self.kind.secret(&self.parts, 0));
        let (unreadable, is_unreadable) = watch::channel(false);
        let news = followed(self.follower, &self.kind, metrics);
        let feed = Feed {
            kind: self.kind,
            read: 0,
            secret,
            unreadable,
            metrics: metrics.clone(),
            notices: notices.clone(),
        };
        tokio::spawn(files::tell(TASK, metrics.clone(), feed, news));
        (secrets, is_unreadable)
    }
}

/// The files in the order in which they are read.
pub(super) fn files_of(args: &Args) -> anyhow::Result<Option<(Vec<PathBuf>, Source)>> {
    let [cert, key, ca] = args.tls_files();
    Ok(match (cert, key, ca) {
        (Some(cert), Some(key), Some(ca)) => Some((vec![cert, key, ca], Source::Files)),
        (Some(cert), Some(key), None) => Some((vec![cert, key], Source::FilesAlone)),
        (None, None, None) => None,
        (None, None, Some(_)) => bail!("--tls-ca needs --tls-cert and --tls-key, whose CA it is"),
        (_, None, _) => bail!("--tls-cert needs --tls-key, too"),
        (None, ..) => bail!("--tls-key needs --tls-cert, too"),
    })
}

/// Follows the files in a task of its own.
fn followed(follower: Follower, kind: &Kind, metrics: &Metrics) -> mpsc::Receiver<News> {
    let kind = kind.clone();
    let fits = move |parts: &[Vec<u8>]| kind.judge(parts).is_ok();
    files::follow(TASK, follower, fits, metrics)
}

impl Kind {
    /// The files as if they were a Secret's. `read` counts how often they were.
    fn secret(&self, parts: &[Vec<u8>], read: u64) -> Secret {
        Secret {
            version: format!("files-{read}"),
            chain: parts.first().cloned(),
            key: parts.get(1).cloned(),
            ca: parts.get(2).cloned(),
            source: self.source,
            next_chain: None,
            next_key: None,
            request: None,
            answered: None,
        }
    }

    /// As at a start, where there is nothing else to serve: what begins in a moment by this machine's clock may have begun
    /// by that of who calls.
    fn judge_first(&self, parts: &[Vec<u8>]) -> Result<Pair, Flaw> {
        match self.judge(parts) {
            Err(Flaw::NotYet(begins)) if begins <= OffsetDateTime::now_utc() + SLOW => {
                let begins_at = rfc3339(begins);
                warn!(
                    begins_at,
                    "the certificate has not begun by this machine's clock, which may be slow: starting with it"
                );
                self.judge_at(parts, begins)
            }
            judged => judged,
        }
    }

    /// What is served goes on, also if it was served a moment before it begins by this machine's clock.
    fn judge_next(&self, parts: &[Vec<u8>], serving: &Pair) -> Result<Pair, Flaw> {
        match self.judge(parts) {
            Err(Flaw::NotYet(begins)) => {
                let next = self.judge_at(parts, begins)?;
                match next.is_same(serving) {
                    true => Ok(next),
                    false => Err(Flaw::NotYet(begins)),
                }
            }
            judged => judged,
        }
    }

    fn judge(&self, parts: &[Vec<u8>]) -> Result<Pair, Flaw> {
        self.judge_at(parts, OffsetDateTime::now_utc())
    }

    fn judge_at(&self, parts: &[Vec<u8>], now: OffsetDateTime) -> Result<Pair, Flaw> {
        self.secret(parts, 0).judge(&self.required, now)
    }
}

// === in a cluster ===

/// What the files hold is judged by whoever serves it; see `certificate`.
struct Feed {
    kind: Kind,
    /// How often the files were read since the start.
    read: u64,
    secret: watch::Sender<Secret>,
    unreadable: watch::Sender<bool>,
    metrics: Metrics,
    notices: Notices,
}

impl Listener for Feed {
    async fn follow(&mut self, news: &mut mpsc::Receiver<News>) {
        while let Some(found) = news.recv().await {
            self.read += 1;
            self.unreadable.send_replace(found.is_err());
            match found {
                Ok(parts) => {
                    self.secret
                        .send_replace(self.kind.secret(&parts, self.read));
                }
                Err(why) => {
                    let said = refuse(&self.metrics, &why, self.kind.source);
                    self.notices.tell(Reason::CertificateRefused, said);
                }
            }
        }
    }
}

/// Counts, shows and logs it. Returns what was said.
fn refuse(metrics: &Metrics, why: &str, source: Source) -> String {
    let help = source.help_if_bad();
    let text = format!("a new certificate is refused, and the one in use stays: {why}; {help}");
    error!("{text}");
    metrics.refused.set(1);
    metrics.reloads.with_label_values(&["failed"]).inc();
    text
}

// === outside of one ===

struct Local {
    cert: ServingCert,
    kind: Kind,
    metrics: Metrics,
    /// What the files held when they could be read last.
    parts: Parts,
    /// The pair that is served.
    serving: Pair,
    /// What was said last of files that do not change.
    said: Option<String>,
    /// Whether they can't be read now, so that what is judged is what they were.
    is_unreadable: bool,
}

impl Listener for Local {
    async fn follow(&mut self, news: &mut mpsc::Receiver<News>) {
        loop {
            match tokio::time::timeout(JUDGE_AGAIN, news.recv()).await {
                Ok(Some(Ok(found))) => {
                    (self.parts, self.said) = (found, None);
                    self.is_unreadable = false;
                }
                Ok(Some(Err(why))) => {
                    self.is_unreadable = true;
                    refuse(&self.metrics, &why, self.kind.source);
                    continue;
                }
                Ok(None) => return,
                Err(_) => {}
            }
            match self.kind.judge_next(&self.parts, &self.serving) {
                Ok(pair) if pair.is_same(&self.serving) => {
                    self.said = None;
                    // Its CA may be another.
                    show(&pair, &self.metrics);
                    self.serving = pair;
                    self.metrics.refused.set(i64::from(self.is_unreadable));
                }
                Ok(pair) => {
                    if self.publish(&pair) {
                        self.serving = pair;
                    }
                }
                Err(flaw) => {
                    let why = self.kind.paths.tell(&flaw);
                    self.refuse(&why);
                }
            }
        }
    }
}

impl Local {
    /// Whether it is served now.
    fn publish(&mut self, pair: &Pair) -> bool {
        match self.cert.publish(pair) {
            Ok(()) => {
                self.said = None;
                info!(
                    not_after = rfc3339(pair.not_after),
                    "serving a new certificate"
                );
                self.tell(pair);
                true
            }
            Err(error) => {
                self.refuse(&error.to_string());
                false
            }
        }
    }

    fn refuse(&mut self, why: &str) {
        if self.said.as_deref() != Some(why) {
            refuse(&self.metrics, why, self.kind.source);
            self.said = Some(why.to_owned());
        }
    }

    fn tell(&self, pair: &Pair) {
        show(pair, &self.metrics);
        self.metrics.refused.set(0);
        self.metrics.reloads.with_label_values(&["ok"]).inc();
        let host = &self.kind.host;
        if !pair.is_valid_for(host) {
            warn!(
                "the certificate is not valid for {host}, by which kube-apiserver calls a \
                 Service; that is right only if a webhook names this server by a URL"
            );
        }
    }
}
