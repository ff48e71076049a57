//! New instances that wait for their directories. Those that come while others are being made are
//! made together, in one piece of disk work: they share its locks and its look at other writers, and
//! wake one thread. Nobody waits for more to come.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::blocking;
use crate::error::{Error, Result};
use crate::log::activate::{Activated, Birth};

/// Who waits. The registry lets no more in than may be activated at once.
#[derive(Default)]
pub(crate) struct Creations(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    births: Vec<Birth>,
    replies: Vec<oneshot::Sender<Result<Activated>>>,
    /// Whether a task makes what is waiting.
    attended: bool,
}

impl Creations {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that could panic is done while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one, by `create`, which blocks, makes several, and has one answer for each.
    ///
    /// When the future is dropped it is made all the same, and let go again.
    pub(crate) async fn make(
        self: &Arc<Self>,
        birth: Birth,
        create: impl Fn(&[Birth]) -> Vec<Result<Activated>> + Send + Sync + 'static,
    ) -> Result<Activated> {
        let (reply, answer) = oneshot::channel();
        let attended = {
            let mut waiting = self.waiting();
            waiting.births.push(birth);
            waiting.replies.push(reply);
            std::mem::replace(&mut waiting.attended, true)
        };
        if !attended {
            let attendant = Attendant { creations: Arc::clone(self), ended: false };
            tokio::spawn(attendant.attend(Arc::new(create)));
        }
        answer.await.map_err(|_| Error::Closed)?
    }
}

/// What one piece of disk work makes, and who waits for it.
type Batch = (Vec<Birth>, Vec<oneshot::Sender<Result<Activated>>>);

/// Makes what is waiting, until nothing is.
struct Attendant {
    creations: Arc<Creations>,
    ended: bool,
}

impl Attendant {
    async fn attend(mut self, create: Arc<impl Fn(&[Birth]) -> Vec<Result<Activated>> + Send + Sync + 'static>) {
        while let Some((births, replies)) = self.next() {
            let create = Arc::clone(&create);
            let Ok(made) = blocking::run(move || Ok(create(&births))).await else { return };
            for (reply, made) in replies.into_iter().zip(made) {
                // Of one that nobody waits for any more the lock is let go: it has no commit.
                let _ = reply.send(made);
            }
        }
    }

    fn next(&mut self) -> Option<Batch> {
        let mut waiting = self.creations.waiting();
        waiting.attended = !waiting.births.is_empty();
        self.ended = !waiting.attended;
        waiting.attended.then(|| (std::mem::take(&mut waiting.births), std::mem::take(&mut waiting.replies)))
    }
}

impl Drop for Attendant {
    /// After a panic, or when the runtime ends: who waits is told, and who comes next is attended to.
    fn drop(&mut self) {
        if !self.ended {
            *self.creations.waiting() = Waiting::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::record::InstanceId;

    fn birth(number: usize) -> Birth {
        let id: InstanceId = format!("i-{number}").parse().expect("an id");
        Birth { id, uid: Uuid::new_v4(), at: chrono::Utc::now() }
    }

    fn nobody(birth: &Birth) -> Result<Activated> {
        Err(Error::NotFound { id: birth.id.clone(), root: "root".into() })
    }

    #[tokio::test]
    async fn those_that_come_meanwhile_are_made_together_and_each_hears_of_its_own() {
        let (creations, calls) = (Arc::new(Creations::default()), Arc::new(AtomicUsize::new(0)));
        let one = |number| {
            let (creations, calls) = (Arc::clone(&creations), Arc::clone(&calls));
            async move {
                let create = move |births: &[Birth]| {
                    calls.fetch_add(1, Ordering::SeqCst);
                    births.iter().map(nobody).collect()
                };
                (number, creations.make(birth(number), create).await.map(drop))
            }
        };
        // On one thread, so that all have come before the first is attended to.
        for (number, outcome) in futures::future::join_all((0..100).map(one)).await {
            let own = format!("i-{number}");
            assert!(matches!(outcome, Err(Error::NotFound { id, .. }) if id.as_str() == own));
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_panic_fails_those_in_it_and_not_the_next() {
        let creations = Arc::new(Creations::default());
        let panics = |_: &[Birth]| -> Vec<Result<Activated>> { std::panic::panic_any("a test") };
        assert!(matches!(creations.make(birth(0), panics).await, Err(Error::Closed)));
        let next = creations.make(birth(1), |births| births.iter().map(nobody).collect());
        let next = tokio::time::timeout(Duration::from_secs(20), next).await.expect("it is attended to");
        assert!(matches!(next, Err(Error::NotFound { .. })));
    }
}
