//! What a dead process left in its log: whole, torn, damaged, and recovered by one or by many.
//!
//! The remains of a process are a copy of its root, taken while its files lag behind its log.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::disks::{Mount, missing, skip, text};
use common::{Counter, TestResult, another_process, copy_tree, id, lagging, options};
use fiefdom::{Error, NewInstance, Status, Store, Untyped, View, Waiting};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Commits of each instance.
const COMMITS: u64 = 4;

/// The root of a process that died after these commits, none of which had reached a file.
async fn remains(commits: u64) -> TestResult<tempfile::TempDir> {
    let (root, copy) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let store = Store::open_with(root.path(), Counter, lagging()).await?;
    let mut instances = Vec::new();
    for name in NAMES {
        instances.push(store.create(NewInstance::with_id(id(name))).await?);
    }
    for n in 1..=commits {
        for instance in &instances {
            let done = instance.commit(move |tx| {
                tx.state_mut().value = n;
                tx.event("counted", &n)
            });
            done.await?;
        }
    }
    copy_tree(root.path(), copy.path())?;
    store.shutdown().await?;
    Ok(copy)
}

fn journal_of(root: &Path) -> TestResult<PathBuf> {
    let writer = std::fs::read_dir(root.join(".fiefdom/writers"))?.next().ok_or("no writer")??.path();
    Ok(writer.join("journal-000001.log"))
}

/// What was written to the log, without the filler behind it.
fn log_of(root: &Path) -> TestResult<Vec<u8>> {
    let mut log = std::fs::read(journal_of(root)?)?;
    log.truncate(log.trim_ascii_end().len());
    log.push(b'\n');
    Ok(log)
}

/// Every value that there is after a recovery; `None` where the instance is taken out of use.
async fn recover(root: &Path) -> TestResult<BTreeMap<&'static str, Option<u64>>> {
    let store = Store::open(root, Untyped).await?;
    let mut values = BTreeMap::new();
    for name in NAMES {
        let value = match store.get(&id(name)).await {
            Err(Error::NotFound { .. }) => continue,
            Err(Error::Corrupt { path, .. }) => {
                assert!(path.exists(), "{} says why", path.display());
                None
            }
            Err(error) => return Err(error.into()),
            Ok(found) => {
                let record = found.record().await?;
                let value = record.state["value"].as_u64().ok_or("no value")?;
                assert_eq!((record.revision, record.last_event_seq), (value, value), "{name}: half a commit");
                let events = store.view().events(found.id(), 1)?;
                let seen = events.iter().map(fiefdom::Event::data_as::<u64>).collect::<Result<Vec<_>, _>>()?;
                assert!(seen.into_iter().eq(1..=value), "{name}: its events are not 1 to {value}");
                Some(value)
            }
        };
        values.insert(name, value);
    }
    store.shutdown().await?;
    assert_eq!(std::fs::read_dir(root.join(".fiefdom/writers"))?.count(), 0, "nothing of a log stays behind");
    Ok(values)
}

fn all(value: u64) -> BTreeMap<&'static str, Option<u64>> {
    NAMES.map(|name| (name, Some(value))).into()
}

fn is_kept(root: &Path) -> bool {
    std::fs::read_dir(root.join(".fiefdom/quarantine")).is_ok_and(|files| files.count() > 0)
}

#[tokio::test]
async fn everything_that_was_acknowledged_comes_back() -> TestResult {
    let root = remains(COMMITS).await?;
    assert!(View::open(root.path())?.record(&id("a")).is_err(), "no file has it yet");
    assert_eq!(recover(root.path()).await?, all(COMMITS));
    assert!(!is_kept(root.path()), "nothing was damaged");
    // And a second recovery finds nothing to do.
    assert_eq!(recover(root.path()).await?, all(COMMITS));
    Ok(())
}

