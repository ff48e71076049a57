//! The command line: what can be said. Nothing is done here.

mod help;
#[cfg(test)]
mod tests;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};
use fiefdom::{DataRoot, InstanceId, Status};

use crate::failure::Failure;
use values::tag;
pub(crate) use values::{duration, json, unique};

/// The variable that names the data root.
const ROOT_VARIABLE: &str = "FIEFDOM_DATA_DIR";

/// One actor, one directory and one writer for every long-lived thing.
///
/// Every instance is a directory of plain files under <root>/instances.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = help::TOOL_HELP)]
pub(crate) struct Args {
    // Not a comment of documentation: in those the variable would need backticks, which people would see.
    #[arg(long, global = true, help_heading = help::EVERYWHERE, value_name = "DIR")]
    #[arg(help = "Where the instances live [default: $FIEFDOM_DATA_DIR, else ~/.fiefdom]")]
    root: Option<PathBuf>,
    /// Print JSON on standard output, one document (or one per line), and nothing else
    #[arg(long, global = true, help_heading = help::EVERYWHERE)]
    pub(crate) json: bool,
    /// Say more on standard error (-vv: even more)
    #[arg(short, long, global = true, help_heading = help::EVERYWHERE, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    pub(crate) fn data_root(&self) -> Result<DataRoot, Failure> {
        let is_bench = matches!(self.command, Command::Bench(_));
        match &self.root {
            Some(_) if is_bench => Err(Failure::Usage(
                "bench makes a root of its own; name a directory on the disk that is meant, with --dir".into(),
            )),
            None if is_bench => Ok(DataRoot::at(".")),
            Some(path) if path.as_os_str().is_empty() => {
                Err(Failure::Usage("--root is empty; name a directory".into()))
            }
            Some(path) => Ok(DataRoot::at(path)),
            None => Ok(DataRoot::from_env(ROOT_VARIABLE, ".fiefdom")?),
        }
    }

    /// Whether the root was named in so many words: then the next command needs them, too.
    pub(crate) fn names_root(&self) -> bool {
        self.root.is_some()
    }
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a file of jobs, one instance per line
    #[command(after_help = help::RUN_HELP)]
    Run(Run),
    /// Go on with a batch: run what has not succeeded
    #[command(after_help = "Example: fiefdom resume nightly")]
    Resume(Resume),
    /// List instances, newest first
    #[command(after_help = help::LS_HELP)]
    Ls(Ls),
    /// Show one instance
    #[command(after_help = "Example: fiefdom show build-42")]
    Show(Show),
    /// Show the events of an instance
    #[command(after_help = "Example: fiefdom events build-42 -f --from 100")]
    Events(Events),
    /// Show what a job printed
    #[command(after_help = "Example: fiefdom logs nightly-1 -f")]
    Logs(Logs),
    /// Make an instance
    #[command(after_help = r#"Example: fiefdom create build-42 --tag branch=main --state '{"step":0}'"#)]
    Create(Create),
    /// Change the state of an instance, and its status
    #[command(after_help = help::UPDATE_HELP)]
    Update(Update),
    /// Append an event to an instance
    #[command(after_help = r#"Example: fiefdom append build-42 step.done '{"step":1}'"#)]
    Append(Append),
    /// Set the alarm of an instance, or take it back
    #[command(after_help = r#"Example: fiefdom alarm build-42 --in 90m '{"look":"again"}'"#)]
    Alarm(crate::alarm::Alarm),
    /// List the alarms that wait, the first due first; or take them as they come due
    #[command(after_help = "Example: fiefdom --json alarms --take")]
    Alarms(crate::alarm::Alarms),
    /// Answer what an instance asks
    #[command(after_help = help::ANSWER_HELP)]
    Answer(Answer),
    /// Call instances off: whoever works on one is asked to stop, in whichever process
    #[command(after_help = help::CANCEL_HELP)]
    Cancel(Cancel),
    /// Hold instances: the processes of a job are stopped, and the clock of its timeout
    #[command(after_help = help::PAUSE_HELP)]
    Pause(Instances),
    /// Let instances go on after a pause
    #[command(after_help = "Example: fiefdom unpause build-42")]
    Unpause(Instances),
    /// Delete instances with all their files
    #[command(after_help = "Example: fiefdom rm build-41 build-42")]
    Rm(Rm),
    /// Bring jobs and batches that an older version wrote up to date
    #[command(after_help = help::MIGRATE_HELP)]
    Migrate(Migrate),
    /// Delete instances that have been over for long enough
    #[command(after_help = help::GC_HELP)]
    Gc(Gc),
    /// Keep gc from deleting instances
    #[command(after_help = "Example: fiefdom pin build-42")]
    Pin(Pin),
    /// Let gc delete instances again
    #[command(after_help = "Example: fiefdom unpin build-42")]
    Unpin(Pin),
    /// Write an instance into one file, also while it is at work
    #[command(after_help = help::EXPORT_HELP)]
    Export(Export),
    /// Make an instance of a file that `export` wrote
    #[command(after_help = help::IMPORT_HELP)]
    Import(Import),
    /// Check every file of the store
    #[command(after_help = help::DOCTOR_HELP)]
    Doctor(Doctor),
    /// Print the completions of a shell, for its set-up
    #[command(after_help = help::COMPLETIONS_HELP)]
    Completions(crate::describe::Completions),
    /// Print the man page of the tool, or of one of its commands
    #[command(after_help = help::MAN_HELP)]
    Man(crate::describe::Man),
    /// Measure what fiefdom does on a disk of yours, beside what that disk can do
    #[command(after_help = crate::bench::HELP)]
    Bench(crate::bench::Bench),
}

