//! The listing index: a cache of which instances there are, in the order of their creation, so that
//! the newest of a million are found without reading the names of all.
//!
//! The directories are the truth. To know whether the index still fits, each line of it says what
//! `instances/` was like after it: its inode and the time of its last change, which the kernel sets
//! at every change of a name, and which nobody can set. Whoever changes a name goes through the
//! [`Door`]: under a lock it looks at the directory before and after, and adds a line, if the index
//! knew the directory as it was before. So when somebody else has changed it, no line comes any
//! more; the next listing sees that, reads the names, and writes the index anew.

mod index;
mod line;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use line::{Event, Header, Stamp};

use super::fs::{File, Held, Identity};
use super::layout;
use super::root::Root;
use crate::error::Result;
use crate::record::InstanceId;

pub(crate) use index::{Damaged, Index};
pub(crate) use line::{Created, Entry};

/// A root with fewer instances has no index: it is read as fast without.
#[cfg(not(test))]
pub(crate) const WORTH_IT: usize = 4096;
#[cfg(test)]
pub(crate) const WORTH_IT: usize = 4;

/// What `instances/` is like now.
fn stamp(root: &Root) -> Result<Stamp> {
    let stat = root.instances.own_stat()?;
    Ok(Stamp { boot: crc32fast::hash(root.boot_id.as_bytes()), inode: stat.identity.inode, changed: stat.changed })
}

/// What is about to change in `instances/`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change<'a> {
    Add(&'a InstanceId, Created),
    Remove(&'a InstanceId),
}

/// Where every change of `instances/` goes through. One per open root.
#[derive(Debug, Default)]
pub(crate) struct Door(Mutex<Option<Tail>>);

/// The end of the index, as this process knows it.
#[derive(Debug)]
struct Tail {
    file: File,
    identity: Identity,
    /// Where the entries end, and how long the file may become.
    most: u64,
    len: u64,
    stamp: Stamp,
}

impl Door {
    fn tail(&self) -> MutexGuard<'_, Option<Tail>> {
        // What is in it is compared with the file at each use.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something while nobody who goes through the door changes `instances/`, or the index.
    fn alone<T>(&self, root: &Root, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let _tail = self.tail();
        let _held = root.instances.hold()?;
        act()
    }

    /// Changes `instances/`: `act` says whether it did.
    pub(crate) fn through(&self, root: &Root, change: Change<'_>, act: impl FnOnce() -> Result<bool>) -> Result<bool> {
        self.enter(root).change(change, act)
    }

    /// For several changes of `instances/`, between which nobody else who goes through the door has his.
    pub(crate) fn enter<'a>(&'a self, root: &'a Root) -> Inside<'a> {
        let mut tail = self.tail();
        // Without the lock the index does not hear of them, and does not fit any more.
        let held = root.instances.hold().ok();
        let fits = held.is_some() && tail_that_fits(&mut tail, root).unwrap_or_default();
        Inside { root, fits, _held: held, tail }
    }

    /// Adds to the index what it should know of an instance that is in its place.
    pub(crate) fn correct(&self, root: &Root, id: &InstanceId, created: Created) {
        // Nothing that could fail is done.
        let _ = self.through(root, Change::Add(id, created), || Ok(true));
    }

    /// Begins to write the index anew. The names have to be read after this.
    ///
    /// `anew` says that the entries of the present one cannot be read.
    pub(crate) fn begin(&self, root: &Root, anew: bool) -> Result<Rewrite> {
        self.alone(root, || {
            let now = stamp(root)?;
            let index = if anew { None } else { Index::open(root)? };
            let mut text = String::new();
            let Some(index) = index else {
                line::push_header(&mut text, &Header { entries: 0, stamp: now });
                line::push_event(&mut text, &Event::Gap, &now);
                super::atomic::replace(&root.internal, layout::LISTING, text.as_bytes(), super::atomic::Sync::No)?;
                let identity = root.internal.stat(layout::LISTING)?.map(|stat| stat.identity);
                return Ok(Rewrite { identity, offset: text.len() as u64, stamp: now, index: None });
            };
            if index.is_whole() && index.stamp == now {
                // Everything is known that happened since somebody else began.
                return Ok(Rewrite {
                    identity: Some(index.identity),
                    offset: index.good,
                    stamp: now,
                    index: Some(index),
                });
            }
            let file = root.internal.open_or_create_file(layout::LISTING)?;
            line::push_event(&mut text, &Event::Gap, &now);
            file.write_all_at(text.as_bytes(), index.good)?;
            let offset = index.good + text.len() as u64;
            // What could not be read is of no use.
            file.set_len(offset)?;
            Ok(Rewrite { identity: Some(index.identity), offset, stamp: now, index: Some(index) })
        })
    }

    /// Writes an index anew that fits, because much stands behind its entries.
    pub(crate) fn compact(root: &Root, index: Index) -> Result<()> {
        let Some(all) = index.all()? else { return Ok(()) };
        let (identity, offset, stamp) = (Some(index.identity), index.good, index.stamp);
        Rewrite { identity, offset, stamp, index: Some(index) }.publish(root, all.into_iter().map(|(id, at)| (at, id)))
    }

    /// Removes the index of a root that has become small.
    pub(crate) fn close(&self, root: &Root) -> Result<()> {
        self.alone(root, || root.internal.remove_file(layout::LISTING).map(drop))
    }
}

/// Whoever changes `instances/`, until this is dropped.
pub(crate) struct Inside<'a> {
    root: &'a Root,
    /// Whether the index knows `instances/` as it is.
    fits: bool,
    // Let go before the tail: the lock belongs to a directory that all threads share.
    _held: Option<Held<'a>>,
    tail: MutexGuard<'a, Option<Tail>>,
}

