//! Looking at every file of a root, without a lock.
//!
//! Others write meanwhile, so one look proves nothing. What looks wrong is looked at again after a
//! moment, and again; a finding is what stayed the same each time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::doctor::{Finding, Fix, Report, Severity};
use crate::disk::fs::{Dir, File};
use crate::disk::root::Root;
use crate::disk::{layout, lock};
use crate::error::{Error, Result};
use crate::log::events::{Lines, Position};
use crate::log::{activate, segment, trash};
use crate::options::Options;
use crate::record::{BATCH_KIND, InstanceId, RawRecord, Record, json};

/// Looks behind the first, and the time before each.
const MORE_LOOKS: usize = 2;
const BETWEEN_LOOKS: Duration = Duration::from_millis(150);

/// Most findings about one file: behind so many, more of them say nothing new.
const FINDINGS_PER_FILE: usize = 20;

/// Largest note in the quarantine, in bytes.
const NOTE_BYTES: u64 = 64 * 1024;

const UNREADABLE: &str = "nothing; see why it cannot be read";
const NOT_OURS: &str = "nothing; it is not ours";
const BY_HAND: &str =
    "nothing: there is no second copy to mend it from; put it back from a backup, or remove the instance";
const TRIED_AGAIN: &str =
    "nothing: the process tries again, and keeps the log until then; `Store::stats` says how it is";
