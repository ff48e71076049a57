//! A mounted model disk: what a test asks of it, and the one door through which every operation goes
//! ([`Shared::begin`]), where images are kept, failures strike and others come in between.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::fault::{Fault, Kind};
use super::image::{Body, Image, Inode, Node, TOP, apply};
use super::open::Open;
use super::random::Random;
use crate::disk::handle::Access;

/// Where model disks are mounted.
const MOUNTS: &str = "/model";

static MOUNTED: Mutex<BTreeMap<PathBuf, Arc<Shared>>> = Mutex::new(BTreeMap::new());

/// A mounted model disk, until this is dropped.
pub(crate) struct Disk {
    shared: Arc<Shared>,
    path: PathBuf,
}

/// The state of a disk: what is on it, who has it open, and what is planned for it.
pub(super) struct Inner {
    pub(super) image: Image,
    next_open: u64,
    pub(super) locks: HashMap<Inode, Vec<(u64, bool)>>,
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
    pub(super) interrupting: bool,
    pub(super) random: Random,
    /// The magic number that it says it has.
    pub(super) file_system: u64,
    /// Files of which a flush has failed, and one of them that was flushed again.
    pub(super) unflushed: HashSet<Inode>,
    pub(super) flushed_again: Option<String>,
}

/// A disk as its open files have it, mounted or not.
pub(super) struct Shared {
    inner: Mutex<Inner>,
    pub(super) unlocked: Condvar,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self::mount(Image::empty())
    }

    pub(super) fn mount(image: Image) -> Self {
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

    /// The number of its mount.
    pub(crate) fn nth(&self) -> u64 {
        self.path.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or_default()
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
        let found =
            path.split('/').filter(|name| !name.is_empty()).try_fold(TOP, |dir, name| inner.image.entry(dir, name));
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
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(self: &Arc<Self>, inner: &mut Inner, inode: Inode, name: &str, access: Access) -> Open {
        inner.next_open += 1;
        let id = inner.next_open;
        Open { shared: Arc::clone(self), inode, name: name.to_owned(), access, cursor: Mutex::new(0), id }
    }

    /// Begins an operation: what was planned for it happens.
    pub(super) fn begin(&self, kind: Kind, name: &str) -> io::Result<MutexGuard<'_, Inner>> {
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
        if !matches!(kind, Kind::Open | Kind::Read | Kind::List) {
            let Inner { images, image, .. } = &mut *inner;
            images.as_mut().into_iter().for_each(|images| images.push(image.clone()));
        }
        let Some(errno) = inner.fault.as_mut().and_then(|fault| fault.strike(kind, name)) else { return Ok(inner) };
        inner.fault.take_if(|fault| !fault.for_ever);
        inner.fired += 1;
        Err(errno.into())
    }
}

/// Opens the directory at an absolute path; `None` when it is not on a model disk.
pub(in crate::disk) fn open(path: &Path) -> Option<io::Result<Open>> {
    let (shared, names) = find(path)?;
    let mut inner = shared.lock();
    let mut inode = TOP;
    for name in &names {
        match inner.image.entry(inode, name) {
            Ok(found) => inode = found,
            Err(e) => return Some(Err(e)),
        }
    }
    Some(Ok(shared.open(&mut inner, inode, &path.to_string_lossy(), Access::Directory)))
}

pub(in crate::disk) fn make_all(path: &Path, mode: u32) -> Option<io::Result<()>> {
    let (shared, names) = find(path)?;
    let mut inode = TOP;
    for name in &names {
        let dir = shared.open(&mut shared.lock(), inode, name, Access::Directory);
        match dir.make_dir(name, mode) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Some(Err(e)),
            _ => {}
        }
        match shared.lock().image.entry(inode, name) {
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
    /// Bytes that still fit into files.
    pub(super) fn room(&self) -> usize {
        match self.full_at {
            Some(limit) => limit.saturating_sub(self.image.used()),
            None => usize::MAX,
        }
    }

    /// The waiting bytes of a file become durable; of a flush that fails, some.
    pub(super) fn flush(&mut self, inode: Inode, fails: bool) {
        let Self { image, random, .. } = self;
        if let Some(Node { body: Body::File { durable, pending, .. }, .. }) =
            image.nodes.get_mut(&inode).map(Arc::make_mut)
        {
            for change in pending.drain(..) {
                if !fails || random.chance(50) {
                    apply(Arc::make_mut(durable), &change);
                }
            }
        }
    }
}
