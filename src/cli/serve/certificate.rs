//! The certificate that is served: from a directory, or from the Secret of a cluster as it changes.

use std::convert::Infallible;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::args::Args;
use crate::cluster::kubernetes::{Names, Seen};
use crate::cluster::local::{Origin, StateDir, margin};
use crate::pki::Pair;
use crate::rotation::replica::{Choice, choose, is_trusted};
use crate::rotation::state::Observed;
use crate::server::tls::ServingCert;
use crate::telemetry::logs::Sparingly;
use crate::telemetry::metrics::Metrics;

/// How often to look whether the certificate ends.
const CERTIFICATE_LOOK: Duration = Duration::from_secs(3600);

/// How often to say what is waited for.
const WAITING: Duration = Duration::from_secs(30);

/// The certificate in a directory, made now if need be.
pub(super) fn local(args: &Args, dir: &StateDir, metrics: &Metrics) -> anyhow::Result<ServingCert> {
    let life = args.life()?;
    let now = OffsetDateTime::now_utc();
    let (pair, origin) = dir.load_or_mint(&args.local_names(), life, now)?;
    let path = dir.path.display();
    match origin {
        Origin::Found => info!(%path, "serving the certificate that was there"),
        Origin::Minted => info!(%path, "made a certificate"),
        Origin::Replaced(flaw) => warn!(%path, "made a new certificate: {flaw}"),
        Origin::Renewed => info!(%path, "made a new certificate: the one that was there ends soon"),
    }
    show(&pair, metrics);
    tokio::spawn(watch_certificate(pair.not_after, margin(life)));
    Ok(ServingCert::new(&pair)?)
}

/// Says when the certificate that is served ends soon, or has ended. It is made anew at a start.
async fn watch_certificate(not_after: OffsetDateTime, margin: time::Duration) {
    loop {
        let left = not_after - OffsetDateTime::now_utc();
        if left <= time::Duration::ZERO {
            error!(%not_after, "the certificate has ended: restart ImageSwap to get a new one");
        } else if left < margin {
            warn!(%not_after, "the certificate ends soon: restart ImageSwap to get a new one");
        }
        // Until there is something to say, or to say again.
        let wait = if left > margin { left - margin } else { left };
        let wait = match wait.is_positive() {
            true => wait.unsigned_abs(),
            false => CERTIFICATE_LOOK,
        };
        tokio::time::sleep(wait.clamp(Duration::from_secs(1), CERTIFICATE_LOOK)).await;
    }
}

/// Shows when the pair that is served ends.
fn show(pair: &Pair, metrics: &Metrics) {
    for (certificate, ends) in [("leaf", pair.not_after), ("ca", pair.ca_not_after)] {
        let gauge = metrics.not_after.with_label_values(&[certificate]);
        gauge.set(ends.unix_timestamp());
    }
}

// === from a cluster ===

/// What is served.
#[derive(Debug, Clone)]
pub(super) struct Served {
    pub(super) cert: ServingCert,
    pair: Pair,
}

/// Serves what the Secret holds once it is right and believed, for ever.
pub(super) struct Replica {
    pub(super) names: Names,
    pub(super) seen: watch::Receiver<Seen>,
    pub(super) serving: watch::Sender<Option<Served>>,
    pub(super) metrics: Metrics,
}

/// What was said last, so that it is said once.
#[derive(Debug, Default)]
struct Said {
    /// The version of a Secret, and what is the matter with it.
    refused: Option<(String, String)>,
    is_trusted: Option<bool>,
}

impl Replica {
    pub(super) async fn follow(&self) -> Infallible {
        let (mut seen, mut said) = (self.seen.clone(), Said::default());
        let waiting = Sparingly::new(WAITING);
        loop {
            let next = tokio::time::timeout(WAITING, seen.changed()).await;
            if matches!(next, Ok(Err(_))) {
                // Nobody looks any more: the process ends.
                std::future::pending::<()>().await;
            }
            let observed = seen.borrow_and_update().clone();
            if let Some(observed) = observed {
                self.act(&observed, &mut said);
            }
            if self.serving.borrow().is_none() && waiting.may() {
                let (secret, namespace) = (&self.names.secret, &self.names.namespace);
                info!(secret, namespace, "waiting for a Secret that can be served");
            }
        }
    }

    fn act(&self, observed: &Observed, said: &mut Said) {
        let now = OffsetDateTime::now_utc();
        let served = self.serving.borrow().clone();
        let pair = served.as_ref().map(|served| &served.pair);
        let choice = choose(observed, &[self.names.host()], pair, now);
        let is_bad = matches!(choice, Choice::Bad(_));
        self.metrics.refused.set(i64::from(is_bad));
        match choice {
            Choice::Publish(pair) => self.publish(pair),
            Choice::Same => said.refused = None,
            Choice::Absent => {}
            Choice::NotTrustedYet => {
                if said.is_news(observed, "not trusted yet") {
                    info!("a new certificate is not trusted by the caBundle yet; serving the old");
                }
            }
            Choice::Bad(flaw) => {
                if said.is_news(observed, &flaw.to_string()) {
                    error!("the Secret can't be served, and changes nothing: {flaw}");
                    self.metrics.reloads.with_label_values(&["failed"]).inc();
                }
            }
        }
        if let Some(served) = &*self.serving.borrow() {
            let trusted = is_trusted(observed, &served.pair, now);
            self.metrics.trusted.set(i64::from(trusted));
            said.trust(trusted);
        }
    }

