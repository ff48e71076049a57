use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

use super::*;
use crate::disk::atomic::{self, Sync};
use crate::disk::layout;
use crate::disk::listing::Change;
use crate::disk::model::{Disk, Fault, Kind, Random, Survives};
use crate::{NewInstance, Store, Untyped};

fn id(text: &str) -> InstanceId {
    InstanceId::new(text).expect("an id")
}

/// A record that was created at this second.
fn record(name: &str, second: u32) -> String {
    let at = format!("2026-01-05T00:{:02}:{:02}Z", second / 60, second % 60);
    format!(
        r#"{{"format":1,"instance_id":"{name}","uid":"3f0e1c9a-8d57-4c1e-9b7a-3b2a1c0d9e8f","kind":"untyped",
        "name":null,"status":"pending","status_reason":null,"created_at":"{at}","updated_at":"{at}",
        "started_at":null,"ended_at":null,"revision":0,"epoch":1,"writer":"7c2a4c1e-1f7b-4d7e-8a55-0123456789ab",
        "attempt":0,"tags":{{}},"pinned":false,"last_event_seq":0,"schema_version":1,"state":null}}"#
    )
}

struct Ground {
    temp: tempfile::TempDir,
}

impl Ground {
    /// A root with these instances, put there by hand: `a` is the oldest.
    fn of(names: &str) -> Self {
        let ground = Self { temp: tempfile::tempdir().expect("a directory") };
        drop(Root::open_or_create(ground.temp.path(), true).expect("a root"));
        for (second, name) in names.chars().enumerate() {
            ground.put(&name.to_string(), u32::try_from(second).expect("few"));
        }
        ground
    }

    fn instance(&self, name: &str) -> PathBuf {
        self.temp.path().join(layout::INSTANCES).join(name)
    }

    fn put(&self, name: &str, second: u32) {
        std::fs::create_dir_all(self.instance(name)).expect("mkdir");
        std::fs::write(self.instance(name).join(layout::RECORD), record(name, second)).expect("write");
    }

    fn index(&self) -> PathBuf {
        self.temp.path().join(layout::INTERNAL).join(layout::LISTING)
    }

    fn view(&self) -> View {
        View::open(self.temp.path()).expect("a root")
    }

    /// The newest, as a fresh process lists them: their names in one text.
    fn newest(&self, limit: usize) -> String {
        newest(&self.view(), limit)
    }

    /// Whether the next listing goes by the index.
    fn is_current(&self) -> bool {
        is_current(&self.view())
    }

    async fn store(&self) -> Store<Untyped> {
        Store::open(self.temp.path(), Untyped).await.expect("a store")
    }
}

fn newest(view: &View, limit: usize) -> String {
    let listing = view.list(&Filter { limit: Some(limit), ..Filter::default() }).expect("a listing");
    assert!(listing.damaged.is_empty(), "{:?}", listing.damaged);
    listing.records.iter().map(|record| record.id.to_string()).collect()
}

fn is_current(view: &View) -> bool {
    Index::current(view.root().expect("a root")).expect("a look").is_some()
}

#[test]
fn a_small_root_has_no_index() {
    let ground = Ground::of("abc");
    assert_eq!(ground.newest(2), "cb");
    assert!(!ground.index().exists());
}

#[test]
fn an_index_is_made_and_used_and_goes_when_the_root_becomes_small() {
    let ground = Ground::of("abcdef");
    assert!(!ground.is_current());
    assert_eq!(ground.newest(2), "fe");
    assert!(ground.is_current());
    assert_eq!(ground.newest(4), "fedc");
    for name in ["a", "b", "c"] {
        std::fs::remove_dir_all(ground.instance(name)).expect("rm");
    }
    assert_eq!(ground.newest(9), "fed");
    assert!(!ground.index().exists());
}

#[tokio::test]
async fn what_a_store_makes_and_deletes_keeps_the_index_current() {
    let ground = Ground::of("abcdef");
    assert_eq!(ground.newest(1), "f");
    let store = ground.store().await;
    for name in ["x", "y", "z"] {
        store.create(NewInstance::with_id(id(name))).await.expect("a creation");
    }
    store.delete(&id("y")).await.expect("a deletion");
    store.delete(&id("e")).await.expect("a deletion");
    store.flush().await.expect("a flush");
    assert!(ground.is_current());
    assert_eq!(ground.newest(4), "zxfd");
    store.shutdown().await.expect("a shutdown");
    assert!(ground.is_current());
}

