//! The directories that make a root, opened once. What is in an instance is not its concern.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::alarms::AlarmIndex;
use super::atomic::{self, Sync};
use super::fs::{Dir, File, Lock};
use super::layout;
use super::listing::Door;
use crate::error::{Error, Result};

/// The version of the layout that this program writes, and the newest that it uses.
const FORMAT: u64 = 1;

/// Largest `format.json`, in bytes.
const FORMAT_BYTES: u64 = 64 * 1024;

/// File systems where `flock` or `fsync` do not mean what they mean on a local disk, by the magic
/// number that `statfs(2)` lists for them.
const NETWORK_FILE_SYSTEMS: [(u64, &str); 8] = [
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFE53_4D42, "SMB2"),
    (0xFF53_4D42, "CIFS"),
    (0x0102_1997, "9p"),
    (0x5346_414F, "AFS"),
    (0x00C3_6400, "Ceph"),
    (0x7375_7245, "Coda"),
];

/// An open root.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) top: Dir,
    pub(crate) instances: Dir,
    pub(crate) internal: Dir,
    pub(crate) writers: Dir,
    pub(crate) trash: Dir,
    pub(crate) quarantine: Dir,
    pub(crate) alarms: AlarmIndex,
    /// Every change of `instances/` goes through it.
    pub(crate) door: Door,
    /// Why the names in `instances/` cannot be made durable any more, if so. Locked while they are flushed.
    names_failed: Mutex<Option<Arc<Error>>>,
    /// What tells this run of the system from the next: after a reboot it is another. Empty where
    /// the system does not say.
    pub(crate) boot_id: String,
}

/// `format.json`.
#[derive(Serialize)]
struct Marker {
    format: u64,
    created_by: String,
    created_at: chrono::DateTime<chrono::Utc>,
}

