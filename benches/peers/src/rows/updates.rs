//! Updates of a document of 200 bytes, by callers that each wait for the answer.

use std::sync::Arc;

use fiefdom::Durability;

use super::{Bound, Goal};
use crate::harness::{Contender, Figure, Outcome, Row, Setting};
use crate::peers::actor::{Committer, Database};
use crate::peers::document::Document;
use crate::peers::driver::{blocking_latency, blocking_rate, latency, rate, runtime};
use crate::peers::lock_map::LockMap;
use crate::peers::raw::Appended;
use crate::peers::redb::Redb;
use crate::peers::sqlite::{Sqlite, Synchronous};
use crate::peers::{durare, ours, python};

const SQLITE_FULL: &str = "SQLite, actors, group commit, FULL";
const SQLITE_NORMAL: &str = "SQLite, actors, group commit, NORMAL";
const REDB: &str = "redb, actors, group commit, Immediate";
const REDB_NONE: &str = "redb, actors, group commit, None (in memory)";
const LOCK_MAP: &str = "lock map in Rust, no fsync";
const LOCK_MAP_FSYNC: &str = "lock map in Rust, fsync";
const PYTHON: &str = "lock map in Python, no fsync";
const RAW: &str = "limit: append + fdatasync";
const RAW_AHEAD: &str = "limit: append over filler + fdatasync";

pub fn rows() -> Vec<Row> {
    let row = |name, title, unit, contenders| Row { name, title, unit, axis: None, at_most: usize::MAX, contenders };
    vec![
        row("updates-1", "Updates, 1 caller", "updates/s", everybody(1, 1)),
        row("updates-64", "Updates, 64 callers, each with an instance of its own", "updates/s", everybody(64, 64)),
        row("updates-512", "Updates, 512 callers, each with an instance of its own", "updates/s", everybody(512, 512)),
        row("updates-512-of-64", "Updates, 512 callers of 64 instances", "updates/s", everybody(512, 64)),
        row("updates-hot", "Updates, 64 callers of one instance", "updates/s", everybody(64, 1)),
        row("update-latency", "One update after the other: median time of one", "us", latencies()),
    ]
}

pub fn goals() -> Vec<Goal> {
    let goal = |row, theirs, bound, if_missed| Goal { row, ours: ours::DISK, theirs: Some(theirs), bound, if_missed };
    vec![
        goal("updates-64", SQLITE_FULL, Bound::AtLeast(1.2), BESIDE_A_DATABASE),
        goal("updates-64", LOCK_MAP, Bound::AtLeast(8.0), LOCK_MAP_IS_NEAR),
        goal("updates-64", PYTHON, Bound::AtLeast(15.0), LOCK_MAP_IS_NEAR),
        goal("updates-512", SQLITE_FULL, Bound::AtLeast(1.3), BESIDE_A_DATABASE),
        goal("updates-512", REDB, Bound::AtLeast(1.3), BESIDE_A_DATABASE),
        goal("updates-512", RAW, Bound::AtLeast(0.4), BESIDE_THE_LIMIT),
        goal("updates-512-of-64", SQLITE_FULL, Bound::AtLeast(1.3), BESIDE_A_DATABASE),
        goal("updates-512-of-64", REDB, Bound::AtLeast(1.3), BESIDE_A_DATABASE),
        goal("updates-512-of-64", RAW, Bound::AtLeast(0.4), BESIDE_THE_LIMIT),
        goal("updates-hot", SQLITE_FULL, Bound::AtLeast(1.2), BESIDE_A_DATABASE),
        goal("update-latency", RAW, Bound::AtMost(1.3), ONE_CALLER),
    ]
}

const BESIDE_A_DATABASE: &str = "With 512 callers it is processor time, and no one part of it: some 12 000 instructions \
for an update (callgrind), of which the caller, the framework's mailbox, the actor, the line in the log and the answer each \
have a share. The peer changes its only copy in place, bounds nothing, keeps no other process out of its database, and has \
no file for each instance that follows. What has 512 instances at work also goes through more memory than the caches hold: \
at the level Os an update takes half as long again as with 64. Changes of one instance that wait together are one line, and \
an actor lets all its callers ask before it works; but each change is still made on a copy, checked and encoded by itself, \
so that one that fails leaves the others as they are. Measured and no gain: pauses after a batch, other amounts of filler, \
no filler for large batches. What would close it, in part: a record of which a commit copies only what changes (it is \
copied whole, to go back to and to read from), and fewer passages of the framework for a message. Twice fewer \
instructions are not in sight.";

const BESIDE_THE_LIMIT: &str = "The limit only appends. What 512 callers wait for is that their changes are applied, \
encoded and answered, each in its own task, while the files of 512 instances follow. See above for what would close a \
part of it.";

const ONE_CALLER: &str = "One caller waits for three threads in turn (the actor's, the log's, the actor's again), and \
for the flush between them; where a flush takes some tens of microseconds only, the turns show.";

const LOCK_MAP_IS_NEAR: &str = "Where to replace a file is cheap, and nothing is flushed, the lock map is bound by \
its processor time alone, as ours is; it loses what it acknowledged when the power goes.";

