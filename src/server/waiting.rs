//! Connections that were accepted and have no place yet.
//!
//! They wait here and not in the kernel's queue, where those of an address that opens hundreds a second stand
//! before a probe of the kubelet and a review. Here, who has the fewest waiting is next, and who has said
//! something before who has not. If there are too many, one goes of the address that has the most; but each has a
//! moment to say something, and while all have it, no more are let in.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// See the module's description.
#[derive(Debug)]
pub(super) struct WaitingRoom<T> {
    most: usize,
    moment: Duration,
    has_spoken: fn(&T) -> bool,
    /// In the order in which they came.
    all: VecDeque<Waiting<T>>,
    by_peer: HashMap<IpAddr, usize>,
}

/// A connection that waits.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    pub(super) stream: T,
    pub(super) peer: IpAddr,
    pub(super) since: Instant,
}

impl<T> WaitingRoom<T> {
    /// Room for so many streams, of each of which can be told whether its peer has said anything.
    pub(super) fn new(most: usize, moment: Duration, has_spoken: fn(&T) -> bool) -> Self {
        Self {
            most,
            moment,
            has_spoken,
            all: VecDeque::new(),
            by_peer: HashMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether one more may come.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        self.all.len() < self.most || self.most_dispensable(now).is_some()
    }

    /// Lets one in, and gives back the one that has to go for it.
    pub(super) fn enter(&mut self, one: Waiting<T>) -> Option<Waiting<T>> {
        let is_full = self.all.len() >= self.most;
        let gone = is_full.then(|| self.most_dispensable(one.since)).flatten();
        let gone = gone.and_then(|number| self.leave(number));
        *self.by_peer.entry(one.peer).or_default() += 1;
        self.all.push_back(one);
        gone
    }

    /// Of the crowd who has been silent for longest, or if none is silent the last: the others are nearer to a
    /// place. `None` if it has its moment still.
    fn most_dispensable(&self, now: Instant) -> Option<usize> {
        let (crowd, _) = self.by_peer.iter().max_by_key(|(_, count)| **count)?;
        let is_theirs = |one: &Waiting<T>| one.peer == *crowd;
        let is_silent = |one: &Waiting<T>| is_theirs(one) && !(self.has_spoken)(&one.stream);
        match self.all.iter().position(is_silent) {
            Some(silent) => {
                let since = self.all.get(silent)?.since;
                (now.saturating_duration_since(since) >= self.moment).then_some(silent)
            }
            None => self.all.iter().rposition(is_theirs),
        }
    }

    /// Takes out who is next, if there is a place for it, with that place.
    pub(super) fn next<P>(
        &mut self,
        place: impl FnOnce(&Waiting<T>) -> Option<P>,
    ) -> Option<(Waiting<T>, P)> {
        let next = self.number_of_next()?;
        let place = place(self.all.get(next)?)?;
        Some((self.leave(next)?, place))
    }

    fn number_of_next(&self) -> Option<usize> {
        let fewest = self.by_peer.values().min()?;
        let is_first = |one: &Waiting<T>| self.by_peer.get(&one.peer) == Some(fewest);
        let speaks = |one: &Waiting<T>| is_first(one) && (self.has_spoken)(&one.stream);
        let next = self.all.iter().position(speaks);
        next.or_else(|| self.all.iter().position(is_first))
    }

    fn leave(&mut self, number: usize) -> Option<Waiting<T>> {
        let one = self.all.remove(number)?;
        if let Some(count) = self.by_peer.get_mut(&one.peer) {
            *count -= 1;
            if *count == 0 {
                self.by_peer.remove(&one.peer);
            }
        }
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

    fn waiting(stream: Stream, peer: u8, since: Instant) -> Waiting<Stream> {
        Waiting {
            stream,
            peer: IpAddr::from([10, 0, 0, peer]),
            since,
        }
    }

    fn drained(room: &mut WaitingRoom<Stream>) -> Vec<u32> {
        let mut order = Vec::new();
        while !room.is_empty() {
            // Where there is no place, nobody leaves.
            assert!(room.next(|_| None::<()>).is_none());
            let (next, place) = room.next(|next| Some(next.stream.0)).unwrap();
            assert_eq!(next.stream.0, place);
            order.push(place);
        }
        assert!(room.by_peer.is_empty());
        order
    }

    #[test]
    fn each_address_has_its_turn_before_the_crowd_and_who_spoke_before_who_did_not() {
        let mut room = room(100);
        for (number, has_spoken, peer) in [
            (1, false, 1),
            (2, true, 1),
            (3, true, 1),
            (4, false, 2),
            (5, true, 2),
            (6, false, 3),
        ] {
            let one = waiting((number, has_spoken), peer, Instant::now());
            assert!(room.enter(one).is_none());
        }
        assert_eq!(drained(&mut room), [6, 5, 4, 2, 3, 1]);
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
            (6, true, 1, 1, false, None),
            (7, true, 1, 2, true, Some(3)),
            (8, false, 2, 2, true, Some(7)),
        ] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(room.has_room(now), has_room, "{number}");
            if has_room {
                let left = room.enter(waiting((number, has_spoken), peer, now));
                assert_eq!(left.map(|one| one.stream.0), gone, "{number}");
            }
        }
        let mut rest = drained(&mut room);
        rest.sort_unstable();
        assert_eq!(rest, [2, 4, 5, 8]);
    }
}
