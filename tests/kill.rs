//! `kill -9` at any moment: what was acknowledged is there, what is there is a prefix, and nothing
//! is half done. A killed process is not a power cut: the operating system keeps what was written.
#![allow(missing_docs)]

mod common;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Counter, TestResult, id, options};
use fiefdom::{Durability, Error, InstanceRef, NewInstance, Options, Status, Store, Transaction, Untyped, View};
use serde_json::Value;

/// Kills in all; a longer campaign sets `FIEFDOM_TEST_KILLS`.
const KILLS: u64 = 2_000;

/// Writers at a time, each with a root of its own.
const LANES: u64 = 4;

/// Kills before a lane begins with a new root, so that the making of one is killed too.
const KILLS_PER_ROOT: u64 = 20;

/// Longest life of a writer. Its start takes about a third of that.
const LIFE: Duration = Duration::from_millis(60);

/// Commits of one counter that a writer has under way at once.
const BURST: u64 = 8;

const COUNTERS: [&str; 4] = ["c0", "c1", "c2", "c3"];

/// A sequence that looks random (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

/// Everything is small, so that in a short life segments fill, logs rotate, checkpoints happen, and
/// instances have to make room for others.
fn small() -> Options {
    options(|o| {
        o.log_segment_bytes = 16 << 10;
        o.event_segment_bytes = 4 << 10;
        o.live_instances = 4;
        o.materialise_within = Duration::from_millis(2);
        o.log_segment_age = Duration::from_millis(20);
    })
}

fn count(tx: &mut Transaction<common::Count>) -> fiefdom::Result<u64> {
    tx.state_mut().value += 1;
    let value = tx.state().value;
    // A kill spares what was written, so both levels keep their word.
    tx.set_durability(if value.is_multiple_of(2) { Durability::Os } else { Durability::Disk });
    tx.event("counted", &value)?;
    Ok(value)
}

/// The process that is killed. A line that it prints is an acknowledgement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test"]
async fn be_a_writer() -> TestResult {
    let root = std::env::var("FIEFDOM_TEST_ROOT")?;
    let life: u64 = std::env::var("FIEFDOM_TEST_LIFE")?.parse()?;
    let store = Store::open_with(root, Counter, small()).await?;
    let counters = COUNTERS.map(|name| tokio::spawn(keep_counting(store.clone(), name)));
    let churn = tokio::spawn(make_and_delete(store, life));
    for counter in counters {
        counter.await??;
    }
    churn.await?
}

async fn keep_counting(store: Store<Counter>, name: &'static str) -> TestResult {
    let counter = match store.create(NewInstance::with_id(id(name))).await {
        Err(Error::AlreadyExists { .. }) => store.get(&id(name)).await?,
        made => made?.instance().clone(),
    };
    println!("made {name}");
    counter.transition(Status::Running, None).await?;
    println!("running {name}");
    loop {
        let burst = futures::future::try_join_all((0..BURST).map(|_| counter.commit(count))).await?;
        // Calls that are made at once have no order among them: the first of them may wait for an
        // activation that the second finds done.
        let mut values: Vec<u64> = burst.into_iter().map(|committed| committed.value).collect();
        values.sort_unstable();
        for value in values {
            println!("counted {name} {value}");
        }
    }
}

async fn make_and_delete(store: Store<Counter>, life: u64) -> TestResult {
    for nth in 0.. {
        let name = format!("t{life}-{nth}");
        let it = store.create(NewInstance::with_id(id(&name))).await?;
        println!("made {name}");
        println!("counted {name} {}", it.commit(count).await?.value);
        if nth % 3 != 0 {
            println!("deleting {name}");
            store.delete(&id(&name)).await?;
            println!("deleted {name}");
        }
    }
    Ok(())
}

/// How far an instance has come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Stage {
    #[default]
    Unknown,
    Made,
    Deleting,
    Deleted,
}

/// What the acknowledgements say of an instance.
#[derive(Debug, Default)]
struct Known {
    stage: Stage,
    running: bool,
    /// The last value that was acknowledged, or seen after a recovery.
    value: u64,
    /// Events that were looked at.
    verified: u64,
    /// Lives since the last look.
    lives: u64,
}

#[derive(Default)]
struct Model(HashMap<String, Known>);

impl Model {
    fn note(&mut self, line: &str) -> TestResult {
        let mut words = line.split(' ');
        // Other lines are of the test harness.
        let Some(what @ ("made" | "running" | "deleting" | "deleted" | "counted")) = words.next() else {
            return Ok(());
        };
        let known = self.0.entry(words.next().ok_or("no name")?.to_owned()).or_default();
        match what {
            "made" => known.stage = Stage::Made,
            "running" => known.running = true,
            "deleting" => known.stage = Stage::Deleting,
            "deleted" => known.stage = Stage::Deleted,
            _ => {
                let value = words.next().ok_or("no value")?.parse()?;
                assert!(value > known.value, "{line}: acknowledged again, after {known:?}");
                known.value = value;
            }
        }
        Ok(())
    }

