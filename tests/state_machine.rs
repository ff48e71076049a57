//! Random sequences of everything that can happen to instances, deaths of the process included,
//! against a plain model in memory: the store always says what the model says.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Count, Counter, PATIENCE, TestResult, id, options};
use fiefdom::{Durability, Error, Event, InstanceRef, NewInstance, Options, Record, Status, Store, View};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};
use uuid::Uuid;

/// Sequences per durability level; a longer campaign sets `FIEFDOM_TEST_SEQUENCES`.
const SEQUENCES: u32 = 50;

/// Longest sequence.
const STEPS: usize = 40;

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    Create(usize),
    Commit {
        at: usize,
        events: u64,
        /// Whether the commit asks for the other durability level.
        other_level: bool,
    },
    /// Commits that are under way at once.
    Burst(usize, u64),
    /// A closure that changes everything and then fails.
    Refused(usize),
    Append(usize),
    Transition(usize, Status),
    Passivate,
    Flush,
    Delete(usize),
    Kill,
    Shutdown,
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..NAMES.len();
    prop_oneof![
        4 => at.clone().prop_map(Step::Create),
        6 => (at.clone(), 0..4_u64, any::<bool>())
            .prop_map(|(at, events, other_level)| Step::Commit { at, events, other_level }),
        2 => (at.clone(), 2..9_u64).prop_map(|(at, n)| Step::Burst(at, n)),
        1 => at.clone().prop_map(Step::Refused),
        3 => at.clone().prop_map(Step::Append),
        5 => (at.clone(), status()).prop_map(|(at, s)| Step::Transition(at, s)),
        2 => Just(Step::Passivate),
        2 => Just(Step::Flush),
        2 => at.prop_map(Step::Delete),
        3 => Just(Step::Kill),
        1 => Just(Step::Shutdown),
    ]
}

/// Mostly at work, so that deaths interrupt something.
fn status() -> impl Strategy<Value = Status> {
    prop_oneof![Just(Status::Running), Just(Status::Starting), proptest::sample::select(Status::ALL.to_vec())]
}

/// How the store of a sequence is set.
#[derive(Clone, Copy, Debug)]
struct Setting {
    durability: Durability,
    /// Whether files follow at once, or only when they must.
    eager_files: bool,
    /// Whether segments and event files are so small that they are full after a few commits.
    small: bool,
}

fn settings(durability: Durability) -> impl Strategy<Value = Setting> {
    (any::<bool>(), any::<bool>()).prop_map(move |(eager_files, small)| Setting { durability, eager_files, small })
}

fn store_options(setting: Setting) -> Options {
    options(|o| {
        o.durability = setting.durability;
        o.materialise_within = if setting.eager_files { Duration::ZERO } else { Duration::from_secs(3600) };
        o.live_instances = 2;
        if setting.small {
            o.log_segment_bytes = 4 << 10;
            o.event_segment_bytes = 400;
        }
    })
}

/// What an instance must be.
#[derive(Clone, Debug)]
struct Expected {
    uid: Uuid,
    epoch: u64,
    value: u64,
    revision: u64,
    status: Status,
    events: u64,
    /// The life of the process in which it was written last.
    life: u64,
}

type Model = BTreeMap<usize, Expected>;

/// What was done in all sequences, so that a run that did nothing shows.
#[derive(Default)]
struct Tally {
    sequences: AtomicU64,
    steps: AtomicU64,
    kills: AtomicU64,
    /// Kills that left something in a log.
    left_over: AtomicU64,
    interrupted: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// One life of the process: a runtime with a store in it.
struct Life {
    runtime: tokio::runtime::Runtime,
    store: Store<Counter>,
}

impl Life {
    fn begin(root: &Path, setting: Setting) -> TestResult<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let store = runtime.block_on(Store::open_with(root, Counter, store_options(setting)))?;
        Ok(Self { runtime, store })
    }

