//! One process, one store: what a user does with instances.
#![allow(missing_docs)]

mod common;

use std::time::Duration;

use common::{Count, Counter, TestResult, eventually, id, options};
use fiefdom::{Durability, Error, NewInstance, Record, Status, Store, SubDir, Untyped};
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
async fn a_closure_that_panics_or_refuses_changes_nothing() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let counter = store.create(NewInstance::new()).await?;
    counter.update(|s| s.value = 1).await?;
    let panicked = counter
        .update(|s| {
            s.value = 99;
            panic!("on purpose");
        })
        .await;
    assert!(matches!(&panicked, Err(Error::Panicked { message, .. }) if message == "on purpose"), "{panicked:?}");
    let refused = counter
        .commit(|tx| {
            tx.state_mut().value = 98;
            tx.event("never", &())?;
            Err::<(), _>(Error::rejected("no"))
        })
        .await;
    assert!(matches!(refused, Err(Error::Rejected { .. })));
    let next = counter
        .commit(|tx| {
            tx.state_mut().value += 1;
            Ok(tx.state().value)
        })
        .await?;
    assert_eq!((next.value, next.revision, next.last_event_seq), (2, 2, 0));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_commit_over_a_limit_or_not_json_changes_nothing() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let it = store.create(NewInstance::new()).await?;
    let big = "x".repeat(3 << 20);
    let too_large = it.update(|s| s["big"] = big.into()).await;
    assert!(matches!(too_large, Err(Error::TooLarge { what: "record", .. })), "{too_large:?}");
    let deep = (0..1000).fold(Value::Null, |inner, _| json!([inner]));
    let too_deep = it.update(move |s| s["deep"] = deep).await;
    assert!(matches!(too_deep, Err(Error::Unserializable { .. })), "{too_deep:?}");
    let event = it.append("big", "x".repeat(300 << 10)).await;
    assert!(matches!(event, Err(Error::TooLarge { what: "event", .. })), "{event:?}");
    let nan = it.append("nan", json!([1]).as_array().map(|_| f64::NAN)).await;
    assert!(matches!(&nan, Err(Error::Unserializable { field, .. }) if field == "data"), "{nan:?}");
    let record = it.record().await?;
    assert_eq!((record.revision, &*record.state), (0, &json!({})));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_tag_that_was_refused_is_not_there_also_when_the_closure_goes_on() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let it = store.create(NewInstance::new()).await?;
    let refused = it.commit(|tx| Ok((0..70).filter(|nth| tx.tag(&format!("k{nth}"), "v").is_err()).count())).await?;
    let long = it.commit(|tx| Ok(tx.tag("k0", &"x".repeat(300)).is_err())).await?;
    assert_eq!((refused.value, long.value), (6, true));
    let record = it.record().await?;
    assert_eq!((record.tags.len(), record.tags["k0"].as_str()), (64, "v"));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_state_may_grow_up_to_the_limit_of_a_record_and_no_further() -> TestResult {
    const LIMIT: usize = 4096;
    let root = tempfile::tempdir()?;
    let options = options(|o| (o.record_bytes, o.durability) = (LIMIT, Durability::Os));
    let store = Store::open_with(root.path(), Untyped, options).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    let mut largest = 0;
    // Byte by byte over the length at which a record is measured exactly.
    for length in (0..3000).step_by(500).chain(3000..4200) {
        match it.update(move |state| state["text"] = "x".repeat(length).into()).await {
            Ok(()) => largest = length,
            Err(Error::TooLarge { what: "record", bytes, limit }) => {
                assert!(bytes > limit && largest > 3000, "{length}");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let compact = |record: &Record<Value>| serde_json::to_vec(record).map(|bytes| bytes.len());
    let record = it.record().await?;
    let bytes = compact(&record)?;
    assert!(record.state["text"].as_str().is_some_and(|text| text.len() == largest));
    assert!(bytes <= LIMIT && LIMIT - bytes < 8, "{bytes} bytes were the most");
    store.shutdown().await?;
    Ok(())
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
async fn unknown_fields_and_mode_bits_survive_a_rewrite() -> TestResult {
    use std::os::unix::fs::PermissionsExt as _;
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    store.create(NewInstance::with_id(id("a"))).await?;
    store.shutdown().await?;
    let path = root.path().join("instances/a/instance.json");
    let text =
        std::fs::read_to_string(&path)?.replacen("{\n", "{\n  \"later\": {\"n\": 12345678901234567890123},\n", 1);
    std::fs::write(&path, text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640))?;
    let store = Store::open(root.path(), Counter).await?;
    store.get(&id("a")).await?.update(|s| s.value = 5).await?;
    store.shutdown().await?;
    let text = std::fs::read_to_string(&path)?;
    assert!(text.contains("12345678901234567890123") && text.contains("\"value\": 5"), "{text}");
    assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o640);
    Ok(())
}

#[tokio::test]
async fn a_damaged_record_is_reported_and_kept_and_the_others_work() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    for name in ["good", "bad", "twice"] {
        store.create(NewInstance::with_id(id(name))).await?;
    }
    store.shutdown().await?;
    let path = root.path().join("instances/bad/instance.json");
    std::fs::write(&path, "{\"format\": 1, \"inst")?;
    let twice = root.path().join("instances/twice/instance.json");
    std::fs::write(&twice, std::fs::read_to_string(&twice)?.replacen("\"value\": 0", "\"value\": 0, \"value\": 1", 1))?;
    let store = Store::open(root.path(), Counter).await?;
    let error = store.get(&id("bad")).await.expect_err("damaged");
    assert!(matches!(&error, Error::Corrupt { path: p, .. } if *p == path), "{error}");
    assert!(
        matches!(store.get(&id("twice")).await, Err(Error::Corrupt { reason, .. }) if reason.contains("duplicate"))
    );
    let listing = store.list(fiefdom::Filter::default()).await?;
    assert_eq!((listing.records.len(), listing.damaged.len()), (1, 2));
    store.get(&id("good")).await?.update(|s| s.value = 1).await?;
    assert_eq!(std::fs::read_to_string(&path)?, "{\"format\": 1, \"inst", "the bytes are untouched");
    let kept: Vec<_> = std::fs::read_dir(root.path().join(".fiefdom/quarantine"))?.collect::<Result<_, _>>()?;
    assert_eq!(kept.len(), 4, "two copies, each with its reason: {kept:?}");
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_newer_format_is_refused_untouched() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    store.create(NewInstance::with_id(id("a"))).await?;
    store.shutdown().await?;
    let path = root.path().join("instances/a/instance.json");
    let newer = std::fs::read_to_string(&path)?.replacen("\"format\": 1", "\"format\": 2", 1);
    std::fs::write(&path, &newer)?;
    let store = Store::open(root.path(), Counter).await?;
    assert!(matches!(store.get(&id("a")).await, Err(Error::NewerFormat { found: 2, supported: 1, .. })));
    store.shutdown().await?;
    assert_eq!(std::fs::read_to_string(&path)?, newer);
    std::fs::write(root.path().join(".fiefdom/format.json"), "{\"format\": 9}")?;
    assert!(matches!(Store::open(root.path(), Counter).await, Err(Error::NewerFormat { found: 9, .. })));
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
    assert!(matches!(store.get(&id("c")).await, Err(Error::KindMismatch { .. })));
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
async fn a_directory_removed_while_live_is_reported_gone() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    store.flush().await?;
    std::fs::remove_dir_all(it.path())?;
    it.update(|s| s.value = 1).await?;
    store.flush().await?;
    assert!(matches!(it.update(|s| s.value = 2).await, Err(Error::Gone { .. })));
    assert!(!it.path().exists());
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_removed_directory_does_not_hold_up_the_log() -> TestResult {
    let root = tempfile::tempdir()?;
    // The files are not looked at before the log is emptied.
    let settings = options(|o| (o.log_segment_bytes, o.materialise_within) = (4096, Duration::from_secs(3600)));
    let store = Store::open_with(root.path(), Counter, settings).await?;
    let removed = store.create(NewInstance::with_id(id("a"))).await?;
    let other = store.create(NewInstance::with_id(id("b"))).await?;
    std::fs::remove_dir_all(removed.path())?;
    for n in 0..100 {
        other.update(move |s| s.value = n).await?;
    }
    while store.stats().await?.checkpoints < 3 {
        assert!(!store.stats().await?.checkpoint_stalled);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.shutdown().await?;
    Ok(())
}

/// A state whose `Serialize` panics, but only in the thread that writes the files.
#[derive(Clone, serde::Deserialize)]
struct Moody {
    panics: bool,
}

impl serde::Serialize for Moody {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let here = std::thread::current();
        assert!(!self.panics || here.name() != Some("fiefdom-files"), "on purpose");
        serde_json::json!({ "panics": self.panics }).serialize(serializer)
    }
}

struct MoodyKind;

impl fiefdom::Instance for MoodyKind {
    const KIND: &'static str = "moody";
    type State = Moody;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), fiefdom::BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), _: &NewInstance) -> Result<Moody, fiefdom::BoxError> {
        Ok(Moody { panics: false })
    }
}

