//! What fiefdom is compared with, and the loop that drives all of them alike.

pub mod actor;
pub mod bare;
pub mod document;
pub mod driver;
pub mod durare;
pub mod flusher;
pub mod lock_map;
pub mod ours;
pub mod python;
pub mod raw;
pub mod redb;
pub mod sqlite;
