//! Bringing every stored state of a root up to date, without waiting for each instance to be used.
//! The steps are those of the kinds; nothing is ever written but by an ordinary commit.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, Stream, StreamExt as _};

use crate::blocking;
use crate::engine::{self, Engine};
use crate::error::{Error, Result};
use crate::instance::InstanceRef;
use crate::kind::Instance;
use crate::options::Durability;
use crate::record::{InstanceId, RawRecord};
use crate::store::Store;
use crate::view::View;

/// Instances at once. They become durable together, so more than a few make it faster.
const AT_ONCE: usize = 64;

/// Brings instances of known kinds up to the version that this program has.
///
/// Nobody needs it to use an instance: that brings it up to date in memory, and the next commit
/// writes the new shape. It is for a program that wants its data in one shape, say before the old
/// steps are removed from it.
///
/// - An instance that has its version already is not touched, so a run that was cut short is simply
///   begun again.
/// - Each instance is one ordinary commit at [`Durability::Disk`]: the old bytes stay until the new
///   ones are on disk, and a step that fails or panics leaves them.
/// - Only the names of the instances are kept in memory, and at most 64 states.
///
/// ```
/// use fiefdom::{Migration, MigrationOutcome, Store, Untyped};
/// use futures::StreamExt as _;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # use fiefdom::jobs::CommandJob;
/// # let dir = tempfile::tempdir().unwrap();
/// # let root = dir.path();
/// let store = Store::open(root, Untyped).await?;
/// let mut run = Migration::new().kind::<CommandJob>().run(&store).await?;
/// while let Some(one) = run.next().await {
///     if let MigrationOutcome::Failed(error) = &one.outcome {
///         eprintln!("{}: {error}", one.id);
///     }
/// }
/// # store.shutdown().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Migration {
    kinds: BTreeMap<&'static str, Known>,
    only: Option<Vec<InstanceId>>,
}

/// What there is to know of a kind.
#[derive(Clone, Copy, Debug)]
struct Known {
    version: u32,
    /// Runs the steps in memory, and makes sure that the result can be stored.
    rehearse: fn(RawRecord, usize) -> Result<()>,
    /// Commits the instance as its type has it.
    commit: fn(Arc<Engine>, InstanceId) -> BoxFuture<'static, Result<()>>,
}

/// What became of one instance.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Migrated {
    /// The instance.
    pub id: InstanceId,
    /// Its kind, empty when its record could not be read.
    pub kind: String,
    /// The version that it had; 0 when its record could not be read.
    pub from: u32,
    /// The version that this program has; none when it does not know the kind.
    pub to: Option<u32>,
    /// What came of it.
    pub outcome: MigrationOutcome,
}

/// What came of the migration of one instance.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum MigrationOutcome {
    /// It has the new shape, durably. In a rehearsal: it can be brought to it.
    Migrated,
    /// It had its version already.
    Current,
    /// Its kind is not known here: it is left to the program that knows it.
    UnknownKind,
    /// Another process uses it, and it is as it was. The error says which.
    Locked(Error),
    /// It is as it was.
    Failed(Error),
}

impl Migration {
    /// Knows no kind yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Brings instances of this kind up to date, too.
    #[must_use]
    pub fn kind<I: Instance>(mut self) -> Self {
        let known = Known { version: I::SCHEMA_VERSION, rehearse: rehearse::<I>, commit: commit::<I> };
        self.kinds.insert(I::KIND, known);
        self
    }

    /// Looks at these instances alone. One that does not exist is reported as failed.
    ///
    /// ```
    /// use fiefdom::Migration;
    /// use fiefdom::jobs::CommandJob;
    /// use futures::StreamExt as _;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let migration = Migration::new().kind::<CommandJob>().only([build.id().clone()]);
    /// let looked_at: Vec<_> = migration.run(&store).await?.collect().await;
    /// assert_eq!(looked_at.len(), 1);
    /// # store.shutdown().await }
    /// ```
    #[must_use]
    pub fn only(mut self, ids: impl IntoIterator<Item = InstanceId>) -> Self {
        self.only = Some(ids.into_iter().collect());
        self
    }

    /// Begins: finds the instances that there are. They are migrated while the stream is polled, at most
    /// 64 at once; it yields every instance that was looked at, in no order, and ends early when the
    /// store takes no more writes. When it is dropped, those under way are migrated or not, each as a
    /// whole, and the rest stays as it is.
    ///
    /// The instances of a kind that this process has in use must be in use as that kind.
    ///
    /// # Errors
    ///
    /// Those of [`Store::flush`], and [`Error::Io`] when the instances cannot be listed. What goes
    /// wrong with one instance is in its [`MigrationOutcome`], and the others go on.
    pub async fn run<I: Instance>(&self, store: &Store<I>) -> Result<Migrating> {
        // Whoever has a commit that is not in its file yet looks older than it is.
        store.flush().await?;
        let (view, engine) = (store.view(), Arc::clone(store.engine()));
        let ids = if let Some(ids) = &self.only {
            ids.clone()
        } else {
            let view = view.clone();
            blocking::run(move || view.ids()).await?
        };
        let total = ids.len();
        let at_once = AT_ONCE.min(engine.ground.options.activations_at_once).max(1);
        let (migration, mut stopped) = (Arc::new(self.clone()), false);
        let runs = futures::stream::iter(ids).map(move |id| {
            let (migration, view, engine) = (Arc::clone(&migration), view.clone(), Arc::clone(&engine));
            async move { migration.one(&view, &engine, id).await }
        });
        let found = runs.buffer_unordered(at_once).filter_map(|one| async { one }).take_while(move |one| {
            let go_on = !stopped;
            stopped |= matches!(
                &one.outcome,
                MigrationOutcome::Failed(Error::Closed | Error::Poisoned { .. } | Error::Unknown { .. })
            );
            futures::future::ready(go_on)
        });
        Ok(Migrating { total, found: found.boxed() })
    }

