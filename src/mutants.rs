//! Protections that a test can take away, to show that another test notices.
//!
//! Outside of unit tests nothing can be taken away, and what asks costs nothing.

/// Something that keeps a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// The log is flushed before a commit is acknowledged.
    LogFlush,
    /// A commit is acknowledged when it is durable, not before.
    OutputGate,
    /// The log is on disk before files follow it.
    LogFirst,
    /// A failed flush is not tried again.
    OneFlush,
    /// Torn bytes of a failed write are cut off.
    TornBytesCut,
    /// Commits behind one that was not applied are not applied.
    Generations,
    /// Files are replaced, not written over.
    Replacement,
    /// The name of a new instance is on disk before its first commit.
    NameFlush,
    /// What a later segment says anew is on disk there before an earlier one is dropped.
    CarriedOnDisk,
    /// A segment with events is not dropped before they are in files that are on disk.
    CarriedWhole,
    /// Directories are flushed before the log is dropped.
    DirectoryFlush,
    /// The index of the alarms is on disk before the log is dropped.
    AlarmFlush,
    /// Recovery makes the entry of an alarm that only the log has.
    AlarmRecovery,
    /// The new files of many instances are on disk before they have their names.
    BatchFlush,
    /// The files of many instances are on disk before the log is dropped.
    WholeFlush,
    /// The lock is taken before anything is read.
    LockThenRead,
    /// Damage is told from a torn tail.
    DamageIsNoTail,
    /// What is gone is remembered while another log may bring it back.
    Tombstones,
}

/// Whether this protection is taken away: by the environment variable `FIEFDOM_TEST_WITHOUT`.
#[cfg(test)]
pub(crate) fn without(protection: Protection) -> bool {
    static WITHOUT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let without = WITHOUT.get_or_init(|| std::env::var("FIEFDOM_TEST_WITHOUT").ok());
    without.as_ref().is_some_and(|name| *name == format!("{protection:?}"))
}

#[cfg(not(test))]
pub(crate) const fn without(_: Protection) -> bool {
    false
}
