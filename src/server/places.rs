//! The open connections, and who has to go when there are too many.
//!
//! Newcomers, which were never answered what they asked, may take half of the places. Beyond that one of them goes, the
//! oldest of the first kind that there is:
//! - who has said nothing for its moment, of an address with at least half as many as the one with the most;
//! - who has said nothing for longer;
//! - who is slow to say what it wants, of such an address;
//! - who has been slow for a second, or whose body has, which may be waiting for us.
//!
//! Where all have their moment still, whoever has waited for a place takes that of an address that has more than
//! twice as many, but none whose body is coming in.
//!
//! Otherwise one goes of the address that has the most connections, never one whose request is being answered:
//! - whose peer has kept us waiting in the middle of something other than a body;
//! - who has been idle longest;
//! - a newcomer that has had its moment, and whose body does not come;
//! - any other; but before it, who is late or idle of an address with at least half as many.
//!
//! So ten thousand silent peers displace each other, and a stranger who asks as kube-apiserver does displaces
//! himself, and neither reviews under way nor a new connection of kube-apiserver's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::activity::{Activity, LATE, State};
use crate::telemetry::metrics::{Metrics, set_count};

/// A newcomer's moment to say something: its task may be waiting for a busy machine. With half of a
/// thousand places it lets in three thousand silent peers a second; more wait.
pub(super) const MOMENT: Duration = Duration::from_millis(150);

/// The same for one that has said something.
const LONGER_MOMENT: Duration = Duration::from_millis(500);

/// So many connections at most hear that their places went to others, and stay until they have; what is more is closed at
/// once, for each is a file that is open.
pub const MOST_FAREWELLS: usize = 128;

/// The open connections of one endpoint. A clone is the same ones.
#[derive(Debug, Clone)]
pub struct Places(Arc<Table>);

#[derive(Debug)]
struct Table {
    max: usize,
    open: Mutex<Open>,
    farewells: Semaphore,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_number: HashMap<u64, Arc<Activity>>,
}

/// The connections of an address that have a place and were never answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Newcomers {
    /// Those that have been there for their moment, and owe us a handshake or the head of a request. Of a peer that
    /// asks as kube-apiserver does there are hardly any, however many it begins at once: what Go dials and then has
    /// no use for is through its handshake, and whose body comes slowly may be waiting for us.
    pub(super) slow: usize,
    pub(super) all: usize,
}

/// A place in the table, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    number: u64,
    pub(super) activity: Arc<Activity>,
}

// === impl Places ===

impl Places {
    /// Room for this many.
    pub fn new(max: usize, metrics: Metrics) -> Self {
        Self(Arc::new(Table {
            max,
            open: Mutex::default(),
            farewells: Semaphore::new(max.min(MOST_FAREWELLS)),
            metrics,
        }))
    }

    /// A place for a new connection that has waited for so long, if need be that of another; `None` if all
    /// others are busy, or have their moment.
    pub(super) fn try_enter(&self, peer: IpAddr, waited: Duration) -> Option<Place> {
        let peer = peer.to_canonical();
        let mut open = self.open();
        if open.by_number.len() >= self.0.max
            && open.staying().count() >= self.0.max
            && open.make_room(self.0.max).is_none()
        {
            if waited < MOMENT {
                return None;
            }
            let oldest = open.oldest_of_newcomers_crowd(peer)?;
            open.evict(oldest)?;
        }
        let number = open.next;
        open.next += 1;
        let activity = Arc::new(Activity::new(peer));
        open.by_number.insert(number, activity.clone());
        self.count(&open);
        Some(Place {
            places: self.clone(),
            number,
            activity,
        })
    }

