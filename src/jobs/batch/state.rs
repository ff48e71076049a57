//! The state of a batch, and how it changes: pure.
//!
//! It stays small however many items there are. An item is in one of five places:
//!
//! ```text
//! not handed out yet (from `next` on) ──next──> open ──mark──> completed: a count, and an event
//!                                               ^  │  ────────> failed: a count, and an event
//!                                               │  v               │
//!                                          interrupted             │
//!                                               ^──────retry───────┘
//! ```
//!
//! The failed items are found again in the event log: each has exactly one `item.failed` at or
//! behind `retry.from`, and no other `item.failed` stands there.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{BatchSettings, MAX_OPEN};
use crate::actors::transaction::Transaction;
use crate::error::{BoxError, Error, Result};
use crate::kind::{Instance, NewInstance};
use crate::record::{BATCH_KIND, Status};

/// The types of the events of a batch.
pub(super) const COMPLETED: &str = "item.completed";
pub(super) const FAILED: &str = "item.failed";
pub(super) const INTERRUPTED: &str = "item.interrupted";

/// The kind of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BatchKind;

/// Where an item stands in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) index: u64,
    /// Of its line in `items.jsonl`, in bytes.
    pub(super) offset: u64,
}

/// An item that was handed out and is not marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Open {
    #[serde(flatten)]
    pub(super) place: Place,
    /// How often it was handed out.
    pub(super) attempt: u32,
    /// Its worker is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) interrupted: bool,
}

/// The failed items that are to be taken again, as a part of the event log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Retry {
    /// The first event that was not looked at.
    pub(super) from: u64,
    /// The last that counts: what fails later waits for the next retry.
    pub(super) end: u64,
    /// Failures in between.
    pub(super) left: u64,
}

/// What a batch has used, as its workers said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens in all.
    pub tokens: u64,
    /// Tokens since the context was last cleared.
    pub context_tokens: u64,
    /// How often it was cleared.
    pub context_clears: u64,
}

/// The state of a batch.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct BatchState {
    /// Number of items; none until they are written.
    pub(super) total: Option<u64>,
    /// Length of their file; none in a batch that an older version made.
    #[serde(default)]
    pub(super) bytes: Option<u64>,
    /// Whether they are jobs.
    #[serde(default)]
    pub(super) jobs: bool,
    pub(super) settings: BatchSettings,
    /// The first item that was never handed out.
    #[serde(default)]
    pub(super) next: Place,
    #[serde(default)]
    pub(super) open: Vec<Open>,
    #[serde(default)]
    pub(super) completed: u64,
    /// Items whose last mark says so, and that were not taken again since.
    #[serde(default)]
    pub(super) failed: u64,
    #[serde(default)]
    pub(super) retry: Retry,
    #[serde(default)]
    pub(super) usage: Usage,
}

impl Instance for BatchKind {
    const KIND: &'static str = BATCH_KIND;
    const SCHEMA_VERSION: u32 = 2;
    type State = BatchState;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), new: &NewInstance) -> Result<BatchState, BoxError> {
        Ok(BatchState { settings: new.input_as()?, ..BatchState::default() })
    }

    fn migrate(from: u32, state: Value) -> Result<Value, BoxError> {
        if from != 1 {
            return Err(format!("batches have no version {from}").into());
        }
        // Version 1 knew jobs alone, and what became of each was in its own instance only. So the
        // batch begins again: a job that has succeeded is not run, but marked, when it is taken.
        Ok(json!({ "total": state["total"], "settings": state["settings"], "jobs": true }))
    }
}

/// What is known of the items that come next, in memory.
pub(super) trait Lookahead {
    /// Where the item behind this one begins.
    fn behind(&mut self, place: Place) -> Result<u64>;
    /// The failure that comes first from this event on: its event, and the item.
    fn failure(&mut self, retry: Retry) -> Result<(u64, Open)>;
}

impl BatchState {
    /// Notes which open items have no worker any more; returns those that were not known yet.
    pub(super) fn interrupt(&mut self, is_held: impl Fn(u64) -> bool) -> Vec<Open> {
        let orphans = self.open.iter_mut().filter(|open| !open.interrupted && !is_held(open.place.index));
        orphans
            .map(|open| {
                open.interrupted = true;
                *open
            })
            .collect()
    }

    /// Takes the item that is next: an interrupted one, one that was never handed out, one that
    /// failed and shall be tried again, in this order. `None` when there is none.
    pub(super) fn take(&mut self, ahead: &mut impl Lookahead) -> Result<Option<Open>> {
        if let Some(open) = self.open.iter_mut().find(|open| open.interrupted) {
            open.interrupted = false;
            open.attempt = open.attempt.saturating_add(1);
            return Ok(Some(*open));
        }
        let open = if self.next.index < self.total.unwrap_or(0) {
            self.check_room()?;
            let place = self.next;
            self.next = Place { index: place.index + 1, offset: ahead.behind(place)? };
            Open { place, attempt: 1, interrupted: false }
        } else if self.retry.left > 0 {
            self.check_room()?;
            let (seq, failed) = ahead.failure(self.retry)?;
            self.retry = Retry { from: seq + 1, left: self.retry.left - 1, ..self.retry };
            self.failed = self.failed.saturating_sub(1);
            Open { attempt: failed.attempt.saturating_add(1), ..failed }
        } else {
            return Ok(None);
        };
        self.open.push(open);
        Ok(Some(open))
    }

    fn check_room(&self) -> Result<()> {
        if self.open.len() < MAX_OPEN {
            return Ok(());
        }
        Err(Error::Overloaded { what: "items of a batch handed out at once", limit: MAX_OPEN as u64 })
    }

