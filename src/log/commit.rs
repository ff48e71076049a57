//! What a commit is, and how it stands in the commit log. No file is read or written here.
//!
//! A line is `<crc32 of the JSON, 8 hex digits> <JSON>\n`. There are three sorts: the header of a
//! segment, the mark of a batch, and a commit. `docs/format.md` shows each.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::lane::Lane;
use crate::error::Error;
use crate::options::Durability;
use crate::record::{COUNT_MAX, Document, EventLine, InstanceId, json, strict, time};

/// The version of the commit log that this program writes, and the newest that it reads.
pub(crate) const JOURNAL_FORMAT: u32 = 2;

/// Bytes before the JSON of a line: eight digits and a space.
const PREFIX: usize = 9;

/// Before what a line says of the record.
const RECORD: &[u8] = b",\"record\":";
const STATE: &[u8] = b",\"state\":";

/// Most bytes of room that a thread keeps for its next line.
const ROOM_KEPT: usize = 64 << 10;

/// One atomic change of one instance, on its way to the disk.
pub(crate) struct Commit {
    pub(crate) lane: Arc<Lane>,
    /// Which run of unbroken commits of the lane it belongs to: see [`Lane::fail`].
    pub(crate) generation: u64,
    pub(crate) revision: u64,
    pub(crate) at: DateTime<Utc>,
    pub(crate) last_event_seq: u64,
    /// Whether it is the last commit of the instance.
    pub(crate) deleted: bool,
    /// The record after the commit.
    pub(crate) record: Arc<dyn Document>,
    /// Where its line stands among those of its batch, once it is queued.
    pub(crate) line: Range<usize>,
    /// Whether the line holds the whole record, or only what the commit changed.
    pub(crate) has_record: bool,
    pub(crate) events: Vec<EventLine>,
    pub(crate) durability: Durability,
    /// Whether the instance is at work after the commit.
    pub(crate) running: bool,
    pub(crate) caller: Box<dyn Caller>,
}

impl Commit {
    /// What its line says of it.
    pub(crate) fn head(&self) -> Head<'_> {
        Head {
            id: &self.lane.id,
            uid: self.lane.uid,
            epoch: self.lane.epoch,
            revision: self.revision,
            at: self.at,
            last_event_seq: self.last_event_seq,
            deleted: self.deleted,
        }
    }

    /// Whether it is the first commit of the instance.
    pub(crate) fn is_creation(&self) -> bool {
        self.revision == 0
    }
}

/// Who waits for a commit. Neither may block.
pub(crate) trait Caller: Send {
    /// The commit is as durable as it asked to be. It is called in the order of the commits, before
    /// any later one can fail.
    fn applied(&mut self) {}

    /// What became of it: told once, in the order of the commits, after [`Caller::applied`].
    fn told(self: Box<Self>, outcome: Result<(), Error>);
}

/// What identifies a commit (`uid`, `epoch`, `revision`), and what changes with every one.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct CommitMeta {
    pub(crate) id: InstanceId,
    pub(crate) uid: Uuid,
    pub(crate) epoch: u64,
    pub(crate) revision: u64,
    pub(crate) at: DateTime<Utc>,
    pub(crate) last_event_seq: u64,
    /// The last commit of an instance: it is deleted.
    #[serde(default)]
    #[cfg_attr(test, serde(skip_serializing_if = "std::ops::Not::not"))]
    pub(crate) deleted: bool,
}

/// [`CommitMeta`], to be written.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) id: &'a InstanceId,
    pub(crate) uid: Uuid,
    pub(crate) epoch: u64,
    pub(crate) revision: u64,
    pub(crate) at: DateTime<Utc>,
    pub(crate) last_event_seq: u64,
    pub(crate) deleted: bool,
}

