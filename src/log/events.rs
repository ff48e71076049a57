//! The event log of one instance: `events/events.jsonl` and its full segments. It takes no lock:
//! whoever writes holds that of the instance, and readers need none.
//!
//! The active file is `events.jsonl`. When it is full it is renamed to `events-<first seq>.jsonl`,
//! so a name says where to look. `events/state.json` says where the log stands, so that opening
//! costs the same however long it is; it is a cache, and is made again from the segments.

mod lines;
mod reader;

use serde::{Deserialize, Serialize};

use crate::disk::atomic::{self, Sync};
use crate::disk::fs::{Dir, File};
use crate::disk::layout;
use crate::error::{Error, Result};
use crate::record::{COUNT_MAX, EventLine};

pub(crate) use lines::{Lines, RawLine, first_seq, is_seq};
pub(crate) use reader::EventReader;

/// Largest `state.json`, in bytes.
const STATE_BYTES: u64 = 64 * 1024;

/// How much of the end of a file is read to find its last line, at first.
const LAST_LINE_BYTES: u64 = 1024;

/// Where the log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// `seq` of the last event, 0 when there is none.
    pub(crate) last_seq: u64,
    /// `seq` of the first event of the active file.
    pub(crate) segment: u64,
    /// Length of the active file, in bytes.
    pub(crate) offset: u64,
    /// What of the active file is on disk for sure: the last `seq`, and the length.
    pub(crate) durable_seq: u64,
    pub(crate) durable_offset: u64,
}

/// Appends events to the files of one instance. Its owner holds the lock of the instance.
#[derive(Debug)]
pub(crate) struct EventWriter {
    position: Position,
    segment_bytes: u64,
    /// An fsync of the active file has failed. What looks written may not be on disk, and another
    /// fsync would not say so: the file must be made anew from the commit log.
    suspect: Option<Error>,
}

impl EventWriter {
    /// The log of a new instance.
    pub(crate) fn empty(segment_bytes: u64) -> Self {
        Self::at(Position { last_seq: 0, segment: 1, offset: 0, durable_seq: 0, durable_offset: 0 }, segment_bytes)
    }

    pub(crate) fn at(position: Position, segment_bytes: u64) -> Self {
        Self { position, segment_bytes, suspect: None }
    }

    pub(crate) fn last_seq(&self) -> u64 {
        self.position.last_seq
    }

    /// Finds where the log stands. `recorded` is the last `seq` that the record knows.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when a line is damaged, or when events that the record knows are missing.
    pub(crate) fn load(instance: &Dir, recorded: u64, segment_bytes: u64) -> Result<Self> {
        let fresh =
            Position { last_seq: recorded, segment: recorded + 1, offset: 0, durable_seq: recorded, durable_offset: 0 };
        let Some(dir) = instance.open_dir(layout::EVENTS)? else {
            return Ok(Self::at(fresh, segment_bytes));
        };
        let cached = read_state(&dir)?;
        let position = match dir.open_file(layout::EVENT_LOG)? {
            Some(file) => {
                let len = file.len()?;
                match cached {
                    Some(cached) if cached.offset == len && agrees(&file, len, &cached)? => cached,
                    Some(cached) if cached.offset < len => scan_to_end(&file, len, Some(cached))?.unwrap_or(fresh),
                    _ => scan_to_end(&file, len, None)?.unwrap_or(fresh),
                }
            }
            None => match last_full_segment(&dir)? {
                // The active file was full and renamed, and no event came after that.
                Some(last_seq) => {
                    Position { last_seq, segment: last_seq + 1, offset: 0, durable_seq: last_seq, durable_offset: 0 }
                }
                None => fresh,
            },
        };
        if position.last_seq < recorded {
            let reason = format!("it ends at event {}, and the record knows of {recorded}", position.last_seq);
            return Err(Error::corrupt(&dir.path_of(layout::EVENT_LOG), Some(position.offset), reason));
        }
        Ok(Self::at(position, segment_bytes))
    }

