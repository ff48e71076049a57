//! Jobs as the items of a batch. Their instances are never made here: the runner does that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::items::{Checks, too_many};
use super::{Batch, MAX_ITEMS, refuse};
use crate::error::Result;
use crate::kind::NewInstance;
use crate::record::{BATCH_TAG, InstanceId, Record};

/// One job of a batch: what [`Runner`](super::super::Runner) runs. It becomes an instance when it is
/// first begun, with the tag `batch` that names its batch.
///
/// ```
/// use fiefdom::jobs::{Batch, BatchItem, CommandInput};
/// use serde_json::json;
///
/// let mut job = BatchItem::new("greet".parse()?, json!(CommandInput::new("echo hello")));
/// job.tags.insert("team".into(), "docs".into());
/// Batch::check(&"nightly".parse()?, &[job.clone()])?;
///
/// let twice = Batch::check(&"nightly".parse()?, &[job.clone(), job]);
/// assert!(twice.is_err()); // one id twice
/// # Ok::<(), fiefdom::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchItem {
    /// The id of the job's instance.
    pub id: InstanceId,
    /// Labels for the instance; `batch` is taken.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// What [`Instance::initial`](crate::Instance::initial) and
    /// [`Attempt::input`](crate::jobs::Attempt::input) are told.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub input: Value,
}

impl BatchItem {
    /// A job with this id and input.
    #[must_use]
    pub fn new(id: InstanceId, input: Value) -> Self {
        Self { id, tags: BTreeMap::new(), input }
    }

    pub(in crate::jobs) fn to_new(&self, batch: &InstanceId) -> NewInstance {
        let new = NewInstance::with_id(self.id.clone()).input(self.input.clone());
        self.all_tags(batch).into_iter().fold(new, |new, (key, value)| new.tag(key, value))
    }

    fn all_tags(&self, batch: &InstanceId) -> BTreeMap<String, String> {
        let mut tags = self.tags.clone();
        tags.insert(BATCH_TAG.into(), batch.to_string());
        tags
    }
}

/// Checks what can be checked of one job alone.
pub(super) fn check(batch: &InstanceId, item: &BatchItem) -> Result<()> {
    if item.id == *batch {
        return refuse(format!("one of its jobs has the id {batch:?} of the batch; give it another"));
    }
    if item.tags.contains_key(BATCH_TAG) {
        return refuse(format!("job {:?} has the tag {BATCH_TAG:?}, which names the batch; rename it", item.id));
    }
    match Record::<Value>::check_tags(&item.all_tags(batch)) {
        Err(error) => refuse(format!("job {:?} cannot be made: {error}", item.id)),
        Ok(()) => Ok(()),
    }
}

impl Batch<BatchItem> {
    /// Checks jobs as far as that can be done without a store. [`Batch::create`] does it too. The
    /// example is at [`BatchItem`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) for no items, one id twice, the id of the
    /// batch itself, or tags that an instance cannot have;
    /// [`Error::TooLarge`](crate::Error::TooLarge) for more than [`MAX_ITEMS`].
    pub fn check(id: &InstanceId, items: &[BatchItem]) -> Result<()> {
        if items.is_empty() {
            return refuse("it has no items; give it one at least".into());
        }
        if items.len() > MAX_ITEMS {
            return Err(too_many(items.len() as u64));
        }
        let mut checks = Checks::new(id.clone(), None);
        items.iter().try_for_each(|item| checks.check(item))
    }
}
