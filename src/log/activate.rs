//! Bringing an instance to life from its directory: lock, then read. What was read before the lock
//! is never trusted, and no actor is begun here.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::events::EventWriter;
use super::lane::Lane;
use super::{Log, recover};
use crate::disk::fs::{Dir, Lock, Locked};
use crate::disk::listing::Created;
use crate::disk::lock::Wanted;
use crate::disk::root::Root;
use crate::disk::{layout, lock, quarantine};
use crate::error::{Error, Result};
use crate::mutants::{Protection, without};
use crate::options::Options;
use crate::record::{FORMAT, InstanceId, RawRecord, json};

/// Largest `instance.json` that is read, in bytes, unless four times the limit of a record is more.
const RECORD_FILE_BYTES: u64 = 64 << 20;

/// How often an activation begins again because a dead writer turned up.
const RECOVERY_RETRIES: usize = 8;

/// A live instance, before it has an actor.
pub(crate) struct Activated {
    pub(crate) lane: Arc<Lane>,
    /// What the directory holds; `None` for an instance that is being created.
    pub(crate) record: Option<RawRecord>,
}

/// Locks and reads an existing instance. Blocks.
pub(crate) fn open(root: &Arc<Root>, log: &Log, options: &Options, id: &InstanceId) -> Result<Activated> {
    let too_early = if without(Protection::LockThenRead) {
        root.instances.open_dir(id.as_str())?.and_then(|dir| read_bytes(&dir, options).transpose())
    } else {
        None
    };
    let dir = lock_undisturbed(root, log.writer_id(), id, None)?;
    let bytes = too_early
        .map_or_else(|| read_bytes(&dir, options), |bytes| bytes.map(Some))?
        .ok_or_else(|| Error::NotFound { id: id.clone(), root: root.instances.path().to_owned() })?;
    let record = parse(&dir, id, &bytes).map_err(|e| keep(root, id, &dir, layout::RECORD, Some(&bytes), e))?;
    let files = EventWriter::load(&dir, record.last_event_seq, options.event_segment_bytes)
        .map_err(|e| keep(root, id, &dir, layout::EVENT_LOG, None, e))?;
    let mut record = record;
    if lock::is_writer(root, record.writer, log.writer_id())? {
        // It may have made the instance at the level `Os`, and not have come to flush its name yet.
        log.tail().note_unnamed(id);
    }
    // Lines that were added by hand while the instance was at rest count.
    record.last_event_seq = files.last_seq();
    tracing::Span::current().record("epoch", record.epoch + 1);
    let lane = Lane::new(Arc::clone(root), log, id, record.uid, record.epoch + 1, dir, files);
    lane.found_alarm(record.alarm_entry())?;
    lane.note_found();
    Ok(Activated { lane, record: Some(record) })
}

/// An instance that is to be made.
pub(crate) struct Birth {
    pub(crate) id: InstanceId,
    pub(crate) uid: Uuid,
    pub(crate) at: DateTime<Utc>,
}

/// Makes and locks the directories of new instances, which share what can be shared. Blocks.
pub(crate) fn create(root: &Arc<Root>, log: &Log, options: &Options, births: &[Birth]) -> Vec<Result<Activated>> {
    let wanted: Vec<_> = births.iter().map(|birth| Wanted { id: &birth.id, make: Some(birth.at.into()) }).collect();
    let locked = lock_all_undisturbed(root, log.writer_id(), &wanted);
    births.iter().zip(locked).map(|(birth, dir)| create_in(root, log, options, birth, dir)).collect()
}

fn create_in(
    root: &Arc<Root>,
    log: &Log,
    options: &Options,
    birth: &Birth,
    dir: Result<Locked<Dir>>,
) -> Result<Activated> {
    let id = &birth.id;
    let exists = || Error::AlreadyExists { id: id.clone(), path: root.instances.path_of(id.as_str()) };
    let dir = match dir {
        // Whoever has it locked made it first, or is about to.
        Err(Error::Locked { .. }) => return Err(exists()),
        other => other?,
    };
    if dir.stat(layout::RECORD)?.is_some() {
        return Err(exists());
    }
    // A directory without a record is a creation that was cut short: it is free to be taken.
    let files = EventWriter::empty(options.event_segment_bytes);
    let lane = Lane::new(Arc::clone(root), log, id, birth.uid, 1, dir, files);
    Ok(Activated { lane, record: None })
}

