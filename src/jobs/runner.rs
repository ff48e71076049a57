//! Runs the jobs of a batch: so many at once, again when they fail, never twice when they succeed. It
//! keeps no list of its own: what there is to do, and what was done, is in the batch and its jobs.

mod attempts;
mod lifecycle;
mod report;
mod worker;

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, Listed, MAX_OPEN};
use super::job::Job;
use super::retry::RetryPolicy;
use crate::blocking;
use crate::error::{Error, Result};
use crate::store::Store;
use worker::Worker;

pub use report::{JobReport, Outcome, Summary};

/// How long a job that is told to stop may take, by default.
const GRACE: Duration = Duration::from_secs(5);

/// Runs jobs. Make one with [`Runner::new`], set what differs from the defaults, and call
/// [`Runner::run`].
///
/// ```
/// use fiefdom::Store;
/// use fiefdom::jobs::{Batch, BatchItem, CommandInput, CommandJob, RetryPolicy, Runner};
/// use serde_json::json;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = Store::open(dir.path(), CommandJob).await?;
/// let jobs = [
///     BatchItem::new("greet".parse()?, json!(CommandInput::new("echo hello"))),
///     BatchItem::new("count".parse()?, json!(CommandInput::new("seq 3"))),
/// ];
/// let batch = Batch::create(&store, jobs).await?;
/// let runner = Runner::new(store.clone()).concurrency(2).retry(RetryPolicy::attempts(3));
/// let summary = runner.run(&batch, |job| println!("{}: {:?}", job.id, job.outcome)).await?;
///
/// assert!(summary.all_succeeded());
/// let printed = std::fs::read_to_string(dir.path().join("instances/greet/logs/stdout.log"));
/// assert_eq!(printed.unwrap(), "hello\n");
/// # drop(batch);
/// # store.shutdown().await }
/// ```
#[derive(Debug)]
pub struct Runner<J: Job> {
    store: Store<J>,
    concurrency: usize,
    retry: RetryPolicy,
    timeout: Option<Duration>,
    grace: Duration,
    stop: CancellationToken,
}

