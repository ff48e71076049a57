//! What a repair does: what was printed, without losing a byte, also when it is killed.

use std::process::Command;

use fiefdom::{NewInstance, Severity, Store, Untyped};
use serde_json::{Value, json};

use crate::cli::{self, Fief, Started};
use crate::common::{self, Counter, TestResult, id};
use crate::{EVENTS, copy_to, doctor, findings, healthy, is_kept, only_finding, remains, set_mode, small, strace};

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
    // How much of it is on disk depends on when it was flushed last.
    let position = |text: &str| -> TestResult<Value> {
        let state: Value = serde_json::from_str(text)?;
        Ok(json!([state["last_seq"], state["segment"], state["offset"]]))
    };
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
        assert_eq!(position(&std::fs::read_to_string(&path)?)?, position(&good)?);
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
        let writer = writer?;
        copy_to(&writer.path(), &writers(&fief).join(writer.file_name()))?;
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
