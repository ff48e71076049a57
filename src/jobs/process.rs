//! One shell command as a process group that cannot outlive its runner.
//!
//! A job passes through three states, each a type of its own:
//!
//! 1. [`spawn`] starts the shell of the job, which waits at a gate: [`Gated`].
//!    Its [`GroupId`] exists, and not one byte of the job has run, so the caller
//!    can record the id durably first.
//! 2. [`Gated::open`] tells the [`Guardian`] of the group and opens the gate:
//!    [`Running`].
//! 3. [`Running::wait`] or [`Running::terminate`] ends in an [`Exit`]. A job is
//!    over when its shell is; what it left running in its group is killed then.
//!
//! Whatever happens to the runner, no process of a job stays behind:
//!
//! - a value dropped on the way kills its group;
//! - when the runner dies before the gate opens, the shell reads the end of the
//!   gate and exits without having run the job;
//! - when it dies later, `kill -9` included, the guardian kills the group;
//! - when the guardian was killed as well, the next runner does so by means of
//!   the recorded [`GroupId::ensure_gone`].
//!
//! The limit of all this is the process group: a process that leaves it on
//! purpose (`setsid`, a daemon, an interactive shell with job control) is not
//! followed. A process of another user (`sudo`) cannot be signalled.
//!
//! # Why no signal can hit a stranger
//!
//! The kernel gives out no process id again that is still the id of a process,
//! a zombie included, or of a group with a member. As long as the shell that
//! leads a group has not been reaped (waited for), the id of the group therefore
//! means this group and no other, even if the shell has exited and the group has
//! no other member. So the order is always: learn that the shell exited *without*
//! reaping it, kill its group, strike the group off the guardian's list, reap.
//! That is why tokio's `Child` is not used: its `wait` reaps at once.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, test_kill_process_group};

use crate::disk::host::boot_id;

mod exit;
mod group;
mod guardian;
mod leader;
#[cfg(test)]
mod tests;

pub(crate) use exit::Exit;
pub(crate) use group::GroupId;
pub use guardian::Guardian;
pub(crate) use guardian::Registration;
use leader::{Leader, Watch};

/// What the shell of a job runs, with the command as its only argument.
///
/// - `read` waits at the gate; its end without a line means that nobody is left
///   to run the job for. The variable is one of fiefdom's own, as `read` would
///   change a variable the job inherits.
/// - The gate is then replaced as standard input, and so closed.
/// - `eval` runs the command in this same shell: a second `sh -c` would cost
///   another exec. `shift` and `unset` leave no trace for the command to see, and
///   stand on its first line, so line numbers in error messages are right.
const GATE: &str = "read -r FIEFDOM_GATE || exit 125; exec </dev/null; \
                    eval \"shift; unset FIEFDOM_GATE; $1\"";

/// How long the members of a killed group are waited for. `SIGKILL` takes effect
/// within milliseconds, except on a process inside a stuck system call (a dead
/// network file system): waiting longer would not help there.
const SETTLE: Duration = Duration::from_secs(5);

/// A command to start.
#[derive(Debug)]
pub(crate) struct CommandSpec {
    /// The command, as for `sh -c`. Error messages of the shell name it
    /// `fiefdom-job`.
    pub(crate) command: String,
    /// The working directory.
    pub(crate) cwd: PathBuf,
    /// Environment variables to set besides those the runner has itself.
    pub(crate) env: Vec<(String, String)>,
    /// Where standard output goes. A job and its retries may share one file if it
    /// was opened for appending.
    pub(crate) stdout: File,
    /// Where standard error goes; may be a clone of `stdout`.
    pub(crate) stderr: File,
}

