//! One segment of a commit log: writing it, and reading what a dead writer left. What damage means
//! for an instance is never decided here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::commit::{self, Commit, Header, Line};
use super::events::{Lines, RawLine};
use super::lane::Lane;
use super::tail::Tail;
use crate::blocking;
use crate::disk::fs::{Dir, FILE_MODE, File};
use crate::disk::layout;
use crate::error::{Error, Result};
use crate::mutants::{Protection, without};
use crate::record::InstanceId;

/// A segment that is being written.
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) file: Arc<File>,
    /// Bytes written.
    pub(super) len: u64,
    /// Bytes that are on disk for sure.
    durable: u64,
    /// Where the filler ends: see [`filler`]. At least [`RESERVE`] behind `len`, unless the disk is full.
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

/// Filler that only deletions may use, in bytes: on a full disk they make room for everything else.
const RESERVE: u64 = FILL_LINE;

/// Blank lines from the offset `from` of the file up to `to`, a multiple of their length.
///
/// A batch that overwrites them changes neither the size nor the blocks of the file, so that its
/// flush has no metadata to write: on ext4 with a journal that makes it two to three times faster.
/// The filler grows with the segment, so that a process that commits little writes little.
fn filler(from: u64, to: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = from;
    while at < to {
        let blanks = FILL_LINE - 1 - at % FILL_LINE;
        bytes.extend(std::iter::repeat_n(b' ', usize::try_from(blanks).unwrap_or_default()));
        bytes.push(b'\n');
        at += blanks + 1;
    }
    bytes
}

impl Segment {
    /// Makes a segment, on disk with its name.
    pub(super) fn create(dir: &Dir, header: &Header) -> Result<Self> {
        let name = layout::journal_segment(header.segment);
        let line = commit::encode_header(header).map_err(|e| crate::record::json::unserializable("header", &e))?;
        let len = line.len() as u64;
        let filled = (len + RESERVE).next_multiple_of(FILL_LINE);
        let mut file = dir.create_file(&name, FILE_MODE)?;
        let written = file.write_all(&line).and_then(|()| file.write_all(&filler(len, filled)));
        let made = written.and_then(|()| file.sync_all()).and_then(|()| dir.sync());
        if let Err(error) = made {
            // Nothing was acknowledged in it, and the number is not used again.
            let _ = dir.remove_file(&name);
            return Err(error);
        }
        Ok(Self {
            number: header.segment,
            file: Arc::new(file),
            len,
            durable: len,
            filled,
            begun: Instant::now(),
            covered: Vec::new(),
        })
    }

    /// The mark that goes before the lines of a batch, which are of these instances and of so many
    /// commits.
    pub(super) fn batch_mark<'a>(
        &self,
        lines: impl Iterator<Item = (&'a InstanceId, usize)> + Clone,
    ) -> Result<Vec<u8>> {
        commit::encode_mark(self.durable, lines).map_err(|e| crate::record::json::unserializable("batch", &e))
    }

    /// Appends a batch, and makes it durable if asked to. `deletions` may use the reserve.
    ///
    /// A failed write is undone: the segment is cut back, and that is made durable, so that torn
    /// bytes cannot come back after a power cut. A failed fsync is never tried again: the kernel may
    /// have dropped the pages and say yes the second time.
    pub(super) fn append(&mut self, bytes: &[u8], durable: bool, deletions: bool, tail: &Tail) -> Result<(), Failure> {
        let end = self.len + bytes.len() as u64;
        if end + RESERVE > self.filled
            && let Err(error) = self.make_room(end)
            && !(deletions && end <= self.filled)
        {
            return Err(Failure::NotApplied(error));
        }
        if let Err(error) = self.file.write_all_at(bytes, self.len) {
            if without(Protection::TornBytesCut) {
                return Err(Failure::NotApplied(error));
            }
            self.filled = self.len;
            let undone = tail.flush_with(|file| file.set_len(self.len).and_then(|()| file.sync_all()));
            return Err(if undone.is_ok() { Failure::NotApplied(error) } else { Failure::Unknown(error) });
        }
        if durable {
            if !without(Protection::LogFlush) {
                tail.flush().map_err(Failure::Unknown)?;
            }
            self.durable = end;
        }
        self.len = end;
        Ok(())
    }

    /// Writes filler, so that a batch that ends at `end` has room, and the reserve behind it. On a
    /// disk that has no room nothing of the batch is written, so that nothing has to be undone.
    fn make_room(&mut self, end: u64) -> Result<()> {
        let most = (end + RESERVE + end.min(FILL_MAX)).next_multiple_of(FILL_LINE);
        let least = (end + RESERVE).next_multiple_of(FILL_LINE);
        let written = self.fill_to(most);
        if written.is_err() { self.fill_to(least) } else { written }
    }

