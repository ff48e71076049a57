//! The front door: an open root, seen as a store of one kind.
//!
//! It owns the factory of its kind and nothing else: what stores share is in the engine. It touches
//! no file itself.

use std::borrow::Cow;
use std::sync::Arc;

use futures::Stream;
use ractor::{Actor, ActorRef};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::actors::factory::{Factory, FactoryMsg, Reply};
use crate::actors::transaction::Transaction;
use crate::alarms::Alarms;
use crate::blocking;
use crate::changes::{self, Lagged};
use crate::engine::{self, Engine};
use crate::error::{Error, Result};
use crate::instance::{InstanceRef, Session};
use crate::kind::{Instance, NewInstance};
use crate::options::Options;
use crate::record::{Change, InstanceId, Record, Status};
use crate::root::DataRoot;
use crate::view::{Filter, Listing, View};

/// An open root, seen as a store of one kind of instance. Cheap to clone.
///
/// One process opens a root once, and takes stores of other kinds from the first with
/// [`Store::of_kind`]: they share the commit log and the limits. Any number of processes may have
/// the same root open.
///
/// Call [`Store::shutdown`] at the end. Without it nothing acknowledged is lost, but the files may
/// lag behind the log until the next opening recovers it.
///
/// **When the future of one of its functions is dropped** before it was first polled, nothing
/// happens. After that a function that changes something may do it or not, as a whole: what has begun
/// goes on to its end, and a use of the same instance right after that may still come before it. One
/// that reads has changed nothing.
///
/// ```
/// use fiefdom::{NewInstance, Store, Untyped};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path();
/// let store = Store::open(path, Untyped).await?;
/// let session = store.create(NewInstance::with_id("hello".parse()?)).await?;
/// session.update(|state| state["greeting"] = "hi".into()).await?;
/// store.shutdown().await?;
/// assert!(path.join("instances/hello/instance.json").exists());
/// # Ok(()) }
/// ```
pub struct Store<I: Instance> {
    pub(crate) engine: Arc<Engine>,
    kind: Arc<I>,
    factory: Arc<FactoryHandle<I>>,
}

impl<I: Instance> Clone for Store<I> {
    fn clone(&self) -> Self {
        Self { engine: Arc::clone(&self.engine), kind: Arc::clone(&self.kind), factory: Arc::clone(&self.factory) }
    }
}

impl<I: Instance> std::fmt::Debug for Store<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("kind", &I::KIND)
            .field("root", &self.engine.ground.root.top.path())
            .finish_non_exhaustive()
    }
}

/// How a store is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Instances that are live, or on their way in or out, in this process.
    pub live_instances: usize,
    /// Operations under way, of at most [`Options::queued_per_store`].
    pub queued: usize,
    /// Bytes of commits that wait for the log, of at most [`Options::queued_bytes`].
    pub queued_bytes: usize,
    /// Commits that are durable, since the store was opened.
    pub commits: u64,
    /// Batches in which they became durable.
    pub batches: u64,
    /// Instances whose files lag behind their commits.
    pub files_behind: usize,
    /// Attempts to write files that failed, since the store was opened. They are tried again.
    pub file_failures: u64,
    /// Segments of the log that were replaced by durable files.
    pub checkpoints: u64,
    /// Full segments that wait to be replaced, of at most [`Options::log_segments`].
    pub log_segments: usize,
    /// Checkpoints that failed, and were or are tried again.
    pub checkpoint_failures: u64,
    /// The last checkpoint failed: the log is kept, and it is tried again.
    pub checkpoint_stalled: bool,
    /// The log failed: the store takes no more writes until it is opened again.
    pub poisoned: bool,
}

