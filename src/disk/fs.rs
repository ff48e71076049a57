//! Files and directories, relative to open directories.
//!
//! A path is resolved once, when the root is opened. From then on everything is opened relative to
//! a directory descriptor, one name at a time, without following symbolic links: a directory that
//! is removed, swapped or turned into a link behind our back is noticed, not written into.
//! Descriptors are close-on-exec. The system calls themselves are in `handle.rs`.

mod file;

use std::ffi::OsStr;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::handle::{Access, Handle, Locking, Status};
use crate::error::{Error, Result};

pub(crate) use file::File;

/// Mode of new directories.
pub(crate) const DIR_MODE: u32 = 0o700;
/// Mode of new files.
pub(crate) const FILE_MODE: u32 = 0o600;

/// File systems on which one call flushes everything, and tells of every failure: btrfs, ext4, F2FS, tmpfs
/// and XFS.
const FLUSHED_WHOLE: [u64; 5] = [0x9123_683E, 0xEF53, 0xF2F5_2010, 0x0102_1994, 0x5846_5342];

/// An open directory, with its path for messages.
#[derive(Debug)]
pub(crate) struct Dir {
    handle: Handle,
    path: PathBuf,
}

/// What identifies a file however it is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(super) device: u64,
    pub(crate) inode: u64,
}

/// What is behind a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    pub(crate) identity: Identity,
    pub(crate) mode: u32,
    pub(crate) len: u64,
    /// When it was last changed in any way: seconds and nanoseconds. Nobody can set it.
    pub(crate) changed: (i64, u32),
}

/// How to lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    Shared,
    Exclusive,
}