impl Head<'_> {
    /// As JSON, without the machinery of serde: there is one in every line.
    fn write(&self, line: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let mut uid = Uuid::encode_buffer();
        // An id holds nothing that JSON escapes.
        line.extend_from_slice(b"{\"id\":\"");
        line.extend_from_slice(self.id.as_str().as_bytes());
        line.extend_from_slice(b"\",\"uid\":\"");
        line.extend_from_slice(self.uid.as_hyphenated().encode_lower(&mut uid).as_bytes());
        line.extend_from_slice(b"\",\"epoch\":");
        serde_json::to_writer(&mut *line, &self.epoch)?;
        line.extend_from_slice(b",\"revision\":");
        serde_json::to_writer(&mut *line, &self.revision)?;
        line.extend_from_slice(b",\"at\":");
        time::write(&self.at, line)?;
        line.extend_from_slice(b",\"last_event_seq\":");
        serde_json::to_writer(&mut *line, &self.last_event_seq)?;
        line.extend_from_slice(if self.deleted { b",\"deleted\":true}" } else { b"}" });
        Ok(())
    }
}

/// The first line of a segment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) format: u32,
    pub(crate) writer: Uuid,
    /// Tells a reboot (a power cut) from the death of a process.
    pub(crate) boot_id: String,
    pub(crate) segment: u64,
    /// Instances that this writer has at work.
    pub(crate) running: Vec<InstanceId>,
}

/// The first line of a batch.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct BatchMark {
    /// Bytes of the segment that were on disk before this batch was written. Damage before that
    /// point is corruption; damage behind it is a torn tail.
    pub(crate) durable: u64,
    /// The instance of each line that follows: when one cannot be read, it is known whose it was.
    pub(crate) ids: Vec<InstanceId>,
}

/// A line, read back.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Line {
    pub(crate) journal: Option<Header>,
    pub(crate) batch: Option<BatchMark>,
    pub(crate) commit: Option<CommitMeta>,
    pub(crate) record: Option<Box<RawValue>>,
    /// The state, of a commit that changed nothing else of the record.
    #[serde(deserialize_with = "present")]
    pub(crate) state: Option<Box<RawValue>>,
    pub(crate) events: Vec<Box<RawValue>>,
}

/// A value that is there, also when it is `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(deserializer).map(Some)
}

/// The line of a commit. `record` is compact JSON.
pub(crate) fn encode(
    head: &Head<'_>,
    record: Option<&[u8]>,
    events: &[EventLine],
) -> Result<LineDraft, serde_json::Error> {
    let mut line = LineDraft::begin(head)?;
    if let Some(record) = record {
        line.0.extend_from_slice(RECORD);
        line.0.extend_from_slice(record);
    }
    Ok(line.seal(events))
}

