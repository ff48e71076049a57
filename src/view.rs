//! Reading a root without locks, without waking anything, while others write. No file of an instance
//! is ever written from here, unless somebody asks for recovery.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::Stream;
use serde_json::Value;
use uuid::Uuid;

use crate::checkpoint;
use crate::disk::alarms::AlarmIndex;
use crate::disk::root::Root;
use crate::disk::{layout, lock};
use crate::error::{Error, Result};
use crate::follow;
use crate::log::activate;
use crate::log::events::EventReader;
use crate::log::feed::Feed;
use crate::log::recover;
use crate::options::Options;
use crate::record::{Alarm, Event, InstanceId, LastCheckpoint, RawRecord, Record, Status};
use crate::root::DataRoot;

/// How long a reader waits for whoever recovers.
const PATIENCE: Duration = Duration::from_millis(50);

/// Reads a root, without a lock and without waking an instance. Cheap to clone. Its functions block:
/// call them from a thread that may, or from a tool.
///
/// What it sees is whole and durable, and at most 100 ms
/// ([`Options::materialise_within`]) behind the owner of an instance, while the owner's disk keeps up.
/// What a process that died had in its log alone is not in it before it is recovered: by
/// [`View::recover`], or by whoever opens the root as a store.
///
/// ```
/// use fiefdom::{Filter, NewInstance, Status, Store, Untyped, View};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = Store::open(dir.path(), Untyped).await?;
/// let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
/// build.commit(|tx| tx.set_status(Status::Running, None)).await?;
/// build.append("step.begun", "compile").await?;
/// store.shutdown().await?;
///
/// let view = View::open(dir.path())?;
/// let mut filter = Filter::default();
/// filter.statuses = vec![Status::Running];
/// for record in view.list(&filter)?.records {
///     let events = view.events(&record.id, 1)?;
///     println!("{}: {} events, begun {:?}", record.id, events.len(), record.started_at);
/// #   assert_eq!(events.len(), 1);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct View {
    root: Option<Arc<Root>>,
    path: PathBuf,
}

/// Which instances to list. The default is all.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Filter {
    /// Only in one of these statuses; empty for any.
    pub statuses: Vec<Status>,
    /// Only with all of these tags.
    pub tags: BTreeMap<String, String>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// At most so many, the newest. Default: all. In a root of many thousand instances the others are
    /// not looked at.
    pub limit: Option<usize>,
}

impl Filter {
    pub(crate) fn accepts<S>(&self, record: &Record<S>) -> bool {
        (self.statuses.is_empty() || self.statuses.contains(&record.status))
            && self.kind.as_ref().is_none_or(|kind| *kind == record.kind)
            && self.tags.iter().all(|(key, value)| record.tags.get(key) == Some(value))
    }
}

/// What a listing found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Listing<S> {
    /// The records, newest first.
    pub records: Vec<Record<S>>,
    /// What is wrong with those that were looked at and could not be read.
    pub damaged: Vec<(InstanceId, Error)>,
}

/// What opening a root for reading found to recover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Waiting {
    /// Nothing: what is read is complete.
    Nothing,
    /// A dead process left commits behind, and they were recovered.
    Recovered,
    /// A dead process left commits behind, and they could not be recovered now: what is read may
    /// lag behind them.
    DeadWriter,
    /// Another process is recovering at this moment: what is read may lag behind what it finds.
    Recovering,
}

impl View {
    /// Opens a root for reading. One that does not exist reads as empty.
    ///
    /// # Errors
    ///
    /// [`Error::Root`], [`Error::NewerFormat`], [`Error::Corrupt`], [`Error::Io`].
    pub fn open(root: impl Into<DataRoot>) -> Result<Self> {
        let root = root.into();
        Ok(Self { root: Root::open_existing(root.path())?.map(Arc::new), path: root.path().to_owned() })
    }

