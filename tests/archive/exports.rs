//! What an export takes, when, and how it comes back.

use std::io::Cursor;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use fiefdom::{Error, ImportOptions, NewInstance, Status, Store, SubDir, Untyped, View};

use crate::archives::entries;
use crate::common::{Counter, TestResult, id, options};
use crate::count;
use crate::worker::Worker;

#[tokio::test]
async fn an_instance_comes_back_from_its_archive_as_it_was() -> TestResult {
    let (from, to) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let store = Store::open(from.path(), Counter).await?;
    let session = store.create(NewInstance::with_id(id("a")).name("größe").tag("k", "v")).await?;
    session.commit(count).await?;
    session.commit(count).await?;
    let workspace = session.dir(SubDir::Workspace).await?;
    let long = "long-".repeat(40);
    std::fs::create_dir_all(workspace.join(&long).join("deep"))?;
    std::fs::write(workspace.join(&long).join("deep/script"), "#!/bin/sh\n")?;
    std::fs::set_permissions(workspace.join(&long).join("deep/script"), std::fs::Permissions::from_mode(0o755))?;
    std::fs::set_permissions(workspace.join(&long), std::fs::Permissions::from_mode(0o2750))?;
    symlink(format!("{long}/deep"), workspace.join("link"))?;
    symlink("../instance.json", workspace.join("up"))?;
    let sparse = std::fs::File::create(workspace.join("sparse"))?;
    sparse.set_len(8 << 20)?;
    session.put_artifact("result.txt", "done").await?;
    let before = session.record().await?;
    let (bytes, exported) = store.export(&id("a"), Vec::new()).await?;
    assert_eq!((exported.revision, exported.last_event_seq, exported.left_out_total), (2, 2, 0));
    assert_eq!(entries(&bytes)?[0].name(), "export.json");
    store.shutdown().await?;

    let other = Store::open(to.path(), Counter).await?;
    let imported = other.import(Cursor::new(bytes), ImportOptions::with_id(id("b"))).await?;
    let instance = other.get(&id("b")).await?;
    let record = instance.record().await?;
    assert_eq!((&record.name, &record.tags, &record.state), (&before.name, &before.tags, &before.state));
    assert_eq!((record.created_at, record.status, &*record.kind), (before.created_at, Status::Pending, "counter"));
    assert_ne!(record.uid, before.uid);
    assert_eq!((record.revision, record.last_event_seq), (before.revision + 1, before.last_event_seq + 1));
    assert!(record.epoch > before.epoch);
    let origin = record.origin().ok_or("no origin")?;
    assert_eq!((&origin.instance_id, origin.uid, origin.revision), (&id("a"), before.uid, before.revision));
    assert_eq!(imported.origin, origin);
    let events = other.view().events(&id("b"), 1)?;
    assert!(events.iter().map(|event| event.kind.as_str()).eq(["counted", "counted", "instance.imported"]));

    let workspace = to.path().join("instances/b/workspace");
    let script = workspace.join("link/script");
    assert_eq!(std::fs::read_to_string(&script)?, "#!/bin/sh\n");
    assert_eq!(std::fs::metadata(&script)?.mode() & 0o7777, 0o755);
    assert_eq!(std::fs::metadata(workspace.join(&long))?.mode() & 0o7777, 0o750);
    assert_eq!(std::fs::read_link(workspace.join("up"))?, Path::new("../instance.json"));
    let sparse = std::fs::metadata(workspace.join("sparse"))?;
    assert!(sparse.len() == 8 << 20 && sparse.blocks() < 64, "{} blocks", sparse.blocks());
    assert_eq!(std::fs::read_to_string(to.path().join("instances/b/output/result.txt"))?, "done");

    // It is an instance like any other, also after the process is another.
    assert_eq!(instance.commit(count).await?.revision, record.revision + 1);
    other.shutdown().await?;
    let again = Store::open(to.path(), Counter).await?;
    let record = again.get(&id("b")).await?.record().await?;
    assert_eq!((record.state.value, record.origin()), (3, Some(origin)));
    assert_eq!(std::fs::read_dir(to.path().join(".fiefdom/imports"))?.count(), 0);
    again.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn what_was_at_work_is_interrupted_where_nobody_works_on_it() -> TestResult {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Counter).await?;
    let session = store.create(NewInstance::with_id(id("a"))).await?;
    session.transition(Status::Running, None).await?;
    let (bytes, _) = store.export(&id("a"), Vec::new()).await?;
    store.import(Cursor::new(bytes), ImportOptions::with_id(id("b"))).await?;
    assert_eq!(store.get(&id("b")).await?.record().await?.status, Status::Interrupted);
    assert_eq!(session.record().await?.status, Status::Running);
    store.shutdown().await?;
    Ok(())
}

