//! Reads of a live instance, by one caller after the other.

use fiefdom::Durability;

use super::{Bound, Goal};
use crate::harness::{Contender, Figure, Row, Setting};
use crate::peers::bare::Held;
use crate::peers::document::Document;
use crate::peers::driver::{rate, runtime};
use crate::peers::ours;

const FIELD: &str = "fiefdom, a field";
const COPY: &str = "fiefdom, a copy of the state";
const BARE: &str = "limit: a bare ractor call";
const BARE_COPY: &str = "limit: a bare ractor call, and a copy";

pub fn rows() -> Vec<Row> {
    let row = |name, title, callers| Row {
        name,
        title,
        unit: "us",
        axis: None,
        at_most: usize::MAX,
        contenders: vec![ours(callers), bare(callers)],
    };
    vec![
        row("reads-1", "A read of a live instance, 1 caller: time of one", 1),
        row("reads-64", "Reads of live instances, 64 callers of 64 instances: time of one of them", 64),
    ]
}

pub fn goals() -> Vec<Goal> {
    let goal = |row, ours, theirs| Goal {
        row,
        ours,
        theirs: Some(theirs),
        bound: Bound::AtMost(1.3),
        if_missed: "Its cause has not been looked for.",
    };
    vec![
        goal("reads-1", FIELD, BARE),
        goal("reads-1", COPY, BARE_COPY),
        goal("reads-64", FIELD, BARE),
        goal("reads-64", COPY, BARE_COPY),
    ]
}

/// So many reads in a row before the task lets others run: a read of ours is no message.
const IN_A_ROW: usize = 64;

/// The time that a caller waits for one read.
fn each(reads: f64, callers: usize) -> f64 {
    1e6 * callers as f64 / reads
}

fn ours(callers: usize) -> Contender {
    Box::new(move |setting: &Setting| {
        runtime()?.block_on(async {
            let store = ours::open(setting, Durability::Disk).await?;
            let all = ours::instances(&store, callers).await?;
            let used = all.clone();
            let fields = rate(setting, callers, move |caller| {
                let one = used[caller].clone();
                async move {
                    for _ in 0..IN_A_ROW {
                        std::hint::black_box(one.read(|state| state.count).await.expect("a read"));
                    }
                    tokio::task::yield_now().await;
                }
            })
            .await;
            let copies = rate(setting, callers, move |caller| {
                let one = all[caller].clone();
                async move {
                    for _ in 0..IN_A_ROW {
                        std::hint::black_box(one.state().await.expect("a read"));
                    }
                    tokio::task::yield_now().await;
                }
            })
            .await;
            store.shutdown().await?;
            let all_of_them = IN_A_ROW as f64;
            Ok(vec![
                Figure::new(FIELD, each(fields * all_of_them, callers)),
                Figure::new(COPY, each(copies * all_of_them, callers)),
            ])
        })
    })
}

fn bare(callers: usize) -> Contender {
    Box::new(move |setting: &Setting| {
        runtime()?.block_on(async {
            let mut all = Vec::new();
            for _ in 0..callers {
                all.push(Held::spawn().await?);
            }
            let used = all.clone();
            let fields = rate(setting, callers, move |caller| {
                let one = used[caller].clone();
                async move {
                    std::hint::black_box(one.get().await.count);
                }
            })
            .await;
            let used = all.clone();
            let copies = rate(setting, callers, move |caller| {
                let one = used[caller].clone();
                async move {
                    std::hint::black_box(Document::clone(&*one.get().await));
                }
            })
            .await;
            all.iter().for_each(Held::stop);
            Ok(vec![Figure::new(BARE, each(fields, callers)), Figure::new(BARE_COPY, each(copies, callers))])
        })
    })
}
