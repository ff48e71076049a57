//! fiefdom, as every row uses it.

use std::sync::Arc;

use fiefdom::{Durability, InstanceRef, NewInstance, Options, Store};

use super::document::Work;
use crate::harness::{Outcome, Setting};

pub const DISK: &str = "fiefdom, on disk";
pub const OS: &str = "fiefdom, Os";

/// A store with nothing changed but when a commit is acknowledged.
pub async fn open(setting: &Setting, durability: Durability) -> Outcome<Store<Work>> {
    let mut options = Options::default();
    options.durability = durability;
    Ok(Store::open_with(setting.fresh_dir("fiefdom-")?, Work, options).await?)
}

/// `count` live instances.
pub async fn instances(store: &Store<Work>, count: usize) -> Outcome<Arc<Vec<InstanceRef<Work>>>> {
    let mut made = Vec::new();
    for _ in 0..count {
        made.push(store.create(NewInstance::new()).await?.instance().clone());
    }
    Ok(Arc::new(made))
}
