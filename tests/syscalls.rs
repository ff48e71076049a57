//! A kill, or an error, at every system call: what each leaves behind, and what the caller is told.
//!
//! The process is real, and so is the kernel; strace is on the one thread that makes the calls.
#![allow(missing_docs)]

mod common;
#[path = "common/strace.rs"]
mod strace;
#[path = "common/worker.rs"]
mod worker;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use common::{Counter, TestResult, id};
use fiefdom::{Error, NewInstance, Status, Store};
use strace::Strace;
use worker::Worker;

/// Kills per operation; a longer campaign sets `FIEFDOM_TEST_SYSCALL_KILLS`. An operation that makes
/// more calls is killed at some of them, evenly.
const SYSCALL_KILLS: usize = 200;

/// The calls that change what is on the disk or who may, or wait for it. Those with a question mark
/// do not exist on every kind of processor.
const CALLS: &str = "trace=openat,?mkdir,mkdirat,write,pwrite64,fsync,fdatasync,?rename,renameat,renameat2,?unlink,unlinkat,?rmdir,ftruncate,flock,fchmod";

/// The threads that work on files: callers' disk work, then the three of the commit log.
const DISK: &str = "disk";
const JOURNAL: &str = "fiefdom-journal";
const CHECKPOINT: &str = "fiefdom-checkpo";
const THREADS: [&str; 4] = [DISK, JOURNAL, "fiefdom-files", CHECKPOINT];

/// The files are brought up to date when somebody asks for it, and not by themselves.
const QUIET: &str = "within_ms=3600000";

#[test]
#[ignore = "started by another test"]
fn be_a_worker() -> TestResult {
    worker::work()
}

fn copy_tree(from: &Path, to: &Path) -> TestResult {
    assert!(Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status()?.success());
    Ok(())
}

/// What there is to do while a kill or an error strikes.
struct Operation {
    name: &'static str,
    ground: Ground,
    settings: &'static str,
    /// Done undisturbed; the root is opened before, except where the opening is what is disturbed.
    before: &'static [&'static str],
    during: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq)]
enum Ground {
    /// No root.
    Nothing,
    /// `a` and `b` at rest, with two commits each.
    Rest,
    /// The same, and a dead writer's log with more.
    Dead,
}

const DEAD: [&str; 7] = ["count a", "run a", "count b", "append b", "create n", "create gone", "delete gone"];

const OPERATIONS: [Operation; 12] = [
    Operation { name: "making a root", ground: Ground::Nothing, settings: "", before: &[], during: &["open"] },
    Operation { name: "opening a root", ground: Ground::Rest, settings: "", before: &[], during: &["open"] },
    Operation { name: "creation", ground: Ground::Rest, settings: QUIET, before: &[], during: &["create n"] },
    Operation { name: "activation", ground: Ground::Rest, settings: QUIET, before: &[], during: &["get a"] },
    Operation {
        name: "the first commit",
        ground: Ground::Rest,
        settings: QUIET,
        before: &["get a"],
        during: &["count a"],
    },
    Operation {
        name: "update",
        ground: Ground::Rest,
        settings: QUIET,
        before: &["count a"],
        during: &["update a", "update a"],
    },
    Operation {
        name: "append",
        ground: Ground::Rest,
        settings: QUIET,
        before: &["run a"],
        during: &["append a", "append a"],
    },
    Operation {
        name: "materialising",
        ground: Ground::Rest,
        settings: QUIET,
        before: &["count a", "create n"],
        during: &["flush"],
    },
    Operation {
        name: "passivation",
        ground: Ground::Rest,
        settings: "live=1 within_ms=3600000",
        before: &["count a"],
        during: &["get b"],
    },
    Operation {
        name: "checkpoint",
        ground: Ground::Rest,
        settings: "segment=1 within_ms=3600000",
        before: &["count a"],
        during: &["count b", "checkpointed"],
    },
    Operation { name: "deletion", ground: Ground::Rest, settings: QUIET, before: &["count a"], during: &["delete a"] },
    Operation {
        name: "shutdown",
        ground: Ground::Rest,
        settings: QUIET,
        before: &["count a", "create n"],
        during: &["shutdown"],
    },
];

const RECOVERY: Operation =
    Operation { name: "recovery", ground: Ground::Dead, settings: QUIET, before: &[], during: &["open"] };

/// An instance as the acknowledgements have it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    value: u64,
    events: u64,
    revision: u64,
    running: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Model(BTreeMap<String, Known>);