    /// Appends lines, whose numbers go on where the log stands. Not durable.
    ///
    /// A failure leaves the position as it was; what was half written is cut off by the next try.
    pub(crate) fn append(&mut self, instance: &Dir, lines: &[EventLine]) -> Result<()> {
        // Rule: a commit that was written down by an earlier try is not written again.
        let written = self.position.last_seq;
        let mut lines = lines.iter().skip_while(|line| line.seq <= written).peekable();
        if lines.peek().is_none() {
            return Ok(());
        }
        self.check()?;
        let dir = instance.ensure_dir(layout::EVENTS)?;
        while lines.peek().is_some() {
            if self.position.offset >= self.segment_bytes {
                self.begin_segment(&dir)?;
            }
            let room = self.segment_bytes - self.position.offset;
            let mut bytes = Vec::new();
            let mut last_seq = self.position.last_seq;
            while let Some(line) = lines.next_if(|_| (bytes.len() as u64) < room) {
                bytes.extend_from_slice(line.text.as_bytes());
                bytes.push(b'\n');
                last_seq = line.seq;
            }
            self.write(&dir, &bytes)?;
            self.position.last_seq = last_seq;
        }
        Ok(())
    }

    fn write(&mut self, dir: &Dir, bytes: &[u8]) -> Result<()> {
        let mut file = dir.open_append(layout::EVENT_LOG)?;
        let len = file.len()?;
        if len > self.position.offset {
            // Left by a failed append of ours: nobody else writes here.
            file.set_len(self.position.offset)?;
        } else if len < self.position.offset {
            if len != 0 {
                return Err(Error::corrupt(file.path(), Some(len), "it became shorter while the instance was in use"));
            }
            // The file was removed behind our back. What it held is gone by somebody's will; the
            // log goes on in a new one.
            self.position.segment = self.position.last_seq + 1;
            self.position.offset = 0;
            self.position.durable_offset = 0;
        }
        file.write_all(bytes)?;
        self.position.offset += bytes.len() as u64;
        Ok(())
    }

    /// Puts the full active file aside, on disk, and begins a new one.
    fn begin_segment(&mut self, dir: &Dir) -> Result<()> {
        if let Some(file) = dir.open_file(layout::EVENT_LOG)? {
            self.sync_file(&file)?;
            dir.rename(layout::EVENT_LOG, dir, &layout::event_segment(self.position.segment))?;
            dir.sync()?;
        }
        let last_seq = self.position.last_seq;
        self.position =
            Position { last_seq, segment: last_seq + 1, offset: 0, durable_seq: last_seq, durable_offset: 0 };
        save_state(dir, &self.position, Sync::No)
    }

    /// Makes what was appended durable, and writes that down, durably.
    pub(crate) fn sync(&mut self, instance: &Dir) -> Result<()> {
        let Some(dir) = instance.open_dir(layout::EVENTS)? else { return Ok(()) };
        if let Some(file) = dir.open_file(layout::EVENT_LOG)? {
            self.sync_file(&file)?;
        }
        dir.sync()?;
        self.position.durable_seq = self.position.last_seq;
        self.position.durable_offset = self.position.offset;
        save_state(&dir, &self.position, Sync::Yes)
    }

    /// Makes the active file durable, once: a failure is remembered.
    fn sync_file(&mut self, file: &File) -> Result<()> {
        self.check()?;
        file.sync_all().inspect_err(|error| self.suspect = Some(error.clone()))
    }

    /// Refuses a file that cannot be trusted.
    pub(crate) fn check(&self) -> Result<()> {
        self.suspect.clone().map_or(Ok(()), Err)
    }

    /// The same log, from what is in its files now.
    pub(crate) fn reload(&self, instance: &Dir, recorded: u64) -> Result<Self> {
        Self::load(instance, recorded, self.segment_bytes)
    }

    /// Writes down where the log stands, for the next opening.
    pub(crate) fn save(&self, instance: &Dir, sync: Sync) -> Result<()> {
        match instance.open_dir(layout::EVENTS)? {
            Some(dir) => save_state(&dir, &self.position, sync),
            None => Ok(()),
        }
    }
}

