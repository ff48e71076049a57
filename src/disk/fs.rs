//! The system calls, relative to open directories: the seam that a model disk can take.
//!
//! A path is resolved once, when the root is opened. From then on everything is opened relative to
//! a directory descriptor, one name at a time, without following symbolic links: a directory that
//! is removed, swapped or turned into a link behind our back is noticed, not written into.
//! Descriptors are close-on-exec.

use std::ffi::OsStr;
use std::io::{self, Read as _, Write as _};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Mode of new directories.
pub(crate) const DIR_MODE: u32 = 0o700;
/// Mode of new files.
pub(crate) const FILE_MODE: u32 = 0o600;

/// An open directory, with its path for messages.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// What identifies a file however it is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    pub(crate) inode: u64,
}

/// What is behind a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    pub(crate) identity: Identity,
    pub(crate) mode: u32,
}

/// How to lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    Shared,
    Exclusive,
}

impl Dir {
    /// Opens a directory by path, following links: only for the root itself.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::io("open the directory", path, e))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn path_of(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path.join(name.as_ref())
    }

    fn openat(&self, name: &str, flags: OFlags, mode: u32, action: &'static str) -> Result<OwnedFd> {
        rustix::fs::openat(&self.fd, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::from_raw_mode(mode))
            .map_err(|e| Error::io(action, &self.path_of(name), e))
    }

    /// Opens a directory below this one; `None` when there is none.
    pub(crate) fn open_dir(&self, name: &str) -> Result<Option<Self>> {
        let fd = absent(self.openat(name, OFlags::RDONLY | OFlags::DIRECTORY, 0, "open the directory"))?;
        Ok(fd.map(|fd| Self { fd, path: self.path_of(name) }))
    }

    /// Makes a directory; `false` when there is one already.
    pub(crate) fn create_dir(&self, name: &str) -> Result<bool> {
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(DIR_MODE)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(e) => Err(Error::io("make the directory", &self.path_of(name), e)),
        }
    }

    /// Opens a directory below this one, making it if it is missing.
    pub(crate) fn ensure_dir(&self, name: &str) -> Result<Self> {
        if let Some(dir) = self.open_dir(name)? {
            return Ok(dir);
        }
        self.create_dir(name)?;
        let fd = self.openat(name, OFlags::RDONLY | OFlags::DIRECTORY, 0, "open the directory")?;
        Ok(Self { fd, path: self.path_of(name) })
    }

    fn file(&self, name: &str, fd: OwnedFd) -> File {
        File { inner: fd.into(), path: self.path_of(name) }
    }

    /// Makes a file that must not exist yet, with exactly this mode from its first byte on.
    pub(crate) fn create_file(&self, name: &str, mode: u32) -> Result<File> {
        let fd = self.openat(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode, "make the file")?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))
            .map_err(|e| Error::io("set the mode of", &self.path_of(name), e))?;
        Ok(self.file(name, fd))
    }

    /// Opens a file for reading; `None` when there is none.
    pub(crate) fn open_file(&self, name: &str) -> Result<Option<File>> {
        Ok(absent(self.openat(name, OFlags::RDONLY, 0, "open"))?.map(|fd| self.file(name, fd)))
    }

    /// Opens a file for reading and writing, making it if it is missing.
    pub(crate) fn open_or_create_file(&self, name: &str) -> Result<File> {
        Ok(self.file(name, self.openat(name, OFlags::RDWR | OFlags::CREATE, FILE_MODE, "open")?))
    }

    /// Opens a file for appending, making it if it is missing.
    pub(crate) fn open_append(&self, name: &str) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND;
        Ok(self.file(name, self.openat(name, flags, FILE_MODE, "open")?))
    }

    /// What is behind a name, without following a link; `None` when there is nothing.
    pub(crate) fn stat(&self, name: &str) -> Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Stat::from(stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(Error::io("look at", &self.path_of(name), e)),
        }
    }

    /// What this directory is.
    pub(crate) fn own_stat(&self) -> Result<Stat> {
        rustix::fs::fstat(&self.fd).map(Stat::from).map_err(|e| Error::io("look at", &self.path, e))
    }

    /// The names in this directory that are UTF-8 (all of ours are), in no order.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let fail = |e: Errno| Error::io("list", &self.path, e);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Gives `name` the place of `to` in one step, replacing what is there.
    pub(crate) fn rename(&self, name: &str, to_dir: &Self, to: &str) -> Result<()> {
        rustix::fs::renameat(&self.fd, name, &to_dir.fd, to).map_err(|e| Error::io("rename to", &to_dir.path_of(to), e))
    }

    /// Removes a file; `false` when there was none.
    pub(crate) fn remove_file(&self, name: &str) -> Result<bool> {
        self.unlink(name, AtFlags::empty())
    }

    /// Removes an empty directory; `false` when there was none.
    pub(crate) fn remove_dir(&self, name: &str) -> Result<bool> {
        self.unlink(name, AtFlags::REMOVEDIR)
    }

    fn unlink(&self, name: &str, flags: AtFlags) -> Result<bool> {
        match rustix::fs::unlinkat(&self.fd, name, flags) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(Error::io("remove", &self.path_of(name), e)),
        }
    }

    /// Removes a directory with all that is in it, never through a link.
    pub(crate) fn remove_tree(&self, name: &str) -> Result<()> {
        let path = self.path_of(name);
        match std::fs::remove_dir_all(&path) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io("remove", &path, e)),
        }
    }

    /// Makes the names in this directory durable.
    pub(crate) fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.fd).map_err(|e| Error::io("fsync the directory", &self.path, e))
    }

    /// Tries to lock this directory; `None` when somebody else has it locked.
    pub(crate) fn try_lock(self) -> Result<Option<Locked<Self>>> {
        match try_flock(&self, FlockOperation::NonBlockingLockExclusive) {
            Ok(locked) => Ok(locked.then_some(Locked(self))),
            Err(e) => Err(Error::io("lock", &self.path, e)),
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<rustix::fs::Stat> for Stat {
    fn from(stat: rustix::fs::Stat) -> Self {
        Self { identity: Identity { device: stat.st_dev, inode: stat.st_ino }, mode: stat.st_mode & 0o7777 }
    }
}

fn absent(opened: Result<OwnedFd>) -> Result<Option<OwnedFd>> {
    match opened {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if e.io_kind() == Some(io::ErrorKind::NotFound) => Ok(None),
        Err(e) => Err(e),
    }
}

fn try_flock(fd: impl AsFd, operation: FlockOperation) -> io::Result<bool> {
    match rustix::fs::flock(fd, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// A file or directory that is locked, until this is dropped.
///
/// It is unlocked, not just closed: a child process that was forked in the meantime has a copy of
/// the descriptor until it executes its program, and would hold the lock a moment longer.
#[derive(Debug)]
pub(crate) struct Locked<T: AsFd>(T);

impl<T: AsFd> Locked<T> {
    /// Lets the lock go while the file stays open.
    pub(crate) fn unlock(&self) {
        // This cannot fail for a valid descriptor on a local file system; closing it unlocks too.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

impl<T: AsFd> Drop for Locked<T> {
    fn drop(&mut self) {
        self.unlock();
    }
}

impl<T: AsFd> Deref for Locked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// An open file, with its path for messages.
#[derive(Debug)]
pub(crate) struct File {
    inner: std::fs::File,
    path: PathBuf,
}

impl File {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The plain file, to hand to a child process.
    pub(crate) fn into_std(self) -> std::fs::File {
        self.inner
    }

    fn fail(&self, action: &'static str) -> impl Fn(io::Error) -> Error {
        move |e| Error::io(action, &self.path, e)
    }

    pub(crate) fn len(&self) -> Result<u64> {
        self.inner.metadata().map(|m| m.len()).map_err(self.fail("look at"))
    }

    pub(crate) fn stat(&self) -> Result<Stat> {
        rustix::fs::fstat(&self.inner).map(Stat::from).map_err(|e| Error::io("look at", &self.path, e))
    }

    /// Appends (or writes at the cursor) all of `bytes`.
    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner.write_all(bytes).map_err(|e| Error::io("write to", &self.path, e))
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.inner.write_all_at(bytes, offset).map_err(self.fail("write to"))
    }

    /// Reads the whole file, refusing one larger than `limit` bytes.
    pub(crate) fn read_all(&mut self, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(self.len()?.min(limit)).unwrap_or(0));
        (&self.inner).take(limit + 1).read_to_end(&mut bytes).map_err(self.fail("read"))?;
        if bytes.len() as u64 > limit {
            return Err(Error::corrupt(
                &self.path,
                Some(limit),
                format_args!("it is larger than the limit of {limit} bytes"),
            ));
        }
        Ok(bytes)
    }

    /// Reads up to `buffer.len()` bytes at `offset`; fewer at the end of the file.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.inner.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", &self.path, e)),
            }
        }
        Ok(filled)
    }

    pub(crate) fn set_len(&self, len: u64) -> Result<()> {
        self.inner.set_len(len).map_err(self.fail("cut"))
    }

    /// Makes the bytes durable.
    pub(crate) fn sync_data(&self) -> Result<()> {
        self.inner.sync_data().map_err(self.fail("fdatasync"))
    }

    /// Makes the bytes and the metadata durable.
    pub(crate) fn sync_all(&self) -> Result<()> {
        self.inner.sync_all().map_err(self.fail("fsync"))
    }

    /// Tries to lock this file alone; `None` when somebody else has it locked.
    pub(crate) fn try_lock(self) -> Result<Option<Locked<Self>>> {
        match try_flock(&self, FlockOperation::NonBlockingLockExclusive) {
            Ok(locked) => Ok(locked.then_some(Locked(self))),
            Err(e) => Err(Error::io("lock", &self.path, e)),
        }
    }

    /// Waits for the lock. Blocks the thread.
    pub(crate) fn lock(self, lock: Lock) -> Result<Locked<Self>> {
        let operation = match lock {
            Lock::Shared => FlockOperation::LockShared,
            Lock::Exclusive => FlockOperation::LockExclusive,
        };
        loop {
            match rustix::fs::flock(&self, operation) {
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::io("lock", &self.path, e)),
                Ok(()) => return Ok(Locked(self)),
            }
        }
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}
