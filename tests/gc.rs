//! Retention: what is over for long enough goes as a whole, and nothing else does.
#![allow(missing_docs)]

#[path = "common/cli.rs"]
mod cli;
mod common;
#[path = "common/strace.rs"]
mod strace;
#[path = "common/worker.rs"]
mod worker;

use std::path::Path;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use cli::Fief;
use common::{Counter, TestResult, copy_tree, eventually, id, shown};
use fiefdom::{
    Error, GcReport, NewInstance, RefusedReason, Retention, RetentionRule, Status, Store, SubDir, Untyped, View,
};
use strace::Strace;
use worker::Worker;

/// Kills in the middle of a collection; a longer campaign sets `FIEFDOM_TEST_GC_KILLS`.
const GC_KILLS: usize = 40;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
#[ignore = "started by another test"]
fn be_a_worker() -> TestResult {
    worker::work()
}

/// Makes an instance that is over.
async fn over(store: &Store<Untyped>, name: &str, status: Status) -> TestResult {
    let session = store.create(NewInstance::with_id(id(name))).await?;
    session.transition(Status::Running, None).await?;
    session.transition(status, None).await?;
    Ok(())
}

/// Changes a record at rest, as a person would.
fn edit(root: &Path, name: &str, field: &str, value: serde_json::Value) -> TestResult {
    let path = root.join("instances").join(name).join("instance.json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    record[field] = value;
    Ok(std::fs::write(&path, serde_json::to_vec_pretty(&record)?)?)
}

/// Makes it have ended so many hours ago.
fn aged(root: &Path, name: &str, hours: i64) -> TestResult {
    edit(root, name, "ended_at", (Utc::now() - TimeDelta::hours(hours)).to_rfc3339().into())
}

fn deleted(report: &GcReport) -> Vec<&str> {
    let mut ids: Vec<&str> = report.deleted.iter().map(|it| it.instance_id.as_str()).collect();
    ids.sort_unstable();
    ids
}

fn refused(report: &GcReport) -> Vec<String> {
    let mut all: Vec<String> = report.refused.iter().map(|it| format!("{}: {}", it.instance_id, it.reason)).collect();
    all.sort();
    all
}

fn left(root: &Path) -> TestResult<Vec<String>> {
    let names = std::fs::read_dir(root.join("instances"))?.map(|entry| Ok(entry?.file_name().to_string_lossy().into()));
    let mut names: Vec<String> = names.collect::<TestResult<_>>()?;
    names.sort();
    Ok(names)
}

fn everything() -> Retention {
    Retention::new().rule(RetentionRule::new())
}

#[tokio::test]
async fn what_ended_long_enough_ago_goes_and_what_did_not_or_is_not_over_stays() -> TestResult {
    let temp = tempfile::tempdir()?;
    let root = temp.path();
    let store = Store::open(root, Untyped).await?;
    for (name, status) in [("old", Status::Succeeded), ("oldest", Status::Failed), ("young", Status::Cancelled)] {
        over(&store, name, status).await?;
    }
    for name in ["pending", "pinned", "endless", "future"] {
        store.create(NewInstance::with_id(id(name))).await?;
    }
    store.shutdown().await?;
    for (name, hours) in [("old", 3), ("oldest", 300), ("young", 1), ("pinned", 9), ("pending", 9), ("future", -5)] {
        aged(root, name, hours)?;
    }
    edit(root, "pinned", "pinned", true.into())?;
    for name in ["pinned", "endless", "future"] {
        edit(root, name, "status", "succeeded".into())?;
    }
    let store = Store::open(root, Untyped).await?;
    let policy = Retention::new().rule(RetentionRule::new().older_than(2 * HOUR));
    let foreseen = store.gc_dry_run(&policy).await?;
    assert_eq!(left(root)?.len(), 7, "a dry run changes nothing");
    let report = store.gc(&policy).await?;
    assert_eq!(deleted(&report), ["old", "oldest"]);
    assert_eq!(refused(&report), ["endless: its record does not say when it ended", "pinned: it is pinned"]);
    assert_eq!(left(root)?, ["endless", "future", "pending", "pinned", "young"]);
    assert_eq!(report.looked_at, 7);
    assert_eq!((deleted(&foreseen), refused(&foreseen)), (deleted(&report), refused(&report)));
    assert_eq!((foreseen.dry_run, foreseen.bytes_freed), (true, report.bytes_freed));
    assert_eq!(std::fs::read_dir(root.join(".fiefdom/trash"))?.count(), 0);
    // The names are free.
    store.create(NewInstance::with_id(id("old"))).await?;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn the_newest_that_a_rule_is_for_are_kept_and_the_first_rule_decides() -> TestResult {
    let temp = tempfile::tempdir()?;
    let root = temp.path();
    let store = Store::open(root, Untyped).await?;
    for n in 0..6 {
        over(&store, &format!("s{n}"), Status::Succeeded).await?;
        over(&store, &format!("f{n}"), Status::Failed).await?;
    }
    store.create(NewInstance::with_id(id("tagged")).tag("keep", "yes").kind("special")).await?;
    store.get(&id("tagged")).await?.transition(Status::Succeeded, None).await?;
    store.shutdown().await?;
    for n in 0..6 {
        aged(root, &format!("s{n}"), n)?;
        aged(root, &format!("f{n}"), n)?;
    }
    let policy = Retention::new()
        .rule(RetentionRule::new().kind("special").tag("keep", "yes").older_than(100 * HOUR))
        .rule(RetentionRule::new().status(Status::Failed).older_than(3 * HOUR).keep(1))
        .rule(RetentionRule::new().status(Status::Succeeded).older_than(HOUR / 2).keep(2));
    let store = Store::open(root, Untyped).await?;
    let report = store.gc(&policy).await?;
    // The youngest counts among the newest, also when it is too young to go.
    assert_eq!(deleted(&report), ["f3", "f4", "f5", "s2", "s3", "s4", "s5"]);
    assert_eq!(report.kept, 1, "s1 is old enough");
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn an_instance_that_is_live_here_or_elsewhere_stays() -> TestResult {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Untyped).await?;
    for name in ["here", "there", "rest"] {
        over(&store, name, Status::Succeeded).await?;
    }
    store.shutdown().await?;
    let elsewhere = Store::open(temp.path(), Untyped).await?;
    let there = elsewhere.get(&id("there")).await?;
    let store = Store::open(temp.path(), Untyped).await?;
    let here = store.get(&id("here")).await?;
    let dry = store.view().gc_dry_run(&everything())?;
    let report = store.gc(&everything()).await?;
    for report in [&dry, &report] {
        assert_eq!(deleted(report), ["rest"]);
        assert_eq!(refused(report), ["here: it is in use", "there: it is in use"]);
    }
    // Both can be written as before.
    here.append("later", 1).await?;
    there.append("later", 1).await?;
    elsewhere.shutdown().await?;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_back_or_pinned_after_the_look_is_found_under_the_lock_and_stays() -> TestResult {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Untyped).await?;
    for n in 0..30 {
        over(&store, &format!("i{n:02}"), Status::Failed).await?;
    }
    store.shutdown().await?;
    for n in 0..30 {
        aged(temp.path(), &format!("i{n:02}"), 100 - n)?;
    }
    let store = Store::open(temp.path(), Untyped).await?;
    let mut begun = false;
    // The oldest go first; the last two are changed when the first is gone.
    let report = store
        .gc_watched(&everything(), |_, total| {
            assert_eq!(total, 30);
            if !std::mem::replace(&mut begun, true) {
                for words in [["update", "i28", "--status", "pending"].as_slice(), &["pin", "i29"]] {
                    let mut command = cli::bare();
                    command.arg("--root").arg(temp.path()).args(words);
                    assert!(command.output().expect("the tool").status.success());
                }
            }
        })
        .await?;
    assert_eq!(report.deleted.len(), 28);
    assert_eq!(refused(&report), ["i28: it was changed meanwhile", "i29: it is pinned"]);
    assert_eq!(left(temp.path())?, ["i28", "i29"]);
    assert_eq!(store.get(&id("i28")).await?.record().await?.status, Status::Pending);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_job_stays_while_its_batch_may_go_on_and_goes_with_it() -> TestResult {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Untyped).await?;
    let batch = async |name: &str, status: Status| -> TestResult {
        store.create(NewInstance::with_id(id(name)).kind("batch")).await?;
        let job = store.create(NewInstance::with_id(id(&format!("{name}-1"))).tag("batch", name)).await?;
        job.transition(Status::Succeeded, None).await?;
        store.get(&id(name)).await?.transition(status, None).await?;
        Ok(())
    };
    batch("running", Status::Running).await?;
    batch("failed", Status::Failed).await?;
    batch("done", Status::Succeeded).await?;
    store.create(NewInstance::with_id(id("orphan-1")).tag("batch", "nowhere")).await?;
    store.get(&id("orphan-1")).await?.transition(Status::Succeeded, None).await?;
    store.shutdown().await?;
    let store = Store::open(temp.path(), Untyped).await?;
    let succeeded = Retention::new().rule(RetentionRule::new().status(Status::Succeeded));
    let report = store.gc(&succeeded).await?;
    assert_eq!(deleted(&report), ["done", "done-1", "orphan-1"]);
    let stays = |job: &str, batch: &str| format!("{job}: batch {batch} is not done with it");
    assert_eq!(refused(&report), [stays("failed-1", "failed"), stays("running-1", "running")]);
    assert!(matches!(&report.refused[0].reason, RefusedReason::BatchGoesOn(_)));
    // The batch goes by this policy, and its job with it.
    assert_eq!(deleted(&store.gc(&everything()).await?), ["failed", "failed-1"]);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn the_bytes_are_those_of_the_disk_and_not_of_what_a_link_leads_to() -> TestResult {
    let temp = tempfile::tempdir()?;
    let outside = temp.path().join("outside");
    std::fs::write(&outside, vec![1; 4 << 20])?;
    let store = Store::open(temp.path().join("root"), Untyped).await?;
    let session = store.create(NewInstance::with_id(id("a"))).await?;
    let workspace = session.dir(SubDir::Workspace).await?;
    std::fs::create_dir(workspace.join("deep"))?;
    std::fs::write(workspace.join("deep/file"), vec![1; 1 << 20])?;
    std::fs::File::create(workspace.join("sparse"))?.set_len(1 << 30)?;
    std::os::unix::fs::symlink(&outside, workspace.join("link"))?;
    std::os::unix::fs::symlink(temp.path(), workspace.join("above"))?;
    session.transition(Status::Succeeded, None).await?;
    drop(session);
    store.shutdown().await?;
    let store = Store::open(temp.path().join("root"), Untyped).await?;
    let report = store.gc(&everything()).await?;
    assert!(report.bytes_freed > 1 << 20 && report.bytes_freed < 2 << 20, "{}", report.bytes_freed);
    assert_eq!(std::fs::metadata(&outside)?.len(), 4 << 20, "the link was not followed");
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_refused_and_the_others_go() -> TestResult {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Untyped).await?;
    over(&store, "bad", Status::Succeeded).await?;
    over(&store, "good", Status::Succeeded).await?;
    store.shutdown().await?;
    std::fs::write(temp.path().join("instances/bad/instance.json"), "{")?;
    let store = Store::open(temp.path(), Untyped).await?;
    let report = store.gc(&everything()).await?;
    assert_eq!(deleted(&report), ["good"]);
    assert!(matches!(report.refused[0].reason, RefusedReason::Failed(Error::Corrupt { .. })), "{report:?}");
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_rule_for_what_is_not_over_is_refused() -> TestResult {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Untyped).await?;
    let policy = Retention::new().rule(RetentionRule::new().status(Status::Running));
    assert!(matches!(store.gc(&policy).await, Err(Error::InvalidInput { .. })));
    assert!(matches!(store.view().gc_dry_run(&policy), Err(Error::InvalidInput { .. })));
    assert!(matches!(store.gc_every(policy, HOUR), Err(Error::InvalidInput { .. })));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn in_the_background_it_goes_on_until_it_is_stopped_or_the_store_is_shut_down() -> TestResult {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Untyped).await?;
    for name in ["a", "b"] {
        over(&store, name, Status::Succeeded).await?;
    }
    store.shutdown().await?;
    let store = Store::open(temp.path(), Untyped).await?;
    let task = store.gc_every(everything(), Duration::ZERO)?;
    eventually("both to be deleted", || left(temp.path()).is_ok_and(|left| left.is_empty())).await;
    eventually("a report", || matches!(task.last(), Some(Ok(_)))).await;
    // It holds nothing that keeps the store from being shut down, or the next from being opened.
    store.shutdown().await?;
    task.stop();
    let store = Store::open(temp.path(), Untyped).await?;
    over(&store, "c", Status::Succeeded).await?;
    store.shutdown().await?;
    assert_eq!(left(temp.path())?, ["c"]);
    Ok(())
}

/// The calls by which a deletion changes the disk, and the threads that make them.
const CALLS: [&str; 8] = ["openat", "write", "pwrite64", "fsync", "fdatasync", "renameat", "unlinkat", "flock"];
const THREADS: [&str; 2] = ["disk", "fiefdom-journal"];

#[tokio::test]
async fn a_collection_that_is_killed_at_any_call_leaves_each_instance_whole_or_gone() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let rest = tempfile::tempdir()?;
    let store = Store::open(rest.path(), Counter).await?;
    let names = ["a", "b", "c"];
    for name in names {
        let session = store.create(NewInstance::with_id(id(name))).await?;
        session.append("made", name).await?;
        std::fs::write(session.dir(SubDir::Workspace).await?.join("file"), name)?;
        session.transition(Status::Succeeded, None).await?;
    }
    store.shutdown().await?;
    let ready = || -> TestResult<(tempfile::TempDir, Worker)> {
        let root = tempfile::tempdir()?;
        copy_tree(rest.path(), root.path())?;
        let mut worker = Worker::start()?;
        worker.open(root.path(), "")?;
        Ok((root, worker))
    };
    let mut places = Vec::new();
    for thread in THREADS {
        let (_root, mut worker) = ready()?;
        let tid = worker.threads()?[thread];
        let strace = Strace::attach(&[tid], &[&format!("trace={}", CALLS.join(",")), "signal=none"])?;
        assert_eq!(worker.must("gc")?, "3");
        let trace = strace.end()?;
        for call in CALLS {
            let times = trace.iter().filter(|line| line.starts_with(&format!("{call}("))).count();
            places.extend((1..=times).map(|nth| (thread, call, nth)));
        }
    }
    assert!(places.len() > 30, "{places:?}");
    let most = std::env::var("FIEFDOM_TEST_GC_KILLS").map_or(Ok(GC_KILLS), |text| text.parse())?;
    let step = places.len().div_ceil(most.max(1));
    let (mut kills, mut whole, mut gone) = (0, 0, 0);
    // Where an instance goes is killed at in any case.
    let chosen = places.iter().enumerate().filter(|(n, (_, call, _))| n % step == 0 || *call == "renameat");
    for (_, (thread, call, nth)) in chosen {
        let (root, mut worker) = ready()?;
        let tid = worker.threads()?[*thread];
        let inject = format!("inject={call}:signal=KILL:when={nth}");
        let strace = Strace::attach(&[tid], &[&format!("trace={call}"), &inject])?;
        worker.tell("gc")?;
        kills += usize::from(worker.answer_if_alive().is_none());
        drop(strace);
        worker.kill()?;
        let store = Store::open(root.path(), Counter).await?;
        for name in names {
            let case = format!("{thread} {call} {nth}: {name}");
            match store.get(&id(name)).await {
                Err(Error::NotFound { .. }) => {
                    gone += 1;
                    assert!(!root.path().join("instances").join(name).exists(), "{case}");
                    // The name is free.
                    store.create(NewInstance::with_id(id(name))).await?;
                }
                found => {
                    whole += 1;
                    let instance = found?;
                    assert_eq!(std::fs::read_to_string(instance.path().join("workspace/file"))?, name, "{case}");
                    assert_eq!(store.view().events(&id(name), 1)?.len(), 1, "{case}");
                }
            }
        }
        store.shutdown().await?;
        assert_eq!(std::fs::read_dir(root.path().join(".fiefdom/trash"))?.count(), 0, "{thread} {call} {nth}");
    }
    assert!(kills > 0 && whole > 0 && gone > 0, "{kills} kills, {whole} whole, {gone} gone");
    shown!("a collection: {kills} kills at {} places, {whole} instances whole, {gone} gone", places.len());
    Ok(())
}

fn ended(fief: &Fief, name: &str, hours: i64) {
    fief.ok(["create", name]);
    fief.ok(["update", name, "--status", "succeeded"]);
    aged(&fief.root, name, hours).expect("edited");
}

#[test]
fn gc_on_the_command_line_says_what_went_what_stayed_and_why() {
    let fief = Fief::new();
    for (name, hours) in [("old", 50), ("older", 60), ("young", 1)] {
        ended(&fief, name, hours);
    }
    fief.ok(["pin", "older"]);
    let dry = fief.ok(["gc", "--older-than", "1d", "--dry-run"]);
    assert!(dry.contains("would delete") && dry.contains("old"), "{dry}");
    assert_eq!(left(&fief.root).expect("a list").len(), 3);
    let report = fief.json(["gc", "--older-than", "1d"]);
    assert_eq!(report["deleted"][0]["instance_id"], "old");
    assert!(report["bytes_freed"].as_u64().expect("a number") > 0);
    assert_eq!(report["refused"][0]["reason"], "it is pinned");
    fief.ok(["unpin", "older"]);
    assert!(fief.ok(["gc", "--older-than", "1d", "--keep", "1"]).contains("deleted 1 of 2"), "young is the newest");
    assert_eq!(left(&fief.root).expect("a list"), ["young"]);
    assert!(fief.ok(["gc", "--keep", "0"]).contains("deleted 1 of 1"));
}

#[test]
fn gc_refuses_wrong_input_and_changes_nothing() {
    let fief = Fief::new();
    ended(&fief, "old", 50);
    fief.run(["gc"]).failed(2, &["--older-than", "--keep"]);
    fief.run(["gc", "--older-than", "soon"]).failed(2, &["a duration is"]);
    fief.run(["gc", "--older-than", "1d", "--status", "running"]).failed(2, &["running", "is not over"]);
    fief.run(["pin", "nothing"]).failed(3, &["there is no instance"]);
    assert_eq!(left(&fief.root).expect("a list"), ["old"]);
    let nowhere = Fief::new();
    assert!(nowhere.ok(["gc", "--older-than", "1d"]).contains("deleted 0 of 0"));
    assert!(!nowhere.root.exists(), "a mistyped root leaves nothing behind");
}

#[test]
fn an_instance_goes_from_root_to_root_through_a_file_and_through_a_pipe() {
    let (from, to) = (Fief::new(), Fief::new());
    from.ok(["create", "a", "--state", r#"{"step":1}"#]);
    from.ok(["append", "a", "done"]);
    let file = from.beside("a.tar.gz");
    let path = file.to_str().expect("utf-8");
    assert!(from.ok(["export", "a", "-o", path]).contains("exported a revision 1"));
    assert_eq!(to.ok(["import", path]).trim(), "a");
    to.run(["import", path]).failed(2, &["exists already"]);
    let imported = to.json(["import", path, "--id", "b"]);
    assert_eq!((&imported["instance_id"], &imported["origin"]["instance_id"]), (&"b".into(), &"a".into()));
    assert_eq!(to.record("b")["state"]["step"], 1);
    assert_eq!(to.events("b"), ["done", "instance.imported"]);
    let piped = from.command(["export", "a", "-o", "-"]).output().expect("the tool");
    assert!(piped.status.success() && piped.stderr.is_empty(), "{piped:?}");
    let ran = to.run_with_input(["import", "-", "--id", "c"], &piped.stdout);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(to.record("c")["state"]["step"], 1);
}

#[test]
fn export_and_import_fail_with_the_right_code_and_leave_nothing() {
    let fief = Fief::new();
    fief.ok(["create", "a"]);
    let file = fief.beside("a.tar.gz");
    let path = file.to_str().expect("utf-8");
    fief.run(["export", "nothing", "-o", path]).failed(3, &["there is no instance"]);
    fief.run(["--json", "export", "a", "-o", "-"]).failed(2, &["standard output"]);
    fief.run(["export", "a", "-o", "/nowhere/x/a.tar.gz"]).failed(5, &["/nowhere"]);
    assert!(!file.exists());
    let garbage = fief.write("garbage", "no archive");
    fief.run(["import", &garbage]).failed(2, &["nothing was imported"]);
    fief.run(["import", "/nowhere.tar.gz"]).failed(2, &["cannot be read"]);
    fief.ok(["export", "a", "-o", path]);
    fief.run(["import", path, "--id", "b", "--max-bytes", "1000"]).failed(2, &["more than 1000 bytes"]);
    fief.run(["import", path, "--id", "b", "--max-entries", "1"]).failed(2, &["more than 1 entries"]);
    assert_eq!(left(&fief.root).expect("a list"), ["a"]);
}

#[test]
fn a_dry_run_on_nothing_is_empty() -> TestResult {
    let temp = tempfile::tempdir()?;
    let report = View::open(temp.path().join("none"))?.gc_dry_run(&everything())?;
    assert!(report.dry_run && report.deleted.is_empty() && report.looked_at == 0);
    Ok(())
}
