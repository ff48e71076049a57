//! What an instance is: the trait that a user implements, and the kind that fits everything. Values
//! and types alone: nothing here knows a store, and nothing is written.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{BoxError, Error, Result};
use crate::options::Durability;
use crate::record::InstanceId;

/// A kind of instance: the shape of its durable state, and what is prepared once for all of them.
///
/// One implementation per kind; the value itself holds configuration (a path, a client).
///
/// ```
/// use fiefdom::{BoxError, Instance, NewInstance, Store};
/// use serde::{Deserialize, Serialize};
///
/// struct Counter;
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Count {
///     value: u64,
/// }
///
/// impl Instance for Counter {
///     const KIND: &'static str = "counter";
///     type State = Count;
///     type Prepared = ();
///
///     async fn prepare(&self) -> Result<(), BoxError> {
///         Ok(())
///     }
///
///     fn initial(&self, _prepared: &(), _new: &NewInstance) -> Result<Count, BoxError> {
///         Ok(Count { value: 0 })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = Store::open(dir.path(), Counter).await?;
/// let counter = store.create(NewInstance::new()).await?;
/// let value = counter.update(|count| { count.value += 1; count.value }).await?;
/// assert_eq!(value, 1);
/// # store.shutdown().await }
/// ```
pub trait Instance: Send + Sync + 'static {
    /// The name of the kind, as it stands in the record. An instance of another kind is refused, so it
    /// stays as it is once there are instances.
    const KIND: &'static str;

    /// The version of the shape of [`Instance::State`]. Default: 1.
    const SCHEMA_VERSION: u32 = 1;

    /// The durable document. A change to it is made on a copy (hence `Clone`), and counts when it
    /// is durable.
    ///
    /// It is stored as JSON, and what JSON cannot hold is refused before anything is written, with the
    /// name of the field: NaN and infinity, map keys that are not text, paths that are not UTF-8,
    /// integers of more than 64 bits, more than 120 levels of nesting.
    ///
    /// Fields that the type does not know are dropped when the state is next written: keep them
    /// with `#[serde(flatten)]`. (Unknown fields of the record around the state are always kept.)
    type State: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;

    /// What is expensive to make, made once and shared by all sessions.
    type Prepared: Send + Sync + 'static;

    /// Makes the prepared value. It runs at the first use, once however many wait for it; when it
    /// fails, all of them get the error, and the next use tries again. It runs in a task of its own, so
    /// it goes on when those who wait for it give up.
    ///
    /// # Errors
    ///
    /// Whatever goes wrong; the callers see it as [`Error::Prepare`], and a panic as well.
    fn prepare(&self) -> impl Future<Output = Result<Self::Prepared, BoxError>> + Send;

    /// The state of a new instance. Called for every creation, so that no two share a value; in the
    /// task of the caller, so it should not block.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with `new`; the caller sees it as [`Error::Rejected`] (a panic as well), and
    /// nothing is made.
    fn initial(&self, prepared: &Self::Prepared, new: &NewInstance) -> Result<Self::State, BoxError>;

    /// Brings a stored state from version `from` to version `from + 1`. Pure. The steps run one
    /// after the other when an older instance is activated; the old bytes stay until the first
    /// commit of the new shape is durable. ([`Migration`](crate::Migration) brings all instances up to
    /// date at once.)
    ///
    /// ```
    /// use fiefdom::{BoxError, Instance, NewInstance, Store, Untyped};
    /// use serde_json::{Value, json};
    ///
    /// struct Note;
    ///
    /// impl Instance for Note {
    ///     const KIND: &'static str = "note";
    ///     const SCHEMA_VERSION: u32 = 2;
    ///     type State = Vec<String>;
    ///     type Prepared = ();
    ///
    ///     async fn prepare(&self) -> Result<(), BoxError> {
    ///         Ok(())
    ///     }
    ///
    ///     fn initial(&self, (): &(), _new: &NewInstance) -> Result<Vec<String>, BoxError> {
    ///         Ok(Vec::new())
    ///     }
    ///
    ///     fn migrate(from: u32, state: Value) -> Result<Value, BoxError> {
    ///         match from {
    ///             1 => Ok(json!([state["text"]])), // version 1 had one text
    ///             _ => Err(format!("there is no note of version {from}").into()),
    ///         }
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let id = "remember".parse()?;
    /// # let old = Store::open(dir.path(), Untyped).await?;
    /// # let text = json!({ "text": "milk" });
    /// # old.create(NewInstance::with_id(id).kind("note").input(text)).await?;
    /// # old.shutdown().await?;
    /// # let id = "remember".parse()?;
    /// let store = Store::open(dir.path(), Note).await?;
    /// assert_eq!(store.get(&id).await?.state().await?, ["milk"]);
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// When there is no such step, which is the default. The caller sees it as [`Error::Schema`] (a
    /// panic as well), and the instance is as it was.
    fn migrate(from: u32, state: Value) -> Result<Value, BoxError> {
        drop(state);
        Err(format!("{} has no migration from version {from}", Self::KIND).into())
    }

    /// Whether instances of this kind can be opened. Default: the own kind alone.
    #[must_use]
    fn accepts(kind: &str) -> bool {
        kind == Self::KIND
    }
}

