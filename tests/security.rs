//! Nothing outside of the root is read, written or deleted, whatever is planted in it, and what a
//! job is told in confidence stays where it must be.
#![allow(missing_docs)]

#[path = "common/cli.rs"]
mod cli;
mod common;
#[path = "common/strace.rs"]
mod strace;

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use cli::{FIEFDOM, Fief, Started, until};
use common::{Counter, TestResult, id};
use fiefdom::{Error, InstanceId, NewInstance, Store, SubDir, Untyped, View};

const SECRET: &str = "canary-bytes-that-nobody-may-touch";

/// A file and a directory outside of the root, and what they were.
struct Canary {
    room: tempfile::TempDir,
    before: Vec<(PathBuf, u32, Vec<u8>)>,
}

impl Canary {
    fn new() -> TestResult<Self> {
        let room = tempfile::tempdir()?;
        std::fs::create_dir(room.path().join("dir"))?;
        for name in ["file", "dir/instance.json", "dir/events.jsonl", "dir/stdout.log", "dir/x"] {
            std::fs::write(room.path().join(name), SECRET)?;
            std::fs::set_permissions(room.path().join(name), std::fs::Permissions::from_mode(0o640))?;
        }
        let before = everything(room.path())?;
        Ok(Self { room, before })
    }

    fn file(&self) -> PathBuf {
        self.room.path().join("file")
    }

    fn dir(&self) -> PathBuf {
        self.room.path().join("dir")
    }

    fn check(&self, what: &str) -> TestResult {
        assert_eq!(everything(self.room.path())?, self.before, "{what}: something outside of the root was touched");
        Ok(())
    }
}

/// Every path below a directory with its mode and bytes, links not followed.
fn everything(dir: &Path) -> TestResult<Vec<(PathBuf, u32, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = std::fs::symlink_metadata(&path)?;
        let bytes = if meta.is_file() { std::fs::read(&path)? } else { Vec::new() };
        found.push((path.clone(), meta.permissions().mode(), bytes));
        if meta.is_dir() {
            found.extend(everything(&path)?);
        }
    }
    found.sort();
    Ok(found)
}

/// A root with one instance at rest.
async fn root_at_rest() -> TestResult<tempfile::TempDir> {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    it.append("counted", 1).await?;
    for which in [SubDir::Workspace, SubDir::Logs, SubDir::Output] {
        it.dir(which).await?;
    }
    store.shutdown().await?;
    Ok(root)
}

/// Uses everything that a planted link could lead astray. What it says does not matter here.
async fn use_it(root: &Path) {
    if let Ok(view) = View::open(root) {
        assert!(!format!("{:?}", view.record(&id("a"))).contains(SECRET), "a file outside was read");
        assert!(!format!("{:?}", view.events(&id("a"), 1)).contains(SECRET), "a file outside was read");
        let _ = view.recover();
    }
    let Ok(store) = Store::open(root, Untyped).await else { return };
    if let Ok(it) = store.get(&id("a")).await {
        let _ = it.update(|s| s["value"] = 2.into()).await;
        let _ = it.append("counted", 2).await;
        let _ = it.put_artifact("x", "written").await;
        let _ = it.put_artifact("link", "written").await;
        for which in [SubDir::Workspace, SubDir::Logs, SubDir::Output, SubDir::SidecarData] {
            let _ = it.dir(which).await;
        }
    }
    let _ = store.create(NewInstance::with_id(id("a"))).await;
    let _ = store.flush().await;
    let _ = store.delete(&id("a")).await;
    let _ = store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_links_lead_nowhere() -> TestResult {
    let files = [
        "instances/a/instance.json",
        "instances/a/.instance.json.tmp",
        "instances/a/events/events.jsonl",
        "instances/a/events/state.json",
        "instances/a/events/.state.json.tmp",
        "instances/a/output/link",
        "instances/a/output/.x.tmp",
        "instances/a/workspace/link",
        "instances/a/logs/stdout.log",
        ".fiefdom/format.json",
        ".fiefdom/.format.json.tmp",
        ".fiefdom/recovery.lock",
    ];
    let dirs = [
        "instances/a",
        "instances/a/events",
        "instances/a/output",
        "instances/a/workspace",
        "instances/a/workspace/link",
        "instances/a/logs",
        ".fiefdom/writers",
        ".fiefdom/trash",
        ".fiefdom/trash/link",
        ".fiefdom/quarantine",
        ".fiefdom/writers/new-11111111-2222-4333-8444-555555555555",
        ".fiefdom/writers/11111111-2222-4333-8444-555555555555",
    ];
    let planted = files.map(|at| (at, false)).into_iter().chain(dirs.map(|at| (at, true)));
    let mut count = 0;
    for (at, is_dir) in planted {
        let (root, canary) = (root_at_rest().await?, Canary::new()?);
        let path = root.path().join(at);
        if std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
            std::fs::remove_dir_all(&path)?;
        } else {
            let _ = std::fs::remove_file(&path);
        }
        symlink(if is_dir { canary.dir() } else { canary.file() }, &path)?;
        use_it(root.path()).await;
        canary.check(at)?;
        count += 1;
    }
    common::shown!("{count} planted links, 0 reads, writes or deletions outside of the root");
    Ok(())
}

