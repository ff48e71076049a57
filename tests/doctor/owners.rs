//! Owners that live, are killed, or have left a log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fiefdom::{Doctor, NewInstance, Outcome, Report, Severity, Status, Store};

use crate::cli::{Fief, Started};
use crate::common::{self, Counter, TestResult, another_process, id};
use crate::{EVENTS, doctor, findings, healthy, is_kept, only_finding, remains, small};

/// Examinations of a store at work; a longer campaign sets `FIEFDOM_TEST_EXAMINATIONS`.
const EXAMINATIONS: u64 = 8;

fn damage(report: &Report) -> usize {
    report.findings.iter().filter(|f| f.severity == Severity::Damage).count()
}

#[tokio::test]
async fn a_dead_writer_waits_for_recovery_and_is_recovered() -> TestResult {
    let fief = remains().await?;
    let before = fief.tree();
    let (severity, path, _, reason) = only_finding(&fief);
    assert!(severity == Severity::Note && path.starts_with(".fiefdom/writers/"), "{path}");
    assert!(reason.contains("waits for recovery"), "{reason}");
    assert_eq!(doctor(&fief, &[]).code, Some(0));
    assert!(fief.tree() == before, "an examination recovers nothing");
    assert_eq!(doctor(&fief, &["--repair"]).code, Some(0));
    assert_eq!(findings(&fief), []);
    assert_eq!(fief.record("a")["revision"], EVENTS);
    Ok(())
}

/// The process that is killed.
#[tokio::test]
#[ignore = "started by another test"]
async fn be_an_owner() -> TestResult {
    let store = Store::open_with(std::env::var("FIEFDOM_TEST_ROOT")?, Counter, small()).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    it.transition(Status::Running, None).await?;
    println!("made");
    loop {
        it.commit(|tx| tx.event("counted", &1)).await?;
    }
}

#[tokio::test]
async fn a_killed_owner_is_live_before_and_waits_for_recovery_after() -> TestResult {
    let fief = Fief::new();
    let mut command = another_process("owners::be_an_owner")?;
    command.env("FIEFDOM_TEST_ROOT", &fief.root);
    let mut owner = Started::new(command);
    owner.prints("made");
    let report = Doctor::examine(&fief.root)?;
    assert_eq!((report.live, &report.findings[..]), (1, &[][..]));
    owner.child.kill()?;
    owner.child.wait()?;
    let report = Doctor::examine(&fief.root)?;
    assert_eq!((report.live, damage(&report)), (0, 0), "{:#?}", report.findings);
    assert!(report.findings.iter().any(|f| f.reason.contains("waits for recovery")), "{:#?}", report.findings);
    assert_eq!(doctor(&fief, &["--repair"]).code, Some(0));
    assert_eq!(fief.status("a"), "interrupted");
    let left = Doctor::examine(&fief.root)?;
    assert!(left.findings.iter().all(|f| f.path.starts_with(fief.root.join(".fiefdom/quarantine"))), "{left:#?}");
    Ok(())
}

#[tokio::test]
async fn a_damaged_log_is_kept_whole_and_its_instance_blocked() -> TestResult {
    let fief = remains().await?;
    let writer = std::fs::read_dir(fief.root.join(".fiefdom/writers"))?.next().ok_or("no writer")??.path();
    let path = writer.join("journal-000001.log");
    let mut log = std::fs::read(&path)?;
    let at = log.len() / 2;
    let at = (0..at).rev().find(|&at| log[at..].starts_with(b"\"commit\"")).ok_or("no commit")?;
    log[at + 1] ^= 1;
    std::fs::write(&path, &log)?;
    let ran = doctor(&fief, &["--repair"]);
    assert!(is_kept(&fief, &log), "the whole segment is kept");
    assert!(ran.code == Some(1) && fief.root.join(".fiefdom/quarantine/a.blocked.json").exists(), "{ran:?}");
    Ok(())
}

#[tokio::test]
async fn a_living_owner_is_neither_disturbed_nor_judged() -> TestResult {
    let fief = healthy().await?;
    let store = Store::open(&fief.root, Counter).await?;
    let it = store.get(&id("a")).await?;
    it.record().await?;
    std::fs::write(fief.instance("a/.instance.json.tmp"), "half a record")?;
    let events = fief.instance("a/events/events.jsonl");
    let before = std::fs::read(&events)?;
    std::fs::write(&events, [&before[..], b"{\"seq\":3"].concat())?;
    let report = Doctor::examine(&fief.root)?;
    assert_eq!((report.live, &report.findings[..]), (1, &[][..]));
    std::fs::write(&events, before)?;
    std::fs::remove_file(fief.instance("a/.instance.json.tmp"))?;
    it.transition(Status::Running, None).await?;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_repair_skips_what_changed_and_whom_somebody_owns() -> TestResult {
    let fief = healthy().await?;
    let plant = |name: &str| std::fs::write(fief.instance(name).join(".instance.json.tmp"), "half");
    plant("a")?;
    plant("b")?;
    let report = Doctor::examine(&fief.root)?;
    assert_eq!(report.findings.len(), 2);
    std::fs::remove_file(fief.instance("a/.instance.json.tmp"))?;
    let store = Store::open(&fief.root, Counter).await?;
    store.get(&id("b")).await?.record().await?;
    let repairs = Doctor::repair(&report)?;
    let skipped: Vec<_> = repairs.iter().map(|r| matches!(r.outcome, Outcome::Skipped(_))).collect();
    assert_eq!(skipped, [true, true], "{repairs:?}");
    assert!(fief.instance("b/.instance.json.tmp").exists(), "its owner keeps it");
    store.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_at_work_has_no_false_alarm() -> TestResult {
    let rounds = std::env::var("FIEFDOM_TEST_EXAMINATIONS").map_or(Ok(EXAMINATIONS), |text| text.parse())?;
    let fief = Fief::new();
    let store = Store::open_with(&fief.root, Counter, small()).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let workers = (0..6).map(|nth| {
        let (store, stop) = (store.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut commits = 0_u64;
            let kept = store.create(NewInstance::with_id(id(&format!("i{nth}")))).await?.instance().clone();
            while !stop.load(Ordering::Relaxed) {
                kept.commit(|tx| tx.event("counted", &"x".repeat(50))).await?;
                if commits.is_multiple_of(10) {
                    let name = id(&format!("t{nth}-{commits}"));
                    store.create(NewInstance::with_id(name.clone())).await?;
                    store.delete(&name).await?;
                }
                commits += 1;
            }
            Ok::<u64, fiefdom::Error>(commits)
        })
    });
    let workers: Vec<_> = workers.collect::<Vec<_>>();
    let mut examinations = 0;
    while examinations < rounds || store.stats().await?.commits < 100 {
        examinations += 1;
        let root = fief.root.clone();
        let report = tokio::task::spawn_blocking(move || Doctor::examine(root)).await??;
        assert!(report.findings.is_empty(), "{:#?}", report.findings);
    }
    stop.store(true, Ordering::Relaxed);
    let mut commits = 0;
    for worker in workers {
        commits += worker.await??;
    }
    store.shutdown().await?;
    let report = Doctor::examine(&fief.root)?;
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    assert_eq!(damage(&report), 0);
    common::shown!("{examinations} examinations of a store at work, {commits} commits meanwhile, 0 false alarms");
    Ok(())
}
