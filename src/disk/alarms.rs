//! The index of the alarms: one empty file for each, named by its time, so that those that are due
//! are found without reading an instance.
//!
//! The record of the instance is the truth. An entry that is out of date is harmless: whoever comes
//! to it looks at the record and removes it. A missing one would be an alarm that is lost, so an entry
//! is made before the record is written, and is on disk before the commit log lets go of the commit
//! that set it. No two alarms ever have the same entry.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fs::Dir;
use super::layout;
use crate::error::Result;
use crate::mutants::{Protection, without};
use crate::record::AlarmEntry;

/// How often an entry is tried when its directory is removed for being empty at that moment.
const TRIES: usize = 16;

/// The alarms of an hour are one directory, read as a whole: so far ahead is looked.
const AHEAD_MS: i64 = 60_000;

/// What one open root knows of its index.
#[derive(Debug, Default)]
pub(crate) struct AlarmIndex {
    /// Directories with entries that may not be on disk: kind and hour.
    unsynced: Mutex<BTreeSet<(String, String)>>,
}

impl AlarmIndex {
    fn unsynced(&self) -> MutexGuard<'_, BTreeSet<(String, String)>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an entry, if it is not there. [`AlarmIndex::sync`] makes it durable.
    pub(crate) fn add(&self, internal: &Dir, alarm: &AlarmEntry) -> Result<()> {
        let (kind, hour) = (layout::alarm_kind(&alarm.kind), layout::alarm_hour(alarm.due));
        let name = layout::alarm_name(alarm);
        for attempt in 1.. {
            let made = internal
                .ensure_dir(layout::ALARMS)
                .and_then(|alarms| alarms.ensure_dir(&kind))
                .and_then(|kind| kind.ensure_dir(&hour))
                .and_then(|hour| hour.open_or_create_file(&name));
            match made {
                // Somebody found the hour empty, and removed it in between.
                Err(e) if e.io_kind() == Some(io::ErrorKind::NotFound) && attempt < TRIES => {}
                Err(e) => return Err(e),
                Ok(_) => break,
            }
        }
        self.unsynced().insert((kind, hour));
        Ok(())
    }

    /// An entry that somebody else made may not be on disk.
    pub(crate) fn note(&self, alarm: &AlarmEntry) {
        self.unsynced().insert((layout::alarm_kind(&alarm.kind), layout::alarm_hour(alarm.due)));
    }

    /// Makes every entry durable that was made through this.
    pub(crate) fn sync(&self, internal: &Dir) -> Result<()> {
        if without(Protection::AlarmFlush) {
            return Ok(());
        }
        // What is noted from here on may come too late for this.
        let noted = std::mem::take(&mut *self.unsynced());
        if noted.is_empty() {
            return Ok(());
        }
        sync(internal, &noted).inspect_err(|_| self.unsynced().extend(noted))
    }

    /// Removes an entry; `false` when there was none. Whether that is durable does not matter.
    pub(crate) fn remove(internal: &Dir, alarm: &AlarmEntry) -> Result<bool> {
        match open_hour(internal, &layout::alarm_kind(&alarm.kind), &layout::alarm_hour(alarm.due))? {
            Some(hour) => hour.remove_file(&layout::alarm_name(alarm)),
            None => Ok(false),
        }
    }

    /// Whether an entry is there.
    #[cfg(test)]
    pub(crate) fn has(internal: &Dir, alarm: &AlarmEntry) -> Result<bool> {
        match open_hour(internal, &layout::alarm_kind(&alarm.kind), &layout::alarm_hour(alarm.due))? {
            Some(hour) => Ok(hour.stat(&layout::alarm_name(alarm))?.is_some()),
            None => Ok(false),
        }
    }

