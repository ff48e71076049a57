//! One commit, as the change feed tells of it. It holds no state: whoever wants that reads it.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{InstanceId, Record, Status};

/// One durable commit of this process: see [`Store::changes`](crate::Store::changes).
///
/// Of one instance they come in the order of their revisions. `uid` and `revision` say which state it
/// is: one that a cache has already, or that is older than what it has, is a repetition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The instance.
    pub id: InstanceId,
    /// Tells it from an earlier instance of the same id.
    pub uid: Uuid,
    /// The kind of the instance.
    pub kind: String,
    /// The revision that the commit made; 0 for a creation.
    pub revision: u64,
    /// The activation that made it.
    pub epoch: u64,
    /// The status after it.
    pub status: Status,
    /// `seq` of the last event after it, 0 when there is none.
    pub last_event_seq: u64,
    /// Whether it made the instance.
    pub created: bool,
    /// Whether it deleted the instance.
    pub deleted: bool,
    /// When it was made (UTC).
    pub at: DateTime<Utc>,
}

/// What of a record tells its commit from the others of the instance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) revision: u64,
    pub(crate) last_event_seq: u64,
    status: Status,
    at: DateTime<Utc>,
}

impl Step {
    pub(crate) fn of<S>(record: &Record<S>) -> Self {
        let Record { revision, last_event_seq, status, updated_at: at, .. } = *record;
        Self { revision, last_event_seq, status, at }
    }

    /// As the change feed tells of it. `record` is of the same activation.
    pub(crate) fn change<S>(self, record: &Record<S>, deleted: bool) -> Change {
        let Self { revision, last_event_seq, status, at } = self;
        Change {
            id: record.id.clone(),
            uid: record.uid,
            kind: record.kind.clone().into_owned(),
            revision,
            epoch: record.epoch,
            status,
            last_event_seq,
            created: revision == 0,
            deleted,
            at,
        }
    }
}
