//! Older states: brought up to date at their use or all at once, refused when they are newer, and
//! never half changed.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{PATIENCE, TestResult, another_process, id, options, shown};
use fiefdom::{
    BoxError, Error, Filter, Instance, Migrated, Migration, MigrationOutcome, NewInstance, Status, Store, Untyped, View,
};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The program as it was first: a text.
struct NoteV1;

impl Instance for NoteV1 {
    const KIND: &'static str = "note";
    type State = Value;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), new: &NewInstance) -> Result<Value, BoxError> {
        Ok(json!({ "text": new.input_as::<String>()? }))
    }
}

/// The program as it is now.
struct NoteV3;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    lines: Vec<String>,
    /// What the steps did, in order.
    history: Vec<u32>,
}

impl Instance for NoteV3 {
    const KIND: &'static str = "note";
    const SCHEMA_VERSION: u32 = 3;
    type State = Note;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), _: &NewInstance) -> Result<Note, BoxError> {
        Ok(Note { lines: Vec::new(), history: Vec::new() })
    }

    fn migrate(from: u32, mut state: Value) -> Result<Value, BoxError> {
        if state["text"] == "fails" && from == 2 {
            return Err("this text is of no use".into());
        }
        assert!(state["text"] != "panics" || from == 1, "step 2 has a bug");
        match from {
            // No step can run twice, or on what another has left, without being seen.
            1 => Ok(json!({ "text": state["text"], "history": [1] })),
            2 => {
                state["history"].as_array_mut().ok_or("step 1 did not run")?.push(2.into());
                let lines: Vec<_> = state["text"].as_str().ok_or("no text")?.lines().collect();
                Ok(json!({ "lines": lines, "history": state["history"] }))
            }
            _ => Err("there is no such step".into()),
        }
    }
}

fn migrated(text: &str) -> Note {
    Note { lines: text.lines().map(str::to_owned).collect(), history: vec![1, 2] }
}

/// Notes of the first program, with an event each.
async fn write_v1(root: &Path, notes: &[(&str, &str)]) -> TestResult {
    let store = Store::open(root, NoteV1).await?;
    let written = notes.iter().map(async |(name, text)| {
        let note = store.create(NewInstance::with_id(id(name)).input(json!(text))).await?;
        note.append("written", ()).await
    });
    futures::future::try_join_all(written).await?;
    store.shutdown().await?;
    Ok(())
}

/// The bytes of a file, when it was written, and which file it is.
type Look = (Vec<u8>, i64, i64, u64);

/// Every file under a directory.
fn snapshot(dir: &Path) -> TestResult<BTreeMap<PathBuf, Look>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let about = std::fs::symlink_metadata(&path)?;
        let bytes = if about.is_dir() { Vec::new() } else { std::fs::read(&path)? };
        if about.is_dir() {
            found.extend(snapshot(&path)?);
        }
        found.insert(path, (bytes, about.mtime(), about.mtime_nsec(), about.ino()));
    }
    Ok(found)
}

fn instance(root: &Path, name: &str) -> PathBuf {
    root.join("instances").join(name)
}

fn record(root: &Path, name: &str) -> TestResult<Value> {
    Ok(serde_json::from_slice(&std::fs::read(instance(root, name).join("instance.json"))?)?)
}

#[tokio::test]
async fn the_steps_run_at_the_first_use_and_the_first_commit_writes_the_new_shape() -> TestResult {
    let root = tempfile::tempdir()?;
    write_v1(root.path(), &[("a", "one\ntwo")]).await?;
    let old = std::fs::read(instance(root.path(), "a").join("instance.json"))?;
    let store = Store::open(root.path(), NoteV3).await?;
    let note = store.get(&id("a")).await?;
    assert_eq!(note.state().await?, migrated("one\ntwo"));
    assert_eq!(note.record().await?.schema_version, 3);
    store.flush().await?;
    assert_eq!(std::fs::read(instance(root.path(), "a").join("instance.json"))?, old, "reading it writes nothing");
    note.update(|note| note.lines.push("three".into())).await?;
    store.shutdown().await?;
    let new = record(root.path(), "a")?;
    assert_eq!((&new["schema_version"], &new["revision"]), (&json!(3), &json!(2)));
    assert_eq!(new["state"], json!({ "lines": ["one", "two", "three"], "history": [1, 2] }));
    Ok(())
}

