//! The thread that brings the files up to the commits: at most one rewrite of an instance per
//! interval, however many commits it made.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::service::Shared;
use crate::error::{Error, Result};

/// Longest pause after a failed pass.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

pub(super) fn run(shared: &Shared) {
    // A commit that comes just after a pass waits one pause, and then for its turn in the next pass:
    // half of the promise is left for that.
    let pause = shared.options.materialise_within / 2;
    let mut backoff = pause;
    while shared.wait_for_dirty() {
        shared.pause_materialiser(backoff);
        let begun = Instant::now();
        backoff = match pass(shared) {
            // A disk that does not keep up is left to the commits half of the time.
            Ok(()) => begun.elapsed().clamp(pause, BACKOFF_MAX.max(pause)),
            Err(_) => (backoff * 2).clamp(pause, BACKOFF_MAX.max(pause)),
        };
    }
}

/// Writes down everything that is pending. A failure of one instance does not hold up the others;
/// the first is returned, and all are tried again.
pub(super) fn pass(shared: &Shared) -> Result<()> {
    let _passing = shared.passing.lock().unwrap_or_else(PoisonError::into_inner);
    let mut first_error = None;
    let mut again = Vec::new();
    for lane in shared.take_dirty() {
        match lane.materialise() {
            Err(Error::Gone { .. }) => tracing::warn!(id = %lane.id, "the directory of a live instance was removed"),
            // Poisoned: commits at the level `Os`, of which nobody knows whether the log can bring them back.
            Ok(()) | Err(Error::Poisoned { .. }) => {}
            Err(error) => {
                shared.materialise_failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(id = %lane.id, %error, "the files of an instance could not be written; its commits are in the log");
                first_error.get_or_insert(error);
                again.push(Arc::clone(&lane));
            }
        }
    }
    shared.add_dirty(again);
    first_error.map_or(Ok(()), Err)
}
