//! `instance.json`: the lifecycle metadata and the typed state of an instance. No file is read or
//! written here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::time::Time;
use super::work::{InputRequest, Work};
use super::{Alarm, AlarmEntry, InstanceId, Status, json, strict};
use crate::error::{Error, Result};

/// The version of the record format that this program writes, and the newest that it reads.
pub(crate) const FORMAT: u32 = 1;

/// Revisions, epochs and numbers of events stay below this, so that counting on never overflows. A
/// larger one is damage.
pub(crate) const COUNT_MAX: u64 = 1 << 62;

/// Most tags of an instance, and the longest key or value, in bytes.
const MAX_TAGS: usize = 64;
const MAX_TAG_BYTES: usize = 256;

/// Fields that are there only when there is something in them.
const CHECKPOINT_SEQ: &str = "checkpoint_seq";
const INPUT_REQUESTS: &str = "input_requests";

/// The durable record of an instance: one JSON document, `instance.json`.
///
/// It is given out as an immutable snapshot; only the instance's actor makes new ones, of what a
/// [`Transaction`](crate::Transaction) says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Record<S> {
    /// The id, equal to the name of the directory.
    pub id: InstanceId,
    /// New for every creation: tells an instance from an earlier one of the same id.
    pub uid: Uuid,
    /// The kind of instance ([`Instance::KIND`](crate::Instance::KIND)).
    pub kind: Cow<'static, str>,
    /// A name for people.
    pub name: Option<String>,
    /// Where the instance is in its life.
    pub status: Status,
    /// Why it is there, in a sentence.
    pub status_reason: Option<String>,
    /// When it was made (UTC).
    pub created_at: DateTime<Utc>,
    /// When the last commit was made (UTC).
    pub updated_at: DateTime<Utc>,
    /// When it first ran (UTC).
    pub started_at: Option<DateTime<Utc>>,
    /// When it reached a final status (UTC); none while it is in no final status.
    pub ended_at: Option<DateTime<Utc>>,
    /// Number of commits since the creation: 0 for the creation itself, then 1, 2, 3, … without a gap.
    pub revision: u64,
    /// The activation that wrote this revision.
    pub epoch: u64,
    /// The writer (a process that has the root open) that wrote this revision.
    pub writer: Uuid,
    /// How often work on it was begun: see
    /// [`Transaction::begin_attempt`](crate::Transaction::begin_attempt).
    pub attempt: u32,
    /// Labels for people and filters.
    pub tags: BTreeMap<String, String>,
    /// Whether retention must leave it alone.
    pub pinned: bool,
    /// `seq` of the last event, 0 when there is none.
    pub last_event_seq: u64,
    /// When it wants to be woken, if it does.
    pub alarm: Option<Alarm>,
    /// Version of the shape of `state`
    /// ([`Instance::SCHEMA_VERSION`](crate::Instance::SCHEMA_VERSION)).
    pub schema_version: u32,
    /// The user's document, shared and immutable.
    pub state: Arc<S>,
    /// The last checkpoint and the input requests, shared and immutable.
    pub(crate) work: Arc<Work>,
    /// Fields that this version does not know. They survive every rewrite.
    pub(crate) unknown: BTreeMap<String, Box<RawValue>>,
    /// How long the last record of this activation that was written whole is as compact JSON, if one
    /// was; a commit that changes the state alone does not measure the rest again.
    pub(crate) whole: Option<usize>,
}

/// A record whose state has not been parsed.
pub(crate) type RawRecord = Record<Box<RawValue>>;

impl<S> Record<S> {
    /// The same record with another state.
    pub(crate) fn with_state<T>(self, state: T) -> Record<T> {
        Record {
            id: self.id,
            uid: self.uid,
            kind: self.kind,
            name: self.name,
            status: self.status,
            status_reason: self.status_reason,
            created_at: self.created_at,
            updated_at: self.updated_at,
            started_at: self.started_at,
            ended_at: self.ended_at,
            revision: self.revision,
            epoch: self.epoch,
            writer: self.writer,
            attempt: self.attempt,
            tags: self.tags,
            pinned: self.pinned,
            last_event_seq: self.last_event_seq,
            alarm: self.alarm,
            schema_version: self.schema_version,
            state: Arc::new(state),
            work: self.work,
            unknown: self.unknown,
            whole: None,
        }
    }

