//! One JSON file outside of a store, with the care of a record: preferences, a tool's configuration.
//! It needs no store, and never touches one.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::blocking;
use crate::disk::state_file::{self, Place, Turn};
use crate::error::{BoxError, Error, Result, panic_message};
use crate::record::{json, migrate, strict};

/// The version of the wrapping that this program writes, and the newest that it reads.
const FORMAT: u64 = 1;

/// Largest file that is written, in bytes.
const WRITE_BYTES: usize = 2 << 20;

/// Largest file that is read, in bytes: a person may have indented it more.
const READ_BYTES: u64 = 4 * WRITE_BYTES as u64;

/// How long an update waits for its turn, unless it is said otherwise.
const WAIT: Duration = Duration::from_secs(30);

/// How often a lock that is taken is tried, at first and at most.
const TRY_AGAIN: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];

/// What a [`StateFile`] holds.
///
/// ```
/// use fiefdom::{BoxError, FileState};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
/// struct Preferences {
///     columns: u16,
/// }
///
/// impl FileState for Preferences {
///     const KIND: &'static str = "preferences";
///
///     fn validate(&self) -> Result<(), BoxError> {
///         if self.columns > 500 { Err("columns is at most 500".into()) } else { Ok(()) }
///     }
/// }
/// ```
pub trait FileState: Serialize + DeserializeOwned + Default + Send + 'static {
    /// The name of the kind, as it stands in the file. A file of another kind is refused.
    const KIND: &'static str;

    /// The version of the shape. Default: 1.
    const SCHEMA_VERSION: u32 = 1;

    /// Brings a stored state from version `from` to version `from + 1`. Pure. The steps run one
    /// after the other when an older file is read; the file stays as it is until the next update.
    ///
    /// # Errors
    ///
    /// When there is no such step, which is the default.
    fn migrate(from: u32, state: Value) -> Result<Value, BoxError> {
        drop(state);
        Err(format!("{} has no migration from version {from}", Self::KIND).into())
    }

    /// Says what is wrong with a value that has the right shape. It is asked of what was read (a
    /// person may have edited the file) and of what is about to be written. Default: nothing.
    ///
    /// # Errors
    ///
    /// What is wrong, in a sentence.
    fn validate(&self) -> Result<(), BoxError> {
        Ok(())
    }
}

/// One JSON file: read by anybody at any time, changed by one after the other, in this process and in
/// others, and on disk when an update has returned. Cheap to clone.
///
/// - **Missing** it reads as [`Default`]; the first update makes it, with mode 0600, and the directories
///   above it, with mode 0700. A file that exists keeps its mode (but not its extended attributes).
/// - **A link** is followed: what it points at is replaced, and the link stays.
/// - **An update** holds the lock of `.<name>.lock` beside the file, which is made once and must not be
///   removed. It is a `flock(2)`: it dies with its process. Whoever does not ask for it (an editor)
///   is not kept out, and sees the old file or the new one, whole.
/// - **What cannot be used** (damaged, of another kind, newer, not valid) is refused, and not touched.
/// - Fields that the type does not know are dropped by the next update: keep them with
///   `#[serde(flatten)]`. Unknown fields beside `state` are always kept.
/// - On a network file system the lock and the durability are those of that file system.
///
/// ```
/// use fiefdom::StateFile;
/// # use fiefdom::{BoxError, FileState};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Default, Serialize, Deserialize)]
/// # struct Preferences { columns: u16 }
/// # impl FileState for Preferences { const KIND: &'static str = "preferences"; }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let home = dir.path();
/// let file = StateFile::<Preferences>::at(home.join(".my-tool/preferences.json"));
/// let columns = file.update(|preferences| { preferences.columns += 1; preferences.columns }).await?;
/// assert_eq!(columns, 1);
/// assert_eq!(file.load().await?.columns, 1);
/// # Ok(()) }
/// ```
pub struct StateFile<T: FileState> {
    path: Arc<Path>,
    wait: Duration,
    /// Tasks of this process queue here, in order, and do not try the lock against each other.
    queue: Arc<tokio::sync::Mutex<()>>,
    of: PhantomData<fn() -> T>,
}

impl<T: FileState> Clone for StateFile<T> {
    fn clone(&self) -> Self {
        Self { path: Arc::clone(&self.path), wait: self.wait, queue: Arc::clone(&self.queue), of: PhantomData }
    }
}