    /// The earliest entries that are due at `now` or soon after, at most `most`, in order. Of an
    /// hour that has nothing to do with that the directory is not read.
    pub(crate) fn look(
        internal: &Dir,
        now: i64,
        most: usize,
        wanted: impl Fn(&str) -> bool,
        passed: impl Fn(&AlarmEntry) -> bool,
    ) -> Result<Vec<AlarmEntry>> {
        let last = layout::alarm_hour(now.saturating_add(AHEAD_MS));
        let present = layout::alarm_hour(now);
        let mut found = Vec::new();
        walk(internal, &wanted, |dir, kind, hour| {
            if hour > last.as_str() || is_full(&found, most, hour) {
                return Ok(false);
            }
            let Some(entries) = dir.open_dir(hour)? else { return Ok(true) };
            let names = entries.names()?;
            if names.is_empty() && hour < present.as_str() {
                // Whoever makes an entry in it at this moment makes the directory again.
                let _ = dir.remove_dir(hour);
            }
            found.extend(
                names.iter().filter_map(|name| layout::parse_alarm_name(kind, name)).filter(|alarm| !passed(alarm)),
            );
            found.sort_unstable();
            found.truncate(most);
            Ok(true)
        })?;
        Ok(found)
    }

    /// The earliest entries of all, at most `most`, in order.
    pub(crate) fn earliest(internal: &Dir, most: usize, wanted: impl Fn(&str) -> bool) -> Result<Vec<AlarmEntry>> {
        let mut found = Vec::new();
        walk(internal, &wanted, |dir, kind, hour| {
            if is_full(&found, most, hour) {
                return Ok(false);
            }
            let Some(entries) = dir.open_dir(hour)? else { return Ok(true) };
            found.extend(entries.names()?.iter().filter_map(|name| layout::parse_alarm_name(kind, name)));
            found.sort_unstable();
            found.truncate(most);
            Ok(true)
        })?;
        Ok(found)
    }
}

/// Whether nothing in this hour can be among the earliest any more.
fn is_full(found: &[AlarmEntry], most: usize, hour: &str) -> bool {
    found.len() >= most && found.last().is_some_and(|last| layout::alarm_hour(last.due).as_str() < hour)
}

/// Goes through the hours of each kind in order, until `each` says that it has enough of a kind.
fn walk(
    internal: &Dir,
    wanted: &impl Fn(&str) -> bool,
    mut each: impl FnMut(&Dir, &Arc<str>, &str) -> Result<bool>,
) -> Result<()> {
    let Some(alarms) = internal.open_dir(layout::ALARMS)? else { return Ok(()) };
    for name in alarms.names()? {
        let Some(kind) = layout::parse_alarm_kind(&name).filter(|kind| wanted(kind)) else { continue };
        let Some(dir) = alarms.open_dir(&name)? else { continue };
        let kind: Arc<str> = kind.into();
        let mut hours = dir.names()?;
        hours.sort_unstable();
        for hour in hours {
            if !each(&dir, &kind, &hour)? {
                break;
            }
        }
    }
    Ok(())
}

fn open_hour(internal: &Dir, kind: &str, hour: &str) -> Result<Option<Dir>> {
    let Some(alarms) = internal.open_dir(layout::ALARMS)? else { return Ok(None) };
    let Some(kind) = alarms.open_dir(kind)? else { return Ok(None) };
    kind.open_dir(hour)
}

fn sync(internal: &Dir, noted: &BTreeSet<(String, String)>) -> Result<()> {
    let Some(alarms) = internal.open_dir(layout::ALARMS)? else { return Ok(()) };
    let kinds: BTreeSet<&String> = noted.iter().map(|(kind, _)| kind).collect();
    for name in kinds {
        let Some(kind) = alarms.open_dir(name)? else { continue };
        for (_, hour) in noted.iter().filter(|(of, _)| of == name) {
            // One that is gone was empty.
            if let Some(hour) = kind.open_dir(hour)? {
                hour.sync()?;
            }
        }
        kind.sync()?;
    }
    alarms.sync()?;
    internal.sync()
}
