//! What an installation is like, and what is wrong with it: from facts to findings. Pure.
//!
//! Each finding has an identifier that does not change, a sentence that says what is the case, and
//! one that says what to do. `pre` is the same for a cluster without an installation.

pub mod pre;
pub mod progress;
mod quantity;
mod rotation;

use serde::Serialize;
use time::OffsetDateTime;

pub use self::rotation::{Rotation, rotation};
use crate::pki::{self, Bundle, Flaw, Pem, Served};
use crate::rotation::driver::LOOK_STEP;
use crate::rotation::plan::{is_worth_waiting, overdue};
use crate::rotation::source::Source;
use crate::rotation::state::{Observed, Secret};
use crate::text::{counted, rfc3339};

/// What was seen of an installation.
#[derive(Debug)]
pub struct Facts {
    /// When.
    pub now: OffsetDateTime,
    /// Whether that is kube-apiserver's word, as the leader has it, and not just this machine's.
    pub is_told: bool,
    /// The namespace of it all.
    pub namespace: String,
    /// The name that kube-apiserver verifies.
    pub host: String,
    /// The Secret and the webhook configuration.
    pub observed: Observed,
    /// The leader's Lease.
    pub lease: Option<Lease>,
    /// What the Deployment says, or why it can't be read; `None` if there is none of our name.
    pub scale: Result<Option<Scale>, String>,
    /// Every endpoint of the Service, ready or not.
    pub replicas: Vec<Replica>,
}

/// How many replicas there are, and of which certificate. One without an address is no endpoint, so that only the
/// Deployment tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// So many are wanted.
    pub wanted: usize,
    /// So many are ready, and have been for as long as is asked for.
    pub available: usize,
    /// Whether its container is told of a certificate in files. A ConfigMap may do so as well, which is not seen here.
    pub names_files: bool,
}

/// The leader's Lease.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Who holds it; nobody if it was given up.
    pub holder: Option<String>,
    /// Since when.
    pub since: Option<OffsetDateTime>,
    /// Until when it is good without renewal.
    pub until: Option<OffsetDateTime>,
}

/// One endpoint.
#[derive(Debug, Clone)]
pub struct Replica {
    /// The Pod's name.
    pub pod: String,
    /// Where it is.
    pub address: String,
    /// Whether the Service sends anybody there.
    pub is_ready: bool,
    /// Whether it is being deleted: it drains, and is nobody's to wait for.
    pub is_leaving: bool,
    /// What it serves, as a handshake shows it, or why none came about.
    pub served: Result<Served, String>,
    /// What its metrics page says, or why it could not be read.
    pub page: Result<Page, String>,
}

/// What is of interest on a metrics page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The version that runs.
    pub version: Option<String>,
    /// SHA-256 of the map file in use.
    pub maps: Option<String>,
    /// Whether it has no such file, or refuses the one that is there. In LEGACY mode it needs none.
    pub refuses_maps: bool,
    /// Whether no rule is in use. In LEGACY mode there is none either.
    pub has_no_rule: bool,
    /// Its lines in error.
    pub lines_in_error: u64,
    /// Whether it leads, by its own account.
    pub leads: bool,
    /// The step of the rotation that is next, if it leads.
    pub step: Option<String>,
    /// Whether its certificate is brought in files, so that the Secret means nothing.
    pub is_from_files: bool,
    /// Whether what it saw last can't be served.
    pub is_refused: bool,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; all is well.
    Note,
    /// Something will go wrong if nobody looks.
    Warning,
    /// Pods are refused, or let through as they are.
    Error,
}

/// Something to be known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is called, in every version.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is the case.
    pub text: String,
    /// What to do.
    pub help: &'static str,
}

