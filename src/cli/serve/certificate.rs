//! The certificate that is served, as it changes: in the Secret of a cluster, or in a directory.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tracing::{error, info, warn};

use super::brought::Paths;
use crate::cluster::{Look, Seen};
use crate::pki::{Bundle, Flaw, Pair, Pem, judge};
use crate::rotation::belief::Belief;
use crate::rotation::clock::Clock;
use crate::rotation::driver::Store;
use crate::rotation::replica::{Choice, Others, View, choose, choose_unseen, is_trusted};
use crate::rotation::source::Source;
use crate::rotation::state::{Endpoint, Observed, Secret};
use crate::server::tls::ServingCert;
use crate::telemetry::logs::Sparingly;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::notices::{Notices, Reason};
use crate::text::rfc3339;

/// How often to say what is waited for.
const WAITING: Duration = Duration::from_secs(30);

/// How often to look at the other endpoints while there is nothing to serve.
pub(super) const OTHERS: Duration = Duration::from_secs(2);

/// How long such a look may take: what was seen before it must not be too old to act on.
const ASKED: Duration = Duration::from_secs(4);

/// How long the cluster may be silent at a start before what was brought is served without having seen it.
const SILENT: Duration = Duration::from_secs(5);

/// The same for what is brought later: longer than a look that fails (`FRESH`), and the next one.
const UNSEEN: Duration = Duration::from_secs(12);

/// The same where it was seen beside what is brought now: a look without a reason comes each minute.
const STALE: Duration = Duration::from_secs(75);

/// How often it is counted for how long that has been so.
const TICK: Duration = Duration::from_secs(1);

/// Shows when the pair that is served ends.
pub(super) fn show(pair: &Pair, metrics: &Metrics) {
    for (certificate, ends) in [("leaf", pair.not_after), ("ca", pair.ca_not_after)] {
        let gauge = metrics.not_after.with_label_values(&[certificate]);
        gauge.set(ends.unix_timestamp());
    }
}

/// What is served.
#[derive(Debug, Clone)]
pub(super) struct Serving {
    pub(super) cert: ServingCert,
    pub(super) pair: Pair,
}

/// Serves what was seen once it is right and believed, for ever.
pub(super) struct Replica<S> {
    /// What shows the other endpoints.
    pub(super) store: S,
    /// What a leaf must be valid for.
    pub(super) required: Vec<String>,
    /// The pair that somebody brings, judged: it is served as any other, once it is believed by all
    /// who call, but also if they can't be seen.
    pub(super) brought: Option<BroughtPair>,
    pub(super) trust_delay: Duration,
    /// Whether the caBundles are ours to write.
    pub(super) writes_bundles: bool,
    /// Where the pair comes from, for people.
    pub(super) source: String,
    pub(super) seen: watch::Receiver<Seen>,
    /// What asks for another look.
    pub(super) again: Arc<Notify>,
    pub(super) serving: watch::Sender<Option<Serving>>,
    /// The pair that is served, as it can be written back.
    pub(super) kept: watch::Sender<Option<Pem>>,
    /// What was seen so far.
    pub(super) believed: watch::Sender<Belief>,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) notices: Notices,
}

/// A pair that somebody brings, to begin with.
#[derive(Debug)]
pub(super) struct BroughtPair {
    pub(super) pair: Pair,
    pub(super) paths: Paths,
    /// What is in the files now.
    pub(super) files: watch::Receiver<Secret>,
    /// Whether the files can't be read now. What was read before stays in use.
    pub(super) is_unreadable: watch::Receiver<bool>,
}

/// Since when what is in the files now has not been seen beside the cluster.
#[derive(Debug, Default)]
struct Blind {
    /// What was seen last.
    last: Option<Look>,
    /// The version of the files.
    version: String,
    /// Counted, not measured: a process that stood still has not looked.
    ticks: u32,
}

impl Blind {
    fn saw(&mut self, look: &Look) {
        self.last = Some(look.clone());
        self.ticks = 0;
    }

    fn has_seen(&self, files: &Secret) -> bool {
        let last = self.last.as_ref();
        let seen = last.and_then(|look| look.observed.secret.as_ref());
        seen.is_some_and(|seen| seen.version == files.version)
    }