impl Dir {
    /// Opens a directory by path, following links: only for the root itself, and what is above it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let handle = Handle::open(path).map_err(|e| Error::io("open the directory", path, e))?;
        Ok(Self { handle, path: path.to_owned() })
    }

    /// Makes a directory by path, and those above it that are missing.
    pub(crate) fn make_all(path: &Path) -> Result<()> {
        Handle::make_all(path, DIR_MODE).map_err(|e| Error::io("make the directory", path, e))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(crate) fn path_of(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path.join(name.as_ref())
    }

    fn open_at(&self, name: &str, access: Access, action: &'static str) -> Result<Handle> {
        self.handle.open_at(name, access).map_err(|e| Error::io(action, &self.path_of(name), e))
    }

    /// Opens a directory below this one; `None` when there is none.
    pub(crate) fn open_dir(&self, name: &str) -> Result<Option<Self>> {
        let handle = absent(self.open_at(name, Access::Directory, "open the directory"))?;
        Ok(handle.map(|handle| Self { handle, path: self.path_of(name) }))
    }

    /// Makes a directory; `false` when there is one already.
    pub(crate) fn create_dir(&self, name: &str) -> Result<bool> {
        match self.handle.make_dir(name, DIR_MODE) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(Error::io("make the directory", &self.path_of(name), e)),
        }
    }

    /// Opens a directory below this one, making it if it is missing.
    pub(crate) fn ensure_dir(&self, name: &str) -> Result<Self> {
        if let Some(dir) = self.open_dir(name)? {
            return Ok(dir);
        }
        self.create_dir(name)?;
        let handle = self.open_at(name, Access::Directory, "open the directory")?;
        Ok(Self { handle, path: self.path_of(name) })
    }

    fn file(&self, name: &str, handle: Handle) -> File {
        File { handle, path: self.path_of(name) }
    }

    /// Makes a file that must not exist yet, with exactly this mode from its first byte on.
    pub(crate) fn create_file(&self, name: &str, mode: u32) -> Result<File> {
        let handle = self.open_at(name, Access::CreateNew(mode), "make the file")?;
        handle.set_mode(mode).map_err(|e| Error::io("set the mode of", &self.path_of(name), e))?;
        Ok(self.file(name, handle))
    }

    /// Opens a file for reading; `None` when there is none.
    pub(crate) fn open_file(&self, name: &str) -> Result<Option<File>> {
        Ok(absent(self.open_at(name, Access::Read, "open"))?.map(|handle| self.file(name, handle)))
    }

    /// Opens a file of a directory below this one for reading; `None` when there is none.
    pub(crate) fn open_file_in(&self, dir: &str, name: &str) -> Result<Option<File>> {
        match self.handle.open_below(dir, name) {
            Ok(Some(handle)) => Ok(Some(File { handle, path: self.path_of(dir).join(name) })),
            Err(_) => Ok(None),
            Ok(None) => self.open_dir(dir)?.map_or(Ok(None), |dir| dir.open_file(name)),
        }
    }

    /// Opens a file for reading and writing, making it if it is missing.
    pub(crate) fn open_or_create_file(&self, name: &str) -> Result<File> {
        Ok(self.file(name, self.open_at(name, Access::ReadWrite(FILE_MODE), "open")?))
    }

    /// Opens a file for appending, making it if it is missing.
    pub(crate) fn open_append(&self, name: &str) -> Result<File> {
        Ok(self.file(name, self.open_at(name, Access::Append(FILE_MODE), "open")?))
    }

    /// What is behind a name, without following a link; `None` when there is nothing.
    pub(crate) fn stat(&self, name: &str) -> Result<Option<Stat>> {
        match self.handle.status_at(name) {
            Ok(status) => Ok(Some(status.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("look at", &self.path_of(name), e)),
        }
    }

    /// What this directory is.
    pub(crate) fn own_stat(&self) -> Result<Stat> {
        self.handle.status().map(Stat::from).map_err(|e| Error::io("look at", &self.path, e))
    }

    /// Sets the mode of what has a name in this directory.
    pub(super) fn set_mode_of(&self, name: &str, mode: u32) -> io::Result<()> {
        self.handle.set_mode_at(name, mode)
    }

    /// The number of its descriptor, where the kernel has one.
    pub(super) fn descriptor(&self) -> Option<i32> {
        self.handle.descriptor()
    }

    /// The names in this directory that are UTF-8 (all of ours are), in no order.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let names = self.handle.names(usize::MAX).map_err(|e| Error::io("list", &self.path, e))?;
        Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }

    /// Whether there are at least so many names in this directory; no more are read.
    pub(crate) fn has_names(&self, many: usize) -> Result<bool> {
        self.handle.names(many).map(|names| names.len() >= many).map_err(|e| Error::io("list", &self.path, e))
    }

    /// Gives `name` the place of `to` in one step, replacing what is there.
    pub(crate) fn rename(&self, name: &str, to_dir: &Self, to: &str) -> Result<()> {
        let renamed = self.handle.rename(name, &to_dir.handle, to);
        renamed.map_err(|e| Error::io("rename to", &to_dir.path_of(to), e))
    }

    /// Removes a file; `false` when there was none.
    pub(crate) fn remove_file(&self, name: &str) -> Result<bool> {
        self.unlink(name, false)
    }

    /// Removes an empty directory; `false` when there was none.
    pub(crate) fn remove_dir(&self, name: &str) -> Result<bool> {
        self.unlink(name, true)
    }

    fn unlink(&self, name: &str, is_dir: bool) -> Result<bool> {
        match self.handle.unlink(name, is_dir) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io("remove", &self.path_of(name), e)),
        }
    }

    /// Removes a directory with all that is in it, never through a link.
    pub(crate) fn remove_tree(&self, name: &str) -> Result<()> {
        let path = self.path_of(name);
        match self.handle.remove_all(&path) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io("remove", &path, e)),
        }
    }

    /// Makes the names in this directory durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.handle.sync(true).map_err(|e| Error::io("fsync the directory", &self.path, e))
    }

    /// Makes everything durable that anybody has written on this file system, bytes and names; `false`
    /// when that is not known to be done: then each file has to be flushed on its own.
    pub(crate) fn sync_file_system(&self) -> bool {
        self.try_sync_file_system().unwrap_or(false)
    }

    /// The same, for whoever must know whether a flush has failed: `false` when there was none.
    pub(crate) fn try_sync_file_system(&self) -> Result<bool> {
        let known = self.file_system().is_ok_and(|magic| FLUSHED_WHOLE.contains(&magic));
        let flushed = if known { self.handle.sync_file_system() } else { Ok(false) };
        flushed.map_err(|error| {
            tracing::warn!(path = %self.path.display(), %error, "the file system could not be flushed as a whole");
            Error::io("flush the file system of", &self.path, error)
        })
    }

    /// Waits for the lock of this directory, and has it until the answer is dropped. The lock belongs
    /// to the open directory: of the threads that share it the caller lets one at a time ask.
    pub(crate) fn hold(&self) -> Result<Held<'_>> {
        loop {
            match self.handle.lock(Locking::Exclusive) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("lock", &self.path, e)),
                Ok(_) => return Ok(Held(self)),
            }
        }
    }

    /// Tries to lock this directory; `None` when somebody else has it locked.
    pub(crate) fn try_lock(self) -> Result<Option<Locked<Self>>> {
        match self.handle.lock(Locking::TryExclusive) {
            Ok(locked) => Ok(locked.then(|| Locked::new(self))),
            Err(e) => Err(Error::io("lock", &self.path, e)),
        }
    }

    /// The magic number of the file system that it is on.
    pub(super) fn file_system(&self) -> Result<u64> {
        self.handle.file_system().map_err(|e| Error::io("look at", &self.path, e))
    }

    /// What tells this run of the system from the next. Empty where it is not known.
    pub(super) fn boot_id(&self) -> String {
        self.handle.boot_id()
    }
}