#[derive(ClapArgs)]
pub(crate) struct How {
    /// Jobs at once [default: number of processors]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) jobs: Option<u16>,
    /// Attempts after the first that failed [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..1000))]
    pub(crate) retries: Option<u32>,
    /// Longest time of one attempt, such as 90s, 5m, 1h30m, 500ms [default: no limit]
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(ClapArgs)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) how: How,
    /// Name the batch; one that exists goes on, if it has the same jobs [default: a new name]
    #[arg(long, value_name = "ID")]
    pub(crate) batch: Option<InstanceId>,
    /// The file of jobs, or - for standard input
    pub(crate) file: PathBuf,
}

#[derive(ClapArgs)]
pub(crate) struct Resume {
    #[command(flatten)]
    pub(crate) how: How,
    /// The batch
    pub(crate) batch: InstanceId,
}

#[derive(ClapArgs)]
pub(crate) struct Ls {
    /// Only in this status (may be given again)
    #[arg(long, value_name = "STATUS")]
    pub(crate) status: Vec<Status>,
    /// Only with this tag (may be given again)
    #[arg(long, value_name = "K=V", value_parser = tag)]
    pub(crate) tag: Vec<(String, String)>,
    /// Only of this kind
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// At most so many [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

#[derive(ClapArgs)]
pub(crate) struct Show {
    /// The instance
    pub(crate) id: InstanceId,
}

#[derive(ClapArgs)]
pub(crate) struct Events {
    /// The instance
    pub(crate) id: InstanceId,
    /// Wait for more, until interrupted
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin with this event
    #[arg(long, value_name = "SEQ", default_value_t = 1)]
    pub(crate) from: u64,
}

#[derive(ClapArgs)]
pub(crate) struct Logs {
    /// The instance
    pub(crate) id: InstanceId,
    /// Wait for more, until the job has ended
    #[arg(short, long)]
    pub(crate) follow: bool,
}

#[derive(ClapArgs)]
pub(crate) struct Create {
    /// The id [default: a generated one, in order of time]
    pub(crate) id: Option<InstanceId>,
    /// A name for people
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// A label (may be given again)
    #[arg(long, value_name = "K=V", value_parser = tag)]
    pub(crate) tag: Vec<(String, String)>,
    /// The kind, for a program that knows it [default: untyped]
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// The state
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = json)]
    pub(crate) state: serde_json::Value,
}

