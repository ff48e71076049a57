//! The helper process that kills the jobs when their runner dies. It begins none of them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::unix::pipe;

use super::leader::reap_in_background;

/// What the helper runs, in plain POSIX shell and builtins only: a fork for each
/// job would cost more than the rest of it, and at the end a fork might fail.
///
/// Its input is `+ <slot> <pgid> <start time>` for a group that is about to run
/// and `- <slot>` for one that was killed. A slot is a small number that is used
/// again when it is free, so that a line costs the same however many groups there
/// are (cutting a group out of one long text would not). Each has a variable.
///
/// After the last line, which comes when the runner is gone in whatever way, it
/// kills the groups that are left. A start time other than the one registered
/// (the 22nd field of `/proc/<pid>/stat`, the 20th after the name, which may hold
/// anything but is the only part in parentheses) means that the id was given out
/// anew. No such process means that the shell is gone but others of its group may
/// be there.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM TSTP TTIN TTOU USR1 USR2 ALRM PIPE
top=0
while read -r sign slot pgid start; do
  case $sign in
  +)
    eval "group_$slot=\$pgid:\$start"
    [ "$slot" -lt "$top" ] || top=$((slot + 1))
    ;;
  -) eval "group_$slot=" ;;
  esac
done
set -f
slot=0
while [ "$slot" -lt "$top" ]; do
  eval "group=\$group_$slot"
  slot=$((slot + 1))
  [ -n "$group" ] || continue
  pgid=${group%:*}
  start=${group#*:}
  if [ "$start" != 0 ] && { read -r stat <"/proc/$pgid/stat"; } 2>/dev/null; then
    set -- ${stat##*) }
    [ "${20}" = "$start" ] || continue
  fi
  kill -s KILL -- "-$pgid"
done
"#;

/// How long the helper may take to accept a line. It reads tens of thousands per
/// second, so a wait of this length means that it is stopped or stuck.
const STALL: Duration = Duration::from_secs(5);

/// The helper process of a runner, which kills the groups of its jobs when the
/// runner dies, however it dies. Clones share the one helper.
///
/// The helper reads the groups from a pipe whose other end only the runner holds
/// (it is closed in every program the runner starts), so the kernel itself tells
/// it of the runner's death. It is in a process group of its own and ignores the
/// signals of a terminal, so Ctrl-C, a hang-up, or a `kill` of the runner's group
/// leave it alive to do its work.
///
/// Dropping the last clone, registrations of running jobs included, ends the helper, which
/// kills what is registered still.
///
/// It is what [`CommandJob`](crate::jobs::CommandJob) prepares; nobody makes one by hand.
#[derive(Debug, Clone)]
pub struct Guardian {
    shared: Arc<Mutex<Shared>>,
}

/// The state behind all clones.
#[derive(Debug)]
struct Shared {
    helper: Helper,
    /// The registered groups by slot: id and start time (0: not known).
    slots: Vec<Option<(u32, u64)>>,
    /// The empty ones among the slots.
    free: Vec<usize>,
}

/// A helper process and our end of its pipe.
#[derive(Debug)]
struct Helper {
    /// `None` once it was found dead or is being dropped. Shared with those who
    /// wait for room in it.
    pipe: Option<Arc<pipe::Sender>>,
    /// `None` only while it is being dropped.
    child: Option<Child>,
    /// Lines that the pipe has not taken yet.
    backlog: Vec<u8>,
}

impl Guardian {
    /// Starts the helper, which blocks for about a millisecond.
    ///
    /// # Errors
    /// When no process can be started.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub(crate) fn start() -> io::Result<Self> {
        let shared = Shared { helper: Helper::start()?, slots: Vec::new(), free: Vec::new() };
        Ok(Self { shared: Arc::new(Mutex::new(shared)) })
    }

    /// The process id of the helper.
    #[cfg(test)]
    pub(super) fn pid(&self) -> Option<u32> {
        self.lock().helper.child.as_ref().map(Child::id)
    }

    /// Whether the helper is running. If not, the jobs are unguarded until
    /// the next one starts, which replaces a dead helper.
    pub(in crate::jobs) fn is_alive(&self) -> bool {
        let mut shared = self.lock();
        shared.helper.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Replaces the helper, whether it is dead, stuck or well, and registers all
    /// groups with the new one. No job is touched.
    ///
    /// Dropping the future leaves the new helper in place; what it has not been
    /// told yet goes out with the next line.
    ///
    /// # Errors
    /// When no process can be started (all stays as it was), or when the new
    /// helper does not take the lines.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub(crate) async fn restart(&self) -> io::Result<()> {
        let fresh = Helper::start()?;
        {
            let mut shared = self.lock();
            let mut old = std::mem::replace(&mut shared.helper, fresh);
            // Before its pipe is closed: alive, it would take that for our death
            // and kill every job.
            if let Some(child) = &mut old.child {
                child.kill()?;
                child.wait()?;
            }
            let Shared { helper, slots, .. } = &mut *shared;
            for (slot, entry) in slots.iter().enumerate() {
                if let Some((pgid, start)) = entry {
                    helper.say(&format!("+ {slot} {pgid} {start}\n"));
                }
            }
        }
        self.accepted().await
    }

    /// Registers a process group, until the result is dropped. When this returns,
    /// the pipe holds the registration: even if the runner dies at once, the
    /// helper reads it before it reads the end.
    ///
    /// `start_time` is that of the group's leader in clock ticks since boot, as in
    /// `/proc/<pid>/stat`, or `None` if it is not known.
    ///
    /// Dropping the future takes the registration back.
    ///
    /// # Errors
    /// When the helper has died or takes no line for 5 s; see
    /// [`restart`](Self::restart).
    ///
    /// # Panics
    /// Outside a tokio runtime with time enabled.
    pub(crate) async fn register(&self, pgid: u32, start_time: Option<u64>) -> io::Result<Registration> {
        let registration = {
            let mut shared = self.lock();
            let entry = (pgid, start_time.unwrap_or(0));
            let slot = shared.free.pop().unwrap_or(shared.slots.len());
            if slot == shared.slots.len() {
                shared.slots.push(Some(entry));
            } else {
                shared.slots[slot] = Some(entry);
            }
            shared.helper.say(&format!("+ {slot} {pgid} {}\n", entry.1));
            Registration { guardian: self.clone(), slot }
        };
        self.accepted().await?;
        Ok(registration)
    }

    /// Waits until the pipe has taken the whole backlog.
    async fn accepted(&self) -> io::Result<()> {
        let all_taken = async {
            loop {
                let pipe = {
                    let mut shared = self.lock();
                    if shared.helper.flush()? {
                        return Ok(());
                    }
                    shared.helper.pipe.clone()
                };
                if let Some(pipe) = pipe {
                    pipe.writable().await?;
                }
            }
        };
        tokio::time::timeout(STALL, all_taken).await.unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the guardian of the jobs has read nothing for {STALL:?}; restart it"),
            ))
        })
    }

    /// The state. A panic in here could come only from a failed allocation and
    /// leaves nothing half done that matters more than going on.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The registration of one group with a [`Guardian`]. Dropping it strikes the
