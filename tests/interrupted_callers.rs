//! A caller that goes away in the middle of a commit, a clock that is wrong, and directories that
//! are moved by hand: the outcome is one of two, time orders nothing, and what is there is taken.
#![allow(missing_docs)]

mod common;
#[path = "common/strace.rs"]
mod strace;
#[path = "common/worker.rs"]
mod worker;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::{Counter, TestResult, id, options};
use fiefdom::{Error, Filter, InstanceRef, NewInstance, Status, Store, Untyped, View};
use serde_json::{Value, json};
use strace::Strace;
use worker::Worker;

/// Commits whose caller goes away; a longer campaign sets `FIEFDOM_TEST_DROPS`.
const DROPS: u64 = 2_000;

/// Runtimes that are dropped with commits under way; `FIEFDOM_TEST_RUNTIMES`.
const RUNTIMES: u64 = 100;

fn size(variable: &str, default: u64) -> TestResult<u64> {
    Ok(std::env::var(variable).map_or(Ok(default), |text| text.parse())?)
}

#[test]
#[ignore = "started by another test"]
fn be_a_worker() -> TestResult {
    worker::work()
}

fn copy_tree(from: &Path, to: &Path) -> TestResult {
    assert!(Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status()?.success());
    Ok(())
}

/// A commit that can be told from all others.
async fn marked(instance: &InstanceRef<Counter>, mark: u64) -> fiefdom::Result<()> {
    let done = instance.commit(move |tx| {
        tx.state_mut().value += 1;
        tx.event("marked", &mark)
    });
    done.await.map(drop)
}