    pub(crate) fn on(root: Arc<Root>) -> Self {
        let path = root.top.path().to_owned();
        Self { root: Some(root), path }
    }

    /// Recovers what dead processes left, if that is possible at once. It waits for others 50 ms at most,
    /// and a failure is the answer [`Waiting::DeadWriter`]. Where nothing can be written, it only looks.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// use fiefdom::{View, Waiting};
    ///
    /// let view = View::open(dir.path())?;
    /// if matches!(view.recover(), Waiting::DeadWriter | Waiting::Recovering) {
    ///     eprintln!("what follows may be behind");
    /// }
    /// # Ok::<(), fiefdom::Error>(())
    /// ```
    #[must_use]
    pub fn recover(&self) -> Waiting {
        let Some(root) = &self.root else { return Waiting::Nothing };
        let begun = Instant::now();
        loop {
            let in_the_way = match recover::try_recover(root) {
                Ok(Some(recovered)) if recovered.writers == 0 => return Waiting::Nothing,
                Ok(Some(_)) => return Waiting::Recovered,
                Ok(None) => root.recovery_lock().and_then(|lock| Ok(!lock.probe()?)),
                Err(error) => {
                    tracing::debug!(%error, "what dead writers left could not be recovered");
                    Ok(false)
                }
            };
            // Those who share the lock bring instances to life, and it may be that nothing can be written
            // here: then nothing waits but what a dead writer left.
            if matches!(in_the_way, Ok(false)) {
                let dead = lock::any_dead_writer(root, Uuid::nil());
                return if matches!(dead, Ok(false)) { Waiting::Nothing } else { Waiting::DeadWriter };
            }
            // Whoever opens a root has it alone for a moment.
            if begun.elapsed() >= PATIENCE {
                return Waiting::Recovering;
            }
            #[expect(clippy::disallowed_methods, reason = "it blocks, as every function of a view does")]
            std::thread::sleep(PATIENCE / 10);
        }
    }

    pub(crate) fn root(&self) -> Option<&Arc<Root>> {
        self.root.as_ref()
    }

    pub(crate) fn root_of(&self, id: &InstanceId) -> Result<&Root> {
        self.root.as_deref().ok_or_else(|| self.not_found(id))
    }

    fn not_found(&self, id: &InstanceId) -> Error {
        Error::NotFound { id: id.clone(), root: self.path.join(layout::INSTANCES) }
    }

    /// The path of the root.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of an instance, whether it exists or not.
    ///
    /// ```
    /// use fiefdom::View;
    ///
    /// let view = View::open("/var/lib/my-tool")?;
    /// let output = view.instance_path(&"build-42".parse()?).join("output");
    /// assert_eq!(output, view.path().join("instances/build-42/output"));
    /// # Ok::<(), fiefdom::Error>(())
    /// ```
    #[must_use]
    pub fn instance_path(&self, id: &InstanceId) -> PathBuf {
        self.path.join(layout::INSTANCES).join(id.as_str())
    }

    /// The path of the record of an instance, whether it exists or not.
    ///
    /// ```
    /// use std::path::Path;
    /// use fiefdom::View;
    ///
    /// let view = View::open("/var/lib/my-tool")?;
    /// let id = "build-42".parse()?;
    /// assert_eq!(view.record_path(&id), view.path().join("instances/build-42/instance.json"));
    /// assert_eq!(view.instance_path(&id), Path::new("/var/lib/my-tool/instances/build-42"));
    /// # Ok::<(), fiefdom::Error>(())
    /// ```
    #[must_use]
    pub fn record_path(&self, id: &InstanceId) -> PathBuf {
        self.instance_path(id).join(layout::RECORD)
    }

