//! The thread that brings the files up to the commits: at most one rewrite of an instance per
//! interval, however many commits it made. The files are never brought ahead of what is on disk in
//! the log.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::lane::Lane;
use super::service::Shared;
use crate::error::{Error, Result};
use crate::metrics;

/// Longest pause after a failed pass.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

pub(super) fn run(shared: &Shared) {
    let within = shared.options.materialise_within;
    let mut pause = pause_after(Duration::ZERO, within);
    let mut spread = false;
    while shared.wait_for_dirty() {
        shared.pause_materialiser(pause);
        (pause, spread) = match round(shared, spread) {
            // The pauses were in between.
            Ok(took) if spread => (within / 2, is_slow(took, within)),
            Ok(took) => (pause_after(took, within), is_slow(took, within)),
            Err(_) => ((pause * 2).clamp(within / 2, BACKOFF_MAX.max(within / 2)), spread),
        };
    }
}

/// Whether a disk on which everything that is pending takes this long is too slow for the promise.
fn is_slow(took: Duration, within: Duration) -> bool {
    took > within / 4
}

/// How long to wait after what took this long.
///
/// A commit that comes just after its instance had its turn waits for the rest of that round, for
/// the pause, and for its turn in the next round: together no longer than `within`. Where the disk
/// is too slow for that, three quarters of its time are left to the commits, which wait for it;
/// nobody waits for the files.
fn pause_after(took: Duration, within: Duration) -> Duration {
    let pause = within / 2;
    if is_slow(took, within) { (took * 3).clamp(pause, BACKOFF_MAX.max(pause)) } else { pause }
}

/// Gives every instance that has something pending its turn, and says how long the disk took. On a
/// slow disk the pauses come after each instance, so that no commit waits for more than one.
fn round(shared: &Shared, spread: bool) -> Result<Duration> {
    let mut first_error = None;
    let mut all = Duration::ZERO;
    for _ in 0..shared.dirty() {
        let passing = shared.passing.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        let Some(lane) = shared.next_dirty() else { break };
        first_error = first_error.or(write_down(shared, &lane).err());
        let took = begun.elapsed();
        drop(passing);
        all += took;
        if spread {
            shared.pause_materialiser((took * 3).min(BACKOFF_MAX));
        }
    }
    first_error.map_or(Ok(all), Err)
}

/// Writes down everything that is pending, at once. The first failure is returned.
pub(super) fn pass(shared: &Shared) -> Result<()> {
    let _passing = shared.passing.lock().unwrap_or_else(PoisonError::into_inner);
    let outcomes = shared.take_dirty().into_iter().map(|lane| write_down(shared, &lane));
    outcomes.fold(Ok(()), Result::and)
}

/// Writes down what is pending of one instance. What fails is tried again, and holds up no other.
fn write_down(shared: &Shared, lane: &Arc<Lane>) -> Result<()> {
    let _span = tracing::debug_span!("materialise", id = %lane.id, epoch = lane.epoch).entered();
    match lane.materialise() {
        Err(Error::Gone { .. }) => {
            tracing::warn!(id = %lane.id, epoch = lane.epoch, "the directory of a live instance was removed");
        }
        // Poisoned: commits at the level `Os`, of which nobody knows whether the log can bring them back.
        Ok(()) | Err(Error::Poisoned { .. }) => {}
        Err(error) => {
            shared.materialise_failures.fetch_add(1, Ordering::Relaxed);
            metrics::MATERIALISE_FAILURES.add(1);
            tracing::warn!(id = %lane.id, epoch = lane.epoch, %error, "the files of an instance could not be written; its commits are in the log");
            shared.add_dirty(vec![Arc::clone(lane)]);
            return Err(error);
        }
    }
    Ok(())
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
        assert!(!is_slow(Duration::from_millis(25), WITHIN) && is_slow(Duration::from_millis(26), WITHIN));
        for took in [26, 80, 700].map(Duration::from_millis) {
            assert_eq!(pause_after(took, WITHIN), took * 3);
        }
        assert_eq!(pause_after(Duration::from_secs(60), WITHIN), BACKOFF_MAX);
    }
}
