//! What can be set, with its default. Values alone: no file and no environment is read for them.

use std::time::Duration;

/// When a commit is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// When it is on disk (`fdatasync`): it survives a power cut. The default.
    #[default]
    Disk,
    /// When the operating system has it (`write`): it survives `kill -9` of the process, but not a
    /// power cut or a crash of the system.
    Os,
}

/// The settings of a store: begin with [`Options::default`], and give them to
/// [`Store::open_with`](crate::Store::open_with). Every limit is finite by default.
///
/// ```
/// use std::time::Duration;
/// use fiefdom::{Durability, Options};
///
/// let mut options = Options::default();
/// options.durability = Durability::Os;
/// options.idle_after = Duration::from_secs(5);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// When a commit is acknowledged, unless the commit says otherwise. Default: [`Durability::Disk`].
    pub durability: Durability,
    /// How far the files of an instance may lag behind its commits while the disk keeps up.
    /// Default: 100 ms.
    pub materialise_within: Duration,
    /// After how long without use an instance is let go. Default: 60 s.
    pub idle_after: Duration,
    /// Most instances live at once (and never more than half of what the process may open).
    /// Default: 10 000.
    pub live_instances: usize,
    /// Most activations under way at once. Default: 64.
    pub activations_at_once: usize,
    /// How long the first use of an instance waits for a place when all live ones are busy or kept
    /// awake. Default: 30 s.
    pub activation_wait: Duration,
    /// Most operations waiting in one instance; the next gets
    /// [`Error::Overloaded`](crate::Error::Overloaded), as beyond every limit of what waits. Default: 256.
    pub queued_per_instance: usize,
    /// Most operations waiting in the store. Default: 65 536.
    pub queued_per_store: usize,
    /// Most bytes of commits waiting for the commit log. Default: 256 MiB.
    pub queued_bytes: usize,
    /// Largest record as compact JSON, in bytes; a commit of a larger one gets
    /// [`Error::TooLarge`](crate::Error::TooLarge). Default: 2 MiB.
    pub record_bytes: usize,
    /// Largest event as JSON, in bytes, its time and its type included. Default: 256 KiB.
    pub event_bytes: usize,
    /// Size at which an event log begins a new file, in bytes. Default: 16 MiB.
    pub event_segment_bytes: u64,
    /// Size at which the commit log begins a new segment, in bytes. Default: 64 MiB.
    pub log_segment_bytes: u64,
    /// Age at which a segment of the commit log is replaced by durable files, so that the log
    /// of an idle store holds no more than a list of who is at work. Default: 10 s.
    pub log_segment_age: Duration,
    /// Most full segments that wait for their checkpoint; at the limit commits wait. Default: 4.
    pub log_segments: usize,
    /// Changes that are kept for readers of [`Store::changes`](crate::Store::changes) that are behind,
    /// rounded up to a power of two. Default: 1 024.
    pub changes_kept: usize,
    /// Crashes of one instance's actor within a minute after which it is left alone, with
    /// [`Error::CrashLoop`](crate::Error::CrashLoop), until they are a minute old. Default: 5.
    pub crashes_per_minute: usize,
    /// How long a commit may take, from the moment it is handed to the commit log until it is
    /// durable, before a warning says so (an event of `tracing`, at most one in 10 s, with the number
    /// of those that were held back). `None` turns that off. Default: 1 s.
    pub slow_commit: Option<Duration>,
    /// Use the root even when it is on a network file system, where no promise of durability or of
    /// a single writer holds. Default: no.
    pub allow_network_file_system: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::Disk,
            materialise_within: Duration::from_millis(100),
            idle_after: Duration::from_secs(60),
            live_instances: 10_000,
            activations_at_once: 64,
            activation_wait: Duration::from_secs(30),
            queued_per_instance: 256,
            queued_per_store: 65_536,
            queued_bytes: 256 << 20,
            record_bytes: 2 << 20,
            event_bytes: 256 << 10,
            event_segment_bytes: 16 << 20,
            log_segment_bytes: 64 << 20,
            log_segment_age: Duration::from_secs(10),
            log_segments: 4,
            changes_kept: 1_024,
            crashes_per_minute: 5,
            slow_commit: Some(Duration::from_secs(1)),
            allow_network_file_system: false,
        }
    }
}
