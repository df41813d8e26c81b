//! Who may connect, as `--client-ca` and `--client-name` say it. The file is followed; the last
//! good one stays, also when it has ended.

use std::path::PathBuf;

use anyhow::{Context, bail};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::args::Args;
use super::files::{self, JUDGE_AGAIN, Listener, News};
use crate::files::Follower;
use crate::server::client_certs::Clients;
use crate::telemetry::metrics::Metrics;
use crate::text::rfc3339;

/// The task's name, in logs and metrics.
const TASK: &str = "client_ca";

/// What to do about a file that can't be used.
const HELP: &str = "--client-ca names a PEM file with the CA of the certificate that \
                    kube-apiserver presents (docs/install.md)";

/// Reads what the flags name, and follows it.
pub(super) async fn load(args: &Args, metrics: &Metrics) -> anyhow::Result<Option<Clients>> {
    let Some((path, names)) = asked_for(args)? else {
        return Ok(None);
    };
    let mut follower = Follower::new(vec![path.clone()]);
    let judge = |parts: &[Vec<u8>]| Clients::new(&parts.concat(), names.clone(), now());
    let (_, clients) = files::begin(&mut follower, judge)
        .await
        .with_context(|| format!("can't use {}; {HELP}", path.display()))?;
    info!(path = %path.display(), ?names, "only clients with a certificate may connect");
    metrics.client_ca_loads.with_label_values(&["ok"]).inc();
    let fits = |parts: &[Vec<u8>]| {
        let read = Clients::new(&parts.concat(), Vec::new(), now());
        read.is_ok_and(|clients| clients.ends() > now() && !clients.has_rubbish())
    };
    let news = files::follow(TASK, follower, fits, metrics);
    let mut following = Following {
        path,
        clients: clients.clone(),
        metrics: metrics.clone(),
        is_refused: false,
        has_ended: false,
    };
    following.tell_rubbish();
    following.show();
    tokio::spawn(files::tell(TASK, metrics.clone(), following, news));
    Ok(Some(clients))
}

/// The file, and the names.
pub(super) fn asked_for(args: &Args) -> anyhow::Result<Option<(PathBuf, Vec<String>)>> {
    let names = args.client_name.iter().map(|name| name.trim());
    let names: Vec<_> = names.filter(|n| !n.is_empty()).map(str::to_owned).collect();
    match args.client_ca() {
        Some(path) => Ok(Some((path, names))),
        None if names.is_empty() => Ok(None),
        None => bail!("--client-name needs --client-ca, the CA of those who bear the name"),
    }
}

/// What is known of the file.
struct Following {
    path: PathBuf,
    clients: Clients,
    metrics: Metrics,
    /// What stands in it now is refused.
    is_refused: bool,
    has_ended: bool,
}

impl Listener for Following {
    async fn follow(&mut self, news: &mut mpsc::Receiver<News>) {
        loop {
            match tokio::time::timeout(JUDGE_AGAIN, news.recv()).await {
                Ok(Some(found)) => self.believe(found),
                Ok(None) => return,
                Err(_) => {}
            }
            self.show();
        }
    }
}

impl Following {
    fn believe(&mut self, found: News) {
        let believed = found.and_then(|parts| {
            let believed = self.clients.believe(&parts.concat(), now());
            believed.map_err(|error| error.to_string())
        });
        self.is_refused = believed.is_err();
        let path = self.path.display();
        let result = match believed {
            Ok(()) => {
                info!(%path, "clients are judged by a new CA");
                self.tell_rubbish();
                "ok"
            }
            Err(why) => {
                error!(%path, "the new CA of clients is refused, and the old stays: {why}; {HELP}");
                "failed"
            }
        };
        self.metrics
            .client_ca_loads
            .with_label_values(&[result])
            .inc();
    }

    /// A CA that was meant to be believed may be missing.
    fn tell_rubbish(&self) {
        if self.clients.has_rubbish() {
            warn!(
                path = %self.path.display(),
                "not all in the file of clients' CAs is one, or can be read; the others are believed; {HELP}"
            );
        }
    }

    /// Shows when the CA ends, and says once that it has.
    fn show(&mut self) {
        let ends = self.clients.ends();
        let gauge = self.metrics.not_after.with_label_values(&["client_ca"]);
        gauge.set(ends.unix_timestamp());
        let has_ended = ends <= now();
        if has_ended && !self.has_ended {
            error!(
                path = %self.path.display(),
                not_after = rfc3339(ends),
                "the CA of clients has ended, and is believed until the file has another; {HELP}"
            );
        }
        self.has_ended = has_ended;
        let is_bad = has_ended || self.is_refused;
        self.metrics.client_ca_refused.set(i64::from(is_bad));
    }
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
