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
use fiefdom::{Doctor, Error, Filter, NewInstance, Severity, Status, Store, View};
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
        during: &["count b", "checkpointed 1"],
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
            for command in DEAD {
                model.apply(command);
            }
        }
        model
    }

    fn apply(&mut self, command: &str) {
        let Some((what, name)) = command.split_once(' ') else { return };
        match what {
            "create" => drop(self.0.insert(name.into(), Known::default())),
            "delete" => drop(self.0.remove(name)),
            "checkpointed" => {}
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
    assert!(killed > 0 && (step > 1 || killed * 10 >= total * 8), "{}: {killed} of {total}: {calls:?}", operation.name);
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
    common::shown!("{kills} kills at system calls of {} operations, 0 acknowledged commits lost", OPERATIONS.len());
    Ok(())
}

#[tokio::test]
async fn a_recovery_killed_at_any_system_call_is_repeated_with_the_same_result() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let kills = kill_everywhere(&Grounds::new()?, &RECOVERY).await?;
    common::shown!("{kills} kills at system calls of a recovery, 0 acknowledged commits lost");
    Ok(())
}

#[tokio::test]
async fn a_kill_while_an_id_is_made_again_loses_nothing() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let during = &["delete a", "create a", "count a"];
    let again = Operation { name: "making an id again", ground: Ground::Rest, settings: QUIET, before: &[], during };
    let kills = kill_everywhere(&Grounds::new()?, &again).await?;
    common::shown!("{kills} kills at system calls while an id was made again, 0 acknowledged commits lost");
    Ok(())
}

/// A worker with `a` live at value 2 on a root at rest, and one of its threads under strace.
struct Faulty {
    root: tempfile::TempDir,
    worker: Worker,
    strace: Strace,
}

impl Faulty {
    fn new(settings: &str, before: &[&str], thread: &str, expressions: &[&str]) -> TestResult<Self> {
        let root = tempfile::tempdir()?;
        let mut worker = Worker::start()?;
        worker.open(root.path(), settings)?;
        for command in ["create a", "count a", "count a"].iter().chain(before) {
            worker.must(command)?;
        }
        let strace = Strace::attach(&[worker.threads()?[thread]], expressions)?;
        Ok(Self { root, worker, strace })
    }

    /// Lets the thread go on undisturbed; the faults must have struck.
    fn heal(self) -> TestResult<(tempfile::TempDir, Worker, Vec<String>)> {
        let trace = self.strace.end()?;
        assert!(strace::fired(&trace) > 0, "the fault did not strike: {trace:#?}");
        Ok((self.root, self.worker, trace))
    }
}

/// After the death of the worker: the counter stands at `value`, and goes on.
async fn stands_at(root: &Path, worker: Worker, value: u64) -> TestResult {
    worker.kill()?;
    let store = Store::open(root, Counter).await?;
    let record = store.get(&id("a")).await?.record().await?;
    assert_eq!((record.state.value, record.last_event_seq, record.revision), (value, value, value));
    assert_eq!(store.view().events(&id("a"), 1)?.len() as u64, value);
    store.shutdown().await?;
    Ok(())
}

const ERRNOS: [(&str, i32); 4] = [("ENOSPC", 28), ("EIO", 5), ("EDQUOT", 122), ("EFBIG", 27)];

