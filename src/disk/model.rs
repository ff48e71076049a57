//! A disk in memory, for tests: it loses at a power cut what was not made durable, and fails when it
//! is told to.
//!
//! What a power cut may do, which is what the code above must live with:
//!
//! - Bytes that were written and not synced survive in any part: each write whole, not at all, or in
//!   some of its sectors; in any combination.
//! - Changes of names that were not synced survive in any combination in which no change of a name
//!   survives without the earlier ones of the same name. A rename is one change.
//! - What was synced survives.
//! - A sync that fails leaves each waiting write on disk or lost, and forgets them: the next sync
//!   says yes, and the bytes may be gone. That is what Linux does.
//!
//! The death of a process (`kill -9`) loses nothing of that, but all its locks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::handle::{Access, Locking, Status};

/// Bytes that reach the disk together or not at all.
const SECTOR: usize = 512;

/// Where model disks are mounted.
const MOUNTS: &str = "/model";

static MOUNTED: Mutex<BTreeMap<PathBuf, Arc<Shared>>> = Mutex::new(BTreeMap::new());

/// A sequence that looks random (xorshift64*, Vigna 2016).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit.max(1)
    }

    /// One of these.
    pub(crate) fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap_or(0)]
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What an operation does, for whoever chooses which one fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Open,
    Create,
    MakeDir,
    Write,
    SetLen,
    Rename,
    Unlink,
    SyncFile,
    SyncDir,
    Read,
    List,
}

/// Which operations fail, and how.
#[derive(Clone)]
pub(crate) struct Fault {
    /// Operations of the sort that succeed before.
    pub(crate) after: u64,
    /// Whether all later ones fail too.
    pub(crate) for_ever: bool,
    pub(crate) errno: Errno,
    /// Which operations count: what they do, and on which name.
    pub(crate) which: fn(Kind, &str) -> bool,
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survives {
    Nothing,
    Everything,
    Some,
}

type Inode = u64;

#[derive(Clone, Debug)]
struct Node {
    mode: u32,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    File { now: Arc<Vec<u8>>, durable: Arc<Vec<u8>>, pending: Vec<Arc<Change>> },
    Dir { now: BTreeMap<String, Inode>, durable: BTreeMap<String, Inode> },
}

/// A change of the bytes of a file.
#[derive(Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Len(u64),
}

type Slot = (Inode, String);

/// A change of names.
#[derive(Clone, Debug)]
enum Naming {
    Link(Slot, Inode),
    Unlink(Slot),
    Rename(Slot, Slot, Inode),
}

impl Naming {
    fn slots(&self) -> [&Slot; 2] {
        match self {
            Self::Link(slot, _) | Self::Unlink(slot) => [slot, slot],
            Self::Rename(from, to, _) => [from, to],
        }
    }
}

/// Everything on a disk at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    nodes: BTreeMap<Inode, Arc<Node>>,
    namings: Vec<Naming>,
    next_inode: Inode,
    boot: u64,
    /// Whatever the test had noted at that moment.
    pub(crate) note: usize,
}

struct Inner {
    image: Image,
    next_open: u64,
    locks: HashMap<Inode, Vec<(u64, bool)>>,
    fault: Option<Fault>,
    fired: u64,
    full_at: Option<usize>,
    /// Operations so far.
    operations: u64,
    /// One image before each operation that changes something, when asked for.
    images: Option<Vec<Image>>,
    /// What to do before some operation, once: another process comes in between.
    interrupt: Option<(u64, Box<dyn FnOnce() + Send>)>,
    /// While another process is in between, it cannot wait for the one that it interrupts.
    interrupting: bool,
    random: Random,
    /// The magic number that it says it has.
    file_system: u64,
    /// Files of which a flush has failed, and one of them that was flushed again.
    unflushed: HashSet<Inode>,
    flushed_again: Option<String>,
}

struct Shared {
    inner: Mutex<Inner>,
    unlocked: Condvar,
}

/// A mounted model disk, until this is dropped.
pub(crate) struct Disk {
    shared: Arc<Shared>,
    path: PathBuf,
}

