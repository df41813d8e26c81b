//! Who may connect, as `--client-ca` and `--client-name` say it. The file is followed; the last
//! good one stays.

use std::path::PathBuf;

use anyhow::{Context, bail};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tracing::{error, info};

use super::args::Args;
use super::files::{self, News};
use crate::files::Follower;
use crate::server::client_certs::Clients;
use crate::telemetry::metrics::Metrics;

/// What to do about a file that can't be used.
const HELP: &str = "--client-ca names a PEM file with the CA of the certificate that \
                    kube-apiserver presents (docs/install.md)";

/// Reads what the flags name, and follows it.
pub(super) async fn load(args: &Args, metrics: &Metrics) -> anyhow::Result<Option<Clients>> {
    let names = args.client_name.iter().map(|name| name.trim());
    let names: Vec<_> = names.filter(|n| !n.is_empty()).map(str::to_owned).collect();
    let Some(path) = args.client_ca() else {
        if !names.is_empty() {
            bail!("--client-name needs --client-ca, the CA of those who bear the name");
        }
        return Ok(None);
    };
    let mut follower = Follower::new(vec![path.clone()]);
    let judge = |parts: &[Vec<u8>]| Clients::new(&parts.concat(), names.clone(), now());
    let (_, clients) = files::begin(&mut follower, judge)
        .await
        .with_context(|| format!("can't use {}; {HELP}", path.display()))?;
    info!(path = %path.display(), ?names, "only clients with a certificate may connect");
    metrics.client_ca_loads.with_label_values(&["ok"]).inc();
    let (sender, news) = mpsc::channel(1);
    let fits = |parts: &[Vec<u8>]| Clients::new(&parts.concat(), Vec::new(), now()).is_ok();
    tokio::spawn(files::follow(follower, fits, sender));
    tokio::spawn(follow(path, clients.clone(), news, metrics.clone()));
    Ok(Some(clients))
}

async fn follow(path: PathBuf, clients: Clients, mut news: mpsc::Receiver<News>, metrics: Metrics) {
    while let Some(found) = news.recv().await {
        let believed = found.and_then(|parts| {
            let believed = clients.believe(&parts.concat(), now());
            believed.map_err(|error| error.to_string())
        });
        metrics.client_ca_refused.set(i64::from(believed.is_err()));
        let result = match believed {
            Ok(()) => {
                info!(path = %path.display(), "clients are judged by a new CA");
                "ok"
            }
            Err(why) => {
                let path = path.display();
                error!(%path, "the new CA of clients is refused, and the old stays: {why}; {HELP}");
                "failed"
            }
        };
        metrics.client_ca_loads.with_label_values(&[result]).inc();
    }
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
