//! What a dead writer left in its log goes into the directories.
//!
//! Idempotent: dying in it and recovering again gives the same result, because a segment is removed
//! only when every file that it covers is on disk, and writing the same commits twice changes
//! nothing. Segments that are left behind without those that followed them change nothing either: the
//! files are newer, and the life that they tell of may be over (`trash.rs`). A writer that shuts down
//! while another lives on leaves the same. No byte is deleted that the library did not write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::activate;
use super::chain::{self, Chain, How, LOST, Prepared};
use super::collect::{self, Remains};
use super::commit::{CommitMeta, Line};
use super::lane::sync_files;
use super::renewal::Renewal;
use super::trash;
use crate::blocking;
use crate::disk::atomic::{self, Sync};
use crate::disk::fs::{Dir, Lock, Locked};
use crate::disk::root::Root;
use crate::disk::{layout, lock, staging};
use crate::error::{Error, Result};
use crate::metrics;
use crate::mutants::{Protection, without};
use crate::options::Options;
use crate::record::InstanceId;

/// Most threads that recover instances, and how many of these are worth one.
const THREADS: usize = 16;
const INSTANCES_PER_THREAD: usize = 16;

/// What a recovery did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) writers: usize,
    pub(crate) commits: usize,
    pub(crate) interrupted: Vec<InstanceId>,
}

/// Recovers every dead writer. `own` is the writer that asks, if it is one. Blocks.
pub(crate) fn recover(root: &Arc<Root>, own: Option<Uuid>) -> Result<Recovered> {
    let _order = root.recovery_lock()?.lock(Lock::Exclusive)?;
    recover_locked(root, own)
}

/// Recovers if a writer other than `own` is dead: it may have died with an alarm that only its log
/// has. One that is not dead yet is for the next time. Blocks.
pub(crate) fn recover_if_dead(root: &Arc<Root>, own: Uuid) -> Result<()> {
    let order = root.recovery_lock()?.lock(Lock::Shared)?;
    let dead = lock::any_dead_writer(root, own)?;
    drop(order);
    match if dead { recover(root, Some(own)).map(drop) } else { Ok(()) } {
        Err(Error::Locked { .. }) => Ok(()),
        other => other,
    }
}

/// Like [`recover`], but does nothing when that would mean to wait; `None` then.
pub(crate) fn try_recover(root: &Arc<Root>) -> Result<Option<Recovered>> {
    let Some(_order) = root.recovery_lock()?.try_lock()? else { return Ok(None) };
    recover_locked(root, None).map(Some)
}

fn recover_locked(root: &Arc<Root>, own: Option<Uuid>) -> Result<Recovered> {
    lock::remove_unborn(root)?;
    staging::remove_abandoned(root);
    let dead = lock::dead_writers(root, own)?;
    let mut done = Recovered { writers: dead.len(), ..Recovered::default() };
    if dead.is_empty() {
        return Ok(done);
    }
    let span = tracing::info_span!("recover").entered();
    let mut remains: BTreeMap<InstanceId, Remains> = BTreeMap::new();
    for writer in &dead {
        collect::collect(root, &writer.dir, writer.id, &mut remains)?;
    }
    let recovery = Recovery {
        root,
        span: &span,
        dead: dead.iter().map(|w| w.id).collect(),
        dying: Dying { pids: dead.iter().filter_map(|w| w.pid).collect(), living: lock::living_pids(root, &dead)? },
    };
    let remnants: Vec<Remnant> = remains.into_iter().map(|(id, remains)| Remnant::of(id, remains)).collect();
    let instances = remnants.len();
    let mut blocked = false;
    for (remnant, brought) in remnants.iter().zip(recovery.bring_up(&remnants)?) {
        done.commits += remnant.commits;
        blocked |= brought.blocked;
        done.interrupted.extend(brought.interrupted.then(|| remnant.id.clone()));
    }
    root.sync_names()?;
    root.alarms.sync(&root.internal)?;
    if blocked {
        for writer in &dead {
            collect::keep_log(root, writer)?;
        }
    }
    for writer in dead {
        writer.remove(root)?;
    }
    // To give so much memory back takes its time, and nobody has to wait for it.
    drop(std::thread::Builder::new().name("fiefdom-free".into()).spawn(move || drop(remnants)));
    trash::empty(root, own);
    metrics::RECOVERIES.add(1);
    metrics::RECOVERED_INSTANCES.add(instances);
    metrics::RECOVERED_COMMITS.add(done.commits);
    metrics::INTERRUPTED.add(done.interrupted.len());
    tracing::info!(
        writers = done.writers,
        instances,
        commits = done.commits,
        interrupted = done.interrupted.len(),
        "recovered what dead writers left"
    );
    Ok(done)
}

