//! What a dead writer left in its log goes into the directories.
//!
//! Idempotent: dying in it and recovering again gives the same result, because a segment is removed
//! only when every file that it covers is on disk, and writing the same commits twice changes
//! nothing. Segments that are left behind without those that followed them change nothing either: the
//! files are newer, and the life that they tell of may be over (`trash.rs`). A writer that shuts down
//! while another lives on leaves the same. No byte is deleted that the library did not write.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::activate;
use super::commit::{CommitMeta, Line};
use super::events;
use super::lane::sync_files;
use super::reconcile;
use super::segment::{self, Contents};
use super::trash;
use crate::disk::alarms::AlarmIndex;
use crate::disk::atomic::{self, Sync};
use crate::disk::fs::{Dir, File, Lock, Locked};
use crate::disk::root::Root;
use crate::disk::{layout, lock, quarantine, staging};
use crate::error::{Error, Result};
use crate::metrics;
use crate::mutants::{Protection, without};
use crate::options::Options;
use crate::record::{Document as _, EventLine, InstanceId, RawRecord, Status};

/// Why an instance is taken out of use when the log had more of it than can be read.
const LOST: &str = "its last commits cannot be read: a part of the commit log is damaged";

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

/// Everything that dead writers left of one instance.
#[derive(Default)]
struct Remains {
    lines: Vec<Line>,
    /// Its last commits that were lost to damage.
    lost: u64,
}

impl Remains {
    /// What happens to the instance, under what happens to all; it may be on another thread.
    fn span(&self, of: &tracing::Span, id: &InstanceId) -> tracing::Span {
        let epoch = self.lines.iter().filter_map(|line| line.commit.as_ref()).map(|commit| commit.epoch).max();
        tracing::debug_span!(parent: of, "recover_instance", %id, epoch)
    }
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
        collect(root, &writer.dir, writer.id, &mut remains)?;
    }
    let writers: BTreeSet<Uuid> = dead.iter().map(|w| w.id).collect();
    let dying = Dying { pids: dead.iter().filter_map(|w| w.pid).collect(), living: lock::living_pids(root, &dead)? };
    let one = |(id, remains): (InstanceId, Remains)| -> Result<One> {
        let commits = remains.lines.len();
        let _span = remains.span(&span, &id).entered();
        let blocked = recover_instance(root, &id, remains, &dying)? == Verdict::Blocked;
        let interrupted = interrupt(root, &id, &writers, &dying)?.then_some(id);
        Ok(One { commits, blocked, interrupted })
    };
    let instances = remains.len();
    let mut blocked = false;
    for recovered in at_once(root.instances.path(), remains.into_iter().collect(), &one)? {
        done.commits += recovered.commits;
        blocked |= recovered.blocked;
        done.interrupted.extend(recovered.interrupted);
    }
    root.instances.sync()?;
    root.alarms.sync(&root.internal)?;
    if blocked {
        for writer in &dead {
            keep_log(root, writer)?;
        }
    }
    for writer in dead {
        writer.remove(root)?;
    }
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

/// What was done with one instance.
struct One {
    commits: usize,
    blocked: bool,
    interrupted: Option<InstanceId>,
}