/// Takes the lock of an instance of which no dead writer holds back commits.
pub(crate) fn lock_undisturbed(
    root: &Arc<Root>,
    own: Uuid,
    id: &InstanceId,
    make: Option<Created>,
) -> Result<Locked<Dir>> {
    lock_all_undisturbed(root, own, &[Wanted { id, make }]).remove(0)
}

/// [`lock_undisturbed`] for several: one answer for each.
///
/// Writers are looked at when the locks are held: one that dies later did not own these instances.
fn lock_all_undisturbed(root: &Arc<Root>, own: Uuid, wanted: &[Wanted<'_>]) -> Vec<Result<Locked<Dir>>> {
    let all = |error: Error| wanted.iter().map(|_| Err(error.clone())).collect();
    for _ in 0..RECOVERY_RETRIES {
        let order = match root.recovery_lock().and_then(|file| file.lock(Lock::Shared)) {
            Ok(order) => order,
            Err(error) => return all(error),
        };
        let locked = lock::lock_instances(root, wanted);
        if locked.iter().all(Result::is_err) {
            return locked;
        }
        let dead = lock::any_dead_writer(root, own);
        if !matches!(dead, Ok(true)) {
            let free = |id: &InstanceId| dead.clone().and_then(|_| recover::refuse_if_blocked(root, id));
            let checked = |(wanted, dir): (&Wanted<'_>, Result<Locked<Dir>>)| {
                let dir = dir?;
                free(wanted.id).inspect_err(|_| {
                    if wanted.make.is_some() {
                        // It goes if it is empty: then it is of no use to anybody.
                        let _ = lock::remove_empty(root, wanted.id);
                    }
                })?;
                Ok(dir)
            };
            return wanted.iter().zip(locked).map(checked).collect();
        }
        drop((locked, order));
        if let Err(error) = recover::recover(root, Some(own)) {
            return all(error);
        }
    }
    let limit = RECOVERY_RETRIES as u64;
    all(Error::Overloaded { what: "recoveries of dead writers during one activation", limit })
}

/// The bytes of `instance.json`; `None` when there is none.
pub(crate) fn read_bytes(dir: &Dir, options: &Options) -> Result<Option<Vec<u8>>> {
    let limit = RECORD_FILE_BYTES.max(4 * options.record_bytes as u64 + 1);
    dir.open_file(layout::RECORD)?.map(|file| file.read_all(limit)).transpose()
}

/// Reads a record, version first, and checks that it belongs where it lies.
pub(crate) fn parse(dir: &Dir, id: &InstanceId, bytes: &[u8]) -> Result<RawRecord> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        format: u64,
    }
    let path = || dir.path_of(layout::RECORD);
    let damaged = |e: serde_json::Error| Error::corrupt(&path(), Some(json::offset_of(bytes, &e)), e);
    if let Ok(Versioned { format }) = serde_json::from_slice(bytes)
        && format > FORMAT.into()
    {
        return Err(Error::NewerFormat { path: path(), found: format, supported: FORMAT.into() });
    }
    json::check(bytes).map_err(damaged)?;
    let record = RawRecord::parse(bytes).map_err(damaged)?;
    if record.id != *id {
        let reason = format!(
            "it is the record of {:?}, and lies in the directory of {id:?}; rename the directory, or correct instance_id",
            record.id
        );
        return Err(Error::corrupt(&path(), None, reason));
    }
    Ok(record)
}

/// When an instance was created, as far as its record says: no more of it is looked at.
pub(crate) fn created(root: &Root, id: &InstanceId) -> Result<Created> {
    #[derive(serde::Deserialize)]
    struct Birth {
        created_at: DateTime<Utc>,
    }
    let Some(file) = root.instances.open_file_in(id.as_str(), layout::RECORD)? else { return Ok(Created::UNKNOWN) };
    let bytes = file.read_all(RECORD_FILE_BYTES)?;
    Ok(serde_json::from_slice::<Birth>(&bytes).map_or(Created::UNKNOWN, |birth| birth.created_at.into()))
}

/// Keeps a copy of damaged bytes; other errors pass.
fn keep(root: &Root, id: &InstanceId, dir: &Dir, name: &str, bytes: Option<&[u8]>, error: Error) -> Error {
    let Error::Corrupt { offset, reason, .. } = &error else { return error };
    match bytes {
        Some(bytes) => quarantine::corrupt(root, id.as_str(), dir, name, bytes, *offset, reason),
        // An event log can be large, and stays where it is: the reason is enough.
        None => error,
    }
}