/// Everything that dead writers left of one instance, in order.
struct Remnant {
    id: InstanceId,
    /// An instance of that id may have been deleted and made again: each life for itself.
    lives: Vec<(Uuid, Chain)>,
    commits: usize,
    /// Its last commits that were lost to damage.
    lost: u64,
}

impl Remnant {
    fn of(id: InstanceId, remains: Remains) -> Self {
        let commits = remains.lines.iter().filter_map(|line| line.commit.as_ref()).map(CommitMeta::count).sum();
        let mut lives: Vec<(Uuid, Vec<Line>)> = Vec::new();
        let mut rest = remains.lines;
        // Nearly always there is one, and nothing is left.
        while let Some(uid) = rest.first().and_then(|line| line.commit.as_ref()).map(|commit| commit.uid) {
            let is_other = |line: &mut Line| line.commit.as_ref().is_none_or(|commit| commit.uid != uid);
            let others = rest.extract_if(.., is_other).collect();
            lives.push((uid, std::mem::replace(&mut rest, others)));
        }
        let lives = lives.into_iter().map(|(uid, lines)| (uid, Chain::of(lines))).collect();
        Self { id, lives, commits, lost: remains.lost }
    }

    /// The last activation that its logs know of.
    fn epoch(&self) -> Option<u64> {
        self.lives.iter().filter_map(|(_, chain)| chain.epoch()).max()
    }
}

/// What was done with one instance.
#[derive(Default)]
struct Brought {
    blocked: bool,
    interrupted: bool,
    /// Its new files, as long as they are not in their places.
    renewal: Option<Renewal>,
}

impl Brought {
    /// What its new files hold.
    fn bytes(&self) -> u64 {
        self.renewal.as_ref().map_or(0, |renewal| renewal.bytes)
    }
}

impl From<Prepared> for Brought {
    fn from(prepared: Prepared) -> Self {
        match prepared {
            Prepared::Nothing => Self::default(),
            Prepared::Blocked => Self { blocked: true, ..Self::default() },
            Prepared::Renewed(renewal) => {
                Self { interrupted: renewal.interrupted, renewal: Some(renewal), ..Self::default() }
            }
        }
    }
}

/// One recovery. `recovery.lock` is held alone, so nobody takes an instance meanwhile: what is free at
/// one moment of it is free at the next.
struct Recovery<'a> {
    root: &'a Root,
    span: &'a tracing::Span,
    dead: BTreeSet<Uuid>,
    dying: Dying,
}

