//! Several processes on one root: one owner, one creator, one recovery, and readers that hold up
//! nobody. Real processes, told to start at the same moment.
#![allow(missing_docs)]

mod common;
#[path = "common/worker.rs"]
mod worker;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{Counter, TestResult, id};
use fiefdom::{Filter, NewInstance, Status, Store, Untyped, View};
use worker::Worker;

/// Races for one instance, and as many for one id; a longer campaign sets `FIEFDOM_TEST_RACES`.
const RACES: u64 = 1_000;

/// One race for a recovery, in which a process is killed, for so many of the others.
const RACES_PER_RECOVERY: u64 = 20;

/// Instances that are raced for in turn.
const PRIZES: usize = 4;

/// Processes that make the same id at once.
const CREATORS: usize = 4;

/// Instances that a process has when it is killed in the test of its last moments.
const MANY: u64 = 32;

/// Rounds in which everything is read while everything is written.
const READINGS: u64 = 12;

#[test]
#[ignore = "started by another test"]
fn be_a_worker() -> TestResult {
    worker::work()
}

fn races() -> TestResult<u64> {
    Ok(std::env::var("FIEFDOM_TEST_RACES").map_or(Ok(RACES), |text| text.parse())?)
}

/// Tells all of them at once, and collects the answers.
fn at_once(workers: &mut [Worker], command: impl Fn(usize) -> String) -> TestResult<Vec<String>> {
    for (nth, worker) in workers.iter_mut().enumerate() {
        worker.tell(&command(nth))?;
    }
    workers.iter_mut().map(Worker::answer).collect()
}

fn start(number: usize, root: &Path, settings: &str) -> TestResult<Vec<Worker>> {
    let mut workers = (0..number).map(|_| Worker::start()).collect::<TestResult<Vec<_>>>()?;
    for worker in &mut workers {
        worker.open(root, settings)?;
    }
    Ok(workers)
}

fn host() -> TestResult<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
}