/// Starts the shell of a job in a new process group and leaves it waiting at the
/// gate. Standard input of the job will be `/dev/null`, and no other file of the
/// runner is inherited.
///
/// This blocks the thread for the start of one program, about a millisecond.
///
/// # Errors
/// When the working directory cannot be entered (the message names it), when the
/// command or a variable holds a NUL byte or is too long for the system, or when
/// no process can be started. Nothing is left running then.
pub(crate) fn spawn(spec: &CommandSpec) -> io::Result<Gated> {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", GATE, "fiefdom-job", &spec.command])
        .current_dir(&spec.cwd)
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        // Lets ensure_gone tell what a job left behind from a stranger.
        .env(group::MARK, "1")
        .stdin(Stdio::piped())
        .stdout(spec.stdout.try_clone()?)
        .stderr(spec.stderr.try_clone()?)
        .process_group(0);
    let mut child = command.spawn().map_err(|error| {
        // The error of a failed chdir looks as if the shell were missing.
        if spec.cwd.is_dir() {
            error
        } else {
            let cwd = spec.cwd.display();
            io::Error::new(error.kind(), format!("cannot enter the working directory {cwd}: {error}"))
        }
    })?;
    let gate = child.stdin.take();
    let leader = Leader::new(child)?;
    let gate = gate.ok_or_else(|| io::Error::other("the shell was started without a gate"))?;
    let start_time = group::start_time(leader.id());
    Ok(Gated { gate, leader, start_time })
}

/// A job whose shell waits at the gate: nothing of the command has run.
///
/// Dropping it closes the gate for good, kills the shell and has it reaped in the
/// background.
#[derive(Debug)]
pub(crate) struct Gated {
    // Before the leader, to be closed before that is killed.
    gate: ChildStdin,
    leader: Leader,
    start_time: Option<u64>,
}

impl Gated {
    /// The process id of the shell, which is the id of its group too.
    #[must_use]
    pub(crate) fn pid(&self) -> u32 {
        self.leader.id()
    }

    /// What identifies the group to a later runner; `None` where the system has
    /// no `/proc`.
    #[must_use]
    pub(crate) fn group_id(&self) -> Option<GroupId> {
        Some(GroupId { pgid: self.pid(), start_time: self.start_time?, boot_id: boot_id() })
    }

    /// Registers the group with the guardian and then lets the job run.
    ///
    /// Dropping the future drops the job: nothing of it has run then.
    ///
    /// # Errors
    /// When the guardian cannot take the registration (see
    /// [`Guardian::restart`]), or when the shell was killed at the gate. The job
    /// has not run then, and is dropped.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub(crate) async fn open(self, guardian: &Guardian) -> io::Result<Running> {
        let Self { mut gate, leader, start_time } = self;
        let watch = Watch::new(&leader);
        let registration = guardian.register(leader.id(), start_time).await?;
        // One byte into an empty pipe: never blocks.
        io::Write::write_all(&mut gate, b"\n").map_err(|error| {
            let why = format!("the shell of the job ended before it was let go: {error}");
            io::Error::new(error.kind(), why)
        })?;
        Ok(Running { leader, watch, registration: Some(registration), state: State::Runs })
    }
}

/// How far a job has come.
#[derive(Debug, Clone, Copy)]
enum State {
    /// The shell has not been seen to exit.
    Runs,
    /// The shell is reaped and its group killed, but others of the group may
    /// still be about to die.
    Settles(Exit),
    /// All is over; the flag says that members of the group were still there
    /// [`SETTLE`] after they were killed.
    Over(Exit, bool),
}

/// A job that was let go.
///
/// Dropping it kills the whole group at once; the shell is reaped in the
/// background.
#[derive(Debug)]
pub(crate) struct Running {
    leader: Leader,
    watch: Watch,
    registration: Option<Registration>,
    state: State,
}

impl Running {
    /// The process id of the shell, which is the id of its group too. Once
    /// [`wait`](Self::wait) has returned, it may belong to another process.
    #[must_use]
    pub(crate) fn pid(&self) -> u32 {
        self.leader.id()
    }

    /// Waits until the job is over: its shell has exited and everything else in
    /// its group was killed and is gone (up to 5 s are spent on that last part,
    /// see [`has_leftovers`](Self::has_leftovers)). Later calls return the same
    /// at once.
    ///
    /// Dropping the future loses nothing: the job goes on, and the next call
    /// takes up the waiting where this one was.
    ///
    /// # Errors
    /// When the shell cannot be waited for, which only happens if something else
    /// in this process reaps all children (or `SIGCHLD` is ignored). No signal is
    /// sent to the group from then on, as its id may be another's.
    pub(crate) async fn wait(&mut self) -> io::Result<Exit> {
        if let State::Runs = self.state {
            self.watch.exited(&self.leader).await?;
            // No await from the exit to the end of `finish`, so that a dropped
            // future cannot leave it half done.
            self.finish()?;
        }
        if let State::Settles(exit) = self.state {
            let left = !self.settled().await;
            self.state = State::Over(exit, left);
        }
        match self.state {
            State::Over(exit, _) => Ok(exit),
            State::Runs | State::Settles(_) => Err(io::Error::other("the job is not over")),
        }
    }

