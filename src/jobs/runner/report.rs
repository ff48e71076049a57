//! What the runner tells: of each job, and of the whole. Nothing of it is durable: the records are.

use std::path::PathBuf;
use std::time::Duration;

use crate::record::InstanceId;

/// Most reports of failed jobs that a summary holds: it bounds memory, the count goes on.
const REPORTS: usize = 10_000;

/// What became of one job.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobReport {
    /// The job.
    pub id: InstanceId,
    /// What became of it.
    pub outcome: Outcome,
    /// The last attempt, counted over restarts; 0 when none could be made, because the instance
    /// could not be made or used.
    pub attempt: u32,
    /// Why it did not succeed; none when it did. At most 300 characters and an ellipsis.
    pub error: Option<String>,
    /// How long it took in this run, with its retries and the time between them.
    pub elapsed: Duration,
    /// The directory of its instance.
    pub path: PathBuf,
}

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It succeeded now.
    Succeeded,
    /// It had succeeded in an earlier run, and was not run again.
    AlreadySucceeded,
    /// It failed, and has no attempts left.
    Failed,
    /// The runner was stopped. It goes on when the batch is run again.
    Interrupted,
    /// Somebody called it off.
    Cancelled,
}

/// What became of a batch: what [`Runner::run`](super::super::Runner::run) returns.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Summary {
    /// Number of jobs.
    pub total: u64,
    /// Jobs that have succeeded, now or before.
    pub succeeded: u64,
    /// Those of them that had succeeded before.
    pub already_succeeded: u64,
    /// Jobs that failed.
    pub failed: u64,
    /// Jobs that were called off.
    pub cancelled: u64,
    /// Jobs that were begun and not finished, or not begun.
    pub unfinished: u64,
    /// The failed and cancelled jobs, the first 10 000 of them.
    pub reports: Vec<JobReport>,
    /// How long the run took.
    pub elapsed: Duration,
}

impl Summary {
    /// Whether every job has succeeded. The example is at [`Runner`](super::super::Runner).
    #[must_use]
    pub fn all_succeeded(&self) -> bool {
        self.succeeded == self.total
    }

    pub(super) fn add(&mut self, report: JobReport) {
        let count = match report.outcome {
            Outcome::Succeeded => &mut self.succeeded,
            Outcome::AlreadySucceeded => {
                self.already_succeeded += 1;
                &mut self.succeeded
            }
            Outcome::Failed => &mut self.failed,
            Outcome::Cancelled => &mut self.cancelled,
            Outcome::Interrupted => return,
        };
        *count += 1;
        if matches!(report.outcome, Outcome::Failed | Outcome::Cancelled) && self.reports.len() < REPORTS {
            self.reports.push(report);
        }
    }
}
