//! Connections that were accepted and have no place yet.
//!
//! They wait here and not in the kernel's queue, where those of an address that opens hundreds a second stand
//! before a probe of the kubelet and a review.
//!
//! Next is the address that has the fewest newcomers among those with a place; of several such, one that has said
//! something, and in turn. How many of an address wait counts for nothing: kube-apiserver's may be a hundred at
//! once, and a peer that always keeps a few waiting would always be before them.
//!
//! If there are too many, one goes, the first that there is:
//! - who has said nothing for a moment, of the addresses that have at least half as many connections as the one
//!   with the most, here and there;
//! - who has said nothing for a moment, of any address;
//! - if most have said something, the last that has of the address whose newcomers keep their places longest.
//!
//! Else most have their moment, and no more are let in until it is over.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::places::Newcomers;

/// See the module's description.
#[derive(Debug)]
pub(super) struct WaitingRoom<T> {
    most: usize,
    moment: Duration,
    /// Whether its peer has said anything.
    ask: fn(&T) -> bool,
    /// None of them is empty.
    lines: HashMap<IpAddr, Line<T>>,
    len: usize,
    /// How many turns there were.
    turns: u64,
}

/// Those of one address.
#[derive(Debug)]
struct Line<T> {
    /// When it had its last turn, or came.
    turn: u64,
    /// In the order in which they came.
    all: VecDeque<Waiting<T>>,
}

/// A connection that waits.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    pub(super) stream: T,
    pub(super) peer: IpAddr,
    pub(super) since: Instant,
    /// Whether it is known to have said something: it can't take that back.
    has_spoken: AtomicBool,
}

impl<T> Waiting<T> {
    /// One that waits from now on.
    pub(super) fn new(stream: T, peer: IpAddr, since: Instant) -> Self {
        Self {
            stream,
            peer,
            since,
            has_spoken: AtomicBool::new(false),
        }
    }
}