const RECOVERS: &str = "recover it, as the next opening of the store does";
const REMOVES_REST: &str = "remove what is left of it";

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

    /// What is in `.fiefdom` itself. That `format.json` can be read was seen when the root was opened.
    fn top(&mut self) -> Result<()> {
        let root = self.root;
        self.files += 2;
        self.check_mode(&root.top, layout::INTERNAL)?;
        self.check_mode(&root.top, layout::INSTANCES)?;
        let ours = [
            layout::FORMAT,
            layout::RECOVERY_LOCK,
            layout::WRITERS,
            layout::TRASH,
            layout::QUARANTINE,
            layout::ALARMS,
            layout::IMPORTS,
            layout::LISTING,
        ];
        for name in root.internal.names()? {
            if name == layout::temporary(layout::FORMAT) {
                self.note(
                    &root.internal.path_of(&name),
                    "a write of format.json was cut short",
                    "nothing; it is harmless",
                );
            } else if !ours.contains(&name.as_str()) {
                self.note(&root.internal.path_of(&name), "no file of the store has this name", NOT_OURS);
            }
        }
        Ok(())
    }

    fn writer(&mut self, name: &str) -> Result<()> {
        let root = self.root;
        let Some(dir) = root.writers.open_dir(name)? else { return Ok(()) };
        let path = dir.path().to_owned();
        let recovered =
            |severity, reason: &str, repair| Finding::new(severity, &path, reason, repair).mended_by(Fix::Recover);
        let alive = self.is_alive(name)?;
        if name.starts_with("new-") {
            if !alive {
                self.found.push(recovered(Severity::Note, "a process died while it opened the store", REMOVES_REST));
            }
            return Ok(());
        }
        let Ok(id) = Uuid::parse_str(name) else {
            self.note(&path, "no writer has this name", NOT_OURS);
            return Ok(());
        };
        let names = dir.names()?;
        let numbers: Vec<u64> = names.iter().filter_map(|n| layout::parse_journal_segment(n)).collect();
        if !names.iter().any(|n| n == layout::WRITER_LOCK) {
            if numbers.is_empty() && !names.is_empty() {
                let reason = "strange files keep the directory of a dead writer from being removed, and the store from being opened";
                let repair = "nothing: the files are not ours; move them away";
                self.found.push(Finding::new(Severity::Damage, &path, reason, repair));
            } else if numbers.is_empty() {
                let reason = "the removal of a dead writer was cut short";
                self.found.push(recovered(Severity::Note, reason, REMOVES_REST));
            } else {
                let reason = "the lock of this writer is missing, and commits of it are there";
                self.damage(&path, None, reason);
            }
            return Ok(());
        }
        for other in names {
            let ours = [layout::WRITER_LOCK, layout::CONTROL_SOCKET].contains(&other.as_str());
            if !ours && layout::parse_journal_segment(&other).is_none() {
                self.note(&dir.path_of(&other), "no file of a writer has this name", NOT_OURS);
            }
        }
        self.files += 1;
        if let ([oldest, _, ..], true) = (&numbers[..], alive) {
            // The same one at every look: its files do not become durable.
            let reason = "a full segment of the log of a living process keeps waiting for its files to be flushed: the disk is slow, or refuses";
            self.note(&dir.path_of(layout::journal_segment(*oldest)), reason, TRIED_AGAIN);
        }
        for number in numbers {
            self.segment(&dir, id, number, alive)?;
        }
        if !alive {
            let reason = "a process died, and what is in its log waits for recovery";
            self.found.push(recovered(Severity::Note, reason, RECOVERS));
        }
        Ok(())
    }

    fn segment(&mut self, dir: &Dir, writer: Uuid, number: u64, alive: bool) -> Result<()> {
        let Some(file) = dir.open_file(&layout::journal_segment(number))? else { return Ok(()) };
        self.files += 1;
        let contents = segment::read(&file)?;
        let repair = if alive {
            "nothing: its process lives, and writes its commits to the files"
        } else {
            "recover the writer: the whole segment goes to the quarantine, and an instance whose commits are lost is blocked"
        };
        let add = |look: &mut Self, offset, reason: String| {
            // The repair is that of the writer, which has a finding of its own.
            look.found.push(Finding::new(Severity::Damage, file.path(), reason, repair).at(offset));
        };
        for damage in contents.damaged.iter().take(FINDINGS_PER_FILE) {
            add(self, Some(damage.offset), format!("bytes that were on disk once are damaged: {}", damage.reason));
        }
        for (id, lost) in &contents.lost {
            let count = if *lost == u64::MAX { "commits".to_owned() } else { format!("{lost} commits") };
            add(self, None, format!("{count} of {id} cannot be read"));
        }
        if let Some(header) = &contents.header
            && (header.writer != writer || header.segment != number)
        {
            let reason = format!("it is segment {} of the writer {}", header.segment, header.writer);
            add(self, Some(0), reason);
        }
        Ok(())
    }

    fn trash(&mut self, name: &str) -> Result<()> {
        let path = self.root.trash.path_of(name);
        let ours = name.len() > 37 && name.is_char_boundary(name.len() - 37) && {
            let (id, uid) = name.split_at(name.len() - 37);
            InstanceId::new(id).is_ok() && uid.strip_prefix('.').is_some_and(|uid| Uuid::parse_str(uid).is_ok())
        };
        if !ours {
            self.note(&path, "no deleted instance has this name", NOT_OURS);
        } else if self.root.trash.open_dir(name)?.is_some() && !trash::is_needed(self.root, name)? {
            let finding =
                Finding::new(Severity::Note, &path, "a deleted instance was not removed to the end", "remove it");
            self.found.push(finding.mended_by(Fix::RemoveTrash(name.to_owned())));
        }
        Ok(())
    }

    fn quarantine(&mut self) -> Result<()> {
        let dir = &self.root.quarantine;
        let names: BTreeSet<String> = dir.names()?.into_iter().collect();
        for name in &names {
            let path = dir.path_of(name);
            let Some(file) = dir.open_file(name)? else { continue };
            self.files += 1;
            if let Some(id) = name.strip_suffix(".blocked.json").and_then(|id| InstanceId::new(id).ok()) {
                let said = reason_of(&file.read_all(NOTE_BYTES)?);
                let repair =
                    "nothing: whether to go on with what is there is a person's decision; remove this file to do so";
                let reason = format!("the instance is blocked: {said}");
                let mut finding = Finding::new(Severity::Damage, &path, reason, repair);
                finding.instance = Some(id);
                self.found.push(finding);
            } else if name.ends_with(".reason.json") {
                // Told with the bytes that it stands beside.
            } else if name.starts_with('.') {
                self.note(&path, "a write into the quarantine was cut short", "nothing; it is harmless");
            } else {
                let whole = name.rsplit('.').next().and_then(|crc| u32::from_str_radix(crc, 16).ok());
                let bytes = file.read_all(u64::MAX - 1)?;
                if whole.is_some_and(|crc| crc != crc32fast::hash(&bytes)) {
                    self.damage(&path, None, "these kept bytes are not those that were put there");
                }
                let beside = format!("{name}.reason.json");
                let said = match dir.open_file(&beside)? {
                    Some(note) => reason_of(&note.read_all(NOTE_BYTES)?),
                    None => "nothing says why".to_owned(),
                };
                let reason = format!("bytes were put aside: {said}");
                self.note(&path, reason, "nothing; remove them when nobody needs them");
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &str) -> Result<()> {
        let root = self.root;
        let Ok(id) = InstanceId::new(name) else {
            self.note(&root.instances.path_of(name), "its name is no id of an instance", NOT_OURS);
            return Ok(());
        };
        let Some(dir) = root.instances.open_dir(name)? else { return Ok(()) };
        let live = self.is_live(name);
        self.live += usize::from(live);
        self.check_mode(&root.instances, name)?;
        // The record first: what it knows is in the files already.
        let record = self.record(&dir, &id, live)?;
        if !live {
            self.temporary(&dir, None, layout::RECORD)?;
            self.temporary(&dir, Some(layout::EVENTS), layout::EVENT_STATE)?;
            self.temporary(&dir, Some(layout::LOGS), layout::CHECKPOINT)?;
            if record.as_ref().is_some_and(|record| record.kind == BATCH_KIND) {
                self.temporary(&dir, Some(layout::WORKSPACE), layout::BATCH_ITEMS)?;
            }
        }
        let files = dir.open_dir(layout::EVENTS)?;
        if files.is_some() {
            self.check_mode(&dir, layout::EVENTS)?;
        }
        let Some(record) = record else { return Ok(()) };
        let scanned = match &files {
            Some(events) => EventFiles::scan(self, events, live)?,
            None => EventFiles::default(),
        };
        self.judge_events(&dir, files.as_ref(), &record, &scanned, live)?;
        self.batch(&dir, &record)
    }

    /// What a write that was cut short has left, in the instance or in a directory of it.
    fn temporary(&mut self, instance: &Dir, below: Option<&'static str>, target: &str) -> Result<()> {
        // A job may have put something else there; what matters of it is judged elsewhere.
        let opened = below.map(|below| instance.open_dir(below).ok().flatten());
        let Some(dir) = opened.as_ref().map_or(Some(instance), Option::as_ref) else { return Ok(()) };
        let name = layout::temporary(target);
        if dir.stat(&name)?.is_some() {
            let (path, reason) = (dir.path_of(&name), format!("a write of {target} was cut short"));
            let finding = Finding::new(Severity::Note, &path, reason, "remove it, with a copy in the quarantine");
            self.found.push(finding.mended_by(Fix::RemoveTemporary(below, name)));
        }
        Ok(())
    }

    fn record(&mut self, dir: &Dir, id: &InstanceId, live: bool) -> Result<Option<RawRecord>> {
        let path = dir.path_of(layout::RECORD);
        let bytes = match activate::read_bytes(dir, &Options::default()) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                if !live && !self.waiting {
                    let repair = "nothing; a new instance of this id takes it over";
                    self.note(dir.path(), "it has no record: its creation was cut short", repair);
                }
                return Ok(None);
            }
            Err(error) => {
                self.found.push(Finding::of_error(&path, &error, BY_HAND));
                return Ok(None);
            }
        };
        self.files += 1;
        self.check_mode(dir, layout::RECORD)?;
        let record = match activate::parse(dir, id, &bytes) {
            Ok(record) => record,
            Err(error) => {
                let repair = match &error {
                    Error::NewerFormat { .. } => "nothing: use the version of the program that wrote it",
                    _ if self.waiting => "nothing now: recover the dead writer first, its log may have the record",
                    _ => BY_HAND,
                };
                self.found.push(Finding::of_error(&path, &error, repair));
                return Ok(None);
            }
        };
        if let Err(error) = Record::<Value>::check_tags(&record.tags) {
            self.damage(&path, None, format!("its tags are beyond the limits: {error}"));
        }
        if record.status.is_final() != record.ended_at.is_some() {
            let reason = format!("its status is {}, and that does not fit ended_at", record.status.as_str());
            self.note(&path, reason, "nothing; a change of its status corrects it");
        }
        Ok(Some(record))
    }

    /// Compares the event log with what the record and the cache say about it.
    fn judge_events(
        &mut self,
        dir: &Dir,
        events: Option<&Dir>,
        record: &RawRecord,
        scanned: &EventFiles,
        live: bool,
    ) -> Result<()> {
        let recorded = record.last_event_seq;
        let path = dir.path().join(layout::EVENTS).join(layout::EVENT_LOG);
        let position = scanned.position;
        // Recovery writes what is missing, and cuts what is half written.
        if self.waiting || (live && position.last_seq >= recorded) {
            return Ok(());
        }
        if position.last_seq < recorded {
            let reason = format!("it ends at event {}, and the record knows of {recorded}", position.last_seq);
            self.damage(&path, Some(position.offset), reason);
            return Ok(());
        }
        if scanned.broken {
            return Ok(());
        }
        if scanned.len > position.offset {
            let reason = "its last line is not complete, and the record knows of no event in it";
            let repair = "move these bytes to the quarantine and cut them off";
            let finding = Finding::new(Severity::Damage, &path, reason, repair).at(Some(position.offset));
            self.found.push(finding.mended_by(Fix::CutEvents(position)));
            return Ok(());
        }
        if position.last_seq > recorded {
            let reason = format!("it ends at event {}, and the record knows of {recorded}", position.last_seq);
            self.note(&path, reason, "nothing: lines that were added by hand count");
        }
        match events {
            Some(events) => self.cache(events, position),
            None => Ok(()),
        }
    }

    fn cache(&mut self, events: &Dir, position: Position) -> Result<()> {
        let Some(file) = events.open_file(layout::EVENT_STATE)? else { return Ok(()) };
        self.files += 1;
        let bytes = file.read_all(NOTE_BYTES).unwrap_or_default();
        let (severity, reason) = match serde_json::from_slice::<Position>(&bytes) {
            Err(error) => (Severity::Note, format!("this cache cannot be read: {error}")),
            Ok(cached) => {
                let agrees = (cached.last_seq, cached.segment, cached.offset)
                    == (position.last_seq, position.segment, position.offset)
                    && cached.durable_seq <= cached.last_seq
                    && cached.durable_offset <= cached.offset;
                // Without an active file it is not looked at.
                if agrees || events.stat(layout::EVENT_LOG)?.is_none() {
                    return Ok(());
                }
                if cached.offset == position.offset {
                    // The next opening would believe it, and number the next event by it.
                    (Severity::Damage, "this cache says something else than the events".to_owned())
                } else {
                    (Severity::Note, "this cache is stale".to_owned())
                }
            }
        };
        let finding = Finding::new(
            severity,
            &events.path_of(layout::EVENT_STATE),
            reason,
            "write it anew from the events, with the old bytes in the quarantine",
        );
        self.found.push(finding.mended_by(Fix::RewriteState(position)));
        Ok(())
    }

    /// The items of a batch: as many as its record says, and each with an id when they are jobs, as
    /// all were in version 1.
    fn batch(&mut self, dir: &Dir, record: &RawRecord) -> Result<()> {
        if record.kind != BATCH_KIND {
            return Ok(());
        }
        let state: Value = serde_json::from_str(record.state.get()).unwrap_or_default();
        let Some(total) = state.get("total").and_then(Value::as_u64) else { return Ok(()) };
        let jobs = record.schema_version < 2 || state.get("jobs") == Some(&Value::Bool(true));
        let path = dir.path().join(layout::WORKSPACE).join(layout::BATCH_ITEMS);
        let workspace = dir.open_dir(layout::WORKSPACE)?;
        let file = workspace.map(|dir| dir.open_file(layout::BATCH_ITEMS)).transpose()?.flatten();
        let Some(file) = file else {
            self.damage(&path, None, format!("it is missing, and the batch has {total} items"));
            return Ok(());
        };
        self.files += 1;
        let mut lines = Lines::new(&file, 0);
        let (mut count, mut bad) = (0, 0);
        while let Some(line) = lines.next()? {
            count += 1;
            let item = json::check(&line.bytes).and_then(|()| serde_json::from_slice::<Value>(&line.bytes));
            let item = item.ok();
            let id = item.as_ref().and_then(|item| InstanceId::new(item.get("id")?.as_str()?).ok());
            if item.is_none() || (jobs && id.is_none()) {
                bad += 1;
                if bad <= FINDINGS_PER_FILE {
                    self.damage(
                        &path,
                        Some(line.offset),
                        format!("line {count} is no {} of a batch", if jobs { "job" } else { "item" }),
                    );
                }
            }
        }
        if count != total || file.len()? != lines.offset {
            self.damage(
                &path,
                Some(lines.offset),
                format!("it has {count} whole lines, and the batch has {total} items"),
            );
        }
        Ok(())
    }
}