/// An open file or directory of a model disk.
pub(crate) struct Open {
    shared: Arc<Shared>,
    inode: Inode,
    name: String,
    access: Access,
    cursor: Mutex<u64>,
    id: u64,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of a model disk", self.name)
    }
}

const TOP: Inode = 1;

impl Image {
    fn empty() -> Self {
        let top = Node { mode: 0o755, body: Body::Dir { now: BTreeMap::new(), durable: BTreeMap::new() } };
        Self {
            nodes: BTreeMap::from([(TOP, Arc::new(top))]),
            namings: Vec::new(),
            next_inode: TOP + 1,
            boot: 1,
            note: 0,
        }
    }

    /// After the death of the process.
    pub(crate) fn after_kill(&self) -> Disk {
        Disk::mount(self.clone())
    }

    /// After a power cut and another boot.
    pub(crate) fn after_power_cut(&self, survives: Survives, random: &mut Random) -> Disk {
        let mut image = self.clone();
        let percent = match survives {
            Survives::Nothing => 0,
            Survives::Everything => 100,
            Survives::Some => 20 + random.below(60),
        };
        let mut held_back: HashSet<Slot> = HashSet::new();
        for naming in std::mem::take(&mut image.namings) {
            let blocked = naming.slots().into_iter().any(|slot| held_back.contains(slot));
            if blocked || !random.chance(percent) {
                held_back.extend(naming.slots().into_iter().cloned());
            } else {
                image.make_name_durable(&naming);
            }
        }
        for node in image.nodes.values_mut() {
            match &mut Arc::make_mut(node).body {
                Body::Dir { now, durable } => *now = durable.clone(),
                Body::File { now, durable, pending } => {
                    for change in pending.drain(..) {
                        if random.chance(percent) {
                            let torn = survives == Survives::Some && random.chance(50);
                            let kept = if torn { tear(&change, random) } else { vec![change] };
                            for change in kept {
                                apply(Arc::make_mut(durable), &change);
                            }
                        }
                    }
                    *now = Arc::clone(durable);
                }
            }
        }
        image.boot += 1;
        Disk::mount(image)
    }

    fn make_name_durable(&mut self, naming: &Naming) {
        let mut set = |(dir, name): &Slot, inode: Option<Inode>| {
            if let Some(Node { body: Body::Dir { durable, .. }, .. }) = self.nodes.get_mut(dir).map(Arc::make_mut) {
                match inode {
                    Some(inode) => drop(durable.insert(name.clone(), inode)),
                    None => drop(durable.remove(name)),
                }
            }
        };
        match naming {
            Naming::Link(slot, inode) => set(slot, Some(*inode)),
            Naming::Unlink(slot) => set(slot, None),
            Naming::Rename(from, to, inode) => {
                set(from, None);
                set(to, Some(*inode));
            }
        }
    }

    /// Makes the waiting names of a directory durable, with those that they build on.
    fn sync_names(&mut self, dir: Inode) {
        let mut wanted: HashSet<Slot> = HashSet::new();
        let mut chosen = vec![false; self.namings.len()];
        for (naming, chosen) in self.namings.iter().zip(&mut chosen).rev() {
            if naming.slots().into_iter().any(|slot| slot.0 == dir || wanted.contains(slot)) {
                *chosen = true;
                wanted.extend(naming.slots().into_iter().cloned());
            }
        }
        for (naming, chosen) in std::mem::take(&mut self.namings).into_iter().zip(chosen) {
            if chosen {
                self.make_name_durable(&naming);
            } else {
                self.namings.push(naming);
            }
        }
    }