    /// Counts. Whether that is too long.
    fn tick(&mut self, files: &Secret) -> bool {
        if self.version != files.version {
            self.version.clone_from(&files.version);
            self.ticks = 0;
        }
        self.ticks = self.ticks.saturating_add(1);
        let most = match self.has_seen(files) {
            true => STALE,
            false => UNSEEN,
        };
        TICK * self.ticks > most
    }

    /// The webhook configuration as it was seen last, and the files.
    fn observed(&self, files: Secret) -> Observed {
        let last = self.last.as_ref();
        Observed {
            configuration: last.and_then(|look| look.observed.configuration.clone()),
            secret: Some(files),
        }
    }
}

/// What was said last, so that it is said once.
#[derive(Debug, Default)]
struct Said {
    /// The version of a Secret, and what is the matter with it.
    refused: Option<(String, String)>,
    is_trusted: Option<bool>,
}

impl<S: Store> Replica<S> {
    pub(super) async fn follow(&self) -> Infallible {
        let (mut seen, mut said) = (self.seen.clone(), Said::default());
        if let Some(brought) = &self.brought
            && self.serving.borrow().is_none()
        {
            if timeout(SILENT, seen.wait_for(Option::is_some))
                .await
                .is_err()
            {
                warn!("the cluster can't be seen; serving what was brought all the same");
                self.publish(brought.pair.clone());
            }
            seen.mark_changed();
        }
        let mut others = None;
        let waiting = Sparingly::new(WAITING);
        let mut again_at = None;
        let (mut blind, mut tick) = (Blind::default(), interval(TICK));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let soon = Instant::now() + WAITING;
            let until = again_at.map_or(soon, |at| soon.min(at));
            let next = tokio::select! {
                // What was seen meanwhile comes first: else it might be acted on as if nothing had been.
                biased;
                next = timeout_at(until, seen.changed()) => next.ok(),
                _ = tick.tick(), if self.brought.is_some() => {
                    self.act_if_blind(&mut blind, &mut said);
                    None
                }
            };
            if matches!(next, Some(Err(_))) {
                // Nobody looks any more: the process ends.
                std::future::pending::<()>().await;
            }
            // What came behind the timer's end is for the next turn.
            let look = next.map(|_| seen.borrow_and_update().clone());
            if let Some(look) = look.flatten() {
                blind.saw(&look);
                self.believed
                    .send_modify(|belief| belief.look(&look.observed, look.read));
                let mut rest = self.act(&look, None, &mut said);
                if matches!(rest, Rest::Others) {
                    // Until there is something new to see.
                    tokio::select! {
                        asked = ask(&self.store, &self.clock, others.as_ref()) => {
                            rest = self.act(&look, Some(&asked), &mut said);
                            others = Some(asked);
                        }
                        Ok(()) = seen.changed() => seen.mark_changed(),
                    }
                }
                again_at = rest.pause().map(|rest| Instant::now() + rest);
            } else if again_at.is_some_and(|at| at <= Instant::now()) {
                self.again.notify_one();
                again_at = None;
            }
            if self.serving.borrow().is_none() && waiting.may() {
                info!(
                    "waiting until a certificate can be served; it comes from {}",
                    self.source
                );
            }
        }
    }

    /// Returns what to wait for.
    fn act(&self, look: &Look, others: Option<&Others>, said: &mut Said) -> Rest {
        let (observed, moment) = (&*look.observed, self.clock.now());
        let now = moment.wall;
        let served = self.serving.borrow().clone();
        let pair = served.as_ref().map(|served| &served.pair);
        let view = View {
            observed,
            read: look.read,
            belief: &self.believed.borrow(),
            required: &self.required,
            trust_delay: self.trust_delay,
            others,
        };
        let choice = choose(&view, pair, moment);
        self.show_refused(&choice);
        let mut rest = Rest::News;
        match choice {
            Choice::Publish(pair) => {
                if self.publish(pair) {
                    self.keep(observed);
                }
            }
            Choice::Same => {
                said.refused = None;
                self.keep(observed);
            }
            Choice::Absent => {}
            Choice::TooOld => self.again.notify_one(),
            Choice::AskOthers => rest = Rest::Others,
            Choice::NotTrustedYet { rest: left } => {
                let is_served = served.is_some();
                rest = match is_served {
                    true => left.map_or(Rest::News, Rest::Trust),
                    false => Rest::Trust(left.unwrap_or(OTHERS).min(OTHERS)),
                };
                self.wait_for_trust(observed, is_served, said);
            }
            Choice::Bad(flaw) => self.refuse(observed, &flaw, said),
        }
        self.show(observed, now, said);
        rest
    }

    /// Acts on what is in the files alone, if the cluster has not been seen for too long.
    fn act_if_blind(&self, blind: &mut Blind, said: &mut Said) {
        let Some(brought) = &self.brought else {
            return;
        };
        let files = brought.files.borrow().clone();
        if !blind.tick(&files) {
            return;
        }
        let (is_seen, moment) = (blind.has_seen(&files), self.clock.now());
        let observed = blind.observed(files);
        let served = self.serving.borrow().clone();
        let pair = served.as_ref().map(|served| &served.pair);
        let choice = choose_unseen(&observed, is_seen, &self.required, pair, moment);
        self.show_refused(&choice);
        match choice {
            Choice::Publish(pair) => {
                warn!("the cluster can't be seen; serving what was brought all the same");
                self.publish(pair);
            }
            Choice::Bad(flaw) => self.refuse(&observed, &flaw, said),
            Choice::NotTrustedYet { .. } => {
                if said.is_news(&observed, "not seen") {
                    warn!(
                        "a new certificate may not be trusted, for the cluster can't be seen; serving the old until \
                         it ends"
                    );
                }
            }
            Choice::Same | Choice::Absent | Choice::TooOld | Choice::AskOthers => {
                said.refused = None;
            }
        }
        if blind.last.is_some() {
            self.show(&observed, moment.wall, said);
        }
    }

    /// Shows whether what is there can't be served.
    fn show_refused(&self, choice: &Choice) {
        let is_unreadable = |brought: &BroughtPair| *brought.is_unreadable.borrow();
        let is_bad = matches!(choice, Choice::Bad(_));
        let is_refused = is_bad || self.brought.as_ref().is_some_and(is_unreadable);
        // One that comes too late says nothing of what is there.
        if !matches!(choice, Choice::TooOld) {
            self.metrics.refused.set(i64::from(is_refused));
        }
    }

    /// Says that the new one is not served yet, and why.
    fn wait_for_trust(&self, observed: &Observed, is_served: bool, said: &mut Said) {
        if !said.is_news(observed, "not trusted yet") {
            return;
        }
        if is_served {
            info!("a new certificate is not trusted everywhere yet; serving the old");
            return;
        }
        let help = source_of(observed).help_if_not_trusted(self.writes_bundles);
        info!(
            "the certificate is not trusted everywhere yet, and others serve one that is; waiting; \
             {help}"
        );
    }

    /// Says what is wrong with what is there, once, and goes on.
    fn refuse(&self, observed: &Observed, flaw: &Flaw, said: &mut Said) {
        if !said.is_news(observed, &flaw.to_string()) {
            return;
        }
        let source = source_of(observed);
        let what = match source {
            Source::Minted => format!("what is in {}", self.source),
            brought => brought.name().to_owned(),
        };
        let help = source.help_if_bad();
        let flaw = match (&self.brought, source) {
            (Some(brought), Source::Files | Source::FilesAlone) => brought.paths.tell(flaw),
            _ => flaw.to_string(),
        };
        let note = format!("{what} can't be served, and changes nothing: {flaw}; {help}");
        error!("{note}");
        self.notices.tell(Reason::CertificateRefused, note);
        self.metrics.reloads.with_label_values(&["failed"]).inc();
    }

    /// Shows what is served, whether it is believed, and what is to come.
    fn show(&self, observed: &Observed, now: OffsetDateTime, said: &mut Said) {
        if let Some(served) = &*self.serving.borrow() {
            let trusted = is_trusted(observed, &served.pair, now);
            self.metrics.trusted.set(i64::from(trusted));
            self.show_ca(&served.pair, observed, now);
            let help = source_of(observed).help_if_not_trusted(self.writes_bundles);
            said.trust(trusted, help);
        }
        self.show_next(observed, now);
    }

    /// Keeps the pair that is served, so that it can be written back if it is lost.
    fn keep(&self, observed: &Observed) {
        if let Some(secret) = &observed.secret {
            self.kept.send_replace(secret.kept());
        }
    }

    /// Shows when the CA ends: another may have been brought for the same leaf.
    fn show_ca(&self, pair: &Pair, observed: &Observed, now: OffsetDateTime) {
        let secret = observed.secret.as_ref();
        let ca = secret.and_then(|secret| secret.ca.as_deref());
        if let Some(ends) = ca.and_then(|ca| pair.ca_end(&Bundle::read(ca), now)) {
            let gauge = self.metrics.not_after.with_label_values(&["ca"]);
            gauge.set(ends.unix_timestamp());
        }
    }

    /// Shows when the pair ends that is staged.
    fn show_next(&self, observed: &Observed, now: OffsetDateTime) {
        let staged = observed.secret.as_ref().filter(|secret| secret.has_next());
        let judged = staged.map(|secret| judge(&secret.next_pem(), &self.required, now));
        match judged {
            Some(Ok(pair)) => {
                let gauge = self.metrics.not_after.with_label_values(&["next"]);
                gauge.set(pair.not_after.unix_timestamp());
            }
            // That there was none is as well.
            _ => drop(self.metrics.not_after.remove_label_values(&["next"])),
        }
    }

    /// Whether it is served now.
    fn publish(&self, pair: Pair) -> bool {
        let served = self.serving.borrow().clone();
        let published = match served {
            Some(Serving { cert, .. }) => cert.publish(&pair).map(|()| cert),
            None => ServingCert::new(&pair),
        };
        match published {
            Ok(cert) => {
                info!(
                    not_after = rfc3339(pair.not_after),
                    "serving a new certificate"
                );
                self.metrics.reloads.with_label_values(&["ok"]).inc();
                show(&pair, &self.metrics);
                self.serving.send_replace(Some(Serving { cert, pair }));
                true
            }
            Err(error) => {
                error!(%error, "can't serve the new certificate");
                false
            }
        }
    }
}

