//! A durable list of jobs.
//!
//! A batch is an instance of the kind `batch`. Its items are written once, before it begins, to
//! `workspace/items.jsonl`: they may be many, and may hold secrets (the environment of a command),
//! which do not belong into a record. What became of each item is in the item's own instance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::blocking;
use crate::disk::atomic::{self, Sync};
use crate::disk::layout;
use crate::error::{BoxError, Error, Result};
use crate::instance::InstanceRef;
use crate::kind::{Instance, NewInstance};
use crate::record::{InstanceId, Record, Status};
use crate::store::Store;

/// Most items of a batch.
pub const MAX_ITEMS: usize = 1_000_000;

/// Largest `items.jsonl`, in bytes.
const ITEMS_BYTES: u64 = 4 << 30;

/// The tag of a job that names its batch.
pub(super) const BATCH_TAG: &str = "batch";

/// One job of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchItem {
    /// The id of the job's instance.
    pub id: InstanceId,
    /// Labels for the instance.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// What [`Instance::initial`] and [`Attempt::input`](super::Attempt) are told.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub input: Value,
}

impl BatchItem {
    /// A job with this id and input.
    #[must_use]
    pub fn new(id: InstanceId, input: Value) -> Self {
        Self { id, tags: BTreeMap::new(), input }
    }

    pub(super) fn to_new(&self, batch: &InstanceId) -> NewInstance {
        let new = NewInstance::with_id(self.id.clone()).input(self.input.clone());
        self.all_tags(batch).into_iter().fold(new, |new, (key, value)| new.tag(key, value))
    }

    fn all_tags(&self, batch: &InstanceId) -> BTreeMap<String, String> {
        let mut tags = self.tags.clone();
        tags.insert(BATCH_TAG.into(), batch.to_string());
        tags
    }
}

/// How a batch is run, unless it is said otherwise when it is resumed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct BatchSettings {
    /// Jobs at once; none for the number of processors.
    pub concurrency: Option<usize>,
    /// Attempts after the first that failed.
    pub retries: u32,
    /// Longest time of one attempt, in milliseconds; none for no limit.
    pub timeout_ms: Option<u64>,
}

impl BatchSettings {
    /// [`BatchSettings::timeout_ms`] as a duration.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout_ms.map(Duration::from_millis)
    }
}

/// The kind of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BatchKind;

/// The state of a batch.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct BatchState {
    /// Number of items; none until they are written.
    pub(super) total: Option<u64>,
    pub(super) settings: BatchSettings,
    /// Of the last run.
    pub(super) succeeded: u64,
    pub(super) failed: u64,
}

impl Instance for BatchKind {
    const KIND: &'static str = "batch";
    type State = BatchState;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), new: &NewInstance) -> Result<BatchState, BoxError> {
        Ok(BatchState { settings: new.input_as()?, ..BatchState::default() })
    }
}

/// A durable list of jobs, with its items in memory.
#[derive(Clone, Debug)]
pub struct Batch {
    pub(super) instance: InstanceRef<BatchKind>,
    items: Arc<[BatchItem]>,
    settings: BatchSettings,
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

    /// Checks what can be checked without a store. [`Batch::create`] does it too.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] for no items, one id twice, the id of the batch itself, or tags that
    /// an instance cannot have; [`Error::TooLarge`] for more than [`MAX_ITEMS`].
    pub fn check(id: &InstanceId, items: &[BatchItem]) -> Result<()> {
        let refuse = |reason: String| Err(Error::InvalidInput { what: "batch", reason });
        if items.is_empty() {
            return refuse("it has no jobs".into());
        }
        if items.len() > MAX_ITEMS {
            return Err(Error::TooLarge {
                what: "number of jobs in a batch",
                bytes: items.len() as u64,
                limit: MAX_ITEMS as u64,
            });
        }
        let mut seen = std::collections::HashSet::new();
        for item in items {
            if item.id == *id {
                return refuse(format!("one of its jobs has the id {id:?} of the batch; give it another"));
            }
            if !seen.insert(&item.id) {
                return refuse(format!("two of its jobs have the id {:?}; give one of them another", item.id));
            }
            if item.tags.contains_key(BATCH_TAG) {
                return refuse(format!(
                    "job {:?} has the tag {BATCH_TAG:?}, which names the batch; rename it",
                    item.id
                ));
            }
            if let Err(error) = Record::<Value>::check_tags(&item.all_tags(id)) {
                return refuse(format!("job {:?} cannot be made: {error}", item.id));
            }
        }
        Ok(())
    }

    /// Makes a batch, durably, before any of its jobs begins. Everything is checked first.
    ///
    /// # Errors
    ///
    /// Those of [`Batch::check`], and [`Error::AlreadyExists`] for the batch or the instance of an
    /// item. Nothing is made then.
    pub async fn create<I: Instance>(
        store: &Store<I>,
        id: InstanceId,
        items: Vec<BatchItem>,
        settings: BatchSettings,
    ) -> Result<Self> {
        Self::check(&id, &items)?;
        let view = store.view();
        let ids: Vec<InstanceId> = items.iter().map(|item| item.id.clone()).collect();
        blocking::run(move || match ids.into_iter().find(|id| view.record_path(id).exists()) {
            Some(id) => Err(Error::AlreadyExists { path: view.instance_path(&id), id }),
            None => Ok(()),
        })
        .await?;
        let batches = store.of_kind(BatchKind).await?;
        let input = serde_json::to_value(&settings).map_err(|e| crate::record::json::unserializable("settings", &e))?;
        let session = batches.create(NewInstance::with_id(id).input(input)).await?;
        Self::plan(session.instance().clone(), items, settings).await
    }

