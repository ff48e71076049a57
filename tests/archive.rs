//! Export and import: an archive is one moment of an instance, comes back as an instance, and what
//! is not an archive of ours leaves nothing behind.
#![allow(missing_docs)]

#[path = "common/archives.rs"]
mod archives;
mod common;
#[path = "common/strace.rs"]
mod strace;
#[path = "common/worker.rs"]
mod worker;

use std::io::{Cursor, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use archives::{Raw, blocks, entries, gzip, pack};
use common::{Counter, TestResult, eventually, id, options, shown};
use fiefdom::{Error, Filter, ImportOptions, NewInstance, Status, Store, SubDir, Transaction, Untyped, View};
use strace::Strace;
use tar::EntryType;
use worker::Worker;

/// Kills in the middle of an import; a longer campaign sets `FIEFDOM_TEST_IMPORT_KILLS`.
const IMPORT_KILLS: usize = 24;

#[test]
#[ignore = "started by another test"]
fn be_a_worker() -> TestResult {
    worker::work()
}

fn count(tx: &mut Transaction<common::Count>) -> fiefdom::Result<u64> {
    tx.state_mut().value += 1;
    let value = tx.state().value;
    tx.event("counted", &value)?;
    Ok(value)
}

/// An archive of an instance `a` with two commits and some files.
async fn sample() -> TestResult<Vec<u8>> {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Counter).await?;
    let session = store.create(NewInstance::with_id(id("a")).name("größe").tag("k", "v")).await?;
    session.commit(count).await?;
    session.commit(count).await?;
    let workspace = session.dir(SubDir::Workspace).await?;
    std::fs::create_dir(workspace.join("sub"))?;
    std::fs::write(workspace.join("sub/file"), "text")?;
    let (bytes, _) = store.export(&id("a"), Vec::new()).await?;
    store.shutdown().await?;
    Ok(bytes)
}

/// What is below a root, but for the log and lock files of those who have it open.
fn picture(root: &Path) -> TestResult<Vec<String>> {
    let listed =
        Command::new("find").arg(".").args(["-not", "-path", "./.fiefdom/writers/*"]).current_dir(root).output()?;
    let mut lines: Vec<String> = String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect();
    lines.retain(|line| line != "./.fiefdom/imports");
    lines.sort();
    Ok(lines)
}

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
    assert_eq!(
        (record.created_at, record.status, record.kind.as_str()),
        (before.created_at, Status::Pending, "counter")
    );
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

/// Imports what must be refused, for this reason, and sees that nothing is left.
async fn refused(store: &Store<Untyped>, root: &Path, name: &str, bytes: Vec<u8>, reason: &str) -> TestResult {
    let before = picture(root)?;
    match store.import(Cursor::new(bytes), ImportOptions::default()).await {
        Err(Error::InvalidInput { reason: said, .. }) => {
            assert!(said.contains(reason), "{name}: {said}");
            assert!(said.contains("nothing was imported"), "{name}: {said}");
        }
        other => panic!("{name}: {other:?}"),
    }
    assert_eq!(picture(root)?, before, "{name} left something behind");
    Ok(())
}

