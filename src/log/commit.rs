//! What a commit is, and how it stands in the commit log. No file is read or written here.
//!
//! A line is `<crc32 of the JSON, 8 hex digits> <JSON>\n`. There are three sorts: the header of a
//! segment, the mark of a batch, and a commit. `docs/format.md` shows each.

use std::cell::RefCell;
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
pub(crate) const JOURNAL_FORMAT: u32 = 3;

/// Bytes before the JSON of a line: eight digits and a space.
const PREFIX: usize = 9;

/// Before what a line says of the record.
const RECORD: &[u8] = b",\"record\":";
const STATE: &[u8] = b",\"state\":";

/// Most bytes of room that a thread keeps for its next line.
const ROOM_KEPT: usize = 64 << 10;

/// A commit of one instance, or several that follow each other and share a line, on the way to the
/// disk: all of them, or none.
pub(crate) struct Commit {
    pub(crate) lane: Arc<Lane>,
    /// Which run of unbroken commits of the lane it belongs to: see [`Lane::fail`].
    pub(crate) generation: u64,
    /// The revision that the first of them makes.
    pub(crate) first: u64,
    /// The revision that the last of them makes.
    pub(crate) revision: u64,
    pub(crate) at: DateTime<Utc>,
    pub(crate) last_event_seq: u64,
    /// Whether it is the last commit of the instance.
    pub(crate) deleted: bool,
    /// The record after the commit.
    pub(crate) record: Arc<dyn Document>,
    /// Whether its line holds the whole record, or only what changed.
    pub(crate) has_record: bool,
    /// Where its line stands among those of its batch, once it is queued.
    pub(crate) line: Range<usize>,
    pub(crate) events: Vec<EventLine>,
    pub(crate) durability: Durability,
    /// Whether the instance is at work after the commit.
    pub(crate) running: bool,
    /// Who waits for the first of them, and leads those who wait for the others.
    pub(crate) caller: Box<dyn Caller>,
}

impl Commit {
    /// What its line says of it.
    pub(crate) fn head(&self) -> Head<'_> {
        Head {
            id: &self.lane.id,
            uid: self.lane.uid,
            epoch: self.lane.epoch,
            first: self.first,
            revision: self.revision,
            at: self.at,
            last_event_seq: self.last_event_seq,
            deleted: self.deleted,
        }
    }

    /// How many commits it is.
    pub(crate) fn count(&self) -> usize {
        count(self.first, self.revision)
    }

    /// Whether it is the first commit of the instance.
    pub(crate) fn is_creation(&self) -> bool {
        self.first == 0
    }
}

/// Who waits for a commit. None of these may block.
pub(crate) trait Caller: Send {
    /// The commit, and those that share its line, are as durable as they asked to be. It is called in
    /// the order of the commits, before any later one can fail.
    fn applied(&mut self) {}

    /// Who waits for the other commits of the line, in their order. They are not there any more after
    /// this.
    fn others(&mut self) -> Vec<Box<dyn Caller>> {
        Vec::new()
    }

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
    /// The first revision of a line that holds more than one commit.
    #[serde(default)]
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    first: Option<u64>,
    /// The last revision, or the only one.
    pub(crate) revision: u64,
    pub(crate) at: DateTime<Utc>,
    pub(crate) last_event_seq: u64,
    /// The last commit of an instance: it is deleted.
    #[serde(default)]
    #[cfg_attr(test, serde(skip_serializing_if = "std::ops::Not::not"))]
    pub(crate) deleted: bool,
}

/// How many commits these revisions and those between them are.
fn count(first: u64, last: u64) -> usize {
    usize::try_from(last - first).map_or(usize::MAX, |between| between.saturating_add(1))
}

impl CommitMeta {
    pub(crate) fn first(&self) -> u64 {
        self.first.unwrap_or(self.revision)
    }

    /// How many commits the line holds.
    pub(crate) fn count(&self) -> usize {
        count(self.first(), self.revision)
    }
}

/// [`CommitMeta`], to be written.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) id: &'a InstanceId,
    pub(crate) uid: Uuid,
    pub(crate) epoch: u64,
    pub(crate) first: u64,
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
        if self.first != self.revision {
            line.extend_from_slice(b",\"first\":");
            serde_json::to_writer(&mut *line, &self.first)?;
        }
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
    /// How many commits each of the lines holds; empty when it is one each.
    #[serde(default)]
    counts: Vec<u64>,
}

