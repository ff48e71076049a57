//! Process groups as `/proc` shows them, and the ones an earlier runner left. A group that may be
//! somebody else's is never signalled.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Signal, kill_process, kill_process_group, test_kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::leader::{Pause, pid_of};
use crate::disk::host::boot_id;

/// An environment variable that every process of a job inherits (and is reserved
/// for fiefdom), by which [`ensure_gone`] knows what a job left behind.
pub(super) const MARK: &str = "FIEFDOM_JOB_PROCESS";

/// How long a killed group may take to vanish.
const GONE: Duration = Duration::from_secs(5);

/// How old an answer about the living groups may be; see [`is_live`].
const CENSUS_AGE: Duration = Duration::from_millis(20);

/// What identifies the process group of a job to a later runner, for as long as
/// the machine runs and after.
///
/// Runners that share a record of these must share the processes too: in a
/// container with process ids of its own, the groups of another look gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupId {
    /// The id of the group, which is the process id of its first process.
    pub(crate) pgid: u32,
    /// When that process was started, in clock ticks since boot.
    pub(crate) start_time: u64,
    /// The boot of the machine it ran in, as the kernel names it.
    pub(crate) boot_id: String,
}

impl GroupId {
    /// Kills what is left of the group of an earlier, dead runner and waits until
    /// it is gone. Returns whether there was anything to kill. A group from before
    /// the last boot is gone by itself.
    ///
    /// Dropping the future may leave the group alive, or dying.
    ///
    /// # Errors
    /// As [`ensure_gone`], and when the id of this boot cannot be read.
    pub(crate) async fn ensure_gone(&self) -> io::Result<bool> {
        if boot_id() != self.boot_id {
            return Ok(false);
        }
        ensure_gone(self.pgid, self.start_time).await
    }
}

/// Kills what is left of the process group `pid` whose leader was started at
/// `start_time` (clock ticks since boot) *in this boot* by a runner that is dead,
/// and waits until it is gone. Returns whether there was anything to kill.
///
/// Three things can be found under the id:
///
/// - A process of that id and start time: it is the leader, and all members of the
///   group are the job's.
/// - A process of that id with another start time: the kernel gives out no id that
///   a group still has, so the group was empty before, and is gone.
/// - No such process, but a group of that id. Mostly these are members that have
///   outlived the leader, but if the id was given out anew after the group had
///   ended, the new owner may have gone and left members as well. So one of them
///   must carry fiefdom's mark in its environment. That is enough: a living runner
///   kills the group of a job before it reaps the leader, so a marked group without
///   a leader belongs to a job of a dead runner, whichever it was. A daemon that a
///   job started on purpose has a session of its own, and is spared.
///
/// Dropping the future may leave the group alive, or dying.
///
/// # Errors
/// `InvalidInput` for an id below 2; `TimedOut` when a member lives on 5 s after
/// `SIGKILL`; any other when `/proc` cannot be read or the group not be signalled.
pub(crate) async fn ensure_gone(pid: u32, start_time: u64) -> io::Result<bool> {
    let group = pid_of(pid)?;
    // Nearly every group of a dead runner was killed by its guardian: one system
    // call tells, where reading all of /proc would take milliseconds.
    if test_kill_process_group(group) == Err(Errno::SRCH) {
        return Ok(false);
    }
    if !blocking(move || has_leftovers(pid, start_time)).await? {
        return Ok(false);
    }
    match kill_process_group(group, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    // The leader may have moved to another group, where it is still ours.
    if read_stat(pid)?.is_some_and(|leader| leader.start_time == start_time) {
        match kill_process(group, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let killed = Instant::now();
    let mut pause = Pause::default();
    while is_live(pid, killed).await? {
        if killed.elapsed() > GONE {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("process group {pid} still lives {GONE:?} after it was killed"),
            ));
        }
        pause.sleep().await;
    }
    Ok(true)
}

/// Whether anything lives that [`ensure_gone`] has to kill.
fn has_leftovers(pid: u32, start_time: u64) -> io::Result<bool> {
    match read_stat(pid)? {
        Some(leader) if leader.start_time != start_time => Ok(false),
        Some(leader) if leader.lives() => Ok(true),
        leader => {
            let mut found = false;
            for_each_process(|stat| {
                found |= stat.group == pid && stat.lives() && (leader.is_some() || is_marked_orphan(&stat, start_time));
            })?;
            Ok(found)
        }
    }
}

/// Whether a process was surely started by a job (see [`ensure_gone`]).
fn is_marked_orphan(stat: &Stat, start_time: u64) -> bool {
    // Members of a job are in the session of its runner: a group whose id is also
    // that of its session was made by `setsid`.
    if stat.session == stat.group || stat.start_time < start_time {
        return false;
    }
    // Not readable for processes of others, which cannot be killed either.
    fs::read(format!("/proc/{}/environ", stat.pid)).is_ok_and(|environ| {
        environ
            .split(|&byte| byte == 0)
            .any(|variable| variable.strip_prefix(MARK.as_bytes()).is_some_and(|rest| rest.starts_with(b"=")))
    })
}

/// The groups that have a living member, and when the look at them began.
type Census = (Instant, Arc<HashSet<u32>>);

/// Whether a process group has a member that is no zombie. The answer is not from
/// before `since`, but may be 20 ms old: a look at all processes takes a few
/// milliseconds, and when a runner ends a thousand jobs at once, all of them share
/// each look. Being old does no harm, as a group without living members stays so.
///
/// Dropping the future changes nothing.
///
/// # Errors
/// When `/proc` cannot be read.
pub(super) async fn is_live(group: u32, since: Instant) -> io::Result<bool> {
    static LAST: Mutex<Option<Census>> = Mutex::const_new(None);
    // Held while looking, so that others wait for this look and not for their own.
    let mut last = LAST.lock().await;
    if let Some((begun, groups)) = &*last
        && *begun >= since
        && begun.elapsed() < CENSUS_AGE
    {
        return Ok(groups.contains(&group));
    }
    let begun = Instant::now();
    let groups = blocking(|| {
        let mut groups = HashSet::new();
        for_each_process(|stat| {
            if stat.lives() {
                groups.insert(stat.group);
            }
        })?;
        Ok(Arc::new(groups))
    })
    .await?;
    let found = groups.contains(&group);
    *last = Some((begun, groups));
    Ok(found)
}

/// Runs something that reads much of `/proc` where it holds up no other task.
#[expect(clippy::disallowed_methods, reason = "an error here is an io::Error")]
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// When a process was started, in clock ticks since boot; `None` if there is no
/// such process or no `/proc`.
pub(super) fn start_time(pid: u32) -> Option<u64> {
    read_stat(pid).ok().flatten().map(|stat| stat.start_time)
}

/// What is needed of `/proc/<pid>/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    pid: u32,
    state: u8,
    group: u32,
    session: u32,
    threads: u32,
    start_time: u64,
}