/// All of it, to be shown.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether nothing is wrong.
    pub healthy: bool,
    /// The namespace of it all.
    pub namespace: String,
    /// The leader, if there is one.
    pub leader: Option<Leader>,
    /// What comes next in the life of the certificate, and why.
    pub rotation: Rotation,
    /// What is in the Secret, or what is served of files.
    pub certificate: Option<Certificate>,
    /// The webhooks that call the Service.
    pub webhooks: Vec<Webhook>,
    /// Every endpoint of the Service.
    pub replicas: Vec<Seen>,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
}

/// Who leads.
#[derive(Debug, Serialize)]
pub struct Leader {
    /// Its identity, which holds its Pod's name.
    pub holder: String,
    /// Since when, RFC 3339.
    pub since: Option<String>,
    /// The step of the rotation that it finds to be next, by its metrics.
    pub step: Option<String>,
}

/// The pair in the Secret, or of files.
#[derive(Debug, Serialize)]
pub struct Certificate {
    /// SHA-256 of the leaf.
    pub fingerprint: String,
    /// When it ends, RFC 3339.
    pub not_after: String,
    /// Whole days until then.
    pub days_left: i64,
}

/// A webhook.
#[derive(Debug, Serialize)]
pub struct Webhook {
    /// Its name.
    pub name: String,
    /// How many CAs its caBundle holds.
    pub cas: usize,
    /// Whether it believes the leaf in the Secret, or of files.
    pub trusts_secret: bool,
}

/// A replica, as it was seen.
#[derive(Debug, Serialize)]
pub struct Seen {
    /// The Pod's name.
    pub pod: String,
    /// Where it is.
    pub address: String,
    /// Whether the Service sends anybody there.
    pub ready: bool,
    /// Whether it is being deleted.
    pub leaving: bool,
    /// SHA-256 of the leaf that it serves.
    pub leaf: Option<String>,
    /// When that ends, RFC 3339.
    pub not_after: Option<String>,
    /// Whether every webhook believes it.
    pub trusted: bool,
    /// SHA-256 of its map file.
    pub maps: Option<String>,
    /// The version that runs.
    pub version: Option<String>,
}

/// Judges what was seen.
pub fn report(facts: &Facts) -> Report {
    let mut findings = Vec::new();
    let leaf = match facts.is_from_files() {
        true => from_files(facts, &mut findings),
        false => secret(facts, &mut findings),
    };
    webhooks_found(facts, leaf.as_ref(), &mut findings);
    leader_found(facts, &mut findings);
    scale_found(facts, &mut findings);
    replicas_found(facts, leaf.as_ref(), &mut findings);
    maps_found(facts, &mut findings);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Report {
        healthy: findings
            .iter()
            .all(|finding| finding.severity == Severity::Note),
        namespace: facts.namespace.clone(),
        leader: leader(facts),
        rotation: rotation(facts),
        certificate: leaf.as_ref().and_then(|leaf| certificate(leaf, facts.now)),
        webhooks: webhooks(facts, leaf.as_ref()),
        replicas: facts
            .replicas
            .iter()
            .map(|replica| seen(replica, facts))
            .collect(),
        findings,
    }
}

