//! Batches: every item is worked on until it is marked, whoever dies in between, and the last of
//! many costs what the first did.
#![allow(missing_docs)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{TestResult, id, options, shown};
use fiefdom::jobs::{Batch, BatchItem, BatchSettings, ItemOutcome, ItemResult, Progress};
use fiefdom::{BoxError, Durability, Error, NewInstance, Store, Untyped};
use serde_json::{Value, json};

/// Items of the large batch; `FIEFDOM_TEST_BATCH_ITEMS` says otherwise.
const ITEMS: u64 = 10_000;

/// Kills; `FIEFDOM_TEST_BATCH_KILLS` says otherwise.
const KILLS: u64 = 12;

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
    let deadline = Instant::now() + Duration::from_secs(10);
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

/// `(index, attempt, what became of it)`, in the order of the events.
async fn story<T>(batch: &Batch<T>) -> TestResult<Vec<(u64, u32, &'static str)>> {
    let word = |outcome: &ItemOutcome| match outcome {
        ItemOutcome::Completed(_) => "completed",
        ItemOutcome::Failed(_) => "failed",
        _ => "interrupted",
    };
    Ok(all_results(batch).await?.iter().map(|r| (r.index, r.attempt, word(&r.outcome))).collect())
}

fn sums(progress: &Progress) -> bool {
    let parts = [progress.completed, progress.failed, progress.current, progress.interrupted, progress.pending];
    parts.iter().sum::<u64>() == progress.total
}

