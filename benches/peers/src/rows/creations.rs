//! New instances, by 64 callers.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fiefdom::{Durability, NewInstance};

use super::{Bound, Goal};
use crate::harness::{Contender, Figure, Outcome, Row, Setting};
use crate::peers::document::Document;
use crate::peers::driver::{rate, runtime};
use crate::peers::flusher::Flusher;
use crate::peers::lock_map::LockMap;
use crate::peers::{ours, python, raw};

const CALLERS: usize = 64;

const RAW: &str = "limit: mkdir + create + write";
const RAW_FLUSHED: &str = "limit: mkdir + create + write, group flush";
const PYTHON: &str = "lock map in Python, no fsync";

pub fn rows() -> Vec<Row> {
    let contenders = vec![
        contender(ours::DISK, |s| fiefdom(s, Durability::Disk)),
        contender(ours::OS, |s| fiefdom(s, Durability::Os)),
        contender("lock map in Rust, no fsync", |s| lock_map(s, false)),
        contender("lock map in Rust, fsync", |s| lock_map(s, true)),
        contender(PYTHON, |s| python::rate(s, "create", CALLERS, CALLERS)),
        contender(RAW, unflushed),
        contender(RAW_FLUSHED, flushed),
    ];
    vec![Row {
        name: "creations-64",
        title: "Instances made, 64 callers",
        unit: "instances/s",
        axis: None,
        at_most: usize::MAX,
        contenders,
    }]
}

pub fn goals() -> Vec<Goal> {
    let goal = |theirs, least| Goal {
        row: "creations-64",
        ours: ours::DISK,
        theirs: Some(theirs),
        bound: Bound::AtLeast(least),
        if_missed: "The other makes a name and a file and flushes nothing; with a flush of the names and of a log for everybody \
                    who waits, it reaches a half of its own rate itself. A creation of ours takes about 95 us of processor time, \
                    of which 40 us are its actor, its record and its way through the tasks; the other takes 50 to 60 us, so two \
                    processors that are busy all the time would give 0.6x at best. The directories of those who wait are made \
                    together. To flush their names beside the log, and not before it, was tried in two ways and gained \
                    nothing: while the file system commits its journal, those who make directories wait all the same.",
    };
    vec![goal(RAW, 0.8), goal(PYTHON, 1.5)]
}

fn contender(name: &'static str, run: impl Fn(&Setting) -> Outcome<f64> + 'static) -> Contender {
    Box::new(move |setting| Ok(vec![Figure::new(name, run(setting)?)]))
}

fn fiefdom(setting: &Setting, durability: Durability) -> Outcome<f64> {
    runtime()?.block_on(async {
        let store = ours::open(setting, durability).await?;
        let used = store.clone();
        let rate = rate(setting, CALLERS, move |_| {
            let store = used.clone();
            async move { drop(store.create(NewInstance::new()).await.expect("a new instance")) }
        })
        .await;
        store.shutdown().await?;
        Ok(rate)
    })
}

fn lock_map(setting: &Setting, fsync: bool) -> Outcome<f64> {
    let map = Arc::new(LockMap::new(&setting.fresh_dir("map-")?, fsync));
    numbered(setting, move |number| map.create(&format!("instance-{number}")))
}

fn unflushed(setting: &Setting) -> Outcome<f64> {
    let (dir, content) = prepared(setting)?;
    numbered(setting, move |number| raw::create(&dir, &format!("instance-{number}"), &content))
}

/// As durable as a creation of ours: its content is in a log that is flushed, and its name in a
/// directory that is flushed, once for everybody who waits.
fn flushed(setting: &Setting) -> Outcome<f64> {
    let (dir, content) = prepared(setting)?;
    let flusher = Flusher::start(&dir, CALLERS)?;
    let used = Arc::clone(&flusher);
    let rate = numbered(setting, move |number| {
        raw::create(&dir, &format!("instance-{number}"), &content)?;
        used.wait_for_next()
    })?;
    flusher.stop();
    Ok(rate)
}

fn prepared(setting: &Setting) -> Outcome<(PathBuf, Vec<u8>)> {
    Ok((setting.fresh_dir("raw-")?, serde_json::to_vec(&Document::new())?))
}

/// A numbered creation on a blocking thread, by every caller again and again.
fn numbered(setting: &Setting, create: impl Fn(u64) -> Outcome<()> + Send + Sync + 'static) -> Outcome<f64> {
    let (create, next) = (Arc::new(create), Arc::new(AtomicU64::new(0)));
    Ok(runtime()?.block_on(rate(setting, CALLERS, move |_| {
        let (create, number) = (Arc::clone(&create), next.fetch_add(1, Ordering::Relaxed));
        async move {
            tokio::task::spawn_blocking(move || create(number).expect("a new instance")).await.expect("no panic");
        }
    })))
}
