//! A full disk: real ones (tmpfs) of many sizes and numbers of inodes, filled to the brim. Every
//! failure says so, nothing half done stays, and everything acknowledged is there once there is room.
#![allow(missing_docs)]
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use common::disks::{Mount, campaign, missing, skip, text, tool};
use common::{Counter, PATIENCE, TestResult, id, options};
use fiefdom::{Error, Filter, InstanceRef, NewInstance, Options, Store, Untyped, View};

/// Every how many-th disk is tried; 1 is all of them. A longer campaign sets
/// `FIEFDOM_TEST_FULL_DISK_STRIDE` to 1.
const STRIDE: u64 = 1;

/// Most commits in a disk. A disk that is not full by then is too large for this test.
const COMMITS: u64 = 5_000;

/// What is tried once a disk has been found full, in number of commits.
const TRIES_WHEN_FULL: u64 = 6;

/// The log turns over many times before the larger disks are full.
fn small() -> Options {
    options(|o| {
        o.log_segment_bytes = 32 << 10;
        o.event_segment_bytes = 16 << 10;
        o.materialise_within = Duration::from_millis(2);
    })
}

/// What is acknowledged of each instance.
type Acknowledged = BTreeMap<String, u64>;

/// Whether the error says that the disk is full, and that nothing happened.
fn says_full(error: &Error) -> bool {
    matches!(error, Error::NotApplied { .. } | Error::Io { .. })
        && matches!(error.io_kind(), Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}

#[track_caller]
fn assert_full(disk: &str, what: &str, error: &Error) {
    assert!(says_full(error), "{disk}: {what} failed with {error:?}");
}

/// A store on a disk, until that is full.
struct Filled {
    store: Store<Counter>,
    instances: Vec<InstanceRef<Counter>>,
    acknowledged: Acknowledged,
    failures: u64,
}

impl Filled {
    /// Opens a store and fills its disk; `None` when there is no room for the store itself.
    async fn make(disk: &str, at: &Path) -> TestResult<Option<Self>> {
        let store = match Store::open_with(at, Counter, small()).await {
            Ok(store) => store,
            Err(error) => {
                assert_full(disk, "the opening", &error);
                return Ok(None);
            }
        };
        let mut filled = Self { store, instances: Vec::new(), acknowledged: BTreeMap::new(), failures: 0 };
        for nth in 0..COMMITS {
            // The more there is, the longer the events: a large disk is full in a short time too.
            if nth % 16 < 2 {
                filled.create(disk, &format!("i{nth}")).await;
            } else {
                filled.commit(disk, nth, 200 + 20 * usize::try_from(nth)?).await;
            }
            if filled.failures > 0 {
                filled.assert_memory(disk).await?;
            }
            if filled.failures > TRIES_WHEN_FULL {
                break;
            }
        }
        assert!(filled.failures > 0, "{disk}: it is not full");
        Ok(Some(filled))
    }

    async fn create(&mut self, disk: &str, name: &str) {
        match self.store.create(NewInstance::with_id(id(name))).await {
            Ok(made) => {
                self.acknowledged.insert(name.to_owned(), 0);
                self.instances.push(made.instance().clone());
            }
            Err(error) => {
                assert_full(disk, "a creation", &error);
                self.failures += 1;
            }
        }
    }

    /// Commits to one of the instances, or appends to it; says whether it went through.
    async fn commit(&mut self, disk: &str, nth: u64, bytes: usize) -> bool {
        let Some(instance) = usize::try_from(nth).ok().and_then(|nth| {
            let count = self.instances.len().max(1);
            self.instances.get(nth % count)
        }) else {
            self.failures += 1;
            return false;
        };
        let outcome = instance
            .commit(move |tx| {
                tx.state_mut().value += 1;
                let value = tx.state().value;
                tx.event("counted", &(value, "x".repeat(bytes)))
            })
            .await;
        match outcome {
            Ok(_) => {
                *self.acknowledged.entry(instance.id().to_string()).or_default() += 1;
                true
            }
            Err(error) => {
                assert_full(disk, "a commit", &error);
                self.failures += 1;
                false
            }
        }
    }

    /// The state in memory is the last acknowledged one, and can be read.
    async fn assert_memory(&self, disk: &str) -> TestResult {
        for instance in &self.instances {
            let record = instance.record().await?;
            let acknowledged = self.acknowledged[instance.id().as_str()];
            assert_eq!((record.state.value, record.last_event_seq), (acknowledged, acknowledged), "{disk}");
        }
        Ok(())
    }

    /// The end of the store: in an orderly way, or by letting it fall.
    async fn end(self, disk: &str, orderly: bool) -> Acknowledged {
        if orderly && let Err(error) = self.store.shutdown().await {
            assert_full(disk, "the shutdown", &error);
        }
        self.acknowledged
    }
}

/// With room again, everything acknowledged is there, and nothing else.
async fn assert_all_there(disk: &str, at: &Path, acknowledged: &Acknowledged) -> TestResult {
    let deadline = Instant::now() + PATIENCE;
    let store = loop {
        let store = Store::open_with(at, Untyped, small()).await.map_err(|error| format!("{disk}: {error}"))?;
        // The threads of a store that was let fall end by themselves, and have the locks until then.
        let mut locked = false;
        for name in acknowledged.keys() {
            locked |= matches!(store.get(&id(name)).await, Err(Error::Locked { .. }));
        }
        if !locked {
            break store;
        }
        assert!(Instant::now() < deadline, "{disk}: the locks were never let go");
        store.shutdown().await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let view = View::open(at)?;
    for (name, value) in acknowledged {
        let found = store.get(&id(name)).await.map_err(|error| format!("{disk}: {name} of {value}: {error}"))?;
        let record = found.record().await?;
        assert_eq!(record.state["value"].as_u64(), Some(*value), "{disk}: {name}");
        assert_eq!(record.last_event_seq, *value, "{disk}: {name}");
        let mut next = 1;
        while next <= *value {
            let events = view.events(found.id(), next)?;
            assert!(!events.is_empty(), "{disk}: event {next} of {name} is not there");
            for event in events {
                assert_eq!((event.seq, event.data_as::<(u64, String)>()?.0), (next, next), "{disk}: {name}");
                next += 1;
            }
        }
        found.append("after", ()).await?;
    }
    let listing = store.list(Filter::default()).await?;
    assert!(listing.damaged.is_empty(), "{disk}: {:?}", listing.damaged);
    let ids: Vec<_> = listing.records.iter().map(|record| record.id.as_str()).collect();
    assert!(ids.iter().all(|id| acknowledged.contains_key(*id)), "{disk}: what failed is there: {ids:?}");
    store.shutdown().await?;
    Ok(())
}

/// Options of the disks: small ones in steps of a block, larger ones in larger steps; few inodes.
fn disks() -> TestResult<Vec<String>> {
    let sizes = (8..256).step_by(4).chain((256..=1024).step_by(32)).map(|kib| format!("size={kib}k"));
    let inodes = (2..=64).map(|inodes| format!("size=1m,nr_inodes={inodes}"));
    let stride = campaign("FIEFDOM_TEST_FULL_DISK_STRIDE", STRIDE)?;
    Ok(sizes.chain(inodes).step_by(usize::try_from(stride)?).collect())
}

/// A tmpfs with these options; `None`, with the reason printed, where that cannot be.
fn mount(disk: &str, at: &Path) -> TestResult<Option<Mount>> {
    let mounted = match missing(&["mount", "umount"]) {
        None => Mount::new(&["-t", "tmpfs", "-o", disk, "tmpfs"], at).map_err(|error| error.to_string()),
        Some(reason) => Err(reason),
    };
    match mounted {
        Ok(mount) => Ok(Some(mount)),
        Err(reason) => skip(&reason).map(|()| None),
    }
}

/// What a tree takes up, in KiB.
fn blocks(tree: &Path) -> TestResult<u64> {
    let said = tool("du", &["-sk", text(tree)?])?;
    Ok(said.split_whitespace().next().ok_or("du said nothing")?.parse()?)
}

fn grow(at: &Path) -> TestResult {
    tool("mount", &["-o", "remount,size=64m,nr_inodes=100k", text(at)?]).map(drop)
}

#[tokio::test]
async fn on_a_disk_of_any_size_every_failure_says_so_and_nothing_acknowledged_is_lost() -> TestResult {
    let (mut commits, mut failures) = (0, 0);
    let disks = disks()?;
    for (nth, disk) in disks.iter().enumerate() {
        let dir = tempfile::tempdir()?;
        let Some(mount) = mount(disk, dir.path())? else { return Ok(()) };
        let mut acknowledged = Acknowledged::new();
        if let Some(filled) = Filled::make(disk, dir.path()).await? {
            failures += filled.failures;
            acknowledged = filled.end(disk, nth % 2 == 0).await;
        }
        commits += acknowledged.values().sum::<u64>();
        grow(dir.path())?;
        assert_all_there(disk, dir.path(), &acknowledged).await?;
        mount.unmount()?;
    }
    assert!(commits > 0 && failures > 0, "no disk was filled");
    common::shown!("{} disks filled, {commits} acknowledged commits, {failures} refused, 0 lost", disks.len());
    Ok(())
}

#[tokio::test]
async fn on_a_full_disk_an_instance_can_be_deleted_and_then_commits_go_on() -> TestResult {
    let mut deleted = 0;
    for (nth, disk) in disks()?.iter().enumerate() {
        let dir = tempfile::tempdir()?;
        let Some(mount) = mount(disk, dir.path())? else { return Ok(()) };
        let mut acknowledged = Acknowledged::new();
        if let Some(mut filled) = Filled::make(disk, dir.path()).await? {
            // With one instance there is nobody left to commit.
            if filled.instances.len() > 1 {
                let largest =
                    filled.acknowledged.iter().max_by_key(|(_, commits)| **commits).map(|(name, _)| name.clone());
                let name = largest.ok_or("no instance")?;
                let freed = blocks(&dir.path().join("instances").join(&name))?;
                filled.store.delete(&id(&name)).await.map_err(|error| format!("{disk}: the deletion: {error:?}"))?;
                filled.acknowledged.remove(&name);
                filled.instances.retain(|instance| instance.id().as_str() != name);
                // It makes room for a commit only if the instance took up as much as a new segment of
                // the log and the files do that wait for room: a block each for the record, its
                // temporary file and the events of several instances.
                let mut tries = if freed >= 32 && !disk.contains("nr_inodes") { 200 } else { 0 };
                while tries > 0 && !filled.commit(disk, 0, 10).await {
                    tries -= 1;
                    assert!(tries > 0, "{disk}: no commit goes through, {freed} KiB were freed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                deleted += 1;
            }
            acknowledged = filled.end(disk, nth % 2 == 0).await;
        }
        grow(dir.path())?;
        assert_all_there(disk, dir.path(), &acknowledged).await?;
        mount.unmount()?;
    }
    assert!(deleted > 0, "nothing was deleted");
    common::shown!("{deleted} deletions on a full disk, each with a commit behind it");
    Ok(())
}
