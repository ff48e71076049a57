//! What the end of an event log costs, in operations of the disk.

use rustix::io::Errno;

use crate::disk::fs::Dir;
use crate::disk::model::{Disk, Fault, Kind};
use crate::log::events::{EventReader, EventWriter};
use crate::record::EventLine;

/// Reads the last ten of so many events, and says how many operations that took.
fn to_read_the_end(events: u64, segment_bytes: u64) -> u64 {
    let disk = Disk::new();
    let dir = Dir::open(disk.path()).expect("the disk");
    let line = |seq| EventLine {
        seq,
        text: format!(r#"{{"seq":{seq},"at":"2026-01-05T00:00:00Z","epoch":1,"type":"step","data":null}}"#).into(),
    };
    let lines: Vec<EventLine> = (1..=events).map(line).collect();
    EventWriter::empty(segment_bytes).append(&dir, &lines).expect("appended");
    // A long log has many names.
    disk.fail(Some(Fault { after: 0, for_ever: true, errno: Errno::IO, which: |kind, _| kind == Kind::List }));
    let before = disk.operations();
    let read = EventReader::new(events - 9).read(&dir).expect("the last ten");
    assert!(read.iter().map(|event| event.seq).eq(events - 9..=events), "{} events", read.len());
    disk.operations() - before
}

#[test]
fn the_last_events_cost_the_same_in_a_long_log() {
    let short = to_read_the_end(300, 1 << 20);
    assert_eq!(to_read_the_end(10_000, 1 << 20), short, "in a long file");
    assert!(to_read_the_end(10_300, 10_000) <= short, "behind many full files");
}
