//! Reading an event log in order, file after file. It writes nothing, and takes no lock.

use super::full_files;
use super::lines::{CHUNK_BYTES, Lines, find, first_seq};
use crate::disk::fs::{Dir, File, Identity};
use crate::disk::layout;
use crate::error::{Error, Result};
use crate::record::Event;

/// Skipping more events than this, it is cheaper to look for the file anew than to read over them.
const SKIP_EVENTS: u64 = 4096;

/// Reads events of an instance in order, without a lock, while its owner may be writing.
///
/// Between two reads it holds no descriptor: many readers cost little.
#[derive(Debug)]
pub(crate) struct EventReader {
    next_seq: u64,
    cursor: Option<Cursor>,
}

#[derive(Clone, Copy, Debug)]
struct Cursor {
    /// First `seq` of the file: its name, once it is full.
    segment: u64,
    identity: Identity,
    offset: u64,
}

impl EventReader {
    pub(crate) fn new(from_seq: u64) -> Self {
        Self { next_seq: from_seq.max(1), cursor: None }
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Skips to `seq`, after it was delivered from elsewhere.
    pub(crate) fn skip_to(&mut self, seq: u64) {
        if seq.saturating_sub(self.next_seq) > SKIP_EVENTS {
            self.cursor = None;
        }
        self.next_seq = seq;
    }

    /// The next events: at least one when there is one, and about [`CHUNK_BYTES`] at most.
    pub(crate) fn read(&mut self, instance: &Dir) -> Result<Vec<Event>> {
        let Some(dir) = instance.open_dir(layout::EVENTS)? else { return Ok(Vec::new()) };
        loop {
            let Some((file, mut cursor, active)) = self.open(&dir)? else { return Ok(Vec::new()) };
            let mut events = Vec::new();
            let mut bytes = 0;
            let mut lines = Lines::new(&file, cursor.offset);
            while bytes < CHUNK_BYTES
                && let Some(line) = lines.next()?
            {
                cursor.offset = lines.offset;
                if line.seq().is_some_and(|seq| seq < self.next_seq) {
                    continue;
                }
                let damaged = |reason: String| Error::corrupt(file.path(), Some(line.offset), reason);
                let event = line.event().map_err(damaged)?;
                if event.seq != self.next_seq && line.offset != 0 {
                    return Err(damaged(format!("event {} stands where {} is expected", event.seq, self.next_seq)));
                }
                bytes += line.bytes.len();
                self.next_seq = event.seq + 1;
                events.push(event);
            }
            self.cursor = Some(cursor);
            if !events.is_empty() || active {
                return Ok(events);
            }
            // The end of a full segment: the next one begins with the next seq, or there is none yet.
            self.cursor = None;
            if !self.segment_begins(&dir)? {
                return Ok(events);
            }
        }
    }

    /// Opens the file that holds the next event, and says whether it is the active one.
    fn open(&mut self, dir: &Dir) -> Result<Option<(File, Cursor, bool)>> {
        if let Some(cursor) = self.cursor {
            let active = dir.open_file(layout::EVENT_LOG)?;
            if let Some(file) = active.filter(|f| f.stat().is_ok_and(|s| s.identity == cursor.identity)) {
                return Ok(Some((file, cursor, true)));
            }
            if let Some(file) = dir.open_file(&layout::event_segment(cursor.segment))? {
                return Ok(Some((file, cursor, false)));
            }
        }
        // The active file is opened before the names are listed: if it is renamed in between, it is
        // in the list, and if it is not, it is open.
        let active = dir.open_file(layout::EVENT_LOG)?;
        let begins = active.as_ref().map(first_seq).transpose()?.flatten();
        // A long log has many names: they are read only when the active file does not have the event.
        let full = if begins.is_some_and(|first| first <= self.next_seq) { Vec::new() } else { full_files(dir)? };
        if let (Some(file), Some(first), true) = (active, begins, full.is_empty()) {
            let cursor = self.cursor_in(&file, first)?;
            return Ok(Some((file, cursor, true)));
        }
        let Some(segment) = full.iter().rev().find(|first| **first <= self.next_seq).or(full.first()) else {
            return Ok(None);
        };
        let Some(file) = dir.open_file(&layout::event_segment(*segment))? else { return Ok(None) };
        let cursor = self.cursor_in(&file, *segment)?;
        Ok(Some((file, cursor, false)))
    }

    /// Where to read on in a file whose first event is `segment`.
    fn cursor_in(&self, file: &File, segment: u64) -> Result<Cursor> {
        let offset = if segment < self.next_seq { find(file, self.next_seq)? } else { 0 };
        Ok(Cursor { segment, identity: file.stat()?.identity, offset })
    }

    /// Whether some file begins at the next seq or before it, behind the one that was just finished.
    fn segment_begins(&self, dir: &Dir) -> Result<bool> {
        if dir.stat(&layout::event_segment(self.next_seq))?.is_some() {
            return Ok(true);
        }
        let Some(file) = dir.open_file(layout::EVENT_LOG)? else { return Ok(false) };
        Ok(first_seq(&file)?.is_some_and(|first| first <= self.next_seq))
    }
}
