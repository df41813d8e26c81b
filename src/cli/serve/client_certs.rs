//! Who may connect, as `--client-ca` and `--client-name` say it. The file is followed; the last
//! good one stays, also when it has ended. What was refused is judged again: the clock may have been wrong.

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
    let judge = |parts: &[Vec<u8>]| Clients::new(&parts.concat(), names.clone());
    let (_, clients) = files::begin(&mut follower, judge)
        .await
        .with_context(|| format!("can't use {}; {HELP}", path.display()))?;
    info!(path = %path.display(), ?names, "only clients with a certificate may connect");
    metrics.client_ca_loads.with_label_values(&["ok"]).inc();
    let fits = |parts: &[Vec<u8>]| {
        let read = Clients::new(&parts.concat(), Vec::new());
        read.is_ok_and(|clients| clients.ends() > now() && !clients.has_rubbish())
    };
    let news = files::follow(TASK, follower, fits, metrics);
    let mut following = Following {
        path,
        clients: clients.clone(),
        metrics: metrics.clone(),
        found: Found::Believed,
        ended: 0,
    };
    following.tell_rubbish();
    following.show(now());
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
    found: Found,
    /// Of how many CAs it was said that they have ended.
    ended: usize,
}

/// What stands in the file now.
#[derive(PartialEq)]
enum Found {
    Believed,
    Refused(Vec<u8>),
    Unreadable,
}

impl Listener for Following {
    async fn follow(&mut self, news: &mut mpsc::Receiver<News>) {
        loop {
            match tokio::time::timeout(JUDGE_AGAIN, news.recv()).await {
                Ok(Some(found)) => self.believe(found, now()),
                Ok(None) => return,
                Err(_) => self.judge_again(now()),
            }
            self.show(now());
        }
    }
}

impl Following {
    fn believe(&mut self, found: News, now: OffsetDateTime) {
        let why = match found.map(|parts| parts.concat()) {
            Err(why) => {
                self.found = Found::Unreadable;
                why
            }
            Ok(ca) => match self.clients.believe(&ca, now) {
                Ok(()) => return self.tell_believed(),
                Err(error) => {
                    self.found = Found::Refused(ca);
                    error.to_string()
                }
            },
        };
        let path = self.path.display();
        error!(%path, "the new CA of clients is refused, and the old stays: {why}; {HELP}");
        self.count("failed");
    }

    /// All of its CAs may have ended by a clock that is right by now.
    fn judge_again(&mut self, now: OffsetDateTime) {
        if let Found::Refused(ca) = &self.found
            && self.clients.believe(ca, now).is_ok()
        {
            self.tell_believed();
        }
    }

    fn tell_believed(&mut self) {
        self.found = Found::Believed;
        info!(path = %self.path.display(), "clients are judged by a new CA");
        self.ended = 0;
        self.tell_rubbish();
        self.count("ok");
    }

    fn count(&self, result: &str) {
        let loads = &self.metrics.client_ca_loads;
        loads.with_label_values(&[result]).inc();
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

    /// Shows when the last CA ends, and says once that some have.
    fn show(&mut self, now: OffsetDateTime) {
        let ends = self.clients.ends();
        let gauge = self.metrics.not_after.with_label_values(&["client_ca"]);
        gauge.set(ends.unix_timestamp());
        let (ended, all) = self.clients.ended(now);
        let path = self.path.display();
        if ended > self.ended && ended == all {
            error!(
                %path,
                not_after = rfc3339(ends),
                "the CA of clients has ended, and is believed until the file has another; {HELP}"
            );
        } else if ended > self.ended {
            warn!(
                %path,
                "{ended} of {all} CAs of clients have ended, and are believed until the file has them no more"
            );
        }
        self.ended = ended;
        let is_bad = ended == all || self.found != Found::Believed;
        self.metrics.client_ca_refused.set(i64::from(is_bad));
    }
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;
    use crate::pki::mint;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_000));

    fn ca(lifetime: Duration) -> Vec<u8> {
        let pem = mint(&["a".to_owned()], lifetime, NOW).unwrap();
        pem.ca.into_bytes()
    }

    fn following(ca: &[u8]) -> Following {
        Following {
            path: PathBuf::from("clients"),
            clients: Clients::new(ca, Vec::new()).unwrap(),
            metrics: Metrics::new().unwrap(),
            found: Found::Believed,
            ended: 0,
        }
    }

    impl Following {
        /// `client_ca_refused`, and how many loads failed and went well.
        fn shown(&mut self, now: OffsetDateTime) -> (i64, u64, u64) {
            self.show(now);
            let loads = |result| {
                let loads = &self.metrics.client_ca_loads;
                loads.with_label_values(&[result]).get()
            };
            let refused = self.metrics.client_ca_refused.get();
            (refused, loads("failed"), loads("ok"))
        }
    }

    #[test]
    fn what_was_refused_by_a_wrong_clock_is_believed_when_that_is_right() {
        let (one, two) = (ca(Duration::days(9)), ca(Duration::days(10)));
        let mut following = following(&one);
        let (fast, right) = (NOW + Duration::days(99), NOW);
        following.believe(Ok(vec![two.clone()]), fast);
        let ends = following.clients.ends();
        assert_eq!(following.shown(fast), (1, 1, 0));
        following.judge_again(fast);
        assert_eq!(following.shown(fast), (1, 1, 0));
        following.judge_again(right);
        assert_eq!(following.shown(right), (0, 1, 1));
        assert!(following.clients.ends() > ends);
        following.judge_again(right);
        assert_eq!(following.shown(right), (0, 1, 1));
        // What can't be read now is not judged as it was.
        following.believe(Ok(vec![one]), fast);
        following.believe(Err("gone".to_owned()), fast);
        following.judge_again(right);
        assert_eq!(following.shown(right), (1, 3, 1));
    }

    #[test]
    fn one_of_two_that_has_ended_is_no_alarm_and_all_are() {
        let both = [ca(Duration::days(9)), ca(Duration::days(30))].concat();
        let mut following = following(&both);
        let ends = following.clients.ends();
        assert_eq!(following.shown(NOW), (0, 0, 0));
        assert_eq!(following.shown(ends - Duration::SECOND), (0, 0, 0));
        assert_eq!(following.ended, 1);
        assert_eq!(following.shown(ends), (1, 0, 0));
    }
}