/// What a note in the quarantine says.
fn reason_of(bytes: &[u8]) -> String {
    let note: Value = serde_json::from_slice(bytes).unwrap_or_default();
    note.get("reason").and_then(Value::as_str).unwrap_or("the note beside it cannot be read").to_owned()
}

/// Where the event files of an instance end, by their lines alone.
struct EventFiles {
    position: Position,
    /// Length of the active file.
    len: u64,
    /// Whether a line is damaged or missing.
    broken: bool,
}

impl Default for EventFiles {
    fn default() -> Self {
        let position = Position { last_seq: 0, segment: 1, offset: 0, durable_seq: 0, durable_offset: 0 };
        Self { position, len: 0, broken: false }
    }
}

impl EventFiles {
    fn scan(look: &mut Look<'_>, dir: &Dir, live: bool) -> Result<Self> {
        let mut scanned = Self::default();
        // The active file is opened before the names are read: when it is put aside in between, it is
        // in the list too, and is left out there.
        let active = dir.open_file(layout::EVENT_LOG)?;
        let own = active.as_ref().map(File::stat).transpose()?;
        let mut full: Vec<u64> = dir.names()?.iter().filter_map(|n| layout::parse_event_segment(n)).collect();
        full.sort_unstable();
        for first in full {
            let name = layout::event_segment(first);
            let Some(file) = dir.open_file(&name)? else { continue };
            if own.is_some_and(|own| file.stat().is_ok_and(|stat| stat.identity == own.identity)) {
                continue;
            }
            look.check_mode(dir, &name)?;
            if first != scanned.position.last_seq + 1 {
                scanned.gap(look, &file, 0, first);
            }
            scanned.position.segment = first;
            scanned.read(look, &file)?;
            if scanned.len > scanned.position.offset {
                scanned.broken = true;
                look.damage(file.path(), Some(scanned.position.offset), "its last line is not complete");
            }
        }
        scanned.position.segment = scanned.position.last_seq + 1;
        (scanned.position.offset, scanned.len) = (0, 0);
        if let Some(file) = active {
            look.check_mode(dir, layout::EVENT_LOG)?;
            scanned.read(look, &file)?;
            let cut_short = scanned.len > scanned.position.offset;
            if cut_short && scanned.broken && !live && !look.waiting {
                look.damage(file.path(), Some(scanned.position.offset), "its last line is not complete");
            }
        }
        scanned.position.durable_seq = scanned.position.last_seq;
        scanned.position.durable_offset = scanned.position.offset;
        Ok(scanned)
    }

