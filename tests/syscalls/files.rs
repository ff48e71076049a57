//! Errors in an instance's own files and in its locks: the commit stands, the caller is told, and it
//! is tried again.

use fiefdom::{Filter, View};

use crate::common::{self, TestResult};
use crate::grounds::{Ground, Grounds, Operation};
use crate::strace::{self, Strace};
use crate::worker::Worker;
use crate::{DISK, Faulty, QUIET, stands_at};

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