/// Does the work on several threads when there is much of it: nearly all of it is waiting for
/// flushes, each of one instance. The results come in order.
fn at_once<T: Send, R: Send>(
    path: &Path,
    mut all: Vec<T>,
    one: &(impl Fn(T) -> Result<R> + std::marker::Sync),
) -> Result<Vec<R>> {
    let share = all.len().div_ceil(THREADS).max(INSTANCES_PER_THREAD);
    std::thread::scope(|scope| {
        let mut others = Vec::new();
        while all.len() > share {
            let part = all.split_off(all.len() - share);
            let work = move || part.into_iter().map(one).collect::<Result<Vec<R>>>();
            let thread = std::thread::Builder::new().name("fiefdom-recover".into()).spawn_scoped(scope, work);
            others.push(thread.map_err(|e| Error::io("start a thread to recover", path, e))?);
        }
        let mut done = all.into_iter().map(one).collect::<Result<Vec<R>>>()?;
        for other in others.into_iter().rev() {
            done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(done)
    })
}

/// Reads all segments of a dead writer.
fn collect(root: &Root, dir: &Dir, writer: Uuid, remains: &mut BTreeMap<InstanceId, Remains>) -> Result<()> {
    let mut contents = Vec::new();
    for number in lock::segments(dir)? {
        let name = layout::journal_segment(number);
        let Some(file) = dir.open_file(&name)? else { continue };
        // Here, too, files follow only what is on disk in the log: commits at the level `Os` may not be
        // yet. Should a flush of this file have failed before, this one may be wrong about those that
        // nobody was promised to be on disk, and about no others.
        file.sync_data()?;
        let found = segment::read(&file)?;
        keep_damage(root, dir, &name, &file, writer, &found)?;
        contents.push(found);
    }
    if contents.iter().any(|found| found.header.is_none()) {
        // Nobody knows who was at work: all are looked at.
        for id in root.instances.names()?.iter().filter_map(|name| InstanceId::new(name).ok()) {
            remains.entry(id).or_default();
        }
    }
    for found in contents {
        for id in found.ids() {
            remains.entry(id).or_default();
        }
        for (id, lost) in &found.lost {
            let entry = remains.entry(id.clone()).or_default();
            entry.lost = entry.lost.saturating_add(*lost);
        }
        for line in found.commits {
            let Some(commit) = &line.commit else { continue };
            let entry = remains.entry(commit.id.clone()).or_default();
            entry.lines.push(line);
        }
    }
    Ok(())
}

/// Copies aside what cannot be read: the tail of a write that was cut short, or, when bytes that were
/// on disk once are damaged, the whole segment.
fn keep_damage(root: &Root, dir: &Dir, name: &str, file: &File, writer: Uuid, found: &Contents) -> Result<()> {
    let owner = format!("writer-{writer}");
    if let Some(damage) = found.damaged.first() {
        let bytes = file.read_all(u64::MAX - 1)?;
        return quarantine::keep(root, &owner, dir, name, &bytes, Some(damage.offset), &damage.reason);
    }
    let Some(torn) = &found.torn else { return Ok(()) };
    let mut tail = segment::read_tail(file, torn.offset)?;
    // The filler behind it says nothing.
    tail.truncate(tail.trim_ascii_end().len());
    quarantine::keep(root, &owner, dir, name, &tail, Some(torn.offset), &torn.reason)
}

/// Keeps the whole log of a writer: an instance could not be brought up to what is in it.
fn keep_log(root: &Root, writer: &lock::DeadWriter) -> Result<()> {
    for number in lock::segments(&writer.dir)? {
        let name = layout::journal_segment(number);
        let Some(file) = writer.dir.open_file(&name)? else { continue };
        let (owner, bytes) = (format!("writer-{}", writer.id), file.read_all(u64::MAX - 1)?);
        let reason = "an instance in it could not be recovered";
        quarantine::keep(root, &owner, &writer.dir, &name, &bytes, None, reason)?;
    }
    Ok(())
}

/// Brings one instance up to its last commit.
fn recover_instance(root: &Root, id: &InstanceId, remains: Remains, dying: &Dying) -> Result<Verdict> {
    // An instance of that id may have been deleted and made again: each life for itself.
    let mut lives: Vec<(Uuid, Vec<Line>)> = Vec::new();
    for line in remains.lines {
        let Some(uid) = line.commit.as_ref().map(|c| c.uid) else { continue };
        match lives.iter_mut().find(|(known, _)| *known == uid) {
            Some((_, life)) => life.push(line),
            None => lives.push((uid, vec![line])),
        }
    }
    // A life is over when its log says so, or its directory is in the trash. Of the others there is
    // one, unless somebody removed a directory by hand: then the newest has the name.
    let mut over = Vec::new();
    let mut going_on = Vec::new();
    for (uid, lines) in lives {
        let chain = Chain::of(lines);
        let ended = chain.deleted || trash::holds(root, id, uid)?;
        if ended { over.push(uid) } else { going_on.push((uid, chain)) }
    }
    let mut verdict = Verdict::Whole;
    for uid in over {
        bury(root, id, uid, going_on.is_empty(), dying)?;
    }
    going_on.sort_by_key(|(_, chain)| chain.commits.first().map(|(meta, _)| std::cmp::Reverse(meta.at)));
    if going_on.is_empty() && remains.lost > 0 {
        verdict = block(root, id, LOST)?;
    }
    let mut lost = remains.lost;
    for (uid, mut chain) in going_on {
        chain.lost = std::mem::take(&mut lost);
        // A directory that is missing was removed by somebody: its name was on disk before a commit
        // at the level `Disk` was acknowledged.
        match claim(root, id, dying)? {
            Some(dir) if chain.apply(root, id, uid, &dir)? == Verdict::Blocked => verdict = Verdict::Blocked,
            Some(_) => {}
            // Its entry was made when the files were, and may not be on disk.
            None => chain.note_alarm(root),
        }
    }
    Ok(verdict)
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

/// Whether an instance has everything that was committed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Whole,
    /// It was taken out of use.
    Blocked,
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
        let owner = match lock::lock_instance(root, id, None) {
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

/// The commits of one life of an instance, in order, each once.
pub(super) struct Chain {
    commits: Vec<(CommitMeta, Line)>,
    deleted: bool,
    /// Commits behind the last of these that were lost to damage.
    lost: u64,
    /// Whether not even a file that is whole may stay: a flush of it has failed.
    anew: bool,
}

impl Chain {
    pub(super) fn of(lines: Vec<Line>) -> Self {
        let mut by_order = BTreeMap::new();
        for mut line in lines {
            if let Some(meta) = line.commit.take() {
                by_order.insert((meta.epoch, meta.revision), (meta, line));
            }
        }
        let commits: Vec<_> = by_order.into_values().collect();
        let deleted = commits.iter().any(|(meta, _)| meta.deleted);
        Self { commits, deleted, lost: 0, anew: false }
    }

    /// Everything goes into new files.
    pub(super) fn anew(mut self) -> Self {
        self.anew = true;
        self
    }

    /// Brings the files of the instance, whose lock the caller holds, up to these commits, durably.
    pub(super) fn apply(&self, root: &Root, id: &InstanceId, uid: Uuid, dir: &Dir) -> Result<Verdict> {
        let bytes = activate::read_bytes(dir, &Options::default())?;
        let disk = match bytes.as_deref().map(|bytes| activate::parse(dir, id, bytes)) {
            Some(Err(e @ Error::NewerFormat { .. })) => return Err(e),
            Some(Ok(record)) => Some(record),
            // The log wins over the file: after a power cut a renamed file can be empty.
            Some(Err(_)) | None => None,
        };
        match &disk {
            // Another instance has the name by now, or somebody put one there.
            Some(record) if record.uid != uid => return Ok(Verdict::Whole),
            _ => {}
        }
        if self.lost > 0 && !self.lost_is_in(disk.as_ref()) {
            return block(root, id, LOST);
        }
        if let Err(reason) = self.check_complete(disk.as_ref()) {
            return block(root, id, &reason);
        }
        let record = match self.last_record() {
            Ok(Some(record)) => Some(record),
            Ok(None) => disk.clone(),
            Err(reason) => return block(root, id, &reason),
        };
        let Some(mut record) = record else {
            return block(root, id, "neither the log nor the directory holds its record");
        };
        let Some((last, _)) = self.commits.last() else { return Ok(Verdict::Whole) };
        record.revision = last.revision;
        record.epoch = last.epoch;
        record.updated_at = last.at;
        record.last_event_seq = last.last_event_seq;
        let earlier = disk.as_ref().and_then(RawRecord::alarm_entry);
        let stale = disk.as_ref().is_none_or(|disk| (disk.epoch, disk.revision) < (last.epoch, last.revision));
        let record = if stale { record } else { disk.unwrap_or(record) };
        let lines: Vec<EventLine> = match self.event_lines() {
            Ok(lines) => lines,
            Err(reason) => return block(root, id, &reason),
        };
        if let Err(error) = reconcile::events(root, id, dir, &lines, record.last_event_seq, self.anew) {
            return match error {
                Error::Corrupt { reason, .. } => block(root, id, &reason),
                other => Err(other),
            };
        }
        if let Some(alarm) = record.alarm_entry()
            && !without(Protection::AlarmRecovery)
        {
            root.alarms.add(&root.internal, &alarm)?;
        }
        // In any case into a new file: the old one may be one whose fsync has failed.
        write_record(dir, &record)?;
        if let Some(old) = earlier.filter(|old| record.alarm_entry().as_ref() != Some(old)) {
            AlarmIndex::remove(&root.internal, &old)?;
        }
        Ok(Verdict::Whole)
    }

    /// Sees to it that the entry of the last alarm is flushed, which whoever has the instance made.
    fn note_alarm(&self, root: &Root) {
        if let Ok(Some(record)) = self.last_record()
            && let Some(alarm) = record.alarm_entry()
        {
            root.alarms.note(&alarm);
        }
    }

    /// Whether the files have the commits that the log has lost.
    fn lost_is_in(&self, disk: Option<&RawRecord>) -> bool {
        let last = self.commits.last().map_or(u64::MAX, |(meta, _)| meta.revision);
        disk.is_some_and(|record| record.revision >= last.saturating_add(self.lost))
    }

    /// Every commit between what is on disk and the last one must be there: revisions have no gaps.
    fn check_complete(&self, disk: Option<&RawRecord>) -> Result<(), String> {
        let mut known = disk.map(|record| record.revision);
        for (meta, line) in &self.commits {
            let follows = known.is_none_or(|known| meta.revision <= known + 1);
            let founded = known.is_some() || meta.revision == 0 || line.record.is_some();
            if !follows || !founded {
                return Err(format!(
                    "the log lacks what came before revision {}: a part of it is damaged",
                    meta.revision
                ));
            }
            known = Some(known.map_or(meta.revision, |known| known.max(meta.revision)));
        }
        Ok(())
    }

    /// The last whole record in the log, to which the later commits add no more than events.
    fn last_record(&self) -> Result<Option<RawRecord>, String> {
        let Some(raw) = self.commits.iter().rev().find_map(|(_, line)| line.record.as_ref()) else { return Ok(None) };
        let record = RawRecord::parse(raw.get().as_bytes()).map_err(|e| e.to_string())?;
        match self.commits.last() {
            Some((meta, _)) if meta.id == record.id && meta.uid == record.uid => Ok(Some(record)),
            _ => Err("a commit in the log holds the record of another instance".into()),
        }
    }

    fn event_lines(&self) -> Result<Vec<EventLine>, String> {
        #[derive(serde::Deserialize)]
        struct Numbered {
            seq: u64,
        }
        let mut lines: Vec<EventLine> = Vec::new();
        for raw in self.commits.iter().flat_map(|(_, line)| &line.events) {
            let Numbered { seq } = serde_json::from_str(raw.get()).map_err(|e| e.to_string())?;
            if !events::is_seq(seq) {
                return Err(format!("{seq} is no number of an event"));
            }
            // A later epoch that went on from an earlier event replaces what was never acknowledged.
            lines.truncate(lines.iter().position(|line| line.seq >= seq).unwrap_or(lines.len()));
            lines.push(EventLine { seq, text: raw.get().into() });
        }
        Ok(lines)
    }
}

fn write_record(dir: &Dir, record: &RawRecord) -> Result<()> {
    let bytes = pretty(record)?;
    atomic::replace(dir, layout::RECORD, &bytes, Sync::Yes)
}

fn pretty(record: &RawRecord) -> Result<Vec<u8>> {
    let fail = |e: serde_json::Error| crate::record::json::unserializable("record", &e);
    // Through a value, so that the state is indented too; but only if that keeps every number.
    let state: serde_json::Value = serde_json::from_str(record.state.get()).map_err(fail)?;
    if serde_json::to_string(&state).map_err(fail)? == record.state.get() {
        return record.clone().with_state(state).pretty().map_err(fail);
    }
    record.pretty().map_err(fail)
}

/// A process died while this instance was at work: it becomes `interrupted`, under a new epoch,
/// unless somebody else has taken it up since.
fn interrupt(root: &Root, id: &InstanceId, dead: &BTreeSet<Uuid>, dying: &Dying) -> Result<bool> {
    let Some(dir) = claim(root, id, dying)? else { return Ok(false) };
    let Some(bytes) = activate::read_bytes(&dir, &Options::default())? else { return Ok(false) };
    let Ok(mut record) = activate::parse(&dir, id, &bytes) else { return Ok(false) };
    if !record.status.is_running() || !dead.contains(&record.writer) || refuse_if_blocked(root, id).is_err() {
        return Ok(false);
    }
    let at = chrono::Utc::now();
    record.set_status(Status::Interrupted, Some("the process that ran it died".into()), at)?;
    record.revision += 1;
    record.epoch += 1;
    record.updated_at = at;
    write_record(&dir, &record)?;
    Ok(true)
}

/// Takes an instance out of use whose acknowledged commits cannot all be brought back.
fn block(root: &Root, id: &InstanceId, reason: &str) -> Result<Verdict> {
    metrics::BLOCKED.add(1);
    tracing::error!(%id, reason, "an instance cannot be recovered, and is blocked");
    let text = serde_json::json!({ "instance_id": id, "at": chrono::Utc::now(), "reason": reason }).to_string();
    atomic::replace(&root.quarantine, &layout::blocked(id), text.as_bytes(), Sync::Yes)?;
    Ok(Verdict::Blocked)
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
