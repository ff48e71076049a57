//! Deleting what is over: [`Store::gc`], once or again and again. Which instances may go is never
//! decided here: `admin/retention.rs` judges each, twice.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::actors::instance::submit_and_wait;
use crate::actors::transaction::Transaction;
use crate::admin::retention::{self, Due, GcReport, Plan, Refused, RefusedReason, Retention};
use crate::blocking;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::kind::Instance;
use crate::log::activate::{self, Activated};
use crate::log::trash;
use crate::options::Durability;
use crate::record::RawRecord;
use crate::store::Store;
use crate::view::View;

/// Deletions under way at once: enough for their commits to share a flush of the log.
const AT_ONCE: usize = 8;

impl<I: Instance> Store<I> {
    /// Deletes the instances that the policy is for, of whatever kind, and says which.
    ///
    /// Each is locked and judged again before it is deleted, and goes as a whole: the deletion is
    /// committed, the directory is moved aside in one step, then its files are removed. While one is
    /// being deleted, others who want it get [`Error::Locked`]. One that was used a moment ago is live
    /// still, and is refused: a later run finds it.
    ///
    /// When the future is dropped, what is deleted by then stays deleted, and the rest stays; of at most
    /// eight that were under way each is one or the other.
    ///
    /// ```
    /// use std::time::Duration;
    /// use fiefdom::{Retention, RetentionRule};
    ///
    /// # use fiefdom::{Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// let week = Duration::from_secs(7 * 86_400);
    /// let report = store.gc(&Retention::new().rule(RetentionRule::new().older_than(week).keep(50))).await?;
    /// println!("{} deleted, {} bytes freed", report.deleted.len(), report.bytes_freed);
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] for a rule about a status that is not final; [`Error::Io`] when the
    /// root cannot be listed; [`Error::Closed`], and the error of the log when it fails: what was
    /// deleted before stays so. What cannot be deleted for a reason of its own is in
    /// [`GcReport::refused`].
    pub async fn gc(&self, policy: &Retention) -> Result<GcReport> {
        self.gc_watched(policy, |_, _| ()).await
    }

    /// [`Store::gc`] with a progress report: `watch` is told after each instance how many of those that
    /// are due are done, and how many are due.
    ///
    /// ```
    /// use fiefdom::{Retention, RetentionRule};
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let policy = Retention::new().rule(RetentionRule::new());
    /// let report = store.gc_watched(&policy, |done, due| eprintln!("{done} of {due}")).await?;
    /// assert!(report.deleted.is_empty()); // nothing is over
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Store::gc`].
    pub async fn gc_watched(&self, policy: &Retention, watch: impl FnMut(usize, usize)) -> Result<GcReport> {
        collect(&self.engine, policy, watch).await
    }

    /// What [`Store::gc`] would delete now. No instance is changed; the files of this process are brought
    /// up to date before.
    ///
    /// ```
    /// use fiefdom::{RefusedReason, Retention, RetentionRule, Status};
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// build.commit(|tx| {
    ///     tx.set_pinned(true);
    ///     tx.set_status(Status::Cancelled, None)
    /// }).await?;
    /// let policy = Retention::new().rule(RetentionRule::new());
    /// let report = store.gc_dry_run(&policy).await?;
    /// assert!(report.dry_run && report.deleted.is_empty());
    /// assert!(matches!(report.refused[0].reason, RefusedReason::Pinned));
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Store::flush`] and [`View::gc_dry_run`].
    pub async fn gc_dry_run(&self, policy: &Retention) -> Result<GcReport> {
        self.flush().await?;
        let (view, policy) = (self.view(), policy.clone());
        blocking::run(move || view.gc_dry_run(&policy)).await
    }

    /// Runs [`Store::gc`] now and then: the first time after `every`, and again `every` after each
    /// end (at least one second). It ends with [`GcTask::stop`], and with the store.
    ///
    /// ```
    /// use std::time::Duration;
    /// use fiefdom::{Retention, RetentionRule};
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// const DAY: Duration = Duration::from_secs(86_400);
    /// let weeks = RetentionRule::new().older_than(28 * DAY);
    /// store.gc_every(Retention::new().rule(weeks), DAY)?; // until the store is shut down
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] for a rule about a status that is not final. What goes wrong later is a
    /// warning of `tracing`, and in [`GcTask::last`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn gc_every(&self, policy: Retention, every: Duration) -> Result<GcTask> {
        policy.check()?;
        let task = GcTask { stop: CancellationToken::new(), last: Arc::default() };
        let (engine, mine) = (Arc::downgrade(&self.engine), task.clone());
        let every = every.max(Duration::from_secs(1));
        tokio::spawn(async move {
            while mine.stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
                // A store that is gone, and was not shut down, ends it too.
                let Some(engine) = engine.upgrade() else { return };
                let Some(outcome) = mine.stop.run_until_cancelled(collect(&engine, &policy, |_, _| ())).await else {
                    return;
                };
                match &outcome {
                    Ok(report) if !report.deleted.is_empty() => tracing::info!(
                        deleted = report.deleted.len(),
                        refused = report.refused.len(),
                        bytes = report.bytes_freed,
                        "deleted what was over for long enough"
                    ),
                    Ok(_) => {}
                    Err(Error::Closed) => return,
                    Err(error) => tracing::warn!(%error, "what is over could not be deleted; it is tried again"),
                }
                *mine.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            }
        });
        Ok(task)
    }
}

