//! `imageswap rotate`: asks the leader for a new certificate, and waits for it if told to.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::args::{duration, flag};
use super::heard;
use super::names::NameArgs;
use super::status::cluster;
use super::terminal;
use crate::rotation::driver::Store;
use crate::rotation::source::Source;
use crate::rotation::state::Secret;
use crate::status::progress::Progress;
use crate::status::{Facts, rotation};
use crate::text::visible;

/// How often to look.
const LOOK: Duration = Duration::from_millis(500);

/// Ask for a new certificate
#[derive(Debug, clap::Args)]
#[command(after_help = "\
    Asks the leader for a new CA and certificate. The old CA stays believed until every replica \
    serves the new certificate, so that nobody notices; that takes a minute or two.\n\n\
    It runs in a Pod of the installation, or with a kubeconfig (KUBECONFIG or ~/.kube/config) \
    whose user may do what `imageswap status` takes, and change the Secret.")]
pub(super) struct Args {
    /// Wait until it is done
    #[arg(long, env = "IMAGESWAP_ROTATE_WAIT", value_parser = flag)]
    wait: bool,

    /// How long to wait, with --wait
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5m", env = "IMAGESWAP_ROTATE_TIMEOUT")]
    timeout: Duration,

    #[command(flatten)]
    names: NameArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    runtime.block_on(rotate(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn rotate(args: &Args) -> anyhow::Result<()> {
    let (cluster, reach) = cluster(&args.names, "imageswap-rotate").await?;
    let facts = cluster.survey(reach).await;
    let facts = facts.map_err(|why| {
        let server = cluster.server();
        anyhow!(
            "can't look at the installation at {server}: {}",
            visible(&why.to_string())
        )
    })?;
    let mut before = refuse_what_is_in_vain(&facts)?.clone();
    if !facts.is_led() {
        say("nobody leads now; it is begun once somebody does (`imageswap status`)")?;
    }
    // Another text each time: the same one is the same request.
    let request = OffsetDateTime::now_utc().format(&Rfc3339)?;
    let asked = cluster.ask_for_rotation(&request).await;
    asked.map_err(|why| anyhow!("can't ask for a rotation: {}", visible(&why.to_string())))?;
    say("asked for a rotation; `imageswap status` shows how it goes")?;
    if !args.wait {
        return Ok(());
    }
    let (started, mut last) = (Instant::now(), Progress::Asked);
    while last != Progress::Done {
        if started.elapsed() > args.timeout {
            let goes_on =
                |why| format!("{why}; it goes on by itself, and the leader's log says more");
            let why = match cluster.survey(reach).await {
                Ok(facts) if !facts.is_led() => {
                    "nobody leads; it goes on once somebody does, and `imageswap status` and the replicas' logs say \
                     what keeps them"
                        .to_owned()
                }
                Ok(facts) => goes_on(rotation(&facts).reason),
                Err(why) => goes_on(format!("can't look at the installation: {why}")),
            };
            bail!(
                "the rotation is not done within {:?}, it is {}: {}",
                args.timeout,
                words(last),
                visible(&why)
            );
        }
        tokio::time::sleep(LOOK).await;
        // A look that fails is made again.
        if let Ok(observed) = cluster.observe().await {
            let now = Progress::of(&observed, &request, &before);
            if now == Progress::Undone {
                bail!(
                    "the staged pair was taken away, and nothing is rotated: somebody put the Secret back as it was; \
                     stop that (a tool that applies it, or a backup that is restored), then ask again"
                );
            }
            // Another rotation may have been under way.
            if let Some(secret) = observed.secret.filter(|_| now == Progress::Asked) {
                before = secret;
            }
            if now > last {
                say(words(now))?;
                last = now;
            }
        }
    }
    Ok(())
}

/// What nobody would carry out, or not to its end. Returns the Secret as it is.
fn refuse_what_is_in_vain(facts: &Facts) -> anyhow::Result<&Secret> {
    const NOT_OURS: &str =
        "the certificate is not ImageSwap's own: renew it where it comes from (docs/install.md)";
    match &facts.observed.secret {
        _ if facts.is_from_files() => bail!(NOT_OURS),
        None => bail!("there is no Secret yet; `imageswap status` says more"),
        Some(secret) if secret.source != Source::Minted => bail!(NOT_OURS),
        Some(_) if facts.observed.hooks().is_empty() => bail!(
            "no webhook calls the Service, so a new CA could not be made known; `imageswap status` says \
             more"
        ),
        Some(secret) => Ok(secret),
    }
}

fn words(progress: Progress) -> &'static str {
    match progress {
        Progress::Asked => "not begun",
        Progress::Staged => "staged: the new CA is being made known",
        Progress::Promoted => "promoted: the replicas take the new certificate",
        Progress::Undone => "undone: the staged pair was taken away",
        Progress::Done => "done: every replica serves it, and the old CA is gone",
    }
}

/// What is to be done is done, whoever hears of it.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = terminal::stdout();
    heard(writeln!(out, "{text}").and_then(|()| out.flush()))
}