    fn fill_to(&mut self, to: u64) -> Result<()> {
        let written = self.file.write_all_at(&filler(self.filled, to), self.filled);
        match written {
            Ok(()) => self.filled = to,
            // Should this fail, blanks too many do no harm: the room is what matters.
            Err(_) => drop(self.file.set_len(self.filled)),
        }
        written
    }

    /// Makes everything in it durable: it is full, and the next one is about to be used.
    pub(super) fn finish(&mut self, tail: &Tail) -> Result<()> {
        if self.durable < self.len {
            tail.flush()?;
            self.durable = self.len;
        }
        Ok(())
    }

    /// Notes that this commit is in the segment, written in this batch.
    pub(super) fn cover(&mut self, commit: &Commit, batch: u64) {
        let lane = &commit.lane;
        if lane.cover(self.number, batch, !commit.events.is_empty()) {
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
    pub(crate) lost: BTreeMap<InstanceId, u64>,
}

pub(crate) struct Damage {
    pub(crate) offset: u64,
    pub(crate) reason: String,
    commit: bool,
}

/// A batch: whose lines there must be, and of how many commits, according to its mark, less those that
/// were read. They stand in the order of the mark.
struct Expected {
    offset: u64,
    lines: VecDeque<(InstanceId, u64)>,
    read: Vec<InstanceId>,
}

/// A line of a segment, what stands in the place of one or two, or a stretch of blank ones.
struct Found {
    offset: u64,
    lines: Vec<Line>,
    damage: Option<Damage>,
    is_blank: bool,
}

/// Most threads that read one segment, and the bytes that are worth one.
const READERS: usize = 4;
const BYTES_PER_READER: u64 = 4 << 20;

/// Reads a segment. What cannot be read is reported, with the instances that it concerns.
///
/// Behind the last point that is stated to be durable the bytes of a write that was cut short may
/// have reached the disk in any part: there the first thing that is wrong ends the segment, also
/// when lines can be read behind it, because they build on what is missing. Before that point it is
/// damage, and what stands behind it is read all the same.
pub(crate) fn read(file: &File) -> Result<Contents> {
    let readers = std::thread::available_parallelism().map_or(1, usize::from).min(READERS) as u64;
    let found = find(file, readers.min(file.len()? / BYTES_PER_READER).max(1))?;
    let marks = found.iter().flat_map(|f| &f.lines).filter_map(|line| line.batch.as_ref());
    let durable = marks.map(|batch| batch.durable).max().unwrap_or(0);
    let mut contents = Contents::default();
    let mut batches: Vec<Expected> = Vec::new();
    for Found { offset, lines, damage, .. } in found {
        match damage {
            Some(damage) if offset >= durable || without(Protection::DamageIsNoTail) => {
                contents.torn = Some(damage);
                break;
            }
            Some(damage) => contents.damaged.push(damage),
            None => {}
        }
        for line in lines {
            contents.take(line, file, offset, &mut batches)?;
        }
    }
    contents.find_lost(&batches, durable);
    Ok(contents)
}

/// Everything that stands in a segment, in order, read in so many parts at once.
fn find(file: &File, parts: u64) -> Result<Vec<Found>> {
    let size = file.len()? / parts;
    // What was appended meanwhile is read with the last part.
    let end_of = |part: u64| if part + 1 == parts { u64::MAX } else { size * (part + 1) };
    let parts: Vec<(u64, u64)> = (0..parts).map(|part| (size * part, end_of(part))).collect();
    let all = blocking::at_once(&parts, parts.len(), 1, &|(begin, end)| find_in(file, *begin, *end))?;
    let mut found = Vec::with_capacity(all.iter().map(|part| part.found.len()).sum());
    let mut unended = None;
    for part in all {
        unended = unended.or(part.unended);
        found.extend(part.found);
    }
    mark_gaps(&mut found);
    if let Some(offset) = unended
        && !is_blank(&read_tail(file, offset)?)
    {
        let damage = Damage { offset, reason: "the last line has no end".into(), commit: false };
        found.push(Found { offset, lines: Vec::new(), damage: Some(damage), is_blank: false });
    }
    Ok(found)
}

/// What stands in the lines that begin in one part of a segment.
struct Part {
    found: Vec<Found>,
    /// Where the last line of the file begins, which has no end.
    unended: Option<u64>,
}

fn find_in(file: &File, begin: u64, end: u64) -> Result<Part> {
    let mut part = Part { found: Vec::new(), unended: None };
    let mut lines = Lines::new(file, begin.saturating_sub(1));
    // A line that begins before this part belongs to the one before.
    if begin > 0 && lines.next()?.is_none() {
        return Ok(part);
    }
    while lines.offset < end {
        let Some(raw) = lines.next()? else {
            part.unended = Some(lines.offset);
            break;
        };
        if !is_blank(&raw.bytes) {
            part.found.push(decode(&raw));
        } else if part.found.last().is_none_or(|last| !last.is_blank) {
            part.found.push(Found { offset: raw.offset, lines: Vec::new(), damage: None, is_blank: true });
        }
    }
    Ok(part)
}

/// Blank lines with others behind them are damage.
fn mark_gaps(found: &mut [Found]) {
    let last = found.iter().rposition(|f| !f.is_blank).unwrap_or(0);
    let mut after_blank = false;
    for gap in &mut found[..last] {
        if gap.is_blank && !after_blank {
            let reason = "a part of it was never written".into();
            gap.damage = Some(Damage { offset: gap.offset, reason, commit: true });
        }
        after_blank = gap.is_blank;
    }
}

fn decode(raw: &RawLine) -> Found {
    let (lines, damage) = match commit::decode(&raw.bytes) {
        Ok(line) => (vec![line], None),
        Err(reason) => {
            let lines = commit::decode_merged(&raw.bytes).map(Vec::from).unwrap_or_default();
            let commit = lines.is_empty() && commit::looks_like_commit(&raw.bytes);
            (lines, Some(Damage { offset: raw.offset, reason, commit }))
        }
    };
    Found { offset: raw.offset, lines, damage, is_blank: false }
}

/// Filler, and nothing else.
fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == b' ')
}