/// A write that was cut short leaves a prefix, wherever it is cut: the more of the log there is, the
/// more comes back, and nothing is half there.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_cut_anywhere_gives_a_prefix() -> TestResult {
    let master = remains(COMMITS).await?;
    let log = log_of(master.path())?;
    let cuts: Vec<usize> = (0..=log.len()).filter(|at| at % 61 == 0 || log[..*at].ends_with(b"\n")).collect();
    let results = each(cuts, |cut| {
        let log = log.clone();
        let master = master.path().to_owned();
        async move {
            let root = tempfile::tempdir()?;
            copy_tree(&master, root.path())?;
            std::fs::write(journal_of(root.path())?, &log[..cut])?;
            let values = recover(root.path()).await?;
            assert!(values.values().all(Option::is_some), "cut at {cut}: a torn tail is no damage");
            let whole_lines = log[..cut].is_empty() || log[..cut].ends_with(b"\n");
            assert_eq!(is_kept(root.path()), !whole_lines, "cut at {cut}: the torn bytes are kept");
            Ok(values)
        }
    })
    .await?;
    let sum = |values: &BTreeMap<_, Option<u64>>| values.values().map(|v| v.unwrap_or(0) + 1).sum::<u64>();
    let sums: Vec<u64> = results.values().map(sum).collect();
    assert!(sums.is_sorted() && sums[0] == 0, "{sums:?}");
    assert_eq!(results.values().last(), Some(&all(COMMITS)));
    // Every commit made a difference: none comes back with another.
    assert_eq!(sums.iter().collect::<std::collections::BTreeSet<_>>().len() as u64, 3 * (COMMITS + 1) + 1);
    Ok(())
}

/// A flipped byte in what was on disk is never taken for the end of the log, and never costs an
/// instance more than it has to: each has all of its commits, or is taken out of use with the bytes
/// kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_found_wherever_it_is() -> TestResult {
    let master = remains(COMMITS).await?;
    let log = log_of(master.path())?;
    let last_batch = log.windows(8).rposition(|at| at == b"{\"batch\"").ok_or("no batch")?;
    // The last batch may be a torn write, for all that the log says of it.
    let flips: Vec<usize> = (0..last_batch - 20).filter(|at| at % 83 == 0 || log[*at] == b'\n').collect();
    each(flips, |at| {
        let mut log = log.clone();
        let master = master.path().to_owned();
        async move {
            let root = tempfile::tempdir()?;
            copy_tree(&master, root.path())?;
            log[at] ^= 0x55;
            std::fs::write(journal_of(root.path())?, &log)?;
            let values = recover(root.path()).await?;
            for name in NAMES {
                let value = values.get(name).unwrap_or_else(|| panic!("byte {at}: {name} is lost"));
                assert!(value.is_none_or(|value| value == COMMITS), "byte {at}: {name} is at {value:?}");
            }
            let untouched = values.values().flatten().count();
            assert!(untouched >= NAMES.len() - 1, "byte {at}: more than one instance suffers: {values:?}");
            assert!(is_kept(root.path()), "byte {at}: the damaged log is kept");
            Ok(())
        }
    })
    .await?;
    Ok(())
}

/// Runs the cases, two at a time, and collects what they give.
async fn each<F, T>(cases: Vec<usize>, run: impl Fn(usize) -> F) -> TestResult<BTreeMap<usize, T>>
where
    F: Future<Output = TestResult<T>> + Send + 'static,
    T: Send + 'static,
{
    let run = &run;
    stream::iter(cases)
        .map(|case| async move { Ok((case, tokio::spawn(run(case)).await??)) })
        .buffer_unordered(2)
        .try_collect()
        .await
}

/// Everything under a root, but for what differs between any two recoveries.
fn picture(root: &Path) -> TestResult<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    let mut dirs = vec![root.join("instances")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let mut text = std::fs::read_to_string(&path)?;
            if path.ends_with("instance.json") {
                let mut record: Value = serde_json::from_str(&text)?;
                if record["status"] == "interrupted" {
                    // When it was noticed.
                    record["updated_at"] = Value::Null;
                    record["ended_at"] = Value::Null;
                }
                text = record.to_string();
            }
            files.insert(path.strip_prefix(root)?.to_owned(), text);
        }
    }
    Ok(files)
}