impl Model {
    fn on(ground: Ground) -> Self {
        let mut model = Self::default();
        if ground != Ground::Nothing {
            for command in ["create a", "count a", "count a", "create b", "count b", "count b"] {
                model.apply(command);
            }
        }
        if ground == Ground::Dead {
            DEAD.iter().for_each(|command| model.apply(command));
        }
        model
    }

    fn apply(&mut self, command: &str) {
        let Some((what, name)) = command.split_once(' ') else { return };
        match what {
            "create" => drop(self.0.insert(name.into(), Known::default())),
            "delete" => drop(self.0.remove(name)),
            _ => {
                let known = self.0.get_mut(name).expect("it was made");
                let (value, event) =
                    (u64::from(matches!(what, "count" | "update")), u64::from(matches!(what, "count" | "append")));
                known.value += value;
                known.events += event;
                known.revision += (value + event).min(1) + u64::from(what == "run");
                known.running |= what == "run";
            }
        }
    }

    /// What a recovery makes of it: an interruption is a commit.
    fn interrupted(mut self) -> Self {
        for known in self.0.values_mut().filter(|known| known.running) {
            known.revision += 1;
        }
        self
    }
}

/// What is there after a recovery, each instance checked to be whole.
async fn look(store: &Store<Counter>) -> TestResult<Model> {
    let mut model = Model::default();
    for name in ["a", "b", "n", "gone"] {
        let record = match store.get(&id(name)).await {
            Err(Error::NotFound { .. }) => continue,
            found => found?.record().await?,
        };
        let events = store.view().events(&record.id, 1)?;
        assert!(events.iter().map(|e| e.seq).eq(1..=record.last_event_seq), "{name}: half a commit");
        let running = record.status == Status::Interrupted;
        assert!(running || record.status == Status::Pending, "{name} is {}", record.status);
        let known =
            Known { value: record.state.value, events: record.last_event_seq, revision: record.revision, running };
        model.0.insert(name.into(), known);
    }
    Ok(model)
}

/// Opens what was left, compares it with what was acknowledged, and sees that everything works.
async fn check(root: &Path, allowed: &[Model], case: &str) -> TestResult {
    let store = Store::open(root, Counter).await?;
    let found = look(&store).await?;
    assert!(allowed.contains(&found), "{case}: {found:?} is none of {allowed:?}");
    for name in found.0.keys() {
        let instance = store.get(&id(name)).await?;
        let done = instance.commit(|tx| {
            tx.state_mut().value += 1;
            tx.event("counted", &1)
        });
        assert_eq!(done.await?.revision, found.0[name].revision + 1, "{case}");
    }
    store.create(NewInstance::with_id(id("new"))).await?;
    store.delete(&id("new")).await?;
    let view = store.view();
    store.shutdown().await?;
    for (name, known) in &found.0 {
        assert_eq!(view.record(&id(name))?.state["value"], known.value + 1, "{case}");
    }
    let internal = root.join(".fiefdom");
    assert_eq!(std::fs::read_dir(internal.join("writers"))?.count(), 0, "{case}: a log stays behind");
    Ok(())
}

/// Makes the grounds once.
struct Grounds {
    rest: tempfile::TempDir,
    dead: tempfile::TempDir,
}

impl Grounds {
    fn new() -> TestResult<Self> {
        let (rest, dead) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let mut worker = Worker::start()?;
        worker.open(rest.path(), QUIET)?;
        for command in ["create a", "count a", "count a", "create b", "count b", "count b", "shutdown"] {
            worker.must(command)?;
        }
        copy_tree(rest.path(), dead.path())?;
        worker.open(dead.path(), QUIET)?;
        for command in DEAD {
            worker.must(command)?;
        }
        worker.kill()?;
        Ok(Self { rest, dead })
    }

    /// A place of its own for one run, and a worker that is about to begin.
    fn ready(&self, operation: &Operation) -> TestResult<(tempfile::TempDir, Worker)> {
        let root = tempfile::tempdir()?;
        match operation.ground {
            Ground::Nothing => {}
            Ground::Rest => copy_tree(self.rest.path(), root.path())?,
            Ground::Dead => copy_tree(self.dead.path(), root.path())?,
        }
        let mut worker = Worker::start()?;
        if operation.during != ["open"] {
            worker.open(&place(operation, &root), operation.settings)?;
        }
        for command in operation.before {
            worker.must(command)?;
        }
        Ok((root, worker))
    }
}

/// A root that does not exist is made with its parents.
fn place(operation: &Operation, root: &tempfile::TempDir) -> std::path::PathBuf {
    match operation.ground {
        Ground::Nothing => root.path().join("deep/root"),
        _ => root.path().to_owned(),
    }
}

