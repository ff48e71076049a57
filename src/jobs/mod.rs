//! Jobs as instances: what a job is, batches of them, and the runner.
//!
//! - [`Batch`] is a durable list of work, of any type: take items and mark them, with workers of your
//!   own.
//! - [`Runner`] works through a batch of [`BatchItem`]s: each is an instance of a kind that implements
//!   [`Job`], with attempts, retries, time limits, cancelling and pausing. [`CommandJob`] is the kind
//!   of shell commands, which the command line tool runs.
//!
//! Everything durable here is an instance like any other, of the kind `batch` or the job's own. Nothing
//! is remembered elsewhere, so whoever comes after a crash finds all of it.

mod batch;
mod command;
mod job;
mod jobfile;
mod migrate;
mod process;
mod retry;
mod runner;

pub use batch::{
    Batch, BatchItem, BatchSettings, Claim, ItemOutcome, ItemResult, MAX_ITEMS, Progress, ResultPage, Usage,
};
pub use command::{CommandInput, CommandJob, CommandState};
pub use job::{Attempt, Job};
pub use jobfile::{JobFileProblem, JobLine, parse as parse_job_file};
pub use migrate::migration;
pub use process::Guardian;
pub use retry::{Jitter, RetryPolicy};
pub use runner::{JobReport, Outcome, Runner, Summary};