    /// A place, whenever there is one.
    #[cfg(test)]
    pub(super) async fn enter(&self, peer: IpAddr) -> Place {
        loop {
            match self.try_enter(peer, Duration::ZERO) {
                Some(place) => return place,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open().by_number.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether anything is under way on any of them: a request, an answer, or the start of a
    /// connection that is too young to be given up.
    pub fn any_busy(&self) -> bool {
        let busy = |activity: &Arc<Activity>| match activity.state() {
            State::Head | State::Body | State::Answering | State::Writing => true,
            State::Silent | State::Handshake | State::Fresh => activity.age() < 2 * LATE,
            State::Idle => false,
        };
        self.open().by_number.values().any(busy)
    }

    /// Those of each address that were never answered, nor are being.
    pub(super) fn newcomers(&self) -> HashMap<IpAddr, Newcomers> {
        self.open().newcomers(Instant::now())
    }

    /// Closes the most dispensable connection, for what it takes from the machine.
    pub(super) fn evict_one(&self) {
        let _ = self.open().make_room(self.0.max);
    }

    /// Leave to hear a farewell without a place; `None` if too many do.
    pub(super) fn farewell(&self) -> Option<SemaphorePermit<'_>> {
        self.0.farewells.try_acquire().ok()
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Nothing in here can be left half done.
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, open: &Open) {
        set_count(&self.0.metrics.connections, open.by_number.len());
    }
}

impl Open {
    /// Evicts the most dispensable; `None` if all are being answered.
    fn make_room(&self, max: usize) -> Option<()> {
        self.evict(self.most_dispensable(max)?)
    }

    /// It stays in the table until it is closed: a request that crossed this is answered first.
    fn evict(&self, number: u64) -> Option<()> {
        self.by_number.get(&number)?.evict();
        Some(())
    }

    /// Those that have not been evicted.
    fn staying(&self) -> impl Iterator<Item = (u64, &Activity)> {
        let all = self.by_number.iter();
        let all = all.map(|(number, activity)| (*number, &**activity));
        all.filter(|(_, activity)| !activity.is_evicted())
    }

    fn most_dispensable(&self, max: usize) -> Option<u64> {
        let now = Instant::now();
        let newcomers = self.staying().filter(|(_, a)| a.is_newcomer());
        if newcomers.count() * 2 >= max {
            return self.most_dispensable_newcomer(now);
        }
        let counts = self.counts();
        let (crowd, most_of_all) = most(counts.iter().map(|(peer, count)| (*peer, *count)))?;
        let ranked = self.staying().filter_map(|(number, activity)| {
            let (rank, since) = dispensability(activity, now)?;
            let peer = activity.peer();
            let has_many = counts.get(&peer).is_some_and(|of| of * 2 >= most_of_all);
            let is_unmissed = matches!(rank, Rank::Late | Rank::Idle);
            // Whose body comes may be waiting for us.
            let is_new = rank == Rank::Newcomer && activity.state() != State::Body;
            let turn = match peer == crowd {
                true if is_unmissed || is_new => Turn::CrowdsUnmissed,
                false if is_unmissed && has_many => Turn::OthersUnmissed,
                true => Turn::Crowds,
                false => Turn::Last,
            };
            Some((turn, rank, since, number))
        });
        ranked.min().map(|(.., number)| number)
    }

    /// Of those that are slow to say what they want, one of an address that has at least half as many as the one
    /// with the most; or who says nothing at all; or who has been slow for long.
    fn most_dispensable_newcomer(&self, now: Instant) -> Option<u64> {
        let newcomers = self.newcomers(now);
        let most = newcomers.values().map(|of| of.all).max()?;
        let is_crowd = |peer| newcomers.get(&peer).is_some_and(|of| of.all * 2 >= most);
        let all = self.staying().filter(|(_, a)| a.is_newcomer());
        let ranked = all.filter_map(|(number, activity)| {
            let age = now.saturating_duration_since(activity.born());
            let is_crowd = is_crowd(activity.peer());
            let rank = match activity.state() {
                State::Silent if is_crowd && age >= MOMENT => 0,
                State::Silent if age >= LONGER_MOMENT => 1,
                // How long it may take is the business of who reads it, and it may be we who let it wait.
                State::Body if age >= LATE => 3,
                State::Silent | State::Body => return None,
                _ if is_crowd && age >= LONGER_MOMENT => 2,
                _ if age >= LATE => 3,
                _ => return None,
            };
            // The one that has taken longest over it, whatever it does now.
            Some((rank, activity.born(), number))
        });
        ranked.min().map(|(.., number)| number)
    }

    /// How many connections each address has.
    fn counts(&self) -> HashMap<IpAddr, usize> {
        let mut counts = HashMap::new();
        for (_, activity) in self.staying() {
            *counts.entry(activity.peer()).or_default() += 1;
        }
        counts
    }

    fn newcomers(&self, now: Instant) -> HashMap<IpAddr, Newcomers> {
        let mut newcomers = HashMap::<_, Newcomers>::new();
        for (_, activity) in self.staying().filter(|(_, a)| a.is_newcomer()) {
            let of = newcomers.entry(activity.peer()).or_default();
            let age = now.saturating_duration_since(activity.born());
            of.all += 1;
            let owes = matches!(
                activity.state(),
                State::Silent | State::Handshake | State::Head
            );
            of.slow += usize::from(age >= MOMENT && owes);
        }
        newcomers
    }

    /// The oldest newcomer of the address with the most, if it has more than twice as many as this one would have. One
    /// whose body comes may be waiting for us.
    fn oldest_of_newcomers_crowd(&self, peer: IpAddr) -> Option<u64> {
        let newcomers = self.newcomers(Instant::now());
        let ours = newcomers.get(&peer).map_or(0, |of| of.all) + 1;
        let counts = newcomers.iter().map(|(peer, of)| (*peer, of.all));
        let (crowd, _) = most(counts).filter(|(_, count)| *count > 2 * ours)?;
        let all = self.staying();
        let theirs = all.filter(|(_, a)| a.peer() == crowd && a.is_newcomer());
        theirs
            .filter(|(_, a)| a.state() != State::Body)
            .min_by_key(|(_, a)| a.born())
            .map(|(number, _)| number)
    }
}

/// When a connection has to go. The first goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    /// It is late, idle or a newcomer, and of the address with the most.
    CrowdsUnmissed,
    /// It is late or idle, and of an address with at least half as many.
    OthersUnmissed,
    /// Of the address with the most.
    Crowds,
    Last,
}

/// How little a connection would be missed. The first goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Late,
    Idle,
    Newcomer,
    Other,
}

