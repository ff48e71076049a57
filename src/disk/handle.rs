//! The system calls, one each, without a word about them: `fs.rs` adds paths, messages and retries.
//!
//! This is the seam at which tests put a model disk (`model/`) in the place of the kernel.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

/// An open file or directory.
#[derive(Debug)]
pub(super) enum Handle {
    Kernel(OwnedFd),
    #[cfg(test)]
    Model(super::model::Open),
}

/// What to open, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Directory,
    Read,
    /// For reading and writing; it must not exist.
    CreateNew(u32),
    /// For reading and writing; it is made if it is missing.
    ReadWrite(u32),
    /// For appending; it is made if it is missing.
    Append(u32),
}

/// What `stat` says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Status {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) mode: u32,
    pub(super) len: u64,
    /// When it was last changed in any way: seconds and nanoseconds. Nobody can set it.
    pub(super) changed: (i64, u32),
}

/// What to do with a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Locking {
    Shared,
    Exclusive,
    TryShared,
    TryExclusive,
    Unlock,
}

impl Access {
    fn flags(self) -> (OFlags, Mode) {
        let (flags, mode) = match self {
            Self::Directory => (OFlags::RDONLY | OFlags::DIRECTORY, 0),
            Self::Read => (OFlags::RDONLY, 0),
            Self::CreateNew(mode) => (OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode),
            Self::ReadWrite(mode) => (OFlags::RDWR | OFlags::CREATE, mode),
            Self::Append(mode) => (OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND, mode),
        };
        // A pipe that somebody put in the place of a file is not waited for.
        (flags | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::from_raw_mode(mode))
    }
}

impl From<rustix::fs::Stat> for Status {
    #[allow(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        clippy::unnecessary_cast,
        reason = "the width and the sign differ between platforms"
    )]
    fn from(stat: rustix::fs::Stat) -> Self {
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            mode: stat.st_mode as u32 & 0o7777,
            len: stat.st_size as u64,
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as u32),
        }
    }
}

