//! What the commit log has of one life of an instance, and the files brought up to it. When a
//! segment may go is never decided here.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::activate;
use super::commit::{CommitMeta, Line};
use super::events;
use super::reconcile;
use super::recover::{block, refuse_if_blocked};
use super::renewal::Renewal;
use crate::disk::atomic::{self, Sync};
use crate::disk::fs::Dir;
use crate::disk::layout;
use crate::disk::root::Root;
use crate::error::{Error, Result};
use crate::mutants::{Protection, without};
use crate::options::Options;
use crate::record::{Document as _, EventLine, InstanceId, RawRecord, Status};

/// Why an instance is taken out of use when the log had more of it than can be read.
pub(super) const LOST: &str = "its last commits cannot be read: a part of the commit log is damaged";

/// Whether an instance has everything that was committed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Whole,
    /// It was taken out of use.
    Blocked,
}

/// What is to be done for an instance.
pub(super) enum Prepared {
    Nothing,
    Renewed(Renewal),
    /// It was taken out of use.
    Blocked,
}

/// How the new files of an instance are prepared.
#[derive(Clone, Copy)]
pub(super) struct How<'a> {
    /// Whether each is flushed.
    pub(super) sync: Sync,
    /// Writers that died: what was at their work is interrupted.
    pub(super) dead: Option<&'a BTreeSet<Uuid>>,
    /// Commits behind the last one in the log that were lost to damage.
    pub(super) lost: u64,
}

/// The commits of one life of an instance, in order, each once.
pub(super) struct Chain {
    commits: Vec<(CommitMeta, Line)>,
    deleted: bool,
    /// Whether not even a file that is whole may stay: a flush of it has failed.
    anew: bool,
}

impl Chain {
    pub(super) fn of(lines: Vec<Line>) -> Self {
        let of = |mut line: Line| line.commit.take().map(|meta| (meta, line));
        let mut commits: Vec<_> = lines.into_iter().filter_map(of).collect();
        let order = |(meta, _): &(CommitMeta, Line)| (meta.epoch, meta.revision);
        // They nearly always are in order, each once.
        commits.sort_by_key(order);
        commits.dedup_by(|later, earlier| {
            let again = order(later) == order(earlier);
            if again {
                std::mem::swap(later, earlier);
            }
            again
        });
        let deleted = commits.iter().any(|(meta, _)| meta.deleted);
        Self { commits, deleted, anew: false }
    }

    /// Whether the life has ended.
    pub(super) fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// When the first of the commits was made.
    pub(super) fn begun(&self) -> Option<DateTime<Utc>> {
        self.commits.first().map(|(meta, _)| meta.at)
    }

