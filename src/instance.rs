//! The handles: [`InstanceRef`] on one instance, [`Session`] with the prepared value beside it.
//!
//! They own nothing: no lock, no copy of the state. The record is never changed here, only by the
//! actor.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::Stream;
use serde::Serialize;

use crate::actors::instance::Live;
use crate::actors::request::Committed;
use crate::actors::transaction::Transaction;
use crate::actors::{Hold, Permit};
use crate::blocking;
use crate::disk::atomic::{self, Sync};
use crate::disk::layout;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::follow;
use crate::kind::Instance;
use crate::options::Durability;
use crate::record::{Event, InstanceId, Record, Status};

/// A handle on one instance. Cheap to clone; it does not keep the instance live.
///
/// Every function that needs the instance brings it to life if it is not, and reports the same
/// errors when that fails: [`Error::NotFound`], [`Error::Locked`], [`Error::Corrupt`],
/// [`Error::NewerFormat`], [`Error::KindMismatch`], [`Error::Schema`], [`Error::Gone`],
/// [`Error::CrashLoop`], [`Error::Crashed`], [`Error::Io`], [`Error::Closed`], and
/// [`Error::Overloaded`] when too much is waiting.
///
/// **When the future of a change is dropped** before it was first polled, nothing happens. After
/// that the change may be applied or not, as a whole. A read right after that may still come before
/// it; another change comes behind it, and its closure sees what became of it.
///
/// **When the future of a read is dropped**, nothing is changed.
///
/// ```
/// use fiefdom::{NewInstance, Store, Untyped};
/// use futures::StreamExt as _;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = Store::open(dir.path(), Untyped).await?;
/// let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
///
/// build.update(|state| state["step"] = "compile".into()).await?;
/// build.append("step.begun", "compile").await?;
///
/// assert!(build.read(|state| state["step"] == "compile").await?);
/// let first = build.events(1).next().await.expect("it does not end")?;
/// assert_eq!((first.seq, first.kind.as_str()), (1, "step.begun"));
/// # store.shutdown().await }
/// ```
pub struct InstanceRef<I: Instance> {
    id: InstanceId,
    engine: Arc<Engine>,
    live: Arc<Mutex<Weak<Live<I>>>>,
}

impl<I: Instance> Clone for InstanceRef<I> {
    fn clone(&self) -> Self {
        Self { id: self.id.clone(), engine: Arc::clone(&self.engine), live: Arc::clone(&self.live) }
    }
}

impl<I: Instance> std::fmt::Debug for InstanceRef<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InstanceRef").field("id", &self.id).field("kind", &I::KIND).finish_non_exhaustive()
    }
}

/// A directory of an instance, which is the caller's to use: see [`InstanceRef::dir`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubDir {
    /// `workspace/`: code, repositories, whatever the work needs.
    Workspace,
    /// `logs/`: what the work prints.
    Logs,
    /// `sidecar-data/`: databases and files of side services.
    SidecarData,
    /// `output/`: what the work produces.
    Output,
}

impl SubDir {
    /// Its name, below [`InstanceRef::path`].
    ///
    /// ```
    /// use fiefdom::SubDir;
    ///
    /// assert_eq!(SubDir::SidecarData.name(), "sidecar-data");
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Workspace => layout::WORKSPACE,
            Self::Logs => layout::LOGS,
            Self::SidecarData => layout::SIDECAR_DATA,
            Self::Output => layout::OUTPUT,
        }
    }
}

/// Keeps an instance live: it is not let go for being idle, or for being the least used, until this
/// is dropped. Made by [`InstanceRef::keep_awake`]. A shutdown of the store does not wait for it.
#[must_use = "the instance is kept awake only while this lives"]
#[derive(Debug)]
pub struct KeepAwake {
    _hold: Hold,
}

impl<I: Instance> InstanceRef<I> {
    pub(crate) fn new(id: InstanceId, engine: Arc<Engine>, live: Option<&Arc<Live<I>>>) -> Self {
        let live = live.map_or_else(Weak::new, Arc::downgrade);
        Self { id, engine, live: Arc::new(Mutex::new(live)) }
    }

    /// The id.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let same = store.get(build.id()).await?;
    /// assert_eq!(same.id().as_str(), "build-42");
    /// # store.shutdown().await }
    /// ```
    #[must_use]
    pub fn id(&self) -> &InstanceId {
        &self.id
    }