impl Inside<'_> {
    /// Makes one change: `act` says whether it did. The index is a cache: what cannot be written to it
    /// is made good by the next listing.
    pub(crate) fn change(&mut self, change: Change<'_>, act: impl FnOnce() -> Result<bool>) -> Result<bool> {
        let changed = act()?;
        if changed
            && self.fits
            && let Some(known) = self.tail.as_mut()
            && let Err(error) = known.add(self.root, change)
        {
            tracing::debug!(%error, "the listing index is left as it is");
            *self.tail = None;
            self.fits = false;
        }
        Ok(changed)
    }
}

/// Whether there is an index, and it knows `instances/` as it is: `tail` is its end then.
fn tail_that_fits(tail: &mut Option<Tail>, root: &Root) -> Result<bool> {
    let Some(stat) = root.internal.stat(layout::LISTING)? else {
        *tail = None;
        return Ok(false);
    };
    if tail.as_ref().is_none_or(|known| known.identity != stat.identity || known.len != stat.len) {
        *tail = Tail::open(root)?;
    }
    let Some(known) = tail else { return Ok(false) };
    Ok(known.len < known.most && known.stamp == stamp(root)?)
}

impl Tail {
    fn open(root: &Root) -> Result<Option<Self>> {
        let Some(file) = root.internal.open_file(layout::LISTING)? else { return Ok(None) };
        let (identity, len) = (file.stat()?.identity, file.len()?);
        let Some((header, begin)) = index::header(&file, len)? else { return Ok(None) };
        let end = begin + header.entries;
        let Some(stamp) = index::last_stamp(&file, len, end, &header)? else { return Ok(None) };
        let file = root.internal.open_append(layout::LISTING)?;
        let same = file.stat()?.identity == identity;
        Ok(same.then_some(Self { file, identity, most: end + index::most_behind(header.entries), len, stamp }))
    }

    fn add(&mut self, root: &Root, change: Change<'_>) -> Result<()> {
        let stamp = stamp(root)?;
        let event = match change {
            Change::Add(id, created) => Event::Added(created, id.clone()),
            Change::Remove(id) => Event::Removed(id.clone()),
        };
        let mut text = String::with_capacity(256);
        line::push_event(&mut text, &event, &stamp);
        self.file.write_all(text.as_bytes())?;
        self.len += text.len() as u64;
        self.stamp = stamp;
        Ok(())
    }
}

/// An index that is being written anew, while others go on adding to the present one.
pub(crate) struct Rewrite {
    /// The present one, and from where on in it everything is known that happens.
    identity: Option<Identity>,
    offset: u64,
    stamp: Stamp,
    index: Option<Index>,
}

impl Rewrite {
    /// The instances that the present one knows, as far as it can be read.
    pub(crate) fn known(&self) -> Result<BTreeMap<InstanceId, Created>> {
        Ok(self.index.as_ref().map(Index::all).transpose()?.flatten().unwrap_or_default())
    }

    /// Whether the present one fits, and has just these.
    pub(crate) fn says(&self, entries: &[Entry]) -> bool {
        let known = match &self.index {
            Some(index) if index.is_complete() && !index.is_long() => index.all().ok().flatten(),
            _ => None,
        };
        known.is_some_and(|known| {
            known.len() == entries.len() && entries.iter().all(|(created, id)| known.get(id) == Some(created))
        })
    }

    /// Puts these entries in the place of the present ones, with what was added meanwhile behind
    /// them. Does nothing when somebody else was faster.
    pub(crate) fn publish(self, root: &Root, entries: impl Iterator<Item = Entry>) -> Result<()> {
        let mut sorted: Vec<Entry> = entries.collect();
        sorted.sort_unstable();
        let mut body = String::new();
        for entry in &sorted {
            line::push_entry(&mut body, entry);
        }
        let mut text = String::new();
        line::push_header(&mut text, &Header { entries: body.len() as u64, stamp: self.stamp });
        // Two who write at once would write into the same file: the second leaves it to the first.
        let name = layout::temporary(layout::LISTING);
        let temporary = root.internal.open_or_create_file(&name)?;
        let identity = temporary.stat()?.identity;
        let Some(temporary) = temporary.try_lock()? else { return Ok(()) };
        if root.internal.stat(&name)?.is_none_or(|stat| stat.identity != identity) {
            return Ok(());
        }
        temporary.set_len(0)?;
        temporary.write_all_at(text.as_bytes(), 0)?;
        temporary.write_all_at(body.as_bytes(), text.len() as u64)?;
        root.door.alone(root, || {
            let present = Index::open(root)?.filter(|present| Some(present.identity) == self.identity);
            let Some(present) = present.filter(|present| present.good >= self.offset) else { return Ok(()) };
            let meanwhile = present.bytes(self.offset)?;
            temporary.write_all_at(&meanwhile, (text.len() + body.len()) as u64)?;
            root.internal.rename(&name, &root.internal, layout::LISTING)
        })
    }
}
