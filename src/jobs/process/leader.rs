//! The shell that leads the process group of a job: signals, exit and reaping. When a job is over
//! is not decided here.

use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
#[cfg(target_os = "linux")]
use tokio::io::{Interest, unix::AsyncFd};

use super::exit::Exit;

/// The shell of a job, unreaped until [`reap`](Self::reap). Dropping it unreaped
/// kills the group and has the shell reaped in the background.
#[derive(Debug)]
pub(super) struct Leader {
    /// `None` once reaped or handed over for reaping.
    child: Option<Child>,
    pid: Pid,
}

impl Leader {
    /// Takes over a child that was started as the leader of its own group.
    ///
    /// # Errors
    /// When its id is out of range, which no system does.
    pub(super) fn new(child: Child) -> io::Result<Self> {
        let pid = pid_of(child.id())?;
        Ok(Self { child: Some(child), pid })
    }

    /// The id of the process and of its group.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// The same as a plain number.
    pub(super) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether the shell has exited; it stays unreaped.
    ///
    /// # Errors
    /// When it is no child of ours any more, as something else reaped it.
    pub(super) fn has_exited(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        loop {
            match waitid(WaitId::Pid(self.pid), options) {
                Ok(status) => return Ok(status.is_some()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a signal to the whole group. Does nothing once the shell is reaped,
    /// as the id may be another group's then.
    ///
    /// # Errors
    /// When the group cannot be signalled (`EPERM`: all of it runs as another
    /// user).
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        // The question costs a system call, but answers even for a runner in
        // which something else reaps our children.
        if self.child.is_none() || self.has_exited().is_err() {
            return Ok(());
        }
        match kill_process_group(self.pid, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            // Where BSD answers so for a group of zombies alone.
            Err(Errno::PERM) if self.has_exited().unwrap_or(true) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reaps the shell. Blocks until it exits, so to be called only after that.
    ///
    /// # Errors
    /// When it has been reaped already.
    pub(super) fn reap(&mut self) -> io::Result<Exit> {
        let mut child = self.child.take().ok_or_else(|| io::Error::other("the shell was reaped before"))?;
        Ok(child.wait()?.into())
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        // An error leaves nothing more to be tried.
        let _ = self.signal(Signal::KILL);
        if let Some(child) = self.child.take() {
            reap_in_background(child);
        }
    }
}

/// The id of a process or group as rustix wants it.
///
/// # Errors
/// For 0 and 1, which `kill` takes for "my own group" and "everything", and for
/// what no process id can be.
pub(super) fn pid_of(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid)
        .ok()
        .filter(|&pid| pid > 1)
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{pid} is no process group id")))
}

/// Has a child that was killed, or is about to exit, waited for. A destructor
/// cannot wait itself: death by `SIGKILL` takes a moment, and longer while a
/// process is stuck in the kernel. One thread does it for all, and lives as long
/// as the program; without it a zombie stays until the program ends.
pub(super) fn reap_in_background(child: Child) {
    static REAPER: OnceLock<Sender<Child>> = OnceLock::new();
    let reaper = REAPER.get_or_init(|| {
        #[expect(clippy::disallowed_methods, reason = "as many as there are jobs; a destructor cannot wait for room")]
        let (sender, receiver) = channel::<Child>();
        let thread = std::thread::Builder::new().name("fiefdom-reaper".into());
        let started = thread.spawn(move || {
            for mut child in receiver {
                let _ = child.wait();
            }
        });
        // Not started: the receiver is gone, and sending fails from now on.
        drop(started);
        sender
    });
    let _ = reaper.send(child);
}

/// What tells that a shell has exited.
#[derive(Debug)]
pub(super) enum Watch {
    /// A descriptor that becomes readable at the exit, long before the reaping.
    #[cfg(target_os = "linux")]
    Pidfd(AsyncFd<OwnedFd>),
    /// Asking again and again: for kernels before 5.3, sandboxes that forbid
    /// `pidfd_open`, other systems, and when descriptors run out.
    Poll,
}

impl Watch {
    /// Watches the shell, which must not have been reaped. Must be called in a
    /// tokio runtime with I/O enabled.
    pub(super) fn new(leader: &Leader) -> Self {
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{PidfdFlags, pidfd_open};
            // The flag is younger (5.10) than the call (5.3), and nothing here
            // reads the descriptor, so it is not asked for. It is always CLOEXEC.
            if let Ok(fd) = pidfd_open(leader.pid, PidfdFlags::empty())
                && let Ok(fd) = watch_readable(fd)
            {
                return Self::Pidfd(fd);
            }
        }
        let _ = leader;
        Self::Poll
    }

    /// Waits until the shell has exited and leaves it unreaped. Dropping the
    /// future changes nothing.
    pub(super) async fn exited(&self, leader: &Leader) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Pidfd(fd) => loop {
                let mut ready = fd.readable().await?;
                // Readiness may be spurious; only the kernel's answer counts.
                if leader.has_exited()? {
                    return Ok(());
                }
                ready.clear_ready();
            },
            Self::Poll => {
                let mut pause = Pause::default();
                while !leader.has_exited()? {
                    pause.sleep().await;
                }
                Ok(())
            }
        }
    }
}

/// Registers a descriptor with the runtime for reading.
///
/// tokio 1.54 deprecates this constructor in favour of an unsafe one
/// (<https://github.com/tokio-rs/tokio/pull/8587>), because a type that gives out
/// any number as its descriptor could be passed. What the unsafe one demands of
/// its caller holds for an `OwnedFd` by construction: it is open, stays the same,
/// and is closed only by the `AsyncFd` that owns it.
#[cfg(target_os = "linux")]
#[allow(deprecated, reason = "the sound alternative needs unsafe code, which is forbidden here")]
fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// The pauses of a loop that has to ask again and again: 1 ms, doubled each time
/// up to 32 ms.
#[derive(Debug, Default)]
pub(super) struct Pause(u32);

impl Pause {
    /// Waits for the next pause to pass.
    pub(super) async fn sleep(&mut self) {
        tokio::time::sleep(Duration::from_millis(1 << self.0)).await;
        self.0 = (self.0 + 1).min(5);
    }
}
