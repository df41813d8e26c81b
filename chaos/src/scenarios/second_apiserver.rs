//! Two kube-apiservers, called in turns, while certificates are rotated. The second one's way to
//! etcd is a wire: so it believes what was true a while ago.

use std::time::Duration;

use crate::cluster::Way;
use crate::command::eventually;
use crate::rotation::{ask, finished, settled};
use crate::scenario::{Budget, Scenario, Stage};

/// Longer than `LATE_BY`, as it must be.
const DELAY: (&str, &str) = ("IMAGESWAP_TRUST_DELAY", "15s");

/// What is believed is asked for at each new connection.
const SHORT: (&str, &str) = ("IMAGESWAP_MAX_CONNECTION_AGE", "1s");

/// How late webhook configurations come. An etcd client takes ten seconds for a broken connection.
const LATE_BY: Duration = Duration::from_secs(7);

/// The default `--trust-delay` is a minute.
const AWAY: Duration = Duration::from_secs(75);

pub(super) const LATE: Scenario = Scenario {
    settings: &[DELAY, SHORT],
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
        "two kube-apiservers, one cut off from etcd for 75 s, longer than the trust delay, while a \
         rotation goes on, and back before it has ended",
        cut_off,
    )
};

fn late(stage: &Stage<'_>) -> anyhow::Result<()> {
    stage.fault(|| {
        for n in 0..stage.by_extent(3, 1) {
            let token = format!("{}-{n}", stage.namespace);
            ask(stage.cluster, &token)?;
            stage.event(format!("rotation {n} asked for"));
            finished(stage.cluster, &token)?;
        }
        // What it sees now is what is.
        std::thread::sleep(LATE_BY * 2);
        Ok(())
    })
}

fn cut_off(stage: &Stage<'_>) -> anyhow::Result<()> {
    let wire = &stage.second()?.wire;
    stage.fault(|| {
        stage.second_excused("the second kube-apiserver has no etcd", || {
            wire.cut()?;
            stage.event("cut off");
            ask(stage.cluster, &stage.namespace)?;
            stage.event("rotation asked for");
            std::thread::sleep(AWAY);
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
