//! Many instances: listing, opening, touching, living, and recovering them. Everything that counts
//! is done by a fresh process, `child scale STEP ROOT NUMBER`, which prints its figures.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use fiefdom::{Durability, Filter, InstanceId, NewInstance, Options, Status, Store, Untyped, View};
use futures::StreamExt as _;

use super::{Bound, Goal, roots};
use crate::harness::{Contender, Figure, Outcome, Row, Setting, child, median};

const PAGE: usize = 20;

pub fn rows() -> Vec<Row> {
    let row = |name, title, unit, at_most, contenders| Row { name, title, unit, axis: None, at_most, contenders };
    vec![
        row("scale-list", "list the newest 20 of 100 000 instances, fresh process", "ms", 5, vec![list(100_000)]),
        row(
            "scale-activate",
            "first use of a dormant instance of 10 000, warm cache: median",
            "us",
            5,
            vec![one_by_one()],
        ),
        row("scale-activate-64", "first use of dormant instances, 64 at once, warm cache", "/s", 5, vec![sixty_four()]),
        row("scale-live", "memory of an idle live instance, of 10 000", "KiB", 3, vec![live()]),
        row("scale-recover-log", "open a root with a full log segment of a killed process", "s", 3, vec![full_log()]),
        row("scale-recover-work", "open a root in which 10 000 instances were at work", "s", 3, vec![at_work()]),
        row(
            "scale-million-list",
            "list the newest 20 of 1 000 000 instances, fresh process",
            "ms",
            3,
            vec![list(1_000_000)],
        ),
        row("scale-million-open", "open a root of 1 000 000 dormant instances", "ms", 3, vec![open()]),
        row("scale-million-memory", "resident memory after that", "MiB", 3, vec![open_memory()]),
        row("scale-million-touch", "first use of 1 000 at random, one at a time: median", "us", 3, vec![touch()]),
    ]
}

pub fn goals() -> Vec<Goal> {
    let goal = |row, ours, theirs, bound| Goal { row, ours, theirs, bound, if_missed: why(row) };
    let at_most = |row, ours, most| goal(row, ours, None, Bound::AtMost(most));
    vec![
        goal("scale-list", WITHOUT_INDEX, Some(RAW), Bound::AtMost(1.5)),
        at_most("scale-activate", FIEFDOM, 300.0),
        goal("scale-activate-64", FIEFDOM, None, Bound::AtLeast(4000.0)),
        at_most("scale-live", FIEFDOM, 12.0),
        at_most("scale-recover-log", FIEFDOM, 1.0),
        at_most("scale-recover-work", FIEFDOM, 2.0),
        at_most("scale-million-list", WITH_INDEX, 200.0),
        at_most("scale-million-open", FIEFDOM, 100.0),
        at_most("scale-million-memory", FIEFDOM, 64.0),
        goal("scale-million-touch", FIEFDOM, Some(OF_A_THOUSAND), Bound::AtMost(1.5)),
    ]
}

fn why(row: &str) -> &'static str {
    match row {
        "scale-list" => {
            "Without an index every name is read once, every record is opened with one call and read with one, by as many \
             threads as there are processors, and the index is sorted and written. It is done once: that index makes the next \
             listing a matter of a few milliseconds."
        }
        "scale-live" => "About two thirds of it are the actor of ractor with its task and channels.",
        "scale-recover-log" => {
            "The commits of one segment are read and checked by several threads, and chained by one; then the files of the \
             instances are flushed with two calls, which take as long as the disk takes for whatever anybody has written."
        }
        "scale-recover-work" => {
            "It is ext4 looking for a free inode (without a journal it passes over every one that was freed in the last \
             minutes): two fifths of the processor time of the recovery, in a profile. The dead process freed them when it \
             replaced its records, and each run of this row frees more: the third takes longer than the first, and a recovery \
             some minutes later would not pay that. The rest is a new record for each, written, named and flushed with two \
             calls for all of them. Fewer new inodes would close it, and there are none to save: an old file may be one whose \
             flush has failed."
        }
        _ => "Its cause has not been looked for.",
    }
}

