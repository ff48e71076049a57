//! A job that is a shell command. Starting and ending processes is `process.rs`; the values of its
//! environment are never written to the record or an event.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::job::{Attempt, Job};
use super::process::{self, CommandSpec, Exit, Gated, GroupId, Guardian, Running};
use crate::blocking;
use crate::disk::fs::Dir;
use crate::disk::layout;
use crate::error::{BoxError, Error, Result};
use crate::instance::{Session, SubDir};
use crate::kind::{Instance, NewInstance};

/// Most bytes of one log file of a job. A job that prints more has failed.
const LOG_BYTES: u64 = 1 << 30;

/// How often the size of the log files is looked at.
const LOG_CHECK: Duration = Duration::from_secs(1);

/// How much of the end of `stderr.log` is looked at for the last line.
const TAIL_BYTES: usize = 4096;

/// A job that is a shell command: `sh` runs it in `workspace/`, its output goes to
/// `logs/stdout.log` and `logs/stderr.log` (appended to by each attempt), its standard input is
/// empty. It finds its id in `FIEFDOM_INSTANCE_ID`, and its directory in `FIEFDOM_INSTANCE_DIR`.
///
/// It succeeds when it exits with 0. It is over when its shell is: what it left running in its
/// process group is killed then, and when the process that runs it dies. One that prints more than
/// 1 GiB to either log has failed.
///
/// The input of an item is a [`CommandInput`] as JSON.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommandJob;

/// What to run.
///
/// ```
/// use fiefdom::jobs::CommandInput;
///
/// let mut input = CommandInput::new("./deploy --to staging");
/// input.env.insert("TOKEN".into(), "secret".into()); // reaches the command, and no record
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CommandInput {
    /// The command, for `sh`.
    pub command: String,
    /// Variables for its environment, besides those of this process. Their values are not written to
    /// the record or the events.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

impl CommandInput {
    /// A command without variables of its own.
    pub fn new(command: impl Into<String>) -> Self {
        Self { command: command.into(), env: BTreeMap::new() }
    }
}

/// The state of a command job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CommandState {
    /// The command.
    pub command: String,
    /// Names of the variables that were set for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_names: Vec<String>,
    /// The exit code of the last attempt; none before it has ended, or when a signal ended it.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// The processes of the attempt under way, or of the last: before another begins they are made
    /// sure to be gone.
    #[serde(default)]
    pub(super) group: Option<GroupId>,
}

impl Instance for CommandJob {
    const KIND: &'static str = "job";
    type State = CommandState;
    type Prepared = Guardian;

    /// One guardian for all jobs: it kills them when this process dies.
    async fn prepare(&self) -> Result<Guardian, BoxError> {
        Ok(Guardian::start()?)
    }

    fn initial(&self, _: &Guardian, new: &NewInstance) -> Result<CommandState, BoxError> {
        let input: CommandInput = new.input_as()?;
        if input.command.trim().is_empty() {
            return Err("the command is empty".into());
        }
        Ok(CommandState {
            command: input.command,
            env_names: input.env.into_keys().collect(),
            exit_code: None,
            group: None,
        })
    }
}

impl Job for CommandJob {
    /// That of its process group.
    const BEGINS_WITH_COMMIT: bool = true;

