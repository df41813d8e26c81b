//! Rolling restarts while nearly each call dials. Who dials a replica that has closed its door, because
//! kube-proxy has not heard of it yet, is refused; a cluster at rest hardly dials.

use crate::replicas::{DIALS, were_dialled};
use crate::scenario::Scenario;

pub(super) const SCENARIO: Scenario = Scenario {
    settings: &[DIALS],
    ..Scenario::new(
        "rollout-dials",
        "rolling restarts while hardly a connection carries more than one call",
        |stage| {
            stage.fault(|| {
                stage.restarts(stage.by_extent(4, 1))?;
                were_dialled(stage.cluster)
            })
        },
    )
};
