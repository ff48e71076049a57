//! Writing an instance into an archive, while others may write the instance.
//!
//! Nothing is locked. The record is read once; it is a commit, and the events of that commit and of
//! all before it were in the files before it was. So the record, and the event log up to the event
//! that it names last, are one moment. Files are copied after that: what a commit speaks of is there.

use std::io::{self, Read, Write};
use std::path::Path;

use chrono::{DateTime, Utc};
use flate2::{Compression, GzBuilder, write::GzEncoder};
use tar::{Builder, EntryType, Header};
use uuid::Uuid;

use super::{DEPTH, Exported, FORMAT, LeftOut, Manifest, PATH_BYTES, stays_inside, unwritable};
use crate::disk::fs::{Dir, FILE_MODE, File};
use crate::disk::layout;
use crate::disk::root::Root;
use crate::disk::tree::Sort;
use crate::error::{Error, Result};
use crate::log::activate;
use crate::log::events::{Lines, first_seq};
use crate::options::Options;
use crate::record::{InstanceId, RawRecord};

/// Most things that were left out and are listed.
const LISTED: usize = 1000;

/// Writes `id` into `writer`, and gives it back. Blocks.
pub(crate) fn write<W: Write>(root: &Root, id: &InstanceId, writer: W) -> Result<(W, Exported)> {
    let not_found = || Error::NotFound { id: id.clone(), root: root.instances.path().to_owned() };
    let dir = root.instances.open_dir(id.as_str())?.ok_or_else(not_found)?;
    let record = activate::read_bytes(&dir, &Options::default())?.ok_or_else(not_found)?;
    let parsed = activate::parse(&dir, id, &record)?;
    let pieces = events(&dir, parsed.last_event_seq)?;
    let mut out = Output::new(writer, &parsed);
    out.manifest(&parsed)?;
    out.directory_entry(layout::EXPORT_TREE, 0o700)?;
    out.bytes(&below(layout::EXPORT_TREE, layout::RECORD), &record)?;
    out.tree(&dir, layout::EXPORT_TREE, 0, &pieces)?;
    let own = dir.own_stat()?.identity;
    if root.instances.stat(id.as_str())?.is_none_or(|named| named.identity != own) {
        // Deleted meanwhile: its files went one by one.
        return Err(Error::Gone { id: id.clone(), path: dir.path().to_owned() });
    }
    out.finish()
}

/// [`write()`] into a file, which appears whole and durable, or not at all.
pub(crate) fn to_file(root: &Root, id: &InstanceId, path: &Path, watch: impl FnMut(u64) -> bool) -> Result<Exported> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| Error::InvalidInput {
        what: "file name of an export",
        reason: format!("{} does not end in a file name in UTF-8; name a file", path.display()),
    })?;
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = Dir::open(above)?;
    // Not one name for all: two exports to one file must not write into each other's.
    let temporary = layout::temporary(&Uuid::new_v4().to_string());
    let file = dir.create_file(&temporary, FILE_MODE)?;
    let written = write(root, id, Watched { file, done: 0, watch }).and_then(|(watched, exported)| {
        watched.file.sync_all()?;
        dir.rename(&temporary, &dir, name)?;
        Ok(exported)
    });
    if written.is_err() {
        // The first error is the one to tell.
        let _ = dir.remove_file(&temporary);
    }
    let exported = written?;
    dir.sync()?;
    Ok(exported)
}

/// A file that is written, and who is told how much, and says whether to go on.
struct Watched<F> {
    file: File,
    done: u64,
    watch: F,
}