#[tokio::test]
async fn an_event_alone_also_writes_the_new_shape() -> TestResult {
    let root = tempfile::tempdir()?;
    write_v1(root.path(), &[("a", "one")]).await?;
    let store = Store::open(root.path(), NoteV3).await?;
    store.get(&id("a")).await?.append("seen", ()).await?;
    store.shutdown().await?;
    let new = record(root.path(), "a")?;
    assert_eq!((&new["schema_version"], &new["state"]["history"]), (&json!(3), &json!([1, 2])));
    Ok(())
}

#[tokio::test]
async fn a_newer_version_is_refused_without_a_touch() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), NoteV3).await?;
    let note = store.create(NewInstance::with_id(id("a"))).await?;
    note.append("written", ()).await?;
    store.shutdown().await?;
    let before = snapshot(&instance(root.path(), "a"))?;
    assert!(before.keys().any(|path| path.ends_with("events/state.json")), "{before:?}");

    let store = Store::open(root.path(), NoteV1).await?;
    let error = store.get(&id("a")).await.expect_err("it is newer");
    assert!(matches!(&error, Error::Schema { version: 1, .. }), "{error:?}");
    assert!(error.to_string().contains("version 3, which is newer; use a newer version"), "{error}");
    let listing = store.list(Filter::default()).await?;
    assert_eq!((listing.records.len(), listing.damaged.len()), (0, 1));
    assert!(store.delete(&id("a")).await.is_err(), "nor is it deleted");
    let run = outcomes(Migration::new().kind::<NoteV1>().run(&store).await?.collect().await);
    assert!(matches!(&run["a"], MigrationOutcome::Failed(Error::Schema { .. })), "{run:?}");
    assert_eq!(snapshot(&instance(root.path(), "a"))?, before);
    store.shutdown().await?;
    assert_eq!(snapshot(&instance(root.path(), "a"))?, before);
    Ok(())
}

