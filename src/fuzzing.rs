//! What the fuzz targets in `fuzz/` run, and what must be true of any bytes whatever: nothing
//! panics, what parses is written back and parses to the same, damage is never accepted in silence.

mod archive;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use serde_json::json;

use crate::disk::fs::{Dir, FILE_MODE};
use crate::disk::layout;
use crate::disk::root::Root;
use crate::error::Error;
use crate::jobs;
use crate::log::commit;
use crate::log::events::{EventReader, EventWriter, Lines};
use crate::log::{activate, recover, segment};
use crate::record::{COUNT_MAX, Document as _, EventLine, InstanceId, json as strict_json};

pub use archive::archive_import;

/// The writer whose segment is fuzzed.
const WRITER: &str = "11111111-2222-4333-8444-555555555555";

/// The instance whose record or events are fuzzed.
const ID: &str = "a";

fn must<T, E: Debug>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("the file system of the test failed: {error:?}"),
    }
}

/// In memory where that can be had: each input makes a directory and flushes it.
fn room() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| must(tempfile::tempdir()))
}

fn scratch() -> (tempfile::TempDir, Dir) {
    let temp = room();
    let dir = must(Dir::open(temp.path()));
    (temp, dir)
}

fn put(dir: &Dir, name: &str, bytes: &[u8]) {
    must(must(dir.create_file(name, FILE_MODE)).write_all(bytes));
}

fn bytes_of(dir: &Dir, name: &str) -> Vec<u8> {
    must(dir.open_file(name)).map(|file| must(file.read_all(1 << 30))).unwrap_or_default()
}

/// `instance.json`.
pub fn record(data: &[u8]) {
    let (_temp, dir) = scratch();
    let id = must(InstanceId::new(ID));
    let record = match activate::parse(&dir, &id, data) {
        Ok(record) => record,
        Err(Error::Corrupt { offset, .. }) => {
            assert!(offset.is_none_or(|at| at <= data.len() as u64), "the offset is outside of the file");
            return;
        }
        Err(Error::NewerFormat { found, supported, .. }) => return assert!(found > supported),
        Err(error) => panic!("an error of another sort: {error:?}"),
    };
    assert!(strict_json::check(data).is_ok(), "a duplicate key or deep nesting was accepted");
    assert_eq!(record.id, id);
    let largest = record.revision.max(record.epoch).max(record.last_event_seq);
    assert!(largest < COUNT_MAX, "a number that cannot be ours was accepted");
    let compact = must(record.compact());
    for written in [must(record.pretty()), compact.clone()] {
        let again = must(activate::parse(&dir, &id, &written));
        assert_eq!(must(again.compact()), compact, "a rewrite changed the record");
    }
    // Whether a state has the shape that a caller wants is another question, and not a panic.
    let _ = record.typed::<serde_json::Value>();
}

