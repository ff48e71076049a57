//! The thread in which commits become durable: group commit.
//!
//! Whatever has been queued while the last batch was being flushed is the next batch: one `write`,
//! one `fdatasync`. Nobody waits for a batch to fill.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::commit::{Body, Caller, Commit, Header, JOURNAL_FORMAT, LineDraft};
use super::queue::Batch;
use super::reply::{Outcomes, Replies, tell, tell_callers};
use super::segment::{Failure, Segment};
use super::service::Shared;
use super::slow::{Pace, SlowCommits};
use crate::disk::lock::Writer;
use crate::error::{Error, Result};
use crate::metrics;
use crate::mutants::{Protection, without};
use crate::options::Durability;
use crate::record::InstanceId;

/// How often an open segment is looked at for its age, when nothing is committed.
const AGE_CHECK: std::time::Duration = std::time::Duration::from_millis(250);

/// Commits of a batch from which on many callers are at work.
const MANY: usize = 4;

/// Owned by the thread.
pub(super) struct Journal {
    shared: Arc<Shared>,
    writer: Arc<Writer>,
    segment: Option<Segment>,
    next_number: u64,
    /// Instances whose last commit of ours left them at work: a segment begins with their list, so
    /// that recovery knows whom the death of this process interrupted.
    running: HashSet<InstanceId>,
    pub(super) replies: Replies,
    slow: SlowCommits,
}

impl Journal {
    pub(super) fn new(shared: Arc<Shared>, writer: Arc<Writer>) -> Self {
        let (slow, replies) = (SlowCommits::new(shared.options.slow_commit), Replies::at_once(tell));
        Self { shared, writer, segment: None, next_number: 1, running: HashSet::new(), replies, slow }
    }

    /// Runs until the log is closed and its queue is empty.
    pub(super) fn run(mut self) {
        while let Some(batch) = self.shared.queue.next(AGE_CHECK) {
            let many = batch.commits.len() >= MANY;
            if !batch.commits.is_empty() {
                self.commit(batch);
            }
            self.seal_if_old();
            if many {
                // Where processors are scarce, those who were answered go first: they make the next
                // batch as big as this one.
                std::thread::yield_now();
            }
        }
        if let Some(segment) = self.segment.take() {
            self.retire(segment);
        }
    }

    /// What is committed does not stay in the log alone for longer than a while. There is always a
    /// segment in use once there was one: it lists who is at work, and has room for a deletion when
    /// the disk is full.
    fn seal_if_old(&mut self) {
        let age = self.shared.options.log_segment_age;
        let is_old = |s: &Segment| s.begun.elapsed() >= age && !s.covered.is_empty();
        if self.segment.as_ref().is_some_and(is_old)
            && let Err(error) = self.begin_segment()
        {
            tracing::warn!(%error, "no new segment of the commit log could be made; the old one is kept in use");
        }
    }

    /// Makes a batch durable, and tells everybody in it.
    pub(super) fn commit(&mut self, batch: Batch) {
        let Batch { mut commits, lines, since } = batch;
        let pace = Pace { since, begun: Instant::now() };
        let is_stale = |c: &mut Commit| c.generation < c.lane.generation() && !without(Protection::Generations);
        let refused: Vec<_> = commits.extract_if(.., is_stale).collect();
        if !refused.is_empty() {
            metrics::COMMITS_NOT_APPLIED.add(count(&refused));
            let outcomes = refused.into_iter().map(|commit| {
                let (id, reason) = (commit.lane.id.clone(), commit.lane.failure());
                (commit, Error::NotApplied { id, reason })
            });
            self.replies.send(Outcomes::Failed(outcomes.collect()));
        }
        if !commits.is_empty() {
            self.write(commits, &lines, &pace);
        }
        self.shared.queue.done(lines);
    }

    fn write(&mut self, mut commits: Vec<Commit>, lines: &[u8], pace: &Pace) {
        if without(Protection::OutputGate) {
            for commit in &mut commits {
                commit.caller.applied();
                tell_callers(std::mem::replace(&mut commit.caller, Box::new(Nobody)), &commit.lane.id, &Ok(()));
            }
        }
        let Err(failure) = self.append(&commits, lines, pace) else { return self.release(commits) };
        if matches!(failure, Failure::Unknown(_)) {
            return self.refuse(commits, &failure);
        }
        // On a full disk a deletion finds the room that is kept for it.
        let (deletions, others): (Vec<_>, Vec<_>) = commits.into_iter().partition(|c| c.deleted);
        self.refuse(others, &failure);
        if deletions.is_empty() {
            return;
        }
        match self.append(&deletions, lines, pace) {
            Ok(()) => self.release(deletions),
            Err(failure) => self.refuse(deletions, &failure),
        }
    }