    fn publish(&self, pair: Pair) {
        let served = self.serving.borrow().clone();
        let published = match served {
            Some(Served { cert, .. }) => cert.publish(&pair).map(|()| cert),
            None => ServingCert::new(&pair),
        };
        match published {
            Ok(cert) => {
                info!(not_after = %pair.not_after, "serving a new certificate");
                self.metrics.reloads.with_label_values(&["ok"]).inc();
                show(&pair, &self.metrics);
                self.serving.send_replace(Some(Served { cert, pair }));
            }
            Err(error) => error!(%error, "can't serve the certificate in the Secret"),
        }
    }
}

impl Said {
    /// Whether this was not said of this Secret just before.
    fn is_news(&mut self, observed: &Observed, what: &str) -> bool {
        let version = observed.secret.as_ref().map(|found| found.version.clone());
        let now = Some((version.unwrap_or_default(), what.to_owned()));
        let is_news = self.refused != now;
        self.refused = now;
        is_news
    }

    fn trust(&mut self, trusted: bool) {
        match (self.is_trusted.replace(trusted), trusted) {
            (Some(true), false) | (None, false) => {
                warn!("the caBundle does not trust the certificate that is served");
            }
            (Some(false), true) => info!("the caBundle trusts the certificate that is served"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use time::Duration;

    use super::*;
    use crate::pki::{Bundle, Pem, mint};
    use crate::rotation::state::{Configuration, Hook, Secret};

    fn pair() -> Pem {
        let names = ["imageswap.ns.svc".to_owned()];
        mint(&names, Duration::days(1), OffsetDateTime::now_utc()).unwrap()
    }

    fn seen(version: &str, pem: &Pem, bundle: &str) -> Seen {
        let part = |text: &str| Some(text.as_bytes().to_vec());
        Some(Arc::new(Observed {
            configuration: Some(Configuration {
                version: version.to_owned(),
                hooks: vec![Hook {
                    index: 0,
                    name: "hook".to_owned(),
                    bundle: bundle.as_bytes().to_vec(),
                }],
            }),
            secret: Some(Secret {
                version: version.to_owned(),
                kind: String::new(),
                chain: part(&pem.chain),
                key: part(&pem.key),
                ca: part(&pem.ca),
            }),
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_is_served_when_believed_and_a_bad_one_changes_nothing() {
        let (one, two) = (pair(), pair());
        let rubbish = Pem {
            key: "rubbish".to_owned(),
            ..two.clone()
        };
        let (sender, seen_by) = watch::channel(None);
        let (serving, served) = watch::channel(None);
        let metrics = Metrics::new().unwrap();
        let names = Names {
            namespace: "ns".to_owned(),
            service: "imageswap".to_owned(),
            secret: String::new(),
            configuration: String::new(),
            lease: String::new(),
        };
        let replica = Replica {
            names,
            seen: seen_by,
            serving,
            metrics: metrics.clone(),
        };
        let task = tokio::spawn(async move { replica.follow().await });
        let (both, reloads) = (format!("{}{}", one.ca, two.ca), &metrics.reloads);
        let count = |result| reloads.with_label_values(&[result]).get();
        // What is seen; then whose leaf is served, whether it is trusted, and the reloads.
        let rows = [
            (seen("1", &rubbish, ""), None, 0, (0, 1)),
            // Nothing else to serve.
            (seen("2", &one, ""), Some(&one), 0, (1, 1)),
            (seen("3", &one, &one.ca), Some(&one), 1, (1, 1)),
            (seen("4", &rubbish, &one.ca), Some(&one), 1, (1, 2)),
            (seen("4", &rubbish, &one.ca), Some(&one), 1, (1, 2)),
            (seen("5", &two, &one.ca), Some(&one), 1, (1, 2)),
            (seen("6", &two, &both), Some(&two), 1, (2, 2)),
            (seen("7", &two, ""), Some(&two), 0, (2, 2)),
        ];
        for (row, (seen, leaf, trusted, (ok, failed))) in rows.into_iter().enumerate() {
            sender.send_replace(seen);
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            let serves = served.borrow().as_ref().map(|served: &Served| {
                [&one, &two].map(|pem| {
                    let ca = Bundle::read(pem.ca.as_bytes());
                    served.pair.is_trusted(&ca, OffsetDateTime::now_utc())
                })
            });
            let expected = leaf.map(|leaf| [leaf.ca == one.ca, leaf.ca == two.ca]);
            assert_eq!(serves, expected, "row {row}");
            assert_eq!(metrics.trusted.get(), trusted, "row {row}");
            assert_eq!((count("ok"), count("failed")), (ok, failed), "row {row}");
            let is_rubbish = matches!(row, 0 | 3 | 4);
            assert_eq!(metrics.refused.get() == 1, is_rubbish, "row {row}");
        }
        assert!(metrics.not_after.with_label_values(&["leaf"]).get() > 0);
        assert!(!task.is_finished());
    }
}