    /// Ends without a farewell; says whether a log is left.
    fn kill(self, root: &Path) -> TestResult<bool> {
        drop(self.store);
        drop(self.runtime);
        // The threads of the log end by themselves. Every lock is free when they have, as it is at
        // once when a process dies.
        let writers = paths_in(&root.join(".fiefdom/writers"))?;
        let locks = writers.iter().map(|writer| writer.join("lock")).chain(paths_in(&root.join("instances"))?);
        let deadline = Instant::now() + PATIENCE;
        for path in locks {
            let lock = std::fs::File::open(path)?;
            while lock.try_lock().is_err() {
                assert!(Instant::now() < deadline, "the log of a dropped store does not end");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(!writers.is_empty())
    }
}

fn paths_in(dir: &Path) -> TestResult<Vec<PathBuf>> {
    Ok(std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?)
}

struct Machine<'a> {
    root: &'a Path,
    setting: Setting,
    life: Option<Life>,
    number: u64,
    model: Model,
    tally: &'a Tally,
}

/// The one change that tests make: the value and the events go together.
fn change(tx: &mut fiefdom::Transaction<Count>, events: u64) -> fiefdom::Result<()> {
    tx.state_mut().value += 1;
    for seq in (tx.record().last_event_seq + 1..).take(usize::try_from(events).unwrap_or(0)) {
        // An event holds its own number, so that a wrong one shows.
        tx.event("counted", &seq)?;
    }
    Ok(())
}

impl Machine<'_> {
    fn run(&mut self, step: &Step) -> TestResult {
        match step {
            Step::Kill => return self.die(),
            Step::Shutdown => return self.rest(),
            _ => {}
        }
        let Life { runtime, store } = self.life.as_ref().ok_or("no life")?;
        let (model, number, setting) = (&mut self.model, self.number, self.setting);
        runtime.block_on(async {
            match step {
                Step::Create(at) => create(store, model, *at, number).await,
                Step::Delete(at) => match (store.delete(&id(NAMES[*at])).await, model.remove(at)) {
                    (Ok(()), Some(_)) | (Err(Error::NotFound { .. }), None) => Ok(()),
                    (found, expected) => Err(format!("delete: {found:?}, and the model has {expected:?}").into()),
                },
                Step::Flush => {
                    store.flush().await?;
                    check_view(self.root, model)
                }
                Step::Passivate => {
                    // Two may live: each that is woken puts another to rest.
                    for at in model.keys() {
                        store.get(&id(NAMES[*at])).await?;
                    }
                    Ok(())
                }
                Step::Commit { at, .. }
                | Step::Burst(at, _)
                | Step::Refused(at)
                | Step::Append(at)
                | Step::Transition(at, _) => {
                    let found = match (store.get(&id(NAMES[*at])).await, model.get_mut(at)) {
                        (Ok(found), Some(expected)) => (found, expected),
                        (Err(Error::NotFound { .. }), None) => return Ok(()),
                        (found, expected) => {
                            return Err(format!("get: {found:?}, and the model has {expected:?}").into());
                        }
                    };
                    write(&found.0, found.1, step, number, setting).await?;
                    check_record(&*found.0.record().await?, found.1)
                }
                Step::Kill | Step::Shutdown => Ok(()),
            }
        })
    }

    /// Ends this life in one way or another, and begins the next.
    fn next_life(&mut self, end: impl FnOnce(Life) -> TestResult) -> TestResult {
        end(self.life.take().ok_or("no life")?)?;
        self.number += 1;
        self.life = Some(Life::begin(self.root, self.setting)?);
        self.check()
    }

    fn die(&mut self) -> TestResult {
        let (root, tally) = (self.root, self.tally);
        for expected in self.model.values_mut() {
            if expected.status.is_running() && expected.life == self.number {
                expected.status = Status::Interrupted;
                expected.revision += 1;
                count(&tally.interrupted);
            }
        }
        count(&tally.kills);
        self.next_life(|life| {
            if life.kill(root)? {
                count(&tally.left_over);
            }
            Ok(())
        })
    }

    fn rest(&mut self) -> TestResult {
        let (root, model) = (self.root, self.model.clone());
        self.next_life(|life| {
            life.runtime.block_on(life.store.shutdown())?;
            assert_eq!(std::fs::read_dir(root.join(".fiefdom/writers"))?.count(), 0, "the log is empty at rest");
            check_view(root, &model)
        })
    }

