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
    let within = shared.options.materialise_within;
    let mut pause = pause_after(Duration::ZERO, within);
    while shared.wait_for_dirty() {
        shared.pause_materialiser(pause);
        let begun = Instant::now();
        pause = match pass(shared) {
            Ok(()) => pause_after(begun.elapsed(), within),
            Err(_) => (pause * 2).clamp(within / 2, BACKOFF_MAX.max(within / 2)),
        };
    }
}

/// How long to wait after a pass that took this long.
///
/// A commit that comes just after its instance had its turn waits for the rest of that pass, for
/// the pause, and for its turn in the next pass: together no longer than `within`. Where the disk
/// is too slow for that, three quarters of its time are left to the commits, which wait for it;
/// nobody waits for the files.
fn pause_after(took: Duration, within: Duration) -> Duration {
    let pause = within / 2;
    if took <= within / 4 { pause } else { (took * 3).clamp(pause, BACKOFF_MAX.max(pause)) }
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

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_millis(100);

    #[test]
    fn files_are_no_further_behind_than_promised_while_the_disk_keeps_up() {
        for took in (0..=25).map(Duration::from_millis) {
            assert!(took + pause_after(took, WITHIN) + took <= WITHIN, "{took:?}");
        }
    }

    #[test]
    fn a_slow_disk_is_left_to_the_commits_for_three_quarters_of_the_time() {
        for took in [26, 80, 700].map(Duration::from_millis) {
            assert_eq!(pause_after(took, WITHIN), took * 3);
        }
        assert_eq!(pause_after(Duration::from_secs(60), WITHIN), BACKOFF_MAX);
    }
}
