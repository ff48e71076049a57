//! An open file or directory of a model disk, and what the system calls do with it. Each answers as
//! the kernel does, with the kernel's errors.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use super::disk::Shared;
use super::fault::Kind;
use super::image::{Body, Change, Inode, Naming};
use crate::disk::handle::{Access, Locking, Status};

/// An open file or directory of a model disk.
pub(in crate::disk) struct Open {
    pub(super) shared: Arc<Shared>,
    pub(super) inode: Inode,
    pub(super) name: String,
    pub(super) access: Access,
    pub(super) cursor: Mutex<u64>,
    pub(super) id: u64,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of a model disk", self.name)
    }
}

impl Open {
    pub(in crate::disk) fn open_at(&self, name: &str, access: Access) -> io::Result<Self> {
        let mut inner = self.shared.begin(Kind::Open, name)?;
        let found = match inner.image.entry(self.inode, name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            found => found.ok(),
        };
        let mode = match (found, access) {
            (Some(_), Access::CreateNew(_)) => return Err(Errno::EXIST.into()),
            (Some(inode), Access::Directory) if !inner.image.is_dir(inode) => return Err(Errno::NOTDIR.into()),
            (Some(inode), Access::ReadWrite(_) | Access::Append(_)) if inner.image.is_dir(inode) => {
                return Err(Errno::ISDIR.into());
            }
            (Some(inode), _) => return Ok(self.shared.open(&mut inner, inode, name, access)),
            (None, Access::Read | Access::Directory) => return Err(Errno::NOENT.into()),
            (None, Access::CreateNew(mode) | Access::ReadWrite(mode) | Access::Append(mode)) => mode,
        };
        drop(inner);
        let mut inner = self.shared.begin(Kind::Create, name)?;
        let empty = || Arc::new(Vec::new());
        let body = Body::File { now: empty(), durable: empty(), pending: Vec::new() };
        let inode = inner.image.add(self.inode, name, mode, body)?;
        Ok(self.shared.open(&mut inner, inode, name, access))
    }

    pub(in crate::disk) fn make_dir(&self, name: &str, mode: u32) -> io::Result<()> {
        let mut inner = self.shared.begin(Kind::MakeDir, name)?;
        if inner.image.entry(self.inode, name).is_ok() {
            return Err(Errno::EXIST.into());
        }
        let body = Body::Dir { now: BTreeMap::new(), durable: BTreeMap::new() };
        inner.image.add(self.inode, name, mode, body).map(drop)
    }

    pub(in crate::disk) fn set_mode(&self, mode: u32) -> io::Result<()> {
        let mut inner = self.shared.lock();
        let node = inner.image.nodes.get_mut(&self.inode).ok_or(Errno::NOENT)?;
        Arc::make_mut(node).mode = mode;
        Ok(())
    }

    pub(in crate::disk) fn status(&self) -> io::Result<Status> {
        self.shared.lock().image.status(self.inode)
    }

    pub(in crate::disk) fn status_at(&self, name: &str) -> io::Result<Status> {
        let inner = self.shared.begin(Kind::Open, name)?;
        inner.image.status(inner.image.entry(self.inode, name)?)
    }

    pub(in crate::disk) fn names(&self) -> io::Result<Vec<OsString>> {
        let mut inner = self.shared.begin(Kind::List, &self.name)?;
        Ok(inner.image.entries(self.inode)?.keys().map(OsString::from).collect())
    }

    pub(in crate::disk) fn rename(&self, name: &str, to_dir: &Self, to: &str) -> io::Result<()> {
        let mut inner = self.shared.begin(Kind::Rename, to)?;
        let inode = inner.image.entry(self.inode, name)?;
        if let Ok(replaced) = inner.image.entry(to_dir.inode, to) {
            match (inner.image.is_dir(inode), inner.image.is_dir(replaced)) {
                (false, true) => return Err(Errno::ISDIR.into()),
                (true, false) => return Err(Errno::NOTDIR.into()),
                (true, true) if !inner.image.is_empty(replaced) => return Err(Errno::NOTEMPTY.into()),
                _ => {}
            }
        }
        if !inner.image.is_linked(to_dir.inode) {
            return Err(Errno::NOENT.into());
        }
        inner.image.entries(self.inode)?.remove(name);
        inner.image.entries(to_dir.inode)?.insert(to.to_owned(), inode);
        let (from, to) = ((self.inode, name.to_owned()), (to_dir.inode, to.to_owned()));
        inner.image.namings.push(Naming::Rename(from, to, inode));
        Ok(())
    }

    pub(in crate::disk) fn unlink(&self, name: &str, is_dir: bool) -> io::Result<()> {
        let mut inner = self.shared.begin(Kind::Unlink, name)?;
        let inode = inner.image.entry(self.inode, name)?;
        match (is_dir, inner.image.is_dir(inode)) {
            (true, false) => return Err(Errno::NOTDIR.into()),
            (false, true) => return Err(Errno::ISDIR.into()),
            (true, true) if !inner.image.is_empty(inode) => return Err(Errno::NOTEMPTY.into()),
            _ => {}
        }
        inner.image.entries(self.inode)?.remove(name);
        inner.image.namings.push(Naming::Unlink((self.inode, name.to_owned())));
        Ok(())
    }

