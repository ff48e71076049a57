//! The command line: what can be said. Nothing is done here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};
use fiefdom::{DataRoot, InstanceId, Status};

use crate::failure::Failure;

/// The variable that names the data root.
const ROOT_VARIABLE: &str = "FIEFDOM_DATA_DIR";

/// One actor, one directory and one writer for every long-lived thing.
///
/// Every instance is a directory of plain files under <root>/instances.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Args {
    // Not a comment of documentation: in those the variable would need backticks, which people would see.
    #[arg(long, global = true, value_name = "DIR")]
    #[arg(help = "Where the instances live [default: $FIEFDOM_DATA_DIR, else ~/.fiefdom]")]
    root: Option<PathBuf>,
    /// Print JSON on standard output, one document (or one per line), and nothing else
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say more on standard error (-vv: even more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 a job failed, 2 wrong usage or input, 3 no such instance, \
4 in use by another process, 5 the store failed, 130 interrupted";

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
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a file of jobs, one instance per line
    #[command(after_help = RUN_HELP)]
    Run(Run),
    /// Go on with a batch: run what has not succeeded
    #[command(after_help = "Example: fiefdom resume nightly")]
    Resume(Resume),
    /// List instances, newest first
    #[command(after_help = "Example: fiefdom ls --status failed --tag batch=nightly --limit 20")]
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
    #[command(after_help = r#"Example: fiefdom create build-42 --name nightly --tag branch=main --state '{"step":0}'"#)]
    Create(Create),
    /// Change the state of an instance, and its status
    #[command(after_help = r#"Example: fiefdom update build-42 --merge '{"step":1,"old":null}' --status running"#)]
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
    #[command(after_help = ANSWER_HELP)]
    Answer(Answer),
    /// Call instances off: whoever works on one is asked to stop, in whichever process
    #[command(after_help = CANCEL_HELP)]
    Cancel(Cancel),
    /// Hold instances: the processes of a job are stopped, and the clock of its timeout
    #[command(after_help = PAUSE_HELP)]
    Pause(Instances),
    /// Let instances go on after a pause
    #[command(after_help = "Example: fiefdom unpause build-42")]
    Unpause(Instances),
    /// Delete instances with all their files
    #[command(after_help = "Example: fiefdom rm build-41 build-42")]
    Rm(Rm),
    /// Bring jobs and batches that an older version wrote up to date
    #[command(after_help = MIGRATE_HELP)]
    Migrate(Migrate),
    /// Delete instances that have been over for long enough
    #[command(after_help = GC_HELP)]
    Gc(Gc),
    /// Keep gc from deleting instances
    #[command(after_help = "Example: fiefdom pin build-42")]
    Pin(Pin),
    /// Let gc delete instances again
    #[command(after_help = "Example: fiefdom unpin build-42")]
    Unpin(Pin),
    /// Write an instance into one file, also while it is at work
    #[command(after_help = EXPORT_HELP)]
    Export(Export),
    /// Make an instance of a file that `export` wrote
    #[command(after_help = IMPORT_HELP)]
    Import(Import),
    /// Check every file of the store
    #[command(after_help = DOCTOR_HELP)]
    Doctor(Doctor),
    /// Print what makes a shell complete this command line
    #[command(after_help = COMPLETIONS_HELP)]
    Completions(crate::describe::Completions),
    /// Print the man page of the tool, or of one of its commands
    #[command(after_help = MAN_HELP)]
    Man(crate::describe::Man),
    /// Measure what fiefdom does on a disk of yours, beside what that disk can do
    #[command(after_help = crate::bench::HELP)]
    Bench(crate::bench::Bench),
}

const DOCTOR_HELP: &str = "Exit codes: 0 healthy (there may be notes), 1 damage (left), 5 the root cannot be read

Examples:
  fiefdom doctor
  fiefdom doctor --repair";

const COMPLETIONS_HELP: &str = "Examples:
  fiefdom completions bash > ~/.local/share/bash-completion/completions/fiefdom
  fiefdom completions zsh > ~/.zfunc/_fiefdom
  fiefdom completions fish > ~/.config/fish/completions/fiefdom.fish";

const MAN_HELP: &str = "Examples:
  fiefdom man > ~/.local/share/man/man1/fiefdom.1
  fiefdom man run > ~/.local/share/man/man1/fiefdom-run.1";

const GC_HELP: &str = "An instance stays that is not succeeded, failed or cancelled, is pinned, is in use, or is a job
of a batch that is there and has not succeeded.

Examples:
  fiefdom gc --older-than 7d --dry-run
  fiefdom gc --older-than 12h --status succeeded --keep 100";

const EXPORT_HELP: &str =
    "State and events are those of one moment; files in workspace/ and the like are copied as they are
found. Links that lead out of the instance, pipes and devices are left out, and named.

Examples:
  fiefdom export build-42 -o build-42.tar.gz
  fiefdom export build-42 -o - | ssh elsewhere fiefdom import -";

const IMPORT_HELP: &str =
    "The whole file is unpacked out of sight and checked before the instance appears. What was at work
when it was exported is `interrupted`.

Example: fiefdom import build-42.tar.gz --id build-42-again";
const CANCEL_HELP: &str =
    "A process that runs the instance is told, and its jobs are ended; without one the status becomes \
cancelled at once.

