//! Checkpoints: what is acknowledged is found again, after whatever death, and the file is never
//! ahead of what is durable.
#![allow(missing_docs)]

mod common;
#[path = "common/strace.rs"]
mod strace;
#[path = "common/worker.rs"]
mod worker;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use common::{Counter, TestResult, another_process, id};
use fiefdom::jobs::{Attempt, Batch, BatchItem, BatchSettings, Job, Runner};
use fiefdom::{
    BoxError, Checkpoint, Doctor, Durability, Error, Instance, InstanceRef, LastCheckpoint, NewInstance, Options,
    Session, Store, Untyped, View,
};
use serde_json::{Value, json};
use strace::Strace;
use worker::Worker;

/// Kills at random moments; a longer campaign sets `FIEFDOM_TEST_CHECKPOINT_KILLS`.
const KILLS: u64 = 25;

#[test]
#[ignore = "started by another test"]
fn be_a_worker() -> TestResult {
    worker::work()
}

fn file_of(root: &Path, name: &str) -> std::path::PathBuf {
    root.join("instances").join(name).join("logs/checkpoint.json")
}

/// What the file says, as a program of any language reads it.
fn in_file(root: &Path, name: &str) -> Option<Value> {
    let bytes = std::fs::read(file_of(root, name)).ok()?;
    Some(serde_json::from_slice(&bytes).expect("a whole document"))
}

async fn made(store: &Store<Untyped>, name: &str) -> TestResult<InstanceRef<Untyped>> {
    Ok(store.create(NewInstance::with_id(id(name))).await?.instance().clone())
}

fn full() -> Checkpoint {
    Checkpoint::new("tests")
        .message("größe: 12 of 40")
        .data(json!({"next": 13, "pi": 0.1}))
        .worker("agent-2")
        .tool("cargo")
        .tool("rg")
}

async fn last(instance: &InstanceRef<Untyped>) -> TestResult<LastCheckpoint> {
    Ok(instance.last_checkpoint().await?.ok_or("no checkpoint")?)
}

#[tokio::test]
async fn a_checkpoint_is_an_event_and_a_file_and_reads_back_whole() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let instance = made(&store, "a").await?;
    assert_eq!(instance.last_checkpoint().await?, None);
    assert_eq!(instance.checkpoint(Checkpoint::new("begun")).await?, 1);
    let attempt = instance.commit(|tx| Ok(tx.begin_attempt())).await?.value;
    assert_eq!(instance.checkpoint(full()).await?, 2);
    assert_eq!(in_file(root.path(), "a").ok_or("no file")?["seq"], 2, "the file is there before the reply");
    let found = last(&instance).await?;
    assert_eq!((found.seq, found.attempt, &found.checkpoint), (2, attempt, &full()));
    store.shutdown().await?;

    let on_disk = in_file(root.path(), "a").ok_or("no file")?;
    let expected = json!({"seq": 2, "at": found.at, "attempt": 1, "step": "tests", "message": "größe: 12 of 40",
        "data": {"next": 13, "pi": 0.1}, "worker": "agent-2", "tools": ["cargo", "rg"]});
    assert_eq!(on_disk, expected);
    let view = View::open(root.path())?;
    assert_eq!(view.last_checkpoint(&id("a"))?, Some(found.clone()));
    let events = view.events(&id("a"), 1)?;
    assert_eq!(events.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), ["checkpoint", "checkpoint"]);
    assert_eq!(events[1].data_as::<Value>()?["message"], "größe: 12 of 40");

    let store = Store::open(root.path(), Untyped).await?;
    assert_eq!(last(&store.get(&id("a")).await?).await?, found, "also for another process");
    store.shutdown().await?;
    assert!(Doctor::examine(root.path())?.findings.is_empty(), "the doctor knows the file");
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_missing_damaged_or_behind_is_written_anew_from_the_event() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let instance = made(&store, "a").await?;
    instance.checkpoint(Checkpoint::new("one")).await?;
    let path = file_of(root.path(), "a");
    let behind = std::fs::read(&path)?;
    instance.append("other", 1).await?;
    instance.checkpoint(full()).await?;
    let right = std::fs::read(&path)?;
    for wrong in [None, Some(b"{\"seq\":3".to_vec()), Some(Vec::new()), Some(behind)] {
        match &wrong {
            Some(bytes) => std::fs::write(&path, bytes)?,
            None => std::fs::remove_dir_all(path.parent().ok_or("logs")?)?,
        }
        store.flush().await?;
        assert_eq!(store.view().last_checkpoint(&id("a"))?.ok_or("none")?.checkpoint, full(), "{wrong:?}");
        assert_eq!(last(&instance).await?.checkpoint, full(), "{wrong:?}");
        assert_eq!(std::fs::read(&path)?, right, "{wrong:?}");
    }
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn the_log_is_not_read_while_the_file_is_right() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let instance = made(&store, "a").await?;
    instance.checkpoint(full()).await?;
    store.flush().await?;
    let log = instance.path().join("events/events.jsonl");
    let lines = std::fs::read(&log)?;
    std::fs::write(&log, "not a line\n")?;
    assert_eq!(last(&instance).await?.checkpoint, full());
    // And with a file that cannot be used, what is wrong with the log is said.
    std::fs::remove_file(file_of(root.path(), "a"))?;
    assert!(matches!(instance.last_checkpoint().await, Err(Error::Corrupt { .. })));
    std::fs::write(&log, lines)?;
    assert_eq!(last(&instance).await?.checkpoint, full());
    Ok(store.shutdown().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_at_once_the_last_one_is_in_the_file() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    for round in 0..5 {
        let name = format!("a{round}");
        let instance = made(&store, &name).await?;
        let all = (0..40).map(|n| {
            let instance = instance.clone();
            tokio::spawn(async move { instance.checkpoint(Checkpoint::new(format!("s{n}"))).await })
        });
        let mut newest = 0;
        for one in all.collect::<Vec<_>>() {
            newest = newest.max(one.await??);
        }
        assert_eq!(newest, 40);
        assert_eq!(in_file(root.path(), &name).ok_or("no file")?["seq"], newest);
        assert_eq!(last(&instance).await?.seq, newest);
    }
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn a_file_that_cannot_be_written_takes_nothing_from_the_checkpoint() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let instance = made(&store, "a").await?;
    // Somebody put a directory there.
    let path = file_of(root.path(), "a");
    std::fs::create_dir_all(path.join("in-the-way"))?;
    assert_eq!(instance.checkpoint(full()).await?, 1);
    assert_eq!(last(&instance).await?.checkpoint, full());
    std::fs::remove_dir_all(&path)?;
    assert_eq!(last(&instance).await?.seq, 1);
    assert_eq!(in_file(root.path(), "a").ok_or("no file")?["seq"], 1);
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn what_is_beyond_the_limits_leaves_the_last_one_as_it_was() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let instance = made(&store, "a").await?;
    instance.checkpoint(full()).await?;
    let many = (0..65).fold(Checkpoint::new("x"), |checkpoint, n| checkpoint.tool(format!("t{n}")));
    let wrong = [
        (Checkpoint::new(""), "step"),
        (Checkpoint::new("two\nlines"), "step"),
        (Checkpoint::new("x".repeat(129)), "step"),
        (Checkpoint::new("x").worker(""), "worker"),
        (Checkpoint::new("x").tool("a\0"), "tool"),
        (many, "number of tools"),
        (Checkpoint::new("x").message("m".repeat(4097)), "message"),
        (Checkpoint::new("x").data(json!("d".repeat(256 << 10))), "event"),
    ];
    for (checkpoint, word) in wrong {
        let error = instance.checkpoint(checkpoint).await.expect_err(word);
        assert!(matches!(error, Error::InvalidInput { .. } | Error::TooLarge { .. }), "{error:?}");
        assert!(error.to_string().contains(word), "no {word:?} in {error}");
    }
    assert_eq!(last(&instance).await?.seq, 1);
    assert_eq!(instance.record().await?.revision, 1, "nothing was committed");
    Ok(store.shutdown().await?)
}

