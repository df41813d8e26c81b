//! The rules: loaded at the start, then kept as their file is.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use tracing::{error, info, warn};

use super::args::Args;
use super::tasks::supervise;
use crate::cli::args::{Mode, example};
use crate::cluster::place::Place;
use crate::maps::{Diagnostic, Maps, Rules, Severity};
use crate::maps_file::{Follower, Loaded};
use crate::telemetry::logs::Sparingly;
use crate::telemetry::metrics::{Metrics, set_count};
use crate::telemetry::notices::{Notices, Reason};
use crate::text::{counted, shortened};

/// How often the map file is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// That it can't be looked at is logged this often.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// How many lines in error are logged, and how many warnings; `check` shows more.
const MAX_ERRORS: usize = 1_000;
const MAX_WARNINGS: usize = 20;

pub(super) type SharedRules = Arc<ArcSwap<Rules>>;

/// The rules to begin with, and what follows their file.
///
/// In a cluster the file is a ConfigMap's that may come later: until then nothing is swapped.
pub(super) fn load(
    args: &Args,
    place: Place,
    metrics: &Metrics,
    notices: &Notices,
) -> anyhow::Result<(SharedRules, Option<Follower>)> {
    let share = |rules| Arc::new(ArcSwap::from_pointee(rules));
    if let Some(hint) = args.rules.without_effect() {
        warn!("{hint}");
    }
    if args.rules.mode == Mode::Legacy {
        warn!("LEGACY mode is deprecated: a map file says the same and more (docs/maps.md)");
        if args.rules.image_prefix.is_empty() {
            warn!("IMAGE_PREFIX is empty: no image is swapped");
        }
        let rules = args.rules.legacy();
        let sample = rules.swap("nginx");
        if sample.is_invalid()
            && let Err(why) = &sample.outcome
        {
            warn!("no image is swapped, for IMAGE_PREFIX makes no image reference of any: {why}");
        }
        return Ok((share(rules), None));
    }
    let Some(path) = args.rules.file() else {
        if place != Place::Machine {
            return awaited(args, metrics);
        }
        warn!(
            "no map file is named (--maps FILE): a built-in example sends Docker Hub's images to \
             my-registry.example.com"
        );
        return Ok((share(publish(example()?, metrics, notices)), None));
    };
    if place != Place::Machine && matches!(path.try_exists(), Ok(false)) {
        return awaited(args, metrics);
    }
    let (follower, loaded) = Follower::start(path, args.strict_maps)?;
    Ok((share(publish(loaded, metrics, notices)), Some(follower)))
}

/// No rules, until the file is there.
fn awaited(args: &Args, metrics: &Metrics) -> anyhow::Result<(SharedRules, Option<Follower>)> {
    metrics.maps_refused.set(1);
    let path = args.rules.file_to_come();
    warn!(
        path = %path.display(),
        "there is no map file: no image is swapped until there is one; create the ConfigMap \
         imageswap-maps with the key `maps`"
    );
    let (none, _) = Maps::parse(b"")?;
    let rules = Arc::new(ArcSwap::from_pointee(Rules::Maps(Box::new(none))));
    Ok((rules, Some(Follower::awaiting(path, args.strict_maps))))
}

/// Looks at the map file for ever; the last good one stays in use.
pub(super) async fn follow(
    follower: Follower,
    rules: SharedRules,
    metrics: Metrics,
    notices: Notices,
) -> Infallible {
    let (path, strict) = (follower.path().to_owned(), follower.is_strict());
    let mut first = Some(follower);
    let look = || {
        let follower = first.take();
        let follower = follower.unwrap_or_else(|| Follower::anew(path.clone(), strict));
        look(follower, &rules, &metrics, &notices)
    };
    supervise("maps", &metrics, look).await
}

async fn look(
    mut follower: Follower,
    rules: &SharedRules,
    metrics: &Metrics,
    notices: &Notices,
) -> Infallible {
    let (path, strict) = (follower.path().to_owned(), follower.is_strict());
    let sparingly = Sparingly::new(SAY_AGAIN);
    loop {
        tokio::time::sleep(LOOK).await;
        // Reading a disk may take time, and must not take it from reviews.
        let looked = tokio::task::spawn_blocking(move || {
            let found = follower.look(Instant::now());
            (follower, found)
        });
        let found;
        (follower, found) = match looked.await {
            Ok(looked) => looked,
            Err(error) => {
                if sparingly.may() {
                    error!(%error, "reading the map file failed; the rules in use stay");
                }
                refused(metrics);
                (Follower::anew(path.clone(), strict), None)
            }
        };
        match found {
            None => {}
            Some(Ok(loaded)) => rules.store(Arc::new(publish(loaded, metrics, notices))),
            Some(Err(error)) => {
                let note = format!("{error}; the rules in use stay");
                error!("{note}");
                refused(metrics);
                notices.tell(Reason::MapsRefused, note);
            }
        }
    }
}

/// Counts a file that is not used.
fn refused(metrics: &Metrics) {
    metrics.maps_loads.with_label_values(&["failed"]).inc();
    metrics.maps_refused.set(1);
}

/// Counts and logs what is loaded.
fn publish(loaded: Loaded, metrics: &Metrics, notices: &Notices) -> Rules {
    let (rules, errors) = (loaded.maps.len(), loaded.errors());
    metrics.maps_loads.with_label_values(&["ok"]).inc();
    metrics.maps_refused.set(0);
    // Without one that could apply it is as if there were none, which an alert watches.
    let is_live = loaded.maps.has_live_rule();
    set_count(&metrics.maps_rules, if is_live { rules } else { 0 });
    set_count(&metrics.maps_lines_in_error, errors);
    metrics
        .maps_loaded
        .set(OffsetDateTime::now_utc().unix_timestamp());
    metrics.maps_info.reset();
    metrics.maps_info.with_label_values(&[&loaded.hash]).set(1);
    info!(rules, errors, hash = loaded.hash, "loaded the map file");
    let mut more = loaded.findings.listed().len() + loaded.findings.unlisted();
    for found in loaded.findings.first(MAX_ERRORS, MAX_WARNINGS) {
        log(found);
        more -= 1;
    }
    if more > 0 {
        warn!(
            "{} in the map file; `imageswap check` shows more",
            counted(more, "more finding")
        );
    }
    if let Some(first) = loaded.findings.first_error() {
        // The same in every replica that has this file, so that it becomes one Event.
        let note = format!(
            "the map file {} has {} in error, skipped; the first is line {}: {}",
            shortened(&loaded.hash, 12),
            counted(errors, "line"),
            first.place.line,
            first.message
        );
        notices.tell(Reason::MapsInError, note);
    }
    Rules::Maps(Box::<Maps>::new(loaded.maps))
}

fn log(found: &Diagnostic) {
    let (line, text, code) = (found.place.line, found.place.text.trim(), found.code);
    let help = found.help.as_deref();
    match found.severity {
        Severity::Error => error!(
            line,
            text, code, help, "map file: {}; skipped", found.message
        ),
        Severity::Warning => warn!(line, text, code, help, "map file: {}", found.message),
    }
}
