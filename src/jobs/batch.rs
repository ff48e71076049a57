//! A durable list of work items, which goes on where it stood after whatever end of its process.
//!
//! A batch is an instance of the kind `batch`. Its items are written once, before it begins, to
//! `workspace/items.jsonl`: they may be many, and may hold secrets (the environment of a command),
//! which do not belong into a record. The record says how far the batch is, and the event log what
//! became of each item: so taking and marking an item costs the same however many there are.

mod begin;
mod claim;
mod items;
mod job;
mod results;
mod runs;
mod state;
mod usage;
mod work;

use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::actors::transaction::Transaction;
use crate::blocking;
use crate::disk::fs::File;
use crate::disk::layout;
use crate::error::{Error, Result};
use crate::instance::InstanceRef;
use crate::record::InstanceId;
use claim::Shared;
use state::{BatchState, Open};

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

/// What a batch is told when it is made, and keeps. `fiefdom run` and `fiefdom resume` run it like
/// this; a [`Runner`](super::Runner) of your own has settings of its own.
///
/// ```
/// use std::time::Duration;
/// use fiefdom::jobs::BatchSettings;
///
/// let mut settings = BatchSettings::default();
/// settings.retries = 2;
/// settings.timeout_ms = Some(90_000);
/// assert_eq!(settings.timeout(), Some(Duration::from_secs(90)));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct BatchSettings {
    /// Jobs at once; none for the number of processors.
    pub concurrency: Option<usize>,
    /// Attempts of a job after the first that failed. Default: 0.
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

/// How far a batch is. The counts from `completed` to `pending` add up to `total`; `retrying` is a part of
/// `failed`.
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
/// **When the future of a change is dropped**, a mark say, it may be made or not, as a whole, as with
/// every instance ([`InstanceRef`]). Mark the claim again to find out: if the mark was made, that is
/// [`Error::InvalidInput`].
///
/// ```
/// use fiefdom::{Store, Untyped, jobs::Batch};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = Store::open(dir.path(), Untyped).await?;
/// let batch = Batch::create(&store, ["alpha", "beta"].map(String::from)).await?;
/// println!("batch {} has {} items", batch.id(), batch.total());
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

impl<T: Serialize + DeserializeOwned + Send + 'static> Batch<T> {
    /// Queues every failed item to be taken again, behind those that were never handed out. Returns
    /// how many are queued, with those that were queued before. An item that fails after this call
    /// waits for the next.
    ///
    /// ```
    /// # use fiefdom::{Store, Untyped, jobs::Batch};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let batch = Batch::create(&store, ["alpha", "beta"].map(String::from)).await?;
    /// while let Some(claim) = batch.next().await? {
    ///     batch.mark_failed(&claim, "no network").await?;
    /// }
    /// assert_eq!(batch.retry_failed().await?, 2); // they are taken again, in this order
    /// assert_eq!(batch.next().await?.expect("one is queued").attempt(), 2);
    /// # drop(batch);
    /// # store.shutdown().await }
    /// ```
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

    /// How far it is. It reads neither the items nor the events.
    ///
    /// ```
    /// # use fiefdom::{Store, Untyped, jobs::Batch};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let batch = Batch::create(&store, ["alpha", "beta"].map(String::from)).await?;
    /// let claim = batch.next().await?.expect("there are two");
    /// let progress = batch.progress().await?;
    /// assert_eq!((progress.current, progress.pending, progress.total), (1, 1, 2));
    ///
    /// drop(claim); // its worker gave up
    /// assert_eq!(batch.progress().await?.interrupted, 1);
    /// # drop(batch);
    /// # store.shutdown().await }
    /// ```
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

    /// What it was told when it was made. The example is at [`Batch::create_with`].
    #[must_use]
    pub fn settings(&self) -> &BatchSettings {
        &self.settings
    }
}
