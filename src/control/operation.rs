//! What can be asked of whoever has an instance in use, and what comes back. Values alone: nothing is
//! sent or done here.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::error::Owner;
use crate::record::{Record, Status};

/// What can be asked of an instance by its id alone, whichever process has it in use.
///
/// ```
/// use fiefdom::control::{Change, Operation};
/// use serde_json::json;
///
/// let operation = Operation::Update(Change::new().merge(json!({ "priority": 2 })));
/// # let _ = operation;
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Operation {
    /// Call it off. Whoever works on it is asked to stop ([`Done::asked`]); when nobody does, its
    /// status becomes `cancelled`.
    Cancel,
    /// Hold it: its status becomes `paused`, and whoever works on it follows.
    Pause,
    /// Let it go on after a pause.
    Unpause,
    /// Change its state, its status, or both.
    Update(Change),
    /// Append an event.
    Append {
        /// The type of the event.
        kind: String,
        /// What there is to say about it.
        data: Value,
    },
    /// Answer what it asks: see [`InstanceRef::answer`](crate::InstanceRef::answer).
    Answer {
        /// The key of the question.
        key: String,
        /// The answer.
        value: Value,
    },
}

impl Operation {
    /// As they are called on the way.
    pub(crate) const NAMES: [&'static str; 6] = ["cancel", "pause", "unpause", "update", "append", "answer"];

    /// Whether doing it twice comes to the same as doing it once.
    pub(crate) fn is_repeatable(&self) -> bool {
        !matches!(self, Self::Append { .. } | Self::Answer { .. })
    }
}

/// A change of state and status. Empty by default, which changes nothing but the revision.
///
/// ```
/// use fiefdom::control::{Change, Operation};
/// use fiefdom::Status;
/// use serde_json::json;
///
/// # use fiefdom::{NewInstance, Store, Untyped};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let store = Store::open(dir.path(), Untyped).await?;
/// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
/// let change = Change::new().merge(json!({ "step": "publish", "error": null }));
/// let change = change.status(Status::Pending).reason("asked for by hand");
/// let done = store.control(build.id(), Operation::Update(change)).await?;
/// assert_eq!(done.record.state["step"], "publish");
/// # store.shutdown().await }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Change {
    /// A merge patch for the state (RFC 7386): objects are merged, `null` removes a key, everything
    /// else replaces. `None`: the state stays.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub merge: Option<Value>,
    /// The next status. `None`: it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Why, in a sentence for people. Only with a status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Change {
    /// A change of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Merges this into the state.
    #[must_use]
    pub fn merge(mut self, patch: Value) -> Self {
        self.merge = Some(patch);
        self
    }

    /// Moves it to this status.
    #[must_use]
    pub fn status(mut self, status: Status) -> Self {
        self.status = Some(status);
        self
    }

    /// Says why.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }
}

/// What is there is there, also when it is `null`: a patch may be.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// What an operation came to. It is durable, as durably as the store says that did it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Done {
    /// Whoever works on the instance was asked to stop, and has not stopped yet.
    pub asked: bool,
    /// `seq` of the event that [`Operation::Append`] or [`Operation::Answer`] appended.
    pub event_seq: Option<u64>,
    /// The record afterwards.
    pub record: Record<Value>,
    /// The process that did it; `None` when it was this store.
    pub owner: Option<Owner>,
}

/// RFC 7386: objects are merged, null removes, everything else replaces.
pub(crate) fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge_patch(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// A key that the patch sets and that the state did not take, because its type has no such field.
/// Empty values are not missed: a type may leave them out.
pub(crate) fn lost_key(patch: &Value, state: &Value) -> Option<String> {
    let (Value::Object(patch), Value::Object(state)) = (patch, state) else { return None };
    patch.iter().find_map(|(key, value)| match state.get(key) {
        Some(inner) => lost_key(value, inner).map(|path| format!("{key}.{path}")),
        None if is_empty(value) => None,
        None => Some(key.clone()),
    })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Bool(true) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The examples of RFC 7386, appendix A.
    #[test]
    fn a_merge_is_that_of_the_rfc() {
        let cases = [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ];
        for (mut target, patch, result) in cases {
            merge_patch(&mut target, &patch);
            assert_eq!(target, result);
        }
    }

    #[test]
    fn a_patch_that_is_null_survives_the_way() {
        let operation = Operation::Update(Change::new().merge(Value::Null));
        let text = serde_json::to_string(&operation).expect("json");
        assert_eq!(serde_json::from_str::<Operation>(&text).expect("an operation"), operation);
    }

    #[test]
    fn a_key_that_the_state_did_not_take_is_named() {
        let state = json!({"a": {"b": 1}});
        assert_eq!(lost_key(&json!({"a": {"b": 1, "c": "x"}}), &state), Some("a.c".into()));
        assert_eq!(lost_key(&json!({"a": {"b": 1, "c": null, "d": []}}), &state), None);
    }
}