fn save_state(dir: &Dir, position: &Position, sync: Sync) -> Result<()> {
    let mut bytes = serde_json::to_vec(position).map_err(|e| crate::record::json::unserializable("position", &e))?;
    bytes.push(b'\n');
    atomic::replace(dir, layout::EVENT_STATE, &bytes, sync)
}

/// Whether the first and the last line of the active file are those that the cache says.
fn agrees(file: &File, len: u64, cached: &Position) -> Result<bool> {
    if len == 0 {
        return Ok(cached.last_seq + 1 == cached.segment);
    }
    let mut window = LAST_LINE_BYTES.min(len);
    loop {
        let mut bytes = vec![0; usize::try_from(window).unwrap_or(usize::MAX)];
        let read = file.read_at(&mut bytes, len - window)?;
        bytes.truncate(read);
        let Some(lines) = bytes.strip_suffix(b"\n") else { return Ok(false) };
        let begins = lines.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
        if let Some(begins) = begins.or((window == len).then_some(0)) {
            let last = RawLine { offset: 0, bytes: lines[begins..].to_vec() };
            return Ok(last.seq() == Some(cached.last_seq) && first_seq(file)? == Some(cached.segment));
        }
        window = (window * 8).min(len);
    }
}

/// The cache, when it can be read. After a power cut it may be empty: then it is made again.
pub(crate) fn read_state(dir: &Dir) -> Result<Option<Position>> {
    let Some(file) = dir.open_file(layout::EVENT_STATE)? else { return Ok(None) };
    let read = file.read_all(STATE_BYTES).ok().and_then(|bytes| serde_json::from_slice::<Position>(&bytes).ok());
    // Numbers that were never ours would be counted on from.
    Ok(read.filter(|position| position.last_seq.max(position.segment) < COUNT_MAX))
}

/// The first events of the full files, in order.
fn full_files(dir: &Dir) -> Result<Vec<u64>> {
    let mut full: Vec<u64> = dir.names()?.iter().filter_map(|n| layout::parse_event_segment(n)).collect();
    full.sort_unstable();
    Ok(full)
}

/// The last event of the last full segment, if there is one.
pub(super) fn last_full_segment(dir: &Dir) -> Result<Option<u64>> {
    let Some(first) = full_files(dir)?.pop() else { return Ok(None) };
    let Some(file) = dir.open_file(&layout::event_segment(first))? else { return Ok(None) };
    let mut lines = Lines::new(&file, 0);
    let mut last = None;
    while let Some(line) = lines.next()? {
        last = Some(line.seq().ok_or_else(|| Error::corrupt(file.path(), Some(line.offset), "it is not an event"))?);
    }
    Ok(last)
}

/// Reads the active file from where the cache knows it, and checks every line.
fn scan_to_end(file: &File, len: u64, cached: Option<Position>) -> Result<Option<Position>> {
    let first = first_seq(file)?;
    let cached = cached.filter(|c| Some(c.segment) == first && c.offset <= len);
    let Some(first) = first else {
        return if len == 0 {
            Ok(None)
        } else {
            Err(Error::corrupt(file.path(), Some(0), "its first line is not an event"))
        };
    };
    let mut position = cached.unwrap_or(Position {
        last_seq: first - 1,
        segment: first,
        offset: 0,
        durable_seq: first - 1,
        durable_offset: 0,
    });
    let mut lines = Lines::new(file, position.offset);
    while let Some(line) = lines.next()? {
        if line.event().map(|e| e.seq) != Ok(position.last_seq + 1) {
            return Err(Error::corrupt(
                file.path(),
                Some(line.offset),
                format!("it is not event {}", position.last_seq + 1),
            ));
        }
        position.last_seq += 1;
        position.offset = lines.offset;
    }
    if position.offset != len {
        return Err(Error::corrupt(file.path(), Some(position.offset), "the last line is not complete"));
    }
    Ok(Some(position))
}
