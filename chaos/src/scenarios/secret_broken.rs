//! The Secret with the certificate is deleted or overwritten, by hand or by a tool that thinks it its
//! own. Replicas go on with what they have in memory.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::command::eventually;
use crate::replicas::DIALS;
use crate::rotation::{QUICK, data_of, foreign, patch_secret, secret, settled};
use crate::scenario::{Scenario, Stage};

pub(super) const DELETED: Scenario = Scenario {
    settings: &[QUICK, DIALS],
    ..Scenario::new("secret-deleted", "the Secret deleted", |stage| {
        stage.fault(|| {
            stage.event("deleted");
            stage.kubectl(&["delete", "secret", "imageswap-tls"])?;
            eventually("the Secret again", Duration::from_secs(60), || {
                secret(stage.cluster).map(drop)
            })?;
            stage.event("restored");
            settled(stage.cluster)
        })
    })
};

pub(super) const RUBBISH: Scenario = Scenario {
    settings: &[QUICK, DIALS],
    ..Scenario::new(
        "secret-rubbish",
        "the Secret's key overwritten, then all of it",
        |stage| {
            overwritten(
                stage,
                &[
                    json!({"data": {"tls.key": STANDARD.encode("rubbish")}}),
                    json!({"data": {"tls.crt": "", "tls.key": "", "ca.crt": null}}),
                ],
            )
        },
    )
};

pub(super) const FOREIGN: Scenario = Scenario {
    settings: &[QUICK, DIALS],
    ..Scenario::new(
        "secret-foreign",
        "the Secret replaced by a valid pair of a CA that nobody knows",
        |stage| overwritten(stage, &[data_of(&foreign()?)]),
    )
};

fn overwritten(stage: &Stage<'_>, patches: &[serde_json::Value]) -> anyhow::Result<()> {
    stage.fault(|| {
        for patch in patches {
            stage.event("overwritten");
            patch_secret(stage.cluster, patch)?;
            settled(stage.cluster)?;
            stage.event("at rest");
        }
        Ok(())
    })
}
