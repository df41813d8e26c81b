//! All scenarios, in the order in which a full run plays them. Those that need the same settings
//! stand together.

mod apiserver_gone;
mod bundle_broken;
mod delete_force;
mod delete_pods;
mod disk_full;
mod drain_nodes;
mod etcd_frozen;
mod flood;
mod kill_workers;
mod leader_cut_off;
mod leader_paused;
mod maps_broken;
mod node_lost;
mod pauses;
mod reinstall;
mod rollout_dials;
mod rollout_maps;
mod rollout_update;
mod rollout_wires;
mod rotations;
mod scale;
mod second_apiserver;
mod secret_broken;
mod starved;

use crate::scenario::Scenario;

/// All.
pub const ALL: &[&Scenario] = &[
    &rollout_update::SCENARIO,
    &rollout_maps::SCENARIO,
    &rollout_wires::SCENARIO,
    &rollout_dials::SCENARIO,
    &pauses::SCENARIO,
    &scale::SCENARIO,
    &delete_pods::SCENARIO,
    &delete_force::SCENARIO,
    &kill_workers::SCENARIO,
    &drain_nodes::SCENARIO,
    &leader_cut_off::SCENARIO,
    &bundle_broken::EMPTIED,
    &bundle_broken::FOREIGN,
    &bundle_broken::DELETED,
    &maps_broken::REPLACED,
    &maps_broken::EMPTIED,
    &maps_broken::LARGE,
    &apiserver_gone::RESTARTED,
    &apiserver_gone::KILLED,
    &etcd_frozen::SCENARIO,
    &second_apiserver::CUT_OFF,
    &second_apiserver::LATE,
    &flood::SCENARIO,
    &starved::CPU,
    &starved::MEMORY,
    &disk_full::SCENARIO,
    &node_lost::CUT,
    &node_lost::KILLED,
    &reinstall::SCENARIO,
    &leader_paused::SCENARIO,
    &rotations::SCENARIO,
    &secret_broken::DELETED,
    &secret_broken::RUBBISH,
    &secret_broken::FOREIGN,
];

/// The one of that name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().copied().find(|scenario| scenario.name == name)
}
