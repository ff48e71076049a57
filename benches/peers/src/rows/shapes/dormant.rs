//! A store by the number of its dormant instances.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use fiefdom::{Durability, Filter, InstanceId, NewInstance, Store, Untyped, View};
use serde_json::Value;

use super::{CALLERS, DISK, at, document, micros, points, rate, runtime, slice, update};
use crate::harness::{Contender, Figure, Outcome, Row, Setting};
use crate::rows::{Bound, Goal};

const DORMANT: [usize; 4] = [100, 1_000, 10_000, 100_000];

/// Single times of which the median is taken.
const TIMES: usize = 30;

/// Instances on the first page of a list.
const PAGE: usize = 20;

const OURS: &str = "fiefdom";
const RAW: &str = "every record opened and read";

pub fn rows() -> Vec<Row> {
    let made = Roots::default();
    let each = |measure: fn(&Root, &Setting) -> Outcome<Figure>| -> Contender {
        let made = made.clone();
        Box::new(move |setting| {
            let measured = |&count: &usize| Ok(measure(&made.root(setting, count)?, setting)?.at(count as f64));
            points(setting, &DORMANT, 3).iter().map(measured).collect()
        })
    };
    let row = |name, title, unit, contenders| Row {
        name,
        title,
        unit,
        axis: Some("dormant instances in the store"),
        at_most: 5,
        contenders,
    };
    vec![
        row("shape-dormant-open", "A store opened, by dormant instances", "us", vec![each(open)]),
        row("shape-dormant-activate", "First use of one of them, by dormant instances", "us", vec![each(activate)]),
        row("shape-dormant-updates", "Updates of 64 of them, by dormant instances", "updates/s", vec![each(updates)]),
        row("shape-dormant-list", "The newest 20 listed, by dormant instances", "ms", vec![each(list), each(raw)]),
    ]
}

pub fn goals() -> Vec<Goal> {
    let flat = |row, ours| {
        let bound = Bound::Grows { from: 0.0, to: f64::INFINITY, at_most: 1.5 };
        Goal { row, ours, theirs: None, bound, if_missed: "Its cause has not been looked for." }
    };
    vec![flat("shape-dormant-open", OURS), flat("shape-dormant-activate", OURS), flat("shape-dormant-updates", DISK)]
}

/// A root full of dormant instances.
#[derive(Clone)]
struct Root {
    path: PathBuf,
    count: usize,
}

/// They are made once: it takes longer than to measure them.
#[derive(Clone, Default)]
struct Roots(Rc<RefCell<Vec<Root>>>);

impl Roots {
    fn root(&self, setting: &Setting, count: usize) -> Outcome<Root> {
        if let Some(root) = self.0.borrow().iter().find(|root| root.count == count) {
            return Ok(root.clone());
        }
        let root = Root { path: setting.fresh_dir("dormant-")?, count };
        root.fill()?;
        self.0.borrow_mut().push(root.clone());
        Ok(root)
    }
}

impl Root {
    fn id(number: usize) -> Outcome<InstanceId> {
        Ok(InstanceId::new(&format!("dormant-{number:06}"))?)
    }

    /// The first is made by the store, the others are copies of it under names of their own.
    fn fill(&self) -> Outcome<()> {
        let first = Self::id(0)?;
        let (view, rt) = (View::open(self.path.clone())?, runtime()?);
        rt.block_on(async {
            let store = Store::open(self.path.clone(), Untyped).await?;
            store.create(NewInstance::with_id(first.clone()).input(document(200))).await?;
            store.shutdown().await
        })?;
        let record = view.record_path(&first);
        let text = fs::read_to_string(&record)?;
        let known: Value = serde_json::from_str(&text)?;
        let (uid, made) = (said(&known, "uid")?, said(&known, "created_at")?);
        let made_at = chrono::DateTime::parse_from_rfc3339(made)?;
        let name = record.file_name().ok_or("a record has a name")?;
        for number in 1..self.count {
            let id = Self::id(number)?;
            let later = (made_at + chrono::TimeDelta::milliseconds(number as i64)).to_utc();
            let own_uid = format!("{number:08x}{}", &uid[8..]);
            let text = text.replace(first.as_str(), id.as_str()).replace(uid, &own_uid);
            let text = text.replace(made, &later.to_rfc3339_opts(chrono::SecondsFormat::Micros, true));
            let dir = view.instance_path(&id);
            fs::create_dir(&dir)?;
            fs::write(dir.join(name), text)?;
        }
        Ok(())
    }
}

