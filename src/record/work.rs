//! What an instance has to show of its work between two attempts: its last checkpoint, and what it
//! asks of people. Values and their limits: no file is written, and nobody is waited for here.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{json, strict};

use crate::error::{Error, Result};

/// Longest name of a step, a worker or a tool, in bytes.
const NAME_BYTES: usize = 128;
/// Longest message of a checkpoint, in bytes.
const MESSAGE_BYTES: usize = 4 << 10;
/// Deepest nesting of a schema or an answer.
const DOCUMENT_DEPTH: usize = 64;
/// Most tools that a checkpoint names.
const TOOLS: usize = 64;

/// Where the work on an instance stands: enough to go on from.
///
/// It is written by [`InstanceRef::checkpoint`](crate::InstanceRef::checkpoint) and read back by
/// [`InstanceRef::last_checkpoint`](crate::InstanceRef::last_checkpoint).
///
/// ```
/// use fiefdom::Checkpoint;
/// use serde_json::json;
///
/// let checkpoint = Checkpoint::new("tests").message("12 of 40 pass").data(json!({ "next": 13 })).worker("agent-2").tool("cargo");
/// assert_eq!(checkpoint.data["next"], 13);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The step that is done, or that comes next: a name of 1 to 128 bytes.
    pub step: String,
    /// What there is to say about it, for people. At most 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What the work needs to go on. As large as an event may be
    /// ([`Options::event_bytes`](crate::Options), with everything else in it); keep what is larger
    /// in a file, and its name here.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
    /// Who did the work: the name of an agent, a worker, a model. At most 128 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// The tools that were used. At most 64, of at most 128 bytes each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
}

impl Checkpoint {
    /// A checkpoint at this step.
    #[must_use]
    pub fn new(step: impl Into<String>) -> Self {
        Self { step: step.into(), ..Self::default() }
    }

    /// What there is to say about it, for people.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// What the work needs to go on.
    #[must_use]
    pub fn data(mut self, data: Value) -> Self {
        self.data = data;
        self
    }

    /// Who did the work.
    #[must_use]
    pub fn worker(mut self, name: impl Into<String>) -> Self {
        self.worker = Some(name.into());
        self
    }

    /// One tool that was used, after those that are named already.
    #[must_use]
    pub fn tool(mut self, name: impl Into<String>) -> Self {
        self.tools.push(name.into());
        self
    }

    /// [`Checkpoint::data`] as a typed value.
    ///
    /// ```
    /// use fiefdom::Checkpoint;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize, PartialEq, Debug)]
    /// struct Place {
    ///     next: u64,
    /// }
    ///
    /// let checkpoint = Checkpoint::new("fetched").data(serde_json::json!(Place { next: 41 }));
    /// assert_eq!(checkpoint.data_as::<Place>()?, Place { next: 41 });
    /// # Ok::<(), fiefdom::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when it does not have that shape.
    pub fn data_as<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.data).map_err(|e| Error::InvalidInput {
            what: "data of a checkpoint",
            reason: format!("it does not have the expected shape: {e}; read it as the type that it was written as"),
        })
    }

    pub(crate) fn check(&self) -> Result<()> {
        check_name("step", &self.step)?;
        self.worker.iter().try_for_each(|name| check_name("worker", name))?;
        self.tools.iter().try_for_each(|name| check_name("tool", name))?;
        limit("number of tools of a checkpoint", self.tools.len(), TOOLS)?;
        limit("message of a checkpoint", self.message.as_ref().map_or(0, String::len), MESSAGE_BYTES)
    }
}

/// A checkpoint that is written: what `logs/checkpoint.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LastCheckpoint {
    /// `seq` of its event.
    pub seq: u64,
    /// When it was written (UTC).
    pub at: DateTime<Utc>,
    /// The attempt that wrote it; 0 when attempts are not counted.
    pub attempt: u32,
    /// What was written.
    #[serde(flatten)]
    pub checkpoint: Checkpoint,
}

