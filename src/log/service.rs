//! The commit log as its users see it: submit, flush, close; and what its three threads share. No
//! commit is written here: the threads do that.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::alarm::Bell;
use super::changes::ChangeFeed;
use super::commit::{Body, Commit, LineDraft};
use super::feed::Feed;
use super::journal::Journal;
use super::lane::Lane;
use super::queue::CommitQueue;
use super::reply::{AllTold, Replies, tell, tell_callers};
use super::sealed::SealedQueue;
use super::tail::Tail;
use super::whole::FileSystem;
use super::{checkpoint, materialise};
use crate::disk::lock::Writer;
use crate::disk::root::Root;
use crate::error::{Error, Result};
use crate::metrics;
use crate::options::Options;
use crate::record::InstanceId;

/// What the threads share.
pub(super) struct Shared {
    pub(super) root: Arc<Root>,
    pub(super) options: Options,
    pub(super) queue: CommitQueue,
    dirty: Mutex<Dirty>,
    dirty_filled: Condvar,
    /// Held while files are brought up to date: who flushes waits for a pass that has begun.
    pub(super) passing: Mutex<()>,
    pub(super) sealed: SealedQueue,
    pub(super) file_system: FileSystem,
    pub(super) tail: Arc<Tail>,
    pub(super) commits: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) materialise_failures: AtomicU64,
    feeds: Mutex<HashMap<InstanceId, Weak<Feed>>>,
    bell: Bell,
    changes: Arc<ChangeFeed>,
}

#[derive(Default)]
struct Dirty {
    lanes: VecDeque<Arc<Lane>>,
    told: metrics::Part,
    closed: bool,
}

/// A snapshot of the log's counters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogStats {
    pub(crate) commits: u64,
    pub(crate) batches: u64,
    pub(crate) queued_bytes: usize,
    pub(crate) dirty: usize,
    pub(crate) materialise_failures: u64,
    pub(crate) checkpoints: u64,
    pub(crate) segments_waiting: usize,
    pub(crate) checkpoint_failures: u64,
    pub(crate) checkpoint_stalled: bool,
    pub(crate) poisoned: bool,
}

/// A handle on the running log.
pub(crate) struct Log {
    pub(super) shared: Arc<Shared>,
    threads: Mutex<Option<Threads>>,
    writer_id: uuid::Uuid,
    writer: Mutex<Option<Arc<Writer>>>,
}

struct Threads {
    journal: JoinHandle<()>,
    materialiser: JoinHandle<()>,
    checkpointer: JoinHandle<()>,
    /// Not a thread, but ends with the first.
    all_told: AllTold,
}

impl Log {
    /// Starts the threads.
    pub(crate) fn start(root: Arc<Root>, writer: Writer, options: Options) -> Result<Self> {
        let (log, mut journal) = Self::assemble(root, writer, options);
        let (replies, all_told) = Replies::start(tell);
        journal.replies = replies;
        let (shared, writer) = (&log.shared, lock(&log.writer).clone().ok_or(Error::Closed)?);
        let threads = Threads {
            journal: spawn(shared, "fiefdom-journal", move || journal.run())?,
            materialiser: spawn(shared, "fiefdom-files", {
                let shared = Arc::clone(shared);
                move || materialise::run(&shared)
            })?,
            checkpointer: spawn(shared, "fiefdom-checkpoint", {
                shared.sealed.attend();
                let shared = Arc::clone(shared);
                move || checkpoint::run(&shared, &writer)
            })?,
            all_told,
        };
        *lock(&log.threads) = Some(threads);
        Ok(log)
    }

    /// The log and what its thread runs, without the threads.
    pub(super) fn assemble(root: Arc<Root>, writer: Writer, options: Options) -> (Self, Journal) {
        let writer = Arc::new(writer);
        let shared = Arc::new(Shared {
            file_system: FileSystem::of(&root),
            root,
            changes: Arc::new(ChangeFeed::new(options.changes_kept)),
            queue: CommitQueue::new(options.queued_bytes),
            options,
            dirty: Mutex::default(),
            dirty_filled: Condvar::new(),
            passing: Mutex::default(),
            sealed: SealedQueue::default(),
            tail: Arc::default(),
            commits: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            materialise_failures: AtomicU64::new(0),
            feeds: Mutex::default(),
            bell: Bell::default(),
        });
        let journal = Journal::new(Arc::clone(&shared), Arc::clone(&writer));
        let writer_id = writer.id;
        let log = Self { shared, threads: Mutex::new(None), writer_id, writer: Mutex::new(Some(writer)) };
        (log, journal)
    }