#[tokio::test]
async fn a_log_write_that_fails_is_a_commit_not_applied_and_the_next_one_works() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    for (name, errno) in ERRNOS {
        // Within the filler there is one write; beyond it a second one tries without filler.
        for before in [&[][..], &["count-many a 40"]] {
            let inject = format!("inject=pwrite64:error={name}:when=1..2");
            let trace = "trace=pwrite64,ftruncate,fsync,fdatasync";
            let mut faulty = Faulty::new(QUIET, before, JOURNAL, &[trace, &inject])?;
            let value = 2 + if before.is_empty() { 0 } else { 40 };
            let mut failed = 0;
            loop {
                let answer = faulty.worker.ask("count a")?;
                if answer.starts_with("ok") {
                    break;
                }
                assert_eq!(answer, format!("not-applied errno {errno}"));
                failed += 1;
                assert_eq!(faulty.worker.must("get a")?, value.to_string(), "memory is at the committed state");
            }
            assert!((1..=2).contains(&failed), "{failed} commits failed");
            assert_eq!(faulty.worker.must("count a")?, (value + 2).to_string());
            let (root, worker, trace) = faulty.heal()?;
            let after: Vec<_> = trace.iter().skip_while(|line| !line.contains("(INJECTED)")).collect();
            assert!(after.iter().any(|line| line.starts_with("ftruncate")), "the torn bytes are cut off: {after:#?}");
            stands_at(root.path(), worker, value + 2).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_first_log_segment_that_cannot_be_made_is_a_commit_not_applied() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    for (name, errno) in [("EMFILE", 24), ("ENFILE", 23), ("EACCES", 13), ("EROFS", 30), ("ENOSPC", 28)] {
        let root = tempfile::tempdir()?;
        let mut worker = Worker::start()?;
        worker.open(root.path(), QUIET)?;
        let inject = format!("inject=openat:error={name}:when=1");
        let strace = Strace::attach(&[worker.threads()?[JOURNAL]], &["trace=openat", &inject])?;
        assert_eq!(worker.ask("create a")?, format!("not-applied errno {errno}"));
        assert!(!root.path().join("instances/a").exists(), "nothing is left behind");
        worker.must("create a")?;
        worker.must("count a")?;
        assert!(strace::fired(&strace.end()?) > 0);
        stands_at(root.path(), worker, 1).await?;
    }
    Ok(())
}

/// Calls that make something durable in the log of the traced thread, and the name of the file.
fn syncs(trace: &[String]) -> Vec<&String> {
    let sync = |line: &&String| line.starts_with("fdatasync(") || line.starts_with("fsync(");
    trace.iter().filter(sync).filter(|line| line.contains("/journal-")).collect()
}

#[tokio::test]
async fn a_flush_of_the_log_that_fails_is_unknown_then_poison_and_never_tried_again() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    for (name, errno) in [("EIO", 5), ("ENOSPC", 28)] {
        let inject = format!("inject=fdatasync:error={name}:when=1");
        let mut faulty = Faulty::new(QUIET, &[], JOURNAL, &["trace=fsync,fdatasync", &inject])?;
        assert_eq!(faulty.worker.ask("count a")?, format!("unknown errno {errno}"));
        for _ in 0..3 {
            assert_eq!(faulty.worker.ask("count a")?, format!("not-applied poisoned errno {errno}"));
        }
        assert_eq!(faulty.worker.must("get a")?, "2", "what is durable can be read");
        assert_eq!(faulty.worker.must("stats")?, "0 false true");
        let damage = || Doctor::examine(faulty.root.path()).map(|report| report.findings);
        assert_eq!(damage()?.len(), 0, "a log that failed is kept, and no damage: {:?}", damage()?);
        // Another process is not affected.
        let mut other = Worker::start()?;
        other.open(faulty.root.path(), "")?;
        other.must("create b")?;
        other.must("count b")?;
        assert_eq!(faulty.worker.ask("shutdown")?, format!("poisoned errno {errno}"));
        let (root, worker, trace) = faulty.heal()?;
        assert_eq!(syncs(&trace).len(), 1, "the failed one and no other: {trace:#?}");
        worker.kill()?;
        let value: u64 = other.must("get a")?.parse()?;
        assert!((2..=3).contains(&value), "applied or not");
        assert_eq!(other.must("count a")?, (value + 1).to_string());
        stands_at(root.path(), other, value + 1).await?;
    }
    Ok(())
}

#[test]
fn a_failed_flush_is_not_tried_again_for_commits_at_the_lower_level_either() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let expressions = ["trace=fsync,fdatasync", "inject=fdatasync:error=EIO:when=1"];
    let mut faulty = Faulty::new(QUIET, &["count-os a"], JOURNAL, &expressions)?;
    assert_eq!(faulty.worker.ask("count a")?, "unknown errno 5");
    assert_eq!(faulty.worker.ask("shutdown")?, "poisoned errno 5");
    let (_root, _worker, trace) = faulty.heal()?;
    assert_eq!(syncs(&trace).len(), 1, "the failed one and no other: {trace:#?}");
    Ok(())
}

