//! A change that somebody waits for: one piece of memory that goes from the caller to the actor, to
//! the log, and back to the caller, whose thread lets go of it. Of the changes that share a line of
//! the log, the first leads the others.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::admission::Permit;
use super::instance::Core;
use super::transaction::Transaction;
use crate::error::Result;
use crate::log::commit::Caller;
use crate::options::Durability;
use crate::record::{Record, Step};

/// What a commit came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed<R> {
    /// What the closure returned.
    pub value: R,
    /// The revision that the commit made.
    pub revision: u64,
    /// `seq` of the instance's last event after it.
    pub last_event_seq: u64,
}

/// A change, as the actor sees it. What becomes of it is told by [`Caller::told`].
pub(crate) trait Request<S>: Caller {
    fn durability(&self) -> Option<Durability>;

    /// Runs the closure. Once.
    fn apply(&mut self, tx: &mut Transaction<S>) -> Result<()>;

    /// It makes this record.
    fn made(&mut self, record: &Record<S>);

    /// What it has made.
    fn step(&self) -> Option<Step>;

    /// It goes to the log, with others behind it. The last of them makes this record.
    fn lead(&mut self, record: Arc<Record<S>>, others: Vec<Box<dyn Request<S>>>);
}

/// What is asked of an instance, and what came of it.
pub(crate) struct Asked<S, F, R> {
    core: Arc<Core<S>>,
    change: Option<F>,
    durability: Option<Durability>,
    value: Option<R>,
    step: Option<Step>,
    /// Of the first of a line, the record to publish; once that is done, the one before.
    record: Option<Arc<Record<S>>>,
    others: Vec<Box<dyn Request<S>>>,
    permit: Option<Permit>,
    reply: Option<oneshot::Sender<Result<Box<Self>>>>,
}

/// Where the answer comes.
pub(crate) struct Answer<S, F, R>(oneshot::Receiver<Result<Box<Asked<S, F, R>>>>);

impl<S, F, R> Asked<S, F, R> {
    pub(crate) fn new(
        core: &Arc<Core<S>>,
        permit: Permit,
        durability: Option<Durability>,
        change: F,
    ) -> (Box<Self>, Answer<S, F, R>) {
        let (reply, answer) = oneshot::channel();
        let asked = Self {
            core: Arc::clone(core),
            change: Some(change),
            durability,
            value: None,
            step: None,
            record: None,
            others: Vec::new(),
            permit: Some(permit),
            reply: Some(reply),
        };
        (Box::new(asked), Answer(answer))
    }
}

impl<S, F, R> Answer<S, F, R> {
    /// `None` when whoever had the request is gone.
    pub(crate) async fn wait(self) -> Option<Result<Committed<R>>> {
        match self.0.await.ok()? {
            Ok(asked) => {
                let Step { revision, last_event_seq, .. } = asked.step?;
                asked.value.map(|value| Ok(Committed { value, revision, last_event_seq }))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl<S, F, R> Request<S> for Asked<S, F, R>
where
    S: Send + Sync + 'static,
    F: FnOnce(&mut Transaction<S>) -> Result<R> + Send,
    R: Send,
{
    fn durability(&self) -> Option<Durability> {
        self.durability
    }

    fn apply(&mut self, tx: &mut Transaction<S>) -> Result<()> {
        if let Some(change) = self.change.take() {
            self.value = Some(change(tx)?);
        }
        Ok(())
    }

    fn made(&mut self, record: &Record<S>) {
        self.step = Some(Step::of(record));
    }

    fn step(&self) -> Option<Step> {
        self.step
    }

    fn lead(&mut self, record: Arc<Record<S>>, others: Vec<Box<dyn Request<S>>>) {
        (self.record, self.others) = (Some(record), others);
    }
}

impl<S: Send + Sync + 'static, F: Send, R: Send> Caller for Asked<S, F, R> {
    /// Here, because the actor goes back to what is published when a later commit fails.
    fn applied(&mut self) {
        let steps = self.step.into_iter().chain(self.others.iter().filter_map(|other| other.step()));
        self.record = self.record.take().map(|record| self.core.publish(record, steps));
    }

    fn others(&mut self) -> Vec<Box<dyn Caller>> {
        std::mem::take(&mut self.others).into_iter().map(|other| other as Box<dyn Caller>).collect()
    }

    fn told(mut self: Box<Self>, outcome: Result<()>) {
        // First the place: whoever has the answer may ask that the instance is let go.
        drop(self.permit.take());
        if let Some(reply) = self.reply.take() {
            // A caller that gave up is no error.
            let _ = reply.send(outcome.map(|()| self));
        }
    }
}
