//! `fiefdom doctor`: every damage is found, a repair does what was printed and loses no byte, and a
//! healthy store has no finding, also while it is at work.
#![allow(missing_docs)]

#[path = "common/cli.rs"]
mod cli;
mod common;
#[path = "common/strace.rs"]
mod strace;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cli::{Fief, Ran, Started};
use common::{Counter, TestResult, another_process, id, options};
use fiefdom::{Doctor, NewInstance, Options, Outcome, Report, Severity, Status, Store, Untyped};

/// Examinations of a store at work; a longer campaign sets `FIEFDOM_TEST_EXAMINATIONS`.
const EXAMINATIONS: u64 = 8;

const EVENTS: u32 = 30;

/// Segments are small, so that some are full.
fn small() -> Options {
    options(|o| {
        o.event_segment_bytes = 1 << 10;
        o.log_segment_bytes = 16 << 10;
        o.materialise_within = Duration::from_millis(2);
        o.log_segment_age = Duration::from_millis(20);
        o.live_instances = 4;
    })
}

/// A store with two instances, `a` and `b`, closed in order.
async fn healthy() -> TestResult<Fief> {
    let fief = Fief::new();
    let store = Store::open_with(&fief.root, Counter, small()).await?;
    for name in ["a", "b"] {
        let it = store.create(NewInstance::with_id(id(name))).await?;
        for n in 0..EVENTS {
            it.commit(move |tx| tx.event("counted", &n)).await?;
        }
    }
    store.shutdown().await?;
    Ok(fief)
}

fn copy_tree(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp").success());
}

fn doctor(fief: &Fief, args: &[&str]) -> Ran {
    Started::new(fief.command([&["doctor"], args].concat())).end()
}

/// Severity, path below the root, offset and reason of each finding.
fn findings(fief: &Fief) -> Vec<(Severity, String, Option<u64>, String)> {
    let report = Doctor::examine(&fief.root).expect("a report");
    let below = |path: &PathBuf| path.strip_prefix(&fief.root).expect("below the root").display().to_string();
    report.findings.iter().map(|f| (f.severity, below(&f.path), f.offset, f.reason.clone())).collect()
}