    pub(in crate::disk) fn remove_all(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let dir = self.open_at(&name, Access::Directory)?;
        for below in dir.names()? {
            let below = below.to_string_lossy().into_owned();
            let is_dir = {
                let inner = self.shared.lock();
                inner.image.is_dir(inner.image.entry(dir.inode, &below)?)
            };
            if is_dir {
                dir.remove_all(Path::new(&below))?;
            } else {
                dir.unlink(&below, false)?;
            }
        }
        self.unlink(&name, true)
    }

    pub(in crate::disk) fn sync(&self) -> io::Result<()> {
        let is_dir = self.shared.lock().image.is_dir(self.inode);
        let begun = self.shared.begin(if is_dir { Kind::SyncDir } else { Kind::SyncFile }, &self.name);
        let failed = begun.as_ref().err().map(io::Error::raw_os_error);
        let mut inner = begun.or_else(|e| if is_dir { Err(e) } else { Ok(self.shared.lock()) })?;
        if is_dir {
            inner.image.sync_names(self.inode);
            return Ok(());
        }
        let failed_before =
            if failed.is_some() { !inner.unflushed.insert(self.inode) } else { inner.unflushed.contains(&self.inode) };
        if failed_before {
            inner.flushed_again = Some(self.name.clone());
        }
        inner.flush(self.inode, failed.is_some());
        match failed {
            Some(errno) => Err(io::Error::from_raw_os_error(errno.unwrap_or(5))),
            None => Ok(()),
        }
    }

    /// Everything that is waiting becomes durable. A failure does to each file what a failed flush of it
    /// does, and leaves the names waiting.
    pub(in crate::disk) fn sync_file_system(&self) -> io::Result<()> {
        let begun = self.shared.begin(Kind::SyncAll, &self.name);
        let (mut inner, failed) = match begun {
            Ok(inner) => (inner, None),
            Err(e) => (self.shared.lock(), Some(e)),
        };
        for inode in inner.image.unflushed() {
            if failed.is_some() {
                inner.unflushed.insert(inode);
            }
            inner.flush(inode, failed.is_some());
        }
        if let Some(failed) = failed {
            return Err(failed);
        }
        inner.image.sync_all_names();
        Ok(())
    }

    pub(in crate::disk) fn lock(&self, locking: Locking) -> io::Result<bool> {
        let mut inner = self.shared.lock();
        loop {
            let holders = inner.locks.entry(self.inode).or_default();
            let before = holders.len();
            // A lock is changed by letting the old one go first, as flock(2) does.
            holders.retain(|(id, _)| *id != self.id);
            if holders.len() != before {
                self.shared.unlocked.notify_all();
            }
            let exclusive = match locking {
                Locking::Unlock => return Ok(true),
                Locking::Shared | Locking::TryShared => false,
                Locking::Exclusive | Locking::TryExclusive => true,
            };
            if holders.iter().all(|(_, theirs)| !exclusive && !theirs) {
                holders.push((self.id, exclusive));
                return Ok(true);
            }
            if matches!(locking, Locking::TryExclusive | Locking::TryShared) {
                return Ok(false);
            }
            if inner.interrupting {
                return Err(Errno::DEADLK.into());
            }
            inner = self.shared.unlocked.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes at an offset, or where the file stands. A full disk takes a part, then refuses.
    pub(in crate::disk) fn write(&self, bytes: &[u8], offset: Option<u64>) -> io::Result<usize> {
        let begun = self.shared.begin(Kind::Write, &self.name);
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut inner, failed) = match begun {
            Ok(inner) => (inner, None),
            Err(e) => (self.shared.lock(), Some(e)),
        };
        let len = inner.image.status(self.inode)?.len;
        let at = match (offset, self.access) {
            (Some(offset), _) => offset,
            (None, Access::Append(_)) => len,
            (None, _) => *cursor,
        };
        if let Some(failed) = failed {
            // What was written before the failure stays: a part, or everything.
            let part = match inner.random.below(3) {
                0 => bytes.len(),
                _ => usize::try_from(inner.random.below(bytes.len() as u64 + 1)).unwrap_or(0),
            };
            if part > 0 {
                inner.image.change(self.inode, Change::Write(at, bytes[..part].to_vec()))?;
            }
            return Err(failed);
        }
        let grows = usize::try_from((at + bytes.len() as u64).saturating_sub(len)).unwrap_or(usize::MAX);
        let short = grows.saturating_sub(inner.room()).min(bytes.len());
        let fits = bytes.len() - short;
        if fits == 0 && !bytes.is_empty() {
            return Err(Errno::NOSPC.into());
        }
        inner.image.change(self.inode, Change::Write(at, bytes[..fits].to_vec()))?;
        *cursor = at + fits as u64;
        Ok(fits)
    }

    pub(in crate::disk) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let inner = self.shared.begin(Kind::Read, &self.name)?;
        let now = inner.image.bytes(self.inode)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(now.len());
        let count = buffer.len().min(now.len() - from);
        buffer[..count].copy_from_slice(&now[from..from + count]);
        Ok(count)
    }

    pub(in crate::disk) fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.shared.begin(Kind::SetLen, &self.name)?;
        inner.image.change(self.inode, Change::Len(len))
    }

    pub(in crate::disk) fn file_system(&self) -> u64 {
        self.shared.lock().file_system
    }

    pub(in crate::disk) fn boot_id(&self) -> String {
        format!("boot-{}", self.shared.lock().image.boot)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        if let Some(holders) = inner.locks.get_mut(&self.inode) {
            holders.retain(|(id, _)| *id != self.id);
            self.shared.unlocked.notify_all();
        }
    }
}
