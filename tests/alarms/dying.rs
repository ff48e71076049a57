//! Alarms of processes that die, and of several that live.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use fiefdom::{DueAlarm, Error, NewInstance, Store};
use futures::StreamExt as _;

use crate::common::{self, Counter, PATIENCE, TestResult, another_process, id, options};
use crate::{NOTHING, entries, next, none, soon};

/// Kills in all; a longer campaign sets `FIEFDOM_TEST_ALARM_KILLS`.
const KILLS: u64 = 24;

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
    let mut child = start("dying::be_a_worker", root, life)?;
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
    let deadline = Instant::now() + PATIENCE;
    while !left.is_empty() {
        if let Ok(due) = tokio::time::timeout(Duration::from_secs(1), alarms.next()).await {
            let due = due.ok_or("the end")??;
            left.remove(due.id().as_str());
            due.done().await?;
            continue;
        }
        assert!(Instant::now() < deadline, "no alarm of {left:?} came");
        // What was done just before the death, nobody could say any more.
        let waits = |name: &&str| store.view().record(&id(name)).map_or(true, |record| record.alarm.is_some());
        left.retain(waits);
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
    let mut child = start("dying::set_one_alarm_in_the_log", root.path(), 0)?;
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
