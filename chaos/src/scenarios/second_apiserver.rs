//! Two kube-apiservers, called in turns, while certificates are rotated. The second one's way to
//! etcd is a wire: so it believes what was true a while ago.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::Value;

use crate::cluster::Way;
use crate::command::eventually;
use crate::install::{CONFIGURATION, ca_bundle};
use crate::json::at;
use crate::replicas::{DIALS, leaves, were_dialled};
use crate::rotation::{PATIENCE, ask, finished, is_under_way, served, settled};
use crate::scenario::{Budget, Scenario, Stage};

/// Longer than `LATE_BY`, as it must be.
const DELAY: (&str, &str) = ("IMAGESWAP_TRUST_DELAY", "15s");

/// How late webhook configurations come. An etcd client takes ten seconds for a broken connection.
const LATE_BY: Duration = Duration::from_secs(7);

/// The default `--trust-delay` is a minute. Then another leaf is served, and what nobody needs any more is believed
/// for ten seconds at least.
const AWAY: Duration = Duration::from_secs(62);

pub(super) const LATE: Scenario = Scenario {
    settings: &[DELAY, DIALS],
    second: Some(Way::Late(LATE_BY)),
    ..Scenario::new(
        "apiserver-late",
        "two kube-apiservers, one of which sees webhook configurations 7 s late, and rotations with \
         a trust delay of 15 s",
        late,
    )
};

pub(super) const CUT_OFF: Scenario = Scenario {
    budget: Budget::nothing_but("0 of those to the one that answers, or says that it is ready"),
    second: Some(Way::Whole),
    ..Scenario::new(
        "apiserver-cut-off",
        "two kube-apiservers, one cut off from etcd for longer than the trust delay of a minute, while a \
         rotation goes on, and back before it has ended",
        cut_off,
    )
};

fn late(stage: &Stage<'_>) -> anyhow::Result<()> {
    stage.fault(|| {
        for n in 0..stage.by_extent(3, 1) {
            let token = format!("{}-{n}", stage.namespace);
            let before = ca_bundle(stage.cluster)?;
            ask(stage.cluster, &token)?;
            stage.event(format!("rotation {n} asked for"));
            if n == 0 {
                lags(stage, &before)?;
            }
            finished(stage.cluster, &token)?;
        }
        // What it sees now is what is.
        std::thread::sleep(LATE_BY * 2);
        were_dialled(stage.cluster)
    })
}

/// Whether the second one does not know yet what the first one does.
fn lags(stage: &Stage<'_>, before: &str) -> anyhow::Result<()> {
    let now = eventually("another caBundle", PATIENCE, || {
        let now = ca_bundle(stage.cluster)?;
        ensure!(now != before, "it is the old one");
        Ok(now)
    })?;
    // Any version will do: so it is read from the cache, as for admission.
    let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
    let path = format!("{path}/{CONFIGURATION}?resourceVersion=0");
    let seen: Value = serde_json::from_str(&stage.cluster.ask_second(&path)?)?;
    ensure!(
        *at(&seen, "/webhooks/0/clientConfig/caBundle") != now,
        "the second kube-apiserver is not late: it has the new caBundle already"
    );
    Ok(())
}

fn cut_off(stage: &Stage<'_>) -> anyhow::Result<()> {
    let wire = &stage.second()?.wire;
    let before = leaves(stage.cluster)?;
    stage.fault(|| {
        stage.second_excused("the second kube-apiserver has no etcd", || {
            wire.cut()?;
            stage.event("cut off");
            ask(stage.cluster, &stage.namespace)?;
            stage.event("rotation asked for");
            let until = Instant::now() + AWAY;
            eventually("it is not ready", Duration::from_secs(30), || {
                let answer = stage.cluster.second_answers();
                ensure!(answer.is_err(), "it says that it is");
                Ok(())
            })?;
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            served(stage.cluster, &before)?;
            ensure!(is_under_way(stage.cluster)?, "the rotation has ended");
            wire.join()?;
            stage.event("joined");
            eventually("it is ready again", Duration::from_secs(60), || {
                stage.cluster.second_answers()
            })?;
            stage.event("ready again");
            Ok(())
        })?;
        finished(stage.cluster, &stage.namespace)?;
        settled(stage.cluster)
    })
}
