//! Updates by the number of instances, of callers, and of bytes.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

use fiefdom::{Durability, Store, Untyped};

use super::{CALLERS, DISK, OS, at, create, document, points, rate, runtime, slice, update};
use crate::harness::{Contender, Figure, Outcome, Row, Setting};
use crate::rows::{Bound, Goal};

/// The last is more than can be live at once by default.
const INSTANCES: [usize; 4] = [64, 512, 4_096, 32_768];
const CALLERS_AT_ONCE: [usize; 7] = [1, 4, 16, 64, 256, 1_024, 2_048];
const RECORD_BYTES: [usize; 4] = [200, 2_000, 20_000, 200_000];

/// A document of 200 bytes as a line of the commit log.
const LINE_BYTES: usize = 900;
const ENVELOPE_BYTES: usize = LINE_BYTES - 200;

/// When the file of the raw append gives way to a new one, as a segment of the log does.
const FILE_BYTES: usize = 64 << 20;

const HOT: &str = "fiefdom, on disk, the same 64 of them";
const TURNS: &str = "fiefdom, on disk, all of them in turn";
const RAW: &str = "raw append of one line for each caller, and fdatasync";

const OS_CALLERS: &str = "Nothing waits for a flush here, so the rate is bound by the processors from 16 callers on. With more \
    callers each has an instance of its own. Profiled at 64 and at 2 048 callers: the writing of the files and the checkpoints \
    take 3 % and 10 % of the processor time, the log 29 % and 11 %, and the threads of the runtime 68 % and 78 %. There no \
    function stands out; those that grow are the first to touch what an instance has (its actor, its lane, its record, the \
    channel of the reply), and the allocator. That the memory of 2 048 instances does not stay in the caches of the \
    processor is inferred from that, and was not counted. What would close it is less memory that each update touches: fewer \
    allocations, and the parts of an instance that every update needs beside each other.";

pub fn rows() -> Vec<Row> {
    let row = |name, title, unit, axis, contenders| Row { name, title, unit, axis: Some(axis), at_most: 5, contenders };
    vec![
        row(
            "shape-instances",
            "Updates by number of instances, 64 callers",
            "updates/s",
            "instances that were used a moment ago",
            vec![Box::new(by_instances)],
        ),
        row(
            "shape-callers",
            "Updates by number of callers",
            "updates/s",
            "callers, each on an instance of its own",
            vec![
                Box::new(|setting| by_callers(setting, DISK, Durability::Disk)),
                Box::new(|setting| by_callers(setting, OS, Durability::Os)),
                Box::new(|setting| raw(setting, &CALLERS_AT_ONCE, 6, |callers| (callers, LINE_BYTES))),
            ],
        ),
        row(
            "shape-record-updates",
            "Updates by size of the document, 64 callers",
            "updates/s",
            "bytes of the document",
            by_record(|_| 1.0),
        ),
        row(
            "shape-record-bytes",
            "Bytes of documents by size of the document, 64 callers",
            "MB/s",
            "bytes of the document",
            by_record(|bytes| bytes as f64 / 1e6),
        ),
    ]
}

pub fn goals() -> Vec<Goal> {
    let grows = |row, ours, from, at_most, if_missed| {
        let bound = Bound::Grows { from, to: f64::INFINITY, at_most };
        Goal { row, ours, theirs: None, bound, if_missed }
    };
    vec![
        grows("shape-instances", HOT, 64.0, 1.5, "Its cause has not been looked for."),
        grows("shape-callers", DISK, 64.0, 1.25, "Its cause has not been looked for."),
        grows("shape-callers", OS, 64.0, 1.25, OS_CALLERS),
        grows("shape-record-bytes", DISK, 200.0, 1.0, "Its cause has not been looked for."),
    ]
}

