//! An archive into a room of its own, with a refusal for everything that an export does not write.
//!
//! The archive may be anybody's. Every name is opened relative to a directory that was made here, one
//! at a time and never through a link; nothing is made that was there before; every byte counts
//! against a limit before it is written.

use std::io::{BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;
use tar::{Archive, Entry, EntryType};

use super::{DEPTH, FORMAT, ImportOptions, Manifest, NAME_BYTES, PATH_BYTES, refuse, stays_inside, unreadable};
use crate::disk::fs::{DIR_MODE, Dir, FILE_MODE};
use crate::disk::layout;
use crate::error::{Error, Result};
use crate::record::json;

/// Largest `export.json`, and largest header that says more about an entry, in bytes.
const MANIFEST_BYTES: u64 = 64 * 1024;
const EXTENSION_BYTES: u64 = 64 * 1024;

/// How much of a file is read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// What an archive ends with, at least, in zero bytes.
const END_BYTES: u64 = 512;

/// Extended headers that change nothing that is read here.
const HARMLESS: [&str; 7] = ["mtime", "atime", "ctime", "uid", "gid", "uname", "gname"];

/// Bytes that are counted while they are unpacked.
struct Counted<R> {
    inner: R,
    limit: u64,
    done: u64,
    /// Zero bytes at the end of what was read.
    zeros: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.done += read as u64;
        if self.done > self.limit {
            let reason = format!("it holds more than {} bytes, unpacked", self.limit);
            return Err(std::io::Error::other(refuse(format_args!(
                "{reason}; raise the limit if it is to be trusted"
            ))));
        }
        let tail = buffer[..read].iter().rev().take_while(|byte| **byte == 0).count() as u64;
        self.zeros = if tail == read as u64 { self.zeros + tail } else { tail };
        Ok(read)
    }
}

/// Unpacks into `room`. `begin` sees the manifest before anything else is read.
pub(super) fn unpack(
    reader: impl Read,
    room: &Dir,
    options: &ImportOptions,
    begin: impl FnOnce(&Manifest) -> Result<()>,
) -> Result<Manifest> {
    let gz = GzDecoder::new(BufReader::with_capacity(CHUNK_BYTES, reader));
    let mut archive = Archive::new(Counted { inner: gz, limit: options.max_bytes, done: 0, zeros: 0 });
    let mut begin = Some(begin);
    let mut manifest = None;
    let mut tree = Tree { room, open: Vec::new(), limit: options.max_bytes };
    let mut next = Next::default();
    let mut entries = 0;
    for entry in archive.entries().map_err(unreadable)?.raw(true) {
        let mut entry = entry.map_err(unreadable)?;
        entries += 1;
        if entries > options.max_entries {
            let limit = options.max_entries;
            return Err(refuse(format_args!(
                "it holds more than {limit} entries; raise the limit if it is to be trusted"
            )));
        }
        if next.take_extension(&mut entry)? {
            continue;
        }
        let said = std::mem::take(&mut next);
        if manifest.is_some() {
            tree.add(&mut entry, said)?;
        } else {
            let read = read_manifest(&mut entry, &said)?;
            if let Some(begin) = begin.take() {
                begin(&read)?;
            }
            manifest = Some(read);
        }
    }
    finish(archive.into_inner())?;
    match manifest {
        Some(manifest) if !tree.open.is_empty() => Ok(manifest),
        _ => Err(refuse("there is no instance in it")),
    }
}

/// Reads to the end, so that the checksum is compared; nothing may stand there.
fn finish(mut counted: Counted<GzDecoder<BufReader<impl Read>>>) -> Result<()> {
    let mut rest = [0; CHUNK_BYTES / 8];
    loop {
        let read = counted.read(&mut rest).map_err(unreadable)?;
        if rest[..read].iter().any(|byte| *byte != 0) {
            return Err(refuse("something stands behind its end"));
        }
        if read == 0 {
            break;
        }
    }
    if counted.zeros < END_BYTES {
        return Err(refuse("it ends too early"));
    }
    if !counted.inner.into_inner().fill_buf().map_err(unreadable)?.is_empty() {
        return Err(refuse("something stands behind its end"));
    }
    Ok(())
}

