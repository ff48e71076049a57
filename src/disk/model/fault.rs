//! Which operations of a model disk fail. This decides and counts; what a failed operation leaves
//! behind is the operation's own matter.

use rustix::io::Errno;

/// What an operation does, for whoever chooses which one fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Open,
    Create,
    MakeDir,
    Write,
    SetLen,
    Rename,
    Unlink,
    SyncFile,
    SyncDir,
    SyncAll,
    Read,
    List,
}

/// Which operations fail, and how.
#[derive(Clone)]
pub(crate) struct Fault {
    /// Operations of the sort that succeed before.
    pub(crate) after: u64,
    /// Whether all later ones fail too.
    pub(crate) for_ever: bool,
    pub(crate) errno: Errno,
    /// Which operations count: what they do, and on which name.
    pub(crate) which: fn(Kind, &str) -> bool,
}

impl Fault {
    /// What this operation fails with, if it does.
    pub(super) fn strike(&mut self, kind: Kind, name: &str) -> Option<Errno> {
        if !(self.which)(kind, name) {
            return None;
        }
        if self.after > 0 {
            self.after -= 1;
            return None;
        }
        Some(self.errno)
    }
}
