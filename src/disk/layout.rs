//! Every name on disk, spelled once. No file is touched here.

use uuid::Uuid;

use crate::record::{AlarmEntry, InstanceId};

/// One directory per instance.
pub(crate) const INSTANCES: &str = "instances";
/// What belongs to the store and not to an instance.
pub(crate) const INTERNAL: &str = ".fiefdom";

/// Below [`INTERNAL`].
pub(crate) const FORMAT: &str = "format.json";
pub(crate) const RECOVERY_LOCK: &str = "recovery.lock";
pub(crate) const WRITERS: &str = "writers";
pub(crate) const TRASH: &str = "trash";
pub(crate) const QUARANTINE: &str = "quarantine";
pub(crate) const IMPORTS: &str = "imports";
/// A cache: the instances in the order of their creation.
pub(crate) const LISTING: &str = "listing";

/// Below a writer's directory.
pub(crate) const WRITER_LOCK: &str = "lock";
pub(crate) const CONTROL_SOCKET: &str = "control.sock";

/// Below an instance's directory.
pub(crate) const RECORD: &str = "instance.json";
pub(crate) const WORKSPACE: &str = "workspace";
pub(crate) const LOGS: &str = "logs";
pub(crate) const EVENTS: &str = "events";
pub(crate) const SIDECAR_DATA: &str = "sidecar-data";
pub(crate) const OUTPUT: &str = "output";

/// Below `logs/`.
pub(crate) const STDOUT: &str = "stdout.log";
pub(crate) const STDERR: &str = "stderr.log";

/// Below `logs/`: the last checkpoint.
pub(crate) const CHECKPOINT: &str = "checkpoint.json";

/// Below `events/`: what is asked of people, one file per key.
pub(crate) const INPUT_REQUESTS: &str = "input-requests";

/// Below [`INPUT_REQUESTS`].
pub(crate) fn input_request(key: &str) -> String {
    format!("{key}.json")
}

/// Below `events/`.
pub(crate) const EVENT_LOG: &str = "events.jsonl";
pub(crate) const EVENT_STATE: &str = "state.json";

/// In an archive: what it is, and the tree of the instance.
pub(crate) const EXPORT_MANIFEST: &str = "export.json";
pub(crate) const EXPORT_TREE: &str = "instance";

/// Below a batch's `workspace/`.
pub(crate) const BATCH_ITEMS: &str = "items.jsonl";

/// A full segment of the event log, named by the first `seq` in it: the name is the index.
pub(crate) fn event_segment(first_seq: u64) -> String {
    format!("events-{first_seq:012}.jsonl")
}

/// The reverse of [`event_segment`].
pub(crate) fn parse_event_segment(name: &str) -> Option<u64> {
    name.strip_prefix("events-")?.strip_suffix(".jsonl")?.parse().ok()
}

/// A segment of the commit log.
pub(crate) fn journal_segment(number: u64) -> String {
    format!("journal-{number:06}.log")
}

/// The reverse of [`journal_segment`].
pub(crate) fn parse_journal_segment(name: &str) -> Option<u64> {
    name.strip_prefix("journal-")?.strip_suffix(".log")?.parse().ok()
}

/// The name under which a file is written before it takes the place of `name`. One per target: a
/// left-over is overwritten, so they never pile up.
pub(crate) fn temporary(name: &str) -> String {
    format!(".{name}.tmp")
}

/// The lock of a file that is outside of a root.
pub(crate) fn lock_beside(name: &str) -> String {
    format!(".{name}.lock")
}

/// A writer's directory before it is locked: nobody takes it for a dead writer.
pub(crate) fn unborn_writer(writer: Uuid) -> String {
    format!("new-{writer}")
}

/// A deleted instance. The uid keeps it apart from a successor of the same id.
pub(crate) fn trashed(id: &InstanceId, uid: Uuid) -> String {
    format!("{id}.{uid}")
}

/// In a deleted instance: whose logs may still hold commits of it.
pub(crate) const HOLDERS: &str = "holders.json";

/// In the quarantine: why an instance may not be used.
pub(crate) fn blocked(id: &InstanceId) -> String {
    format!("{id}.blocked.json")
}

/// Below [`INTERNAL`]: `alarms/<kind>/<hour>/<due>.<uid>.<revision>.<id>`, empty files.
pub(crate) const ALARMS: &str = "alarms";

/// The directory of the alarms of one kind. What cannot stand in a plain name is `%` and two hex
/// digits.
pub(crate) fn alarm_kind(kind: &str) -> String {
    use std::fmt::Write as _;
    let mut name = String::with_capacity(kind.len());
    for (at, byte) in kind.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || byte == b'.' && at > 0 {
            name.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(name, "%{byte:02X}");
        }
    }
    name
}

/// The reverse of [`alarm_kind`]; `None` for a name that is not one of ours.
pub(crate) fn parse_alarm_kind(name: &str) -> Option<String> {
    let mut kind = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first == b'%' {
            let (digits, behind) = rest.split_at_checked(2)?;
            kind.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = behind;
        } else {
            kind.push(*first);
        }
    }
    String::from_utf8(kind).ok()
}

/// The directory of the alarms that are due in one hour (UTC). The names sort by time.
pub(crate) fn alarm_hour(due: i64) -> String {
    let at = chrono::DateTime::from_timestamp_millis(due).unwrap_or_default();
    at.format("%Y%m%dT%H").to_string()
}

/// The entry of one alarm. The names sort by time.
pub(crate) fn alarm_name(alarm: &AlarmEntry) -> String {
    format!("{:015}.{}.{}.{}", alarm.due, alarm.uid.simple(), alarm.revision, alarm.id)
}

/// The reverse of [`alarm_name`].
pub(crate) fn parse_alarm_name(kind: &std::sync::Arc<str>, name: &str) -> Option<AlarmEntry> {
    let mut parts = name.splitn(4, '.');
    Some(AlarmEntry {
        due: parts.next()?.parse().ok()?,
        kind: std::sync::Arc::clone(kind),
        uid: Uuid::try_parse(parts.next()?).ok()?,
        revision: parts.next()?.parse().ok()?,
        id: InstanceId::new(parts.next()?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_alarm_reads_back_and_fits() {
        let id = InstanceId::new(&format!("a.b-{}", "c".repeat(124))).expect("an id");
        let (kind, uid) = (std::sync::Arc::from("k"), Uuid::new_v4());
        let alarm = AlarmEntry { due: 253_402_300_799_000, kind, uid, revision: (1 << 62) - 1, id };
        let name = alarm_name(&alarm);
        assert!(name.len() < 240, "{}", name.len());
        assert_eq!(parse_alarm_name(&alarm.kind, &name), Some(alarm));
    }

    #[test]
    fn every_kind_has_a_plain_directory_of_its_own() {
        for kind in ["job", "a/b", "..", ".x", "größe", "100%", "x y", "a\nb"] {
            let name = alarm_kind(kind);
            assert!(!name.contains(['/', ' ']) && !name.starts_with('.'), "{name}");
            assert_eq!(parse_alarm_kind(&name).as_deref(), Some(kind));
        }
    }

    #[test]
    fn hours_sort_by_time() {
        let names: Vec<_> = [0, 3_599_999, 3_600_000, 1_763_727_725_000, 253_402_300_799_000].map(alarm_hour).into();
        assert_eq!(names[0], names[1]);
        assert!(names.windows(2).all(|pair| pair[0] <= pair[1]), "{names:?}");
    }
}