/// `events.jsonl`; behind a NUL, if there is one, `state.json`.
pub fn event_file(data: &[u8]) {
    let (_temp, instance) = scratch();
    let dir = must(instance.ensure_dir(layout::EVENTS));
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let log = parts.next().unwrap_or_default();
    let state = parts.next();
    put(&dir, layout::EVENT_LOG, log);
    if let Some(state) = state {
        put(&dir, layout::EVENT_STATE, state);
    }
    let loaded = EventWriter::load(&instance, 0, u64::MAX);
    assert_eq!(bytes_of(&dir, layout::EVENT_LOG), log, "loading changed the log");
    // Whatever stands there, a reader ends, and gives events in order.
    let mut reader = EventReader::new(1);
    let mut last = 0;
    while let Ok(events) = reader.read(&instance) {
        if events.is_empty() {
            break;
        }
        for event in events {
            assert!(event.seq > last, "event {} after event {last}", event.seq);
            last = event.seq;
        }
    }
    let (Ok(mut writer), None) = (loaded, state) else { return };
    // Without a cache every line was looked at.
    let mut expected = None;
    let mut end = 0;
    let file = must(dir.open_file(layout::EVENT_LOG));
    if let Some(file) = &file {
        let mut lines = Lines::new(file, 0);
        while let Some(line) = must(lines.next()) {
            let event = must(line.event());
            assert!(expected.is_none_or(|seq| seq == event.seq), "a gap was accepted");
            expected = event.seq.checked_add(1);
            end = lines.offset;
        }
    }
    assert_eq!(end, log.len() as u64, "a torn tail was accepted");
    assert_eq!(expected.map_or(0, |next| next - 1), writer.last_seq());
    let Some(seq) = writer.last_seq().checked_add(1) else { return };
    let text = format!(r#"{{"seq":{seq},"at":"2026-01-01T00:00:00Z","epoch":1,"type":"t","data":null}}"#);
    must(writer.append(&instance, &[EventLine { seq, text: text.as_str().into() }]));
    assert_eq!(bytes_of(&dir, layout::EVENT_LOG), [log, text.as_bytes(), b"\n"].concat());
    assert_eq!(must(EventWriter::load(&instance, 0, u64::MAX)).last_seq(), seq);
}

/// A segment of the commit log. A line that begins with `{` gets its checksum first, so that
/// fuzzing comes behind it.
pub fn log_segment(data: &[u8]) {
    let bytes = sealed(data);
    let temp = room();
    let root = Arc::new(must(Root::open_or_create(temp.path(), true)));
    let (number, writer) = (layout::journal_segment(1), must(root.writers.ensure_dir(WRITER)));
    put(&writer, &number, &bytes);
    let read = must(writer.open_file(&number)).map(|file| segment::read(&file));
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let blank = |line: &[u8]| line.iter().all(|byte| *byte == b' ');
    if let Some(Ok(contents)) = &read {
        let whole = lines.len() - 1;
        let bad = lines[..whole].iter().any(|line| !blank(line) && commit::decode(line).is_err());
        let reported = contents.torn.is_some() || !contents.damaged.is_empty();
        assert_eq!(reported, bad || !blank(lines[whole]), "damage was accepted in silence");
    }
    put(&writer, layout::WRITER_LOCK, b"");
    if recover::recover(&root, None).is_err() {
        assert_eq!(bytes_of(&writer, &number), bytes, "a recovery that failed changed the log");
        return;
    }
    if let Some(Ok(contents)) = &read {
        // What could not be read is kept, to the byte.
        let kept: Vec<u8> = quarantined(&root).concat();
        for damage in contents.damaged.iter().chain(&contents.torn) {
            let from = usize::try_from(damage.offset).unwrap_or(usize::MAX);
            let line = bytes[from..].split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
            assert!(holds(&kept, line), "damaged bytes are gone: {}", damage.reason);
        }
    }
    if must(root.quarantine.names()).iter().any(|name| name.ends_with(".blocked.json")) {
        // An instance is out of use: the commits that were not applied are kept, to the byte.
        let kept: Vec<u8> = quarantined(&root).concat();
        assert!(holds(&kept, bytes.trim_ascii_end()), "the log of a blocked instance is gone");
    }
    let once = tree(&root.instances);
    // Dying at the end of it, and recovering again.
    let writer = must(root.writers.ensure_dir(WRITER));
    put(&writer, &number, &bytes);
    put(&writer, layout::WRITER_LOCK, b"");
    must(recover::recover(&root, None));
    assert_eq!(tree(&root.instances), once, "a second recovery gives something else");
}

/// A job file.
pub fn job_line(data: &[u8]) {
    let check = |id: &str| InstanceId::new(id).map(drop).map_err(|e| e.to_string());
    let found = match jobs::parse_job_file(data, check) {
        Ok(found) => found,
        Err(problems) => {
            assert!((1..=21).contains(&problems.len()));
            return assert!(problems.iter().all(|problem| !problem.message.is_empty()));
        }
    };
    assert!(!found.is_empty());
    for job in found {
        assert!(!job.cmd.trim().is_empty() && !job.cmd.contains('\0'));
        assert!(job.env.iter().all(|(k, v)| !k.is_empty() && !k.contains(['=', '\0']) && !v.contains('\0')));
        let mut line = json!({ "cmd": job.cmd, "env": job.env, "tags": job.tags });
        if let Some(id) = &job.id {
            assert!(InstanceId::new(id).is_ok());
            line["id"] = json!(id);
        }
        let line = line.to_string();
        // Written as JSON a line can be longer than a line may be.
        if line.len() < 128 << 10 && !line.contains("\\u0000") {
            let again = must(jobs::parse_job_file(&line, check));
            assert_eq!(again, [jobs::JobLine { line: 1, ..job }]);
        }
    }
}

fn sealed(data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(data.len() + 64);
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b"{") {
            let json = line.strip_suffix(b"\n").unwrap_or(line);
            bytes.extend_from_slice(format!("{:08x} ", crc32fast::hash(json)).as_bytes());
        }
        bytes.extend_from_slice(line);
    }
    bytes
}

fn holds(all: &[u8], part: &[u8]) -> bool {
    part.is_empty() || all.windows(part.len()).any(|at| at == part)
}

