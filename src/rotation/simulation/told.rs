//! Stories that are told in full: drawn ones come to these once in thousands, or less. Calls that are
//! lost may spare a world, so each is told with many seeds.

use super::world::{Hand, UNDER_WAY};
use super::{DELAY, LISTED, Mutation, Story};
use crate::pki::memo;

/// How many of so many tellings go wrong.
fn gone_wrong(mutation: Mutation, tell: fn(&mut Story)) -> usize {
    gone_wrong_with(mutation, false, tell)
}

fn gone_wrong_with(mutation: Mutation, has_copier: bool, tell: fn(&mut Story)) -> usize {
    memo::remember();
    let told = (0..50).map(|seed| {
        let mut story = Story::settled_with(seed, mutation, has_copier);
        tell(&mut story);
        story.check()
    });
    told.filter(Result::is_err).count()
}

impl Story {
    /// Where all is well, and leaders write the caBundles.
    fn settled(seed: u64, mutation: Mutation) -> Self {
        Self::settled_with(seed, mutation, false)
    }

    fn settled_with(seed: u64, mutation: Mutation, has_copier: bool) -> Self {
        let is_so = |story: &Self| {
            let world = story.world();
            let is_right = world.has_copier == has_copier && world.is_at_rest().is_ok();
            is_right && story.processes.len() == 3
        };
        (0..)
            .map(|more| Self::new(seed + 1_000 * more, mutation, false))
            .find(is_so)
            .unwrap()
    }

    fn pass(&self, seconds: u64) {
        self.world().pass(seconds);
    }

    /// A replica sees what there is, and is yet to act.
    fn see(&mut self, who: usize) {
        for _ in 0..2 {
            self.processes[who].look();
        }
    }

    /// A leader takes steps until there is nothing to do.
    fn work(&mut self, who: usize) {
        for _ in 0..8 {
            while !self.processes[who].lead() {}
        }
    }

    /// A leader makes so many calls more.
    fn call(&mut self, who: usize, calls: usize) {
        for _ in 0..calls {
            self.processes[who].lead();
        }
    }

    /// A leader has pruned, so that it has seen for long what all serve.
    fn prune_once(&mut self, who: usize) {
        self.world().hand(Hand::ForeignBundle);
        for _ in 0..3 {
            self.work(who);
            self.pass(11);
        }
    }

    /// A rotation is asked for, and its pair is staged and published for the trust delay.
    fn stage(&mut self, leader: usize) {
        self.world().hand(Hand::Request);
        self.work(leader);
        if self.world().has_copier {
            self.world().copy();
            self.work(leader);
        }
        self.look_at_all();
        self.pass(DELAY + 4);
    }

    /// Another Pod takes the place of one, and serves what there is before the cluster knows it.
    fn replace(&mut self, who: usize) {
        self.restart(who, true);
        let mut world = self.world();
        world.listed[who] = world.time + LISTED as u64;
        drop(world);
        self.processes[who].look_anew();
        self.processes[who].look_anew();
    }

    /// A leader works every seven seconds, and all but the last replica see what it did.
    fn go_over(&mut self, leader: usize) {
        for _ in 0..4 {
            self.work(leader);
            self.world().copy();
            for who in [0, 1] {
                self.processes[who].look_anew();
            }
            self.pass(7);
        }
    }

    /// All see what there is, and again after the trust delay.
    fn let_all_believe(&mut self, leader: usize) {
        self.pass(1);
        self.work(leader);
        self.look_at_all();
        self.pass(DELAY + 3);
        self.look_at_all();
        self.work(leader);
    }
}

/// Who leads changes every 20 seconds, and the replicas live on: what they saw counts for each of them.
#[test]
fn the_trust_delay_is_over_however_often_leaders_change() {
    memo::remember();
    let ended = (0..50).filter(|seed| {
        let mut story = Story::settled(*seed, Mutation::None);
        story.world().ask();
        for turn in 0..12 {
            let leader = turn % 3;
            story.processes[leader].crash_leader();
            story.work(leader);
            story.look_at_all();
            story.pass(20);
            story.check().unwrap();
        }
        let world = story.world();
        let before = world.before_the_last.clone().unwrap();
        let mut served = world.serving.iter().flatten();
        served.all(|serving| !before.contains(&serving.leaf))
    });
    // A call that is lost costs a turn.
    assert!(ended.count() > 40);
}

/// A replica stops before it acts on what it saw, the leaf that was promoted just then; goes on when
/// the Secret was lost, restored with the old leaf, and pruned.
#[test]
fn what_was_seen_long_ago_is_not_acted_on() {
    let tell = |story: &mut Story| {
        story.stage(1);
        story.work(1);
        story.see(2);
        story.world().hand(Hand::DeleteSecret);
        for _ in 0..3 {
            story.work(1);
            story.pass(11);
        }
        story.processes[2].look();
    };
    assert_eq!(gone_wrong(Mutation::None, tell), 0);
    assert!(gone_wrong(Mutation::ActOnOldViews, tell) > 10);
}

