//! One actor, one directory and one writer for every long-lived thing that a program runs.
//!
//! **fiefdom** gives each job, agent session, build or tenant an *instance*: an id, a durable
//! record, an append-only event log and a directory tree of plain files. A live instance is an
//! actor that serialises its own writes; a write is acknowledged when it is on disk, by group
//! commit. It is embedded in an async program; there is no server and no database.
//!
//! Read [`Store`] first, then [`InstanceRef`] and [`Instance`].

#![cfg_attr(docsrs, feature(doc_cfg))]

mod actors;
mod admin;
mod blocking;
pub mod control;
mod disk;
mod engine;
mod error;
mod follow;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod instance;
pub mod jobs;
mod kind;
mod log;
mod mutants;
mod options;
mod record;
mod root;
mod store;
#[cfg(test)]
mod tests;
mod view;

pub use actors::transaction::Transaction;
pub use admin::{Doctor, Finding, Outcome, Repair, Report, Severity};
pub use error::{BoxError, Error, Owner, Result};
pub use instance::{Committed, InstanceRef, KeepAwake, Session, SubDir};
pub use kind::{Instance, NewInstance, Untyped};
pub use options::{Durability, Options};
pub use record::{Event, InstanceId, Record, Status};
pub use root::DataRoot;
pub use store::{Stats, Store};
pub use view::{Filter, Listing, View, Waiting};

/// The examples of the README are tested with the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