fn quarantined(root: &Root) -> Vec<Vec<u8>> {
    must(root.quarantine.names()).iter().map(|name| bytes_of(&root.quarantine, name)).collect()
}

/// Every file below a directory with its bytes.
fn tree(dir: &Dir) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for name in must(dir.names()) {
        match dir.open_dir(&name) {
            Ok(Some(below)) => {
                found.insert(format!("{name}/"), Vec::new());
                found.extend(tree(&below).into_iter().map(|(path, bytes)| (format!("{name}/{path}"), bytes)));
            }
            _ => {
                found.insert(name.clone(), bytes_of(dir, &name));
            }
        }
    }
    found
}

/// Every target by its name, which is also the name of its corpus.
#[expect(clippy::type_complexity, reason = "a name for it would hide what it is")]
pub const TARGETS: [(&str, fn(&[u8])); 5] = [
    ("record", record),
    ("event_file", event_file),
    ("log_segment", log_segment),
    ("job_line", job_line),
    ("archive_import", archive_import),
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Mutations for each target, of the files of its corpus in turn; a longer campaign sets
    /// `FIEFDOM_TEST_MUTATIONS`.
    const MUTATIONS: usize = 500;

    /// Numbers at the ends of what a field can hold, of what is accepted (`COUNT_MAX`), and beyond.
    const EXTREMES: [&str; 8] = [
        "0",
        "7",
        "4294967296",
        "4611686018427387903",
        "4611686018427387904",
        "18446744073709551615",
        "18446744073709551616",
        "-1",
    ];

    fn files(target: &str) -> Vec<(String, Vec<u8>)> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut files: Vec<_> = std::fs::read_dir(dir)
            .expect("a corpus")
            .map(|entry| {
                let path = entry.expect("an entry").path();
                (path.display().to_string(), std::fs::read(&path).expect("a file"))
            })
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{target} has no corpus");
        files
    }

    /// The failure of a target on an input, if it fails.
    fn failure(target: fn(&[u8]), bytes: &[u8]) -> Option<String> {
        let panic = std::panic::catch_unwind(|| target(bytes)).err()?;
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Some(format!("{} on {:?}", said.unwrap_or_default(), String::from_utf8_lossy(bytes)))
    }

    #[test]
    fn every_input_of_the_corpora_is_taken() {
        let mut count = 0;
        let mut failures = Vec::new();
        for (name, target) in TARGETS {
            for (path, bytes) in files(name) {
                failures.extend(failure(target, &bytes).map(|said| format!("{path}: {said}")));
                count += 1;
            }
        }
        assert!(failures.is_empty(), "{failures:#?}");
        crate::tests::shown!("{count} inputs of the fuzzing corpora, 0 failures");
    }

    /// A sequence that looks random (xorshift64*), the same in every run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).expect("64 bits") % limit.max(1)
        }

        fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 => bytes.truncate(at),
                2 => bytes.insert(at, b"{}[],:\"\n \\019\xff"[self.below(14)]),
                3 => drop(bytes.drain(at..(at + 1 + self.below(8)).min(bytes.len()))),
                4 => {
                    // A number becomes an extreme one.
                    if let Some(digit) = bytes.iter().skip(at).position(u8::is_ascii_digit) {
                        let end = bytes[at + digit..].iter().take_while(|b| b.is_ascii_digit()).count();
                        let extreme = EXTREMES[self.below(EXTREMES.len())];
                        bytes.splice(at + digit..at + digit + end, extreme.bytes());
                    }
                }
                _ => {
                    let from = self.below(other.len());
                    let part = &other[from..(from + self.below(200)).min(other.len())];
                    bytes.splice(at..at, part.iter().copied());
                }
            }
        }
    }

    #[test]
    fn mutations_of_the_corpora_are_taken() {
        let mutations =
            std::env::var("FIEFDOM_TEST_MUTATIONS").map_or(MUTATIONS, |text| text.parse().expect("a number"));
        let mut random = Random(0x5EED);
        let mut count = 0;
        let mut failures = Vec::new();
        for (name, target) in TARGETS {
            let files = files(name);
            for (path, bytes) in files.iter().cycle().take(mutations) {
                let mut mutant = bytes.clone();
                for _ in 0..=random.below(3) {
                    let other = random.below(files.len());
                    random.mutate(&mut mutant, &files[other].1);
                }
                failures.extend(failure(target, &mutant).map(|said| format!("{path}: {said}")));
                count += 1;
            }
        }
        assert!(failures.is_empty(), "{failures:#?}");
        crate::tests::shown!("{count} mutations of the fuzzing corpora, 0 failures");
    }
}
