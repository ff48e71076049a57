//! What is on disk, of every version of the format: it can be read, and it does not change unseen.
//!
//! `tests/fixtures/format-<N>/` has a root as a killed process left it, and `shape.json`: the names of
//! all files and the paths and types of all JSON that a workout of the library writes.
#![allow(missing_docs)]

mod common;
#[path = "format/shape.rs"]
mod shape;
#[path = "format/workout.rs"]
mod workout;

use std::path::{Path, PathBuf};

use common::{TestResult, id};
use fiefdom::{Error, Status, Store, Untyped};
use serde_json::{Value, json};
use shape::{Shape, missing};
use workout::{LATER, copy, events, files, tool};

/// `write` makes what is missing, and adds to the shape what is new. Nothing is taken away.
const VARIABLE: &str = "FIEFDOM_TEST_FORMAT";

fn is_writing() -> bool {
    std::env::var(VARIABLE).is_ok_and(|value| value == "write")
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn json_of(path: &Path) -> TestResult<Value> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// Takes out what tells of the computer that made it, and the blank end of the logs.
fn tidy(root: &Path) -> TestResult {
    for path in files(root)? {
        let path = root.join(path);
        let text = std::fs::read_to_string(&path)?;
        if path.ends_with("lock") {
            let mut owner: Value = serde_json::from_str(&text)?;
            owner["host"] = json!("somewhere");
            std::fs::write(&path, owner.to_string())?;
        } else if path.to_str().is_some_and(|path| path.ends_with(".reason.json")) {
            let mut note: Value = serde_json::from_str(&text)?;
            note["file"] = json!("/somewhere/instances/broken/instance.json");
            std::fs::write(&path, serde_json::to_vec_pretty(&note)?)?;
        } else if path.file_name().and_then(|n| n.to_str()).is_some_and(|name| name.starts_with("journal-")) {
            std::fs::write(&path, format!("{}\n", text.trim_end()))?;
        }
    }
    Ok(())
}

/// A root of this format, to be used up.
fn root_of(format: &Path) -> TestResult<(tempfile::TempDir, PathBuf)> {
    let temp = tempfile::tempdir()?;
    let root = temp.path().join("root");
    copy(&format.join("root"), &root)?;
    Ok((temp, root))
}

/// Every version that was ever written.
fn formats() -> TestResult<Vec<PathBuf>> {
    let mut found: Vec<_> = std::fs::read_dir(fixtures())?.map(|entry| Ok(entry?.path())).collect::<TestResult<_>>()?;
    found.sort();
    assert!(!found.is_empty());
    Ok(found)
}

#[tokio::test]
async fn the_format_does_not_change_without_a_fixture() -> TestResult {
    let temp = tempfile::tempdir()?;
    let (root, damaged) = (temp.path().join("root"), temp.path().join("damaged"));
    workout::make(&root).await?;
    let format = json_of(&root.join(".fiefdom/format.json"))?["format"].as_u64().ok_or("no format")?;
    let of_format = fixtures().join(format!("format-{format}"));
    if is_writing() && !of_format.join("root").exists() {
        copy(&root, &of_format.join("root"))?;
        tidy(&of_format.join("root"))?;
    }
    assert!(
        of_format.join("root").is_dir(),
        "format {format} has no fixture: run this test with {VARIABLE}=write, and commit tests/fixtures/format-{format}"
    );

    let mut found = Shape::new();
    shape::add(&mut found, &root)?;
    // A line of the log that was on disk and is not what it was: its instance is taken out of use.
    copy(&root, &damaged)?;
    for path in files(&damaged)?.into_iter().filter(|path| path.to_string_lossy().contains("/journal-")) {
        let text = std::fs::read_to_string(damaged.join(&path))?;
        std::fs::write(damaged.join(&path), text.replacen("\"state\":{\"n\":3}", "\"state\":{\"n\":9}", 1))?;
    }
    let store = Store::open(damaged.as_path(), Untyped).await?;
    assert!(matches!(store.get(&id("half")).await, Err(Error::Corrupt { .. })));
    store.shutdown().await?;
    shape::add(&mut found, &damaged)?;

    let path = of_format.join("shape.json");
    let committed: Shape = if path.exists() { serde_json::from_slice(&std::fs::read(&path)?)? } else { Shape::new() };
    let gone = missing(&committed, &found);
    assert!(
        gone.is_empty(),
        "this is not written any more:\n  {}\nFiles of format {format} exist that have it. Either keep writing it, or raise the \
         format (src/disk/root.rs or src/record/meta.rs), keep reading the old one, and run this test with \
         {VARIABLE}=write to make the fixture of the new one",
        gone.join("\n  ")
    );
    if is_writing() {
        // What was there before stays: the states of older versions.
        found.extend(committed.into_iter().filter(|(file, _)| !found.contains_key(file)).collect::<Vec<_>>());
        std::fs::write(&path, serde_json::to_vec_pretty(&found)?)?;
        return Ok(());
    }
    let new = missing(&found, &committed);
    assert!(
        new.is_empty(),
        "this is written and was not before:\n  {}\nIf programs of this format can do without it, run this test with \
         {VARIABLE}=write and commit shape.json; if they cannot, raise the format first",
        new.join("\n  ")
    );
    Ok(())
}

#[tokio::test]
async fn every_format_that_was_ever_written_can_be_read() -> TestResult {
    for format in formats()? {
        let (_temp, root) = root_of(&format)?;
        let before = json_of(&root.join("instances/plain/instance.json"))?;
        let store = Store::open(root.as_path(), Untyped).await?;

        let plain = store.get(&id("plain")).await?.record().await?;
        assert_eq!((plain.name.as_deref(), &*plain.kind, plain.pinned), (Some("größe"), "note", true));
        assert_eq!((plain.status, plain.status_reason.as_deref()), (Status::Failed, Some("for a reason")));
        assert_eq!((plain.attempt, plain.revision, plain.last_event_seq), (1, 12, 11));
        assert_eq!((plain.tags["k"].as_str(), plain.schema_version, &*plain.state), ("v", 1, &json!({ "n": 1 })));
        assert_eq!((json!(plain.uid), json!(plain.created_at)), (before["uid"].clone(), before["created_at"].clone()));
        assert!(plain.started_at.is_some() && plain.ended_at.is_some());
        let mut expected: Vec<_> = (0..10).map(|n| json!([n + 1, "note.written", { "n": n }])).collect();
        expected.push(json!([11, "note.failed", null]));
        assert_eq!(events(&store, "plain", 11).await?, expected);

        // What only the log of the dead writer had.
        let half = store.get(&id("half")).await?.record().await?;
        assert_eq!((half.status, &*half.state), (Status::Interrupted, &json!({ "n": 5 })));
        let expected: Vec<_> = (3..=5).map(|n| json!([n - 2, "half.done", { "n": n }])).collect();
        assert_eq!(events(&store, "half", 3).await?, expected);

        assert!(matches!(store.get(&id("gone")).await, Err(Error::NotFound { .. })));
        assert!(matches!(store.get(&id("broken")).await, Err(Error::Corrupt { .. })));
        assert_eq!(store.get(&id("good")).await?.record().await?.status, Status::Succeeded);
        store.shutdown().await?;
        for rest in ["writers", "trash"] {
            assert_eq!(std::fs::read_dir(root.join(".fiefdom").join(rest))?.count(), 0, "{rest} is empty at rest");
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_a_later_version_added_survives_a_rewrite() -> TestResult {
    for format in formats()? {
        let (_temp, root) = root_of(&format)?;
        let store = Store::open(root.as_path(), Untyped).await?;
        for name in ["plain", "half"] {
            store.get(&id(name)).await?.update(|state| state["n"] = json!(77)).await?;
        }
        store.shutdown().await?;
        for name in ["plain", "half"] {
            let text = std::fs::read_to_string(root.join("instances").join(name).join("instance.json"))?;
            assert!(text.contains("\"n\": 77"), "it was rewritten: {text}");
            assert!(text.contains(&format!("\"later\": {LATER}")), "{text}");
        }
        for path in ["instances/plain/events/events-000000000001.jsonl", ".fiefdom/format.json"] {
            assert!(std::fs::read_to_string(root.join(path))?.contains(LATER), "{path}");
        }
    }
    Ok(())
}

#[test]
fn a_batch_of_every_format_goes_on() -> TestResult {
    for format in formats()? {
        let (_temp, root) = root_of(&format)?;
        let migrated = tool(&root, &["migrate", "good", "bad", "nightly"])?;
        assert_eq!(migrated.status.code(), Some(0), "{migrated:?}");
        let resumed = tool(&root, &["resume", "nightly"])?;
        assert_eq!(resumed.status.code(), Some(1), "{resumed:?}");
        assert_eq!(
            json_of(&root.join("instances/good/instance.json"))?["attempt"],
            1,
            "what succeeded is not run again"
        );
        assert_eq!(json_of(&root.join("instances/bad/instance.json"))?["attempt"], 2, "what failed is");
    }
    Ok(())
}
