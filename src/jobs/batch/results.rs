//! What became of each item, read from the event log of the batch. Nothing is changed here.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Batch;
use super::state::{COMPLETED, FAILED, INTERRUPTED, Open, Place, Retry};
use crate::blocking;
use crate::error::{Error, Result};
use crate::log::events::EventReader;
use crate::record::Event;

/// One line of what became of an item. An item that was taken again has several: the last counts.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ItemResult {
    /// `seq` of the event.
    pub seq: u64,
    /// When it was written (UTC).
    pub at: DateTime<Utc>,
    /// The number of the item, from 0.
    pub index: u64,
    /// How often it had been handed out.
    pub attempt: u32,
    /// What became of it.
    pub outcome: ItemOutcome,
    offset: u64,
}

impl ItemResult {
    pub(super) fn place(&self) -> Place {
        Place { index: self.index, offset: self.offset }
    }
}

/// What became of an item.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ItemOutcome {
    /// It was marked completed, with this result.
    Completed(Value),
    /// It was marked failed, with this error.
    Failed(String),
    /// Its worker or its process ended without a mark.
    Interrupted,
}

/// Some results, in the order in which they came.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResultPage {
    /// At least one, unless there is none from there on.
    pub results: Vec<ItemResult>,
    /// From where to read on; `None` when these are the last for now.
    pub next: Option<u64>,
}

/// The data of an event of an item.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Mark<R> {
    #[serde(flatten)]
    pub(super) place: Place,
    pub(super) attempt: u32,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<R>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

impl Mark<Value> {
    pub(super) fn of(open: &Open) -> Self {
        Self { place: open.place, attempt: open.attempt, result: None, error: None }
    }
}

fn parse(event: &Event) -> Result<Option<ItemResult>> {
    if ![COMPLETED, FAILED, INTERRUPTED].contains(&event.kind.as_str()) {
        return Ok(None);
    }
    let mark: Mark<Value> = event.data_as()?;
    let outcome = match event.kind.as_str() {
        COMPLETED => ItemOutcome::Completed(mark.result.unwrap_or_default()),
        FAILED => ItemOutcome::Failed(mark.error.unwrap_or_default()),
        _ => ItemOutcome::Interrupted,
    };
    let Place { index, offset } = mark.place;
    Ok(Some(ItemResult { seq: event.seq, at: event.at, index, attempt: mark.attempt, outcome, offset }))
}

impl<T> Batch<T> {
    /// What became of items, from this `seq` of the event log on: 1 is the first, then
    /// [`ResultPage::next`]. A page is read from about 256 KiB of the log, and costs the same
    /// wherever it is.
    ///
    /// ```
    /// use fiefdom::jobs::ItemOutcome;
    ///
    /// # use fiefdom::{Store, Untyped, jobs::Batch};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let batch = Batch::create(&store, ["alpha", "beta"].map(String::from)).await?;
    /// while let Some(claim) = batch.next().await? {
    ///     batch.mark_completed(&claim, claim.item().len()).await?;
    /// }
    /// let mut from = Some(1);
    /// while let Some(seq) = from {
    ///     let page = batch.results(seq).await?;
    ///     for result in &page.results {
    ///         if let ItemOutcome::Completed(length) = &result.outcome {
    ///             println!("{}: {length}", batch.item(result).await?);
    ///         }
    ///     }
    ///     from = page.next;
    /// }
    /// # drop(batch);
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] and [`Error::Io`] when the log cannot be read, and those of
    /// [`InstanceRef`](crate::InstanceRef).
    pub async fn results(&self, from_seq: u64) -> Result<ResultPage> {
        let end = self.instance.record().await?.last_event_seq;
        let (live, permit) = self.instance.admitted().await?;
        blocking::run(move || {
            let lane = &live.core.lane;
            lane.materialise()?;
            let mut reader = EventReader::new(from_seq);
            let mut results = Vec::new();
            while results.is_empty() && reader.next_seq() <= end {
                let events = reader.read(&lane.dir)?;
                if events.is_empty() {
                    break;
                }
                for event in &events {
                    results.extend(parse(event)?);
                }
            }
            drop(permit);
            let next = reader.next_seq();
            Ok(ResultPage { next: (next <= end && !results.is_empty()).then_some(next), results })
        })
        .await
    }

    /// Reads the failures of a part of the event log, until there are some.
    pub(super) async fn read_failures(&self, retry: Retry) -> Result<Vec<(u64, Open)>> {
        let (live, permit) = self.instance.admitted().await?;
        blocking::run(move || {
            let lane = &live.core.lane;
            lane.materialise()?;
            let mut reader = EventReader::new(retry.from);
            let mut failures = Vec::new();
            while failures.is_empty() && reader.next_seq() <= retry.end {
                let events = reader.read(&lane.dir)?;
                if events.is_empty() {
                    break;
                }
                for event in events.iter().filter(|event| event.kind == FAILED && event.seq <= retry.end) {
                    let mark: Mark<Value> = event.data_as()?;
                    failures.push((event.seq, Open { place: mark.place, attempt: mark.attempt, interrupted: false }));
                }
            }
            drop(permit);
            if failures.is_empty() {
                let reason = format!("{} failed items are not in it from event {} on", retry.left, retry.from);
                return Err(Error::corrupt(&lane.dir.path_of(crate::disk::layout::EVENTS), None, reason));
            }
            Ok(failures)
        })
        .await
    }
}
