//! The socket on which a writer hears what other processes ask of it.
//!
//! The address of a Unix socket holds 108 bytes at most, and a root may lie deeper. So a socket is
//! named through the descriptor of its directory, which is short wherever that is.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use super::fs::{Dir, FILE_MODE};
use super::layout;
use super::root::Root;
use crate::error::Owner;

/// Listens in the directory of a writer. The directory lets in its own user alone.
pub(crate) fn listen(writer: &Dir) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(address(writer)?)?;
    writer.set_mode_of(layout::CONTROL_SOCKET, FILE_MODE)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A connection to a writer; `None` when nobody listens there.
pub(crate) fn connect(root: &Root, writer: &str) -> io::Result<Option<UnixStream>> {
    let other = |error: crate::error::Error| io::Error::other(error.to_string());
    let Some(dir) = root.writers.open_dir(writer).map_err(other)? else { return Ok(None) };
    match UnixStream::connect(address(&dir)?) {
        Ok(stream) => {
            stream.set_nonblocking(true)?;
            Ok(Some(stream))
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(e) => Err(e),
    }
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