Examples:
  fiefdom cancel build-42
  fiefdom cancel --wait nightly-1 nightly-2";

const PAUSE_HELP: &str =
    "A pause outlives the process that runs the job: `fiefdom resume` waits with it until it is unpaused.

Example: fiefdom pause build-42 && fiefdom show build-42 && fiefdom unpause build-42";

const RUN_HELP: &str = r#"A line of FILE is a shell command, or a JSON object:
  {"id":"fetch-1","cmd":"curl -fsS $URL -o page","env":{"URL":"https://example.org"},"tags":{"kind":"fetch"}}
Blank lines and lines that begin with # are skipped. The whole file is checked before anything starts.
Each job runs in its own workspace/, with FIEFDOM_INSTANCE_ID and FIEFDOM_INSTANCE_DIR set, and else
the environment of this command: give `fiefdom resume` the same one.
Without an id a job is named after the batch and its line: nightly-7.

Examples:
  fiefdom run jobs.txt
  fiefdom run -j 8 --retries 2 --timeout 5m --batch nightly jobs.txt
  generate-jobs | fiefdom run -"#;

const ANSWER_HELP: &str = r#"`fiefdom show ID` lists what an instance asks, with the JSON schema that an answer must fit.

Example: fiefdom answer build-42 deploy '"yes"'"#;

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
    /// At most so many
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
    /// The kind
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
    /// Merge this into the state, as RFC 7386 says: null removes a key
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
    #[arg(required = true)]
    pub(crate) ids: Vec<InstanceId>,
}

const MIGRATE_HELP: &str = "Instances of other kinds are left to the programs that know them, and come up to date \
when those use them. A run that was cut short goes on when it is begun again.

Examples:
  fiefdom migrate --all --dry-run
  fiefdom migrate --all";

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
    #[arg(required = true)]
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

fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a tag is KEY=VALUE".into()),
    }
}

/// The tags that were given, each once: an instance has one value for a key, so of two one would be
/// lost in silence.
pub(crate) fn unique(tags: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Failure> {
    let mut unique = BTreeMap::new();
    for (key, value) in tags {
        if let Some(first) = unique.get(&key) {
            return Err(Failure::Usage(format!(
                "the tag {key:?} is given twice, as {first:?} and as {value:?}; give it once"
            )));
        }
        unique.insert(key, value);
    }
    Ok(unique)
}

pub(crate) fn json(text: &str) -> Result<serde_json::Value, String> {
    fiefdom::Untyped::parse(text).map_err(|e| {
        // What a shell left of it, most often.
        let word = !text.is_empty() && !text.starts_with(['{', '[', '"']);
        let hint = if word { r#"; a text stands in double quotes, and those in single ones: '"yes"'"# } else { "" };
        format!("{e}{hint}")
    })
}

/// `1h30m`, `90s`, `500ms`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a duration is a number with ms, s, m, h or d, such as 90s or 1h30m".to_owned();
    if let Ok(seconds) = text.parse::<u64>() {
        return if seconds == 0 { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) };
    }
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let one = match &rest[..unit] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            "d" => Duration::from_secs(86400),
            _ => return Err(wrong()),
        };
        total = one.checked_mul(number).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = &rest[unit..];
    }
    if total.is_zero() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    /// The commands with what stands below their options.
    fn helps() -> Vec<(String, String)> {
        use clap::CommandFactory as _;
        let after = |c: &clap::Command| c.get_after_help().map(ToString::to_string).unwrap_or_default();
        Args::command().get_subcommands().map(|c| (c.get_name().to_owned(), after(c))).collect()
    }

    /// The words of a command in a shell, up to a pipe, a redirection or the next command.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quoted) = (vec![String::new()], false);
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                c => words.last_mut().expect("there is one").push(c),
            }
        }
        words.into_iter().take_while(|word| !["|", "&&", ">"].contains(&word.as_str())).collect()
    }

    #[test]
    fn the_help_of_every_command_has_an_example() {
        for (name, help) in helps() {
            let example = format!("fiefdom {name} ");
            let shown = help.split_once("Example").is_some_and(|(_, examples)| {
                format!("{examples} ").replace(['\n'], " ").replace("--json ", "").contains(&example)
            });
            assert!(shown, "`fiefdom {name} --help` shows no example of itself: {help:?}");
        }
    }

    #[test]
    fn every_example_of_the_help_is_a_command_line() {
        let mut tried = 0;
        for (name, help) in helps() {
            let (_, examples) = help.split_once("Example").expect("an example");
            for line in examples.lines() {
                for (at, _) in line.match_indices("fiefdom ") {
                    let words = words(&line[at..]);
                    let read = Args::try_parse_from(&words);
                    assert!(
                        read.is_ok(),
                        "{name}: {words:?}: {}",
                        read.err().map_or_else(String::new, |e| e.to_string())
                    );
                    tried += 1;
                }
            }
        }
        assert!(tried >= helps().len(), "{tried}");
    }

    #[test]
    fn durations_are_read_and_nonsense_is_refused() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "0", "s", "5x", "-1s", "5m3", "0s", "99999999999h", "1.5s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
