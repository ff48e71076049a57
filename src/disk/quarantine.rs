//! Keeping the bytes of what cannot be used, with the reason. Nothing is moved or removed: the
//! original stays where it is.

use serde::Serialize;

use super::atomic::{self, Sync};
use super::fs::Dir;
use super::root::Root;
use crate::error::{Error, Result};
use crate::metrics;

/// What stands beside kept bytes.
#[derive(Serialize)]
struct Note<'a> {
    at: chrono::DateTime<chrono::Utc>,
    file: String,
    offset: Option<u64>,
    reason: &'a str,
}

/// Copies `bytes`, the content of `dir/name`, into the quarantine under the name `owner`, with the
/// reason beside it. The original stays where it is. The same bytes are kept once.
pub(crate) fn keep(
    root: &Root,
    owner: &str,
    dir: &Dir,
    name: &str,
    bytes: &[u8],
    offset: Option<u64>,
    reason: &str,
) -> Result<()> {
    let kept = format!("{owner}.{name}.{:08x}", crc32fast::hash(bytes));
    if root.quarantine.stat(&kept)?.is_some() {
        return Ok(());
    }
    let file = dir.path_of(name).display().to_string();
    let note = Note { at: chrono::Utc::now(), file, offset, reason };
    let text = serde_json::to_vec_pretty(&note).map_err(|e| crate::record::json::unserializable("reason", &e))?;
    atomic::replace(&root.quarantine, &format!("{kept}.reason.json"), &text, Sync::Yes)?;
    atomic::replace(&root.quarantine, &kept, bytes, Sync::Yes)?;
    metrics::QUARANTINED.add(1);
    tracing::warn!(file = %dir.path_of(name).display(), kept, reason, "damaged bytes were copied to the quarantine");
    Ok(())
}

/// [`keep`], and the error to answer with. The damage is what matters to the caller: that a copy of
/// it could not be made is logged, and the original is untouched in any case.
pub(crate) fn corrupt(
    root: &Root,
    owner: &str,
    dir: &Dir,
    name: &str,
    bytes: &[u8],
    offset: Option<u64>,
    reason: &str,
) -> Error {
    if let Err(error) = keep(root, owner, dir, name, bytes, offset, reason) {
        tracing::error!(%error, "no copy of the damaged bytes could be made");
    }
    Error::corrupt(&dir.path_of(name), offset, reason)
}
