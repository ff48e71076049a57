//! One process, one store: what a user does with instances. What is refused, and the files, are in
//! the modules below.
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod files;
mod refusals;
mod together;

use common::{Count, Counter, TestResult, id};
use fiefdom::{Error, NewInstance, Status, Store, SubDir, Untyped};
use serde_json::{Value, json};

#[tokio::test]
async fn what_is_committed_is_in_a_plain_file_and_comes_back() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let session = store.create(NewInstance::with_id(id("a")).name("größe").tag("k", "v")).await?;
    session.update(|s| s.value = 7).await?;
    assert_eq!(session.append("thing.happened", json!({ "n": 1 })).await?, 1);
    store.shutdown().await?;

    let text = std::fs::read_to_string(root.path().join("instances/a/instance.json"))?;
    let json: Value = serde_json::from_str(&text)?;
    assert_eq!(json["state"]["value"], 7);
    assert_eq!((json["revision"].as_u64(), json["last_event_seq"].as_u64()), (Some(2), Some(1)));
    assert!(text.contains("größe") && text.contains("\n  \"state\": {\n"), "{text}");
    let events = std::fs::read_to_string(root.path().join("instances/a/events/events.jsonl"))?;
    assert!(events.starts_with("{\"seq\":1,") && events.ends_with("}\n"), "{events}");
    assert_eq!(std::fs::read_dir(root.path().join(".fiefdom/writers"))?.count(), 0, "the log is empty at rest");

    let store = Store::open(root.path(), Counter).await?;
    let again = store.get(&id("a")).await?;
    assert_eq!(again.read(|s| s.value).await?, 7);
    assert_eq!(again.commit(|tx| tx.event("x", &())).await?.last_event_seq, 2);
    assert_eq!(again.record().await?.epoch, 2);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn creating_never_overwrites() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let first = store.create(NewInstance::with_id(id("a"))).await?;
    first.update(|s| s.value = 1).await?;
    assert!(matches!(store.create(NewInstance::with_id(id("a"))).await, Err(Error::AlreadyExists { .. })));
    store.shutdown().await?;
    let store = Store::open(root.path(), Counter).await?;
    assert!(matches!(store.create(NewInstance::with_id(id("a"))).await, Err(Error::AlreadyExists { .. })));
    assert_eq!(store.get(&id("a")).await?.read(|s| s.value).await?, 1);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn of_many_simultaneous_creations_of_one_id_one_wins() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let all = futures::future::join_all((0..100).map(|_| store.create(NewInstance::with_id(id("one"))))).await;
    assert_eq!(all.iter().filter(|r| r.is_ok()).count(), 1);
    assert!(all.iter().filter_map(|r| r.as_ref().err()).all(|e| matches!(e, Error::AlreadyExists { .. })));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_first_users_one_makes_the_instance_and_all_get_it() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let users = (0..50).map(|_| async {
        let it = store.get_or_create(NewInstance::with_id(id("one"))).await?;
        it.update(|s| s.value += 1).await
    });
    futures::future::try_join_all(users).await?;
    assert_eq!(store.get(&id("one")).await?.state().await?.value, 50);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn two_instances_never_share_a_nested_value_of_their_initial_state() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let a = store.create(NewInstance::with_id(id("a"))).await?;
    let b = store.create(NewInstance::with_id(id("b"))).await?;
    a.update(|s| s.nested[0].push(2)).await?;
    assert_eq!(b.state().await?, Count { value: 0, nested: vec![vec![1]] });
    assert_eq!(a.state().await?.nested, vec![vec![1, 2]]);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_concurrent_updates_from_fifty_tasks_are_all_counted() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let counter = store.create(NewInstance::new()).await?;
    let revisions = hammer(&counter, 50, 20).await?;
    assert_eq!(revisions, (1..=1000).collect::<Vec<_>>());
    assert_eq!(counter.state().await?.value, 1000);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_counters_at_once_are_each_counted() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let counter = store.create(NewInstance::with_id(id(&format!("c{n}")))).await?;
                let revisions = hammer(&counter, 50, 20).await?;
                assert_eq!(revisions, (1..=1000).collect::<Vec<_>>());
                assert_eq!(counter.state().await?.value, 1000);
                TestResult::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    store.shutdown().await?;
    Ok(())
}

/// `tasks` tasks make `each` updates one after the other; returns all revisions, sorted.
async fn hammer(counter: &fiefdom::InstanceRef<Counter>, tasks: u64, each: u64) -> TestResult<Vec<u64>> {
    let running: Vec<_> = (0..tasks)
        .map(|_| {
            let counter = counter.clone();
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                for _ in 0..each {
                    let done = counter
                        .commit(|tx| {
                            tx.state_mut().value += 1;
                            Ok(tx.state().value)
                        })
                        .await?;
                    assert_eq!(done.value, done.revision, "each update sees the one before");
                    revisions.push(done.revision);
                }
                TestResult::Ok(revisions)
            })
        })
        .collect();
    let mut revisions = Vec::new();
    for task in running {
        revisions.extend(task.await??);
    }
    revisions.sort_unstable();
    Ok(revisions)
}