impl BatchMark {
    /// Whose each line is, and how many commits it holds.
    pub(crate) fn lines(self) -> impl Iterator<Item = (InstanceId, u64)> {
        self.ids.into_iter().zip(self.counts.into_iter().chain(std::iter::repeat(1)))
    }
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

/// Most buffers that a thread keeps: of a body that is in the making, of the one that it takes the
/// place of, and of a head.
const ROOMS_KEPT: usize = 3;

thread_local! {
    /// The room of the last lines that were put together on this thread: the log copies lines.
    static ROOMS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes in a buffer that the thread uses again.
struct Room(Vec<u8>);

impl Room {
    fn new() -> Self {
        let mut bytes = ROOMS.with_borrow_mut(Vec::pop).unwrap_or_default();
        bytes.clear();
        Self(bytes)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.0.capacity() > ROOM_KEPT {
            return;
        }
        // It fails while the thread ends.
        let _ = ROOMS.try_with(|rooms| match &mut *rooms.borrow_mut() {
            rooms if rooms.len() < ROOMS_KEPT => rooms.push(std::mem::take(&mut self.0)),
            _ => {}
        });
    }
}

/// Bytes that are kept free before a body, for what comes before it in the line: enough for most ids,
/// so that a large state is not copied once more.
const FRONT: usize = 320;

/// What the line of a commit says of the record: nothing, the state, or all of it.
pub(crate) struct Body {
    /// Behind [`FRONT`].
    room: Room,
    /// How long the JSON of the record or the state is.
    pub(crate) json_len: usize,
}

impl Body {
    pub(crate) fn nothing() -> Self {
        let mut room = Room::new();
        room.0.resize(FRONT, b' ');
        Self { room, json_len: 0 }
    }

    /// The whole record.
    pub(crate) fn record(record: &impl Serialize) -> Result<Self, Error> {
        Self::of(RECORD, |room| json::write_line(record, room).map_err(|e| json::unserializable("state", &e)))
    }

    /// The state, if JSON can hold it.
    pub(crate) fn state(state: &impl Serialize) -> Result<Self, Error> {
        Self::of(STATE, |room| strict::write("state", state, room))
    }

    /// The whole record, of which this is the compact JSON.
    pub(super) fn encoded(record: &[u8]) -> Self {
        let mut body = Self::nothing();
        body.room.0.extend_from_slice(RECORD);
        body.room.0.extend_from_slice(record);
        body
    }

    fn of(key: &[u8], write: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>) -> Result<Self, Error> {
        let mut body = Self::nothing();
        body.room.0.extend_from_slice(key);
        write(&mut body.room.0)?;
        body.json_len = body.room.0.len() - FRONT - key.len();
        Ok(body)
    }
}

/// The line of a commit, until the log has copied it.
pub(crate) struct LineDraft {
    room: Room,
    begin: usize,
}

impl LineDraft {
    pub(crate) fn of(head: &Head<'_>, body: Body, events: &[EventLine]) -> Result<Self, serde_json::Error> {
        let mut room = body.room;
        let line = &mut room.0;
        for (index, event) in events.iter().enumerate() {
            line.extend_from_slice(if index == 0 { b",\"events\":[" } else { b"," });
            line.extend_from_slice(event.text.as_bytes());
        }
        line.extend_from_slice(if events.is_empty() { b"}" } else { b"]}" });
        let mut front = Room::new();
        front.0.resize(PREFIX, b' ');
        front.0.extend_from_slice(b"{\"commit\":");
        head.write(&mut front.0)?;
        let begin = FRONT.saturating_sub(front.0.len());
        line.splice(begin..FRONT, front.0.drain(..));
        seal(line, begin);
        Ok(Self { room, begin })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.room.0[self.begin..]
    }
}

/// The line of a header.
pub(crate) fn encode_header(header: &Header) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = vec![b' '; PREFIX];
    line.extend_from_slice(b"{\"journal\":");
    serde_json::to_writer(&mut line, header)?;
    line.push(b'}');
    seal(&mut line, 0);
    Ok(line)
}

/// The mark of a batch that begins when `durable` bytes of the segment are on disk, with a line of
/// each of these instances, of so many commits.
pub(crate) fn encode_mark<'a>(
    durable: u64,
    lines: impl Iterator<Item = (&'a InstanceId, usize)> + Clone,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = vec![b' '; PREFIX];
    line.extend_from_slice(b"{\"batch\":{\"durable\":");
    serde_json::to_writer(&mut line, &durable)?;
    line.extend_from_slice(b",\"ids\":[");
    for (index, (id, _)) in lines.clone().enumerate() {
        // An id holds nothing that JSON escapes.
        line.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
        line.extend_from_slice(id.as_str().as_bytes());
        line.push(b'"');
    }
    line.push(b']');
    if lines.clone().any(|(_, count)| count != 1) {
        line.extend_from_slice(b",\"counts\":");
        serde_json::to_writer(&mut line, &lines.map(|(_, count)| count).collect::<Vec<_>>())?;
    }
    line.extend_from_slice(b"}}");
    seal(&mut line, 0);
    Ok(line)
}

/// Puts the checksum in front of the line that begins there, and the newline behind.
fn seal(line: &mut Vec<u8>, begin: usize) {
    let crc = crc32fast::hash(&line[begin + PREFIX..]);
    for (place, digit) in line[begin..].iter_mut().zip((0..8).rev()) {
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
        Some(c) if c.first() > c.revision => Err("it begins behind its last revision".into()),
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
mod tests;