/// Every mark that is there, each once, and the record with as many: no commit is half there.
async fn marks(store: &Store<Counter>, name: &str) -> TestResult<BTreeSet<u64>> {
    store.flush().await?;
    let record = store.get(&id(name)).await?.record().await?;
    assert_eq!((record.state.value, record.revision), (record.last_event_seq, record.last_event_seq), "half a commit");
    let mut marks = BTreeSet::new();
    let mut seq = 0;
    while seq < record.last_event_seq {
        let events = store.view().events(&record.id, seq + 1)?;
        assert!(!events.is_empty(), "event {} of {} is not there", seq + 1, record.last_event_seq);
        for event in events {
            assert!(marks.insert(event.data_as::<u64>()?), "applied twice");
            seq = event.seq;
        }
    }
    Ok(marks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_caller_goes_away_is_applied_or_not_and_never_half() -> TestResult {
    let drops = size("FIEFDOM_TEST_DROPS", DROPS)?;
    let root = tempfile::tempdir()?;
    // On a slow disk those that were given up pile up: none is to be refused for that.
    let store = Store::open_with(root.path(), Counter, options(|o| o.queued_per_instance = usize::MAX)).await?;
    store.create(NewInstance::with_id(id("a"))).await?;
    let callers = (0..4).map(|caller| {
        let store = store.clone();
        tokio::spawn(async move {
            let instance = store.get(&id("a")).await?;
            let (mut finished, mut never) = (Vec::new(), Vec::new());
            for mark in (0..drops).filter(|mark| mark % 4 == caller) {
                if mark % 16 == caller {
                    drop(marked(&instance, mark));
                    never.push(mark);
                    continue;
                }
                // Somewhere between its first step and its last, or by a time limit.
                let done = if mark % 8 == caller {
                    tokio::time::timeout(Duration::from_millis(mark % 3), marked(&instance, mark)).await.ok()
                } else {
                    tokio::select! {
                        biased;
                        done = marked(&instance, mark) => Some(done),
                        () = steps(mark % 61) => None,
                    }
                };
                if let Some(done) = done {
                    done?;
                    finished.push(mark);
                }
            }
            TestResult::Ok((finished, never))
        })
    });
    let (mut finished, mut never) = (Vec::new(), Vec::new());
    for caller in callers.collect::<Vec<_>>() {
        let (did, did_not) = caller.await??;
        finished.extend(did);
        never.extend(did_not);
    }
    // The last that were given up may still be on their way: a shutdown waits for them.
    store.shutdown().await?;
    let store = Store::open(root.path(), Counter).await?;
    let there = marks(&store, "a").await?;
    assert!(finished.iter().all(|mark| there.contains(mark)), "an acknowledged commit is lost");
    assert!(never.iter().all(|mark| !there.contains(mark)), "a commit that was never begun is there");
    let applied = there.len() - finished.len();
    common::shown!("{drops} commits, {} finished, {applied} applied though their caller was gone", finished.len());
    assert!(finished.len() > 10 && finished.len() + 10 < usize::try_from(drops)?, "both outcomes were met");
    store.shutdown().await?;
    Ok(())
}

async fn steps(number: u64) {
    for _ in 0..number {
        tokio::task::yield_now().await;
    }
}

/// The program goes on, its runtime does not. Whoever opens the root next may have to wait until the
/// disk is done, and finds everything that was acknowledged.
#[test]
fn a_runtime_that_is_dropped_in_the_middle_of_commits_loses_nothing_acknowledged() -> TestResult {
    let runtimes = size("FIEFDOM_TEST_RUNTIMES", RUNTIMES)?;
    let root = tempfile::tempdir()?;
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let mut waited = 0;
    for round in 0..runtimes {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async {
            let store = Store::open_with(root.path(), Counter, options(|o| o.log_segment_bytes = 8 << 10)).await?;
            let deadline = Instant::now() + Duration::from_secs(10);
            let instance = loop {
                match store.get_or_create(NewInstance::with_id(id("a"))).await {
                    Err(Error::Locked { .. }) if Instant::now() < deadline => {
                        waited += 1;
                        tokio::time::sleep(Duration::from_micros(200)).await;
                    }
                    found => break found?.instance().clone(),
                }
            };
            let there = marks(&store, "a").await?;
            let lost: Vec<u64> = known(&acknowledged).difference(&there).copied().collect();
            assert!(lost.is_empty(), "round {round}: {lost:?} were acknowledged");
            for task in 0..4 {
                let (instance, acknowledged) = (instance.clone(), Arc::clone(&acknowledged));
                tokio::spawn(async move {
                    for n in 0.. {
                        let mark = round * 1_000_000 + task * 100_000 + n;
                        marked(&instance, mark).await?;
                        known(&acknowledged).insert(mark);
                    }
                    fiefdom::Result::<()>::Ok(())
                });
            }
            tokio::time::sleep(Duration::from_micros(200 + round * 173 % 5_000)).await;
            TestResult::Ok(())
        })?;
        if round % 2 == 0 { drop(runtime) } else { runtime.shutdown_background() }
    }
    let commits = known(&acknowledged).len();
    assert!(commits > 100, "{commits}");
    common::shown!("{runtimes} runtimes dropped in {commits} acknowledged commits, 0 lost, {waited} waits for a lock");
    Ok(())
}

fn known(acknowledged: &Mutex<BTreeSet<u64>>) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
    acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn an_instance_stays_locked_until_the_disk_is_done_with_its_last_commit() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let root = tempfile::tempdir()?;
    let (mut worker, mut other) = (Worker::start()?, Worker::start()?);
    worker.open(root.path(), "within_ms=3600000")?;
    other.open(root.path(), "")?;
    for command in ["create a", "count a", "count a"] {
        worker.must(command)?;
    }
    // The flush takes its time: the runtime is gone long before it ends.
    let expressions = ["trace=fdatasync", "inject=fdatasync:delay_enter=400000"];
    let strace = Strace::attach(&[worker.threads()?["fiefdom-journal"]], &expressions)?;
    assert_eq!(worker.ask("drop-runtime a")?, "ok false");
    let mut refused = 0;
    let deadline = Instant::now() + Duration::from_secs(10);
    let value = loop {
        let answer = other.ask("get a")?;
        let Some(value) = answer.strip_prefix("ok ") else {
            assert!(answer.starts_with(&format!("locked {} ", worker.pid())), "{answer}");
            assert!(Instant::now() < deadline, "it stays locked");
            refused += 1;
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        break value.to_owned();
    };
    assert!(refused > 0, "it was let go before the disk was done");
    assert_eq!(value, "3", "the commit reached the disk, and nobody saw the instance without it");
    assert_eq!(other.must("count a")?, "4");
    assert!(strace::fired(&strace.end()?) > 0);
    Ok(())
}

/// Between letting go of an instance and letting go of the log there must be no moment in which the
/// instance can be had, lacks commits in its files, and its last owner looks alive.
#[test]
fn a_store_that_is_just_dropped_lets_go_of_its_log_before_its_instances() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let root = tempfile::tempdir()?;
    let (mut worker, mut other) = (Worker::start()?, Worker::start()?);
    worker.open(root.path(), "within_ms=3600000")?;
    other.open(root.path(), "")?;
    for command in ["create a", "count a", "flush", "count a"] {
        worker.must(command)?;
    }
    // The thread of the log ends last, and rests after each lock that it lets go.
    let expressions =
        ["trace=fdatasync,flock", "inject=fdatasync:delay_enter=300000", "inject=flock:delay_exit=300000"];
    let strace = Strace::attach(&[worker.threads()?["fiefdom-journal"]], &expressions)?;
    assert_eq!(worker.ask("drop-runtime a")?, "ok false");
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut answer = other.ask("get a")?;
    while answer.starts_with("locked") {
        assert!(Instant::now() < deadline, "it stays locked");
        std::thread::sleep(Duration::from_millis(2));
        answer = other.ask("get a")?;
    }
    assert!(strace::fired(&strace.end()?) > 0);
    // Two were acknowledged, and the third reached the disk.
    assert_eq!(answer, "ok 3", "it was read before it was recovered");
    Ok(())
}

/// Changes a record at rest.
fn edit(root: &Path, name: &str, change: impl FnOnce(&mut Value)) -> TestResult<PathBuf> {
    let path = root.join(format!("instances/{name}/instance.json"));
    let mut record: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    change(&mut record);
    std::fs::write(&path, serde_json::to_vec_pretty(&record)?)?;
    Ok(path)
}

/// A root at rest with these instances, each with two commits.
async fn at_rest(names: &[&str]) -> TestResult<tempfile::TempDir> {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    for name in names {
        let instance = store.create(NewInstance::with_id(id(name))).await?;
        marked(&instance, 1).await?;
        marked(&instance, 2).await?;
    }
    store.shutdown().await?;
    Ok(root)
}

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
    let (copy, lagging) = (tempfile::tempdir()?, options(|o| o.materialise_within = Duration::from_secs(3600)));
    let store = Store::open_with(root.path(), Counter, lagging).await?;
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
    let lagging = options(|o| o.materialise_within = Duration::from_secs(3600));
    let store = Store::open_with(root.path(), Counter, lagging).await?;
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
