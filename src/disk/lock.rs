//! Who may write what: the lock of an instance, the lock of a writer, and the lock that orders
//! activation and recovery.
//!
//! - An **instance** is locked on the descriptor of its directory, before anything in it is read.
//! - A **writer** is locked on `writers/<id>/lock`, for its whole life. A lock that can be taken
//!   belongs to a dead writer.
//! - **`recovery.lock`** is held shared from the locking of an instance until its record is read,
//!   and while a writer is born; exclusive while dead writers are replayed. Under the shared side a
//!   locked writer is alive; under the exclusive side nobody activates.
//!
//! Every lock is `flock(2)`: it belongs to the open file, so it dies with the process, also on
//! `kill -9`, and two stores in one process exclude each other as two processes do.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::fs::{Dir, File, Lock, Locked};
use super::host::host_name;
use super::layout;
use super::listing::{Change, Created};
use super::root::Root;
use crate::error::{Error, Owner, Result};
use crate::record::InstanceId;

/// Largest owner document, in bytes.
const OWNER_BYTES: u64 = 64 * 1024;

/// How often the directory may be swapped under us before we give up.
const SWAP_RETRIES: usize = 16;

/// How often the kernel's list of locks is read to find those that are in it.
const LIST_READS: usize = 4;

/// How long the files of a process that is dying may take to be closed.
const DYING: Duration = Duration::from_millis(100);

/// An instance whose directory is to be locked.
pub(crate) struct Wanted<'a> {
    pub(crate) id: &'a InstanceId,
    /// A missing directory is made, and the instance in it is created at this time.
    pub(crate) make: Option<Created>,
}

/// Locks the directories of instances. Those that are missing and to be made are all made before the
/// first is locked.
///
/// The caller holds `recovery.lock` shared, or exclusive.
pub(crate) fn lock_instances(root: &Root, wanted: &[Wanted<'_>]) -> Vec<Result<Locked<Dir>>> {
    let made: Vec<_> = if wanted.iter().any(|wanted| wanted.make.is_some()) {
        let mut door = root.door.enter(root);
        let mut make =
            |id: &InstanceId, created| door.change(Change::Add(id, created), || root.instances.create_dir(id.as_str()));
        wanted.iter().map(|wanted| wanted.make.map(|created| make(wanted.id, created))).collect()
    } else {
        wanted.iter().map(|_| None).collect()
    };
    let lock = |(wanted, made): (&Wanted<'_>, Option<Result<bool>>)| {
        let is_new = made.transpose()?.unwrap_or_default();
        lock_made(root, wanted, is_new)
    };
    wanted.iter().zip(made).map(lock).collect()
}

/// Locks the directory of an instance that is there.
///
/// The caller holds `recovery.lock` shared, or exclusive.
pub(crate) fn lock_instance(root: &Root, id: &InstanceId) -> Result<Locked<Dir>> {
    lock_made(root, &Wanted { id, make: None }, false)
}

/// Locks a directory that was made just now (`is_new`), or was there.
fn lock_made(root: &Root, wanted: &Wanted<'_>, mut is_new: bool) -> Result<Locked<Dir>> {
    let Wanted { id, make } = *wanted;
    let not_found = || Error::NotFound { id: id.clone(), root: root.instances.path().to_owned() };
    for attempt in 0..SWAP_RETRIES {
        if let Some(created) = make
            && attempt > 0
        {
            is_new = root.door.through(root, Change::Add(id, created), || root.instances.create_dir(id.as_str()))?;
        }
        let dir = match root.instances.open_dir(id.as_str()) {
            Ok(Some(dir)) => dir,
            Ok(None) if make.is_some() => continue,
            Ok(None) => return Err(not_found()),
            Err(error) => {
                if is_new {
                    // The first error is the one to tell; an empty directory does no harm.
                    let _ = remove_empty(root, id);
                }
                return Err(error);
            }
        };
        let Some(dir) = dir.try_lock()? else {
            return Err(Error::Locked { id: id.clone(), owner: owner_of(root, id) });
        };
        // Between opening and locking the directory may have been renamed away (a deletion): then
        // this lock guards nothing.
        let named = root.instances.stat(id.as_str())?;
        if named.is_some_and(|named| dir.own_stat().is_ok_and(|own| own.identity == named.identity)) {
            if let Some(created) = make
                && !is_new
                && dir.stat(layout::RECORD)?.is_none()
            {
                // What is left of a creation that was cut short is taken over.
                root.door.correct(root, id, created);
            }
            return Ok(dir);
        }
    }
    Err(not_found())
}

/// Removes the directory of an instance that was not made in the end, if nothing is in it.
pub(crate) fn remove_empty(root: &Root, id: &InstanceId) -> Result<()> {
    root.door.through(root, Change::Remove(id), || root.instances.remove_dir(id.as_str())).map(drop)
}

/// Moves the directory of a deleted instance out of the way, durably.
pub(crate) fn move_to_trash(root: &Root, id: &InstanceId, trashed: &str) -> Result<()> {
    root.door.through(root, Change::Remove(id), || {
        root.instances.rename(id.as_str(), &root.trash, trashed).map(|()| true)
    })?;
    root.sync_names()?;
    root.trash.sync()
}

/// The locks of `flock(2)` on this machine: who has them, and on which device and inode. Empty where
/// the kernel does not say; a process in another container is not in the list.
fn locks() -> Vec<(u32, u64, u64)> {
    // 1: FLOCK  ADVISORY  WRITE 4711 fe:00:393219 0 EOF
    let parse = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let is_flock = words.next() == Some("FLOCK");
        let pid = words.nth(2)?.parse().ok()?;
        let mut place = words.next()?.split(':');
        let major = u32::from_str_radix(place.next()?, 16).ok()?;
        let minor = u32::from_str_radix(place.next()?, 16).ok()?;
        let inode = place.next()?.parse().ok()?;
        is_flock.then(|| (pid, rustix::fs::makedev(major, minor), inode))
    };
    std::fs::read_to_string("/proc/locks").unwrap_or_default().lines().filter_map(parse).collect()
}