fn finding(
    findings: &mut Vec<Finding>,
    (id, severity): (&'static str, Severity),
    text: impl Into<String>,
    help: &'static str,
) {
    findings.push(Finding {
        id,
        severity,
        text: text.into(),
        help,
    });
}

/// What to do where there are no maps.
const CREATE_MAPS: &str = "create the ConfigMap imageswap-maps with the key maps (docs/install.md)";

/// What to do where there is no rule in them.
const FILL_MAPS: &str =
    "give the ConfigMap imageswap-maps its rules; `default::` says that nothing is to be swapped";

use Severity::{Error, Note, Warning};

/// The leaf in the Secret, if it can be served.
fn secret(facts: &Facts, findings: &mut Vec<Finding>) -> Option<Served> {
    let Some(secret) = &facts.observed.secret else {
        finding(
            findings,
            ("secret-missing", Error),
            format!(
                "there is no Secret with a certificate{}",
                facts.unless_files()
            ),
            "the leader makes one within seconds; if it does not, its log says why",
        );
        return None;
    };
    match secret.judge(std::slice::from_ref(&facts.host), facts.now) {
        // Nobody but its keeper replaces it.
        Err(flaw) if secret.source != Source::Minted => {
            let source = secret.source;
            finding(
                findings,
                ("secret-unusable", Error),
                format!(
                    "{} can't be served: {flaw}{}",
                    source.name(),
                    facts.unless_files()
                ),
                source.help_if_bad(),
            );
            None
        }
        Err(flaw) => {
            finding(
                findings,
                ("secret-unusable", Error),
                format!("the Secret can't be served: {flaw}{}", facts.unless_files()),
                facts.help_if_minted_is_bad(secret, &flaw),
            );
            None
        }
        Ok(pair) => {
            let help = secret.source.help_if_it_ends();
            let leaf = Served::read(pair.certified.cert.clone())?;
            ends_found(facts, &leaf, pair.ca_not_after, help, findings);
            Some(leaf)
        }
    }
}

/// The leaf that ends first of those that are served: the files themselves are out of reach.
fn from_files(facts: &Facts, findings: &mut Vec<Finding>) -> Option<Served> {
    for replica in &facts.replicas {
        if replica.page.as_ref().is_ok_and(|page| page.is_refused) {
            let serves = match &replica.served {
                Ok(_) => "serves the last good ones",
                Err(_) => "nothing else either",
            };
            finding(
                findings,
                ("files-unusable", Error),
                format!(
                    "{} has seen files that can't be served, and {serves}",
                    replica.pod
                ),
                "its log says what is wrong with them; correct them before it is started anew",
            );
        }
    }
    let leaf = facts.leaves().min_by_key(|leaf| leaf.not_after())?;
    if let Some(not_after) = leaf.not_after() {
        let help = Source::Files.help_if_it_ends();
        ends_found(facts, leaf, not_after, help, findings);
    }
    Some(leaf.clone())
}

fn ends_found(
    facts: &Facts,
    leaf: &Served,
    ca_not_after: OffsetDateTime,
    help: &'static str,
    findings: &mut Vec<Finding>,
) {
    let Some(not_after) = leaf.not_after() else {
        return;
    };
    let not_after = not_after.min(ca_not_after);
    if is_overdue(leaf, not_after, facts.now) {
        finding(
            findings,
            ("certificate-ends", Warning),
            format!("the certificate ends {}", rfc3339(not_after)),
            help,
        );
    }
}

/// Whether a leaf should have been renewed that is of use until then.
fn is_overdue(leaf: &Served, until: OffsetDateTime, now: OffsetDateTime) -> bool {
    leaf.life().is_some_and(|life| until - now < overdue(life))
}

fn webhooks_found(facts: &Facts, leaf: Option<&Served>, findings: &mut Vec<Finding>) {
    if facts.observed.configuration.is_none() {
        finding(
            findings,
            ("webhook-missing", Error),
            "there is no webhook configuration: no image is swapped",
            "apply again what you installed (docs/operations.md, Break-glass), unless it was deleted on purpose",
        );
    } else if facts.observed.hooks().is_empty() {
        finding(
            findings,
            ("webhook-elsewhere", Error),
            "the webhook configuration calls another Service than this one",
            "apply again what you installed, or name the Service with --service",
        );
    }
    for hook in facts.observed.hooks() {
        let bundle = hook.bundle();
        let name = &hook.name;
        if hook.fails_open {
            let (severity, help) = match hook.is_declared {
                true => (Note, "that is declared; as delivered it is Fail"),
                false => (
                    Warning,
                    "if nobody means that to stay, apply again what you installed, or patch it back to Fail (docs/operations.md, Break-glass)",
                ),
            };
            finding(
                findings,
                ("webhook-fails-open", severity),
                format!(
                    "the failurePolicy of {name} is Ignore: Pods that can't be swapped run as they are"
                ),
                help,
            );
        }
        if bundle.is_empty() {
            let fate = fate(hook.fails_open);
            finding(
                findings,
                ("ca-bundle-empty", Error),
                format!("the caBundle of {name} is empty: {fate}"),
                facts.help_if_not_trusted(),
            );
        } else if let Some(Err(why)) = leaf.map(|leaf| leaf.verify(&bundle, &facts.host, facts.now))
        {
            finding(
                findings,
                ("ca-bundle-distrusts", Error),
                format!(
                    "the caBundle of {name} does not believe {}: {why}{}",
                    facts.whose(),
                    facts.unless_files()
                ),
                facts.help_if_not_trusted(),
            );
        }
    }
}

/// What becomes of Pods while calls of a webhook fail.
fn fate(fails_open: bool) -> &'static str {
    match fails_open {
        true => "Pods run as they are, by its failurePolicy",
        false => "Pods are refused",
    }
}