#[derive(ClapArgs)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["merge", "status"])))]
pub(crate) struct Update {
    /// The instance
    pub(crate) id: InstanceId,
    /// Merge this into the state: a key is set, or removed by null (RFC 7386)
    #[arg(long, value_name = "JSON", value_parser = json)]
    pub(crate) merge: Option<serde_json::Value>,
    /// Move it to this status
    #[arg(long)]
    pub(crate) status: Option<Status>,
    /// Why, in a sentence
    #[arg(long, requires = "status")]
    pub(crate) reason: Option<String>,
}

#[derive(ClapArgs)]
pub(crate) struct Append {
    /// The instance
    pub(crate) id: InstanceId,
    /// What happened, such as step.done
    #[arg(value_name = "TYPE")]
    pub(crate) kind: String,
    /// What there is to say about it
    #[arg(value_name = "JSON", default_value = "null", value_parser = json)]
    pub(crate) data: serde_json::Value,
}

#[derive(ClapArgs)]
pub(crate) struct Answer {
    /// The instance
    pub(crate) id: InstanceId,
    /// The key of what it asks
    pub(crate) key: String,
    /// The answer; a text stands in double quotes, as JSON has it
    #[arg(value_name = "JSON", value_parser = json, allow_negative_numbers = true)]
    pub(crate) value: serde_json::Value,
}

#[derive(ClapArgs)]
pub(crate) struct Cancel {
    /// Wait until whoever was asked to stop has stopped
    #[arg(short, long)]
    pub(crate) wait: bool,
    /// The instances
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<InstanceId>,
}

#[derive(ClapArgs)]
pub(crate) struct Instances {
    /// The instances
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<InstanceId>,
}

#[derive(ClapArgs)]
pub(crate) struct Rm {
    /// The instances
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<InstanceId>,
}

#[derive(ClapArgs)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["ids", "all"])))]
pub(crate) struct Migrate {
    /// The instances
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<InstanceId>,
    /// All of them
    #[arg(long)]
    pub(crate) all: bool,
    /// Only try the steps, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(ClapArgs)]
#[command(group(clap::ArgGroup::new("which").required(true).multiple(true).args(["older_than", "keep"])))]
pub(crate) struct Gc {
    /// Only what ended longer ago than this, such as 12h or 7d
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub(crate) older_than: Option<Duration>,
    /// Only in this status: succeeded, failed or cancelled (may be given again)
    #[arg(long, value_name = "STATUS")]
    pub(crate) status: Vec<Status>,
    /// Only of this kind
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// Only with this tag (may be given again)
    #[arg(long, value_name = "K=V", value_parser = tag)]
    pub(crate) tag: Vec<(String, String)>,
    /// Keep the newest N of them, however old
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) keep: usize,
    /// Only say what would be deleted
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(ClapArgs)]
pub(crate) struct Pin {
    /// The instances
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<InstanceId>,
}

#[derive(ClapArgs)]
pub(crate) struct Export {
    /// The instance
    pub(crate) id: InstanceId,
    /// The file to write, or - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

#[derive(ClapArgs)]
pub(crate) struct Import {
    /// The file, or - for standard input
    pub(crate) file: PathBuf,
    /// The id of the new instance [default: that of the exported one]
    #[arg(long, value_name = "NEW")]
    pub(crate) id: Option<InstanceId>,
    /// Refuse a file with more than so many bytes in it, unpacked [default: 64 GiB]
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_bytes: Option<u64>,
    /// Refuse a file with more than so many entries [default: 1000000]
    #[arg(long, value_name = "N")]
    pub(crate) max_entries: Option<u64>,
}

#[derive(ClapArgs)]
pub(crate) struct Doctor {
    /// Do what is printed under "Repair"; bytes that are taken away go to the quarantine first
    #[arg(long)]
    pub(crate) repair: bool,
}
