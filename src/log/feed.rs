//! What the followers of an instance share: how far its events are durable, and the newest of them.
//!
//! A follower pulls: nothing is queued for it, so one that stalls costs no memory and slows nobody.
//! It takes what it needs from the ring, and what the ring has let go from the files.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;

use super::lane::Lane;
use crate::record::EventLine;

/// Newest events kept in memory for all followers of an instance together.
const RING_EVENTS: usize = 1024;
/// The same, in bytes.
const RING_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Feed {
    /// `seq` of the last durable event.
    durable: watch::Sender<u64>,
    followers: AtomicUsize,
    ring: Mutex<Ring>,
    lane: Mutex<Weak<Lane>>,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<EventLine>,
    bytes: usize,
}

impl Feed {
    pub(crate) fn new() -> Self {
        Self {
            durable: watch::Sender::new(0),
            followers: AtomicUsize::new(0),
            ring: Mutex::default(),
            lane: Mutex::default(),
        }
    }

    /// Ties the feed to the activation that now writes the instance.
    pub(crate) fn attach(&self, lane: &Arc<Lane>, last_seq: u64) {
        *self.lane.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(lane);
        self.durable.send_replace(last_seq);
    }

    /// The activation that writes the instance, when it is live in this process.
    pub(crate) fn lane(&self) -> Option<Arc<Lane>> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// Called by the commit log when events have become durable.
    pub(crate) fn publish(&self, lines: &[EventLine]) {
        let Some(last) = lines.last() else { return };
        if self.followers.load(Ordering::Acquire) > 0 {
            self.ring().push(lines);
        }
        self.durable.send_replace(last.seq);
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the followers.
    pub(crate) fn follow(self: &Arc<Self>) -> Follower {
        self.followers.fetch_add(1, Ordering::AcqRel);
        Follower { durable: self.durable.subscribe(), feed: Arc::clone(self) }
    }
}

impl Ring {
    fn push(&mut self, lines: &[EventLine]) {
        for line in lines {
            // Events that were published while nobody followed are not here: no gap may hide that.
            if self.lines.back().is_some_and(|last| last.seq + 1 != line.seq) {
                *self = Self::default();
            }
            self.bytes += line.text.len();
            self.lines.push_back(line.clone());
        }
        while self.lines.len() > RING_EVENTS || self.bytes > RING_BYTES {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.text.len();
        }
    }
}

/// One follower's side of a feed.
#[derive(Debug)]
pub(crate) struct Follower {
    durable: watch::Receiver<u64>,
    feed: Arc<Feed>,
}

impl Follower {
    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// `seq` of the last durable event, as far as this process knows.
    pub(crate) fn durable_seq(&mut self) -> u64 {
        *self.durable.borrow_and_update()
    }

    /// Waits until more events are durable. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        // The sender lives in the feed, which this follower keeps alive.
        let _ = self.durable.changed().await;
    }

    /// Durable events from `seq` on that are still in memory; none when `seq` itself is not.
    pub(crate) fn recent(&self, seq: u64, most: usize) -> Vec<EventLine> {
        let ring = self.feed.ring();
        let Some(first) = ring.lines.front().map(|line| line.seq) else { return Vec::new() };
        let Some(skip) = seq.checked_sub(first).and_then(|n| usize::try_from(n).ok()) else { return Vec::new() };
        ring.lines.iter().skip(skip).take(most).cloned().collect()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if self.feed.followers.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Nobody fills the ring from now on, so what it holds would have a gap behind it.
            *self.feed.ring() = Ring::default();
        }
    }
}
