//! The attempts at one job: its instance, one attempt after another, and when no other follows. Nothing
//! is noted in the batch here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::lifecycle::{Ended, begin, conclude};
use super::report::{JobReport, Outcome};
use super::worker::Worker;
use crate::actors::instance::Attendance;
use crate::error::{Error, Result};
use crate::instance::{KeepAwake, Session};
use crate::jobs::batch::{BatchItem, Claim};
use crate::jobs::job::{AtEnd, Attempt, EndChange, Job, became};
use crate::jobs::retry;
use crate::record::{BATCH_TAG, InstanceId, LastCheckpoint, Status};

/// How often, and how long apart, it is tried to use an instance that another process has locked.
const LOCKED_TRIES: u32 = 20;
const LOCKED_PAUSE: Duration = Duration::from_millis(50);

/// Longest reason that is kept, in characters.
const REASON_CHARS: usize = 300;

/// The last attempt at a job in this run. It has ended, and that is to be committed.
pub(super) struct Last<J: Job> {
    session: Session<J>,
    attempt: u32,
    ended: Ended,
    change: Option<EndChange<J::State>>,
    /// Until it is committed the instance is not let go, and somebody acts for it.
    _awake: KeepAwake,
    _attendance: Attendance<J::State>,
}

impl<J: Job> Last<J> {
    /// Commits how it ended.
    pub(super) async fn conclude(self) -> Result<()> {
        conclude(&self.session, self.attempt, &self.ended, None, self.change).await
    }
}

impl<J: Job> Worker<J> {
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

    /// Makes attempts at a job until no other follows in this run. What the last of them came to is
    /// not committed yet.
    pub(super) async fn attempts(&self, claim: &Claim<BatchItem>) -> Result<(JobReport, Option<Last<J>>)> {
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
            return Ok((report(Outcome::Failed, 0, Some(error)), None));
        }
        if record.status == Status::Succeeded {
            return Ok((report(Outcome::AlreadySucceeded, record.attempt, None), None));
        }
        let awake = session.keep_awake().await?;
        let (attendance, status) = session.attend().await?;
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
                    () = self.stop.cancelled() => return Ok((report(Outcome::Interrupted, number, None), None)),
                    () = called_off(&session, &status) => {
                        conclude(&session, number, &Ended::Cancelled, None, None).await?;
                        return Ok((report(Outcome::Cancelled, number, Some("cancelled".to_owned())), None));
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
            if !matches!(ended, Ended::Failed(_)) || !self.retry.retries_after(made) {
                let (outcome, error) = match &ended {
                    Ended::Succeeded => (Outcome::Succeeded, None),
                    Ended::Cancelled => (Outcome::Cancelled, Some("cancelled".to_owned())),
                    Ended::Stopped => (Outcome::Interrupted, None),
                    Ended::Failed(_) => (Outcome::Failed, ended.error()),
                };
                let report = report(outcome, attempt, error);
                let change = at_end.take();
                let last = Last { session, attempt, ended, change, _awake: awake, _attendance: attendance };
                return Ok((report, Some(last)));
            }
            let delay = self.retry.delay(made, retry::random());
            conclude(&session, attempt, &ended, Some(delay), at_end.take()).await?;
            tokio::select! {
                biased;
                () = called_off(&session, &status) => {
                    conclude(&session, attempt, &Ended::Cancelled, None, None).await?;
                    return Ok((report(Outcome::Cancelled, attempt, Some("cancelled".to_owned())), None));
                }
                () = tokio::time::sleep(delay) => {}
                // Pending, as the last attempt left it: it goes on when the batch is run again.
                () = self.stop.cancelled() => {
                    return Ok((report(Outcome::Interrupted, attempt, ended.error()), None));
                }
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

/// As much of a reason as is kept.
pub(super) fn shorten(text: &str) -> String {
    if text.chars().count() <= REASON_CHARS {
        text.to_owned()
    } else {
        text.chars().take(REASON_CHARS).chain(['…']).collect()
    }
}
