//! Who may send to an instance: bounds what waits in it, and lets the registry close it without
//! losing a message. It knows no message and no disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::metrics;

/// No more operations are let in.
const CLOSED: u64 = 1 << 63;
/// One guard that keeps the instance awake.
const HOLD: u64 = 1 << 32;
/// Operations under way.
const OPERATIONS: u64 = HOLD - 1;

/// The gate of one activation. An operation counts from before it is sent until its outcome is
/// told, so when the count is zero nothing is in the mailbox and nothing is in the log.
#[derive(Debug)]
pub(crate) struct Admission {
    state: AtomicU64,
    drained: Notify,
    /// Whoever waits in this activation for something other than a reply looks again.
    pub(crate) changed: Notify,
    limit: u64,
    begun: Instant,
    /// Milliseconds since `begun`.
    last_used: AtomicU64,
}

impl Admission {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let limit = (limit as u64).clamp(1, OPERATIONS);
        Arc::new(Self {
            state: AtomicU64::new(0),
            drained: Notify::new(),
            changed: Notify::new(),
            limit,
            begun: Instant::now(),
            last_used: AtomicU64::new(0),
        })
    }

    /// Lets an operation in; `None` when the activation is closed.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] at the limit.
    pub(crate) fn enter(self: &Arc<Self>, queued: Queued) -> Result<Option<Permit>> {
        let step = |state: u64| (state & CLOSED == 0 && state & OPERATIONS < self.limit).then_some(state + 1);
        match self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, step) {
            Ok(_) => {
                self.touch();
                Ok(Some(Permit { admission: Arc::clone(self), _queued: queued }))
            }
            Err(state) if state & CLOSED != 0 => Ok(None),
            Err(_) => {
                metrics::OVERLOADED_INSTANCE.add(1);
                Err(Error::Overloaded { what: "operations waiting in one instance", limit: self.limit })
            }
        }
    }

    /// Keeps the instance awake; `None` when the activation is closed.
    pub(crate) fn hold(self: &Arc<Self>) -> Option<Hold> {
        let step = |state: u64| (state & CLOSED == 0).then_some(state + HOLD);
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, step).ok()?;
        Some(Hold { admission: Arc::clone(self) })
    }

    /// Whether the activation still lets operations in.
    pub(crate) fn is_open(&self) -> bool {
        self.state.load(Ordering::Acquire) & CLOSED == 0
    }

    /// Whether more than one operation is under way.
    pub(crate) fn is_shared(&self) -> bool {
        self.state.load(Ordering::Relaxed) & OPERATIONS > 1
    }

    /// Closes the activation if nothing is under way and nothing keeps it awake.
    pub(crate) fn close_if_idle(&self) -> bool {
        self.state.compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Lets nothing in any more.
    pub(crate) fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// Waits until nothing is under way. Only of use when closed. Cancel safe.
    pub(crate) async fn drained(&self) {
        loop {
            let woken = self.drained.notified();
            if self.state.load(Ordering::Acquire) & OPERATIONS == 0 {
                return;
            }
            woken.await;
        }
    }

    pub(crate) fn touch(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_used.store(now, Ordering::Relaxed);
    }

    pub(crate) fn last_used(&self) -> Instant {
        self.begun + std::time::Duration::from_millis(self.last_used.load(Ordering::Relaxed))
    }
}

/// One operation under way in one instance.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    _queued: Queued,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.admission.state.fetch_sub(1, Ordering::AcqRel);
        if before & CLOSED != 0 && before & OPERATIONS == 1 {
            self.admission.drained.notify_waiters();
        }
    }
}

/// While it lives the instance is not let go for being idle, or for being the least used.
#[derive(Debug)]
pub(crate) struct Hold {
    admission: Arc<Admission>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.admission.touch();
        self.admission.state.fetch_sub(HOLD, Ordering::AcqRel);
    }
}

/// One operation waiting somewhere in the store.
#[derive(Debug)]
pub(crate) struct Queued {
    count: Arc<AtomicUsize>,
}

impl Queued {
    /// Takes a place in the store.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] at the limit.
    pub(crate) fn enter(count: &Arc<AtomicUsize>, limit: usize) -> Result<Self> {
        if count.fetch_add(1, Ordering::AcqRel) >= limit {
            count.fetch_sub(1, Ordering::AcqRel);
            metrics::OVERLOADED_STORE.add(1);
            return Err(Error::Overloaded { what: "operations waiting in the store", limit: limit as u64 });
        }
        Ok(Self { count: Arc::clone(count) })
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued() -> Queued {
        Queued { count: Arc::new(AtomicUsize::new(1)) }
    }

    #[tokio::test]
    async fn the_gate_counts_closes_and_drains() {
        let gate = Admission::new(2);
        let first = gate.enter(queued()).expect("open");
        let second = gate.enter(queued()).expect("open");
        assert!(matches!(gate.enter(queued()), Err(Error::Overloaded { limit: 2, .. })));
        assert!(!gate.close_if_idle());
        gate.close();
        assert!(gate.enter(queued()).expect("closed is no error").is_none());
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.drained().await }
        });
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.expect("drained");
    }

    #[test]
    fn a_hold_keeps_the_gate_open() {
        let gate = Admission::new(2);
        let hold = gate.hold().expect("open");
        assert!(!gate.close_if_idle());
        drop(hold);
        assert!(gate.close_if_idle());
        assert!(gate.hold().is_none());
    }
}
