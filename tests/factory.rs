//! The prepared state: made once, shared by all sessions, made anew when asked.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::TestResult;
use fiefdom::{BoxError, Error, Instance, NewInstance, Store};
use futures::future::{join_all, try_join_all};
use tokio::sync::Semaphore;

/// What `prepare` does next.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Well,
    Fails,
    Panics,
}

/// A kind whose preparation is counted, and waits to be let through.
struct Workshop {
    begun: AtomicU32,
    gate: Semaphore,
    mood: std::sync::Mutex<Mood>,
}

impl Workshop {
    fn new(mood: Mood) -> Self {
        Self { begun: AtomicU32::new(0), gate: Semaphore::new(0), mood: mood.into() }
    }

    fn now(&self, mood: Mood) {
        *self.mood.lock().expect("nobody panics with it") = mood;
    }
}

/// The prepared value: which preparation made it.
#[derive(Debug, PartialEq)]
struct Tools(u32);

impl Instance for Workshop {
    const KIND: &'static str = "workshop";
    type State = u32;
    type Prepared = Tools;

    async fn prepare(&self) -> Result<Tools, BoxError> {
        let nth = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.gate.acquire().await?.forget();
        let mood = *self.mood.lock().expect("nobody panics with it");
        match mood {
            Mood::Well => Ok(Tools(nth)),
            Mood::Fails => Err(format!("no tools at try {nth}").into()),
            Mood::Panics => panic!("the workshop burns"),
        }
    }

    fn initial(&self, prepared: &Tools, _: &NewInstance) -> Result<u32, BoxError> {
        Ok(prepared.0)
    }
}

/// A thousand tasks that all need the prepared value, not one of which has it yet.
async fn a_thousand(store: &Store<Workshop>) -> Vec<tokio::task::JoinHandle<fiefdom::Result<Arc<Tools>>>> {
    let asked = Arc::new(AtomicU32::new(0));
    let all = (0..1_000).map(|_| {
        let (store, asked) = (store.clone(), Arc::clone(&asked));
        tokio::spawn(async move {
            let mut asking = Box::pin(store.prepared());
            // It asks when it is polled first.
            assert!(futures::poll!(&mut asking).is_pending(), "it was prepared before");
            asked.fetch_add(1, Ordering::SeqCst);
            asking.await
        })
    });
    let all: Vec<_> = all.collect();
    while store.kind().begun.load(Ordering::SeqCst) == 0 || asked.load(Ordering::SeqCst) < 1_000 {
        tokio::task::yield_now().await;
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_first_users_share_one_preparation() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Workshop::new(Mood::Well)).await?;
    assert_eq!(store.kind().begun.load(Ordering::SeqCst), 0, "nothing is prepared before it is needed");
    let all = a_thousand(&store).await;
    // One place is enough for one preparation; a second would wait for ever.
    store.kind().gate.add_permits(1);
    let values = try_join_all(all).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert!(values.iter().all(|value| Arc::ptr_eq(value, &values[0])));
    assert_eq!(store.kind().begun.load(Ordering::SeqCst), 1);
    let session = store.create(NewInstance::new()).await?;
    assert!(Arc::ptr_eq(session.prepared(), &values[0]));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told_to_all_who_wait_and_the_next_use_tries_again() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Workshop::new(Mood::Fails)).await?;
    for (mood, says) in [(Mood::Fails, "no tools at try 1"), (Mood::Panics, "panic")] {
        store.kind().now(mood);
        let before = store.kind().begun.swap(0, Ordering::SeqCst);
        assert!(before <= 1, "{before} preparations for one failure");
        let all = a_thousand(&store).await;
        store.kind().gate.add_permits(1);
        for outcome in join_all(all).await {
            let error = outcome?.expect_err("it was not prepared");
            assert!(matches!(error, Error::Prepare { .. }) && error.to_string().contains(says), "{error}");
        }
    }
    store.kind().now(Mood::Well);
    store.kind().gate.add_permits(1);
    let session = store.create(NewInstance::new()).await?;
    assert_eq!(session.state().await?, 2);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_is_for_new_sessions_and_a_failed_one_changes_nothing() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Workshop::new(Mood::Well)).await?;
    store.kind().gate.add_permits(1);
    let old = store.create(NewInstance::new()).await?;

    // While a new value is being made, the old one serves.
    let refresh = tokio::spawn({
        let store = store.clone();
        async move { store.refresh().await }
    });
    while store.kind().begun.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    let meanwhile = store.session(old.id()).await?;
    assert!(Arc::ptr_eq(meanwhile.prepared(), old.prepared()));
    store.kind().gate.add_permits(1);
    assert_eq!(*refresh.await??, Tools(2));

    let new = store.session(old.id()).await?;
    assert_eq!(**new.prepared(), Tools(2));
    assert_eq!(**old.prepared(), Tools(1));

    store.kind().now(Mood::Fails);
    store.kind().gate.add_permits(1);
    assert!(matches!(store.refresh().await, Err(Error::Prepare { .. })));
    assert_eq!(*store.prepared().await?, Tools(2));
    store.shutdown().await?;
    Ok(())
}