    /// Compares everything, through the store and through a view.
    fn check(&mut self) -> TestResult {
        let Life { runtime, store } = self.life.as_ref().ok_or("no life")?;
        let model = &mut self.model;
        runtime.block_on(async {
            for (at, name) in NAMES.iter().enumerate() {
                match (store.get(&id(name)).await, model.get_mut(&at)) {
                    (Ok(found), Some(expected)) => check_record(&*found.record().await?, expected)?,
                    (Err(Error::NotFound { .. }), None) => {}
                    (found, expected) => {
                        return Err(format!("{name}: {found:?}, and the model has {expected:?}").into());
                    }
                }
            }
            store.flush().await?;
            check_view(self.root, model)
        })
    }
}

async fn create(store: &Store<Counter>, model: &mut Model, at: usize, life: u64) -> TestResult {
    match (store.create(NewInstance::with_id(id(NAMES[at]))).await, model.get(&at)) {
        (Ok(made), None) => {
            let record = made.record().await?;
            let expected = Expected {
                uid: record.uid,
                epoch: record.epoch,
                value: 0,
                revision: 0,
                status: Status::Pending,
                events: 0,
                life,
            };
            check_record(&record, &mut expected.clone())?;
            model.insert(at, expected);
            Ok(())
        }
        (Err(Error::AlreadyExists { .. }), Some(_)) => Ok(()),
        (found, expected) => Err(format!("create: {found:?}, and the model has {expected:?}").into()),
    }
}

async fn write(
    found: &InstanceRef<Counter>,
    expected: &mut Expected,
    step: &Step,
    life: u64,
    setting: Setting,
) -> TestResult {
    let (mut commits, mut values, mut events) = (1, 1, 0);
    match *step {
        Step::Commit { events: n, other_level, .. } => {
            let level = match setting.durability {
                Durability::Disk => Durability::Os,
                _ => Durability::Disk,
            };
            let done = found.commit(move |tx| {
                if other_level {
                    tx.set_durability(level);
                }
                change(tx, n)
            });
            let done = done.await?;
            assert_eq!((done.revision, done.last_event_seq), (expected.revision + 1, expected.events + n));
            events = n;
        }
        Step::Burst(_, n) => {
            let all = (0..n).map(|_| found.commit(|tx| change(tx, 1)));
            let done = futures::future::try_join_all(all).await?;
            let mut revisions: Vec<u64> = done.iter().map(|d| d.revision).collect();
            revisions.sort_unstable();
            assert!(revisions.into_iter().eq(expected.revision + 1..=expected.revision + n));
            (commits, values, events) = (n, n, n);
        }
        Step::Refused(_) => {
            let refuse = found.commit(|tx| {
                change(tx, 2)?;
                tx.set_pinned(true);
                Err::<(), _>(Error::InvalidInput { what: "test", reason: "refused".into() })
            });
            assert!(matches!(refuse.await, Err(Error::InvalidInput { .. })));
            (commits, values) = (0, 0);
        }
        Step::Append(_) => {
            assert_eq!(found.append("counted", expected.events + 1).await?, expected.events + 1);
            (values, events) = (0, 1);
        }
        Step::Transition(_, next) => {
            let done = found.transition(next, Some("asked for")).await;
            values = 0;
            if expected.status.can_become(next) {
                done?;
                expected.status = next;
            } else {
                assert!(matches!(done, Err(Error::Transition { .. })), "{} to {next}: {done:?}", expected.status);
                commits = 0;
            }
        }
        _ => {}
    }
    expected.revision += commits;
    expected.value += values;
    expected.events += events;
    if commits > 0 {
        expected.life = life;
    }
    Ok(())
}

fn check_record(record: &Record<Count>, expected: &mut Expected) -> TestResult {
    check_fields(record, record.state.value, expected)?;
    expected.epoch = record.epoch;
    Ok(())
}

