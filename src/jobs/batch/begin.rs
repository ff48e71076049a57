//! Making a batch, and going on with one. No item is handed out here.

use std::any::TypeId;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::claim::Shared;
use super::items::{self, Checks};
use super::state::{BatchKind, BatchState};
use super::work::interrupt;
use super::{Batch, BatchItem, BatchSettings, refuse};
use crate::actors::transaction::Transaction;
use crate::blocking;
use crate::error::{Error, Result};
use crate::instance::InstanceRef;
use crate::kind::{Instance, NewInstance};
use crate::record::{InstanceId, Status};
use crate::store::Store;

impl Batch {
    /// A new id `batch-<date>-<time>-<suffix>`; the suffix is random, so ids do not collide.
    ///
    /// ```
    /// use fiefdom::jobs::Batch;
    ///
    /// let id = Batch::new_id(); // to tell people before the batch is made
    /// assert!(id.as_str().starts_with("batch-"));
    /// ```
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
    /// ```
    /// use fiefdom::jobs::BatchSettings;
    ///
    /// # use fiefdom::{Store, Untyped, jobs::Batch};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// let mut settings = BatchSettings::default();
    /// settings.context_budget = Some(80_000);
    /// let items = (1..=1_000).map(|page| format!("https://example.org/{page}")); // written as they come
    /// let batch = Batch::create_with(&store, "crawl-7".parse()?, items, settings).await?;
    /// assert_eq!((batch.id().as_str(), batch.total()), ("crawl-7", 1_000));
    /// assert_eq!(batch.settings().context_budget, Some(80_000));
    /// # drop(batch);
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`] for the batch, or for the instance of a job; [`Error::TooLarge`] for
    /// more than [`MAX_ITEMS`](super::MAX_ITEMS), or an item of more than 16 MiB;
    /// [`Error::InvalidInput`] for no items, and for jobs that cannot be made;
    /// [`Error::Unserializable`]. Nothing is left then.
    pub async fn create_with<I: Instance>(
        store: &Store<I>,
        id: InstanceId,
        items: impl IntoIterator<Item = T, IntoIter: Send + 'static>,
        settings: BatchSettings,
    ) -> Result<Self> {
        let mut items = items.into_iter().peekable();
        if items.peek().is_none() {
            return refuse("it has no items; give it one at least".into());
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
    /// When the future is dropped: see [`Batch`].
    ///
    /// ```
    /// # use fiefdom::{Store, Untyped, jobs::Batch};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let batch = Batch::create(&store, ["alpha", "beta"].map(String::from)).await?;
    /// # let id = batch.id().clone();
    /// # let claim = batch.next().await?.expect("there are two");
    /// # batch.mark_completed(&claim, ()).await?;
    /// # drop((claim, batch));
    /// # store.shutdown().await?;
    /// let store = Store::open(dir.path(), Untyped).await?; // after a restart
    /// let batch = Batch::<String>::load(&store, &id).await?;
    /// let claim = batch.next().await?.expect("one is left");
    /// assert_eq!(claim.item(), "beta");
    /// # drop(claim);
    /// # drop(batch);
    /// # store.shutdown().await }
    /// ```
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
    /// When the future is dropped: as [`Batch::create_with`].
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
            return refuse("it has no items; give it one at least".into());
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
}