/// What a new instance shall be.
///
/// ```
/// use fiefdom::NewInstance;
///
/// let new = NewInstance::with_id("build-42".parse()?).name("nightly").tag("branch", "main");
/// let another = NewInstance::new(); // its id is generated
/// # Ok::<(), fiefdom::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct NewInstance {
    pub(crate) id: Option<InstanceId>,
    pub(crate) kind: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) pinned: bool,
    pub(crate) input: Value,
    pub(crate) durability: Option<Durability>,
}

impl NewInstance {
    /// An instance with a generated, time-ordered id: see [`InstanceId::generate`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An instance with this id.
    #[must_use]
    pub fn with_id(id: InstanceId) -> Self {
        Self { id: Some(id), ..Self::default() }
    }

    /// A name for people. Default: none. Names need not differ.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// A label; one of the same key is replaced. At most 64, keys of 1 to 256 bytes, values of at most
    /// 256; anything else is refused when the instance is made.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }

    /// Retention leaves the instance alone. Default: it does not.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// let keep = store.create(NewInstance::new().pinned()).await?;
    /// assert!(keep.record().await?.pinned);
    /// # store.shutdown().await }
    /// ```
    #[must_use]
    pub fn pinned(mut self) -> Self {
        self.pinned = true;
        self
    }

    /// What [`Instance::initial`] is told, as JSON. Default: `null`.
    ///
    /// ```
    /// use serde_json::json;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// // The state of an untyped instance is its input.
    /// let job = store.create(NewInstance::new().input(json!({ "url": "https://example.org" }))).await?;
    /// assert_eq!(job.state().await?["url"], "https://example.org");
    /// # store.shutdown().await }
    /// ```
    #[must_use]
    pub fn input(mut self, input: Value) -> Self {
        self.input = input;
        self
    }

    /// When the creation is acknowledged. Default: [`Options::durability`](crate::Options::durability).
    ///
    /// ```
    /// use fiefdom::Durability;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// // Thousands that could be made again: they survive the process, and a power cut perhaps not.
    /// for n in 0..10 {
    ///     let id = format!("page-{n}").parse()?;
    ///     store.create(NewInstance::with_id(id).durability(Durability::Os)).await?;
    /// }
    /// # store.shutdown().await }
    /// ```
    #[must_use]
    pub fn durability(mut self, level: Durability) -> Self {
        self.durability = Some(level);
        self
    }

    /// Another kind than that of the store: only [`Untyped`] stores make such instances.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// let note = store.create(NewInstance::new().kind("note")).await?;
    /// assert_eq!(note.record().await?.kind, "note");
    /// # store.shutdown().await }
    /// ```
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// What [`Instance::initial`] is told, as a typed value.
    ///
    /// ```
    /// use fiefdom::NewInstance;
    /// use serde_json::json;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Fetch {
    ///     url: String,
    /// }
    ///
    /// let new = NewInstance::new().input(json!({ "url": "https://example.org" }));
    /// let fetch: Fetch = new.input_as()?; // in `Instance::initial`
    /// assert_eq!(fetch.url, "https://example.org");
    /// # Ok::<(), fiefdom::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when the input does not have that shape.
    pub fn input_as<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.input).map_err(|e| Error::InvalidInput {
            what: "input of a new instance",
            reason: format!("{e}; give it the shape that the kind expects"),
        })
    }
}

/// The kind that fits every instance: its state is any JSON value.
///
/// It serves tools that do not know the types. Numbers are kept as `serde_json` keeps them:
/// integers of up to 64 bits exactly, others as a 64-bit float.
#[derive(Clone, Copy, Debug, Default)]
pub struct Untyped;

impl Untyped {
    /// Reads a JSON text as strictly as a record is read.
    ///
    /// ```
    /// use fiefdom::{Error, Untyped};
    ///
    /// assert_eq!(Untyped::parse(r#"{ "n": 1 }"#)?["n"], 1);
    /// let twice = Untyped::parse(r#"{ "n": 1, "n": 2 }"#); // serde_json would take the last
    /// assert!(matches!(twice, Err(Error::InvalidInput { .. })));
    /// # Ok::<(), fiefdom::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when it is not JSON, has a key twice in one object, or is nested deeper
    /// than 127 levels. (A state that is to be stored has 120 at most.)
    pub fn parse(json: &str) -> Result<Value> {
        crate::record::json::check(json.as_bytes())
            .and_then(|()| serde_json::from_str(json))
            .map_err(|e| Error::InvalidInput { what: "JSON", reason: format!("{e}; mend it there") })
    }
}

impl Instance for Untyped {
    const KIND: &'static str = "untyped";
    type State = Value;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), new: &NewInstance) -> Result<Value, BoxError> {
        Ok(if new.input.is_null() { Value::Object(serde_json::Map::new()) } else { new.input.clone() })
    }

    fn accepts(_: &str) -> bool {
        true
    }
}
