//! A disk in memory, for tests: it loses at a power cut what was not made durable, and fails when it
//! is told to.
//!
//! What a power cut may do, which is what the code above must live with:
//!
//! - Bytes that were written and not synced survive in any part: each write whole, not at all, or in
//!   some of its sectors; in any combination.
//! - Changes of names that were not synced survive in any combination in which no change of a name
//!   survives without the earlier ones of the same name. A rename is one change.
//! - What was synced survives.
//! - A sync that fails leaves each waiting write on disk or lost, and forgets them: the next sync
//!   says yes, and the bytes may be gone. That is what Linux does.
//!
//! The death of a process (`kill -9`) loses nothing of that, but all its locks.

mod disk;
mod fault;
mod image;
mod loss;
mod open;
mod random;

pub(crate) use disk::Disk;
pub(super) use disk::{make_all, open};
pub(crate) use fault::{Fault, Kind};
pub(crate) use image::Image;
pub(crate) use loss::Survives;
pub(super) use open::Open;
pub(crate) use random::Random;