impl<T: FileState> std::fmt::Debug for StateFile<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateFile").field("path", &self.path).field("kind", &T::KIND).finish_non_exhaustive()
    }
}

impl<T: FileState> StateFile<T> {
    /// The file at this path. Nothing is read or made yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into().into(), wait: WAIT, queue: Arc::default(), of: PhantomData }
    }

    /// How long an update waits for its turn. Default: 30 s.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # use fiefdom::{BoxError, FileState, StateFile};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Preferences { columns: u16 }
    /// # impl FileState for Preferences { const KIND: &'static str = "preferences"; }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("preferences.json");
    /// let file = StateFile::<Preferences>::at(&path).wait_at_most(Duration::from_secs(2));
    /// # file.update(|preferences| preferences.columns = 1).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn wait_at_most(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// The path that it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file holds now, brought up to date in memory; the default when there is none. Takes
    /// no lock, and writes nothing. Cancel safe. A file of more than 8 MiB is not read.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] for what is no such file or has a key twice, [`Error::NewerFormat`],
    /// [`Error::StateFile`] for another kind, a newer version, a failed migration, or what
    /// [`FileState::validate`] refuses; [`Error::InvalidInput`] for a path that can be no file;
    /// [`Error::Io`].
    pub async fn load(&self) -> Result<T> {
        let path = Arc::clone(&self.path);
        blocking::run(move || {
            let place = Place::find(&path)?;
            let Some(dir) = place.open()? else { return Ok(T::default()) };
            let bytes = state_file::read(&dir, &place.name, READ_BYTES)?;
            Ok(bytes
                .map(|bytes| parse::<T>(&place.path(), &bytes))
                .transpose()?
                .map(|(value, _)| value)
                .unwrap_or_default())
        })
        .await
    }

    /// Changes what the file holds, as it is when the turn comes, and returns what `change` returns,
    /// when that is on disk.
    ///
    /// When the future is dropped while it waits for its turn, nothing happens; after that the change
    /// is made, or not, as a whole.
    ///
    /// # Errors
    ///
    /// Those of [`StateFile::try_update`].
    pub async fn update<R: Send + 'static>(&self, change: impl FnOnce(&mut T) -> R + Send + 'static) -> Result<R> {
        self.try_update(move |value| Ok(change(value))).await
    }

    /// [`StateFile::update`] with a closure that may refuse: then its error is returned as
    /// [`Error::Rejected`]. When the future is dropped: as [`StateFile::update`].
    ///
    /// ```
    /// use fiefdom::Error;
    ///
    /// # use fiefdom::{BoxError, FileState, StateFile};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Preferences { columns: u16 }
    /// # impl FileState for Preferences { const KIND: &'static str = "preferences"; }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("preferences.json");
    /// let file = StateFile::<Preferences>::at(&path);
    /// let fewer = file.try_update(|preferences| {
    ///     preferences.columns = preferences.columns.checked_sub(1).ok_or("there is no column")?;
    ///     Ok(preferences.columns)
    /// });
    /// assert!(matches!(fewer.await, Err(Error::Rejected { .. })));
    /// assert!(!path.exists()); // nothing was written
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when the turn does not come in time; those of [`StateFile::load`];
    /// [`Error::Rejected`] for what `change` or [`FileState::validate`] refuses; [`Error::Panicked`] when
    /// `change` panics; [`Error::TooLarge`] over 2 MiB; [`Error::Unserializable`]. The file is as it was.
    /// So it is after [`Error::Io`], unless that says that the directory could not be flushed: then the
    /// change is made, and a power cut may take it back.
    pub async fn try_update<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut T) -> Result<R, BoxError> + Send + 'static,
    ) -> Result<R> {
        let begin = Instant::now();
        let busy = || Error::Busy { path: self.path.to_path_buf(), waited: self.wait };
        let queued = Arc::clone(&self.queue).lock_owned();
        let queued = tokio::time::timeout(self.wait, queued).await.map_err(|_| busy())?;
        let [mut pause, longest] = TRY_AGAIN;
        let turn = loop {
            let path = Arc::clone(&self.path);
            let turn = blocking::run(move || {
                // Each time anew: a link, or a directory, may be another by now.
                let place = Place::find(&path)?;
                Ok(Turn::try_take(place.open_or_make()?, &place.name)?.map(|turn| (turn, place)))
            });
            if let Some(turn) = turn.await? {
                break turn;
            }
            if begin.elapsed() >= self.wait {
                return Err(busy());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        };
        blocking::run(move || {
            let (turn, place) = turn;
            let done = apply(&turn, &place.path(), change);
            drop((turn, queued));
            done
        })
        .await
    }
}