    #[cfg(test)]
    pub(super) fn writer(&self) -> Result<Arc<Writer>> {
        lock(&self.writer).clone().ok_or(Error::Closed)
    }

    pub(super) fn weak_writer(&self) -> Weak<Writer> {
        lock(&self.writer).as_ref().map(Arc::downgrade).unwrap_or_default()
    }

    pub(crate) fn writer_id(&self) -> uuid::Uuid {
        self.writer_id
    }

    /// Queues a commit, of whose record its line says `body`, and says whether it was taken. Its callers are told once in any case.
    pub(crate) fn submit(&self, commit: Commit, body: Body) -> bool {
        let line = match self.shared.tail.poison() {
            Some(reason) => Err(Error::Poisoned { reason }),
            None => LineDraft::of(&commit.head(), body, &commit.events)
                .map_err(|e| crate::record::json::unserializable("commit", &e)),
        };
        let queued = match line {
            Ok(line) => self.shared.queue.push(commit, &line),
            Err(error) => Err((commit, error)),
        };
        match queued {
            Ok(()) => true,
            Err((commit, reason)) => {
                let id = commit.lane.id.clone();
                let refused = Err(Error::NotApplied { id: id.clone(), reason: Arc::new(reason) });
                tell_callers(commit.caller, &id, &refused);
                false
            }
        }
    }

    /// The end of the log, which the lanes look at before they change files.
    pub(super) fn tail(&self) -> Arc<Tail> {
        Arc::clone(&self.shared.tail)
    }

    /// Limit of a record.
    pub(super) fn record_bytes(&self) -> usize {
        self.shared.options.record_bytes
    }

    /// Whether it takes no more commits, because the store is shut down.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.queue.is_closed()
    }

    /// Rings when an alarm has come into the index, and when the log is closed.
    pub(crate) fn bell(&self) -> Bell {
        self.shared.bell.clone()
    }

    /// Every commit, for whoever listens.
    pub(crate) fn changes(&self) -> Arc<ChangeFeed> {
        Arc::clone(&self.shared.changes)
    }

    /// What the followers of an instance share.
    pub(crate) fn feed(&self, id: &InstanceId) -> Arc<Feed> {
        let mut feeds = lock(&self.shared.feeds);
        if let Some(feed) = feeds.get(id).and_then(Weak::upgrade) {
            return feed;
        }
        // Entries of feeds that nobody holds any more go when the map would grow.
        if feeds.len() == feeds.capacity() {
            feeds.retain(|_, feed| feed.strong_count() > 0);
        }
        let feed = Arc::new(Feed::new());
        feeds.insert(id.clone(), Arc::downgrade(&feed));
        feed
    }

    /// Brings every file up to the last commit that was acknowledged. Blocks.
    pub(crate) fn flush(&self) -> Result<()> {
        materialise::pass(&self.shared)
    }

    pub(crate) fn stats(&self) -> LogStats {
        let sealed = self.shared.sealed.standing();
        LogStats {
            commits: self.shared.commits.load(Ordering::Relaxed),
            batches: self.shared.batches.load(Ordering::Relaxed),
            queued_bytes: self.shared.queue.bytes(),
            dirty: self.shared.dirty(),
            materialise_failures: self.shared.materialise_failures.load(Ordering::Relaxed),
            checkpoints: sealed.done,
            segments_waiting: sealed.waiting,
            checkpoint_failures: sealed.failures,
            checkpoint_stalled: sealed.stalled,
            poisoned: self.shared.tail.poison().is_some(),
        }
    }

    /// Finishes everything that was submitted, brings the files up to date, makes them durable,
    /// and removes the log. Blocks. What could not be finished stays for recovery.
    pub(crate) fn close(&self) -> Result<()> {
        let Some(threads) = lock(&self.threads).take() else { return Ok(()) };
        self.stop();
        let join = |handle: JoinHandle<()>| handle.join().is_ok();
        let journal = join(threads.journal);
        threads.all_told.wait();
        self.shared.changes.close();
        // What this cannot write, the checkpoint of the last segment tries again.
        let _ = materialise::pass(&self.shared);
        self.shared.close_dirty();
        let materialiser = join(threads.materialiser);
        self.shared.sealed.close();
        let checkpointer = join(threads.checkpointer);
        if let Some(reason) = self.shared.tail.poison() {
            return Err(Error::Poisoned { reason });
        }
        if !(journal && materialiser && checkpointer) {
            return Err(Error::Closed);
        }
        if let Some(failure) = self.shared.sealed.failure() {
            return Err(Error::clone(&failure));
        }
        // Everything is in files that are on disk: nobody needs to recover this writer.
        match lock(&self.writer).take().and_then(Arc::into_inner) {
            Some(writer) => writer.retire(&self.shared.root),
            None => Ok(()),
        }
    }

    fn stop(&self) {
        self.shared.queue.close();
        // Whoever waits for alarms waits in vain from now on.
        self.shared.bell.ring();
    }
}