/// The inodes that are locked. For a reader that must not take a lock to ask for one: even to try
/// would turn others away for a moment.
pub(crate) fn locked_inodes() -> BTreeSet<u64> {
    // One that is hidden in one reading of the list is in another: see `owner_of`.
    (0..LIST_READS).flat_map(|_| locks()).map(|(_, _, inode)| inode).collect()
}

/// The process that holds the lock of a directory, and what is known of it.
fn owner_of(root: &Root, id: &InstanceId) -> Option<Box<Owner>> {
    let identity = root.instances.stat(id.as_str()).ok()??.identity;
    let same = |(_, device, inode): &(u32, u64, u64)| *inode == identity.inode && *device == identity.device;
    // A long list is read in parts, and what changes meanwhile can hide an entry.
    let pid = (0..LIST_READS).find_map(|_| {
        let held = locks();
        // Some file systems (btrfs, overlay) show another device in the list than `stat` does.
        let by_inode = || held.iter().find(|(_, _, inode)| *inode == identity.inode);
        held.iter().find(|lock| same(lock)).or_else(by_inode).map(|(pid, ..)| *pid)
    })?;
    let writers = root.writers.names().ok()?;
    let owner = writers
        .iter()
        .filter_map(|name| read_owner(&root.writers.open_dir(name).ok()??).ok()?)
        .find(|owner| owner.pid == pid);
    Some(Box::new(owner.unwrap_or_else(|| Owner::new(Uuid::nil(), pid, host_name()))))
}

/// The process behind a writer, by the name of its directory.
pub(crate) fn owner_named(root: &Root, writer: &str) -> Result<Option<Owner>> {
    root.writers.open_dir(writer)?.map_or(Ok(None), |dir| read_owner(&dir))
}

fn read_owner(writer: &Dir) -> Result<Option<Owner>> {
    let Some(file) = writer.open_file(layout::WRITER_LOCK)? else { return Ok(None) };
    Ok(serde_json::from_slice(&file.read_all(OWNER_BYTES)?).ok())
}

/// The right to write to a root: a directory of its own with a lock, for the life of the process.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) id: Uuid,
    pub(crate) dir: Dir,
    _lock: Locked<File>,
    /// Locks that go after the writer's own: see [`Writer::adopt`].
    orphans: Mutex<Vec<Locked<Dir>>>,
}