fn leader_found(facts: &Facts, findings: &mut Vec<Finding>) {
    if !facts.is_led() {
        finding(
            findings,
            ("leader-none", Warning),
            "nobody leads: certificates are not renewed, and a caBundle is not repaired",
            "another replica takes over within the lease's time; see the replicas' logs",
        );
    }
    let Some(leader) = leader(facts).filter(|leader| leader.step.as_deref() == Some(LOOK_STEP))
    else {
        return;
    };
    finding(
        findings,
        ("leader-blind", Warning),
        format!(
            "{}, which leads, does not know what to do: certificates are not renewed, and a caBundle is not repaired",
            leader.holder
        ),
        "its log says what it can't read, or that kube-apiservers disagree about the time",
    );
}

fn scale_found(facts: &Facts, findings: &mut Vec<Finding>) {
    match &facts.scale {
        Ok(Some(Scale {
            wanted, available, ..
        })) if available < wanted => finding(
            findings,
            ("replicas-missing", Warning),
            format!(
                "the Deployment wants {}, and has {available} available",
                counted(*wanted, "replica")
            ),
            "`kubectl -n NAMESPACE get pods -l app=imageswap` shows those that are there, and `describe \
             replicaset -l app=imageswap` in place of `get pods` what refuses the others",
        ),
        Ok(_) => {}
        Err(why) => finding(
            findings,
            ("replicas-uncounted", Note),
            format!("can't look at the Deployment: {why}"),
            "ask again as somebody who may read it; whether replicas are missing is not said here",
        ),
    }
}

fn replicas_found(facts: &Facts, leaf: Option<&Served>, findings: &mut Vec<Finding>) {
    if !facts.replicas.iter().any(|replica| replica.is_ready) {
        let help = "`kubectl -n NAMESPACE describe pods -l app=imageswap` says what keeps them";
        let hooks = facts.observed.hooks();
        match hooks.iter().all(|hook| hook.fails_open) {
            _ if hooks.is_empty() => finding(
                findings,
                ("replicas-none", Warning),
                "no replica is ready, and no webhook calls one",
                help,
            ),
            fails_open => finding(
                findings,
                ("replicas-none", Error),
                format!("no replica is ready: {}", fate(fails_open)),
                help,
            ),
        }
    }
    for replica in &facts.replicas {
        let pod = &replica.pod;
        if replica.is_leaving {
            finding(
                findings,
                ("replica-leaving", Note),
                format!("{pod} is being deleted"),
                "it is gone within a minute, or its node is: `kubectl delete pod --force` is for that",
            );
        } else if !replica.is_ready {
            finding(
                findings,
                ("replica-not-ready", Warning),
                format!("{pod} is not ready"),
                "its log says what it waits for",
            );
        }
        match &replica.served {
            Err(_) if replica.is_leaving => {}
            Err(why) => finding(
                findings,
                ("replica-unreachable", Warning),
                format!("{pod} did not answer a handshake: {why}"),
                match &replica.page {
                    Ok(_) => "its metrics can be read, so it is up: its log says what it waits for",
                    Err(_) => {
                        "see whether its node is up and whether a NetworkPolicy is in the way"
                    }
                },
            ),
            Ok(served) => {
                if let Some(why) = distrust(served, facts) {
                    finding(
                        findings,
                        ("replica-untrusted", Error),
                        format!("{pod} serves a leaf that is not believed: {why}"),
                        facts.help_if_not_trusted(),
                    );
                }
                if leaf.is_some_and(|leaf| leaf != served) {
                    other_leaf_found(facts, pod, served, findings);
                }
            }
        }
    }
}

