//! The documents of an instance, as values: ids, status, record, events.
//!
//! Pure: nothing here touches a disk, a clock that matters, or a runtime.

mod alarm;
mod change;
mod event;
mod id;
pub(crate) mod json;
mod meta;
pub(crate) mod migrate;
mod status;
pub(crate) mod strict;
pub(crate) mod time;
pub(crate) mod work;

pub use alarm::Alarm;
pub(crate) use alarm::{AlarmEntry, may_be};
pub use change::Change;
pub(crate) use change::Step;
pub use event::Event;
pub(crate) use event::{EventDraft, EventLine};
pub use id::InstanceId;
pub use meta::Record;
pub(crate) use meta::{COUNT_MAX, Document, FORMAT, RawRecord, check_size};
pub use status::Status;
pub use work::{Checkpoint, InputRequest, LastCheckpoint};

/// The kind of a batch.
pub(crate) const BATCH_KIND: &str = "batch";

/// The tag of a job that names its batch.
pub(crate) const BATCH_TAG: &str = "batch";