#[test]
fn a_kill_at_any_call_between_the_commit_and_the_reply_loses_no_checkpoint() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let calls = ["openat", "unlinkat", "fchmod", "write", "fsync", "?rename,renameat,renameat2"];
    let (mut behind, mut killed) = (0, 0);
    for call in calls {
        // Until it has fewer of them.
        for nth in 1.. {
            let (acknowledged, was_behind) = killed_at(call, nth)?;
            if acknowledged {
                break;
            }
            killed += 1;
            behind += u64::from(was_behind);
        }
    }
    assert!(killed > behind && behind >= 6, "{killed} kills, and the file was behind after {behind}");
    common::shown!("killed at {killed} calls behind the commit; the file was behind after {behind} of them");
    Ok(())
}

/// Kills at the `nth` such call of a checkpoint. Says whether it was acknowledged before, and whether
/// the file was behind.
fn killed_at(call: &str, nth: u64) -> TestResult<(bool, bool)> {
    let root = tempfile::tempdir()?;
    let mut worker = Worker::start()?;
    worker.open(root.path(), "within_ms=3600000")?;
    worker.must("create a")?;
    worker.must("checkpoint a one")?;
    let disk = *worker.threads()?.get("disk").ok_or("no thread for the disk")?;
    let strace =
        Strace::attach(&[disk], &[&format!("trace={call}"), &format!("inject={call}:signal=KILL:when={nth}")])?;
    worker.tell("checkpoint a two")?;
    let acknowledged = worker.answer_if_alive().is_some();
    drop(strace);
    worker.kill()?;
    let file = in_file(root.path(), "a").ok_or("the first one had a file")?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let found = runtime.block_on(async {
        let store = Store::open(root.path(), Counter).await?;
        let found = store.get(&id("a")).await?.last_checkpoint().await?;
        store.shutdown().await?;
        TestResult::Ok(found.ok_or("no checkpoint")?)
    })?;
    // Every call of this thread comes after the commit: it is durable by then.
    assert_eq!((found.seq, found.checkpoint.step.as_str()), (2, "two"), "killed at {call} {nth}");
    assert!(!acknowledged || file["seq"] == 2, "the reply came before the file");
    assert_eq!(in_file(root.path(), "a").ok_or("no file")?["seq"], 2, "and it is written anew");
    Ok((acknowledged, file["seq"] == 1))
}