    /// The activation that made the last of the commits.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.commits.last().map(|(meta, _)| meta.epoch)
    }

    /// Everything goes into new files.
    pub(super) fn anew(mut self) -> Self {
        self.anew = true;
        self
    }

    /// Brings the files of the instance, whose lock the caller holds, up to these commits, durably.
    pub(super) fn apply(&self, root: &Root, id: &InstanceId, uid: Uuid, dir: &Dir) -> Result<Verdict> {
        let how = How { sync: Sync::Yes, dead: None, lost: 0 };
        match self.prepare(root, id, uid, dir, how)? {
            Prepared::Blocked => return Ok(Verdict::Blocked),
            Prepared::Nothing => {}
            Prepared::Renewed(renewal) => {
                renewal.publish(dir, Sync::Yes)?;
                renewal.settle(root, dir)?;
            }
        }
        Ok(Verdict::Whole)
    }

    /// Writes new files with these commits for the instance, whose lock the caller holds; they have no
    /// names yet.
    pub(super) fn prepare(&self, root: &Root, id: &InstanceId, uid: Uuid, dir: &Dir, how: How<'_>) -> Result<Prepared> {
        let blocked = |reason: &str| block(root, id, reason).map(|()| Prepared::Blocked);
        let disk = match read(id, dir)? {
            // Another instance has the name by now, or somebody put one there.
            Some(record) if record.uid != uid => return interrupt(root, id, dir, record, how),
            disk => disk,
        };
        if how.lost > 0 && !self.has_lost(how.lost, disk.as_ref()) {
            return blocked(LOST);
        }
        if let Err(reason) = self.check_complete(disk.as_ref()) {
            return blocked(&reason);
        }
        let Some((last, _)) = self.commits.last() else { return Ok(Prepared::Nothing) };
        let stale = disk.as_ref().is_none_or(|disk| (disk.epoch, disk.revision) < (last.epoch, last.revision));
        let earlier = disk.as_ref().and_then(RawRecord::alarm_entry);
        let record = match self.last_record(disk.as_ref()) {
            Ok(record) if stale => record,
            Ok(record) => disk.or(record),
            Err(reason) => return blocked(&reason),
        };
        let Some(mut record) = record else {
            return blocked("neither the log nor the directory holds its record");
        };
        if stale {
            record.revision = last.revision;
            record.epoch = last.epoch;
            record.updated_at = last.at;
            record.last_event_seq = last.last_event_seq;
        }
        let lines = match self.event_lines() {
            Ok(lines) => lines,
            Err(reason) => return blocked(&reason),
        };
        let events = match reconcile::events(root, id, dir, &lines, record.last_event_seq, self.anew, how.sync) {
            Err(Error::Corrupt { reason, .. }) => return blocked(&reason),
            events => events?,
        };
        let alarm = record.alarm_entry();
        if let Some(alarm) = &alarm
            && !without(Protection::AlarmRecovery)
        {
            root.alarms.add(&root.internal, alarm)?;
        }
        let interrupted = how.interrupts(root, id, &mut record)?;
        // In any case into a new file: the old one may be one whose fsync has failed.
        let bytes = write_record(dir, &record, how.sync)? + events.map_or(0, |position| position.offset);
        let outdated = earlier.filter(|old| alarm.as_ref() != Some(old));
        Ok(Prepared::Renewed(Renewal { events, outdated, interrupted, bytes }))
    }

    /// Sees to it that the entry of the last alarm is flushed, which whoever has the instance made.
    pub(super) fn note_alarm(&self, root: &Root) {
        if let Ok(Some(record)) = self.last_record(None)
            && let Some(alarm) = record.alarm_entry()
        {
            root.alarms.note(&alarm);
        }
    }

    /// Whether the files have the last commits, so many of which the log has lost.
    fn has_lost(&self, lost: u64, disk: Option<&RawRecord>) -> bool {
        let known = self.commits.last().map_or(u64::MAX, |(meta, _)| meta.revision);
        disk.is_some_and(|record| record.revision >= known.saturating_add(lost))
    }

    /// Every commit between what is on disk and the last one must be there: revisions have no gaps. But
    /// for one before a whole record, if no event is lost in it: of an instance that is at work a new
    /// segment says everything anew, and the earlier one goes although the files are behind.
    fn check_complete(&self, disk: Option<&RawRecord>) -> Result<(), String> {
        let mut known = disk.map(|record| (record.revision, record.last_event_seq));
        for (meta, line) in &self.commits {
            let event = meta.last_event_seq.saturating_sub(line.events.len() as u64);
            let founded = line.record.is_some() || meta.first() == 0;
            let follows = match known {
                Some((revision, seq)) => meta.first() <= revision + 1 || founded && event <= seq,
                None => founded,
            };
            if !follows {
                return Err(format!(
                    "the log lacks what came before revision {}: a part of it is damaged",
                    meta.first()
                ));
            }
            let (revision, seq) = known.unwrap_or_default();
            known = Some((revision.max(meta.revision), seq.max(meta.last_event_seq)));
        }
        Ok(())
    }

    /// The last record that is known: the last that the log has whole, or else the one on disk, with
    /// the last state that came after it.
    fn last_record(&self, disk: Option<&RawRecord>) -> Result<Option<RawRecord>, String> {
        let mut state = None;
        let whole = self.commits.iter().rev().find_map(|(_, line)| {
            state = state.take().or(line.state.as_ref());
            line.record.as_ref()
        });
        let parse = |raw: &RawValue| RawRecord::parse(raw.get().as_bytes()).map_err(|e| e.to_string());
        let Some(mut record) = whole.map(|raw| parse(raw)).transpose()?.or_else(|| disk.cloned()) else {
            return Ok(None);
        };
        if let Some(state) = state {
            record.state = Arc::new(state.clone());
        }
        match self.commits.last() {
            Some((meta, _)) if meta.id != record.id || meta.uid != record.uid => {
                Err("a commit in the log holds the record of another instance".into())
            }
            _ => Ok(Some(record)),
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
            while lines.pop_if(|line| line.seq >= seq).is_some() {}
            lines.push(EventLine { seq, text: raw.get().into() });
        }
        Ok(lines)
    }
}