impl<J: Job> Runner<J> {
    /// A runner with the defaults: as many jobs at once as there are processors, one attempt each,
    /// no timeout, five seconds of grace.
    #[must_use]
    pub fn new(store: Store<J>) -> Self {
        let concurrency = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            store,
            concurrency,
            retry: RetryPolicy::none(),
            timeout: None,
            grace: GRACE,
            stop: CancellationToken::new(),
        }
    }

    /// Jobs at once: at least 1, and at most 4096.
    #[must_use]
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.concurrency = jobs.max(1);
        self
    }

    /// When a failed attempt is followed by another. Default: never ([`RetryPolicy::none`]).
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Longest time of one attempt, without the time in which it is paused. An attempt that takes longer
    /// has failed. Default: no limit. The example is at [`Runner::stop_token`].
    #[must_use]
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long a job that is told to stop may take. A command gets `SIGTERM`, and after this `SIGKILL`;
    /// a job that has not ended a second after twice this is dropped. Default: 5 s. The example is at
    /// [`Runner::stop_token`].
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Cancel this to stop the runner: jobs under way become `interrupted`, no more are begun, and
    /// [`Runner::run`] returns when they have ended. It stays stopped: to go on takes another runner.
    ///
    /// ```
    /// use std::time::Duration;
    /// use fiefdom::jobs::{Batch, BatchItem, CommandInput, CommandJob, Runner};
    /// use serde_json::json;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = fiefdom::Store::open(dir.path(), CommandJob).await?;
    /// let job = BatchItem::new("sleepy".parse()?, json!(CommandInput::new("sleep 60")));
    /// let batch = Batch::create(&store, [job]).await?;
    /// let runner = Runner::new(store.clone()).timeout(Some(Duration::from_secs(90))).grace(Duration::from_secs(1));
    /// let stop = runner.stop_token();
    /// stop.cancel(); // from a signal handler, say
    /// let summary = runner.run(&batch, |_job| ()).await?;
    /// assert!(!summary.all_succeeded());
    /// assert_eq!(summary.unfinished, 1);
    /// # drop(batch);
    /// # store.shutdown().await }
    /// ```
    #[must_use]
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs every job of the batch that has not succeeded. `report` is told of each when its end is
    /// committed.
    ///
    /// A batch can be run again and again, also by another process after this one died: jobs that
    /// succeeded are not run again. What [`BatchSettings`](super::BatchSettings) says is for whoever
    /// makes the runner: it is not looked at here.
    ///
    /// # Errors
    ///
    /// An error of the store as a whole ends the run; jobs under way are interrupted. That jobs fail
    /// is not an error, nor that the instance of one cannot be made or used: it is in the
    /// [`Summary`].
    ///
    /// When the future is dropped the jobs under way are dropped too (commands are killed); their
    /// instances stay `running` until the batch is run again.
    pub async fn run(&self, batch: &Batch, mut report: impl FnMut(&JobReport)) -> Result<Summary> {
        let begun = Instant::now();
        let mut summary = Summary { total: batch.total(), ..Summary::default() };
        let mut ended = |ended: JobReport| {
            report(&ended);
            summary.add(ended);
        };
        self.look_back(batch, &mut ended).await?;
        batch.retry_failed().await?;
        let workers = self.concurrency.min(MAX_OPEN).min(usize::try_from(batch.total()).unwrap_or(usize::MAX));
        let (tell, mut told) = mpsc::channel(workers.max(1));
        let mut running = JoinSet::new();
        for _ in 0..workers {
            running.spawn(self.worker(batch, workers).run(tell.clone()));
        }
        drop(tell);
        // To cancel the batch is to stop the runner.
        let mut called_off = std::pin::pin!(batch.instance.cancelled());
        loop {
            tokio::select! {
                report = told.recv() => match report {
                    Some(report) => ended(report),
                    None => break,
                },
                // Once the token is set this is not asked again.
                () = &mut called_off, if !self.stop.is_cancelled() => self.stop.cancel(),
            }
        }
        let mut first_error = None;
        while let Some(worker) = running.join_next().await {
            match worker {
                Ok(Ok(())) => {}
                Ok(Err(error)) => drop(first_error.get_or_insert(error)),
                // A panic in a job is caught inside the task; this is one of ours.
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return Err(Error::Closed),
                },
            }
        }
        summary.unfinished = summary.total - summary.succeeded - summary.failed - summary.cancelled;
        summary.elapsed = begun.elapsed();
        let stopped = if summary.unfinished > 0 { batch.stopped().await } else { Ok(()) };
        first_error.map_or(stopped, Err)?;
        Ok(summary)
    }

    /// Reports what had succeeded before. A job whose instance was removed since is to be run again.
    async fn look_back(&self, batch: &Batch, ended: &mut impl FnMut(JobReport)) -> Result<()> {
        let Some(mut lister) = batch.succeeded().await? else { return Ok(()) };
        self.store.flush().await?;
        while !self.stop.is_cancelled() {
            let page = lister.page(batch).await?;
            if page.is_empty() {
                break;
            }
            let view = self.store.view();
            let (there, gone): (Vec<Listed>, Vec<Listed>) = blocking::run(move || {
                let done = page.into_iter().filter(|job| job.succeeded.is_some());
                Ok(done.partition(|job| view.record_path(&job.item.id).exists()))
            })
            .await?;
            for job in there {
                ended(JobReport {
                    path: self.store.view().instance_path(&job.item.id),
                    id: job.item.id,
                    outcome: Outcome::AlreadySucceeded,
                    attempt: job.succeeded.unwrap_or(0),
                    error: None,
                    elapsed: Duration::ZERO,
                });
            }
            if !gone.is_empty() {
                batch.take_back(&gone).await?;
            }
        }
        Ok(())
    }

    fn worker(&self, batch: &Batch, workers: usize) -> Worker<J> {
        Worker {
            store: self.store.clone(),
            retry: self.retry,
            timeout: self.timeout,
            grace: self.grace,
            stop: self.stop.clone(),
            batch: batch.clone(),
            // A worker that overlaps has two items, of as many as a batch hands out.
            overlap: workers <= MAX_OPEN / 2,
        }
    }
}