/// Imports an archive of a counter and says how far it had counted. State and events agree.
async fn counted(into: &Store<Counter>, bytes: Vec<u8>, name: &str) -> TestResult<u64> {
    let imported = into.import(Cursor::new(bytes), ImportOptions::with_id(id(name))).await?;
    let record = into.get(&id(name)).await?.record().await?;
    let (mut values, mut from) = (Vec::new(), 1);
    loop {
        let events = into.view().events(&id(name), from)?;
        let Some(last) = events.last() else { break };
        from = last.seq + 1;
        values.extend(events.iter().filter(|e| e.kind == "counted").map(|e| e.data.get().to_owned()));
    }
    assert_eq!(values.len() as u64, record.state.value, "{name}: state and events are of two moments");
    assert_eq!(imported.origin.revision, record.state.value, "{name}");
    Ok(record.state.value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_in_the_middle_of_commits_is_one_of_them_and_not_older_than_the_call() -> TestResult {
    let (temp, to) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let store = Store::open_with(temp.path(), Counter, options(|o| o.event_segment_bytes = 16 << 10)).await?;
    let instance = store.create(NewInstance::with_id(id("a"))).await?.instance().clone();
    let writer = tokio::spawn({
        let instance = instance.clone();
        async move {
            loop {
                futures::future::try_join_all((0..4).map(|_| instance.commit(count))).await?;
            }
            #[allow(unreachable_code)]
            Ok::<(), Error>(())
        }
    });
    let other = Store::open(to.path(), Counter).await?;
    let mut last = 0;
    for nth in 0..8 {
        let known = instance.state().await?.value;
        let (bytes, _) = store.export(&id("a"), Vec::new()).await?;
        let value = counted(&other, bytes, &format!("b{nth}")).await?;
        assert!(value >= known && value >= last, "{value} after {known}");
        last = value;
    }
    assert!(last > 0 && !writer.is_finished());
    writer.abort();
    other.shutdown().await?;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn an_export_from_beside_the_owner_is_one_commit() -> TestResult {
    let (temp, to) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut owner = Worker::start()?;
    owner.open(temp.path(), "within_ms=1")?;
    owner.must("create a")?;
    owner.tell("count-many a 400")?;
    let view = View::open(temp.path())?;
    let other = Store::open(to.path(), Counter).await?;
    let mut seen = std::collections::BTreeSet::new();
    for nth in 0.. {
        match view.export(&id("a"), Vec::new()) {
            // The name of a new instance comes before its record.
            Err(Error::NotFound { .. }) => {}
            other_outcome => {
                let value = counted(&other, other_outcome?.0, &format!("b{nth}")).await?;
                seen.insert(value);
                if value == 400 || nth > 2000 {
                    break;
                }
            }
        }
    }
    assert_eq!(seen.last(), Some(&400));
    assert!(seen.len() > 1, "every export saw the same: {seen:?}");
    assert_eq!(owner.answer()?, "ok 400");
    other.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn what_could_lead_out_of_the_instance_is_left_out_and_named() -> TestResult {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Untyped).await?;
    let session = store.create(NewInstance::with_id(id("a"))).await?;
    let workspace = session.dir(SubDir::Workspace).await?;
    symlink("/etc/passwd", workspace.join("absolute"))?;
    symlink("../../../..", workspace.join("climbs"))?;
    symlink("there/../../..", workspace.join("climbs-late"))?;
    assert!(Command::new("mkfifo").arg(workspace.join("pipe")).status()?.success());
    std::fs::write(workspace.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff")), "")?;
    std::fs::write(workspace.join("kept"), "text")?;
    let (bytes, exported) = store.export(&id("a"), Vec::new()).await?;
    let mut left: Vec<&str> = exported.left_out.iter().map(|left| left.path.as_str()).collect();
    left.sort_unstable();
    let wanted = ["absolute", "climbs", "climbs-late", "pipe", "\u{fffd}"].map(|name| format!("workspace/{name}"));
    assert_eq!(left, wanted);
    store.import(Cursor::new(bytes), ImportOptions::with_id(id("b"))).await?;
    let names = std::fs::read_dir(temp.path().join("instances/b/workspace"))?.count();
    assert_eq!(names, 1, "its own import takes the rest");
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn an_export_that_is_stopped_leaves_the_old_file_and_no_other() -> TestResult {
    let (temp, out) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let store = Store::open(temp.path(), Untyped).await?;
    let session = store.create(NewInstance::with_id(id("a"))).await?;
    std::fs::write(session.dir(SubDir::Workspace).await?.join("large"), vec![7; 1 << 20])?;
    store.flush().await?;
    let path = out.path().join("a.tar.gz");
    std::fs::write(&path, "old")?;
    let stopped = store.view().export_file(&id("a"), &path, |_| false);
    assert!(stopped.is_err());
    assert_eq!(std::fs::read_to_string(&path)?, "old");
    let missing = store.export_file(&id("nothing"), &path).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    assert_eq!(std::fs::read_dir(out.path())?.count(), 1);
    store.export_file(&id("a"), &path).await?;
    assert_eq!(std::fs::metadata(&path)?.mode() & 0o7777, 0o600);
    store.import(std::fs::File::open(&path)?, ImportOptions::with_id(id("b"))).await?;
    assert_eq!(std::fs::read_dir(out.path())?.count(), 1);
    store.shutdown().await?;
    Ok(())
}
