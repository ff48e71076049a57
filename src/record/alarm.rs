//! The alarm of an instance, and the name by which it is found without reading the instance. No clock is
//! looked at here.

use chrono::{DateTime, Duration, SubsecRound as _, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{InstanceId, strict};
use crate::error::{Error, Result};

/// Largest payload of an alarm as JSON, in bytes.
const PAYLOAD_BYTES: usize = 64 << 10;

/// Alarms are due before the year 10 000: a later one has no RFC 3339 time.
const LATEST: i64 = 253_402_300_799_000;

/// When an instance wants to be woken, and with what. It is part of the record.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Alarm {
    /// When it is due (UTC), in whole milliseconds.
    pub at: DateTime<Utc>,
    /// The revision whose commit set it: tells it from one that is set later, whatever its time.
    pub revision: u64,
    /// What was said when it was set, as it was written.
    pub payload: Box<RawValue>,
}

impl Alarm {
    /// The payload as a typed value.
    ///
    /// ```
    /// use chrono::{TimeDelta, Utc};
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// build.set_alarm(Utc::now() + TimeDelta::hours(1), ("look again", 3)).await?;
    /// let record = build.record().await?;
    /// let alarm = record.alarm.as_ref().expect("it was set");
    /// assert_eq!(alarm.payload_as::<(String, u32)>()?, ("look again".to_owned(), 3));
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when the payload does not have that shape.
    pub fn payload_as<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(self.payload.get()).map_err(|e| Error::InvalidInput {
            what: "alarm payload",
            reason: format!("the alarm of revision {} does not have the expected shape: {e}; read it as the type that it was set with", self.revision),
        })
    }

    /// Checks the time and the payload. A time that has passed is due at once.
    pub(crate) fn new<T: Serialize + ?Sized>(at: DateTime<Utc>, revision: u64, payload: &T) -> Result<Self> {
        let refuse = |reason| Err(Error::InvalidInput { what: "alarm", reason });
        let at = at.max(DateTime::UNIX_EPOCH);
        // Up, so that it never comes early.
        let whole = at.trunc_subsecs(3);
        let at = if whole < at { whole.checked_add_signed(Duration::milliseconds(1)).unwrap_or(whole) } else { at };
        if at.timestamp_millis() > LATEST {
            return refuse("it is due after the year 9999; set an earlier time".to_owned());
        }
        let text = strict::text("payload", payload)?;
        if text.get().len() > PAYLOAD_BYTES {
            let (bytes, limit) = (text.get().len() as u64, PAYLOAD_BYTES as u64);
            return Err(Error::TooLarge { what: "alarm payload", bytes, limit });
        }
        Ok(Self { at, revision, payload: text })
    }
}

/// Longest kind that stands in the index as it is, in bytes.
const KIND_BYTES: usize = 64;

/// A kind as it stands in the index: a long one is cut, and ends in a checksum.
fn short(kind: &str) -> std::sync::Arc<str> {
    if !kind.is_empty() && kind.len() <= KIND_BYTES {
        return kind.into();
    }
    let crc = crc32fast::hash(kind.as_bytes());
    let begin: String = kind.chars().take(KIND_BYTES / 4).collect();
    format!("{begin}~{crc:08x}").into()
}

/// Whether a kind in the index is, or may be, one of those that `accepts` says.
pub(crate) fn may_be(kind: &str, accepts: impl Fn(&str) -> bool) -> bool {
    // One that was cut stands in full in the record.
    accepts(kind) || kind.contains('~')
}

/// What the index of the alarms knows of one. No two alarms have the same: `uid` and `revision`
/// are never used again, so an entry that is out of date can be removed without a look back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AlarmEntry {
    /// First, so that entries sort by it. Milliseconds since 1970.
    pub(crate) due: i64,
    /// What [`AlarmEntry::new`] makes of the kind.
    pub(crate) kind: std::sync::Arc<str>,
    pub(crate) uid: Uuid,
    pub(crate) revision: u64,
    pub(crate) id: InstanceId,
}

impl AlarmEntry {
    pub(crate) fn new(id: InstanceId, uid: Uuid, kind: &str, alarm: &Alarm) -> Self {
        Self { due: alarm.at.timestamp_millis(), kind: short(kind), uid, revision: alarm.revision, id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_due_in_whole_milliseconds_and_never_early() {
        let now = DateTime::UNIX_EPOCH;
        let at = now + Duration::nanoseconds(1_000_001);
        let alarm = Alarm::new(at, 1, &7).expect("an alarm");
        assert_eq!(alarm.at.timestamp_millis(), 2);
        assert_eq!(Alarm::new(alarm.at, 1, &7).expect("an alarm").at, alarm.at);
    }

    #[test]
    fn a_kind_of_any_length_has_a_short_name_of_its_own() {
        let (long, longer) = ("ö".repeat(300), "ö".repeat(301));
        assert_ne!(short(&long), short(&longer));
        assert!(short(&long).len() <= KIND_BYTES + 9 && !short("").is_empty());
        for kind in [long.as_str(), "", "job"] {
            assert!(may_be(&short(kind), |known| known == kind), "{kind}");
        }
        assert!(!may_be("job", |known| known == "build"));
    }

    #[test]
    fn what_cannot_be_an_alarm_is_refused_with_the_reason() {
        let at = DateTime::UNIX_EPOCH;
        assert!(Alarm::new(DateTime::<Utc>::MAX_UTC, 1, &()).is_err());
        assert_eq!(Alarm::new(DateTime::<Utc>::MIN_UTC, 1, &()).map(|alarm| alarm.at).ok(), Some(at));
        assert!(matches!(Alarm::new(at, 1, &f64::NAN), Err(Error::Unserializable { .. })));
        let long = "x".repeat(PAYLOAD_BYTES);
        assert!(matches!(Alarm::new(at, 1, &long), Err(Error::TooLarge { limit: 65_536, .. })));
    }
}