    /// Ends the job: `SIGTERM` to the whole group (and `SIGCONT`, as a stopped
    /// process would not notice), `SIGKILL` to what is left of it after `grace`,
    /// then as [`wait`](Self::wait).
    ///
    /// All members have the whole of `grace` to end, not only the shell: a shell
    /// dies of `SIGTERM` at once, while the program it waited for may have
    /// something to save. Where the system has no `/proc`, members cannot be seen
    /// and the grace ends with the shell. The exit is that of the shell.
    ///
    /// Dropping the future after its first poll leaves a job that was told to
    /// terminate but will not be killed; `wait` and this method may follow.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), and when the group cannot be signalled.
    pub(crate) async fn terminate(&mut self, grace: Duration) -> io::Result<Exit> {
        if let State::Runs = self.state {
            let asked = Instant::now();
            self.leader.signal(Signal::TERM)?;
            self.leader.signal(Signal::CONT)?;
            if let Ok(ended) = tokio::time::timeout(grace, self.group_ended(asked)).await {
                ended?;
            }
            self.leader.signal(Signal::KILL)?;
        }
        self.wait().await
    }

    /// Stops the whole group where it is (`SIGSTOP`, which no process can refuse), until it is
    /// [continued](Self::unpause). It can be ended as any other.
    ///
    /// # Errors
    /// When the group cannot be signalled.
    pub(crate) fn pause(&self) -> io::Result<()> {
        self.leader.signal(Signal::STOP)
    }

    /// Lets a group that was stopped go on (`SIGCONT`).
    ///
    /// # Errors
    /// When the group cannot be signalled.
    pub(crate) fn unpause(&self) -> io::Result<()> {
        self.leader.signal(Signal::CONT)
    }

    /// Whether processes of the group were still there 5 s after they had been
    /// killed, when [`wait`](Self::wait) gave them up: stuck in the kernel, or of
    /// another user.
    #[must_use]
    pub(crate) fn has_leftovers(&self) -> bool {
        matches!(self.state, State::Over(_, true))
    }

    /// What has to follow the exit of the shell, in the order the module
    /// documentation gives reasons for.
    fn finish(&mut self) -> io::Result<()> {
        // The kernel delivers a signal to a group in one step that no fork gets
        // past, so one call is enough, and from here on the group only shrinks.
        self.leader.signal(Signal::KILL)?;
        self.registration = None;
        self.state = State::Settles(self.leader.reap()?);
        Ok(())
    }

    /// Waits until no member of the group lives, without end. The shell is not
    /// reaped, so neither the question nor a later signal can concern another
    /// group. `asked` is when the wish to know arose.
    async fn group_ended(&self, asked: Instant) -> io::Result<()> {
        self.watch.exited(&self.leader).await?;
        let mut pause = leader::Pause::default();
        // Without /proc nobody can say who else is there.
        while group::is_live(self.pid(), asked).await.unwrap_or(false) {
            pause.sleep().await;
        }
        Ok(())
    }

    /// Waits until the killed group is empty, or [`SETTLE`] is over; says which.
    async fn settled(&self) -> bool {
        let gone = || test_kill_process_group(self.leader.pid()) == Err(rustix::io::Errno::SRCH);
        // Nearly every job leaves nothing behind, and this says so in one system
        // call. The shell being reaped, the id may be another group's by now, but
        // asking does no harm: at worst we wait in vain.
        if gone() {
            return true;
        }
        let asked = Instant::now();
        let wait = async {
            let mut pause = leader::Pause::default();
            // The group also exists while it has zombies, which may stay forever
            // where process 1 does not reap (a container without an init).
            while !gone() && group::is_live(self.pid(), asked).await.unwrap_or(true) {
                pause.sleep().await;
            }
        };
        tokio::time::timeout(SETTLE, wait).await.is_ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let State::Runs = self.state {
            // In the order of `finish`; dropping the leader reaps it. There is
            // nobody to tell an error to, and the guardian stays as a second try
            // until the runner ends.
            if self.leader.signal(Signal::KILL).is_ok() {
                self.registration = None;
            }
        }
    }
}
