//! Who may take a cluster down, and what of it. No cluster is started.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use chaos::cluster;
use chaos::guard::Guard;
use chaos::progress::say;

/// Whom one starts inherits what another holds just then.
static TURN: Mutex<()> = Mutex::new(());

/// A name that is nobody else's, and its lock.
fn name(prefix: char) -> (String, PathBuf) {
    let name = format!("{prefix}{}", std::process::id());
    let lock = format!("/var/tmp/imageswap-chaos-{name}.lock").into();
    (name, lock)
}

#[test]
fn a_name_is_its_guards_until_the_cluster_is_kept_or_gone() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let chaos = Path::new(env!("CARGO_BIN_EXE_chaos"));
    let (name, lock) = name('g');
    for end in [Guard::end, Guard::keep] {
        let guard = Guard::start(chaos, &name, None).unwrap();
        let held = || File::open(&lock).unwrap().try_lock().is_err();
        assert!(held(), "another may start one, which this guard takes down");
        end(&guard);
        assert!(!held());
    }
    let claim = cluster::claim(&name).unwrap();
    assert!(!cluster::clear(&name).unwrap());
    drop(claim);
    assert!(!cluster::down(&name).unwrap());
    fs::remove_file(lock).unwrap();
}

#[test]
fn a_name_leads_nowhere_else() {
    for name in ["", "../etc", "a-b", "thirteenchars"] {
        let error = cluster::down(name).unwrap_err();
        assert!(error.to_string().contains("a cluster's name is"), "{error}");
    }
}

#[test]
fn all_that_can_be_removed_is() {
    if !rustix::process::geteuid().is_root() {
        return say("not root: nothing is removed");
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (name, lock) = name('d');
    let networks = [1, 2, 3].map(|n| PathBuf::from(format!("/run/netns/isw-{name}-{n}")));
    let state = Path::new("/var/tmp/imageswap-chaos").join(&name);
    fs::create_dir_all(state.join("logs")).unwrap();
    // Two of which no network was made, and between them one that can't be removed.
    fs::create_dir_all(networks[1].join("busy")).unwrap();
    fs::write(&networks[0], "").unwrap();
    fs::write(&networks[2], "").unwrap();
    let error = cluster::down(&name).unwrap_err().to_string();
    assert!(error.contains(&format!("isw-{name}-2")), "{error}");
    assert!(!error.contains(&format!("isw-{name}-1")), "{error}");
    assert!(!networks[0].exists() && !networks[2].exists() && !state.exists());
    fs::remove_dir(networks[1].join("busy")).unwrap();
    fs::remove_dir(&networks[1]).unwrap();
    assert!(!cluster::down(&name).unwrap());
    fs::remove_file(lock).unwrap();
}
