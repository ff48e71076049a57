//! What is in `.fiefdom`: the writers and their logs, the trash, the quarantine. It finds, and never
//! mends.

use std::collections::BTreeSet;

use serde_json::Value;
use uuid::Uuid;

use super::{FINDINGS_PER_FILE, Look, NOT_OURS, NOTE_BYTES};
use crate::admin::doctor::{Finding, Fix, Severity};
use crate::disk::fs::Dir;
use crate::disk::layout;
use crate::error::Result;
use crate::log::{segment, trash};
use crate::record::InstanceId;

const TRIED_AGAIN: &str =
    "nothing: the process tries again, and keeps the log until then; `Store::stats` says how it is";
const RECOVERS: &str = "recover it, as the next opening of the store does";
const REMOVES_REST: &str = "remove what is left of it";

impl Look<'_> {
    /// What is in `.fiefdom` itself. That `format.json` can be read was seen when the root was opened.
    pub(super) fn top(&mut self) -> Result<()> {
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

    pub(super) fn writer(&mut self, name: &str) -> Result<()> {
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

    pub(super) fn trash(&mut self, name: &str) -> Result<()> {
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

    pub(super) fn quarantine(&mut self) -> Result<()> {
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
}

/// What a note in the quarantine says.
fn reason_of(bytes: &[u8]) -> String {
    let note: Value = serde_json::from_slice(bytes).unwrap_or_default();
    note.get("reason").and_then(Value::as_str).unwrap_or("the note beside it cannot be read").to_owned()
}