#[tokio::test]
async fn an_imported_instance_has_the_place_of_its_creation() {
    let (from, to) = (Ground::of("q"), Ground::of("abcdef"));
    from.put("q", 2);
    let mut archive = Vec::new();
    from.view().export(&id("q"), &mut archive).expect("an export");
    assert_eq!(to.newest(1), "f");
    let store = to.store().await;
    store.import(std::io::Cursor::new(archive), crate::ImportOptions::default()).await.expect("an import");
    assert!(to.is_current());
    store.shutdown().await.expect("a shutdown");
    assert!(["fedcqb", "fedqcb"].contains(&to.newest(6).as_str()));
}

#[test]
fn what_is_put_there_removed_and_renamed_by_hand_is_seen() {
    let ground = Ground::of("abcdef");
    assert_eq!(ground.newest(3), "fed");
    ground.put("x", 900);
    assert_eq!(ground.newest(3), "xfe");
    assert!(ground.is_current());
    std::fs::remove_dir_all(ground.instance("f")).expect("rm");
    assert_eq!(ground.newest(3), "xed");
    std::fs::rename(ground.instance("e"), ground.temp.path().join("away")).expect("mv");
    ground.put("e", 1000);
    assert_eq!(ground.newest(9), "exdcba");
}

#[test]
fn an_index_that_is_gone_or_garbage_or_of_another_directory_is_made_again() {
    let ground = Ground::of("abcdef");
    assert_eq!(ground.newest(2), "fe");
    let good = std::fs::read(ground.index()).expect("an index");
    for bytes in [b"garbage".to_vec(), vec![0; 5000], vec![b'\n'; 100], Vec::new(), [&good[..], &good[..]].concat()] {
        std::fs::write(ground.index(), bytes).expect("write");
        assert_eq!(ground.newest(6), "fedcba");
        assert!(ground.is_current());
    }
    std::fs::remove_file(ground.index()).expect("rm");
    assert_eq!(ground.newest(6), "fedcba");
    assert!(ground.is_current());
    let other = Ground::of("uvwxyz");
    std::fs::copy(ground.index(), other.index()).expect("cp");
    assert_eq!(other.newest(2), "zy");
}

/// An index with lines behind its entries, after two creations and a deletion by a store.
async fn with_tail() -> Ground {
    let ground = Ground::of("abcdef");
    assert_eq!(ground.newest(1), "f");
    let store = ground.store().await;
    store.create(NewInstance::with_id(id("x"))).await.expect("a creation");
    store.delete(&id("d")).await.expect("a deletion");
    store.create(NewInstance::with_id(id("y"))).await.expect("a creation");
    store.shutdown().await.expect("a shutdown");
    assert!(ground.is_current());
    ground
}

#[tokio::test]
async fn an_index_that_is_cut_off_anywhere_is_noticed() {
    let ground = with_tail().await;
    let good = std::fs::read(ground.index()).expect("an index");
    for len in 0..good.len() {
        std::fs::write(ground.index(), &good[..len]).expect("write");
        assert_eq!(ground.newest(9), "yxfecba", "cut to {len} of {}", good.len());
        assert!(ground.is_current());
    }
}

#[tokio::test]
async fn an_index_with_a_changed_byte_anywhere_gives_the_same_page() {
    let ground = with_tail().await;
    let good = std::fs::read(ground.index()).expect("an index");
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        std::fs::write(ground.index(), &changed).expect("write");
        assert_eq!(ground.newest(9), "yxfecba", "byte {at} of {}", good.len());
    }
}

#[tokio::test]
async fn an_index_that_is_older_than_the_directory_is_noticed() {
    let ground = with_tail().await;
    let old = std::fs::read(ground.index()).expect("an index");
    let store = ground.store().await;
    store.create(NewInstance::with_id(id("z"))).await.expect("a creation");
    store.shutdown().await.expect("a shutdown");
    std::fs::write(ground.index(), old).expect("write");
    assert_eq!(ground.newest(3), "zyx");
    assert!(ground.is_current());
}