/// group off the list, without ever blocking; do so once the group was killed and
/// before its leader is reaped.
#[derive(Debug)]
pub(crate) struct Registration {
    guardian: Guardian,
    slot: usize,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut shared = self.guardian.lock();
        shared.slots[self.slot] = None;
        shared.free.push(self.slot);
        shared.helper.say(&format!("- {}\n", self.slot));
        // If the pipe is full, the line waits for the next one. Should the runner
        // die before that, the helper compares start times before it kills.
        let _ = shared.helper.flush();
    }
}

impl Helper {
    /// Starts a helper process.
    fn start() -> io::Result<Self> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "fiefdom-guardian"])
            // Keeps no directory busy, and no pipe of the runner's output open.
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = match child.stdin.take() {
            Some(stdin) => pipe::Sender::from_owned_fd(OwnedFd::from(stdin)),
            None => Err(io::Error::other("the guardian was started without a pipe")),
        };
        // In place before any error is returned, so that the child is reaped.
        let mut helper = Self { pipe: None, child: Some(child), backlog: Vec::new() };
        helper.pipe = Some(Arc::new(pipe?));
        Ok(helper)
    }

    /// Puts a line behind all earlier ones.
    fn say(&mut self, line: &str) {
        // A dead helper hears nothing, and its successor is told all anew.
        if self.pipe.is_some() {
            self.backlog.extend_from_slice(line.as_bytes());
        }
    }

    /// Gives the pipe as much of the backlog as it takes; says whether that was
    /// all.
    fn flush(&mut self) -> io::Result<bool> {
        let Some(pipe) = &self.pipe else {
            return Err(dead());
        };
        while !self.backlog.is_empty() {
            match pipe.try_write(&self.backlog) {
                Ok(taken) => drop(self.backlog.drain(..taken)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.pipe = None;
                    self.backlog = Vec::new();
                    return Err(dead());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.flush();
        // The end of its input is what the helper ends on.
        self.pipe = None;
        if let Some(child) = self.child.take() {
            reap_in_background(child);
        }
    }
}

#[cfg(test)]
impl Guardian {
    /// Closes the pipe with all registrations in place, as the death of the runner
    /// would.
    pub(super) fn close_pipe(&self) {
        self.lock().helper.pipe = None;
    }

    /// How many slots there are, free ones included.
    pub(super) fn slot_count(&self) -> usize {
        self.lock().slots.len()
    }
}

/// The error when the helper has died.
fn dead() -> io::Error {
    io::Error::new(
        io::ErrorKind::BrokenPipe,
        "the guardian of the jobs has died, so a job could outlive its runner; restart it",
    )
}
