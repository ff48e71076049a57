//! The socket on which a writer hears what other processes ask of it. What is said on it is never
//! looked at here.
//!
//! The address of a Unix socket holds 108 bytes at most, and a root may lie deeper. So a socket is
//! named through the descriptor of its directory, which is short wherever that is.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::fs::{Dir, FILE_MODE};
use super::layout;
use super::root::Root;
use crate::error::{Error, Owner, Result};

/// Listens in the directory of a writer. The directory lets in its own user alone.
pub(crate) fn listen(writer: &Dir) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(address(writer)?)?;
    writer.set_mode_of(layout::CONTROL_SOCKET, FILE_MODE)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Where a writer listens, if it does. The path is good as long as this lives.
pub(crate) struct Address {
    _dir: Dir,
    pub(crate) path: PathBuf,
}

/// Where a writer listens; `None` when there is no such writer any more.
pub(crate) fn find(root: &Root, writer: &str) -> Result<Option<Address>> {
    let Some(dir) = root.writers.open_dir(writer)? else { return Ok(None) };
    let path = address(&dir).map_err(|e| Error::io("find the socket in", dir.path(), e))?;
    Ok(Some(Address { _dir: dir, path }))
}

/// The writers that may listen, the owner first, without `own`. At most `limit`.
pub(crate) fn candidates(root: &Root, own: &str, owner: Option<&Owner>, limit: usize) -> Vec<String> {
    let first = owner.map(|owner| owner.writer.to_string());
    let mut names = root.writers.names().unwrap_or_default();
    names.retain(|name| name != own && uuid::Uuid::parse_str(name).is_ok());
    names.sort_by_key(|name| Some(name) != first.as_ref());
    names.truncate(limit);
    names
}

/// A path of few bytes to the socket in a directory, good as long as the directory is open.
fn address(dir: &Dir) -> io::Result<PathBuf> {
    let descriptor = dir.descriptor().ok_or(io::ErrorKind::Unsupported)?;
    let short = PathBuf::from(format!("/proc/self/fd/{descriptor}"));
    Ok(if short.exists() { short.join(layout::CONTROL_SOCKET) } else { dir.path_of(layout::CONTROL_SOCKET) })
}
