//! Archives of anybody's making.

use std::io::{Cursor, Write as _};
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use uuid::Uuid;

use super::{must, room};
use crate::admin::ImportOptions;
use crate::admin::archive::{self, Importer};
use crate::disk::fs::Dir;
use crate::disk::layout;
use crate::disk::root::Root;
use crate::disk::tree::Sort;
use crate::error::Error;
use crate::options::Options;
use crate::view::View;

const BLOCK: usize = 512;

/// A tar file, whose headers get their checksums and which gets its end, so that fuzzing comes behind
/// them; or, if it begins like one, a gzip file as it is.
pub fn archive_import(data: &[u8]) {
    import(data);
}

/// Says whether it was taken.
fn import(data: &[u8]) -> bool {
    let bytes = if data.starts_with(&[0x1F, 0x8B]) { data.to_vec() } else { packed(data) };
    let temp = room();
    // What lies beside the root is not for an archive to touch.
    let beside = must(Dir::open(temp.path()));
    let root = Arc::new(must(Root::open_or_create(&temp.path().join("root"), true)));
    let settings = Options::default();
    let by = Importer { root: &root, writer: Uuid::nil(), options: &settings, accepts: &|_, _| Ok(()) };
    let mut options = ImportOptions::default();
    (options.max_bytes, options.max_entries) = (1 << 20, 64);
    let outcome = archive::read(&by, Cursor::new(bytes), &options);
    assert_eq!(must(beside.names()), ["root"], "something was put beside the root");
    let rooms = must(root.internal.open_dir(layout::IMPORTS));
    assert!(rooms.is_none_or(|rooms| must(rooms.all_names()).is_empty()), "something is left of an import");
    assert!(must(root.trash.all_names()).is_empty());
    let found = must(root.instances.names());
    let made = match outcome {
        Ok(made) => made,
        Err(Error::InvalidInput { .. } | Error::NewerFormat { .. } | Error::TooLarge { .. }) => {
            assert!(found.is_empty(), "a refusal left {found:?}");
            return false;
        }
        Err(error) => panic!("an error of another sort: {error:?}"),
    };
    let id = made.instance_id;
    assert_eq!(found, [id.as_str()]);
    let view = View::on(Arc::clone(&root));
    let record = must(view.record(&id));
    assert_eq!((record.uid, record.origin()), (made.uid, Some(made.origin)));
    let (mut from, mut last) = (1, None);
    loop {
        let events = must(view.events(&id, from));
        let Some(event) = events.last() else { break };
        (from, last) = (event.seq + 1, Some(event.kind.clone()));
    }
    assert_eq!((from - 1, last.as_deref()), (record.last_event_seq, Some("instance.imported")));
    let dir = must(root.instances.open_dir(id.as_str()));
    if let Some(dir) = &dir {
        stays(dir, &must(dir.path().canonicalize()));
    }
    // What was imported can be exported, and that imported again.
    let (again, exported) = must(archive::write(&root, &id, Vec::new()));
    assert_eq!(exported.left_out_total, 0, "{:?}", exported.left_out);
    options.id = Some(must("again".parse()));
    options.max_bytes = 8 << 20;
    must(archive::read(&by, Cursor::new(again), &options));
    true
}

/// Nothing but files, directories and links, nothing with special bits, and no link leads out.
fn stays(dir: &Dir, top: &Path) {
    for name in must(dir.all_names()) {
        let Some(text) = name.to_str() else { panic!("{} is not UTF-8", name.display()) };
        match must(dir.entry(&name)).map(|entry| entry.sort) {
            Some(Sort::Directory) => {
                if let Some(below) = must(dir.open_dir(text)) {
                    stays(&below, top);
                }
            }
            Some(Sort::Link) => {
                // One that leads nowhere leads nowhere outside.
                if let Ok(leads) = dir.path_of(text).canonicalize() {
                    assert!(leads.starts_with(top), "{text} leads to {}", leads.display());
                }
                continue;
            }
            Some(Sort::File) => {}
            other => panic!("{text} is {other:?}"),
        }
        let mode = must(dir.stat(text)).map_or(0, |stat| stat.mode);
        assert_eq!(mode & 0o7000, 0, "{text} has the mode {mode:o}");
    }
}

fn packed(data: &[u8]) -> Vec<u8> {
    let mut tar = data.to_vec();
    tar.resize(data.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    let mut at = 0;
    while at + BLOCK <= tar.len() {
        let header = &mut tar[at..at + BLOCK];
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = std::str::from_utf8(&header[124..135]).unwrap_or_default();
        let size = usize::from_str_radix(digits.trim_matches([' ', '\0']), 8).unwrap_or(0);
        at = at.saturating_add(BLOCK).saturating_add(size.next_multiple_of(BLOCK));
    }
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    must(gz.write_all(&tar));
    must(gz.finish())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_has_archives_that_are_taken_and_such_that_are_not() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/archive_import");
        let files = std::fs::read_dir(dir).expect("a corpus").map(|entry| entry.expect("an entry").path());
        let taken: Vec<bool> = files.map(|path| super::import(&std::fs::read(path).expect("bytes"))).collect();
        let number = taken.iter().filter(|taken| **taken).count();
        assert!(number >= 5 && number * 2 < taken.len(), "{number} of {} are taken", taken.len());
    }
}