/// One that stays with a leaf that ends soon, while no rotation is under way, does not hear of the Secret: when the
/// leaf has ended, it alone is refused.
fn other_leaf_found(facts: &Facts, pod: &str, served: &Served, findings: &mut Vec<Finding>) {
    let whose = facts.whose();
    let text = format!(
        "{pod} serves another leaf than {whose}{}",
        facts.unless_files()
    );
    match served.not_after() {
        Some(not_after) if !facts.is_staged() && is_overdue(served, not_after, facts.now) => {
            finding(
                findings,
                ("replica-other-leaf", Warning),
                format!("{text}, and that ends {}", rfc3339(not_after)),
                "if it does not change within seconds, its log says why; if the other replicas are well, \
                 delete its Pod",
            );
        }
        _ => finding(
            findings,
            ("replica-other-leaf", Note),
            text,
            "in a rotation it changes within seconds",
        ),
    }
}

fn maps_found(facts: &Facts, findings: &mut Vec<Finding>) {
    let pages = || {
        facts
            .staying()
            .filter_map(|replica| replica.page.as_ref().ok())
    };
    let mut hashes: Vec<_> = pages().filter_map(|page| page.maps.as_ref()).collect();
    hashes.sort();
    hashes.dedup();
    if hashes.len() > 1 {
        finding(
            findings,
            ("maps-differ", Warning),
            format!("the replicas use {} different map files", hashes.len()),
            "a changed ConfigMap reaches every node within a minute or two",
        );
    }
    if pages().any(|page| page.maps.is_none() && page.refuses_maps) {
        finding(
            findings,
            ("maps-none", Warning),
            "a replica has no map file: it swaps nothing",
            CREATE_MAPS,
        );
    }
    if pages().any(|page| page.maps.is_some() && page.has_no_rule) {
        finding(
            findings,
            ("maps-empty", Warning),
            "a replica has a map file without a rule: it swaps nothing",
            FILL_MAPS,
        );
    }
    if pages().any(|page| page.maps.is_some() && page.refuses_maps) {
        finding(
            findings,
            ("maps-refused", Warning),
            "a replica can't use the map file that is there, and uses the one before it",
            "correct the file (`imageswap check` shows what is wrong): a replica that starts now has none to use",
        );
    }
    if let Some(lines) = pages()
        .map(|page| page.lines_in_error)
        .max()
        .filter(|lines| *lines > 0)
    {
        finding(
            findings,
            ("maps-in-error", Warning),
            format!(
                "the map file has {} in error, skipped",
                counted(usize::try_from(lines).unwrap_or(usize::MAX), "line")
            ),
            "`imageswap check` shows which",
        );
    }
    for replica in facts.staying() {
        if let Err(why) = &replica.page {
            finding(
                findings,
                ("replica-silent", Warning),
                format!("the metrics of {} can't be read: {why}", replica.pod),
                "see whether its node is up and whether a NetworkPolicy is in the way",
            );
        }
    }
}

// === what is shown ===

fn leader(facts: &Facts) -> Option<Leader> {
    let lease = facts.lease.as_ref();
    let held = lease.filter(|lease| lease.is_held(facts.now));
    let holder = held.and_then(|lease| lease.holder.as_deref());
    // Of the Lease we see the clock of the holder's node; of the replica, what it does.
    let replica = match holder {
        Some(holder) => facts.replicas.iter().find(|it| holder.contains(&it.pod)),
        None => facts.leading(),
    };
    let holder = holder.or(replica.map(|replica| replica.pod.as_str()))?;
    let page = replica.and_then(|replica| replica.page.as_ref().ok());
    Some(Leader {
        step: page.and_then(|page| page.step.clone()),
        since: held.and_then(|lease| lease.since).map(rfc3339),
        holder: holder.to_owned(),
    })
}

