//! The change feed: every commit of this process, for whoever listens.
//!
//! A bounded ring that all listeners share. One that falls behind is told how much it missed; nobody
//! waits for it. While nobody listens a commit pays for one look at a counter.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::record::Change;

#[derive(Debug)]
pub(crate) struct ChangeFeed {
    /// Made with the first listener; `None` again when the log is closed.
    ring: Mutex<Option<broadcast::Sender<Arc<Change>>>>,
    closed: std::sync::atomic::AtomicBool,
    listeners: Arc<AtomicUsize>,
    kept: usize,
}

impl ChangeFeed {
    /// `kept` is how many changes the ring holds.
    pub(crate) fn new(kept: usize) -> Self {
        Self {
            ring: Mutex::default(),
            closed: std::sync::atomic::AtomicBool::new(false),
            listeners: Arc::default(),
            kept: kept.max(1),
        }
    }

    fn ring(&self) -> MutexGuard<'_, Option<broadcast::Sender<Arc<Change>>>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody listens.
    pub(crate) fn is_heard(&self) -> bool {
        self.listeners.load(Ordering::Acquire) > 0
    }

    /// Tells of a commit that is durable. Called in the order of the commits, when what is read
    /// holds it, and before its caller knows.
    pub(crate) fn publish(&self, change: Change) {
        if let Some(ring) = &*self.ring() {
            // Everybody may have gone in between.
            let _ = ring.send(Arc::new(change));
        }
    }

    /// Listens, from now on.
    pub(crate) fn listen(&self) -> Listener {
        let mut ring = self.ring();
        let receiver = if self.closed.load(Ordering::Acquire) {
            broadcast::channel(1).1
        } else {
            ring.get_or_insert_with(|| broadcast::channel(self.kept).0).subscribe()
        };
        self.listeners.fetch_add(1, Ordering::AcqRel);
        Listener { receiver, listeners: Arc::clone(&self.listeners) }
    }

    /// There will be no more.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        *self.ring() = None;
    }
}

/// One listener's side.
#[derive(Debug)]
pub(crate) struct Listener {
    receiver: broadcast::Receiver<Arc<Change>>,
    listeners: Arc<AtomicUsize>,
}

impl Listener {
    /// The next change, or how many were missed; `None` when there will be no more. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Arc<Change>, u64>> {
        match self.receiver.recv().await {
            Ok(change) => Some(Ok(change)),
            Err(RecvError::Lagged(missed)) => Some(Err(missed)),
            Err(RecvError::Closed) => None,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.listeners.fetch_sub(1, Ordering::AcqRel);
    }
}
