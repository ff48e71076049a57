//! Imports that are killed: an import is flushed, then has its name, then is reported.

use fiefdom::{Error, ImportOptions, Store};

use crate::common::{Counter, TestResult, id, shown};
use crate::strace::{self, Strace};
use crate::worker::Worker;
use crate::{count, sample};

/// Kills in the middle of an import; a longer campaign sets `FIEFDOM_TEST_IMPORT_KILLS`.
const IMPORT_KILLS: usize = 24;

/// The calls by which an import changes the disk.
const CALLS: [&str; 10] =
    ["openat", "mkdirat", "write", "pwrite64", "fsync", "renameat", "unlinkat", "flock", "ftruncate", "symlinkat"];

/// A kill does not show a missing flush, so the calls are looked at themselves.
#[tokio::test]
async fn an_import_is_on_disk_before_it_has_its_name_and_its_name_before_it_is_reported() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let (temp, root) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let file = temp.path().join("a.tar.gz");
    std::fs::write(&file, sample().await?)?;
    let mut worker = Worker::start()?;
    worker.open(root.path(), "")?;
    let strace = Strace::attach(&[worker.threads()?["disk"]], &["trace=fsync,renameat,renameat2", "signal=none"])?;
    worker.must(&format!("import {} n", file.display()))?;
    let trace = strace.end()?;
    let placed = trace.iter().rposition(|line| line.starts_with("rename") && line.contains("\"n\""));
    let (before, after) = trace.split_at(placed.ok_or("it was not renamed")?);
    let flushed = |lines: &[String], end: &str| lines.iter().any(|l| l.starts_with("fsync(") && l.contains(end));
    for end in ["/workspace/sub/file>", "/workspace/sub>", "/events/events.jsonl>", "/instance.json>", "/instance>"] {
        assert!(flushed(before, end), "{end} was not flushed before the rename: {trace:#?}");
    }
    assert!(flushed(after, "/instances>"), "the name was not flushed: {trace:#?}");
    Ok(())
}

#[tokio::test]
async fn an_import_that_is_killed_at_any_call_leaves_the_whole_or_nothing() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let temp = tempfile::tempdir()?;
    let file = temp.path().join("a.tar.gz");
    std::fs::write(&file, sample().await?)?;
    let ready = || -> TestResult<(tempfile::TempDir, Worker)> {
        let root = tempfile::tempdir()?;
        let mut worker = Worker::start()?;
        worker.open(root.path(), "")?;
        Ok((root, worker))
    };
    let command = format!("import {} n", file.display());
    let (_root, mut worker) = ready()?;
    let disk = worker.threads()?["disk"];
    let strace = Strace::attach(&[disk], &[&format!("trace={}", CALLS.join(",")), "signal=none"])?;
    worker.must(&command)?;
    let trace = strace.end()?;
    let mut places = Vec::new();
    for call in CALLS {
        let times = trace.iter().filter(|line| line.starts_with(&format!("{call}("))).count();
        places.extend((1..=times).map(|nth| (call, nth)));
    }
    assert!(places.len() > 40, "{trace:#?}");
    let most = std::env::var("FIEFDOM_TEST_IMPORT_KILLS").map_or(Ok(IMPORT_KILLS), |text| text.parse())?;
    let step = places.len().div_ceil(most.max(1));
    let (mut kills, mut whole) = (0, 0);
    // What makes the instance appear, and what comes behind that, is killed at in any case.
    let flushes = places.iter().filter(|(call, _)| *call == "fsync").count();
    let is_end = |(call, nth): &(&str, usize)| *call == "renameat" || (*call == "fsync" && *nth == flushes);
    let chosen = places.iter().enumerate().filter(|(n, place)| n % step == 0 || is_end(place));
    for (_, (call, nth)) in chosen {
        let (root, mut worker) = ready()?;
        let disk = worker.threads()?["disk"];
        let inject = format!("inject={call}:signal=KILL:when={nth}");
        let strace = Strace::attach(&[disk], &[&format!("trace={call}"), &inject])?;
        worker.tell(&command)?;
        let answer = worker.answer_if_alive();
        drop(strace);
        if answer.is_none() {
            kills += 1;
        }
        worker.kill()?;
        let store = Store::open(root.path(), Counter).await?;
        match store.get(&id("n")).await {
            Err(Error::NotFound { .. }) => {
                store.import(std::fs::File::open(&file)?, ImportOptions::with_id(id("n"))).await?;
            }
            found => {
                whole += 1;
                assert!(found?.record().await?.origin().is_some(), "{call} {nth}");
            }
        }
        let instance = store.get(&id("n")).await?;
        assert_eq!(instance.commit(count).await?.value, 3, "{call} {nth}");
        store.flush().await?;
        assert_eq!(store.view().events(&id("n"), 1)?.len(), 4, "{call} {nth}");
        let text = std::fs::read_to_string(instance.path().join("workspace/sub/file"))?;
        assert_eq!(text, "text", "{call} {nth}");
        assert_eq!(std::fs::read_dir(root.path().join(".fiefdom/imports"))?.count(), 0, "{call} {nth}");
        store.shutdown().await?;
    }
    assert!(kills > 0 && whole > 0 && whole < kills, "{kills} kills, {whole} whole");
    shown!("an import: {kills} kills of {} places, {whole} left the whole, the others nothing", places.len());
    Ok(())
}
