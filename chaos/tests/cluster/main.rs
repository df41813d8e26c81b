//! ImageSwap on a real Kubernetes: three nodes, its own image, `deploy/`.
//!
//! One cluster serves all tests, which run one after the other in this order; each has namespaces
//! of its own and says which installation it needs. `IMAGESWAP_CHAOS_TESTS=off` skips them on
//! purpose. After a failure the logs of all programs and of ImageSwap are kept where the message
//! says.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing)]

mod access;
mod brought;
mod clients;
mod deploy;
mod install;
mod overload;
mod pods;
mod replicas;
mod restarts;
mod rotation;
mod scenarios;
mod sidecars;
mod status;
mod steps;
mod upgrade;
mod workloads;
mod world;

use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use chaos::doctor;
use chaos::progress::say;
use libtest_mimic::{Arguments, Failed, Trial};

use self::world::World;

type Test = fn(&World) -> anyhow::Result<()>;

/// What skips them.
const VARIABLE: &str = "IMAGESWAP_CHAOS_TESTS";

/// In the order in which they run. Those that need the same installation stand together.
const TESTS: &[(&str, Test)] = &[
    (
        "deploy::install_yaml_is_what_the_base_says",
        deploy::in_step,
    ),
    (
        "deploy::the_image_is_small_static_and_not_root",
        deploy::image,
    ),
    (
        "install::what_is_in_the_way_is_told_before",
        install::before,
    ),
    ("install::on_an_empty_cluster", install::on_an_empty_cluster),
    (
        "workloads::all_kinds_run_swapped_images",
        workloads::all_kinds,
    ),
    (
        "workloads::replica_sets_are_left_to_their_deployments",
        workloads::replica_sets,
    ),
    ("pods::debug_containers_are_swapped_once_each", pods::debug),
    ("pods::an_image_volume_is_swapped", pods::image_volume),
    (
        "pods::a_static_pod_and_its_mirror_are_left_alone",
        pods::static_pod,
    ),
    (
        "pods::the_label_disables_pods_and_templates",
        pods::disabled,
    ),
    (
        "pods::other_namespaces_are_not_touched",
        pods::other_namespace,
    ),
    ("pods::a_dry_run_shows_the_swapped_image", pods::dry_run),
    ("pods::generated_names", pods::generate_name),
    (
        "pods::a_label_edited_does_not_restart_a_pod",
        pods::label_edit,
    ),
    (
        "sidecars::a_later_webhooks_sidecar_is_swapped_once",
        sidecars::reinvocation,
    ),
    ("install::maps_that_come_later_are_used", install::late_maps),
    (
        "access::the_role_allows_what_is_needed_by_name",
        access::by_name,
    ),
    ("install::uninstalled_without_a_trace", install::uninstall),
    ("replicas::three_serve_one_trusted_leaf", replicas::one_leaf),
    (
        "replicas::a_killed_leader_is_replaced_and_nothing_minted",
        replicas::killed_leader,
    ),
    (
        "replicas::killed_workers_lose_no_call_but_their_own",
        replicas::killed_workers,
    ),
    (
        "rotation::ten_under_load_lose_nothing",
        rotation::ten_forced,
    ),
    (
        "rotation::a_broken_secret_is_restored",
        rotation::secret_broken,
    ),
    (
        "rotation::a_fresh_server_does_not_mint_what_another_has",
        rotation::secret_lost_as_servers_are_killed,
    ),
    (
        "rotation::a_foreign_pair_is_taken_without_a_gap",
        rotation::foreign_pair,
    ),
    (
        "rotation::a_broken_ca_bundle_is_repaired_at_once",
        rotation::bundle_broken,
    ),
    (
        "restarts::three_rollouts_under_load_lose_nothing",
        restarts::rollouts,
    ),
    ("scenarios::scale", |world| scenarios::play(world, "scale")),
    ("scenarios::drain_nodes", |world| {
        scenarios::play(world, "drain-nodes")
    }),
    ("scenarios::apiserver_killed", |world| {
        scenarios::play(world, "apiserver-killed")
    }),
    ("scenarios::etcd_frozen", |world| {
        scenarios::play(world, "etcd-frozen")
    }),
    (
        "steps::leaders_killed_in_every_step_of_a_rotation",
        steps::leaders_killed,
    ),
    (
        "steps::leaders_deleted_in_every_step_of_a_rotation",
        steps::leaders_deleted,
    ),
    ("status::is_right_in_every_state", status::in_every_state),
    (
        "brought::files_are_followed_and_broken_ones_change_nothing",
        brought::files,
    ),
    (
        "brought::the_annotated_secret_is_served_and_left_alone",
        brought::annotated,
    ),
    (
        "clients::only_kube_apiserver_is_answered",
        clients::only_kube_apiserver,
    ),
    (
        "overload::a_burst_of_large_pods_is_shed_and_admitted_all_the_same",
        overload::burst,
    ),
    (
        "overload::a_flood_of_connections_hardly_slows_calls",
        overload::flood,
    ),
    (
        "deploy::cluster_wide_leaves_the_cluster_itself_alone",
        deploy::cluster_wide,
    ),
    ("upgrade::over_1_5_3_keeping_its_maps", upgrade::over_1_5_3),
    ("upgrade::back_to_1_5_3", upgrade::back_to_1_5_3),
    (
        "access::no_call_was_denied_in_the_whole_run",
        access::none_denied,
    ),
];

