//! What dead writers left, read from their logs, instance by instance. No instance is written here.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::commit::Line;
use super::segment::{self, Contents};
use crate::disk::fs::{Dir, File};
use crate::disk::root::Root;
use crate::disk::{layout, lock, quarantine};
use crate::error::{Error, Result};
use crate::record::InstanceId;

/// Everything that dead writers left of one instance.
#[derive(Default)]
pub(super) struct Remains {
    pub(super) lines: Vec<Line>,
    /// Its last commits that were lost to damage.
    pub(super) lost: u64,
}

/// Reads all segments of a dead writer.
pub(super) fn collect(root: &Root, dir: &Dir, writer: Uuid, remains: &mut BTreeMap<InstanceId, Remains>) -> Result<()> {
    let mut contents = Vec::new();
    for number in lock::segments(dir)? {
        let name = layout::journal_segment(number);
        let Some(file) = dir.open_file(&name)? else { continue };
        let found = flushed(&file, || segment::read(&file))?;
        keep_damage(root, dir, &name, &file, writer, &found)?;
        contents.push(found);
    }
    if contents.iter().any(|found| found.header.is_none()) {
        // Nobody knows who was at work: all are looked at.
        for id in root.instances.names()?.iter().filter_map(|name| InstanceId::new(name).ok()) {
            remains.entry(id).or_default();
        }
    }
    for found in contents {
        for id in found.header.iter().flat_map(|header| &header.running) {
            remains.entry(id.clone()).or_default();
        }
        for (id, lost) in &found.lost {
            let entry = remains.entry(id.clone()).or_default();
            entry.lost = entry.lost.saturating_add(*lost);
        }
        for line in found.commits {
            let Some(commit) = &line.commit else { continue };
            let entry = remains.entry(commit.id.clone()).or_default();
            entry.lines.push(line);
        }
    }
    Ok(())
}

/// Does something while a file is being flushed.
///
/// Here, too, files follow only what is on disk in the log: commits at the level `Os` may not be yet.
/// Should a flush of this file have failed before, this one may be wrong about those that nobody was
/// promised to be on disk, and about no others.
fn flushed<T>(file: &File, work: impl FnOnce() -> Result<T>) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("fiefdom-flush".into());
        let flush = thread.spawn_scoped(scope, || file.sync_data());
        let flush = flush.map_err(|e| Error::io("start a thread to flush", file.path(), e))?;
        let done = work();
        flush.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        done
    })
}

/// Copies aside what cannot be read: the tail of a write that was cut short, or, when bytes that were
/// on disk once are damaged, the whole segment.
fn keep_damage(root: &Root, dir: &Dir, name: &str, file: &File, writer: Uuid, found: &Contents) -> Result<()> {
    let owner = format!("writer-{writer}");
    if let Some(damage) = found.damaged.first() {
        let bytes = file.read_all(u64::MAX - 1)?;
        return quarantine::keep(root, &owner, dir, name, &bytes, Some(damage.offset), &damage.reason);
    }
    let Some(torn) = &found.torn else { return Ok(()) };
    let mut tail = segment::read_tail(file, torn.offset)?;
    // The filler behind it says nothing.
    tail.truncate(tail.trim_ascii_end().len());
    quarantine::keep(root, &owner, dir, name, &tail, Some(torn.offset), &torn.reason)
}

/// Keeps the whole log of a writer: an instance could not be brought up to what is in it.
pub(super) fn keep_log(root: &Root, writer: &lock::DeadWriter) -> Result<()> {
    for number in lock::segments(&writer.dir)? {
        let name = layout::journal_segment(number);
        let Some(file) = writer.dir.open_file(&name)? else { continue };
        let (owner, bytes) = (format!("writer-{}", writer.id), file.read_all(u64::MAX - 1)?);
        let reason = "an instance in it could not be recovered";
        quarantine::keep(root, &owner, &writer.dir, &name, &bytes, None, reason)?;
    }
    Ok(())
}
