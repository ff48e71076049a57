//! What waits for an actor: the actor takes all of it at once, and is woken once for that.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// It does not bound what waits: whoever puts something in has a permit for it.
pub(super) struct Inbox<T>(Mutex<Waiting<T>>);

struct Waiting<T> {
    items: Vec<T>,
    closed: bool,
}

impl<T> Inbox<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Waiting { items: Vec::new(), closed: false }))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<T>> {
        // No panic while this is held leaves it half changed: only room is made in between.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something behind the rest, and says whether the actor must be woken; `None` when the actor
    /// is gone.
    pub(super) fn put(&self, item: T) -> Option<bool> {
        let mut waiting = self.waiting();
        if waiting.closed {
            return None;
        }
        waiting.items.push(item);
        Some(waiting.items.len() == 1)
    }

    /// Moves what has waited longest into `taken`, which is empty, and says whether there is more.
    pub(super) fn take(&self, taken: &mut Vec<T>, most: usize) -> bool {
        let mut waiting = self.waiting();
        if waiting.items.len() <= most {
            std::mem::swap(taken, &mut waiting.items);
            return false;
        }
        taken.extend(waiting.items.drain(..most));
        true
    }

    /// The actor is gone. What waits is dropped.
    pub(super) fn close(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        let dropped = std::mem::take(&mut waiting.items);
        drop(waiting);
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_actor_is_woken_once_for_all_that_waits() {
        let (inbox, mut taken) = (Inbox::new(), Vec::new());
        assert_eq!([1, 2, 3].map(|item| inbox.put(item)), [Some(true), Some(false), Some(false)]);
        assert!(inbox.take(&mut taken, 2));
        assert_eq!(taken, [1, 2]);
        // There is more, so whoever took the first goes on by itself.
        assert_eq!(inbox.put(4), Some(false));
        taken.clear();
        assert!(!inbox.take(&mut taken, 2));
        assert_eq!(taken, [3, 4]);
        assert_eq!(inbox.put(5), Some(true));
    }

    #[test]
    fn what_waits_for_an_actor_that_is_gone_is_dropped() {
        let (inbox, item) = (Inbox::new(), std::sync::Arc::new(()));
        assert_eq!(inbox.put(std::sync::Arc::clone(&item)), Some(true));
        inbox.close();
        assert_eq!(std::sync::Arc::strong_count(&item), 1);
        assert_eq!(inbox.put(std::sync::Arc::clone(&item)), None);
        assert_eq!(std::sync::Arc::strong_count(&item), 1);
    }
}