    /// Moves to `next`, keeping the times of the life true.
    pub(crate) fn set_status(&mut self, next: Status, reason: Option<String>, at: DateTime<Utc>) -> Result<()> {
        if !self.status.can_become(next) {
            return Err(Error::Transition { id: self.id.clone(), from: self.status, to: next });
        }
        if next.is_running() {
            self.started_at.get_or_insert(at);
        }
        if next.is_final() {
            if !self.status.is_final() {
                self.ended_at = Some(at);
            }
        } else {
            self.ended_at = None;
        }
        self.status = next;
        self.status_reason = reason;
        Ok(())
    }

    /// How the index of the alarms knows the alarm, if there is one.
    pub(crate) fn alarm_entry(&self) -> Option<AlarmEntry> {
        let alarm = self.alarm.as_ref()?;
        Some(AlarmEntry::new(self.id.clone(), self.uid, &self.kind, alarm))
    }

    /// What the instance asks of people and is not answered yet, in the order in which it was asked.
    ///
    /// ```
    /// use std::time::Duration;
    /// use serde_json::json;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// # let asked = build.request_input_within("deploy", "Deploy?", json!(true), Duration::ZERO).await;
    /// # assert!(asked.is_err());
    /// # store.flush().await?;
    /// // Of a root that is only read: what is asked, of whom, since when.
    /// for record in store.view().list(&fiefdom::Filter::default())?.records {
    ///     for question in record.input_requests() {
    ///         println!("{} asks {:?} since {}", record.id, question.prompt, question.asked_at);
    ///     }
    /// }
    /// # store.shutdown().await }
    /// ```
    #[must_use]
    pub fn input_requests(&self) -> Vec<InputRequest> {
        self.work.open()
    }

    /// Checks the tags against their limits.
    pub(crate) fn check_tags(tags: &BTreeMap<String, String>) -> Result<()> {
        if tags.len() > MAX_TAGS {
            return Err(Error::TooLarge { what: "number of tags", bytes: tags.len() as u64, limit: MAX_TAGS as u64 });
        }
        let longest = tags.iter().map(|(k, v)| k.len().max(v.len())).max().unwrap_or(0);
        if longest > MAX_TAG_BYTES {
            return Err(Error::TooLarge { what: "tag", bytes: longest as u64, limit: MAX_TAG_BYTES as u64 });
        }
        if tags.keys().any(String::is_empty) {
            return Err(Error::InvalidInput { what: "tag", reason: "its key is empty; name it".into() });
        }
        Ok(())
    }
}

impl<S: Serialize> Record<S> {
    /// Checks that the record can be written, and read back: what JSON cannot hold is an error that
    /// names the field.
    pub(crate) fn check(&self, limit: usize) -> Result<()> {
        strict::check("state", &*self.state)?;
        let mut line = Vec::new();
        json::write_line(self, &mut line).map_err(|e| json::unserializable("state", &e))?;
        check_size(line.len(), limit)
    }
}

/// Checks the size of a record as compact JSON.
pub(crate) fn check_size(bytes: usize, limit: usize) -> Result<()> {
    if bytes <= limit {
        return Ok(());
    }
    Err(Error::TooLarge { what: "record", bytes: bytes as u64, limit: limit as u64 })
}

/// A record of whatever state that can be written down: what the commit log needs of it.
pub(crate) trait Document: Send + Sync {
    /// On one line, for the commit log.
    fn compact(&self) -> Result<Vec<u8>, serde_json::Error>;
    /// Indented, for `instance.json`, with a newline at the end.
    fn pretty(&self) -> Result<Vec<u8>, serde_json::Error>;
    /// See [`Record::alarm_entry`].
    fn alarm_entry(&self) -> Option<AlarmEntry>;
}