    /// Compares what is there, after a recovery, with what was acknowledged.
    async fn check(&mut self, store: &Store<Untyped>, everything: bool) -> TestResult {
        for (name, known) in &mut self.0 {
            let found = match store.get(&id(name)).await {
                Ok(found) => found,
                Err(Error::NotFound { .. }) => {
                    assert_ne!(known.stage, Stage::Made, "{name} is lost: {known:?}");
                    known.stage = Stage::Deleted;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            assert_ne!(known.stage, Stage::Deleted, "{name} is back: {known:?}");
            check_instance(name, &found, known, everything).await?;
            known.stage = Stage::Made;
        }
        self.0.retain(|_, known| known.stage == Stage::Made);
        Ok(())
    }
}

async fn check_instance(name: &str, found: &InstanceRef<Untyped>, known: &mut Known, everything: bool) -> TestResult {
    let record = found.record().await?;
    let value = record.state["value"].as_u64().ok_or("no value")?;
    assert!(value >= known.value, "{name}: {value} is there, {known:?} was acknowledged");
    assert!(value <= known.value + BURST * (known.lives + 1), "{name}: {value} was never tried: {known:?}");
    assert_eq!(record.last_event_seq, value, "{name}: half a commit");
    if known.running {
        assert_eq!(record.status, Status::Interrupted, "{name}");
    }
    let view = View::open(found.path().ancestors().nth(2).ok_or("no root")?)?;
    let mut next = if everything { 1 } else { known.verified + 1 };
    while next <= value {
        let events = view.events(found.id(), next)?;
        assert!(!events.is_empty(), "{name}: event {next} of {value} is not there");
        for event in events {
            assert_eq!((event.seq, event.data_as::<u64>()?), (next, next), "{name}");
            next += 1;
        }
    }
    assert_eq!(next, value + 1, "{name}: an event too many");
    (known.value, known.verified, known.running, known.lives) = (value, value, false, 0);
    Ok(())
}

/// Reads every record there is, again and again, while a writer is at work and after its death.
fn watch_records(root: &Path, over: &AtomicBool) -> TestResult {
    let mut seen = [false; COUNTERS.len()];
    while !over.load(Ordering::Relaxed) {
        for (name, seen) in COUNTERS.iter().zip(&mut seen) {
            match std::fs::read(root.join(format!("instances/{name}/instance.json"))) {
                Ok(bytes) => {
                    let record: Value = serde_json::from_slice(&bytes)?;
                    assert_eq!(record["state"]["value"], record["last_event_seq"], "{name}: a record of two moments");
                    *seen = true;
                }
                Err(error) => assert!(!*seen, "{name}: the record went away: {error}"),
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn start_writer(root: &Path, life: u64) -> TestResult<Child> {
    let child = Command::new(std::env::current_exe()?)
        .args(["be_a_writer", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env("FIEFDOM_TEST_ROOT", root)
        .env("FIEFDOM_TEST_LIFE", life.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok(child)
}

/// One life of a writer: what it said before it was killed.
fn live_and_die(root: &Path, life: u64, length: Duration) -> TestResult<Vec<String>> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch_records(root, &over).map_err(|e| e.to_string()));
        let mut writer = start_writer(root, life)?;
        let stdout = writer.stdout.take().ok_or("no output")?;
        let said = scope.spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).collect::<Vec<_>>());
        std::thread::sleep(length);
        let early = writer.try_wait()?;
        writer.kill()?;
        let output = writer.wait_with_output()?;
        over.store(true, Ordering::Relaxed);
        watch.join().map_err(|_| "a record was not whole")??;
        if early.is_some() {
            return Err(format!("the writer ended by itself: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(said.join().map_err(|_| "the reader panicked")?)
    })
}

async fn lane(kills: u64, mut random: Random) -> TestResult {
    let mut life = 0;
    while life < kills {
        let root = tempfile::tempdir()?;
        let mut model = Model::default();
        for nth in 1..=KILLS_PER_ROOT.min(kills - life) {
            life += 1;
            let length = Duration::from_micros(random.below(u64::try_from(LIFE.as_micros())?));
            let path = root.path().to_owned();
            let said =
                tokio::task::spawn_blocking(move || live_and_die(&path, life, length).map_err(|e| e.to_string()));
            for known in model.0.values_mut() {
                known.lives += 1;
            }
            for line in said.await?? {
                model.note(&line)?;
            }
            // Now and then the next writer finds what two or three before it left.
            let last = nth == KILLS_PER_ROOT || life == kills;
            if last || random.below(3) > 0 {
                let store = Store::open_with(root.path(), Untyped, small()).await?;
                model.check(&store, last).await?;
                store.shutdown().await?;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_loses_nothing_that_was_acknowledged() -> TestResult {
    let kills = std::env::var("FIEFDOM_TEST_KILLS").map_or(Ok(KILLS), |text| text.parse())?;
    let seed = u64::from(std::process::id()) ^ u64::try_from(chrono::Utc::now().timestamp_micros())?;
    println!("seed {seed}");
    let lanes = (0..LANES).map(|n| tokio::spawn(lane(kills / LANES, Random((seed + n) | 1))));
    for lane in lanes.collect::<Vec<_>>() {
        lane.await??;
    }
    println!("shown: {} kills at random moments, 0 acknowledged commits lost", kills / LANES * LANES);
    Ok(())
}