#[tokio::test]
async fn a_creation_behind_the_back_of_the_index_is_not_covered_by_the_next() {
    let ground = Ground::of("abcdef");
    assert_eq!(ground.newest(1), "f");
    ground.put("w", 900);
    let store = ground.store().await;
    store.create(NewInstance::with_id(id("x"))).await.expect("a creation");
    store.shutdown().await.expect("a shutdown");
    assert!(!ground.is_current());
    assert_eq!(ground.newest(3), "xwf");
}

#[tokio::test]
async fn a_creation_that_was_cut_short_and_is_taken_over_has_the_new_place() {
    let ground = Ground::of("abcdef");
    let root = Root::open_existing(ground.temp.path()).expect("a root").expect("one");
    assert_eq!(ground.newest(1), "f");
    let long_ago = Created::from(chrono::DateTime::UNIX_EPOCH);
    root.door.through(&root, Change::Add(&id("x"), long_ago), || root.instances.create_dir("x")).expect("mkdir");
    let store = ground.store().await;
    store.create(NewInstance::with_id(id("x"))).await.expect("a creation");
    store.shutdown().await.expect("a shutdown");
    assert!(ground.is_current());
    assert_eq!(ground.newest(2), "xf");
}

#[test]
fn a_damaged_record_among_the_newest_is_told() {
    let ground = Ground::of("abcdef");
    assert_eq!(ground.newest(1), "f");
    let damaged = |name: &str| {
        std::fs::write(ground.instance(name).join(layout::RECORD), "{").expect("write");
        let filter = Filter { limit: Some(2), ..Filter::default() };
        let listing = ground.view().list(&filter).expect("a listing");
        let names = |ids: Vec<&InstanceId>| ids.into_iter().map(InstanceId::as_str).collect::<String>();
        let records = names(listing.records.iter().map(|record| &record.id).collect());
        (records, names(listing.damaged.iter().map(|(id, _)| id).collect()))
    };
    assert_eq!(damaged("e"), ("fd".into(), "e".into()));
    assert!(ground.is_current());
    // An older one is not looked at, and does not hide for ever: it is the first when its time is not known.
    assert_eq!(damaged("a"), ("fd".into(), "e".into()));
    std::fs::remove_file(ground.index()).expect("rm");
    assert_eq!(damaged("a"), ("fd".into(), "ea".into()));
}

#[test]
fn a_time_that_was_changed_by_hand_is_put_right_by_a_full_listing() {
    let ground = Ground::of("abcdef");
    assert_eq!(ground.newest(1), "f");
    ground.put("a", 900);
    assert_eq!(ground.newest(2), "fe");
    assert_eq!(ground.view().list(&Filter::default()).expect("a listing").records[0].id, id("a"));
    assert!(ground.is_current());
    assert_eq!(ground.newest(2), "af");
}

#[test]
fn an_instance_that_is_older_than_the_index_says_is_in_its_place_and_corrected() {
    let ground = Ground::of("abcdef");
    assert_eq!(ground.newest(1), "f");
    std::fs::write(ground.instance("f").join(layout::RECORD), record("f", 0)).expect("write");
    assert_eq!(ground.newest(3), "edc");
    assert_eq!(ground.newest(9), "edcbfa");
    let view = ground.view();
    let index = Index::current(view.root().expect("a root")).expect("a look").expect("an index");
    assert!(matches!(index.newest().next(), Ok(Ok(Some((_, first)))) if first == id("e")));
}