/// The event of a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CheckpointEvent {
    pub(crate) attempt: u32,
    #[serde(flatten)]
    pub(crate) checkpoint: Checkpoint,
}

/// A question that an instance asks of people, and the answer when there is one: what
/// `events/input-requests/<key>.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InputRequest {
    /// Its name in the instance.
    pub key: String,
    /// The question, for people.
    pub prompt: String,
    /// The JSON schema that an answer must fit.
    pub schema: Value,
    /// `seq` of the event that asked.
    pub asked_seq: u64,
    /// When it was asked (UTC).
    pub asked_at: DateTime<Utc>,
    /// The answer; none while the question is open.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub answer: Option<Value>,
    /// `seq` of the event that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_seq: Option<u64>,
    /// When it was answered (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_at: Option<DateTime<Utc>>,
}

/// The record's part of the work. It is small: what is large is in the events that it names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Work {
    /// `seq` of the event of the last checkpoint.
    pub(crate) checkpoint_seq: Option<u64>,
    /// The requests that are open, and those that are answered, by key.
    pub(crate) requests: Requests,
}

pub(crate) type Requests = BTreeMap<String, Request>;

/// A request, as the record has it: open, or answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// `seq` of the event that asked.
    pub(crate) asked: u64,
    /// The question, while it is open: whoever answers needs nothing but the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) open: Option<Question>,
    /// `seq` of the event that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answered: Option<u64>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub(crate) unknown: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Question {
    pub(crate) at: DateTime<Utc>,
    pub(crate) prompt: String,
    pub(crate) schema: Value,
}

/// The event that asks.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AskedEvent {
    pub(crate) key: String,
    pub(crate) prompt: String,
    pub(crate) schema: Value,
}

/// The event that answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AnsweredEvent {
    pub(crate) key: String,
    pub(crate) asked: u64,
    pub(crate) answer: Value,
}

impl Work {
    /// The open requests, in the order in which they were asked.
    pub(crate) fn open(&self) -> Vec<InputRequest> {
        let open = |(key, request): (&String, &Request)| {
            let question = request.open.clone()?;
            Some(InputRequest {
                key: key.clone(),
                prompt: question.prompt,
                schema: question.schema,
                asked_seq: request.asked,
                asked_at: question.at,
                answer: None,
                answer_seq: None,
                answered_at: None,
            })
        };
        let mut open: Vec<InputRequest> = self.requests.iter().filter_map(open).collect();
        open.sort_by_key(|request| request.asked_seq);
        open
    }
}

impl InputRequest {
    /// Whether this is what the record has of the request.
    pub(crate) fn is(&self, request: &Request) -> bool {
        self.asked_seq == request.asked && self.answer_seq == request.answered
    }
}

/// An answer may be `null`, which is not the same as none.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Checks that a document can be stored, in at most `bytes` of compact JSON, nested at most
/// [`DOCUMENT_DEPTH`] levels: it stands some levels deep in a record, and is walked by recursion.
pub(crate) fn check_document(what: &'static str, value: &Value, bytes: usize) -> Result<()> {
    let mut text = Vec::new();
    strict::write(what, value, &mut text)?;
    limit(what, text.len(), bytes)?;
    if json::depth(&text) > DOCUMENT_DEPTH {
        let reason = format!("it is nested deeper than {DOCUMENT_DEPTH} levels; make it flatter");
        return Err(Error::InvalidInput { what, reason });
    }
    Ok(())
}

/// Checks a size against its limit.
pub(crate) fn limit(what: &'static str, size: usize, limit: usize) -> Result<()> {
    if size <= limit {
        return Ok(());
    }
    Err(Error::TooLarge { what, bytes: size as u64, limit: limit as u64 })
}

fn check_name(what: &'static str, name: &str) -> Result<()> {
    if name.is_empty() || name.chars().any(char::is_control) {
        let reason = format!("{name:?} is no name; give it at least one character, and no control characters");
        return Err(Error::InvalidInput { what, reason });
    }
    limit(what, name.len(), NAME_BYTES)
}