/// Runs the user's `Serialize`. It has run before, when the commit was made; but should it panic this
/// time, only its own instance suffers.
fn guarded(write: impl FnOnce() -> Result<Vec<u8>, serde_json::Error>) -> Result<Vec<u8>, serde_json::Error> {
    catch_unwind(AssertUnwindSafe(write))
        .unwrap_or_else(|_| Err(serde::ser::Error::custom("the Serialize of the state panicked")))
}

impl<S: Serialize + Send + Sync> Document for Record<S> {
    fn compact(&self) -> Result<Vec<u8>, serde_json::Error> {
        guarded(|| {
            let mut line = Vec::new();
            json::write_line(self, &mut line)?;
            Ok(line)
        })
    }

    fn pretty(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = guarded(|| serde_json::to_vec_pretty(self))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn alarm_entry(&self) -> Option<AlarmEntry> {
        Self::alarm_entry(self)
    }
}

impl RawRecord {
    /// Parses a record from its bytes; the state stays as it is.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let record: Self = serde_json::from_slice(bytes)?;
        if record.revision.max(record.epoch).max(record.last_event_seq) >= COUNT_MAX {
            return Err(serde::de::Error::custom("a revision, epoch or event number is too large to be one of ours"));
        }
        Ok(record)
    }

    /// The record with its state parsed.
    pub(crate) fn typed<S: DeserializeOwned>(self) -> Result<Record<S>, serde_json::Error> {
        let state = serde_json::from_str(self.state.get())?;
        Ok(self.with_state(state))
    }
}

impl<S: Serialize> Serialize for Record<S> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("format", &FORMAT)?;
        map.serialize_entry("instance_id", &self.id)?;
        map.serialize_entry("uid", &self.uid)?;
        map.serialize_entry("kind", &self.kind)?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("status", &self.status)?;
        map.serialize_entry("status_reason", &self.status_reason)?;
        map.serialize_entry("created_at", &Time(&self.created_at))?;
        map.serialize_entry("updated_at", &Time(&self.updated_at))?;
        map.serialize_entry("started_at", &self.started_at.as_ref().map(Time))?;
        map.serialize_entry("ended_at", &self.ended_at.as_ref().map(Time))?;
        map.serialize_entry("revision", &self.revision)?;
        map.serialize_entry("epoch", &self.epoch)?;
        map.serialize_entry("writer", &self.writer)?;
        map.serialize_entry("attempt", &self.attempt)?;
        map.serialize_entry("tags", &self.tags)?;
        map.serialize_entry("pinned", &self.pinned)?;
        map.serialize_entry("last_event_seq", &self.last_event_seq)?;
        if let Some(alarm) = &self.alarm {
            map.serialize_entry("alarm", alarm)?;
        }
        map.serialize_entry("schema_version", &self.schema_version)?;
        map.serialize_entry("state", &*self.state)?;
        if let Some(seq) = self.work.checkpoint_seq {
            map.serialize_entry(CHECKPOINT_SEQ, &seq)?;
        }
        if !self.work.requests.is_empty() {
            map.serialize_entry(INPUT_REQUESTS, &self.work.requests)?;
        }
        for (key, value) in &self.unknown {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for RawRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = BTreeMap::<String, Box<RawValue>>::deserialize(deserializer)?;
        let format: u32 = take(&mut fields, "format")?;
        if format > FORMAT {
            return Err(serde::de::Error::custom(format_args!("record format {format} is newer than {FORMAT}")));
        }
        let work = Work {
            checkpoint_seq: take_optional(&mut fields, CHECKPOINT_SEQ)?,
            requests: if fields.contains_key(INPUT_REQUESTS) {
                take(&mut fields, INPUT_REQUESTS)?
            } else {
                BTreeMap::new()
            },
        };
        Ok(Self {
            id: take(&mut fields, "instance_id")?,
            uid: take(&mut fields, "uid")?,
            kind: take(&mut fields, "kind")?,
            name: take_optional(&mut fields, "name")?,
            status: take(&mut fields, "status")?,
            status_reason: take_optional(&mut fields, "status_reason")?,
            created_at: take(&mut fields, "created_at")?,
            updated_at: take(&mut fields, "updated_at")?,
            started_at: take_optional(&mut fields, "started_at")?,
            ended_at: take_optional(&mut fields, "ended_at")?,
            revision: take(&mut fields, "revision")?,
            epoch: take(&mut fields, "epoch")?,
            writer: take(&mut fields, "writer")?,
            attempt: take(&mut fields, "attempt")?,
            tags: take(&mut fields, "tags")?,
            pinned: take(&mut fields, "pinned")?,
            last_event_seq: take(&mut fields, "last_event_seq")?,
            alarm: take_optional(&mut fields, "alarm")?,
            schema_version: take(&mut fields, "schema_version")?,
            state: Arc::new(take(&mut fields, "state")?),
            work: Arc::new(work),
            unknown: fields,
            whole: None,
        })
    }
}

