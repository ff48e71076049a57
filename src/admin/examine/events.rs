//! The event log of an instance: its lines, and whether the record and the cache agree with them. It
//! finds, and never mends.

use super::{FINDINGS_PER_FILE, Look, NOTE_BYTES};
use crate::admin::doctor::{Finding, Fix, Severity};
use crate::disk::fs::{Dir, File};
use crate::disk::layout;
use crate::error::Result;
use crate::log::events::{Lines, Position};
use crate::record::RawRecord;

/// Where the event files of an instance end, by their lines alone.
pub(super) struct EventFiles {
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
    pub(super) fn scan(look: &mut Look<'_>, dir: &Dir, live: bool) -> Result<Self> {
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

impl Look<'_> {
    /// Compares the event log with what the record and the cache say about it.
    pub(super) fn judge_events(
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
}