    /// Writes a batch, as durable as the most demanding commit in it.
    fn append(&mut self, commits: &[Commit], lines: &[u8], pace: &Pace) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        if let Some(reason) = shared.tail.poison() {
            return Err(Failure::NotApplied(Error::Poisoned { reason }));
        }
        let deletions = commits.iter().all(|c| c.deleted);
        let on_disk = || commits.iter().filter(|c| c.durability == Durability::Disk);
        let durable = on_disk().next().is_some();
        let segment = match self.segment_with_room() {
            Err(error) if !deletions => return Err(Failure::NotApplied(error)),
            Err(error) => self.segment.as_mut().ok_or(Failure::NotApplied(error))?,
            Ok(()) => self.segment.as_mut().ok_or(Failure::NotApplied(Error::Closed))?,
        };
        commits.iter().filter(|c| c.is_creation()).for_each(|c| shared.tail.note_unnamed(&c.lane.id));
        if shared.tail.any_unnamed(on_disk().map(|c| &c.lane.id)) {
            shared.tail.sync_names(&shared.root).map_err(Failure::NotApplied)?;
        }
        let bytes = encode_batch(segment, commits, lines).map_err(Failure::NotApplied)?;
        segment.append(&bytes, durable, deletions, &shared.tail)?;
        let batch = shared.tail.wrote(durable);
        for commit in commits {
            segment.cover(commit, batch);
        }
        shared.batches.fetch_add(1, Ordering::Relaxed);
        let (all, to_disk) = (count(commits), count(on_disk()));
        shared.commits.fetch_add(all as u64, Ordering::Relaxed);
        metrics::COMMITS_DISK.add(to_disk);
        metrics::COMMITS_OS.add(all - to_disk);
        metrics::BATCH_COMMITS.count(all);
        self.slow.note(commits, pace);
        Ok(())
    }

    /// The commits are as durable as they asked to be: now the files may follow, and the callers
    /// may know. In this order, so that a flush after a reply finds the commit.
    fn release(&mut self, mut commits: Vec<Commit>) {
        let newly: Vec<_> = commits.iter().filter(|c| c.lane.apply(c)).map(|c| Arc::clone(&c.lane)).collect();
        self.shared.add_dirty(newly);
        for commit in &mut commits {
            commit.caller.applied();
            if commit.running {
                self.running.insert(commit.lane.id.clone());
            } else if !self.running.is_empty() {
                self.running.remove(&commit.lane.id);
            }
        }
        self.replies.send(Outcomes::Applied(commits));
    }

    fn refuse(&self, commits: Vec<Commit>, failure: &Failure) {
        let (reason, unknown) = match failure {
            Failure::NotApplied(error) => (Arc::new(error.clone()), false),
            Failure::Unknown(error) => (Arc::new(error.clone()), true),
        };
        (if unknown { &metrics::COMMITS_UNKNOWN } else { &metrics::COMMITS_NOT_APPLIED }).add(count(&commits));
        let outcomes = commits.into_iter().map(|commit| {
            commit.lane.fail(commit.generation, &reason);
            // The segment may not hold the record that was noted to be in it.
            commit.lane.record_segment.store(0, Ordering::Relaxed);
            let (id, reason) = (commit.lane.id.clone(), Arc::clone(&reason));
            (commit, if unknown { Error::Unknown { id, reason } } else { Error::NotApplied { id, reason } })
        });
        self.replies.send(Outcomes::Failed(outcomes.collect()));
    }

    /// Sees to it that there is a segment that is not full.
    fn segment_with_room(&mut self) -> Result<()> {
        let limit = self.shared.options.log_segment_bytes;
        if self.segment.as_ref().is_none_or(|s| s.len >= limit && !s.covered.is_empty()) {
            self.begin_segment()?;
        }
        match self.shared.tail.poison() {
            Some(reason) => Err(Error::Poisoned { reason }),
            None => Ok(()),
        }
    }

    /// Makes a new segment the current one. The old one goes to the checkpointer only then, so that
    /// there is always one that lists who is at work.
    pub(super) fn begin_segment(&mut self) -> Result<()> {
        self.shared.sealed.wait_for_room(self.shared.options.log_segments)?;
        let number = self.next_number;
        // A number is never used twice, also when the segment cannot be made.
        self.next_number += 1;
        let mut running: Vec<_> = self.running.iter().cloned().collect();
        running.sort_unstable();
        let (writer, boot_id) = (self.writer.id, self.shared.root.boot_id.clone());
        let header = Header { format: JOURNAL_FORMAT, writer, boot_id, segment: number, running };
        let next = Segment::create(&self.writer.dir, &header)?;
        let file = Arc::clone(&next.file);
        if let Some(old) = self.segment.replace(next) {
            self.retire(old);
        }
        self.shared.tail.begin(file);
        Ok(())
    }

    /// Hands a segment to the checkpointer.
    fn retire(&mut self, mut segment: Segment) {
        // A failure has poisoned the log: what is in the segment may not be on disk.
        if segment.finish(&self.shared.tail).is_ok() {
            self.shared.sealed.push(segment.number, std::mem::take(&mut segment.covered));
        }
    }
}

/// How many commits are in these lines.
fn count<'a>(lines: impl IntoIterator<Item = &'a Commit>) -> usize {
    lines.into_iter().map(Commit::count).sum()
}

/// The bytes of a batch: its mark, then the lines.
fn encode_batch(segment: &Segment, commits: &[Commit], lines: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = segment.batch_mark(commits.iter().map(|c| (&c.lane.id, c.count())))?;
    bytes.reserve(lines.len());
    for commit in commits {
        // The first commit of an instance in a segment holds its whole record: then no segment
        // depends on an earlier one, which may be gone, or on a file that is not on disk yet.
        let first = commit.lane.record_segment.load(Ordering::Relaxed) != segment.number;
        if first && !commit.has_record {
            let fail = |e: serde_json::Error| crate::record::json::unserializable("record", &e);
            let whole = Body::encoded(&commit.record.compact().map_err(fail)?);
            bytes.extend_from_slice(LineDraft::of(&commit.head(), whole, &commit.events).map_err(fail)?.bytes());
        } else {
            bytes.extend_from_slice(&lines[commit.line.clone()]);
        }
        if first {
            commit.lane.record_segment.store(segment.number, Ordering::Relaxed);
        }
    }
    Ok(bytes)
}

/// Stands in for a caller that was told too early.
struct Nobody;

impl Caller for Nobody {
    fn told(self: Box<Self>, _: Result<()>) {}
}
