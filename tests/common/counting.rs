//! A process that makes, counts and deletes until it is stopped, and prints what was acknowledged; and
//! the model of what those lines promise. How the process comes to its end is the test's own matter.
#![allow(dead_code, missing_docs)]

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use fiefdom::{
    Durability, Error, Filter, InstanceRef, NewInstance, Options, Status, Store, Transaction, Untyped, View,
};

use crate::common::{Count, Counter, TestResult, another_process, id, options};

/// Instances that a writer counts in, each in a task of its own.
pub(crate) const COUNTERS: [&str; 4] = ["c0", "c1", "c2", "c3"];

/// Commits of one counter that a writer has under way at once.
const BURST: u64 = 8;

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

/// At which level a counter commits, and what is acknowledged.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Levels {
    /// `Disk`, everything.
    Disk,
    /// `Os` every second time, everything: a kill spares what was written.
    Both,
    /// `Os` every second time, and of that nothing: a power cut may take it.
    BothAndOnlyDiskIsPromised,
}

/// A writer about to begin: the test file has a test `be_a_writer` that calls [`write_for_ever`].
pub(crate) fn writer(root: &Path, life: u64) -> TestResult<Command> {
    let mut command = another_process("be_a_writer")?;
    command.env("FIEFDOM_TEST_ROOT", root).env("FIEFDOM_TEST_LIFE", life.to_string()).stdout(Stdio::piped());
    Ok(command)
}

/// The life of a writer. A line that it prints is an acknowledgement.
pub(crate) async fn write_for_ever(levels: Levels) -> TestResult {
    let root = std::env::var("FIEFDOM_TEST_ROOT")?;
    let life: u64 = std::env::var("FIEFDOM_TEST_LIFE")?.parse()?;
    println!("opening");
    let store = Store::open_with(root, Counter, small()).await?;
    println!("opened");
    let counters = COUNTERS.map(|name| tokio::spawn(keep_counting(store.clone(), name, levels)));
    let churn = tokio::spawn(make_and_delete(store, life));
    for counter in counters {
        counter.await??;
    }
    churn.await?
}

fn count(levels: Levels) -> impl FnOnce(&mut Transaction<Count>) -> fiefdom::Result<u64> + Send + 'static {
    move |tx| {
        tx.state_mut().value += 1;
        let value = tx.state().value;
        let os = levels != Levels::Disk && value % 2 == 1;
        tx.set_durability(if os { Durability::Os } else { Durability::Disk });
        tx.event("counted", &value)?;
        Ok(value)
    }
}

async fn keep_counting(store: Store<Counter>, name: &'static str, levels: Levels) -> TestResult {
    let counter = match store.create(NewInstance::with_id(id(name))).await {
        Err(Error::AlreadyExists { .. }) => store.get(&id(name)).await?,
        made => made?.instance().clone(),
    };
    println!("made {name}");
    counter.transition(Status::Running, None).await?;
    println!("running {name}");
    loop {
        let burst = futures::future::try_join_all((0..BURST).map(|_| counter.commit(count(levels)))).await?;
        // Calls that are made at once have no order among them: the first of them may wait for an
        // activation that the second finds done.
        let mut values: Vec<u64> = burst.into_iter().map(|committed| committed.value).collect();
        values.sort_unstable();
        for value in values {
            if levels != Levels::BothAndOnlyDiskIsPromised || value.is_multiple_of(2) {
                println!("counted {name} {value}");
            }
        }
    }
}

async fn make_and_delete(store: Store<Counter>, life: u64) -> TestResult {
    for nth in 0.. {
        let name = format!("t{life}-{nth}");
        let it = store.create(NewInstance::with_id(id(&name))).await?;
        println!("made {name}");
        println!("counted {name} {}", it.commit(count(Levels::Disk)).await?.value);
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

/// What the acknowledgements say of a root.
#[derive(Default)]
pub(crate) struct Model(HashMap<String, Known>);

impl Model {
    /// A life is over, in which this was said.
    pub(crate) fn live(&mut self, said: &[String]) -> TestResult {
        for known in self.0.values_mut() {
            known.lives += 1;
        }
        said.iter().try_for_each(|line| self.note(line))
    }

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

    /// Recovers, and compares what is there with what was acknowledged. Of the events it reads those
    /// that are new, or everything.
    pub(crate) async fn check(&mut self, root: &Path, everything: bool) -> TestResult {
        let store = Store::open_with(root, Untyped, small()).await?;
        let view = store.view();
        for (name, known) in &mut self.0 {
            match store.get(&id(name)).await {
                Ok(found) => {
                    assert_ne!(known.stage, Stage::Deleted, "{name} is back: {known:?}");
                    if everything {
                        known.verified = 0;
                    }
                    check_instance(name, &view, &found, known).await?;
                    known.stage = Stage::Made;
                }
                Err(Error::NotFound { .. }) => {
                    assert_ne!(known.stage, Stage::Made, "{name} is lost: {known:?}");
                    known.stage = Stage::Deleted;
                }
                Err(error) => return Err(format!("{name}, {known:?}: {error}").into()),
            }
        }
        let damaged = store.list(Filter::default()).await?.damaged;
        assert!(damaged.is_empty(), "{damaged:?}");
        store.shutdown().await?;
        Ok(())
    }
}

async fn check_instance(name: &str, view: &View, found: &InstanceRef<Untyped>, known: &mut Known) -> TestResult {
    let record = found.record().await?;
    let value = record.state["value"].as_u64().ok_or("no value")?;
    assert!(value >= known.value, "{name}: {value} is there, {known:?} was acknowledged");
    assert!(value <= known.value + BURST * (known.lives + 1), "{name}: {value} was never tried: {known:?}");
    assert_eq!(record.last_event_seq, value, "{name}: half a commit");
    if known.running {
        assert_eq!(record.status, Status::Interrupted, "{name}");
    }
    let mut next = known.verified + 1;
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
