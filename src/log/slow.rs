//! Telling of commits that took long, but not of each: a disk that is slow is slow for all of them.

use std::time::{Duration, Instant};

use super::commit::Commit;
use crate::metrics;

/// Least time between two warnings.
const EVERY: Duration = Duration::from_secs(10);

/// Owned by the log's thread.
pub(super) struct SlowCommits {
    /// What is slow; `None` when nobody wants to know.
    than: Option<Duration>,
    told: Option<Instant>,
    /// Batches since then that were slow as well.
    held_back: u64,
}

/// A batch that has become durable.
pub(super) struct Pace {
    /// When the first of its commits was handed to the log.
    pub(super) since: Instant,
    /// When the log's thread began with it.
    pub(super) begun: Instant,
}

impl SlowCommits {
    pub(super) fn new(than: Option<Duration>) -> Self {
        Self { than, told: None, held_back: 0 }
    }

    /// Takes note of a batch that is durable now.
    pub(super) fn note(&mut self, commits: &[Commit], pace: &Pace) {
        let now = Instant::now();
        let waited = now - pace.since;
        metrics::COMMIT_WAIT.took(waited);
        if self.than.is_none_or(|than| waited < than) {
            return;
        }
        let count: usize = commits.iter().map(Commit::count).sum();
        metrics::SLOW_COMMITS.add(count);
        let Some(held_back) = self.turn(now) else { return };
        let Some(first) = commits.first() else { return };
        tracing::warn!(
            id = %first.lane.id,
            epoch = first.lane.epoch,
            waited = ?waited,
            at_the_disk = ?(now - pace.begun),
            commits = count,
            held_back,
            "a commit took long to become durable; when most of the time was spent at the disk, look at what else \
             uses that disk, or move the root to a faster one; else fewer or smaller commits, or Options::slow_commit"
        );
    }

    /// Whether to tell of it, and if so, how many there were since the last time.
    fn turn(&mut self, now: Instant) -> Option<u64> {
        if self.told.is_some_and(|told| now - told < EVERY) {
            self.held_back += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_slow_batches_one_is_told_of_and_the_next_says_how_many_were_not() {
        let (mut slow, begun) = (SlowCommits::new(Some(Duration::ZERO)), Instant::now());
        assert_eq!(slow.turn(begun), Some(0));
        for second in 1..10 {
            assert_eq!(slow.turn(begun + Duration::from_secs(second)), None);
        }
        assert_eq!(slow.turn(begun + EVERY), Some(9));
        assert_eq!(slow.turn(begun + EVERY + EVERY), Some(0));
    }
}