    async fn run(&self, session: Session<Self>, attempt: Attempt) -> Result<(), BoxError> {
        if let Some(group) = session.read(|state| state.group.clone()).await? {
            group.ensure_gone().await?;
        }
        let input = CommandInput::deserialize(&*attempt.input)?;
        if !session.prepared().is_alive() {
            // Somebody killed it. Without it the jobs would outlive us if we died.
            session.prepared().restart().await?;
        }
        let gated = spawn(&session, input).await?;
        let (group, pid) = (gated.group_id(), gated.pid());
        let number = attempt.number;
        // Nothing of the command has run yet: its shell waits until its process is on record.
        session
            .commit(move |tx| {
                tx.event("job.spawned", &json!({ "attempt": number, "pid": pid }))?;
                tx.state_mut().group = group;
                Ok(())
            })
            .await?;
        let running = gated.open(session.prepared()).await?;
        let logs = session.path().join(layout::LOGS);
        let exit = watch(running, &attempt, &logs).await?;
        let code = exit.code;
        attempt.at_end.set::<CommandState>(move |state| (state.exit_code, state.group) = (code, None));
        if exit.success() {
            return Ok(());
        }
        let (live, permit) = session.admitted().await?;
        let last_line = blocking::run(move || {
            let said = last_line(&live.core.lane.dir);
            drop(permit);
            Ok(said)
        })
        .await?;
        Err(match last_line {
            Some(said) => format!("{exit}: {said}"),
            None => exit.to_string(),
        }
        .into())
    }
}

/// Makes the directories, opens the logs, and starts the shell, which waits at its gate.
async fn spawn(session: &Session<CommandJob>, input: CommandInput) -> Result<Gated, BoxError> {
    let (live, permit) = session.admitted().await?;
    let (id, path) = (session.id().clone(), session.path());
    let spawned = blocking::run(move || {
        let dir = &live.core.lane.dir;
        let cwd = dir.ensure_dir(SubDir::Workspace.name())?.path().to_owned();
        let logs = dir.ensure_dir(SubDir::Logs.name())?;
        let path = path.canonicalize().map_err(|e| Error::io("find", &path, e))?;
        let mut env: Vec<(String, String)> = input.env.into_iter().collect();
        env.push(("FIEFDOM_INSTANCE_ID".into(), id.to_string()));
        env.push(("FIEFDOM_INSTANCE_DIR".into(), path.display().to_string()));
        let stdout = logs.open_append(layout::STDOUT)?.into_std()?;
        let stderr = logs.open_append(layout::STDERR)?.into_std()?;
        drop(permit);
        Ok(process::spawn(&CommandSpec { command: input.command, cwd, env, stdout, stderr }))
    })
    .await?;
    Ok(spawned?)
}

/// Waits until the command ends, and ends it when the attempt is told to stop, or when it prints
/// without bounds.
async fn watch(mut running: Running, attempt: &Attempt, logs: &Path) -> Result<Exit, BoxError> {
    let mut paused = false;
    loop {
        tokio::select! {
            biased;
            exit = running.wait() => {
                let exit = exit?;
                if running.has_leftovers() {
                    tracing::warn!(logs = %logs.display(), "processes of a job that has ended could not be killed");
                }
                return Ok(exit);
            }
            () = attempt.stopped() => {
                running.terminate(attempt.grace).await?;
                return Err("it was told to stop".into());
            }
            () = attempt.paused(), if !paused => {
                running.pause()?;
                paused = true;
            }
            () = attempt.unpaused(), if paused => {
                running.unpause()?;
                paused = false;
            }
            () = tokio::time::sleep(LOG_CHECK) => {
                let size = |name: &str| std::fs::symlink_metadata(logs.join(name)).map_or(0, |m| m.len());
                if size(layout::STDOUT).max(size(layout::STDERR)) > LOG_BYTES {
                    running.terminate(attempt.grace).await?;
                    return Err(format!("it printed more than {LOG_BYTES} bytes; let it write to files in its workspace").into());
                }
            }
        }
    }
}

/// The last line of `logs/stderr.log` that is not empty. The job may have put a link or a pipe there:
/// the one is not followed, the other not waited for.
fn last_line(instance: &Dir) -> Option<String> {
    let file = instance.open_dir(layout::LOGS).ok()??.open_file(layout::STDERR).ok()??;
    let mut bytes = vec![0; TAIL_BYTES];
    let read = file.read_at(&mut bytes, file.len().ok()?.saturating_sub(TAIL_BYTES as u64)).ok()?;
    bytes.truncate(read);
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}
