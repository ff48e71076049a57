//! Runs the jobs of a batch: so many at once, again when they fail, never twice when they succeed.
//!
//! ```text
//! pending ──begin──> running ──Ok──────────────────────────> succeeded
//!    ^                  ├──Err, attempts left (backoff)──> pending ─┐
//!    └──────────────────│──────────────────────────────────────────┘
//!                       ├──Err, none left───────────────────> failed
//!                       ├──cancelled────────────────────────> cancelled
//!                       └──the runner stops, or its process dies──> interrupted
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::batch::{Batch, BatchItem, Claim, JobDone, Listed, MAX_OPEN};
use super::job::{AtEnd, Attempt, EndChange, Job, became};
use super::retry::{self, RetryPolicy};
use crate::actors::transaction::Transaction;
use crate::blocking;
use crate::error::{Error, Result};
use crate::instance::Session;
use crate::options::Durability;
use crate::record::{BATCH_TAG, InstanceId, LastCheckpoint, Status};
use crate::store::Store;

/// How long a job that is told to stop may take, by default.
const GRACE: Duration = Duration::from_secs(5);

/// Most reports of failed jobs that a summary holds: it bounds memory, the count goes on.
const REPORTS: usize = 10_000;

/// How often, and how long apart, it is tried to use an instance that another process has locked.
const LOCKED_TRIES: u32 = 20;
const LOCKED_PAUSE: Duration = Duration::from_millis(50);

/// Longest reason that is kept, in characters.
const REASON_CHARS: usize = 300;

/// Runs jobs. Make one with [`Runner::new`], set what differs from the defaults, and call
/// [`Runner::run`].
#[derive(Debug)]
pub struct Runner<J: Job> {
    store: Store<J>,
    concurrency: usize,
    retry: RetryPolicy,
    timeout: Option<Duration>,
    grace: Duration,
    stop: CancellationToken,
}

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
    /// Why it did not succeed.
    pub error: Option<String>,
    /// How long it took in this run, with its retries.
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

/// What became of a batch.
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
    /// How long it took.
    pub elapsed: Duration,
}

impl Summary {
    /// Whether every job has succeeded.
    #[must_use]
    pub fn all_succeeded(&self) -> bool {
        self.succeeded == self.total
    }

    fn add(&mut self, report: JobReport) {
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

    /// When a failed attempt is followed by another.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Longest time of one attempt. An attempt that takes longer has failed.
    #[must_use]
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long a job that is told to stop may take before it is dropped.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Cancel this to stop the runner: jobs under way become `interrupted`, no more are begun.
    #[must_use]
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs every job of the batch that has not succeeded. `report` is told of each as it ends.
    ///
    /// A batch can be run again and again, also by another process after this one died: jobs that
    /// succeeded are not run again.
    ///
    /// # Errors
    ///
    /// An error of the store as a whole ends the run; jobs under way are interrupted. That jobs fail
    /// is not an error, nor that the instance of one cannot be made or used: it is in the
    /// [`Summary`].
    ///
    /// When the future is dropped the jobs under way are dropped too; their instances stay `running`
    /// until the batch is run again.
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
            running.spawn(self.work(batch).run(tell.clone()));
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

    fn work(&self, batch: &Batch) -> Work<J> {
        Work {
            store: self.store.clone(),
            retry: self.retry,
            timeout: self.timeout,
            grace: self.grace,
            stop: self.stop.clone(),
            batch: batch.clone(),
        }
    }
}

/// A worker: takes one job after another.
struct Work<J: Job> {
    store: Store<J>,
    retry: RetryPolicy,
    timeout: Option<Duration>,
    grace: Duration,
    stop: CancellationToken,
    batch: Batch,
}

/// How an attempt ended.
enum Ended {
    Succeeded,
    Failed(String),
    Cancelled,
    Stopped,
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

impl<J: Job> Work<J> {
    async fn run(self, tell: mpsc::Sender<JobReport>) -> Result<()> {
        let worked = self.take_jobs(&tell).await;
        if worked.is_err() {
            // An error of the store as a whole: the others stop too.
            self.stop.cancel();
        }
        worked
    }