#[tokio::test]
async fn items_are_taken_in_their_order_and_marked_once() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = open(root.path()).await?;
    let batch = Batch::create(&store, ["a", "b"].map(String::from)).await?;
    let (suffix, date) = (batch.id().as_str(), "batch-20261120-123456-");
    assert!(suffix.starts_with("batch-2") && suffix.len() == date.len() + 8, "{suffix}");
    assert_eq!(record(&store, batch.id().as_str()).await?["status"], "pending");

    let (a, b) = (batch.next().await?.ok_or("a")?, batch.next().await?.ok_or("b")?);
    assert_eq!((a.item().as_str(), a.index(), a.attempt()), ("a", 0, 1));
    assert_eq!((b.item().as_str(), b.index(), b.attempt()), ("b", 1, 1));
    assert!(batch.next().await?.is_none() && !batch.is_done().await?);
    assert_eq!(record(&store, batch.id().as_str()).await?["status"], "running");
    let progress = batch.progress().await?;
    assert!(progress.current == 2 && progress.pending == 0 && sums(&progress), "{progress:?}");

    batch.mark_completed(&a, json!({ "green": true })).await?;
    batch.mark_failed(&b, "red").await?;
    assert!(batch.is_done().await? && batch.next().await?.is_none());
    let record = record(&store, batch.id().as_str()).await?;
    assert_eq!((&record["status"], &record["status_reason"]), (&json!("failed"), &json!("1 failed")));
    let results = all_results(&batch).await?;
    assert_eq!(results[0].outcome, ItemOutcome::Completed(json!({ "green": true })));
    assert_eq!(results[1].outcome, ItemOutcome::Failed("red".into()));
    assert_eq!((batch.item(&results[1]).await?.as_str(), results[1].index, results[1].attempt), ("b", 1, 1));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_mark_that_is_not_due_is_refused_and_changes_nothing() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = open(root.path()).await?;
    let (one, other) = (numbers(&store, 3).await?, Batch::create(&store, 0..3_u64).await?);
    let claim = one.next().await?.ok_or("an item")?;
    let refused = |marked: fiefdom::Result<()>, says: &str| match marked {
        Err(Error::InvalidInput { reason, .. }) => assert!(reason.contains(says), "{reason}"),
        other => panic!("{other:?}"),
    };
    let foreign = other.next().await?.ok_or("an item")?;
    refused(one.mark_completed(&foreign, ()).await, "another batch");
    // A result that is too large leaves the item to be marked.
    let large = one.mark_completed(&claim, "x".repeat(300 << 10)).await;
    assert!(matches!(large, Err(Error::TooLarge { what: "event", .. })), "{large:?}");
    let not_json = one.mark_completed(&claim, f64::NAN).await;
    assert!(matches!(not_json, Err(Error::Unserializable { .. })), "{not_json:?}");
    let before = one.progress().await?;
    assert_eq!((before.current, before.completed), (1, 0));

    one.mark_completed(&claim, 1).await?;
    let before = record(&store, "b").await?;
    refused(one.mark_completed(&claim, 2).await, "marked already");
    refused(one.mark_failed(&claim, "no").await, "marked already");
    // A handle of its own on the same batch is the same batch.
    let again = Batch::<u64>::load(&store, &id("b")).await?;
    refused(again.mark_failed(&claim, "no").await, "marked already");
    assert_eq!(record(&store, "b").await?, before);
    assert_eq!(story(&one).await?, [(0, 1, "completed")]);
    store.shutdown().await?;

    let store = open(root.path()).await?;
    let later = Batch::<u64>::load(&store, &id("b")).await?;
    refused(later.mark_completed(&claim, 3).await, "before this store was opened");
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_worker_that_panics_or_is_aborted_gives_its_item_back() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = open(root.path()).await?;
    let batch = numbers(&store, 3).await?;
    let worker = |batch: Batch<u64>| async move {
        let _claim = batch.next().await.expect("a batch").expect("an item");
        std::future::pending::<()>().await;
    };
    let panics = tokio::spawn({
        let batch = batch.clone();
        async move {
            let _claim = batch.next().await.expect("a batch").expect("an item");
            panic!("as it was told");
        }
    });
    assert!(panics.await.is_err_and(|e| e.is_panic()));
    let progress = batch.progress().await?;
    assert!(progress.interrupted == 1 && progress.pending == 2 && sums(&progress), "{progress:?}");

    let aborted = tokio::spawn(worker(batch.clone()));
    while batch.progress().await?.current == 0 {
        tokio::task::yield_now().await;
    }
    aborted.abort();
    assert!(aborted.await.is_err_and(|e| e.is_cancelled()));
    // It may have been aborted just before it got the item, which then comes back a moment later.
    given_back(&batch).await?;

    let first = batch.next().await?.ok_or("an item")?;
    assert_eq!((first.index(), first.attempt(), *first.item()), (0, 3, 0), "the one that came back, before the others");
    let second = batch.next().await?.ok_or("an item")?;
    assert_eq!((second.index(), second.attempt()), (1, 1), "no other was touched");
    batch.mark_completed(&first, ()).await?;
    assert_eq!(story(&batch).await?, [(0, 1, "interrupted"), (0, 2, "interrupted"), (0, 3, "completed")]);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_call_that_is_dropped_takes_no_item_away() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = open(root.path()).await?;
    let batch = numbers(&store, 50).await?;
    for polls in 0..40 {
        let mut call = Box::pin(batch.next());
        for _ in 0..polls {
            if futures::poll!(&mut call).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let mut seen = Vec::new();
    loop {
        while let Some(claim) = batch.next().await? {
            seen.push(claim.index());
            batch.mark_completed(&claim, ()).await?;
        }
        if batch.is_done().await? {
            break;
        }
        given_back(&batch).await?;
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
    assert!(batch.is_done().await?);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_get_different_items() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = open(root.path()).await?;
    let batch = numbers(&store, 2_000).await?;
    let workers = (0..100).map(|nth| {
        let (batch, store) = (batch.clone(), store.clone());
        tokio::spawn(async move {
            // Every other worker has a handle of its own.
            let batch = if nth % 2 == 0 { batch } else { Batch::load(&store, &id("b")).await? };
            let mut mine = Vec::new();
            while let Some(claim) = batch.next().await? {
                assert_eq!(claim.attempt(), 1);
                batch.mark_completed(&claim, claim.item() * 2).await?;
                mine.push(*claim.item());
            }
            Ok::<_, BoxError>(mine)
        })
    });
    let mut all = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        all.extend(worker.await??);
    }
    all.sort_unstable();
    assert_eq!(all, (0..2_000).collect::<Vec<_>>());
    let progress = batch.progress().await?;
    assert_eq!((progress.completed, batch.is_done().await?), (2_000, true));
    assert_eq!(record(&store, "b").await?["status"], "succeeded");
    for result in all_results(&batch).await? {
        assert_eq!(result.outcome, ItemOutcome::Completed(json!(result.index * 2)));
    }
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn what_failed_is_taken_again_when_it_is_asked_for() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = open(root.path()).await?;
    let batch = numbers(&store, 10).await?;
    while let Some(claim) = batch.next().await? {
        match claim.item() % 3 {
            0 => batch.mark_failed(&claim, "three divides it").await?,
            _ => batch.mark_completed(&claim, ()).await?,
        }
    }
    assert!(batch.is_done().await?);
    assert_eq!(batch.retry_failed().await?, 4);
    assert_eq!(batch.retry_failed().await?, 4, "asking twice queues nothing twice");
    let first = batch.next().await?.ok_or("an item")?;
    assert_eq!((*first.item(), first.attempt()), (0, 2));
    // It fails once more, while others still wait: it is not among them.
    batch.mark_failed(&first, "still").await?;
    let second = batch.next().await?.ok_or("an item")?;
    assert_eq!((*second.item(), second.attempt()), (3, 2));
    let progress = batch.progress().await?;
    assert!((progress.failed, progress.retrying, progress.current) == (3, 2, 1) && sums(&progress), "{progress:?}");
    drop((first, second, batch));
    store.shutdown().await?;

    let store = open(root.path()).await?;
    let batch = Batch::<u64>::load(&store, &id("b")).await?;
    let mut order = Vec::new();
    while let Some(claim) = batch.next().await? {
        order.push((*claim.item(), claim.attempt()));
        batch.mark_completed(&claim, ()).await?;
    }
    assert_eq!(order, [(3, 3), (6, 2), (9, 2)]);
    assert_eq!((batch.retry_failed().await?, batch.progress().await?.completed), (1, 9));
    let last = batch.next().await?.ok_or("an item")?;
    assert_eq!((*last.item(), last.attempt()), (0, 3));
    batch.mark_completed(&last, ()).await?;
    assert_eq!((batch.retry_failed().await?, batch.is_done().await?), (0, true));
    let record = record(&store, "b").await?;
    assert_eq!((&record["status"], &record["status_reason"]), (&json!("succeeded"), &Value::Null));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn usage_is_counted_over_restarts() -> TestResult {
    let root = tempfile::tempdir()?;
    let mut settings = BatchSettings::default();
    for (name, budget, before) in [("by-default", None, 149_999), ("small", Some(10), 9)] {
        settings.context_budget = budget;
        let store = open(root.path()).await?;
        let batch = Batch::open(&store, id(name), [1, 2], settings.clone()).await?;
        batch.record_usage(before - 4).await?;
        batch.record_usage(4).await?;
        assert!(!batch.should_clear_context().await?, "{name}");
        drop(batch);
        store.shutdown().await?;

        let store = open(root.path()).await?;
        let batch = Batch::<i32>::load(&store, &id(name)).await?;
        assert_eq!(batch.record_usage(1).await?.context_tokens, before + 1);
        assert!(batch.should_clear_context().await?, "{name}");
        batch.record_context_clear().await?;
        assert!(!batch.should_clear_context().await?, "{name}");
        let usage = batch.usage().await?;
        assert_eq!((usage.tokens, usage.context_tokens, usage.context_clears), (before + 1, 0, 1));
        // Counted to the end of the numbers, and not beyond.
        assert_eq!(batch.record_usage(u64::MAX).await?.tokens, u64::MAX);
        store.shutdown().await?;
    }
    Ok(())
}

#[tokio::test]
async fn bad_items_leave_nothing_behind() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = open(root.path()).await?;
    store.create(NewInstance::with_id(id("mine"))).await?;
    let job = |name: &str| BatchItem::new(id(name), Value::Null);
    let mut tagged = job("x");
    tagged.tags.insert("batch".into(), "y".into());
    let cases = [
        (vec![], "no items"),
        (vec![job("a"), job("a")], "two of its jobs have the id \"a\""),
        (vec![job("a"), job("b")], "has the id \"b\" of the batch"),
        (vec![job("a"), tagged], "which names the batch"),
        (vec![job("a"), job("mine")], "instance \"mine\" exists already"),
    ];
    for (items, says) in cases {
        let made = Batch::create_with(&store, id("b"), items, BatchSettings::default()).await;
        let error = made.expect_err(says).to_string();
        assert!(error.contains(says), "{error}");
        assert!(!root.path().join("instances/b").exists(), "{says}");
    }
    let unfit = Batch::create_with(&store, id("b"), [f64::NAN, 1.0].map(Unfit), BatchSettings::default()).await;
    assert!(matches!(unfit, Err(Error::Unserializable { .. })), "{unfit:?}");
    let many = Batch::create_with(&store, id("b"), 0..1_000_001_u32, BatchSettings::default()).await;
    assert!(matches!(many, Err(Error::TooLarge { bytes: 1_000_001, limit: 1_000_000, .. })), "{many:?}");
    assert!(!root.path().join("instances/b").exists());

    let unknown = Batch::<u64>::load(&store, &id("nobody")).await;
    assert!(matches!(unknown, Err(Error::NotFound { .. })), "{unknown:?}");
    let batch = Batch::open(&store, id("b"), [1_u64, 2], BatchSettings::default()).await?;
    let jobs = Batch::<BatchItem>::load(&store, &id("b")).await;
    assert!(matches!(&jobs, Err(Error::InvalidInput { reason, .. }) if reason.contains("no jobs")), "{jobs:?}");
    for other in [vec![1_u64], vec![1, 2, 3], vec![2, 1]] {
        let opened = Batch::open(&store, id("b"), other, BatchSettings::default()).await;
        assert!(matches!(&opened, Err(Error::InvalidInput { .. })), "{opened:?}");
    }
    assert_eq!(batch.total(), 2);
    store.shutdown().await?;
    Ok(())
}

/// A number that refuses to be written when it is none.
#[derive(Debug, serde::Deserialize)]
struct Unfit(f64);

impl serde::Serialize for Unfit {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_nan() {
            return Err(serde::ser::Error::custom("not a number"));
        }
        serializer.serialize_f64(self.0)
    }
}

