//! Tells callers what became of their commits, in the order of the log.
//!
//! A reply wakes a task. From a thread outside of the runtime that costs a system call for nearly
//! each; from inside it is a push on a queue. So the journal's thread hands over whole batches,
//! with one wake-up, and is at the next flush while they are told.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::commit::Commit;
use crate::error::Result;

/// A commit, and what became of it.
pub(super) type Outcome = (Commit, Result<()>);

/// Where the journal's thread leaves outcomes.
#[derive(Default)]
pub(super) struct Replies {
    /// Absent where there is no runtime: then they are told at once.
    teller: Option<UnboundedSender<Vec<Outcome>>>,
}

/// Ends when everything was told that the journal left.
pub(super) struct AllTold(Receiver<()>);

impl Replies {
    /// Tells in the runtime that this is called from, if there is one.
    #[expect(clippy::disallowed_methods, reason = "what is in it holds a place in the queue of its instance")]
    pub(super) fn start() -> (Self, AllTold) {
        let (told, all_told) = sync_channel(0);
        let Ok(runtime) = Handle::try_current() else { return (Self::default(), AllTold(all_told)) };
        let (teller, outcomes) = unbounded_channel();
        let mut teller_task = Teller { outcomes, _told: told };
        runtime.spawn(async move {
            while let Some(outcomes) = teller_task.outcomes.recv().await {
                tell(outcomes);
            }
        });
        (Self { teller: Some(teller) }, AllTold(all_told))
    }

    pub(super) fn send(&self, outcomes: Vec<Outcome>) {
        match &self.teller {
            // The runtime is gone, and with it most who would be told. Their places are given back.
            Some(teller) => drop(teller.send(outcomes).map_err(|unsent| tell(unsent.0))),
            None => tell(outcomes),
        }
    }
}

impl AllTold {
    /// Blocks until then. The journal has ended.
    pub(super) fn wait(&self) {
        let _ = self.0.recv();
    }
}

struct Teller {
    outcomes: UnboundedReceiver<Vec<Outcome>>,
    _told: SyncSender<()>,
}

impl Drop for Teller {
    /// A runtime that shuts down drops its tasks where they stand.
    fn drop(&mut self) {
        self.outcomes.close();
        while let Ok(outcomes) = self.outcomes.try_recv() {
            tell(outcomes);
        }
    }
}

/// A panic in what one caller left behind must not keep the others from being told.
fn tell(outcomes: Vec<Outcome>) {
    for (commit, outcome) in outcomes {
        let (caller, id) = (commit.caller, commit.meta.id);
        if catch_unwind(AssertUnwindSafe(move || caller.told(outcome))).is_err() {
            tracing::error!(%id, "what waits for a commit panicked");
        }
    }
}
