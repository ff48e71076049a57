//! Looking at every file of a root, without a lock and without changing one.
//!
//! Others write meanwhile, so one look proves nothing. What looks wrong is looked at again after a
//! moment, and again; a finding is what stayed the same each time.

mod events;
mod instance;
mod internal;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use super::doctor::{Finding, Fix, Report, Severity};
use crate::disk::fs::Dir;
use crate::disk::root::Root;
use crate::disk::{layout, lock};
use crate::error::Result;
use crate::record::InstanceId;

/// Looks behind the first, and the time before each.
const MORE_LOOKS: usize = 2;
const BETWEEN_LOOKS: Duration = Duration::from_millis(150);

/// Most findings about one file: behind so many, more of them say nothing new.
const FINDINGS_PER_FILE: usize = 20;

/// Largest note in the quarantine, in bytes.
const NOTE_BYTES: u64 = 64 * 1024;

const UNREADABLE: &str = "nothing; see why it cannot be read";
const NOT_OURS: &str = "nothing; it is not ours";
const BY_HAND: &str = "nothing: there is no second copy to mend it from; put it back from a backup, or `rm -r` the directory of the instance";

/// What is looked at, and looked at again, as one.
#[derive(Clone, Debug)]
pub(super) enum Unit {
    Top,
    Writer(String),
    Trash(String),
    Quarantine,
    Instance(String),
}

/// What one look sees.
struct Look<'a> {
    root: &'a Root,
    /// Inodes that somebody has locked.
    locked: BTreeSet<u64>,
    /// Whether a dead writer waits for recovery: then files may lag behind its log.
    waiting: bool,
    files: usize,
    live: usize,
    found: Vec<Finding>,
}

pub(super) fn all(root: &Root, mut watch: impl FnMut(usize, usize)) -> Result<Report> {
    let mut units = vec![Unit::Top, Unit::Quarantine];
    units.extend(root.writers.names()?.into_iter().map(Unit::Writer));
    units.extend(root.trash.names()?.into_iter().map(Unit::Trash));
    let mut names = root.instances.names()?;
    names.sort_unstable();
    let instances = names.iter().filter(|name| InstanceId::new(name).is_ok()).count();
    units.extend(names.into_iter().map(Unit::Instance));

    let mut look = Look::new(root, lock::locked_inodes())?;
    let total = units.len();
    let mut suspects: Vec<(Unit, Vec<Finding>)> = Vec::new();
    for (nth, unit) in units.into_iter().enumerate() {
        let found = look.at(&unit);
        if !found.is_empty() {
            suspects.push((unit, found));
        }
        watch(nth + 1, total);
    }
    let (files, live) = (look.files, look.live);
    for _ in 0..MORE_LOOKS {
        if suspects.is_empty() {
            break;
        }
        #[expect(clippy::disallowed_methods, reason = "a look at files is blocking as a whole")]
        std::thread::sleep(BETWEEN_LOOKS);
        let mut look = Look::new(root, lock::locked_inodes())?;
        for (unit, found) in &mut suspects {
            let again = look.at(unit);
            found.retain(|finding| again.contains(finding));
        }
        suspects.retain(|(_, found)| !found.is_empty());
    }
    let mut findings: Vec<Finding> = suspects.into_iter().flat_map(|(_, found)| found).collect();
    findings.sort_by_key(|finding| finding.severity);
    Ok(Report { root: root.top.path().to_owned(), instances, live, files, findings })
}

/// One look, by whoever holds the locks: nobody else writes.
pub(super) fn under_lock(root: &Root, unit: &Unit) -> Vec<Finding> {
    let mut look = Look { root, locked: BTreeSet::new(), waiting: false, files: 0, live: 0, found: Vec::new() };
    look.at_locked(unit)
}

/// What a recovery would do something about, by path.
pub(super) fn recoverable(root: &Root) -> Result<BTreeSet<PathBuf>> {
    let mut look = Look::new(root, lock::locked_inodes())?;
    let mut paths = BTreeSet::new();
    for name in root.writers.names()? {
        let found = look.at(&Unit::Writer(name));
        paths.extend(found.into_iter().filter(|f| f.fix == Fix::Recover).map(|f| f.path));
    }
    Ok(paths)
}

impl<'a> Look<'a> {
    fn new(root: &'a Root, locked: BTreeSet<u64>) -> Result<Self> {
        let mut look = Self { root, locked, waiting: false, files: 0, live: 0, found: Vec::new() };
        for name in root.writers.names()? {
            look.waiting |= Uuid::parse_str(&name).is_ok() && !look.is_alive(&name).unwrap_or(true);
        }
        Ok(look)
    }

    fn is_alive(&self, writer: &str) -> Result<bool> {
        let Some(dir) = self.root.writers.open_dir(writer)? else { return Ok(true) };
        let lock = dir.stat(layout::WRITER_LOCK)?;
        Ok(lock.is_some_and(|lock| self.locked.contains(&lock.identity.inode)))
    }

    fn at(&mut self, unit: &Unit) -> Vec<Finding> {
        let mut found = self.at_locked(unit);
        if let Unit::Instance(name) = unit
            && !found.is_empty()
            && !self.is_live(name)
        {
            // It may have come to life since the list of locks was read.
            let before = std::mem::replace(&mut self.locked, lock::locked_inodes());
            if self.is_live(name) {
                found = self.at_locked(unit);
            }
            self.locked = before;
        }
        found
    }

    fn is_live(&self, instance: &str) -> bool {
        let stat = self.root.instances.stat(instance).ok().flatten();
        stat.is_some_and(|stat| self.locked.contains(&stat.identity.inode))
    }

    fn at_locked(&mut self, unit: &Unit) -> Vec<Finding> {
        let (path, done) = match unit {
            Unit::Top => (self.root.internal.path().to_owned(), self.top()),
            Unit::Quarantine => (self.root.quarantine.path().to_owned(), self.quarantine()),
            Unit::Writer(name) => (self.root.writers.path_of(name), self.writer(name)),
            Unit::Trash(name) => (self.root.trash.path_of(name), self.trash(name)),
            Unit::Instance(name) => (self.root.instances.path_of(name), self.entry(name)),
        };
        let mut found = std::mem::take(&mut self.found);
        if let Err(error) = done {
            found.push(Finding::of_error(&path, &error, UNREADABLE));
        }
        if let Unit::Instance(name) = unit {
            let id = InstanceId::new(name).ok();
            for finding in &mut found {
                finding.instance.clone_from(&id);
            }
        }
        found
    }

    fn note(&mut self, path: &Path, reason: impl Into<String>, repair: impl Into<String>) {
        self.found.push(Finding::new(Severity::Note, path, reason, repair));
    }

    fn damage(&mut self, path: &Path, offset: Option<u64>, reason: impl Into<String>) {
        self.found.push(Finding::new(Severity::Damage, path, reason, BY_HAND).at(offset));
    }

    fn check_mode(&mut self, dir: &Dir, name: &str) -> Result<()> {
        if let Some(stat) = dir.stat(name)?
            && stat.mode & 0o077 != 0
        {
            let reason = format!("other users may use it: its mode is {:04o}", stat.mode);
            self.note(&dir.path_of(name), reason, "nothing; use chmod if that is not meant");
        }
        Ok(())
    }
}
