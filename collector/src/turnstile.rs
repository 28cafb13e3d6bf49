//! Where a worker's work stands that may be done a little later: what a peer wants beyond its turn.
//!
//! The rule kept here: of all that waits, one piece is done between two looks at the sockets, whoever it belongs to and
//! however much there is. So whoever asks for little, and is not here at all, waits for a piece and not for as many
//! as there are attackers. What came first goes first, and each connection stands here once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tokio::task::yield_now;

/// A line, of which one is called at a time.
#[derive(Debug, Default)]
pub struct Turnstile {
    line: RefCell<VecDeque<Rc<Place>>>,
    came: Notify,
}

/// A place in the line.
#[derive(Debug, Default)]
struct Place {
    is_called: Cell<bool>,
    /// Whoever had it does not wait any longer.
    is_left: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Stands in the line until it is called, or dropped.
#[derive(Debug)]
pub struct Ticket(Rc<Place>);

impl Turnstile {
    /// Takes the last place.
    pub fn queue(&self) -> Ticket {
        let place = Rc::<Place>::default();
        self.line.borrow_mut().push_back(Rc::clone(&place));
        self.came.notify_one();
        Ticket(place)
    }

    /// Returns when this one's turn has come.
    pub async fn pass(&self) {
        let ticket = self.queue();
        poll_fn(|cx| ticket.poll_called(cx)).await;
    }

    /// Calls the first one that still waits. Whether there was one.
    pub fn call(&self) -> bool {
        loop {
            let Some(place) = self.line.borrow_mut().pop_front() else { return false };
            if place.is_left.get() {
                continue;
            }
            place.is_called.set(true);
            if let Some(waker) = place.waker.borrow_mut().take() {
                waker.wake();
            }
            return true;
        }
    }

    /// Calls one between two looks at the sockets, for ever.
    pub async fn run(&self) {
        loop {
            if self.call() {
                // whoever yields goes on after the next look
                yield_now().await;
            } else {
                self.came.notified().await;
            }
        }
    }
}

impl Ticket {
    /// Ready when it was called.
    pub fn poll_called(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.is_called.get() {
            return Poll::Ready(());
        }
        self.0.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.is_left.set(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::task::Wake;

    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::spawn_local;

    #[derive(Default)]
    struct Wakes(AtomicU32);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn who_came_first_is_called_first_and_who_has_left_costs_nobody_a_turn() {
        let turnstile = Turnstile::default();
        assert!(!turnstile.call());
        let wakes = Arc::<Wakes>::default();
        let waker = Waker::from(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        let [first, left, last] = [(); 3].map(|()| turnstile.queue());
        let mut called = || [&first, &last].map(|ticket| ticket.poll_called(&mut cx).is_ready());
        assert_eq!(called(), [false, false]);
        drop(left);
        assert!(turnstile.call());
        assert_eq!((called(), wakes.0.load(Relaxed)), ([true, false], 1));
        assert!(turnstile.call());
        assert_eq!((called(), wakes.0.load(Relaxed)), ([true, true], 2));
        assert!(!turnstile.call());
    }

    #[test]
    fn one_piece_is_done_between_two_looks_at_the_sockets_however_many_wait() {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        let done = Rc::new(Cell::new(0));
        let turnstile = Rc::new(Turnstile::default());
        runtime.block_on(async {
            for _ in 0..100 {
                let (turnstile, done) = (Rc::clone(&turnstile), Rc::clone(&done));
                spawn_local(async move {
                    turnstile.pass().await;
                    done.set(done.get() + 1);
                });
            }
            let running = Rc::clone(&turnstile);
            spawn_local(async move { running.run().await });
            let mut seen = Vec::new();
            while done.get() < 100 {
                seen.push(done.get());
                // after the next look
                yield_now().await;
            }
            assert_eq!(seen.windows(2).map(|two| two[1] - two[0]).max(), Some(1), "{seen:?}");
        });
    }
}
