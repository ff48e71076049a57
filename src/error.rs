//! Errors by meaning. Each says what happened, where, and what to do next. Nothing is logged or tried
//! again here.

mod advice;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::record::{InstanceId, Status};
use advice::{After, At, Found, Then, larger, listing, more, remedy};

pub(crate) use advice::command;

/// What the functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the user's own code: of a closure, a `prepare`, a job.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Everything that can go wrong. Its text says what happened, where, and what to do next; the variant
/// is for programs. It is cheap to clone, because one fault may be the answer to many callers.
///
/// Unless it is [`Error::Unknown`], [`Error::Crashed`] or [`Error::Remote`], or the function says
/// otherwise, what was asked for was not done.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not an instance id.
    #[error("{id:?} is not a valid instance id: {reason}; use for example \"build-42\"")]
    InvalidId {
        /// What was given.
        id: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// Some other input is not what it must be. Nothing was changed.
    #[error("invalid {what}: {reason}")]
    InvalidInput {
        /// What was given.
        what: &'static str,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// There is no such instance.
    #[error("there is no instance {id:?} in {}; `{}` lists those that exist", root.display(), listing(root))]
    NotFound {
        /// The id that was asked for.
        id: InstanceId,
        /// Where it was looked for: the directory `instances/` of a root.
        root: PathBuf,
    },
    /// `create` never overwrites.
    #[error("instance {id:?} exists already ({}); choose another id, or delete it first", path.display())]
    AlreadyExists {
        /// The id that was to be made.
        id: InstanceId,
        /// The directory that has the name.
        path: PathBuf,
    },
    /// The directory of a live instance was removed or replaced behind our back.
    #[error("the directory of instance {id:?} was removed or replaced while it was in use ({}); bring it back from a backup, unless it was meant to be deleted", path.display())]
    Gone {
        /// The instance.
        id: InstanceId,
        /// Where its directory was.
        path: PathBuf,
    },
    /// Another process owns the instance.
    #[error("instance {id:?} is in use by {}; wait until it is done, or stop that process", Owner::describe(owner.as_deref()))]
    Locked {
        /// The instance.
        id: InstanceId,
        /// The owner, when it could be found.
        owner: Option<Box<Owner>>,
    },
    /// The instance is of another kind than the store that was asked.
    #[error("instance {id:?} {}", Found(found, expected))]
    KindMismatch {
        /// The instance.
        id: InstanceId,
        /// The kind of the store.
        expected: &'static str,
        /// The kind in the record. The same as `expected` when another type of this process has the
        /// instance live.
        found: String,
    },
    /// The lifecycle has no such step.
    #[error("instance {id:?} cannot go from {from} to {to}; {}", After(*from))]
    Transition {
        /// The instance.
        id: InstanceId,
        /// Where it is.
        from: Status,
        /// Where it was to go.
        to: Status,
    },
    /// Something is over its limit. Nothing was changed.
    #[error("the {what} is too large: {bytes}, and the limit is {limit}; {}", larger(what))]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size: bytes, unless `what` says otherwise.
        bytes: u64,
        /// The limit, in the same unit.
        limit: u64,
    },
    /// More work is waiting than the limit allows. Nothing was changed; try again later.
    #[error("too much is waiting: {what} is at its limit of {limit}; {}", more(what))]
    Overloaded {
        /// Which limit.
        what: &'static str,
        /// Its value.
        limit: u64,
    },
    /// JSON cannot hold the value. Nothing was changed.
    #[error("{field} cannot be stored as JSON: {reason}; give it a value that JSON has, or another type")]
    Unserializable {
        /// The path of the field.
        field: String,
        /// Why.
        reason: String,
    },
    /// A file does not hold what it must. It stays as it is; of a record that cannot be used there is a
    /// copy, with the reason, under `.fiefdom/quarantine/` once somebody tried to use the instance.
    #[error("{} is damaged{}: {reason}; its bytes are kept (of a record, a copy is under .fiefdom/quarantine): mend the file by hand, or restore it", path.display(), At(*offset))]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The first byte that is wrong, where it is known.
        offset: Option<u64>,
        /// What is wrong.
        reason: String,
    },
    /// A file was written by a newer version. Its bytes are untouched.
    #[error("{} has format {found}, and this program knows formats up to {supported}; use a newer version of it", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u64,
        /// The newest that this program reads.
        supported: u64,
    },
    /// The state does not have the shape of this kind, or could not be brought to it. The instance is
    /// as it was.
    #[error(
        "the state of instance {id:?} cannot be used as {kind:?} version {version}: {reason}; its record is unchanged: migrate it, or use the program that wrote it"
    )]
    Schema {
        /// The instance.
        id: InstanceId,
        /// The kind of the store.
        kind: &'static str,
        /// The version that the program has.
        version: u32,
        /// What went wrong.
        reason: String,
    },
    /// A [`StateFile`](crate::StateFile) does not hold what its type needs, or could not be brought
    /// to it. The file is as it was.
    #[error(
        "{} cannot be used as {kind:?} version {version}: {reason}; the file is unchanged: mend it by hand, or move it away to begin anew", path.display()
    )]
    StateFile {
        /// The file.
        path: PathBuf,
        /// The kind that the program asked for.
        kind: &'static str,
        /// The version that the program has.
        version: u32,
        /// What went wrong.
        reason: String,
    },
    /// The lock of a file is held by somebody else for longer than the caller wants to wait. Nothing
    /// was changed.
    #[error("{} is still locked by another process after {waited:?}; try again when it is done, or wait longer", path.display())]
    Busy {
        /// The file whose turn did not come.
        path: PathBuf,
        /// How long it was waited.
        waited: Duration,
    },
    /// A system call failed.
    #[error("could not {action} {}: {source}; {}", path.display(), remedy(source.kind()))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The commit is not applied: the instance is as it was, and the store can be used.
    #[error("the commit to instance {id:?} was not applied, its state is unchanged: {}", Then(reason, "try again"))]
    NotApplied {
        /// The instance.
        id: InstanceId,
        /// Why.
        #[source]
        reason: Arc<Error>,
    },
    /// The commit may or may not be on disk. This store refuses writes until it is opened again.
    #[error(
        "whether the commit to instance {id:?} is on disk is unknown: {}",
        Then(reason, "open the store again and look at the instance")
    )]
    Unknown {
        /// The instance.
        id: InstanceId,
        /// Why.
        #[source]
        reason: Arc<Error>,
    },
    /// The commit log failed earlier, mostly an fsync of it: this store takes no more writes.
    #[error("the store takes no more writes, because its commit log failed: {}", Then(reason, "open it again"))]
    Poisoned {
        /// The failure.
        #[source]
        reason: Arc<Error>,
    },
    /// The caller's own closure panicked. The instance, or the [`StateFile`](crate::StateFile), is as it
    /// was.
    #[error("the closure given to {what} panicked: {message}; nothing was changed: mend the closure")]
    Panicked {
        /// What it was given to: an instance, or a file.
        what: String,
        /// What the panic said.
        message: String,
    },
    /// The caller's own closure refused. The instance is as it was.
    #[error("{source}")]
    Rejected {
        /// What the closure returned.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The actor of the instance crashes again and again, and is left alone for a while.
    #[error(
        "instance {id:?} crashed {crashes} times within {window:?} and is not started again yet; look at the log of the program for the cause"
    )]
    CrashLoop {
        /// The instance.
        id: InstanceId,
        /// How often it crashed.
        crashes: usize,
        /// In which time.
        window: Duration,
    },
    /// The actor died while it had the request. Whether it was applied is for the next read to say.
    #[error(
        "the actor of instance {id:?} stopped while it had this request; read the instance to see whether it was applied"
    )]
    Crashed {
        /// The instance.
        id: InstanceId,
    },
    /// `prepare` of the kind failed. Every waiter gets this; the next use tries again.
    #[error("preparing {kind:?} failed: {source}; mend the cause: it is tried again at the next use")]
    Prepare {
        /// The kind.
        kind: &'static str,
        /// What `prepare` said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The directory cannot be used as a root.
    #[error("{} cannot be used as a data root: {reason}", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// A question to people has no answer, and nobody waits for one any more.
    #[error("the input request {key:?} of instance {id:?} {why}")]
    NotAnswered {
        /// The instance.
        id: InstanceId,
        /// The key of the request.
        key: String,
        /// Why nobody waits.
        why: Unanswered,
    },
    /// The process that has the instance in use answered with an error that this one has no name
    /// for, or did not answer.
    #[error("the process that has instance {id:?} in use did not do it: {reason}")]
    Remote {
        /// The instance.
        id: InstanceId,
        /// What it said, or why there is no answer, and what to do next.
        reason: String,
    },
    /// The store is shut down.
    #[error("the store is shut down; open it again")]
    Closed,
}

