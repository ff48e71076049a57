//! Alarms: never lost, never again after they are done, whoever dies.
#![allow(missing_docs)]

mod common;
#[path = "common/strace.rs"]
mod strace;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use common::{Counter, TestResult, another_process, eventually, id, options};
use fiefdom::{Alarms, DueAlarm, Error, ImportOptions, Instance, NewInstance, Store, Untyped, View};
use futures::StreamExt as _;

/// Kills in all; a longer campaign sets `FIEFDOM_TEST_ALARM_KILLS`.
const KILLS: u64 = 24;

const NOTHING: [&str; 0] = [];

fn soon() -> DateTime<Utc> {
    Utc::now() + TimeDelta::milliseconds(100)
}

fn later() -> DateTime<Utc> {
    Utc::now() + TimeDelta::days(400)
}

/// The next alarm, which must come.
async fn next<I: Instance>(alarms: &mut Alarms<I>) -> TestResult<DueAlarm<I>> {
    let due = tokio::time::timeout(Duration::from_secs(20), alarms.next()).await;
    Ok(due.map_err(|_| "no alarm came")?.ok_or("the end")??)
}

/// Whether no alarm comes in a while. The while is no measure of anything: what should not come
/// would come at once.
async fn none<I: Instance>(alarms: &mut Alarms<I>) -> bool {
    tokio::time::timeout(Duration::from_millis(300), alarms.next()).await.is_err()
}

/// Entries of the index, as they are on disk.
fn entries(root: &Path) -> Vec<String> {
    fn walk(dir: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                walk(&entry.path(), found);
            } else {
                found.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(&root.join(".fiefdom/alarms"), &mut found);
    found.sort();
    found
}

#[tokio::test]
async fn an_alarm_comes_when_it_is_due_and_not_before_and_once_when_it_is_done() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let mut alarms = store.alarms();
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    let at = soon();
    it.set_alarm(at, vec![1, 2, 3]).await?;
    let due = next(&mut alarms).await?;
    assert!(Utc::now() >= at);
    assert_eq!((due.id(), due.payload::<Vec<u32>>()?), (&id("a"), vec![1, 2, 3]));
    assert!(due.at() >= at && due.at() - at < TimeDelta::milliseconds(1));
    due.done().await?;
    assert!(it.record().await?.alarm.is_none());
    assert!(none(&mut alarms.redeliver_after(Duration::ZERO)).await);
    store.shutdown().await?;
    assert_eq!(entries(root.path()), NOTHING);
    Ok(())
}

#[tokio::test]
async fn the_alarms_end_with_their_store_also_when_none_is_due() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    store.create(NewInstance::with_id(id("a"))).await?.set_alarm(later(), "hello").await?;
    let mut alarms = store.alarms();
    let waiting = tokio::spawn(async move { alarms.next().await.is_none() });
    tokio::time::sleep(Duration::from_millis(50)).await;
    store.shutdown().await?;
    assert!(tokio::time::timeout(Duration::from_secs(20), waiting).await??, "it is the end");
    assert!(tokio::time::timeout(Duration::from_secs(20), store.alarms().next()).await?.is_none(), "and stays it");
    Ok(())
}

