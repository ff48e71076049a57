//! Clocks that go back: time orders nothing.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use fiefdom::{Filter, NewInstance, Store};
use serde_json::{Value, json};

use crate::common::{Counter, TestResult, copy_tree, id, lagging};
use crate::{at_rest, edit, marked, marks};

#[tokio::test]
async fn a_clock_that_went_back_changes_no_order() -> TestResult {
    let root = at_rest(&["a", "b"]).await?;
    // As if all that there is had been written in the year 2100, before the clock was set right.
    for name in ["a", "b"] {
        edit(root.path(), name, |record| {
            for field in ["created_at", "updated_at"] {
                record[field] = json!("2100-01-01T00:00:00Z");
            }
        })?;
        let events = root.path().join(format!("instances/{name}/events/events.jsonl"));
        let lines = std::fs::read_to_string(&events)?;
        let mut later = String::new();
        for line in lines.lines() {
            let (before, rest) = line.split_once("\"at\":\"").ok_or("no time")?;
            let (_, after) = rest.split_once('"').ok_or("no time")?;
            writeln!(later, "{before}\"at\":\"2100-01-01T00:00:00Z\"{after}")?;
        }
        std::fs::write(&events, later)?;
        std::fs::remove_file(events.with_file_name("state.json"))?;
    }
    let copy = tempfile::tempdir()?;
    let store = Store::open_with(root.path(), Counter, lagging()).await?;
    let a = store.get(&id("a")).await?;
    marked(&a, 3).await?;
    marked(&a, 4).await?;
    let record = a.record().await?;
    assert_eq!((record.revision, record.epoch, record.last_event_seq), (4, 2, 4));
    store.create(NewInstance::with_id(id("today"))).await?;
    let listed = store.list(Filter::default()).await?;
    let names: Vec<_> = listed.records.iter().map(|r| r.id.as_str()).collect();
    assert_eq!(names, ["b", "a", "today"], "newest first by what the records say");
    marked(&a, 5).await?;
    copy_tree(root.path(), copy.path())?;
    store.shutdown().await?;

    // A dead writer's commits are older by the clock than the files, and win all the same.
    let store = Store::open(copy.path(), Counter).await?;
    assert_eq!(marks(&store, "a").await?, BTreeSet::from([1, 2, 3, 4, 5]));
    assert_eq!(marks(&store, "b").await?, BTreeSet::from([1, 2]));
    store.shutdown().await?;
    Ok(())
}

/// What a process leaves that made `a`, deleted it, made it again with two commits, and died before
/// any file was written.
async fn two_lives() -> TestResult<tempfile::TempDir> {
    let (root, copy) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let store = Store::open_with(root.path(), Counter, lagging()).await?;
    let first = store.create(NewInstance::with_id(id("a"))).await?;
    marked(&first, 1).await?;
    store.delete(&id("a")).await?;
    let second = store.create(NewInstance::with_id(id("a"))).await?;
    marked(&second, 2).await?;
    marked(&second, 3).await?;
    copy_tree(root.path(), copy.path())?;
    store.shutdown().await?;
    Ok(copy)
}

#[tokio::test]
async fn an_instance_that_was_deleted_and_made_again_is_recovered_with_its_second_life() -> TestResult {
    let root = two_lives().await?;
    let store = Store::open(root.path(), Counter).await?;
    assert_eq!(marks(&store, "a").await?, BTreeSet::from([2, 3]));
    store.shutdown().await?;
    Ok(())
}

/// Rewrites the lines of a dead writer's log, each with its checksum.
fn rewrite_log(root: &Path, mut change: impl FnMut(&mut String) -> TestResult) -> TestResult {
    let writer = std::fs::read_dir(root.join(".fiefdom/writers"))?.next().ok_or("no writer")??.path();
    let path = writer.join("journal-000001.log");
    let mut log = String::new();
    for line in std::fs::read_to_string(&path)?.lines().filter(|line| !line.trim().is_empty()) {
        let mut text = line[9..].to_owned();
        change(&mut text)?;
        // The same length everywhere: a mark says how many bytes stand before it.
        assert_eq!(text.len(), line.len() - 9, "{text}");
        writeln!(log, "{:08x} {text}", crc32fast::hash(text.as_bytes()))?;
    }
    std::fs::write(path, log)?;
    Ok(())
}

/// Replaces the first text behind `key`, by one of the same length.
fn replace_text(line: &mut String, key: &str, new: impl FnOnce(&str) -> String) -> TestResult {
    let from = line.find(key).ok_or("no such key")? + key.len();
    let to = from + line[from..].find('"').ok_or("no end")?;
    let text = new(&line[from..to]);
    line.replace_range(from..to, &text);
    Ok(())
}

/// The lives of one id are in the order of the log, whatever the clock said. After a power cut the
/// directory may still be that of the first life.
#[tokio::test]
async fn a_clock_that_went_back_between_two_lives_of_an_id_does_not_swap_them() -> TestResult {
    for boot in [false, true] {
        let root = two_lives().await?;
        let mut uids: Vec<Value> = Vec::new();
        rewrite_log(root.path(), |line| {
            let value: Value = serde_json::from_str(line)?;
            if boot && line.starts_with("{\"journal\"") {
                replace_text(line, "\"boot_id\":\"", |id| "0".repeat(id.len()))?;
            }
            if !line.starts_with("{\"commit\"") {
                return Ok(());
            }
            let uid = &value["commit"]["uid"];
            if !uids.contains(uid) {
                uids.push(uid.clone());
            }
            // Each life is a year before the one that it follows.
            replace_text(line, "\"at\":\"", |at| format!("{}{}", 2030 - uids.len(), &at[4..]))
        })?;
        assert_eq!(uids.len(), 2);
        let case = format!("another boot: {boot}");
        let store = Store::open(root.path(), Counter).await?;
        let found = marks(&store, "a").await.map_err(|e| format!("{case}: {e}"))?;
        assert_eq!(found, BTreeSet::from([2, 3]), "{case}");
        store.shutdown().await?;
    }
    Ok(())
}