impl Error {
    /// Wraps an error of the caller's own, to be returned from a closure given to `commit`.
    ///
    /// ```
    /// use fiefdom::Error;
    ///
    /// let error = Error::rejected("the order is paid already");
    /// assert_eq!(error.to_string(), "the order is paid already");
    /// ```
    pub fn rejected(source: impl Into<BoxError>) -> Self {
        Self::Rejected { source: source.into().into() }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), source: Arc::new(source.into()) }
    }

    pub(crate) fn corrupt(path: &Path, offset: Option<u64>, reason: impl fmt::Display) -> Self {
        Self::Corrupt { path: path.to_owned(), offset, reason: reason.to_string() }
    }

    /// Whether a flush failed: then what looks written may not be on disk.
    pub(crate) fn is_flush(&self) -> bool {
        matches!(self, Self::Io { action: "fsync" | "fdatasync" | "fsync the directory", .. })
    }

    /// What the system said, when this is an error of a system call, or was caused by one.
    ///
    /// ```
    /// use fiefdom::Error;
    ///
    /// fn is_worth_waiting_for(error: &Error) -> bool {
    ///     error.io_kind() == Some(std::io::ErrorKind::StorageFull)
    /// }
    /// # assert!(!is_worth_waiting_for(&Error::Closed));
    /// ```
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { source, .. } => Some(source.kind()),
            Self::NotApplied { reason, .. } | Self::Unknown { reason, .. } | Self::Poisoned { reason } => {
                reason.io_kind()
            }
            _ => None,
        }
    }
}