thread_local! {
    /// The room of the last line that was put together on this thread: the log copies lines.
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The line of a commit: while it is put together, and until the log has copied it.
pub(crate) struct LineDraft(Vec<u8>);

impl Drop for LineDraft {
    fn drop(&mut self) {
        if self.0.capacity() <= ROOM_KEPT {
            // It fails while the thread ends.
            let _ = ROOM.try_with(|room| room.set(std::mem::take(&mut self.0)));
        }
    }
}

impl LineDraft {
    pub(crate) fn begin(head: &Head<'_>) -> Result<Self, serde_json::Error> {
        let mut line = Self(ROOM.take());
        line.0.clear();
        line.0.resize(PREFIX, b' ');
        line.0.extend_from_slice(b"{\"commit\":");
        head.write(&mut line.0)?;
        Ok(line)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds the whole record, and says how long it is as compact JSON.
    pub(crate) fn record(&mut self, record: &impl Serialize) -> Result<usize, Error> {
        self.add(RECORD, |line| json::write_line(record, line).map_err(|e| json::unserializable("state", &e)))
    }

    /// Adds the state in the place of the record, if JSON can hold it, and says how long it is.
    pub(crate) fn state(&mut self, state: &impl Serialize) -> Result<usize, Error> {
        self.add(STATE, |line| strict::write("state", state, line))
    }

    fn add(&mut self, key: &[u8], write: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>) -> Result<usize, Error> {
        self.0.extend_from_slice(key);
        let begin = self.0.len();
        write(&mut self.0)?;
        Ok(self.0.len() - begin)
    }

    /// Adds the events, and what ends a line.
    pub(crate) fn seal(mut self, events: &[EventLine]) -> Self {
        let line = &mut self.0;
        for (index, event) in events.iter().enumerate() {
            line.extend_from_slice(if index == 0 { b",\"events\":[" } else { b"," });
            line.extend_from_slice(event.text.as_bytes());
        }
        line.extend_from_slice(if events.is_empty() { b"}" } else { b"]}" });
        seal(line);
        self
    }
}

/// The line of a header.
pub(crate) fn encode_header(header: &Header) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = vec![b' '; PREFIX];
    line.extend_from_slice(b"{\"journal\":");
    serde_json::to_writer(&mut line, header)?;
    line.push(b'}');
    seal(&mut line);
    Ok(line)
}

/// The mark of a batch that begins when `durable` bytes of the segment are on disk, with a line of
/// each of these instances.
pub(crate) fn encode_mark<'a>(
    durable: u64,
    ids: impl Iterator<Item = &'a InstanceId>,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = vec![b' '; PREFIX];
    line.extend_from_slice(b"{\"batch\":{\"durable\":");
    serde_json::to_writer(&mut line, &durable)?;
    line.extend_from_slice(b",\"ids\":[");
    for (index, id) in ids.enumerate() {
        // An id holds nothing that JSON escapes.
        line.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
        line.extend_from_slice(id.as_str().as_bytes());
        line.push(b'"');
    }
    line.extend_from_slice(b"]}}");
    seal(&mut line);
    Ok(line)
}

/// Puts the checksum in front, and the newline behind.
fn seal(line: &mut Vec<u8>) {
    let crc = crc32fast::hash(&line[PREFIX..]);
    for (place, digit) in line.iter_mut().zip((0..8).rev()) {
        *place = b"0123456789abcdef"[(crc >> (4 * digit)) as usize & 15];
    }
    line.push(b'\n');
}

/// Reads a line back (without its newline); the error says what is wrong with it.
pub(crate) fn decode(line: &[u8]) -> Result<Line, String> {
    let (crc, json) = line.split_at_checked(PREFIX).ok_or("the line is too short")?;
    let stated = std::str::from_utf8(&crc[..PREFIX - 1]).ok().and_then(|hex| u32::from_str_radix(hex, 16).ok());
    if crc[PREFIX - 1] != b' ' || stated != Some(crc32fast::hash(json)) {
        return Err("the checksum does not match".into());
    }
    let line: Line = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    match &line.commit {
        Some(c) if c.revision.max(c.epoch).max(c.last_event_seq) >= COUNT_MAX => {
            Err("a revision, epoch or event number is too large to be one of ours".into())
        }
        _ => Ok(line),
    }
}

/// Reads what stands in place of two lines whose newline is damaged: the checksum of the first
/// tells where it ends.
pub(crate) fn decode_merged(bytes: &[u8]) -> Option<[Line; 2]> {
    let (crc, json) = bytes.split_at_checked(PREFIX)?;
    let stated = u32::from_str_radix(std::str::from_utf8(&crc[..PREFIX - 1]).ok()?, 16).ok()?;
    let mut hasher = crc32fast::Hasher::new();
    for (index, byte) in json.iter().enumerate() {
        hasher.update(std::slice::from_ref(byte));
        if hasher.clone().finalize() == stated {
            let (first, rest) = bytes.split_at(PREFIX + index + 1);
            return Some([decode(first).ok()?, decode(rest.get(1..)?).ok()?]);
        }
    }
    None
}

