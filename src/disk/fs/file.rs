//! An open file: reading, writing, flushing and locking it. It is opened by its directory.

use std::io;
use std::path::{Path, PathBuf};

use super::{Lock, Lockable, Locked, Stat};
use crate::disk::handle::{Handle, Locking};
use crate::error::{Error, Result};

/// An open file, with its path for messages.
#[derive(Debug)]
pub(crate) struct File {
    pub(super) handle: Handle,
    pub(super) path: PathBuf,
}

impl File {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The plain file, to hand to a child process.
    #[cfg_attr(not(test), expect(clippy::unnecessary_wraps, reason = "what the tests put in its place can fail"))]
    pub(crate) fn into_std(self) -> Result<std::fs::File> {
        match self.handle {
            Handle::Kernel(fd) => Ok(fd.into()),
            #[cfg(test)]
            Handle::Model(_) => Err(Error::io("hand over", &self.path, io::ErrorKind::Unsupported)),
        }
    }

    fn fail(&self, action: &'static str) -> impl Fn(io::Error) -> Error {
        move |e| Error::io(action, &self.path, e)
    }

    pub(crate) fn len(&self) -> Result<u64> {
        self.handle.status().map(|status| status.len).map_err(self.fail("look at"))
    }

    pub(crate) fn stat(&self) -> Result<Stat> {
        self.handle.status().map(Stat::from).map_err(self.fail("look at"))
    }

    /// Appends (or writes where the file stands) all of `bytes`.
    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_whole(bytes, |rest, _| self.handle.write(rest))
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.write_whole(bytes, |rest, done| self.handle.write_at(rest, offset + done))
    }

    /// A write may be cut short: on a disk that is nearly full it is, and the next one says why.
    fn write_whole(&self, bytes: &[u8], write: impl Fn(&[u8], u64) -> io::Result<usize>) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match write(&bytes[done..], done as u64) {
                Ok(0) => return Err(Error::io("write to", &self.path, io::ErrorKind::WriteZero)),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("write to", &self.path, e)),
            }
        }
        Ok(())
    }

    /// Reads the whole file, refusing one larger than `limit` bytes.
    pub(crate) fn read_all(&self, limit: u64) -> Result<Vec<u8>> {
        let too_large = || {
            let reason = format!("it is larger than the limit of {limit} bytes");
            Error::corrupt(&self.path, Some(limit), reason)
        };
        let mut bytes = Vec::new();
        loop {
            let have = bytes.len();
            // One byte more than it says, to see whether it has grown meanwhile.
            let len = self.len()?;
            let want = len.saturating_sub(have as u64) + 1;
            if have as u64 + want > limit + 1 {
                return Err(too_large());
            }
            bytes.resize(have + usize::try_from(want).map_err(|_| too_large())?, 0);
            let read = self.read_some(&mut bytes[have..], have as u64)?;
            bytes.truncate(have + read);
            // All that it says, and the one byte more is not there: it need not be asked for again.
            if read == 0 || bytes.len() as u64 == len {
                return Ok(bytes);
            }
        }
    }

    /// Reads up to `buffer.len()` bytes at `offset`; fewer at the end of the file.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_some(&mut buffer[filled..], offset + filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        Ok(filled)
    }

    fn read_some(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        loop {
            match self.handle.read_at(buffer, offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(self.fail("read")),
            }
        }
    }

    pub(crate) fn set_len(&self, len: u64) -> Result<()> {
        self.handle.set_len(len).map_err(self.fail("cut"))
    }

    /// Makes the bytes durable.
    pub(crate) fn sync_data(&self) -> Result<()> {
        self.handle.sync(false).map_err(self.fail("fdatasync"))
    }

    /// Makes the bytes and the metadata durable.
    pub(crate) fn sync_all(&self) -> Result<()> {
        self.handle.sync(true).map_err(self.fail("fsync"))
    }

    /// Tries to lock this file alone; `None` when somebody else has it locked.
    pub(crate) fn try_lock(self) -> Result<Option<Locked<Self>>> {
        match self.handle.lock(Locking::TryExclusive) {
            Ok(locked) => Ok(locked.then(|| Locked::new(self))),
            Err(e) => Err(Error::io("lock", &self.path, e)),
        }
    }

    /// Whether nobody has this file locked alone. To ask turns nobody else away who asks.
    pub(crate) fn probe(self) -> Result<bool> {
        match self.handle.lock(Locking::TryShared) {
            Ok(locked) => Ok(locked.then(|| Locked::new(self)).is_some()),
            Err(e) => Err(Error::io("lock", &self.path, e)),
        }
    }

    /// Waits for the lock. Blocks the thread.
    pub(crate) fn lock(self, lock: Lock) -> Result<Locked<Self>> {
        let locking = match lock {
            Lock::Shared => Locking::Shared,
            Lock::Exclusive => Locking::Exclusive,
        };
        loop {
            match self.handle.lock(locking) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("lock", &self.path, e)),
                Ok(_) => return Ok(Locked::new(self)),
            }
        }
    }
}

impl Lockable for File {
    fn unlock(&self) {
        let _ = self.handle.lock(Locking::Unlock);
    }

    fn duplicate(&self) -> Option<Self> {
        Some(Self { handle: self.handle.duplicate()?, path: self.path.clone() })
    }
}
