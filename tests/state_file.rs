//! One JSON file outside of a store: nothing acknowledged is lost, nothing torn is seen, nothing that
//! cannot be used is touched.
#![allow(missing_docs)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use common::{TestResult, another_process, shown};
use fiefdom::{BoxError, Error, FileState, StateFile};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Preferences as they are now, at version 3.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Preferences {
    count: u64,
    theme: String,
}

impl FileState for Preferences {
    const KIND: &'static str = "preferences";
    const SCHEMA_VERSION: u32 = 3;

    fn migrate(from: u32, mut state: Value) -> Result<Value, BoxError> {
        match from {
            // Once, `count` was called `number`.
            1 => {
                let number = state["number"].as_u64().ok_or("no number")?;
                Ok(json!({ "count": number }))
            }
            2 => {
                assert!(state["count"] != 13, "step 2 has a bug");
                state["theme"] = json!("dark");
                Ok(state)
            }
            _ => Err("there is no such step".into()),
        }
    }

    fn validate(&self) -> Result<(), BoxError> {
        if self.theme == "invisible" { Err("theme must be one that can be seen".into()) } else { Ok(()) }
    }
}

fn place() -> TestResult<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("preferences.json");
    Ok((dir, path))
}

fn file(path: &Path) -> StateFile<Preferences> {
    StateFile::at(path)
}

fn stored(version: u32, state: &Value) -> String {
    json!({ "format": 1, "kind": "preferences", "schema_version": version, "state": state }).to_string()
}

/// Which file it is, when it was written, and its bytes.
fn look(path: &Path) -> TestResult<(u64, i64, i64, Vec<u8>)> {
    let about = std::fs::metadata(path)?;
    Ok((about.ino(), about.mtime(), about.mtime_nsec(), std::fs::read(path)?))
}

/// Asserts that neither a load nor an update takes these bytes, nor touches them.
async fn refused(path: &Path, bytes: &[u8], is_right: impl Fn(&Error) -> bool) -> TestResult {
    std::fs::write(path, bytes)?;
    let before = look(path)?;
    let shown = String::from_utf8_lossy(bytes).into_owned();
    let error = file(path).load().await.expect_err(&shown);
    assert!(is_right(&error), "{shown}: {error:?}");
    assert!(error.to_string().contains("preferences.json"), "{error}");
    let error = file(path).update(|p| p.count += 1).await.expect_err(&shown);
    assert!(is_right(&error), "{shown}: {error:?}");
    assert_eq!(look(path)?, before, "{shown}");
    Ok(())
}

#[tokio::test]
async fn a_missing_file_reads_as_the_default_and_nothing_is_made() -> TestResult {
    let (dir, path) = place()?;
    assert_eq!(file(&path).load().await?, Preferences::default());
    assert_eq!(file(&dir.path().join("no/such/dir/x.json")).load().await?, Preferences::default());
    assert_eq!(std::fs::read_dir(dir.path())?.count(), 0);
    Ok(())
}

#[tokio::test]
async fn the_first_update_makes_the_file_for_its_user_alone() -> TestResult {
    let (dir, _) = place()?;
    let path = dir.path().join("a/b/preferences.json");
    assert_eq!(
        file(&path)
            .update(|p| {
                p.count += 1;
                p.count
            })
            .await?,
        1
    );
    let mode = |path: &Path| TestResult::Ok(std::fs::metadata(path)?.permissions().mode() & 0o7777);
    assert_eq!((mode(&path)?, mode(&dir.path().join("a"))?, mode(&dir.path().join("a/b"))?), (0o600, 0o700, 0o700));
    let text = std::fs::read_to_string(&path)?;
    assert!(text.contains("\n  \"schema_version\": 3,\n") && text.ends_with("}\n"), "{text}");
    assert_eq!(file(&path).load().await?.count, 1);
    Ok(())
}

#[tokio::test]
async fn the_mode_and_the_unknown_fields_beside_the_state_are_kept() -> TestResult {
    let (_dir, path) = place()?;
    let text = r#"{"format":1,"later":{"n":123456789012345678901234567890},"kind":"preferences","schema_version":3,
        "state":{"count":1,"theme":"größe"}}"#;
    std::fs::write(&path, text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640))?;
    file(&path).update(|p| p.count += 1).await?;
    assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o7777, 0o640);
    let text = std::fs::read_to_string(&path)?;
    assert!(
        text.contains("123456789012345678901234567890") && text.contains("größe") && text.contains("\"count\": 2"),
        "{text}"
    );
    Ok(())
}