fn by_instances(setting: &Setting) -> Outcome<Vec<Figure>> {
    let rt = runtime()?;
    let store = rt.block_on(Store::open_with(setting.fresh_dir("instances-")?, Untyped, at(Durability::Disk)))?;
    let mut all = Vec::new();
    let mut figures = Vec::new();
    for &count in points(setting, &INSTANCES, 2) {
        all.extend(rt.block_on(create(&store, count - all.len(), 200))?);
        rt.block_on(store.flush())?;
        let shared = Arc::new(all.clone());
        for (series, among) in [(HOT, CALLERS), (TURNS, count)] {
            let all = Arc::clone(&shared);
            let operation = move |caller: usize, done: usize| {
                let instance = all[(caller + done * CALLERS) % among].clone();
                async move { update(&instance).await }
            };
            let rate = rt.block_on(rate(CALLERS, slice(setting), operation))?;
            figures.push(Figure::new(series, rate).at(count as f64));
        }
    }
    rt.block_on(store.shutdown())?;
    Ok(figures)
}

fn by_callers(setting: &Setting, series: &str, durability: Durability) -> Outcome<Vec<Figure>> {
    let rate_of = |&callers: &usize| {
        let rate = updates(setting, durability, callers, 200)?;
        Ok(Figure::new(series, rate).at(callers as f64))
    };
    points(setting, &CALLERS_AT_ONCE, 6).iter().map(rate_of).collect()
}

/// Updates per second, every caller on an instance of its own.
fn updates(setting: &Setting, durability: Durability, callers: usize, bytes: usize) -> Outcome<f64> {
    let rt = runtime()?;
    let store = rt.block_on(Store::open_with(setting.fresh_dir("updates-")?, Untyped, at(durability)))?;
    let all = Arc::new(rt.block_on(create(&store, callers, bytes))?);
    let operation = move |caller: usize, _| {
        let instance = all[caller].clone();
        async move { update(&instance).await }
    };
    let rate = rt.block_on(rate(callers, slice(setting), operation))?;
    rt.block_on(store.shutdown())?;
    Ok(rate)
}

/// `each` is what one update counts for.
fn by_record(each: fn(usize) -> f64) -> Vec<Contender> {
    let ours = move |setting: &Setting, series: &str, durability| {
        let rate_of = |&bytes: &usize| {
            let rate = updates(setting, durability, CALLERS, bytes)?;
            Ok(Figure::new(series, rate * each(bytes)).at(bytes as f64))
        };
        points(setting, &RECORD_BYTES, 3).iter().map(rate_of).collect::<Outcome<Vec<_>>>()
    };
    vec![
        Box::new(move |setting| ours(setting, DISK, Durability::Disk)),
        Box::new(move |setting| ours(setting, OS, Durability::Os)),
        Box::new(move |setting| {
            let mut figures = raw(setting, &RECORD_BYTES, 3, |bytes| (CALLERS, bytes + ENVELOPE_BYTES))?;
            figures.iter_mut().for_each(|figure| figure.value *= each(figure.x.unwrap_or(0.0) as usize));
            Ok(figures)
        }),
    ]
}

/// Lines per second of one writer that appends a batch, flushes it, and goes on.
fn raw(
    setting: &Setting,
    all: &[usize],
    quick: usize,
    batch: impl Fn(usize) -> (usize, usize),
) -> Outcome<Vec<Figure>> {
    let mut figures = Vec::new();
    for &x in points(setting, all, quick) {
        let (lines, bytes) = batch(x);
        let mut line = serde_json::to_vec(&document(bytes))?;
        line.push(b'\n');
        let batch = line.repeat(lines);
        let dir = setting.fresh_dir("raw-")?;
        let mut files = 0;
        let mut file = File::create(dir.join("0"))?;
        let (begun, mut done, mut written) = (Instant::now(), 0, 0);
        while begun.elapsed() < slice(setting) {
            file.write_all(&batch)?;
            file.sync_data()?;
            done += lines;
            written += batch.len();
            if written > FILE_BYTES {
                files += 1;
                file = File::create(dir.join(files.to_string()))?;
                written = 0;
            }
        }
        figures.push(Figure::new(RAW, done as f64 / begun.elapsed().as_secs_f64()).at(x as f64));
        // Few, and large: they need not stay.
        std::fs::remove_dir_all(dir)?;
    }
    Ok(figures)
}