impl<T> WaitingRoom<T> {
    /// Room for so many streams, of each of which can be told whether its peer has said anything.
    pub(super) fn new(most: usize, moment: Duration, ask: fn(&T) -> bool) -> Self {
        Self {
            most,
            moment,
            ask,
            lines: HashMap::new(),
            len: 0,
            turns: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether one more may come. `newcomers` tells which of an address have a place and were never answered.
    pub(super) fn has_room(&self, now: Instant, newcomers: impl Fn(IpAddr) -> Newcomers) -> bool {
        self.len < self.most || self.most_dispensable(now, newcomers).is_some()
    }

    /// Lets one in, and gives back the one that has to go for it.
    pub(super) fn enter(
        &mut self,
        one: Waiting<T>,
        newcomers: impl Fn(IpAddr) -> Newcomers,
    ) -> Option<Waiting<T>> {
        let is_full = self.len >= self.most;
        let gone = is_full
            .then(|| self.most_dispensable(one.since, newcomers))
            .flatten()
            .and_then(|(peer, number)| self.leave(peer, number));
        self.turns += 1;
        let line = self.lines.entry(one.peer).or_insert(Line {
            turn: self.turns,
            all: VecDeque::new(),
        });
        line.all.push_back(one);
        self.len += 1;
        gone
    }

    /// Puts one out, for what it takes from the machine, though it may have its moment.
    pub(super) fn put_one_out(
        &mut self,
        newcomers: impl Fn(IpAddr) -> Newcomers,
    ) -> Option<Waiting<T>> {
        let (peer, line) = self.crowds(newcomers).into_iter().next()?;
        let number = self.first_silent(line).unwrap_or(line.all.len() - 1);
        self.leave(peer, number)
    }

    /// Of the crowds, who has been silent for longest, or of the others, if it has been for its moment. Else, if most
    /// have spoken, the last that has of the address whose newcomers keep their places longest: the others are nearer
    /// to a place. Else `None`, for that moment. How many wait does not decide the latter: kube-apiserver's are many
    /// at once where strangers come from a hundred addresses.
    fn most_dispensable(
        &self,
        now: Instant,
        newcomers: impl Fn(IpAddr) -> Newcomers,
    ) -> Option<(IpAddr, usize)> {
        let late = |lines: &[(IpAddr, &Line<T>)]| {
            let silent = lines.iter().filter_map(|(peer, line)| {
                let number = self.first_silent(line)?;
                Some((line.all.get(number)?.since, *peer, number))
            });
            let (since, peer, number) = silent.min()?;
            let silence = now.saturating_duration_since(since);
            (silence >= self.moment).then_some((peer, number))
        };
        let last = || {
            let all = self.lines.values().flat_map(|line| &line.all);
            let spoken = all.filter(|one| self.has_spoken(one)).count();
            if spoken * 2 <= self.len {
                return None;
            }
            let lasts = self.lines.iter().filter_map(|(peer, line)| {
                let last = line.all.iter().rposition(|one| self.has_spoken(one))?;
                Some((newcomers(*peer), *peer, last))
            });
            lasts.max().map(|(_, peer, last)| (peer, last))
        };
        late(&self.crowds(&newcomers))
            .or_else(|| late(&self.all_lines()))
            .or_else(last)
    }

    fn all_lines(&self) -> Vec<(IpAddr, &Line<T>)> {
        let lines = self.lines.iter();
        lines.map(|(peer, line)| (*peer, line)).collect()
    }

    fn first_silent(&self, line: &Line<T>) -> Option<usize> {
        line.all.iter().position(|one| !self.has_spoken(one))
    }

    fn has_spoken(&self, one: &Waiting<T>) -> bool {
        let has_spoken = one.has_spoken.load(Ordering::Relaxed) || (self.ask)(&one.stream);
        one.has_spoken.store(has_spoken, Ordering::Relaxed);
        has_spoken
    }

    /// The addresses that have at least half as many connections as the one with the most, those with a place
    /// among them; that one first.
    fn crowds(&self, newcomers: impl Fn(IpAddr) -> Newcomers) -> Vec<(IpAddr, &Line<T>)> {
        let count = |peer, line: &Line<T>| newcomers(peer).all + line.all.len();
        let counted = self.lines.iter();
        let mut counted: Vec<_> = counted
            .map(|(peer, line)| (count(*peer, line), *peer, line))
            .collect();
        let most = counted.iter().map(|(count, ..)| *count).max();
        counted.retain(|(count, ..)| most.is_some_and(|most| count * 2 >= most));
        counted.sort_unstable_by_key(|(count, peer, _)| (Reverse(*count), *peer));
        let crowds = counted.into_iter().map(|(_, peer, line)| (peer, line));
        crowds.collect()
    }

    /// Takes out who is next, if there is a place for it, with that place; if there is none, who has waited longest,
    /// for whom there may be one. `newcomers` tells how many of an address have a place.
    pub(super) fn next<P>(
        &mut self,
        newcomers: impl Fn(IpAddr) -> usize,
        place: impl Fn(&Waiting<T>) -> Option<P>,
    ) -> Option<(Waiting<T>, P)> {
        let lines = self.first_lines(newcomers);
        let spoken = |(peer, line): &(IpAddr, &Line<T>)| {
            let mut all = line.all.iter();
            Some((*peer, all.position(|one| self.has_spoken(one))?))
        };
        let first = lines.iter().find_map(spoken);
        let first = first.or_else(|| Some((lines.first()?.0, 0)));
        let oldest = self.lines.iter();
        let oldest = oldest.min_by_key(|(_, line)| line.all.front().map(|one| one.since));
        let oldest = oldest.map(|(peer, _)| (*peer, 0));
        let try_one = |(peer, number)| {
            let one = self.lines.get(&peer)?.all.get(number)?;
            Some((peer, number, place(one)?))
        };
        let (peer, number, place) = first
            .and_then(try_one)
            .or_else(|| oldest.and_then(try_one))?;
        self.turns += 1;
        if let Some(line) = self.lines.get_mut(&peer) {
            line.turn = self.turns;
        }
        Some((self.leave(peer, number)?, place))
    }

    /// Those of the addresses with the fewest newcomers, in turn.
    fn first_lines(&self, newcomers: impl Fn(IpAddr) -> usize) -> Vec<(IpAddr, &Line<T>)> {
        let mut lines = self.all_lines();
        // Else nobody need be counted, as is usual.
        if lines.len() > 1 {
            let counts = lines.iter().map(|(peer, _)| newcomers(*peer));
            let counts: Vec<_> = counts.collect();
            let fewest = counts.iter().min().copied();
            let mut counts = counts.into_iter();
            lines.retain(|_| counts.next() == fewest);
            lines.sort_unstable_by_key(|(_, line)| line.turn);
        }
        lines
    }

    fn leave(&mut self, peer: IpAddr, number: usize) -> Option<Waiting<T>> {
        let line = self.lines.get_mut(&peer)?;
        let one = line.all.remove(number)?;
        if line.all.is_empty() {
            self.lines.remove(&peer);
        }
        self.len -= 1;
        Some(one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number, and whether it has spoken.
    type Stream = (u32, bool);

    const MOMENT: Duration = Duration::from_secs(1);

    fn room(most: usize) -> WaitingRoom<Stream> {
        WaitingRoom::new(most, MOMENT, |stream| stream.1)
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn waiting(stream: Stream, peer: u8, since: Instant) -> Waiting<Stream> {
        Waiting::new(stream, address(peer), since)
    }

    fn nobody(_: IpAddr) -> Newcomers {
        Newcomers::default()
    }

    fn nobody_seated(_: IpAddr) -> usize {
        0
    }

    /// The numbers in the order in which they get a place, in which each counts from then on.
    fn drained(room: &mut WaitingRoom<Stream>) -> Vec<u32> {
        let mut seated: HashMap<IpAddr, usize> = HashMap::new();
        let mut order = Vec::new();
        while !room.is_empty() {
            let newcomers = |peer| seated.get(&peer).copied().unwrap_or_default();
            // Where there is no place, nobody leaves.
            assert!(room.next(newcomers, |_| None::<()>).is_none());
            let (next, place) = room.next(newcomers, |next| Some(next.stream.0)).unwrap();
            assert_eq!(next.stream.0, place);
            *seated.entry(next.peer).or_default() += 1;
            order.push(place);
        }
        assert_eq!((room.lines.len(), room.len()), (0, 0));
        order
    }

    fn enter(room: &mut WaitingRoom<Stream>, all: &[(u32, bool, u8)]) {
        for (number, has_spoken, peer) in all {
            let one = waiting((*number, *has_spoken), *peer, Instant::now());
            assert!(room.enter(one, nobody).is_none());
        }
    }

    #[test]
    fn who_has_the_fewest_newcomers_is_next_and_who_spoke_before_who_did_not() {
        let mut room = room(100);
        let all = [
            (1, false, 1),
            (2, true, 1),
            (3, true, 1),
            (4, false, 2),
            (5, true, 2),
            (6, false, 3),
        ];
        enter(&mut room, &all);
        assert_eq!(drained(&mut room), [2, 5, 6, 3, 4, 1]);
    }

    /// Whoever is answered at once is never a newcomer for long.
    #[test]
    fn who_keeps_few_waiting_is_not_before_who_has_many() {
        let mut room = room(100);
        let many: Vec<_> = (0..10).map(|number| (number, true, 1)).collect();
        enter(&mut room, &many);
        enter(&mut room, &[(100, true, 2), (101, true, 2)]);
        let mut order = Vec::new();
        for number in 102..122 {
            let (next, ()) = room.next(nobody_seated, |_| Some(())).unwrap();
            order.push(next.stream.0);
            if next.peer == address(2) {
                enter(&mut room, &[(number, true, 2)]);
            }
        }
        let theirs: Vec<_> = order.iter().filter(|number| **number < 100).collect();
        assert_eq!(theirs, many.iter().map(|one| &one.0).collect::<Vec<_>>());
        // Also where it comes anew each time.
        let mut room = self::room(100);
        enter(&mut room, &many);
        enter(&mut room, &[(100, true, 2)]);
        for _ in 0..20 {
            let (next, ()) = room.next(nobody_seated, |_| Some(())).unwrap();
            if next.peer == address(2) {
                enter(&mut room, &[(100, true, 2)]);
            }
        }
        assert!(!room.lines.contains_key(&address(1)));
    }

    #[test]
    fn a_place_for_those_that_have_waited_is_for_who_has_waited_longest() {
        let mut room = room(100);
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        for (number, has_spoken, peer, since) in [(1, false, 1, 0), (2, true, 2, 5)] {
            let one = waiting((number, has_spoken), peer, later(since));
            assert!(room.enter(one, nobody).is_none());
        }
        let place = |one: &Waiting<Stream>| (one.since < later(3)).then_some(());
        assert_eq!(room.next(nobody_seated, place).unwrap().0.stream.0, 1);
        assert!(room.next(nobody_seated, place).is_none());
        // Also where its address is not the next.
        let one = waiting((3, true), 1, start);
        assert!(room.enter(one, nobody).is_none());
        let newcomers = |peer| usize::from(peer == address(1));
        assert_eq!(room.next(newcomers, place).unwrap().0.stream.0, 3);
    }

    #[test]
    fn if_there_are_too_many_a_silent_one_of_the_crowd_goes_or_its_last() {
        let mut room = room(4);
        let start = Instant::now();
        // Seconds from the start; whether it may enter, and who goes for it.
        for (number, has_spoken, peer, seconds, has_room, gone) in [
            (1, false, 1, 0, true, None),
            (2, true, 1, 0, true, None),
            (3, false, 1, 1, true, None),
            (4, false, 2, 1, true, None),
            (5, true, 1, 1, true, Some(1)),
            // Half have their moment.
            (6, true, 1, 1, false, None),
            (6, true, 1, 2, true, Some(3)),
            // Now it keeps no others out.
            (7, true, 1, 2, true, Some(4)),
            (8, false, 2, 2, true, Some(7)),
        ] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(room.has_room(now, nobody), has_room, "{number}");
            if has_room {
                let left = room.enter(waiting((number, has_spoken), peer, now), nobody);
                assert_eq!(left.map(|one| one.stream.0), gone, "{number}");
            }
        }
        // 2, 5, 6 and 8 are there.
        assert_eq!(room.put_one_out(nobody).unwrap().stream.0, 6);
        assert_eq!(room.len(), 3);
        let mut rest = drained(&mut room);
        rest.sort_unstable();
        assert_eq!(rest, [2, 5, 8]);
        assert!(room.put_one_out(nobody).is_none());
    }

    /// kube-apiserver's come all at once; of strangers at many addresses each has fewer.
    #[test]
    fn who_has_many_waiting_does_not_go_for_those_who_are_slow() {
        let mut silent = room(8);
        let start = Instant::now();
        let late = start + MOMENT;
        enter(
            &mut silent,
            &[
                (1, true, 1),
                (2, true, 1),
                (3, true, 1),
                (4, true, 1),
                (5, true, 1),
            ],
        );
        for peer in 2..5 {
            let one = waiting((u32::from(peer) * 10, false), peer, start);
            assert!(silent.enter(one, nobody).is_none());
        }
        for gone in [20, 30, 40] {
            let one = waiting((gone + 1, true), 9, late);
            assert_eq!(silent.enter(one, nobody).unwrap().stream.0, gone);
        }
        // All have spoken. Who keeps places goes, and of who keeps as many the one that has more.
        let newcomers = |slow: u8| {
            move |peer| Newcomers {
                slow: usize::from(peer == address(slow)),
                all: 2 * usize::from(peer == address(1)),
            }
        };
        let one = waiting((50, true), 9, late);
        assert_eq!(silent.enter(one, newcomers(9)).unwrap().stream.0, 41);
        let one = waiting((51, true), 9, late);
        assert_eq!(silent.enter(one, newcomers(8)).unwrap().stream.0, 5);
    }

    #[test]
    fn where_most_have_their_moment_who_has_spoken_does_not_go_for_that() {
        let mut young = room(4);
        enter(
            &mut young,
            &[(1, false, 1), (2, false, 1), (3, true, 1), (4, true, 2)],
        );
        assert!(!young.has_room(Instant::now(), nobody));
    }
}
