//! The thread in which commits become durable: group commit.
//!
//! Whatever has been queued while the last batch was being flushed is the next batch: one `write`,
//! one `fdatasync`. Nobody waits for a batch to fill.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::commit::{self, Commit, Header, JOURNAL_FORMAT};
use super::segment::{Failure, Segment};
use super::service::Shared;
use crate::disk::host::boot_id;
use crate::disk::lock::Writer;
use crate::error::{Error, Result};
use crate::options::Durability;
use crate::record::InstanceId;

/// How often an open segment is looked at for its age, when nothing is committed.
const AGE_CHECK: std::time::Duration = std::time::Duration::from_millis(250);

/// Owned by the thread.
pub(super) struct Journal {
    shared: Arc<Shared>,
    writer: Arc<Writer>,
    boot_id: String,
    segment: Option<Segment>,
    next_number: u64,
    /// Instances whose last commit of ours left them at work: a segment begins with their list, so
    /// that recovery knows whom the death of this process interrupted.
    running: HashSet<InstanceId>,
}

impl Journal {
    pub(super) fn new(shared: Arc<Shared>, writer: Arc<Writer>) -> Self {
        let boot_id = boot_id();
        Self { shared, writer, boot_id, segment: None, next_number: 1, running: HashSet::new() }
    }

    /// Runs until the log is closed and its queue is empty.
    pub(super) fn run(mut self) {
        while let Some(batch) = self.shared.next_batch(AGE_CHECK) {
            if !batch.is_empty() {
                self.commit(batch);
            }
            self.seal_if_old();
        }
        if let Some(segment) = self.segment.take() {
            self.retire(segment);
        }
    }

    /// An idle store has an empty log; but one in which instances are at work keeps a segment that
    /// lists them.
    fn seal_if_old(&mut self) {
        let Some(segment) = &self.segment else { return };
        if segment.begun.elapsed() < self.shared.options.log_segment_age || segment.covered.is_empty() {
            return;
        }
        if self.running.is_empty() {
            if let Some(segment) = self.segment.take() {
                self.retire(segment);
            }
        } else if let Err(error) = self.begin_segment() {
            tracing::warn!(%error, "no new segment of the commit log could be made; the old one is kept in use");
        }
    }

    fn commit(&mut self, batch: Vec<Commit>) {
        let bytes: usize = batch.iter().map(|c| c.line.len()).sum();
        let (accepted, refused): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|c| c.generation >= c.lane.generation());
        for commit in refused {
            let reason = commit.lane.failure();
            finish(commit, |id| Err(Error::NotApplied { id, reason }));
        }
        if !accepted.is_empty() {
            self.write(accepted);
        }
        self.shared.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    fn write(&mut self, commits: Vec<Commit>) {
        if let Some(reason) = self.shared.poison() {
            return refuse(commits, &Failure::NotApplied(Error::Poisoned { reason }));
        }
        let segment = match self.segment_with_room() {
            Ok(segment) => segment,
            Err(error) => return refuse(commits, &Failure::NotApplied(error)),
        };
        let durable = commits.iter().any(|c| c.durability == Durability::Disk);
        let outcome = encode_batch(segment, &commits)
            .map_err(Failure::NotApplied)
            .and_then(|bytes| segment.append(bytes, durable));
        if let Err(failure) = outcome {
            if let Failure::Unknown(error) = &failure {
                self.shared.set_poison(error.clone());
            }
            return refuse(commits, &failure);
        }
        for commit in &commits {
            segment.cover(&commit.lane);
        }
        self.shared.batches.fetch_add(1, Ordering::Relaxed);
        self.shared.commits.fetch_add(commits.len() as u64, Ordering::Relaxed);
        self.release(commits);
    }

    /// The commits are as durable as they asked to be: now the files may follow, and the callers
    /// may know. In this order, so that a flush after a reply finds the commit.
    fn release(&mut self, commits: Vec<Commit>) {
        let newly: Vec<_> = commits.iter().filter(|c| c.lane.apply(c)).map(|c| Arc::clone(&c.lane)).collect();
        self.shared.add_dirty(newly);
        for commit in commits {
            if commit.running {
                self.running.insert(commit.meta.id.clone());
            } else {
                self.running.remove(&commit.meta.id);
            }
            finish(commit, |_| Ok(()));
        }
    }

