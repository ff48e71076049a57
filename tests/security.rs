//! Nothing outside of the root is read, written or deleted, whatever is planted in it, and what a
//! job is told in confidence stays where it must be.
#![allow(missing_docs)]

mod common;

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

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
