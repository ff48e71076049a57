//! What a job is, and one attempt at it. Nothing is begun or decided here: the runner does that.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::BoxError;
use crate::instance::Session;
use crate::kind::Instance;
use crate::record::{LastCheckpoint, Status};

/// An instance that does work: what the [`Runner`](super::Runner) runs.
///
/// ```
/// use fiefdom::jobs::{Attempt, Job};
/// use fiefdom::{BoxError, Instance, NewInstance, Session};
///
/// struct Square;
///
/// impl Instance for Square {
///     const KIND: &'static str = "square";
///     type State = u64;
///     type Prepared = ();
///
///     async fn prepare(&self) -> Result<(), BoxError> {
///         Ok(())
///     }
///
///     fn initial(&self, (): &(), new: &NewInstance) -> Result<u64, BoxError> {
///         Ok(new.input_as()?)
///     }
/// }
///
/// impl Job for Square {
///     async fn run(&self, session: Session<Self>, _attempt: Attempt) -> Result<(), BoxError> {
///         session.update(|n| *n = *n * *n).await?;
///         Ok(())
///     }
/// }
/// ```
pub trait Job: Instance + Sized {
    /// Whether the first thing that [`Job::run`] does is a commit at the level
    /// [`Durability::Disk`](crate::Durability::Disk), before anything that can be seen outside of
    /// the instance. Then the runner does not wait for the start of the attempt to be on disk:
    /// that commit takes it there. Default: no.
    const BEGINS_WITH_COMMIT: bool = false;

    /// Makes one attempt. It may have been made before, by a process that died in the middle: what
    /// it leaves outside its instance must be safe to do again.
    ///
    /// The runner sets the status and writes the events `job.started`, `job.retry`, `job.succeeded`,
    /// `job.failed`, `job.interrupted` and `job.cancelled`. When [`Attempt::stopped`] comes true,
    /// return soon: a second after twice the runner's grace ([`Runner::grace`](super::Runner::grace))
    /// the future is dropped. It is dropped at once with the future of the run itself.
    ///
    /// # Errors
    ///
    /// Why the attempt failed: the first 300 characters of it are kept. A panic is a failure, too. It is
    /// tried again if the runner's policy has attempts left.
    fn run(&self, session: Session<Self>, attempt: Attempt) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// One attempt at a job.
///
/// ```
/// use fiefdom::jobs::Attempt;
/// use fiefdom::{BoxError, Checkpoint, Instance, Session};
///
/// /// Work in parts: it goes on where it stood, ends soon when it is told to, and stands still while
/// /// it is paused.
/// async fn work<I: Instance>(session: Session<I>, attempt: Attempt) -> Result<(), BoxError> {
///     let done = attempt.checkpoint.as_ref().map(|last| last.checkpoint.data_as::<u64>());
///     for part in done.transpose()?.unwrap_or(0)..100 {
///         tokio::select! {
///             () = attempt.stopped() => return Err("stopped".into()),
///             () = attempt.unpaused() => {}
///         }
///         // … one part of the work
///         session.checkpoint(Checkpoint::new("parts").data((part + 1).into())).await?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// 1 for the first ever, counted over restarts.
    pub number: u32,
    /// What the batch says about this job, secrets included: it is not in the record.
    pub input: Arc<Value>,
    /// How long the attempt may take to end, once it is told to stop.
    pub grace: Duration,
    /// The last checkpoint of an earlier attempt, also one whose process died: where to go on. None when
    /// none was written. See [`InstanceRef::checkpoint`](crate::InstanceRef::checkpoint).
    pub checkpoint: Option<LastCheckpoint>,
    pub(super) stop: CancellationToken,
    pub(super) at_end: AtEnd,
    pub(super) status: watch::Receiver<Status>,
}

/// A change of the state that is a part of the commit that ends an attempt.
pub(super) type EndChange<S> = Box<dyn FnOnce(&mut S) + Send>;

/// Where an attempt leaves one, as an [`EndChange`] of its kind's state.
#[derive(Clone, Debug, Default)]
pub(super) struct AtEnd(Arc<Mutex<Option<Box<dyn Any + Send>>>>);

impl AtEnd {
    pub(super) fn set<S: 'static>(&self, change: impl FnOnce(&mut S) + Send + 'static) {
        let change: EndChange<S> = Box::new(change);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(change));
    }

    pub(super) fn take<S: 'static>(&self) -> Option<EndChange<S>> {
        let change = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        change.downcast().ok().map(|change| *change)
    }
}

impl Attempt {
    /// Waits until the attempt shall end: time is up, the job is cancelled, or the runner stops.
    /// Cancel safe.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Whether the attempt shall end: for work that has no `await`.
    ///
    /// ```
    /// use fiefdom::{BoxError, jobs::Attempt};
    ///
    /// /// On a thread that may block.
    /// fn count(attempt: &Attempt, lines: impl Iterator<Item = String>) -> Result<usize, BoxError> {
    ///     let mut count = 0;
    ///     for line in lines {
    ///         if attempt.is_stopped() {
    ///             return Err("stopped".into());
    ///         }
    ///         count += line.len();
    ///     }
    ///     Ok(count)
    /// }
    /// ```
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until somebody pauses the job: see [`InstanceRef::pause`](crate::InstanceRef::pause).
    /// The clock of the runner's timeout stands still until it is unpaused. A job that cannot stop in
    /// the middle may ignore it: it is told that it is paused, and its end counts as ever. Cancel safe.
    ///
    /// ```
    /// # use fiefdom::jobs::Attempt;
    /// # async fn example(attempt: Attempt, mut download: impl FnMut(bool)) {
    /// loop {
    ///     attempt.paused().await;
    ///     download(false);
    ///     attempt.unpaused().await;
    ///     download(!attempt.is_paused());
    /// }
    /// # }
    /// ```
    pub async fn paused(&self) {
        became(&self.status, true).await;
    }

    /// Waits until the job is not paused, or not any more. Cancel safe.
    ///
    /// ```
    /// # use fiefdom::jobs::Attempt;
    /// # async fn example(attempt: Attempt) {
    /// for _part in 0..100 {
    ///     attempt.unpaused().await;
    ///     // one part of the work
    /// }
    /// # }
    /// ```
    pub async fn unpaused(&self) {
        became(&self.status, false).await;
    }

    /// Whether the job is paused. The example is at [`Attempt::paused`].
    #[must_use]
    pub fn is_paused(&self) -> bool {
        *self.status.borrow() == Status::Paused
    }
}

/// Waits until the job is paused, or is not. An instance that is let go changes no more.
pub(super) async fn became(status: &watch::Receiver<Status>, paused: bool) {
    if status.clone().wait_for(|status| (*status == Status::Paused) == paused).await.is_err() {
        std::future::pending::<()>().await;
    }
}
