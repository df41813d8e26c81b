//! Rolling restarts while nearly each call dials. Who dials a replica that has closed its door, because
//! kube-proxy has not heard of it yet, is refused; a cluster at rest hardly dials.

use crate::scenario::Scenario;

pub(super) const SCENARIO: Scenario = Scenario {
    settings: &[("IMAGESWAP_MAX_CONNECTION_AGE", "100ms")],
    ..Scenario::new(
        "rollout-dials",
        "rolling restarts while hardly a connection carries more than one call",
        |stage| stage.fault(|| stage.restarts(stage.by_extent(4, 1))),
    )
};