    fn gap(&mut self, look: &mut Look<'_>, file: &File, offset: u64, found: u64) {
        self.broken = true;
        let reason = format!("event {found} stands where {} is expected", self.position.last_seq + 1);
        look.damage(file.path(), Some(offset), reason);
    }

    /// Reads a file from its beginning. `durable_offset` of the cache is not used: what is damaged is
    /// to be found.
    fn read(&mut self, look: &mut Look<'_>, file: &File) -> Result<()> {
        look.files += 1;
        self.len = file.len()?;
        let mut lines = Lines::new(file, 0);
        let mut bad = 0;
        let mut first = true;
        while let Some(line) = lines.next()? {
            // Behind a line that cannot be read the count goes on as if it had been there.
            let expected = self.position.last_seq + 1;
            let seq = match line.event() {
                Ok(event) => {
                    if event.seq != expected && bad < FINDINGS_PER_FILE {
                        bad += 1;
                        self.gap(look, file, line.offset, event.seq);
                    }
                    event.seq
                }
                // Behind what is on disk for sure this is the tail of a write, which recovery knows.
                Err(_) if look.waiting => expected,
                Err(reason) => {
                    bad += 1;
                    self.broken = true;
                    if bad <= FINDINGS_PER_FILE {
                        let reason = format!("event {expected} cannot be read: {reason}");
                        look.damage(file.path(), Some(line.offset), reason);
                    }
                    expected
                }
            };
            if std::mem::take(&mut first) && self.position.offset == 0 {
                self.position.segment = seq;
            }
            self.position.last_seq = seq;
            self.position.offset = lines.offset;
        }
        if first {
            self.position.offset = 0;
        }
        // It grew while it was read.
        self.len = self.len.max(self.position.offset);
        Ok(())
    }
}
