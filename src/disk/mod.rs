//! Everything that touches the file system: names, system calls, atomic replacement, locks.
//!
//! It knows nothing of actors, commits or runtimes. Every function here blocks.

pub(crate) mod alarms;
pub(crate) mod atomic;
pub(crate) mod fs;
mod handle;
pub(crate) mod host;
pub(crate) mod layout;
pub(crate) mod listing;
pub(crate) mod lock;
#[cfg(test)]
pub(crate) mod model;
pub(crate) mod quarantine;
pub(crate) mod root;
pub(crate) mod socket;
pub(crate) mod staging;
pub(crate) mod state_file;
pub(crate) mod tree;
