//! The form in which requests and answers travel: one line of JSON each way. Nothing is done here.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::Arc;

use super::operation::Operation;
use crate::error::Error;
use crate::record::{InstanceId, Status, json};

/// The version of this form. An owner of another version does not answer it.
pub(super) const VERSION: u32 = 1;

/// What a request may have beside what goes into a record.
pub(super) const ENVELOPE_BYTES: usize = 64 << 10;

/// A request.
#[derive(Serialize)]
pub(super) struct Request<'a> {
    pub(super) version: u32,
    pub(super) id: &'a InstanceId,
    pub(super) operation: &'a Operation,
}

/// A request as it comes in: nothing in it is believed yet.
#[derive(Deserialize)]
struct Unchecked {
    version: u32,
    id: String,
    operation: Value,
}

/// An answer.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Done(WireDone),
    Refused(WireError),
    /// The instance is not live in this process, or on its way in or out.
    Elsewhere,
    /// The owner has another version of this form, or does not know the operation.
    Unsupported {
        version: u32,
    },
}

#[derive(Serialize, Deserialize)]
pub(crate) struct WireDone {
    pub(crate) asked: bool,
    pub(crate) event_seq: Option<u64>,
    pub(crate) record: Box<RawValue>,
}

/// An error by its meaning.
#[derive(Serialize, Deserialize)]
#[serde(tag = "error", rename_all = "snake_case")]
pub(super) enum WireError {
    InvalidInput { what: String, reason: String },
    Transition { id: InstanceId, from: Status, to: Status },
    TooLarge { what: String, bytes: u64, limit: u64 },
    Overloaded { what: String, limit: u64 },
    Unserializable { field: String, reason: String },
    NotApplied { id: InstanceId, reason: String },
    Unknown { id: InstanceId, reason: String },
    Poisoned { reason: String },
    Rejected { reason: String },
    Crashed { id: InstanceId },
    Closed,
    Other { reason: String },
}

/// Reads a request; else the answer to it.
pub(super) fn parse(line: &[u8]) -> Result<(InstanceId, Operation), Answer> {
    let refuse = |reason: String| Answer::Refused(WireError::InvalidInput { what: "control request".into(), reason });
    json::check(line).map_err(|e| refuse(e.to_string()))?;
    let request: Unchecked = serde_json::from_slice(line).map_err(|e| refuse(e.to_string()))?;
    let unsupported = || Answer::Unsupported { version: VERSION };
    if request.version != VERSION {
        return Err(unsupported());
    }
    let id = InstanceId::new(&request.id).map_err(|e| refuse(e.to_string()))?;
    let name = match &request.operation {
        Value::String(name) => Some(name.as_str()),
        Value::Object(fields) => fields.keys().next().map(String::as_str),
        _ => None,
    };
    // A newer version may have more operations: that is no fault of whoever asks.
    if name.is_some_and(|name| !Operation::NAMES.contains(&name)) {
        return Err(unsupported());
    }
    serde_json::from_value(request.operation).map(|operation| (id, operation)).map_err(|e| refuse(e.to_string()))
}

impl From<Error> for WireError {
    fn from(error: Error) -> Self {
        let reason = |reason: &Arc<Error>| reason.to_string();
        match error {
            Error::InvalidInput { what, reason } => Self::InvalidInput { what: what.into(), reason },
            Error::Transition { id, from, to } => Self::Transition { id, from, to },
            Error::TooLarge { what, bytes, limit } => Self::TooLarge { what: what.into(), bytes, limit },
            Error::Overloaded { what, limit } => Self::Overloaded { what: what.into(), limit },
            Error::Unserializable { field, reason } => Self::Unserializable { field, reason },
            Error::NotApplied { id, reason: why } => Self::NotApplied { id, reason: reason(&why) },
            Error::Unknown { id, reason: why } => Self::Unknown { id, reason: reason(&why) },
            Error::Poisoned { reason: why } => Self::Poisoned { reason: reason(&why) },
            Error::Rejected { source } => Self::Rejected { reason: source.to_string() },
            Error::Crashed { id } => Self::Crashed { id },
            Error::Closed => Self::Closed,
            other => Self::Other { reason: other.to_string() },
        }
    }
}

