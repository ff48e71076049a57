//! What the runner asks of a batch of jobs beyond taking and marking. It runs none of them.

use serde::{Deserialize, Serialize};

use super::items::{self, Line};
use super::state::{BatchState, Open, Place};
use super::work::fail;
use super::{Batch, BatchItem, ItemOutcome};
use crate::actors::transaction::Transaction;
use crate::error::Result;
use crate::record::{InstanceId, Status};

/// The result of a job that succeeded.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::jobs) struct JobDone {
    pub(in crate::jobs) job: InstanceId,
    /// Of the job's own instance.
    pub(in crate::jobs) attempt: u32,
}

/// A job with its place.
pub(in crate::jobs) struct Listed {
    place: Place,
    pub(in crate::jobs) item: BatchItem,
    /// The attempt that succeeded, when it has.
    pub(in crate::jobs) succeeded: Option<u32>,
}

/// Reads the jobs of a batch in their order, with those that have succeeded.
pub(in crate::jobs) struct Lister {
    /// By index: the attempt that succeeded, 0 for none. Four bytes a job.
    attempts: Vec<u32>,
    next: Place,
}

impl Lister {
    /// The next jobs; empty at the end.
    pub(in crate::jobs) async fn page(&mut self, batch: &Batch) -> Result<Vec<Listed>> {
        let place = self.next;
        let lines = batch.read_lines(move |file, total| items::read_page(file, place, total)).await?;
        let Some(last) = lines.last() else { return Ok(Vec::new()) };
        self.next = Place { index: last.place.index + 1, offset: last.end() };
        let path = batch.items_path();
        let listed = |line: &Line| {
            let index = usize::try_from(line.place.index).unwrap_or(usize::MAX);
            let succeeded = self.attempts.get(index).copied().filter(|attempt| *attempt > 0);
            Ok(Listed { place: line.place, item: items::parse(&path, line)?, succeeded })
        };
        lines.iter().map(listed).collect()
    }
}

impl Batch<BatchItem> {
    /// The jobs that have succeeded; `None` when there are none.
    pub(in crate::jobs) async fn succeeded(&self) -> Result<Option<Lister>> {
        if self.progress().await?.completed == 0 {
            return Ok(None);
        }
        let mut attempts = vec![0; usize::try_from(self.total).unwrap_or(usize::MAX)];
        let mut next = Some(1);
        while let Some(from) = next {
            let page = self.results(from).await?;
            for result in &page.results {
                let attempt = match &result.outcome {
                    ItemOutcome::Completed(done) => JobDone::deserialize(done).map_or(1, |done| done.attempt.max(1)),
                    _ => 0,
                };
                let index = usize::try_from(result.index).unwrap_or(usize::MAX);
                if let Some(slot) = attempts.get_mut(index) {
                    *slot = attempt;
                }
            }
            next = page.next;
        }
        Ok(Some(Lister { attempts, next: Place::default() }))
    }

    /// Takes the mark of jobs back whose instances were removed: they count as failed from then on.
    pub(in crate::jobs) async fn take_back(&self, gone: &[Listed]) -> Result<()> {
        let gone: Vec<Open> =
            gone.iter().map(|job| Open { place: job.place, attempt: 1, interrupted: false }).collect();
        let change = move |tx: &mut Transaction<BatchState>| {
            for open in &gone {
                let state = tx.state_mut();
                state.completed = state.completed.saturating_sub(1);
                fail(tx, open, "its instance was removed")?;
            }
            Ok(())
        };
        self.instance.commit(change).await.map(drop)
    }

    /// Notes that the runner was stopped.
    pub(in crate::jobs) async fn stopped(&self) -> Result<()> {
        let change = |tx: &mut Transaction<BatchState>| {
            if tx.record().status.is_running() { tx.set_status(Status::Interrupted, None) } else { Ok(()) }
        };
        self.instance.commit(change).await.map(drop)
    }
}