impl Stat {
    /// Whether the process can still do anything: it is no zombie (Z) and not just
    /// vanishing (X). A process whose first thread alone has ended looks like a
    /// zombie, but has other threads.
    fn lives(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x') || self.threads > 1
    }

    /// Reads the line, whose fields proc(5) numbers from 1. The second is the name
    /// in parentheses, which may itself hold blanks, parentheses and bytes that are
    /// no text, so the fields are counted from the last parenthesis on.
    fn parse(line: &[u8]) -> Option<Self> {
        let open = line.iter().position(|&byte| byte == b'(')?;
        let close = line.iter().rposition(|&byte| byte == b')')?;
        let pid = std::str::from_utf8(&line[..open]).ok()?.trim().parse().ok()?;
        let mut fields = std::str::from_utf8(&line[close + 1..]).ok()?.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?; // 3
        let group = fields.nth(1)?.parse().ok()?; // 5
        let session = fields.next()?.parse().ok()?; // 6
        let threads = fields.nth(13)?.parse().ok()?; // 20
        let start_time = fields.nth(1)?.parse().ok()?; // 22
        Some(Self { pid, state, group, session, threads, start_time })
    }
}

/// Reads the state of one process; `None` if there is none of that id.
fn read_stat(pid: u32) -> io::Result<Option<Stat>> {
    // Of the usual 300 bytes at most, so one read takes all of it.
    let mut buffer = [0; 2048];
    let read = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut buffer));
    match read {
        Ok(length) => Stat::parse(&buffer[..length])
            .map(Some)
            .ok_or_else(|| io::Error::other(format!("cannot understand /proc/{pid}/stat"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // It ended between the opening and the reading.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Shows every process to `look`, those left out that end meanwhile.
fn for_each_process(mut look: impl FnMut(Stat)) -> io::Result<()> {
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(stat) = read_stat(pid)? {
            look(stat);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let tail = "S 1 40 30 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2 3";
        for name in ["sh", "a b) S (c", ") (", "", "\u{fffd}"] {
            let stat = Stat::parse(format!("42 ({name}) {tail}\n").as_bytes());
            let (pid, state, group, session) = (42, b'S', 40, 30);
            let expected = Stat { pid, state, group, session, threads: 1, start_time: 98765 };
            assert_eq!(stat, Some(expected), "{name}");
        }
        assert_eq!(Stat::parse(b"42 (sh) S 1 40"), None);
        assert_eq!(Stat::parse(b""), None);
    }
}
