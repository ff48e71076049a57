//! The thread that empties the log: files durable first, then the segment goes.

use super::lane::sync_files;
use super::service::{Sealed, Shared};
use super::trash;
use crate::disk::layout;
use crate::disk::lock::Writer;
use crate::error::Result;

pub(super) fn run(shared: &Shared, writer: &Writer) {
    while let Some(sealed) = shared.next_sealed() {
        step(shared, writer, &sealed);
    }
}

/// Replaces one segment by durable files.
pub(super) fn step(shared: &Shared, writer: &Writer, sealed: &Sealed) {
    match checkpoint(shared, writer, sealed) {
        Ok(()) => {
            shared.sealed_done();
            trash::empty(&shared.root, Some(writer.id));
        }
        // Not tried again: a second fsync of the same file can say yes to bytes that are lost.
        // The segment stays, and the next opening rewrites the files from it.
        Err(error) => shared.sealed_failed(error),
    }
}

fn checkpoint(shared: &Shared, writer: &Writer, sealed: &Sealed) -> Result<()> {
    for (id, lane) in &sealed.covered {
        match lane.upgrade() {
            Some(lane) => lane.checkpoint()?,
            // Let go since: everything is in the files, whoever owns them by now.
            None => {
                if let Some(dir) = shared.root.instances.open_dir(id.as_str())? {
                    sync_files(&dir)?;
                }
            }
        }
    }
    shared.root.instances.sync()?;
    writer.dir.remove_file(&layout::journal_segment(sealed.number))?;
    // Before a later one goes: it may hold the deletion of an instance that this one would bring back.
    writer.dir.sync()
}