impl Recovery<'_> {
    /// Brings instances up to their last commits, durably.
    fn bring_up(&self, all: &[Remnant]) -> Result<Vec<Brought>> {
        if all.len() < many() {
            return self.one_by_one(all);
        }
        let mut done = Vec::with_capacity(all.len());
        while done.len() < all.len() {
            let rest = &all[done.len()..];
            match self.together(rest) {
                Ok(Some(group)) => done.extend(group),
                failed => {
                    tracing::debug!(error = ?failed.err(), "instances are recovered one by one");
                    self.discard(rest);
                    done.extend(self.one_by_one(rest)?);
                }
            }
        }
        Ok(done)
    }

    /// Each file is flushed on its own.
    fn one_by_one(&self, all: &[Remnant]) -> Result<Vec<Brought>> {
        for_each(all, |remnant| {
            let brought = self.prepare(remnant, Sync::Yes)?;
            self.publish(remnant, &brought, Sync::Yes)?;
            self.settle(remnant, &brought)?;
            Ok(brought)
        })
    }

    /// The first of these, as many as their new files let. The whole file system is flushed twice: when
    /// all new files are written and none has its name, so that nobody sees what a power cut could take
    /// back; and when all have their names, before the logs go.
    ///
    /// `None` when that is not known to be done. A flush that failed does not say whose bytes it
    /// concerns, and there may be no room for so many new files at once: in whatever way this fails,
    /// all of it can be done again, file by file, in new files.
    fn together(&self, all: &[Remnant]) -> Result<Option<Vec<Brought>>> {
        let mut group: Vec<Brought> = Vec::new();
        while group.len() < all.len() && group.iter().map(Brought::bytes).sum::<u64>() < GROUP_BYTES {
            let next = &all[group.len()..all.len().min(group.len() + AT_ONCE)];
            group.extend(for_each(next, |remnant| self.prepare(remnant, Sync::No))?);
        }
        if !without(Protection::BatchFlush) && !self.root.top.sync_file_system() {
            return Ok(None);
        }
        let pairs: Vec<(&Remnant, &Brought)> = all.iter().zip(&group).collect();
        for_each(&pairs, |(remnant, brought)| self.publish(remnant, brought, Sync::No))?;
        if !self.root.top.sync_file_system() {
            return Ok(None);
        }
        for_each(&pairs, |(remnant, brought)| self.settle(remnant, brought))?;
        Ok(Some(group))
    }

    /// Removes new files that have no names yet. What cannot be removed is written over by the next
    /// recovery.
    fn discard(&self, all: &[Remnant]) {
        for remnant in all {
            if let Ok(Some(dir)) = self.locked(&remnant.id) {
                let _ = Renewal::discard(&dir);
            }
        }
    }

    /// Writes the new files of one instance, which have no names yet.
    fn prepare(&self, remnant: &Remnant, sync: Sync) -> Result<Brought> {
        let (root, id) = (self.root, &remnant.id);
        // Under what happens to all, also on another thread.
        let _span = tracing::debug_span!(parent: self.span, "recover_instance", %id, epoch = remnant.epoch()).entered();
        // A life is over when its log says so, or its directory is in the trash. Of the others there is
        // one, unless somebody removed a directory by hand: then the newest has the name.
        let (mut over, mut going_on) = (Vec::new(), Vec::new());
        for (uid, chain) in &remnant.lives {
            let ended = chain.is_deleted() || trash::holds(root, id, *uid)?;
            if ended { over.push(*uid) } else { going_on.push((*uid, chain)) }
        }
        for uid in over {
            bury(root, id, uid, going_on.is_empty(), &self.dying)?;
        }
        going_on.sort_by_key(|(_, chain)| std::cmp::Reverse(chain.begun()));
        let mut how = How { sync, dead: Some(&self.dead), lost: remnant.lost };
        if let [(uid, chain)] = going_on[..] {
            return self.prepare_life(id, uid, chain, how);
        }
        if going_on.is_empty() {
            if remnant.lost > 0 {
                block(root, id, LOST)?;
                return Ok(Prepared::Blocked.into());
            }
            let Some(dir) = claim(root, id, &self.dying)? else { return Ok(Brought::default()) };
            return chain::interrupt_on_disk(root, id, &dir, how).map(Brought::from);
        }
        let mut all = Brought::default();
        for (uid, chain) in going_on {
            // The next one must find what this one leaves.
            how.sync = Sync::Yes;
            let brought = self.prepare_life(id, uid, chain, how)?;
            self.publish(remnant, &brought, Sync::Yes)?;
            self.settle(remnant, &brought)?;
            all.blocked |= brought.blocked;
            all.interrupted |= brought.interrupted;
            how.lost = 0;
        }
        Ok(all)
    }

    fn prepare_life(&self, id: &InstanceId, uid: Uuid, chain: &Chain, how: How<'_>) -> Result<Brought> {
        // A directory that is missing was removed by somebody: its name was on disk before a commit
        // at the level `Disk` was acknowledged.
        let Some(dir) = claim(self.root, id, &self.dying)? else {
            // Its entry was made when the files were, and may not be on disk.
            chain.note_alarm(self.root);
            return Ok(Brought::default());
        };
        chain.prepare(self.root, id, uid, &dir, how).map(Brought::from)
    }

    fn publish(&self, remnant: &Remnant, brought: &Brought, sync: Sync) -> Result<()> {
        let Some(renewal) = &brought.renewal else { return Ok(()) };
        self.locked(&remnant.id)?.map_or(Ok(()), |dir| renewal.publish(&dir, sync))
    }

    fn settle(&self, remnant: &Remnant, brought: &Brought) -> Result<()> {
        let Some(renewal) = brought.renewal.as_ref().filter(|renewal| !renewal.is_settled()) else { return Ok(()) };
        self.locked(&remnant.id)?.map_or(Ok(()), |dir| renewal.settle(self.root, &dir))
    }

    /// The directory that was claimed before; `None` when somebody has removed it since.
    fn locked(&self, id: &InstanceId) -> Result<Option<Locked<Dir>>> {
        match lock::lock_instance(self.root, id) {
            Ok(dir) => Ok(Some(dir)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// From how many instances on they are brought up, or made durable, together.
///
/// Each instance alone takes about four flushes, each of little. All together take two, but of
/// everything that anybody has not flushed on this file system.
const MANY: usize = 33;

/// What new files may add up to before they get their names, in bytes; it is looked at behind so many
/// instances ([`AT_ONCE`]). A large group is fast: what is replaced goes when the names are given, and
/// ext4 passes over every inode that was freed lately when it makes a file.
const GROUP_BYTES: u64 = 512 << 20;
/// How many instances are written for at once.
const AT_ONCE: usize = 256;

pub(super) fn many() -> usize {
    #[cfg(test)]
    if let Some(many) = TESTED_MANY.get() {
        return many;
    }
    MANY
}

#[cfg(test)]
thread_local! {
    /// What a test has put in the place of [`MANY`].
    pub(crate) static TESTED_MANY: std::cell::Cell<Option<usize>> = const { std::cell::Cell::new(None) };
}

fn for_each<T: std::marker::Sync, R: Send>(
    all: &[T],
    one: impl Fn(&T) -> Result<R> + std::marker::Sync,
) -> Result<Vec<R>> {
    blocking::at_once(all, THREADS, INSTANCES_PER_THREAD, &one)
}

/// Finishes a deletion. A directory whose record is missing or torn (after a power cut) is that of the
/// deleted instance only if no other life has its record in the log alone (`alone`), and only if the
/// directory of the deleted one was not moved before.
fn bury(root: &Root, id: &InstanceId, uid: Uuid, alone: bool, dying: &Dying) -> Result<()> {
    let Some(dir) = claim(root, id, dying)? else { return Ok(()) };
    let bytes = activate::read_bytes(&dir, &Options::default())?;
    let is_its_own = match bytes.map(|bytes| activate::parse(&dir, id, &bytes)) {
        Some(Ok(record)) => record.uid == uid,
        Some(Err(e @ Error::NewerFormat { .. })) => return Err(e),
        Some(Err(_)) | None => alone && !trash::holds(root, id, uid)?,
    };
    if is_its_own {
        lock::move_to_trash(root, id, &layout::trashed(id, uid))?;
    }
    Ok(())
}

/// Whose locks may be about to go: a process that dies lets them go one by one.
struct Dying {
    pids: BTreeSet<u32>,
    /// Processes that have the root open. One of them may have had another store that is gone.
    living: BTreeSet<u32>,
}

/// How long the locks of a process that is dying may last.
const DYING: Duration = Duration::from_secs(2);

/// Locks the directory for recovery. `None` when it is not there, or when a living process owns it:
/// that one read the files when they were complete, because this writer was alive then.
fn claim(root: &Root, id: &InstanceId, dying: &Dying) -> Result<Option<Locked<Dir>>> {
    let begun = Instant::now();
    loop {
        let owner = match lock::lock_instance(root, id) {
            Ok(dir) => return Ok(Some(dir)),
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(Error::Locked { owner, .. }) => owner.map(|owner| owner.pid),
            Err(e) => return Err(e),
        };
        // Where the kernel does not say who has the lock it may be anybody.
        if owner.is_none_or(|pid| dying.pids.contains(&pid)) && begun.elapsed() < DYING {
            #[expect(clippy::disallowed_methods, reason = "disk work, on a thread that may block")]
            std::thread::sleep(Duration::from_millis(2));
        } else if owner.is_some_and(|pid| dying.pids.contains(&pid) && !dying.living.contains(&pid)) {
            return Err(Error::Locked { id: id.clone(), owner: None });
        } else {
            break;
        }
    }
    if let Some(dir) = root.instances.open_dir(id.as_str())? {
        sync_files(&dir)?;
    }
    Ok(None)
}

/// Takes an instance out of use whose acknowledged commits cannot all be brought back.
pub(super) fn block(root: &Root, id: &InstanceId, reason: &str) -> Result<()> {
    metrics::BLOCKED.add(1);
    tracing::error!(%id, reason, "an instance cannot be recovered, and is blocked");
    let text = serde_json::json!({ "instance_id": id, "at": chrono::Utc::now(), "reason": reason }).to_string();
    atomic::replace(&root.quarantine, &layout::blocked(id), text.as_bytes(), Sync::Yes)
}

/// Refuses an instance that [`block`] took out of use, until a person removes the file.
pub(crate) fn refuse_if_blocked(root: &Root, id: &InstanceId) -> Result<()> {
    let name = layout::blocked(id);
    if root.quarantine.stat(&name)?.is_none() {
        return Ok(());
    }
    let reason = "a recovery could not bring back all commits of this instance; this file says why: remove it to go on with what is there";
    Err(Error::corrupt(&root.quarantine.path_of(&name), None, reason))
}
