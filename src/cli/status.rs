//! `imageswap status`: one screen about a live installation, and what is wrong with it.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use time::OffsetDateTime;

use super::args::{Output, OutputArgs};
use super::names::NameArgs;
use super::terminal::{self, BOLD, DIM, ERROR, GOOD, WARNING};
use crate::cluster::kubernetes::{Kubernetes, Reach};
use crate::cluster::place::{Place, Surroundings, Wish, place};
use crate::status::{Finding, Report, Severity, report};
use crate::telemetry::metrics::Metrics;

/// Looks at the Secret, the webhook configuration, the leader's Lease, and every replica: the
/// certificate that it serves, as a handshake shows it, and its map file.
///
/// It runs in a Pod of the installation, or with a kubeconfig (KUBECONFIG or ~/.kube/config) whose
/// user may read these objects and forward ports. Exits with 1 if something is wrong.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
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
    let report = runtime.block_on(look(args))?;
    let mut out = terminal::stdout();
    match args.output.form {
        Output::Json => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        Output::Text => print(&mut out, &report)?,
    }
    out.flush()?;
    Ok(ExitCode::from(u8::from(!report.healthy)))
}

async fn look(args: &Args) -> anyhow::Result<Report> {
    let (place, reach) = whereabouts()?;
    let names = args.names.names(place);
    // Nothing is written, so nobody needs to know who asks; and nobody reads the metrics.
    let cluster = Kubernetes::new(place, names, "imageswap-status".to_owned(), Metrics::new()?);
    let facts = cluster
        .await?
        .survey(reach, OffsetDateTime::now_utc())
        .await;
    let facts = facts.map_err(|why| anyhow!("can't look at the cluster: {why}"))?;
    Ok(report(&facts))
}

/// A kubeconfig that is named goes before the Pod that this may be.
pub(super) fn whereabouts() -> anyhow::Result<(Place, Reach)> {
    match place(Wish::On, false, Surroundings::look()) {
        Ok(Place::Pod) => Ok((Place::Pod, Reach::Direct)),
        Ok(place) => Ok((place, Reach::Forwarded)),
        Err(_) => bail!("there is no cluster to look at: set KUBECONFIG, or run this in a Pod"),
    }
}

// === for people ===

fn print(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let verdict = match report.healthy {
        true => format!("{GOOD}healthy{GOOD:#}"),
        false => format!("{ERROR}not healthy{ERROR:#}"),
    };
    writeln!(
        out,
        "{BOLD}ImageSwap in {}{BOLD:#}: {verdict}",
        report.namespace
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
            webhook.name, webhook.cas
        )?;
    }
    match &report.leader {
        Some(leader) => writeln!(
            out,
            "  leader       {} since {}; next step: {}",
            leader.holder,
            leader.since.as_deref().unwrap_or("?"),
            leader.step.as_deref().unwrap_or("?")
        )?,
        None => writeln!(out, "  leader       none")?,
    }
    replicas(out, report)?;
    report
        .findings
        .iter()
        .try_for_each(|finding| print_finding(out, finding))
}

fn replicas(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let width = report
        .replicas
        .iter()
        .map(|replica| replica.pod.len())
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
        let cut = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), short);
        writeln!(
            out,
            "{:width$}  {:5}  {:12}  {:7}  {:20}  {:12}  {}",
            replica.pod,
            yes(replica.ready),
            cut(&replica.leaf),
            yes(replica.trusted),
            replica.not_after.as_deref().unwrap_or("-"),
            cut(&replica.maps),
            replica.version.as_deref().unwrap_or("-"),
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
        finding.id, finding.text
    )?;
    writeln!(out, "  {DIM}help:{DIM:#} {}", finding.help)
}

/// Enough of a hash to tell two apart.
fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}
