//! Measures fiefdom beside what people would use instead, in one run on one disk, and writes the
//! report. `just bench` runs it.

mod harness;
mod machine;
mod peers;
mod report;
mod rows;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use harness::{Outcome, Results, Setting};

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, and write the figures to a file.
    Measure {
        /// Where to write, on the disk to be measured.
        #[arg(long, default_value = "target/measured")]
        dir: PathBuf,
        /// Rounds of every row.
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Seconds of one run of one contender.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// A short look: small sizes.
        #[arg(long)]
        quick: bool,
        /// Only rows whose name begins so.
        #[arg(long)]
        row: Vec<String>,
        /// The figures; rows that are measured again replace those that are there.
        #[arg(long, default_value = "results.json")]
        out: PathBuf,
    },
    /// The names of the rows.
    Rows,
    /// Write the page from the figures. It fails when a goal is missed and nothing says why.
    Report {
        /// The figures of each file system, the main one first.
        #[arg(required = true)]
        results: Vec<PathBuf>,
        #[arg(long, default_value = "docs/performance.md")]
        out: PathBuf,
        /// Where the pictures go.
        #[arg(long, default_value = "docs/performance")]
        plots: PathBuf,
    },
    /// One step of a measurement that needs a process of its own.
    #[command(hide = true)]
    Child { args: Vec<String> },
}

fn main() -> Outcome<()> {
    match Args::parse().command {
        Command::Measure { dir, runs, seconds, quick, row, out } => {
            std::fs::create_dir_all(&dir)?;
            let dir = tempfile::Builder::new().prefix("run-").tempdir_in(dir.canonicalize()?)?;
            let setting = Setting { dir: dir.path().to_owned(), run_for: Duration::from_secs_f64(seconds), quick };
            let machine = machine::Machine::look(&setting.dir);
            let before = std::fs::read(&out).ok().and_then(|bytes| serde_json::from_slice::<Results>(&bytes).ok());
            let mut results = Results { machine, rows: before.map(|before| before.rows).unwrap_or_default() };
            let wanted = |name: &str| row.is_empty() || row.iter().any(|prefix| name.starts_with(prefix));
            for one in rows::all().into_iter().filter(|one| wanted(one.name)) {
                let measured = one.measure(&setting, runs);
                if let Some(reason) = &measured.failed {
                    eprintln!("{}: {reason}", one.name);
                }
                results.rows.retain(|row| row.row != measured.row);
                results.rows.push(measured);
                harness::write_results(&out, &results)?;
            }
            Ok(())
        }
        Command::Rows => {
            rows::all().iter().for_each(|row| println!("{:<28} {}", row.name, row.title));
            Ok(())
        }
        Command::Child { args } if args.len() == 3 && args[0] == "run-os" => rows::run::child(&args[1], &args[2]),
        Command::Report { results, out, plots } => report::write(&results, &out, &plots),
        Command::Child { args } if args.first().is_some_and(|step| step == "scale") => rows::scale::act(&args[1..]),
        Command::Child { args } => Err(format!("no such step: {args:?}").into()),
    }
}
