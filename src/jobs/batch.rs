//! A durable list of work items, which goes on where it stood after whatever end of its process.
//!
//! A batch is an instance of the kind `batch`. Its items are written once, before it begins, to
//! `workspace/items.jsonl`: they may be many, and may hold secrets (the environment of a command),
//! which do not belong into a record. The record says how far the batch is, and the event log what
//! became of each item: so taking and marking an item costs the same however many there are.

mod claim;
mod items;
mod job;
mod results;
mod runs;
mod state;
mod usage;

use std::any::TypeId;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::actors::transaction::Transaction;
use crate::blocking;
use crate::disk::fs::File;
use crate::disk::layout;
use crate::error::{Error, Result};
use crate::instance::InstanceRef;
use crate::kind::{Instance, NewInstance};
use crate::options::Durability;
use crate::record::{InstanceId, Status};
use crate::store::Store;
use claim::{Looking, Missing, NotNow, Shared, Ticket};
use items::{Checks, Line};
use results::Mark;
use state::{BatchState, Open, Place, set_running, settle};

pub(super) use state::BatchKind;

pub use claim::Claim;
pub use job::BatchItem;
pub use results::{ItemOutcome, ItemResult, ResultPage};
pub(super) use runs::{JobDone, Listed};
pub use state::Usage;

/// Most items of a batch.
pub const MAX_ITEMS: usize = 1_000_000;

/// Most items that are handed out at once.
pub(super) const MAX_OPEN: usize = 4096;

/// Longest error of an item that is kept, in characters.
const ERROR_CHARS: usize = 4096;

/// What a batch is told when it is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct BatchSettings {
    /// Jobs at once, for [`Runner`](super::Runner); none for the number of processors.
    pub concurrency: Option<usize>,
    /// Attempts of a job after the first that failed.
    pub retries: u32,
    /// Longest time of one attempt, in milliseconds; none for no limit.
    pub timeout_ms: Option<u64>,
    /// Tokens after which [`Batch::should_clear_context`] says yes; none for 150 000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_budget: Option<u64>,
}

impl BatchSettings {
    /// [`BatchSettings::timeout_ms`] as a duration.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout_ms.map(Duration::from_millis)
    }
}

/// How far a batch is. The counts from `completed` on add up to `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Number of items.
    pub total: u64,
    /// Marked completed.
    pub completed: u64,
    /// Marked failed, and not taken again since.
    pub failed: u64,
    /// Handed out, and with a worker that lives.
    pub current: u64,
    /// Handed out, and their worker or process is gone: they are taken first.
    pub interrupted: u64,
    /// Not handed out yet.
    pub pending: u64,
    /// Of the failed ones, those that [`Batch::retry_failed`] has queued to be taken again.
    pub retrying: u64,
}

/// A durable list of work items of the type `T`. Cheap to clone: give each worker a clone.
///
/// Workers take items with [`Batch::next`] and mark them. An item whose worker or process ended
/// without a mark is the next to be taken, so every item is worked on until it is marked; whoever
/// dies between the work and its mark does the work of that item again.
///
/// A batch is an instance: while a handle or a [`Claim`] is there it is kept live, and other
/// processes get [`Error::Locked`]. Its status is `running` from the first item that is handed out,
/// and `succeeded` or `failed` with the last mark.
///
/// ```
/// use fiefdom::{Store, Untyped, jobs::Batch};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = Store::open(dir.path(), Untyped).await?;
/// let batch = Batch::create(&store, ["alpha", "beta"].map(String::from)).await?;
/// while let Some(claim) = batch.next().await? {
///     let length = claim.item().len();
///     batch.mark_completed(&claim, length).await?;
/// }
/// assert!(batch.is_done().await?);
/// # store.shutdown().await }
/// ```
#[derive(Debug)]
pub struct Batch<T = BatchItem> {
    pub(super) instance: InstanceRef<BatchKind>,
    shared: Arc<Shared>,
    settings: Arc<BatchSettings>,
    total: u64,
    items: PhantomData<fn() -> T>,
}

impl<T> Clone for Batch<T> {
    fn clone(&self) -> Self {
        let (shared, settings) = (Arc::clone(&self.shared), Arc::clone(&self.settings));
        Self { instance: self.instance.clone(), shared, settings, total: self.total, items: PhantomData }
    }
}

