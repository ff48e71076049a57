//! One segment of a commit log: writing it, and reading what a dead writer left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::commit::{self, Batch, Header, Line};
use super::events::Lines;
use super::lane::Lane;
use crate::disk::fs::{Dir, FILE_MODE, File};
use crate::disk::layout;
use crate::error::{Error, Result};
use crate::record::InstanceId;

/// A segment that is being written.
pub(super) struct Segment {
    pub(super) number: u64,
    file: File,
    /// Bytes written.
    pub(super) len: u64,
    /// Bytes that are on disk for sure.
    durable: u64,
    /// Where the filler ends: see [`filler`].
    filled: u64,
    pub(super) begun: Instant,
    /// Whose commits are in it.
    pub(super) covered: Vec<(InstanceId, Weak<Lane>)>,
}

/// What became of a batch that was not written whole.
pub(super) enum Failure {
    /// Its bytes are cut off again, on disk: nothing happened.
    NotApplied(Error),
    /// Whether its bytes are on disk cannot be known.
    Unknown(Error),
}

/// Most filler that is written ahead, in bytes.
const FILL_MAX: u64 = 1 << 20;

/// Length of a line of filler, in bytes: a block of most file systems.
const FILL_LINE: u64 = 4096;

/// Appends blank lines up to the offset `to` of the file, a multiple of their length.
///
/// A batch that overwrites them changes neither the size nor the blocks of the file, so that its
/// flush has no metadata to write: on ext4 with a journal that makes it two to three times faster.
/// The filler grows with the segment, so that a process that commits little writes little.
fn fill(bytes: &mut Vec<u8>, from: u64, to: u64) {
    let mut at = from;
    while at < to {
        let blanks = FILL_LINE - 1 - at % FILL_LINE;
        bytes.extend(std::iter::repeat_n(b' ', usize::try_from(blanks).unwrap_or_default()));
        bytes.push(b'\n');
        at += blanks + 1;
    }
}

impl Segment {
    /// Makes a segment, on disk with its name.
    pub(super) fn create(dir: &Dir, header: &Header) -> Result<Self> {
        let name = layout::journal_segment(header.segment);
        let line = commit::encode_header(header).map_err(|e| crate::record::json::unserializable("header", &e))?;
        let mut file = dir.create_file(&name, FILE_MODE)?;
        let made = file.write_all(&line).and_then(|()| file.sync_all()).and_then(|()| dir.sync());
        if let Err(error) = made {
            // Nothing was acknowledged in it, and the number is not used again.
            let _ = dir.remove_file(&name);
            return Err(error);
        }
        let len = line.len() as u64;
        Ok(Self {
            number: header.segment,
            file,
            len,
            durable: len,
            filled: len,
            begun: Instant::now(),
            covered: Vec::new(),
        })
    }

    /// The mark that goes before the lines of a batch, which are of these instances.
    pub(super) fn batch_mark(&self, ids: Vec<InstanceId>) -> Result<Vec<u8>> {
        commit::encode_batch(&Batch { durable: self.durable, ids })
            .map_err(|e| crate::record::json::unserializable("batch", &e))
    }

    /// Appends a batch, and makes it durable if asked to.
    ///
    /// A failed write is undone: the segment is cut back, and that is made durable, so that torn
    /// bytes cannot come back after a power cut. A failed fsync is never tried again: the kernel may
    /// have dropped the pages and say yes the second time.
    pub(super) fn append(&mut self, bytes: Vec<u8>, durable: bool) -> Result<(), Failure> {
        let end = self.len + bytes.len() as u64;
        self.write(bytes, end)?;
        if durable {
            self.file.sync_data().map_err(Failure::Unknown)?;
            self.durable = end;
        }
        self.len = end;
        Ok(())
    }

    /// Writes a batch that ends at `end`, with filler behind it when it uses up what there is.
    fn write(&mut self, mut bytes: Vec<u8>, end: u64) -> Result<(), Failure> {
        if end <= self.filled {
            return self.file.write_all_at(&bytes, self.len).or_else(|error| self.undo(error));
        }
        let batch = bytes.len();
        let filled = (end + end.min(FILL_MAX)).next_multiple_of(FILL_LINE);
        fill(&mut bytes, end, filled);
        if self.file.write_all_at(&bytes, self.len).is_ok() {
            self.filled = filled;
            return Ok(());
        }
        // The disk may have room for the batch alone.
        self.filled = end;
        self.file.write_all_at(&bytes[..batch], self.len).or_else(|error| self.undo(error))
    }

    /// Cuts a failed write off again, durably.
    fn undo(&mut self, error: Error) -> Result<(), Failure> {
        self.filled = self.len;
        match self.file.set_len(self.len).and_then(|()| self.file.sync_all()) {
            Ok(()) => Err(Failure::NotApplied(error)),
            Err(_) => Err(Failure::Unknown(error)),
        }
    }

    /// Makes everything in it durable: it is full, and the next one is about to be used.
    pub(super) fn finish(&mut self) -> Result<()> {
        if self.durable < self.len {
            self.file.sync_data()?;
            self.durable = self.len;
        }
        Ok(())
    }

