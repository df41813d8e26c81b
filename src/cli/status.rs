//! `imageswap status`: one screen about a live installation, and what is wrong with it; or, with
//! `--pre`, about a cluster that is to get one, and what is in the way.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};

use super::args::{Output, OutputArgs, flag};
use super::heard;
use super::names::NameArgs;
use super::serve::settings;
use super::terminal::{self, BOLD, DIM, ERROR, GOOD, WARNING};
use crate::cluster::kubernetes::{Kubernetes, Reach};
use crate::cluster::place::{Place, Surroundings, Wish, place};
use crate::rotation::clock::Clock;
use crate::status::{Finding, Report, Rotation, Severity, pre, report};
use crate::telemetry::metrics::Metrics;
use crate::text::{shortened, visible};

/// Show a live installation, and what is wrong with it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
    Looks at the Secret, the webhook configuration, the leader's Lease, the Deployment, and every replica: the \
    certificate that it serves, as a handshake shows it, and its map file.\n\n\
    It runs in a Pod of the installation, or with a kubeconfig (KUBECONFIG or ~/.kube/config) \
    whose user may read these objects and forward ports. Exits with 1 if something is wrong, \
    and with 2 if it can't look.")]
pub(super) struct Args {
    /// Look at the cluster before an installation: what would be in its way. Nothing is changed
    #[arg(long, value_parser = flag, env = "IMAGESWAP_STATUS_PRE")]
    pre: bool,

    #[command(flatten)]
    names: NameArgs,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    let found = runtime.block_on(look(args))?;
    let mut out = terminal::stdout();
    let printed = match (args.output.form, &found) {
        (Output::Json, Found::Live(report)) => {
            writeln!(out, "{}", serde_json::to_string(report)?)
        }
        (Output::Json, Found::Before(report)) => {
            writeln!(out, "{}", serde_json::to_string(report)?)
        }
        (Output::Text, Found::Live(report)) => print(&mut out, report),
        (Output::Text, Found::Before(report)) => print_before(&mut out, report),
    };
    // The exit code says it, too.
    heard(printed.and_then(|()| out.flush()))?;
    let (Found::Live(Report { healthy, .. }) | Found::Before(pre::Report { healthy, .. })) = found;
    Ok(ExitCode::from(u8::from(!healthy)))
}

/// What was looked at.
enum Found {
    Live(Report),
    Before(pre::Report),
}

async fn look(args: &Args) -> anyhow::Result<Found> {
    let (cluster, reach) = cluster(&args.names, "imageswap-status").await?;
    let found = match args.pre {
        true => cluster.preview().await.map(|facts| {
            let read = |found: &pre::Variables| settings(found, cluster.names());
            Found::Before(pre::report(&facts, read))
        }),
        false => cluster
            .survey(reach)
            .await
            .map(|facts| Found::Live(report(&facts))),
    };
    found.map_err(|why| {
        let (server, why) = (cluster.server(), why.to_string());
        anyhow!("can't look at the cluster at {server}: {}", visible(&why))
    })
}

/// The cluster that a person means, as this client of it. Nobody reads its metrics.
pub(super) async fn cluster(names: &NameArgs, who: &str) -> anyhow::Result<(Kubernetes, Reach)> {
    let (place, reach) = whereabouts()?;
    let (names, metrics) = (names.names(place), Metrics::new()?);
    let clock = Clock::system();
    let cluster = Kubernetes::new(place, names, who.to_owned(), metrics, &clock).await?;
    Ok((cluster, reach))
}

/// A kubeconfig that is named goes before the Pod that this may be.
fn whereabouts() -> anyhow::Result<(Place, Reach)> {
    match place(Wish::On, false, Surroundings::look()) {
        Ok(Place::Pod) => Ok((Place::Pod, Reach::Direct)),
        Ok(place) => Ok((place, Reach::Forwarded)),
        Err(_) => bail!("there is no cluster to look at: set KUBECONFIG, or run this in a Pod"),
    }
}

// === for people ===
//
// Much of it others have written, and could forge lines or have a terminal do things: names, the holder of the Lease,
// what a metrics page says, and what findings tell of them.

fn print(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let verdict = match report.healthy {
        true => format!("{GOOD}healthy{GOOD:#}"),
        false => format!("{ERROR}not healthy{ERROR:#}"),
    };
    writeln!(
        out,
        "{BOLD}ImageSwap in {}{BOLD:#}: {verdict}",
        visible(&report.namespace)
    )?;
    match &report.certificate {
        Some(certificate) => writeln!(
            out,
            "  certificate  {}, ends {} ({} days)",
            short(&certificate.fingerprint),
            certificate.not_after,
            certificate.days_left
        )?,
        None => writeln!(out, "  certificate  none")?,
    }
    for webhook in &report.webhooks {
        let trust = if webhook.trusts_secret {
            "believes it"
        } else {
            "does not believe it"
        };
        writeln!(
            out,
            "  webhook      {}: {} CAs, {trust}",
            visible(&webhook.name),
            webhook.cas
        )?;
    }
    match &report.leader {
        Some(leader) => writeln!(
            out,
            "  leader       {} since {}",
            visible(&leader.holder),
            leader.since.as_deref().unwrap_or("?"),
        )?,
        None => writeln!(out, "  leader       none")?,
    }
    let Rotation { step, reason } = &report.rotation;
    writeln!(out, "  rotation     {step}: {}", visible(reason))?;
    replicas(out, report)?;
    report
        .findings
        .iter()
        .try_for_each(|finding| print_finding(out, finding))
}