    /// Writes the items, then notes that they are there.
    async fn plan(instance: InstanceRef<BatchKind>, items: Vec<BatchItem>, settings: BatchSettings) -> Result<Self> {
        let mut bytes = Vec::new();
        for item in &items {
            serde_json::to_writer(&mut bytes, item).map_err(|e| crate::record::json::unserializable("item", &e))?;
            bytes.push(b'\n');
        }
        let (live, permit) = instance.admitted().await?;
        blocking::run(move || {
            let dir = live.core.lane.dir.ensure_dir(layout::WORKSPACE)?;
            atomic::replace(&dir, layout::BATCH_ITEMS, &bytes, Sync::Yes)?;
            live.core.lane.dir.sync()?;
            drop(permit);
            Ok(())
        })
        .await?;
        let total = items.len() as u64;
        instance.update(move |state| state.total = Some(total)).await?;
        Ok(Self { instance, items: items.into(), settings })
    }

    /// Loads a batch.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::KindMismatch`] for an instance that is no batch;
    /// [`Error::InvalidInput`] for one whose creation was cut short; [`Error::Corrupt`] when its
    /// items cannot be read.
    pub async fn load<I: Instance>(store: &Store<I>, id: &InstanceId) -> Result<Self> {
        let instance = store.of_kind(BatchKind).await?.get(id).await?;
        let record = instance.record().await?;
        let Some(total) = record.state.total else {
            let reason = format!(
                "the creation of batch {id} was cut short, and none of its jobs was begun; delete it and make it again"
            );
            return Err(Error::InvalidInput { what: "batch", reason });
        };
        let items = read_items(&instance, &record, total).await?;
        Ok(Self { instance, items: items.into(), settings: record.state.settings.clone() })
    }

    /// [`Batch::load`] if there is a batch of that id, which must have the same items; else
    /// [`Batch::create`]. A creation that was cut short is completed.
    ///
    /// # Errors
    ///
    /// Those of both, and [`Error::InvalidInput`] when the batch has other items.
    pub async fn open<I: Instance>(
        store: &Store<I>,
        id: InstanceId,
        items: Vec<BatchItem>,
        settings: BatchSettings,
    ) -> Result<Self> {
        let instance = match store.of_kind(BatchKind).await?.get(&id).await {
            Err(Error::NotFound { .. }) => return Self::create(store, id, items, settings).await,
            other => other?,
        };
        if instance.read(|state| state.total.is_none()).await? {
            Self::check(&id, &items)?;
            return Self::plan(instance, items, settings).await;
        }
        let batch = Self::load(store, &id).await?;
        if *batch.items != *items {
            let reason = format!("batch {id} exists, with other jobs; resume it as it is, or give this one another id");
            return Err(Error::InvalidInput { what: "batch", reason });
        }
        Ok(batch)
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &InstanceId {
        self.instance.id()
    }

    /// The jobs, in their order.
    #[must_use]
    pub fn items(&self) -> &[BatchItem] {
        &self.items
    }

    /// How it was to be run when it was made.
    #[must_use]
    pub fn settings(&self) -> &BatchSettings {
        &self.settings
    }

    pub(super) async fn begin(&self) -> Result<()> {
        self.instance
            .commit(|tx| {
                if tx.record().status == Status::Succeeded {
                    // It stays so: what is run again is what somebody deleted since.
                    return Ok(());
                }
                if tx.record().status.is_final() {
                    tx.set_status(Status::Pending, None)?;
                }
                tx.begin_attempt();
                tx.set_status(Status::Running, None)
            })
            .await
            .map(drop)
    }

    pub(super) async fn end(&self, status: Status, succeeded: u64, failed: u64) -> Result<()> {
        let change = move |tx: &mut crate::Transaction<BatchState>| {
            tx.state_mut().succeeded = succeeded;
            tx.state_mut().failed = failed;
            if tx.record().status == Status::Succeeded {
                return Ok(());
            }
            let reason = (failed > 0).then(|| format!("{failed} failed"));
            tx.set_status(status, reason.as_deref())
        };
        self.instance.commit(change).await.map(drop)
    }
}

async fn read_items(
    instance: &InstanceRef<BatchKind>,
    record: &Record<BatchState>,
    total: u64,
) -> Result<Vec<BatchItem>> {
    let (live, permit) = instance.admitted().await?;
    let id = record.id.clone();
    blocking::run(move || {
        let missing = || {
            Error::corrupt(
                &live.core.lane.dir.path_of(layout::WORKSPACE).join(layout::BATCH_ITEMS),
                None,
                format!("the items of batch {id} are missing"),
            )
        };
        let dir = live.core.lane.dir.open_dir(layout::WORKSPACE)?.ok_or_else(missing)?;
        let file = dir.open_file(layout::BATCH_ITEMS)?.ok_or_else(missing)?;
        let bytes = file.read_all(ITEMS_BYTES)?;
        let mut items = Vec::new();
        let mut offset = 0;
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            items.push(serde_json::from_slice(line).map_err(|e| Error::corrupt(file.path(), Some(offset), e))?);
            offset += line.len() as u64;
        }
        drop(permit);
        if items.len() as u64 == total {
            Ok(items)
        } else {
            Err(Error::corrupt(file.path(), Some(offset), format!("it holds {} items, not {total}", items.len())))
        }
    })
    .await
}