const FIEFDOM: &str = "fiefdom";
const OF_A_THOUSAND: &str = "fiefdom, in a root of 1 000";
const WITH_INDEX: &str = "fiefdom, by the index";
const WITHOUT_INDEX: &str = "fiefdom, without an index yet";
const RAW: &str = "raw: open and read every record";

/// A root of so many dormant instances: made once for all rows, or the one that is named.
fn root(setting: &Setting, count: usize) -> Outcome<PathBuf> {
    static MADE: OnceLock<std::sync::Mutex<std::collections::BTreeMap<usize, PathBuf>>> = OnceLock::new();
    let count = if setting.quick { count / 10 } else { count };
    if count == 1_000_000
        && let Some(named) = std::env::var_os("FIEFDOM_BENCH_MILLION")
    {
        return Ok(named.into());
    }
    let mut made = MADE.get_or_init(Default::default).lock().map_err(|_| "a run has panicked")?;
    if let Some(root) = made.get(&count) {
        return Ok(root.clone());
    }
    let root = setting.fresh_dir("scale-")?;
    roots::fill(&root, 0..count)?;
    // Makes what belongs to the store.
    step("open", &root, 0)?;
    made.insert(count, root.clone());
    Ok(root)
}

/// The figures that a fresh process prints.
fn step(name: &str, root: &Path, number: usize) -> Outcome<Vec<f64>> {
    let root = root.to_str().ok_or("the path is not UTF-8")?;
    let out = child(&["scale", name, root, &number.to_string()])?;
    Ok(out.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

fn one(series: &str, value: f64) -> Outcome<Vec<Figure>> {
    Ok(vec![Figure::new(series, value)])
}

fn list(count: usize) -> Contender {
    Box::new(move |setting| {
        let root = root(setting, count)?;
        let mut figures = Vec::new();
        // What an index costs that is not there: every name and every record is read. Of a million
        // this is done once.
        let index = root.join(".fiefdom/listing");
        let without = count < 1_000_000 || !index.exists();
        if without {
            figures.push(Figure::new(RAW, step("raw-read", &root, 0)?[0]));
            let _ = std::fs::remove_file(&index);
            figures.push(Figure::new(WITHOUT_INDEX, step("list", &root, PAGE)?[0]));
        }
        figures.push(Figure::new(WITH_INDEX, step("list", &root, PAGE)?[0]));
        Ok(figures)
    })
}

fn open() -> Contender {
    Box::new(|setting| one(FIEFDOM, step("open", &root(setting, 1_000_000)?, 0)?[0]))
}

fn open_memory() -> Contender {
    Box::new(|setting| one(FIEFDOM, step("open", &root(setting, 1_000_000)?, 0)?[1]))
}

fn touch() -> Contender {
    Box::new(|setting| {
        let mut figures = Vec::new();
        for (series, count) in [(FIEFDOM, 1_000_000), (OF_A_THOUSAND, 10_000)] {
            let count = if setting.quick { count / 10 } else { count };
            // In a quick look the small root has 1 000 of its own size; in a full one the tenth is it.
            let root = root(setting, if series == FIEFDOM { 1_000_000 } else { 10_000 })?;
            let range = if series == FIEFDOM { count } else { 1000 };
            // Warm: the same thousand were read just before.
            step("read-random", &root, range)?;
            figures.push(Figure::new(series, step("touch", &root, range)?[0]));
        }
        Ok(figures)
    })
}

fn one_by_one() -> Contender {
    Box::new(|setting| {
        let root = root(setting, 10_000)?;
        step("raw-read", &root, 0)?;
        one(FIEFDOM, step("touch", &root, if setting.quick { 1000 } else { 10_000 })?[0])
    })
}

fn sixty_four() -> Contender {
    Box::new(|setting| {
        let root = root(setting, 10_000)?;
        step("raw-read", &root, 0)?;
        one(FIEFDOM, step("activate", &root, if setting.quick { 1000 } else { 10_000 })?[0])
    })
}

fn live() -> Contender {
    Box::new(|setting| {
        let root = root(setting, 10_000)?;
        one(FIEFDOM, step("live", &root, if setting.quick { 1000 } else { 10_000 })?[0])
    })
}

fn full_log() -> Contender {
    Box::new(|setting| {
        let root = setting.fresh_dir("recover-")?;
        // It kills itself.
        let _ = step("die-with-log", &root, if setting.quick { 6 << 20 } else { 64 << 20 });
        let raw = step("raw-segments", &root, 0)?[0];
        let took = step("open", &root, 0)?[0];
        Ok(vec![Figure::new("raw: read the segment", raw / 1000.0), Figure::new(FIEFDOM, took / 1000.0)])
    })
}

fn at_work() -> Contender {
    Box::new(|setting| {
        let root = setting.fresh_dir("recover-")?;
        let _ = step("die-at-work", &root, if setting.quick { 1000 } else { 10_000 });
        one(FIEFDOM, step("open", &root, 0)?[0] / 1000.0)
    })
}

/// One step in this process.
pub fn act(args: &[String]) -> Outcome<()> {
    let [step, root, number] = args else { return Err("child scale STEP ROOT NUMBER".into()) };
    let (root, number) = (Path::new(root), number.parse()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let figures = match step.as_str() {
        "list" => {
            let begun = Instant::now();
            let mut filter = Filter::default();
            filter.limit = Some(number);
            let found = View::open(root)?.list(&filter)?.records.len();
            if found != number {
                return Err(format!("{found} of {number} were listed").into());
            }
            vec![millis(begun)]
        }
        "raw-read" => vec![raw_read(root)?],
        "read-random" => random(number).try_fold(vec![], |none, id| {
            std::fs::read(root.join("instances").join(id.as_str()).join("instance.json")).map(|_| none)
        })?,
        "raw-segments" => vec![raw_segments(root)?],
        "open" => runtime.block_on(async {
            let begun = Instant::now();
            let store = Store::open(root, Untyped).await?;
            let figures = vec![millis(begun), resident()? / 1024.0];
            store.shutdown().await?;
            Outcome::Ok(figures)
        })?,
        "touch" => runtime.block_on(touch_random(root, number))?,
        "activate" => runtime.block_on(activate(root, number))?,
        "live" => runtime.block_on(settle(root, number))?,
        "die-with-log" => runtime.block_on(die_with_log(root, number as u64))?,
        "die-at-work" => runtime.block_on(die_at_work(root, number))?,
        _ => return Err(format!("no such step: {step}").into()),
    };
    println!("{}", figures.iter().map(f64::to_string).collect::<Vec<_>>().join(" "));
    Ok(())
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn id(nth: usize) -> InstanceId {
    roots::name(nth).parse().unwrap_or_else(|_| InstanceId::generate())
}

/// A thousand of so many, the same each time.
fn random(of: usize) -> impl Iterator<Item = InstanceId> {
    (0..1000_u64).map(move |nth| id(usize::try_from(nth * 2_654_435_761 % of as u64).unwrap_or_default()))
}

/// Resident memory of this process in KiB.
fn resident() -> Outcome<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// What nobody can do without who wants the newest and has no index.
fn raw_read(root: &Path) -> Outcome<f64> {
    let begun = Instant::now();
    let mut bytes = 0;
    for entry in std::fs::read_dir(root.join("instances"))? {
        bytes += std::fs::read(entry?.path().join("instance.json"))?.len();
    }
    std::hint::black_box(bytes);
    Ok(millis(begun))
}

fn raw_segments(root: &Path) -> Outcome<f64> {
    let begun = Instant::now();
    let mut bytes = 0;
    for writer in std::fs::read_dir(root.join(".fiefdom/writers"))? {
        for file in std::fs::read_dir(writer?.path())? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                bytes += std::fs::read(path)?.len();
            }
        }
    }
    eprintln!("{} MiB of log", bytes >> 20);
    Ok(millis(begun))
}

/// Options for many live instances that stay.
fn many(count: usize) -> Options {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let hard = getrlimit(Resource::Nofile).maximum;
    // Where it may not be raised the store has fewer live at once.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard });
    let mut options = Options::default();
    options.live_instances = count;
    options.idle_after = Duration::from_secs(3600);
    options
}

async fn touch_random(root: &Path, of: usize) -> Outcome<Vec<f64>> {
    let store = Store::open_with(root, Untyped, many(2000)).await?;
    let mut took = Vec::new();
    for id in random(of) {
        let begun = Instant::now();
        let instance = store.get(&id).await?;
        took.push(begun.elapsed().as_secs_f64() * 1e6);
        drop(instance);
    }
    let middle = median(&took);
    store.shutdown().await?;
    Ok(vec![middle])
}

async fn activate(root: &Path, count: usize) -> Outcome<Vec<f64>> {
    let store = Store::open_with(root, Untyped, many(count)).await?;
    let begun = Instant::now();
    at_once(count, |nth| {
        let store = store.clone();
        async move { Ok(drop(store.get(&id(nth)).await?)) }
    })
    .await?;
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    store.shutdown().await?;
    Ok(vec![rate])
}

/// Does something for each number, 64 at once, each in a task of its own.
async fn at_once<F>(count: usize, work: impl Fn(usize) -> F) -> Outcome<()>
where
    F: Future<Output = fiefdom::Result<()>> + Send + 'static,
{
    let mut all = futures::stream::iter((0..count).map(|nth| tokio::spawn(work(nth)))).buffer_unordered(64);
    while let Some(one) = all.next().await {
        one??;
    }
    Ok(())
}

/// KiB of each idle live instance.
async fn settle(root: &Path, count: usize) -> Outcome<Vec<f64>> {
    let store = Store::open_with(root, Untyped, many(count)).await?;
    // Threads and tables are there before.
    at_once(64, |nth| {
        let store = store.clone();
        async move { Ok(drop(store.get(&id(nth)).await?)) }
    })
    .await?;
    let before = resident()?;
    at_once(count - 64, |nth| {
        let store = store.clone();
        async move { Ok(drop(store.get(&id(nth + 64)).await?)) }
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let live = store.stats().await?.live_instances;
    let each = (resident()? - before) / (live - 64) as f64;
    if live != count {
        return Err(format!("only {live} of {count} were live").into());
    }
    store.shutdown().await?;
    Ok(vec![each])
}

/// Fills a segment of the log, and dies when it is full and nothing of it is in the files.
async fn die_with_log(root: &Path, bytes: u64) -> Outcome<Vec<f64>> {
    let mut options = many(64);
    options.materialise_within = Duration::from_secs(3600);
    options.log_segment_age = Duration::from_secs(3600);
    options.log_segment_bytes = bytes + (1 << 20);
    options.durability = Durability::Os;
    let store = Store::open_with(root, Untyped, options).await?;
    let mut sessions = Vec::new();
    for nth in 0..64 {
        sessions.push(store.create(NewInstance::with_id(id(nth))).await?);
    }
    let writers = std::fs::read_dir(root.join(".fiefdom/writers"))?.next().ok_or("no writer")??.path();
    let written = || -> u64 {
        let files = std::fs::read_dir(&writers).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
    };
    while written() < bytes {
        let all = sessions.iter().map(|session| {
            session.commit(|tx| {
                tx.state_mut()["note"] = "n".repeat(200).into();
                tx.event("step", &serde_json::json!({ "text": "t".repeat(200) }))
            })
        });
        for done in futures::future::join_all(all).await {
            done?;
        }
    }
    die()
}

/// Dies with so many instances at work.
async fn die_at_work(root: &Path, count: usize) -> Outcome<Vec<f64>> {
    let store = Store::open_with(root, Untyped, many(count)).await?;
    at_once(count, |nth| {
        let store = store.clone();
        async move {
            let session = store.create(NewInstance::with_id(id(nth))).await?;
            session.transition(Status::Starting, None).await?;
            session.transition(Status::Running, None).await
        }
    })
    .await?;
    die()
}

/// What `kill -9` does.
fn die() -> Outcome<Vec<f64>> {
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    Err("it lives".into())
}
