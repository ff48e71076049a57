//! Flushing everything on the file system at once, where many files are to become durable. What must
//! be flushed is not decided here.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::fs::Dir;
use crate::disk::layout;
use crate::disk::root::Root;
use crate::error::Result;
use crate::mutants::{Protection, without};

/// The file system of a root.
///
/// The kernel tells each descriptor once of what could not be written since it was opened. So this one
/// is opened before anything of the log is written, and nobody else flushes by it.
#[derive(Debug)]
pub(super) struct FileSystem {
    dir: Option<Dir>,
    failed: AtomicBool,
}

impl FileSystem {
    pub(super) fn of(root: &Root) -> Self {
        let dir = root.top.open_dir(layout::INSTANCES).ok().flatten();
        Self { dir, failed: AtomicBool::new(false) }
    }

    /// Makes everything durable that was written so far, bytes and names. `false` when that cannot be
    /// had: then each file has to be flushed on its own.
    ///
    /// # Errors
    ///
    /// When something on the file system could not be written.
    pub(super) fn flush(&self) -> Result<bool> {
        if without(Protection::WholeFlush) {
            return Ok(true);
        }
        let Some(dir) = &self.dir else { return Ok(false) };
        dir.try_sync_file_system().inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    /// Whether a flush has failed. It does not say whose bytes are lost, and no other flush will: every
    /// file that is there must be made anew before it counts as durable.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}