fn certificate(leaf: &Served, now: OffsetDateTime) -> Option<Certificate> {
    let not_after = leaf.not_after()?;
    Some(Certificate {
        fingerprint: leaf.fingerprint(),
        not_after: rfc3339(not_after),
        days_left: (not_after - now).whole_days(),
    })
}

fn webhooks(facts: &Facts, secret: Option<&Served>) -> Vec<Webhook> {
    let hooks = facts.observed.hooks().iter();
    hooks
        .map(|hook| {
            let bundle = hook.bundle();
            Webhook {
                name: hook.name.clone(),
                cas: bundle.len(),
                trusts_secret: secret
                    .is_some_and(|leaf| leaf.verify(&bundle, &facts.host, facts.now).is_ok()),
            }
        })
        .collect()
}

fn seen(replica: &Replica, facts: &Facts) -> Seen {
    let (served, page) = (replica.served.as_ref().ok(), replica.page.as_ref().ok());
    Seen {
        pod: replica.pod.clone(),
        address: replica.address.clone(),
        ready: replica.is_ready,
        leaving: replica.is_leaving,
        leaf: served.map(Served::fingerprint),
        not_after: served.and_then(Served::not_after).map(rfc3339),
        trusted: served.is_some_and(|served| facts.believes(served)),
        maps: page.and_then(|page| page.maps.clone()),
        version: page.and_then(|page| page.version.clone()),
    }
}

/// Why some webhook would refuse it.
fn distrust(served: &Served, facts: &Facts) -> Option<String> {
    let bundles = facts.observed.hooks().iter().map(|hook| hook.bundle());
    bundles
        .filter_map(|bundle: Bundle| served.verify(&bundle, &facts.host, facts.now).err())
        .next()
}

impl Facts {
    /// Whether somebody leads: by the Lease, or by its own account. The Lease is dated by the clock of its holder's
    /// node, which may be behind.
    pub fn is_led(&self) -> bool {
        let lease = self.lease.as_ref();
        lease.is_some_and(|lease| lease.is_held(self.now)) || self.leading().is_some()
    }

    fn leading(&self) -> Option<&Replica> {
        let leads = |replica: &&Replica| replica.page.as_ref().is_ok_and(|page| page.leads);
        self.replicas.iter().find(leads)
    }

    /// Whether files are served, and the Secret means nothing.
    pub fn is_from_files(&self) -> bool {
        self.has_files() == Some(true)
    }

    /// The same, by the replicas' word; while they can't be asked, by the Deployment's, which does not know all that
    /// its container is told.
    fn has_files(&self) -> Option<bool> {
        let pages = self.replicas.iter().filter_map(|it| it.page.as_ref().ok());
        let are_named = || matches!(self.scale, Ok(Some(scale)) if scale.names_files);
        let told = pages.map(|page| page.is_from_files).max();
        told.or_else(|| are_named().then_some(true))
    }

