//! Alarms: never lost, never again after they are done, whoever dies. Here is what the subjects share.
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod due;
mod dying;
mod index;
#[path = "../common/strace.rs"]
mod strace;

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use common::{PATIENCE, TestResult};
use fiefdom::{Alarms, DueAlarm, Instance};

const NOTHING: [&str; 0] = [];

fn soon() -> DateTime<Utc> {
    Utc::now() + TimeDelta::milliseconds(100)
}

fn later() -> DateTime<Utc> {
    Utc::now() + TimeDelta::days(400)
}

/// The next alarm, which must come.
async fn next<I: Instance>(alarms: &mut Alarms<I>) -> TestResult<DueAlarm<I>> {
    let due = tokio::time::timeout(PATIENCE, alarms.next()).await;
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