/// Every contender with so many callers of so many instances.
fn everybody(callers: usize, instances: usize) -> Vec<Contender> {
    let mut contenders = vec![
        contender(ours::DISK, move |s| fiefdom(s, Durability::Disk, callers, instances)),
        contender(ours::OS, move |s| fiefdom(s, Durability::Os, callers, instances)),
    ];
    for (name, level) in [(SQLITE_FULL, Synchronous::Full), (SQLITE_NORMAL, Synchronous::Normal)] {
        contenders.push(contender(name, move |s| {
            database(s, Sqlite::create(&s.fresh_dir("sqlite-")?, level, instances)?, callers, instances)
        }));
    }
    for (name, durable) in [(REDB, true), (REDB_NONE, false)] {
        contenders.push(contender(name, move |s| {
            database(s, Redb::create(&s.fresh_dir("redb-")?, durable)?, callers, instances)
        }));
    }
    // A workflow takes one step after the other: one of them cannot have many callers.
    if instances == callers {
        contenders.push(steps_of_durare("durare on SQLite, NORMAL (its default)", callers, "normal"));
        contenders.push(steps_of_durare("durare on SQLite, FULL", callers, "full"));
    }
    for (name, fsync) in [(LOCK_MAP, false), (LOCK_MAP_FSYNC, true)] {
        contenders.push(contender(name, move |s| lock_map(s, fsync, callers, instances)));
    }
    contenders.push(contender(PYTHON, move |s| python::rate(s, "update", callers, instances)));
    for (name, ahead) in [(RAW, false), (RAW_AHEAD, true)] {
        contenders.push(contender(name, move |s| {
            let mut file = Appended::create(&s.fresh_dir("raw-")?, callers, ahead)?;
            blocking_rate(s, callers, || file.append())
        }));
    }
    contenders
}

fn latencies() -> Vec<Contender> {
    let mut contenders = Vec::new();
    for (name, durability) in [(ours::DISK, Durability::Disk), (ours::OS, Durability::Os)] {
        contenders.push(contender(name, move |s| {
            runtime()?.block_on(async {
                let store = ours::open(s, durability).await?;
                let one = ours::instances(&store, 1).await?[0].clone();
                let took = latency(s, move || {
                    let one = one.clone();
                    async move { one.update(count).await.expect("an update") }
                })
                .await;
                store.shutdown().await?;
                Ok(took)
            })
        }));
    }
    for (name, level) in [(SQLITE_FULL, Synchronous::Full), (SQLITE_NORMAL, Synchronous::Normal)] {
        contenders
            .push(contender(name, move |s| one_at_a_time(s, Sqlite::create(&s.fresh_dir("sqlite-")?, level, 1)?)));
    }
    contenders.push(contender(REDB, |s| one_at_a_time(s, Redb::create(&s.fresh_dir("redb-")?, true)?)));
    for (name, ahead) in [(RAW, false), (RAW_AHEAD, true)] {
        contenders.push(contender(name, move |s| {
            let mut file = Appended::create(&s.fresh_dir("raw-")?, 1, ahead)?;
            blocking_latency(s, || file.append())
        }));
    }
    contenders
}

fn contender(name: &'static str, run: impl Fn(&Setting) -> Outcome<f64> + 'static) -> Contender {
    Box::new(move |setting| Ok(vec![Figure::new(name, run(setting)?)]))
}

fn steps_of_durare(name: &'static str, callers: usize, synchronous: &'static str) -> Contender {
    Box::new(move |setting| {
        let rate = durare::rate(setting, callers, synchronous)?;
        if rate.is_none() {
            eprintln!("{name}: not built, left out");
        }
        Ok(rate.map(|rate| Figure::new(name, rate)).into_iter().collect())
    })
}

fn count(document: &mut Document) {
    document.count += 1;
}

fn fiefdom(setting: &Setting, durability: Durability, callers: usize, instances: usize) -> Outcome<f64> {
    runtime()?.block_on(async {
        let store = ours::open(setting, durability).await?;
        let all = ours::instances(&store, instances).await?;
        let rate = rate(setting, callers, move |caller| {
            let one = all[caller % instances].clone();
            async move { one.update(count).await.expect("an update") }
        })
        .await;
        store.shutdown().await?;
        Ok(rate)
    })
}

fn database(setting: &Setting, database: impl Database, callers: usize, instances: usize) -> Outcome<f64> {
    let committer = Committer::start(database);
    let rate = runtime()?.block_on(async {
        let all = committer.actors(instances).await?;
        let (used, last) = (Arc::clone(&all), all.len());
        let rate = rate(setting, callers, move |caller| {
            let one = used[caller % last].clone();
            async move { one.update(count).await }
        })
        .await;
        all.iter().for_each(|actor| actor.stop());
        Outcome::Ok(rate)
    })?;
    committer.stop();
    Ok(rate)
}

fn one_at_a_time(setting: &Setting, database: impl Database) -> Outcome<f64> {
    let committer = Committer::start(database);
    let took = runtime()?.block_on(async {
        let one = committer.actors(1).await?[0].clone();
        let used = one.clone();
        let took = latency(setting, move || {
            let one = used.clone();
            async move { one.update(count).await }
        })
        .await;
        one.stop();
        Outcome::Ok(took)
    })?;
    committer.stop();
    Ok(took)
}

fn lock_map(setting: &Setting, fsync: bool, callers: usize, instances: usize) -> Outcome<f64> {
    let map = Arc::new(LockMap::new(&setting.fresh_dir("map-")?, fsync));
    let ids: Arc<Vec<String>> = Arc::new((0..instances).map(|n| format!("instance-{n}")).collect());
    ids.iter().try_for_each(|id| map.create(id))?;
    Ok(runtime()?.block_on(rate(setting, callers, move |caller| {
        let (map, ids) = (Arc::clone(&map), Arc::clone(&ids));
        async move {
            let update = move || map.update(&ids[caller % ids.len()]).expect("an update");
            tokio::task::spawn_blocking(update).await.expect("no panic");
        }
    })))
}
