//! New files of one instance: written under temporary names, then named, then settled.
//!
//! Each step may be flushed for this instance alone, or for many instances at once: then no name is
//! given before the bytes of all of them are on disk, and nothing is settled before the names are.

use super::events::{EventWriter, Position};
use crate::disk::alarms::AlarmIndex;
use crate::disk::atomic::{self, Sync};
use crate::disk::fs::Dir;
use crate::disk::layout;
use crate::disk::root::Root;
use crate::error::Result;
use crate::record::AlarmEntry;

/// What was written for one instance and has no name yet. Its record always is among it.
pub(super) struct Renewal {
    /// Where its event log stands, if that was written anew.
    pub(super) events: Option<Position>,
    /// The entry of an alarm that the record does not have any more.
    pub(super) outdated: Option<AlarmEntry>,
    /// Whether the record says that a process died at its work, and did not before.
    pub(super) interrupted: bool,
    /// What the new files hold.
    pub(super) bytes: u64,
}

impl Renewal {
    /// Gives the files their names: the events first, so that no record knows of events that are not
    /// there.
    pub(super) fn publish(&self, instance: &Dir, sync: Sync) -> Result<()> {
        if self.events.is_some() {
            atomic::publish(&instance.ensure_dir(layout::EVENTS)?, layout::EVENT_LOG, sync)?;
        }
        atomic::publish(instance, layout::RECORD, sync)
    }

    /// Removes files that have no names yet.
    pub(super) fn discard(instance: &Dir) -> Result<()> {
        instance.remove_file(&layout::temporary(layout::RECORD))?;
        if let Some(events) = instance.open_dir(layout::EVENTS)? {
            events.remove_file(&layout::temporary(layout::EVENT_LOG))?;
        }
        Ok(())
    }

    /// Whether nothing follows.
    pub(super) fn is_settled(&self) -> bool {
        self.events.is_none() && self.outdated.is_none()
    }

    /// What follows files that are on disk with their names, and need not be there itself: it says how
    /// much of the event log is durable, and would be wrong beside an older one.
    pub(super) fn settle(&self, root: &Root, instance: &Dir) -> Result<()> {
        if let Some(position) = self.events {
            EventWriter::at(position, u64::MAX).save(instance, Sync::No)?;
        }
        if let Some(outdated) = &self.outdated {
            AlarmIndex::remove(&root.internal, outdated)?;
        }
        Ok(())
    }
}