fn read_manifest(entry: &mut Entry<'_, impl Read>, said: &Next) -> Result<Manifest> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        format: u64,
    }
    let header = entry.header();
    let is_file = header.entry_type() == EntryType::Regular;
    if !is_file || said.path(entry)? != layout::EXPORT_MANIFEST.as_bytes() {
        return Err(refuse("it does not begin with export.json; only what `fiefdom export` wrote can be imported"));
    }
    let bytes = bounded(entry, MANIFEST_BYTES, layout::EXPORT_MANIFEST)?;
    let wrong = |e: serde_json::Error| refuse(format_args!("export.json in it is wrong: {e}"));
    let Versioned { format } = serde_json::from_slice(&bytes).map_err(wrong)?;
    if format > FORMAT {
        return Err(Error::NewerFormat { path: layout::EXPORT_MANIFEST.into(), found: format, supported: FORMAT });
    }
    json::check(&bytes).map_err(wrong)?;
    serde_json::from_slice(&bytes).map_err(wrong)
}

fn bounded(entry: &mut Entry<'_, impl Read>, limit: u64, what: &str) -> Result<Vec<u8>> {
    let size = entry.header().entry_size().map_err(unreadable)?;
    if size > limit {
        return Err(refuse(format_args!("{what} in it is larger than {limit} bytes")));
    }
    let mut bytes = Vec::new();
    entry.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(refuse("it ends too early")) }
}

