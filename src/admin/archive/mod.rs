//! An instance as one `.tar.gz` file, and back. An export takes no lock; an import never writes beside
//! what it makes; neither knows a store or a kind.
//!
//! ```text
//! export.json            what it is: written first, checked first
//! instance/              the tree of the instance, but what can be made again
//!   instance.json
//!   events/ workspace/ ...
//! ```

mod check;
mod export;
mod import;
mod unpack;

use std::io;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::Error;
use crate::record::{InstanceId, Record};

pub(crate) use export::{to_file, write};
pub(crate) use import::{Importer, read};

/// The version of the archive that this program writes, and the newest that it reads.
const FORMAT: u64 = 1;

/// Longest path in an archive, and longest name in a path, in bytes.
const PATH_BYTES: usize = 4096;
const NAME_BYTES: usize = 255;

/// Most directories in one another.
const DEPTH: usize = 64;

/// `export.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Manifest {
    format: u64,
    instance_id: InstanceId,
    uid: Uuid,
    kind: String,
    revision: u64,
    epoch: u64,
    last_event_seq: u64,
    exported_at: DateTime<Utc>,
    exported_by: String,
}

/// What an export wrote.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Exported {
    /// The instance.
    pub instance_id: InstanceId,
    /// The revision whose state and events are in it.
    pub revision: u64,
    /// `seq` of the last event in it.
    pub last_event_seq: u64,
    /// Files, directories and links of the instance in it.
    pub entries: u64,
    /// Bytes of the files, before compression.
    pub bytes: u64,
    /// What is not in it as it is on the disk, with the reason: the first 1000.
    pub left_out: Vec<LeftOut>,
    /// How many that are, with those that are not listed.
    pub left_out_total: u64,
}

/// Something that an export left out, or could not copy as it was.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LeftOut {
    /// Its path, below the directory of the instance.
    pub path: String,
    /// Why.
    pub reason: &'static str,
}

/// What an import may do. The default takes the id that the archive says.
///
/// ```
/// use fiefdom::ImportOptions;
///
/// let mut options = ImportOptions::with_id("build-42-copy".parse()?);
/// options.max_bytes = 1 << 30; // from a stranger: 1 GiB at most
/// # Ok::<(), fiefdom::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImportOptions {
    /// The id of the new instance. Default: that of the exported one.
    pub id: Option<InstanceId>,
    /// Most bytes in the archive, unpacked. Counted while it is unpacked. Default: 64 GiB.
    pub max_bytes: u64,
    /// Most entries in the archive. Default: 1 000 000.
    pub max_entries: u64,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { id: None, max_bytes: 64 << 30, max_entries: 1_000_000 }
    }
}

impl ImportOptions {
    /// Imports under this id, with the default limits.
    #[must_use]
    pub fn with_id(id: InstanceId) -> Self {
        Self { id: Some(id), ..Self::default() }
    }
}

/// What an import made.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Imported {
    /// The new instance.
    pub instance_id: InstanceId,
    /// Its uid: a new one.
    pub uid: Uuid,
    /// Its revision: one more than the exported one had.
    pub revision: u64,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where an imported instance comes from, as its record says in the field `origin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Origin {
    /// The id that it had.
    pub instance_id: InstanceId,
    /// The uid that it had.
    pub uid: Uuid,
    /// The revision that was exported.
    pub revision: u64,
    /// When it was exported (UTC).
    pub exported_at: DateTime<Utc>,
    /// When it was imported (UTC).
    pub imported_at: DateTime<Utc>,
}

/// The field of the record. The record keeps it like every field that it does not know.
const ORIGIN: &str = "origin";

impl<S> Record<S> {
    /// Where the instance comes from, if it was imported.
    ///
    /// ```
    /// use std::io::Cursor;
    /// use fiefdom::ImportOptions;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let (archive, _) = store.export(build.id(), Vec::new()).await?;
    /// let options = ImportOptions::with_id("copy".parse()?);
    /// let imported = store.import(Cursor::new(archive), options).await?;
    ///
    /// let record = store.get(&imported.instance_id).await?.record().await?;
    /// assert_eq!(record.origin().expect("it was imported").instance_id, *build.id());
    /// assert!(build.record().await?.origin().is_none());
    /// # store.shutdown().await }
    /// ```
    #[must_use]
    pub fn origin(&self) -> Option<Origin> {
        serde_json::from_str(self.unknown.get(ORIGIN)?.get()).ok()
    }
}

/// Whether a link leads to a place in the instance, whatever other such links there are. `depth` is the
/// number of directories between the instance and the link.
///
/// `..` is allowed at the beginning alone. What follows then begins in a real directory of the
/// instance, and every link on the way stays inside for the same reason. Behind a name, `..` would
/// climb from wherever a link of that name leads.
fn stays_inside(target: &str, depth: usize) -> bool {
    if target.is_empty() || target.starts_with('/') || target.len() > PATH_BYTES {
        return false;
    }
    let (mut up, mut named) = (0, false);
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if named || up == depth => return false,
            ".." => up += 1,
            _ => named = true,
        }
    }
    true
}

/// An archive that is not imported, and why.
fn refuse(reason: impl std::fmt::Display) -> Error {
    let reason = reason.to_string();
    let next = if reason.contains(';') { "" } else { "; export the instance again" };
    Error::InvalidInput { what: "archive", reason: format!("nothing was imported: {reason}{next}") }
}

/// An error while an archive is read: most say that it is none.
fn unreadable(error: io::Error) -> Error {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    let kind = error.kind();
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) if kind == UnexpectedEof => refuse(format_args!("it ends too early: {error}")),
        Err(error) if matches!(kind, InvalidData | InvalidInput | Other) => {
            refuse(format_args!("it cannot be read as a .tar.gz file: {error}"))
        }
        Err(error) => Error::io("read", Path::new("the archive"), error),
    }
}

/// An error while an archive is written.
fn unwritable(error: io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| Error::io("write", Path::new("the archive"), error))
}

#[cfg(test)]
mod tests {
    use super::stays_inside;

    #[test]
    fn a_link_may_climb_as_far_as_it_is_deep_and_at_its_beginning_only() {
        for (target, depth) in [("x", 0), ("a/b", 0), ("./a//b/", 0), ("../x", 1), ("../../x", 2), ("..", 1), (".", 0)]
        {
            assert!(stays_inside(target, depth), "{target} at {depth}");
        }
        for (target, depth) in [
            ("", 0),
            ("/", 0),
            ("/etc/passwd", 3),
            ("..", 0),
            ("../x", 0),
            ("../../x", 1),
            ("a/../b", 3),
            ("../a/..", 9),
        ] {
            assert!(!stays_inside(target, depth), "{target} at {depth}");
        }
    }
}
