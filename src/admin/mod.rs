//! Looking after a root as a whole: what may go, what is wrong, instances as archives. It knows files and
//! the log, and never an actor.

pub(crate) mod archive;
mod doctor;
mod examine;
pub(crate) mod retention;

pub use archive::{Exported, ImportOptions, Imported, LeftOut, Origin};
pub use doctor::{Doctor, Finding, Outcome, Repair, Report, Severity};
pub use retention::{Deleted, GcReport, Refused, RefusedReason, Retention, RetentionRule};