fn take<T: DeserializeOwned, E: serde::de::Error>(
    fields: &mut BTreeMap<String, Box<RawValue>>,
    name: &'static str,
) -> Result<T, E> {
    let raw = fields.remove(name).ok_or_else(|| E::missing_field(name))?;
    serde_json::from_str(raw.get()).map_err(|e| E::custom(format_args!("field {name}: {e}")))
}

fn take_optional<T: DeserializeOwned, E: serde::de::Error>(
    fields: &mut BTreeMap<String, Box<RawValue>>,
    name: &'static str,
) -> Result<Option<T>, E> {
    if fields.contains_key(name) { take(fields, name) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"format":1,"instance_id":"a","uid":"018f4b6e-0000-7000-8000-000000000001","kind":"untyped","name":"größe",
        "status":"running","status_reason":null,"created_at":"2026-01-02T03:04:05.678901Z","updated_at":"2026-01-02T03:04:05Z",
        "started_at":null,"ended_at":null,"revision":7,"epoch":2,"writer":"018f4b6e-0000-7000-8000-000000000002","attempt":0,
        "tags":{"k":"v"},"pinned":false,"last_event_seq":3,"schema_version":1,"state":{"big":123456789012345678901234567890,"f":0.1},
        "later":{"n":1e400}}"#;

    #[test]
    fn unknown_fields_and_numbers_survive_a_rewrite_to_the_letter() {
        let record = RawRecord::parse(TEXT.as_bytes()).expect("a record");
        let text = String::from_utf8(record.pretty().expect("json")).expect("utf-8");
        assert!(text.contains("123456789012345678901234567890"), "{text}");
        assert!(text.contains("1e400"), "{text}");
        assert!(text.contains("größe"), "{text}");
        let again = RawRecord::parse(text.as_bytes()).expect("a record");
        assert_eq!(again.compact().expect("json"), record.compact().expect("json"));
    }

    #[test]
    fn a_wrong_type_or_missing_field_is_named() {
        let error =
            RawRecord::parse(TEXT.replace("\"revision\":7", "\"revision\":\"7\"").as_bytes()).expect_err("wrong type");
        assert!(error.to_string().contains("revision"), "{error}");
        let error = RawRecord::parse(TEXT.replace("\"epoch\":2,", "").as_bytes()).expect_err("missing");
        assert!(error.to_string().contains("epoch"), "{error}");
    }

    #[test]
    fn the_times_of_a_life_follow_the_status() {
        let mut record = RawRecord::parse(TEXT.as_bytes()).expect("a record");
        let at = record.created_at;
        record.set_status(Status::Failed, Some("broken".into()), at).expect("allowed");
        assert_eq!((record.ended_at, record.status_reason.as_deref()), (Some(at), Some("broken")));
        assert!(record.set_status(Status::Running, None, at).is_err());
        record.set_status(Status::Pending, None, at).expect("put back");
        assert_eq!(record.ended_at, None);
        record.set_status(Status::Running, None, at).expect("allowed");
        assert_eq!(record.started_at, Some(at));
    }
}