impl Writer {
    /// Keeps the lock of an instance whose files lack commits until this writer counts as dead:
    /// whoever gets it then recovers first.
    pub(crate) fn adopt(&self, dir: Locked<Dir>) {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner).push(dir);
    }

    /// Makes a writer. It is made under another name, locked, then renamed into place, so nobody
    /// takes it for a dead one in between.
    pub(crate) fn create(root: &Arc<Root>) -> Result<Self> {
        let _order = root.recovery_lock()?.lock(Lock::Shared)?;
        let id = Uuid::new_v4();
        let unborn = layout::unborn_writer(id);
        root.writers.create_dir(&unborn)?;
        let dir = root.writers.ensure_dir(&unborn)?;
        let mut lock = dir.create_file(layout::WRITER_LOCK, super::fs::FILE_MODE)?;
        let owner = Owner::new(id, std::process::id(), host_name());
        lock.write_all(&serde_json::to_vec(&owner).map_err(|e| crate::record::json::unserializable("owner", &e))?)?;
        let Some(lock) = lock.try_lock()? else {
            return Err(Error::Root {
                path: dir.path().to_owned(),
                reason: "a new writer's lock is taken; another program meddles with this directory".into(),
            });
        };
        lock.sync_all()?;
        dir.sync()?;
        root.writers.rename(&unborn, &root.writers, &id.to_string())?;
        root.writers.sync()?;
        let dir = root.writers.ensure_dir(&id.to_string())?;
        Ok(Self { id, dir, _lock: lock, orphans: Mutex::default() })
    }

    /// Removes the writer's directory, once nothing of it is needed: segments first, the lock last.
    pub(crate) fn retire(self, root: &Root) -> Result<()> {
        remove_writer(root, &self.dir, &self.id.to_string())
    }
}

/// A writer whose process is gone. While this is held nobody else recovers it.
pub(crate) struct DeadWriter {
    pub(crate) id: Uuid,
    pub(crate) pid: Option<u32>,
    pub(crate) dir: Dir,
    _lock: Locked<File>,
}

impl DeadWriter {
    pub(crate) fn remove(self, root: &Root) -> Result<()> {
        remove_writer(root, &self.dir, &self.id.to_string())
    }
}

