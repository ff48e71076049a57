//! One of the runner's workers: takes one job after another, and settles what became of each.
//!
//! ```text
//! take ─> attempts ─> (over) ─> take ─> attempts ─> (over) ─> ...
//!                        └─> settle: commit the end, let go, mark, report
//! ```
//!
//! A job that is over leaves its place at once: what became of it becomes durable while the next one
//! is made and runs. A worker has one such job at most, and takes no third before it is settled; so
//! when the disk is slow the jobs wait for it, and nothing piles up.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::attempts::{Last, shorten};
use super::report::{JobReport, Outcome};
use crate::error::{Error, Result};
use crate::jobs::batch::{Batch, BatchItem, Claim, JobDone};
use crate::jobs::job::Job;
use crate::jobs::retry::RetryPolicy;
use crate::options::Durability;
use crate::store::Store;

/// A worker.
pub(super) struct Worker<J: Job> {
    pub(super) store: Store<J>,
    pub(super) retry: RetryPolicy,
    pub(super) timeout: Option<Duration>,
    pub(super) grace: Duration,
    pub(super) stop: CancellationToken,
    pub(super) batch: Batch,
    /// Whether the next job is taken while the end of the last is on its way to the disk.
    pub(super) overlap: bool,
}

/// A job that is over, in this run, and of which that is not durable yet.
struct Over<J: Job> {
    claim: Claim<BatchItem>,
    outcome: Result<(JobReport, Option<Last<J>>)>,
}

/// Whether an error is of the job alone, so that the others can go on.
fn concerns_one_instance(error: &Error) -> bool {
    use Error as E;
    matches!(
        error,
        E::InvalidInput { .. }
            | E::Rejected { .. }
            | E::TooLarge { .. }
            | E::Unserializable { .. }
            | E::KindMismatch { .. }
            | E::Schema { .. }
            | E::Corrupt { .. }
            | E::NewerFormat { .. }
            | E::Transition { .. }
            | E::Locked { .. }
            | E::Gone { .. }
            | E::NotFound { .. }
            | E::Panicked { .. }
            | E::Crashed { .. }
            | E::CrashLoop { .. }
    )
}

impl<J: Job> Worker<J> {
    /// Works until there is nothing left to take, or the runner stops.
    pub(super) async fn run(self, tell: mpsc::Sender<JobReport>) -> Result<()> {
        let mut over = None;
        let mut worked = Ok(());
        loop {
            if !self.overlap {
                worked = worked.and(self.settle(over.take(), &tell).await);
            }
            // In this order: what has ended is handed to the log before the next is taken.
            let (settled, next) = tokio::join!(biased; self.settle(over.take(), &tell), self.take_and_work());
            worked = worked.and(settled);
            match self.or_stop(next) {
                Ok(None) => return worked,
                Ok(next) => over = next,
                Err(error) => return worked.and(Err(error)),
            }
        }
    }

    /// An error of the store as a whole: the others stop too, and so does what this one has begun.
    fn or_stop<R>(&self, done: Result<R>) -> Result<R> {
        if done.is_err() {
            self.stop.cancel();
        }
        done
    }

    /// Takes a job, if there is one, and works on it until it is over.
    async fn take_and_work(&self) -> Result<Option<Over<J>>> {
        if self.stop.is_cancelled() {
            return Ok(None);
        }
        let Some(claim) = self.batch.next().await? else { return Ok(None) };
        if self.stop.is_cancelled() {
            return Ok(None);
        }
        let outcome = self.attempts(&claim).await;
        match &outcome {
            Err(error) if !concerns_one_instance(error) => outcome.map(|_| None),
            _ => Ok(Some(Over { claim, outcome })),
        }
    }

    /// Makes durable what became of a job: in its own record, and then in the batch. Reports it.
    async fn settle(&self, over: Option<Over<J>>, tell: &mpsc::Sender<JobReport>) -> Result<()> {
        let Some(Over { claim, outcome }) = over else { return Ok(()) };
        let item = claim.item();
        let outcome = match outcome {
            Ok((report, Some(last))) => last.conclude().await.map(|()| report),
            Ok((report, None)) => Ok(report),
            Err(error) => Err(error),
        };
        // Nobody comes back to it soon, and each live instance costs a descriptor, which every
        // process that is started has to close.
        self.store.release(&item.id);
        let report = match outcome {
            Err(error) if concerns_one_instance(&error) => self.failed(item, &error),
            other => self.or_stop(other)?,
        };
        let marked = self.mark(&claim, &report).await;
        // When nobody listens, the run was dropped, and this with it.
        let _ = tell.send(report).await;
        self.or_stop(marked)
    }

    /// Notes in the batch what became of a job. The job's own record says it too, and is on disk: a
    /// mark that is lost at a power cut is made again when the job is taken again.
    async fn mark(&self, claim: &Claim<BatchItem>, report: &JobReport) -> Result<()> {
        let outcome = match report.outcome {
            Outcome::Succeeded | Outcome::AlreadySucceeded => {
                Ok(JobDone { job: report.id.clone(), attempt: report.attempt })
            }
            Outcome::Failed | Outcome::Cancelled => Err(report.error.clone().unwrap_or_default()),
            // The claim is dropped, and the job goes on when the batch is run again.
            Outcome::Interrupted => return Ok(()),
        };
        self.batch.mark(claim, outcome, Some(Durability::Os)).await
    }

    /// The report of a job whose instance cannot be used.
    fn failed(&self, item: &BatchItem, error: &Error) -> JobReport {
        JobReport {
            id: item.id.clone(),
            outcome: Outcome::Failed,
            attempt: 0,
            error: Some(shorten(&error.to_string())),
            elapsed: Duration::ZERO,
            path: self.store.view().instance_path(&item.id),
        }
    }
}
