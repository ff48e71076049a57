//! What an instance is: the trait that a user implements, and the kind that fits everything.

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
/// use fiefdom::{BoxError, Instance, NewInstance};
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
/// ```
pub trait Instance: Send + Sync + 'static {
    /// The name of the kind, as it stands in the record.
    const KIND: &'static str;

    /// The version of the shape of [`Instance::State`]. Default: 1.
    const SCHEMA_VERSION: u32 = 1;

    /// The durable document. A change to it is made on a copy (hence `Clone`), and counts when it
    /// is durable.
    ///
    /// Fields that the type does not know are dropped when the state is next written: keep them
    /// with `#[serde(flatten)]`. (Unknown fields of the record around the state are always kept.)
    type State: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;

    /// What is expensive to make, made once and shared by all sessions.
    type Prepared: Send + Sync + 'static;

    /// Makes the prepared value. It runs at the first use, once however many wait for it; when it
    /// fails, all of them get the error, and the next use tries again.
    ///
    /// # Errors
    ///
    /// Whatever goes wrong; the callers see it as [`Error::Prepare`].
    fn prepare(&self) -> impl Future<Output = Result<Self::Prepared, BoxError>> + Send;

    /// The state of a new instance. Called for every creation, so that no two share a value.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with `new`; the caller sees it as [`Error::Rejected`], and nothing is made.
    fn initial(&self, prepared: &Self::Prepared, new: &NewInstance) -> Result<Self::State, BoxError>;

    /// Brings a stored state from version `from` to version `from + 1`. Pure. The steps run one
    /// after the other when an older instance is activated; the old bytes stay until the first
    /// commit of the new shape is durable.
    ///
    /// # Errors
    ///
    /// When there is no such step, which is the default.
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
    /// An instance with a generated, time-ordered id.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An instance with this id.
    #[must_use]
    pub fn with_id(id: InstanceId) -> Self {
        Self { id: Some(id), ..Self::default() }
    }

    /// A name for people.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// A label. At most 64, of at most 256 bytes each; more is refused when the instance is made.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }

    /// Retention leaves the instance alone.
    #[must_use]
    pub fn pinned(mut self) -> Self {
        self.pinned = true;
        self
    }

    /// What [`Instance::initial`] is told, as JSON. Default: `null`.
    #[must_use]
    pub fn input(mut self, input: Value) -> Self {
        self.input = input;
        self
    }

    /// When the creation is acknowledged, if not at the store's level.
    #[must_use]
    pub fn durability(mut self, level: Durability) -> Self {
        self.durability = Some(level);
        self
    }

    /// Another kind than that of the store: only [`Untyped`] stores make such instances.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// What [`Instance::initial`] is told, as a typed value.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when the input does not have that shape.
    pub fn input_as<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.input)
            .map_err(|e| Error::InvalidInput { what: "input of a new instance", reason: e.to_string() })
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
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when it is not JSON, has a key twice in one object, or is nested too
    /// deep.
    pub fn parse(json: &str) -> Result<Value> {
        crate::record::json::check(json.as_bytes())
            .and_then(|()| serde_json::from_str(json))
            .map_err(|e| Error::InvalidInput { what: "JSON", reason: e.to_string() })
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
