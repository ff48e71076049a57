//! What is on a model disk at one moment: the files and directories as a process sees them, as they
//! are durable, and the changes that wait to be. It knows no locks, no failures and no open files.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use crate::disk::handle::Status;

pub(super) type Inode = u64;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) mode: u32,
    pub(super) body: Body,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    File { now: Arc<Vec<u8>>, durable: Arc<Vec<u8>>, pending: Vec<Arc<Change>> },
    Dir { now: BTreeMap<String, Inode>, durable: BTreeMap<String, Inode> },
}

/// A change of the bytes of a file.
#[derive(Debug)]
pub(super) enum Change {
    Write(u64, Vec<u8>),
    Len(u64),
}

pub(super) type Slot = (Inode, String);

/// A change of names.
#[derive(Clone, Debug)]
pub(super) enum Naming {
    Link(Slot, Inode),
    Unlink(Slot),
    Rename(Slot, Slot, Inode),
}

impl Naming {
    pub(super) fn slots(&self) -> [&Slot; 2] {
        match self {
            Self::Link(slot, _) | Self::Unlink(slot) => [slot, slot],
            Self::Rename(from, to, _) => [from, to],
        }
    }
}

/// Everything on a disk at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(super) nodes: BTreeMap<Inode, Arc<Node>>,
    pub(super) namings: Vec<Naming>,
    next_inode: Inode,
    pub(super) boot: u64,
    /// Whatever the test had noted at that moment.
    pub(crate) note: usize,
}

pub(super) const TOP: Inode = 1;

impl Image {
    pub(super) fn empty() -> Self {
        let top = Node { mode: 0o755, body: Body::Dir { now: BTreeMap::new(), durable: BTreeMap::new() } };
        Self {
            nodes: BTreeMap::from([(TOP, Arc::new(top))]),
            namings: Vec::new(),
            next_inode: TOP + 1,
            boot: 1,
            note: 0,
        }
    }

    pub(super) fn make_name_durable(&mut self, naming: &Naming) {
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
    pub(super) fn sync_names(&mut self, dir: Inode) {
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

    /// Makes all waiting names durable.
    pub(super) fn sync_all_names(&mut self) {
        for naming in std::mem::take(&mut self.namings) {
            self.make_name_durable(&naming);
        }
    }

    /// The files with bytes that wait to be durable.
    pub(super) fn unflushed(&self) -> Vec<Inode> {
        let waits = |node: &Arc<Node>| matches!(&node.body, Body::File { pending, .. } if !pending.is_empty());
        self.nodes.iter().filter(|(_, node)| waits(node)).map(|(inode, _)| *inode).collect()
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

    pub(super) fn used(&self) -> usize {
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

    pub(super) fn entry(&self, dir: Inode, name: &str) -> io::Result<Inode> {
        match self.nodes.get(&dir).map(|node| &node.body) {
            Some(Body::Dir { now, .. }) => now.get(name).copied().ok_or_else(|| Errno::NOENT.into()),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    pub(super) fn entries(&mut self, dir: Inode) -> io::Result<&mut BTreeMap<String, Inode>> {
        match self.nodes.get_mut(&dir).map(|node| &mut Arc::make_mut(node).body) {
            Some(Body::Dir { now, .. }) => Ok(now),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    pub(super) fn is_dir(&self, inode: Inode) -> bool {
        matches!(self.nodes.get(&inode).map(|node| &node.body), Some(Body::Dir { .. }))
    }

    pub(super) fn is_empty(&self, inode: Inode) -> bool {
        !matches!(self.nodes.get(&inode).map(|node| &node.body), Some(Body::Dir { now, .. }) if !now.is_empty())
    }

    /// Whether a directory still has a name: nothing can be made in one that was removed.
    pub(super) fn is_linked(&self, inode: Inode) -> bool {
        inode == TOP
            || self
                .nodes
                .values()
                .any(|node| matches!(&node.body, Body::Dir { now, .. } if now.values().any(|linked| *linked == inode)))
    }

    pub(super) fn add(&mut self, dir: Inode, name: &str, mode: u32, body: Body) -> io::Result<Inode> {
        if !self.is_linked(dir) {
            return Err(Errno::NOENT.into());
        }
        let inode = self.next_inode;
        self.entries(dir)?.insert(name.to_owned(), inode);
        self.next_inode += 1;
        self.nodes.insert(inode, Arc::new(Node { mode, body }));
        self.namings.push(Naming::Link((dir, name.to_owned()), inode));
        Ok(inode)
    }

    /// The bytes of a file, as a process sees them.
    pub(super) fn bytes(&self, inode: Inode) -> io::Result<&[u8]> {
        match self.nodes.get(&inode).map(|node| &node.body) {
            Some(Body::File { now, .. }) => Ok(now),
            _ => Err(Errno::ISDIR.into()),
        }
    }

    pub(super) fn change(&mut self, inode: Inode, change: Change) -> io::Result<()> {
        match self.nodes.get_mut(&inode).map(|node| &mut Arc::make_mut(node).body) {
            Some(Body::File { now, pending, .. }) => {
                apply(Arc::make_mut(now), &change);
                pending.push(Arc::new(change));
                Ok(())
            }
            _ => Err(Errno::ISDIR.into()),
        }
    }

    pub(super) fn status(&self, inode: Inode) -> io::Result<Status> {
        let node = self.nodes.get(&inode).ok_or(Errno::NOENT)?;
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
}

pub(super) fn apply(bytes: &mut Vec<u8>, change: &Change) {
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
