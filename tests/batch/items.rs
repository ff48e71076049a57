//! Items: taken in their order, marked once, given back by who does not mark them.

use fiefdom::jobs::{Batch, BatchSettings, ItemOutcome};
use fiefdom::{BoxError, Error};
use serde_json::{Value, json};

use crate::common::{TestResult, id};
use crate::{all_results, given_back, numbers, open, record, sums};

/// `(index, attempt, what became of it)`, in the order of the events.
async fn story<T>(batch: &Batch<T>) -> TestResult<Vec<(u64, u32, &'static str)>> {
    let word = |outcome: &ItemOutcome| match outcome {
        ItemOutcome::Completed(_) => "completed",
        ItemOutcome::Failed(_) => "failed",
        _ => "interrupted",
    };
    Ok(all_results(batch).await?.iter().map(|r| (r.index, r.attempt, word(&r.outcome))).collect())
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