impl Handle {
    /// Opens a directory by path, following links.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        #[cfg(test)]
        if let Some(opened) = super::model::open(path) {
            return opened.map(Self::Model);
        }
        let (flags, mode) = Access::Directory.flags();
        Ok(Self::Kernel(rustix::fs::open(path, flags, mode)?))
    }

    /// Makes a directory and those above it that are missing.
    pub(super) fn make_all(path: &Path, mode: u32) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        #[cfg(test)]
        if let Some(made) = super::model::make_all(path, mode) {
            return made;
        }
        std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
    }

    /// Removes a directory with all that is in it, never through a link.
    #[expect(clippy::disallowed_methods, reason = "what is removed is out of use by now")]
    pub(super) fn remove_all(&self, path: &Path) -> io::Result<()> {
        match self {
            // The library resists a directory that is swapped for a link meanwhile.
            Self::Kernel(_) => std::fs::remove_dir_all(path),
            #[cfg(test)]
            Self::Model(open) => open.remove_all(path),
        }
    }

    /// Opens a name in this directory, never a link.
    pub(super) fn open_at(&self, name: &str, access: Access) -> io::Result<Self> {
        match self {
            Self::Kernel(fd) => {
                let (flags, mode) = access.flags();
                Ok(Self::Kernel(rustix::fs::openat(fd, name, flags | OFlags::NOFOLLOW, mode)?))
            }
            #[cfg(test)]
            Self::Model(open) => open.open_at(name, access).map(Self::Model),
        }
    }

    /// Opens a name in a directory of this one, for reading, through no link; `None` where that is not
    /// known to be one call.
    pub(super) fn open_below(&self, dir: &str, name: &str) -> io::Result<Option<Self>> {
        match self {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Self::Kernel(fd) => {
                use rustix::fs::ResolveFlags;
                let (flags, mode) = Access::Read.flags();
                let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                match rustix::fs::openat2(fd, format!("{dir}/{name}"), flags, mode, within) {
                    Ok(fd) => Ok(Some(Self::Kernel(fd))),
                    Err(rustix::io::Errno::NOENT) => Err(io::ErrorKind::NotFound.into()),
                    // Linux before 5.6, a filter that does not know the call, or what two calls tell better.
                    Err(_) => Ok(None),
                }
            }
            #[allow(unreachable_patterns, reason = "it depends on the platform")]
            _ => Ok(None),
        }
    }

    pub(super) fn make_dir(&self, name: &str, mode: u32) -> io::Result<()> {
        match self {
            Self::Kernel(fd) => Ok(rustix::fs::mkdirat(fd, name, Mode::from_raw_mode(mode))?),
            #[cfg(test)]
            Self::Model(open) => open.make_dir(name, mode),
        }
    }

    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        match self {
            Self::Kernel(fd) => Ok(rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?),
            #[cfg(test)]
            Self::Model(open) => open.set_mode(mode),
        }
    }

    /// Sets the mode of what has a name in this directory.
    pub(super) fn set_mode_at(&self, name: &str, mode: u32) -> io::Result<()> {
        match self {
            Self::Kernel(fd) => Ok(rustix::fs::chmodat(fd, name, Mode::from_raw_mode(mode), AtFlags::empty())?),
            #[cfg(test)]
            Self::Model(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The number of the descriptor, where the kernel has one.
    #[cfg_attr(not(test), expect(clippy::unnecessary_wraps, reason = "what the tests put in its place can fail"))]
    pub(super) fn descriptor(&self) -> Option<i32> {
        use std::os::fd::AsRawFd as _;
        match self {
            Self::Kernel(fd) => Some(fd.as_raw_fd()),
            #[cfg(test)]
            Self::Model(_) => None,
        }
    }

    pub(super) fn status(&self) -> io::Result<Status> {
        match self {
            Self::Kernel(fd) => Ok(rustix::fs::fstat(fd)?.into()),
            #[cfg(test)]
            Self::Model(open) => open.status(),
        }
    }

    /// What is behind a name, which may be a link.
    pub(super) fn status_at(&self, name: &str) -> io::Result<Status> {
        match self {
            Self::Kernel(fd) => Ok(rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)?.into()),
            #[cfg(test)]
            Self::Model(open) => open.status_at(name),
        }
    }

    /// The names in this directory but `.` and `..`, or the first `most` of them.
    pub(super) fn names(&self, most: usize) -> io::Result<Vec<OsString>> {
        use std::os::unix::ffi::OsStrExt as _;
        match self {
            Self::Kernel(fd) => {
                let mut names = Vec::new();
                for entry in rustix::fs::Dir::read_from(fd)? {
                    if names.len() == most {
                        break;
                    }
                    let entry = entry?;
                    let name = entry.file_name().to_bytes();
                    if name != b"." && name != b".." {
                        names.push(std::ffi::OsStr::from_bytes(name).to_owned());
                    }
                }
                Ok(names)
            }
            #[cfg(test)]
            Self::Model(open) => open.names().map(|names| names.into_iter().take(most).collect()),
        }
    }

    pub(super) fn rename(&self, name: &str, to_dir: &Self, to: &str) -> io::Result<()> {
        match (self, to_dir) {
            (Self::Kernel(fd), Self::Kernel(to_fd)) => Ok(rustix::fs::renameat(fd, name, to_fd, to)?),
            #[cfg(test)]
            (Self::Model(open), Self::Model(to_open)) => open.rename(name, to_open, to),
            #[cfg(test)]
            _ => Err(rustix::io::Errno::XDEV.into()),
        }
    }

    /// Removes a name: a file's, or that of an empty directory.
    pub(super) fn unlink(&self, name: &str, is_dir: bool) -> io::Result<()> {
        match self {
            Self::Kernel(fd) => {
                let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                Ok(rustix::fs::unlinkat(fd, name, flags)?)
            }
            #[cfg(test)]
            Self::Model(open) => open.unlink(name, is_dir),
        }
    }

    /// Makes the bytes durable, and everything about them, or what is needed to read them.
    pub(super) fn sync(&self, metadata: bool) -> io::Result<()> {
        match self {
            Self::Kernel(fd) if metadata => Ok(rustix::fs::fsync(fd)?),
            Self::Kernel(fd) => Ok(rustix::fs::fdatasync(fd)?),
            #[cfg(test)]
            Self::Model(open) => open.sync(),
        }
    }

    /// Makes everything on the file system durable; `false` where the kernel would not tell of a failure.
    pub(super) fn sync_file_system(&self) -> io::Result<bool> {
        match self {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Self::Kernel(fd) if super::host::tells_of_failed_flushes() => Ok(rustix::fs::syncfs(fd).map(|()| true)?),
            Self::Kernel(_) => Ok(false),
            #[cfg(test)]
            Self::Model(open) => open.sync_file_system().map(|()| true),
        }
    }

    /// Locks or unlocks; `false` when somebody else has it.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub(super) fn lock(&self, locking: Locking) -> io::Result<bool> {
        match self {
            Self::Kernel(fd) => {
                let operation = match locking {
                    Locking::Shared => FlockOperation::LockShared,
                    Locking::Exclusive => FlockOperation::LockExclusive,
                    Locking::TryShared => FlockOperation::NonBlockingLockShared,
                    Locking::TryExclusive => FlockOperation::NonBlockingLockExclusive,
                    Locking::Unlock => FlockOperation::Unlock,
                };
                match rustix::fs::flock(fd, operation) {
                    Ok(()) => Ok(true),
                    Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
                    Err(e) => Err(e.into()),
                }
            }
            #[cfg(test)]
            Self::Model(open) => open.lock(locking),
        }
    }

    /// Another descriptor of the same open file, with the same locks.
    pub(super) fn duplicate(&self) -> Option<Self> {
        match self {
            Self::Kernel(fd) => rustix::io::fcntl_dupfd_cloexec(fd, 0).ok().map(Self::Kernel),
            #[cfg(test)]
            Self::Model(_) => None,
        }
    }

    /// Writes some of the bytes where the file stands: at the end, if it was opened for appending.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Kernel(fd) => Ok(rustix::io::write(fd, bytes)?),
            #[cfg(test)]
            Self::Model(open) => open.write(bytes, None),
        }
    }

    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Kernel(fd) => Ok(rustix::io::pwrite(fd, bytes, offset)?),
            #[cfg(test)]
            Self::Model(open) => open.write(bytes, Some(offset)),
        }
    }

    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Kernel(fd) => Ok(rustix::io::pread(fd, buffer, offset)?),
            #[cfg(test)]
            Self::Model(open) => open.read_at(buffer, offset),
        }
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        match self {
            Self::Kernel(fd) => Ok(rustix::fs::ftruncate(fd, len)?),
            #[cfg(test)]
            Self::Model(open) => open.set_len(len),
        }
    }

    /// The magic number of the file system.
    pub(super) fn file_system(&self) -> io::Result<u64> {
        match self {
            Self::Kernel(fd) => {
                let stat = rustix::fs::fstatfs(fd)?;
                // The numbers have 32 bits.
                #[allow(
                    clippy::cast_sign_loss,
                    clippy::cast_lossless,
                    clippy::unnecessary_cast,
                    reason = "the width and the sign differ between platforms"
                )]
                Ok((stat.f_type as u64) & 0xFFFF_FFFF)
            }
            #[cfg(test)]
            Self::Model(open) => Ok(open.file_system()),
        }
    }

    /// What tells one run of the system from the next.
    pub(super) fn boot_id(&self) -> String {
        match self {
            Self::Kernel(_) => super::host::boot_id(),
            #[cfg(test)]
            Self::Model(open) => open.boot_id(),
        }
    }
}
