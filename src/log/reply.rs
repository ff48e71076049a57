//! Tells callers what became of their commits, in the order of the log.
//!
//! A reply wakes a task. From a thread outside of the runtime that costs a system call for nearly
//! each; from inside it is a push on a queue. So the journal's thread hands over whole batches,
//! with one wake-up, and is at the next flush while they are told.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::commit::{Caller, Commit};
use crate::error::{Error, Result};
use crate::record::InstanceId;

/// What became of commits.
pub(super) enum Outcomes {
    Applied(Vec<Commit>),
    Failed(Vec<(Commit, Error)>),
}

/// Where the journal's thread leaves outcomes, a batch at a time.
pub(super) struct Replies<T = Outcomes> {
    /// Absent where there is no runtime: then they are told at once.
    teller: Option<UnboundedSender<T>>,
    tell: fn(T),
}

/// Ends when everything was told that the journal left.
pub(super) struct AllTold(Receiver<()>);

impl<T: Send + 'static> Replies<T> {
    /// Tells at once.
    pub(super) fn at_once(tell: fn(T)) -> Self {
        Self { teller: None, tell }
    }

    /// Tells in the runtime that this is called from, if there is one.
    #[expect(clippy::disallowed_methods, reason = "what is in it holds a place in the queue of its instance")]
    pub(super) fn start(tell: fn(T)) -> (Self, AllTold) {
        let (told, all_told) = sync_channel(0);
        let Ok(runtime) = Handle::try_current() else { return (Self::at_once(tell), AllTold(all_told)) };
        let (teller, outcomes) = unbounded_channel();
        let mut teller_task = Teller { outcomes, tell, _told: told };
        runtime.spawn(async move {
            while let Some(outcomes) = teller_task.outcomes.recv().await {
                tell(outcomes);
            }
        });
        (Self { teller: Some(teller), tell }, AllTold(all_told))
    }

    pub(super) fn send(&self, outcomes: T) {
        match &self.teller {
            // The runtime is gone, and with it most who would be told. Their places are given back.
            Some(teller) => drop(teller.send(outcomes).map_err(|unsent| (self.tell)(unsent.0))),
            None => (self.tell)(outcomes),
        }
    }
}

impl AllTold {
    /// Blocks until then. The journal has ended.
    pub(super) fn wait(&self) {
        let _ = self.0.recv();
    }
}

struct Teller<T> {
    outcomes: UnboundedReceiver<T>,
    tell: fn(T),
    _told: SyncSender<()>,
}

impl<T> Drop for Teller<T> {
    /// A runtime that shuts down drops its tasks where they stand.
    fn drop(&mut self) {
        self.outcomes.close();
        while let Ok(outcomes) = self.outcomes.try_recv() {
            (self.tell)(outcomes);
        }
    }
}

pub(super) fn tell(outcomes: Outcomes) {
    match outcomes {
        Outcomes::Applied(commits) => commits.into_iter().for_each(|commit| tell_of(commit, &Ok(()))),
        Outcomes::Failed(commits) => commits.into_iter().for_each(|(commit, error)| tell_of(commit, &Err(error))),
    }
}

fn tell_of(commit: Commit, outcome: &Result<()>) {
    let (caller, lane) = (commit.caller, commit.lane);
    tell_callers(caller, &lane.id, outcome);
}

/// Tells all who wait for the commits of one line.
pub(super) fn tell_callers(mut first: Box<dyn Caller>, id: &InstanceId, outcome: &Result<()>) {
    let others = first.others();
    for caller in std::iter::once(first).chain(others) {
        let outcome = outcome.clone();
        // A panic in what one caller left behind must not keep the others from being told.
        if catch_unwind(AssertUnwindSafe(move || caller.told(outcome))).is_err() {
            tracing::error!(%id, "what waits for a commit panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    type Seen = Arc<Mutex<Vec<u32>>>;

    fn note((seen, number): (Seen, u32)) {
        seen.lock().expect("no panic").push(number);
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
    }

    #[test]
    fn whoever_waits_for_the_end_finds_everything_told_in_order() {
        let (seen, runtime) = (Seen::default(), runtime());
        let (replies, all_told) = runtime.block_on(async { Replies::start(note) });
        (0..100).for_each(|number| replies.send((Arc::clone(&seen), number)));
        assert!(seen.lock().expect("no panic").is_empty(), "the runtime tells, and it stands still");
        drop(replies);
        let found = Arc::clone(&seen);
        let waits = move || {
            all_told.wait();
            found.lock().expect("no panic").clone()
        };
        let waiting = std::thread::Builder::new().spawn(waits).expect("a thread");
        // One that does not wait has its chance to be early.
        let until = std::time::Instant::now() + std::time::Duration::from_millis(50);
        while !waiting.is_finished() && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        runtime.block_on(async {
            while !waiting.is_finished() {
                tokio::task::yield_now().await;
            }
        });
        assert!(waiting.join().expect("no panic").into_iter().eq(0..100));
    }

    #[test]
    fn a_runtime_that_goes_away_leaves_nobody_untold() {
        let (seen, runtime) = (Seen::default(), runtime());
        let (replies, all_told) = runtime.block_on(async { Replies::start(note) });
        replies.send((Arc::clone(&seen), 1));
        drop(runtime);
        replies.send((Arc::clone(&seen), 2));
        all_told.wait();
        assert_eq!(*seen.lock().expect("no panic"), [1, 2]);
    }

    #[test]
    fn without_a_runtime_it_is_told_at_once() {
        let seen = Seen::default();
        Replies::start(note).0.send((Arc::clone(&seen), 1));
        assert_eq!(*seen.lock().expect("no panic"), [1]);
    }
}