/// The record in the directory; `None` when there is none, and when it cannot be read.
fn read(id: &InstanceId, dir: &Dir) -> Result<Option<RawRecord>> {
    let Some(bytes) = activate::read_bytes(dir, &Options::default())? else { return Ok(None) };
    match activate::parse(dir, id, &bytes) {
        Err(e @ Error::NewerFormat { .. }) => Err(e),
        // The log wins over the file: after a power cut a renamed file can be empty.
        parsed => Ok(parsed.ok()),
    }
}

/// A process died while this instance may have been at work, and the log has nothing of it.
pub(super) fn interrupt_on_disk(root: &Root, id: &InstanceId, dir: &Dir, how: How<'_>) -> Result<Prepared> {
    match read(id, dir) {
        Ok(Some(record)) => interrupt(root, id, dir, record, how),
        // Whoever opens it is told what is wrong with it.
        Ok(None) | Err(Error::NewerFormat { .. }) => Ok(Prepared::Nothing),
        Err(error) => Err(error),
    }
}

fn interrupt(root: &Root, id: &InstanceId, dir: &Dir, mut record: RawRecord, how: How<'_>) -> Result<Prepared> {
    if !how.interrupts(root, id, &mut record)? {
        return Ok(Prepared::Nothing);
    }
    let bytes = write_record(dir, &record, how.sync)?;
    Ok(Prepared::Renewed(Renewal { events: None, outdated: None, interrupted: true, bytes }))
}

impl How<'_> {
    /// An instance at whose work a process died becomes `interrupted`, under a new epoch, unless
    /// somebody else has taken it up since.
    fn interrupts(self, root: &Root, id: &InstanceId, record: &mut RawRecord) -> Result<bool> {
        let died = self.dead.is_some_and(|dead| dead.contains(&record.writer));
        if !died || !record.status.is_running() || refuse_if_blocked(root, id).is_err() {
            return Ok(false);
        }
        let at = Utc::now();
        record.set_status(Status::Interrupted, Some("the process that ran it died".into()), at)?;
        record.revision += 1;
        record.epoch += 1;
        record.updated_at = at;
        Ok(true)
    }
}

/// Writes the record, which has no name yet, and says how long it is.
fn write_record(dir: &Dir, record: &RawRecord, sync: Sync) -> Result<u64> {
    let bytes = pretty(record)?;
    atomic::stage(dir, layout::RECORD, sync, |file| file.write_all(&bytes))?;
    Ok(bytes.len() as u64)
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

#[cfg(test)]
mod tests {
    use super::super::commit;
    use super::*;

    /// The first and the last revision, the event before and the last one, and whether the record is
    /// there.
    type Wanted = (u64, u64, u64, u64, bool);

    fn line((first, revision, before, seq, whole): Wanted) -> Line {
        let record = if whole { ",\"record\":{}" } else { "" };
        let events: Vec<_> = (before + 1..=seq).map(|seq| format!("{{\"seq\":{seq}}}")).collect();
        let text = format!(
            "{{\"commit\":{{\"id\":\"a\",\"uid\":\"{}\",\"epoch\":1,\"first\":{first},\"revision\":{revision},\
             \"at\":\"2026-01-02T03:04:05Z\",\"last_event_seq\":{seq}}}{record},\"events\":[{}]}}",
            Uuid::nil(),
            events.join(",")
        );
        commit::decode(format!("{:08x} {text}", crc32fast::hash(text.as_bytes())).as_bytes()).expect("a line")
    }

    #[test]
    fn a_gap_is_accepted_before_a_whole_record_that_no_event_is_missing_before() {
        let check = |lines: &[Wanted]| Chain::of(lines.iter().copied().map(line).collect()).check_complete(None);
        let begin = (1, 2, 0, 3, true);
        assert_eq!(check(&[begin, (3, 3, 3, 3, false), (4, 9, 3, 5, false)]), Ok(()));
        assert_eq!(check(&[begin, (5, 6, 3, 3, true), (7, 7, 3, 4, false)]), Ok(()));
        assert_eq!(check(&[begin, (5, 6, 3, 5, true)]), Ok(()));
        for lost in [(5, 6, 3, 3, false), (5, 6, 3, 4, false), (5, 6, 4, 5, true), (4, 4, 3, 3, false)] {
            let reason = check(&[begin, lost]).expect_err("something is missing");
            assert!(reason.contains(&format!("before revision {}", lost.0)), "{reason}");
        }
        assert!(check(&[(3, 3, 0, 0, false)]).is_err(), "nothing to go on from");
    }
}
