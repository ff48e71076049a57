//! What stands below the options in the help: rules, and examples. Its lines are broken here, at 80
//! columns: what is longer would be broken again in the terminal.

/// Over the options that every command has.
pub(super) const EVERYWHERE: &str = "Options of every command";

pub(super) const TOOL_HELP: &str = "\
Examples:
  fiefdom run --batch nightly jobs.txt    run a file of commands
  fiefdom ls --status failed              what went wrong
  fiefdom logs nightly-3                  what it printed
  fiefdom resume nightly                  go on with what has not succeeded

Exit codes: 0 done, 1 a job failed or there is damage, 2 wrong usage or input,
3 no such instance, 4 in use by another process, 5 the store failed,
130 interrupted";

pub(super) const LS_HELP: &str = "\
A status is pending, starting, running, waiting, paused, interrupted,
succeeded, failed or cancelled. The jobs of a batch have the tag batch=ID.

Example: fiefdom ls --status failed --tag batch=nightly --limit 20";

pub(super) const UPDATE_HELP: &str = r#"A status is pending, starting, running, waiting, paused, interrupted,
succeeded, failed or cancelled; not every one follows every other.

Examples:
  fiefdom update build-42 --merge '{"step":1,"old":null}'
  fiefdom update build-42 --status failed --reason 'no space left'"#;

pub(super) const DOCTOR_HELP: &str = "\
Exit codes: 0 healthy (there may be notes), 1 there is damage (or some is left),
5 the root cannot be read

Examples:
  fiefdom doctor
  fiefdom doctor --repair";

pub(super) const COMPLETIONS_HELP: &str = "Examples:
  fiefdom completions bash > ~/.local/share/bash-completion/completions/fiefdom
  fiefdom completions zsh > ~/.zfunc/_fiefdom
  fiefdom completions fish > ~/.config/fish/completions/fiefdom.fish";

pub(super) const MAN_HELP: &str = "Examples:
  fiefdom man > ~/.local/share/man/man1/fiefdom.1
  fiefdom man run > ~/.local/share/man/man1/fiefdom-run.1";

pub(super) const GC_HELP: &str = "\
An instance stays that is not succeeded, failed or cancelled, is pinned, is in
use, or is a job of a batch that is there and has not succeeded.

Examples:
  fiefdom gc --older-than 7d --dry-run
  fiefdom gc --older-than 12h --status succeeded --keep 100";

pub(super) const EXPORT_HELP: &str = "\
State and events are those of one moment; files in workspace/ and the like are
copied as they are found. Links that lead out of the instance, pipes and devices
are left out, and named.

Examples:
  fiefdom export build-42 -o build-42.tar.gz
  fiefdom export build-42 -o - | ssh elsewhere fiefdom import -";

pub(super) const IMPORT_HELP: &str = "\
The whole file is unpacked out of sight and checked before the instance appears.
What was at work when it was exported is interrupted.

Example: fiefdom import build-42.tar.gz --id build-42-again";

pub(super) const CANCEL_HELP: &str = "\
A process that runs the instance is told, and its jobs are ended; without one
the status becomes cancelled at once.

Examples:
  fiefdom cancel build-42
  fiefdom cancel --wait nightly-1 nightly-2";

pub(super) const PAUSE_HELP: &str = "\
A pause outlives the process that runs the job: `fiefdom resume` waits with it
until it is unpaused.

Example: fiefdom pause build-42 && fiefdom show build-42";

pub(super) const RUN_HELP: &str = r#"A line of FILE is a shell command, or a JSON object with "cmd", and with "id",
"env" and "tags" where you like:
  {"id":"fetch-1","cmd":"curl -fsSO $URL","env":{"URL":"https://example.org"}}
Blank lines and lines that begin with # are skipped. The whole file is checked
before anything starts.

Each job runs in its own workspace/. It has FIEFDOM_INSTANCE_ID and
FIEFDOM_INSTANCE_DIR, and else the environment of this command: give `fiefdom
resume` the same one. Without an id it is named after the batch and its line,
such as nightly-7.

Examples:
  fiefdom run jobs.txt
  fiefdom run -j 8 --retries 2 --timeout 5m --batch nightly jobs.txt
  generate-jobs | fiefdom run -"#;

pub(super) const ANSWER_HELP: &str = r#"`fiefdom show ID` lists what an instance asks, with the JSON schema that an
answer must fit.

Example: fiefdom answer build-42 deploy '"yes"'"#;

pub(super) const MIGRATE_HELP: &str = "\
Instances of other kinds are left to the programs that know them, and come up to
date when those use them. A run that was cut short goes on when it is begun
again.

Examples:
  fiefdom migrate --all --dry-run
  fiefdom migrate --all";