/// Whose the pair is that was seen.
fn source_of(observed: &Observed) -> Source {
    let secret = observed.secret.as_ref();
    secret.map(|found| found.source).unwrap_or_default()
}

/// What a replica waits for.
#[derive(Debug)]
enum Rest {
    /// That something changes.
    News,
    /// Another look after so long must show that a pair was believed all the time.
    Trust(Duration),
    /// What the others serve must be known.
    Others,
}

impl Rest {
    fn pause(&self) -> Option<Duration> {
        match self {
            Self::News => None,
            Self::Trust(rest) => Some(*rest),
            Self::Others => Some(OTHERS),
        }
    }
}

/// Asks what the other endpoints serve, once more. Whatever can't be asked is not seen.
pub(super) async fn ask(store: &impl Store, clock: &Clock, before: Option<&Others>) -> Others {
    let (asked, read) = clock.spanned(timeout(ASKED, store.others())).await;
    let unseen = |why: String| vec![Endpoint::new("any", Err(why))];
    let endpoints = match asked {
        Ok(Ok(endpoints)) => endpoints,
        Ok(Err(why)) => unseen(why.to_string()),
        Err(_) => unseen(format!("no answer within {ASKED:?}")),
    };
    Others::after(before, endpoints, read)
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

    fn trust(&mut self, trusted: bool, help: &str) {
        match (self.is_trusted.replace(trusted), trusted) {
            (Some(true), false) | (None, false) => {
                warn!("the caBundle does not trust the certificate that is served; {help}");
            }
            (Some(false), true) => info!("the caBundle trusts the certificate that is served"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use time::Duration;

    use super::*;
    use crate::pki::{Bundle, mint};
    use crate::rotation::clock::{Moment, Span};
    use crate::rotation::replica::FRESH;
    use crate::rotation::state::{Configuration, Hook};
    use crate::rotation::write::{Failure, Write};
    use crate::telemetry::notices;

    fn pair() -> Pem {
        let names = ["imageswap.ns.svc".to_owned()];
        mint(&names, Duration::days(1), OffsetDateTime::now_utc()).unwrap()
    }

    /// Whose only other endpoint serves this leaf.
    struct Rival(Vec<u8>);

    impl Store for Rival {
        async fn observe(&self) -> Result<Observed, Failure> {
            Err(Failure::Failed("it is not asked".to_owned()))
        }

        async fn apply(&self, _: &Write) -> Result<(), Failure> {
            Err(Failure::Failed("it is not asked".to_owned()))
        }

        async fn endpoints(&self) -> Result<Vec<Endpoint>, Failure> {
            Ok(vec![Endpoint::new("other", Ok(self.0.clone()))])
        }
    }

    fn seen(version: &str, pem: &Pem, bundle: &str) -> Arc<Observed> {
        Arc::new(Observed {
            configuration: Some(Configuration {
                version: version.to_owned(),
                uid: String::new(),
                generation: None,
                hooks: vec![Hook {
                    index: 0,
                    name: "hook".to_owned(),
                    bundle: bundle.as_bytes().to_vec(),
                    ..Hook::default()
                }],
            }),
            secret: Some(Secret::minted(version, pem)),
        })
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
        let (kept, written_back) = watch::channel(None);
        let clock = Clock::system();
        let look = |observed, age| {
            let at = clock.now().steady.saturating_sub(age);
            let read = Span { from: at, to: at };
            Some(Look { observed, read })
        };
        let (notices, told) = notices::channel();
        let again = Arc::new(Notify::new());
        let believed = watch::channel(Belief::default()).0;
        let replica = Replica {
            store: Rival(one.leaf().unwrap()),
            believed,
            again: again.clone(),
            brought: None,
            required: vec!["imageswap.ns.svc".to_owned()],
            trust_delay: std::time::Duration::from_secs(60),
            writes_bundles: true,
            source: "the Secret".to_owned(),
            seen: seen_by,
            serving,
            kept,
            clock: clock.clone(),
            metrics: metrics.clone(),
            notices,
        };
        let task = tokio::spawn(async move { replica.follow().await });
        let (both, reloads) = (format!("{}{}", one.ca, two.ca), &metrics.reloads);
        let count = |result| reloads.with_label_values(&[result]).get();
        // What is seen; then whose leaf is served, whether it is trusted, and the reloads.
        let rows = [
            (seen("1", &rubbish, ""), None, 0, (0, 1)),
            // Nothing to serve, but another endpoint serves what is believed for longer.
            (seen("2", &two, &both), None, 0, (0, 1)),
            // It is known to one of them.
            (seen("2", &one, ""), Some(&one), 0, (1, 1)),
            (seen("3", &one, &one.ca), Some(&one), 1, (1, 1)),
            (seen("4", &rubbish, &one.ca), Some(&one), 1, (1, 2)),
            (seen("4", &rubbish, &one.ca), Some(&one), 1, (1, 2)),
            (seen("5", &two, &one.ca), Some(&one), 1, (1, 2)),
            // Trusted, but not by all for sure.
            (seen("6", &two, &both), Some(&one), 1, (1, 2)),
            (seen("6", &two, &both), Some(&two), 1, (2, 2)),
            (seen("7", &two, ""), Some(&two), 0, (2, 2)),
        ];
        for (row, (seen, leaf, trusted, (ok, failed))) in rows.into_iter().enumerate() {
            // The eighth row is seen, and seen again after the trust delay.
            let passed = if row == 8 { 60_000 } else { 0 };
            tokio::time::sleep(std::time::Duration::from_millis(passed)).await;
            if row == 8 {
                let asked = tokio::time::timeout(std::time::Duration::ZERO, again.notified());
                assert!(asked.await.is_ok(), "nobody asked for another look");
            }
            sender.send_replace(look(seen, std::time::Duration::ZERO));
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            let serves = served.borrow().as_ref().map(|served: &Serving| {
                [&one, &two].map(|pem| {
                    let ca = Bundle::read(pem.ca.as_bytes());
                    served.pair.is_trusted(&ca, OffsetDateTime::now_utc())
                })
            });
            let expected = leaf.map(|leaf| [leaf.ca == one.ca, leaf.ca == two.ca]);
            assert_eq!(serves, expected, "row {row}");
            assert_eq!(metrics.trusted.get(), trusted, "row {row}");
            assert_eq!((count("ok"), count("failed")), (ok, failed), "row {row}");
            let is_rubbish = matches!(row, 0 | 4 | 5);
            assert_eq!(metrics.refused.get() == 1, is_rubbish, "row {row}");
        }
        // Once for each that is bad.
        let mut refused = 0;
        while let Some(notice) = told.next().now_or_never() {
            assert_eq!(notice.reason, Reason::CertificateRefused);
            refused += 1;
        }
        assert_eq!(refused, 2);
        let kept = written_back.borrow().clone().unwrap();
        assert_eq!((&kept.chain, &kept.key), (&two.chain, &two.key));
        // The same, but brought from now on: not to be written back.
        let mut brought = (*seen("8", &two, "")).clone();
        brought.secret.as_mut().unwrap().source = Source::Annotated;
        sender.send_replace(look(Arc::new(brought), std::time::Duration::ZERO));
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        assert!(written_back.borrow().is_none());
        // What the caBundle alone believes, but seen too long ago.
        for (age, reloads) in [(FRESH + FRESH, 2), (FRESH, 3)] {
            sender.send_replace(look(seen("9", &one, &one.ca), age));
            tokio::time::sleep(std::time::Duration::from_micros(1)).await;
            assert_eq!(count("ok"), reloads, "{age:?}");
        }
        assert!(metrics.not_after.with_label_values(&["leaf"]).get() > 0);
        // What is seen too late says nothing of what is there.
        for (age, seen) in [
            (std::time::Duration::ZERO, seen("10", &rubbish, &one.ca)),
            (FRESH + FRESH, seen("11", &one, &one.ca)),
        ] {
            sender.send_replace(look(seen, age));
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            assert_eq!(metrics.refused.get(), 1, "{age:?}");
        }
        assert!(!task.is_finished());
    }

    /// A replica that serves what is in files, and what it is told and tells.
    struct Story {
        seen: watch::Sender<Seen>,
        files: watch::Sender<Secret>,
        served: watch::Receiver<Option<Serving>>,
        metrics: Metrics,
        told: notices::Inbox,
        clock: Clock,
    }

    impl Story {
        /// The others serve `rival`.
        fn begin(files: Secret, rival: &Pem) -> Self {
            let (began, wall) = (Instant::now(), OffsetDateTime::now_utc());
            let clock = Clock::of(move || Moment {
                wall: wall + began.elapsed(),
                is_told: false,
                steady: began.elapsed(),
            });
            let required = vec!["imageswap.ns.svc".to_owned()];
            let pair = files.judge(&required, wall).unwrap();
            let (seen, seen_by) = watch::channel(None);
            let (files, files_now) = watch::channel(files);
            let (serving, served) = watch::channel(None);
            let (notices, told) = notices::channel();
            let metrics = Metrics::new().unwrap();
            let replica = Replica {
                store: Rival(rival.leaf().unwrap()),
                believed: watch::channel(Belief::default()).0,
                again: Arc::default(),
                brought: Some(BroughtPair {
                    pair,
                    paths: Paths::default(),
                    files: files_now,
                    is_unreadable: watch::channel(false).1,
                }),
                required,
                trust_delay: std::time::Duration::from_secs(60),
                writes_bundles: true,
                source: "files".to_owned(),
                seen: seen_by,
                serving,
                kept: watch::channel(None).0,
                clock: clock.clone(),
                metrics: metrics.clone(),
                notices,
            };
            tokio::spawn(async move { replica.follow().await });
            Self {
                seen,
                files,
                served,
                metrics,
                told,
                clock,
            }
        }

        /// A look at the files as they are, beside this caBundle.
        fn look(&self, bundle: &str) {
            let secret = self.files.borrow().clone();
            let mut observed = (*seen("1", &secret.pem(), bundle)).clone();
            observed.secret = Some(secret);
            let (observed, at) = (Arc::new(observed), self.clock.now().steady);
            let read = Span { from: at, to: at };
            self.seen.send_replace(Some(Look { observed, read }));
        }

        /// What is served so many seconds later.
        async fn serves(&self, after: u64) -> Option<Vec<u8>> {
            tokio::time::sleep(std::time::Duration::from_secs(after)).await;
            let served = self.served.borrow();
            served.as_ref().map(|served| served.pair.leaf().to_vec())
        }

        fn refused(&self) -> (i64, u64) {
            let failed = self.metrics.reloads.with_label_values(&["failed"]).get();
            (self.metrics.refused.get(), failed)
        }
    }

    fn file(version: &str, pem: &Pem, source: Source) -> Secret {
        Secret {
            source,
            ..Secret::minted(version, pem)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn files_are_judged_while_the_cluster_is_silent_and_served_once_the_old_have_ended() {
        let names = ["imageswap.ns.svc".to_owned()];
        let old = mint(&names, Duration::seconds(100), OffsetDateTime::now_utc()).unwrap();
        let new = pair();
        let rubbish = Pem {
            key: "rubbish".to_owned(),
            ..new.clone()
        };
        for is_seen_before in [false, true] {
            let file = |version, pem| file(version, pem, Source::Files);
            let story = Story::begin(file("1", &old), &old);
            if is_seen_before {
                story.look(&old.ca);
            }
            assert_eq!(story.serves(10).await, old.leaf());
            story.files.send_replace(file("2", &rubbish));
            assert_eq!(story.serves(11).await, old.leaf());
            assert_eq!(story.refused(), (0, 0));
            assert_eq!(story.serves(4).await, old.leaf());
            assert_eq!(story.refused(), (1, 1));
            let told = story.told.next().now_or_never().unwrap();
            assert_eq!(told.reason, Reason::CertificateRefused);
            story.files.send_replace(file("3", &new));
            assert_eq!(story.serves(80).await, old.leaf());
            assert_eq!(story.refused(), (0, 1));
            // This clock may be fast by ten seconds.
            assert_eq!(story.serves(7).await, new.leaf());
            let ok = story.metrics.reloads.with_label_values(&["ok"]);
            assert_eq!((ok.get(), story.refused()), (2, (0, 1)));
            // It can be seen again, and says what can't be helped now.
            story.look(&old.ca);
            assert_eq!(story.serves(80).await, new.leaf());
        }
    }

    /// Whoever injects the caBundle has the same files, and was first.
    #[tokio::test(start_paused = true)]
    async fn files_without_a_ca_are_served_when_the_cluster_is_silent() {
        let (old, new) = (pair(), pair());
        let file = |version, pem| file(version, pem, Source::FilesAlone);
        let story = Story::begin(file("1", &old), &old);
        story.look(&old.ca);
        assert_eq!(story.serves(1).await, old.leaf());
        story.files.send_replace(file("2", &new));
        assert_eq!(story.serves(11).await, old.leaf());
        assert_eq!(story.serves(3).await, new.leaf());
        // Seen not to be believed yet.
        story.files.send_replace(file("3", &old));
        story.look(&new.ca);
        assert_eq!(story.serves(200).await, new.leaf());
    }

    #[tokio::test(start_paused = true)]
    async fn a_minute_without_a_look_is_no_silence() {
        let names = ["imageswap.ns.svc".to_owned()];
        let old = mint(&names, Duration::seconds(20), OffsetDateTime::now_utc()).unwrap();
        let new = pair();
        let story = Story::begin(file("1", &old, Source::Files), &old);
        story.look(&old.ca);
        assert_eq!(story.serves(10).await, old.leaf());
        // Seen not to be believed; then the old one ends.
        story.files.send_replace(file("2", &new, Source::Files));
        story.look(&old.ca);
        assert_eq!(story.serves(60).await, old.leaf());
        assert_eq!(story.serves(20).await, new.leaf());
    }

    /// When both are there at one moment, what was seen counts.
    #[tokio::test(start_paused = true)]
    async fn nobody_acts_blindly_on_what_was_just_seen() {
        let (old, new) = (pair(), pair());
        let file = |version, pem| file(version, pem, Source::FilesAlone);
        for trial in 0..10 {
            let story = Story::begin(file("1", &old), &old);
            story.look(&old.ca);
            assert_eq!(story.serves(1).await, old.leaf());
            story.files.send_replace(file("2", &new));
            for _ in 0..12 {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
            story.look(&old.ca);
            assert_eq!(story.serves(10).await, old.leaf(), "trial {trial}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_nothing_to_serve_does_not_wait_for_a_cluster_that_is_gone() {
        let (old, new) = (pair(), pair());
        let story = Story::begin(file("1", &new, Source::Files), &old);
        // The others serve what is believed.
        story.look(&old.ca);
        assert_eq!(story.serves(60).await, None);
        assert_eq!(story.serves(20).await, new.leaf());
    }
}
