//! One line of an instance's event log. It is numbered here, and never written.

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{json, strict};
use crate::error::{Error, Result};

/// Longest event type, in bytes: it is a name, not a message.
const MAX_TYPE_BYTES: usize = 128;

/// One event of an instance, as it stands in `events/events.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// Number of the event in its instance: 1, 2, 3, … without a gap.
    pub seq: u64,
    /// When it was written (UTC). Times never order things; `seq` does.
    #[serde(serialize_with = "super::time::serialize")]
    pub at: DateTime<Utc>,
    /// The activation that wrote it.
    pub epoch: u64,
    /// What happened, such as `job.started`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the caller said about it, as it was written.
    pub data: Box<RawValue>,
}

impl Event {
    /// The data as a typed value.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// #[derive(Serialize, Deserialize)]
    /// struct Measured {
    ///     seconds: u64,
    /// }
    ///
    /// build.append("build.measured", Measured { seconds: 12 }).await?;
    /// # store.flush().await?;
    /// for event in store.view().events(build.id(), 1)?.iter().filter(|event| event.kind == "build.measured") {
    ///     assert_eq!(event.data_as::<Measured>()?.seconds, 12);
    /// }
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when the data does not have that shape.
    pub fn data_as<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(self.data.get()).map_err(|e| Error::InvalidInput {
            what: "event data",
            reason: format!(
                "event {} ({}) does not have the expected shape: {e}; read it as the type that it was written as",
                self.seq, self.kind
            ),
        })
    }
}

/// An event that has no number yet.
#[derive(Debug)]
pub(crate) struct EventDraft {
    kind: String,
    data: Box<RawValue>,
}

impl EventDraft {
    /// Checks the type and turns the data to JSON.
    pub(crate) fn new<T: Serialize + ?Sized>(kind: &str, data: &T) -> Result<Self> {
        let refuse = |reason: &str| Err(Error::InvalidInput { what: "event type", reason: reason.to_owned() });
        if kind.is_empty() {
            return refuse("it is empty; name what happened, such as job.started");
        }
        if kind.len() > MAX_TYPE_BYTES {
            return refuse("it is longer than 128 bytes; put details into the data");
        }
        if kind.chars().any(char::is_control) {
            return refuse("it holds a control character");
        }
        strict::check("data", data)?;
        let data = to_raw_value(data).map_err(|e| json::unserializable("data", &e))?;
        Ok(Self { kind: kind.to_owned(), data })
    }

    /// Gives the event its number, and with it the bytes of its line.
    pub(crate) fn number(self, seq: u64, at: DateTime<Utc>, epoch: u64, limit: usize) -> Result<EventLine> {
        let event = Event { seq, at, epoch, kind: self.kind, data: self.data };
        let text = serde_json::to_string(&event).map_err(|e| json::unserializable("event", &e))?;
        if text.len() > limit {
            return Err(Error::TooLarge { what: "event", bytes: text.len() as u64, limit: limit as u64 });
        }
        Ok(EventLine { seq, text: text.into() })
    }
}

/// An event with its bytes: the JSON text of one line, without the newline.
#[derive(Clone, Debug)]
pub(crate) struct EventLine {
    pub(crate) seq: u64,
    pub(crate) text: std::sync::Arc<str>,
}
