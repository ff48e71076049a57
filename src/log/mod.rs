//! From a commit to durable bytes, and from there to plain files.
//!
//! ```text
//! instance actor ──Commit──> journal ──(write, fdatasync)──> reply, followers
//!                               │
//!                               v pending, per lane
//!                          materialiser ──(rename, append)──> instance.json, events.jsonl
//!                               │
//!                               v full segments
//!                          checkpointer ──(fsync files)──> segment deleted
//! ```
//!
//! Nothing here knows actors or kinds. The threads are plain threads, and what is told to a caller is
//! told through the `Caller` in its commit, by a task of the runtime (`reply.rs`).

pub(crate) mod activate;
pub(crate) mod alarm;
mod chain;
pub(crate) mod changes;
mod checkpoint;
mod collect;
pub(crate) mod commit;
pub(crate) mod events;
pub(crate) mod feed;
mod journal;
pub(crate) mod lane;
mod materialise;
pub(crate) mod queue;
mod reconcile;
pub(crate) mod recover;
mod renewal;
mod reply;
mod sealed;
pub(crate) mod segment;
mod service;
mod slow;
#[cfg(test)]
pub(crate) mod stepper;
mod tail;
pub(crate) mod trash;
mod whole;

pub(crate) use service::Log;
#[cfg(test)]
pub(crate) use service::LogStats;