/// What somebody may add to an archive, and what is said of it.
fn hostile() -> Vec<(&'static str, Vec<Raw>, &'static str)> {
    use EntryType::{Block, Char, Directory, Fifo, GNUSparse, Link, Regular, Symlink};
    let file = |name: &str| vec![Raw::new(name, Regular, b"x")];
    let long = |sort, name: &[u8]| Raw::named(b"././@LongLink", sort, &[name, b"\0"].concat());
    let pax = |text: &[u8]| Raw::named(b"pax", EntryType::XHeader, text);
    let after = |first: Raw| vec![first, Raw::new("instance/short", Regular, b"x")];
    let mut with_content = Raw::link("instance/l", Symlink, "x");
    with_content.data = vec![1; 512];
    with_content.header.set_size(512);
    let mut huge = Raw::new("instance/huge", Regular, b"");
    huge.header.set_size(1 << 60);
    let deep: String = "instance".to_owned() + &"/d".repeat(70);
    vec![
        ("an absolute path", file("/instance/x"), "is not below instance/"),
        ("a path that climbs", file("instance/../../x"), "is not a plain path"),
        ("a path with a dot", file("instance/./x"), "is not a plain path"),
        ("a path with an empty name", file("instance//x"), "is not a plain path"),
        ("a path beside the tree", file("elsewhere"), "is not below instance/"),
        ("another manifest", file("export.json"), "is not below instance/"),
        ("the tree as a file", file("instance"), "has to be a directory"),
        ("the tree as a link", vec![Raw::link("instance", Symlink, "x")], "has to be a directory"),
        ("a directory that is not there", file("instance/none/x"), "is in a directory that is not in it before"),
        ("an absolute link", vec![Raw::link("instance/l", Symlink, "/etc")], "may lead out"),
        ("a link that climbs", vec![Raw::link("instance/l", Symlink, "../x")], "may lead out"),
        ("a link that climbs late", vec![Raw::link("instance/workspace/l", Symlink, "a/../../x")], "may lead out"),
        ("an empty link", vec![Raw::link("instance/l", Symlink, "")], "may lead out"),
        (
            "a file through a link",
            vec![Raw::link("instance/l", Symlink, "workspace"), Raw::new("instance/l/x", Regular, b"x")],
            "is in a directory that is not in it before",
        ),
        (
            "a file in the place of a link",
            vec![Raw::link("instance/l", Symlink, "workspace/sub/file"), Raw::new("instance/l", Regular, b"x")],
            "twice",
        ),
        ("a hard link inside", vec![Raw::link("instance/l", Link, "instance/instance.json")], "is a hard link"),
        ("a hard link outside", vec![Raw::link("instance/l", Link, "/etc/passwd")], "is a hard link"),
        ("a device", vec![Raw::new("instance/d", Char, b"")], "is a device"),
        ("a disk", vec![Raw::new("instance/d", Block, b"")], "is a device"),
        ("a pipe", vec![Raw::new("instance/p", Fifo, b"")], "is a pipe"),
        ("a sparse file", vec![Raw::new("instance/s", GNUSparse, b"")], "is neither"),
        ("a set-user-id file", vec![Raw::new("instance/s", Regular, b"x").mode(0o4755)], "set-user-id"),
        ("a set-group-id file", vec![Raw::new("instance/s", Regular, b"x").mode(0o2755)], "set-user-id"),
        ("a sticky directory", vec![Raw::new("instance/s/", Directory, b"").mode(0o1777)], "sticky"),
        ("a record twice", file("instance/instance.json"), "twice"),
        ("a directory twice", vec![Raw::new("instance/workspace/", Directory, b"")], "twice"),
        ("a name that is not UTF-8", vec![Raw::named(b"instance/\xff", Regular, b"x")], "is not UTF-8"),
        (
            "a name that is too long",
            vec![
                long(EntryType::GNULongName, format!("instance/{}", "n".repeat(256)).as_bytes()),
                Raw::new("x", Regular, b""),
            ],
            "too long",
        ),
        ("a path that is too long", after(long(EntryType::GNULongName, &[b'n'; 5000])), "larger than"),
        ("a path that is too deep", after(long(EntryType::GNULongName, deep.as_bytes())), "deep"),
        ("a long name over a plain one", after(long(EntryType::GNULongName, b"/etc/passwd")), "is not below instance/"),
        ("a NUL in a long name", after(long(EntryType::GNULongName, b"instance/a\0b")), "NUL"),
        (
            "a long target over a plain one",
            vec![long(EntryType::GNULongLink, b"/etc"), Raw::link("instance/l", Symlink, "workspace")],
            "may lead out",
        ),
        (
            "two long names",
            [long(EntryType::GNULongName, b"instance/a")]
                .into_iter()
                .chain(after(long(EntryType::GNULongName, b"instance/b")))
                .collect(),
            "two names",
        ),
        ("a pax path that climbs", after(pax(b"17 path=../../xy\n")), "is not below instance/"),
        (
            "a pax path beside a long name",
            vec![
                long(EntryType::GNULongName, b"instance/a"),
                pax(b"19 path=instance/b\n"),
                Raw::new("x", Regular, b""),
            ],
            "two names",
        ),
        ("a pax size", after(pax(b"12 size=999\n")), "no export writes"),
        ("a pax sparse file", after(pax(b"22 GNU.sparse.major=1\n")), "no export writes"),
        ("a pax header that is malformed", after(pax(b"99 path=x\n")), "malformed"),
        (
            "a pax header for all",
            after(Raw::named(b"pax", EntryType::XGlobalHeader, b"10 path=x\n")),
            "for all entries",
        ),
        ("a link with content", vec![with_content], "has content"),
        ("a file as large as no disk", vec![huge], "larger than the limit"),
        ("a cache of the events", file("instance/events/state.json"), "no export writes it"),
        (
            "a gap in the events",
            vec![Raw::new("instance/events/events-000000000009.jsonl", Regular, b"x\n")],
            "damaged",
        ),
    ]
}

#[tokio::test]
async fn each_hostile_archive_is_refused_with_its_reason_and_leaves_nothing_behind() -> TestResult {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Untyped).await?;
    let good = entries(&sample().await?)?;
    let mut tried = 0;
    for (name, added, reason) in hostile() {
        let all: Vec<Raw> = good.iter().cloned().chain(added).collect();
        refused(&store, temp.path(), name, pack(&all)?, reason).await?;
        tried += 1;
    }
    shown!("{tried} hostile archives refused");
    // The same archive without an addition is taken.
    store.import(Cursor::new(pack(&good)?), ImportOptions::default()).await?;
    store.shutdown().await?;
    Ok(())
}