/// What a panic said, when it said it in words.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "it said nothing".to_owned())
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unanswered {
    /// The time to wait was up. The question stays open.
    TimedOut,
    /// Somebody asked whoever works on the instance to stop. The question stays open.
    Cancelled,
    /// The question was withdrawn.
    Withdrawn,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TimedOut => {
                "was not answered in time; it stays open, and asking again finds the answer when there is one"
            }
            Self::Cancelled => {
                "is not waited for any more, because the work was cancelled; it stays open: ask again to wait for the answer"
            },
            Self::Withdrawn => "was withdrawn; ask under another key if the answer is still needed",
        })
    }
}

/// A process that has the root open.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Owner {
    /// Its random id, the name of its directory under `.fiefdom/writers/`.
    pub writer: Uuid,
    /// Its process id.
    pub pid: u32,
    /// The machine it runs on.
    pub host: String,
    /// When it opened the root (UTC).
    pub since: chrono::DateTime<chrono::Utc>,
}

impl Owner {
    pub(crate) fn new(writer: Uuid, pid: u32, host: String) -> Self {
        Self { writer, pid, host, since: chrono::Utc::now() }
    }

    fn describe(owner: Option<&Self>) -> String {
        owner.map_or_else(|| "another process".to_owned(), ToString::to_string)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {} (since {})", self.pid, self.host, self.since.format("%Y-%m-%d %H:%M:%S UTC"))
    }
}
