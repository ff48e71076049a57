//! Export and import: an archive is one moment of an instance, comes back as an instance, and what
//! is not an archive of ours leaves nothing behind. Here is what the subjects share.
#![allow(missing_docs)]

#[path = "../common/archives.rs"]
mod archives;
#[path = "../common/mod.rs"]
mod common;
mod exports;
mod imports;
mod killed;
mod refusals;
#[path = "../common/strace.rs"]
mod strace;
#[path = "../common/worker.rs"]
mod worker;

use std::path::Path;
use std::process::Command;

use common::{Counter, TestResult, id};
use fiefdom::{NewInstance, Store, SubDir, Transaction};

#[test]
#[ignore = "started by another test"]
fn be_a_worker() -> TestResult {
    worker::work()
}

fn count(tx: &mut Transaction<common::Count>) -> fiefdom::Result<u64> {
    tx.state_mut().value += 1;
    let value = tx.state().value;
    tx.event("counted", &value)?;
    Ok(value)
}

/// An archive of an instance `a` with two commits and some files.
async fn sample() -> TestResult<Vec<u8>> {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Counter).await?;
    let session = store.create(NewInstance::with_id(id("a")).name("größe").tag("k", "v")).await?;
    session.commit(count).await?;
    session.commit(count).await?;
    let workspace = session.dir(SubDir::Workspace).await?;
    std::fs::create_dir(workspace.join("sub"))?;
    std::fs::write(workspace.join("sub/file"), "text")?;
    let (bytes, _) = store.export(&id("a"), Vec::new()).await?;
    store.shutdown().await?;
    Ok(bytes)
}

/// What is below a root, but for the log and lock files of those who have it open.
fn picture(root: &Path) -> TestResult<Vec<String>> {
    let listed =
        Command::new("find").arg(".").args(["-not", "-path", "./.fiefdom/writers/*"]).current_dir(root).output()?;
    let mut lines: Vec<String> = String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect();
    lines.retain(|line| line != "./.fiefdom/imports");
    lines.sort();
    Ok(lines)
}
