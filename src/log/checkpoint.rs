//! The thread that empties the log: files durable first, then the segment goes. No commit waits for
//! it, unless the log is at its limit.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::chain::{Chain, Verdict};
use super::commit::Line;
use super::lane::{Lane, sync_files};
use super::sealed::Sealed;
use super::service::Shared;
use super::{recover, segment, trash};
use crate::disk::fs::{File, Lock};
use crate::disk::lock::Writer;
use crate::disk::{layout, lock};
use crate::error::{Error, Result};
use crate::mutants::{Protection, without};
use crate::record::InstanceId;

/// Pause before a failed checkpoint is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Commits wait for the disk while it flushes the files of an instance. So many times as long it is
/// left to them before the next one, as long as no other segment is full.
const SHARE: u32 = 3;

/// How long after the end of a segment its files are flushed, as long as no other segment is full: by
/// then the next one has the instances that are at work.
const CARRY_ON: Duration = Duration::from_millis(100);

/// Bytes of a removed segment that are given back at once.
const PIECE: u64 = 1 << 20;

pub(super) fn run(shared: &Shared, writer: &Writer) {
    while let Some(sealed) = shared.sealed.next(PAUSE) {
        step(shared, writer, sealed);
    }
}

/// Replaces one segment by durable files.
pub(super) fn step(shared: &Shared, writer: &Writer, sealed: Sealed) {
    let anew = sealed.anew || shared.file_system.has_failed();
    let done = if anew { make_anew(shared, writer, &sealed) } else { make_durable(shared, writer, &sealed) };
    let done = done.and_then(|()| shared.root.alarms.sync(&shared.root.internal));
    match done.and_then(|()| remove(shared, writer, sealed.number)) {
        Ok(()) => {
            shared.sealed.done();
            trash::empty(&shared.root, Some(writer.id));
        }
        Err(error) => shared.sealed.failed(error, sealed.covered),
    }
}

/// Makes the files durable that the segment covers: not those of an instance of which the next segment
/// says everything anew, because it is at work. Its files are flushed when it has come to rest.
fn make_durable(shared: &Shared, writer: &Writer, sealed: &Sealed) -> Result<()> {
    shared.sealed.yield_disk(CARRY_ON);
    let mut released = Vec::new();
    for (id, lane) in &sealed.covered {
        if lane.upgrade().map_or(Ok(false), |lane| lane.is_carried_on(sealed.number))? {
            continue;
        }
        match live(shared, id, lane) {
            Some(lane) => yielding(shared, || lane.checkpoint())?,
            // Let go since: everything is in the files, whoever owns them by now.
            None => released.push(id),
        }
    }
    // Commits would wait for a flush of so much: it is for the end, when none come any more.
    if released.len() >= recover::many() && !shared.expects_commits() {
        match shared.file_system.flush() {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(_) => return make_anew(shared, writer, sealed),
        }
    }
    for id in released {
        yielding(shared, || shared.root.instances.open_dir(id.as_str())?.map_or(Ok(()), |dir| sync_files(&dir)))?;
    }
    Ok(())
}

/// Does something to the disk, and leaves it to the commits for a while.
fn yielding(shared: &Shared, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    work()?;
    shared.sealed.yield_disk(begun.elapsed() * SHARE);
    Ok(())
}

/// The same, after a failure: what the log has goes into new files. Another fsync of the old ones
/// could say yes to bytes that are lost.
fn make_anew(shared: &Shared, writer: &Writer, sealed: &Sealed) -> Result<()> {
    let mut lines: BTreeMap<InstanceId, Vec<Line>> =
        sealed.covered.iter().map(|(id, _)| (id.clone(), Vec::new())).collect();
    for number in lock::segments(&writer.dir)? {
        let Some(file) = writer.dir.open_file(&layout::journal_segment(number))? else { continue };
        for line in segment::read(&file)?.commits {
            if let Some(commit) = &line.commit
                && let Some(lines) = lines.get_mut(&commit.id)
            {
                lines.push(line);
            }
        }
    }
    for (id, lane) in &sealed.covered {
        let lines = lines.remove(id).unwrap_or_default();
        match live(shared, id, lane) {
            Some(lane) => lane.rewrite(lines)?,
            None => rewrite_released(shared, id, lines)?,
        }
    }
    Ok(())
}

/// The present activation of an instance in this process: it may have been let go, and be live again.
fn live(shared: &Shared, id: &InstanceId, lane: &Weak<Lane>) -> Option<Arc<Lane>> {
    lane.upgrade().filter(|lane| !lane.is_released()).or_else(|| shared.live_lane(id))
}

/// An instance that nobody here has live any more. Activations wait meanwhile. Its owner, if another
/// process has it, is not disturbed: then this fails, and is tried again.
fn rewrite_released(shared: &Shared, id: &InstanceId, lines: Vec<Line>) -> Result<()> {
    let _order = shared.root.recovery_lock()?.lock(Lock::Exclusive)?;
    let dir = match lock::lock_instance(&shared.root, id) {
        Err(Error::NotFound { .. }) => return Ok(()),
        locked => locked?,
    };
    let uid = lines.iter().rev().find_map(|line| line.commit.as_ref()).map(|commit| commit.uid);
    let Some(uid) = uid else { return Ok(()) };
    let own = lines.into_iter().filter(|line| line.commit.as_ref().is_some_and(|c| c.uid == uid)).collect();
    whole(id, Chain::of(own).anew().apply(&shared.root, id, uid, &dir)?)
}

/// An instance that had to be taken out of use keeps the log.
pub(super) fn whole(id: &InstanceId, verdict: Verdict) -> Result<()> {
    match verdict {
        Verdict::Whole => Ok(()),
        Verdict::Blocked => Err(Error::rejected(format!("instance {id} could not be made anew from the commit log"))),
    }
}

fn remove(shared: &Shared, writer: &Writer, number: u64) -> Result<()> {
    if !without(Protection::DirectoryFlush) {
        shared.tail.sync_names(&shared.root)?;
    }
    let name = layout::journal_segment(number);
    // While it is open its bytes stay. If it cannot be opened, they go with its name.
    let segment = writer.dir.open_append(&name);
    writer.dir.remove_file(&name)?;
    // Before a later one goes: it may hold the deletion of an instance that this one would bring back.
    writer.dir.sync()?;
    if let Ok(segment) = segment {
        give_back(shared, &segment);
    }
    Ok(())
}

/// Gives the bytes of a removed segment back to the file system, a piece at a time: where that tells
/// the disk of what is free (the mount option `discard`), all flushes wait meanwhile, 0.1 s for 64 MiB
/// at once.
fn give_back(shared: &Shared, segment: &File) {
    let Ok(mut len) = segment.len() else { return };
    while len > PIECE {
        len -= PIECE;
        let begun = Instant::now();
        if segment.set_len(len).is_err() {
            // Closing it gives back the rest.
            return;
        }
        shared.sealed.yield_disk(begun.elapsed() * SHARE);
    }
}