#[tokio::test]
async fn a_state_that_panics_when_it_is_written_harms_its_own_instance_alone() -> TestResult {
    let root = tempfile::tempdir()?;
    let settings = options(|o| o.materialise_within = Duration::from_millis(2));
    let store = Store::open_with(root.path(), MoodyKind, settings).await?;
    let moody = store.create(NewInstance::with_id(id("moody"))).await?;
    let calm = store.create(NewInstance::with_id(id("calm"))).await?;
    moody.update(|s| s.panics = true).await?;
    while store.stats().await?.file_failures == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Its commits are in the log, and so is its recovery; the others have theirs in their files.
    calm.commit(|tx| tx.set_status(Status::Running, None)).await?;
    let path = calm.path().join("instance.json");
    eventually("the other's file is written", || {
        std::fs::read_to_string(&path).is_ok_and(|text| text.contains("\"running\""))
    })
    .await;
    moody.update(|s| s.panics = false).await?;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn the_files_follow_within_a_moment_without_being_asked() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    it.update(|s| s.value = 42).await?;
    let path = it.path().join("instance.json");
    eventually("instance.json shows the update", || {
        std::fs::read_to_string(&path).is_ok_and(|t| t.contains("\"value\": 42"))
    })
    .await;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn an_old_segment_is_replaced_by_files_and_removed() -> TestResult {
    let root = tempfile::tempdir()?;
    let settings = options(|o| o.log_segment_bytes = 4096);
    let store = Store::open_with(root.path(), Counter, settings).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    for n in 0..100 {
        it.commit(move |tx| {
            tx.state_mut().value = n;
            tx.event("n", &n)
        })
        .await?;
    }
    let mut writers = std::fs::read_dir(root.path().join(".fiefdom/writers"))?;
    let writer = writers.next().expect("a writer")?.path();
    eventually("old segments are removed", || std::fs::read_dir(&writer).is_ok_and(|files| files.count() <= 3)).await;
    assert!(store.stats().await?.checkpoints > 5);
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