    /// Whether an item could be taken, as far as the state alone says.
    pub(super) fn has_more(&self, is_held: impl Fn(u64) -> bool) -> bool {
        self.next.index < self.total.unwrap_or(0)
            || self.retry.left > 0
            || self.open.iter().any(|open| open.interrupted || !is_held(open.place.index))
    }

    /// Removes an item from those that are open.
    pub(super) fn close(&mut self, index: u64, attempt: u32) -> bool {
        let at = self.open.iter().position(|open| open.place.index == index && open.attempt == attempt);
        at.map(|at| self.open.remove(at)).is_some()
    }

    /// Counts a failure, whose event is `seq`.
    pub(super) fn count_failure(&mut self, seq: u64) {
        if self.failed == 0 {
            // None before it has to be found again.
            self.retry.from = seq;
        }
        self.failed += 1;
    }

    /// Queues what has failed to be taken again; returns how many items that are.
    pub(super) fn retry_failed(&mut self, last_event_seq: u64) -> u64 {
        self.retry = Retry { from: self.retry.from, end: last_event_seq, left: self.failed };
        self.failed
    }

    /// Whether every item is marked, and none is to be taken again.
    pub(super) fn is_done(&self) -> bool {
        self.total.is_some_and(|total| self.next.index >= total) && self.open.is_empty() && self.retry.left == 0
    }
}

/// The batch is at work, from the first item that is handed out.
pub(super) fn set_running(tx: &mut Transaction<BatchState>) -> Result<()> {
    let status = tx.record().status;
    // One that has succeeded stays so: what is run again is what somebody deleted since.
    if status.is_running() || status == Status::Succeeded {
        return Ok(());
    }
    if status.is_final() {
        tx.set_status(Status::Pending, None)?;
    }
    tx.begin_attempt();
    tx.set_status(Status::Running, None)
}

/// The batch has ended, with the mark of its last item.
pub(super) fn settle(tx: &mut Transaction<BatchState>) -> Result<()> {
    let (failed, status) = (tx.state().failed, tx.record().status);
    if !tx.state().is_done() || status == Status::Succeeded {
        return Ok(());
    }
    let next = if failed > 0 { Status::Failed } else { Status::Succeeded };
    if !status.can_become(next) {
        return Ok(());
    }
    let reason = (failed > 0).then(|| format!("{failed} failed"));
    tx.set_status(next, reason.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items of ten bytes, of which every one is known; nobody holds any.
    struct Known(Vec<(u64, Open)>);

    impl Lookahead for Known {
        fn behind(&mut self, place: Place) -> Result<u64> {
            Ok(place.offset + 10)
        }

        fn failure(&mut self, retry: Retry) -> Result<(u64, Open)> {
            self.0.iter().find(|(seq, _)| *seq >= retry.from).copied().ok_or(Error::Closed)
        }
    }

    fn of(total: u64) -> BatchState {
        BatchState { total: Some(total), ..BatchState::default() }
    }

    fn take(state: &mut BatchState, known: &mut Known) -> Option<(u64, u32)> {
        state.take(known).expect("room").map(|open| (open.place.index, open.attempt))
    }

    #[test]
    fn interrupted_items_come_first_then_new_ones_then_failed_ones() {
        let (mut state, mut known) = (of(3), Known(Vec::new()));
        assert_eq!(take(&mut state, &mut known), Some((0, 1)));
        assert_eq!(take(&mut state, &mut known), Some((1, 1)));
        assert_eq!(state.next, Place { index: 2, offset: 20 });
        assert!(state.close(0, 1));
        state.count_failure(5);
        known.0.push((5, Open { place: Place::default(), attempt: 1, interrupted: false }));
        assert_eq!(state.retry_failed(5), 1);
        assert_eq!(state.interrupt(|_| false).len(), 1);
        assert!(state.interrupt(|_| false).is_empty(), "once is enough");
        let order: Vec<_> = std::iter::from_fn(|| take(&mut state, &mut known)).collect();
        assert_eq!(order, [(1, 2), (2, 1), (0, 2)]);
        assert_eq!((state.failed, state.retry.left, state.is_done()), (0, 0, false));
        assert!(state.close(0, 2) && state.close(1, 2) && state.close(2, 1));
        assert!(state.is_done());
    }

    #[test]
    fn a_mark_needs_the_attempt_that_is_open() {
        let (mut state, mut known) = (of(1), Known(Vec::new()));
        take(&mut state, &mut known);
        assert!(!state.close(0, 2) && !state.close(1, 1));
        assert!(state.close(0, 1));
        assert!(!state.close(0, 1), "not twice");
    }

    #[test]
    fn what_is_open_is_bounded() {
        let (mut state, mut known) = (of(MAX_OPEN as u64 + 1), Known(Vec::new()));
        for _ in 0..MAX_OPEN {
            assert!(take(&mut state, &mut known).is_some());
        }
        let before = state.next;
        assert!(matches!(state.take(&mut known), Err(Error::Overloaded { .. })));
        assert_eq!(state.next, before);
    }

    #[test]
    fn a_batch_of_version_1_begins_again_with_its_settings() {
        let old = json!({ "total": 3, "settings": { "concurrency": 2, "retries": 1, "timeout_ms": null },
            "succeeded": 2, "failed": 1 });
        let new: BatchState = serde_json::from_value(BatchKind::migrate(1, old).expect("a step")).expect("fits");
        assert_eq!((new.total, new.jobs, new.completed, new.failed), (Some(3), true, 0, 0));
        assert_eq!((new.settings.concurrency, new.settings.retries, new.next), (Some(2), 1, Place::default()));
        assert!(BatchKind::migrate(2, json!({})).is_err());
    }
}
