//! Whether an unpacked tree is an instance: its record, and the whole chain of its events. It only
//! reads.

use super::{Manifest, refuse};
use crate::disk::fs::Dir;
use crate::disk::layout;
use crate::error::{Error, Result};
use crate::log::activate;
use crate::log::events::Lines;
use crate::options::Options;
use crate::record::RawRecord;

/// The record, which must be the one that the manifest speaks of, and have its events.
pub(super) fn check(tree: &Dir, manifest: &Manifest) -> Result<RawRecord> {
    let bytes = activate::read_bytes(tree, &Options::default()).map_err(in_archive)?;
    let bytes = bytes.ok_or_else(|| refuse("there is no instance.json in it"))?;
    let record = activate::parse(tree, &manifest.instance_id, &bytes).map_err(in_archive)?;
    let same = record.uid == manifest.uid
        && record.revision == manifest.revision
        && record.kind == manifest.kind
        && record.last_event_seq == manifest.last_event_seq;
    if !same {
        return Err(refuse("its instance.json is not the one that export.json speaks of"));
    }
    RawRecord::check_tags(&record.tags)?;
    let last = last_event(tree).map_err(in_archive)?;
    match last {
        Some(last) if last != record.last_event_seq => {
            Err(refuse(format_args!("its events end at {last}, and its record knows of {}", record.last_event_seq)))
        }
        _ => Ok(record),
    }
}

/// The last event; none when there is no file of events. Each must follow the one before it.
fn last_event(tree: &Dir) -> Result<Option<u64>> {
    let Some(dir) = tree.open_dir(layout::EVENTS)? else { return Ok(None) };
    let mut files = Vec::new();
    for name in dir.names()? {
        if let Some(first) = layout::parse_event_segment(&name) {
            if name != layout::event_segment(first) {
                return Err(refuse(format_args!("{name:?} in it is no name of a file of events")));
            }
            files.push((first, name));
        }
    }
    files.sort_unstable();
    if dir.stat(layout::EVENT_LOG)?.is_some() {
        files.push((0, layout::EVENT_LOG.to_owned()));
    }
    let mut last = None;
    for (named, name) in files {
        let Some(file) = dir.open_file(&name)? else { continue };
        let damaged = |offset, reason: String| Err(Error::corrupt(file.path(), Some(offset), reason));
        let mut lines = Lines::new(&file, 0);
        let mut first = true;
        while let Some(line) = lines.next()? {
            let seq = match line.event() {
                Ok(event) => event.seq,
                Err(reason) => return damaged(line.offset, reason),
            };
            if last.is_some_and(|last| seq != last + 1) || first && named != 0 && seq != named {
                return damaged(line.offset, format!("event {seq} does not belong here"));
            }
            (first, last) = (false, Some(seq));
        }
        if lines.offset != file.len()? {
            return damaged(lines.offset, "the last line is not complete".into());
        }
    }
    Ok(last)
}

/// What is wrong with a file that was just unpacked is wrong with the archive.
fn in_archive(error: Error) -> Error {
    use std::io::ErrorKind::{IsADirectory, NotADirectory};
    match error {
        Error::Corrupt { path, offset, reason } => {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let at = offset.map_or_else(String::new, |offset| format!(" at byte {offset}"));
            refuse(format_args!("{name} in it is damaged{at}: {reason}"))
        }
        Error::NewerFormat { path, found, supported } => {
            Error::NewerFormat { path: path.file_name().unwrap_or_default().into(), found, supported }
        }
        Error::Io { ref path, ref source, .. }
            if matches!(source.kind(), IsADirectory | NotADirectory)
                || rustix::io::Errno::from_io_error(source) == Some(rustix::io::Errno::LOOP) =>
        {
            refuse(format_args!("{} in it is no file", path.file_name().unwrap_or_default().to_string_lossy()))
        }
        other => other,
    }
}