    /// The paths of what a job prints, whether they exist or not: standard output, standard error.
    ///
    /// ```
    /// use fiefdom::View;
    ///
    /// let [stdout, stderr] = View::open("/var/lib/my-tool")?.log_paths(&"greet".parse()?);
    /// assert!(stdout.ends_with("greet/logs/stdout.log"));
    /// assert!(stderr.ends_with("greet/logs/stderr.log"));
    /// # Ok::<(), fiefdom::Error>(())
    /// ```
    #[must_use]
    pub fn log_paths(&self, id: &InstanceId) -> [PathBuf; 2] {
        let logs = self.instance_path(id).join(layout::LOGS);
        [logs.join(layout::STDOUT), logs.join(layout::STDERR)]
    }

    /// What a job has printed so far: standard output, standard error, each `None` while there is none.
    /// No link is followed: a job may have put one there.
    ///
    /// ```
    /// use std::io::Read as _;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// # std::fs::create_dir(build.path().join("logs")).unwrap();
    /// # std::fs::write(build.path().join("logs/stdout.log"), "hello\n").unwrap();
    /// let [stdout, stderr] = store.view().open_logs(build.id())?;
    /// let mut text = String::new();
    /// stdout.expect("it has printed").read_to_string(&mut text).unwrap();
    /// assert_eq!(text, "hello\n");
    /// assert!(stderr.is_none());
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Io`], also when something stands there that is no file.
    pub fn open_logs(&self, id: &InstanceId) -> Result<[Option<impl io::Read + use<>>; 2]> {
        let root = self.root.as_ref().ok_or_else(|| self.not_found(id))?;
        let dir = root.instances.open_dir(id.as_str())?.ok_or_else(|| self.not_found(id))?;
        let Some(logs) = dir.open_dir(layout::LOGS)? else { return Ok([None, None]) };
        let open = |name| {
            let Some(file) = logs.open_file(name)? else { return Ok(None) };
            let (path, file) = (file.path().to_owned(), file.into_std()?);
            let fail = |e| Error::io("read", &path, e);
            if !file.metadata().map_err(fail)?.is_file() {
                // A pipe, say: reading it could wait for ever, and would take what is in it.
                return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
            }
            Ok(Some(file))
        };
        Ok([open(layout::STDOUT)?, open(layout::STDERR)?])
    }

    /// The ids of all instances, in order. A root that does not exist has none.
    pub(crate) fn ids(&self) -> Result<Vec<InstanceId>> {
        let Some(root) = &self.root else { return Ok(Vec::new()) };
        // What is not ours has no place in the list.
        let mut ids: Vec<_> = root.instances.names()?.iter().filter_map(|name| InstanceId::new(name).ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    pub(crate) fn raw(&self, id: &InstanceId) -> Result<RawRecord> {
        let root = self.root.as_ref().ok_or_else(|| self.not_found(id))?;
        let dir = root.instances.open_dir(id.as_str())?.ok_or_else(|| self.not_found(id))?;
        let bytes = activate::read_bytes(&dir, &Options::default())?.ok_or_else(|| self.not_found(id))?;
        activate::parse(&dir, id, &bytes)
    }

    /// The instances whose alarm is due first, with it, in order: at most `most`. The others are not
    /// read. (See [`Store::alarms`](crate::Store::alarms) for how they are taken.)
    ///
    /// ```
    /// use chrono::{TimeDelta, Utc};
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// build.set_alarm(Utc::now() + TimeDelta::hours(1), "look again").await?;
    /// # store.flush().await?;
    /// for (id, alarm) in store.view().alarms(10)? {
    ///     println!("{id} wakes at {}", alarm.at);
    /// }
    /// # assert_eq!(store.view().alarms(10)?.len(), 1);
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`]. An instance that cannot be read is left out.
    pub fn alarms(&self, most: usize) -> Result<Vec<(InstanceId, Alarm)>> {
        let Some(root) = &self.root else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for entry in AlarmIndex::earliest(&root.internal, most, |_| true)? {
            // An entry may be out of date; the record says.
            if let Ok(record) = self.raw(&entry.id)
                && record.alarm_entry().as_ref() == Some(&entry)
                && let Some(alarm) = record.alarm
            {
                found.push((entry.id, alarm));
            }
        }
        Ok(found)
    }

    /// The record of an instance.
    ///
    /// ```
    /// use fiefdom::View;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// build.update(|state| state["step"] = "compile".into()).await?;
    /// # store.flush().await?;
    /// let record = View::open(dir.path())?.record(build.id())?;
    /// assert_eq!((record.revision, &record.state["step"]), (1, &"compile".into()));
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Corrupt`], [`Error::NewerFormat`], [`Error::Io`].
    pub fn record(&self, id: &InstanceId) -> Result<Record<Value>> {
        let raw = self.raw(id)?;
        let path = self.instance_path(id).join(layout::RECORD);
        raw.typed().map_err(|e| Error::corrupt(&path, None, e))
    }

    /// The last checkpoint of an instance; none when none was written.
    ///
    /// ```
    /// use fiefdom::{Checkpoint, View};
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// build.checkpoint(Checkpoint::new("fetched").message("40 of 90")).await?;
    /// # store.flush().await?;
    /// let last = View::open(dir.path())?.last_checkpoint(build.id())?.expect("one was written");
    /// println!("{} since {}", last.checkpoint.step, last.at);
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`View::record`], also when its event cannot be read.
    pub fn last_checkpoint(&self, id: &InstanceId) -> Result<Option<LastCheckpoint>> {
        let seq = self.raw(id)?.work.checkpoint_seq;
        let root = self.root.as_ref().ok_or_else(|| self.not_found(id))?;
        let dir = root.instances.open_dir(id.as_str())?.ok_or_else(|| self.not_found(id))?;
        checkpoint::read(&dir, seq)
    }

    /// The records of the instances that match, newest first by their creation. Every record is in
    /// memory at once: set [`Filter::limit`] in a large root.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]. A record that cannot be read is not an error: it is in [`Listing::damaged`].
    pub fn list(&self, filter: &Filter) -> Result<Listing<Value>> {
        let schema = |e: serde_json::Error| Error::InvalidInput {
            what: "state",
            reason: format!("{e}; mend the record by hand"),
        };
        self.list_where(filter, |raw| raw.typed().map(Some).map_err(schema))
    }

    /// The events of an instance from `from_seq` on (1 is the first) that are there now, about 256 KiB
    /// of them at most. Ask again from the last `seq` plus one until there is none.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Corrupt`], [`Error::Io`].
    pub fn events(&self, id: &InstanceId, from_seq: u64) -> Result<Vec<Event>> {
        let root = self.root.as_ref().ok_or_else(|| self.not_found(id))?;
        let dir = root.instances.open_dir(id.as_str())?.ok_or_else(|| self.not_found(id))?;
        EventReader::new(from_seq).read(&dir)
    }

    /// The events from `from_seq` on (1 is the first), and every new one, until it is dropped. The files
    /// are looked at every 100 ms. This one does not block, and wants a runtime.
    ///
    /// ```
    /// use fiefdom::View;
    /// use futures::StreamExt as _;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// build.append("step.begun", "compile").await?;
    /// # store.flush().await?;
    /// let mut events = View::open(dir.path())?.follow(build.id(), 1)?;
    /// while let Some(event) = events.next().await {
    ///     let event = event?;
    ///     println!("{} {}", event.seq, event.kind);
    ///     # break;
    /// }
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the root does not exist. An item is an error when a file cannot be
    /// read or is damaged; the stream ends after it.
    pub fn follow(
        &self,
        id: &InstanceId,
        from_seq: u64,
    ) -> Result<impl Stream<Item = Result<Event>> + Send + Unpin + use<>> {
        let root = self.root.as_ref().ok_or_else(|| self.not_found(id))?;
        Ok(follow::stream(Arc::clone(root), id.clone(), from_seq, Arc::new(Feed::new()).follow()))
    }
}