/// When the torn bytes cannot be cut off either, nobody knows what is there.
#[tokio::test]
async fn a_failed_write_that_cannot_be_undone_is_unknown() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let write = "inject=pwrite64:error=EIO:when=1..2";
    for undo in ["inject=ftruncate:error=EIO:when=1", "inject=fsync:error=EIO:when=1"] {
        let expressions = ["trace=pwrite64,ftruncate,fsync,fdatasync", write, undo];
        let mut faulty = Faulty::new(QUIET, &[], JOURNAL, &expressions)?;
        let mut answer = faulty.worker.ask("count a")?;
        if answer == "ok 3" {
            answer = faulty.worker.ask("count a")?;
        }
        assert_eq!(answer, "unknown errno 5", "{undo}");
        assert_eq!(faulty.worker.ask("count a")?, "not-applied poisoned errno 5");
        let (root, worker, _) = faulty.heal()?;
        stands_at(root.path(), worker, 2).await?;
    }
    Ok(())
}

/// Every `openat` and `mkdirat` of an operation fails once, in one way after another, until the
/// operation makes no more of them.
fn refuse_each(grounds: &Grounds, command: &str, call: &str, left_overs: usize) -> TestResult<usize> {
    let mut faults = 0;
    for (name, errno) in [("EMFILE", 24), ("ENFILE", 23), ("EACCES", 13), ("EROFS", 30), ("ENOSPC", 28)] {
        for nth in 1.. {
            let operation = Operation { name: "", ground: Ground::Rest, settings: QUIET, before: &[], during: &[] };
            let (root, mut worker) = grounds.ready(&operation)?;
            let inject = format!("inject={call}:error={name}:when={nth}");
            let strace = Strace::attach(&[worker.threads()?[DISK]], &[&format!("trace={call}"), &inject])?;
            let answer = worker.ask(command)?;
            if strace::fired(&strace.end()?) == 0 {
                assert!(answer.starts_with("ok"), "{answer}");
                break;
            }
            faults += 1;
            let case = format!("{command}: {call} number {nth}: {name}");
            assert_eq!(answer, format!("errno {errno}"), "{case}");
            let left = std::fs::read_dir(root.path().join("instances"))?.count();
            assert!(left <= 2 + left_overs, "{case}: something is left behind");
            let listing = View::open(root.path())?.list(&Filter::default())?;
            assert_eq!((listing.records.len(), listing.damaged.len()), (2, 0), "{case}");
            worker.must(command).map_err(|e| format!("{case}: {e}"))?;
            worker.must("count a")?;
            worker.must("shutdown")?;
            let writers = std::fs::read_dir(root.path().join(".fiefdom/writers"))?.count();
            assert_eq!(writers, 0, "{case}: a writer is left behind");
        }
    }
    Ok(faults)
}

#[test]
fn an_activation_that_cannot_open_its_files_is_a_typed_error_and_works_the_next_time() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let faults = refuse_each(&Grounds::new()?, "get a", "openat", 0)?;
    common::shown!("{faults} activations refused by the system, 0 with a consequence");
    Ok(())
}

#[test]
fn a_creation_that_cannot_make_its_files_is_a_typed_error_and_works_the_next_time() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let grounds = Grounds::new()?;
    // An empty directory may be left: it is no instance.
    let faults = refuse_each(&grounds, "create n", "mkdirat", 0)? + refuse_each(&grounds, "create n", "openat", 1)?;
    common::shown!("{faults} creations refused by the system, 0 with a consequence");
    Ok(())
}

#[test]
fn a_creation_that_cannot_open_what_it_made_leaves_nothing() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    refuse_each(&Grounds::new()?, "create n", "openat", 0)?;
    Ok(())
}

