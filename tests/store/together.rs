//! Changes that wait for one instance at the same time go to the disk in one piece, and are still
//! changes of their own: each has its check, its revision, its events, its answer.

use fiefdom::{Durability, Error, NewInstance, Options, Status, Store, Transaction, Untyped};
use futures::StreamExt as _;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::common::{Counter, PATIENCE, TestResult, id, options};

/// The lines of commits in the log, and how many commits are in them.
fn in_the_log(root: &std::path::Path) -> TestResult<(usize, u64)> {
    let (mut lines, mut commits) = (0, 0);
    for writer in std::fs::read_dir(root.join(".fiefdom/writers"))? {
        let log = std::fs::read_to_string(writer?.path().join("journal-000001.log"))?;
        for line in log.lines().filter(|line| line.contains("{\"commit\":")) {
            let commit: Value = serde_json::from_str(&line[9..])?;
            let revision = |name: &str| commit["commit"][name].as_u64();
            let last = revision("revision").ok_or("a revision")?;
            lines += 1;
            commits += last - revision("first").unwrap_or(last) + 1;
        }
    }
    Ok((lines, commits))
}

#[tokio::test]
async fn changes_that_wait_together_are_one_line_and_each_has_its_answer() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    let mut changes = store.changes();
    // In a runtime of one thread all of them are asked before the actor sees the first.
    let asked = (1..=100).map(|n| {
        it.commit(move |tx| match n % 10 {
            3 => panic!("on purpose"),
            5 => Err(Error::rejected("no")),
            7 => {
                tx.state_mut().value += 1000;
                tx.event("never", &f64::NAN).map(|_| 0)
            }
            _ => {
                tx.state_mut().value += 1;
                tx.event("counted", &n)
            }
        })
    });
    let (mut revision, mut seq) = (0, 0);
    for (n, outcome) in (1..=100).zip(join_all(asked).await) {
        match (n % 10, outcome) {
            (3, Err(Error::Panicked { .. }))
            | (5, Err(Error::Rejected { .. }))
            | (7, Err(Error::Unserializable { .. })) => {}
            (_, Ok(made)) => {
                (revision, seq) = (revision + 1, seq + 1);
                assert_eq!((made.revision, made.last_event_seq, made.value), (revision, seq, seq), "{n}");
                let change = tokio::time::timeout(PATIENCE, changes.next()).await?.ok_or("a change")??;
                assert_eq!((change.revision, change.last_event_seq), (revision, seq), "{n}");
            }
            (_, other) => panic!("{n}: {other:?}"),
        }
    }
    assert_eq!((revision, it.state().await?.value), (70, 70));
    let (lines, commits) = in_the_log(root.path())?;
    // The creation is a line of its own.
    assert_eq!((lines, commits), (2, 71));
    store.shutdown().await?;

    let store = Store::open(root.path(), Counter).await?;
    let it = store.get(&id("a")).await?;
    assert_eq!((it.state().await?.value, it.record().await?.revision), (70, 70));
    let numbers: Vec<u64> = it.events(1).take(70).map(|event| event.expect("an event").seq).collect().await;
    assert!(numbers.into_iter().eq(1..=70));
    store.shutdown().await?;
    Ok(())
}

/// What is woken last runs first, so the actor would have its turn before the second caller asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn callers_that_are_answered_together_ask_again_together() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let it = it.instance().clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    it.update(|state| state.value += 1).await?;
                }
                Ok::<_, Error>(())
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    let (lines, commits) = in_the_log(root.path())?;
    assert_eq!((commits, it.state().await?.value), (401, 400));
    assert!(lines as u64 * 2 <= commits, "{lines} lines for {commits} commits");
    Ok(store.shutdown().await?)
}

/// A status, a tag and a state in one line: the whole record is in it, as the last of them leaves it.
#[tokio::test]
async fn what_different_changes_touch_is_all_there_after_a_crash() -> TestResult {
    type Change = fn(&mut Transaction<Value>) -> fiefdom::Result<()>;
    let state: Change = |tx| {
        tx.state_mut()["n"] = json!(tx.state()["n"].as_u64().unwrap_or(0) + 1);
        Ok(())
    };
    let status: Change = |tx| tx.set_status(Status::Paused, Some("for a while"));
    let event: Change = |tx| tx.event("seen", &()).map(drop);
    let tag: Change = |tx| tx.tag("k", "v");
    let orders = [[state, status, event, tag], [event, state, tag, status], [tag, event, status, state]];
    for (nth, order) in orders.into_iter().enumerate() {
        for durability in [Durability::Disk, Durability::Os] {
            let root = tempfile::tempdir()?;
            let mut options = Options::default();
            options.durability = durability;
            options.materialise_within = std::time::Duration::from_secs(3600);
            let store = Store::open_with(root.path(), Untyped, options).await?;
            let it = store.create(NewInstance::with_id(id("a")).input(json!({ "n": 0 }))).await?;
            it.transition(Status::Running, None).await?;
            for outcome in join_all(order.into_iter().chain([state, event]).map(|change| it.commit(change))).await {
                outcome?;
            }
            // As a process leaves it that is killed.
            let copy = tempfile::tempdir()?;
            crate::common::copy_tree(root.path(), copy.path())?;
            let again = Store::open(copy.path(), Untyped).await?;
            let record = again.get(&id("a")).await?.record().await?;
            assert_eq!(record.status_reason.as_deref(), Some("for a while"), "{nth} {durability:?}");
            assert_eq!((record.state["n"].as_u64(), record.last_event_seq), (Some(2), 2), "{nth} {durability:?}");
            assert_eq!((record.tags.get("k").map(String::as_str), record.revision), (Some("v"), 7), "{nth}");
            again.shutdown().await?;
            store.shutdown().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn many_large_events_are_several_lines() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open_with(root.path(), Counter, options(|o| o.durability = Durability::Os)).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    let large = "x".repeat(20 << 10);
    let appended = join_all((0..40).map(|_| it.append("large", large.clone()))).await;
    assert!(appended.into_iter().map(|seq| seq.expect("appended")).eq(1..=40));
    let (lines, commits) = in_the_log(root.path())?;
    assert_eq!(commits, 41);
    assert!((4..=8).contains(&lines), "256 KiB end a line: {lines}");
    store.shutdown().await?;
    Ok(())
}