/// How long each test took.
static TOOK: Mutex<Vec<(String, Duration)>> = Mutex::new(Vec::new());

/// So many are named in the end.
const LONGEST: usize = 10;

static WORLD: OnceLock<Result<World, String>> = OnceLock::new();

fn main() {
    let mut arguments = Arguments::from_args();
    // The cluster is one, and so is the installation on it.
    arguments.test_threads = Some(1);
    let is_off = std::env::var(VARIABLE).is_ok_and(|value| value == "off");
    if is_off && !arguments.list {
        say(format_args!(
            "{VARIABLE}=off: the tests that need a cluster are skipped"
        ));
    }
    let trials = TESTS
        .iter()
        .map(|(name, test)| Trial::test(*name, || run(name, *test)).with_ignored_flag(is_off))
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(Ok(world)) = WORLD.get() {
        // In silence: the summary line is the last.
        let remains = world.end();
        if !remains.is_empty() {
            say(format_args!(
                "error: the cluster left {}",
                remains.join("; ")
            ));
            std::process::exit(1);
        }
    }
    conclusion.exit();
}

/// Where the time went: a suite that is run after each change must stay short.
fn longest() -> String {
    let mut took = TOOK.lock().unwrap();
    took.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
    let all: Duration = took.iter().map(|(_, took)| *took).sum();
    let named: Vec<_> = took
        .iter()
        .take(LONGEST)
        .map(|(name, took)| format!("{name} {} s", took.as_secs()))
        .collect();
    format!("{} s in all; longest: {}", all.as_secs(), named.join(", "))
}

fn run(name: &str, test: Test) -> Result<(), Failed> {
    let world = WORLD
        .get_or_init(|| World::make().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| format!("no cluster to test on ({VARIABLE}=off skips this): {error}"))?;
    let started = Instant::now();
    let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        doctor::has_room(world.cluster.folder())?;
        test(world)
    }));
    let took = (name.to_owned(), started.elapsed());
    TOOK.lock().unwrap().push(took);
    if TESTS.last().is_some_and(|(last, _)| *last == name) {
        say(longest());
    }
    let failed = match tested {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic".to_owned()),
    };
    let logs = match world.keep_logs(name) {
        Ok(folder) => format!("logs: {}", folder.display()),
        Err(error) => format!("the logs could not be kept: {error:#}"),
    };
    Err(format!("{failed}\n{logs}").into())
}