/// The process that is killed at random moments. A line that it prints is an acknowledgement.
#[tokio::test]
#[ignore = "started by another test"]
async fn be_a_checkpointer() -> TestResult {
    let mut options = Options::default();
    options.durability = Durability::Os;
    options.log_segment_bytes = 16 << 10;
    let store = Store::open_with(std::env::var("FIEFDOM_TEST_ROOT")?, Untyped, options).await?;
    let session = store.get_or_create(NewInstance::with_id(id("a"))).await?;
    let before = session.last_checkpoint().await?.map_or(Ok(0), |last| last.checkpoint.data_as::<u64>())?;
    println!("\nopened");
    for n in before + 1.. {
        session.checkpoint(Checkpoint::new("n").data(n.into())).await?;
        println!("kept {n}");
    }
    Ok(())
}

/// This test binary again, as another process.
fn start(name: &str, root: &Path) -> TestResult<Child> {
    let mut command = another_process(name)?;
    command.env("FIEFDOM_TEST_ROOT", root);
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
}

#[test]
fn a_kill_at_a_random_moment_loses_no_acknowledged_checkpoint() -> TestResult {
    let kills: u64 = std::env::var("FIEFDOM_TEST_CHECKPOINT_KILLS").map_or(Ok(KILLS), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let root = tempfile::tempdir()?;
    let mut known = 0;
    for nth in 0..kills {
        let mut child = start("be_a_checkpointer", root.path())?;
        let said = child.stdout.take().ok_or("no output")?;
        let said = common::lines_of_a_life(child, said, "opened", Duration::from_micros((nth * 7_919) % 40_000))?;
        let kept = said.iter().filter_map(|line| line.strip_prefix("kept ")?.parse::<u64>().ok()).max();
        known = known.max(kept.unwrap_or(0));
        let file = in_file(root.path(), "a").map(|file| file["data"].as_u64());
        let found = runtime.block_on(async {
            let store = Store::open(root.path(), Untyped).await?;
            let found = match store.get(&id("a")).await {
                Ok(instance) => instance.last_checkpoint().await?,
                Err(Error::NotFound { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            store.shutdown().await?;
            TestResult::Ok(found)
        })?;
        let found = found.map_or(Ok(0), |last| last.checkpoint.data_as::<u64>())?;
        assert!((known..=known + 1).contains(&found), "{found} is there, {known} was acknowledged");
        assert!(file.flatten().unwrap_or(0) <= found, "the file was ahead");
        known = found;
    }
    assert!(known > 0, "no life was long enough");
    common::shown!("{kills} kills, {known} checkpoints, none lost");
    Ok(())
}

/// A job that counts to ten, one step per checkpoint, and stops to be killed at five.
struct Counting;

impl Instance for Counting {
    const KIND: &'static str = "counting";
    type State = Vec<u64>;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), _: &NewInstance) -> Result<Vec<u64>, BoxError> {
        Ok(Vec::new())
    }
}

impl Job for Counting {
    async fn run(&self, session: Session<Self>, attempt: Attempt) -> Result<(), BoxError> {
        let done = attempt.checkpoint.as_ref().map_or(Ok(0), |last| last.checkpoint.data_as::<u64>())?;
        session.update(move |seen| seen.push(done)).await?;
        for n in done + 1..=10 {
            session.checkpoint(Checkpoint::new("counted").data(n.into()).worker("counter")).await?;
            if n == 5 {
                println!("\nfive");
                attempt.stopped().await;
            }
        }
        Ok(())
    }
}

async fn run_batch(root: &Path) -> TestResult<Vec<u64>> {
    let store = Store::open(root, Counting).await?;
    let items = vec![BatchItem::new(id("count"), Value::Null)];
    let batch = Batch::open(&store, id("all"), items, BatchSettings::default()).await?;
    let summary = Runner::new(store.clone()).run(&batch, |_| ()).await?;
    assert!(summary.all_succeeded(), "{summary:?}");
    let seen = store.get(&id("count")).await?.state().await?;
    store.shutdown().await?;
    Ok(seen)
}

#[tokio::test]
#[ignore = "started by another test"]
async fn be_a_runner() -> TestResult {
    run_batch(Path::new(&std::env::var("FIEFDOM_TEST_ROOT")?)).await.map(drop)
}

#[tokio::test]
async fn a_job_whose_process_died_gets_its_last_checkpoint_at_the_next_attempt() -> TestResult {
    let root = tempfile::tempdir()?;
    let mut child = start("be_a_runner", root.path())?;
    let said = BufReader::new(child.stdout.take().ok_or("no output")?);
    assert!(said.lines().map_while(Result::ok).any(|line| line == "five"), "it ended before");
    child.kill()?;
    child.wait()?;
    assert_eq!(run_batch(root.path()).await?, [0, 5], "it went on where it was");
    assert_eq!(in_file(root.path(), "count").ok_or("no file")?["attempt"], 2);
    Ok(())
}