    /// All files, with their bytes as a process sees them.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut todo = vec![(TOP, String::new())];
        while let Some((inode, path)) = todo.pop() {
            match self.nodes.get(&inode).map(|node| &node.body) {
                Some(Body::Dir { now, .. }) => {
                    todo.extend(now.iter().map(|(name, inode)| (*inode, format!("{path}/{name}"))));
                }
                Some(Body::File { now, .. }) => drop(files.insert(path, now.to_vec())),
                None => {}
            }
        }
        files
    }

    fn used(&self) -> usize {
        let size = |node: &Arc<Node>| match &node.body {
            Body::File { now, .. } => now.len(),
            Body::Dir { .. } => 0,
        };
        let mut reachable = HashSet::from([TOP]);
        for node in self.nodes.values() {
            if let Body::Dir { now, .. } = &node.body {
                reachable.extend(now.values().copied());
            }
        }
        self.nodes.iter().filter(|(inode, _)| reachable.contains(inode)).map(|(_, node)| size(node)).sum()
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Len(len) => bytes.resize(usize::try_from(*len).unwrap_or(usize::MAX), 0),
        Change::Write(offset, written) => {
            let from = usize::try_from(*offset).unwrap_or(usize::MAX);
            let end = from + written.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[from..end].copy_from_slice(written);
        }
    }
}

/// Some sectors of a write.
fn tear(change: &Arc<Change>, random: &mut Random) -> Vec<Arc<Change>> {
    let Change::Write(offset, bytes) = &**change else { return vec![Arc::clone(change)] };
    let mut kept = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let absolute = usize::try_from(*offset).unwrap_or(usize::MAX) + at;
        let end = (at + SECTOR - absolute % SECTOR).min(bytes.len());
        if random.chance(50) {
            kept.push(Arc::new(Change::Write(offset + at as u64, bytes[at..end].to_vec())));
        }
        at = end;
    }
    kept
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self::mount(Image::empty())
    }

    fn mount(image: Image) -> Self {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let nth = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = Path::new(MOUNTS).join(nth.to_string());
        let inner = Inner {
            image,
            next_open: 0,
            locks: HashMap::new(),
            fault: None,
            fired: 0,
            full_at: None,
            operations: 0,
            images: None,
            interrupt: None,
            interrupting: false,
            random: Random::new(nth + 1),
            file_system: 0xEF53,
            unflushed: HashSet::new(),
            flushed_again: None,
        };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), unlocked: Condvar::new() });
        MOUNTED.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone(), Arc::clone(&shared));
        Self { shared, path }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// From now on keeps an image before each change; [`Disk::images`] takes them.
    pub(crate) fn record(&self) {
        self.shared.lock().images = Some(Vec::new());
    }

    /// The images that were kept, and one of now.
    pub(crate) fn images(&self) -> Vec<Image> {
        let mut inner = self.shared.lock();
        let mut images = inner.images.take().unwrap_or_default();
        images.push(inner.image.clone());
        images
    }

    /// What there is now.
    pub(crate) fn image(&self) -> Image {
        self.shared.lock().image.clone()
    }

    /// Puts a number on the images from now on.
    pub(crate) fn note(&self, note: usize) {
        self.shared.lock().image.note = note;
    }

    /// Plans a failure; `None` takes it back.
    pub(crate) fn fail(&self, fault: Option<Fault>) {
        let mut inner = self.shared.lock();
        inner.fired = 0;
        inner.fault = fault;
    }

    /// How many operations have failed by the present plan.
    pub(crate) fn fired(&self) -> u64 {
        self.shared.lock().fired
    }

    /// Makes it look like another file system.
    pub(crate) fn pretend(&self, magic: u64) {
        self.shared.lock().file_system = magic;
    }

    /// A file that was flushed again after a flush of it had failed.
    pub(crate) fn flushed_again(&self) -> Option<String> {
        self.shared.lock().flushed_again.clone()
    }

    /// The disk has room for so many bytes in files, and no more.
    pub(crate) fn limit(&self, bytes: Option<usize>) {
        self.shared.lock().full_at = bytes;
    }

    /// Bytes in files.
    pub(crate) fn used(&self) -> usize {
        self.shared.lock().image.used()
    }

    /// Whether what was to come in between has come.
    pub(crate) fn interrupted(&self) -> bool {
        self.shared.lock().interrupt.is_none()
    }

    /// Flips a bit of one byte of a file, on the disk itself.
    pub(crate) fn flip(&self, path: &str, at: usize) {
        let mut inner = self.shared.lock();
        let found = path.split('/').filter(|name| !name.is_empty()).try_fold(TOP, |dir, name| inner.entry(dir, name));
        let inode = found.unwrap_or(TOP);
        if let Some(Node { body: Body::File { now, durable, .. }, .. }) =
            inner.image.nodes.get_mut(&inode).map(Arc::make_mut)
        {
            Arc::make_mut(now)[at] ^= 1;
            Arc::make_mut(durable)[at] ^= 1;
        }
    }

    /// Operations so far, of whatever kind.
    pub(crate) fn operations(&self) -> u64 {
        self.shared.lock().operations
    }

    /// Does something just before the operation of this number.
    pub(crate) fn interrupt(&self, at: u64, with: impl FnOnce() + Send + 'static) {
        self.shared.lock().interrupt = Some((at, Box::new(with)));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        MOUNTED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(self: &Arc<Self>, inner: &mut Inner, inode: Inode, name: &str, access: Access) -> Open {
        inner.next_open += 1;
        let id = inner.next_open;
        Open { shared: Arc::clone(self), inode, name: name.to_owned(), access, cursor: Mutex::new(0), id }
    }

    /// Begins an operation: what was planned for it happens.
    fn begin(&self, kind: Kind, name: &str) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.lock();
        inner.operations += 1;
        if inner.interrupt.as_ref().is_some_and(|(at, _)| inner.operations >= *at)
            && let Some((_, with)) = inner.interrupt.take()
        {
            inner.interrupting = true;
            drop(inner);
            with();
            inner = self.lock();
            inner.interrupting = false;
        }
        if !matches!(kind, Kind::Open | Kind::Read | Kind::List) && inner.images.is_some() {
            let image = inner.image.clone();
            inner.images.as_mut().into_iter().for_each(|images| images.push(image.clone()));
        }
        let Some(fault) = &mut inner.fault else { return Ok(inner) };
        if !(fault.which)(kind, name) {
            return Ok(inner);
        }
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(inner);
        }
        let errno = fault.errno;
        if !fault.for_ever {
            inner.fault = None;
        }
        inner.fired += 1;
        Err(errno.into())
    }
}