impl<T> Batch<T> {
    /// Waits for a turn: an instance does not take any number of operations at once.
    async fn slot(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        self.shared.slots.acquire().await.map_err(|_| Error::Closed)
    }

    /// Reads from the file of the items.
    async fn read_lines<R: Send + 'static>(
        &self,
        read: impl FnOnce(&File, u64) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let (live, permit) = self.instance.admitted().await?;
        let total = self.total;
        blocking::run(move || {
            let read = read(&items::open(&live.core.lane.dir, None)?, total)?;
            drop(permit);
            Ok(read)
        })
        .await
    }

    /// For messages.
    fn items_path(&self) -> PathBuf {
        self.instance.path().join(layout::WORKSPACE).join(layout::BATCH_ITEMS)
    }
}

fn refuse<R>(reason: String) -> Result<R> {
    Err(Error::InvalidInput { what: "batch", reason })
}

impl Batch {
    /// A new id `batch-<date>-<time>-<suffix>`; the suffix is random, so ids do not collide.
    #[must_use]
    pub fn new_id() -> InstanceId {
        let random = uuid::Uuid::new_v4().simple().to_string();
        let text = format!("batch-{}-{}", chrono::Utc::now().format("%Y%m%d-%H%M%S"), &random[..8]);
        // Digits, lower-case letters and dashes: it is always valid.
        InstanceId::new(&text).unwrap_or_else(|_| InstanceId::generate())
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Batch<T> {
    /// [`Batch::create_with`], with an id of its own and the default settings.
    ///
    /// # Errors
    ///
    /// Those of [`Batch::create_with`].
    pub async fn create<I: Instance>(
        store: &Store<I>,
        items: impl IntoIterator<Item = T, IntoIter: Send + 'static>,
    ) -> Result<Self> {
        Self::create_with(store, Batch::new_id(), items, BatchSettings::default()).await
    }

    /// Makes a batch, durably, before any of its items is handed out. The items are written as they
    /// come, so they need not be in memory all at once. Items of the type [`BatchItem`] are jobs,
    /// and are checked as such.
    ///
    /// When the future is dropped, or the process dies, an unfinished batch may stay, of which no
    /// item was handed out: [`Batch::open`] completes it.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`] for the batch, or for the instance of a job; [`Error::TooLarge`] for
    /// more than [`MAX_ITEMS`], or an item of more than 16 MiB; [`Error::InvalidInput`] for no items,
    /// and for jobs that cannot be made; [`Error::Unserializable`]. Nothing is left then.
    pub async fn create_with<I: Instance>(
        store: &Store<I>,
        id: InstanceId,
        items: impl IntoIterator<Item = T, IntoIter: Send + 'static>,
        settings: BatchSettings,
    ) -> Result<Self> {
        let mut items = items.into_iter().peekable();
        if items.peek().is_none() {
            return refuse("it has no items".into());
        }
        let batches = store.of_kind(BatchKind).await?;
        let input = serde_json::to_value(&settings).map_err(|e| crate::record::json::unserializable("settings", &e))?;
        let session = batches.create(NewInstance::with_id(id.clone()).input(input)).await?;
        let planned = Self::plan(store, session.instance().clone(), items).await;
        if planned.is_err() {
            // The first error is the one to tell. What cannot be deleted has no item handed out.
            let _ = batches.delete(&id).await;
        }
        planned
    }

    /// Writes the items, then notes that they are there.
    async fn plan<I: Instance>(
        store: &Store<I>,
        instance: InstanceRef<BatchKind>,
        items: impl Iterator<Item = T> + Send + 'static,
    ) -> Result<Self> {
        // Whether an instance of a job's id exists is looked up in the files.
        store.flush().await?;
        let mut checks = Checks::new(instance.id().clone(), Some(store.view()));
        let (live, permit) = instance.admitted().await?;
        let (total, bytes) = blocking::run(move || {
            let written = items::write(&live.core.lane.dir, items, &mut checks)?;
            drop(permit);
            Ok(written)
        })
        .await?;
        let jobs = TypeId::of::<T>() == TypeId::of::<BatchItem>();
        instance
            .update(move |state| {
                state.total = Some(total);
                state.bytes = Some(bytes);
                state.jobs = jobs;
            })
            .await?;
        Self::on(instance).await
    }

    /// Loads a batch, and goes on with it. Items that were handed out and whose process died are
    /// `interrupted` from then on, and are taken first. It reads neither the items nor the events.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Locked`] while another process has it;
    /// [`Error::KindMismatch`] for an instance that is no batch; [`Error::InvalidInput`] for one
    /// whose creation was cut short, or that holds no jobs when `T` is [`BatchItem`];
    /// [`Error::Corrupt`] when its items are missing.
    pub async fn load<I: Instance>(store: &Store<I>, id: &InstanceId) -> Result<Self> {
        let instance = store.of_kind(BatchKind).await?.get(id).await?;
        if instance.read(|state| state.total.is_none()).await? {
            return refuse(format!(
                "the creation of batch {id} was cut short, and none of its jobs was begun; delete it and make it again"
            ));
        }
        Self::on(instance).await
    }

    async fn on(instance: InstanceRef<BatchKind>) -> Result<Self> {
        let awake = instance.keep_awake().await?;
        let (live, permit) = instance.admitted().await?;
        let record = live.core.published();
        let (total, bytes) = (record.state.total.unwrap_or(0), record.state.bytes);
        if TypeId::of::<T>() == TypeId::of::<BatchItem>() && !record.state.jobs {
            return refuse(format!("batch {} holds no jobs; load it with the type of its items", record.id));
        }
        let shared = Shared::of(live.core.stamp.writer, record.uid);
        shared.keep_awake(awake);
        blocking::run(move || {
            let opened = items::open(&live.core.lane.dir, bytes).map(drop);
            drop(permit);
            opened
        })
        .await?;
        let settings = Arc::new(record.state.settings.clone());
        let batch = Self { instance, shared, settings, total, items: PhantomData };
        batch.adopt().await?;
        Ok(batch)
    }

    /// Notes what dead workers left.
    async fn adopt(&self) -> Result<()> {
        let orphaned = |state: &BatchState| {
            state.open.iter().any(|open| !open.interrupted && !self.shared.is_held(open.place.index))
        };
        if !self.instance.read(orphaned).await? {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let change = move |tx: &mut Transaction<BatchState>| {
            interrupt(tx, &shared)?;
            let idle = tx.state().open.iter().all(|open| open.interrupted);
            if idle && tx.record().status.is_running() {
                tx.set_status(Status::Interrupted, None)?;
            }
            Ok(())
        };
        self.instance.commit(change).await.map(drop)
    }

    /// [`Batch::load`] if there is a batch of that id, which must have the same items; else
    /// [`Batch::create_with`]. A creation that was cut short is completed.
    ///
    /// The items are compared one by one as they come, with their file; `settings` are not compared.
    ///
    /// # Errors
    ///
    /// Those of both, and [`Error::InvalidInput`] when the batch has other items.
    pub async fn open<I: Instance>(
        store: &Store<I>,
        id: InstanceId,
        items: impl IntoIterator<Item = T, IntoIter: Send + 'static>,
        settings: BatchSettings,
    ) -> Result<Self> {
        let instance = match store.of_kind(BatchKind).await?.get(&id).await {
            Err(Error::NotFound { .. }) => return Self::create_with(store, id, items, settings).await,
            other => other?,
        };
        let mut items = items.into_iter().peekable();
        if items.peek().is_none() {
            return refuse("it has no items".into());
        }
        if instance.read(|state| state.total.is_none()).await? {
            return Self::plan(store, instance, items).await;
        }
        let (live, permit) = instance.admitted().await?;
        let same = blocking::run(move || {
            let record = live.core.published();
            let file = items::open(&live.core.lane.dir, record.state.bytes)?;
            let same = items::same(&file, record.state.total.unwrap_or(0), items)?;
            drop(permit);
            Ok(same)
        });
        if !same.await? {
            return refuse(format!(
                "batch {id} exists, with other jobs; resume it as it is, or give this one another id"
            ));
        }
        Self::on(instance).await
    }

    /// Takes the next item: first one that was interrupted, then one that was never handed out, then
    /// one that failed and that [`Batch::retry_failed`] queued. `None` when there is none: every
    /// item is marked, or others have the rest (then ask again when they are done, or see
    /// [`Batch::is_done`]).
    ///
    /// That the item is taken is acknowledged when the operating system has it
    /// ([`Durability::Os`]): after a power cut it may be handed out once more with the same attempt.
    ///
    /// When the future is dropped the item is nobody's, and the next to be taken.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] when 4096 items are handed out and not marked; [`Error::Corrupt`] when
    /// the item cannot be read as a `T`; and those of [`InstanceRef`].
    pub async fn next(&self) -> Result<Option<Claim<T>>> {
        let _slot = self.slot().await?;
        loop {
            if !self.instance.read(|state| state.has_more(|index| self.shared.is_held(index))).await? {
                return Ok(None);
            }
            let shared = Arc::clone(&self.shared);
            let taken = self.instance.commit(move |tx| {
                tx.set_durability(Durability::Os);
                take(tx, &shared)
            });
            match taken.await {
                Ok(taken) => return self.claim(taken.value).await.map(Some),
                Err(Error::Rejected { source }) => match source.downcast_ref::<NotNow>() {
                    Some(NotNow::Nothing) => return Ok(None),
                    Some(NotNow::ReadFirst(what, generation)) => self.read_ahead(*what, *generation).await?,
                    None => return Err(Error::Rejected { source }),
                },
                Err(error) => return Err(error),
            }
        }
    }

    async fn claim(&self, (line, ticket): (Option<Line>, Ticket)) -> Result<Claim<T>> {
        let item = match line {
            Some(line) => items::parse(&self.items_path(), &line)?,
            None => self.read_item(ticket.open.place).await?,
        };
        Ok(Claim { item, ticket })
    }

    async fn read_ahead(&self, what: Missing, generation: u64) -> Result<()> {
        let _reading = self.shared.reading.lock().await;
        if self.shared.ahead().generation != generation {
            return Ok(());
        }
        match what {
            Missing::Items(place) => {
                let lines = self.read_lines(move |file, total| items::read_page(file, place, total)).await?;
                let mut ahead = self.shared.ahead();
                ahead.lines = lines.into();
                ahead.generation += 1;
            }
            Missing::Failures(retry) => {
                let failures = self.read_failures(retry).await?;
                let mut ahead = self.shared.ahead();
                ahead.failures = failures.into();
                ahead.from = retry.from;
                ahead.generation += 1;
            }
        }
        Ok(())
    }

    async fn read_item(&self, place: Place) -> Result<T> {
        let line = self.read_lines(move |file, _| items::read_line(file, place)).await?;
        items::parse(&self.items_path(), &line)
    }

    /// The item that a result is about.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when it cannot be read as a `T`, and those of [`InstanceRef`].
    pub async fn item(&self, result: &ItemResult) -> Result<T> {
        self.read_item(result.place()).await
    }

    /// Marks an item completed, with its result: one commit, with the event `item.completed`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] for an item that was marked before, or a claim of another batch;
    /// [`Error::Unserializable`] and [`Error::TooLarge`] for a result that an event cannot hold (keep
    /// large ones in files). The item is as it was then. And those of [`InstanceRef`].
    pub async fn mark_completed<R>(&self, claim: &Claim<T>, result: R) -> Result<()>
    where
        R: Serialize + Send + 'static,
    {
        self.mark(claim, Ok(result), None).await
    }

    /// Marks an item failed: one commit, with the event `item.failed`. Of a long error the first
    /// 4096 characters are kept. It is taken again only after [`Batch::retry_failed`].
    ///
    /// # Errors
    ///
    /// Those of [`Batch::mark_completed`].
    pub async fn mark_failed(&self, claim: &Claim<T>, error: impl std::fmt::Display) -> Result<()> {
        self.mark::<Value>(claim, Err(error.to_string()), None).await
    }

    pub(super) async fn mark<R: Serialize + Send + 'static>(
        &self,
        claim: &Claim<T>,
        outcome: Result<R, String>,
        durability: Option<Durability>,
    ) -> Result<()> {
        let open = self.own(claim)?;
        let _slot = self.slot().await?;
        let change = move |tx: &mut Transaction<BatchState>| {
            if let Some(durability) = durability {
                tx.set_durability(durability);
            }
            close(tx, open, outcome)?;
            settle(tx)
        };
        self.instance.commit(change).await.map(drop)
    }

    /// What a claim of this batch is about.
    fn own(&self, claim: &Claim<T>) -> Result<Open> {
        let open = claim.ticket.open;
        if Arc::ptr_eq(&claim.ticket.shared, &self.shared) {
            return Ok(open);
        }
        refuse(format!("item {} was handed out by another batch, or before this store was opened", open.place.index))
    }

    /// Queues every failed item to be taken again, behind those that were never handed out. Returns
    /// how many are queued. An item that fails after this call waits for the next.
    ///
    /// # Errors
    ///
    /// Those of [`InstanceRef`].
    pub async fn retry_failed(&self) -> Result<u64> {
        if self.instance.read(|state| state.failed == state.retry.left).await? {
            return self.instance.read(|state| state.retry.left).await;
        }
        let change = |tx: &mut Transaction<BatchState>| {
            let last = tx.record().last_event_seq;
            Ok(tx.state_mut().retry_failed(last))
        };
        Ok(self.instance.commit(change).await?.value)
    }

    /// How far it is.
    ///
    /// # Errors
    ///
    /// Those of [`InstanceRef`].
    pub async fn progress(&self) -> Result<Progress> {
        let of = |state: &BatchState| {
            let gone = |open: &&Open| open.interrupted || !self.shared.is_held(open.place.index);
            let interrupted = state.open.iter().filter(gone).count() as u64;
            Progress {
                total: self.total,
                completed: state.completed,
                failed: state.failed,
                current: state.open.len() as u64 - interrupted,
                interrupted,
                pending: self.total - state.next.index,
                retrying: state.retry.left,
            }
        };
        self.instance.read(of).await
    }

    /// Whether every item is marked, and none is queued to be tried again.
    ///
    /// # Errors
    ///
    /// Those of [`InstanceRef`].
    pub async fn is_done(&self) -> Result<bool> {
        self.instance.read(BatchState::is_done).await
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &InstanceId {
        self.instance.id()
    }

    /// Number of items.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// What it was told when it was made.
    #[must_use]
    pub fn settings(&self) -> &BatchSettings {
        &self.settings
    }
}

/// Notes the items that lost their workers.
fn interrupt(tx: &mut Transaction<BatchState>, shared: &Shared) -> Result<()> {
    if tx.state().open.iter().all(|open| open.interrupted || shared.is_held(open.place.index)) {
        return Ok(());
    }
    for open in tx.state_mut().interrupt(|index| shared.is_held(index)) {
        tx.event(state::INTERRUPTED, &Mark::of(&open))?;
    }
    Ok(())
}

/// Takes the item that is next, and the line of it if that was read ahead.
fn take(tx: &mut Transaction<BatchState>, shared: &Arc<Shared>) -> Result<(Option<Line>, Ticket)> {
    interrupt(tx, shared)?;
    let mut looking = Looking::new(shared);
    let open = tx.state_mut().take(&mut looking)?.ok_or_else(|| Error::rejected(NotNow::Nothing))?;
    set_running(tx)?;
    Ok((looking.line, shared.hold(open)))
}

/// Notes what became of an open item.
fn close<R: Serialize>(tx: &mut Transaction<BatchState>, open: Open, outcome: Result<R, String>) -> Result<()> {
    if !tx.state_mut().close(open.place.index, open.attempt) {
        let (id, index) = (&tx.record().id, open.place.index);
        return refuse(format!("item {index} of batch {id} is marked already; an item is marked once"));
    }
    let mark = |result, error| Mark { place: open.place, attempt: open.attempt, result, error };
    match outcome {
        Ok(result) => {
            tx.event(state::COMPLETED, &mark(Some(result), None))?;
            tx.state_mut().completed += 1;
            Ok(())
        }
        Err(error) => fail(tx, &open, &error),
    }
}

/// Notes a failure.
fn fail(tx: &mut Transaction<BatchState>, open: &Open, error: &str) -> Result<()> {
    let error = error.chars().take(ERROR_CHARS).collect();
    let seq = tx.event(state::FAILED, &Mark { error: Some(error), ..Mark::of(open) })?;
    tx.state_mut().count_failure(seq);
    Ok(())
}
