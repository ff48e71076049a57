//! The commit log without its threads: a test says what happens next.

use std::sync::Arc;
use std::time::Duration;

use super::journal::Journal;
use super::queue::Batch;
use super::service::Log;
use super::{checkpoint, materialise};
use crate::disk::lock::Writer;
use crate::disk::root::Root;
use crate::error::Result;
use crate::options::Options;

pub(crate) struct Stepper {
    pub(crate) log: Log,
    journal: Journal,
    writer: Arc<Writer>,
}

impl Stepper {
    pub(crate) fn start(root: Arc<Root>, options: Options) -> Result<Self> {
        let writer = Writer::create(&root)?;
        let (log, journal) = Log::assemble(root, writer, options);
        let writer = log.writer()?;
        Ok(Self { log, journal, writer })
    }

    /// Makes what was submitted durable: one batch.
    pub(crate) fn commit(&mut self) {
        if let Some(batch) = self.take() {
            self.write(batch);
        }
    }

    /// What was submitted, in the place of the log's thread.
    pub(crate) fn take(&self) -> Option<Batch> {
        self.log.shared.queue.next(Duration::ZERO).filter(|batch| !batch.commits.is_empty())
    }

    /// Makes a batch durable.
    pub(crate) fn write(&mut self, batch: Batch) {
        self.make_room();
        self.journal.commit(batch);
    }

    /// One pass of the materialiser.
    pub(crate) fn materialise(&self) -> Result<()> {
        materialise::pass(&self.log.shared)
    }

    /// Begins a new segment, so that the old one is full.
    pub(crate) fn seal(&mut self) -> Result<()> {
        self.make_room();
        self.journal.begin_segment()
    }

    /// Replaces every full segment by durable files, as far as that can be done.
    pub(crate) fn checkpoint(&self) {
        while self.log.stats().segments_waiting > 0
            && let Some(sealed) = self.log.shared.sealed.next(Duration::ZERO)
        {
            checkpoint::step(&self.log.shared, &self.writer, sealed);
            if self.log.stats().checkpoint_stalled {
                break;
            }
        }
    }

    /// The log waits for the checkpointer when it is full; here nobody else would do its work.
    fn make_room(&self) {
        if self.log.stats().segments_waiting >= self.log.shared.options.log_segments {
            self.checkpoint();
        }
    }
}