fn said<'a>(record: &'a Value, key: &str) -> Outcome<&'a str> {
    Ok(record[key].as_str().ok_or_else(|| format!("a record has no {key}"))?)
}

fn open(root: &Root, _: &Setting) -> Outcome<Figure> {
    let rt = runtime()?;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let begun = Instant::now();
        let store = rt.block_on(Store::open(root.path.clone(), Untyped))?;
        times.push(begun.elapsed());
        rt.block_on(store.shutdown())?;
    }
    Ok(Figure::new(OURS, micros(&times)))
}

fn activate(root: &Root, _: &Setting) -> Outcome<Figure> {
    let rt = runtime()?;
    let store = rt.block_on(Store::open(root.path.clone(), Untyped))?;
    let mut times = Vec::new();
    // Far from each other, and not those that are updated.
    for number in (0..TIMES).map(|n| CALLERS + n * (root.count - CALLERS) / TIMES) {
        let id = Root::id(number)?;
        let begun = Instant::now();
        rt.block_on(async { store.get(&id).await?.record().await })?;
        times.push(begun.elapsed());
    }
    rt.block_on(store.shutdown())?;
    Ok(Figure::new(OURS, micros(&times)))
}

fn updates(root: &Root, setting: &Setting) -> Outcome<Figure> {
    let rt = runtime()?;
    let store = rt.block_on(Store::open_with(root.path.clone(), Untyped, at(Durability::Disk)))?;
    let mut all = Vec::new();
    for number in 0..CALLERS {
        all.push(rt.block_on(store.get(&Root::id(number)?))?);
    }
    let all = Arc::new(all);
    let operation = move |caller: usize, _| {
        let instance = all[caller].clone();
        async move { update(&instance).await }
    };
    let rate = rt.block_on(rate(CALLERS, slice(setting), operation))?;
    rt.block_on(store.shutdown())?;
    Ok(Figure::new(DISK, rate))
}

fn list(root: &Root, _: &Setting) -> Outcome<Figure> {
    let view = View::open(root.path.clone())?;
    let mut newest = Filter::default();
    newest.limit = Some(PAGE);
    let begun = Instant::now();
    let listing = view.list(&newest)?;
    let took = begun.elapsed();
    let newest = listing.records.first().map(|record| record.id.clone());
    if listing.records.len() != PAGE || newest != Some(Root::id(root.count - 1)?) {
        return Err(format!("a list of {} that begins with {newest:?}", listing.records.len()).into());
    }
    Ok(Figure::new(OURS, took.as_secs_f64() * 1e3))
}

fn raw(root: &Root, _: &Setting) -> Outcome<Figure> {
    let view = View::open(root.path.clone())?;
    let record = view.record_path(&Root::id(0)?);
    let name = record.file_name().ok_or("a record has a name")?;
    let instances = record.ancestors().nth(2).ok_or("a record lies in a directory")?;
    let begun = Instant::now();
    let bytes = read_all(instances, Path::new(name))?;
    let took = begun.elapsed();
    if bytes < root.count {
        return Err("records without bytes".into());
    }
    Ok(Figure::new(RAW, took.as_secs_f64() * 1e3))
}

fn read_all(instances: &Path, name: &Path) -> Outcome<usize> {
    let mut bytes = 0;
    for entry in fs::read_dir(instances)? {
        bytes += fs::read(entry?.path().join(name))?.len();
    }
    Ok(bytes)
}
