//! Files that follow events: each is one JSON document that can be made again from the event log.
//! Nothing is in them alone.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::disk::atomic::{self, Sync};
use crate::disk::fs::Dir;
use crate::disk::layout;
use crate::error::{Error, Result};
use crate::log::events::EventReader;
use crate::record::Event;

/// The event with this number, from the files.
pub(crate) fn event(instance: &Dir, seq: u64) -> Result<Event> {
    let found = EventReader::new(seq).read(instance)?.into_iter().next().filter(|event| event.seq == seq);
    found.ok_or_else(|| {
        let log = instance.path_of(layout::EVENTS).join(layout::EVENT_LOG);
        Error::corrupt(&log, None, format!("the record names event {seq}, and it is not there"))
    })
}

/// What a file that follows the events holds; none when it is missing or cannot be used: it can be
/// made again.
pub(crate) fn read_json<T: DeserializeOwned>(instance: &Dir, below: &[&str], name: &str, limit: u64) -> Option<T> {
    let (first, rest) = below.split_first()?;
    let mut dir = instance.open_dir(first).ok()??;
    for name in rest {
        dir = dir.open_dir(name).ok()??;
    }
    let bytes = dir.open_file(name).ok()??.read_all(limit).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Writes a file that follows the events, durably.
pub(crate) fn write<T: Serialize>(instance: &Dir, below: &[&str], name: &str, value: &T) -> Result<()> {
    let path = below.iter().fold(instance.path().to_owned(), |path, part| path.join(part)).join(name);
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| Error::io("write", &path, e))?;
    bytes.push(b'\n');
    replace_below(instance, below, name, &bytes)
}

fn replace_below(dir: &Dir, below: &[&str], name: &str, bytes: &[u8]) -> Result<()> {
    let Some((first, rest)) = below.split_first() else { return atomic::replace(dir, name, bytes, Sync::Yes) };
    let (inner, made) = match dir.open_dir(first)? {
        Some(inner) => (inner, false),
        None => (dir.ensure_dir(first)?, true),
    };
    replace_below(&inner, rest, name, bytes)?;
    if made { dir.sync() } else { Ok(()) }
}