impl Root {
    /// Opens the root at `path`, making what is missing.
    ///
    /// `format.json` is written last: a root without it is one whose creation was cut short, and is
    /// completed.
    pub(crate) fn open_or_create(path: &Path, allow_network: bool) -> Result<Self> {
        if std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file()) {
            return Err(Error::Root {
                path: path.to_owned(),
                reason: "it is a file; name a directory, or a path that does not exist yet".into(),
            });
        }
        Dir::make_all(path)?;
        let top = Dir::open(path)?;
        if !allow_network {
            refuse_network(&top)?;
        }
        let internal = top.ensure_dir(layout::INTERNAL)?;
        let complete = check_format(&internal)?;
        let root = Self {
            instances: top.ensure_dir(layout::INSTANCES)?,
            writers: internal.ensure_dir(layout::WRITERS)?,
            trash: internal.ensure_dir(layout::TRASH)?,
            quarantine: internal.ensure_dir(layout::QUARANTINE)?,
            alarms: AlarmIndex::default(),
            door: Door::default(),
            names_failed: Mutex::default(),
            boot_id: top.boot_id(),
            top,
            internal,
        };
        if !complete {
            root.complete()?;
        }
        Ok(root)
    }

    /// Opens a root to read it; `None` when there is none.
    pub(crate) fn open_existing(path: &Path) -> Result<Option<Self>> {
        if std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file()) {
            return Err(Error::Root {
                path: path.to_owned(),
                reason: "it is a file; name the directory that holds the store".into(),
            });
        }
        let top = match Dir::open(path) {
            Ok(top) => top,
            Err(e) if e.io_kind() == Some(io::ErrorKind::NotFound) => return Ok(None),
            Err(e) => return Err(e),
        };
        let Some(internal) = top.open_dir(layout::INTERNAL)? else { return Ok(None) };
        if !check_format(&internal)? {
            return Ok(None);
        }
        let missing = |name: &str| Error::Root {
            path: path.to_owned(),
            reason: format!("{name} is missing in it; open it once with a program that writes, which makes it again"),
        };
        let below = |dir: &Dir, name: &str| dir.open_dir(name)?.ok_or_else(|| missing(name));
        Ok(Some(Self {
            instances: below(&top, layout::INSTANCES)?,
            writers: below(&internal, layout::WRITERS)?,
            trash: below(&internal, layout::TRASH)?,
            quarantine: below(&internal, layout::QUARANTINE)?,
            alarms: AlarmIndex::default(),
            door: Door::default(),
            names_failed: Mutex::default(),
            boot_id: top.boot_id(),
            top,
            internal,
        }))
    }

    /// Makes the names in `instances/` durable. One flush at a time, and none after one that failed:
    /// the kernel reports a failure once, and another flush could say yes to names that are lost.
    ///
    /// # Errors
    ///
    /// The failure, and from then on [`Error::Poisoned`].
    pub(crate) fn sync_names(&self) -> Result<()> {
        let mut names_failed = self.names_failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = &*names_failed {
            return Err(Error::Poisoned { reason: Arc::clone(reason) });
        }
        self.instances.sync().inspect_err(|error| *names_failed = Some(Arc::new(error.clone())))
    }

    fn complete(&self) -> Result<()> {
        let _order = self.recovery_lock()?.lock(Lock::Exclusive)?;
        if check_format(&self.internal)? {
            return Ok(());
        }
        for dir in [&self.instances, &self.writers, &self.trash, &self.quarantine, &self.internal, &self.top] {
            dir.sync()?;
        }
        sync_above(&self.top)?;
        let created_by = concat!("fiefdom ", env!("CARGO_PKG_VERSION")).to_owned();
        let marker = Marker { format: FORMAT, created_by, created_at: chrono::Utc::now() };
        let mut bytes =
            serde_json::to_vec_pretty(&marker).map_err(|e| crate::record::json::unserializable("format", &e))?;
        bytes.push(b'\n');
        atomic::replace(&self.internal, layout::FORMAT, &bytes, Sync::Yes)
    }

    /// The file whose lock orders activation and recovery. Each holder opens it anew, because a
    /// lock belongs to the open file.
    pub(crate) fn recovery_lock(&self) -> Result<File> {
        self.internal.open_or_create_file(layout::RECOVERY_LOCK)
    }
}

/// Makes the way to a directory durable: one above it may be new, too. It ends at another file system,
/// or at a directory that we may not read, in which we did not make anything.
pub(crate) fn sync_above(dir: &Dir) -> Result<()> {
    let path = std::path::absolute(dir.path()).map_err(|e| Error::io("look at", dir.path(), e))?;
    let device = dir.own_stat()?.identity.device;
    for above in path.ancestors().skip(1) {
        let Ok(dir) = Dir::open(above) else { break };
        if dir.own_stat()?.identity.device != device {
            break;
        }
        dir.sync()?;
    }
    Ok(())
}

fn refuse_network(top: &Dir) -> Result<()> {
    let magic = top.file_system()?;
    match NETWORK_FILE_SYSTEMS.iter().find(|(known, _)| *known == magic) {
        None => Ok(()),
        Some((_, name)) => Err(Error::Root {
            path: top.path().to_owned(),
            reason: format!(
                "it is on {name}, where locks and fsync cannot be trusted; use a local disk, or allow it with Options::allow_network_file_system"
            ),
        }),
    }
}

/// Whether `format.json` is there and says a version that this program knows.
fn check_format(internal: &Dir) -> Result<bool> {
    let Some(file) = internal.open_file(layout::FORMAT)? else { return Ok(false) };
    let bytes = file.read_all(FORMAT_BYTES)?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| Error::corrupt(file.path(), None, e))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(FORMAT) => Ok(true),
        Some(found) if found > FORMAT => {
            Err(Error::NewerFormat { path: file.path().to_owned(), found, supported: FORMAT })
        }
        _ => Err(Error::corrupt(file.path(), None, "it does not say a format that was ever written")),
    }
}