#[tokio::test]
async fn alarms_come_in_the_order_in_which_they_are_due() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let at = Utc::now() + TimeDelta::milliseconds(150);
    for nth in [3, 1, 2, 0] {
        let it = store.create(NewInstance::with_id(id(&format!("i{nth}")))).await?;
        it.set_alarm(at + TimeDelta::milliseconds(nth), nth).await?;
    }
    store.flush().await?;
    let mut alarms = store.alarms();
    for nth in 0..4 {
        let due = next(&mut alarms).await?;
        assert_eq!(due.payload::<i64>()?, nth);
        due.done().await?;
    }
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn an_alarm_that_came_due_while_nothing_ran_comes_at_the_next_open() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    let at = soon();
    it.set_alarm(at, "hello").await?;
    store.shutdown().await?;
    drop(store);
    eventually("it is due", || Utc::now() > at).await;
    let store = Store::open(root.path(), Counter).await?;
    let mut alarms = store.alarms();
    let due = next(&mut alarms).await?;
    assert_eq!(due.payload::<String>()?, "hello");
    due.done().await?;
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn an_alarm_that_is_replaced_comes_at_its_new_time_alone() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    it.set_alarm(later(), "first").await?;
    store.flush().await?;
    it.set_alarm(soon(), "second").await?;
    let mut alarms = store.alarms();
    let due = next(&mut alarms).await?;
    assert_eq!(due.payload::<String>()?, "second");
    due.done().await?;
    store.flush().await?;
    assert_eq!(entries(root.path()), NOTHING);
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn an_alarm_that_is_taken_back_does_not_come() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    it.set_alarm(soon(), ()).await?;
    store.flush().await?;
    assert!(it.clear_alarm().await?);
    assert!(!it.clear_alarm().await?);
    assert!(none(&mut store.alarms()).await);
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn the_alarm_of_a_deleted_instance_does_not_come_nor_to_its_successor() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    store.create(NewInstance::with_id(id("a"))).await?.set_alarm(soon(), ()).await?;
    store.flush().await?;
    let left: Vec<_> = entries(root.path());
    assert_eq!(left.len(), 1);
    store.delete(&id("a")).await?;
    assert_eq!(entries(root.path()), NOTHING);
    store.create(NewInstance::with_id(id("a"))).await?;
    // As a death in the middle of a deletion would leave it.
    let hour = std::fs::read_dir(root.path().join(".fiefdom/alarms/counter"))?.next().ok_or("no hour")??;
    std::fs::write(hour.path().join(&left[0]), "")?;
    assert!(none(&mut store.alarms()).await);
    assert_eq!(entries(root.path()), NOTHING, "whoever comes to it tidies up");
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn an_alarm_in_the_past_comes_at_once_also_in_an_instance_that_was_imported() -> TestResult {
    let (from, to) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let store = Store::open(from.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    it.set_alarm(Utc::now() - TimeDelta::days(30), "overdue").await?;
    let due = store.alarms().next().await.ok_or("closed")??;
    assert_eq!((due.id(), due.payload::<String>()?), (&id("a"), "overdue".to_owned()));
    drop(due);
    let (archive, _) = store.export(&id("a"), Vec::new()).await?;
    store.shutdown().await?;

    let other = Store::open(to.path(), Counter).await?;
    other.import(std::io::Cursor::new(archive), ImportOptions::default()).await?;
    // Nobody has used it since: it is found by the index alone.
    let due = other.alarms().next().await.ok_or("closed")??;
    assert_eq!(due.payload::<String>()?, "overdue");
    due.done().await?;
    Ok(other.shutdown().await?)
}

#[tokio::test]
async fn an_alarm_and_the_rest_of_its_commit_are_set_together_or_not_at_all() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    let refused = it
        .commit(|tx| {
            tx.set_alarm(later(), "no")?;
            Err::<(), _>(Error::rejected("no"))
        })
        .await;
    assert!(refused.is_err() && it.record().await?.alarm.is_none());
    let never = it.set_alarm(chrono::DateTime::<Utc>::MAX_UTC, ()).await.expect_err("no such time");
    assert!(matches!(&never, Error::InvalidInput { what: "alarm", .. }), "{never}");
    assert!(matches!(it.set_alarm(later(), f64::NAN).await, Err(Error::Unserializable { .. })));
    assert!(matches!(it.set_alarm(later(), "x".repeat(65_536)).await, Err(Error::TooLarge { limit: 65_536, .. })));
    assert_eq!(it.record().await?.revision, 0, "nothing was changed");
    let committed = it
        .commit(|tx| {
            tx.state_mut().value = 7;
            tx.set_alarm(later(), "first")?;
            tx.set_alarm(later(), "second")
        })
        .await?;
    let record = it.record().await?;
    let alarm = record.alarm.as_ref().ok_or("no alarm")?;
    assert_eq!((alarm.revision, alarm.payload_as::<String>()?), (committed.revision, "second".into()));
    store.shutdown().await?;
    assert_eq!(entries(root.path()).len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_alarm_that_is_dropped_comes_again_and_is_nobody_else_s_before() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    store.create(NewInstance::with_id(id("a"))).await?.set_alarm(soon(), ()).await?;
    let mut alarms = store.alarms().redeliver_after(Duration::from_millis(1));
    let due = next(&mut alarms).await?;
    assert!(none(&mut alarms).await && none(&mut store.alarms()).await, "it is in hand");
    drop(due);
    next(&mut alarms).await?.done().await?;
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn an_alarm_that_its_handler_sets_is_not_taken_for_the_one_that_is_done() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    it.set_alarm(soon(), 1).await?;
    let mut alarms = store.alarms();
    let due = next(&mut alarms).await?;
    due.instance().set_alarm(soon(), 2).await?;
    due.done().await?;
    let due = next(&mut alarms).await?;
    assert_eq!(due.payload::<u32>()?, 2);
    // The work and the end of the alarm in one commit.
    due.instance()
        .commit(|tx| {
            tx.state_mut().value += 1;
            tx.clear_alarm();
            Ok(())
        })
        .await?;
    drop(due);
    assert!(none(&mut store.alarms().redeliver_after(Duration::ZERO)).await);
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn alarms_of_another_kind_are_left_alone() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    for kind in ["note", "a/b", "größe"] {
        let it = store.create(NewInstance::new().kind(kind)).await?;
        it.set_alarm(soon(), kind).await?;
    }
    let counters = store.of_kind(Counter).await?;
    counters.create(NewInstance::with_id(id("c"))).await?.set_alarm(soon(), "counter").await?;
    let mut alarms = counters.alarms();
    next(&mut alarms).await?.done().await?;
    assert!(none(&mut alarms).await);
    let mut rest = BTreeSet::new();
    let mut alarms = store.alarms();
    for _ in 0..3 {
        let due = next(&mut alarms).await?;
        rest.insert(due.payload::<String>()?);
        due.done().await?;
    }
    assert_eq!(rest, BTreeSet::from(["a/b".into(), "größe".into(), "note".into()]));
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn the_alarms_that_wait_are_listed_without_a_lock() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    for (name, days) in [("late", 500), ("early", 100), ("middle", 300)] {
        let it = store.create(NewInstance::with_id(id(name))).await?;
        it.set_alarm(Utc::now() + TimeDelta::days(days), days).await?;
    }
    store.flush().await?;
    let view = View::open(root.path())?;
    let listed: Vec<_> = view.alarms(2)?.into_iter().map(|(id, alarm)| (id, alarm.payload.to_string())).collect();
    assert_eq!(listed, [(id("early"), "100".to_owned()), (id("middle"), "300".to_owned())]);
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn an_instance_that_was_put_in_its_place_by_hand_has_its_alarm_when_it_is_used() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    store.create(NewInstance::with_id(id("a"))).await?.set_alarm(soon(), ()).await?;
    store.shutdown().await?;
    std::fs::remove_dir_all(root.path().join(".fiefdom/alarms"))?;
    let store = Store::open(root.path(), Counter).await?;
    store.get(&id("a")).await?;
    next(&mut store.alarms()).await?.done().await?;
    Ok(store.shutdown().await?)
}

/// Another process with the root open. It sets alarms, and acts on those that are due, each by an
/// event in the commit that ends it, until it is killed. A line is an acknowledgement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test"]
async fn be_a_worker() -> TestResult {
    let root = std::env::var("FIEFDOM_TEST_ROOT")?;
    let life: u64 = std::env::var("FIEFDOM_TEST_LIFE")?.parse()?;
    let small = options(|o| {
        o.log_segment_bytes = 8 << 10;
        o.log_segment_age = Duration::from_millis(20);
        o.materialise_within = Duration::from_millis(4);
        o.idle_after = Duration::from_millis(20);
    });
    let store = Store::open_with(root, Counter, small).await?;
    let alarms = store.alarms().redeliver_after(Duration::from_millis(5));
    println!("\nopen");
    let setting = futures::future::join_all((0..2).map(|lane| tokio::spawn(keep_setting(store.clone(), life, lane))));
    let handed_out = AtomicU64::new(0);
    let acting = alarms.into_stream().for_each_concurrent(8, |due| async {
        if handed_out.fetch_add(1, Ordering::Relaxed) % 5 == 3 {
            return; // as one that fails to act
        }
        let acted = act(due).await;
        acted.unwrap_or_else(|error| panic!("{error}"));
    });
    acting.await;
    for set in setting.await {
        set??;
    }
    Ok(())
}

async fn act(due: Result<DueAlarm<Counter>, Error>) -> Result<(), Error> {
    let due = due?;
    let again = due.instance().record().await?.state.value < 2;
    let ended = due.instance().commit(move |tx| {
        tx.event("fired", &0)?;
        tx.state_mut().value += 1;
        tx.clear_alarm();
        if again {
            tx.set_alarm(Utc::now() + TimeDelta::milliseconds(5), "again")?;
        }
        Ok(())
    });
    ended.await?;
    println!("fired {} {}", due.id(), !again);
    Ok(())
}

async fn keep_setting(store: Store<Counter>, life: u64, lane: u64) -> Result<(), Error> {
    for nth in 0..i64::MAX {
        let it = store.create(NewInstance::with_id(id(&format!("i{life}-{lane}-{nth}")))).await?;
        it.set_alarm(Utc::now() + TimeDelta::milliseconds(nth % 20 + 1), nth).await?;
        println!("set {}", it.id());
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    Ok(())
}

fn start(what: &str, root: &Path, life: u64) -> TestResult<Child> {
    let mut command = another_process(what)?;
    command.env("FIEFDOM_TEST_ROOT", root).env("FIEFDOM_TEST_LIFE", life.to_string());
    Ok(command.stdout(Stdio::piped()).spawn()?)
}

/// What the process said before it was killed, some time after it had the root open.
fn live_and_die(root: &Path, life: u64, length: Duration) -> TestResult<Vec<String>> {
    let mut child = start("be_a_worker", root, life)?;
    let said = child.stdout.take().ok_or("no output")?;
    common::lines_of_a_life(child, said, "open", length)
}

/// Each instance fires three times: what is there when nothing waits any more says whether an alarm
/// was lost, or came again after it was done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_loses_no_alarm_and_repeats_none_that_was_done() -> TestResult {
    let kills = std::env::var("FIEFDOM_TEST_ALARM_KILLS").map_or(Ok(KILLS), |text| text.parse())?;
    let root = tempfile::tempdir()?;
    let mut set = BTreeSet::new();
    let mut over = BTreeSet::new();
    for life in 0..kills {
        let length = Duration::from_micros((life * 7919 + 80_000) % 200_000);
        let path = root.path().to_owned();
        let said = tokio::task::spawn_blocking(move || live_and_die(&path, life, length).map_err(|e| e.to_string()));
        for line in said.await?? {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["set", name] => drop(set.insert(name.to_owned())),
                ["fired", name, "true"] => drop(over.insert(name.to_owned())),
                _ => {}
            }
        }
    }
    let store = Store::open(root.path(), Counter).await?;
    let mut alarms = store.alarms().redeliver_after(Duration::ZERO);
    let mut waiting = 0_u64;
    loop {
        let Ok(due) = tokio::time::timeout(Duration::from_millis(300), alarms.next()).await else {
            store.flush().await?;
            if entries(root.path()).is_empty() {
                break;
            }
            continue;
        };
        let due = due.ok_or("the end")??;
        assert!(!over.contains(due.id().as_str()), "{} came again after it was done", due.id());
        let last = due.instance().record().await?.state.value == 2;
        let fire = move |tx: &mut fiefdom::Transaction<common::Count>| {
            tx.event("fired", &0)?;
            tx.state_mut().value += 1;
            tx.clear_alarm();
            if last { Ok(()) } else { tx.set_alarm(Utc::now() + TimeDelta::milliseconds(1), "again") }
        };
        due.instance().commit(fire).await?;
        waiting += 1;
    }
    let mut fired = BTreeMap::new();
    for record in store.list(fiefdom::Filter::default()).await?.records {
        assert!(record.alarm.is_none(), "{} has an alarm that nobody finds", record.id);
        assert_eq!(record.last_event_seq, record.state.value, "{}: half a commit", record.id);
        fired.insert(record.id.as_str().to_owned(), record.state.value);
    }
    for name in &set {
        assert_eq!(fired.get(name), Some(&3), "{name}");
    }
    common::shown!(
        "{kills} kills: {} alarms set, {} over before the last, {waiting} fired after it, 0 lost",
        set.len(),
        over.len()
    );
    assert!(set.len() as u64 > kills / 4 && !over.is_empty(), "the processes came to nothing");
    Ok(store.shutdown().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_alarm_of_a_process_that_dies_comes_in_one_that_lives() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let path = root.path().to_owned();
    let said = tokio::task::spawn_blocking(move || {
        live_and_die(&path, 1, Duration::from_millis(150)).map_err(|e| e.to_string())
    });
    let mut alarms = store.alarms();
    let said = said.await??;
    let mut left: BTreeSet<_> = said.iter().filter_map(|line| line.strip_prefix("set ")).collect();
    for line in &said {
        if let ["fired", name, "true"] = line.split(' ').collect::<Vec<_>>()[..] {
            left.remove(name);
        }
    }
    assert!(!said.is_empty());
    while !left.is_empty() {
        let due = next(&mut alarms).await?;
        left.remove(due.id().as_str());
        due.done().await?;
    }
    Ok(store.shutdown().await?)
}

/// Sets an alarm that only the log has, and waits to be killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test"]
async fn set_one_alarm_in_the_log() -> TestResult {
    let slow = options(|o| o.materialise_within = Duration::from_secs(3600));
    let store = Store::open_with(std::env::var("FIEFDOM_TEST_ROOT")?, Counter, slow).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    it.set_alarm(soon(), "from the log").await?;
    println!("\nset");
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_that_only_the_log_of_a_dead_process_has_comes_in_one_that_lives() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let mut child = start("set_one_alarm_in_the_log", root.path(), 0)?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "set"));
    child.kill()?;
    child.wait()?;
    assert_eq!(entries(root.path()), NOTHING, "the test shows nothing");
    let due = next(&mut store.alarms()).await?;
    assert_eq!(due.payload::<String>()?, "from the log");
    due.done().await?;
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn two_processes_never_have_the_same_alarm_in_hand() -> TestResult {
    // Two open roots are two writers, as two processes are: only their locks keep them apart.
    let root = tempfile::tempdir()?;
    let first = Store::open(root.path(), Counter).await?;
    let second = Store::open(root.path(), Counter).await?;
    let it = first.create(NewInstance::with_id(id("a"))).await?.instance().clone();
    it.set_alarm(soon(), ()).await?;
    let due = next(&mut first.alarms()).await?;
    let mut others = second.alarms();
    assert!(none(&mut others).await, "its owner has it in hand");
    drop(due);
    // The first has nobody who waits any more, and has let the instance go.
    let due = next(&mut others).await?;
    due.done().await?;
    assert!(none(&mut first.alarms()).await);
    first.shutdown().await?;
    Ok(second.shutdown().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_wait_no_instance_is_opened_before_its_time() -> TestResult {
    const MANY: i64 = 20_000;
    if strace::is_missing()? {
        return Ok(());
    }
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("due"))).await?;
    it.set_alarm(soon(), ()).await?;
    store.shutdown().await?;
    drop(store);
    // What so many commits would leave, over months; a hundred of them within the hour.
    let kind = root.path().join(".fiefdom/alarms/counter");
    for nth in 0..MANY {
        let at = Utc::now() + TimeDelta::seconds(600 + if nth < 100 { 0 } else { nth * 400 });
        let hour = kind.join(at.format("%Y%m%dT%H").to_string());
        std::fs::create_dir_all(&hour)?;
        let name = format!("{:015}.{}.1.waits-{nth}", at.timestamp_millis(), uuid::Uuid::new_v4().simple());
        std::fs::File::create(hour.join(name))?;
    }
    let output = tempfile::NamedTempFile::new()?;
    let status = Command::new("strace")
        .args(["-f", "-o"])
        .arg(output.path())
        .args(["-e", "trace=openat,getdents64"])
        .arg(std::env::current_exe()?)
        .args(["take_one_alarm", "--exact", "--ignored", "--test-threads=1"])
        .env("FIEFDOM_TEST_ROOT", root.path())
        .status()?;
    assert!(status.success());
    let traced = std::fs::read_to_string(output.path())?;
    let opened = |what: &str| traced.lines().filter(|line| line.contains("openat(") && line.contains(what)).count();
    assert!(opened("\"due\"") > 0, "nothing was traced");
    assert_eq!(opened("\"waits"), 0, "an instance that is not due was opened");
    let hours = opened(", \"20");
    common::shown!("{MANY} alarms wait: {hours} directories of the index opened to find the one that is due");
    assert!(hours < 20, "{hours} hours were read");
    Ok(())
}

/// Takes the alarm that is due.
#[tokio::test]
#[ignore = "started by another test"]
async fn take_one_alarm() -> TestResult {
    let store = Store::open(std::env::var("FIEFDOM_TEST_ROOT")?, Counter).await?;
    let due = next(&mut store.alarms()).await?;
    assert_eq!(due.id(), &id("due"));
    due.done().await?;
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn what_a_shutdown_leaves_of_hours_that_have_passed_is_tidied_up() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let hour = root.path().join(".fiefdom/alarms/counter/20200101T00");
    std::fs::create_dir_all(&hour)?;
    let mut alarms = store.alarms();
    let waiting = tokio::spawn(async move { alarms.next().await.is_none() });
    eventually("the empty hour is removed", || !hour.exists()).await;
    store.shutdown().await?;
    waiting.abort();
    let _ = std::io::stdout().flush();
    Ok(())
}
