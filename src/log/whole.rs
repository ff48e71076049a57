//! Flushing everything on the file system at once, where many files are to become durable. What must
//! be flushed is not decided here.

use std::sync::{Mutex, PoisonError};

use crate::disk::fs::Dir;
use crate::disk::layout;
use crate::disk::root::Root;
use crate::mutants::{Protection, without};

/// The file system of a root, as long as its flushes can be believed.
///
/// The kernel tells each descriptor once of everything that could not be written since it was opened.
/// So this one is opened before a file of the log's instances is written, and nobody else flushes by
/// it. And after one failure it is given up: whose bytes are lost is not said, and they may be those of
/// a file that only a later flush is asked about.
#[derive(Debug)]
pub(super) struct FileSystem(Mutex<Option<Dir>>);

impl FileSystem {
    pub(super) fn of(root: &Root) -> Self {
        Self(Mutex::new(root.top.open_dir(layout::INSTANCES).ok().flatten()))
    }

    /// Makes everything durable that was written so far, bytes and names. `false` when that is not known
    /// to be done: then each file has to be flushed on its own.
    pub(super) fn flush(&self) -> bool {
        let mut dir = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let flushed = without(Protection::WholeFlush) || dir.as_ref().is_some_and(Dir::sync_file_system);
        if !flushed {
            *dir = None;
        }
        flushed
    }
}
