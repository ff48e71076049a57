//! The lines of one file of an event log, and the search for one among them. What comes before or after
//! that file is not its concern.

use crate::disk::fs::File;
use crate::error::{Error, Result};
use crate::record::{COUNT_MAX, Event, json};

/// How much of a file is read at first, and at a time when there is more.
const FIRST_CHUNK_BYTES: usize = 4 * 1024;
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

/// How near a search comes to the line that is looked for; the rest is read over.
const FOUND_BYTES: u64 = 4 * FIRST_CHUNK_BYTES as u64;

/// Longest line that is read. It only bounds memory: the limit for new events is lower by default.
const LINE_BYTES: usize = 64 << 20;

/// The complete lines of a file from an offset on, in bounded memory.
pub(crate) struct Lines<'a> {
    file: &'a File,
    /// Where the next line begins.
    pub(crate) offset: u64,
    buffer: Vec<u8>,
    at: usize,
    chunk: usize,
}

pub(crate) struct RawLine {
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

impl RawLine {
    /// The `seq`, without parsing the rest: every line that we write begins with it.
    pub(crate) fn seq(&self) -> Option<u64> {
        let Some(digits) = self.bytes.strip_prefix(b"{\"seq\":") else {
            // Written by hand, perhaps.
            return self.event().ok().map(|event| event.seq);
        };
        let end = digits.iter().position(|b| !b.is_ascii_digit())?;
        std::str::from_utf8(&digits[..end]).ok()?.parse().ok().filter(|seq| is_seq(*seq))
    }

    pub(crate) fn event(&self) -> Result<Event, String> {
        if json::depth(&self.bytes) > json::MAX_DEPTH + 1 {
            return Err(format!("it is nested deeper than {} levels", json::MAX_DEPTH));
        }
        let event: Event = serde_json::from_slice(&self.bytes).map_err(|e| e.to_string())?;
        if is_seq(event.seq) { Ok(event) } else { Err(format!("{} is no number of an event", event.seq)) }
    }
}

impl<'a> Lines<'a> {
    pub(crate) fn new(file: &'a File, offset: u64) -> Self {
        Self { file, offset, buffer: Vec::new(), at: 0, chunk: FIRST_CHUNK_BYTES }
    }

    /// The next line without its newline; `None` at the end, and before a line that has no newline
    /// yet.
    pub(crate) fn next(&mut self) -> Result<Option<RawLine>> {
        loop {
            if let Some(len) = self.buffer[self.at..].iter().position(|b| *b == b'\n') {
                let bytes = self.buffer[self.at..self.at + len].to_vec();
                let offset = self.offset;
                self.at += len + 1;
                self.offset += len as u64 + 1;
                return Ok(Some(RawLine { offset, bytes }));
            }
            self.buffer.drain(..self.at);
            self.at = 0;
            let have = self.buffer.len();
            if have > LINE_BYTES {
                return Err(Error::corrupt(
                    self.file.path(),
                    Some(self.offset),
                    "a line is longer than any that was ever written",
                ));
            }
            self.buffer.resize(have + self.chunk, 0);
            self.chunk = (self.chunk * 4).min(CHUNK_BYTES);
            let read = self.file.read_at(&mut self.buffer[have..], self.offset + have as u64)?;
            self.buffer.truncate(have + read);
            if read == 0 {
                return Ok(None);
            }
        }
    }
}

/// Events are numbered from 1, and never reach the end of the numbers.
pub(crate) fn is_seq(seq: u64) -> bool {
    (1..COUNT_MAX).contains(&seq)
}

pub(crate) fn first_seq(file: &File) -> Result<Option<u64>> {
    Ok(Lines::new(file, 0).next()?.and_then(|line| line.seq()).filter(|seq| *seq > 0))
}

/// Where to begin to read for `seq`: at a line that is not behind it, and not far before it.
///
/// The numbers of the lines rise, so this costs hardly more in a long file than in a short one. What
/// cannot be read is no help in the search: the reader meets it if it stands in its way.
pub(super) fn find(file: &File, seq: u64) -> Result<u64> {
    let (mut begin, mut end) = (0, file.len()?);
    // What is asked for most often stands at the end.
    let mut middle = end.saturating_sub(FOUND_BYTES);
    while end - begin > FOUND_BYTES {
        match line_behind(file, middle) {
            Some(line) if line.offset < end && line.seq().is_some_and(|found| found <= seq) => begin = line.offset,
            _ => end = middle,
        }
        middle = begin + (end - begin) / 2;
    }
    Ok(begin)
}

/// The first line that begins behind an offset.
fn line_behind(file: &File, offset: u64) -> Option<RawLine> {
    let mut lines = Lines::new(file, offset);
    lines.next().ok()??;
    lines.next().ok()?
}
