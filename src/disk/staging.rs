//! Rooms in which an instance is put together out of sight: `.fiefdom/imports/<uuid>/`.
//!
//! A room is locked for the life of whoever fills it. One that is not was left by a dead process,
//! and is removed by the next recovery.

use uuid::Uuid;

use super::fs::{Dir, Lock, Locked};
use super::layout;
use super::root::Root;
use crate::error::{Error, Result};

/// A room. It goes with all that is left in it when this is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) dir: Locked<Dir>,
    rooms: Dir,
    name: String,
}

impl Room {
    /// Makes a room. Nobody removes rooms between its making and its locking.
    pub(crate) fn create(root: &Root) -> Result<Self> {
        let _order = root.recovery_lock()?.lock(Lock::Shared)?;
        let rooms = root.internal.ensure_dir(layout::IMPORTS)?;
        let name = Uuid::new_v4().to_string();
        let dir = rooms.ensure_dir(&name)?;
        let Some(dir) = dir.try_lock()? else {
            return Err(Error::Root {
                path: rooms.path_of(&name),
                reason: "a new directory is locked; another program meddles with it".into(),
            });
        };
        Ok(Self { dir, rooms, name })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Err(error) = self.rooms.remove_tree(&self.name) {
            tracing::debug!(%error, "a room stays until the next recovery");
        }
    }
}

/// Removes what dead processes left. The caller holds `recovery.lock` exclusively. What cannot be
/// removed now is left for the next time.
pub(crate) fn remove_abandoned(root: &Root) {
    if let Err(error) = try_remove_abandoned(root) {
        tracing::debug!(%error, "what is left of an import stays for now");
    }
}

fn try_remove_abandoned(root: &Root) -> Result<()> {
    let Some(rooms) = root.internal.open_dir(layout::IMPORTS)? else { return Ok(()) };
    for name in rooms.names()? {
        if Uuid::parse_str(&name).is_ok()
            && let Some(dir) = rooms.open_dir(&name)?
            && let Some(_lock) = dir.try_lock()?
        {
            rooms.remove_tree(&name)?;
        }
    }
    Ok(())
}