#[tokio::test]
async fn after_a_step_that_failed_or_panicked_the_old_program_goes_on() -> TestResult {
    let root = tempfile::tempdir()?;
    write_v1(root.path(), &[("bad", "fails"), ("worse", "panics")]).await?;
    let before = snapshot(&root.path().join("instances"))?;
    let new = Store::open(root.path(), NoteV3).await?;
    for (name, words) in
        [("bad", "from version 2 failed: this text is of no use"), ("worse", "panicked: step 2 has a bug")]
    {
        let error = new.get(&id(name)).await.expect_err("no step").to_string();
        assert!(error.contains(words) && error.contains("its record is unchanged"), "{error}");
    }
    assert_eq!(snapshot(&root.path().join("instances"))?, before);
    // The new program still runs, and holds no lock on what it could not use.
    let old = Store::open(root.path(), NoteV1).await?;
    for name in ["bad", "worse"] {
        old.get(&id(name)).await?.update(|note| note["text"] = json!("mended")).await?;
    }
    old.shutdown().await?;
    for name in ["bad", "worse"] {
        assert_eq!(new.get(&id(name)).await?.state().await?, migrated("mended"));
    }
    new.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_list_shows_older_instances_as_they_would_be_and_writes_nothing() -> TestResult {
    let root = tempfile::tempdir()?;
    write_v1(root.path(), &[("a", "one"), ("bad", "fails")]).await?;
    let before = snapshot(&root.path().join("instances"))?;
    let store = Store::open(root.path(), NoteV3).await?;
    let listing = store.list(Filter::default()).await?;
    assert_eq!(listing.records.iter().map(|r| (*r.state).clone()).collect::<Vec<_>>(), [migrated("one")]);
    assert!(matches!(&listing.damaged[..], [(bad, Error::Schema { .. })] if bad.as_str() == "bad"));
    assert_eq!(snapshot(&root.path().join("instances"))?, before);
    store.shutdown().await?;
    Ok(())
}

fn outcomes(run: Vec<Migrated>) -> BTreeMap<String, MigrationOutcome> {
    run.into_iter().map(|one| (one.id.to_string(), one.outcome)).collect()
}

#[tokio::test]
async fn a_run_says_of_every_instance_what_became_of_it() -> TestResult {
    let root = tempfile::tempdir()?;
    write_v1(root.path(), &[("a", "one"), ("b", "two"), ("bad", "fails"), ("busy", "three")]).await?;
    let store = Store::open(root.path(), NoteV3).await?;
    store.create(NewInstance::with_id(id("new"))).await?;
    store.of_kind(Untyped).await?.create(NewInstance::with_id(id("other")).kind("recipe")).await?;
    // Another process, as far as locks go.
    let elsewhere = Store::open(root.path(), NoteV1).await?;
    let busy = elsewhere.get(&id("busy")).await?;
    let _awake = busy.keep_awake().await?;

    let run = Migration::new().kind::<NoteV3>().run(&store).await?;
    assert_eq!(run.total(), 6);
    let run = outcomes(run.collect().await);
    assert!(matches!(run["a"], MigrationOutcome::Migrated), "{run:#?}");
    assert!(matches!(run["b"], MigrationOutcome::Migrated), "{run:#?}");
    assert!(matches!(run["bad"], MigrationOutcome::Failed(Error::Schema { .. })), "{run:#?}");
    assert!(matches!(run["busy"], MigrationOutcome::Locked(Error::Locked { .. })), "{run:#?}");
    assert!(matches!(run["new"], MigrationOutcome::Current), "{run:#?}");
    assert!(matches!(run["other"], MigrationOutcome::UnknownKind), "{run:#?}");
    assert_eq!(run.len(), 6);

    let again = outcomes(Migration::new().kind::<NoteV3>().run(&store).await?.collect().await);
    assert!(matches!(again["a"], MigrationOutcome::Current), "{again:#?}");
    elsewhere.shutdown().await?;
    store.shutdown().await?;
    let a = record(root.path(), "a")?;
    assert_eq!((&a["schema_version"], &a["revision"], &a["status"]), (&json!(3), &json!(2), &json!("pending")));
    assert_eq!(record(root.path(), "busy")?["schema_version"], 1);
    Ok(())
}

#[tokio::test]
async fn some_can_be_named_and_one_that_is_missing_is_reported() -> TestResult {
    let root = tempfile::tempdir()?;
    write_v1(root.path(), &[("a", "one"), ("b", "two")]).await?;
    let store = Store::open(root.path(), NoteV3).await?;
    let migration = Migration::new().kind::<NoteV3>().only([id("a"), id("missing")]);
    let run = outcomes(migration.run(&store).await?.collect().await);
    store.shutdown().await?;
    assert!(matches!(run["a"], MigrationOutcome::Migrated));
    assert!(matches!(run["missing"], MigrationOutcome::Failed(Error::NotFound { .. })));
    assert_eq!(record(root.path(), "b")?["schema_version"], 1);
    Ok(())
}

#[tokio::test]
async fn an_instance_in_use_in_this_process_is_migrated_too() -> TestResult {
    let root = tempfile::tempdir()?;
    write_v1(root.path(), &[("a", "one")]).await?;
    let store = Store::open(root.path(), NoteV3).await?;
    let note = store.get(&id("a")).await?;
    let _awake = note.keep_awake().await?;
    let run = outcomes(Migration::new().kind::<NoteV3>().run(&store).await?.collect().await);
    assert!(matches!(run["a"], MigrationOutcome::Migrated), "{run:?}");
    store.flush().await?;
    assert_eq!(record(root.path(), "a")?["schema_version"], 3);
    note.update(|note| note.lines.clear()).await?;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_rehearsal_finds_what_would_fail_and_writes_nothing() -> TestResult {
    let root = tempfile::tempdir()?;
    write_v1(root.path(), &[("a", "one"), ("bad", "fails")]).await?;
    let before = snapshot(root.path())?;
    let view = View::open(root.path())?;
    let run = outcomes(Migration::new().kind::<NoteV3>().rehearse(&view)?.collect());
    assert!(matches!(run["a"], MigrationOutcome::Migrated), "{run:?}");
    assert!(matches!(run["bad"], MigrationOutcome::Failed(Error::Schema { .. })), "{run:?}");
    assert_eq!(snapshot(root.path())?, before);
    Ok(())
}

#[tokio::test]
async fn more_instances_than_may_be_live_are_migrated() -> TestResult {
    let root = tempfile::tempdir()?;
    let notes: Vec<_> = (0..60).map(|n| (format!("n{n}"), format!("text {n}"))).collect();
    let notes: Vec<_> = notes.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    write_v1(root.path(), &notes).await?;
    let store = Store::open_with(root.path(), NoteV3, options(|o| o.live_instances = 4)).await?;
    let run = outcomes(Migration::new().kind::<NoteV3>().run(&store).await?.collect().await);
    assert!(run.values().all(|one| matches!(one, MigrationOutcome::Migrated)), "{run:?}");
    assert!(store.stats().await?.live_instances <= 4);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn what_was_migrated_is_let_go_at_once() -> TestResult {
    let root = tempfile::tempdir()?;
    write_v1(root.path(), &[("a", "one"), ("b", "two"), ("c", "three")]).await?;
    let store = Store::open(root.path(), NoteV3).await?;
    let run: Vec<_> = Migration::new().kind::<NoteV3>().run(&store).await?.collect().await;
    assert_eq!(run.len(), 3);
    let deadline = Instant::now() + PATIENCE;
    // Left alone, an instance stays for a minute.
    while store.stats().await?.live_instances > 0 {
        assert!(Instant::now() < deadline, "{:?}", store.stats().await?);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_record_of_a_newer_format_is_refused_without_a_touch() -> TestResult {
    let root = tempfile::tempdir()?;
    write_v1(root.path(), &[("a", "one")]).await?;
    let path = instance(root.path(), "a").join("instance.json");
    // Not even the schema version is where it was.
    std::fs::write(&path, r#"{"format":2,"all":"is different"}"#)?;
    let before = snapshot(&instance(root.path(), "a"))?;
    let store = Store::open(root.path(), NoteV3).await?;
    assert!(matches!(store.get(&id("a")).await, Err(Error::NewerFormat { found: 2, .. })));
    let run = outcomes(Migration::new().kind::<NoteV3>().run(&store).await?.collect().await);
    assert!(matches!(&run["a"], MigrationOutcome::Failed(Error::NewerFormat { .. })), "{run:?}");
    store.shutdown().await?;
    assert_eq!(snapshot(&instance(root.path(), "a"))?, before);
    Ok(())
}

/// A process that migrates a root, and says which instances are done.
fn start_migrator(root: &Path) -> TestResult<Child> {
    Ok(another_process("migrate_in_a_process")?
        .env("FIEFDOM_TEST_ROOT", root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?)
}

#[tokio::test]
#[ignore = "another process, which the tests start"]
async fn migrate_in_a_process() -> TestResult {
    let root = std::env::var_os("FIEFDOM_TEST_ROOT").ok_or("no root")?;
    let store = Store::open(PathBuf::from(root), NoteV3).await?;
    let mut run = Migration::new().kind::<NoteV3>().run(&store).await?;
    let mut orders = std::io::stdin().lines();
    // The test harness has begun a line.
    println!();
    while let Some(one) = run.next().await {
        println!(
            "> {} {}",
            one.id,
            if matches!(one.outcome, MigrationOutcome::Migrated) { "migrated" } else { "other" }
        );
        // Otherwise it could be done before anybody has read what it says.
        orders.next().ok_or("nobody listens")??;
    }
    store.shutdown().await?;
    Ok(())
}

/// The number of instances is `FIEFDOM_TEST_MIGRATIONS`.
#[tokio::test]
async fn a_run_that_is_killed_again_and_again_finishes_in_the_end() -> TestResult {
    let total: usize = std::env::var("FIEFDOM_TEST_MIGRATIONS").map_or(Ok(300), |n| n.parse())?;
    let root = tempfile::tempdir()?;
    let names: Vec<String> = (0..total).map(|n| format!("n{n}")).collect();
    let texts: Vec<String> = (0..total).map(|n| format!("text {n}\nmore")).collect();
    let notes: Vec<_> = names.iter().map(String::as_str).zip(texts.iter().map(String::as_str)).collect();
    write_v1(root.path(), &notes).await?;

    let mut acknowledged = Vec::new();
    let mut kills = 0;
    // Besides those that it has told of, 64 at most are under way.
    for patience in [total / 40, total / 20, total / 14, usize::MAX] {
        let mut child = start_migrator(root.path())?;
        let mut go_on = child.stdin.take().ok_or("no input")?;
        let mut here = 0;
        for line in BufReader::new(child.stdout.take().ok_or("no output")?).lines() {
            let line = line?;
            let Some(told) = line.strip_prefix("> ") else { continue };
            if let Some(done) = told.strip_suffix(" migrated") {
                acknowledged.push(done.to_owned());
                here += 1;
            }
            if here < patience {
                writeln!(go_on)?;
            } else {
                child.kill()?;
                kills += 1;
                break;
            }
        }
        child.wait()?;
    }
    assert_eq!(kills, 3, "each was killed with work left");
    acknowledged.sort();
    acknowledged.dedup();
    let store = Store::open(root.path(), NoteV3).await?;
    let run = Migration::new().kind::<NoteV3>().run(&store).await?.collect::<Vec<_>>().await;
    assert!(run.iter().all(|one| matches!(one.outcome, MigrationOutcome::Current)), "nothing is left to do");
    store.shutdown().await?;
    for (name, text) in &notes {
        let on_disk = record(root.path(), name)?;
        assert_eq!(on_disk["state"], json!(migrated(text)), "{name}");
        assert_eq!((&on_disk["schema_version"], &on_disk["status"]), (&json!(3), &json!(Status::Pending)));
    }
    shown!("{total} instances migrated over {kills} kills, {} acknowledged", acknowledged.len());
    Ok(())
}