fn check_fields<S>(record: &Record<S>, value: u64, expected: &Expected) -> TestResult {
    let found = (record.uid, value, record.revision, record.status, record.last_event_seq, record.pinned);
    let model = (expected.uid, expected.value, expected.revision, expected.status, expected.events, false);
    if found != model || record.epoch < expected.epoch {
        return Err(format!("{}: found {found:?} in epoch {}, expected {expected:?}", record.id, record.epoch).into());
    }
    if record.ended_at.is_some() != expected.status.is_final() {
        return Err(format!("{}: {} ended at {:?}", record.id, expected.status, record.ended_at).into());
    }
    Ok(())
}

/// Compares the files with the model: the list, each record, every event in order.
fn check_view(root: &Path, model: &Model) -> TestResult {
    let view = View::open(root)?;
    let listing = view.list(&fiefdom::Filter::default())?;
    if listing.records.len() != model.len() || !listing.damaged.is_empty() {
        return Err(format!("the list is {listing:?}, expected {model:?}").into());
    }
    for (at, expected) in model {
        let name = id(NAMES[*at]);
        let record = view.record(&name)?;
        // The epoch rises with an activation, the file follows with the first commit in it.
        let on_disk = Expected { epoch: record.epoch, ..expected.clone() };
        check_fields(&record, record.state["value"].as_u64().ok_or("no value")?, &on_disk)?;
        let mut next = 1;
        loop {
            let events: Vec<Event> = view.events(&name, next)?;
            if events.is_empty() {
                break;
            }
            for event in events {
                if (event.seq, event.data_as::<u64>()?) != (next, next) {
                    return Err(format!("{name}: event {} stands where {next} is expected", event.seq).into());
                }
                next += 1;
            }
        }
        if next != expected.events + 1 {
            return Err(format!("{name}: {} events, expected {}", next - 1, expected.events).into());
        }
    }
    Ok(())
}

fn run(setting: Setting, steps: &[Step], tally: &Tally) -> TestResult {
    let root = tempfile::tempdir()?;
    let life = Life::begin(root.path(), setting)?;
    let mut machine = Machine { root: root.path(), setting, life: Some(life), number: 0, model: Model::new(), tally };
    for (nth, step) in [Step::Create(0), Step::Create(1)].iter().chain(steps).enumerate() {
        machine.run(step).map_err(|e| format!("step {nth}, {step:?}: {e}"))?;
        count(&tally.steps);
    }
    machine.check().map_err(|e| format!("at the end: {e}"))?;
    machine.rest().map_err(|e| format!("at rest: {e}"))?;
    count(&tally.sequences);
    Ok(())
}

fn sequences(level: Durability) -> TestResult {
    let cases = std::env::var("FIEFDOM_TEST_SEQUENCES").map_or(Ok(SEQUENCES), |text| text.parse())?;
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/state_machine.regressions"))),
        source_file: Some(file!()),
        max_shrink_iters: 500,
        ..Config::default()
    });
    let tally = Tally::default();
    let strategy = (settings(level), proptest::collection::vec(step(), 1..STEPS));
    runner.run(&strategy, |(setting, steps)| {
        run(setting, &steps, &tally).map_err(|e| TestCaseError::fail(e.to_string()))
    })?;
    let [sequences, steps, kills, left_over, interrupted] =
        [&tally.sequences, &tally.steps, &tally.kills, &tally.left_over, &tally.interrupted]
            .map(|counter| counter.load(Ordering::Relaxed));
    if cases >= SEQUENCES {
        assert!(left_over > 0 && interrupted > 0, "{kills} kills left {left_over} logs, {interrupted} at work");
    }
    common::shown!(
        "{sequences} sequences at level {level:?}, {steps} steps, {kills} kills \
         ({left_over} left a log, {interrupted} instances interrupted), 0 differences from the model"
    );
    Ok(())
}

#[test]
fn any_sequence_at_level_disk_agrees_with_the_model() -> TestResult {
    sequences(Durability::Disk)
}

#[test]
fn any_sequence_at_level_os_agrees_with_the_model() -> TestResult {
    sequences(Durability::Os)
}