impl<I: Instance> Store<I> {
    /// Opens a root, making it if it is missing, and recovers what dead processes left in it.
    ///
    /// # Errors
    ///
    /// [`Error::Root`] when the path cannot be a root (it is a file, or on a network file system),
    /// [`Error::NewerFormat`], [`Error::Corrupt`], [`Error::Io`].
    ///
    /// When the future is dropped the root may have been made, and what dead processes left may have
    /// been recovered; nothing else is changed.
    pub async fn open(root: impl Into<DataRoot>, kind: I) -> Result<Self> {
        Self::open_with(root, kind, Options::default()).await
    }

    /// [`Store::open`] with settings.
    ///
    /// ```
    /// use std::time::Duration;
    /// use fiefdom::{Options, Store, Untyped};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let mut options = Options::default();
    /// options.live_instances = 500;
    /// options.idle_after = Duration::from_secs(5);
    /// let store = Store::open_with(dir.path(), Untyped, options).await?;
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Store::open`].
    pub async fn open_with(root: impl Into<DataRoot>, kind: I, options: Options) -> Result<Self> {
        let engine = Engine::open(root.into(), options).await?;
        Self::on(engine, kind).await
    }

    async fn on(engine: Arc<Engine>, kind: I) -> Result<Self> {
        let kind = Arc::new(kind);
        let (factory, _) =
            Actor::spawn(None, Factory { kind: Arc::clone(&kind) }, ()).await.map_err(|_| Error::Closed)?;
        Ok(Self { engine, kind, factory: Arc::new(FactoryHandle(factory)) })
    }

    /// The same open root as a store of another kind. An instance is live as one kind at a
    /// time: while it is, a store of another kind gets [`Error::KindMismatch`] for it.
    ///
    /// ```
    /// use fiefdom::jobs::CommandJob;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// let jobs = store.of_kind(CommandJob).await?; // the same root, log and limits
    /// assert!(jobs.list(fiefdom::Filter::default()).await?.records.is_empty()); // no job yet
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub async fn of_kind<J: Instance>(&self, kind: J) -> Result<Store<J>> {
        Store::on(Arc::clone(&self.engine), kind).await
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The kind, as it was given when the store was opened.
    ///
    /// ```
    /// # use fiefdom::{BoxError, Instance, NewInstance, Store};
    /// # struct Greeter(&'static str);
    /// # impl Instance for Greeter {
    /// # const KIND: &'static str = "greeter";
    /// # type State = u64;
    /// # type Prepared = String;
    /// # // …
    /// # async fn prepare(&self) -> Result<String, BoxError> {
    /// # Ok(format!("{}!", self.0)) // takes long, in a real one
    /// # }
    /// # fn initial(&self, _: &String, _: &NewInstance) -> Result<u64, BoxError> { Ok(0) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// // `Greeter(&'static str)` is an `Instance`.
    /// let store = Store::open(dir.path(), Greeter("hello")).await?;
    /// assert_eq!(store.kind().0, "hello");
    /// # store.shutdown().await }
    /// ```
    #[must_use]
    pub fn kind(&self) -> &Arc<I> {
        &self.kind
    }

    /// What is prepared once for all sessions; made now if it was not. When the future is dropped the
    /// preparation goes on, and the next use has it.
    ///
    /// ```
    /// use fiefdom::{BoxError, Instance, NewInstance, Store};
    ///
    /// struct Greeter(&'static str);
    ///
    /// impl Instance for Greeter {
    ///     # const KIND: &'static str = "greeter";
    ///     # type State = u64;
    ///     type Prepared = String;
    ///     // …
    ///     async fn prepare(&self) -> Result<String, BoxError> {
    ///         Ok(format!("{}!", self.0)) // takes long, in a real one
    ///     }
    ///     # fn initial(&self, _: &String, _: &NewInstance) -> Result<u64, BoxError> { Ok(0) }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = Store::open(dir.path(), Greeter("hello")).await?;
    /// assert_eq!(*store.prepared().await?, "hello!"); // or the first session makes it
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Prepare`], and the next call tries again; [`Error::Overloaded`] when 65 536 callers wait
    /// for it; [`Error::Closed`].
    pub async fn prepared(&self) -> Result<Arc<I::Prepared>> {
        self.factory.call(FactoryMsg::Get).await
    }

    /// Prepares anew. New sessions get the new value; old ones keep theirs. When the future is dropped
    /// the preparation goes on, and its value counts.
    ///
    /// ```
    /// # use fiefdom::{BoxError, Instance, NewInstance, Store};
    /// # struct Greeter(&'static str);
    /// # impl Instance for Greeter {
    /// # const KIND: &'static str = "greeter";
    /// # type State = u64;
    /// # type Prepared = String;
    /// # // …
    /// # async fn prepare(&self) -> Result<String, BoxError> {
    /// # Ok(format!("{}!", self.0)) // takes long, in a real one
    /// # }
    /// # fn initial(&self, _: &String, _: &NewInstance) -> Result<u64, BoxError> { Ok(0) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = Store::open(dir.path(), Greeter("hello")).await?;
    /// let before = store.create(NewInstance::new()).await?;
    /// store.refresh().await?; // a token has expired, say
    /// let after = store.create(NewInstance::new()).await?;
    /// assert!(!std::sync::Arc::ptr_eq(before.prepared(), after.prepared()));
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Store::prepared`]; the old value stays then.
    pub async fn refresh(&self) -> Result<Arc<I::Prepared>> {
        self.factory.call(FactoryMsg::Refresh).await
    }

    /// Makes a new instance, as durably as the store's level says (or [`NewInstance::durability`]), in
    /// the status `pending`. It is live afterwards. When the future is dropped: see [`Store`].
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`], also while another process makes it; [`Error::Prepare`];
    /// [`Error::Rejected`] with what [`Instance::initial`] said; [`Error::KindMismatch`] for a
    /// [`NewInstance::kind`] that this store does not take; [`Error::InvalidInput`],
    /// [`Error::TooLarge`] and [`Error::Unserializable`] for what cannot be stored;
    /// [`Error::Overloaded`], [`Error::Io`], [`Error::Closed`]; [`Error::NotApplied`] and
    /// [`Error::Unknown`] when the log fails. Unless it is `Unknown`, nothing was made.
    pub async fn create(&self, new: NewInstance) -> Result<Session<I>> {
        self.create_with(new, |_| Ok(())).await
    }

