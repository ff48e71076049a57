//! The durable side of one activation: the locked directory, what is committed and not in the files
//! yet, and the files. It knows neither the type of the state nor the actor.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use uuid::Uuid;

use super::alarm::LaneAlarm;
use super::chain::Chain;
use super::commit::{Commit, Line};
use super::events::EventWriter;
use super::feed::Feed;
use super::tail::Tail;
use super::{Log, checkpoint};
use crate::disk::alarms::AlarmIndex;
use crate::disk::atomic::{self, Sync};
use crate::disk::fs::{Dir, Locked};
use crate::disk::layout;
use crate::disk::lock::{self, Writer};
use crate::disk::root::Root;
use crate::error::{Error, Result};
use crate::mutants::{Protection, without};
use crate::record::{AlarmEntry, Document, EventLine, InstanceId};

/// One activation of one instance, shared by its actor, the commit log and the materialiser.
///
/// Lock order: `files`, then `pending`.
pub(crate) struct Lane {
    pub(crate) id: InstanceId,
    pub(crate) uid: Uuid,
    /// Number of the activation.
    pub(crate) epoch: u64,
    /// The directory of the instance, whose descriptor holds the lock.
    pub(crate) dir: Locked<Dir>,
    pub(crate) feed: Arc<Feed>,
    root: Arc<Root>,
    tail: Arc<Tail>,
    writer: Weak<Writer>,
    /// The batch of its last commit: what is in the files must be on disk in the log before.
    batch: AtomicU64,
    /// Revision of the last commit that was applied in this activation, plus one.
    applied: AtomicU64,
    pending: Mutex<Pending>,
    files: Mutex<EventWriter>,
    /// The last generation of commits of which one was not applied, plus one; and why.
    failed: AtomicU64,
    failure: Mutex<Option<Arc<Error>>>,
    gone: AtomicBool,
    /// The commit log's notes: the segment that has the whole record last, or would have it if what
    /// is being written stands; the last one that counts this lane among those it covers, and the batch
    /// in which it begins to; and the last with events of it. Only the thread of the log writes them.
    pub(super) record_segment: AtomicU64,
    covered_segment: AtomicU64,
    covered_batch: AtomicU64,
    event_segment: AtomicU64,
    /// See [`Lane::note_found`].
    found: AtomicBool,
    record_bytes: usize,
    alarm: LaneAlarm,
}

/// What is durable in the log and not in the files.
#[derive(Default)]
struct Pending {
    record: Option<Arc<dyn Document>>,
    events: Vec<EventLine>,
    /// Whether the materialiser has been told.
    queued: bool,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// The instance is deleted in the log, and its directory is still in its place.
    Deleted,
    /// The lock is let go. The files belong to somebody else, or to nobody.
    Released,
}

impl Lane {
    pub(crate) fn new(
        root: Arc<Root>,
        log: &Log,
        id: &InstanceId,
        uid: Uuid,
        epoch: u64,
        dir: Locked<Dir>,
        files: EventWriter,
    ) -> Arc<Self> {
        let last_seq = files.last_seq();
        let lane = Arc::new(Self {
            id: id.clone(),
            uid,
            epoch,
            dir,
            feed: log.feed(id),
            root,
            tail: log.tail(),
            writer: log.weak_writer(),
            batch: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            pending: Mutex::default(),
            files: Mutex::new(files),
            failed: AtomicU64::new(0),
            failure: Mutex::default(),
            gone: AtomicBool::new(false),
            record_segment: AtomicU64::new(0),
            covered_segment: AtomicU64::new(0),
            covered_batch: AtomicU64::new(0),
            event_segment: AtomicU64::new(0),
            found: AtomicBool::new(false),
            record_bytes: log.record_bytes(),
            alarm: LaneAlarm::new(log.bell()),
        });
        lane.feed.attach(&lane, last_seq);
        lane
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // A panic while this is held cannot leave it half changed: each change is one assignment.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> MutexGuard<'_, EventWriter> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the directory was removed or replaced behind our back.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The generation that new commits of the actor must carry.
    ///
    /// When a commit is not applied, those behind it were computed on a state that never was. They
    /// carry the same generation, and the log refuses them. The actor sees that the generation has
    /// moved on, drops its state, and goes on from the last durable one.
    pub(crate) fn generation(&self) -> u64 {
        self.failed.load(Ordering::Acquire)
    }

    /// Notes that a commit of this generation was not applied, and why.
    pub(crate) fn fail(&self, generation: u64, reason: &Arc<Error>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(reason));
        self.failed.fetch_max(generation + 1, Ordering::AcqRel);
    }

