//! A large batch: what it costs does not grow with what was done.

use std::process::Stdio;
use std::time::{Duration, Instant};

use fiefdom::jobs::{Batch, BatchSettings};
use fiefdom::{BoxError, Durability, Store, Untyped};
use serde_json::{Value, json};

use crate::common::{TestResult, another_process, id, options, shown};
use crate::from_env;

/// Items of the large batch; `FIEFDOM_TEST_BATCH_ITEMS` says otherwise.
const ITEMS: u64 = 10_000;

/// How many bytes of memory this process has.
fn resident() -> TestResult<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse::<u64>()? << 10)
}

/// Takes and marks so many items; returns the time of each.
async fn mark_some(batch: &Batch<Value>, count: u64) -> TestResult<Duration> {
    let begun = Instant::now();
    for _ in 0..count {
        let claim = batch.next().await?.ok_or("an item")?;
        batch.mark_completed(&claim, ()).await?;
    }
    Ok(begun.elapsed() / u32::try_from(count)?)
}

/// In a process of its own, whose memory is that of this batch.
#[test]
fn the_record_of_a_large_batch_is_as_small_at_its_end_as_at_its_beginning() -> TestResult {
    let ran = another_process("large::work_on_a_large_batch")?.stdout(Stdio::null()).status()?;
    assert!(ran.success(), "{ran}: it says above why");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test"]
async fn work_on_a_large_batch() -> TestResult {
    let total = from_env("FIEFDOM_TEST_BATCH_ITEMS", ITEMS);
    let root = tempfile::tempdir()?;
    let store = Store::open_with(root.path(), Untyped, options(|o| o.durability = Durability::Os)).await?;
    let before = resident()?;
    let items = (0..total).map(|n| json!({ "number": n, "text": "an item of some length, as items are" }));
    let begun = Instant::now();
    let batch = Batch::open(&store, id("b"), items, BatchSettings::default()).await?;
    let created = begun.elapsed();
    let first = mark_some(&batch, 1_000).await?;
    let size = || std::fs::metadata(root.path().join("instances/b/instance.json")).map(|file| file.len());
    store.flush().await?;
    let small = size()?;
    let workers = (0..32).map(|_| {
        let batch = batch.clone();
        tokio::spawn(async move {
            while batch.progress().await?.pending > 1_100 {
                let Some(claim) = batch.next().await? else { break };
                batch.mark_completed(&claim, ()).await?;
            }
            Ok::<_, BoxError>(())
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await??;
    }
    drop(batch);
    store.shutdown().await?;
    let store = Store::open_with(root.path(), Untyped, options(|o| o.durability = Durability::Os)).await?;
    let begun = Instant::now();
    let batch = Batch::<Value>::load(&store, &id("b")).await?;
    let next = batch.next().await?.ok_or("an item")?;
    let resumed = begun.elapsed();
    batch.mark_completed(&next, ()).await?;
    let left = batch.progress().await?.pending;
    assert!((1_000..2_000).contains(&left), "{left}");
    mark_some(&batch, left - 1_000).await?;
    let last = mark_some(&batch, 1_000).await?;
    assert!(batch.is_done().await?);
    store.flush().await?;
    let large = size()?;
    assert!(large < small + 200, "the record grew from {small} to {large} bytes");
    let grown = resident()?.saturating_sub(before) >> 20;
    assert!(grown < 160, "{grown} MiB more than before");
    shown!(
        "{total} items: made in {created:?}; next and mark {first:?} at the first 1000, {last:?} at the last 1000 \
         (no flush); taken up again in {resumed:?}; record {small} and {large} bytes; {grown} MiB more memory"
    );
    store.shutdown().await?;
    Ok(())
}