#[tokio::test]
async fn the_lifecycle_is_kept_and_its_times_are_set() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let it = store.create(NewInstance::new()).await?;
    it.transition(Status::Running, None).await?;
    let wrong = it.transition(Status::Starting, None).await;
    assert!(matches!(wrong, Err(Error::Transition { from: Status::Running, to: Status::Starting, .. })));
    it.transition(Status::Succeeded, Some("all green")).await?;
    let record = it.record().await?;
    assert!(record.started_at.is_some() && record.ended_at.is_some());
    assert_eq!(record.status_reason.as_deref(), Some("all green"));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn another_kind_is_refused_and_untyped_takes_all() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    store.create(NewInstance::with_id(id("t"))).await?;
    let counters = store.of_kind(Counter).await?;
    counters.create(NewInstance::with_id(id("c"))).await?.update(|s| s.value = 3).await?;
    assert!(matches!(counters.get(&id("t")).await, Err(Error::KindMismatch { .. })));
    // Live as another type in this process.
    let error = store.get(&id("c")).await.expect_err("it is a counter");
    assert!(matches!(error, Error::KindMismatch { .. }), "{error}");
    assert!(error.to_string().contains("in use in this process as another type"), "{error}");
    store.shutdown().await?;
    let store = Store::open(root.path(), Untyped).await?;
    assert_eq!(store.get(&id("c")).await?.read(|s| s["value"].clone()).await?, 3);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_deleted_instance_is_gone_and_its_name_is_free() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let old = store.create(NewInstance::with_id(id("a"))).await?;
    old.update(|s| s.value = 1).await?;
    store.delete(&id("a")).await?;
    assert!(!root.path().join("instances/a").exists());
    assert_eq!(std::fs::read_dir(root.path().join(".fiefdom/trash"))?.count(), 0);
    assert!(matches!(old.update(|s| s.value = 2).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.delete(&id("a")).await, Err(Error::NotFound { .. })));
    let new = store.create(NewInstance::with_id(id("a"))).await?;
    assert_eq!(new.state().await?.value, 0);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn directories_are_made_when_asked_for_and_artifacts_stay_inside() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    for which in [SubDir::Workspace, SubDir::Logs, SubDir::SidecarData, SubDir::Output] {
        assert!(!it.path().join(which.name()).exists());
        assert!(it.dir(which).await?.is_dir());
    }
    std::fs::remove_dir(it.path().join("output"))?;
    let path = it.put_artifact("pr_url.txt", "https://example.org/1").await?;
    assert_eq!(std::fs::read_to_string(path)?, "https://example.org/1");
    for bad in ["", "..", ".hidden", "a/b", "../x", "a\nb"] {
        assert!(matches!(it.put_artifact(bad, "x").await, Err(Error::InvalidInput { .. })), "{bad:?}");
    }
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_file_as_root_and_a_closed_store_are_clear_errors() -> TestResult {
    let root = tempfile::tempdir()?;
    let file = root.path().join("file");
    std::fs::write(&file, "x")?;
    assert!(matches!(Store::open(&*file, Counter).await, Err(Error::Root { .. })));
    assert_eq!(std::fs::read_to_string(&file)?, "x");
    let store = Store::open(root.path().join("s"), Counter).await?;
    let it = store.create(NewInstance::new()).await?;
    store.shutdown().await?;
    assert!(matches!(it.update(|s| s.value = 1).await, Err(Error::Closed)));
    assert!(matches!(store.create(NewInstance::new()).await, Err(Error::Closed)));
    Ok(())
}

#[tokio::test]
async fn an_instance_locked_by_another_store_is_refused_with_its_owner() -> TestResult {
    let root = tempfile::tempdir()?;
    let first = Store::open(root.path(), Counter).await?;
    let second = Store::open(root.path(), Counter).await?;
    let it = first.create(NewInstance::with_id(id("a"))).await?;
    it.update(|s| s.value = 1).await?;
    let error = second.get(&id("a")).await.expect_err("locked");
    assert!(matches!(&error, Error::Locked { owner: Some(owner), .. } if owner.pid == std::process::id()), "{error}");
    first.shutdown().await?;
    assert_eq!(second.get(&id("a")).await?.read(|s| s.value).await?, 1);
    second.shutdown().await?;
    Ok(())
}