    /// The directory of the instance. Everything in it but `instance.json`, `events/`,
    /// `logs/checkpoint.json` and names that begin with a dot is the caller's to use.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.engine.ground.root.instances.path_of(self.id.as_str())
    }

    /// The activation, when it is live and open.
    fn cached(&self) -> Option<Arc<Live<I>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// The activation, brought to life if need be, and the right to one operation in it.
    pub(crate) async fn admitted(&self) -> Result<(Arc<Live<I>>, Permit)> {
        let queued = self.engine.queue()?;
        let Some(live) = self.cached().filter(|live| live.core.admission.is_open()) else {
            return self.activate(queued).await;
        };
        match live.core.admission.enter(queued)? {
            Some(permit) => Ok((live, permit)),
            // Closed between the look and the step.
            None => self.activate(self.engine.queue()?).await,
        }
    }

    async fn activate(&self, queued: crate::actors::Queued) -> Result<(Arc<Live<I>>, Permit)> {
        let (live, permit) = self.engine.live::<I>(&self.id, queued).await?;
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&live);
        Ok((live, permit))
    }

    /// The last durable record, as an immutable snapshot: nothing is copied, and the actor is not asked.
    /// It has every change that has returned, and none that is not durable yet.
    ///
    /// ```
    /// use fiefdom::Status;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let record = build.record().await?;
    /// assert_eq!((record.status, record.revision), (Status::Pending, 0));
    /// build.append("step.begun", "compile").await?;
    /// assert_eq!(record.revision, 0); // a snapshot stays as it is
    /// assert_eq!(build.record().await?.revision, 1);
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// When the instance cannot be brought to life: see [`InstanceRef`].
    pub async fn record(&self) -> Result<Arc<Record<I::State>>> {
        if let Some(live) = self.cached()
            && live.core.admission.is_open()
            && !live.core.lane.is_gone()
        {
            live.core.admission.touch();
            return Ok(live.core.published());
        }
        let (live, _permit) = self.admitted().await?;
        if live.core.lane.is_gone() {
            return Err(Error::Gone { id: self.id.clone(), path: self.path() });
        }
        Ok(live.core.published())
    }

    /// A copy of the last durable state.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// build.update(|state| state["step"] = "compile".into()).await?;
    /// let mut copy = build.state().await?;
    /// copy["step"] = "test".into(); // changes the copy alone
    /// assert_eq!(build.state().await?["step"], "compile");
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`InstanceRef::record`].
    pub async fn state(&self) -> Result<I::State> {
        Ok(I::State::clone(&self.record().await?.state))
    }

    /// A part of the last durable state, without copying the whole. `read` runs in the task of the
    /// caller, and holds nobody up.
    ///
    /// # Errors
    ///
    /// Those of [`InstanceRef::record`].
    pub async fn read<R>(&self, read: impl FnOnce(&I::State) -> R) -> Result<R> {
        Ok(read(&self.record().await?.state))
    }

    async fn call<R: Send + 'static>(
        &self,
        durability: Option<Durability>,
        change: impl FnOnce(&mut Transaction<I::State>) -> Result<R> + Send + 'static,
    ) -> Result<Committed<R>> {
        let (live, permit) = self.admitted().await?;
        let answer = live.ask(permit, durability, change);
        // Whoever waits does not keep the instance live.
        drop(live);
        answer.await
    }

    /// Changes the state: `change` works on a copy, which becomes the state when it is durable.
    /// Returns what `change` returns.
    ///
    /// `change` runs in the actor, one after the other, so it should not block. When the future is
    /// dropped: see [`InstanceRef`].
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let instance = store.create(NewInstance::new()).await?;
    /// let count = instance
    ///     .update(|state| {
    ///         let next = state["count"].as_u64().unwrap_or(0) + 1;
    ///         state["count"] = next.into();
    ///         next
    ///     })
    ///     .await?;
    /// assert_eq!(count, 1);
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Panicked`] when `change` panics, [`Error::Unserializable`] or [`Error::TooLarge`] for
    /// what cannot be stored ([`Options::record_bytes`](crate::Options::record_bytes),
    /// [`Options::event_bytes`](crate::Options::event_bytes)): the state is as it was, and so it is after
    /// [`Error::NotApplied`]. After [`Error::Unknown`] only a store that is opened again can tell. And
    /// those of [`InstanceRef`].
    pub async fn update<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut I::State) -> R + Send + 'static,
    ) -> Result<R> {
        Ok(self.call(None, move |tx| Ok(change(tx.state_mut()))).await?.value)
    }

    /// Changes state, status, tags and events together, all or nothing. When `change` returns an
    /// error nothing is changed, and the error is returned as it is; wrap one of your own with
    /// [`Error::rejected`]. When the future is dropped: see [`InstanceRef`].
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Status, Store, Untyped};
    /// # use serde_json::json;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let instance = store.create(NewInstance::new()).await?;
    /// instance
    ///     .commit(|tx| {
    ///         tx.state_mut()["result"] = json!("green");
    ///         tx.set_status(Status::Succeeded, None)?;
    ///         tx.event("build.done", &json!({ "seconds": 12 }))
    ///     })
    ///     .await?;
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// What `change` returns, and those of [`InstanceRef::update`].
    pub async fn commit<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Transaction<I::State>) -> Result<R> + Send + 'static,
    ) -> Result<Committed<R>> {
        self.call(None, change).await
    }

    /// Appends one event, and returns its `seq`. The state is not copied for it.
    ///
    /// # Errors
    ///
    /// Those of [`Transaction::event`] and [`InstanceRef::update`].
    pub async fn append<T: Serialize + Send + 'static>(&self, kind: &str, data: T) -> Result<u64> {
        let kind = kind.to_owned();
        Ok(self.call(None, move |tx| tx.event(&kind, &data)).await?.value)
    }

    /// Moves the instance to `next`, with a reason for people, as [`Transaction::set_status`] does.
    ///
    /// ```
    /// use fiefdom::{Error, Status};
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// build.transition(Status::Running, None).await?;
    /// build.transition(Status::Succeeded, Some("all tests pass")).await?;
    ///
    /// let again = build.transition(Status::Running, None).await; // its life is over
    /// assert!(matches!(again, Err(Error::Transition { .. })));
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Transition`] when the lifecycle has no such step, and those of [`InstanceRef::update`].
    pub async fn transition(&self, next: Status, reason: Option<&str>) -> Result<()> {
        let reason = reason.map(str::to_owned);
        self.call(None, move |tx| tx.set_status(next, reason.as_deref())).await.map(drop)
    }

    /// The events from `from_seq` on (1 is the first): first those that exist, then, without a gap
    /// or a duplicate, every new one as soon as it is durable. It does not end by itself.
    ///
    /// It takes no lock and does not wake the instance. Nothing is queued for it: a follower that
    /// stalls costs no memory and slows nobody, and finds what it missed in the files. While no store
    /// of this process has the instance live, its files are looked at every 100 ms: for the events of
    /// another process, and for an instance that is not there yet.
    ///
    /// # Errors
    ///
    /// An item is an error when a file cannot be read or is damaged; the stream ends after it.
    pub fn events(&self, from_seq: u64) -> impl Stream<Item = Result<Event>> + Send + Unpin + use<I> {
        let ground = &self.engine.ground;
        follow::stream(Arc::clone(&ground.root), self.id.clone(), from_seq, ground.log.feed(&self.id).follow())
    }

    /// Keeps the instance live until the guard is dropped. When the future is dropped, it is not kept.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let awake = build.keep_awake().await?;
    /// // A pause of any length: its state stays in memory, and no other process can take it.
    /// drop(awake);
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// When the instance cannot be brought to life: see [`InstanceRef`].
    pub async fn keep_awake(&self) -> Result<KeepAwake> {
        let (live, _permit) = self.admitted().await?;
        // The permit keeps the registry from closing it in between, unless it shuts down.
        let hold = live.core.admission.hold().ok_or(Error::Closed)?;
        Ok(KeepAwake { _hold: hold })
    }

    /// Asks whoever works on the instance in this process to stop: [`InstanceRef::cancelled`] comes
    /// true for them. It is for them to act on it. The request is not durable: it is forgotten when
    /// the instance is let go.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let work = tokio::spawn({
    ///     let build = build.clone();
    ///     async move {
    ///         tokio::select! {
    ///             () = build.cancelled() => "stopped",
    ///             () = std::future::pending() => "done", // the work
    ///         }
    ///     }
    /// });
    /// build.cancel().await?;
    /// assert_eq!(work.await.unwrap(), "stopped");
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// When the instance cannot be brought to life: see [`InstanceRef`].
    pub async fn cancel(&self) -> Result<()> {
        let (live, _permit) = self.admitted().await?;
        live.core.cancel.cancel();
        Ok(())
    }

    /// Waits until somebody calls [`InstanceRef::cancel`], and keeps the instance awake meanwhile.
    /// When the instance cannot be brought to life it waits for ever. Cancel safe. The example is at
    /// [`InstanceRef::cancel`].
    pub async fn cancelled(&self) {
        if let Ok((live, permit)) = self.admitted().await
            && let Some(_hold) = live.core.admission.hold()
        {
            let _attendance = live.core.attend();
            drop(permit);
            return live.core.cancel.cancelled().await;
        }
        std::future::pending::<()>().await;
    }

    /// The path of a directory of the instance, made if it is missing (mode 0700). When the future is
    /// dropped it may have been made.
    ///
    /// ```
    /// use fiefdom::SubDir;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let workspace = build.dir(SubDir::Workspace).await?;
    /// std::fs::write(workspace.join("main.rs"), "fn main() {}").unwrap();
    /// assert_eq!(workspace, build.path().join("workspace"));
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`], and those of [`InstanceRef`].
    pub async fn dir(&self, which: SubDir) -> Result<PathBuf> {
        let (live, permit) = self.admitted().await?;
        blocking::run(move || {
            let path = live.core.lane.dir.ensure_dir(which.name())?.path().to_owned();
            drop(permit);
            Ok(path)
        })
        .await
    }

    /// Writes `bytes` to `output/<name>`, in one step and durably, replacing what was there.
    /// Returns the path. It is a file, not a commit: the record does not know of it, and the size is
    /// limited by the disk alone. When the future is dropped it goes on to its end.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let path = build.put_artifact("pr_url.txt", "https://example.org/pull/7\n").await?;
    /// assert_eq!(path, build.path().join("output/pr_url.txt"));
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] unless `name` is one plain file name: 1 to 240 bytes, without a slash,
    /// a backslash or a control character, not beginning with a dot. [`Error::Io`], and those of
    /// [`InstanceRef`].
    pub async fn put_artifact(&self, name: &str, bytes: impl Into<Vec<u8>>) -> Result<PathBuf> {
        check_file_name("artifact name", name, 240)?;
        let (name, bytes) = (name.to_owned(), bytes.into());
        let (live, permit) = self.admitted().await?;
        blocking::run(move || {
            let dir = live.core.lane.dir.ensure_dir(layout::OUTPUT)?;
            atomic::replace(&dir, &name, &bytes, Sync::Yes)?;
            live.core.lane.dir.sync()?;
            drop(permit);
            Ok(dir.path_of(&name))
        })
        .await
    }
}

/// A name that stays in its directory, and is not one of our temporary files.
pub(crate) fn check_file_name(what: &'static str, name: &str, longest: usize) -> Result<()> {
    let plain = !name.is_empty()
        && name.len() <= longest
        && !name.starts_with('.')
        && !name.contains(['/', '\\'])
        && !name.chars().any(char::is_control);
    if plain {
        return Ok(());
    }
    let reason = format!(
        "{name:?} is not a plain file name: 1 to {longest} bytes, without a slash or a control character, and not beginning with a dot"
    );
    Err(Error::InvalidInput { what, reason })
}

/// An instance together with the prepared value of its kind.
///
/// It keeps the prepared value that it was made with, also when the store's is refreshed
/// ([`Store::refresh`](crate::Store::refresh)), and is used as an [`InstanceRef`]. Cheap to clone.
///
/// ```
/// use std::sync::Arc;
/// use fiefdom::{BoxError, Instance, NewInstance, Store};
///
/// struct Greeter;
///
/// impl Instance for Greeter {
///     const KIND: &'static str = "greeter";
///     type State = u64;
///     type Prepared = String;
///
///     async fn prepare(&self) -> Result<String, BoxError> {
///         Ok("hello".into()) // a pool, a model: whatever takes long to make
///     }
///
///     fn initial(&self, _greeting: &String, _new: &NewInstance) -> Result<u64, BoxError> {
///         Ok(0)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = Store::open(dir.path(), Greeter).await?;
/// let one = store.create(NewInstance::new()).await?;
/// let other = store.create(NewInstance::new()).await?;
/// assert!(Arc::ptr_eq(one.prepared(), other.prepared()));
/// one.update(|greeted| *greeted += 1).await?;
/// # store.shutdown().await }
/// ```
pub struct Session<I: Instance> {
    instance: InstanceRef<I>,
    prepared: Arc<I::Prepared>,
}

