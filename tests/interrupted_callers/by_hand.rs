//! Directories and files that somebody moved, copied or edited: what is there is taken, or reported.

use std::collections::BTreeSet;
use std::path::Path;

use fiefdom::{Error, Filter, NewInstance, Status, Store, Untyped, View};
use serde_json::{Value, json};

use crate::common::{Counter, PATIENCE, TestResult, copy_tree, id, options};
use crate::{at_rest, edit, marked, marks};

#[tokio::test]
async fn a_directory_removed_at_rest_is_gone_and_its_name_is_free() -> TestResult {
    let root = at_rest(&["a", "b"]).await?;
    std::fs::remove_dir_all(root.path().join("instances/a"))?;
    let store = Store::open(root.path(), Counter).await?;
    assert!(matches!(store.get(&id("a")).await, Err(Error::NotFound { .. })));
    assert_eq!(store.list(Filter::default()).await?.records.len(), 1);
    marked(&*store.create(NewInstance::with_id(id("a"))).await?, 7).await?;
    assert_eq!(marks(&store, "a").await?, BTreeSet::from([7]));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_directory_copied_in_under_its_own_id_is_adopted_with_all_that_is_in_it() -> TestResult {
    let (from, to) = (at_rest(&["a"]).await?, at_rest(&["b"]).await?);
    std::fs::create_dir_all(from.path().join("instances/a/workspace"))?;
    std::fs::write(from.path().join("instances/a/workspace/notes"), "kept")?;
    // Also under the eyes of a process that has the root open.
    let store = Store::open(to.path(), Counter).await?;
    let dir = to.path().join("instances/a");
    std::fs::create_dir(&dir)?;
    copy_tree(&from.path().join("instances/a"), &dir)?;
    marked(&store.get(&id("a")).await?, 3).await?;
    assert_eq!(marks(&store, "a").await?, BTreeSet::from([1, 2, 3]));
    assert_eq!(store.get(&id("a")).await?.record().await?.epoch, 2);
    assert_eq!(std::fs::read_to_string(dir.join("workspace/notes"))?, "kept");
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_directory_copied_or_renamed_to_another_id_is_corrupt_until_its_record_says_so_too() -> TestResult {
    let root = at_rest(&["a", "b"]).await?;
    let instances = root.path().join("instances");
    std::fs::create_dir(instances.join("copied"))?;
    copy_tree(&instances.join("a"), &instances.join("copied"))?;
    std::fs::rename(instances.join("b"), instances.join("renamed"))?;
    let store = Store::open(root.path(), Counter).await?;
    for name in ["copied", "renamed"] {
        let path = instances.join(name).join("instance.json");
        let before = std::fs::read(&path)?;
        let refused = store.get(&id(name)).await.expect_err("another id");
        assert!(matches!(&refused, Error::Corrupt { path: p, .. } if *p == path), "{refused}");
        assert_eq!(std::fs::read(&path)?, before, "the bytes are untouched");
        assert!(is_kept(root.path(), &before)?, "and a copy is in the quarantine");
        edit(root.path(), name, |record| record["instance_id"] = json!(name))?;
        marked(&store.get(&id(name)).await?, 3).await?;
    }
    assert!(matches!(store.get(&id("b")).await, Err(Error::NotFound { .. })));
    assert_eq!(marks(&store, "a").await?, BTreeSet::from([1, 2]), "the original is as it was");
    store.shutdown().await?;
    Ok(())
}

fn is_kept(root: &Path, bytes: &[u8]) -> TestResult<bool> {
    for entry in std::fs::read_dir(root.join(".fiefdom/quarantine"))? {
        if std::fs::read(entry?.path())? == bytes {
            return Ok(true);
        }
    }
    Ok(false)
}

#[tokio::test]
async fn a_record_edited_by_hand_at_rest_is_taken_as_it_is() -> TestResult {
    let root = at_rest(&["a"]).await?;
    edit(root.path(), "a", |record| {
        record["state"]["value"] = json!(40);
        record["status"] = json!("paused");
        record["name"] = json!("by hand");
        record["tags"] = json!({ "k": "v" });
        record["revision"] = json!(100);
    })?;
    let store = Store::open(root.path(), Counter).await?;
    let a = store.get(&id("a")).await?;
    let record = a.record().await?;
    assert_eq!((record.state.value, record.status, record.revision), (40, Status::Paused, 100));
    assert_eq!((record.name.as_deref(), record.tags.get("k").map(String::as_str)), (Some("by hand"), Some("v")));
    assert_eq!(a.commit(|tx| tx.event("edited", &())).await?.revision, 101);
    store.shutdown().await?;
    assert_eq!(View::open(root.path())?.record(&id("a"))?.state["value"], 40);
    Ok(())
}

#[tokio::test]
async fn an_event_log_edited_by_hand_at_rest_is_taken_or_reported() -> TestResult {
    let root = at_rest(&["a"]).await?;
    let path = root.path().join("instances/a/events/events.jsonl");
    // The same JSON, as another program writes it.
    let spaced = std::fs::read_to_string(&path)?.replace("{\"seq\":", "{ \"seq\": ");
    std::fs::write(&path, spaced)?;
    match View::open(root.path())?.events(&id("a"), 1) {
        Ok(events) => assert_eq!(events.len(), 2, "events are missing, and nobody is told"),
        Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "{error}"),
    }
    let store = Store::open(root.path(), Counter).await?;
    match store.get(&id("a")).await {
        Ok(_) => assert_eq!(marks(&store, "a").await?, BTreeSet::from([1, 2])),
        Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "{error}"),
    }
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn an_invalid_edit_by_hand_is_corrupt_with_its_bytes_kept_and_can_be_mended() -> TestResult {
    let edits: [(&str, Value); 7] = [
        ("status", json!("flying")),
        ("revision", json!(-1)),
        ("uid", json!("not a uuid")),
        ("created_at", json!("yesterday")),
        ("tags", json!(["k"])),
        ("epoch", json!("one")),
        ("last_event_seq", Value::Null),
    ];
    for (field, wrong) in edits {
        let root = at_rest(&["a", "b"]).await?;
        let before = std::fs::read(root.path().join("instances/a/instance.json"))?;
        let path = edit(root.path(), "a", |record| record[field] = wrong)?;
        let edited = std::fs::read(&path)?;
        let store = Store::open(root.path(), Untyped).await?;
        let refused = store.get(&id("a")).await.expect_err(field);
        assert!(matches!(&refused, Error::Corrupt { path: p, .. } if *p == path), "{field}: {refused}");
        assert_eq!(std::fs::read(&path)?, edited, "{field}: the bytes are untouched");
        assert!(is_kept(root.path(), &edited)?, "{field}: and a copy is in the quarantine");
        store.get(&id("b")).await?.update(|state| state["value"] = json!(9)).await?;
        std::fs::write(&path, before)?;
        assert_eq!(store.get(&id("a")).await?.state().await?["value"], 2, "{field}");
        store.shutdown().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_directory_that_is_replaced_while_live_is_reported_gone_and_not_written_to() -> TestResult {
    let root = at_rest(&["a"]).await?;
    let store = Store::open(root.path(), Counter).await?;
    let a = store.get(&id("a")).await?;
    marked(&a, 3).await?;
    store.flush().await?;
    let (dir, aside) = (root.path().join("instances/a"), root.path().join("aside"));
    std::fs::rename(&dir, &aside)?;
    std::fs::create_dir(&dir)?;
    copy_tree(&aside, &dir)?;
    let before = std::fs::read(dir.join("instance.json"))?;
    marked(&a, 4).await?;
    // The next look at the files finds out.
    let mut answer = Ok(());
    for _ in 0..2 {
        store.flush().await?;
        answer = marked(&a, 5).await;
    }
    assert!(matches!(answer, Err(Error::Gone { .. })), "{answer:?}");
    assert_eq!(std::fs::read(dir.join("instance.json"))?, before, "what took its place is not ours");
    store.shutdown().await?;
    let store = Store::open(root.path(), Counter).await?;
    assert_eq!(marks(&store, "a").await?, BTreeSet::from([1, 2, 3]));
    store.shutdown().await?;
    Ok(())
}

/// An instance at work is not flushed when a segment of the log goes; but for what was found there when
/// it was opened, which no log has.
#[tokio::test]
async fn events_added_by_hand_at_rest_are_on_disk_when_a_segment_goes_under_work() -> TestResult {
    let root = at_rest(&["a"]).await?;
    let events = root.path().join("instances/a/events");
    let mut lines = std::fs::read_to_string(events.join("events.jsonl"))?;
    lines += "{\"seq\":3,\"at\":\"2026-01-02T03:04:05Z\",\"epoch\":1,\"type\":\"by.hand\",\"data\":null}\n";
    std::fs::write(events.join("events.jsonl"), lines)?;
    let store = Store::open_with(root.path(), Counter, options(|o| o.log_segment_bytes = 4 << 10)).await?;
    let a = store.get(&id("a")).await?;
    let deadline = std::time::Instant::now() + PATIENCE;
    while store.stats().await?.checkpoints == 0 {
        assert!(std::time::Instant::now() < deadline, "no segment went");
        a.update(|state| state.value += 1).await?;
    }
    let state: Value = serde_json::from_slice(&std::fs::read(events.join("state.json"))?)?;
    assert_eq!((&state["last_seq"], &state["durable_seq"]), (&json!(3), &json!(3)));
    store.shutdown().await?;
    Ok(())
}