/// Any call on a materialised file fails, once: the commit stands, and it is tried again.
#[tokio::test]
async fn a_file_that_cannot_be_written_from_the_log_is_tried_again_and_the_commit_stands() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    for call in ["openat", "mkdirat", "write", "fchmod", "renameat"] {
        for name in ["ENOSPC", "EIO"] {
            let inject = format!("inject={call}:error={name}:when=1");
            // A flush brings the files up to date, in the thread of its caller.
            let mut faulty = Faulty::new(QUIET, &[], DISK, &[&format!("trace={call}"), &inject])?;
            let errno = if name == "EIO" { 5 } else { 28 };
            assert_eq!(faulty.worker.ask("flush")?, format!("errno {errno}"), "{call}");
            assert_eq!(faulty.worker.must("stats")?, "1 false false", "{call}: it shows");
            assert_eq!(faulty.worker.must("count a")?, "3", "{call}: commits go on");
            faulty.worker.must("flush")?;
            let (root, worker, _) = faulty.heal()?;
            let record = std::fs::read_to_string(root.path().join("instances/a/instance.json"))?;
            assert!(record.contains("\"value\": 3"), "{call}: {record}");
            stands_at(root.path(), worker, 3).await?;
        }
    }
    Ok(())
}

#[test]
fn a_checkpoint_that_cannot_flush_is_seen_by_the_doctor() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let root = tempfile::tempdir()?;
    let mut worker = Worker::start()?;
    worker.open(root.path(), "segment=1 within_ms=3600000")?;
    worker.must("create a")?;
    let strace = Strace::attach(&[worker.threads()?[CHECKPOINT]], &["trace=fsync", "inject=fsync:error=EIO"])?;
    worker.must("count a")?;
    assert!(worker.must("checkpointed 1")?.ends_with("true"), "it stalls");
    let findings = Doctor::examine(root.path())?.findings;
    let noted = |f: &fiefdom::Finding| f.severity == Severity::Note && f.reason.contains("keeps waiting");
    assert!(findings.len() == 1 && findings.iter().all(noted), "{findings:?}");
    assert!(strace::fired(&strace.end()?) > 0);
    worker.must("count a")?;
    worker.must("checkpointed 2")?;
    worker.must("shutdown")?;
    assert!(Doctor::examine(root.path())?.findings.is_empty(), "it is over when the disk takes the files");
    Ok(())
}

/// Any flush of a checkpoint fails, and those after it do not: the log is kept, it shows, commits go
/// on, and the next try writes new files instead of flushing the old ones again.
#[tokio::test]
async fn a_checkpoint_that_cannot_flush_keeps_the_log_and_writes_new_files() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let mut faults = 0;
    for nth in 1.. {
        let inject = format!("inject=fsync:error=EIO:when={nth}");
        let settings = "segment=1 within_ms=3600000";
        let root = tempfile::tempdir()?;
        let mut worker = Worker::start()?;
        worker.open(root.path(), settings)?;
        for command in ["create a", "count a", "checkpointed 1"] {
            worker.must(command)?;
        }
        let strace = Strace::attach(&[worker.threads()?[CHECKPOINT]], &["trace=fsync,unlinkat", &inject])?;
        worker.must("count a")?;
        let told = worker.must("checkpointed 2")?;
        let segments = || -> TestResult<usize> {
            let writer = std::fs::read_dir(root.path().join(".fiefdom/writers"))?.next().ok_or("no writer")??;
            // Beside them are the lock and the socket.
            Ok(std::fs::read_dir(writer.path())?.count() - 2)
        };
        if told.ends_with("false") {
            let trace = strace.end()?;
            assert_eq!(strace::fired(&trace), 0, "{trace:#?}");
            break;
        }
        faults += 1;
        let kept = segments()?;
        assert_eq!(worker.must("count a")?, "3", "commits go on");
        assert_eq!(worker.must("stats")?, "0 true false", "it shows");
        let said = worker.ask("shutdown")?;
        let trace = strace.end()?;
        assert_eq!(said, "ok", "{trace:#?}");
        assert_eq!(strace::fired(&trace), 1, "{trace:#?}");
        let at = trace.iter().position(|line| line.contains("(INJECTED)")).ok_or("nothing was injected")?;
        let file = |line: &str| line.split(['<', '>']).nth(1).map(str::to_owned);
        let failed = file(&trace[at]).ok_or("no path")?;
        // The flush of the writer's directory comes behind the removal of the segment.
        assert!(kept == 2 || failed.contains("/writers/"), "a segment was dropped: {trace:#?}");
        if ["instance.json", "events.jsonl", "state.json"].iter().any(|name| failed.ends_with(name)) {
            // Until a new file has the name.
            let is_new = |l: &&String| l.starts_with("fsync") && l.contains(".tmp>");
            let until_new = trace[at + 1..].iter().take_while(|l| !is_new(l));
            let again = until_new.filter(|l| l.starts_with("fsync")).any(|l| file(l).as_ref() == Some(&failed));
            assert!(!again, "a flush was tried again: {trace:#?}");
        }
        stands_at(root.path(), worker, 3).await?;
    }
    assert!(faults > 3, "{faults}");
    common::shown!("{faults} flushes of a checkpoint failed, 0 commits lost");
    Ok(())
}

