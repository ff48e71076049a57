//! Callers and whole runtimes that go away in the middle of commits.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fiefdom::{Error, NewInstance, Store};

use crate::common::{self, Counter, PATIENCE, TestResult, id, options};
use crate::strace::{self, Strace};
use crate::worker::Worker;
use crate::{marked, marks};

/// Commits whose caller goes away; a longer campaign sets `FIEFDOM_TEST_DROPS`.
const DROPS: u64 = 2_000;

/// Runtimes that are dropped with commits under way; `FIEFDOM_TEST_RUNTIMES`.
const RUNTIMES: u64 = 100;

fn size(variable: &str, default: u64) -> TestResult<u64> {
    Ok(std::env::var(variable).map_or(Ok(default), |text| text.parse())?)
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
                // On a slow disk no other may live to see the end.
                if mark % 20 == caller {
                    marked(&instance, mark).await?;
                    finished.push(mark);
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
            let deadline = Instant::now() + PATIENCE;
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
            // As long as it takes to have acknowledged some, and then some time more or less.
            let enough = known(&acknowledged).len() + 2;
            while known(&acknowledged).len() < enough {
                assert!(Instant::now() < deadline, "no commit is acknowledged");
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            tokio::time::sleep(Duration::from_micros(round * 173 % 5_000)).await;
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
    // The flush takes its time: the runtime is gone long before it ends, and somebody has asked.
    let expressions = ["trace=fdatasync", "inject=fdatasync:delay_enter=1500000"];
    let strace = Strace::attach(&[worker.threads()?["fiefdom-journal"]], &expressions)?;
    assert_eq!(worker.ask("drop-runtime a")?, "ok false");
    let mut refused = 0;
    let deadline = Instant::now() + PATIENCE;
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
    let deadline = Instant::now() + PATIENCE;
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
