//! `run` and `resume`: a file of jobs, each an instance.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use console::style;
use fiefdom::jobs::{
    Batch, BatchItem, BatchSettings, CommandInput, CommandJob, JobLine, JobReport, Outcome, RetryPolicy, Runner,
    Summary, parse_job_file,
};
use fiefdom::{DataRoot, Error, InstanceId, Store};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{How, Resume, Run};
use crate::edit::need_root;
use crate::failure::{DONE, Failure, INTERRUPTED, WORK};
use crate::output::{Output, say, short};

/// Largest file of jobs, in bytes.
const JOB_FILE_BYTES: u64 = 1 << 30;

pub(crate) async fn run(root: DataRoot, out: Output, args: Run) -> Result<u8, Failure> {
    let lines = read_jobs(&args.file)?;
    let id = args.batch.unwrap_or_else(Batch::new_id);
    let items = lines.into_iter().map(|line| item(&id, line)).collect::<Result<Vec<_>, _>>()?;
    Batch::check(&id, &items)?;
    let mut settings = BatchSettings::default();
    override_settings(&mut settings, &args.how);
    let store = Store::open(root.clone(), CommandJob).await?;
    let outcome = match Batch::open(&store, id, items, settings).await {
        Ok(batch) => drive(&root, out, &store, &batch, &args.how).await,
        Err(error) => Err(error.into()),
    };
    finish(&store, outcome).await
}

pub(crate) async fn resume(root: DataRoot, out: Output, args: Resume) -> Result<u8, Failure> {
    need_root(&root, &args.batch)?;
    let store = Store::open(root.clone(), CommandJob).await?;
    let outcome = match Batch::load(&store, &args.batch).await {
        Ok(batch) => drive(&root, out, &store, &batch, &args.how).await,
        Err(error) => Err(error.into()),
    };
    finish(&store, outcome).await
}

async fn finish(store: &Store<CommandJob>, outcome: Result<u8, Failure>) -> Result<u8, Failure> {
    let closed = store.shutdown().await;
    let code = outcome?;
    closed?;
    Ok(code)
}

/// Reads and checks the whole file.
fn read_jobs(path: &Path) -> Result<Vec<JobLine>, Failure> {
    let name = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(JOB_FILE_BYTES + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(JOB_FILE_BYTES + 1).read_to_end(&mut bytes))
    };
    read.map_err(|e| {
        Failure::Usage(format!(
            "could not read the jobs from {name}: {e}; name a file of jobs, or - for standard input"
        ))
    })?;
    if bytes.len() as u64 > JOB_FILE_BYTES {
        return Err(Failure::Usage(format!("{name} is larger than {JOB_FILE_BYTES} bytes; split it")));
    }
    let check_id = |id: &str| InstanceId::new(id).map(drop).map_err(|e| e.to_string());
    parse_job_file(&bytes, check_id).map_err(|problems| Failure::Jobs { file: name, problems })
}

fn item(batch: &InstanceId, line: JobLine) -> Result<BatchItem, Failure> {
    let id = match line.id {
        Some(id) => InstanceId::new(&id)?,
        None => InstanceId::new(&format!("{batch}-{}", line.line))?,
    };
    let mut input = CommandInput::new(line.cmd);
    input.env = line.env;
    let mut item = BatchItem::new(id, json!(input));
    item.tags = line.tags;
    Ok(item)
}

