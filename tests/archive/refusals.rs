//! What is no archive of ours is refused with its reason, and nothing is left of it.

use std::io::Cursor;
use std::path::Path;

use fiefdom::{Error, Filter, ImportOptions, Store, Untyped};
use tar::EntryType;

use crate::archives::{Raw, blocks, entries, gzip, pack};
use crate::common::{TestResult, shown};
use crate::{picture, sample};

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
