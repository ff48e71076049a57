//! From an unpacked and checked tree to an instance, in one step.
//!
//! The tree gets its new record out of sight, and is on disk as a whole before it is renamed to its
//! place. There the place is taken as a creation takes it: the directory of that name is made and
//! locked, and the tree replaces it while it is empty. So of many who want one id one wins, and a
//! process that dies leaves nothing, or the whole.

use std::io::Read;
use std::sync::Arc;

use chrono::Utc;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::unpack::unpack;
use super::{ImportOptions, Imported, Manifest, ORIGIN, Origin, check, refuse};
use crate::disk::atomic::{self, Sync};
use crate::disk::fs::Dir;
use crate::disk::listing::{Change, Created};
use crate::disk::root::Root;
use crate::disk::staging::Room;
use crate::disk::{layout, lock};
use crate::error::{Error, Result};
use crate::log::activate;
use crate::log::events::EventWriter;
use crate::options::Options;
use crate::record::{COUNT_MAX, Document as _, EventDraft, InstanceId, RawRecord, Status};

/// The event that an import adds.
const EVENT: &str = "instance.imported";

/// Who imports, and into what.
pub(crate) struct Importer<'a> {
    pub(crate) root: &'a Arc<Root>,
    pub(crate) writer: Uuid,
    pub(crate) options: &'a Options,
    /// Whether an instance of this kind may be imported.
    pub(crate) accepts: &'a dyn Fn(&InstanceId, &str) -> Result<()>,
}

/// Makes an instance of an archive. Blocks.
pub(crate) fn read(by: &Importer<'_>, reader: impl Read, options: &ImportOptions) -> Result<Imported> {
    let room = Room::create(by.root)?;
    let manifest = unpack(reader, &room.dir, options, |manifest| {
        (by.accepts)(&manifest.instance_id, &manifest.kind)?;
        // Told before gigabytes are unpacked; what counts is the look when the place is locked.
        let id = options.id.as_ref().unwrap_or(&manifest.instance_id);
        match by.root.instances.open_dir(id.as_str())? {
            Some(dir) if !dir.all_names()?.is_empty() => Err(exists(by.root, id)),
            _ => Ok(()),
        }
    })?;
    let tree = room.dir.open_dir(layout::EXPORT_TREE)?.ok_or_else(|| refuse("there is no instance in it"))?;
    let record = check::check(&tree, &manifest)?;
    let id = options.id.clone().unwrap_or_else(|| manifest.instance_id.clone());
    let created = record.created_at.into();
    let imported = settle(by, &tree, id, &manifest, record)?;
    tree.sync_tree()?;
    place(by, &room, tree, &imported.instance_id, created)?;
    Ok(imported)
}

fn exists(root: &Root, id: &InstanceId) -> Error {
    Error::AlreadyExists { id: id.clone(), path: root.instances.path_of(id.as_str()) }
}

/// Gives the tree its record and its event as the instance that it becomes.
fn settle(
    by: &Importer<'_>,
    tree: &Dir,
    id: InstanceId,
    manifest: &Manifest,
    mut record: RawRecord,
) -> Result<Imported> {
    let at = Utc::now();
    let origin = Origin {
        instance_id: record.id,
        uid: record.uid,
        revision: record.revision,
        exported_at: manifest.exported_at,
        imported_at: at,
    };
    (record.id, record.uid) = (id, Uuid::new_v4());
    record.revision += 1;
    record.epoch += 1;
    record.last_event_seq += 1;
    if record.revision.max(record.epoch).max(record.last_event_seq) >= COUNT_MAX {
        return Err(refuse("its numbers are too large to be counted on"));
    }
    (record.writer, record.updated_at) = (by.writer, at);
    if record.status.is_running() {
        // Nobody works on it here.
        record.set_status(Status::Interrupted, Some("it was at work when it was exported".into()), at)?;
    }
    let unserializable = |e| crate::record::json::unserializable(ORIGIN, &e);
    let text = serde_json::to_string(&origin).and_then(RawValue::from_string).map_err(unserializable)?;
    record.unknown.insert(ORIGIN.to_owned(), text);
    record.check(by.options.record_bytes)?;

    let mut events = EventWriter::load(tree, record.last_event_seq - 1, by.options.event_segment_bytes)?;
    let draft = EventDraft::new(EVENT, &origin)?;
    let line = draft.number(record.last_event_seq, at, record.epoch, by.options.event_bytes)?;
    events.append(tree, &[line])?;
    events.sync(tree)?;
    let bytes = record.pretty().map_err(|e| crate::record::json::unserializable("record", &e))?;
    atomic::replace(tree, layout::RECORD, &bytes, Sync::Yes)?;
    if let Some(alarm) = record.alarm_entry() {
        // An entry without an instance is harmless; an alarm without an entry would not come.
        by.root.alarms.add(&by.root.internal, &alarm)?;
        by.root.alarms.sync(&by.root.internal)?;
    }
    Ok(Imported { instance_id: record.id, uid: record.uid, revision: record.revision, origin })
}

/// Moves the tree to its place, durably.
fn place(by: &Importer<'_>, room: &Room, tree: Dir, id: &InstanceId, created: Created) -> Result<()> {
    let Importer { root, writer, .. } = by;
    let place = match activate::lock_undisturbed(root, *writer, id, Some(created)) {
        // Whoever has it locked made it first, or is about to.
        Err(Error::Locked { .. }) => return Err(exists(root, id)),
        other => other?,
    };
    if !place.all_names()?.is_empty() {
        return Err(exists(root, id));
    }
    // Nobody commits to it before its name is on disk.
    let Some(_tree) = tree.try_lock()? else {
        return Err(Error::Root {
            path: room.dir.path().to_owned(),
            reason: "a directory that was just made in it is locked; another program meddles with it".into(),
        });
    };
    let moved = root.door.through(root, Change::Add(id, created), || {
        room.dir.rename(layout::EXPORT_TREE, &root.instances, id.as_str()).map(|()| true)
    });
    if let Err(error) = moved {
        // It goes if it is empty: then it is of no use to anybody.
        let _ = lock::remove_empty(root, id);
        return Err(error);
    }
    root.sync_names()
}
