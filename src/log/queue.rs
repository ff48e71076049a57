//! Commits on their way to the thread of the log: in their order, with their lines behind each other
//! in one buffer, and with no more bytes than a limit. Nothing is written to a file here.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::commit::{Commit, LineDraft};
use crate::error::{Error, Result};
use crate::metrics;

/// Most bytes of room that are kept for the lines of a later batch.
const ROOM_KEPT: usize = 1 << 20;

pub(super) struct CommitQueue {
    state: Mutex<State>,
    filled: Condvar,
    limit: usize,
}

#[derive(Default)]
struct State {
    commits: Vec<Commit>,
    lines: Vec<u8>,
    /// When the first of them came.
    since: Option<Instant>,
    /// Of lines that wait or are being written.
    bytes: usize,
    /// Room for the lines of the next batch.
    room: Vec<u8>,
    closed: bool,
}

/// Everything that was waiting at one moment.
pub(crate) struct Batch {
    pub(crate) commits: Vec<Commit>,
    /// The lines of the commits: [`Commit::line`] says where each stands.
    pub(crate) lines: Vec<u8>,
    /// When the first of them came.
    pub(crate) since: Instant,
}

impl CommitQueue {
    /// It takes commits until more than `limit` bytes wait.
    pub(super) fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), filled: Condvar::new(), limit }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No panic while this is held leaves it half changed: only room is made in between.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a commit behind the others, or gives it back with the reason.
    #[expect(clippy::result_large_err, reason = "what is refused is given back, seldom and not far")]
    pub(super) fn push(&self, mut commit: Commit, line: &LineDraft) -> Result<(), (Commit, Error)> {
        let mut state = self.state();
        if state.closed {
            return Err((commit, Error::Closed));
        }
        if state.bytes > self.limit {
            drop(state);
            metrics::OVERLOADED_LOG.add(commit.count());
            let limit = self.limit as u64;
            return Err((commit, Error::Overloaded { what: "bytes of commits waiting for the log", limit }));
        }
        let begin = state.lines.len();
        state.lines.extend_from_slice(line.bytes());
        commit.line = begin..state.lines.len();
        state.bytes += commit.line.len();
        state.commits.push(commit);
        let first = state.commits.len() == 1;
        if first {
            state.since = Some(Instant::now());
        }
        drop(state);
        if first {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Everything that waits, as soon as there is something; empty after `patience`; `None` when the
    /// queue is closed and empty.
    pub(super) fn next(&self, patience: Duration) -> Option<Batch> {
        let (mut state, _) = self
            .filled
            .wait_timeout_while(self.state(), patience, |state| state.commits.is_empty() && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if state.commits.is_empty() && state.closed {
            return None;
        }
        // The next batch is likely as long.
        let next = Vec::with_capacity(state.commits.len());
        let room = std::mem::take(&mut state.room);
        Some(Batch {
            commits: std::mem::replace(&mut state.commits, next),
            lines: std::mem::replace(&mut state.lines, room),
            since: state.since.take().unwrap_or_else(Instant::now),
        })
    }

    /// These lines are written, or never will be.
    pub(super) fn done(&self, mut lines: Vec<u8>) {
        let mut state = self.state();
        state.bytes -= lines.len();
        if lines.capacity() <= ROOM_KEPT {
            lines.clear();
            state.room = lines;
        }
    }

    /// Bytes of lines that wait or are being written.
    pub(super) fn bytes(&self) -> usize {
        self.state().bytes
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Takes no more. What waits is still handed out.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.filled.notify_all();
    }

    /// Takes no more, and lets go of what waits, untold.
    pub(super) fn abandon(&self) {
        let mut state = self.state();
        state.closed = true;
        let untold = std::mem::take(&mut state.commits);
        drop(state);
        drop(untold);
    }
}