/// A leader stops before its last handshake, and goes on when an old Secret was put back and all but
/// that one serve it.
#[test]
fn what_was_planned_long_ago_is_not_written() {
    let tell = |story: &mut Story| {
        story.prune_once(0);
        story.world().hand(Hand::ForeignPair);
        story.let_all_believe(1);
        // The old CA is about to go from the caBundles when its Secret comes back, and all serve it.
        story.work(0);
        story.pass(11);
        story.call(0, 6);
        story.world().put_back(1);
        for _ in 0..2 {
            story.pass(DELAY + 3);
            story.work(1);
            story.processes[0].look_anew();
            story.processes[1].look_anew();
        }
        story.call(0, 2);
    };
    assert_eq!(gone_wrong(Mutation::None, tell), 0);
    assert!(gone_wrong(Mutation::WriteLate, tell) > 10);
}

/// A leader stops between its two reads, and a CA is staged and published meanwhile.
#[test]
fn the_webhook_configuration_is_read_before_the_secret() {
    let tell = |story: &mut Story| {
        story.prune_once(0);
        story.pass(UNDER_WAY);
        story.call(0, 2);
        story.world().hand(Hand::Request);
        // The new CA is published.
        story.work(1);
        story.work(0);
    };
    assert_eq!(gone_wrong(Mutation::None, tell), 0);
    assert!(gone_wrong(Mutation::SecretFirst, tell) > 10);
}

/// A Pod that served another leaf is gone, but not for all: a node may call it for some seconds still.
#[test]
fn a_ca_outlives_the_last_endpoint_that_was_seen_to_need_it() {
    let tell = |story: &mut Story| {
        story.world().hand(Hand::ForeignPair);
        story.work(1);
        story.look_at_all();
        story.pass(DELAY + 4);
        for who in [0, 1] {
            story.processes[who].look_anew();
        }
        // The last one still serves the old leaf, and the Secret has been the same for long.
        story.work(1);
        story.pass(11);
        story.work(1);
        story.restart(2, true);
        story.processes[2].look_anew();
        story.processes[2].look_anew();
        story.work(1);
    };
    assert_eq!(gone_wrong(Mutation::None, tell), 0);
    assert!(gone_wrong(Mutation::PruneUnshown, tell) > 10);
}

/// A hand puts an old Secret back and thinks better of it; a replica has seen that, and is yet to act.
#[test]
fn a_ca_outlives_a_secret_that_named_it_a_moment_ago() {
    let tell = |story: &mut Story| {
        story.stage(1);
        story.look_at_all();
        // Promoted, and seen by all.
        story.work(1);
        story.look_at_all();
        // Pruned from `ca.crt`.
        story.pass(1);
        story.work(1);
        story.pass(10);
        let last = story.world().last();
        story.world().put_back(3);
        story.see(2);
        story.world().put_back(last);
        story.work(1);
        story.processes[2].look();
    };
    assert_eq!(gone_wrong(Mutation::None, tell), 0);
    assert!(gone_wrong(Mutation::PruneUnsettled, tell) > 10);
}

/// A new Pod serves the leaf that goes, and is looked at before its CA does: if the cluster knows it soon.
/// Else it is called when it has not seen yet that it must serve another.
#[test]
fn a_ca_outlives_a_pod_that_the_cluster_does_not_know_yet() {
    let tell = |story: &mut Story| {
        story.stage(1);
        story.look_at_all();
        story.restart(2, true);
        story.processes[2].look_anew();
        story.processes[2].look_anew();
        story.go_over(1);
        story.pass(120);
    };
    assert_eq!(gone_wrong(Mutation::None, tell), 0);
    assert!(gone_wrong(Mutation::ListLate, tell) > 10);
}

/// A leader lists the endpoints, and one of its handshakes takes seconds. Who began with the leaf that
/// goes and became known meanwhile is not among them.
#[test]
fn a_ca_outlives_a_pod_that_became_known_during_the_handshakes() {
    let tell = |story: &mut Story| {
        story.stage(1);
        story.look_at_all();
        story.replace(0);
        // Promoted, and pruned from `ca.crt`.
        story.work(1);
        for who in [1, 2] {
            story.processes[who].look_anew();
        }
        story.work(1);
        story.pass(6);
        story.call(1, 4);
        story.pass(4);
        story.work(1);
    };
    assert_eq!(gone_wrong(Mutation::None, tell), 0);
    assert!(gone_wrong(Mutation::PruneUnshown, tell) > 10);
}

/// What goes from `ca.crt` goes from the caBundles at once where somebody copies it.
#[test]
fn a_ca_stays_in_ca_crt_for_as_long_where_that_is_copied() {
    let tell = |story: &mut Story| {
        story.stage(1);
        story.look_at_all();
        story.replace(2);
        story.go_over(1);
    };
    assert_eq!(gone_wrong_with(Mutation::None, true, tell), 0);
    assert!(gone_wrong_with(Mutation::PruneUnshown, true, tell) > 10);
}
