//! One line of an instance's event log. It is numbered here, and never written.

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{json, strict, time};
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
    /// As JSON on one line.
    data: Vec<u8>,
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
        let mut text = Vec::new();
        strict::write("data", data, &mut text)?;
        Ok(Self { kind: kind.to_owned(), data: text })
    }

    /// Gives the event its number, and with it the bytes of its line.
    pub(crate) fn number(self, seq: u64, at: DateTime<Utc>, epoch: u64, limit: usize) -> Result<EventLine> {
        let text = self.text(seq, at, epoch).map_err(|e| json::unserializable("event", &e))?;
        if text.len() > limit {
            return Err(Error::TooLarge { what: "event", bytes: text.len() as u64, limit: limit as u64 });
        }
        Ok(EventLine { seq, text: text.into() })
    }

    /// What serde makes of an [`Event`], without its machinery.
    fn text(self, seq: u64, at: DateTime<Utc>, epoch: u64) -> Result<String, serde_json::Error> {
        let mut line = Vec::with_capacity(self.data.len() + self.kind.len() + 128);
        line.extend_from_slice(b"{\"seq\":");
        json::write_line(&seq, &mut line)?;
        line.extend_from_slice(b",\"at\":");
        time::write(&at, &mut line)?;
        line.extend_from_slice(b",\"epoch\":");
        json::write_line(&epoch, &mut line)?;
        line.extend_from_slice(b",\"type\":");
        json::write_line(&self.kind, &mut line)?;
        line.extend_from_slice(b",\"data\":");
        line.extend_from_slice(&self.data);
        line.push(b'}');
        String::from_utf8(line).map_err(serde::ser::Error::custom)
    }
}

/// An event with its bytes: the JSON text of one line, without the newline.
#[derive(Clone, Debug)]
pub(crate) struct EventLine {
    pub(crate) seq: u64,
    pub(crate) text: std::sync::Arc<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_serde_makes_of_the_event() {
        for data in ["null", r#"{"a":["größe",1e400]}"#] {
            let data: Box<RawValue> = serde_json::from_str(data).expect("JSON");
            let at = "2026-01-02T03:04:05.678901Z".parse().expect("a time");
            let line =
                EventDraft::new("a \"type\"", &data).and_then(|draft| draft.number(7, at, 3, 1000)).expect("a line");
            let event = Event { seq: 7, at, epoch: 3, kind: "a \"type\"".to_owned(), data };
            assert_eq!(&*line.text, serde_json::to_string(&event).expect("JSON"));
        }
    }
}