/// The bytes of a file from `offset` on.
pub(crate) fn read_tail(file: &File, offset: u64) -> Result<Vec<u8>> {
    let len = usize::try_from(file.len()?.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut tail = vec![0; len];
    let read = file.read_at(&mut tail, offset)?;
    tail.truncate(read);
    Ok(tail)
}

impl Contents {
    fn take(&mut self, line: Line, file: &File, offset: u64, batches: &mut Vec<Expected>) -> Result<()> {
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
            batches.push(Expected { offset, lines: batch.lines().collect(), read: Vec::new() });
        } else if let Some(meta) = &line.commit {
            if let Some(batch) = batches.last_mut() {
                batch.read.push(meta.id.clone());
                if let Some(at) = batch.lines.iter().position(|(id, _)| *id == meta.id) {
                    batch.lines.remove(at);
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
            missing += batch.lines.len();
            for (id, commits) in &batch.lines {
                if batches.iter().rev().find(|b| b.read.contains(id)).is_none_or(|last| last.offset <= batch.offset) {
                    let lost = self.lost.entry(id.clone()).or_default();
                    *lost = lost.saturating_add(*commits);
                }
            }
        }
        if missing < unread {
            // A mark is damaged too: what is lost could be anybody's.
            self.lost = self.ids().into_iter().map(|id| (id, u64::MAX)).collect();
        }
    }

    /// All instances that are mentioned.
    fn ids(&self) -> BTreeSet<InstanceId> {
        let running = self.header.iter().flat_map(|h| h.running.iter());
        let committed = self.commits.iter().filter_map(|line| line.commit.as_ref().map(|c| &c.id));
        running.chain(committed).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_reads_the_same_in_however_many_parts() {
        let mark = commit::encode_mark(7, std::iter::empty()).expect("a mark");
        let text = [&mark[..], &mark, b"   \n \n", &mark, b"not a line\n", b"  \n", &mark, b"      \n"].concat();
        for end in ["", "  ", "cut short"] {
            let temp = tempfile::tempdir().expect("a directory");
            let bytes = [&text, end.as_bytes()].concat();
            std::fs::write(temp.path().join("f"), &bytes).expect("write");
            let file = Dir::open(temp.path()).expect("open").open_file("f").expect("open").expect("a file");
            let in_parts = |parts: u64| -> Vec<(u64, usize, Option<String>)> {
                let found = find(&file, parts).expect("read").into_iter();
                let found = found.filter(|f| !f.is_blank || f.damage.is_some());
                found.map(|f| (f.offset, f.lines.len(), f.damage.map(|d| d.reason))).collect()
            };
            let whole = in_parts(1);
            assert_eq!(whole.len(), if end.starts_with('c') { 8 } else { 7 }, "{whole:?}");
            for parts in 2..=bytes.len() as u64 {
                assert_eq!(in_parts(parts), whole, "{parts} parts");
            }
        }
    }
}
