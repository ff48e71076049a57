//! Appends of events of 200 bytes.

use std::sync::Arc;

use fiefdom::Durability;

use super::{Bound, Goal};
use crate::harness::{Contender, Figure, Outcome, Row, Setting};
use crate::peers::actor::{Committer, Database};
use crate::peers::document::Document;
use crate::peers::driver::{blocking_rate, rate, runtime};
use crate::peers::ours;
use crate::peers::raw::Appended;
use crate::peers::redb::Redb;
use crate::peers::sqlite::{Sqlite, Synchronous};

const INSTANCES: usize = 64;

const SQLITE_FULL: &str = "SQLite, actors, group commit, FULL";

pub fn rows() -> Vec<Row> {
    let row = |name, title, unit, contenders| Row { name, title, unit, axis: None, at_most: usize::MAX, contenders };
    vec![row("appends-64", "Events of 200 bytes appended, 64 callers of 64 instances", "events/s", appends())]
}

pub fn goals() -> Vec<Goal> {
    vec![Goal {
        row: "appends-64",
        ours: ours::DISK,
        theirs: Some(SQLITE_FULL),
        bound: Bound::AtLeast(1.2),
        if_missed: "Its cause has not been looked for.",
    }]
}

fn contender(name: &'static str, run: impl Fn(&Setting) -> Outcome<f64> + 'static) -> Contender {
    Box::new(move |setting| Ok(vec![Figure::new(name, run(setting)?)]))
}

fn appends() -> Vec<Contender> {
    vec![
        contender(ours::DISK, |s| fiefdom(s, Durability::Disk)),
        contender(ours::OS, |s| fiefdom(s, Durability::Os)),
        contender(SQLITE_FULL, |s| database(s, sqlite(s, Synchronous::Full)?)),
        contender("SQLite, actors, group commit, NORMAL", |s| database(s, sqlite(s, Synchronous::Normal)?)),
        contender("redb, actors, group commit, Immediate", |s| {
            database(s, Redb::create(&s.fresh_dir("redb-")?, true)?)
        }),
        contender("redb, actors, group commit, None (in memory)", |s| {
            database(s, Redb::create(&s.fresh_dir("redb-")?, false)?)
        }),
        contender("limit: append + fdatasync", |s| {
            let mut file = Appended::create(&s.fresh_dir("raw-")?, INSTANCES, false)?;
            blocking_rate(s, INSTANCES, || file.append())
        }),
    ]
}

fn sqlite(setting: &Setting, level: Synchronous) -> Outcome<Sqlite> {
    Sqlite::create(&setting.fresh_dir("sqlite-")?, level, INSTANCES)
}

fn fiefdom(setting: &Setting, durability: Durability) -> Outcome<f64> {
    runtime()?.block_on(async {
        let store = ours::open(setting, durability).await?;
        let all = ours::instances(&store, INSTANCES).await?;
        let data = Arc::new(Document::new());
        let rate = rate(setting, INSTANCES, move |caller| {
            let (one, data) = (all[caller].clone(), Document::clone(&data));
            async move {
                one.append("line", data).await.expect("an append");
            }
        })
        .await;
        store.shutdown().await?;
        Ok(rate)
    })
}

fn database(setting: &Setting, database: impl Database) -> Outcome<f64> {
    let committer = Committer::start(database);
    let rate = runtime()?.block_on(async {
        let all = committer.actors(INSTANCES).await?;
        let used = Arc::clone(&all);
        let data = Arc::new(Document::new());
        let rate = rate(setting, INSTANCES, move |caller| {
            let (one, data) = (used[caller].clone(), Document::clone(&data));
            async move { one.append(data).await }
        })
        .await;
        all.iter().for_each(|actor| actor.stop());
        Outcome::Ok(rate)
    })?;
    committer.stop();
    Ok(rate)
}
