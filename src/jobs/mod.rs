//! Jobs as instances: what a job is, batches of them, and the runner.
//!
//! [`Runner`] runs any kind that implements [`Job`]; [`CommandJob`] is the kind of shell commands.

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