#[tokio::test]
async fn names_cannot_leave_their_directory() -> TestResult {
    let hostile = ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "a\0b", ".hidden", "a/../../x", "-\n"];
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    let outside = everything(root.path())?.len();
    for name in hostile {
        assert!(InstanceId::new(name).is_err(), "{name:?}");
        let refused = it.put_artifact(name, "x").await;
        assert!(matches!(refused, Err(Error::InvalidInput { .. })), "{name:?}: {refused:?}");
        let line = serde_json::json!({ "id": name, "cmd": "true" }).to_string();
        let check = |id: &str| InstanceId::new(id).map(drop).map_err(|e| e.to_string());
        assert!(fiefdom::jobs::parse_job_file(&line, check).is_err(), "{name:?}");
    }
    assert_eq!(everything(root.path())?.len(), outside, "a refused name left something");
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn everything_is_private() -> TestResult {
    let root = root_at_rest().await?;
    let all = everything(root.path())?;
    assert!(all.len() > 10);
    for (path, mode, _) in all {
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    }
    Ok(())
}

/// Runs the tool with a umask, under strace if `trace` says where to write.
fn with_umask(fief: &Fief, umask: &str, trace: Option<&Path>, args: &[&str]) {
    let mut command = Command::new(if trace.is_some() { "strace" } else { "sh" });
    if let Some(trace) = trace {
        command.args(["-f", "-y", "-s", "200", "-e", "trace=open,openat,creat,mkdir,mkdirat", "-o"]).arg(trace);
        command.arg("sh");
    }
    command.args(["-c", "umask $0; exec \"$@\"", umask, FIEFDOM, "--root"]).arg(&fief.root).args(args);
    let ran = Started::new(command).end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

/// Uses every sort of file that the tool makes.
fn make_everything(fief: &Fief, umask: &str, trace: impl Fn(&str) -> Option<PathBuf>) -> TestResult {
    let jobs = fief.write("jobs", "true\n");
    for (name, args) in [
        ("create", &["create", "a", "--state", r#"{"x":1}"#][..]),
        ("append", &["append", "a", "t", "1"]),
        ("update", &["update", "a", "--merge", r#"{"x":2}"#]),
        ("run", &["run", "--batch", "b", jobs.as_str()]),
    ] {
        with_umask(fief, umask, trace(name).as_deref(), args);
    }
    let all = everything(&fief.root)?;
    for file in ["a/instance.json", "a/events/events.jsonl", "b/workspace/items.jsonl", "b-1/logs/stdout.log"] {
        assert!(all.iter().any(|(path, ..)| path.ends_with(Path::new("instances").join(file))), "no {file}");
    }
    for (path, mode, _) in all {
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode & 0o7777, expected, "umask {umask}: {} has mode {mode:o}", path.display());
    }
    Ok(())
}

#[test]
fn the_umask_makes_nothing_more_public_and_nothing_unusable() -> TestResult {
    for umask in ["000", "077"] {
        make_everything(&Fief::new(), umask, |_| None)?;
    }
    Ok(())
}

#[test]
fn files_are_private_from_the_moment_that_they_are_made() -> TestResult {
    if strace::is_missing()? {
        return Ok(());
    }
    let (fief, traces) = (Fief::new(), tempfile::tempdir()?);
    make_everything(&fief, "000", |name| Some(traces.path().join(name)))?;
    let (mut made, root) = (0, fief.root.display().to_string());
    for (_, _, trace) in everything(traces.path())? {
        // Nothing but the tool's own calls name the root; a mode changed later would be too late.
        for line in String::from_utf8_lossy(&trace).lines().filter(|line| line.contains(&root)) {
            let wanted = match line {
                _ if line.contains("O_CREAT") => ", 0600",
                _ if line.contains("mkdir") => ", 0700",
                _ => continue,
            };
            assert!(line.contains(wanted), "made with another mode than{wanted}: {line}");
            made += 1;
        }
    }
    assert!(made > 20, "only {made} calls were seen");
    println!("shown: {made} files and directories made with umask 0, 0 of them public for a moment");
    Ok(())
}

fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

#[test]
fn json_that_is_nested_too_deep_is_refused_and_changes_nothing() -> TestResult {
    let fief = Fief::new();
    fief.ok(["create", "a", "--state", &nested(120)]);
    fief.ok(["append", "a", "t", &nested(120)]);
    fief.ok(["update", "a", "--merge", &format!(r#"{{"x":{}}}"#, nested(119))]);
    let instances = || everything(&fief.root.join("instances"));
    let before = instances()?;
    // The most of ours, the most of the parser, and enough to overflow a stack.
    for levels in [121, 127, 128, 60_000] {
        let deep = nested(levels);
        for args in [
            ["create", "b", "--state", &deep],
            ["append", "a", "t", &deep],
            ["update", "a", "--merge", &deep],
            ["update", "a", "--merge", &format!(r#"{{"y":{deep}}}"#)],
        ] {
            let ran = fief.run(args);
            assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{levels} levels in {}: {}", args[0], ran.err);
        }
        let line = format!(r#"{{"cmd":"true","env":{deep}}}"#);
        let ran = fief.run_with_input(["run", "--batch", "c", "-"], line);
        ran.failed(2, &["line 1"]);
    }
    // Activations have raised the epoch, perhaps; nothing else may be different.
    let after = instances()?;
    assert_eq!(before.len(), after.len(), "something was made");
    assert_eq!(fief.json(["show", "a"])["revision"], 2);
    assert_eq!(fief.ok(["events", "a"]).lines().count(), 1);
    Ok(())
}

#[tokio::test]
async fn json_that_is_too_large_is_refused_and_changes_nothing() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    let text = |bytes: usize| serde_json::Value::from("x".repeat(bytes));
    let (large, larger) = (text(256 << 10), text(2 << 20));
    let event = it.append("t", large).await;
    assert!(matches!(event, Err(Error::TooLarge { what: "event", .. })), "{event:?}");
    let change = larger.clone();
    let update = it.update(move |state| state["x"] = change).await;
    assert!(matches!(update, Err(Error::TooLarge { what: "record", .. })), "{update:?}");
    let created = store.create(NewInstance::with_id(id("b")).input(larger)).await;
    assert!(matches!(created, Err(Error::TooLarge { what: "record", .. })), "{:?}", created.map(drop));
    assert_eq!(it.record().await?.revision, 0);
    // The most that is allowed is not too much.
    it.append("t", text((256 << 10) - 512)).await?;
    it.update(|state| state["x"] = "x".repeat((2 << 20) - 2048).into()).await?;
    store.shutdown().await?;
    let line = format!(r#"{{"cmd":"{}"}}"#, "x".repeat(128 << 10));
    assert!(fiefdom::jobs::parse_job_file(&line, |_| Ok(())).is_err());
    Ok(())
}

/// Plants something in an instance at rest, and finds that it is damage: kept as it is, while other
/// instances work.
async fn is_damage(what: &str, at: &str, plant: impl Fn(&Path) -> TestResult) -> TestResult {
    let root = root_at_rest().await?;
    let path = root.path().join("instances/a").join(at);
    plant(&path)?;
    // The cache says where the log stands; without it every line is looked at.
    std::fs::remove_file(root.path().join("instances/a/events/state.json"))?;
    let len = path.metadata()?.len();
    let store = Store::open(root.path(), Untyped).await?;
    let got = match store.get(&id("a")).await {
        Ok(it) => it.record().await.map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(got, Err(Error::Corrupt { .. })), "{what}: {got:?}");
    store.create(NewInstance::with_id(id("b"))).await?;
    store.shutdown().await?;
    assert_eq!(path.metadata()?.len(), len, "{what}: the file was changed");
    Ok(())
}

#[tokio::test]
async fn a_record_that_is_nested_too_deep_or_too_large_is_damage() -> TestResult {
    for levels in [128, 1_000_000] {
        let plant = |path: &Path| -> TestResult {
            let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(path)?)?;
            record["state"] = "HERE".into();
            Ok(std::fs::write(path, record.to_string().replace("\"HERE\"", &nested(levels)))?)
        };
        is_damage(&format!("{levels} levels"), "instance.json", plant).await?;
    }
    // Sparse: it takes no room on the disk, and it would fill any memory.
    is_damage("a huge file", "instance.json", |path| Ok(std::fs::File::create(path)?.set_len(1 << 40)?)).await
}

#[tokio::test]
async fn an_event_that_is_nested_too_deep_is_damage() -> TestResult {
    for levels in [128, 1_000_000] {
        let plant = |path: &Path| -> TestResult {
            let data = nested(levels);
            let line = format!(r#"{{"seq":1,"at":"2026-01-01T00:00:00Z","epoch":1,"type":"t","data":{data}}}"#);
            Ok(std::fs::write(path, line + "\n")?)
        };
        is_damage(&format!("{levels} levels"), "events/events.jsonl", plant).await?;
    }
    Ok(())
}

/// The files below the root that hold a secret.
fn tell(fief: &Fief, secret: &str) -> Vec<String> {
    let tree = fief.tree();
    let telling = tree.iter().filter(|(_, bytes)| bytes.windows(secret.len()).any(|at| at == secret.as_bytes()));
    telling.map(|(path, _)| path.strip_prefix(&fief.root).expect("below").display().to_string()).collect()
}

#[test]
fn the_environment_of_a_job_is_told_to_nobody() -> TestResult {
    let fief = Fief::new();
    let job = |id: &str, cmd: &str| serde_json::json!({ "id": id, "cmd": cmd, "env": { "TOKEN": SECRET } }).to_string();
    let check = format!("test \"$TOKEN\" = {}", SECRET.replace('-', "\"-\""));
    let jobs = [job("good", &check), job("bad", "exit 1"), job("long", "echo on; exec sleep 1000")].join("\n");
    let jobs = fief.write("jobs", jobs);
    let mut started = Started::new(fief.command(["--json", "run", "--batch", "b", "-j", "3", "--retries", "1", &jobs]));
    until("all three jobs to have got there", || {
        let status = |id: &str| fief.instance(id).join("instance.json").exists().then(|| fief.status(id));
        let printed = std::fs::read(fief.instance("long").join("logs/stdout.log")).unwrap_or_default();
        let there = status("good")? == "succeeded" && status("bad")? == "failed" && !printed.is_empty();
        there.then_some(())
    });
    // The log of a process that was killed has all that its commits had.
    started.child.kill()?;
    let ran = started.end();
    assert!(!ran.out.contains(SECRET) && !ran.err.contains(SECRET), "{ran:?}");
    let items = "instances/b/workspace/items.jsonl";
    assert_eq!(tell(&fief, SECRET), [items], "after the kill");
    let mode = fief.root.join(items).metadata()?.permissions().mode();
    assert_eq!(mode & 0o7777, 0o600, "{mode:o}");
    for args in [&["ls"][..], &["show", "long"], &["events", "long"], &["--json", "show", "b"], &["doctor"]] {
        let ran = fief.run(args);
        assert!(!ran.out.contains(SECRET) && !ran.err.contains(SECRET), "{ran:?}");
    }
    assert_eq!(tell(&fief, SECRET), [items], "after the recovery");
    Ok(())
}

fn make_pipe(path: &Path) -> TestResult {
    let _ = std::fs::remove_file(path);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0)?;
    Ok(())
}

#[test]
fn a_pipe_in_the_place_of_a_file_blocks_nobody() -> TestResult {
    let places = ["instance.json", "events/events.jsonl", "events/state.json", "logs/stdout.log", "logs/stderr.log"];
    let mut count = 0;
    for place in places {
        let fief = Fief::new();
        let jobs = fief.write("jobs", "{\"id\":\"a\",\"cmd\":\"exit 1\"}\n");
        assert_eq!(fief.run(["run", "--batch", "b", &jobs]).code, Some(1));
        make_pipe(&fief.instance("a").join(place))?;
        // Each ends, whatever it says: `run` gives up after twenty seconds.
        for args in [
            &["ls"][..],
            &["show", "a"],
            &["events", "a"],
            &["logs", "a"],
            &["doctor"],
            &["resume", "b"],
            &["append", "a", "t", "1"],
            &["rm", "a"],
        ] {
            let ran = fief.run(args);
            assert!(
                ran.code.is_some_and(|code| code <= 5) && !ran.err.contains("panicked"),
                "{place}: {args:?} {ran:?}"
            );
            count += 1;
        }
        assert_eq!(fief.run(["create", "other"]).code, Some(0), "{place}");
    }
    println!("shown: {count} commands on instances with a pipe in the place of a file, 0 hung");
    Ok(())
}

#[test]
fn a_job_that_puts_a_pipe_in_the_place_of_its_log_hangs_nobody() {
    let fief = Fief::new();
    let jobs = fief.write("jobs", "rm ../logs/stderr.log; mkfifo ../logs/stderr.log; exit 1\n");
    let ran = fief.run(["run", "--batch", "b", &jobs]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(fief.status("b-1"), "failed");
}

#[test]
fn a_log_that_is_a_link_is_not_read() -> TestResult {
    let (fief, canary) = (Fief::new(), Canary::new()?);
    let link = |name: &str| format!("ln -sf '{}' ../logs/{name}", canary.file().display());
    let jobs = fief.write("jobs", format!("{}; {}; exit 1\n", link("stderr.log"), link("stdout.log")));
    let ran = fief.run(["run", "--batch", "b", &jobs]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(!ran.out.contains(SECRET), "the last line of a file outside is in the report: {ran:?}");
    assert!(tell(&fief, SECRET).iter().all(|path| path.contains("logs/std")), "{:?}", tell(&fief, SECRET));
    let ran = fief.run(["logs", "b-1"]);
    assert!(!ran.out.contains(SECRET) && ran.code != Some(0), "a file outside was printed: {ran:?}");
    // The same when the whole directory leads away.
    std::fs::remove_dir_all(fief.instance("b-1").join("logs"))?;
    symlink(canary.dir(), fief.instance("b-1").join("logs"))?;
    let ran = fief.run(["logs", "b-1"]);
    assert!(!ran.out.contains(SECRET) && ran.code != Some(0), "a file outside was printed: {ran:?}");
    canary.check("links in place of logs")
}