fn override_settings(settings: &mut BatchSettings, how: &How) {
    if let Some(jobs) = how.jobs {
        settings.concurrency = Some(jobs.into());
    }
    if let Some(retries) = how.retries {
        settings.retries = retries;
    }
    if let Some(timeout) = how.timeout {
        settings.timeout_ms = Some(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    }
}

async fn drive(
    root: &DataRoot,
    out: Output,
    store: &Store<CommandJob>,
    batch: &Batch,
    how: &How,
) -> Result<u8, Failure> {
    let mut settings = batch.settings().clone();
    override_settings(&mut settings, how);
    let mut runner = Runner::new(store.clone())
        .retry(RetryPolicy::attempts(settings.retries.saturating_add(1)))
        .timeout(settings.timeout());
    if let Some(jobs) = settings.concurrency {
        runner = runner.concurrency(jobs);
    }
    let resume = format!("fiefdom --root {} resume {}", quoted(root.path()), batch.id());
    // Caught from here on, not from whenever a task gets to it: the next line invites it.
    let caught =
        |kind| signal(kind).map_err(|e| Error::Io { action: "catch", path: "a signal".into(), source: Arc::new(e) });
    let (mut interrupt, mut terminate) = (caught(SignalKind::interrupt())?, caught(SignalKind::terminate())?);
    let stop = runner.stop_token();
    heard(out.line(format!("batch {} ({} jobs)", batch.id(), batch.total())))?;
    heard(out.document(&json!({ "batch": batch.id(), "jobs": batch.total(), "resume": resume })))?;
    say(format!("if it is interrupted, go on with: {resume}"));

    let interrupts = tokio::spawn(async move {
        for nth in 0.. {
            let again = tokio::select! {
                again = interrupt.recv() => again,
                again = terminate.recv() => again,
            };
            match (again, nth) {
                (None, _) => return,
                (Some(()), 0) => {
                    say("interrupted: the jobs under way are told to stop; once more to kill them");
                    stop.cancel();
                }
                // The jobs die with this process, and the next run finds what is on disk.
                #[expect(clippy::disallowed_methods, reason = "the second Ctrl-C means now")]
                (Some(()), _) => std::process::exit(INTERRUPTED.into()),
            }
        }
    });
    let mut progress = Progress::new(out, usize::try_from(batch.total()).unwrap_or(usize::MAX));
    let summary = runner.run(batch, |report| progress.job(report)).await;
    interrupts.abort();
    progress.end()?;
    let summary = summary?;
    heard(print_summary(out, &summary, &resume))?;
    Ok(match &summary {
        s if s.unfinished > 0 => INTERRUPTED,
        s if s.all_succeeded() => DONE,
        _ => WORK,
    })
}

/// That nobody reads what is printed is no reason to leave jobs undone, nor to hide that some failed.
fn heard(printed: Result<(), Failure>) -> Result<(), Failure> {
    match printed {
        Err(Failure::ClosedPipe) => Ok(()),
        other => other,
    }
}

/// A path as a shell takes it.
pub(crate) fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@".contains(c);
    if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// Shows how far it is: a bar on a terminal, else a line per job.
struct Progress {
    out: Output,
    bar: Option<ProgressBar>,
    total: usize,
    done: usize,
    failed: usize,
    /// The first failure of the output: it ends the program when the jobs are done.
    broken: Option<Failure>,
}

impl Progress {
    fn new(out: Output, total: usize) -> Self {
        let bar = (!out.json && std::io::stderr().is_terminal()).then(|| {
            let template = "{bar:30.cyan} {pos}/{len}  {per_sec}  {elapsed_precise}  ETA {eta}  {msg}";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(total as u64).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { out, bar, total, done: 0, failed: 0, broken: None }
    }

    fn job(&mut self, report: &JobReport) {
        let failed = matches!(report.outcome, Outcome::Failed | Outcome::Cancelled);
        self.failed += usize::from(failed);
        self.done += usize::from(report.outcome != Outcome::Interrupted);
        let error = report.error.as_deref().map_or_else(String::new, |error| format!("  {error}"));
        let line = format!("{:<17} {}  {}{error}", word(report.outcome), report.id, short(report.elapsed));
        if let Some(bar) = &self.bar {
            bar.set_position(self.done as u64);
            if self.failed > 0 {
                bar.set_message(style(format!("{} failed", self.failed)).red().to_string());
            }
            if failed {
                bar.suspend(|| say(style(line).red()));
            }
            return;
        }
        let width = self.total.to_string().len();
        let printed = self.out.line(format!("[{:>width$}/{}] {line}", self.done, self.total));
        let printed = printed.and_then(|()| {
            self.out.document(&json!({
                "job": report.id, "outcome": word(report.outcome), "attempt": report.attempt, "error": report.error,
                "seconds": report.elapsed.as_secs_f64(), "directory": report.path,
            }))
        });
        if let Err(failure) = heard(printed) {
            self.broken.get_or_insert(failure);
        }
    }

    fn end(self) -> Result<(), Failure> {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        self.broken.map_or(Ok(()), Err)
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::AlreadySucceeded => "already succeeded",
        Outcome::Failed => "failed",
        Outcome::Interrupted => "interrupted",
        Outcome::Cancelled => "cancelled",
        _ => "ended",
    }
}

fn print_summary(out: Output, summary: &Summary, resume: &str) -> Result<(), Failure> {
    out.document(&json!({
        "total": summary.total, "succeeded": summary.succeeded, "already_succeeded": summary.already_succeeded,
        "failed": summary.failed, "cancelled": summary.cancelled, "unfinished": summary.unfinished,
        "seconds": summary.elapsed.as_secs_f64(),
    }))?;
    let already = if summary.already_succeeded > 0 {
        format!(" ({} of them before)", summary.already_succeeded)
    } else {
        String::new()
    };
    let mut parts = vec![format!("{} succeeded{already}", summary.succeeded)];
    let counts = [(summary.failed, "failed"), (summary.cancelled, "cancelled"), (summary.unfinished, "unfinished")];
    parts.extend(counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
    let ran = summary.total - summary.already_succeeded - summary.unfinished;
    #[expect(clippy::cast_precision_loss, reason = "one digit of it is shown")]
    let rate = ran as f64 / summary.elapsed.as_secs_f64().max(0.001);
    out.line(format!("\n{} of {} jobs in {} ({rate:.1}/s)", parts.join(", "), summary.total, short(summary.elapsed)))?;
    if !summary.reports.is_empty() {
        out.line("")?;
        let row = |r: &JobReport| {
            vec![
                r.id.to_string(),
                r.attempt.to_string(),
                r.path.join("logs").display().to_string(),
                r.error.clone().unwrap_or_default(),
            ]
        };
        let rows: Vec<Vec<String>> = summary.reports.iter().map(row).collect();
        out.table(&["FAILED", "ATTEMPT", "LOGS", "ERROR"], &rows)?;
    }
    if summary.unfinished + summary.failed + summary.cancelled > 0 {
        out.line(format!("\nrun what has not succeeded again with: {resume}"))?;
    }
    Ok(())
}