fn print_before(out: &mut impl Write, report: &pre::Report) -> std::io::Result<()> {
    let verdict = match report.healthy {
        true => format!("{GOOD}nothing is in the way{GOOD:#}"),
        false => format!("{ERROR}not yet{ERROR:#}"),
    };
    let namespace = visible(&report.namespace);
    writeln!(
        out,
        "{BOLD}Installing ImageSwap in {namespace}{BOLD:#}: {verdict}"
    )?;
    writeln!(out, "  kubernetes   {}", visible(&report.kubernetes))?;
    let nodes = report
        .nodes
        .map_or_else(|| "?".to_owned(), |free| free.to_string());
    writeln!(out, "  nodes        {nodes} that take Pods")?;
    let there = match (report.namespace_exists, &report.pod_security) {
        (None, _) => "?".to_owned(),
        (Some(false), _) => "not there yet".to_owned(),
        (Some(true), None) => "there".to_owned(),
        (Some(true), Some(level)) => format!("there; enforces {}", visible(level)),
    };
    writeln!(out, "  namespace    {there}")?;
    let installed = match report.installed {
        pre::Installed::Nothing => "nothing",
        pre::Installed::Imageswap => "ImageSwap 2",
        pre::Installed::Older => "1.5.3, or another program of that name",
        pre::Installed::Unknown => "?",
    };
    writeln!(out, "  installed    {installed}")?;
    let mut findings = report.findings.iter();
    findings.try_for_each(|finding| print_finding(out, finding))
}

fn replicas(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let width = report
        .replicas
        .iter()
        .map(|replica| visible(&replica.pod).chars().count())
        .max()
        .unwrap_or_default();
    if !report.replicas.is_empty() {
        let head = format!(
            "{:width$}  READY  LEAF          TRUSTED  ENDS                  MAPS          VERSION",
            "REPLICA"
        );
        writeln!(out, "\n{DIM}{head}{DIM:#}")?;
    }
    for replica in &report.replicas {
        let yes = |is: bool| if is { "yes" } else { "no" };
        let ready = match replica.leaving {
            true => "goes",
            false => yes(replica.ready),
        };
        let cut = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), short);
        writeln!(
            out,
            "{:width$}  {:5}  {:12}  {:7}  {:20}  {:12}  {}",
            visible(&replica.pod),
            ready,
            cut(&replica.leaf),
            yes(replica.trusted),
            replica.not_after.as_deref().unwrap_or("-"),
            cut(&replica.maps),
            visible(replica.version.as_deref().unwrap_or("-")),
        )?;
    }
    Ok(())
}

fn print_finding(out: &mut impl Write, finding: &Finding) -> std::io::Result<()> {
    let (style, word) = match finding.severity {
        Severity::Error => (ERROR, "error"),
        Severity::Warning => (WARNING, "warning"),
        Severity::Note => (DIM, "note"),
    };
    writeln!(
        out,
        "\n{style}{word}[{}]{style:#}: {}",
        finding.id,
        visible(&finding.text)
    )?;
    writeln!(out, "  {DIM}help:{DIM:#} {}", finding.help)
}

/// Enough of a hash to tell two apart.
fn short(hash: &str) -> String {
    visible(shortened(hash, 12)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Leader, Seen, Webhook};

    /// A terminal would do something for it, or show a line of its own.
    const FOREIGN: &str = "x\u{1b}]0;\u{9b}2J\nhealthy";

    fn lines(print: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> usize {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        // Colours are `\u{1b}[…m`.
        assert!(
            !text.contains("\u{1b}]") && !text.contains('\u{9b}'),
            "{text:?}"
        );
        text.lines().count()
    }

    #[test]
    fn what_others_have_written_does_nothing_to_a_terminal_and_forges_no_line() {
        let foreign = || FOREIGN.to_owned();
        let findings = || {
            vec![Finding {
                id: "id",
                severity: Severity::Error,
                text: foreign(),
                help: "help",
            }]
        };
        let report = Report {
            healthy: false,
            namespace: foreign(),
            leader: Some(Leader {
                holder: foreign(),
                since: None,
                step: None,
            }),
            rotation: Rotation {
                step: "wait",
                reason: foreign(),
            },
            certificate: None,
            webhooks: vec![Webhook {
                name: foreign(),
                cas: 1,
                trusts_secret: true,
            }],
            replicas: vec![Seen {
                pod: foreign(),
                address: foreign(),
                ready: true,
                leaving: false,
                leaf: None,
                not_after: None,
                trusted: true,
                maps: Some(foreign()),
                version: Some(foreign()),
            }],
            findings: findings(),
        };
        // One more would be forged.
        assert_eq!(lines(|out| print(out, &report)), 11);
        let report = pre::Report {
            healthy: false,
            namespace: foreign(),
            kubernetes: foreign(),
            installed: pre::Installed::Nothing,
            namespace_exists: Some(true),
            pod_security: Some(foreign()),
            nodes: None,
            findings: findings(),
        };
        assert_eq!(lines(|out| print_before(out, &report)), 8);
    }
}