/// Whether a damaged line is, or holds, a commit: a mark or a header that is damaged costs nobody
/// a commit.
pub(crate) fn looks_like_commit(bytes: &[u8]) -> bool {
    bytes.windows(10).any(|at| at == b"{\"commit\":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lines_without_a_newline_between_them_are_both_read() {
        let mark = encode_mark(7, std::iter::once(&meta().id)).expect("encode");
        let line = encode(&head(&meta()), None, &[]).expect("encode");
        let mut merged = [&mark, line.bytes()].concat();
        merged.pop();
        let at = merged.iter().position(|b| *b == b'\n').expect("a newline");
        merged[at] = b'J';
        let [mark, line] = decode_merged(&merged).expect("both");
        assert_eq!((mark.batch.map(|b| b.durable), line.commit.map(|c| c.revision)), (Some(7), Some(2)));
        merged[at + 20] ^= 1;
        assert!(decode_merged(&merged).is_none());
    }

    fn meta() -> CommitMeta {
        CommitMeta {
            id: InstanceId::new("a").expect("an id"),
            uid: Uuid::nil(),
            epoch: 1,
            revision: 2,
            at: DateTime::UNIX_EPOCH,
            last_event_seq: 3,
            deleted: false,
        }
    }

    fn head(meta: &CommitMeta) -> Head<'_> {
        let CommitMeta { id, uid, epoch, revision, at, last_event_seq, deleted } = meta;
        Head {
            id,
            uid: *uid,
            epoch: *epoch,
            revision: *revision,
            at: *at,
            last_event_seq: *last_event_seq,
            deleted: *deleted,
        }
    }

    #[test]
    fn a_commit_reads_back_to_the_letter() {
        let event = EventLine { seq: 3, text: r#"{"seq":3,"n":123456789012345678901234567890}"#.into() };
        let line = encode(&head(&meta()), Some(br#"{"x":1e400}"#), &[event.clone(), event]).expect("encode");
        let read = decode(line.bytes().strip_suffix(b"\n").expect("a newline")).expect("decode");
        assert_eq!(read.record.map(|r| r.get().to_owned()).as_deref(), Some(r#"{"x":1e400}"#));
        assert_eq!(read.events[1].get(), r#"{"seq":3,"n":123456789012345678901234567890}"#);
        assert_eq!(read.commit.map(|c| c.revision), Some(2));
    }

    #[test]
    fn what_identifies_a_commit_is_written_as_its_fields_say() {
        let at = "2026-01-02T03:04:05.678901Z".parse().expect("a time");
        let deleted = CommitMeta { at, deleted: true, uid: Uuid::now_v7(), epoch: u64::MAX, ..meta() };
        for meta in [meta(), deleted] {
            let mut written = Vec::new();
            head(&meta).write(&mut written).expect("JSON");
            assert_eq!(String::from_utf8(written).expect("text"), serde_json::to_string(&meta).expect("JSON"));
        }
    }

    #[test]
    fn a_state_reads_back_also_when_it_is_null() {
        for text in ["null", "1e400", r#"{"a":[null]}"#] {
            let state: Box<RawValue> = serde_json::from_str(text).expect("JSON");
            let mut line = LineDraft::begin(&head(&meta())).expect("begin");
            assert_eq!(line.state(&state).expect("encode"), text.len());
            let read = decode(line.seal(&[]).bytes().strip_suffix(b"\n").expect("a newline")).expect("decode");
            assert_eq!(read.state.as_deref().map(RawValue::get), Some(text));
            assert!(read.record.is_none());
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let line = encode(&head(&meta()), None, &[]).expect("encode");
        let line = line.bytes().strip_suffix(b"\n").expect("a newline");
        for at in 0..line.len() {
            let mut broken = line.to_vec();
            broken[at] ^= 1;
            // A digit of the checksum may change its case and mean the same; no other change may.
            assert!(decode(&broken).is_err() || broken.eq_ignore_ascii_case(line), "byte {at}");
        }
    }
}
