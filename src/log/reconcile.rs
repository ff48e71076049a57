//! The event log of one instance against what the commit log has of it, in recovery. The record is
//! not its concern.

use super::events::{self, Lines, Position};
use super::segment;
use crate::disk::atomic::{self, Sync};
use crate::disk::fs::{Dir, File};
use crate::disk::root::Root;
use crate::disk::{layout, quarantine};
use crate::error::{Error, Result};
use crate::record::{EventLine, InstanceId};

/// How much of a file is copied at a time.
const COPY_BYTES: usize = 256 * 1024;

/// Brings the event log up to the commits: `lines` are what the commit log has of it, and `last` the
/// last event that the record or the log knows of.
///
/// What stands in the active file behind the last point that is on disk for sure is a tail. It is
/// compared with the log, and written into a new file together with what the log has more: the old
/// one may be one whose fsync has failed, and then its bytes look right and are not on disk. The new
/// file has no name yet ([`super::renewal`]); the answer is where the log stands in it.
pub(super) fn events(
    root: &Root,
    id: &InstanceId,
    instance: &Dir,
    lines: &[EventLine],
    last: u64,
    anew: bool,
    sync: Sync,
) -> Result<Option<Position>> {
    let dir = match lines.first() {
        Some(_) => instance.ensure_dir(layout::EVENTS)?,
        None => match instance.open_dir(layout::EVENTS)? {
            Some(dir) => dir,
            None => return Ok(None),
        },
    };
    let file = dir.open_file(layout::EVENT_LOG)?;
    if file.is_none() && sync == Sync::Yes {
        // The directory may be new: before a record that knows of the events has its name. Where many
        // are flushed at once, that is before any has.
        instance.sync()?;
    }
    let begins = file.as_ref().map(events::first_seq).transpose()?.flatten();
    // A recovery that was cut short may have written down events whose commit was then lost with the
    // power: what counts is what the record and the log know.
    let known = events::read_state(&dir)?;
    let cached = known.filter(|c| Some(c.segment) == begins && c.durable_seq <= last);
    let (mut seq, mut end) = match (cached, begins, lines.first()) {
        (Some(cached), ..) => (cached.durable_seq, cached.durable_offset),
        (None, Some(begins), _) => (begins - 1, 0),
        // Nothing readable in it. It goes on behind the last full file, which is whole: a new file that
        // began before would have a name by which its events are not found. Without one the log must
        // say where it begins.
        (None, None, Some(first)) => (events::last_full_segment(&dir)?.unwrap_or(0).max(first.seq - 1), 0),
        (None, None, None) => return Ok(None),
    };
    let (durable_seq, durable_end) = (seq, end);
    let segment = begins.unwrap_or(seq + 1);
    let mut wanted = lines.iter().skip_while(|line| line.seq <= durable_seq).peekable();
    let mut tail = Vec::new();
    if let Some(file) = &file {
        let mut in_file = Lines::new(file, end);
        while let Some(line) = in_file.next()? {
            let expected = wanted.peek().filter(|w| w.seq == seq + 1);
            let intact = match expected {
                Some(expected) => line.bytes == expected.text.as_bytes(),
                None => line.event().map(|e| e.seq) == Ok(seq + 1) && seq < last,
            };
            if !intact {
                break;
            }
            wanted.next_if(|w| w.seq == seq + 1);
            tail.extend_from_slice(&line.bytes);
            tail.push(b'\n');
            seq += 1;
            end = in_file.offset;
        }
        let rest = segment::read_tail(file, end)?;
        if !rest.is_empty() {
            let reason = "the tail of a write that was cut short";
            quarantine::keep(root, id.as_str(), &dir, layout::EVENT_LOG, &rest, Some(end), reason)?;
        }
        if tail.is_empty() && rest.is_empty() && wanted.peek().is_none() && !anew {
            return Ok(None);
        }
    }
    for line in wanted {
        if line.seq != seq + 1 {
            let reason = format!("the events between {seq} and {} are missing", line.seq);
            return Err(Error::corrupt(&dir.path_of(layout::EVENT_LOG), Some(end), reason));
        }
        tail.extend_from_slice(line.text.as_bytes());
        tail.push(b'\n');
        seq += 1;
    }
    if known.is_some() && cached.is_none() {
        // The next one is not flushed: this one must not come back beside the new file.
        dir.remove_file(layout::EVENT_STATE)?;
        dir.sync()?;
    }
    atomic::stage(&dir, layout::EVENT_LOG, sync, |new| {
        if let Some(file) = &file {
            copy(file, new, durable_end)?;
        }
        new.write_all(&tail)
    })?;
    let offset = durable_end + tail.len() as u64;
    Ok(Some(Position { last_seq: seq, segment, offset, durable_seq: seq, durable_offset: offset }))
}

/// Copies the first bytes of a file.
fn copy(from: &File, to: &mut File, len: u64) -> Result<()> {
    let mut buffer = vec![0; COPY_BYTES.min(usize::try_from(len).unwrap_or(COPY_BYTES))];
    let mut done = 0;
    while done < len {
        let want = buffer.len().min(usize::try_from(len - done).unwrap_or(usize::MAX));
        let read = from.read_at(&mut buffer[..want], done)?;
        if read == 0 {
            return Err(Error::corrupt(from.path(), Some(done), "it is shorter than what of it was on disk"));
        }
        to.write_all(&buffer[..read])?;
        done += read as u64;
    }
    Ok(())
}
