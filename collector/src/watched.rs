//! What is read from files again while the collector runs, as one worker sees it.
//!
//! The rule kept here: what a worker uses is its own until it asks for the newest, so that nothing changes in the
//! middle of a batch or an answer, and workers share no lock for what hardly ever changes.

use std::cell::{Ref, RefCell};
use std::sync::Arc;

use tokio::sync::watch;

/// A worker's own reference to a value that is replaced as a whole.
#[derive(Debug)]
pub struct Watched<T> {
    current: RefCell<Arc<T>>,
    /// Says when there is another.
    newest: RefCell<watch::Receiver<Arc<T>>>,
}

impl<T> Watched<T> {
    /// Begins with the newest.
    pub fn new(mut newest: watch::Receiver<Arc<T>>) -> Self {
        let current = Arc::clone(&newest.borrow_and_update());
        Self { current: RefCell::new(current), newest: RefCell::new(newest) }
    }

    /// Takes the newest if there is another.
    pub fn refresh(&self) {
        let mut newest = self.newest.borrow_mut();
        // an error says that it will never change again
        if newest.has_changed().unwrap_or(false) {
            self.current.replace(Arc::clone(&newest.borrow_and_update()));
        }
    }

    /// What was the newest at the last [`Watched::refresh`].
    pub fn get(&self) -> Ref<'_, T> {
        Ref::map(self.current.borrow(), |current| &**current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_value_is_seen_when_asked_for_and_the_last_one_stays_for_good() {
        let (set, newest) = watch::channel(Arc::new(1));
        let watched = Watched::new(newest);
        set.send_replace(Arc::new(2));
        assert_eq!(*watched.get(), 1);
        watched.refresh();
        assert_eq!(*watched.get(), 2);
        drop(set);
        watched.refresh();
        assert_eq!(*watched.get(), 2);
    }
}
