//! The ends of the messages: what to do next. What happened is never said here.

use std::fmt;
use std::io;
use std::path::Path;

use super::Error;
use crate::record::Status;

/// What helps against a failed system call.
pub(super) fn remedy(kind: io::ErrorKind) -> &'static str {
    use io::ErrorKind::{
        AlreadyExists, IsADirectory, NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
        StorageFull,
    };
    match kind {
        PermissionDenied => "run as its owner, or give this user the right to it",
        StorageFull | QuotaExceeded => "make room",
        ReadOnlyFilesystem => "mount it writable, or name another directory",
        NotFound => "see that the path is right, and that no other program removes it",
        NotADirectory | IsADirectory | AlreadyExists => "move away what is there, or name another path",
        _ => "mend the cause; the log of the system (dmesg) may say more",
    }
}

/// What helps against something that is over its limit: which option raises it, or what to do where
/// none does.
pub(super) fn larger(what: &str) -> &'static str {
    match what {
        "record" => "keep large data in files under workspace/ or output/, or raise Options::record_bytes",
        "event" => "keep large data in files under workspace/ or output/, or raise Options::event_bytes",
        "control request" => "send less at once, or raise Options::record_bytes of the process that has the instance",
        "tag" => "shorten it, or keep the long text in the state",
        "number of tags" => "take one away first, or keep the others in the state",
        "alarm payload" => "keep large data in the state, and name it in the payload",
        "item of a batch" => "keep large data in a file, and name it in the item",
        "number of items in a batch" => "make several batches of them",
        "state file" => "keep large data in files of their own, and name them in it",
        _ => "make it smaller: this limit is fixed",
    }
}

/// The same for what is at its limit because too much of it waits.
pub(super) fn more(what: &str) -> &'static str {
    match what {
        "operations waiting in one instance" => {
            "try again when some of it is done, or raise Options::queued_per_instance"
        }
        "operations waiting in the store" => "try again when some of it is done, or raise Options::queued_per_store",
        "bytes of commits waiting for the log" => "try again when some of it is done, or raise Options::queued_bytes",
        "live instances, all of them busy or kept awake" => {
            "try again when one of them is let go, or raise Options::live_instances"
        }
        "open input requests of one instance" => "answer or withdraw one of them first",
        "input requests kept by one instance, open and answered" => "withdraw those that nobody asks again",
        "items of a batch handed out at once" => "mark some of them first",
        _ => "try again when some of it is done",
    }
}

/// The kind of an instance that was asked for as another: `found`, then `expected`.
pub(super) struct Found<'a>(pub(super) &'a str, pub(super) &'a str);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(found, expected) = self;
        if found == expected {
            return f.write_str(
                "is in use in this process as another type; ask the store that has it, or wait until it is let go",
            );
        }
        write!(f, "is of kind {found:?}, not {expected:?}; open it with a store of its own kind, or `Untyped`")
    }
}

/// Where a life can go from here.
pub(super) struct After(pub(super) Status);

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.0;
        let next = Status::ALL.into_iter().filter(|next| *next != from && from.can_become(*next));
        let next: Vec<_> = next.map(Status::as_str).collect();
        if next.is_empty() {
            return f.write_str("its life is over: make a new instance");
        }
        write!(f, "it can become {}", next.join(", "))
    }
}

/// A cause with its own advice, and then this, unless the cause says it already.
pub(super) struct Then<'a>(pub(super) &'a Error, pub(super) &'static str);

impl fmt::Display for Then<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(cause, next) = self;
        let cause = cause.to_string();
        f.write_str(&cause)?;
        if cause.contains(next) { Ok(()) } else { write!(f, "; then {next}") }
    }
}

/// A command about a root, to paste as it is: the root of a program is seldom that of the tool.
pub(crate) fn command(root: &Path, words: &str) -> String {
    let path = root.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@".contains(c);
    let path = if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) };
    format!("fiefdom --root {path} {words}")
}

/// The command that lists what is in this directory of instances.
pub(super) fn listing(instances: &Path) -> String {
    command(instances.parent().unwrap_or(instances), "ls")
}

/// Where in a file, if that is known.
pub(super) struct At(pub(super) Option<u64>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(offset) => write!(f, " at byte {offset}"),
            None => Ok(()),
        }
    }
}