    /// Notes that commits of this lane are in the segment.
    pub(super) fn cover(&mut self, lane: &Arc<Lane>) {
        use std::sync::atomic::Ordering::Relaxed;
        if lane.covered_segment.swap(self.number, Relaxed) != self.number {
            self.covered.push((lane.id.clone(), Arc::downgrade(lane)));
        }
    }
}

/// What a segment of a dead writer holds.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) header: Option<Header>,
    /// The commits, in the order in which they were written.
    pub(crate) commits: Vec<Line>,
    /// Bytes of a write that was cut short: they were never acknowledged.
    pub(crate) torn: Option<Damage>,
    /// Damage to bytes that were on disk once.
    pub(crate) damaged: Vec<Damage>,
    /// How many of the last commits of an instance that damage took, if it took any.
    pub(super) lost: BTreeMap<InstanceId, u64>,
}

pub(crate) struct Damage {
    pub(crate) offset: u64,
    pub(crate) reason: String,
    commit: bool,
}

/// A batch: whose lines there must be, according to its mark, less those that were read.
struct Expected {
    offset: u64,
    ids: Vec<InstanceId>,
    read: BTreeSet<InstanceId>,
}

/// Reads a segment. What cannot be read is reported, with the instances that it concerns, and what
/// stands behind it is read all the same.
pub(crate) fn read(file: &File) -> Result<Contents> {
    let mut contents = Contents::default();
    let mut bad: Vec<Damage> = Vec::new();
    let mut batches: Vec<Expected> = Vec::new();
    // The furthest point that a valid mark states to be durable.
    let mut durable = 0;
    let mut lines = Lines::new(file, 0);
    while let Some(raw) = lines.next()? {
        if is_blank(&raw.bytes) {
            continue;
        }
        let (read, reason) = match commit::decode(&raw.bytes) {
            Ok(line) => (vec![line], None),
            Err(reason) => (commit::decode_merged(&raw.bytes).map(Vec::from).unwrap_or_default(), Some(reason)),
        };
        if let Some(reason) = reason {
            let commit = read.is_empty() && commit::looks_like_commit(&raw.bytes);
            bad.push(Damage { offset: raw.offset, reason, commit });
        }
        for line in read {
            contents.take(line, file, raw.offset, &mut batches, &mut durable)?;
        }
    }
    if !is_blank(&read_tail(file, lines.offset)?) {
        bad.push(Damage { offset: lines.offset, reason: "the last line has no end".into(), commit: false });
    }
    let (damaged, mut torn): (Vec<_>, Vec<_>) = bad.into_iter().partition(|damage| damage.offset < durable);
    contents.damaged = damaged;
    contents.torn = if torn.is_empty() { None } else { Some(torn.swap_remove(0)) };
    contents.find_lost(&batches, durable);
    Ok(contents)
}

/// Filler, and nothing else.
fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == b' ')
}

/// The bytes of a file from `offset` on.
pub(super) fn read_tail(file: &File, offset: u64) -> Result<Vec<u8>> {
    let len = usize::try_from(file.len()?.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut tail = vec![0; len];
    let read = file.read_at(&mut tail, offset)?;
    tail.truncate(read);
    Ok(tail)
}

impl Contents {
    fn take(
        &mut self,
        line: Line,
        file: &File,
        offset: u64,
        batches: &mut Vec<Expected>,
        durable: &mut u64,
    ) -> Result<()> {
        if let Some(header) = line.journal {
            if header.format > commit::JOURNAL_FORMAT {
                return Err(Error::NewerFormat {
                    path: file.path().to_owned(),
                    found: header.format.into(),
                    supported: commit::JOURNAL_FORMAT.into(),
                });
            }
            self.header = Some(header);
        } else if let Some(batch) = line.batch {
            *durable = batch.durable.max(*durable);
            batches.push(Expected { offset, ids: batch.ids, read: BTreeSet::new() });
        } else if let Some(meta) = &line.commit {
            if let Some(batch) = batches.last_mut() {
                batch.read.insert(meta.id.clone());
                if let Some(at) = batch.ids.iter().position(|id| *id == meta.id) {
                    batch.ids.swap_remove(at);
                }
            }
            self.commits.push(line);
        }
        Ok(())
    }

    /// Whose last lines are missing where bytes that were on disk once are damaged. Lines that are
    /// missing before others of the same instance leave a gap in its revisions, which shows anyway.
    fn find_lost(&mut self, batches: &[Expected], durable: u64) {
        let unread = self.damaged.iter().filter(|damage| damage.commit).count();
        let mut missing = 0;
        for batch in batches.iter().filter(|batch| batch.offset < durable) {
            missing += batch.ids.len();
            for id in &batch.ids {
                if batches.iter().rev().find(|b| b.read.contains(id)).is_none_or(|last| last.offset <= batch.offset) {
                    *self.lost.entry(id.clone()).or_default() += 1;
                }
            }
        }
        if missing < unread {
            // A mark is damaged too: what is lost could be anybody's.
            self.lost = self.ids().into_iter().map(|id| (id, u64::MAX)).collect();
        }
    }

    /// All instances that are mentioned.
    pub(super) fn ids(&self) -> BTreeSet<InstanceId> {
        let running = self.header.iter().flat_map(|h| h.running.iter());
        let committed = self.commits.iter().filter_map(|line| line.commit.as_ref().map(|c| &c.id));
        running.chain(committed).cloned().collect()
    }
}
