//! The directory of an instance: its record, what writes have left, and the items of a batch. It finds,
//! and never mends.

use serde_json::Value;

use super::events::EventFiles;
use super::{BY_HAND, FINDINGS_PER_FILE, Look, NOT_OURS};
use crate::admin::doctor::{Finding, Fix, Severity};
use crate::disk::fs::Dir;
use crate::disk::layout;
use crate::error::{Error, Result};
use crate::log::activate;
use crate::log::events::Lines;
use crate::options::Options;
use crate::record::{BATCH_KIND, InstanceId, RawRecord, Record, json};

impl Look<'_> {
    pub(super) fn entry(&mut self, name: &str) -> Result<()> {
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