fn only_finding(fief: &Fief) -> (Severity, String, Option<u64>, String) {
    let mut found = findings(fief);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// Whether these bytes are in the quarantine, in one file.
fn is_kept(fief: &Fief, bytes: &[u8]) -> bool {
    cli::holds(&fief.root.join(".fiefdom/quarantine"), bytes)
}

fn damage(report: &Report) -> usize {
    report.findings.iter().filter(|f| f.severity == Severity::Damage).count()
}

#[tokio::test]
async fn a_healthy_store_has_no_finding_and_is_not_touched() -> TestResult {
    let fief = healthy().await?;
    assert!(fief.instance("a/events").read_dir()?.count() > 3, "some event files are full");
    let before = fief.tree();
    let ran = doctor(&fief, &[]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.out.starts_with("2 instances (0 live)") && ran.out.contains(": 0 damaged, 0 notes"), "{ran:?}");
    assert_eq!(doctor(&fief, &["--repair"]).code, Some(0));
    assert!(fief.tree() == before, "nothing changes");
    Ok(())
}

#[tokio::test]
async fn what_has_no_second_copy_is_found_and_left_in_place() -> TestResult {
    type Damage = (&'static str, fn(&mut Vec<u8>), &'static str);
    let full = "instances/a/events/events-000000000001.jsonl";
    let record = "instances/a/instance.json";
    let cases: [Damage; 9] = [
        (record, |bytes| bytes.clear(), "EOF"),
        (record, |bytes| bytes.truncate(100), "EOF"),
        (record, |bytes| bytes[0] ^= 1, "expected"),
        (record, |bytes| replace(bytes, "\"revision\": 30", "\"revision\": \"30\""), "revision"),
        (record, |bytes| replace(bytes, "\"pending\"", "\"sleeping\""), "status"),
        (record, |bytes| replace(bytes, "\"instance_id\": \"a\"", "\"instance_id\": \"z\""), "lies in the directory"),
        (record, |bytes| replace(bytes, "\"format\": 1", "\"format\": 9"), "newer"),
        (full, |bytes| bytes[1] ^= 1, "event 1 cannot be read"),
        (full, |bytes| drop(bytes.drain(..=end_of_line(bytes))), "event 2 stands where 1 is expected"),
    ];
    let whole = healthy().await?;
    for (file, break_it, says) in cases {
        let fief = Fief::new();
        copy_tree(&whole.root, &fief.root);
        let path = fief.root.join(file);
        let mut bytes = std::fs::read(&path)?;
        let before = bytes.clone();
        break_it(&mut bytes);
        assert_ne!(bytes, before, "{file}: {says}: the damage is there");
        std::fs::write(&path, &bytes)?;
        let (severity, place, _, reason) = only_finding(&fief);
        assert_eq!((severity, place.as_str()), (Severity::Damage, file), "{reason}");
        assert!(reason.contains(says), "no {says:?} in {reason:?}");
        let tree = fief.tree();
        assert_eq!(doctor(&fief, &[]).code, Some(1), "{says}");
        assert_eq!(doctor(&fief, &["--repair"]).code, Some(1), "{says}");
        assert!(fief.tree() == tree, "{says}: nothing changes");
    }
    Ok(())
}

fn replace(bytes: &mut Vec<u8>, from: &str, to: &str) {
    *bytes = String::from_utf8_lossy(bytes).replace(from, to).into_bytes();
}

fn end_of_line(bytes: &[u8]) -> usize {
    bytes.iter().position(|&b| b == b'\n').expect("a line")
}

#[tokio::test]
async fn a_missing_event_file_is_damage_that_is_not_repaired() -> TestResult {
    let fief = healthy().await?;
    std::fs::remove_dir_all(fief.instance("a/events"))?;
    let (severity, _, _, reason) = only_finding(&fief);
    assert_eq!(severity, Severity::Damage);
    assert!(reason.contains("ends at event 0, and the record knows of 30"), "{reason}");
    assert_eq!(doctor(&fief, &["--repair"]).code, Some(1));
    Ok(())
}

#[tokio::test]
async fn an_incomplete_last_line_is_moved_to_the_quarantine() -> TestResult {
    let fief = healthy().await?;
    let path = fief.instance("a/events/events.jsonl");
    let before = std::fs::read(&path)?;
    let torn = br#"{"seq":31,"at":"20"#;
    std::fs::write(&path, [&before[..], torn].concat())?;
    let (severity, _, offset, _) = only_finding(&fief);
    assert_eq!((severity, offset), (Severity::Damage, Some(before.len() as u64)));
    let ran = doctor(&fief, &["--repair"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(std::fs::read(&path)?, before);
    assert!(is_kept(&fief, torn), "every byte is somewhere");
    assert!(findings(&fief).iter().all(|(severity, ..)| *severity == Severity::Note), "{:?}", findings(&fief));
    let tree = fief.tree();
    assert_eq!(doctor(&fief, &["--repair"]).code, Some(0));
    assert!(fief.tree() == tree, "a second repair finds nothing to do");
    let store = Store::open(&fief.root, Untyped).await?;
    assert_eq!(store.get(&id("a")).await?.record().await?.last_event_seq, u64::from(EVENTS));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_cache_that_lies_is_written_anew_from_the_events() -> TestResult {
    let fief = healthy().await?;
    let path = fief.instance("a/events/state.json");
    let good = std::fs::read_to_string(&path)?;
    for (lie, expected) in [
        (good.replace("\"last_seq\":30", "\"last_seq\":99"), Severity::Damage),
        ("{".to_owned(), Severity::Note),
        (String::new(), Severity::Note),
    ] {
        assert_ne!(lie, good);
        std::fs::write(&path, &lie)?;
        let found: Vec<_> = findings(&fief).into_iter().filter(|(_, path, ..)| path.starts_with("instances")).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, expected, "{found:?}");
        let ran = doctor(&fief, &["--repair"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(std::fs::read_to_string(&path)?, good);
        assert!(lie.is_empty() || is_kept(&fief, lie.as_bytes()));
    }
    Ok(())
}

#[tokio::test]
async fn left_overs_are_removed_and_what_is_not_ours_stays() -> TestResult {
    let fief = healthy().await?;
    let internal = fief.root.join(".fiefdom");
    let uid = "018f4b6e-0000-7000-8000-000000000001";
    std::fs::write(fief.instance("a/.instance.json.tmp"), "half a record")?;
    std::fs::create_dir(fief.instance("a/logs"))?;
    std::fs::write(fief.instance("a/logs/.checkpoint.json.tmp"), "half a checkpoint")?;
    std::fs::create_dir_all(internal.join(format!("trash/c.{uid}/workspace")))?;
    std::fs::create_dir(internal.join(format!("writers/new-{uid}")))?;
    std::fs::create_dir(fief.root.join("instances/Not An Id"))?;
    std::fs::create_dir(fief.root.join("instances/unfinished"))?;
    std::fs::create_dir(internal.join("trash/somebody's"))?;
    set_mode(&fief.instance("unfinished"), 0o700)?;
    let found = findings(&fief);
    assert_eq!(found.len(), 7, "{found:?}");
    assert!(found.iter().all(|(severity, ..)| *severity == Severity::Note), "{found:?}");
    let ran = doctor(&fief, &["--repair"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(is_kept(&fief, b"half a record") && is_kept(&fief, b"half a checkpoint"));
    for gone in [
        fief.instance("a/logs/.checkpoint.json.tmp"),
        fief.instance("a/.instance.json.tmp"),
        internal.join(format!("trash/c.{uid}")),
        internal.join(format!("writers/new-{uid}")),
    ] {
        assert!(!gone.exists(), "{}", gone.display());
    }
    for stays in ["instances/Not An Id", "instances/unfinished", ".fiefdom/trash/somebody's"] {
        assert!(fief.root.join(stays).exists(), "{stays}");
    }
    Ok(())
}

/// A root with one of each that a repair mends: what a dead process left, an incomplete last line, a
/// cache that lies, a half-written file, trash, and a writer that was never born.
async fn ailing() -> TestResult<Fief> {
    let fief = remains().await?;
    let store = Store::open_with(&fief.root, Counter, small()).await?;
    for name in ["b", "c"] {
        let it = store.create(NewInstance::with_id(id(name))).await?;
        for n in 0..3 {
            it.commit(move |tx| tx.event("counted", &n)).await?;
        }
    }
    store.shutdown().await?;
    let dead = remains().await?;
    let writers = |fief: &Fief| fief.root.join(".fiefdom/writers");
    for writer in std::fs::read_dir(writers(&dead))? {
        copy_tree(&writer?.path(), &writers(&fief));
    }
    let lines = fief.instance("b/events/events.jsonl");
    std::fs::write(&lines, [std::fs::read(&lines)?, TORN.to_vec()].concat())?;
    std::fs::write(fief.instance("c/events/state.json"), r#"{"last_seq":1}"#)?;
    std::fs::write(fief.instance("c/.instance.json.tmp"), HALF)?;
    std::fs::create_dir_all(fief.root.join(".fiefdom/trash/d.018f4b6e-0000-7000-8000-000000000001/workspace"))?;
    std::fs::create_dir(writers(&fief).join("new-018f4b6e-0000-7000-8000-000000000002"))?;
    Ok(fief)
}

const TORN: &[u8] = br#"{"seq":4,"at":"20"#;
const HALF: &[u8] = b"half a record";

/// Kills a repair when it makes its nth such call, lets another finish it, and says whether it was
/// killed.
async fn kill_a_repair(call: &str, nth: usize) -> TestResult<bool> {
    let fief = ailing().await?;
    let inject = format!("inject={call}:signal=KILL:when={nth}");
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject, "--"]);
    command.arg(cli::FIEFDOM).arg("--root").arg(&fief.root).args(["doctor", "--repair"]);
    // It dies of the same signal as what it traces.
    let killed = Started::new(command).end().code.is_none();
    // What a log that waits may still bring is no finding: so one repair shows work for another.
    let ran = (0..2).map(|_| doctor(&fief, &["--repair"])).find(|ran| ran.code == Some(0));
    assert!(ran.is_some(), "{call} {nth}: {:?}", findings(&fief));
    assert!(is_kept(&fief, TORN) && is_kept(&fief, HALF), "{call} {nth}: bytes are lost");
    let after = ["a", "b", "c"].map(|name| fief.events(name).len());
    assert_eq!(after, [EVENTS as usize, 3, 3], "{call} {nth}");
    Ok(killed)
}

#[tokio::test]
async fn a_repair_that_is_killed_at_any_system_call_is_finished_by_the_next() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    // In a campaign every call is a place to die; else the first, second, fourth, eighth, …
    let thorough = std::env::var_os("FIEFDOM_TEST_SYSCALL_KILLS").is_some();
    let mut kills = 0;
    let calls = ["fsync", "renameat", "unlinkat", "write", "ftruncate", "mkdirat"];
    for call in &calls[..if thorough { calls.len() } else { 3 }] {
        let mut nth = 1;
        while kill_a_repair(call, nth).await? {
            kills += 1;
            nth += if thorough { 1 } else { nth };
        }
    }
    assert!(kills >= 6, "{kills} kills");
    common::shown!("{kills} repairs killed at a system call, each finished by the next, 0 bytes lost");
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

#[tokio::test]
async fn a_mode_that_is_too_open_is_a_note() -> TestResult {
    let fief = healthy().await?;
    set_mode(&fief.instance("a/instance.json"), 0o644)?;
    let (severity, path, _, reason) = only_finding(&fief);
    assert_eq!((severity, path.as_str()), (Severity::Note, "instances/a/instance.json"));
    assert!(reason.contains("0644"), "{reason}");
    assert_eq!(doctor(&fief, &[]).code, Some(0));
    Ok(())
}

#[test]
fn the_items_of_a_batch_are_checked() -> TestResult {
    let fief = Fief::new();
    let jobs = fief.write("jobs", "true\ntrue\ntrue\n");
    assert_eq!(fief.run(["run", "--batch", "nightly", &jobs]).code, Some(0));
    assert_eq!(findings(&fief), []);
    let path = fief.instance("nightly/workspace/items.jsonl");
    let whole = std::fs::read_to_string(&path)?;
    for (text, says) in [
        (whole.replacen("\"id\"", "\"di\"", 1), "line 1 is no job"),
        (whole.split_inclusive('\n').take(2).collect(), "2 whole lines"),
        (whole.trim_end().to_owned(), "2 whole lines"),
    ] {
        std::fs::write(&path, text)?;
        let (severity, _, _, reason) = only_finding(&fief);
        assert!(severity == Severity::Damage && reason.contains(says), "{reason}");
    }
    std::fs::remove_file(&path)?;
    assert!(only_finding(&fief).3.contains("it is missing"));
    assert_eq!(doctor(&fief, &["--repair"]).code, Some(1));
    Ok(())
}

#[tokio::test]
async fn a_strange_file_in_the_directory_of_a_dead_writer_stops_nobody() -> TestResult {
    let fief = remains().await?;
    let writer = std::fs::read_dir(fief.root.join(".fiefdom/writers"))?.next().ok_or("no writer")??.path();
    std::fs::write(writer.join("strange"), "somebody's")?;
    for _ in 0..2 {
        Store::open(&fief.root, Untyped).await?.shutdown().await?;
    }
    assert!(cli::holds(&fief.root, b"somebody's"), "no byte is deleted that is not ours");
    Ok(())
}

#[tokio::test]
async fn a_writer_s_directory_that_cannot_be_removed_is_damage() -> TestResult {
    let fief = healthy().await?;
    let writer = fief.root.join(".fiefdom/writers/018f4b6e-0000-7000-8000-000000000001");
    std::fs::create_dir(&writer)?;
    assert_eq!(only_finding(&fief).0, Severity::Note, "an empty one is removed by the next opening");
    std::fs::write(writer.join("strange"), "somebody's")?;
    let (severity, _, _, reason) = only_finding(&fief);
    assert!(severity == Severity::Damage && reason.contains("strange files"), "{reason}");
    assert_eq!(doctor(&fief, &["--repair"]).code, Some(1));
    assert!(writer.join("strange").exists());
    Ok(())
}

#[tokio::test]
async fn a_blocked_instance_is_told_and_left_to_a_person() -> TestResult {
    let fief = healthy().await?;
    let path = fief.root.join(".fiefdom/quarantine/a.blocked.json");
    std::fs::write(&path, r#"{"instance_id":"a","reason":"its last commits cannot be read"}"#)?;
    let (severity, _, _, reason) = only_finding(&fief);
    assert!(severity == Severity::Damage && reason.contains("its last commits cannot be read"), "{reason}");
    assert_eq!(doctor(&fief, &["--repair"]).code, Some(1));
    assert!(path.exists());
    Ok(())
}

/// A root whose process died with commits that are in its log alone.
async fn remains() -> TestResult<Fief> {
    let (live, copy) = (Fief::new(), Fief::new());
    let lagging = options(|o| o.materialise_within = Duration::from_secs(3600));
    let store = Store::open_with(&live.root, Counter, lagging).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    for n in 0..EVENTS {
        it.commit(move |tx| tx.event("counted", &n)).await?;
    }
    copy_tree(&live.root, &copy.root);
    store.shutdown().await?;
    Ok(copy)
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
    let mut command = another_process("be_an_owner")?;
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

#[tokio::test]
async fn json_is_one_document() -> TestResult {
    let fief = healthy().await?;
    std::fs::write(fief.instance("a/instance.json"), "")?;
    let ran = Started::new(fief.command(["--json", "doctor"])).end();
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""));
    let [document] = &ran.json_lines()[..] else { return Err("not one document".into()) };
    assert_eq!(
        (&document["healthy"], &document["instances"], &document["damage"]),
        (&false.into(), &2.into(), &1.into())
    );
    let finding = &document["findings"][0];
    assert_eq!((&finding["severity"], &finding["instance"]), (&"damage".into(), &"a".into()));
    assert!(finding["repairable"] == false && finding["repair"].is_string() && finding["reason"].is_string());
    Ok(())
}

#[test]
fn a_root_that_cannot_be_read_is_exit_5() {
    let fief = Fief::new();
    doctor(&fief, &[]).failed(5, &["no complete store"]);
}
