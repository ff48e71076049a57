//! What can be asked of a live instance by somebody who does not know its type. Nothing is changed
//! past the actor: a change is a commit like any other.

use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;

use super::admission::Permit;
use super::instance::Live;
use super::transaction::Transaction;
use crate::blocking;
use crate::control::{Change, Operation, WireDone, lost_key, merge_patch};
use crate::error::{Error, Result};
use crate::input::{self, Fitting};
use crate::kind::Instance;
use crate::record::{Document as _, Status, json};

impl<I: Instance> Live<I> {
    /// Does it, and returns when it is durable.
    pub(crate) async fn perform(&self, operation: Operation, permit: Permit) -> Result<WireDone> {
        let attended = self.core.is_attended() && !self.core.published().status.is_final();
        let mut asked = false;
        let mut event_seq = None;
        match operation {
            Operation::Cancel if attended => {
                self.core.cancel.cancel();
                drop(permit);
                asked = true;
            }
            Operation::Cancel => drop(self.change(permit, |tx| step(tx, Status::Cancelled, "job.cancelled")).await?),
            Operation::Pause => drop(self.change(permit, |tx| step(tx, Status::Paused, "job.paused")).await?),
            Operation::Unpause => drop(self.change(permit, move |tx| unpause(tx, attended)).await?),
            Operation::Update(change) => drop(self.change(permit, move |tx| update(tx, change)).await?),
            Operation::Append { kind, data } => {
                event_seq = self.change(permit, move |tx| tx.event(&kind, &data).map(Some)).await?;
            }
            Operation::Answer { key, value } => event_seq = Some(self.answer(permit, &key, value).await?),
        }
        // Whoever asked may look at the files next. What cannot be written yet is durable in the log.
        let (id, lane) = (self.core.lane.id.clone(), Arc::clone(&self.core.lane));
        if let Err(error) = blocking::run(move || lane.materialise()).await {
            tracing::debug!(%id, %error, "the files are behind what was done");
        }
        let record = self.core.published().compact().map_err(|e| json::unserializable("record", &e))?;
        let record = String::from_utf8(record)
            .map_err(|e| e.to_string())
            .and_then(|text| RawValue::from_string(text).map_err(|e| e.to_string()));
        let record = record.map_err(|reason| Error::Unserializable { field: "record".into(), reason })?;
        Ok(WireDone { asked, event_seq, record })
    }

    async fn answer(&self, permit: Permit, key: &str, value: Value) -> Result<u64> {
        // The file is written after the commit has given its permit back.
        let hold = self.core.admission.hold().ok_or(Error::Closed)?;
        let fitting = Fitting::check(&*self.core.published(), key, value).await?;
        let (seq, whole) = self.change(permit, move |tx| fitting.apply(tx)).await?;
        input::follow(Arc::clone(&self.core), hold, key, Some(whole)).await;
        Ok(seq)
    }

    /// One commit, by the actor like any other.
    async fn change<R: Send + 'static>(
        &self,
        permit: Permit,
        change: impl FnOnce(&mut Transaction<I::State>) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        Ok(self.ask(permit, None, change).await?.value)
    }
}

/// Moves the instance to `next`, and tells it in an event. When it is there already nothing is told.
fn step<S: Clone + serde::Serialize>(tx: &mut Transaction<S>, next: Status, event: &str) -> Result<Option<u64>> {
    if tx.record().status == next {
        return Ok(None);
    }
    let data = serde_json::json!({ "attempt": tx.record().attempt, "from": tx.record().status });
    tx.set_status(next, None)?;
    tx.event(event, &data).map(Some)
}

/// After a pause it runs on if somebody is at it; else it is as any other that nobody is at: begun
/// and interrupted, or not begun.
fn unpause<S: Clone + serde::Serialize>(tx: &mut Transaction<S>, attended: bool) -> Result<Option<u64>> {
    let next = match tx.record() {
        _ if attended => Status::Running,
        record if record.attempt == 0 => Status::Pending,
        _ => Status::Interrupted,
    };
    let record = tx.record();
    if record.status == Status::Paused {
        return step(tx, next, "job.unpaused");
    }
    if record.status.is_final() {
        return Err(Error::Transition { id: record.id.clone(), from: record.status, to: next });
    }
    Ok(None)
}

fn update<S>(tx: &mut Transaction<S>, change: Change) -> Result<Option<u64>>
where
    S: Clone + serde::Serialize + serde::de::DeserializeOwned,
{
    if let Some(patch) = change.merge {
        let unfit = |reason: String| Error::InvalidInput { what: "merge patch", reason };
        let mut state = serde_json::to_value(tx.state()).map_err(|e| json::unserializable("state", &e))?;
        merge_patch(&mut state, &patch);
        let state: S = serde_json::from_value(state).map_err(|e| {
            unfit(format!("the state would not fit its type: {e}; the state is unchanged: merge what fits it"))
        })?;
        let taken: Value = serde_json::to_value(&state).map_err(|e| json::unserializable("state", &e))?;
        if let Some(key) = lost_key(&patch, &taken) {
            return Err(unfit(format!("the state has no field {key:?}; the state is unchanged: name one that it has")));
        }
        *tx.state_mut() = state;
    }
    if let Some(status) = change.status {
        tx.set_status(status, change.reason.as_deref())?;
    }
    Ok(None)
}
