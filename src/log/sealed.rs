//! The full segments of the log, which wait to be replaced by durable files. Their bytes are never
//! touched here: `checkpoint.rs` does the work.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::lane::Lane;
use crate::error::{Error, Result};
use crate::metrics;
use crate::record::InstanceId;

/// A full segment.
pub(super) struct Sealed {
    pub(super) number: u64,
    /// Whose commits are in it.
    pub(super) covered: Vec<(InstanceId, Weak<Lane>)>,
    /// Whether a flush of its files has failed: they must be made anew.
    pub(super) anew: bool,
}

/// The queue of full segments, between the thread that fills them and the one that removes them.
#[derive(Default)]
pub(super) struct SealedQueue {
    state: Mutex<State>,
    changed: Condvar,
}

/// How the queue stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    pub(super) waiting: usize,
    pub(super) done: u64,
    pub(super) failures: u64,
    pub(super) stalled: bool,
}

#[derive(Default)]
struct State {
    segments: VecDeque<Sealed>,
    told: metrics::Part,
    /// Why the last try failed, until one succeeds.
    failure: Option<Arc<Error>>,
    done: u64,
    failures: u64,
    /// Somebody waits for the next try.
    urgent: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Nobody works on the queue of its own accord.
    #[default]
    Unattended,
    Attended,
    /// No more segments come.
    Closed,
    /// What failed was given out once more, for the last time.
    LastTry,
    /// What is in the queue is left to the next opening.
    Abandoned,
}

impl State {
    fn tell(&mut self) {
        self.told.set(&metrics::SEGMENTS_WAITING, self.segments.len());
    }

    fn is_ending(&self) -> bool {
        !matches!(self.stage, Stage::Unattended | Stage::Attended)
    }
}

impl SealedQueue {
    fn state(&self) -> MutexGuard<'_, State> {
        // No panic while this is held leaves it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, until: impl Fn(&State) -> bool) -> MutexGuard<'a, State> {
        self.changed.wait_while(state, |state| !until(state)).unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, stage: Stage) {
        self.state().stage = stage;
        self.changed.notify_all();
    }

    /// From now on a thread works on it.
    pub(super) fn attend(&self) {
        self.enter(Stage::Attended);
    }

    /// No more segments come: what can be done is done.
    pub(super) fn close(&self) {
        self.enter(Stage::Closed);
    }

    /// Leaves what is in the queue to the next opening.
    pub(super) fn abandon(&self) {
        self.enter(Stage::Abandoned);
    }

    pub(super) fn push(&self, number: u64, covered: Vec<(InstanceId, Weak<Lane>)>) {
        let mut state = self.state();
        state.segments.push_back(Sealed { number, covered, anew: false });
        state.tell();
        drop(state);
        self.changed.notify_all();
    }

    /// The oldest segment, which stays in the queue until it is gone. One that failed comes again
    /// after `pause`, or as soon as somebody waits for it, and once more when the queue is closed.
    /// `None` when it is closed, and every segment is gone or must be kept.
    pub(super) fn next(&self, pause: Duration) -> Option<Sealed> {
        let state = self.wait(self.state(), |s| s.is_ending() || !s.segments.is_empty());
        let paused = |s: &mut State| !s.is_ending() && !s.urgent && s.failure.is_some();
        let (mut state, _) =
            self.changed.wait_timeout_while(state, pause, paused).unwrap_or_else(PoisonError::into_inner);
        state.urgent = false;
        let failed = state.failure.is_some();
        match state.stage {
            Stage::Abandoned => return None,
            Stage::LastTry if failed => return None,
            Stage::Closed if failed => state.stage = Stage::LastTry,
            _ => {}
        }
        let next = state.segments.front_mut()?;
        Some(Sealed { number: next.number, covered: std::mem::take(&mut next.covered), anew: next.anew })
    }

    /// Whether a thread works on it, and more segments may come.
    pub(super) fn is_attended(&self) -> bool {
        self.state().stage == Stage::Attended
    }

    /// Waits so long, unless there is more to do than the segment that is worked on.
    pub(super) fn yield_disk(&self, pause: Duration) {
        let alone = |s: &mut State| s.segments.len() <= 1 && s.stage == Stage::Attended && !s.urgent;
        drop(self.changed.wait_timeout_while(self.state(), pause, alone));
    }

    /// The oldest segment is gone.
    pub(super) fn done(&self) {
        let mut state = self.state();
        state.segments.pop_front();
        state.failure = None;
        state.done += 1;
        state.tell();
        metrics::CHECKPOINTS.add(1);
        self.changed.notify_all();
    }

    /// The oldest segment could not be replaced by durable files.
    pub(super) fn failed(&self, error: Error, covered: Vec<(InstanceId, Weak<Lane>)>) {
        tracing::error!(%error, "a checkpoint failed: the commit log is kept, and it is tried again");
        let mut state = self.state();
        if let Some(oldest) = state.segments.front_mut() {
            oldest.covered = covered;
            oldest.anew |= error.is_flush();
        }
        state.failure = Some(Arc::new(error));
        state.failures += 1;
        metrics::CHECKPOINT_FAILURES.add(1);
        self.changed.notify_all();
    }

    /// Holds commits back while `limit` segments wait.
    ///
    /// # Errors
    ///
    /// Why they cannot be removed.
    pub(super) fn wait_for_room(&self, limit: usize) -> Result<()> {
        let full = |s: &State| s.segments.len() >= limit && s.stage != Stage::Abandoned;
        let mut state = self.wait(self.state(), |s| !full(s) || s.failure.is_some());
        if full(&state) && state.stage == Stage::Attended {
            // Now it matters: the cause may have been mended since the last try.
            let tries = state.done + state.failures;
            state.urgent = true;
            self.changed.notify_all();
            state = self.wait(state, |s| s.done + s.failures > tries || s.is_ending());
        }
        match &state.failure {
            Some(error) if full(&state) => Err(Error::clone(error)),
            _ if state.stage == Stage::Abandoned => Err(Error::Closed),
            _ => Ok(()),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        let state = self.state();
        let (waiting, stalled) = (state.segments.len(), state.failure.is_some());
        Standing { waiting, done: state.done, failures: state.failures, stalled }
    }

    /// Why segments are left, if a failure is the reason.
    pub(super) fn failure(&self) -> Option<Arc<Error>> {
        self.state().failure.clone()
    }
}