    /// [`Store::create`], with `first` as a part of the commit that makes the instance.
    pub(crate) async fn create_with(
        &self,
        new: NewInstance,
        first: impl FnOnce(&mut Transaction<I::State>) -> Result<()> + Send + 'static,
    ) -> Result<Session<I>> {
        Record::<I::State>::check_tags(&new.tags)?;
        let prepared = self.prepared().await?;
        let initial = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.kind.initial(&prepared, &new)));
        let initial = initial.unwrap_or_else(|_| Err("initial() panicked".into()));
        let state = initial.map_err(Error::rejected)?;
        let at = chrono::Utc::now();
        let id = new.id.unwrap_or_else(InstanceId::generate);
        let kind: Cow<'static, str> = new.kind.map_or(Cow::Borrowed(I::KIND), Cow::Owned);
        if !I::accepts(&kind) {
            return Err(Error::KindMismatch { id, expected: I::KIND, found: kind.into_owned() });
        }
        let record = Record {
            id: id.clone(),
            uid: Uuid::new_v4(),
            kind,
            name: new.name,
            status: Status::Pending,
            status_reason: None,
            created_at: at,
            updated_at: at,
            started_at: None,
            ended_at: None,
            revision: 0,
            epoch: 0,
            writer: Uuid::nil(),
            attempt: 0,
            tags: new.tags,
            pinned: new.pinned,
            last_event_seq: 0,
            alarm: None,
            schema_version: I::SCHEMA_VERSION,
            state: Arc::new(state),
            work: Arc::default(),
            unknown: std::collections::BTreeMap::new(),
            whole: None,
        };
        let live = self.engine.create::<I>(record, new.durability, first).await?;
        Ok(Session::new(InstanceRef::new(id, Arc::clone(&self.engine), Some(&live)), prepared))
    }

    /// A handle on an instance, which is brought to life to see that it is there and usable.
    ///
    /// ```
    /// use fiefdom::Error;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let build = store.get(&"build-42".parse()?).await?;
    /// assert_eq!(build.id().as_str(), "build-42");
    ///
    /// let none = store.get(&"build-43".parse()?).await;
    /// assert!(matches!(none, Err(Error::NotFound { .. })));
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`InstanceRef`].
    pub async fn get(&self, id: &InstanceId) -> Result<InstanceRef<I>> {
        let instance = InstanceRef::new(id.clone(), Arc::clone(&self.engine), None);
        instance.admitted().await?;
        Ok(instance)
    }

    /// [`Store::get`], with the prepared value beside it.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// # store.shutdown().await?;
    /// let store = Store::open(dir.path(), Untyped).await?; // after a restart
    /// let build = store.session(&"build-42".parse()?).await?;
    /// let () = **build.prepared(); // an untyped kind prepares nothing
    /// build.append("build.resumed", ()).await?;
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`InstanceRef`], and [`Error::Prepare`].
    pub async fn session(&self, id: &InstanceId) -> Result<Session<I>> {
        let prepared = self.prepared().await?;
        Ok(Session::new(self.get(id).await?, prepared))
    }

    /// The instance that `new` names if there is one, with whatever state it has; else a new one.
    /// Of several simultaneous first calls one makes it, and all get it.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// let id: fiefdom::InstanceId = "tenant-7".parse()?;
    /// let tenant = store.get_or_create(NewInstance::with_id(id.clone())).await?;
    /// tenant.update(|state| state["visits"] = 1.into()).await?;
    ///
    /// let again = store.get_or_create(NewInstance::with_id(id)).await?;
    /// assert_eq!(again.state().await?["visits"], 1);
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Store::session`] and [`Store::create`].
    pub async fn get_or_create(&self, new: NewInstance) -> Result<Session<I>> {
        let Some(id) = new.id.clone() else { return self.create(new).await };
        match self.session(&id).await {
            Err(Error::NotFound { .. }) => {}
            other => return other,
        }
        match self.create(new).await {
            Err(Error::AlreadyExists { .. }) => self.session(&id).await,
            other => other,
        }
    }

    /// Deletes an instance with all its files, in whatever status it is. Operations that are under way
    /// in it are finished first; what comes later finds no such instance. The deletion is on disk when
    /// this returns, whatever the level of the store.
    ///
    /// When the future is dropped, a deletion that was begun goes on; files of it may stay in the trash
    /// until a later checkpoint or recovery.
    ///
    /// ```
    /// use fiefdom::Error;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// store.delete(build.id()).await?;
    /// assert!(!build.path().exists());
    /// assert!(matches!(build.state().await, Err(Error::NotFound { .. })));
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`InstanceRef`] and [`Error::NotApplied`]: the instance lives on. [`Error::Unknown`]
    /// when the log fails in the middle. [`Error::Io`] after the deletion: some of its files are still
    /// in the trash.
    pub async fn delete(&self, id: &InstanceId) -> Result<()> {
        self.engine.delete::<I>(id).await
    }

    /// Lets an instance go if nobody uses it, without waiting until it has been idle for long.
    pub(crate) fn release(&self, id: &InstanceId) {
        self.engine.release(id);
    }

    /// The records of the instances of this kind that match, newest first. The files of this process
    /// are brought up to date before; those of other processes lag as [`View`] says. No instance is
    /// brought to life.
    ///
    /// ```
    /// use fiefdom::{Filter, Status};
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let mut filter = Filter::default();
    /// filter.statuses = vec![Status::Pending];
    /// filter.limit = Some(20);
    /// let listing = store.list(filter).await?;
    /// assert_eq!(listing.records[0].id, *build.id());
    /// for (id, error) in &listing.damaged {
    ///     eprintln!("{id}: {error}");
    /// }
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Store::flush`], and [`Error::Io`]. A record that cannot be read is not an error: it is
    /// in [`Listing::damaged`].
    pub async fn list(&self, filter: Filter) -> Result<Listing<I::State>> {
        self.flush().await?;
        let view = self.view();
        blocking::run(move || {
            view.list_where(&filter, |raw| I::accepts(&raw.kind).then(|| engine::typed::<I>(raw)).transpose())
        })
        .await
    }

    /// The root, to read it without locks.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// store.flush().await?; // the files may be 100 ms behind
    /// let (view, id) = (store.view(), build.id().clone());
    /// let record = tokio::task::spawn_blocking(move || view.record(&id)).await.unwrap()?;
    /// assert_eq!(record.kind, "untyped");
    /// # store.shutdown().await }
    /// ```
    #[must_use]
    pub fn view(&self) -> View {
        View::on(Arc::clone(&self.engine.ground.root))
    }

    /// Brings the files of every instance of this process up to its last commit. They are written, not
    /// flushed to the disk: what is durable is in the log. When the future is dropped it goes on to
    /// its end.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// build.update(|state| state["step"] = "compile".into()).await?; // durable, in the log
    /// store.flush().await?;
    /// let file = std::fs::read_to_string(build.path().join("instance.json")).unwrap();
    /// assert!(file.contains("compile"));
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// The first failure; what could not be written is tried again.
    pub async fn flush(&self) -> Result<()> {
        let ground = Arc::clone(&self.engine.ground);
        blocking::run(move || ground.log.flush()).await
    }

    /// The alarms of the instances of this kind, as they come due: set with
    /// [`InstanceRef::set_alarm`], by whatever process, in whatever process they are waited for.
    ///
    /// Each comes at least once, also when it came due while nothing ran, and until
    /// [`DueAlarm::done`](crate::DueAlarm::done). One that is handed out is nobody else's until it is
    /// dropped; an instance that another living process has live is that process's to wake, and comes
    /// here when it is let go there.
    ///
    /// An alarm does not come before it is due by the clock of the system, and, while the machine
    /// keeps up, at most about 100 ms after that when this process set it, and about a second when
    /// another did. A clock that is set back delays alarms; one that is set forward brings them early.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let instance = store.create(NewInstance::new()).await?;
    /// # instance.set_alarm(chrono::Utc::now(), "a look").await?;
    /// let mut alarms = store.alarms();
    /// while let Some(due) = alarms.next().await {
    ///     let due = match due {
    ///         Ok(due) => due,
    ///         Err(error) => {
    ///             eprintln!("{error}");
    ///             continue;
    ///         }
    ///     };
    ///     println!("{} wants: {}", due.id(), due.payload::<String>()?);
    ///     due.done().await?; // until then, it comes again
    /// #   store.shutdown().await?;
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn alarms(&self) -> Alarms<I> {
        Alarms::new(Arc::clone(&self.engine))
    }

    /// Every commit of this process from now on, of instances of any kind: as soon as it is durable,
    /// and before its caller knows; of one instance in the order of its revisions. It ends when the
    /// store is shut down. What other processes commit, and what recovery changes, is not in it.
    ///
    /// ```
    /// use fiefdom::{NewInstance, Store, Untyped};
    /// use futures::StreamExt as _;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path(), Untyped).await?;
    /// let mut changes = store.changes();
    /// let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// build.append("build.begun", ()).await?;
    ///
    /// let made = changes.next().await.ok_or("the store is open")??;
    /// assert!(made.created && made.id == *build.id());
    /// let appended = changes.next().await.ok_or("the store is open")??;
    /// assert_eq!((appended.revision, appended.last_event_seq), (1, 1));
    /// # Ok(store.shutdown().await?) }
    /// ```
    ///
    /// The last 1 024 ([`Options::changes_kept`]) are kept for readers that are behind. A reader that
    /// is further behind gets [`Lagged`]; it slows nobody. Nothing is lost to one that then lists
    /// again:
    /// ```
    /// # use std::collections::HashMap;
    /// # use fiefdom::{Change, Error, Filter, Record, Result, Store, Untyped};
    /// use futures::StreamExt;
    /// # use serde_json::Value;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// let mut changes = store.changes(); // before the listing, so that there is no gap
    /// let mut cache = HashMap::new();
    /// for record in store.list(Filter::default()).await?.records {
    ///     cache.insert(record.id.clone(), (record.uid, record.revision));
    /// }
    /// # store.create(fiefdom::NewInstance::new()).await?;
    /// # store.shutdown().await?;
    /// while let Some(change) = changes.next().await {
    ///     match change {
    ///         Ok(change) if change.deleted => {
    ///             if cache.get(&change.id).is_some_and(|(uid, _)| *uid == change.uid) {
    ///                 cache.remove(&change.id);
    ///             }
    ///         }
    ///         Ok(change) => {
    ///             let now = (change.uid, change.revision);
    ///             let known = cache.entry(change.id).or_insert(now);
    ///             // Another life of the id begins with its creation; the rest may be repetition.
    ///             if known.0 == now.0 && known.1 < now.1 || known.0 != now.0 && change.created {
    ///                 *known = now;
    ///             }
    ///         }
    ///         Err(_lagged) => {
    ///             cache.clear();
    ///             for record in store.list(Filter::default()).await?.records {
    ///                 cache.insert(record.id.clone(), (record.uid, record.revision));
    ///             }
    ///         }
    ///     }
    /// }
    /// # assert_eq!(cache.len(), 1);
    /// # Ok(()) }
    /// ```
    pub fn changes(&self) -> impl Stream<Item = std::result::Result<Change, Lagged>> + Send + Unpin + use<I> {
        changes::stream(self.engine.ground.log.changes().listen())
    }

    /// How the store is doing.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let stats = store.stats().await?;
    /// assert_eq!((stats.live_instances, stats.commits), (1, 1));
    /// assert!(!stats.poisoned && !stats.checkpoint_stalled);
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] after [`Store::shutdown`].
    pub async fn stats(&self) -> Result<Stats> {
        let log = self.engine.ground.log.stats();
        Ok(Stats {
            live_instances: self.engine.live_count().await?,
            queued: self.engine.queued(),
            queued_bytes: log.queued_bytes,
            commits: log.commits,
            batches: log.batches,
            files_behind: log.dirty,
            file_failures: log.materialise_failures,
            checkpoints: log.checkpoints,
            log_segments: log.segments_waiting,
            checkpoint_failures: log.checkpoint_failures,
            checkpoint_stalled: log.checkpoint_stalled,
            poisoned: log.poisoned,
        })
    }

    /// Finishes what is under way, lets every instance go, makes every file durable, and removes
    /// the commit log. Stores of other kinds on the same root are shut down with it; a second call
    /// gets [`Error::Closed`]. A [`KeepAwake`](crate::KeepAwake) does not hold it up.
    ///
    /// # Errors
    ///
    /// The first failure. Nothing acknowledged is lost then: the log stays, and the next opening
    /// recovers it. The same holds when the future is dropped.
    pub async fn shutdown(&self) -> Result<()> {
        self.engine.shutdown().await
    }
}

/// Stops the factory with its last store.
struct FactoryHandle<I: Instance>(ActorRef<FactoryMsg<I>>);

impl<I: Instance> FactoryHandle<I> {
    /// The one place that turns the framework's errors into ours.
    async fn call(&self, message: impl FnOnce(Reply<I>) -> FactoryMsg<I>) -> Result<Arc<I::Prepared>> {
        let (reply, answer) = oneshot::channel();
        self.0.cast(message(reply.into())).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

impl<I: Instance> Drop for FactoryHandle<I> {
    fn drop(&mut self) {
        self.0.stop(None);
    }
}
