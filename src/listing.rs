//! Listing: all instances, or the newest through the index of `disk/listing`. The index only says
//! where to look: what is listed is what the records say.

use std::collections::BTreeMap;

use crate::blocking;
use crate::disk::listing::{Created, Damaged, Door, Entry, Index, Rewrite, WORTH_IT};
use crate::disk::root::Root;
use crate::error::{Error, Result};
use crate::log::activate;
use crate::record::{InstanceId, RawRecord, Record};
use crate::view::{Filter, Listing, View};

/// How many entries of the index one listing corrects.
const CORRECTIONS: usize = 256;

/// Most threads that read when instances were created, and how many of these are worth one.
const THREADS: usize = 8;
const IDS_PER_THREAD: usize = 1024;

impl View {
    pub(crate) fn list_where<S>(
        &self,
        filter: &Filter,
        parse: impl Fn(RawRecord) -> Result<Option<Record<S>>>,
    ) -> Result<Listing<S>> {
        let Some(root) = self.root() else { return Ok(Listing { records: Vec::new(), damaged: Vec::new() }) };
        let mut page =
            Page { view: self, filter, parse, found: BTreeMap::new(), damaged: Vec::new(), wrong: Vec::new() };
        if filter.limit.is_some()
            && let Some(index) = cached(Index::current(root))
        {
            let mut entries = index.newest();
            if page.fill(|| entries.next())? {
                if index.is_long() {
                    cached(Door::compact(root, index).map(Some));
                }
                return Ok(page.finish(root));
            }
            page.reset();
            tracing::debug!("the listing index is damaged, and written anew");
            return page.read_names(root, true);
        }
        page.read_names(root, false)
    }
}

/// What a cache says; an error says nothing.
fn cached<T>(looked: Result<Option<T>>) -> Option<T> {
    looked.unwrap_or_else(|error| {
        tracing::debug!(%error, "the listing index is not used");
        None
    })
}

/// The page that is being filled.
struct Page<'a, S, P> {
    view: &'a View,
    filter: &'a Filter,
    parse: P,
    found: BTreeMap<(Created, InstanceId), Record<S>>,
    damaged: Vec<(InstanceId, Error)>,
    /// Instances of which the index does not say when they were created.
    wrong: Vec<Entry>,
}

impl<S, P: Fn(RawRecord) -> Result<Option<Record<S>>>> Page<'_, S, P> {
    /// Looks at instances, the newest first, until there are enough. `false` when a line of the index
    /// cannot be read.
    fn fill(&mut self, mut next: impl FnMut() -> Result<std::result::Result<Option<Entry>, Damaged>>) -> Result<bool> {
        let limit = self.filter.limit.unwrap_or(usize::MAX);
        loop {
            let entry = match next()? {
                Ok(Some(entry)) => entry,
                Ok(None) => return Ok(true),
                Err(Damaged) => return Ok(false),
            };
            // Those that follow are older than the oldest of the page.
            if self.found.len() >= limit && self.found.first_key_value().is_none_or(|(oldest, _)| *oldest > entry) {
                return Ok(true);
            }
            let created = self.look(&entry.1);
            if let Some(created) = created
                && created != entry.0
                && self.wrong.len() < CORRECTIONS
            {
                self.wrong.push((created, entry.1));
            }
        }
    }

    /// Looks at one instance, and says when it was created, if it says so itself.
    fn look(&mut self, id: &InstanceId) -> Option<Created> {
        let raw = match self.view.raw(id) {
            Ok(raw) => raw,
            Err(Error::NotFound { .. }) => return None,
            Err(error) => {
                self.damaged.push((id.clone(), error));
                return None;
            }
        };
        let created = raw.created_at.into();
        let limit = self.filter.limit.unwrap_or(usize::MAX);
        let is_older = |(oldest, _): (&(Created, InstanceId), _)| (created, id) < (oldest.0, &oldest.1);
        let has_place = self.found.len() < limit || !self.found.first_key_value().is_none_or(is_older);
        if has_place && self.filter.accepts(&raw) {
            match (self.parse)(raw) {
                Ok(Some(record)) => {
                    self.found.insert((created, id.clone()), record);
                    if self.found.len() > limit {
                        self.found.pop_first();
                    }
                }
                Ok(None) => {}
                Err(error) => self.damaged.push((id.clone(), error)),
            }
        }
        Some(created)
    }

    fn reset(&mut self) {
        self.found.clear();
        self.damaged.clear();
        self.wrong.clear();
    }

    fn finish(self, root: &Root) -> Listing<S> {
        for (created, id) in &self.wrong {
            root.door.correct(root, id, *created);
        }
        Listing { records: self.found.into_values().rev().collect(), damaged: self.damaged }
    }

    /// Without an index that fits. Where one is worth it, it is written.
    fn read_names(mut self, root: &Root, anew: bool) -> Result<Listing<S>> {
        let mut rewrite = None;
        if root.instances.has_names(WORTH_IT)? {
            rewrite = cached(root.door.begin(root, anew).map(Some));
        } else {
            cached(root.door.close(root).map(Some));
        }
        // What happens from here on is added to the index that is there now.
        let names = root.instances.names()?;
        // What is not ours has no place in the list.
        let ids = names.into_iter().filter_map(|name| InstanceId::new(&name).ok());
        let worth_it = rewrite.is_some() || ids.size_hint().1.is_some_and(|most| most >= WORTH_IT);
        if self.filter.limit.is_none() || !worth_it {
            let mut entries = Vec::new();
            for id in ids {
                let created = self.look(&id);
                if rewrite.is_some() {
                    entries.push((created.unwrap_or(Created::UNKNOWN), id));
                }
            }
            // Every record was read: what an index says that is wrong is put right.
            publish(root, rewrite.filter(|rewrite| !rewrite.says(&entries)), entries);
            return Ok(self.finish(root));
        }
        let known = rewrite.as_ref().and_then(|rewrite| cached(rewrite.known().map(Some))).unwrap_or_default();
        let created = |id: &InstanceId| match known.get(id) {
            Some(created) if *created != Created::UNKNOWN => Ok(*created),
            // One that cannot be read is looked at first, and says why.
            _ => Ok(activate::created(root, id).unwrap_or(Created::UNKNOWN)),
        };
        let ids: Vec<InstanceId> = ids.collect();
        let born = blocking::at_once(&ids, THREADS, IDS_PER_THREAD, &created)?;
        let mut entries: Vec<Entry> = born.into_iter().zip(ids).collect();
        drop(known);
        entries.sort_unstable();
        let mut newest = entries.iter().rev().cloned();
        self.fill(|| Ok(Ok(newest.next())))?;
        publish(root, rewrite, entries);
        Ok(self.finish(root))
    }
}

/// Puts the index in its place, where that is possible.
fn publish(root: &Root, rewrite: Option<Rewrite>, entries: Vec<Entry>) {
    if let Some(rewrite) = rewrite {
        cached(rewrite.publish(root, entries.into_iter()).map(Some));
    }
}

#[cfg(test)]
mod tests;
