//! Who makes room when there are as many connections as there may be.
//!
//! The rule kept here: **whoever asks for something gets a connection, and whoever has been silent for long loses one.** A
//! flood of connections that say nothing, or never end what they say, takes all that there are in a second; without this the
//! next honest visitor would wait until they are given up. The field's servers do the same (nginx: "reusing
//! connections"). A browser opens another one when it next has something to say.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// Of so many that come next in the round, the one that has been silent for longest makes room: the whole crowd would take too
/// long to look through, and one of so many is among the oldest.
const LOOKED_AT: usize = 16;
/// A connection that was silent for less may be about to say something, or to be answered.
const SILENCE: Duration = Duration::from_secs(1);

/// The connections of a worker.
#[derive(Debug, Default)]
pub struct Crowd {
    members: RefCell<Vec<Rc<Member>>>,
    /// Where the next look begins.
    next: Cell<usize>,
}

#[derive(Debug)]
struct Member {
    place: Cell<usize>,
    spoke: Cell<Instant>,
    has_to_go: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A connection's place in the crowd, until it is dropped.
#[derive(Debug)]
pub struct Membership {
    crowd: Rc<Crowd>,
    member: Rc<Member>,
}

impl Crowd {
    /// Takes in a connection.
    pub fn join(self: &Rc<Self>) -> Membership {
        let mut members = self.members.borrow_mut();
        let member = Rc::new(Member {
            place: Cell::new(members.len()),
            spoke: Cell::new(Instant::now()),
            has_to_go: Cell::new(false),
            waker: RefCell::default(),
        });
        members.push(Rc::clone(&member));
        Membership { crowd: Rc::clone(self), member }
    }

    /// Has one connection end that has been silent for long, if one is found.
    pub fn make_room(&self) -> bool {
        let members = self.members.borrow();
        if members.is_empty() {
            return false;
        }
        let begin = self.next.get() % members.len();
        let looked_at = members[begin..].iter().chain(&members[..begin]).take(LOOKED_AT);
        self.next.set(begin + LOOKED_AT);
        let longest = looked_at.filter(|member| !member.has_to_go.get()).min_by_key(|member| member.spoke.get());
        let Some(member) = longest.filter(|member| member.spoke.get().elapsed() >= SILENCE) else { return false };
        member.has_to_go.set(true);
        if let Some(waker) = member.waker.take() {
            waker.wake();
        }
        true
    }
}

impl Membership {
    /// The connection has asked for something at this time.
    pub fn speaks(&self, at: Instant) {
        self.member.spoke.set(at);
    }

    /// Serves the connection until that is done, or it has to make room. Whether it was done.
    pub async fn serve(&self, mut serving: Pin<&mut impl Future<Output = ()>>) -> bool {
        poll_fn(|cx| {
            if self.member.has_to_go.get() {
                return Poll::Ready(false);
            }
            if serving.as_mut().poll(cx).is_ready() {
                return Poll::Ready(true);
            }
            let mut waker = self.member.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut members = self.crowd.members.borrow_mut();
        let place = self.member.place.get();
        members.swap_remove(place);
        if let Some(moved) = members.get(place) {
            moved.place.set(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Context;

    fn has_to_go(membership: &Membership) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut never = pin!(std::future::pending());
        let mut serving = pin!(membership.serve(never.as_mut()));
        serving.as_mut().poll(&mut cx) == Poll::Ready(false)
    }

    #[test]
    fn who_was_silent_for_longest_makes_room_and_whoever_has_just_spoken_does_not() {
        let crowd = Rc::<Crowd>::default();
        assert!(!crowd.make_room(), "there is nobody");
        let long_ago =
            |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).expect("a machine up for longer");
        let all: Vec<Membership> = (0..10).map(|_| crowd.join()).collect();
        assert!(!crowd.make_room(), "all have just come");
        for (n, seconds) in [(3, 5), (7, 9), (8, 2)] {
            all[n].speaks(long_ago(seconds));
        }
        let mut order = Vec::new();
        while crowd.make_room() {
            let next = (0..10).find(|n| has_to_go(&all[*n]) && !order.contains(n));
            order.extend(next);
        }
        assert_eq!(order, [7, 3, 8]);
    }

    #[test]
    fn in_a_large_crowd_everybody_is_looked_at_in_turn_and_who_has_gone_is_not() {
        let crowd = Rc::<Crowd>::default();
        let mut all: Vec<Membership> = (0..1000).map(|_| crowd.join()).collect();
        let silent = all.swap_remove(500);
        silent.speaks(Instant::now().checked_sub(SILENCE).expect("a machine up for longer"));
        drop(all.drain(..300));
        let looks = (0..).take_while(|_| !crowd.make_room()).count();
        assert!(looks <= 700 / LOOKED_AT + 1, "{looks}");
        assert!(has_to_go(&silent));
        drop((silent, all));
        assert!(crowd.members.borrow().is_empty());
    }
}