/// Opens the directory at an absolute path; `None` when it is not on a model disk.
pub(super) fn open(path: &Path) -> Option<io::Result<Open>> {
    let (shared, names) = find(path)?;
    let mut inner = shared.lock();
    let mut inode = TOP;
    for name in &names {
        match inner.entry(inode, name) {
            Ok(found) => inode = found,
            Err(e) => return Some(Err(e)),
        }
    }
    Some(Ok(shared.open(&mut inner, inode, &path.to_string_lossy(), Access::Directory)))
}

pub(super) fn make_all(path: &Path, mode: u32) -> Option<io::Result<()>> {
    let (shared, names) = find(path)?;
    let mut inode = TOP;
    for name in &names {
        let dir = shared.open(&mut shared.lock(), inode, name, Access::Directory);
        match dir.make_dir(name, mode) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Some(Err(e)),
            _ => {}
        }
        match shared.lock().entry(inode, name) {
            Ok(found) => inode = found,
            Err(e) => return Some(Err(e)),
        }
    }
    Some(Ok(()))
}

fn find(path: &Path) -> Option<(Arc<Shared>, Vec<String>)> {
    let rest = path.strip_prefix(MOUNTS).ok()?;
    let mut names = rest.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    let mount = Path::new(MOUNTS).join(names.next()?);
    let shared = MOUNTED.lock().unwrap_or_else(PoisonError::into_inner).get(&mount).cloned()?;
    Some((shared, names.collect()))
}