impl From<Status> for Stat {
    fn from(status: Status) -> Self {
        Self {
            identity: Identity { device: status.device, inode: status.inode },
            mode: status.mode,
            len: status.len,
            changed: status.changed,
        }
    }
}

fn absent(opened: Result<Handle>) -> Result<Option<Handle>> {
    match opened {
        Ok(handle) => Ok(Some(handle)),
        Err(e) if e.io_kind() == Some(io::ErrorKind::NotFound) => Ok(None),
        Err(e) => Err(e),
    }
}

/// What can be locked.
pub(crate) trait Lockable {
    fn unlock(&self);

    /// The same open file once more, which has the same lock.
    fn duplicate(&self) -> Option<Self>
    where
        Self: Sized;
}

impl Lockable for Dir {
    fn unlock(&self) {
        // This cannot fail for a valid descriptor on a local file system; closing it unlocks too.
        let _ = self.handle.lock(Locking::Unlock);
    }

    fn duplicate(&self) -> Option<Self> {
        Some(Self { handle: self.handle.duplicate()?, path: self.path.clone() })
    }
}

/// The lock of a directory that stays open.
pub(crate) struct Held<'a>(&'a Dir);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.unlock();
    }
}

/// A file or directory that is locked, until this is dropped.
///
/// It is unlocked, not just closed: a child process that was forked in the meantime has a copy of
/// the descriptor until it executes its program, and would hold the lock a moment longer.
#[derive(Debug)]
pub(crate) struct Locked<T: Lockable>(T, AtomicBool);

impl<T: Lockable> Locked<T> {
    fn new(file: T) -> Self {
        Self(file, AtomicBool::new(false))
    }

    /// Lets the lock go while the file stays open.
    pub(crate) fn unlock(&self) {
        self.0.unlock();
    }

    /// Hands the lock over; `None` when that cannot be done.
    pub(crate) fn hand_over(&self) -> Option<Self> {
        let heir = self.0.duplicate()?;
        self.1.store(true, Ordering::Relaxed);
        Some(Self::new(heir))
    }
}

impl<T: Lockable> Drop for Locked<T> {
    fn drop(&mut self) {
        if !self.1.load(Ordering::Relaxed) {
            self.unlock();
        }
    }
}

impl<T: Lockable> Deref for Locked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
