//! Reading the listing index. Nothing is written here.

use std::collections::{BTreeMap, HashMap};

use super::line::{self, Created, Entry, Event, Header, Stamp};
use super::stamp;
use crate::disk::fs::{File, Identity};
use crate::disk::layout;
use crate::disk::root::Root;
use crate::error::Result;
use crate::record::InstanceId;

/// Longest line, in bytes: an id has at most 128.
const LINE_BYTES: usize = 512;

/// How much is read at a time from the newest entry back.
const BLOCK_BYTES: u64 = 64 * 1024;

/// The index as it was when it was opened.
pub(crate) struct Index {
    file: File,
    pub(super) identity: Identity,
    /// Where the entries begin and end.
    begin: u64,
    pub(super) end: u64,
    /// The end of the last line that can be read.
    pub(super) good: u64,
    /// Whether all lines can be.
    whole: bool,
    gap: bool,
    pub(super) stamp: Stamp,
    /// What became of instances behind the entries; `None` for those that are gone.
    since: HashMap<InstanceId, Option<Created>>,
}

/// How many bytes may stand behind so many of entries before they are no more added to.
pub(super) fn most_behind(entries: u64) -> u64 {
    (4 << 20) + entries
}

/// The first line of a file, and how long it is. `None` when it is none of ours, or the entries that
/// it announces are not there.
pub(super) fn header(file: &File, len: u64) -> Result<Option<(Header, u64)>> {
    let mut bytes = vec![0; LINE_BYTES];
    let read = file.read_at(&mut bytes, 0)?;
    let Some(newline) = bytes[..read].iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let begin = newline as u64 + 1;
    let header = line::parse_header(&bytes[..newline]);
    Ok(header.map(|header| (header, begin)).filter(|(header, begin)| {
        begin.checked_add(header.entries).is_some_and(|end| end <= len && len - end <= 2 * most_behind(header.entries))
    }))
}

/// The stamp of the last line of a file; `None` when it cannot be read.
pub(super) fn last_stamp(file: &File, len: u64, end: u64, header: &Header) -> Result<Option<Stamp>> {
    if len == end {
        return Ok(Some(header.stamp));
    }
    let from = end.max(len.saturating_sub(LINE_BYTES as u64));
    let bytes = read(file, from, len)?;
    let Some(rest) = bytes.strip_suffix(b"\n") else { return Ok(None) };
    let last = rest.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(line::parse_event(last).map(|(_, stamp)| stamp))
}

pub(super) fn read(file: &File, from: u64, to: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut bytes, from)?;
    bytes.truncate(read);
    Ok(bytes)
}

impl Index {
    /// `None` when there is none, or its entries are not there as a whole.
    pub(super) fn open(root: &Root) -> Result<Option<Self>> {
        let Some(file) = root.internal.open_file(layout::LISTING)? else { return Ok(None) };
        let stat = file.stat()?;
        let Some((header, begin)) = header(&file, stat.len)? else { return Ok(None) };
        let end = begin + header.entries;
        let mut index = Self {
            identity: stat.identity,
            begin,
            end,
            good: end,
            whole: true,
            gap: false,
            stamp: header.stamp,
            since: HashMap::new(),
            file,
        };
        let behind = read(&index.file, end, stat.len)?;
        for bytes in behind.split_inclusive(|byte| *byte == b'\n') {
            let Some((event, stamp)) = bytes.strip_suffix(b"\n").and_then(line::parse_event) else {
                index.whole = false;
                break;
            };
            index.good += bytes.len() as u64;
            index.stamp = stamp;
            match event {
                Event::Added(created, id) => drop(index.since.insert(id, Some(created))),
                Event::Removed(id) => drop(index.since.insert(id, None)),
                Event::Gap => index.gap = true,
            }
        }
        Ok(Some(index))
    }

    /// The index, if it knows `instances/` as it is now.
    pub(crate) fn current(root: &Root) -> Result<Option<Self>> {
        // Whoever changes the directory says so a moment later: it is looked at again under the lock.
        match Self::open(root)? {
            None => Ok(None),
            Some(index) if index.is_current(root)? => Ok(Some(index)),
            Some(_) => root.door.alone(root, || match Self::open(root)? {
                Some(again) if again.is_current(root)? => Ok(Some(again)),
                _ => Ok(None),
            }),
        }
    }

