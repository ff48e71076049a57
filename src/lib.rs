//! One actor, one directory and one writer for every long-lived thing that a program runs.
//!
//! **fiefdom** gives each job, agent session, build or tenant an *instance*: an id, a durable
//! record, an append-only event log and a directory tree of plain files. A live instance is an
//! actor that serialises its own writes; a write is acknowledged when it is on disk, by group
//! commit. It is embedded in an async program; there is no server and no database.
//!
//! ```
//! use fiefdom::{InstanceId, NewInstance, Store, Untyped};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> fiefdom::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! // A root is a directory. `Untyped` takes instances of any kind; a type of yours is an `Instance`.
//! let store = Store::open(dir.path(), Untyped).await?;
//! let build = store.get_or_create(NewInstance::with_id(InstanceId::new("build-42")?)).await?;
//!
//! // Once this returns the change is on disk, whatever becomes of the process.
//! build.update(|state| state["step"] = "compile".into()).await?;
//! assert_eq!(build.state().await?["step"], "compile");
//! assert!(dir.path().join("instances/build-42").is_dir());
//! store.shutdown().await
//! # }
//! ```
//!
//! # Where to go on
//!
//! - [`Store`] opens a root; [`InstanceRef`] is the handle on an instance, and [`Instance`] the trait of a kind of
//!   your own.
//! - [`jobs`] has lists of work that go on after any crash: [`jobs::Batch`] and [`jobs::Runner`].
//! - [`View`] reads a root without locks, and [`Doctor`] looks for damage in it.
//! - [`Retention`], [`Migration`] and [`Alarms`] are for instances that live long.
//! - [`StateFile`] is one JSON file outside of a store, shared by processes.
//! - [`Options`] has every limit with its default, and [`Error`] says what went wrong and what to do next.
//!
//! # What holds everywhere
//!
//! - It runs on `tokio`, in either flavour of its runtime, with time and I/O enabled. Disk work is done
//!   on threads that may block; only [`View`], [`Doctor`] and a rehearsal of a [`Migration`] block
//!   whoever calls them, and say so.
//! - A future does nothing before it is polled. When it is dropped after that, what it asked for is done
//!   as a whole or not at all: [`InstanceRef`], [`Store`] and [`jobs::Batch`] say more for all of their
//!   functions, and a function that differs says so itself.
//! - Sizes are in bytes, times in UTC, and whatever can grow has a limit.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_types))]
#![warn(clippy::allow_attributes_without_reason)]

mod actors;
mod admin;
mod alarms;
mod blocking;
mod changes;
mod checkpoint;
pub mod control;
mod creations;
mod disk;
mod engine;
mod error;
mod follow;
mod following;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod input;
mod instance;
pub mod jobs;
mod kind;
mod listing;
mod log;
mod metrics;
mod migration;
mod mutants;
mod options;
mod record;
mod retain;
mod root;
mod schema;
mod state_file;
mod store;
#[cfg(test)]
mod tests;
mod transfer;
mod view;

pub use actors::request::Committed;
pub use actors::transaction::Transaction;
pub use admin::{Deleted, GcReport, Refused, RefusedReason, Retention, RetentionRule};
pub use admin::{Doctor, Finding, Outcome, Repair, Report, Severity};
pub use admin::{Exported, ImportOptions, Imported, LeftOut, Origin};
pub use alarms::{Alarms, DueAlarm};
pub use changes::Lagged;
pub use error::{BoxError, Error, Owner, Result, Unanswered};
pub use instance::{InstanceRef, KeepAwake, Session, SubDir};
pub use kind::{Instance, NewInstance, Untyped};
pub use migration::{Migrated, Migrating, Migration, MigrationOutcome};
pub use options::{Durability, Options};
pub use record::{Alarm, Change, Event, InstanceId, Record, Status};
pub use record::{Checkpoint, InputRequest, LastCheckpoint};
pub use retain::GcTask;
pub use root::DataRoot;
pub use state_file::{FileState, StateFile};
pub use store::{Stats, Store};
pub use view::{Filter, Listing, View, Waiting};

/// The examples of the README are tested with the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
