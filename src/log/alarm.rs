//! What one activation has to do with its alarm: the entry in the index, and who has it in hand.
//!
//! The entry follows the record into the files, as everything does: made before the record is
//! written, on disk before the log is dropped. So an alarm costs a commit nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::disk::alarms::AlarmIndex;
use crate::disk::root::Root;
use crate::error::Result;
use crate::record::AlarmEntry;

/// Rings when there is a new entry: whoever waits for alarms looks again.
#[derive(Clone, Debug)]
pub(crate) struct Bell(Arc<watch::Sender<()>>);

impl Default for Bell {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(())))
    }
}

impl Bell {
    pub(crate) fn listen(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }

    pub(super) fn ring(&self) {
        self.0.send_replace(());
    }
}

/// One per lane. What changes entries is called with the lane's files locked.
#[derive(Debug)]
pub(super) struct LaneAlarm {
    /// The entry of the record that is in the files.
    entry: Mutex<Option<AlarmEntry>>,
    /// Whether somebody in this process has been handed the alarm.
    out: AtomicBool,
    bell: Bell,
}

impl LaneAlarm {
    pub(super) fn new(bell: Bell) -> Self {
        Self { entry: Mutex::default(), out: AtomicBool::new(false), bell }
    }

    fn entry(&self) -> std::sync::MutexGuard<'_, Option<AlarmEntry>> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that there is an entry, before the record is written.
    pub(super) fn add(&self, root: &Root, wanted: Option<&AlarmEntry>) -> Result<()> {
        let Some(wanted) = wanted else { return Ok(()) };
        if self.entry().as_ref() == Some(wanted) {
            return Ok(());
        }
        root.alarms.add(&root.internal, wanted)?;
        self.bell.ring();
        Ok(())
    }

    /// The record with this alarm is in the files: the entry of an earlier one may go.
    pub(super) fn settle(&self, root: &Root, wanted: Option<AlarmEntry>) {
        let mut entry = self.entry();
        if *entry == wanted {
            return;
        }
        if let Some(old) = std::mem::replace(&mut *entry, wanted)
            && let Err(error) = AlarmIndex::remove(&root.internal, &old)
        {
            tracing::debug!(id = %old.id, %error, "an entry that is out of date stays until it is due");
        }
    }

    /// Whether this is the entry of the record that is in the files.
    pub(super) fn is(&self, alarm: &AlarmEntry) -> bool {
        self.entry().as_ref() == Some(alarm)
    }

    /// Takes the alarm in hand; `false` when somebody has it.
    pub(super) fn take(&self) -> bool {
        !self.out.swap(true, Ordering::AcqRel)
    }

    pub(super) fn give_back(&self) {
        self.out.store(false, Ordering::Release);
    }
}