    /// The current segment, or a new one when there is none or it is full.
    fn segment_with_room(&mut self) -> Result<&mut Segment> {
        let limit = self.shared.options.log_segment_bytes;
        if self.segment.as_ref().is_none_or(|s| s.len >= limit && !s.covered.is_empty()) {
            self.begin_segment()?;
        }
        if let Some(reason) = self.shared.poison() {
            return Err(Error::Poisoned { reason });
        }
        self.segment.as_mut().ok_or(Error::Closed)
    }

    /// Makes a new segment the current one. The old one goes to the checkpointer only then, so that
    /// there is always one that lists who is at work.
    fn begin_segment(&mut self) -> Result<()> {
        self.shared.wait_for_checkpoints()?;
        let number = self.next_number;
        // A number is never used twice, also when the segment cannot be made.
        self.next_number += 1;
        let mut running: Vec<_> = self.running.iter().cloned().collect();
        running.sort_unstable();
        let (writer, boot_id) = (self.writer.id, self.boot_id.clone());
        let header = Header { format: JOURNAL_FORMAT, writer, boot_id, segment: number, running };
        let next = Segment::create(&self.writer.dir, &header)?;
        if let Some(old) = self.segment.replace(next) {
            self.retire(old);
        }
        Ok(())
    }

    /// Hands a segment to the checkpointer.
    fn retire(&mut self, mut segment: Segment) {
        match segment.finish() {
            Ok(()) => self.shared.add_sealed(segment.number, std::mem::take(&mut segment.covered)),
            // Commits at the level `Os` were acknowledged in it; they are in the files, or on their
            // way. What is not known is whether the log could bring them back.
            Err(error) => self.shared.set_poison(error),
        }
    }
}

/// The bytes of a batch: its mark, then the lines.
fn encode_batch(segment: &Segment, commits: &[Commit]) -> Result<Vec<u8>> {
    let mut bytes = segment.batch_mark(commits.iter().map(|c| c.meta.id.clone()).collect())?;
    bytes.reserve(commits.iter().map(|c| c.line.len()).sum());
    for commit in commits {
        // The first commit of an instance in a segment holds its whole record: then no segment
        // depends on an earlier one, which may be gone, or on a file that is not on disk yet.
        let first = commit.lane.record_segment.load(Ordering::Relaxed) != segment.number;
        if first && !commit.has_record {
            let fail = |e: serde_json::Error| crate::record::json::unserializable("record", &e);
            let record = commit.record.compact().map_err(fail)?;
            bytes.extend_from_slice(&commit::encode(&commit.meta, Some(&record), &commit.events).map_err(fail)?);
        } else {
            bytes.extend_from_slice(&commit.line);
        }
        if first {
            commit.lane.record_segment.store(segment.number, Ordering::Relaxed);
        }
    }
    Ok(bytes)
}

fn refuse(commits: Vec<Commit>, failure: &Failure) {
    let (reason, unknown) = match failure {
        Failure::NotApplied(error) => (Arc::new(error.clone()), false),
        Failure::Unknown(error) => (Arc::new(error.clone()), true),
    };
    for commit in commits {
        commit.lane.fail(commit.generation, &reason);
        // The segment may not hold the record that was noted to be in it.
        commit.lane.record_segment.store(0, Ordering::Relaxed);
        let reason = Arc::clone(&reason);
        finish(commit, |id| {
            Err(if unknown { Error::Unknown { id, reason } } else { Error::NotApplied { id, reason } })
        });
    }
}

/// Tells the caller. A panic in what it left behind must not take the log with it.
fn finish(commit: Commit, outcome: impl FnOnce(InstanceId) -> Result<()>) {
    let outcome = outcome(commit.meta.id.clone());
    let (done, id) = (commit.done, commit.meta.id);
    if catch_unwind(AssertUnwindSafe(move || done(outcome))).is_err() {
        tracing::error!(%id, "what waits for a commit panicked");
    }
}

impl Shared {
    /// Why the log takes no more commits, if it does not.
    pub(super) fn poison(&self) -> Option<Arc<Error>> {
        self.poisoned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_poison(&self, error: Error) {
        tracing::error!(%error, "the commit log is poisoned: this store takes no more writes");
        self.poisoned.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(Arc::new(error));
    }
}
