//! Batches: every item is worked on until it is marked, whoever dies in between, and the last of
//! many costs what the first did. Here is what the subjects share.
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod creation;
mod items;
mod killed;
mod large;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{PATIENCE, TestResult, id};
use fiefdom::jobs::{Batch, BatchSettings, ItemResult, Progress};
use fiefdom::{Store, Untyped};
use serde_json::Value;

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

async fn open(root: &Path) -> TestResult<Store<Untyped>> {
    Ok(Store::open(root, Untyped).await?)
}

async fn numbers(store: &Store<Untyped>, count: u64) -> TestResult<Batch<u64>> {
    Ok(Batch::open(store, id("b"), 0..count, BatchSettings::default()).await?)
}

/// Waits until no item is in hands that have let it go.
async fn given_back<T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static>(
    batch: &Batch<T>,
) -> TestResult {
    let deadline = Instant::now() + PATIENCE;
    while batch.progress().await?.current > 0 {
        assert!(Instant::now() < deadline, "an item is not given back");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// The record of a batch, as it is on disk.
async fn record(store: &Store<Untyped>, batch: &str) -> TestResult<Value> {
    store.flush().await?;
    Ok(serde_json::from_slice(&std::fs::read(store.view().record_path(&id(batch)))?)?)
}

async fn all_results<T>(batch: &Batch<T>) -> TestResult<Vec<ItemResult>> {
    let (mut all, mut next) = (Vec::new(), Some(1));
    while let Some(from) = next {
        let page = batch.results(from).await?;
        all.extend(page.results);
        next = page.next;
    }
    Ok(all)
}

fn sums(progress: &Progress) -> bool {
    let parts = [progress.completed, progress.failed, progress.current, progress.interrupted, progress.pending];
    parts.iter().sum::<u64>() == progress.total
}