/// What the headers before an entry say of it: names that are too long for its own.
#[derive(Default)]
struct Next {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Next {
    /// Takes in a header that is about the next entry; `false` when this is an entry itself.
    fn take_extension(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<bool> {
        match entry.header().entry_type() {
            EntryType::GNULongName => {
                let name = long_name(entry)?;
                Self::set(&mut self.name, name)?;
            }
            EntryType::GNULongLink => {
                let link = long_name(entry)?;
                Self::set(&mut self.link, link)?;
            }
            EntryType::XHeader => {
                let bytes = bounded(entry, EXTENSION_BYTES, "an extended header")?;
                self.take_pax(&bytes)?;
            }
            EntryType::XGlobalHeader => return Err(refuse("it has a header that is for all entries")),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set(slot: &mut Option<Vec<u8>>, name: Vec<u8>) -> Result<()> {
        match slot.replace(name) {
            None => Ok(()),
            Some(_) => Err(refuse("an entry of it has two names")),
        }
    }

    /// `<length> <key>=<value>\n`, again and again.
    fn take_pax(&mut self, mut bytes: &[u8]) -> Result<()> {
        let wrong = || refuse("an extended header in it is malformed");
        while !bytes.is_empty() {
            let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
            let len = std::str::from_utf8(&bytes[..space]).ok().and_then(|len| len.parse::<usize>().ok());
            let len = len.filter(|len| (space + 2..=bytes.len()).contains(len)).ok_or_else(wrong)?;
            let record = bytes[space + 1..len].strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match std::str::from_utf8(key).map_err(|_| wrong())? {
                "path" => Self::set(&mut self.name, value.to_vec())?,
                "linkpath" => Self::set(&mut self.link, value.to_vec())?,
                key if HARMLESS.contains(&key) => {}
                key => {
                    return Err(refuse(format_args!("an extended header in it says {key:?}, which no export writes")));
                }
            }
            bytes = &bytes[len..];
        }
        Ok(())
    }

    fn path(&self, entry: &Entry<'_, impl Read>) -> Result<Vec<u8>> {
        let path = self.name.clone().unwrap_or_else(|| entry.header().path_bytes().into_owned());
        if path.len() > PATH_BYTES { Err(refuse("a path in it is too long")) } else { Ok(path) }
    }
}

fn long_name(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>> {
    // One byte more: the name ends with a NUL.
    let mut name = bounded(entry, PATH_BYTES as u64 + 1, "a name")?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// The tree that is being made, with the directories to the last entry open.
struct Tree<'a> {
    room: &'a Dir,
    open: Vec<(String, Dir)>,
    limit: u64,
}

impl Tree<'_> {
    fn add(&mut self, entry: &mut Entry<'_, impl Read>, said: Next) -> Result<()> {
        let path = said.path(entry)?;
        let path = String::from_utf8(path).map_err(|e| {
            refuse(format_args!("the name {:?} in it is not UTF-8", String::from_utf8_lossy(e.as_bytes())))
        })?;
        let sort = entry.header().entry_type();
        let size = entry.header().entry_size().map_err(unreadable)?;
        let mode = entry.header().mode().map_err(unreadable)?;
        let is_dir = sort == EntryType::Directory;
        let plain = if is_dir { path.strip_suffix('/').unwrap_or(&path) } else { &path };
        let wrong = |reason: &str| refuse(format_args!("{path:?} in it {reason}"));
        let parts: Vec<&str> = plain.split('/').collect();
        check_path(&parts).map_err(&wrong)?;
        if mode & 0o7000 != 0 {
            return Err(wrong("has a set-user-id, set-group-id or sticky bit"));
        }
        if sort != EntryType::Regular && size != 0 {
            return Err(wrong("is no file and has content"));
        }
        if size > self.limit {
            return Err(wrong("is larger than the limit for the whole; raise the limit if it is to be trusted"));
        }
        let Some((name, above)) = parts.split_last() else { return Err(wrong("has no name")) };
        let depth = above.len();
        match sort {
            EntryType::Directory | EntryType::Regular | EntryType::Symlink => {}
            EntryType::Link => return Err(wrong("is a hard link")),
            EntryType::Char | EntryType::Block => return Err(wrong("is a device")),
            EntryType::Fifo => return Err(wrong("is a pipe")),
            _ => return Err(wrong("is neither a file, a directory nor a symbolic link")),
        }
        if depth == 0 && !is_dir {
            return Err(wrong("has to be a directory"));
        }
        self.enter(above).map_err(|e| e.unwrap_or_else(|| wrong("is in a directory that is not in it before")))?;
        // What the library reads and writes itself is its owner's alone, whatever the archive says.
        let mode = match parts.as_slice() {
            [_] => DIR_MODE,
            [_, name] if *name == layout::RECORD => FILE_MODE,
            [_, events, ..] if *events == layout::EVENTS => {
                if is_dir {
                    DIR_MODE
                } else {
                    FILE_MODE
                }
            }
            _ => mode,
        };
        let dir = self.open.last().map_or(self.room, |(_, dir)| dir);
        let twice = || wrong("is in it twice, or under names that this file system takes for one");
        let taken = |e: Error| if e.io_kind() == Some(std::io::ErrorKind::AlreadyExists) { twice() } else { e };
        match sort {
            EntryType::Directory => {
                if !dir.create_dir_with(name, mode & 0o777)? {
                    return Err(twice());
                }
                // Opened now: an instance without anything in it is one.
                self.enter(&parts).map_err(|e| e.unwrap_or_else(|| wrong("cannot be opened")))
            }
            EntryType::Symlink => {
                let target = said.link.or_else(|| entry.header().link_name_bytes().map(std::borrow::Cow::into_owned));
                let target = target.and_then(|target| String::from_utf8(target).ok()).unwrap_or_default();
                if !stays_inside(&target, depth - 1) {
                    return Err(wrong(&format!("is a link that may lead out of the instance, to {target:?}")));
                }
                dir.make_link(name, &target).map_err(taken)
            }
            _ => copy(entry, dir, name, mode, size).map_err(taken),
        }
    }

    /// Opens the directories on a path; those that are open already stay so. The error is none when
    /// there is no such directory.
    fn enter(&mut self, path: &[&str]) -> std::result::Result<(), Option<Error>> {
        let common = self.open.iter().zip(path).take_while(|((open, _), part)| open == *part).count();
        self.open.truncate(common);
        for part in &path[common..] {
            let above = self.open.last().map_or(self.room, |(_, dir)| dir);
            // A link or a file stands there: only this archive can have put it there.
            let dir = above.open_dir(part).map_err(|_| None)?.ok_or(None)?;
            self.open.push(((*part).to_owned(), dir));
        }
        Ok(())
    }
}

fn check_path(parts: &[&str]) -> std::result::Result<(), &'static str> {
    if parts.first() != Some(&layout::EXPORT_TREE) {
        return Err("is not below instance/");
    }
    if parts.len() > DEPTH + 2 {
        return Err("is too many directories deep");
    }
    for part in parts {
        match *part {
            "" | "." | ".." => return Err("is not a plain path"),
            part if part.len() > NAME_BYTES => return Err("has a name that is too long"),
            part if part.contains('\0') => return Err("has a NUL in its name"),
            _ => {}
        }
    }
    match parts {
        [_, events, state] if *events == layout::EVENTS && *state == layout::EVENT_STATE => {
            Err("is made anew by every import, and no export writes it")
        }
        _ => Ok(()),
    }
}

/// Writes a file, durably. Long rows of zeros become holes.
fn copy(entry: &mut Entry<'_, impl Read>, dir: &Dir, name: &str, mode: u32, size: u64) -> Result<()> {
    let file = dir.create_file(name, mode & 0o777)?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut done = 0;
    while done < size {
        let wanted = usize::try_from(size - done).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let read = entry.read(&mut buffer[..wanted]).map_err(unreadable)?;
        if read == 0 {
            return Err(refuse("it ends too early"));
        }
        if buffer[..read].iter().any(|byte| *byte != 0) {
            file.write_all_at(&buffer[..read], done)?;
        }
        done += read as u64;
    }
    file.set_len(size)?;
    file.sync_all()
}
