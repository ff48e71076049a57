//! How a process dies. It does so by and by: its locks go one after the other. Here one instance lock
//! is made to outlive the lock of the process itself, by a copy of its descriptor, and the process is
//! not reaped, so that the kernel still names it as the holder.
#![allow(missing_docs)]

mod common;
#[path = "common/worker.rs"]
mod worker;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{Counter, TestResult, id};
use fiefdom::{Error, Store};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open};
use worker::Worker;

const COMMITS: u64 = 3;

#[test]
#[ignore = "a process of the other tests"]
fn be_a_worker() -> TestResult {
    worker::work()
}

/// A process that died with acknowledged commits of which no file knows, and the lock on its
/// instance that has outlived it.
struct Death {
    root: tempfile::TempDir,
    lock: OwnedFd,
    _unreaped: Worker,
}

fn death() -> TestResult<Death> {
    let root = tempfile::tempdir()?;
    let mut worker = Worker::start()?;
    worker.open(root.path(), "within_ms=3600000")?;
    worker.must("create a")?;
    worker.must(&format!("count-many a {COMMITS}"))?;
    let lock = copy_of(&worker, &root.path().join("instances/a").canonicalize()?)?;
    let writer = std::fs::read_dir(root.path().join(".fiefdom/writers"))?.next().ok_or("no writer")??.path();
    let own_lock = std::fs::File::open(writer.join("lock"))?;
    kill_process(pid(&worker)?, Signal::KILL)?;
    // In the end it has nothing but the instance.
    own_lock.lock_shared()?;
    Ok(Death { root, lock, _unreaped: worker })
}

fn pid(worker: &Worker) -> TestResult<Pid> {
    Ok(Pid::from_raw(worker.pid().try_into()?).ok_or("no pid")?)
}

/// A copy of the descriptor that another process has of a directory. It shares the lock.
fn copy_of(worker: &Worker, path: &Path) -> TestResult<OwnedFd> {
    for entry in std::fs::read_dir(format!("/proc/{}/fd", worker.pid()))? {
        let entry = entry?;
        if std::fs::read_link(entry.path()).is_ok_and(|target| target == path) {
            let process = pidfd_open(pid(worker)?, PidfdFlags::empty())?;
            let number = entry.file_name().to_str().ok_or("no number")?.parse()?;
            return Ok(pidfd_getfd(process, number, PidfdGetfdFlags::empty())?);
        }
    }
    Err("the worker has not opened the instance".into())
}

fn value_of_a(root: &Path) -> TestResult<Result<u64, Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        let store = Store::open(root, Counter).await?;
        let value = store.get(&id("a")).await?.state().await?.value;
        store.shutdown().await?;
        Ok(value)
    }))
}

#[test]
fn recovery_waits_for_the_instance_locks_of_a_dying_process() -> TestResult {
    let Death { root, lock, _unreaped } = death()?;
    let (told, value) = mpsc::channel();
    let path = root.path().to_owned();
    let begun = Instant::now();
    let recovering = std::thread::spawn(move || {
        let outcome = value_of_a(&path).map_err(|e| e.to_string());
        drop(told.send(outcome));
    });
    let order = std::fs::File::open(root.path().join(".fiefdom/recovery.lock"))?;
    while order.try_lock_shared().is_ok() {
        order.unlock()?;
        std::thread::yield_now();
    }
    // Recovery has begun, and comes to the instance soon, where it has to stay.
    // (It gives up after two seconds, and this machine may be slow to look.)
    for _ in 0..40 {
        std::thread::sleep(Duration::from_millis(5));
        let early = recovering.is_finished() && begun.elapsed() < Duration::from_secs(2);
        assert!(!early, "it did not wait: {:?}", value.try_recv());
    }
    drop(lock);
    recovering.join().map_err(|_| "the recovery panicked")?;
    assert_eq!(value.recv()??.map_err(|e| e.to_string()), Ok(COMMITS), "acknowledged commits were lost");
    Ok(())
}

#[test]
fn a_lock_that_outlives_its_process_for_long_is_an_error_and_nothing_is_lost() -> TestResult {
    let Death { root, lock, _unreaped } = death()?;
    let refused = value_of_a(root.path())?;
    assert!(matches!(&refused, Err(Error::Locked { id, .. }) if id.as_str() == "a"), "{refused:?}");
    drop(lock);
    assert_eq!(value_of_a(root.path())?.map_err(|e| e.to_string()), Ok(COMMITS));
    Ok(())
}

#[test]
fn a_process_that_aborts_with_commits_under_way_loses_nothing_acknowledged() -> TestResult {
    for acknowledged in 1..=8 {
        let root = tempfile::tempdir()?;
        let mut worker = Worker::start()?;
        worker.open(root.path(), "")?;
        worker.must("create a")?;
        worker.tell(&format!("count-and-abort a {acknowledged}"))?;
        assert_eq!(worker.answer_if_alive(), None, "it aborts");
        let value = value_of_a(root.path())??;
        assert!((acknowledged..=acknowledged + worker::UNDER_WAY).contains(&value), "{acknowledged} became {value}");
    }
    Ok(())
}
