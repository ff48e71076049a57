//! A caller that goes away in the middle of a commit, a clock that is wrong, and directories that
//! are moved by hand: the outcome is one of two, time orders nothing, and what is there is taken.
//! Here is what the subjects share.
#![allow(missing_docs)]

mod by_hand;
mod callers;
mod clock;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/strace.rs"]
mod strace;
#[path = "../common/worker.rs"]
mod worker;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use common::{Counter, TestResult, id};
use fiefdom::{InstanceRef, NewInstance, Store};
use serde_json::Value;

#[test]
#[ignore = "started by another test"]
fn be_a_worker() -> TestResult {
    worker::work()
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