    /// Whether every line behind the entries can be read.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether it knows everything up to its stamp.
    pub(super) fn is_complete(&self) -> bool {
        self.whole && !self.gap
    }

    fn is_current(&self, root: &Root) -> Result<bool> {
        Ok(self.is_complete() && self.stamp == stamp(root)?)
    }

    /// Whether so much happened since that the entries are better written anew.
    pub(crate) fn is_long(&self) -> bool {
        self.good - self.end > 64 * 1024 + (self.end - self.begin) / 16
    }

    /// All instances, newest first. Ends with `None`; an item is `Err` when a line cannot be read.
    pub(crate) fn newest(&self) -> Newest<'_> {
        let mut since: Vec<Entry> =
            self.since.iter().filter_map(|(id, created)| created.map(|created| (created, id.clone()))).collect();
        since.sort_unstable();
        Newest { index: self, since, block: Vec::new(), unread: self.end, next: None }
    }

    /// All instances. `None` when a line cannot be read.
    pub(crate) fn all(&self) -> Result<Option<BTreeMap<InstanceId, Created>>> {
        let mut all = BTreeMap::new();
        let mut from = self.begin;
        let mut bytes = Vec::new();
        while from < self.end {
            let to = self.end.min(from + (1 << 20));
            bytes.extend(read(&self.file, from, to)?);
            from = to;
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
            for line in bytes[..whole].split_inclusive(|byte| *byte == b'\n') {
                let Some((created, id)) = line::parse_entry(&line[..line.len() - 1]) else { return Ok(None) };
                all.insert(id, created);
            }
            bytes.drain(..whole);
        }
        for (id, created) in &self.since {
            match created {
                Some(created) => drop(all.insert(id.clone(), *created)),
                None => drop(all.remove(id)),
            }
        }
        Ok(bytes.is_empty().then_some(all))
    }

    pub(super) fn bytes(&self, from: u64) -> Result<Vec<u8>> {
        read(&self.file, from, self.file.len()?)
    }
}

/// The entries of an index, newest first.
pub(crate) struct Newest<'a> {
    index: &'a Index,
    /// Oldest first.
    since: Vec<Entry>,
    /// Lines that are read and not taken, up to `unread` in the file.
    block: Vec<u8>,
    unread: u64,
    /// The next of the entries.
    next: Option<Entry>,
}

/// A line of the index cannot be read.
#[derive(Debug)]
pub(crate) struct Damaged;

impl Newest<'_> {
    pub(crate) fn next(&mut self) -> Result<std::result::Result<Option<Entry>, Damaged>> {
        if self.next.is_none() {
            match self.entry()? {
                Ok(entry) => self.next = entry,
                Err(damaged) => return Ok(Err(damaged)),
            }
        }
        let from_since = match (self.since.last(), &self.next) {
            (Some(since), Some(entry)) => since > entry,
            (Some(_), None) => true,
            (None, _) => false,
        };
        Ok(Ok(if from_since { self.since.pop() } else { self.next.take() }))
    }

    /// The next of the entries of which nothing is known since.
    fn entry(&mut self) -> Result<std::result::Result<Option<Entry>, Damaged>> {
        loop {
            let Some(line) = self.line()? else { return Ok(Ok(None)) };
            let Some(entry) = line::parse_entry(&line) else { return Ok(Err(Damaged)) };
            if !self.index.since.contains_key(&entry.1) {
                return Ok(Ok(Some(entry)));
            }
        }
    }

    /// The last line that was not taken, without its newline.
    fn line(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let rest = &self.block[..self.block.len().saturating_sub(1)];
            let newline = rest.iter().rposition(|byte| *byte == b'\n');
            let start = match newline {
                Some(newline) => newline + 1,
                None if self.unread > self.index.begin => {
                    let from = self.index.begin.max(self.unread.saturating_sub(BLOCK_BYTES));
                    let mut block = read(&self.index.file, from, self.unread)?;
                    block.append(&mut self.block);
                    (self.block, self.unread) = (block, from);
                    continue;
                }
                None if self.block.is_empty() => return Ok(None),
                None => 0,
            };
            let mut line = self.block.split_off(start);
            // Where the last line has no newline, its checksum is wrong without the last byte.
            line.pop();
            return Ok(Some(line));
        }
    }
}
