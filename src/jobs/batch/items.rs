//! `workspace/items.jsonl`: the items of a batch, one JSON document a line, written once and never
//! changed after that.

use std::any::Any;
use std::collections::HashSet;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::job::{self, BatchItem};
use super::state::Place;
use super::{MAX_ITEMS, refuse};
use crate::disk::atomic::{self, Sync};
use crate::disk::fs::{Dir, File};
use crate::disk::layout;
use crate::error::{Error, Result};
use crate::log::events::Lines;
use crate::record::{InstanceId, json};
use crate::view::View;

/// Largest item, in bytes of JSON.
const ITEM_BYTES: usize = 16 << 20;

/// How much is gathered before it is written.
const WRITE_BYTES: usize = 1 << 20;

/// How much is read ahead, in bytes of lines; one line at least.
const AHEAD_BYTES: usize = 64 << 10;

/// One item, as it stands in the file.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) place: Place,
    pub(super) bytes: std::sync::Arc<[u8]>,
}

impl Line {
    /// Where the next line begins.
    pub(super) fn end(&self) -> u64 {
        self.place.offset + self.bytes.len() as u64 + 1
    }
}

/// Checks the items of a batch that is about to be made, one by one.
pub(super) struct Checks {
    batch: InstanceId,
    seen: HashSet<InstanceId>,
    /// Where the instances of jobs must not exist yet.
    view: Option<View>,
}

impl Checks {
    pub(super) fn new(batch: InstanceId, view: Option<View>) -> Self {
        Self { batch, seen: HashSet::new(), view }
    }

    /// A job must be one that can be made; other items may be anything.
    pub(super) fn check(&mut self, item: &dyn Any) -> Result<()> {
        let Some(item) = item.downcast_ref::<BatchItem>() else { return Ok(()) };
        job::check(&self.batch, item)?;
        if !self.seen.insert(item.id.clone()) {
            return refuse(format!("two of its jobs have the id {:?}; give one of them another", item.id));
        }
        match &self.view {
            Some(view) if view.record_path(&item.id).exists() => {
                Err(Error::AlreadyExists { id: item.id.clone(), path: view.instance_path(&item.id) })
            }
            _ => Ok(()),
        }
    }
}

/// Writes the file, durably; returns the number of items and the length.
pub(super) fn write<T: Serialize + 'static>(
    instance: &Dir,
    items: impl Iterator<Item = T>,
    checks: &mut Checks,
) -> Result<(u64, u64)> {
    let dir = instance.ensure_dir(layout::WORKSPACE)?;
    let (mut total, mut len) = (0, 0);
    atomic::replace_with(&dir, layout::BATCH_ITEMS, Sync::Yes, |file| {
        let mut bytes = Vec::new();
        for item in items {
            if total == MAX_ITEMS as u64 {
                return Err(too_many(total + 1));
            }
            checks.check(&item)?;
            encode(&item, &mut bytes)?;
            total += 1;
            if bytes.len() >= WRITE_BYTES {
                file.write_all(&bytes)?;
                len += bytes.len() as u64;
                bytes.clear();
            }
        }
        len += bytes.len() as u64;
        file.write_all(&bytes)
    })?;
    instance.sync()?;
    Ok((total, len))
}

pub(super) fn too_many(count: u64) -> Error {
    Error::TooLarge { what: "number of items in a batch", bytes: count, limit: MAX_ITEMS as u64 }
}

fn encode<T: Serialize>(item: &T, bytes: &mut Vec<u8>) -> Result<()> {
    let before = bytes.len();
    serde_json::to_writer(&mut *bytes, item).map_err(|e| json::unserializable("item", &e))?;
    let size = bytes.len() - before;
    if size > ITEM_BYTES {
        return Err(Error::TooLarge { what: "item of a batch", bytes: size as u64, limit: ITEM_BYTES as u64 });
    }
    bytes.push(b'\n');
    Ok(())
}

/// Opens the file, and sees that it is as long as it was when it was written.
pub(super) fn open(instance: &Dir, len: Option<u64>) -> Result<File> {
    let path = || instance.path_of(layout::WORKSPACE).join(layout::BATCH_ITEMS);
    let file = instance.open_dir(layout::WORKSPACE)?.map(|dir| dir.open_file(layout::BATCH_ITEMS)).transpose()?;
    let Some(file) = file.flatten() else {
        return Err(Error::corrupt(&path(), None, "the items of the batch are missing"));
    };
    match (len, file.len()?) {
        (Some(len), found) if len != found => {
            let reason = format!("it has {found} bytes, and was written with {len}");
            Err(Error::corrupt(file.path(), Some(len.min(found)), reason))
        }
        _ => Ok(file),
    }
}

/// The lines from a place on: as many as are read at a time.
pub(super) fn read_page(file: &File, mut place: Place, total: u64) -> Result<Vec<Line>> {
    let mut lines = Lines::new(file, place.offset);
    let (mut page, mut bytes) = (Vec::new(), 0);
    while bytes < AHEAD_BYTES && place.index < total {
        let Some(line) = lines.next()? else {
            let reason = format!("it holds {} items, and the batch has {total}", place.index);
            return Err(Error::corrupt(file.path(), Some(place.offset), reason));
        };
        bytes += line.bytes.len();
        page.push(Line { place, bytes: line.bytes.into() });
        place = Place { index: place.index + 1, offset: lines.offset };
    }
    Ok(page)
}

/// One line.
pub(super) fn read_line(file: &File, place: Place) -> Result<Line> {
    let line = Lines::new(file, place.offset).next()?;
    let line = line.ok_or_else(|| Error::corrupt(file.path(), Some(place.offset), "there is no item"))?;
    Ok(Line { place, bytes: line.bytes.into() })
}

/// The item of a line.
pub(super) fn parse<T: DeserializeOwned>(path: &std::path::Path, line: &Line) -> Result<T> {
    serde_json::from_slice(&line.bytes).map_err(|e| {
        Error::corrupt(path, Some(line.place.offset), format!("item {} cannot be read: {e}", line.place.index))
    })
}

/// Whether the file holds just these items.
pub(super) fn same<T: Serialize + DeserializeOwned>(
    file: &File,
    total: u64,
    items: impl Iterator<Item = T>,
) -> Result<bool> {
    let mut lines = Lines::new(file, 0);
    let (mut count, mut bytes) = (0, Vec::new());
    for item in items {
        let Some(line) = lines.next()? else { return Ok(false) };
        bytes.clear();
        encode(&item, &mut bytes)?;
        if bytes[..bytes.len() - 1] != line.bytes && !equal(&item, &line.bytes) {
            return Ok(false);
        }
        count += 1;
    }
    Ok(count == total)
}

/// Whether a line that was written by another version, or by hand, says the same.
fn equal<T: Serialize + DeserializeOwned>(item: &T, line: &[u8]) -> bool {
    let stored = serde_json::from_slice::<T>(line).ok().and_then(|stored| serde_json::to_value(stored).ok());
    let given: Option<Value> = serde_json::to_value(item).ok();
    stored.is_some() && stored == given
}