#[tokio::test]
async fn a_creation_that_was_cut_short_is_completed() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = open(root.path()).await?;
    // What a process leaves that dies before its items are all written.
    let cut_short = NewInstance::with_id(id("b")).kind("batch").input(json!({ "settings": {} }));
    store.create(cut_short).await?;
    store.shutdown().await?;
    let store = open(root.path()).await?;
    let loaded = Batch::<u64>::load(&store, &id("b")).await;
    assert!(matches!(&loaded, Err(Error::InvalidInput { reason, .. }) if reason.contains("cut short")), "{loaded:?}");
    let batch = numbers(&store, 2).await?;
    assert_eq!(batch.next().await?.map(|claim| *claim.item()), Some(0));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn items_that_were_cut_off_are_damage() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = open(root.path()).await?;
    drop(numbers(&store, 100).await?);
    let path = root.path().join("instances/b/workspace/items.jsonl");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(&path, &text[..text.len() - 3])?;
    let loaded = Batch::<u64>::load(&store, &id("b")).await;
    assert!(matches!(loaded, Err(Error::Corrupt { .. })), "{loaded:?}");
    std::fs::remove_file(&path)?;
    let loaded = Batch::<u64>::load(&store, &id("b")).await;
    assert!(matches!(loaded, Err(Error::Corrupt { .. })), "{loaded:?}");
    store.shutdown().await?;
    Ok(())
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_of_a_large_batch_is_as_small_at_its_end_as_at_its_beginning() -> TestResult {
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

/// The process that is killed: four workers on one batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test"]
async fn be_four_workers() -> TestResult {
    let store = open(Path::new(&std::env::var("FIEFDOM_TEST_ROOT")?)).await?;
    let batch = numbers(&store, from_env("FIEFDOM_TEST_ITEMS", 0)).await?;
    // Lines of the test harness end up on the same line.
    println!("\nloaded");
    let workers = (0..4).map(|_| tokio::spawn(work(batch.clone())));
    for worker in workers.collect::<Vec<_>>() {
        worker.await??;
    }
    println!("\ndone {}", batch.is_done().await?);
    store.shutdown().await?;
    Ok(())
}

async fn work(batch: Batch<u64>) -> TestResult {
    while let Some(claim) = batch.next().await? {
        println!("took {} {}", claim.index(), claim.attempt());
        if claim.item() % 7 == 3 && claim.attempt() == 1 {
            batch.mark_failed(&claim, "seven").await?;
            println!("failed {}", claim.index());
            continue;
        }
        batch.mark_completed(&claim, *claim.item()).await?;
        println!("completed {}", claim.index());
    }
    Ok(())
}

fn start_workers(root: &Path, items: u64) -> TestResult<Child> {
    let child = Command::new(std::env::current_exe()?)
        .args(["be_four_workers", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env("FIEFDOM_TEST_ROOT", root)
        .env("FIEFDOM_TEST_ITEMS", items.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(child)
}

/// What the killed processes said, over all their lives.
#[derive(Default)]
struct Said {
    completed: BTreeMap<u64, u32>,
    failed: u64,
    /// The highest attempt of each item.
    attempts: HashMap<u64, u32>,
    done: bool,
}

impl Said {
    fn note(&mut self, line: &str) -> TestResult {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["took", index, attempt] => {
                let (index, attempt) = (index.parse()?, attempt.parse()?);
                let before = self.attempts.insert(index, attempt).unwrap_or(0);
                assert!(attempt > before, "item {index}: attempt {attempt} after {before}");
                assert!(!self.completed.contains_key(&index), "item {index} is taken again, and was completed");
            }
            ["completed", index] => *self.completed.entry(index.parse()?).or_default() += 1,
            ["failed", _] => self.failed += 1,
            ["done", "true"] => self.done = true,
            // Other lines are of the test harness.
            _ => {}
        }
        Ok(())
    }
}

#[test]
fn a_kill_at_any_moment_loses_no_item_and_marks_none_twice() -> TestResult {
    let kills = from_env("FIEFDOM_TEST_BATCH_KILLS", KILLS);
    let items = kills * 100;
    let root = tempfile::tempdir()?;
    let mut random = u64::from(std::process::id()) | 1;
    let (mut said, mut lives) = (Said::default(), 0);
    while !said.done {
        let mut child = start_workers(root.path(), items)?;
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Killed after so many lines: the moment does not depend on how fast this machine is.
        let mut left = if lives < kills { Some((random >> 33) % 160) } else { None };
        while let Some(line) = output.next().transpose()? {
            said.note(&line)?;
            left = left.map(|left| left.saturating_sub(1));
            if left == Some(0) {
                child.kill()?;
            }
        }
        child.wait()?;
        lives += 1;
    }
    assert!(lives > kills / 2, "it was done after {lives} lives");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(check_after_kills(root.path(), items, &said))?;
    shown!("{lives} lives of four workers on {items} items, each with one mark that counts");
    Ok(())
}

async fn check_after_kills(root: &Path, items: u64, said: &Said) -> TestResult {
    let store = open(root).await?;
    let batch = Batch::<u64>::load(&store, &id("b")).await?;
    let results = all_results(&batch).await?;
    let mut by_item: BTreeMap<u64, Vec<&ItemResult>> = BTreeMap::new();
    for result in &results {
        by_item.entry(result.index).or_default().push(result);
    }
    assert_eq!(by_item.keys().copied().collect::<Vec<_>>(), (0..items).collect::<Vec<_>>(), "an item is lost");
    let mut failed = 0;
    for (index, results) in by_item {
        let (last, before) = results.split_last().ok_or("a result")?;
        assert!(before.iter().all(|r| r.outcome == ItemOutcome::Interrupted), "item {index}: {results:?}");
        let attempts: Vec<u32> = results.iter().map(|r| r.attempt).collect();
        assert_eq!(attempts, (1..=u32::try_from(attempts.len())?).collect::<Vec<_>>(), "item {index}");
        match &last.outcome {
            ItemOutcome::Completed(value) => assert_eq!(value, &json!(index)),
            ItemOutcome::Failed(_) => failed += 1,
            _ => panic!("item {index} has no mark: {results:?}"),
        }
    }
    assert!(failed >= said.failed, "a failure that was acknowledged is lost");
    let progress = batch.progress().await?;
    assert_eq!((progress.completed + progress.failed, progress.failed), (items, failed));
    assert!(said.completed.values().all(|count| *count == 1), "{:?}", said.completed);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn one_process_has_a_batch_at_a_time() -> TestResult {
    let root = tempfile::tempdir()?;
    let (store, second) = (open(root.path()).await?, open(root.path()).await?);
    let batch = numbers(&store, 2).await?;
    let locked = Batch::<u64>::load(&second, &id("b")).await;
    assert!(matches!(locked, Err(Error::Locked { .. })), "{locked:?}");
    // As long as one of its items is with somebody.
    let claim = batch.next().await?.ok_or("an item")?;
    drop(batch);
    let locked = Batch::<u64>::load(&second, &id("b")).await;
    assert!(matches!(locked, Err(Error::Locked { .. })), "{locked:?}");
    drop(claim);
    store.shutdown().await?;
    let batch = Batch::<u64>::load(&second, &id("b")).await?;
    assert_eq!(batch.progress().await?.interrupted, 1);
    assert_eq!(record(&second, "b").await?["status"], "interrupted");
    second.shutdown().await?;
    Ok(())
}
