//! Every name on disk, spelled once.

use uuid::Uuid;

use crate::record::InstanceId;

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

/// Below `events/`.
pub(crate) const EVENT_LOG: &str = "events.jsonl";
pub(crate) const EVENT_STATE: &str = "state.json";

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