/// A retention that runs in the background: see [`Store::gc_every`]. Dropping this does not end it.
///
/// ```
/// use std::time::Duration;
/// use fiefdom::{Retention, RetentionRule};
///
/// # use fiefdom::{NewInstance, Store, Untyped};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let store = Store::open(dir.path(), Untyped).await?;
/// const HOUR: Duration = Duration::from_secs(3_600);
/// let policy = Retention::new().rule(RetentionRule::new().older_than(24 * HOUR));
/// let task = store.gc_every(policy, HOUR)?;
/// // … for a page of health, say:
/// if let Some(Err(error)) = task.last() {
///     eprintln!("the last retention failed: {error}");
/// }
/// task.stop();
/// # store.shutdown().await }
/// ```
#[derive(Clone, Debug)]
pub struct GcTask {
    stop: CancellationToken,
    last: Arc<Mutex<Option<Result<GcReport>>>>,
}

impl GcTask {
    /// Ends it, without waiting for that. A deletion that is under way is made as a whole, or not at all.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// What the last run came to; `None` before the first has ended.
    #[must_use]
    pub fn last(&self) -> Option<Result<GcReport>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl View {
    /// What [`Store::gc`] would delete now, without a lock and without a change. It blocks, as every
    /// function of a view does.
    ///
    /// ```
    /// use fiefdom::{Retention, RetentionRule, View};
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// # store.shutdown().await?;
    /// let report = View::open(dir.path())?.gc_dry_run(&Retention::new().rule(RetentionRule::new()))?;
    /// println!("{} could go, and free {} bytes", report.deleted.len(), report.bytes_freed);
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] for a rule about a status that is not final; [`Error::Io`].
    pub fn gc_dry_run(&self, policy: &Retention) -> Result<GcReport> {
        policy.check()?;
        match self.root() {
            Some(root) => retention::dry_run(root, policy, Utc::now()),
            None => Ok(GcReport { dry_run: true, ..GcReport::default() }),
        }
    }
}

async fn collect(engine: &Arc<Engine>, policy: &Retention, watch: impl FnMut(usize, usize)) -> Result<GcReport> {
    let span = tracing::info_span!("gc", looked_at = Empty, deleted = Empty, refused = Empty);
    let report = collect_all(engine, policy, watch).instrument(span.clone()).await?;
    span.record("looked_at", report.looked_at);
    span.record("deleted", report.deleted.len());
    span.record("refused", report.refused.len());
    Ok(report)
}