/// The least goes first; `None` for one that must not.
fn dispensability(activity: &Activity, now: Instant) -> Option<(Rank, Instant)> {
    let (state, since) = (activity.state(), activity.since());
    let moment = match state {
        State::Silent => MOMENT,
        _ => LONGER_MOMENT,
    };
    let age = now.saturating_duration_since(activity.born());
    let rank = match state {
        State::Answering => return None,
        _ if activity.is_newcomer() && age < moment => return None,
        State::Idle => Rank::Idle,
        // A body may be waiting for us.
        _ if state != State::Body && now.saturating_duration_since(since) > LATE => Rank::Late,
        _ if activity.is_newcomer() => Rank::Newcomer,
        _ => Rank::Other,
    };
    Some((rank, since))
}

/// The address with the most.
fn most(counts: impl Iterator<Item = (IpAddr, usize)>) -> Option<(IpAddr, usize)> {
    counts.max_by_key(|(peer, count)| (*count, *peer))
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.open();
        open.by_number.remove(&self.number);
        self.places.count(&open);
    }
}

#[cfg(test)]
mod tests {
    use super::super::activity::HERE;
    use super::*;

    /// A connection in this state, a second younger than the one before.
    async fn enter(connections: &Places, state: State, served: bool) -> Place {
        enter_from(connections, HERE, state, served).await
    }

