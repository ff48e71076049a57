//! What is left of deleted instances, and for how long.
//!
//! A deleted instance is a directory in the trash, named by its id and uid. It stays, empty, while
//! the log of another living process may hold commits of it: after a power cut recovery would take
//! them for an instance whose directory never reached the disk, and bring it back.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::disk::atomic::{self, Sync};
use crate::disk::root::Root;
use crate::disk::{layout, lock};
use crate::error::Result;
use crate::mutants::{Protection, without};
use crate::record::InstanceId;

/// Largest note of who may hold commits, in bytes.
const HOLDERS_BYTES: u64 = 4 << 20;

/// Writers, each with its last segment that may hold commits of the deleted instance.
type Holders = BTreeMap<Uuid, u64>;

/// Whether this life of an instance is known to be over.
pub(super) fn holds(root: &Root, id: &InstanceId, uid: Uuid) -> Result<bool> {
    Ok(root.trash.stat(&layout::trashed(id, uid))?.is_some())
}

/// Removes what can go. `own` is the writer that asks, if it is one. What cannot be removed now is
/// left for the next time.
pub(crate) fn empty(root: &Root, own: Option<Uuid>) {
    let names = root.trash.names().unwrap_or_default();
    for name in names {
        if let Err(error) = clear(root, own, &name) {
            tracing::debug!(name, %error, "a deleted instance stays in the trash for now");
        }
    }
}

/// Whether its name has to stay, because another process's log may hold commits of it.
pub(crate) fn is_needed(root: &Root, name: &str) -> Result<bool> {
    let Some(dir) = root.trash.open_dir(name)? else { return Ok(false) };
    let Some(file) = dir.open_file(layout::HOLDERS)? else { return Ok(false) };
    let noted: Holders = serde_json::from_slice(&file.read_all(HOLDERS_BYTES)?).unwrap_or_default();
    Ok(!still_holding(root, &noted)?.is_empty())
}

/// Removes one deleted instance: its files, and its name as soon as nobody needs it any more.
pub(crate) fn clear(root: &Root, own: Option<Uuid>, name: &str) -> Result<()> {
    let Some(dir) = root.trash.open_dir(name)? else { return Ok(()) };
    let noted = match dir.open_file(layout::HOLDERS)? {
        // Unreadable after a power cut, say: it is made again, later than it was, which is safe.
        Some(file) => serde_json::from_slice::<Holders>(&file.read_all(HOLDERS_BYTES)?).ok(),
        None => None,
    };
    let holders = match &noted {
        Some(noted) => still_holding(root, noted)?,
        None => holders(root, own)?,
    };
    if holders.is_empty() || without(Protection::Tombstones) {
        return root.trash.remove_tree(name);
    }
    for below in dir.names()?.iter().filter(|below| *below != layout::HOLDERS) {
        // A file is not a directory, and the other way round: one of the two removes it.
        dir.remove_file(below).or_else(|_| dir.remove_tree(below).map(|()| true))?;
    }
    if noted.is_none() {
        let text = serde_json::to_vec(&holders).map_err(|e| crate::record::json::unserializable("writers", &e))?;
        atomic::replace(&dir, layout::HOLDERS, &text, Sync::No)?;
    }
    Ok(())
}

/// Everybody else who has a log.
fn holders(root: &Root, own: Option<Uuid>) -> Result<Holders> {
    let mut holders = Holders::new();
    for writer in root.writers.names()?.iter().filter_map(|name| Uuid::parse_str(name).ok()) {
        if Some(writer) != own
            && let Some(dir) = root.writers.open_dir(&writer.to_string())?
            && let Some(newest) = lock::segments(&dir)?.last()
        {
            holders.insert(writer, *newest);
        }
    }
    Ok(holders)
}

/// Those that have not replaced all of those segments by files yet.
fn still_holding(root: &Root, noted: &Holders) -> Result<Holders> {
    let mut holders = Holders::new();
    for (writer, newest) in noted {
        if let Some(dir) = root.writers.open_dir(&writer.to_string())?
            && lock::segments(&dir)?.first().is_some_and(|oldest| oldest <= newest)
        {
            holders.insert(*writer, *newest);
        }
    }
    Ok(holders)
}