fn first_line(text: &str) -> String {
    text.split_inclusive('\n').take(1).collect()
}

/// Replaces the text of an entry.
fn with(good: &[Raw], name: &str, change: impl Fn(String) -> String) -> TestResult<Vec<u8>> {
    let mut all = good.to_vec();
    let raw = all.iter_mut().find(|raw| raw.name() == name).ok_or("no such entry")?;
    raw.data = change(String::from_utf8(raw.data.clone())?).into_bytes();
    raw.header.set_size(raw.data.len() as u64);
    pack(&all)
}

#[tokio::test]
async fn an_archive_whose_parts_do_not_belong_together_is_refused() -> TestResult {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Untyped).await?;
    let good = entries(&sample().await?)?;
    let without = |name: &str| pack(&good.iter().filter(|raw| raw.name() != name).cloned().collect::<Vec<_>>());
    let (record, events) = ("instance/instance.json", "instance/events/events.jsonl");
    let cases = [
        ("no manifest", without("export.json")?, "does not begin with export.json"),
        ("no record", without(record)?, "no instance.json"),
        ("a manifest alone", pack(&good[..1])?, "no instance in it"),
        ("nothing", pack(&[])?, "no instance in it"),
        (
            "a record that is no JSON",
            with(&good, record, |text| text.replacen(':', "", 1))?,
            "instance.json in it is damaged",
        ),
        (
            "a key twice",
            with(&good, record, |text| text.replacen('{', "{\"uid\":1,", 1))?,
            "instance.json in it is damaged",
        ),
        (
            "another record",
            with(&good, record, |text| text.replace("\"revision\": 2", "\"revision\": 3"))?,
            "is not the one",
        ),
        (
            "another id",
            with(&good, record, |text| text.replace("\"instance_id\": \"a\"", "\"instance_id\": \"b\""))?,
            "damaged",
        ),
        (
            "an id that climbs",
            with(&good, "export.json", |text| text.replace("\"a\"", "\"../a\""))?,
            "export.json in it is wrong",
        ),
        ("a missing event", with(&good, events, |text| first_line(&text))?, "events end at 1"),
        ("an event twice", with(&good, events, |text| first_line(&text).repeat(2))?, "does not belong here"),
        ("a torn event", with(&good, events, |text| format!("{text}{{\"seq\":3"))?, "not complete"),
    ];
    for (name, bytes, reason) in cases {
        refused(&store, temp.path(), name, bytes, reason).await?;
    }
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_cut_or_no_archive_is_refused() -> TestResult {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Untyped).await?;
    let good = sample().await?;
    for cut in (0..good.len()).step_by(good.len() / 24) {
        refused(&store, temp.path(), &format!("cut at {cut}"), good[..cut].to_vec(), "").await?;
    }
    let all = blocks(&entries(&good)?);
    refused(&store, temp.path(), "no end", gzip(&all)?, "ends too early").await?;
    let behind = [&all[..], &[0; 1024], &all[..512]].concat();
    refused(&store, temp.path(), "entries behind the end", gzip(&behind)?, "behind its end").await?;
    let twice = [&good[..], &good[..]].concat();
    refused(&store, temp.path(), "two archives in one file", twice, "behind its end").await?;
    refused(&store, temp.path(), "text", b"no archive".to_vec(), "cannot be read as a .tar.gz").await?;
    let mut flipped = good.clone();
    let checksum = flipped.len() - 6;
    flipped[checksum] ^= 1;
    refused(&store, temp.path(), "another checksum", flipped, "cannot be read").await?;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_bomb_is_stopped_at_the_limit_of_bytes_and_of_entries() -> TestResult {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Untyped).await?;
    let good = entries(&sample().await?)?;
    let before = picture(temp.path())?;
    let with = |added: Vec<Raw>| pack(&good.iter().cloned().chain(added).collect::<Vec<_>>());
    // Many files, each within the limit.
    let zeros = vec![0; 1 << 20];
    let bytes = with((0..40).map(|n| Raw::new(&format!("instance/z{n}"), EntryType::Regular, &zeros)).collect())?;
    assert!(bytes.len() < 1 << 20, "it is small, packed");
    let names = with((0..400).map(|n| Raw::new(&format!("instance/n{n}"), EntryType::Regular, b"")).collect())?;
    for (bytes, reason) in [(&bytes, "more than 33554432 bytes"), (&names, "more than 100 entries")] {
        let mut options = ImportOptions::default();
        (options.max_bytes, options.max_entries) = (32 << 20, 100);
        let outcome = store.import(Cursor::new(bytes.clone()), options).await;
        let said = outcome.err().ok_or("it was taken")?.to_string();
        assert!(said.contains(reason), "{said}");
        assert_eq!(picture(temp.path())?, before);
    }
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn an_archive_of_a_newer_format_is_refused_as_newer() -> TestResult {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Untyped).await?;
    let good = entries(&sample().await?)?;
    let newer = with(&good, "export.json", |text| text.replace("\"format\": 1", "\"format\": 2"))?;
    let record = with(&good, "instance/instance.json", |text| text.replace("\"format\": 1", "\"format\": 2"))?;
    for bytes in [newer, record] {
        let outcome = store.import(Cursor::new(bytes), ImportOptions::default()).await;
        assert!(matches!(outcome, Err(Error::NewerFormat { found: 2, supported: 1, .. })), "{outcome:?}");
    }
    assert!(store.view().list(&Filter::default())?.records.is_empty());
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn an_id_that_exists_is_refused_and_one_that_was_never_finished_is_taken() -> TestResult {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Untyped).await?;
    let bytes = sample().await?;
    store.create(NewInstance::with_id(id("a"))).await?;
    let uid = store.get(&id("a")).await?.record().await?.uid;
    // While its files are not there yet, and when they are.
    for _ in 0..2 {
        let outcome = store.import(Cursor::new(bytes.clone()), ImportOptions::default()).await;
        assert!(matches!(outcome, Err(Error::AlreadyExists { .. })), "{outcome:?}");
        assert_eq!(store.get(&id("a")).await?.record().await?.uid, uid);
        store.flush().await?;
    }
    std::fs::create_dir(temp.path().join("instances/b"))?;
    store.import(Cursor::new(bytes.clone()), ImportOptions::with_id(id("b"))).await?;
    // Deleted, it can come again, under the same id as well.
    store.delete(&id("a")).await?;
    store.import(Cursor::new(bytes), ImportOptions::default()).await?;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_store_of_another_kind_refuses_the_import() -> TestResult {
    struct Other;
    impl fiefdom::Instance for Other {
        const KIND: &'static str = "other";
        type State = u64;
        type Prepared = ();
        async fn prepare(&self) -> Result<(), fiefdom::BoxError> {
            Ok(())
        }
        fn initial(&self, (): &(), _: &NewInstance) -> Result<u64, fiefdom::BoxError> {
            Ok(0)
        }
    }
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Other).await?;
    let outcome = store.import(Cursor::new(sample().await?), ImportOptions::default()).await;
    assert!(matches!(outcome, Err(Error::KindMismatch { .. })), "{outcome:?}");
    store.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_leaves_a_living_import_alone_and_removes_a_dead_one() -> TestResult {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Untyped).await?;
    let bytes = sample().await?;
    let (reader, mut writer) = std::io::pipe()?;
    let importing = tokio::spawn({
        let store = store.clone();
        async move { store.import(reader, ImportOptions::default()).await }
    });
    writer.write_all(&bytes[..bytes.len() / 2])?;
    let rooms = temp.path().join(".fiefdom/imports");
    eventually("a room to be there", || std::fs::read_dir(&rooms).is_ok_and(|rooms| rooms.count() == 1)).await;
    let dead = rooms.join("11111111-2222-4333-8444-555555555555");
    std::fs::create_dir_all(dead.join("instance/workspace"))?;
    std::fs::write(dead.join("instance/workspace/x"), "x")?;
    let second = Store::open(temp.path(), Untyped).await?;
    assert!(!dead.exists());
    assert_eq!(std::fs::read_dir(&rooms)?.count(), 1);
    writer.write_all(&bytes[bytes.len() / 2..])?;
    drop(writer);
    importing.await??;
    assert_eq!(second.get(&id("a")).await?.record().await?.state["value"], 2);
    second.shutdown().await?;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_processes_that_import_one_id_one_wins() -> TestResult {
    let temp = tempfile::tempdir()?;
    let (root, file) = (temp.path().join("root"), temp.path().join("a.tar.gz"));
    std::fs::write(&file, sample().await?)?;
    let import = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fiefdom"));
        command.arg("--root").arg(&root).arg("import").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    };
    let children: Vec<_> = (0..20).map(|_| import()).collect::<Result<_, _>>()?;
    let mut won = 0;
    for child in children {
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => won += 1,
            Some(2) => assert!(said.contains("exists already"), "{said}"),
            other => panic!("{other:?}: {said}"),
        }
    }
    assert_eq!(won, 1);
    let store = Store::open(&root, Counter).await?;
    assert_eq!(store.get(&id("a")).await?.commit(count).await?.value, 3);
    assert_eq!(std::fs::read_dir(root.join(".fiefdom/imports"))?.count(), 0);
    store.shutdown().await?;
    Ok(())
}

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