    /// What is to be said besides where it would mean nothing then.
    fn unless_files(&self) -> &'static str {
        match self.has_files() {
            Some(_) => "",
            None => {
                " (which means nothing if files are served: that is not known while no replica's metrics can be read)"
            }
        }
    }

    /// The replicas that are not being deleted.
    fn staying(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(|replica| !replica.is_leaving)
    }

    /// What handshakes showed.
    fn leaves(&self) -> impl Iterator<Item = &Served> {
        self.replicas
            .iter()
            .filter_map(|it| it.served.as_ref().ok())
    }

    /// Whether every webhook believes it. No webhook, no belief; but nothing that refuses it, either.
    fn believes(&self, served: &Served) -> bool {
        !self.observed.hooks().is_empty() && distrust(served, self).is_none()
    }

    /// Whether the leader leaves this pair of the Secret as it is until it begins. How long a new one would live only
    /// the leader knows: the life of this one stands for it.
    fn waits_for(&self, secret: &Secret, pem: &Pem, begins: OffsetDateTime) -> bool {
        let judged = pki::judge(pem, std::slice::from_ref(&self.host), begins);
        let life = judged.map_or(time::Duration::MAX, |pair| pair.life());
        is_worth_waiting(secret, begins, (self.now, self.is_told), life)
    }

    /// What to do about a Secret of the leader's own that can't be served.
    fn help_if_minted_is_bad(&self, secret: &Secret, flaw: &Flaw) -> &'static str {
        match flaw {
            Flaw::NotYet(begins) if self.waits_for(secret, &secret.pem(), *begins) => {
                match self.is_told {
                    true => {
                        "the leader waits for that, as it is within the hour: is kube-apiserver's clock slow?"
                    }
                    false => "the leader waits for that; `imageswap rotate` asks for another one",
                }
            }
            _ => "the leader replaces it within seconds; if it does not, its log says why",
        }
    }

    /// What to do about a caBundle that does not believe whom it should.
    fn help_if_not_trusted(&self) -> &'static str {
        let secret = self.observed.secret.as_ref();
        let source = secret.map(|found| found.source).unwrap_or_default();
        match (self.is_from_files(), source) {
            (true, _) => {
                "with --tls-ca and without --patch-ca-bundle false the leader writes it within seconds, \
                 and its log says what is in the way; else whoever injects it must (docs/install.md)"
            }
            (false, Source::Minted) => {
                "the leader writes it within seconds, and its log says what is in the way; with \
                 --patch-ca-bundle false whoever injects it must add all of ca.crt (docs/install.md)"
            }
            (false, _) => {
                "the leader adds rootca.pem of imageswap-tls-ca within seconds, if that is the CA of \
                 tls.crt; with --patch-ca-bundle false whoever injects it must (docs/install.md)"
            }
        }
    }

    /// Whether a rotation is under way, in which replicas may serve what they served before.
    fn is_staged(&self) -> bool {
        let secret = self.observed.secret.as_ref();
        !self.is_from_files() && secret.is_some_and(Secret::has_next)
    }

    /// Which leaf all are compared with.
    fn whose(&self) -> &'static str {
        match self.is_from_files() {
            true => "the leaf of the files",
            false => "the Secret's leaf",
        }
    }
}

impl Lease {
    fn is_held(&self, now: OffsetDateTime) -> bool {
        self.holder
            .as_ref()
            .is_some_and(|holder| !holder.is_empty())
            && self.until.is_some_and(|until| until > now)
    }
}

impl Page {
    /// Reads a metrics page in Prometheus' text form; what is not known is skipped.
    pub fn read(text: &str) -> Self {
        let mut page = Self::default();
        for line in text.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let label = |name: &str| {
                let (_, rest) = series.split_once(&format!("{name}=\""))?;
                rest.split_once('"').map(|(value, _)| value.to_owned())
            };
            let name = series.split('{').next().unwrap_or(series);
            match name {
                "imageswap_build_info" => page.version = label("version"),
                "imageswap_maps_info" if value == "1" => page.maps = label("hash"),
                "imageswap_maps_refused" => page.refuses_maps = value == "1",
                "imageswap_maps_rules" => page.has_no_rule = value == "0",
                "imageswap_maps_lines_in_error" => {
                    page.lines_in_error = value.parse().unwrap_or_default();
                }
                "imageswap_leader" => page.leads = value == "1",
                "imageswap_rotation_step_info" if value == "1" => page.step = label("step"),
                "imageswap_certificate_from_files" => page.is_from_files = value == "1",
                "imageswap_certificate_refused" => page.is_refused = value == "1",
                _ => {}
            }
        }
        page
    }
}

#[cfg(test)]
mod tests;