impl<I: Instance> Session<I> {
    pub(crate) fn new(instance: InstanceRef<I>, prepared: Arc<I::Prepared>) -> Self {
        Self { instance, prepared }
    }

    /// What was prepared once for all sessions.
    #[must_use]
    pub fn prepared(&self) -> &Arc<I::Prepared> {
        &self.prepared
    }

    /// The instance alone.
    ///
    /// ```
    /// use fiefdom::{InstanceRef, Session};
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// async fn begin(build: InstanceRef<Untyped>) -> fiefdom::Result<u64> {
    ///     build.append("build.begun", ()).await
    /// }
    /// let session: Session<Untyped> = store.session(build.id()).await?;
    /// begin(session.instance().clone()).await?; // where the prepared value is not needed
    /// # store.shutdown().await }
    /// ```
    #[must_use]
    pub fn instance(&self) -> &InstanceRef<I> {
        &self.instance
    }
}

impl<I: Instance> Clone for Session<I> {
    fn clone(&self) -> Self {
        Self { instance: self.instance.clone(), prepared: Arc::clone(&self.prepared) }
    }
}

impl<I: Instance> std::fmt::Debug for Session<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl<I: Instance> Deref for Session<I> {
    type Target = InstanceRef<I>;

    fn deref(&self) -> &InstanceRef<I> {
        &self.instance
    }
}
