//! The documents of an instance, as values: ids, status, record, events.
//!
//! Pure: nothing here touches a disk, a clock that matters, or a runtime.

mod event;
mod id;
pub(crate) mod json;
mod meta;
mod status;
mod strict;
pub(crate) mod work;

pub use event::Event;
pub(crate) use event::{EventDraft, EventLine};
pub use id::InstanceId;
pub use meta::Record;
pub(crate) use meta::{COUNT_MAX, Document, FORMAT, RawRecord};
pub use status::Status;
pub use work::{Checkpoint, InputRequest, LastCheckpoint};
