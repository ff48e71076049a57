//! The lines of the listing index. Pure.
//!
//! ```text
//! <crc32> listing 1 <bytes of the entries> <stamp>      the first line
//! <crc32> <created_at> <id>                             the entries, oldest first
//! <crc32> + <created_at> <id> <stamp>                   behind them, what happened since
//! <crc32> - <id> <stamp>
//! <crc32> ! <stamp>                                     something happened that is not known
//! ```

use std::fmt::{self, Write as _};

use chrono::{DateTime, Utc};

use crate::record::InstanceId;

/// When an instance was created: seconds and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Created(i64, u32);

impl Created {
    /// For an instance whose record does not say, or is not there yet: it is looked at first.
    pub(crate) const UNKNOWN: Self = Self(i64::MAX, 0);
}

impl From<DateTime<Utc>> for Created {
    fn from(at: DateTime<Utc>) -> Self {
        Self(at.timestamp(), at.timestamp_subsec_nanos())
    }
}

/// What `instances/` was like at one moment. Every change of a name in it changes its time, which
/// nobody can set; after a reboot, which may have lost lines, no stamp is what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) boot: u32,
    pub(super) inode: u64,
    pub(super) changed: (i64, u32),
}

/// The first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of the entries behind it.
    pub(super) entries: u64,
    pub(super) stamp: Stamp,
}

/// What happened to `instances/`, by a line behind the entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Added(Created, InstanceId),
    Removed(InstanceId),
    /// What happened before this line is not known: the names have to be read.
    Gap,
}

/// An instance in the index.
pub(crate) type Entry = (Created, InstanceId);

impl fmt::Display for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0, self.1)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}:{}:{}.{:09}", self.boot, self.inode, self.changed.0, self.changed.1)
    }
}

fn parse_time(text: &str) -> Option<(i64, u32)> {
    let (seconds, nanos) = text.split_once('.')?;
    Some((seconds.parse().ok()?, nanos.parse().ok()?))
}

fn parse_created(text: &str) -> Option<Created> {
    parse_time(text).map(|(seconds, nanos)| Created(seconds, nanos))
}

fn parse_stamp(text: &str) -> Option<Stamp> {
    let mut parts = text.split(':');
    let boot = u32::from_str_radix(parts.next()?, 16).ok()?;
    Some(Stamp { boot, inode: parts.next()?.parse().ok()?, changed: parse_time(parts.next()?)? })
}

/// Adds a line with its checksum.
fn push(to: &mut String, text: fmt::Arguments<'_>) {
    let start = to.len();
    to.push_str("00000000 ");
    // Writing to a String cannot fail.
    let _ = to.write_fmt(text);
    let sum = format!("{:08x}", crc32fast::hash(&to.as_bytes()[start + 9..]));
    to.replace_range(start..start + 8, &sum);
    to.push('\n');
}

/// What stands in a line without its newline, if its checksum is right.
fn checked(line: &[u8]) -> Option<&str> {
    let (sum, text) = line.split_at_checked(9)?;
    let sum = std::str::from_utf8(sum).ok()?.strip_suffix(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    (crc32fast::hash(text) == sum).then(|| std::str::from_utf8(text).ok()).flatten()
}

pub(super) fn push_header(to: &mut String, header: &Header) {
    push(to, format_args!("listing 1 {} {}", header.entries, header.stamp));
}

pub(super) fn parse_header(line: &[u8]) -> Option<Header> {
    let (entries, stamp) = checked(line)?.strip_prefix("listing 1 ")?.split_once(' ')?;
    Some(Header { entries: entries.parse().ok()?, stamp: parse_stamp(stamp)? })
}

pub(super) fn push_entry(to: &mut String, (created, id): &Entry) {
    push(to, format_args!("{created} {id}"));
}

pub(super) fn parse_entry(line: &[u8]) -> Option<Entry> {
    let (created, id) = checked(line)?.split_once(' ')?;
    Some((parse_created(created)?, InstanceId::new(id).ok()?))
}

pub(super) fn push_event(to: &mut String, event: &Event, stamp: &Stamp) {
    match event {
        Event::Added(created, id) => push(to, format_args!("+ {created} {id} {stamp}")),
        Event::Removed(id) => push(to, format_args!("- {id} {stamp}")),
        Event::Gap => push(to, format_args!("! {stamp}")),
    }
}

pub(super) fn parse_event(line: &[u8]) -> Option<(Event, Stamp)> {
    let (text, stamp) = checked(line)?.rsplit_once(' ')?;
    let mut words = text.split(' ');
    let event = match words.next()? {
        "+" => Event::Added(parse_created(words.next()?)?, InstanceId::new(words.next()?).ok()?),
        "-" => Event::Removed(InstanceId::new(words.next()?).ok()?),
        "!" => Event::Gap,
        _ => return None,
    };
    words.next().is_none().then_some(())?;
    Some((event, parse_stamp(stamp)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { boot: 0xab, inode: 42, changed: (1_763_727_725, 7) };

    #[test]
    fn every_line_reads_back_and_none_with_a_changed_byte() {
        let id = InstanceId::new("a.b-1").expect("an id");
        let created = Created(-3, 999_999_999);
        let header = Header { entries: 7, stamp: STAMP };
        let mut lines = [String::new(), String::new(), String::new(), String::new(), String::new()];
        push_header(&mut lines[0], &header);
        push_entry(&mut lines[1], &(created, id.clone()));
        push_event(&mut lines[2], &Event::Added(Created::UNKNOWN, id.clone()), &STAMP);
        push_event(&mut lines[3], &Event::Removed(id.clone()), &STAMP);
        push_event(&mut lines[4], &Event::Gap, &STAMP);
        let lines = lines.map(|line| line.trim_end().as_bytes().to_vec());
        assert_eq!(parse_header(&lines[0]), Some(header));
        assert_eq!(parse_entry(&lines[1]), Some((created, id.clone())));
        assert_eq!(parse_event(&lines[2]), Some((Event::Added(Created::UNKNOWN, id.clone()), STAMP)));
        assert_eq!(parse_event(&lines[3]), Some((Event::Removed(id), STAMP)));
        assert_eq!(parse_event(&lines[4]), Some((Event::Gap, STAMP)));
        for line in &lines {
            for at in 0..line.len() {
                let mut changed = line.clone();
                changed[at] ^= 1;
                let read = (parse_header(&changed), parse_entry(&changed), parse_event(&changed));
                assert_eq!(read, (None, None, None), "byte {at} of {}", String::from_utf8_lossy(line));
            }
        }
    }
}
