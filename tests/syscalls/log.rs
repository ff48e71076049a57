//! Errors in the log: a write that fails was not applied, a flush that fails is unknown.

use fiefdom::Doctor;

use crate::common::TestResult;
use crate::strace::{self, Strace};
use crate::worker::Worker;
use crate::{Faulty, JOURNAL, QUIET, stands_at};

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