impl<F: FnMut(u64) -> bool> Write for Watched<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes).map_err(io::Error::other)?;
        self.done += bytes.len() as u64;
        if !(self.watch)(self.done) {
            let error = Error::io("finish", self.file.path(), io::Error::other("the export was stopped"));
            return Err(io::Error::other(error));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file of the event log, and how much of it belongs to the export.
struct Piece {
    name: String,
    /// The active file, which may be renamed at any moment. A full one stays what it is.
    open: Option<File>,
    /// Where to cut; none for the whole.
    len: Option<u64>,
}

/// The files that hold the events up to `last`.
fn events(instance: &Dir, last: u64) -> Result<Vec<Piece>> {
    let Some(dir) = instance.open_dir(layout::EVENTS)? else { return Ok(Vec::new()) };
    // The active file is opened before the names are listed: if it is renamed in between, it is in
    // the list as well.
    let active = dir.open_file(layout::EVENT_LOG)?;
    let mut full: Vec<u64> = dir.names()?.iter().filter_map(|name| layout::parse_event_segment(name)).collect();
    full.retain(|first| *first <= last);
    full.sort_unstable();
    let mut pieces: Vec<Piece> =
        full.iter().map(|first| Piece { name: layout::event_segment(*first), open: None, len: None }).collect();
    if let Some(file) = active
        && let Some(first) = first_seq(&file)?
        && first <= last
        && !full.contains(&first)
    {
        pieces.push(Piece { name: layout::EVENT_LOG.to_owned(), open: Some(file), len: None });
    }
    let Some(piece) = pieces.last_mut() else { return Ok(pieces) };
    let opened = if piece.open.is_none() { dir.open_file(&piece.name)? } else { None };
    if let Some(file) = piece.open.as_ref().or(opened.as_ref()) {
        piece.len = Some(end_of(file, last)?);
    }
    Ok(pieces)
}

/// Where the line of event `last` ends.
fn end_of(file: &File, last: u64) -> Result<u64> {
    let mut lines = Lines::new(file, 0);
    while let Some(line) = lines.next()? {
        match line.seq() {
            Some(seq) if seq == last => return Ok(lines.offset),
            Some(seq) if seq < last => {}
            _ => return Err(Error::corrupt(file.path(), Some(line.offset), "it is not the event that belongs here")),
        }
    }
    let reason = format!("event {last}, which the record knows, is not in it");
    Err(Error::corrupt(file.path(), Some(lines.offset), reason))
}

fn below(path: &str, name: &str) -> String {
    format!("{path}/{name}")
}

struct Output<W: Write> {
    tar: Builder<GzEncoder<W>>,
    at: DateTime<Utc>,
    done: Exported,
}

impl<W: Write> Output<W> {
    fn new(writer: W, record: &RawRecord) -> Self {
        // No name and no time in the header: the same instance gives the same bytes. Compressed
        // lightly: an export shares the processor with whoever is at work.
        let done = Exported {
            instance_id: record.id.clone(),
            revision: record.revision,
            last_event_seq: record.last_event_seq,
            entries: 0,
            bytes: 0,
            left_out: Vec::new(),
            left_out_total: 0,
        };
        Self { tar: Builder::new(GzBuilder::new().write(writer, Compression::fast())), at: Utc::now(), done }
    }

    fn header(&self, sort: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(sort);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(u64::try_from(self.at.timestamp()).unwrap_or(0));
        header
    }

    fn append(&mut self, path: &str, mode: u32, size: u64, content: impl Read) -> Result<()> {
        let mut header = self.header(EntryType::Regular, mode, size);
        self.tar.append_data(&mut header, path, content).map_err(unwritable)
    }

    fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.done.entries += 1;
        self.done.bytes += bytes.len() as u64;
        self.append(path, FILE_MODE, bytes.len() as u64, bytes)
    }

    fn manifest(&mut self, record: &RawRecord) -> Result<()> {
        let manifest = Manifest {
            format: FORMAT,
            instance_id: record.id.clone(),
            uid: record.uid,
            kind: record.kind.to_string(),
            revision: record.revision,
            epoch: record.epoch,
            last_event_seq: record.last_event_seq,
            exported_at: self.at,
            exported_by: concat!("fiefdom ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let mut bytes =
            serde_json::to_vec_pretty(&manifest).map_err(|e| crate::record::json::unserializable("manifest", &e))?;
        bytes.push(b'\n');
        self.append(layout::EXPORT_MANIFEST, FILE_MODE, bytes.len() as u64, &*bytes)
    }

    fn directory_entry(&mut self, path: &str, mode: u32) -> Result<()> {
        self.done.entries += 1;
        let mut header = self.header(EntryType::Directory, mode, 0);
        self.tar.append_data(&mut header, below(path, ""), io::empty()).map_err(unwritable)
    }

    fn leave_out(&mut self, path: &str, reason: &'static str) {
        self.done.left_out_total += 1;
        if self.done.left_out.len() < LISTED {
            let below = path.split_once('/').map_or(path, |(_, below)| below);
            self.done.left_out.push(LeftOut { path: below.to_owned(), reason });
        }
    }

    /// Everything below a directory, in order of names.
    fn tree(&mut self, dir: &Dir, path: &str, depth: usize, pieces: &[Piece]) -> Result<()> {
        let in_events = depth == 1 && path == below(layout::EXPORT_TREE, layout::EVENTS);
        if in_events {
            self.event_log(dir, path, pieces)?;
        }
        for name in dir.all_names()? {
            let Some(name) = name.to_str() else {
                self.leave_out(&below(path, &name.to_string_lossy()), "its name is not UTF-8");
                continue;
            };
            if depth == 0 && is_ours(name, &[layout::RECORD]) || in_events && is_event_log(name) {
                continue;
            }
            let Some(entry) = dir.entry(name.as_ref())? else { continue };
            let path = below(path, name);
            if path.len() > PATH_BYTES {
                self.leave_out(&path, "its path is too long");
                continue;
            }
            match entry.sort {
                Sort::Special => self.leave_out(&path, "it is a device, a pipe or a socket"),
                Sort::Link => self.link(dir, name, &path, depth)?,
                Sort::Directory if depth == DEPTH => self.leave_out(&path, "it is too many directories deep"),
                Sort::Directory => {
                    let Some(dir) = dir.open_dir(name)? else { continue };
                    self.directory_entry(&path, entry.mode)?;
                    self.tree(&dir, &path, depth + 1, pieces)?;
                }
                Sort::File => {
                    let Some(file) = dir.open_file(name)? else { continue };
                    let len = file.len()?;
                    self.file(&file, &path, entry.mode, len)?;
                }
            }
        }
        Ok(())
    }

    fn event_log(&mut self, dir: &Dir, path: &str, pieces: &[Piece]) -> Result<()> {
        for piece in pieces {
            let missing = || Error::corrupt(&dir.path_of(&piece.name), None, "it was removed meanwhile");
            let opened = if piece.open.is_none() { dir.open_file(&piece.name)? } else { None };
            let file = piece.open.as_ref().or(opened.as_ref()).ok_or_else(missing)?;
            let len = piece.len.map_or_else(|| file.len(), Ok)?;
            self.file(file, &below(path, &piece.name), FILE_MODE, len)?;
        }
        Ok(())
    }

    /// The first `len` bytes of a file, filled up with zeros should it become shorter meanwhile.
    fn file(&mut self, file: &File, path: &str, mode: u32, len: u64) -> Result<()> {
        let mut source = Source { file, offset: 0, len, short: false };
        self.append(path, mode, len, &mut source)?;
        self.done.entries += 1;
        self.done.bytes += len;
        if source.short {
            self.leave_out(path, "it became shorter while it was copied: zeros stand for the rest");
        }
        Ok(())
    }

    fn link(&mut self, dir: &Dir, name: &str, path: &str, depth: usize) -> Result<()> {
        let target = dir.read_link(name)?;
        let Some(target) = std::str::from_utf8(&target).ok().filter(|target| stays_inside(target, depth)) else {
            self.leave_out(path, "it is a link that may lead out of the instance");
            return Ok(());
        };
        self.done.entries += 1;
        let mut header = self.header(EntryType::Symlink, 0o777, 0);
        self.tar.append_link(&mut header, path, target).map_err(unwritable)
    }

    fn finish(self) -> Result<(W, Exported)> {
        let mut writer = self.tar.into_inner().and_then(GzEncoder::finish).map_err(unwritable)?;
        writer.flush().map_err(unwritable)?;
        Ok((writer, self.done))
    }
}

/// Whether it is one of these files, or was about to become one.
fn is_ours(name: &str, files: &[&str]) -> bool {
    files.iter().any(|file| name == *file || name == layout::temporary(file))
}

fn is_event_log(name: &str) -> bool {
    layout::parse_event_segment(name).is_some() || is_ours(name, &[layout::EVENT_LOG, layout::EVENT_STATE])
}

/// Exactly so many bytes of a file, whatever happens to it.
struct Source<'a> {
    file: &'a File,
    offset: u64,
    len: u64,
    short: bool,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.len - self.offset).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..wanted];
        let read = if self.short { 0 } else { self.file.read_at(buffer, self.offset).map_err(io::Error::other)? };
        if read < wanted {
            self.short = true;
            buffer[read..].fill(0);
        }
        self.offset += wanted as u64;
        Ok(wanted)
    }
}
