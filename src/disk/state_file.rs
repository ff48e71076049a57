//! One JSON file outside of a store: where it really is, its lock, its bytes.
//!
//! The lock is a file beside it that is never removed nor replaced (whoever locks a file that is
//! renamed over has a lock on nothing). Readers take no lock: the file is replaced in one step.

use std::path::{Path, PathBuf};

use super::atomic::{self, Sync};
use super::fs::{Dir, File, Locked};
use super::{layout, root};
use crate::error::{Error, Result};

/// Most links that are followed to a file: what Linux allows.
const LINKS: usize = 40;

/// Where a file is, after all links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) name: String,
}

impl Place {
    /// Follows the links at the end of a path: a file that somebody keeps elsewhere and links to is
    /// replaced where it is, and the link stays. The file need not exist.
    pub(crate) fn find(path: &Path) -> Result<Self> {
        let mut at = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
        for _ in 0..LINKS {
            match std::fs::symlink_metadata(&at) {
                Ok(found) if found.is_symlink() => {
                    let target = std::fs::read_link(&at).map_err(|e| Error::io("read the link", &at, e))?;
                    // Relative to the link; an absolute one takes its place.
                    at = at.parent().unwrap_or(Path::new("/")).join(target);
                }
                Ok(found) if !found.is_file() => {
                    let reason =
                        format!("{} is no regular file; name one, or a path that does not exist", at.display());
                    return Err(Error::InvalidInput { what: "path of a state file", reason });
                }
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("look at", &at, e)),
                // A file, or nothing yet.
                _ => return Self::split(&at),
            }
        }
        let reason =
            format!("{} has more than {LINKS} links behind it; name the file that they lead to", path.display());
        Err(Error::InvalidInput { what: "path of a state file", reason })
    }

    fn split(path: &Path) -> Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str());
        match (path.parent(), name) {
            (Some(dir), Some(name)) if layout::temporary(name).len() < 255 => {
                Ok(Self { dir: dir.to_owned(), name: name.to_owned() })
            }
            _ => {
                let reason =
                    format!("{} ends in no file name of UTF-8, of 1 to 248 bytes; choose another", path.display());
                Err(Error::InvalidInput { what: "path of a state file", reason })
            }
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// Opens the directory, if there is one.
    pub(crate) fn open(&self) -> Result<Option<Dir>> {
        match Dir::open(&self.dir) {
            Ok(dir) => Ok(Some(dir)),
            Err(e) if e.io_kind() == Some(std::io::ErrorKind::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens the directory, making it, and what is missing above it, durably.
    pub(crate) fn open_or_make(&self) -> Result<Dir> {
        if let Some(dir) = self.open()? {
            return Ok(dir);
        }
        Dir::make_all(&self.dir)?;
        let dir = Dir::open(&self.dir)?;
        root::sync_above(&dir)?;
        Ok(dir)
    }
}

/// The bytes of a file; `None` when there is none.
pub(crate) fn read(dir: &Dir, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    dir.open_file(name)?.map(|file| file.read_all(limit)).transpose()
}

/// The right to replace a file, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) dir: Dir,
    name: String,
    _lock: Locked<File>,
}

impl Turn {
    /// Takes the lock, if nobody has it.
    pub(crate) fn try_take(dir: Dir, name: &str) -> Result<Option<Self>> {
        let beside = layout::lock_beside(name);
        let Some(lock) = dir.open_or_create_file(&beside)?.try_lock()? else { return Ok(None) };
        // Somebody may have removed it between the opening and the locking: then this locks nothing.
        let named = dir.stat(&beside)?;
        let own = lock.stat()?;
        let is_named = named.is_some_and(|named| named.identity == own.identity);
        Ok(is_named.then(|| Self { dir, name: name.to_owned(), _lock: lock }))
    }

    pub(crate) fn read(&self, limit: u64) -> Result<Option<Vec<u8>>> {
        read(&self.dir, &self.name, limit)
    }

    /// Gives the file this content, durably.
    pub(crate) fn replace(&self, bytes: &[u8]) -> Result<()> {
        atomic::replace(&self.dir, &self.name, bytes, Sync::Yes)
    }
}