impl Inner {
    fn entry(&self, dir: Inode, name: &str) -> io::Result<Inode> {
        match self.image.nodes.get(&dir).map(|node| &node.body) {
            Some(Body::Dir { now, .. }) => now.get(name).copied().ok_or_else(|| Errno::NOENT.into()),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    fn entries(&mut self, dir: Inode) -> io::Result<&mut BTreeMap<String, Inode>> {
        match self.image.nodes.get_mut(&dir).map(|node| &mut Arc::make_mut(node).body) {
            Some(Body::Dir { now, .. }) => Ok(now),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    fn is_dir(&self, inode: Inode) -> bool {
        matches!(self.image.nodes.get(&inode).map(|node| &node.body), Some(Body::Dir { .. }))
    }

    fn is_empty(&self, inode: Inode) -> bool {
        !matches!(self.image.nodes.get(&inode).map(|node| &node.body), Some(Body::Dir { now, .. }) if !now.is_empty())
    }

    /// Whether a directory still has a name: nothing can be made in one that was removed.
    fn is_linked(&self, inode: Inode) -> bool {
        inode == TOP
            || self
                .image
                .nodes
                .values()
                .any(|node| matches!(&node.body, Body::Dir { now, .. } if now.values().any(|linked| *linked == inode)))
    }

    fn add(&mut self, dir: Inode, name: &str, mode: u32, body: Body) -> io::Result<Inode> {
        if !self.is_linked(dir) {
            return Err(Errno::NOENT.into());
        }
        let inode = self.image.next_inode;
        self.entries(dir)?.insert(name.to_owned(), inode);
        self.image.next_inode += 1;
        self.image.nodes.insert(inode, Arc::new(Node { mode, body }));
        self.image.namings.push(Naming::Link((dir, name.to_owned()), inode));
        Ok(inode)
    }

    #[allow(clippy::type_complexity)]
    fn file(&mut self, inode: Inode) -> io::Result<(&mut Arc<Vec<u8>>, &mut Vec<Arc<Change>>)> {
        match self.image.nodes.get_mut(&inode).map(|node| &mut Arc::make_mut(node).body) {
            Some(Body::File { now, pending, .. }) => Ok((now, pending)),
            _ => Err(Errno::ISDIR.into()),
        }
    }

    fn change(&mut self, inode: Inode, change: Change) -> io::Result<()> {
        let (now, pending) = self.file(inode)?;
        apply(Arc::make_mut(now), &change);
        pending.push(Arc::new(change));
        Ok(())
    }

    fn status(&self, inode: Inode) -> io::Result<Status> {
        let node = self.image.nodes.get(&inode).ok_or(Errno::NOENT)?;
        let len = match &node.body {
            Body::File { now, .. } => now.len() as u64,
            Body::Dir { .. } => 0,
        };
        let changed = match &node.body {
            // Other names, another time; the same names again, the same again.
            Body::Dir { now, .. } => now.iter().fold((0, 0), |(seconds, nanos): (i64, u32), (name, inode)| {
                let entry = crc32fast::hash(format!("{name} {inode}").as_bytes());
                (seconds.wrapping_add(entry.into()), nanos ^ entry)
            }),
            Body::File { .. } => (0, 0),
        };
        Ok(Status { device: 1, inode, mode: node.mode, len, changed })
    }

    fn room(&self) -> usize {
        match self.full_at {
            Some(limit) => limit.saturating_sub(self.image.used()),
            None => usize::MAX,
        }
    }
}

impl Open {
    pub(super) fn open_at(&self, name: &str, access: Access) -> io::Result<Self> {
        let mut inner = self.shared.begin(Kind::Open, name)?;
        let found = match inner.entry(self.inode, name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            found => found.ok(),
        };
        let (inode, mode) = match (found, access) {
            (Some(_), Access::CreateNew(_)) => return Err(Errno::EXIST.into()),
            (Some(inode), Access::Directory) if !inner.is_dir(inode) => return Err(Errno::NOTDIR.into()),
            (Some(inode), Access::ReadWrite(_) | Access::Append(_)) if inner.is_dir(inode) => {
                return Err(Errno::ISDIR.into());
            }
            (Some(inode), _) => return Ok(self.shared.open(&mut inner, inode, name, access)),
            (None, Access::Read | Access::Directory) => return Err(Errno::NOENT.into()),
            (None, Access::CreateNew(mode) | Access::ReadWrite(mode) | Access::Append(mode)) => (None::<Inode>, mode),
        };
        debug_assert!(inode.is_none(), "only what is missing is made");
        drop(inner);
        let mut inner = self.shared.begin(Kind::Create, name)?;
        let empty = || Arc::new(Vec::new());
        let body = Body::File { now: empty(), durable: empty(), pending: Vec::new() };
        let inode = inner.add(self.inode, name, mode, body)?;
        Ok(self.shared.open(&mut inner, inode, name, access))
    }

    pub(super) fn make_dir(&self, name: &str, mode: u32) -> io::Result<()> {
        let mut inner = self.shared.begin(Kind::MakeDir, name)?;
        if inner.entry(self.inode, name).is_ok() {
            return Err(Errno::EXIST.into());
        }
        let body = Body::Dir { now: BTreeMap::new(), durable: BTreeMap::new() };
        inner.add(self.inode, name, mode, body).map(drop)
    }

    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        let mut inner = self.shared.lock();
        let node = inner.image.nodes.get_mut(&self.inode).ok_or(Errno::NOENT)?;
        Arc::make_mut(node).mode = mode;
        Ok(())
    }

    pub(super) fn status(&self) -> io::Result<Status> {
        self.shared.lock().status(self.inode)
    }

    pub(super) fn status_at(&self, name: &str) -> io::Result<Status> {
        let inner = self.shared.begin(Kind::Open, name)?;
        inner.status(inner.entry(self.inode, name)?)
    }

    pub(super) fn names(&self) -> io::Result<Vec<OsString>> {
        let mut inner = self.shared.begin(Kind::List, &self.name)?;
        Ok(inner.entries(self.inode)?.keys().map(OsString::from).collect())
    }

    pub(super) fn rename(&self, name: &str, to_dir: &Self, to: &str) -> io::Result<()> {
        let mut inner = self.shared.begin(Kind::Rename, to)?;
        let inode = inner.entry(self.inode, name)?;
        if let Ok(replaced) = inner.entry(to_dir.inode, to) {
            match (inner.is_dir(inode), inner.is_dir(replaced)) {
                (false, true) => return Err(Errno::ISDIR.into()),
                (true, false) => return Err(Errno::NOTDIR.into()),
                (true, true) if !inner.is_empty(replaced) => return Err(Errno::NOTEMPTY.into()),
                _ => {}
            }
        }
        if !inner.is_linked(to_dir.inode) {
            return Err(Errno::NOENT.into());
        }
        inner.entries(self.inode)?.remove(name);
        inner.entries(to_dir.inode)?.insert(to.to_owned(), inode);
        let (from, to) = ((self.inode, name.to_owned()), (to_dir.inode, to.to_owned()));
        inner.image.namings.push(Naming::Rename(from, to, inode));
        Ok(())
    }

    pub(super) fn unlink(&self, name: &str, is_dir: bool) -> io::Result<()> {
        let mut inner = self.shared.begin(Kind::Unlink, name)?;
        let inode = inner.entry(self.inode, name)?;
        match (is_dir, inner.is_dir(inode)) {
            (true, false) => return Err(Errno::NOTDIR.into()),
            (false, true) => return Err(Errno::ISDIR.into()),
            (true, true) if !inner.is_empty(inode) => return Err(Errno::NOTEMPTY.into()),
            _ => {}
        }
        inner.entries(self.inode)?.remove(name);
        inner.image.namings.push(Naming::Unlink((self.inode, name.to_owned())));
        Ok(())
    }

    pub(super) fn remove_all(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let dir = self.open_at(&name, Access::Directory)?;
        for below in dir.names()? {
            let below = below.to_string_lossy().into_owned();
            let is_dir = {
                let inner = self.shared.lock();
                inner.is_dir(inner.entry(dir.inode, &below)?)
            };
            if is_dir {
                dir.remove_all(Path::new(&below))?;
            } else {
                dir.unlink(&below, false)?;
            }
        }
        self.unlink(&name, true)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        let is_dir = self.shared.lock().is_dir(self.inode);
        let begun = self.shared.begin(if is_dir { Kind::SyncDir } else { Kind::SyncFile }, &self.name);
        let failed = begun.as_ref().err().map(io::Error::raw_os_error);
        let mut inner = begun.or_else(|e| if is_dir { Err(e) } else { Ok(self.shared.lock()) })?;
        if is_dir {
            inner.image.sync_names(self.inode);
            return Ok(());
        }
        let failed_before =
            if failed.is_some() { !inner.unflushed.insert(self.inode) } else { inner.unflushed.contains(&self.inode) };
        if failed_before {
            inner.flushed_again = Some(self.name.clone());
        }
        let mut random = inner.random.clone();
        if let Some(Node { body: Body::File { durable, pending, .. }, .. }) =
            inner.image.nodes.get_mut(&self.inode).map(Arc::make_mut)
        {
            for change in pending.drain(..) {
                if failed.is_none() || random.chance(50) {
                    apply(Arc::make_mut(durable), &change);
                }
            }
        }
        inner.random = random;
        match failed {
            Some(errno) => Err(io::Error::from_raw_os_error(errno.unwrap_or(5))),
            None => Ok(()),
        }
    }

    pub(super) fn lock(&self, locking: Locking) -> io::Result<bool> {
        let mut inner = self.shared.lock();
        loop {
            let holders = inner.locks.entry(self.inode).or_default();
            let before = holders.len();
            // A lock is changed by letting the old one go first, as flock(2) does.
            holders.retain(|(id, _)| *id != self.id);
            if holders.len() != before {
                self.shared.unlocked.notify_all();
            }
            let exclusive = match locking {
                Locking::Unlock => return Ok(true),
                Locking::Shared | Locking::TryShared => false,
                Locking::Exclusive | Locking::TryExclusive => true,
            };
            if holders.iter().all(|(_, theirs)| !exclusive && !theirs) {
                holders.push((self.id, exclusive));
                return Ok(true);
            }
            if matches!(locking, Locking::TryExclusive | Locking::TryShared) {
                return Ok(false);
            }
            if inner.interrupting {
                return Err(Errno::DEADLK.into());
            }
            inner = self.shared.unlocked.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes at an offset, or where the file stands. A full disk takes a part, then refuses.
    pub(super) fn write(&self, bytes: &[u8], offset: Option<u64>) -> io::Result<usize> {
        let begun = self.shared.begin(Kind::Write, &self.name);
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut inner, failed) = match begun {
            Ok(inner) => (inner, None),
            Err(e) => (self.shared.lock(), Some(e)),
        };
        let len = inner.status(self.inode)?.len;
        let at = match (offset, self.access) {
            (Some(offset), _) => offset,
            (None, Access::Append(_)) => len,
            (None, _) => *cursor,
        };
        if let Some(failed) = failed {
            // What was written before the failure stays: a part, or everything.
            let part = match inner.random.below(3) {
                0 => bytes.len(),
                _ => usize::try_from(inner.random.below(bytes.len() as u64 + 1)).unwrap_or(0),
            };
            if part > 0 {
                inner.change(self.inode, Change::Write(at, bytes[..part].to_vec()))?;
            }
            return Err(failed);
        }
        let grows = usize::try_from((at + bytes.len() as u64).saturating_sub(len)).unwrap_or(usize::MAX);
        let short = grows.saturating_sub(inner.room()).min(bytes.len());
        let fits = bytes.len() - short;
        if fits == 0 && !bytes.is_empty() {
            return Err(Errno::NOSPC.into());
        }
        inner.change(self.inode, Change::Write(at, bytes[..fits].to_vec()))?;
        *cursor = at + fits as u64;
        Ok(fits)
    }

    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut inner = self.shared.begin(Kind::Read, &self.name)?;
        let (now, _) = inner.file(self.inode)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(now.len());
        let count = buffer.len().min(now.len() - from);
        buffer[..count].copy_from_slice(&now[from..from + count]);
        Ok(count)
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.shared.begin(Kind::SetLen, &self.name)?;
        inner.change(self.inode, Change::Len(len))
    }

    pub(super) fn file_system(&self) -> u64 {
        self.shared.lock().file_system
    }

    pub(super) fn boot_id(&self) -> String {
        format!("boot-{}", self.shared.lock().image.boot)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        if let Some(holders) = inner.locks.get_mut(&self.inode) {
            holders.retain(|(id, _)| *id != self.id);
            self.shared.unlocked.notify_all();
        }
    }
}
