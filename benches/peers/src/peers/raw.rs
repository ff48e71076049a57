//! The limits: what the disk and the system calls allow, with nothing around them.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::harness::Outcome;

/// Bytes of one commit of the document in our log.
const LINE: usize = 900;

/// Bytes that are written ahead at a time.
const AHEAD: u64 = 1 << 20;

/// A file to which batches are appended, each flushed.
pub struct Appended {
    file: File,
    batch: Vec<u8>,
    len: u64,
    /// Where the bytes that were written ahead end; none are for a file that grows by its batches.
    filled: Option<u64>,
}

impl Appended {
    /// `ahead`: filler is written ahead of the batches, as our log does.
    pub fn create(dir: &Path, lines: usize, ahead: bool) -> Outcome<Self> {
        let file = File::create(dir.join("log"))?;
        Ok(Self { file, batch: vec![b'x'; LINE * lines], len: 0, filled: ahead.then_some(0) })
    }

    /// One batch.
    pub fn append(&mut self) -> Outcome<()> {
        self.write(self.batch.len())
    }

    /// A batch of so many lines, of at most those that it was made for.
    pub fn append_lines(&mut self, lines: usize) -> Outcome<()> {
        self.write((lines * LINE).min(self.batch.len()))
    }

    fn write(&mut self, bytes: usize) -> Outcome<()> {
        let end = self.len + bytes as u64;
        if let Some(filled) = &mut self.filled {
            while *filled < end {
                self.file.write_all_at(&vec![b' '; AHEAD as usize], *filled)?;
                *filled += AHEAD;
            }
        }
        self.file.write_all_at(&self.batch[..bytes], self.len)?;
        self.file.sync_data()?;
        self.len = end;
        Ok(())
    }
}

/// A directory with one file in it.
pub fn create(parent: &Path, name: &str, content: &[u8]) -> Outcome<()> {
    let dir = parent.join(name);
    std::fs::create_dir(&dir)?;
    Ok(File::create(dir.join("state.json"))?.write_all(content)?)
}