#[tokio::test]
async fn what_is_made_while_the_index_is_written_is_in_it() {
    let ground = Ground::of("abcdef");
    let root = Root::open_existing(ground.temp.path()).expect("a root").expect("one");
    let (first, second) =
        (root.door.begin(&root, false).expect("one"), root.door.begin(&root, false).expect("another"));
    let entries: Vec<Entry> = ["a", "b", "c", "d", "e", "f"].map(|name| (Created::UNKNOWN, id(name))).into();
    let store = ground.store().await;
    store.create(NewInstance::with_id(id("x"))).await.expect("a creation");
    second.publish(&root, entries.clone().into_iter()).expect("the second is faster");
    assert!(ground.is_current());
    first.publish(&root, std::iter::empty()).expect("the first comes too late");
    store.create(NewInstance::with_id(id("y"))).await.expect("a creation");
    store.shutdown().await.expect("a shutdown");
    assert!(ground.is_current());
    assert_eq!(ground.newest(9), "yxfedcba");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_and_a_reader_at_once_lose_no_instance() {
    const EACH: usize = 60;
    let ground = Ground::of("abcdef");
    let make = async |prefix: &'static str| {
        let store = ground.store().await;
        let all = (0..EACH).map(|nth| {
            let store = store.clone();
            tokio::spawn(
                async move { store.create(NewInstance::with_id(id(&format!("{prefix}{nth}")))).await.map(drop) },
            )
        });
        for one in all.collect::<Vec<_>>() {
            one.await.expect("a task").expect("a creation");
        }
        store.shutdown().await.expect("a shutdown");
    };
    let view = ground.view();
    let reader = tokio::task::spawn_blocking(move || {
        for _ in 0..40 {
            newest(&view, 3);
        }
    });
    tokio::join!(make("x"), make("y"));
    reader.await.expect("the reader");
    let filter = |limit| Filter { limit, ..Filter::default() };
    let ids = |limit| -> BTreeSet<InstanceId> {
        ground.view().list(&filter(limit)).expect("a listing").records.into_iter().map(|record| record.id).collect()
    };
    // The first brings the index up to date if it has to be; the second goes by it.
    assert_eq!(ids(Some(1000)).len(), 6 + 2 * EACH);
    assert!(ground.is_current());
    assert_eq!(ids(Some(1000)), ids(None));
}

#[tokio::test]
async fn creations_that_are_made_together_are_all_in_the_index() {
    let ground = Ground::of("abcdef");
    assert_eq!(ground.newest(1), "f");
    let store = ground.store().await;
    // One of them exists, and one was begun by somebody who died.
    std::fs::create_dir(ground.instance("w")).expect("mkdir");
    let create = |name| store.create(NewInstance::with_id(id(name)));
    let made = futures::future::join_all(["x", "a", "w", "y", "z"].map(create)).await;
    let exists = |made: &Result<_, Error>| matches!(made, Err(Error::AlreadyExists { id, .. }) if id.as_str() == "a");
    assert_eq!(made.iter().map(exists).collect::<Vec<_>>(), [false, true, false, false, false]);
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 4);
    drop(made);
    store.shutdown().await.expect("a shutdown");
    // The directory that was made by hand is what the index did not know: it is made good once.
    let mut names: Vec<char> = ground.newest(20).chars().collect();
    names.sort_unstable();
    assert_eq!(String::from_iter(names), "abcdefwxyz");
    let store = ground.store().await;
    let create = |name| store.create(NewInstance::with_id(id(name)));
    assert!(futures::future::join_all(["p", "q", "r"].map(create)).await.iter().all(Result::is_ok));
    store.shutdown().await.expect("a shutdown");
    assert!(ground.is_current());
    assert_eq!(ground.newest(20).len(), 13);
}

#[test]
fn a_long_tail_becomes_entries() {
    let ground = Ground::of("abcdef");
    assert_eq!(ground.newest(1), "f");
    let root = Root::open_existing(ground.temp.path()).expect("a root").expect("one");
    let length = || std::fs::metadata(ground.index()).expect("an index").len();
    let short = length();
    while length() < short + 80_000 {
        root.door.correct(&root, &id("a"), Created::from(chrono::DateTime::UNIX_EPOCH));
    }
    assert!(ground.is_current());
    assert_eq!(ground.newest(1), "f");
    assert!(ground.is_current() && length() < short + 100, "{}", length());
}

/// A root on a model disk with the instances `a` to `e`, and an index.
fn on_model() -> (Disk, Arc<Root>) {
    let disk = Disk::new();
    let root = Arc::new(Root::open_or_create(disk.path(), true).expect("a root"));
    for (second, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        root.instances.create_dir(name).expect("mkdir");
        put(&root, name, u32::try_from(second).expect("few"));
    }
    root.instances.sync().expect("a flush");
    assert_eq!(newest(&View::on(Arc::clone(&root)), 1), "e");
    (disk, root)
}

fn put(root: &Root, name: &str, second: u32) {
    let dir = root.instances.open_dir(name).expect("open").expect("a directory");
    atomic::replace(&dir, layout::RECORD, record(name, second).as_bytes(), Sync::Yes).expect("write");
}

/// What the plain way finds.
fn truth(disk: &Disk) -> String {
    let listing = View::open(disk.path()).expect("a root").list(&Filter::default()).expect("a listing");
    listing.records.iter().fold(String::new(), |mut names, record| {
        let _ = write!(names, "{}", record.id);
        names
    })
}

