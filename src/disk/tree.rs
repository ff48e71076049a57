//! Whole trees that somebody else filled: every sort of entry, whatever its name, never through a
//! link.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode};

use super::fs::{DIR_MODE, Dir};
use super::handle::Handle;
use crate::error::{Error, Result};

/// Directories in one another that are looked into: each costs a descriptor and some of the stack.
const DEPTH: usize = 256;

/// Bytes of one block in what `stat` says.
const BLOCK_BYTES: u64 = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    File,
    Directory,
    Link,
    /// A device, a pipe, a socket.
    Special,
}

/// What stands behind a name, without following a link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) sort: Sort,
    /// Who may read, write and execute it: the last nine bits.
    pub(crate) mode: u32,
    /// Bytes that are allocated for it.
    pub(crate) allocated: u64,
}

fn at<T>(dir: &Dir, name: &OsStr, action: &'static str, done: rustix::io::Result<T>) -> Result<T> {
    done.map_err(|e| Error::io(action, &dir.path_of(name), e))
}

/// The model disk of the tests has no links and no blocks.
#[cfg_attr(not(test), expect(clippy::unnecessary_wraps, reason = "what the tests put in its place can fail"))]
fn descriptor(dir: &Dir) -> Result<&OwnedFd> {
    match dir.handle() {
        Handle::Kernel(fd) => Ok(fd),
        #[cfg(test)]
        Handle::Model(_) => Err(Error::io("look into", dir.path(), std::io::ErrorKind::Unsupported)),
    }
}

impl Dir {
    /// What is behind a name; `None` when there is nothing.
    pub(crate) fn entry(&self, name: &OsStr) -> Result<Option<Entry>> {
        let fd = descriptor(self)?;
        let stat = match rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            other => at(self, name, "look at", other)?,
        };
        let sort = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Sort::File,
            FileType::Directory => Sort::Directory,
            FileType::Symlink => Sort::Link,
            _ => Sort::Special,
        };
        #[allow(
            clippy::cast_sign_loss,
            clippy::unnecessary_cast,
            clippy::useless_conversion,
            reason = "the width and the sign differ between platforms"
        )]
        let (mode, blocks) = (u32::from(stat.st_mode) & 0o777, stat.st_blocks as u64);
        Ok(Some(Entry { sort, mode, allocated: blocks.saturating_mul(BLOCK_BYTES) }))
    }

    /// All names in this directory, whatever their bytes, in order.
    pub(crate) fn all_names(&self) -> Result<Vec<OsString>> {
        let mut names = self.handle().names(usize::MAX).map_err(|e| Error::io("list", self.path(), e))?;
        names.sort_unstable();
        Ok(names)
    }

    /// Where a link leads.
    pub(crate) fn read_link(&self, name: &str) -> Result<Vec<u8>> {
        let target = rustix::fs::readlinkat(descriptor(self)?, name, Vec::new());
        at(self, name.as_ref(), "read the link", target).map(std::ffi::CString::into_bytes)
    }

    /// Makes a link; `name` must not exist.
    pub(crate) fn make_link(&self, name: &str, target: &str) -> Result<()> {
        at(self, name.as_ref(), "make the link", rustix::fs::symlinkat(target, descriptor(self)?, name))
    }

    /// Makes a directory with this mode, in which its owner can work whatever the mode says; `false`
    /// when the name is taken.
    pub(crate) fn create_dir_with(&self, name: &str, mode: u32) -> Result<bool> {
        if !self.create_dir(name)? {
            return Ok(false);
        }
        if mode | DIR_MODE != DIR_MODE
            && let Some(dir) = self.open_dir(name)?
        {
            at(
                self,
                name.as_ref(),
                "set the mode of",
                rustix::fs::fchmod(descriptor(&dir)?, Mode::from_raw_mode(mode | DIR_MODE)),
            )?;
        }
        Ok(true)
    }

    /// Bytes that are allocated for a name and for everything below it. A file with several names
    /// counts for each. What vanishes
    /// meanwhile does not count, nor what lies more than 256 directories deep.
    pub(crate) fn allocated(&self, name: &OsStr) -> Result<u64> {
        self.allocated_below(name, DEPTH)
    }

    fn allocated_below(&self, name: &OsStr, depth: usize) -> Result<u64> {
        let Some(entry) = self.entry(name)? else { return Ok(0) };
        let mut bytes = entry.allocated;
        if entry.sort == Sort::Directory
            && depth > 0
            && let Some(text) = name.to_str()
            && let Some(dir) = vanished(self.open_dir(text))?
        {
            for below in dir.all_names()? {
                bytes = bytes.saturating_add(dir.allocated_below(&below, depth - 1)?);
            }
        }
        Ok(bytes)
    }

    /// Makes the names in this directory durable, and those in every directory below it.
    pub(crate) fn sync_tree(&self) -> Result<()> {
        for name in self.all_names()? {
            if self.entry(&name)?.is_some_and(|entry| entry.sort == Sort::Directory)
                && let Some(text) = name.to_str()
                && let Some(dir) = self.open_dir(text)?
            {
                dir.sync_tree()?;
            }
        }
        self.sync()
    }
}

/// A directory that became something else between the look and the opening is not there.
fn vanished(opened: Result<Option<Dir>>) -> Result<Option<Dir>> {
    use rustix::io::Errno;
    match opened {
        Err(Error::Io { source, .. }) if matches!(Errno::from_io_error(&source), Some(Errno::NOTDIR | Errno::LOOP)) => {
            Ok(None)
        }
        other => other,
    }
}