/// Makes instances, and leaves them at rest.
async fn make(root: &Path, names: impl Iterator<Item = String>) -> TestResult {
    let store = Store::open(root, Counter).await?;
    for name in names {
        store.create(NewInstance::with_id(id(&name))).await?;
    }
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn of_two_processes_that_want_one_instance_one_has_it_and_the_other_is_told_who() -> TestResult {
    let root = tempfile::tempdir()?;
    make(root.path(), (0..PRIZES).map(|n| format!("prize{n}")).chain(["own0".into(), "own1".into()])).await?;
    // With room for one, each lets go of the prize when it takes what is its own.
    let mut workers = start(2, root.path(), "live=1")?;
    let pids: Vec<u32> = workers.iter().map(Worker::pid).collect();
    let (host, races) = (host()?, races()?);
    let (mut acknowledged, mut wins) = ([0; PRIZES], [0, 0]);
    for race in 0..races {
        let prize = usize::try_from(race)? % PRIZES;
        at_once(&mut workers, |nth| format!("get own{nth}"))?;
        let answers = at_once(&mut workers, |_| format!("count-many prize{prize} 3"))?;
        let winner = answers.iter().position(|a| a.starts_with("ok")).ok_or_else(|| format!("nobody: {answers:?}"))?;
        acknowledged[prize] += 3;
        wins[winner] += 1;
        assert_eq!(answers[winner], format!("ok {}", acknowledged[prize]), "race {race}");
        assert_eq!(answers[1 - winner], format!("locked {} {host}", pids[winner]), "race {race}");
    }
    at_once(&mut workers, |_| "shutdown".into())?;
    let view = View::open(root.path())?;
    for (prize, acknowledged) in acknowledged.into_iter().enumerate() {
        let record = view.record(&id(&format!("prize{prize}")))?;
        assert_eq!((&record.state["value"], record.last_event_seq), (&acknowledged.into(), acknowledged));
        let (mut seq, mut last) = (0, (0, 0));
        while seq < acknowledged {
            let events = view.events(&record.id, seq + 1)?;
            assert!(!events.is_empty(), "prize{prize}: event {} is not there", seq + 1);
            for event in events {
                let now = (event.epoch, event.data_as::<u32>()?);
                assert_eq!(event.seq, seq + 1);
                assert!(event.epoch > last.0 || now == last, "prize{prize}: event {} interrupts another's", event.seq);
                (seq, last) = (event.seq, now);
            }
        }
    }
    assert!(wins.iter().all(|wins| *wins > 0), "it was a race: {wins:?}");
    common::shown!("{races} races of two processes for one instance, {wins:?} won, 0 with two owners");
    Ok(())
}

/// The others are told `AlreadyExists` also while the first is still at it: whoever has the lock of
/// a directory without a record is about to make the instance.
#[test]
fn of_many_processes_that_make_one_id_one_wins_and_the_others_are_told_it_exists() -> TestResult {
    let root = tempfile::tempdir()?;
    let mut workers = start(CREATORS, root.path(), "live=8")?;
    let pids: Vec<u32> = workers.iter().map(Worker::pid).collect();
    let (host, races) = (host()?, races()?);
    let mut wins = [0; CREATORS];
    for race in 0..races {
        let answers = at_once(&mut workers, |_| format!("create id{race}"))?;
        let winner = answers.iter().position(|a| a == "ok").ok_or_else(|| format!("nobody: {answers:?}"))?;
        wins[winner] += 1;
        for (nth, answer) in answers.iter().enumerate().filter(|(nth, _)| *nth != winner) {
            assert_eq!(answer, "exists", "race {race}");
            if race % 10 == 0 {
                assert_eq!(workers[nth].ask(&format!("get id{race}"))?, format!("locked {} {host}", pids[winner]));
            }
        }
    }
    at_once(&mut workers, |_| "shutdown".into())?;
    let listing = View::open(root.path())?.list(&Filter::default())?;
    assert_eq!((listing.records.len() as u64, listing.damaged.len()), (races, 0));
    assert!(listing.records.iter().all(|r| (r.revision, r.epoch) == (0, 1)));
    assert!(wins.iter().filter(|wins| **wins > 0).count() > 1, "it was a race: {wins:?}");
    common::shown!("{races} races of {CREATORS} processes for one id, {wins:?} won, 0 made twice");
    Ok(())
}

/// A root in which one process has died with work in hand, and another lives.
struct Aftermath {
    root: tempfile::TempDir,
    living: Worker,
}

/// What the dead one had: three at work and one that was not, each with three commits of which no
/// file knows.
fn aftermath(between: impl FnOnce(&Path) -> TestResult) -> TestResult<Aftermath> {
    let root = tempfile::tempdir()?;
    let (mut living, mut dying) = (Worker::start()?, Worker::start()?);
    living.open(root.path(), "within_ms=3600000")?;
    living.must("create living")?;
    living.must("run living")?;
    dying.open(root.path(), "within_ms=3600000")?;
    for name in ["w0", "w1", "w2", "idle"] {
        dying.must(&format!("create {name}"))?;
        dying.must(&format!("count-many {name} 2"))?;
        dying.must(&if name == "idle" { format!("count {name}") } else { format!("run {name}") })?;
    }
    living.must("flush")?;
    between(root.path())?;
    dying.kill()?;
    Ok(Aftermath { root, living })
}

/// Revision, epoch, status and value of each after one recovery: the interruption is a commit under
/// an epoch of its own, and the one that is alive is as it was.
const RECOVERED: &str = "ok 0 damaged idle:3:1:pending:3 living:1:1:running:0 w0:4:2:interrupted:2 w1:4:2:interrupted:2 w2:4:2:interrupted:2";

#[test]
fn two_processes_that_recover_at_once_see_the_same_and_leave_the_living_alone() -> TestResult {
    let races = (races()? / RACES_PER_RECOVERY).max(1);
    let mut workers = [Worker::start()?, Worker::start()?];
    for race in 0..races {
        let Aftermath { root, mut living } = aftermath(|_| Ok(()))?;
        let path = root.path().to_str().ok_or("not UTF-8")?;
        assert_eq!(at_once(&mut workers, |_| format!("open {path}"))?, ["ok", "ok"], "race {race}");
        assert_eq!(at_once(&mut workers, |_| "picture".into())?, [RECOVERED, RECOVERED], "race {race}");
        assert!(workers[0].ask("get living")?.starts_with(&format!("locked {}", living.pid())));
        assert_eq!(living.must("count living")?, "1", "the living one goes on");
        living.must("shutdown")?;
        assert_eq!(workers[0].must("get living")?, "1");
        at_once(&mut workers, |_| "shutdown".into())?;
        let view = View::open(root.path())?;
        assert_eq!(view.record(&id("living"))?.status, Status::Running, "race {race}");
        assert_eq!(std::fs::read_dir(root.path().join(".fiefdom/quarantine"))?.count(), 0);
    }
    common::shown!("{races} races of two processes for one recovery, 0 with two outcomes");
    Ok(())
}

/// Both have the root open since before the death, so that each must notice it by itself when it
/// brings an instance to life.
#[test]
fn two_processes_that_notice_a_death_at_once_both_recover_before_they_read() -> TestResult {
    let races = (races()? / RACES_PER_RECOVERY).max(1);
    let mut workers = [Worker::start()?, Worker::start()?];
    for race in 0..races {
        let mut opened = Ok(());
        let after = aftermath(|root| {
            opened = workers.iter_mut().try_for_each(|worker| worker.open(root, ""));
            Ok(())
        })?;
        opened?;
        let answers = at_once(&mut workers, |nth| format!("get w{nth}"))?;
        assert_eq!(answers, ["ok 2", "ok 2"], "race {race}");
        assert_eq!(workers[0].must("picture")?, RECOVERED.trim_start_matches("ok "), "race {race}");
        at_once(&mut workers, |_| "shutdown".into())?;
        drop(after.living);
    }
    common::shown!("{races} races of two processes that notice a death, 0 that read too early");
    Ok(())
}

/// A process that is killed gives up its locks one after the other. Somebody who is waiting for an
/// instance must not get it before it can be seen that its owner is dead.
#[test]
fn a_process_that_is_dying_is_not_taken_for_a_living_one() -> TestResult {
    let root = tempfile::tempdir()?;
    let mut dying = Worker::start()?;
    dying.open(root.path(), "within_ms=3600000")?;
    dying.must(&format!("fill {MANY}"))?;
    let mut waiting = start(2, root.path(), "")?;
    let names = ["i0".to_owned(), format!("i{}", MANY - 1)];
    let mut dying = Some(dying);
    for turn in 0.. {
        let answers = at_once(&mut waiting, |nth| format!("get {}", names[nth]))?;
        if turn == 10 {
            dying.take().ok_or("killed already")?.kill_without_waiting()?;
        }
        if answers.iter().all(|answer| answer.starts_with("locked")) {
            continue;
        }
        for answer in answers.iter().filter(|answer| !answer.starts_with("locked")) {
            assert_eq!(answer, "ok 2", "it was read before it was recovered");
        }
        if answers.iter().all(|answer| answer.starts_with("ok")) {
            break;
        }
    }
    Ok(())
}

/// One process writes to `busy` all the time; another brings `resting` to life again and again. In
/// between everything is read, by the library and by the commands. No reader is ever refused, and
/// none is ever in the way.
#[tokio::test]
async fn readers_are_never_refused_and_never_in_the_way() -> TestResult {
    let root = tempfile::tempdir()?;
    make(root.path(), ["busy", "resting", "other", "asleep"].map(String::from).into_iter()).await?;
    let mut workers = start(2, root.path(), "live=1")?;
    let (over, read) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_everything(root.path(), &over, &read).map_err(|e| e.to_string()));
        let written = (|| {
            let mut last = read.load(Ordering::Relaxed);
            let mut commits = 0;
            for _ in 0..READINGS {
                // The next round begins when everything was read once more.
                while read.load(Ordering::Relaxed) == last && !reader.is_finished() {
                    let which = if commits % 2 == 0 { "resting" } else { "other" };
                    let commands = ["count-many busy 20".to_owned(), format!("count {which}")];
                    for answer in at_once(&mut workers, |nth| commands[nth].clone())? {
                        assert!(answer.starts_with("ok"), "a reader was in the way: {answer}");
                    }
                    commits += 1;
                }
                last = read.load(Ordering::Relaxed);
            }
            TestResult::Ok(commits)
        })();
        over.store(true, Ordering::Relaxed);
        reader.join().map_err(|_| "a reader was refused")??;
        let commits = written?;
        common::shown!("everything read {} times beside {commits} rounds of writing", read.load(Ordering::Relaxed));
        TestResult::Ok(())
    })?;
    at_once(&mut workers, |_| "shutdown".into())?;
    assert_eq!(View::open(root.path())?.record(&id("asleep"))?.epoch, 1, "no reader woke it");
    let store = Store::open(root.path(), Untyped).await?;
    assert_eq!(store.get(&id("asleep")).await?.record().await?.epoch, 1);
    store.shutdown().await?;
    Ok(())
}

fn read_everything(root: &Path, over: &AtomicBool, read: &AtomicU64) -> TestResult {
    let names = ["asleep", "busy", "other", "resting"];
    let path = root.to_str().ok_or("not UTF-8")?;
    let mut seen = 0;
    while !over.load(Ordering::Relaxed) {
        let view = View::open(root)?;
        assert_eq!(view.recover(), fiefdom::Waiting::Nothing);
        let listing = view.list(&Filter::default())?;
        assert_eq!((listing.records.len(), listing.damaged.len()), (names.len(), 0), "{:?}", listing.damaged);
        let busy = view.record(&id("busy"))?;
        assert_eq!(busy.state["value"], busy.last_event_seq, "half a commit");
        assert!(busy.last_event_seq >= seen, "it went back");
        seen = busy.last_event_seq;
        for event in view.events(&id("busy"), (seen / 2).max(1))? {
            assert_eq!(event.kind, "counted");
        }
        for arguments in [vec!["ls"], vec!["show", "busy"], vec!["show", "asleep"], vec!["events", "busy"]] {
            let ran = Command::new(env!("CARGO_BIN_EXE_fiefdom")).args(["--root", path]).args(&arguments).output()?;
            assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
            assert!(ran.stderr.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        }
        read.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