    /// Runs the steps in memory and writes nothing, anywhere. It takes no lock, so it does not find
    /// out who is locked, and it does not see commits that a dead process has left in its log alone.
    /// The iterator blocks: use it on a thread that may, or in a tool.
    ///
    /// ```
    /// use fiefdom::{Migration, MigrationOutcome, View};
    /// use fiefdom::jobs::CommandJob;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let view = View::open(dir.path())?;
    /// for one in Migration::new().kind::<CommandJob>().rehearse(&view)? {
    ///     if let MigrationOutcome::Failed(error) = one.outcome {
    ///         println!("{} would stay as it is: {error}", one.id);
    ///     }
    /// }
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the instances cannot be listed.
    pub fn rehearse(&self, view: &View) -> Result<impl Iterator<Item = Migrated> + use<>> {
        let ids = match &self.only {
            Some(ids) => ids.clone(),
            None => view.ids()?,
        };
        let (migration, view) = (self.clone(), view.clone());
        Ok(ids.into_iter().filter_map(move |id| {
            let (mut one, work) = migration.look(&view, id)?;
            if let Some((raw, known)) = work {
                one.outcome = outcome((known.rehearse)(raw, crate::options::Options::default().record_bytes));
            }
            Some(one)
        }))
    }

    /// What the record says, without a lock, and what there is to be done. `None` when the instance
    /// is gone, and was not asked for by name.
    fn look(&self, view: &View, id: InstanceId) -> Option<(Migrated, Option<(RawRecord, Known)>)> {
        let raw = match view.raw(&id) {
            Ok(raw) => raw,
            Err(Error::NotFound { .. }) if self.only.is_none() => return None,
            Err(error) => {
                let outcome = MigrationOutcome::Failed(error);
                return Some((Migrated { id, kind: String::new(), from: 0, to: None, outcome }, None));
            }
        };
        let known = self.kinds.get(&*raw.kind).copied();
        let outcome = match known {
            None => MigrationOutcome::UnknownKind,
            Some(_) => MigrationOutcome::Current,
        };
        let to = known.map(|known| known.version);
        let one = Migrated { id, kind: raw.kind.to_string(), from: raw.schema_version, to, outcome };
        let work = known.filter(|known| known.version != raw.schema_version).map(|known| (raw, known));
        Some((one, work))
    }

    async fn one(&self, view: &View, engine: &Arc<Engine>, id: InstanceId) -> Option<Migrated> {
        let looked = blocking::run({
            let (migration, view, id) = (self.clone(), view.clone(), id.clone());
            move || Ok(migration.look(&view, id))
        });
        let (mut one, work) = match looked.await {
            Ok(looked) => looked?,
            Err(error) => {
                let outcome = MigrationOutcome::Failed(error);
                return Some(Migrated { id, kind: String::new(), from: 0, to: None, outcome });
            }
        };
        if let Some((raw, known)) = work {
            // Its copy here is not needed while it waits for its turn.
            drop(raw);
            one.outcome = outcome((known.commit)(Arc::clone(engine), id.clone()).await);
            engine.release(&id);
        }
        Some(one)
    }
}

fn outcome(done: Result<()>) -> MigrationOutcome {
    match done {
        Ok(()) => MigrationOutcome::Migrated,
        Err(error @ Error::Locked { .. }) => MigrationOutcome::Locked(error),
        Err(error) => MigrationOutcome::Failed(error),
    }
}

fn rehearse<I: Instance>(raw: RawRecord, record_bytes: usize) -> Result<()> {
    engine::typed::<I>(raw)?.check(record_bytes)
}

/// The activation runs the steps, under the lock; a commit of the state as it is then writes it.
fn commit<I: Instance>(engine: Arc<Engine>, id: InstanceId) -> BoxFuture<'static, Result<()>> {
    async move {
        let instance = InstanceRef::<I>::new(id, engine, None);
        let done = instance.commit(|tx| {
            tx.state_mut();
            tx.set_durability(Durability::Disk);
            Ok(())
        });
        done.await.map(drop)
    }
    .boxed()
}

/// A migration under way: a stream of what became of each instance.
#[must_use = "nothing is migrated unless the stream is polled"]
pub struct Migrating {
    total: usize,
    found: BoxStream<'static, Migrated>,
}

impl Migrating {
    /// How many instances are looked at, for a progress bar. One that is deleted meanwhile is
    /// counted here, and not yielded.
    ///
    /// ```
    /// use fiefdom::Migration;
    /// use fiefdom::jobs::CommandJob;
    /// use futures::StreamExt as _;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let mut run = Migration::new().kind::<CommandJob>().run(&store).await?;
    /// let (mut done, total) = (0, run.total());
    /// while run.next().await.is_some() {
    ///     done += 1;
    ///     eprintln!("{done} of {total}");
    /// }
    /// # assert_eq!((done, total), (1, 1));
    /// # store.shutdown().await }
    /// ```
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }
}

impl Stream for Migrating {
    type Item = Migrated;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Migrated>> {
        self.found.poll_next_unpin(cx)
    }
}

impl std::fmt::Debug for Migrating {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Migrating").field("total", &self.total).finish_non_exhaustive()
    }
}