/// The numbers of the segments in a writer's directory, in order.
pub(crate) fn segments(dir: &Dir) -> Result<Vec<u64>> {
    let mut numbers: Vec<u64> = dir.names()?.iter().filter_map(|n| layout::parse_journal_segment(n)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn remove_writer(root: &Root, dir: &Dir, name: &str) -> Result<()> {
    for number in segments(dir)? {
        dir.remove_file(&layout::journal_segment(number))?;
    }
    dir.remove_file(layout::CONTROL_SOCKET)?;
    dir.sync()?;
    dir.remove_file(layout::WRITER_LOCK)?;
    remove_emptied(root, name)?;
    root.writers.sync()
}

/// Removes the directory of a writer of which nothing is left. What somebody else put there goes to
/// the quarantine with it, so that it is in nobody's way.
fn remove_emptied(root: &Root, name: &str) -> Result<()> {
    match root.writers.remove_dir(name) {
        Err(e) if e.io_kind() == Some(io::ErrorKind::DirectoryNotEmpty) => {
            tracing::warn!(name, "a strange file is in the directory of a writer, which goes to the quarantine");
            root.writers.rename(name, &root.quarantine, &format!("writer-{name}"))?;
            root.quarantine.sync()
        }
        removed => removed.map(drop),
    }
}

/// Whether a writer other than `own` is dead. Cheap: it is asked at every activation.
///
/// The caller holds `recovery.lock`, and the lock of the instance that it wants to read. A process
/// that dies lets its locks go one by one: when it has let that one go, it counts as dead.
pub(crate) fn any_dead_writer(root: &Root, own: Uuid) -> Result<bool> {
    let own = own.to_string();
    for name in root.writers.names()? {
        if name == own || Uuid::parse_str(&name).is_err() {
            continue;
        }
        let Some(dir) = root.writers.open_dir(&name)? else { continue };
        // Others may be asking at this moment, so nobody is to be turned away by the question.
        let Some(lock) = dir.open_file(layout::WRITER_LOCK)? else { continue };
        if lock.probe()? {
            return Ok(true);
        }
        if let Some(owner) = read_owner(&dir)?
            && is_dying(&owner)
        {
            return wait_for_death(&dir);
        }
    }
    Ok(false)
}

/// Whether a process is on its way out: its memory goes before its files do.
fn is_dying(owner: &Owner) -> bool {
    let own_machine = owner.pid != std::process::id() && owner.host == host_name();
    let memory = || std::fs::read_to_string(format!("/proc/{}/statm", owner.pid));
    own_machine && Path::new("/proc/self/statm").exists() && memory().map_or(true, |m| m.starts_with("0 "))
}

/// Waits a moment for the lock of a dying writer to go. A process that cannot be seen from here (it
/// may be in another container) looks the same, and lives on.
fn wait_for_death(dir: &Dir) -> Result<bool> {
    let begun = Instant::now();
    while begun.elapsed() < DYING {
        // One that is not there any more has been recovered meanwhile: then the files were read too early.
        let gone = dir.open_file(layout::WRITER_LOCK)?.map_or(Ok(true), File::probe)?;
        if gone {
            return Ok(true);
        }
        #[expect(clippy::disallowed_methods, reason = "disk work, on a thread that may block")]
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(false)
}

/// Whether this is another writer, which has the root open.
pub(crate) fn is_writer(root: &Root, writer: Uuid, own: Uuid) -> Result<bool> {
    Ok(writer != own && root.writers.stat(&writer.to_string())?.is_some())
}

/// The process ids of living writers: all but these, which the caller has locked because they are dead.
pub(crate) fn living_pids(root: &Root, dead: &[DeadWriter]) -> Result<BTreeSet<u32>> {
    let mut pids = BTreeSet::new();
    for name in root.writers.names()? {
        if let Some(dir) = root.writers.open_dir(&name)?
            && !dead.iter().any(|writer| writer.id.to_string() == name)
            && let Some(owner) = read_owner(&dir)?
            && let Some(lock) = dir.open_file(layout::WRITER_LOCK)?
            && !lock.probe()?
        {
            pids.insert(owner.pid);
        }
    }
    Ok(pids)
}

/// Every dead writer, locked. The caller holds `recovery.lock` exclusively.
pub(crate) fn dead_writers(root: &Root, own: Option<Uuid>) -> Result<Vec<DeadWriter>> {
    let mut dead = Vec::new();
    for name in root.writers.names()? {
        if Uuid::parse_str(&name).is_ok_and(|id| Some(id) == own) {
            continue;
        }
        dead.extend(take_if_dead(root, &name)?);
    }
    Ok(dead)
}

fn take_if_dead(root: &Root, name: &str) -> Result<Option<DeadWriter>> {
    let Some(dir) = root.writers.open_dir(name)? else { return Ok(None) };
    let Some(lock) = dir.open_file(layout::WRITER_LOCK)? else {
        // A removal that was cut short: the lock goes last, so nothing of value is left.
        if !name.starts_with("new-") {
            remove_emptied(root, name)?;
        }
        return Ok(None);
    };
    let Some(lock) = lock.try_lock()? else { return Ok(None) };
    let Ok(id) = Uuid::parse_str(name) else { return Ok(None) };
    let pid = read_owner(&dir)?.map(|owner| owner.pid);
    Ok(Some(DeadWriter { id, pid, dir, _lock: lock }))
}

/// Removes writers that were never born. The caller holds `recovery.lock` exclusively, so none is
/// being born.
pub(crate) fn remove_unborn(root: &Root) -> Result<()> {
    for name in root.writers.names()?.iter().filter(|name| name.starts_with("new-")) {
        if let Some(dir) = root.writers.open_dir(name)? {
            dir.remove_file(layout::WRITER_LOCK)?;
            root.writers.remove_dir(name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_lock_that_is_held_is_in_the_list_while_many_others_come_and_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str| std::fs::File::create(dir.path().join(name)).expect("a file");
        let (held, over) = (file("held"), AtomicBool::new(false));
        held.try_lock().expect("nobody else has it");
        let inode = held.metadata().expect("it is there").ino();
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let files: Vec<_> = (0..300).map(|n| file(&format!("{thread}-{n}"))).collect();
                let over = &over;
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        for file in &files {
                            drop(file.try_lock());
                        }
                        for file in &files {
                            drop(file.unlock());
                        }
                    }
                });
            }
            let missed = (0..100).filter(|_| !locked_inodes().contains(&inode)).count();
            over.store(true, Ordering::Relaxed);
            assert_eq!(missed, 0, "of 100 looks");
        });
    }
}