    /// Why the last generation failed.
    pub(crate) fn failure(&self) -> Arc<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_else(|| Arc::new(Error::Closed))
    }

    /// Notes that commits of it are written in this segment, in this batch. Says whether they are the
    /// first in the segment: then the whole record is there.
    pub(super) fn cover(&self, segment: u64, batch: u64, has_events: bool) -> bool {
        if has_events {
            self.event_segment.store(segment, Ordering::Release);
        }
        self.batch.store(batch, Ordering::Release);
        let first = self.covered_segment.load(Ordering::Relaxed) != segment;
        if first {
            self.covered_batch.store(batch, Ordering::Release);
            self.covered_segment.store(segment, Ordering::Release);
        }
        first
    }

    /// It has files that were there before, of which nobody here knows whether they are on disk: they
    /// are flushed before a segment goes.
    pub(super) fn note_found(&self) {
        self.found.store(true, Ordering::Release);
    }

    /// Whether a segment may go although the files of the instance are not flushed: a later one begins
    /// with its whole record, which is on disk, and no event is lost with this one.
    ///
    /// # Errors
    ///
    /// When that later one cannot be flushed.
    pub(super) fn is_carried_on(&self, segment: u64) -> Result<bool> {
        let carried = self.covered_segment.load(Ordering::Acquire) > segment;
        let no_event = self.event_segment.load(Ordering::Acquire) < segment || without(Protection::CarriedWhole);
        if !carried || !no_event || self.found.load(Ordering::Acquire) || self.phase() != Phase::Open {
            return Ok(false);
        }
        if !without(Protection::CarriedOnDisk) {
            self.tail.ensure(self.covered_batch.load(Ordering::Acquire))?;
        }
        Ok(true)
    }

    /// Takes in a commit that has become durable. Says whether the materialiser must be told.
    pub(crate) fn apply(&self, commit: &Commit) -> bool {
        let newly_queued = {
            let mut pending = self.pending();
            if commit.deleted {
                *pending = Pending { phase: Phase::Deleted, ..Pending::default() };
            }
            self.applied.store(commit.revision + 1, Ordering::Release);
            let open = pending.phase == Phase::Open;
            if open {
                pending.record = Some(Arc::clone(&commit.record));
                pending.events.extend_from_slice(&commit.events);
            }
            open && !std::mem::replace(&mut pending.queued, true)
        };
        self.feed.publish(&commit.events);
        newly_queued
    }

    /// Writes what is pending into the files: events first, then the record.
    ///
    /// A failure loses nothing: it stays pending, and is tried again.
    pub(crate) fn materialise(&self) -> Result<()> {
        let mut files = self.files();
        self.write_pending(&mut files)
    }

    fn write_pending(&self, files: &mut EventWriter) -> Result<()> {
        let (record, events) = {
            let mut pending = self.pending();
            pending.queued = false;
            (pending.record.take(), std::mem::take(&mut pending.events))
        };
        let Some(record) = record else { return Ok(()) };
        let durable =
            if without(Protection::LogFirst) { Ok(()) } else { self.tail.ensure(self.batch.load(Ordering::Acquire)) };
        let written = durable.and_then(|()| self.write(files, &*record, &events));
        if written.is_err() {
            if self.is_replaced()? {
                self.gone.store(true, Ordering::Release);
                return Err(Error::Gone { id: self.id.clone(), path: self.dir.path().to_owned() });
            }
            self.put_back(Some(record), events);
        }
        written
    }

    /// What could not be written is pending again; what came meanwhile is newer.
    fn put_back(&self, record: Option<Arc<dyn Document>>, events: Vec<EventLine>) {
        let mut pending = self.pending();
        if pending.phase == Phase::Open {
            pending.record = pending.record.take().or(record);
            pending.events.splice(0..0, events);
        }
    }

    fn write(&self, files: &mut EventWriter, record: &dyn Document, events: &[EventLine]) -> Result<()> {
        if self.is_replaced()? {
            return Err(Error::Gone { id: self.id.clone(), path: self.dir.path().to_owned() });
        }
        files.append(&self.dir, events)?;
        let bytes = readable(record, self.record_bytes)?;
        let alarm = record.alarm_entry();
        self.alarm.add(&self.root, alarm.as_ref())?;
        atomic::replace(&self.dir, layout::RECORD, &bytes, Sync::No)?;
        self.alarm.settle(&self.root, alarm);
        Ok(())
    }

    /// The record that was found has this alarm. Its entry is there, unless somebody has put the
    /// directory in its place.
    pub(super) fn found_alarm(&self, alarm: Option<AlarmEntry>) -> Result<()> {
        let _files = self.files();
        self.alarm.add(&self.root, alarm.as_ref())?;
        self.alarm.settle(&self.root, alarm);
        Ok(())
    }

    /// Removes an entry of the index that is not that of the record: the files first, because the
    /// commit that says so must be on disk before. Blocks.
    pub(crate) fn forget_alarm(&self, alarm: &AlarmEntry) -> Result<()> {
        let mut files = self.files();
        self.write_pending(&mut files)?;
        if !self.alarm.is(alarm) {
            AlarmIndex::remove(&self.root.internal, alarm)?;
        }
        Ok(())
    }

    /// Takes the alarm in hand; `false` when somebody in this process has it.
    pub(crate) fn take_alarm(&self) -> bool {
        self.alarm.take()
    }

    pub(crate) fn give_back_alarm(&self) {
        self.alarm.give_back();
    }

    /// Whether the name of the instance leads to another directory than ours, or to none.
    fn is_replaced(&self) -> Result<bool> {
        let named = self.root.instances.stat(self.id.as_str())?;
        let own = self.dir.own_stat()?;
        Ok(named.is_none_or(|named| named.identity != own.identity))
    }

    /// Whether the activation is over.
    pub(crate) fn is_released(&self) -> bool {
        self.phase() == Phase::Released
    }

    fn phase(&self) -> Phase {
        self.pending().phase
    }

    /// Makes the files durable, with everything pending in them; and finishes a deletion.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        let mut files = self.files();
        if self.is_gone() {
            return Ok(());
        }
        match self.phase() {
            Phase::Open => {
                match self.write_pending(&mut files) {
                    Err(Error::Gone { .. }) => return Ok(()),
                    written => written?,
                }
                sync_record(&self.dir)?;
                files.sync(&self.dir)?;
                if !without(Protection::DirectoryFlush) {
                    self.dir.sync()?;
                }
                self.found.store(false, Ordering::Release);
                Ok(())
            }
            Phase::Deleted => self.move_to_trash().map(drop),
            // Between the look at it and now.
            Phase::Released => sync_files(&self.dir),
        }
    }

    /// [`Lane::checkpoint`] again, after it has failed: everything into new files, from what the log
    /// has of the instance. The old ones may be such whose fsync has failed.
    pub(crate) fn rewrite(&self, mut lines: Vec<Line>) -> Result<()> {
        let mut files = self.files();
        if self.is_gone() || self.is_replaced()? {
            return Ok(());
        }
        if self.phase() == Phase::Deleted {
            return self.move_to_trash().map(drop);
        }
        self.tail.ensure(self.batch.load(Ordering::Acquire))?;
        let (record, events, applied) = {
            let mut pending = self.pending();
            (pending.record.take(), std::mem::take(&mut pending.events), self.applied.load(Ordering::Acquire))
        };
        lines.retain(|line| line.commit.as_ref().is_some_and(|c| c.uid == self.uid && c.revision < applied));
        let written = Chain::of(lines)
            .anew()
            .apply(&self.root, &self.id, self.uid, &self.dir)
            .and_then(|verdict| checkpoint::whole(&self.id, verdict))
            .and_then(|()| files.reload(&self.dir, 0));
        match written {
            Ok(reloaded) => {
                *files = reloaded;
                if let Some(record) = record {
                    self.alarm.settle(&self.root, record.alarm_entry());
                }
            }
            Err(error) => {
                self.put_back(record, events);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The end of the activation: everything into the files, then the lock is let go.
    ///
    /// When the files cannot be written, or the directory of a deleted instance cannot be moved, the
    /// lock is kept, and the error says why: the next owner must not read files that lack
    /// acknowledged commits.
    pub(crate) fn release(&self) -> Result<()> {
        let mut files = self.files();
        if self.phase() == Phase::Deleted {
            // The deletion stands in the log: nobody may open what is still in its place.
            self.move_to_trash()?;
        }
        if self.phase() == Phase::Open && !self.is_gone() {
            // The next owner would take the file for whole.
            files.check()?;
            match self.write_pending(&mut files).and_then(|()| files.save(&self.dir, Sync::No)) {
                Ok(()) | Err(Error::Gone { .. }) => {}
                Err(e) if !self.is_replaced()? => return Err(e),
                Err(_) => {}
            }
        }
        self.let_go();
        Ok(())
    }

    /// Moves the directory of a deleted instance to the trash, durably, and lets the lock go.
    /// Returns its name there; `None` when it was not in its place any more.
    pub(crate) fn discard(&self) -> Result<Option<String>> {
        let _files = self.files();
        let name = self.move_to_trash()?;
        self.let_go();
        Ok(name)
    }

    /// Undoes a creation whose commit was not applied: the directory goes if it is empty.
    pub(crate) fn abandon(&self) -> Result<()> {
        let _files = self.files();
        if !self.is_replaced()? && self.dir.names()?.is_empty() {
            lock::remove_empty(&self.root, &self.id)?;
        }
        self.let_go();
        Ok(())
    }

    fn move_to_trash(&self) -> Result<Option<String>> {
        if self.is_replaced()? {
            self.alarm.settle(&self.root, None);
            return Ok(None);
        }
        let name = layout::trashed(&self.id, self.uid);
        lock::move_to_trash(&self.root, &self.id, &name)?;
        self.alarm.settle(&self.root, None);
        Ok(Some(name))
    }

    fn let_go(&self) {
        self.pending().phase = Phase::Released;
        self.dir.unlock();
    }
}

impl Drop for Lane {
    /// A store that is dropped without being shut down lets its instances go one by one. None may go
    /// while its files lack a commit: whoever locks it then would take them for complete. When they
    /// cannot be written the lock stays until the writer counts as dead, and is recovered.
    fn drop(&mut self) {
        let lacking = {
            let pending = self.pending();
            pending.phase == Phase::Deleted || pending.phase == Phase::Open && pending.record.is_some()
        };
        if lacking && let Err(error) = self.release() {
            tracing::warn!(id = %self.id, epoch = self.epoch, %error, "the files of an instance could not be written: its commits are in the log");
            if let Some(writer) = self.writer.upgrade()
                && let Some(lock) = self.dir.hand_over()
            {
                writer.adopt(lock);
            }
        }
    }
}

/// Makes the files of an instance durable. That needs no ownership.
pub(super) fn sync_files(dir: &Dir) -> Result<()> {
    sync_record(dir)?;
    if let Some(events) = dir.open_dir(layout::EVENTS)? {
        if let Some(file) = events.open_file(layout::EVENT_LOG)? {
            file.sync_all()?;
        }
        events.sync()?;
    }
    dir.sync()
}

/// Makes `instance.json` durable.
pub(super) fn sync_record(dir: &Dir) -> Result<()> {
    match dir.open_file(layout::RECORD)? {
        Some(file) => file.sync_all(),
        None => Ok(()),
    }
}

/// The bytes of `instance.json`: indented, unless that makes them much longer than the limit of a
/// record (deeply nested short lists do), so that what is written can always be read.
pub(super) fn readable(record: &dyn Document, record_bytes: usize) -> Result<Vec<u8>> {
    let fail = |e: serde_json::Error| crate::record::json::unserializable("record", &e);
    let bytes = record.pretty().map_err(fail)?;
    if bytes.len() <= 4 * record_bytes {
        return Ok(bytes);
    }
    let mut bytes = record.compact().map_err(fail)?;
    bytes.push(b'\n');
    Ok(bytes)
}
