//! What an attempt changes in the record of its job: one commit as it begins, one as it ends.
//!
//! ```text
//! pending ──begin──> running ──Ok──────────────────────────> succeeded
//!    ^                  ├──Err, attempts left (backoff)──> pending ─┐
//!    └──────────────────│──────────────────────────────────────────┘
//!                       ├──Err, none left───────────────────> failed
//!                       ├──cancelled────────────────────────> cancelled
//!                       └──the runner stops, or its process dies──> interrupted
//! ```

use std::time::Duration;

use serde_json::json;

use crate::actors::transaction::Transaction;
use crate::error::{Error, Result};
use crate::instance::Session;
use crate::jobs::job::{EndChange, Job};
use crate::options::Durability;
use crate::record::Status;

/// How an attempt ended.
pub(super) enum Ended {
    Succeeded,
    Failed(String),
    Cancelled,
    Stopped,
}

impl Ended {
    /// Why it failed, if it did.
    pub(super) fn error(&self) -> Option<String> {
        if let Self::Failed(error) = self { Some(error.clone()) } else { None }
    }
}

/// Notes that an attempt begins, and returns its number. One that is paused is not begun.
/// Where the job commits at once, that commit takes this one to the disk.
pub(super) fn begin<J: Job>(tx: &mut Transaction<J::State>) -> Result<u32> {
    let record = tx.record();
    if record.status == Status::Paused {
        return Err(Error::Transition { id: record.id.clone(), from: Status::Paused, to: Status::Running });
    }
    if record.status.is_final() {
        tx.set_status(Status::Pending, None)?;
    }
    if J::BEGINS_WITH_COMMIT {
        tx.set_durability(Durability::Os);
    }
    let attempt = tx.begin_attempt();
    tx.set_status(Status::Running, None)?;
    tx.event("job.started", &json!({ "attempt": attempt }))?;
    Ok(attempt)
}

/// Notes how an attempt ended; with a delay it is to be followed by another.
pub(super) async fn conclude<J: Job>(
    session: &Session<J>,
    attempt: u32,
    ended: &Ended,
    again: Option<Duration>,
    change: Option<EndChange<J::State>>,
) -> Result<()> {
    let error = ended.error();
    let (status, event) = match (ended, again) {
        (Ended::Succeeded, _) => (Status::Succeeded, "job.succeeded"),
        (Ended::Failed(_), None) => (Status::Failed, "job.failed"),
        (Ended::Failed(_), Some(_)) => (Status::Pending, "job.retry"),
        (Ended::Cancelled, _) => (Status::Cancelled, "job.cancelled"),
        (Ended::Stopped, _) => (Status::Interrupted, "job.interrupted"),
    };
    let delay_ms = again.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
    session
        .commit(move |tx| {
            if let Some(change) = change {
                change(tx.state_mut());
            }
            if tx.record().status == Status::Waiting && status == Status::Pending {
                // It ended while it waited for an answer: the lifecycle puts back what runs.
                tx.set_status(Status::Running, None)?;
            }
            // What a person holds is held on, also when the runner stops.
            let held = tx.record().status == Status::Paused && status == Status::Interrupted;
            tx.set_status(if held { Status::Paused } else { status }, error.as_deref())?;
            let mut data = json!({ "attempt": attempt });
            if let Some(error) = &error {
                data["error"] = error.as_str().into();
            }
            if let Some(delay_ms) = delay_ms {
                data["delay_ms"] = delay_ms.into();
            }
            tx.event(event, &data)
        })
        .await
        .map(drop)
}
