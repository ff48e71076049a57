//! One instance by the length of its event log.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use fiefdom::{Durability, InstanceId, NewInstance, Store, Untyped, View};

use super::{DISK, at, micros, points, rate, runtime, slice};
use crate::harness::{Contender, Figure, Outcome, Row, Setting};
use crate::rows::{Bound, Goal};

const EVENTS: [u64; 5] = [1_000, 10_000, 100_000, 1_000_000, 10_000_000];

/// Events of one commit, where they are made.
const AT_ONCE: u64 = 10_000;

/// How many are read from the end.
const LAST: u64 = 10;

/// Single times of which the median is taken.
const TIMES: usize = 30;

const OURS: &str = "fiefdom";

const GROWS: &str = "Nothing of it should depend on the length: the last events are found in the last 16 KiB of the \
    active file, without the names of the full ones, and by the same number of calls on a long log as on a short one (a \
    test counts them).";

pub fn rows() -> Vec<Row> {
    let made = Logs::default();
    let row = |name, title, measure: fn(&Logs, &Setting, u64) -> Outcome<Figure>| {
        let made = made.clone();
        let each: Contender = Box::new(move |setting| {
            points(setting, &EVENTS, 3).iter().map(|&events| measure(&made, setting, events)).collect()
        });
        Row {
            name,
            title,
            unit: "us",
            axis: Some("events in the log of the instance"),
            at_most: 5,
            contenders: vec![each],
        }
    };
    vec![
        row("shape-log-activate", "First use of a dormant instance, by length of its event log", activate),
        row("shape-log-append", "One event appended by one caller, by length of the event log", append),
        row("shape-log-last", "The last 10 events read, by length of the event log", last),
    ]
}

pub fn goals() -> Vec<Goal> {
    let flat = |row, ours| {
        let bound = Bound::Grows { from: 0.0, to: f64::INFINITY, at_most: 1.5 };
        Goal { row, ours, theirs: None, bound, if_missed: GROWS }
    };
    vec![flat("shape-log-activate", OURS), flat("shape-log-append", DISK), flat("shape-log-last", OURS)]
}

/// Roots that have one instance each, with a long log. They are made once, and grow hardly at all.
#[derive(Clone, Default)]
struct Logs(Rc<RefCell<Vec<(u64, PathBuf)>>>);

impl Logs {
    fn root(&self, setting: &Setting, events: u64) -> Outcome<PathBuf> {
        if let Some((_, root)) = self.0.borrow().iter().find(|(made, _)| *made == events) {
            return Ok(root.clone());
        }
        let root = setting.fresh_dir("log-")?;
        runtime()?.block_on(fill(root.clone(), events))?;
        self.0.borrow_mut().push((events, root.clone()));
        Ok(root)
    }
}

fn id() -> Outcome<InstanceId> {
    Ok(InstanceId::new("long")?)
}

async fn fill(root: PathBuf, events: u64) -> Outcome<()> {
    let store = Store::open_with(root, Untyped, at(Durability::Os)).await?;
    let made = store.create(NewInstance::with_id(id()?)).await?;
    for from in (0..events).step_by(AT_ONCE as usize) {
        let until = events.min(from + AT_ONCE);
        let add =
            move |tx: &mut fiefdom::Transaction<_>| (from..until).try_for_each(|n| tx.event("step", &n).map(drop));
        made.instance().commit(add).await?;
    }
    Ok(store.shutdown().await?)
}

fn activate(logs: &Logs, setting: &Setting, events: u64) -> Outcome<Figure> {
    let (root, id, rt) = (logs.root(setting, events)?, id()?, runtime()?);
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let time = rt.block_on(async {
            let store = Store::open(root.clone(), Untyped).await?;
            let begun = Instant::now();
            store.get(&id).await?.record().await?;
            let time = begun.elapsed();
            store.shutdown().await?;
            Ok::<_, fiefdom::Error>(time)
        })?;
        times.push(time);
    }
    Ok(Figure::new(OURS, micros(&times)).at(events as f64))
}

fn append(logs: &Logs, setting: &Setting, events: u64) -> Outcome<Figure> {
    let (root, id, rt) = (logs.root(setting, events)?, id()?, runtime()?);
    let store = rt.block_on(Store::open_with(root, Untyped, at(Durability::Disk)))?;
    let instance = rt.block_on(store.get(&id))?;
    let operation = move |_, _| {
        let instance = instance.clone();
        async move { instance.append("step", 0).await.map(drop) }
    };
    let rate = rt.block_on(rate(1, slice(setting), operation))?;
    rt.block_on(store.shutdown())?;
    Ok(Figure::new(DISK, 1e6 / rate).at(events as f64))
}

fn last(logs: &Logs, setting: &Setting, events: u64) -> Outcome<Figure> {
    let (view, id) = (View::open(logs.root(setting, events)?)?, id()?);
    let end = view.record(&id)?.last_event_seq;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let begun = Instant::now();
        let read = view.events(&id, end + 1 - LAST)?;
        times.push(begun.elapsed());
        if read.len() as u64 != LAST {
            return Err(format!("{} events instead of the last {LAST}", read.len()).into());
        }
    }
    Ok(Figure::new(OURS, micros(&times)).at(events as f64))
}
