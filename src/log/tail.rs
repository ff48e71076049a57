//! The end of the log: how far it is written, how far it is on disk, and whether it can be trusted.
//!
//! Two rules live here. Files follow only what is on disk in the log: otherwise a power cut could
//! leave them ahead of it. And one flush at a time, none after one that failed: the kernel reports a
//! failure once, and another flush could say yes to bytes that are lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use crate::disk::fs::File;
use crate::disk::root::Root;
use crate::error::{Error, Result};
use crate::metrics;
use crate::mutants::{Protection, without};
use crate::record::InstanceId;

#[derive(Default)]
pub(crate) struct Tail {
    /// The segment that is being written. Locked while it is flushed.
    file: Mutex<Option<Arc<File>>>,
    /// Batches written, and how many of them are on disk for sure.
    written: AtomicU64,
    durable: AtomicU64,
    poisoned: OnceLock<Arc<Error>>,
    unnamed: Mutex<Unnamed>,
}

/// Instances whose directory may have a name that is not on disk yet, each with the number of the note.
#[derive(Default)]
struct Unnamed {
    noted: HashMap<InstanceId, u64>,
    notes: u64,
}

impl Unnamed {
    fn note(&mut self, id: &InstanceId) {
        self.notes += 1;
        self.noted.insert(id.clone(), self.notes);
    }

    /// A flush that began after so many notes is done. What was noted since may have come too late for
    /// it, also when it is an id that was noted before.
    fn flushed(&mut self, notes: u64) {
        self.noted.retain(|_, note| *note > notes);
    }
}

impl Tail {
    /// Why the log takes no more commits, if it does not.
    pub(crate) fn poison(&self) -> Option<Arc<Error>> {
        self.poisoned.get().cloned()
    }

    pub(super) fn set_poison(&self, error: &Error) {
        if self.poisoned.set(Arc::new(error.clone())).is_ok() {
            tracing::error!(%error, "the commit log is poisoned: this store takes no more writes; open it again when the disk is well");
            metrics::POISONED.add(1);
        }
    }

    /// The name of this instance's directory may not be on disk.
    pub(super) fn note_unnamed(&self, id: &InstanceId) {
        self.unnamed().note(id);
    }

    /// Whether one of these has a name that may not be on disk.
    pub(super) fn any_unnamed<'a>(&self, mut ids: impl Iterator<Item = &'a InstanceId>) -> bool {
        let noted = &self.unnamed().noted;
        !without(Protection::NameFlush) && !noted.is_empty() && ids.any(|id| noted.contains_key(id))
    }

    /// Makes the names in `instances/` durable; a failure poisons the log. A directory whose name is
    /// lost with the power would take the commits of its instance with it. Several threads may: until
    /// one is done, none of the names counts as durable. Blocks.
    pub(super) fn sync_names(&self, root: &Root) -> Result<()> {
        let notes = self.unnamed().notes;
        root.sync_names().inspect_err(|error| match error {
            Error::Poisoned { reason } => self.set_poison(reason),
            error => self.set_poison(error),
        })?;
        self.unnamed().flushed(notes);
        Ok(())
    }

    fn unnamed(&self) -> MutexGuard<'_, Unnamed> {
        self.unnamed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this segment is written.
    pub(super) fn begin(&self, file: Arc<File>) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }

    /// Makes durable what has been written; a failure poisons the log. Blocks.
    pub(super) fn flush(&self) -> Result<()> {
        self.flush_with(File::sync_data)
    }

    /// [`Tail::flush`], with something to do to the file before.
    pub(super) fn flush_with(&self, flush: impl Fn(&File) -> Result<()>) -> Result<()> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = self.poison() {
            return Err(Error::Poisoned { reason });
        }
        let Some(file) = &*file else { return Ok(()) };
        let written = self.written.load(Ordering::Acquire);
        let begun = Instant::now();
        let mut flushed = flush(file);
        metrics::FLUSH.took(begun.elapsed());
        if flushed.is_err() && without(Protection::OneFlush) {
            flushed = flush(file);
        }
        if let Err(error) = flushed {
            self.set_poison(&error);
            return Err(error);
        }
        self.durable.fetch_max(written, Ordering::AcqRel);
        Ok(())
    }

    /// Counts a batch that has been written, and flushed if `durable`. Returns its number.
    pub(super) fn wrote(&self, durable: bool) -> u64 {
        let batch = self.written.fetch_add(1, Ordering::AcqRel) + 1;
        if durable {
            self.durable.fetch_max(batch, Ordering::AcqRel);
        }
        batch
    }

    /// Sees to it that a batch is on disk, before files follow it. Blocks when it is not.
    pub(super) fn ensure(&self, batch: u64) -> Result<()> {
        if self.durable.load(Ordering::Acquire) >= batch { Ok(()) } else { self.flush() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_as_durable_when_a_flush_that_began_after_it_is_done() {
        let id = InstanceId::new("a").expect("an id");
        let mut unnamed = Unnamed::default();
        unnamed.note(&id);
        let began = unnamed.notes;
        assert!(unnamed.noted.contains_key(&id), "while the flush is under way, on whatever thread");
        // Deleted, and made again.
        unnamed.note(&id);
        unnamed.flushed(began);
        assert!(unnamed.noted.contains_key(&id), "the new name came too late for it");
        unnamed.flushed(unnamed.notes);
        assert!(unnamed.noted.is_empty());
    }
}