/// A creation, a deletion, and a rewriting of the index, with the image before each step.
fn busy() -> Vec<crate::disk::model::Image> {
    let (disk, root) = on_model();
    let created = |second| Created::from(chrono::DateTime::UNIX_EPOCH + std::time::Duration::from_secs(second));
    disk.record();
    root.door
        .through(&root, Change::Add(&id("x"), created(1 << 40)), || root.instances.create_dir("x"))
        .expect("mkdir");
    put(&root, "x", 900);
    root.instances.sync().expect("a flush");
    crate::disk::lock::move_to_trash(&root, &id("e"), "e").expect("a deletion");
    let rewrite = root.door.begin(&root, true).expect("a rewriting");
    let entries = ["a", "b", "c", "d", "x"].map(|name| (Created::UNKNOWN, id(name)));
    rewrite.publish(&root, entries.into_iter()).expect("a new index");
    disk.images()
}

#[test]
fn a_kill_at_any_step_leaves_a_listing_that_is_right() {
    let images = busy();
    assert!(images.len() > 10, "{}", images.len());
    for (step, image) in images.iter().enumerate() {
        let disk = image.after_kill();
        let page = newest(&View::open(disk.path()).expect("a root"), 9);
        assert_eq!(page, truth(&disk), "step {step}");
    }
}

#[test]
fn a_power_cut_at_any_step_leaves_a_listing_that_is_right() {
    for (step, image) in busy().iter().enumerate() {
        for (seed, survives) in
            [Survives::Nothing, Survives::Everything, Survives::Some, Survives::Some].iter().enumerate()
        {
            let disk = image.after_power_cut(*survives, &mut Random::new(seed as u64 + 1));
            let page = newest(&View::open(disk.path()).expect("a root"), 9);
            assert_eq!(page, truth(&disk), "step {step}, {survives:?}");
        }
    }
}

#[test]
fn a_root_that_cannot_be_written_is_listed_all_the_same() {
    let (disk, root) = on_model();
    root.instances.create_dir("x").expect("mkdir");
    put(&root, "x", 900);
    let which = |kind, _: &str| matches!(kind, Kind::Create | Kind::Write | Kind::SetLen | Kind::Rename | Kind::Unlink);
    disk.fail(Some(Fault { after: 0, for_ever: true, errno: Errno::ROFS, which }));
    let view = View::on(root);
    assert_eq!(newest(&view, 3), "xed");
    assert!(disk.fired() > 0 && !is_current(&view));
}

#[test]
fn a_change_whose_line_cannot_be_written_is_made_all_the_same_and_noticed() {
    let (disk, root) = on_model();
    disk.fail(Some(Fault {
        after: 0,
        for_ever: true,
        errno: Errno::NOSPC,
        which: |kind, name| kind == Kind::Write && name == layout::LISTING,
    }));
    let created = Created::UNKNOWN;
    let made = root.door.through(&root, Change::Add(&id("x"), created), || root.instances.create_dir("x"));
    assert!(made.expect("mkdir") && disk.fired() == 1);
    disk.fail(None);
    put(&root, "x", 900);
    assert_eq!(newest(&View::on(root), 2), "xe");
}

#[test]
fn the_index_is_nobody_s_finding() {
    let ground = Ground::of("abcdef");
    assert_eq!(ground.newest(1), "f");
    let report = crate::Doctor::examine(ground.temp.path()).expect("a look");
    let internal = ground.temp.path().join(layout::INTERNAL);
    assert!(!report.findings.iter().any(|finding| finding.path.starts_with(&internal)), "{report:?}");
}

#[test]
fn to_learn_when_an_instance_was_created_no_link_is_followed() {
    let ground = Ground::of("bcdef");
    let outside = tempfile::tempdir().expect("a directory");
    std::fs::write(outside.path().join(layout::RECORD), record("a", 0)).expect("write");
    std::os::unix::fs::symlink(outside.path(), ground.instance("a")).expect("a link");
    let filter = Filter { limit: Some(1), ..Filter::default() };
    let listed = ground.view().list(&filter).expect("listed");
    assert!(listed.records.iter().map(|record| record.id.as_str()).eq(["f"]), "{:?}", listed.records);
    assert!(listed.damaged.iter().map(|(id, _)| id.as_str()).eq(["a"]), "{:?}", listed.damaged);
}