async fn collect_all(
    engine: &Arc<Engine>,
    policy: &Retention,
    mut watch: impl FnMut(usize, usize),
) -> Result<GcReport> {
    let policy = Arc::new(policy.clone());
    let Plan { due, mut report } = blocking::run({
        let (ground, policy) = (Arc::clone(&engine.ground), Arc::clone(&policy));
        move || retention::plan(&ground.root, &policy, Utc::now())
    })
    .await?;
    let (total, mut done) = (due.len(), 0);
    // Batches go before their jobs, which stay when they do.
    let (batches, others): (Vec<Due>, Vec<Due>) = due.into_iter().partition(Due::is_batch);
    for part in [batches, others] {
        let mut retiring = futures::stream::iter(part)
            .map(|due| {
                let (engine, policy) = (Arc::clone(engine), Arc::clone(&policy));
                let span = tracing::info_span!("delete", id = %due.id, epoch = Empty);
                async move { (due.id.clone(), retire(&engine, &policy, due).await) }.instrument(span)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((instance_id, outcome)) = retiring.next().await {
            match outcome {
                Ok(Outcome::Deleted(due, bytes)) => report.add(due.deleted(bytes)),
                Ok(Outcome::Refused(reason)) => report.refused.push(Refused { instance_id, reason }),
                Ok(Outcome::Absent) => {}
                // The log takes no more: nothing that follows would fare better.
                Err(
                    e @ (Error::NotApplied { .. } | Error::Unknown { .. } | Error::Poisoned { .. } | Error::Closed),
                ) => {
                    return Err(e);
                }
                Err(error) => report.refused.push(Refused { instance_id, reason: RefusedReason::Failed(error) }),
            }
            done += 1;
            watch(done, total);
        }
    }
    Ok(report)
}

enum Outcome {
    Deleted(Due, u64),
    Refused(RefusedReason),
    /// Somebody else deleted it.
    Absent,
}

/// Locks one instance, judges it again, and deletes it. It gets no actor, so its kind need not be
/// known, and one that is live in this process is locked like one that is live in another.
async fn retire(engine: &Engine, policy: &Arc<Retention>, due: Due) -> Result<Outcome> {
    let ground = &engine.ground;
    let opened = blocking::run({
        let (ground, policy, due) = (Arc::clone(ground), Arc::clone(policy), due.clone());
        move || {
            let mut activated = match activate::open(&ground.root, &ground.log, &ground.options, &due.id) {
                Err(Error::Locked { .. }) => return Ok(Err(Outcome::Refused(RefusedReason::Live))),
                Err(Error::NotFound { .. }) => return Ok(Err(Outcome::Absent)),
                other => other?,
            };
            let record = activated.record.take().ok_or_else(|| Error::Crashed { id: due.id.clone() })?;
            let stays = policy.judge(&ground.root, &due, &record);
            let judged = match stays {
                Some(reason) => Err(Outcome::Refused(reason)),
                None => Ok(ground.root.instances.allocated(due.id.as_str().as_ref())?),
            };
            match judged {
                Err(outcome) => activated.lane.release().map(|()| Err(outcome)),
                Ok(bytes) => Ok(Ok((activated, record, bytes))),
            }
        }
    })
    .await?;
    let (activated, record, bytes): (Activated, RawRecord, u64) = match opened {
        Ok(opened) => opened,
        Err(outcome) => return Ok(outcome),
    };
    let lane = Arc::clone(&activated.lane);
    let stamp = ground.stamp(record.epoch + 1);
    tracing::Span::current().record("epoch", stamp.epoch);
    let sealed = Transaction::new(&record).seal_deletion(stamp)?;
    let core = ground.core(activated, record, stamp);
    if let Err(error) = submit_and_wait(&ground.log, &core, lane.generation(), sealed, Durability::Disk).await {
        blocking::run(move || lane.release()).await?;
        return Err(error);
    }
    let ground = Arc::clone(ground);
    blocking::run(move || {
        // Deleted it is: what cannot be moved or removed now is, by the next checkpoint or recovery.
        let cleared = match lane.discard() {
            Ok(Some(name)) => trash::clear(&ground.root, Some(ground.log.writer_id()), &name),
            other => other.map(drop),
        };
        if let Err(error) = cleared {
            tracing::debug!(id = %lane.id, %error, "files of a deleted instance are still there");
        }
        Ok(())
    })
    .await?;
    Ok(Outcome::Deleted(due, bytes))
}