#[tokio::test]
async fn an_older_file_is_migrated_in_memory_and_written_by_the_next_update() -> TestResult {
    let (_dir, path) = place()?;
    std::fs::write(&path, stored(1, &json!({ "number": 7 })))?;
    let before = look(&path)?;
    assert_eq!(file(&path).load().await?, Preferences { count: 7, theme: "dark".into() });
    assert_eq!(look(&path)?, before, "reading writes nothing");
    file(&path).update(|p| p.count += 1).await?;
    let on_disk: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    assert_eq!(on_disk["schema_version"], 3);
    assert_eq!(on_disk["state"], json!({ "count": 8, "theme": "dark" }));
    Ok(())
}

#[tokio::test]
async fn a_step_that_fails_or_panics_leaves_the_file() -> TestResult {
    let (_dir, path) = place()?;
    let unusable = |words: &'static str| {
        move |e: &Error| matches!(e, Error::StateFile { version: 3, .. }) && e.to_string().contains(words)
    };
    refused(&path, stored(1, &json!({})).as_bytes(), unusable("from version 1 failed: no number")).await?;
    refused(&path, stored(2, &json!({ "count": 13 })).as_bytes(), unusable("panicked: step 2 has a bug")).await?;
    refused(&path, stored(2, &json!({ "count": "x" })).as_bytes(), unusable("it does not fit")).await?;
    Ok(())
}