    async fn take_jobs(&self, tell: &mpsc::Sender<JobReport>) -> Result<()> {
        let mut next = self.next().await?;
        while let Some(claim) = next {
            if self.stop.is_cancelled() {
                break;
            }
            let item = claim.item();
            let report = self.job(&claim).await;
            // Nobody comes back to it soon, and each live instance costs a descriptor, which every
            // process that is started has to close.
            self.store.release(&item.id);
            let report = match report {
                Err(error) if concerns_one_instance(&error) => self.failed(item, &error),
                other => other?,
            };
            let taken = self.mark(&claim, &report).await;
            if tell.send(report).await.is_err() {
                break;
            }
            next = taken?;
        }
        Ok(())
    }

    async fn next(&self) -> Result<Option<Claim<BatchItem>>> {
        if self.stop.is_cancelled() { Ok(None) } else { self.batch.next().await }
    }

    /// Notes in the batch what became of a job. The job's own record says it too, and is on disk: a
    /// mark that is lost at a power cut is made again when the job is taken again. Takes the next
    /// in the same commit, unless the runner is to stop.
    async fn mark(&self, claim: &Claim<BatchItem>, report: &JobReport) -> Result<Option<Claim<BatchItem>>> {
        let outcome = match report.outcome {
            Outcome::Succeeded | Outcome::AlreadySucceeded => {
                Ok(JobDone { job: report.id.clone(), attempt: report.attempt })
            }
            Outcome::Failed | Outcome::Cancelled => Err(report.error.clone().unwrap_or_default()),
            // The claim is dropped, and the job goes on when the batch is run again.
            Outcome::Interrupted => return self.next().await,
        };
        if self.stop.is_cancelled() {
            return self.batch.mark(claim, outcome, Some(Durability::Os)).await.map(|()| None);
        }
        self.batch.mark_and_next(claim, outcome).await
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

    /// The instance of a job. One that did not exist has begun its first attempt: the number says so.
    async fn session(&self, claim: &Claim<BatchItem>) -> Result<(Session<J>, Option<u32>)> {
        let item = claim.item();
        if claim.attempt() > 1 {
            // Mostly it is there, and to ask for it costs less than to try to make it.
            match self.existing(&item.id).await {
                Err(Error::NotFound { .. }) => {}
                other => return Ok((other?, None)),
            }
        }
        match self.store.create_with(item.to_new(self.batch.id()), |tx| begin::<J>(tx).map(drop)).await {
            Err(Error::AlreadyExists { .. }) => Ok((self.existing(&item.id).await?, None)),
            made => Ok((made?, Some(1))),
        }
    }

    /// An instance that is there. A command that pauses or changes it may have it locked for a moment.
    async fn existing(&self, id: &InstanceId) -> Result<Session<J>> {
        for _ in 0..LOCKED_TRIES {
            match self.store.session(id).await {
                Err(Error::Locked { .. }) => tokio::time::sleep(LOCKED_PAUSE).await,
                other => return other,
            }
        }
        self.store.session(id).await
    }

    async fn job(&self, claim: &Claim<BatchItem>) -> Result<JobReport> {
        let item = claim.item();
        let begun = Instant::now();
        let (session, mut first) = self.session(claim).await?;
        let report = |outcome, attempt, error| JobReport {
            id: item.id.clone(),
            outcome,
            attempt,
            error,
            elapsed: begun.elapsed(),
            path: session.path(),
        };
        let record = session.record().await?;
        if record.tags.get(BATCH_TAG).map(String::as_str) != Some(self.batch.id().as_str()) {
            let error = "an instance of this id exists and is not of this batch; give the job another id".to_owned();
            return Ok(report(Outcome::Failed, 0, Some(error)));
        }
        if record.status == Status::Succeeded {
            return Ok(report(Outcome::AlreadySucceeded, record.attempt, None));
        }
        let _awake = session.keep_awake().await?;
        let (_attendance, status) = session.attend().await?;
        let input = Arc::new(item.input.clone());
        let mut made = 0;
        loop {
            made += 1;
            let attempt = loop {
                let begun = match first.take() {
                    Some(attempt) => Ok(attempt),
                    None => session.commit(begin::<J>).await.map(|begun| begun.value),
                };
                match begun {
                    // Somebody holds it: it is begun when they let it go.
                    Err(Error::Transition { from: Status::Paused, .. }) => {}
                    other => break other?,
                }
                tracing::warn!(id = %item.id, "a job is paused, and is not begun until it is unpaused");
                let number = record.attempt;
                tokio::select! {
                    biased;
                    // Paused, as it was.
                    () = self.stop.cancelled() => return Ok(report(Outcome::Interrupted, number, None)),
                    () = called_off(&session, &status) => {
                        conclude(&session, number, &Ended::Cancelled, None, None).await?;
                        return Ok(report(Outcome::Cancelled, number, Some("cancelled".to_owned())));
                    }
                    () = became(&status, false) => {}
                }
            };
            let checkpoint = session.last_checkpoint().await?;
            let at_end = AtEnd::default();
            let epoch = session.record().await?.epoch;
            let span = tracing::info_span!("job", id = %item.id, epoch, attempt);
            let attempted = self.attempt(&session, attempt, &input, checkpoint, &status, &at_end);
            let ended = attempted.instrument(span).await;
            let again = matches!(ended, Ended::Failed(_)) && self.retry.retries_after(made);
            let delay = self.retry.delay(made, retry::random());
            conclude(&session, attempt, &ended, again.then_some(delay), at_end.take()).await?;
            let (outcome, error) = match ended {
                Ended::Succeeded => (Outcome::Succeeded, None),
                Ended::Cancelled => (Outcome::Cancelled, Some("cancelled".to_owned())),
                Ended::Stopped => (Outcome::Interrupted, None),
                Ended::Failed(error) => (Outcome::Failed, Some(error)),
            };
            if !again {
                return Ok(report(outcome, attempt, error));
            }
            tokio::select! {
                biased;
                () = called_off(&session, &status) => {
                    conclude(&session, attempt, &Ended::Cancelled, None, None).await?;
                    return Ok(report(Outcome::Cancelled, attempt, Some("cancelled".to_owned())));
                }
                () = tokio::time::sleep(delay) => {}
                // Pending, as the last attempt left it: it goes on when the batch is run again.
                () = self.stop.cancelled() => return Ok(report(Outcome::Interrupted, attempt, error)),
            }
        }
    }

    /// One attempt, in a task of its own, so that a panic in it is a failure like any other.
    async fn attempt(
        &self,
        session: &Session<J>,
        number: u32,
        input: &Arc<Value>,
        checkpoint: Option<LastCheckpoint>,
        status: &watch::Receiver<Status>,
        at_end: &AtEnd,
    ) -> Ended {
        let stop = CancellationToken::new();
        let attempt = Attempt {
            number,
            input: Arc::clone(input),
            grace: self.grace,
            checkpoint,
            stop: stop.clone(),
            at_end: at_end.clone(),
            status: status.clone(),
        };
        let (kind, for_task) = (Arc::clone(self.store.kind()), session.clone());
        let mut task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(
            async move { kind.run(for_task, attempt).await }.in_current_span(),
        ));
        let timeout = async {
            match self.timeout {
                Some(timeout) => time_at_work(timeout, status).await,
                None => std::future::pending().await,
            }
        };
        let (told, ended) = tokio::select! {
            // What has ended has ended, also when its time is up at the same moment.
            biased;
            result = &mut task => (None, Some(result)),
            () = self.stop.cancelled() => (Some(Ended::Stopped), None),
            () = called_off(session, status) => (Some(Ended::Cancelled), None),
            () = timeout => (Some(Ended::Failed(format!("it took longer than {:?}", self.timeout.unwrap_or_default()))), None),
        };
        let Some(told) = told else {
            return match ended {
                Some(Ok(Ok(()))) => Ended::Succeeded,
                Some(Ok(Err(error))) => Ended::Failed(shorten(&error.to_string())),
                _ => Ended::Failed("the job panicked".into()),
            };
        };
        stop.cancel();
        // Twice the grace: a command needs one to be killed, and a little to be cleaned up after.
        let _ = tokio::time::timeout(self.grace * 2 + Duration::from_secs(1), &mut task).await;
        told
    }
}

/// Waits until somebody asks to stop, or sets the status to `cancelled` themselves.
async fn called_off<J: Job>(session: &Session<J>, status: &watch::Receiver<Status>) {
    let mut status = status.clone();
    tokio::select! {
        () = session.cancelled() => {}
        Ok(_) = status.wait_for(|status| *status == Status::Cancelled) => {}
    }
}

/// Waits until `limit` has passed, without the time in which the job is paused.
async fn time_at_work(limit: Duration, status: &watch::Receiver<Status>) {
    let mut left = limit;
    loop {
        became(status, false).await;
        let begun = tokio::time::Instant::now();
        tokio::select! {
            biased;
            () = tokio::time::sleep(left) => return,
            () = became(status, true) => left = left.saturating_sub(begun.elapsed()),
        }
    }
}

/// Notes that an attempt begins, and returns its number. One that is paused is not begun.
/// Where the job commits at once, that commit takes this one to the disk.
fn begin<J: Job>(tx: &mut Transaction<J::State>) -> Result<u32> {
    let record = tx.record();
    if record.status == Status::Paused {
        return Err(Error::Transition { id: record.id.clone(), from: Status::Paused, to: Status::Running });
    }
    if record.status.is_final() {
        tx.set_status(Status::Pending, None)?;
    }
    if J::BEGINS_WITH_COMMIT {
        tx.set_durability(Durability::Os);
    }
    let attempt = tx.begin_attempt();
    tx.set_status(Status::Running, None)?;
    tx.event("job.started", &json!({ "attempt": attempt }))?;
    Ok(attempt)
}

/// Notes how an attempt ended; with a delay it is to be followed by another.
async fn conclude<J: Job>(
    session: &Session<J>,
    attempt: u32,
    ended: &Ended,
    again: Option<Duration>,
    change: Option<EndChange<J::State>>,
) -> Result<()> {
    let error = if let Ended::Failed(error) = ended { Some(error.clone()) } else { None };
    let (status, event) = match (ended, again) {
        (Ended::Succeeded, _) => (Status::Succeeded, "job.succeeded"),
        (Ended::Failed(_), None) => (Status::Failed, "job.failed"),
        (Ended::Failed(_), Some(_)) => (Status::Pending, "job.retry"),
        (Ended::Cancelled, _) => (Status::Cancelled, "job.cancelled"),
        (Ended::Stopped, _) => (Status::Interrupted, "job.interrupted"),
    };
    let delay_ms = again.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
    session
        .commit(move |tx| {
            if let Some(change) = change {
                change(tx.state_mut());
            }
            if tx.record().status == Status::Waiting && status == Status::Pending {
                // It ended while it waited for an answer: the lifecycle puts back what runs.
                tx.set_status(Status::Running, None)?;
            }
            // What a person holds is held on, also when the runner stops.
            let held = tx.record().status == Status::Paused && status == Status::Interrupted;
            tx.set_status(if held { Status::Paused } else { status }, error.as_deref())?;
            let mut data = json!({ "attempt": attempt });
            if let Some(error) = &error {
                data["error"] = error.as_str().into();
            }
            if let Some(delay_ms) = delay_ms {
                data["delay_ms"] = delay_ms.into();
            }
            tx.event(event, &data)
        })
        .await
        .map(drop)
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= REASON_CHARS {
        text.to_owned()
    } else {
        text.chars().take(REASON_CHARS).chain(['…']).collect()
    }
}
