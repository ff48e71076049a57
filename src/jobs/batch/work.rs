//! Taking items, and marking them: one commit each. No item is worked on here.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::claim::{Claim, Looking, Missing, NotNow, Shared, Ticket};
use super::items::{self, Line};
use super::results::{ItemResult, Mark};
use super::state::{self, BatchState, Open, Place, set_running, settle};
use super::{Batch, refuse};
use crate::actors::transaction::Transaction;
use crate::error::{Error, Result};
use crate::options::Durability;

/// Longest error of an item that is kept, in characters.
const ERROR_CHARS: usize = 4096;

impl<T: Serialize + DeserializeOwned + Send + 'static> Batch<T> {
    /// Takes the next item: first one that was interrupted, then one that was never handed out, then
    /// one that failed and that [`Batch::retry_failed`] queued. `None` when there is none: every
    /// item is marked, or others have the rest (then ask again when they are done, or see
    /// [`Batch::is_done`]).
    ///
    /// That the item is taken is acknowledged when the operating system has it
    /// ([`Durability::Os`]): after a power cut it may be handed out once more with the same attempt.
    ///
    /// When the future is dropped the item is nobody's, and the next to be taken.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] when 4096 items are handed out and not marked; [`Error::Corrupt`] when
    /// the item cannot be read as a `T`; and those of
    /// [`InstanceRef`](crate::InstanceRef).
    pub async fn next(&self) -> Result<Option<Claim<T>>> {
        let _slot = self.slot().await?;
        loop {
            if !self.instance.read(|state| state.has_more(|index| self.shared.is_held(index))).await? {
                return Ok(None);
            }
            let shared = Arc::clone(&self.shared);
            let taken = self.instance.commit(move |tx| {
                tx.set_durability(Durability::Os);
                take(tx, &shared)
            });
            match taken.await {
                Ok(taken) => return self.claim(taken.value).await.map(Some),
                Err(Error::Rejected { source }) => match source.downcast_ref::<NotNow>() {
                    Some(NotNow::Nothing) => return Ok(None),
                    Some(NotNow::ReadFirst(what, generation)) => self.read_ahead(*what, *generation).await?,
                    None => return Err(Error::Rejected { source }),
                },
                Err(error) => return Err(error),
            }
        }
    }

    async fn claim(&self, (line, ticket): (Option<Line>, Ticket)) -> Result<Claim<T>> {
        let item = match line {
            Some(line) => items::parse(&self.items_path(), &line)?,
            None => self.read_item(ticket.open.place).await?,
        };
        Ok(Claim { item, ticket })
    }

    async fn read_ahead(&self, what: Missing, generation: u64) -> Result<()> {
        let _reading = self.shared.reading.lock().await;
        if self.shared.ahead().generation != generation {
            return Ok(());
        }
        match what {
            Missing::Items(place) => {
                let lines = self.read_lines(move |file, total| items::read_page(file, place, total)).await?;
                let mut ahead = self.shared.ahead();
                ahead.lines = lines.into();
                ahead.generation += 1;
            }
            Missing::Failures(retry) => {
                let failures = self.read_failures(retry).await?;
                let mut ahead = self.shared.ahead();
                ahead.failures = failures.into();
                ahead.from = retry.from;
                ahead.generation += 1;
            }
        }
        Ok(())
    }

    async fn read_item(&self, place: Place) -> Result<T> {
        let line = self.read_lines(move |file, _| items::read_line(file, place)).await?;
        items::parse(&self.items_path(), &line)
    }

    /// The item that a result is about.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when it cannot be read as a `T`, and those of
    /// [`InstanceRef`](crate::InstanceRef).
    pub async fn item(&self, result: &ItemResult) -> Result<T> {
        self.read_item(result.place()).await
    }

    /// Marks an item completed, with its result: one commit, with the event `item.completed`.
    /// When the future is dropped: see [`Batch`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] for an item that was marked before, or a claim of another batch;
    /// [`Error::Unserializable`] and [`Error::TooLarge`] for a result that an event cannot hold (keep
    /// large ones in files). The item is as it was then. And those of
    /// [`InstanceRef`](crate::InstanceRef).
    pub async fn mark_completed<R>(&self, claim: &Claim<T>, result: R) -> Result<()>
    where
        R: Serialize + Send + 'static,
    {
        self.mark(claim, Ok(result), None).await
    }

    /// Marks an item failed: one commit, with the event `item.failed`. Of a long error the first
    /// 4096 characters are kept. It is taken again only after [`Batch::retry_failed`].
    ///
    /// ```
    /// # use fiefdom::{Store, Untyped, jobs::Batch};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let batch = Batch::create(&store, ["alpha", "beta"].map(String::from)).await?;
    /// while let Some(claim) = batch.next().await? {
    ///     match claim.item().strip_prefix('a') {
    ///         Some(rest) => batch.mark_completed(&claim, rest.to_owned()).await?,
    ///         None => batch.mark_failed(&claim, "it does not begin with a").await?,
    ///     }
    /// }
    /// assert_eq!(batch.progress().await?.failed, 1);
    /// # drop(batch);
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Batch::mark_completed`].
    pub async fn mark_failed(&self, claim: &Claim<T>, error: impl std::fmt::Display) -> Result<()> {
        self.mark::<Value>(claim, Err(error.to_string()), None).await
    }

    pub(in crate::jobs) async fn mark<R: Serialize + Send + 'static>(
        &self,
        claim: &Claim<T>,
        outcome: Result<R, String>,
        durability: Option<Durability>,
    ) -> Result<()> {
        let open = self.own(claim)?;
        let _slot = self.slot().await?;
        let change = move |tx: &mut Transaction<BatchState>| {
            if let Some(durability) = durability {
                tx.set_durability(durability);
            }
            close(tx, open, outcome)?;
            settle(tx)
        };
        self.instance.commit(change).await.map(drop)
    }

    /// What a claim of this batch is about.
    fn own(&self, claim: &Claim<T>) -> Result<Open> {
        let open = claim.ticket.open;
        if Arc::ptr_eq(&claim.ticket.shared, &self.shared) {
            return Ok(open);
        }
        refuse(format!(
            "item {} was handed out by another batch, or before this store was opened; take it anew with next",
            open.place.index
        ))
    }
}

/// Notes the items that lost their workers.
pub(super) fn interrupt(tx: &mut Transaction<BatchState>, shared: &Shared) -> Result<()> {
    if tx.state().open.iter().all(|open| open.interrupted || shared.is_held(open.place.index)) {
        return Ok(());
    }
    for open in tx.state_mut().interrupt(|index| shared.is_held(index)) {
        tx.event(state::INTERRUPTED, &Mark::of(&open))?;
    }
    Ok(())
}

/// Takes the item that is next, and the line of it if that was read ahead.
fn take(tx: &mut Transaction<BatchState>, shared: &Arc<Shared>) -> Result<(Option<Line>, Ticket)> {
    interrupt(tx, shared)?;
    let mut looking = Looking::new(shared);
    let open = tx.state_mut().take(&mut looking)?.ok_or_else(|| Error::rejected(NotNow::Nothing))?;
    set_running(tx)?;
    Ok((looking.line, shared.hold(open)))
}

/// Notes what became of an open item.
fn close<R: Serialize>(tx: &mut Transaction<BatchState>, open: Open, outcome: Result<R, String>) -> Result<()> {
    if !tx.state_mut().close(open.place.index, open.attempt) {
        let (id, index) = (&tx.record().id, open.place.index);
        return refuse(format!("item {index} of batch {id} is marked already, and is marked once; take the next"));
    }
    let mark = |result, error| Mark { place: open.place, attempt: open.attempt, result, error };
    match outcome {
        Ok(result) => {
            tx.event(state::COMPLETED, &mark(Some(result), None))?;
            tx.state_mut().completed += 1;
            Ok(())
        }
        Err(error) => fail(tx, &open, &error),
    }
}

/// Notes a failure.
pub(super) fn fail(tx: &mut Transaction<BatchState>, open: &Open, error: &str) -> Result<()> {
    let error = error.chars().take(ERROR_CHARS).collect();
    let seq = tx.event(state::FAILED, &Mark { error: Some(error), ..Mark::of(open) })?;
    tx.state_mut().count_failure(seq);
    Ok(())
}
