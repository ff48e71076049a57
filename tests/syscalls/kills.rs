//! A kill at every system call of every operation: nothing acknowledged is lost, and nothing is half
//! done.

use std::collections::BTreeMap;
use std::path::Path;

use fiefdom::{Error, NewInstance, Status, Store};

use crate::common::{self, Counter, TestResult, id};
use crate::grounds::{DEAD, Ground, Grounds, Operation, place};
use crate::strace::{self, Strace};
use crate::{CHECKPOINT, DISK, JOURNAL, QUIET};

/// Kills per operation; a longer campaign sets `FIEFDOM_TEST_SYSCALL_KILLS`. An operation that makes
/// more calls is killed at some of them, evenly.
const SYSCALL_KILLS: usize = 200;

/// The calls that change what is on the disk or who may, or wait for it. Those with a question mark
/// do not exist on every kind of processor.
const CALLS: &str = "trace=openat,?mkdir,mkdirat,write,pwrite64,fsync,fdatasync,?rename,renameat,renameat2,?unlink,unlinkat,?rmdir,ftruncate,flock,fchmod";

const THREADS: [&str; 4] = [DISK, JOURNAL, "fiefdom-files", CHECKPOINT];

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