/// After a failed fsync the kernel says of the pages that they are clean, and a second fsync of the
/// same file says yes to bytes that are not on the disk. So what recovery finds in the files is not
/// to be trusted for being there: it is written anew before the log goes.
#[test]
fn files_that_a_failed_flush_left_are_written_anew_by_recovery() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    // The first is of the record, the second of the events.
    for (nth, file) in [(1, "instance.json"), (2, "events.jsonl")] {
        let root = tempfile::tempdir()?;
        let mut worker = Worker::start()?;
        worker.open(root.path(), "segment=1 within_ms=3600000")?;
        for command in ["create a", "count a", "checkpointed 1"] {
            worker.must(command)?;
        }
        let inject = format!("inject=fsync:error=EIO:when={nth}");
        let strace = Strace::attach(&[worker.threads()?[CHECKPOINT]], &["trace=fsync", &inject])?;
        worker.must("count a")?;
        assert!(worker.must("checkpointed 2")?.ends_with("true"));
        // Nothing is written into a file whose flush has failed.
        let _ = worker.ask("flush")?;
        let trace = strace.end()?;
        assert!(trace.iter().any(|line| line.contains(file) && line.contains("(INJECTED)")), "{trace:#?}");
        worker.kill()?;

        let mut recoverer = Worker::start()?;
        let expressions = ["trace=write,pwrite64,renameat,fsync", "signal=none"];
        let strace = Strace::attach(&[recoverer.threads()?[DISK]], &expressions)?;
        recoverer.open(root.path(), "")?;
        let trace = strace.end()?;
        let about: Vec<_> = trace.iter().filter(|line| line.contains(file)).collect();
        assert!(about.iter().any(|line| line.starts_with("fsync")), "{trace:#?}");
        assert!(about.iter().any(|line| !line.starts_with("fsync")), "{file} is trusted as it is: {trace:#?}");
    }
    Ok(())
}

/// To see whether a writer is dead one tries its lock. While one process has it in hand for that,
/// another must not take the dead writer for a living one, and read files that lack its commits.
#[test]
fn a_dead_writer_that_is_being_looked_at_is_not_taken_for_a_living_one() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    for attempt in 0..6 {
        let root = tempfile::tempdir()?;
        let mut workers = [Worker::start()?, Worker::start()?, Worker::start()?];
        for worker in &mut workers {
            worker.open(root.path(), QUIET)?;
        }
        let [dying, mut slow, mut quick] = workers;
        let mut dying = dying;
        for command in ["create a", "create b", "flush", "count a", "count b"] {
            dying.must(command)?;
        }
        dying.kill()?;
        // Each lock is held for a while before the one who took it goes on.
        let expressions = ["trace=flock", "inject=flock:delay_exit=200000"];
        let strace = Strace::attach(&[slow.threads()?[DISK]], &expressions)?;
        slow.tell("get a")?;
        // The first two are those of the recovery and of the instance.
        std::thread::sleep(std::time::Duration::from_millis(300 + 100 * attempt));
        assert_eq!(quick.must("get b")?, "1", "attempt {attempt}: it was read before it was recovered");
        assert_eq!(slow.answer()?, "ok 1");
        drop(strace);
    }
    Ok(())
}