    async fn enter_from(connections: &Places, peer: IpAddr, state: State, served: bool) -> Place {
        let place = connections.enter(peer).await;
        place.activity.enter(state);
        if served {
            place.activity.welcome();
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        place
    }

    /// Which of these were evicted.
    fn evicted(connections: &Places, places: &[Place]) -> Vec<usize> {
        let open = connections.open();
        let gone = |place: &Place| open.by_number[&place.number].is_evicted();
        let gone = places.iter().enumerate().filter(|(_, place)| gone(place));
        gone.map(|(index, _)| index).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn newcomers_displace_each_other_and_leave_the_others_their_half() {
        let connections = Places::new(4, Metrics::new().unwrap());
        let mut places = Vec::new();
        for (state, served) in [
            (State::Idle, true),
            (State::Fresh, false),
            (State::Idle, true),
            (State::Silent, false),
        ] {
            places.push(enter(&connections, state, served).await);
        }
        for expected in [vec![3], vec![1, 3], vec![1, 3, 4], vec![1, 3, 4, 5]] {
            places.push(enter(&connections, State::Fresh, false).await);
            assert_eq!(evicted(&connections, &places), expected);
        }
        // Whoever is evicted hears of it, and leaves no gap twice.
        places[1].activity.evicted().await;
        drop(places);
        assert_eq!(connections.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_the_most_makes_room_and_a_newcomer_has_its_moment() {
        let connections = Places::new(7, Metrics::new().unwrap());
        let there = "10.0.0.7".parse().unwrap();
        let mut places = Vec::new();
        // Idle for longest are the two of the few.
        for (peer, state) in [
            (HERE, State::Idle),
            (HERE, State::Idle),
            (there, State::Idle),
            ("::ffff:10.0.0.7".parse().unwrap(), State::Answering),
            (there, State::Head),
            (there, State::Head),
            (there, State::Head),
        ] {
            places.push(enter_from(&connections, peer, state, true).await);
        }
        for young in &places[5..] {
            young.activity.enter(State::Head);
        }
        for expected in [vec![4], vec![2, 4]] {
            places.push(connections.enter(HERE).await);
            places.last().unwrap().activity.welcome();
            assert_eq!(evicted(&connections, &places), expected);
        }

        let connections = Places::new(3, Metrics::new().unwrap());
        let mut places = Vec::new();
        for served in [true, true, false] {
            let place = connections.enter(HERE).await;
            place.activity.enter(State::Head);
            if served {
                place.activity.welcome();
            }
            places.push(place);
        }
        // It would go first, if it had had its moment.
        let newest = connections.enter(HERE).await;
        assert_eq!(evicted(&connections, &places), [0]);
        newest.activity.enter(State::Head);
        newest.activity.welcome();
        tokio::time::advance(LONGER_MOMENT).await;
        drop(connections.enter(HERE).await);
        assert_eq!(evicted(&connections, &places), [0, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_newcomer_does_not_make_room_for_a_crowd() {
        let connections = Places::new(8, Metrics::new().unwrap());
        let there: IpAddr = "10.0.0.7".parse().unwrap();
        let mut places = Vec::new();
        for (peer, state) in [
            (HERE, State::Handshake),
            (HERE, State::Silent),
            (there, State::Handshake),
            (there, State::Handshake),
            (there, State::Silent),
            (there, State::Handshake),
            (there, State::Handshake),
            (there, State::Handshake),
        ] {
            let place = connections.enter(peer).await;
            place.activity.enter(state);
            places.push(place);
        }
        let mut kept = Vec::new();
        let mut gone = |connections: &Places, peer| {
            let place = connections.try_enter(peer, Duration::ZERO);
            let is_in = place.is_some();
            kept.extend(place.inspect(|place| place.activity.enter(State::Handshake)));
            (is_in, evicted(connections, &places))
        };
        tokio::time::advance(MOMENT).await;
        assert_eq!(gone(&connections, there), (true, vec![4]));
        // The few have longer, though they say nothing.
        assert_eq!(gone(&connections, HERE), (false, vec![4]));
        tokio::time::advance(LONGER_MOMENT - MOMENT).await;
        let mut expected = vec![4];
        for number in [1, 2, 3, 5, 6, 7] {
            expected.push(number);
            expected.sort_unstable();
            assert_eq!(gone(&connections, there), (true, expected.clone()));
        }
        // Nor when all others have their moment.
        assert_eq!(gone(&connections, there), (false, expected));
    }

    /// kube-apiserver does not repeat a review that is cut off.
    #[tokio::test(start_paused = true)]
    async fn who_is_idle_goes_before_a_review_of_who_has_a_few_more() {
        let [there, far]: [IpAddr; 2] = ["10.0.0.7", "10.0.0.8"].map(|ip| ip.parse().unwrap());
        let connections = Places::new(8, Metrics::new().unwrap());
        let mut places = Vec::new();
        for (peer, state) in [
            (far, State::Idle),
            (there, State::Idle),
            (there, State::Idle),
            (HERE, State::Body),
            (HERE, State::Body),
            (HERE, State::Body),
            (HERE, State::Body),
            (HERE, State::Idle),
        ] {
            places.push(enter_from(&connections, peer, state, true).await);
        }
        for (n, expected) in [
            (1, vec![7]),
            (2, vec![1, 7]),
            // Now there is but one of theirs.
            (3, vec![1, 3, 7]),
        ] {
            places.push(connections.enter([10, 0, 1, n].into()).await);
            places.last().unwrap().activity.enter(State::Answering);
            places.last().unwrap().activity.welcome();
            assert_eq!(evicted(&connections, &places), expected);
        }
    }

    /// Nothing of it is lost when the process ends.
    #[tokio::test(start_paused = true)]
    async fn a_request_that_crossed_its_eviction_is_seen() {
        let connections = Places::new(1, Metrics::new().unwrap());
        let place = enter(&connections, State::Idle, true).await;
        connections.evict_one();
        place.activity.enter(State::Answering);
        assert!(connections.any_busy());
        // But has given up its place.
        let next = connections.try_enter(HERE, Duration::ZERO).unwrap();
        assert!(connections.try_enter(HERE, Duration::ZERO).is_none());
        assert_eq!(connections.len(), 2);
        drop((place, next));
        assert!(connections.is_empty());
    }

    /// Its review may be waiting for us.
    #[tokio::test(start_paused = true)]
    async fn who_is_idle_goes_before_whose_body_comes_slowly() {
        let connections = Places::new(4, Metrics::new().unwrap());
        let mut places = Vec::new();
        for state in [State::Body, State::Answering, State::Idle] {
            places.push(enter(&connections, state, true).await);
        }
        places.push(enter(&connections, State::Body, false).await);
        tokio::time::advance(2 * LATE).await;
        for expected in [vec![2], vec![2, 3], vec![0, 2, 3]] {
            places.push(enter(&connections, State::Answering, true).await);
            assert_eq!(evicted(&connections, &places), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_late_goes_before_who_is_idle_and_who_is_answered_stays() {
        let connections = Places::new(4, Metrics::new().unwrap());
        let mut places = Vec::new();
        for state in [State::Idle, State::Answering, State::Head, State::Idle] {
            places.push(enter(&connections, state, true).await);
        }
        tokio::time::advance(LATE).await;
        for expected in [vec![2], vec![0, 2], vec![0, 2, 3]] {
            places.push(enter(&connections, State::Answering, true).await);
            assert_eq!(evicted(&connections, &places), expected);
        }
        assert!(connections.try_enter(HERE, MOMENT).is_none());
        // One that has been answered makes room without leaving.
        let waiting = tokio::spawn({
            let connections = connections.clone();
            async move { drop(connections.enter(HERE).await) }
        });
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        places[1].activity.enter(State::Writing);
        places[1].activity.flushed();
        tokio::time::timeout(Duration::from_secs(1), waiting)
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_moment_takes_a_place_of_those_that_have_many_more() {
        let connections = Places::new(8, Metrics::new().unwrap());
        let there: IpAddr = "10.0.0.7".parse().unwrap();
        let mut places = Vec::new();
        for peer in [there, HERE, there, there, there, there, there, there] {
            let place = connections.enter(peer).await;
            place.activity.enter(State::Handshake);
            places.push(place);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        // One that is being answered is no newcomer, and one whose body comes may be waiting for us.
        places[0].activity.enter(State::Answering);
        places[2].activity.enter(State::Body);
        // All have their moment still.
        assert!(connections.try_enter(HERE, Duration::ZERO).is_none());
        assert!(connections.try_enter(there, MOMENT).is_none());
        assert_eq!(evicted(&connections, &places), [0_usize; 0]);
        let second = connections.try_enter(HERE, MOMENT).unwrap();
        assert_eq!(evicted(&connections, &places), [3]);
        // It would have three then, and they five.
        assert!(connections.try_enter(HERE, MOMENT).is_none());
        drop(second);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_is_who_owes_a_handshake_or_a_head() {
        let connections = Places::new(8, Metrics::new().unwrap());
        let mut places = Vec::new();
        for state in [
            State::Silent,
            State::Handshake,
            State::Fresh,
            State::Head,
            State::Body,
            State::Writing,
            State::Idle,
        ] {
            let place = connections.enter(HERE).await;
            place.activity.enter(state);
            places.push(place);
        }
        let counted = |slow| Newcomers { slow, all: 7 };
        assert_eq!(connections.newcomers()[&HERE], counted(0));
        tokio::time::advance(MOMENT).await;
        assert_eq!(connections.newcomers()[&HERE], counted(3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way() {
        let connections = Places::new(4, Metrics::new().unwrap());
        let place = connections.enter(HERE).await;
        let mut busy = Vec::new();
        for state in [
            State::Fresh,
            State::Head,
            State::Body,
            State::Answering,
            State::Writing,
            State::Idle,
        ] {
            place.activity.enter(state);
            busy.push(connections.any_busy());
        }
        assert_eq!(busy, [true, true, true, true, true, false]);
        place.activity.enter(State::Fresh);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(!connections.any_busy());
    }
}
