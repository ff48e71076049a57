//! A kill, or an error, at every system call: what each leaves behind, and what the caller is told.
//!
//! The process is real, and so is the kernel; strace is on the one thread that makes the calls.
#![allow(missing_docs)]

mod checkpoint;
#[path = "../common/mod.rs"]
mod common;
mod files;
mod grounds;
mod kills;
mod log;
#[path = "../common/strace.rs"]
mod strace;
#[path = "../common/worker.rs"]
mod worker;

use std::path::Path;

use common::{Counter, TestResult, id};
use fiefdom::Store;
use strace::Strace;
use worker::Worker;

/// The threads that work on files: callers' disk work, then the three of the commit log.
const DISK: &str = "disk";
const JOURNAL: &str = "fiefdom-journal";
const CHECKPOINT: &str = "fiefdom-checkpo";

/// The files are brought up to date when somebody asks for it, and not by themselves.
const QUIET: &str = "within_ms=3600000";

#[test]
#[ignore = "started by another test"]
fn be_a_worker() -> TestResult {
    worker::work()
}

/// A worker with `a` live at value 2 on a root at rest, and one of its threads under strace.
struct Faulty {
    root: tempfile::TempDir,
    worker: Worker,
    strace: Strace,
}

impl Faulty {
    fn new(settings: &str, before: &[&str], thread: &str, expressions: &[&str]) -> TestResult<Self> {
        let root = tempfile::tempdir()?;
        let mut worker = Worker::start()?;
        worker.open(root.path(), settings)?;
        for command in ["create a", "count a", "count a"].iter().chain(before) {
            worker.must(command)?;
        }
        let strace = Strace::attach(&[worker.threads()?[thread]], expressions)?;
        Ok(Self { root, worker, strace })
    }

    /// Lets the thread go on undisturbed; the faults must have struck.
    fn heal(self) -> TestResult<(tempfile::TempDir, Worker, Vec<String>)> {
        let trace = self.strace.end()?;
        assert!(strace::fired(&trace) > 0, "the fault did not strike: {trace:#?}");
        Ok((self.root, self.worker, trace))
    }
}

/// After the death of the worker: the counter stands at `value`, and goes on.
async fn stands_at(root: &Path, worker: Worker, value: u64) -> TestResult {
    worker.kill()?;
    let store = Store::open(root, Counter).await?;
    let record = store.get(&id("a")).await?.record().await?;
    assert_eq!((record.state.value, record.last_event_seq, record.revision), (value, value, value));
    assert_eq!(store.view().events(&id("a"), 1)?.len() as u64, value);
    store.shutdown().await?;
    Ok(())
}