impl WireError {
    /// The error, as if it had come up here.
    pub(super) fn into_error(self, id: &InstanceId) -> Error {
        let cause = |reason: String| Arc::new(Error::rejected(reason));
        match self {
            Self::InvalidInput { what, reason } => Error::InvalidInput { what: known(&what), reason },
            Self::Transition { id, from, to } => Error::Transition { id, from, to },
            Self::TooLarge { what, bytes, limit } => Error::TooLarge { what: known(&what), bytes, limit },
            Self::Overloaded { what, limit } => Error::Overloaded { what: known(&what), limit },
            Self::Unserializable { field, reason } => Error::Unserializable { field, reason },
            Self::NotApplied { id, reason } => Error::NotApplied { id, reason: cause(reason) },
            Self::Unknown { id, reason } => Error::Unknown { id, reason: cause(reason) },
            Self::Poisoned { reason } => Error::Poisoned { reason: cause(reason) },
            Self::Rejected { reason } => Error::rejected(reason),
            Self::Crashed { id } => Error::Crashed { id },
            // The store that is shut down is not ours.
            Self::Closed => Error::Remote { id: id.clone(), reason: "it is shutting down; try again".into() },
            Self::Other { reason } => Error::Remote { id: id.clone(), reason },
        }
    }
}

/// The words that an error has for what is wrong are fixed in the program.
fn known(what: &str) -> &'static str {
    const WORDS: [&str; 13] = [
        "answer",
        "input request",
        "merge patch",
        "control request",
        "event data",
        "event type",
        "record",
        "event",
        "tag",
        "number of tags",
        "state",
        "operations waiting in one instance",
        "operations waiting in the store",
    ];
    WORDS.into_iter().find(|word| *word == what).unwrap_or("request")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_meaning_on_the_way() {
        let id = InstanceId::new("a").expect("an id");
        let errors = [
            Error::InvalidInput { what: "merge patch", reason: "no".into() },
            Error::Transition { id: id.clone(), from: Status::Succeeded, to: Status::Paused },
            Error::TooLarge { what: "record", bytes: 2, limit: 1 },
            Error::Overloaded { what: "operations waiting in the store", limit: 1 },
            Error::Unserializable { field: "state".into(), reason: "no".into() },
            Error::NotApplied { id: id.clone(), reason: Arc::new(Error::rejected("no room")) },
            Error::Unknown { id: id.clone(), reason: Arc::new(Error::rejected("fsync")) },
            Error::Poisoned { reason: Arc::new(Error::rejected("fsync")) },
            Error::rejected("not today"),
            Error::Crashed { id: id.clone() },
        ];
        for error in errors {
            let line = serde_json::to_vec(&WireError::from(error.clone())).expect("json");
            let back: WireError = serde_json::from_slice(&line).expect("an error");
            let back = back.into_error(&id);
            assert_eq!(std::mem::discriminant(&back), std::mem::discriminant(&error), "{error}");
            assert_eq!(back.to_string(), error.to_string());
        }
    }

    #[test]
    fn a_request_that_is_not_one_is_refused_and_a_newer_one_is_not_understood() {
        let refused = |text: &str| matches!(parse(text.as_bytes()), Err(Answer::Refused(_)));
        for text in [
            "",
            "{}",
            "[1]",
            r#"{"version":1,"id":"../a","operation":"cancel"}"#,
            r#"{"version":1,"id":"a","id":"b","operation":"cancel"}"#,
            r#"{"version":1,"id":"a","operation":{"update":{"status":"dead"}}}"#,
        ] {
            assert!(refused(text), "{text}");
        }
        assert!(refused(&format!(r#"{{"version":1,"id":"a","operation":{}"#, "[".repeat(500))));
        for text in [r#"{"version":2,"id":"a","operation":"cancel"}"#, r#"{"version":1,"id":"a","operation":"fly"}"#] {
            assert!(matches!(parse(text.as_bytes()), Err(Answer::Unsupported { version: 1 })), "{text}");
        }
        assert!(matches!(
            parse(br#"{"version":1,"id":"a","operation":"cancel"}"#),
            Ok((id, Operation::Cancel)) if id.as_str() == "a"
        ));
    }
}
