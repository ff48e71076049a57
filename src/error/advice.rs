//! The ends of the messages: what to do next. What happened is never said here.

use std::fmt;
use std::io;

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
        if cause.ends_with(next) { Ok(()) } else { write!(f, "; then {next}") }
    }
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