/// Reads, changes and writes, while it has the turn.
fn apply<T: FileState, R>(turn: &Turn, path: &Path, change: impl FnOnce(&mut T) -> Result<R, BoxError>) -> Result<R> {
    let (mut value, unknown) = match turn.read(READ_BYTES)? {
        Some(bytes) => parse::<T>(path, &bytes)?,
        None => (T::default(), BTreeMap::new()),
    };
    let changed = catch_unwind(AssertUnwindSafe(|| {
        let answer = change(&mut value)?;
        value.validate()?;
        Ok((answer, encode(&value, unknown)))
    }));
    let changed: Result<_, BoxError> = changed.map_err(|panic| Error::Panicked {
        what: format!("the state file {}", path.display()),
        message: panic_message(&*panic),
    })?;
    let (answer, bytes) = changed.map_err(Error::rejected)?;
    turn.replace(&bytes?)?;
    Ok(answer)
}

/// The file around the state.
#[derive(Serialize)]
struct Written<'a, T> {
    format: u64,
    kind: &'a str,
    schema_version: u32,
    state: &'a T,
    #[serde(flatten)]
    unknown: BTreeMap<String, Box<RawValue>>,
}

fn encode<T: FileState>(value: &T, unknown: BTreeMap<String, Box<RawValue>>) -> Result<Vec<u8>> {
    strict::check("state", value)?;
    let written = Written { format: FORMAT, kind: T::KIND, schema_version: T::SCHEMA_VERSION, state: value, unknown };
    let mut bytes = serde_json::to_vec_pretty(&written).map_err(|e| json::unserializable("state", &e))?;
    bytes.push(b'\n');
    if bytes.len() > WRITE_BYTES {
        return Err(Error::TooLarge { what: "state file", bytes: bytes.len() as u64, limit: WRITE_BYTES as u64 });
    }
    Ok(bytes)
}

/// Versions first, then the rest. Returns the unknown fields beside the state, too.
fn parse<T: FileState>(path: &Path, bytes: &[u8]) -> Result<(T, BTreeMap<String, Box<RawValue>>)> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u64,
    }
    let damaged = |e: serde_json::Error| Error::corrupt(path, Some(json::offset_of(bytes, &e)), e);
    if let Ok(Versioned { format }) = serde_json::from_slice(bytes)
        && format > FORMAT
    {
        return Err(Error::NewerFormat { path: path.to_owned(), found: format, supported: FORMAT });
    }
    json::check(bytes).map_err(damaged)?;
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(bytes).map_err(damaged)?;
    let _: u64 = take(path, &mut fields, "format")?;
    let kind: String = take(path, &mut fields, "kind")?;
    let from: u32 = take(path, &mut fields, "schema_version")?;
    let state: Box<RawValue> = take(path, &mut fields, "state")?;
    let unusable =
        |reason: String| Error::StateFile { path: path.to_owned(), kind: T::KIND, version: T::SCHEMA_VERSION, reason };
    if kind != T::KIND {
        return Err(unusable(format!("it is of kind {kind:?}")));
    }
    let value: T = migrate::up_to_date(&state, from, T::SCHEMA_VERSION, T::migrate).map_err(unusable)?;
    let valid = catch_unwind(AssertUnwindSafe(|| value.validate()));
    let valid = valid.unwrap_or_else(|panic| Err(format!("validate panicked: {}", panic_message(&*panic)).into()));
    valid.map_err(|e| unusable(e.to_string()))?;
    Ok((value, fields))
}

fn take<V: DeserializeOwned>(path: &Path, fields: &mut BTreeMap<String, Box<RawValue>>, name: &str) -> Result<V> {
    let raw = fields.remove(name).ok_or_else(|| Error::corrupt(path, None, format!("it has no field {name:?}")))?;
    serde_json::from_str(raw.get()).map_err(|e| Error::corrupt(path, None, format!("field {name}: {e}")))
}