#[tokio::test]
async fn a_newer_file_and_one_of_another_kind_are_refused_untouched() -> TestResult {
    let (_dir, path) = place()?;
    // The shape is one that this version cannot read: the version is looked at before.
    let newer = |e: &Error| matches!(e, Error::StateFile { .. }) && e.to_string().contains("version 4, which is newer");
    refused(&path, stored(4, &json!(["another shape"])).as_bytes(), newer).await?;
    let format = br#"{"format":2,"everything":"is different"}"#;
    refused(&path, format, |e| matches!(e, Error::NewerFormat { found: 2, supported: 1, .. })).await?;
    let other = stored(3, &json!({ "count": 1, "theme": "" })).replace("preferences\"", "recipes\"");
    refused(&path, other.as_bytes(), |e| e.to_string().contains("it is of kind \"recipes\"")).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_damaged_is_corrupt_and_its_bytes_are_kept() -> TestResult {
    let (_dir, path) = place()?;
    let corrupt = |e: &Error| matches!(e, Error::Corrupt { .. });
    let whole = stored(3, &json!({ "count": 1, "theme": "dark" }));
    for cut in 0..whole.len() {
        refused(&path, &whole.as_bytes()[..cut], corrupt).await?;
    }
    refused(&path, whole.replace("\"theme\"", "\"count\":2,\"theme\"").as_bytes(), corrupt).await?;
    refused(&path, whole.replace("\"kind\":\"preferences\",", "").as_bytes(), corrupt).await?;
    refused(&path, &[&whole.as_bytes()[..20], &[0xff], &whole.as_bytes()[20..]].concat(), corrupt).await?;
    refused(&path, format!("{}{}", "[".repeat(1000), "]".repeat(1000)).as_bytes(), corrupt).await?;
    refused(&path, &vec![b' '; (8 << 20) + 1], corrupt).await?;
    Ok(())
}

#[tokio::test]
async fn an_edit_by_hand_that_is_not_valid_is_refused() -> TestResult {
    let (_dir, path) = place()?;
    let invalid = stored(3, &json!({ "count": 1, "theme": "invisible" }));
    let is_right = |e: &Error| matches!(e, Error::StateFile { .. }) && e.to_string().contains("theme must be one");
    refused(&path, invalid.as_bytes(), is_right).await
}

#[tokio::test]
async fn an_update_that_fails_in_whatever_way_leaves_the_file_and_the_lock_free() -> TestResult {
    let (_dir, path) = place()?;
    let file = file(&path);
    file.update(|p| p.count = 1).await?;
    let before = look(&path)?;
    let error = file.update(|p| p.theme = "invisible".into()).await.expect_err("not valid");
    assert!(matches!(error, Error::Rejected { .. }) && error.to_string().contains("theme must"), "{error}");
    let error = file
        .try_update(|p| {
            p.count = 9;
            Err::<(), _>("no".into())
        })
        .await
        .expect_err("refused");
    assert_eq!(error.to_string(), "no");
    let error = file.update(|_| panic!("a bug")).await.expect_err("a panic");
    assert!(matches!(error, Error::Panicked { .. }), "{error:?}");
    assert!(error.to_string().contains("panicked: a bug; nothing was changed"), "{error}");
    let error = file.update(|p| p.theme = "x".repeat(3 << 20)).await.expect_err("too large");
    assert!(matches!(error, Error::TooLarge { what: "state file", .. }), "{error}");
    assert_eq!(look(&path)?, before);
    assert_eq!(
        file.update(|p| {
            p.count += 1;
            p.count
        })
        .await?,
        2
    );
    Ok(())
}

#[tokio::test]
async fn what_json_cannot_hold_is_named_and_not_written() -> TestResult {
    #[derive(Default, Serialize, Deserialize)]
    struct Ratio {
        value: f64,
    }
    impl FileState for Ratio {
        const KIND: &'static str = "ratio";
    }
    let (_dir, path) = place()?;
    let error = StateFile::<Ratio>::at(&path).update(|r| r.value = f64::NAN).await.expect_err("NaN");
    assert!(matches!(&error, Error::Unserializable { field, .. } if field == "state.value"), "{error:?}");
    assert!(!path.exists());
    Ok(())
}

#[tokio::test]
async fn a_link_stays_and_what_it_points_at_is_replaced() -> TestResult {
    let (dir, path) = place()?;
    let real = dir.path().join("dotfiles/real.json");
    std::fs::create_dir(dir.path().join("dotfiles"))?;
    symlink("hop", &path)?;
    symlink("dotfiles/real.json", dir.path().join("hop"))?;
    // There is nothing at its end yet.
    assert_eq!(file(&path).load().await?.count, 0);
    for count in 1..=2 {
        file(&path).update(|p| p.count += 1).await?;
        assert!(std::fs::symlink_metadata(&path)?.is_symlink() && std::fs::symlink_metadata(&real)?.is_file());
        assert_eq!(file(&real).load().await?.count, count);
    }
    // Both ways lead to one lock.
    assert!(dir.path().join("dotfiles/.real.json.lock").exists());
    assert!(!dir.path().join(".preferences.json.lock").exists());
    Ok(())
}

#[tokio::test]
async fn a_path_that_can_be_no_file_is_refused() -> TestResult {
    let (dir, path) = place()?;
    symlink("preferences.json", &path)?;
    let error = file(&path).load().await.expect_err("a loop");
    assert!(matches!(error, Error::InvalidInput { .. }), "{error}");
    let long = dir.path().join("x".repeat(250));
    for wrong in [dir.path(), Path::new("/dev/null"), Path::new("/"), long.as_path()] {
        for error in [file(wrong).load().await.err(), file(wrong).update(|_| ()).await.err()] {
            assert!(matches!(error, Some(Error::InvalidInput { .. })), "{}: {error:?}", wrong.display());
        }
    }
    Ok(())
}

/// Takes the lock as another program would.
fn lock(path: &Path) -> TestResult<std::fs::File> {
    let lock = std::fs::File::options().create(true).truncate(false).write(true).open(path)?;
    lock.lock()?;
    Ok(lock)
}

#[tokio::test]
async fn waiting_for_a_turn_has_an_end() -> TestResult {
    let (dir, path) = place()?;
    let held = lock(&dir.path().join(".preferences.json.lock"))?;
    let hasty = file(&path).wait_at_most(Duration::from_millis(50));
    let error = hasty.update(|p| p.count += 1).await.expect_err("locked");
    assert!(matches!(&error, Error::Busy { path: named, .. } if *named == path), "{error:?}");
    assert!(!path.exists());
    // Who only reads does not wait.
    assert_eq!(file(&path).load().await?.count, 0);
    drop(held);
    hasty.update(|p| p.count += 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_future_that_is_dropped_while_it_waits_changes_nothing() -> TestResult {
    let (dir, path) = place()?;
    let held = lock(&dir.path().join(".preferences.json.lock"))?;
    let patient = file(&path);
    let waiting = tokio::time::timeout(Duration::from_millis(50), patient.update(|p| p.count += 1)).await;
    assert!(waiting.is_err(), "it did not wait");
    drop(held);
    assert_eq!(
        patient
            .update(|p| {
                p.count += 1;
                p.count
            })
            .await?,
        1
    );
    Ok(())
}

#[tokio::test]
async fn a_lock_file_that_is_replaced_does_not_make_two_owners() -> TestResult {
    let (dir, path) = place()?;
    let name = dir.path().join(".preferences.json.lock");
    let _old = lock(&name)?;
    std::fs::remove_file(&name)?;
    let _new = lock(&name)?;
    let hasty = file(&path).wait_at_most(Duration::from_millis(20));
    assert!(matches!(hasty.update(|p| p.count += 1).await, Err(Error::Busy { .. })));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_one_process_are_all_counted() -> TestResult {
    let (_dir, path) = place()?;
    let shared = file(&path);
    let tasks = (0..100).map(|n| {
        // Half of them through the same handle, half through one of their own.
        let file = if n % 2 == 0 { shared.clone() } else { file(&path) };
        tokio::spawn(async move { file.update(|p| p.count += 1).await })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    assert_eq!(shared.load().await?.count, 100);
    Ok(())
}

/// A process that adds 1 so many times, and says the sum each time.
fn start_adder(path: &Path, times: u64) -> TestResult<Child> {
    Ok(another_process("add_in_a_process")?
        .env("FIEFDOM_TEST_FILE", path)
        .env("FIEFDOM_TEST_TIMES", times.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?)
}

#[tokio::test]
#[ignore = "another process, which the tests start"]
async fn add_in_a_process() -> TestResult {
    let file = file(Path::new(&std::env::var_os("FIEFDOM_TEST_FILE").ok_or("no file")?))
        .wait_at_most(Duration::from_secs(120));
    for _ in 0..std::env::var("FIEFDOM_TEST_TIMES")?.parse::<u64>()? {
        let count = file
            .update(|p| {
                p.count += 1;
                p.count
            })
            .await?;
        println!("> {count}");
    }
    Ok(())
}

/// The number of processes is `FIEFDOM_TEST_STATE_FILE_PROCESSES`.
#[tokio::test]
async fn a_hundred_processes_that_add_one_each_end_at_a_hundred() -> TestResult {
    let number: u64 = std::env::var("FIEFDOM_TEST_STATE_FILE_PROCESSES").map_or(Ok(100), |n| n.parse())?;
    let (_dir, path) = place()?;
    let processes = (0..number).map(|_| start_adder(&path, 1)).collect::<TestResult<Vec<_>>>()?;
    for process in processes {
        let output = process.wait_with_output()?;
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(file(&path).load().await?.count, number);
    Ok(())
}

/// The number of kills is `FIEFDOM_TEST_STATE_FILE_KILLS`.
#[tokio::test]
async fn a_kill_in_the_middle_tears_nothing_and_loses_nothing_acknowledged() -> TestResult {
    let kills: u64 = std::env::var("FIEFDOM_TEST_STATE_FILE_KILLS").map_or(Ok(20), |n| n.parse())?;
    let (_dir, path) = place()?;
    let (mut acknowledged, mut unfinished) = (0, 0);
    for nth in 0..kills {
        let mut child = start_adder(&path, u64::MAX)?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let mut seen = 0;
        while seen <= nth % 7 {
            let line = lines.next().ok_or("it ended")??;
            if let Some(count) = line.strip_prefix("> ") {
                acknowledged = count.parse()?;
                seen += 1;
            }
        }
        child.kill()?;
        for line in lines {
            // What it said before it died counts; a line without its end does not.
            let line = line?;
            let Some(count) = line.strip_prefix("> ").and_then(|count| count.parse().ok()) else { continue };
            acknowledged = acknowledged.max(count);
        }
        child.wait()?;
        let found = file(&path).load().await?.count;
        assert!(found == acknowledged || found == acknowledged + 1, "{found} after {acknowledged}");
        unfinished += u64::from(path.with_file_name(".preferences.json.tmp").exists());
        // And the next finds no lock in its way.
        acknowledged = file(&path)
            .wait_at_most(Duration::from_secs(5))
            .update(|p| {
                p.count += 1;
                p.count
            })
            .await?;
    }
    shown!("{kills} kills, {acknowledged} updates, {unfinished} times a temporary file was left");
    Ok(())
}