fn command_line(operation: &Operation, root: &tempfile::TempDir, command: &str) -> String {
    match command {
        "open" => format!("open {} {}", place(operation, root).display(), operation.settings),
        other => other.into(),
    }
}

/// How often each thread makes each call during an operation.
fn learn(grounds: &Grounds, operation: &Operation) -> TestResult<BTreeMap<(&'static str, String), usize>> {
    let (root, mut worker) = grounds.ready(operation)?;
    let threads = worker.threads()?;
    let known: Vec<_> = THREADS.into_iter().filter_map(|name| Some((name, *threads.get(name)?))).collect();
    let tids: Vec<u32> = known.iter().map(|(_, tid)| *tid).collect();
    let strace = Strace::attach(&tids, &[CALLS, "signal=none"])?;
    for command in operation.during {
        worker.must(&command_line(operation, &root, command))?;
    }
    let mut calls = BTreeMap::new();
    for line in strace.end()? {
        let mut words = line.split_whitespace().peekable();
        let tid = words.next_if(|_| tids.len() > 1).map_or(Ok(tids[0]), str::parse)?;
        let (Some((name, _)), Some((call, _))) =
            (known.iter().find(|(_, known)| *known == tid), words.next().and_then(|word| word.split_once('(')))
        else {
            continue;
        };
        *calls.entry((*name, call.to_owned())).or_default() += 1;
    }
    Ok(calls)
}

/// One run that is killed when a thread makes its nth such call. Says whether it was.
async fn kill_at(grounds: &Grounds, operation: &Operation, thread: &str, call: &str, nth: usize) -> TestResult<bool> {
    let (root, mut worker) = grounds.ready(operation)?;
    let tid = worker.threads()?[thread];
    let strace = Strace::attach(&[tid], &[&format!("trace={call}"), &format!("inject={call}:signal=KILL:when={nth}")])?;
    let mut model = Model::on(operation.ground);
    operation.before.iter().for_each(|command| model.apply(command));
    let mut killed = false;
    let mut allowed = vec![model.clone().interrupted()];
    for command in operation.during {
        model.apply(command);
        allowed.push(model.clone().interrupted());
        worker.tell(&command_line(operation, &root, command))?;
        let Some(answer) = worker.answer_if_alive() else {
            killed = true;
            break;
        };
        assert!(answer.starts_with("ok"), "{}: {answer}", operation.name);
        allowed.remove(0);
    }
    worker.kill()?;
    drop(strace);
    // A clean end interrupts nobody; here only deaths are looked at.
    check(&place(operation, &root), &allowed, &format!("{}, {thread}: {call} number {nth}", operation.name)).await?;
    Ok(killed)
}

/// Kills an operation at every call that it makes, or at as many as the limit allows.
async fn kill_everywhere(grounds: &Grounds, operation: &Operation) -> TestResult<usize> {
    let limit = std::env::var("FIEFDOM_TEST_SYSCALL_KILLS").map_or(Ok(SYSCALL_KILLS), |text| text.parse())?;
    let calls = learn(grounds, operation)?;
    let total: usize = calls.values().sum();
    let step = total.div_ceil(limit).max(1);
    let (mut seen, mut killed) = (0, 0);
    for ((thread, call), count) in &calls {
        // One more than was counted: a run may make another call than the one that was watched.
        for nth in 1..=count + 1 {
            seen += 1;
            if seen % step == 0 {
                killed += usize::from(kill_at(grounds, operation, thread, call, nth).await?);
            }
        }
    }
    println!("{}: {total} calls, {killed} kills", operation.name);
    assert!(killed * step * 10 >= total * 8 || killed >= limit, "{}: {killed} of {total}: {calls:?}", operation.name);
    Ok(killed)
}

#[tokio::test]
async fn a_kill_at_any_system_call_loses_nothing_and_leaves_nothing_half_done() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let grounds = Grounds::new()?;
    let mut kills = 0;
    for operation in &OPERATIONS {
        kills += kill_everywhere(&grounds, operation).await?;
    }
    println!("shown: {kills} kills at system calls of {} operations, 0 acknowledged commits lost", OPERATIONS.len());
    Ok(())
}

#[tokio::test]
async fn a_recovery_killed_at_any_system_call_is_repeated_with_the_same_result() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let kills = kill_everywhere(&Grounds::new()?, &RECOVERY).await?;
    println!("shown: {kills} kills at system calls of a recovery, 0 acknowledged commits lost");
    Ok(())
}
