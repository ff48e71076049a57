//! `fiefdom`: run jobs as instances, and look at what there is.
//!
//! Everything here goes through the library's public interface.

#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_types))]
#![warn(clippy::allow_attributes_without_reason)]

mod alarm;
mod archive;
mod args;
mod batch;
mod bench;
mod control;
mod describe;
mod doctor;
mod edit;
mod failure;
mod gc;
mod input;
mod inspect;
mod migrate;
mod output;
mod run;

use std::process::ExitCode;

use clap::Parser as _;
use fiefdom::control::Operation;
use tracing_subscriber::filter::LevelFilter;

use args::{Args, Command};
use failure::Failure;
use output::{Output, say};

fn main() -> ExitCode {
    let args = Args::parse();
    let level = [LevelFilter::WARN, LevelFilter::INFO, LevelFilter::DEBUG, LevelFilter::TRACE]
        [usize::from(args.verbose.min(3))];
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        // By itself it asks only NO_COLOR, and would colour what goes into a file.
        .with_ansi(console::colors_enabled_stderr())
        // It would tell of a closed standard error on standard error, and panic.
        .log_internal_errors(false)
        .compact()
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format!("fiefdom: could not start: {error}"));
            return ExitCode::from(failure::STORE);
        }
    };
    let outcome = runtime.block_on(dispatch(args));
    match outcome {
        Ok(code) => ExitCode::from(code),
        // Whoever reads our output has enough of it.
        Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
        Err(failure) => {
            say(format!("fiefdom: {failure}"));
            ExitCode::from(failure.code())
        }
    }
}

/// Runs one command; the number is its exit code.
async fn dispatch(args: Args) -> Result<u8, Failure> {
    let out = Output::new(args.json);
    // They need no root, and are asked for where there may be none: by an installer, or a shell that starts.
    match &args.command {
        Command::Completions(command) => return describe::completions(out, command),
        Command::Man(command) => return describe::man(out, command),
        _ => {}
    }
    let (root, with_root) = (args.data_root()?, args.names_root());
    match args.command {
        Command::Completions(_) | Command::Man(_) => Ok(failure::DONE),
        Command::Run(command) => run::run(root, out, command).await,
        Command::Resume(command) => run::resume(root, out, command).await,
        Command::Create(command) => edit::create(root, out, command).await,
        Command::Update(command) => edit::update(root, out, command).await,
        Command::Append(command) => edit::append(root, out, command).await,
        Command::Answer(command) => input::answer(root, out, command).await,
        Command::Cancel(command) => control::cancel(root, out, command).await,
        Command::Pause(command) => control::each(root, out, command.ids, &Operation::Pause).await,
        Command::Unpause(command) => control::each(root, out, command.ids, &Operation::Unpause).await,
        Command::Rm(command) => edit::remove(root, out, command).await,
        Command::Alarm(command) => alarm::alarm(root, out, command).await,
        Command::Alarms(command) => alarm::alarms(root, out, command).await,
        Command::Gc(command) => gc::gc(root, out, command).await,
        Command::Pin(command) => gc::pin(root, out, command.ids, true).await,
        Command::Unpin(command) => gc::pin(root, out, command.ids, false).await,
        Command::Export(command) => archive::export(root, out, command).await,
        Command::Import(command) => archive::import(root, out, command).await,
        Command::Ls(command) => inspect::list(root, out, &command),
        Command::Show(command) => inspect::show(root, out, &command, with_root),
        Command::Events(command) => inspect::events(root, out, command).await,
        Command::Doctor(command) => doctor::doctor(&root, out, &command),
        Command::Migrate(command) => migrate::migrate(root, out, command).await,
        Command::Logs(command) => inspect::logs(root, out, &command).await,
        Command::Bench(command) => bench::bench(out, command).await,
    }
}