/// Starts one of the log's threads. Should it panic, the log is poisoned, so that nobody waits for
/// it in vain.
fn spawn(shared: &Arc<Shared>, name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let own = Arc::clone(shared);
    let guarded = move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            own.give_up();
            resume_unwind(panic);
        }
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(guarded)
        .map_err(|e| Error::io("start a thread for", shared.root.top.path(), e))
}

impl Dirty {
    fn tell(&mut self) {
        self.told.set(&metrics::FILES_BEHIND, self.lanes.len());
    }
}

/// No panic while one of these is held leaves it half changed: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// A thread of the log has died of a defect: no more commits are taken, and whoever waits for
    /// one is let go.
    fn give_up(&self) {
        let panicked = std::io::Error::other("a thread of the commit log panicked");
        self.tail.set_poison(&Error::io("write", self.root.top.path(), panicked));
        self.queue.abandon();
        self.sealed.abandon();
    }

    /// Tells the materialiser about lanes that have something pending.
    pub(super) fn add_dirty(&self, lanes: Vec<Arc<Lane>>) {
        if lanes.is_empty() {
            return;
        }
        let mut dirty = lock(&self.dirty);
        let first = dirty.lanes.is_empty();
        dirty.lanes.extend(lanes);
        dirty.tell();
        drop(dirty);
        if first {
            self.dirty_filled.notify_one();
        }
    }

    /// Waits until a lane has something pending; `false` when the log is closed.
    pub(super) fn wait_for_dirty(&self) -> bool {
        let dirty = lock(&self.dirty);
        let dirty = self
            .dirty_filled
            .wait_while(dirty, |d| d.lanes.is_empty() && !d.closed)
            .unwrap_or_else(PoisonError::into_inner);
        !dirty.closed
    }

    /// Waits, but not when the log is being closed.
    pub(super) fn pause_materialiser(&self, pause: Duration) {
        let dirty = lock(&self.dirty);
        drop(self.dirty_filled.wait_timeout_while(dirty, pause, |d| !d.closed));
    }

    /// Whether commits may come, which would wait for the disk.
    pub(super) fn expects_commits(&self) -> bool {
        self.sealed.is_attended() && !self.queue.is_closed()
    }

    /// How many lanes have something pending.
    pub(super) fn dirty(&self) -> usize {
        lock(&self.dirty).lanes.len()
    }

    /// The lane that has waited longest.
    pub(super) fn next_dirty(&self) -> Option<Arc<Lane>> {
        let mut dirty = lock(&self.dirty);
        let next = dirty.lanes.pop_front();
        dirty.tell();
        next
    }

    pub(super) fn take_dirty(&self) -> VecDeque<Arc<Lane>> {
        let mut dirty = lock(&self.dirty);
        let all = std::mem::take(&mut dirty.lanes);
        dirty.tell();
        all
    }

    fn close_dirty(&self) {
        lock(&self.dirty).closed = true;
        self.dirty_filled.notify_all();
    }

    /// The activation of an instance that is live in this process.
    pub(super) fn live_lane(&self, id: &InstanceId) -> Option<Arc<Lane>> {
        let feed = lock(&self.feeds).get(id).and_then(Weak::upgrade)?;
        feed.lane().filter(|lane| !lane.is_released())
    }
}

impl Drop for Log {
    /// Without [`Log::close`] the threads finish what was submitted and end by themselves; the log
    /// stays on disk, and the next opening recovers it.
    fn drop(&mut self) {
        if lock(&self.threads).is_some() {
            // First: the last segment must stay, because it lists who was at work.
            self.shared.sealed.abandon();
        }
        self.stop();
        self.shared.close_dirty();
    }
}
