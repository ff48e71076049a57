//! Processes with four workers each on one batch, killed again and again.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use fiefdom::jobs::{Batch, ItemOutcome, ItemResult};
use serde_json::json;

use crate::common::{Random, TestResult, another_process, id, shown};
use crate::{all_results, from_env, numbers, open};

/// Kills; `FIEFDOM_TEST_BATCH_KILLS` says otherwise.
const KILLS: u64 = 12;

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
    let child = another_process("killed::be_four_workers")?
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
    let mut random = Random::seeded()?;
    let (mut said, mut lives) = (Said::default(), 0);
    while !said.done {
        let mut child = start_workers(root.path(), items)?;
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        // Killed after so many lines: the moment does not depend on how fast this machine is.
        let mut left = if lives < kills { Some(random.below(160)) } else { None };
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
    // A process may be far ahead of what was read of it when it is killed.
    assert!(lives > 2, "it was done after {lives} lives");
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
