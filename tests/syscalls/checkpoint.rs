//! Flushes of a checkpoint that fail: the log stays, and nothing that such a flush left is trusted.

use fiefdom::{Doctor, Severity};

use crate::common::{self, TestResult};
use crate::strace::{self, Strace};
use crate::worker::Worker;
use crate::{CHECKPOINT, DISK, stands_at};

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

/// Where the file system tells the disk of what is free, all flushes wait for as long as that takes.
#[test]
fn a_full_segment_is_given_back_a_piece_at_a_time_when_its_name_is_gone() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let root = tempfile::tempdir()?;
    let mut worker = Worker::start()?;
    worker.open(root.path(), "segment=2500000 within_ms=3600000")?;
    worker.must("create a")?;
    let strace = Strace::attach(&[worker.threads()?[CHECKPOINT]], &["trace=ftruncate,unlinkat"])?;
    worker.must("count-many a 9000")?;
    worker.must("checkpointed 1")?;
    worker.must("shutdown")?;
    let trace = strace.end()?;
    let removed = trace.iter().position(|line| line.contains("journal-000001.log\", 0")).ok_or("it was not removed")?;
    let lengths: Vec<u64> = trace[removed + 1..]
        .iter()
        .filter(|line| line.starts_with("ftruncate"))
        .filter_map(|line| line.rsplit_once(", ")?.1.split(')').next()?.parse().ok())
        .collect();
    assert!(lengths.len() >= 2, "{trace:#?}");
    assert!(lengths.windows(2).all(|two| two[0] - two[1] <= 1 << 20), "{lengths:?}");
    Ok(())
}

/// Any flush of a checkpoint fails, and those after it do not: the log is kept, it shows, commits go
/// on, and the next try writes new files instead of flushing the old ones again. For the names of the
/// instances there is no next try: the log is poisoned.
#[tokio::test]
async fn a_checkpoint_that_cannot_flush_keeps_the_log_and_writes_new_files() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let (mut faults, mut poisoned) = (0, 0);
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
        let (counted, stats) = (worker.ask("count a")?, worker.ask("stats")?);
        let said = worker.ask("shutdown")?;
        let trace = strace.end()?;
        assert_eq!(strace::fired(&trace), 1, "{trace:#?}");
        let at = trace.iter().position(|line| line.contains("(INJECTED)")).ok_or("nothing was injected")?;
        let file = |line: &str| line.split(['<', '>']).nth(1).map(str::to_owned);
        let failed = file(&trace[at]).ok_or("no path")?;
        let is_poisoned = failed.ends_with("/instances");
        poisoned += u32::from(is_poisoned);
        let (stands, outcome) = if is_poisoned {
            (2, ["not-applied poisoned errno 5", "ok 0 true true", "poisoned errno 5"])
        } else {
            (3, ["ok 3", "ok 0 true false", "ok"])
        };
        assert_eq!([counted, stats, said].each_ref().map(String::as_str), outcome, "{failed}: {trace:#?}");
        // The flush of the writer's directory comes behind the removal of the segment.
        assert!(kept == 2 || failed.contains("/writers/"), "a segment was dropped: {trace:#?}");
        if ["instance.json", "events.jsonl", "state.json"].iter().any(|name| failed.ends_with(name)) {
            // Until a new file has the name.
            let is_new = |l: &&String| l.starts_with("fsync") && l.contains(".tmp>");
            let until_new = trace[at + 1..].iter().take_while(|l| !is_new(l));
            let again = until_new.filter(|l| l.starts_with("fsync")).any(|l| file(l).as_ref() == Some(&failed));
            assert!(!again, "a flush was tried again: {trace:#?}");
        }
        stands_at(root.path(), worker, stands).await?;
    }
    assert!(faults > 3 && poisoned > 0, "{faults} {poisoned}");
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