/// The recovering process of the test below.
#[tokio::test]
#[ignore = "started by another test"]
async fn be_a_recoverer() -> TestResult {
    let store = Store::open(std::env::var("FIEFDOM_TEST_ROOT")?, Untyped).await?;
    println!("recovered");
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_recovery_that_is_killed_and_repeated_gives_the_same() -> TestResult {
    let (owner, master) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let store = Store::open_with(owner.path(), Counter, lagging()).await?;
    for n in 0..100 {
        let it = store.create(NewInstance::with_id(id(&format!("i{n}")))).await?;
        it.commit(move |tx| {
            if n % 3 == 0 {
                tx.set_status(Status::Running, None)?;
            }
            tx.state_mut().value = 1;
            tx.event("one", &1)
        })
        .await?;
        if n % 5 == 0 {
            store.delete(it.id()).await?;
        }
    }
    copy_tree(owner.path(), master.path())?;
    store.shutdown().await?;

    let undisturbed = tempfile::tempdir()?;
    copy_tree(master.path(), undisturbed.path())?;
    Store::open(undisturbed.path(), Untyped).await?.shutdown().await?;
    let expected = picture(undisturbed.path())?;
    assert!(expected.values().any(|text| text.contains("interrupted")));

    let mut killed = 0;
    for turn in 0..5 {
        let root = tempfile::tempdir()?;
        copy_tree(master.path(), root.path())?;
        // Each life is longer than the one before, until one comes to its end.
        let mut life = Duration::from_millis(2) + Duration::from_micros(300) * turn;
        loop {
            let mut child = another_process("be_a_recoverer")?
                .env("FIEFDOM_TEST_ROOT", root.path())
                .stdout(Stdio::null())
                .spawn()?;
            std::thread::sleep(life);
            life = life.mul_f64(1.4);
            child.kill()?;
            if child.wait()?.success() {
                break;
            }
            killed += 1;
        }
        assert!(picture(root.path())? == expected, "it differs from an undisturbed recovery");
    }
    assert!(killed > 15, "{killed} were killed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_recover_at_once_do_not_disturb_each_other() -> TestResult {
    for _ in 0..20 {
        let root = remains(COMMITS).await?;
        let open = || Store::open(root.path(), Untyped);
        let (one, two) = tokio::join!(open(), open());
        let (one, two) = (one?, two?);
        for name in NAMES {
            let id = id(name);
            let (first, second) = tokio::join!(one.get(&id), two.get(&id));
            let (found, other) = if first.is_ok() { (first?, second) } else { (second?, first) };
            assert_eq!(found.read(|state| state["value"].as_u64()).await?, Some(COMMITS));
            assert!(matches!(other, Err(Error::Locked { .. })), "one owner");
        }
        one.shutdown().await?;
        two.shutdown().await?;
    }
    Ok(())
}

#[tokio::test]
async fn who_was_at_work_is_known_also_when_the_log_lost_the_list() -> TestResult {
    let (live, copy) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let settings = options(|o| (o.log_segment_bytes, o.materialise_within) = (2_000, Duration::from_millis(1)));
    let store = Store::open_with(live.path(), Counter, settings).await?;
    let idle = store.create(NewInstance::with_id(id("idle"))).await?;
    let busy = store.create(NewInstance::with_id(id("busy"))).await?;
    busy.transition(Status::Running, None).await?;
    for n in 0..20 {
        idle.update(move |state| state.value = n).await?;
    }
    let writer = std::fs::read_dir(live.path().join(".fiefdom/writers"))?.next().ok_or("no writer")??.path();
    let segments = || {
        std::fs::read_dir(&writer).map(|files| {
            files.filter(|file| file.as_ref().is_ok_and(|file| file.file_name() != "control.sock")).count() - 1
        })
    };
    while segments()? > 1 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    copy_tree(live.path(), copy.path())?;
    store.shutdown().await?;
    // The commit that set it to work is in no segment any more: only the list in the header has it.
    let writers = copy.path().join(".fiefdom/writers");
    let writer = std::fs::read_dir(writers)?.next().ok_or("no writer")??.path();
    for entry in std::fs::read_dir(writer)? {
        let path = entry?.path();
        if !path.ends_with("lock") && !path.ends_with("control.sock") {
            let mut log = std::fs::read(&path)?;
            log[40] ^= 1;
            std::fs::write(&path, log)?;
        }
    }
    let store = Store::open(copy.path(), Untyped).await?;
    assert_eq!(store.get(&id("busy")).await?.record().await?.status, Status::Interrupted);
    assert_eq!(store.get(&id("idle")).await?.record().await?.status, Status::Pending);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_reader_is_told_who_is_in_the_way_of_its_recovery() -> TestResult {
    let root = remains(COMMITS).await?;
    let view = View::open(root.path())?;
    let order = std::fs::File::options().read(true).write(true).open(root.path().join(".fiefdom/recovery.lock"))?;
    order.lock()?;
    assert_eq!(view.recover(), Waiting::Recovering);
    order.unlock()?;
    order.lock_shared()?;
    assert_eq!(view.recover(), Waiting::DeadWriter, "while others bring instances to life");
    order.unlock()?;
    assert_eq!(view.recover(), Waiting::Recovered);
    order.lock_shared()?;
    assert_eq!(view.recover(), Waiting::Nothing);
    Ok(())
}

#[tokio::test]
async fn where_nothing_can_be_written_a_reader_is_told_of_dead_writers_alone() -> TestResult {
    if let Some(reason) = missing(&["mount", "umount"]) {
        return skip(&reason);
    }
    let (root, at) = (remains(COMMITS).await?, tempfile::tempdir()?);
    let root_path = text(root.path())?.to_owned();
    for waiting in [Waiting::DeadWriter, Waiting::Nothing] {
        let mounted = match Mount::new(&["-o", "bind,ro", &root_path], at.path()) {
            Ok(mounted) => mounted,
            Err(error) => return skip(&error.to_string()),
        };
        assert_eq!(View::open(at.path())?.recover(), waiting);
        mounted.unmount()?;
        recover(root.path()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_was_removed_by_hand_does_not_come_back() -> TestResult {
    let root = remains(COMMITS).await?;
    std::fs::remove_dir_all(root.path().join("instances/b"))?;
    let values = recover(root.path()).await?;
    assert_eq!(values, BTreeMap::from([("a", Some(COMMITS)), ("c", Some(COMMITS))]));
    assert!(!root.path().join("instances/b").exists());
    Ok(())
}

#[tokio::test]
async fn an_owner_that_dies_is_recovered_by_one_that_is_open_already() -> TestResult {
    let root = remains(COMMITS).await?;
    // The root looks alive to this one until the lock of the dead one is looked at again.
    let (writers, aside) = (root.path().join(".fiefdom/writers"), root.path().join(".fiefdom/aside"));
    std::fs::rename(&writers, &aside)?;
    std::fs::create_dir(&writers)?;
    let store = Store::open(root.path(), Counter).await?;
    for entry in std::fs::read_dir(&aside)? {
        let entry = entry?;
        std::fs::rename(entry.path(), writers.join(entry.file_name()))?;
    }
    assert_eq!(store.get(&id("b")).await?.read(|state| state.value).await?, COMMITS);
    store.shutdown().await?;
    Ok(())
}

/// More than are recovered one by one.
const MANY: u64 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn many_instances_at_work_are_interrupted_with_everything_that_was_committed() -> TestResult {
    let (root, copy) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let store = Store::open_with(root.path(), Counter, lagging()).await?;
    for n in 0..MANY {
        if n == MANY / 2 {
            // The files of some are there, and of the others only the log.
            store.flush().await?;
        }
        let instance = store.create(NewInstance::with_id(id(&format!("at-work-{n}")))).await?;
        instance.transition(Status::Starting, None).await?;
        instance.transition(Status::Running, None).await?;
        let committed = instance.commit(move |tx| {
            tx.state_mut().value = n;
            tx.event("counted", &n)
        });
        committed.await?;
    }
    copy_tree(root.path(), copy.path())?;
    store.shutdown().await?;
    let store = Store::open(copy.path(), Counter).await?;
    for n in 0..MANY {
        let name = id(&format!("at-work-{n}"));
        let files = tree_of(&copy.path().join("instances").join(name.as_str()))?;
        assert_eq!(files, ["events", "events/events.jsonl", "events/state.json", "instance.json"]);
        let instance = store.get(&name).await?;
        let (record, mut events) = (instance.record().await?, instance.events(1));
        assert_eq!((record.status, record.state.value, record.revision), (Status::Interrupted, n, 4));
        let event = events.try_next().await?.ok_or("no event")?;
        assert_eq!((event.seq, event.data_as::<u64>()?), (1, n));
    }
    store.shutdown().await?;
    Ok(())
}

/// The names below a directory, in order.
fn tree_of(dir: &Path) -> TestResult<Vec<String>> {
    let mut names = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(next)? {
            let entry = entry?;
            names.push(entry.path().strip_prefix(dir)?.display().to_string());
            if entry.file_type()?.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    names.sort_unstable();
    Ok(names)
}
