//! A root in which there is everything that the library writes, as a process leaves it that is killed.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use chrono::DateTime;
use fiefdom::{Checkpoint, Error, ImportOptions, NewInstance, Options, Status, Store, Untyped};
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::common::{PATIENCE, TestResult, id, options};

/// What a program of a later version may have added, wherever it is promised to be kept.
pub(crate) const LATER: &str = r#"{"big":123456789012345678901234567890,"f":0.1}"#;

/// Nothing is written behind the back of the workout.
fn slow(change: impl FnOnce(&mut Options)) -> Options {
    options(|o| {
        o.event_segment_bytes = 300;
        o.log_segment_age = Duration::from_secs(3600);
        o.materialise_within = Duration::from_secs(3600);
        change(o);
    })
}

/// `fiefdom`, on this root.
pub(crate) fn tool(root: &Path, args: &[&str]) -> TestResult<std::process::Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_fiefdom")).arg("--json").arg("--root").arg(root).args(args).output()?)
}

fn add_later(path: &Path) -> TestResult {
    let text = std::fs::read_to_string(path)?;
    std::fs::write(path, text.replacen('{', &format!("{{\n  \"later\": {LATER},"), 1))?;
    Ok(())
}

/// Makes such a root in `to`, which does not exist yet.
pub(crate) async fn make(to: &Path) -> TestResult {
    let temp = tempfile::tempdir()?;
    let root = temp.path().join("root");
    let jobs = temp.path().join("jobs");
    std::fs::write(
        &jobs,
        "{\"id\":\"good\",\"cmd\":\"echo done\",\"env\":{\"A\":\"1\"},\"tags\":{\"k\":\"v\"}}\n{\"id\":\"bad\",\"cmd\":\"exit 3\"}\n",
    )?;
    let ran = tool(&root, &["run", "--batch", "nightly", jobs.to_str().ok_or("not UTF-8")?])?;
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");

    let store = Store::open_with(root.as_path(), Untyped, slow(|_| ())).await?;
    let new = |name: &str| NewInstance::with_id(id(name)).kind("note").input(json!({ "n": 1 }));
    let plain = store.create(new("plain").name("größe").tag("k", "v").pinned()).await?;
    for n in 0..10 {
        plain.append("note.written", json!({ "n": n })).await?;
    }
    plain.put_artifact("report.md", "done\n").await?;
    plain.dir(fiefdom::SubDir::SidecarData).await?;
    plain.transition(Status::Running, None).await?;
    plain
        .commit(|tx| {
            tx.begin_attempt();
            tx.set_status(Status::Failed, Some("for a reason"))?;
            tx.event("note.failed", &())
        })
        .await?;
    let asked = store.create(new("asked")).await?;
    asked.checkpoint(Checkpoint::new("fetched").message("half").data(json!(1)).worker("w").tool("t")).await?;
    for key in ["open", "answered"] {
        let asking = asked.request_input_within(key, "How many?", json!({ "type": "integer" }), Duration::ZERO).await;
        assert!(matches!(asking, Err(Error::NotAnswered { .. })), "{asking:?}");
    }
    asked.answer("answered", json!(7)).await?;
    asked.set_alarm(DateTime::from_timestamp(4_102_444_800, 0).ok_or("a time")?, "later").await?;
    let (archive, _) = store.export(&id("asked"), Vec::new()).await?;
    store.import(Cursor::new(archive), ImportOptions::with_id(id("copied"))).await?;
    for name in ["half", "gone", "broken"] {
        store.create(new(name)).await?;
    }
    store.shutdown().await?;
    for name in ["plain", "half"] {
        add_later(&root.join("instances").join(name).join("instance.json"))?;
    }
    add_later(&root.join(".fiefdom/format.json"))?;
    let first = root.join("instances/plain/events/events-000000000001.jsonl");
    let lines = std::fs::read_to_string(&first)?;
    std::fs::write(&first, lines.replace("{\"seq\":2,", &format!("{{\"later\":{LATER},\"seq\":2,")))?;
    std::fs::write(root.join("instances/broken/instance.json"), "{ \"format\": 1, half of a rec")?;

    let store = Store::open_with(root.as_path(), Untyped, slow(|_| ())).await?;
    let other = Store::open_with(root.as_path(), Untyped, slow(|o| o.idle_after = Duration::from_millis(10))).await?;
    assert!(matches!(store.get(&id("broken")).await, Err(Error::Corrupt { .. })));
    // One store deletes it while the log of the other may hold commits of it.
    other.get(&id("gone")).await?.update(|state| state["n"] = json!(2)).await?;
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = store.delete(&id("gone")).await {
        assert!(matches!(error, Error::Locked { .. }) && Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let half = store.get(&id("half")).await?;
    half.update(|state| state["n"] = json!(2)).await?;
    store.flush().await?;
    // From here on the commit log alone has it.
    half.transition(Status::Running, None).await?;
    let done = |n: u64| {
        half.commit(move |tx| {
            tx.state_mut()["n"] = json!(n);
            tx.event("half.done", &json!({ "n": n }))
        })
    };
    done(3).await?;
    // These wait for the actor at the same time: they share a line.
    futures::try_join!(done(4), done(5))?;
    copy(&root, to)?;
    store.shutdown().await?;
    other.shutdown().await?;
    Ok(())
}

/// Every event of an instance.
pub(crate) async fn events(store: &Store<Untyped>, name: &str, number: usize) -> TestResult<Vec<Value>> {
    let mut found = Vec::new();
    let mut events = store.get(&id(name)).await?.events(1).take(number);
    while let Some(event) = events.next().await {
        let event = event?;
        found.push(json!([event.seq, event.kind, event.data_as::<Value>()?]));
    }
    Ok(found)
}

pub(crate) fn copy(from: &Path, to: &Path) -> TestResult {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        let to = to.join(path.file_name().ok_or("a name")?);
        // The socket of a living process is nothing that is kept.
        if path.is_dir() {
            copy(&path, &to)?;
        } else if path.is_file() {
            std::fs::copy(&path, &to)?;
        }
    }
    Ok(())
}

/// Every file below a directory, with the path from there.
pub(crate) fn files(dir: &Path) -> TestResult<Vec<PathBuf>> {
    let (mut found, mut waiting) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.is_file() {
                found.push(path.strip_prefix(dir)?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}
